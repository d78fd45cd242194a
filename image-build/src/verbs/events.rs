//! `kedge events`: what happened at a hub.

use super::Scene;
use super::device::short;
use super::hub::{HubArgument, clean};
use crate::hub::escaped;
use anyhow::Result;
use clap::Args;
use kedge_api::operator::Event;

/// What happened at the hub: devices that enrolled, updates, who assigned what. With --json, one object a line.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge events
  kedge events --last 20
  kedge events --device hall-3 --follow
  kedge events --since 1200 --json")]
pub(super) struct Events {
    /// Only those after this number.
    #[arg(long, value_name = "N", default_value_t = 0)]
    since: u64,
    /// Only so many, the newest.
    #[arg(long, value_name = "N")]
    last: Option<u32>,
    /// Only those of this device, by its id or name. What concerned several devices at once is of none.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Go on with what comes.
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    hub: HubArgument,
}

impl Events {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let target = self.target();
        // Server-sent events: what counts stands in `data:` lines, each a whole object.
        self.hub.client()?.lines(&target, self.follow, &mut |line| {
            let Some(data) = line.strip_prefix(b"data:") else {
                return Ok(());
            };
            match serde_json::from_slice::<Event>(data) {
                Ok(event) => scene.output.result(words(&event), &event)?,
                Err(_) => scene
                    .output
                    .say("the hub told an event that this kedge does not know"),
            }
            Ok(())
        })
    }

    fn target(&self) -> String {
        let (since, follow) = (self.since, u8::from(self.follow));
        let last = self.last.map(|last| format!("&last={last}"));
        let device = self.device.as_deref();
        let device = device.map(|device| format!("&device={}", escaped(device)));
        let (last, device) = (last.unwrap_or_default(), device.unwrap_or_default());
        format!("/v1/events?since={since}{last}{device}&follow={follow}")
    }
}

fn words(event: &Event) -> String {
    let device = event.device.map(|id| short(&id.to_string()));
    format!(
        "{} {:<12} {:<12} {}",
        event.time,
        clean(&event.what),
        device.unwrap_or_default(),
        clean(&event.text)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stands_in_the_address() {
        let mut verb = Events {
            since: 0,
            last: None,
            device: None,
            follow: false,
            hub: HubArgument::none(),
        };
        assert_eq!(verb.target(), "/v1/events?since=0&follow=0");
        verb.last = Some(20);
        verb.device = Some("hall 3".to_owned());
        let target = "/v1/events?since=0&last=20&device=hall%203&follow=0";
        assert_eq!(verb.target(), target);
    }
}
