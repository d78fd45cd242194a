//! What a trial costs: a boot of one, the time until its verdict, and the answers that its containers do not give.
//!
//! | figure | what |
//! |---|---|
//! | `trial.boot-instructions` | how much longer a boot on trial takes than a plain one (`slot`) |
//! | `trial.slot-seconds`, `trial.live-verdict` | from a trial's beginning to its commit, by the device's history, without the window for which goals must hold |
//! | `trial.live-downtime-…` | for how long a server does not answer while a revision is tried without a reboot (`live`) |
//! | `trial.model-…` | what the check of the boot control machine says of itself (`model`) |

mod gaps;
mod live;
mod model;
mod slot;

use super::{Figure, subject};
use crate::device::Device;
use crate::kedge::Kedge;
use crate::project::edit;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// An emulated device on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// Lines of the device's log that a failure shows.
const TAIL: usize = 25;
/// Seconds for which a trial's goals must hold here. The least that there is, five, is missed by an emulated device on a
/// busy machine.
const WINDOW: u32 = 15;

pub(super) fn measure(platform: &Path, runs: u32) -> Result<Vec<Figure>> {
    let folder = subject::fast_folder()?;
    let told =
        |result: Result<Vec<Figure>>| result.with_context(|| subject::console(folder.path()));
    let mut figures = told(slot::measure(folder.path(), platform, runs))?;
    figures.extend(told(live::measure(folder.path(), platform))?);
    figures.extend(model::measure()?);
    Ok(figures)
}

/// Gives a new project a short window.
fn shorten_window(kedge: &Kedge) -> Result<()> {
    edit(kedge, "window", &format!("\"{WINDOW}s\""))
}

/// `kedge push` of the project as it is now; without `--detach` the trial must be committed.
pub(super) fn push(
    device: &Device,
    kedge: &Kedge,
    platform: &Path,
    more: &[&str],
) -> Result<Value> {
    let socket = device.socket().to_string_lossy();
    let platform = platform.to_string_lossy();
    let mut words = vec!["push", "--socket", &socket, "--platform", &platform];
    words.extend(more);
    kedge.ask(&words).with_context(|| {
        // After a failed trial the log has its story; a device that is silent has none.
        let texts = device.texts("kedge").unwrap_or_default();
        let tail = texts.len().saturating_sub(TAIL);
        format!(
            "a trial does not hold; the end of the device's log:\n{}",
            texts.get(tail..).unwrap_or_default().join("\n")
        )
    })
}

/// What a trial changed, as the answer of a push has it.
fn ensure_change(pushed: &Value, change: &str) -> Result<()> {
    ensure!(
        pushed.get("change").and_then(Value::as_str) == Some(change),
        "the trial is not of the kind {change}: {pushed}"
    );
    Ok(())
}

/// Milliseconds from the beginning of the last trial in a history to its commit, without the window. Within one boot
/// they are those of the uptime; across boots they are whole seconds of the device's clock.
fn verdict(history: &[Value]) -> Result<i64> {
    let last = |name: &str| {
        history
            .iter()
            .rposition(|event| event.get("event").and_then(Value::as_str) == Some(name))
    };
    let begun = last("trial-begun").context("the history has no trial")?;
    let committed = last("committed").filter(|committed| *committed > begun);
    let committed = committed.context("the history has no commit of the trial")?;
    let number = |index: usize, name: &str| {
        let event = history.get(index);
        let value = event
            .and_then(|event| event.get(name))
            .and_then(Value::as_i64);
        value.with_context(|| format!("an event has no {name}"))
    };
    let took = if number(begun, "boot")? == number(committed, "boot")? {
        number(committed, "uptime-ms")? - number(begun, "uptime-ms")?
    } else {
        (number(committed, "time")? - number(begun, "time")?) * 1000
    };
    Ok(took - i64::from(WINDOW) * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(name: &str, boot: u64, time: u64, uptime: u64) -> Value {
        json!({"event": name, "boot": boot, "time": time, "uptime-ms": uptime})
    }

    #[test]
    fn a_verdict_in_one_boot_has_milliseconds() {
        let events = [
            event("trial-begun", 1, 80, 1_000),
            event("committed", 1, 95, 16_000),
            event("trial-begun", 1, 100, 20_000),
            event("committed", 1, 115, 35_123),
            event("settled", 1, 165, 85_123),
        ];
        assert_eq!(verdict(&events).unwrap(), 123);
        verdict(&events[..3]).unwrap_err();
        verdict(&events[3..]).unwrap_err();
    }

    #[test]
    fn a_verdict_after_a_boot_is_by_the_clock() {
        let events = [
            event("trial-begun", 1, 100, 90_000),
            event("booted", 2, 104, 500),
            event("committed", 2, 122, 17_000),
        ];
        assert_eq!(verdict(&events).unwrap(), 7_000);
    }
}
