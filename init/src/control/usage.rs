//! What containers use, as the control interface tells it.

use serde::Serialize;
use std::borrow::Cow;

/// `GET /v1/usage`: read when it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Usage<'a> {
    /// When it was read, milliseconds since the boot.
    pub uptime_ms: u64,
    /// All containers that have a cgroup, by name.
    pub containers: Vec<UsageOf<'a>>,
    /// What the device holds of the kernel.
    pub held: Held,
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
