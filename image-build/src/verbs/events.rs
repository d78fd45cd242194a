//! `kedge events`: what happened at a hub.

use super::Scene;
use super::device::short;
use super::hub::{HubArgument, clean};
use anyhow::Result;
use clap::Args;
use kedge_api::operator::Event;

/// What happened at the hub: devices that enrolled, updates, who assigned what. With --json, one object a line.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge events
  kedge events --follow
  kedge events --since 1200 --json")]
pub(super) struct Events {
    /// Only those after this number.
    #[arg(long, value_name = "N", default_value_t = 0)]
    since: u64,
    /// Go on with what comes.
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    hub: HubArgument,
}

impl Events {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let target = format!(
            "/v1/events?since={}&follow={}",
            self.since,
            u8::from(self.follow)
        );
        // Server-sent events: what counts stands in `data:` lines, each a whole object.
        self.hub.client()?.lines(&target, self.follow, &mut |line| {
            let Some(data) = line.strip_prefix(b"data:") else {
                return Ok(());
            };
            match serde_json::from_slice::<Event>(data) {
                Ok(event) => scene.output.result(words(&event), &event),
                Err(_) => scene
                    .output
                    .say("the hub told an event that this kedge does not know"),
            }
            Ok(())
        })
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
