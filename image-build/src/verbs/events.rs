//! `kedge events`: what happened at a hub.

use super::Scene;
use super::device::short;
use super::hub::HubArgument;
use crate::hub::{Ended, Refused, escaped};
use crate::terminal::clean;
use anyhow::Result;
use clap::Args;
use kedge_api::operator::Event;
use std::thread;
use std::time::Duration;

/// How long a hub that went away is waited for, again and again, seconds: five minutes, in which a machine restarts.
const WAITS: [u64; 13] = [1, 2, 4, 8, 15, 30, 30, 30, 30, 30, 30, 30, 30];

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
    /// Go on with what comes. A hub that goes away is asked again from there on, for five minutes.
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    hub: HubArgument,
}

impl Events {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let client = self.hub.client()?;
        let mut place = Place::default();
        loop {
            let (target, mut untold) = (self.target(place.seen), false);
            let asked = client.lines(&target, self.follow, &mut |line| {
                let told = tell(scene, line, &mut place);
                told.inspect_err(|_| untold = true)
            });
            let Err(error) = asked else { return Ok(()) };
            let Some(wait) = place.wait(&error).filter(|_| !untold) else {
                return Err(error);
            };
            let text = error.to_string();
            let what = text.lines().next().unwrap_or_default();
            scene.output.say(format_args!(
                "{what}; it is asked again in {} s",
                wait.as_secs()
            ));
            thread::sleep(wait);
        }
    }

    /// What is asked for, from the event on that was seen last.
    fn target(&self, seen: Option<u64>) -> String {
        let (since, follow) = (seen.unwrap_or(self.since), u8::from(self.follow));
        // The last so many are counted from the newest: once some of them were told, they are others.
        let last = self.last.filter(|_| seen.is_none());
        let last = last.map(|last| format!("&last={last}"));
        let device = self.device.as_deref();
        let device = device.map(|device| format!("&device={}", escaped(device)));
        let (last, device) = (last.unwrap_or_default(), device.unwrap_or_default());
        format!("/v1/events?since={since}{last}{device}&follow={follow}")
    }
}

/// How far the events were told, and how often a hub that had answered was then asked in vain.
#[derive(Debug, Default)]
struct Place {
    seen: Option<u64>,
    /// What an `id:` line has said of the lines up to the next empty one.
    named: Option<u64>,
    answered: bool,
    failures: usize,
}

impl Place {
    /// A line that is no event's data. What was told decides; the place of nothing counts where nothing was.
    fn hear(&mut self, line: &[u8]) {
        if let Some(number) = line.strip_prefix(b"id:") {
            let number = std::str::from_utf8(number).ok();
            self.named = number.and_then(|number| number.trim().parse().ok());
        } else if line.trim_ascii().is_empty() {
            let named = self.named.take();
            self.seen = self.seen.or(named);
        }
    }

    /// How long to wait before the hub is asked again; none: that would be of no use.
    fn wait(&mut self, error: &anyhow::Error) -> Option<Duration> {
        if error.is::<Ended>() {
            self.answered = true;
            self.failures = 0;
        }
        let refused = error.downcast_ref::<Refused>();
        if !self.answered || !refused.is_none_or(Refused::passes) {
            return None;
        }
        let wait = WAITS.get(self.failures)?;
        self.failures += 1;
        Some(Duration::from_secs(*wait))
    }
}

/// A line of server-sent events: what counts stands in `data:` lines, each a whole object; where it begins, in an `id:` without any.
fn tell(scene: &Scene, line: &[u8], place: &mut Place) -> Result<()> {
    let Some(data) = line.strip_prefix(b"data:") else {
        place.hear(line);
        return Ok(());
    };
    place.named = None;
    match serde_json::from_slice::<Event>(data) {
        Ok(event) => {
            scene.output.result(words(&event), &event)?;
            place.seen = Some(event.seq);
        }
        Err(_) => scene
            .output
            .say("the hub told an event that this kedge does not know"),
    }
    Ok(())
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
        assert_eq!(verb.target(None), "/v1/events?since=0&follow=0");
        verb.last = Some(20);
        verb.device = Some("hall 3".to_owned());
        let target = "/v1/events?since=0&last=20&device=hall%203&follow=0";
        assert_eq!(verb.target(None), target);
        // From what was seen on, not the last twenty again.
        let target = "/v1/events?since=1207&device=hall%203&follow=0";
        assert_eq!(verb.target(Some(1207)), target);
    }

    #[test]
    fn who_has_seen_nothing_goes_on_from_where_it_began() {
        let mut place = Place::default();
        place.hear(b"id: 1207");
        assert_eq!(place.seen, None);
        place.hear(b"");
        assert_eq!(place.seen, Some(1207));
        // An event that broke off, and a place once more, count for nothing.
        place.hear(b"id: 1208");
        place.hear(b"event: assigned");
        place.hear(b"id: 9");
        place.hear(b"");
        place.hear(b"id: x");
        place.hear(b"");
        assert_eq!(place.seen, Some(1207));
    }

    #[test]
    fn a_hub_that_goes_away_is_asked_again_for_a_while() {
        let away = || anyhow::anyhow!("the hub cannot be reached");
        // One that never answered may be a mistyped address.
        assert_eq!(Place::default().wait(&away()), None);
        let mut place = Place::default();
        let second = Some(Duration::from_secs(1));
        assert_eq!(place.wait(&Ended.into()), second);
        let waits = std::iter::from_fn(|| place.wait(&away()));
        assert_eq!(waits.count(), WAITS.len() - 1);
        // It came back, and went away again.
        assert_eq!(place.wait(&away().context(Ended)), second);
        let refused = |status| Refused {
            problem: kedge_api::Problem {
                status,
                kind: String::new(),
                title: String::new(),
                detail: String::new(),
            },
            retry_after: None,
        };
        assert!(place.wait(&refused(503).into()).is_some());
        assert_eq!(place.wait(&refused(401).into()), None);
    }
}
