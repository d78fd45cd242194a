//! What a device's containers use, as `kedge device show` says it to people.

use crate::project::units::human;
use crate::terminal::clean;
use crate::verbs::hub::ago;
use kedge_api::device::{ContainerUsage, Pressure, Usage};
use kedge_api::operator::Device;

/// When it was told, and what it says of the device as a whole.
pub(super) fn summary(device: &Device) -> Option<String> {
    let usage = device.usage.as_ref()?;
    let mut words = match device.usage_time {
        Some(time) => format!("as told {time}"),
        None => "as told once".to_owned(),
    };
    words.push_str(&format!(
        ", {} after its start",
        ago(usage.uptime_ms / 1000)
    ));
    if let Some(free) = usage.data_free {
        words.push_str(&format!("; {} free for data", human(free)));
    }
    Some(words)
}

/// A line a container, and one for what it uses.
pub(super) fn containers(device: &Device) -> String {
    let mut text = String::new();
    for container in &device.containers {
        let restarts = match container.restarts {
            0 => String::new(),
            count => format!(", {count} restarts"),
        };
        text.push_str(&format!(
            "\n  {} {}{restarts}",
            clean(&container.name),
            clean(&container.state)
        ));
        if let Some(used) = of(device.usage.as_ref(), &container.name) {
            text.push_str(&format!("\n    {}", words(used)));
        }
    }
    text
}

fn of<'a>(usage: Option<&'a Usage>, name: &str) -> Option<&'a ContainerUsage> {
    let containers = usage.map_or(&[][..], |usage| &usage.containers);
    containers.iter().find(|container| container.name == name)
}

/// What its kernel does not count is left out.
fn words(used: &ContainerUsage) -> String {
    let mut words = Vec::new();
    if let Some(memory) = used.memory {
        let limit = used.memory_max.map(|most| format!(" of {}", human(most)));
        let peak = used
            .memory_peak
            .map(|peak| format!(", peak {}", human(peak)));
        words.push(format!(
            "memory {}{}{}",
            human(memory),
            limit.unwrap_or_default(),
            peak.unwrap_or_default()
        ));
    }
    let tenths = used.cpu_us / 100_000;
    words.push(format!("processor time {}.{} s", tenths / 10, tenths % 10));
    words.extend(used.pids.map(|count| format!("pids {count}")));
    words.extend(used.pressure.map(waits));
    words.join("; ")
}

fn waits(Pressure { cpu, memory, io }: Pressure) -> String {
    let share = |hundredths: u32| format!("{}.{:02} %", hundredths / 100, hundredths % 100);
    format!(
        "waits for cpu {}, memory {}, io {}",
        share(cpu),
        share(memory),
        share(io)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn device(usage: &serde_json::Value) -> Device {
        let zeros = "0".repeat(64);
        let mut device = json!({
            "id": zeros, "key": zeros, "product": "gateway", "board": "b", "name": "hall-3", "tags": {},
            "enrolled": "2026-11-30T16:50:00Z", "online": true,
            "containers": [
                {"name": "web", "state": "running", "ready": true, "restarts": 2},
                {"name": "db\u{1b}", "state": "waiting", "ready": false, "restarts": 0},
            ],
        });
        if !usage.is_null() {
            device["usage"] = usage.clone();
            device["usage-time"] = "2026-12-01T02:00:00Z".into();
        }
        serde_json::from_value(device).unwrap()
    }

    #[test]
    fn what_containers_use_stands_below_them() {
        let used = device(
            &json!({"uptime-ms": 7_200_000, "data-free": 1_500_000_000, "containers": [
                {"name": "web", "cpu-us": 12_345_678, "memory": 12_300_000, "memory-peak": 20_100_000,
                 "memory-max": 64_000_000, "pids": 5, "pressure": {"cpu": 1205, "memory": 0, "io": 7}},
                {"name": "gone", "cpu-us": 1},
            ]}),
        );
        assert_eq!(
            containers(&used),
            "\n  web running, 2 restarts\
             \n    memory 12.3 MB of 64.0 MB, peak 20.1 MB; processor time 12.3 s; pids 5; \
             waits for cpu 12.05 %, memory 0.00 %, io 0.07 %\
             \n  db\u{fffd} waiting"
        );
        assert_eq!(
            summary(&used).unwrap(),
            "as told 2026-12-01T02:00:00Z, 2 h after its start; 1.5 GB free for data"
        );
    }

    #[test]
    fn what_was_not_told_or_counted_is_left_out() {
        let silent = device(&json!(null));
        assert_eq!(summary(&silent), None);
        assert_eq!(
            containers(&silent),
            "\n  web running, 2 restarts\n  db\u{fffd} waiting"
        );
        let poor = json!({"uptime-ms": 1, "containers": [{"name": "web", "cpu-us": 99_999}]});
        let poor = device(&poor);
        assert!(containers(&poor).contains("restarts\n    processor time 0.0 s\n  db"));
        assert!(!summary(&poor).unwrap().contains("free"));
    }
}
