//! `kedge ctl history`: what a device has tried, kept and given up, as a table. Events and fields that this software does
//! not know are shown as they are.

use super::super::Scene;
use super::{status, word};
use crate::push::{Device, Waits};
use crate::terminal::clean;
use anyhow::Result;
use kedge_revision::Timestamp;
use serde_json::Value;
use std::path::Path;

pub(super) fn run(scene: &Scene, socket: &Path) -> Result<()> {
    let lines = Device::new(socket, Waits::default()).history()?;
    if !scene.output.is_json() {
        scene.output.result(HEAD, &())?;
    }
    for line in lines.split(|byte| *byte == b'\n') {
        if line.is_empty() {
            continue;
        }
        match serde_json::from_slice::<Value>(line) {
            Ok(event) => scene.output.result(row(&event), &event)?,
            Err(_) => scene.output.say(clean(&String::from_utf8_lossy(line))),
        }
    }
    Ok(())
}

const HEAD: &str = "  SEQ  TIME                  BOOT  EVENT         REVISION             ABOUT";

/// Fields that have a column, or a place in one.
const KNOWN: [&str; 11] = [
    "seq",
    "time",
    "uptime-ms",
    "boot",
    "event",
    "revision",
    "parameters",
    "slot",
    "reason",
    "cause",
    "took-ms",
];

fn row(event: &Value) -> String {
    let revision = match event.get("revision").and_then(Value::as_str) {
        Some(id) => id.parse().map_or_else(|_| clean(id), status::short),
        None => "-".to_owned(),
    };
    let row = format!(
        "{:>5}  {:<20}  {:>4}  {:<12}  {revision:<19}  {}",
        word(event, "seq"),
        time(event),
        word(event, "boot"),
        word(event, "event"),
        about(event).join(", ")
    );
    row.trim_end().to_owned()
}

/// When: by the clock, or since the boot on a device whose clock was not set yet.
fn time(event: &Value) -> String {
    let number = |name: &str| event.get(name).and_then(Value::as_u64);
    match (number("time"), number("uptime-ms")) {
        // 2020: what a clock that was never set does not reach by running.
        (Some(time), _) if time >= 1_577_836_800 => Timestamp::from_unix(time).to_string(),
        (_, Some(uptime)) => format!("{} s after boot", uptime / 1000),
        (Some(_) | None, None) => "-".to_owned(),
    }
}

fn about(event: &Value) -> Vec<String> {
    let mut about = Vec::new();
    let mut add = |before: &str, name: &str| {
        let word = word(event, name);
        if !word.is_empty() {
            about.push(format!("{before}{word}"));
        }
    };
    add("", "reason");
    add("", "text");
    add("cause ", "cause");
    add("slot ", "slot");
    if event.get("parameters").and_then(Value::as_u64) != Some(0) {
        add("parameters ", "parameters");
    }
    if let Some(took) = event.get("took-ms").and_then(Value::as_u64) {
        about.push(format!("took {}.{} s", took / 1000, took % 1000 / 100));
    }
    let fields = event.as_object().into_iter().flatten();
    for (name, value) in fields.filter(|(name, _)| name.as_str() != "text") {
        if !KNOWN.contains(&name.as_str()) {
            about.push(clean(&format!("{name} {value}")));
        }
    }
    about
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        row(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn events_stand_below_their_head() {
        let id = format!("v1:{}", "ab".repeat(32));
        let text = format!(
            r#"{{"seq":12,"time":1795341600,"uptime-ms":1,"boot":7,"event":"rolled-back","revision":"{id}","parameters":3,"slot":"b","reason":"goal-missed(web, ready)","took-ms":61500}}"#
        );
        let row = of(&text);
        assert_eq!(
            row,
            "   12  2026-11-22T10:00:00Z     7  rolled-back   v1:abababababababab  goal-missed(web, ready), slot b, parameters 3, took 61.5 s"
        );
        for (column, word) in [
            ("TIME", "2026"),
            ("EVENT", "rolled"),
            ("REVISION", "v1:"),
            ("ABOUT", "goal"),
        ] {
            assert_eq!(HEAD.find(column), row.find(word), "{column}");
        }
    }

    #[test]
    fn what_is_unknown_or_missing_is_no_error() {
        assert_eq!(
            of(
                r#"{"seq":1,"time":5,"uptime-ms":4200,"boot":1,"event":"booted","cause":"watchdog"}"#
            ),
            "    1  4 s after boot           1  booted        -                    cause watchdog"
        );
        let new = of(r#"{"event":"dreamt","of":["sheep"],"text":"a\u001bb"}"#);
        assert!(
            new.contains("dreamt") && new.contains("of [\"sheep\"]"),
            "{new}"
        );
        assert!(new.contains("a\u{fffd}b"), "{new}");
        let empty: Vec<String> = of("{}").split_whitespace().map(str::to_owned).collect();
        assert_eq!(empty, ["-", "-"]);
    }
}
