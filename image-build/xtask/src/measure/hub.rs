//! What the hub costs, and how a fleet of simulated devices fares: `update/hub/benches/load.rs` measures, this shows it.
//!
//! Processor time is the hub's own, for itself and in the kernel, from `/proc/PID/stat`, divided by how often something was
//! done; the devices run on the same machine and do not count. Memory is the resident set. The goals are what a prototype
//! of the same design reached (axum, rusqlite, rustls), measured in the same way. How busy the machine was when it
//! began is told beside them: what waits for a processor costs no more of it, but takes longer.

use super::{Figure, Goal, Value, note};
use crate::cargo::cargo;
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Of a poll that changes nothing, microseconds; of a report among others; of a new connection with a client's certificate;
/// and of a held poll with its connection, bytes.
const GOALS: [(&str, u64); 4] = [
    ("hub.poll-unchanged", 16),
    ("hub.report-of-32-at-once", 37),
    ("hub.connection-fresh", 465),
    ("hub.swarm.held-poll", 23_400),
];

/// Units that the measurement tells.
const UNITS: [&str; 6] = ["us", "B", "s", "%", "/s", ""];

pub(super) fn measure(devices: u32, seconds: u32) -> Result<Vec<Figure>> {
    let load = std::fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    let mut command = cargo()?;
    command
        .args(["bench", "--quiet", "--locked", "--package", "kedge-hub"])
        .args(["--bench", "load", "--"])
        .args(["--devices", &devices.to_string()])
        .args(["--seconds", &seconds.to_string()]);
    let mut figures = vec![figure(&format!("hub.machine-load\t{load}\t"))?];
    figures.extend(listen(command)?);
    Ok(figures)
}

/// Runs the measurement; its figures as they come.
fn listen(mut command: Command) -> Result<Vec<Figure>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let output = child
        .stdout
        .take()
        .context("the measurement has no output")?;
    let mut figures = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read what the measurement says")?;
        if line.starts_with("hub.") {
            let figure = figure(&line)?;
            note(figure.words());
            figures.push(figure);
        }
    }
    let status = child.wait().context("cannot wait for the measurement")?;
    ensure!(status.success(), "the measurement did not succeed");
    Ok(figures)
}

/// A figure as the measurement tells it: name, value and unit, with tabs in between.
fn figure(line: &str) -> Result<Figure> {
    let mut parts = line.split('\t');
    let mut part = || {
        parts
            .next()
            .with_context(|| format!("`{line}` is no figure"))
    };
    let (name, value, unit) = (part()?, part()?, part()?);
    let unit = UNITS.iter().copied().find(|known| *known == unit);
    let unit = unit.with_context(|| format!("`{line}` has no unit that is known"))?;
    let goal = GOALS.iter().find(|(goal, _)| *goal == name);
    let wrong = || format!("`{value}` is no number");
    let value = match unit {
        // Nobody wants to know parts of a byte.
        "B" => {
            let whole = value.split('.').next().unwrap_or_default();
            Value::Count(whole.parse().with_context(wrong)?)
        }
        _ => Value::Time(value.parse().with_context(wrong)?),
    };
    Ok(Figure {
        name: name.to_owned(),
        value,
        unit,
        goal: goal.map(|(_, max)| Goal { max: *max }),
        board: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_with_their_goals() {
        let poll = figure("hub.poll-unchanged\t8.5\tus").unwrap();
        assert_eq!((poll.unit, poll.holds()), ("us", Some(true)));
        assert_eq!(
            serde_json::to_string(&poll).unwrap(),
            r#"{"name":"hub.poll-unchanged","value":8.5,"unit":"us","goal":{"max":16}}"#
        );
        let held = figure("hub.swarm.held-poll\t30000.5\tB").unwrap();
        assert_eq!(held.holds(), Some(false));
        assert_eq!(figure("hub.machine-load\t0.5\t").unwrap().holds(), None);
        for bad in ["hub.x", "hub.x\ty\tus", "hub.x\t1\tfurlong"] {
            figure(bad).unwrap_err();
        }
    }
}
