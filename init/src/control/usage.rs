//! What containers use, as the control interface tells it.

use serde::Serialize;
use std::borrow::Cow;

/// `GET /v1/usage`: read when it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Usage<'a> {
    /// When it was read, milliseconds since the boot.
    pub uptime_ms: u64,
    /// Bytes that are free on the data partition; absent while it is not mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_free: Option<u64>,
    /// All containers that have a cgroup, by name.
    pub containers: Vec<UsageOf<'a>>,
    /// What the device holds of the kernel; not told to a hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

impl Usage<'_> {
    /// Without what a hub is not told: its network may be paid for by its bytes. The agent hands on what is left as it is, so
    /// that its words are those of the hub's API (`kedge_api::device::Usage`).
    #[must_use]
    pub fn for_a_hub(mut self) -> Self {
        self.held = None;
        for container in &mut self.containers {
            (container.io_read, container.io_written) = (None, None);
        }
        self
    }
}

/// How much of what a kernel hands out is in use: numbers that stay the same as long as the same containers run, however
/// often they were started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Held {
    /// Processes and threads, the kernel's own among them.
    pub processes: u16,
    /// Open descriptors of PID 1.
    pub descriptors: usize,
    /// Mounts that PID 1 sees.
    pub mounts: usize,
    /// Containers' cgroups.
    pub cgroups: usize,
    /// Network interfaces that PID 1 sees: pools' bridges and their ends of containers' among them.
    pub interfaces: usize,
}

/// What one container uses; what its kernel does not count is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct UsageOf<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// Time on processors since its start, microseconds.
    pub cpu_us: u64,
    /// Memory now, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// The most since its start, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<u64>,
    /// The limit, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<u64>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Bytes read from disks since its start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_read: Option<u64>,
    /// Bytes written to disks since its start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_written: Option<u64>,
    /// How long it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
}

/// In how much of the last ten seconds some process waited for what it needs, hundredths of a percent
/// (Linux `Documentation/accounting/psi.rst`, `some avg10`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pressure {
    /// For a processor.
    pub cpu: u32,
    /// For memory.
    pub memory: u32,
    /// For disks.
    pub io: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_is_told_what_it_knows_and_no_more() {
        let counted = UsageOf {
            name: "web".into(),
            cpu_us: 7,
            memory: Some(1),
            memory_peak: Some(2),
            memory_max: Some(3),
            pids: Some(4),
            io_read: Some(5),
            io_written: Some(6),
            pressure: Some(Pressure {
                cpu: 1205,
                memory: 0,
                io: 7,
            }),
        };
        let old = UsageOf {
            name: "old".into(),
            ..UsageOf::default()
        };
        let usage = Usage {
            uptime_ms: 5,
            data_free: Some(9),
            containers: vec![counted, old],
            held: Some(Held::default()),
        };
        let text = kedge_revision::json::bytes(&usage.for_a_hub());
        let expected = concat!(
            r#"{"uptime-ms":5,"data-free":9,"containers":[{"name":"web","cpu-us":7,"memory":1,"#,
            r#""memory-peak":2,"memory-max":3,"pids":4,"pressure":{"cpu":1205,"memory":0,"io":7}},"#,
            r#"{"name":"old","cpu-us":0}]}"#
        );
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
}
