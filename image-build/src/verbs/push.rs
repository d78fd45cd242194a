//! `kedge push`: a change to the device that runs, and its verdict.

use super::composing::{Composing, ParametersArguments};
use super::{Scene, Told, ctl};
use crate::output::Output;
use crate::payload::Payload;
use crate::project::units::human;
use crate::push::{self, Change, Device, News, Outcome, Verdict, Waits};
use anyhow::Result;
use clap::Args;
use indicatif::ProgressBar;
use std::path::PathBuf;

/// Bring the project, or a bundle, to the running device; it tries it, and keeps it only if it holds.
///
/// Without a bundle the project is composed as `kedge build` does. Only the objects that the device lacks are sent, and
/// of those only what it does not have yet: a push that was cut off goes on when it is repeated. Then the device tries
/// the revision and judges it by its containers' goals. If they are not met in time, or it crashes, the device goes
/// back to what it ran before, by itself.
///
/// Exit status: 0 committed, or nothing to change; 1 rolled back or refused, with the device's reason.
#[derive(Debug, Args)]
pub(super) struct Push {
    /// A bundle made with `kedge bundle`; the project itself if absent.
    #[arg(conflicts_with_all = ["platform", "kernel"])]
    bundle: Option<PathBuf>,
    /// Return once the trial has begun; `kedge ctl status` tells how it stands.
    #[arg(long)]
    detach: bool,
    /// The control socket; the one of this project's `kedge run` if absent.
    #[arg(long, value_name = "SOCKET")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    parameters: ParametersArguments,
    #[command(flatten)]
    composing: Composing,
}

impl Push {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let socket = ctl::socket(scene, self.socket.as_ref())?;
        if self.bundle.is_none() {
            // Before anything is signed, and takes a counter, that nobody would get.
            push::reach(&Device::new(&socket, Waits::default()))?;
        }
        let mut payload = match &self.bundle {
            Some(path) => Payload::open(path)?,
            None => Payload::of(&self.composing.compose(scene)?.composition),
        };
        self.parameters.give_to(&mut payload)?;
        let outcome = push(scene.output, &socket, &payload, self.detach)?;
        scene.output.result(words(&outcome, &payload), &outcome)?;
        match outcome.verdict {
            Verdict::RolledBack { .. } => Err(Told.into()),
            Verdict::Nothing | Verdict::Begun | Verdict::Committed => Ok(()),
        }
    }
}

/// Pushes, and shows how it goes.
pub(super) fn push(
    output: Output,
    socket: &std::path::Path,
    payload: &Payload,
    detach: bool,
) -> Result<Outcome> {
    let device = Device::new(socket, Waits::default());
    let mut screen = Screen { output, bar: None };
    let outcome = push::push(&device, payload, detach, &mut |news| screen.show(&news));
    screen.clear();
    outcome
}

/// Lines for what has happened, and a bar for what goes on.
struct Screen {
    output: Output,
    bar: Option<ProgressBar>,
}

impl Screen {
    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn say(&mut self, line: &str) {
        self.clear();
        self.output.say(line);
    }

    fn show(&mut self, news: &News<'_>) {
        match news {
            News::Offered(offer) if offer.change == Change::Nothing => {}
            News::Offered(offer) => {
                self.say(&format!("the device takes it: {}", offer.change));
                let bytes = offer.missing_bytes();
                if !offer.missing.is_empty() {
                    let (count, size) = (offer.missing_objects(), human(bytes));
                    let first = match offer.more {
                        0 => String::new(),
                        _ => format!(" for the first {}", offer.missing.len()),
                    };
                    self.say(&format!("it lacks {count} objects, {size}{first}"));
                    self.bar = Some(self.output.bytes("sending", bytes));
                }
            }
            News::Object(missing) => {
                if let Some(bar) = &self.bar {
                    let short: String = missing.id.hex().chars().take(12).collect();
                    bar.set_message(format!("sending {short}"));
                }
            }
            News::Bytes(count) => {
                if let Some(bar) = &self.bar {
                    bar.inc(*count);
                }
            }
            News::Interrupted(error) => {
                self.say(&format!("cut off: {error:#}; going on"));
                self.bar = Some(self.output.spinner("waiting for the device"));
            }
            News::Begun(change) => self.say(&format!("the trial begins: {change}")),
            News::Trial(words) => {
                self.say(words);
                self.bar = Some(self.output.spinner("waiting for the verdict"));
            }
        }
    }
}

fn words(outcome: &Outcome, payload: &Payload) -> String {
    let what = format!(
        "revision {} version {}",
        payload.envelope().counter,
        outcome.version
    );
    match &outcome.verdict {
        Verdict::Nothing => format!("the device runs {what} already"),
        Verdict::Begun => format!("{what} is on trial; `kedge ctl status` tells how it stands"),
        Verdict::Committed => format!("committed: {what} holds"),
        Verdict::RolledBack { reason } => format!(
            "rolled back: {what} does not hold: {reason}\nthe device runs what it ran before; `kedge ctl history` and `kedge ctl logs` tell more"
        ),
    }
}
