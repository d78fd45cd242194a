//! `kedge ctl top` and `kedge ctl inspect`: what containers of the device use and are.

use crate::http::{self, Request};
use crate::project::units::human;
use crate::terminal::clean;
use crate::verbs::Scene;
use anyhow::{Context, Result};
use kedge_revision::Name;
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

fn get(socket: &Path, target: &str) -> Result<Value> {
    let body = http::ask(socket, Request::new("GET", target))?;
    serde_json::from_slice(&body).context("the device's answer is no JSON")
}

pub(super) fn inspect(scene: &Scene, socket: &Path, container: &Name) -> Result<()> {
    let found = get(socket, &format!("/v1/containers/{container}"))?;
    let mut text = String::new();
    tree(&mut text, &found, 0);
    scene.output.result(text.trim(), &found)
}

/// What containers use, each second anew: of the time since the look before. With --json what the kernel has counted, once.
pub(super) fn top(scene: &Scene, socket: &Path, once: bool) -> Result<()> {
    let mut before = get(socket, "/v1/usage")?;
    if scene.output.is_json() {
        return scene.output.result("", &before);
    }
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = get(socket, "/v1/usage")?;
        let text = table(&before, &now);
        if once {
            return scene.output.result(text.trim_end(), &now);
        }
        scene
            .output
            .result(format!("\u{1b}[H\u{1b}[J{}", text.trim_end()), &now)?;
        before = now;
    }
}

/// A line a value, indented by how deep it is.
fn tree(text: &mut String, value: &Value, depth: usize) {
    let begin = |text: &mut String| {
        text.push('\n');
        text.push_str(&"  ".repeat(depth));
    };
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                begin(text);
                // Writing to memory cannot fail.
                write!(text, "{}: ", clean(name)).ok();
                tree(text, member, depth.saturating_add(1));
            }
        }
        Value::Array(members) => {
            for member in members {
                begin(text);
                tree(text, member, depth.saturating_add(1));
            }
        }
        Value::String(word) => text.push_str(&clean(word)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            write!(text, "{value}").ok();
        }
    }
}

fn number(value: &Value, path: &str) -> Option<u64> {
    value.pointer(path).and_then(Value::as_u64)
}

fn table(before: &Value, now: &Value) -> String {
    let columns = [
        "CONTAINER",
        "CPU%",
        "MEMORY",
        "PEAK",
        "MAX",
        "PIDS",
        "READ",
        "WRITTEN",
        "W-CPU%",
        "W-MEM%",
        "W-IO%",
    ];
    let mut text = String::new();
    line(&mut text, &columns.map(str::to_owned));
    let all = |usage: &Value| {
        let containers = usage.get("containers").and_then(Value::as_array);
        containers.cloned().unwrap_or_default()
    };
    let times = number(before, "/uptime-ms").zip(number(now, "/uptime-ms"));
    let elapsed = times.map_or(0, |(before, now)| now.saturating_sub(before));
    let earlier = all(before);
    for one in all(now) {
        let name = one.get("name").and_then(Value::as_str).unwrap_or_default();
        let same = |other: &&Value| other.get("name") == one.get("name");
        let used = number(&one, "/cpu-us").unwrap_or(0);
        let cpu = earlier.iter().find(same).map(|other| {
            let was = number(other, "/cpu-us").unwrap_or(0);
            // A container that was started in between begins at nothing.
            let used = used.checked_sub(was).unwrap_or(used);
            used.saturating_mul(10)
                .checked_div(elapsed)
                .unwrap_or_default()
        });
        let bytes = |path| number(&one, path).map_or_else(dash, human);
        let waits = |path| hundredths(number(&one, path));
        line(
            &mut text,
            &[
                clean(name),
                hundredths(cpu),
                bytes("/memory"),
                bytes("/memory-peak"),
                bytes("/memory-max"),
                number(&one, "/pids").map_or_else(dash, |pids| pids.to_string()),
                bytes("/io-read"),
                bytes("/io-written"),
                waits("/pressure/cpu"),
                waits("/pressure/memory"),
                waits("/pressure/io"),
            ],
        );
    }
    text
}

fn dash() -> String {
    "-".to_owned()
}

fn hundredths(value: Option<u64>) -> String {
    value.map_or_else(dash, |value| format!("{}.{:02}", value / 100, value % 100))
}

fn line(text: &mut String, columns: &[String; 11]) {
    let [name, rest @ ..] = columns;
    write!(text, "{name:<20}").ok();
    for column in rest {
        write!(text, " {column:>10}").ok();
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_has_shares_of_the_time_between() {
        let usage = |uptime: u64, cpu: u64| {
            json!({"uptime-ms": uptime, "containers": [
                {"name": "web", "cpu-us": cpu, "memory": 4096, "pressure": {"cpu": 1205, "memory": 0, "io": 7}},
            ]})
        };
        let text = table(&usage(1000, 100_000), &usage(3000, 600_000));
        let words: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(words[..2], ["web", "25.00"]);
        assert!(text.ends_with("12.05       0.00       0.07\n"), "{text}");
        assert!(table(&json!({}), &usage(1, 1)).contains(" - "), "{text}");
    }

    #[test]
    fn a_value_has_its_line() {
        let mut text = String::new();
        tree(
            &mut text,
            &json!({"a": {"b": 1, "c": ["x\u{1b}", true]}}),
            0,
        );
        assert_eq!(text, "\na: \n  b: 1\n  c: \n    x\u{fffd}\n    true");
    }
}
