//! `[limits]` of a container's file.

use super::units::Size;
use kedge_revision::container::Limits;
use serde::Deserialize;
use std::collections::BTreeMap;

/// `[limits]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct LimitsText {
    /// Share of the processor under load, 1 to 10000; 100 is everyone's.
    pub cpu_weight: Option<u32>,
    /// Percent of one processor.
    pub cpu_max_percent: Option<u32>,
    /// It is killed above this.
    pub memory_max: Option<Size>,
    /// It is slowed down above this.
    pub memory_high: Option<Size>,
    /// Kept for it.
    pub memory_min: Option<Size>,
    /// Kept out of swap above this.
    pub memory_swap_max: Option<Size>,
    /// Processes and threads.
    pub pids_max: Option<u32>,
    /// Read from the disk of its data in a second.
    pub io_read_max: Option<Size>,
    /// Written to it in a second.
    pub io_write_max: Option<Size>,
    /// Reads in a second.
    pub io_reads_max: Option<u32>,
    /// Writes in a second.
    pub io_writes_max: Option<u32>,
    /// Most that writes to its root take.
    pub root_max: Option<Size>,
    /// Further files of its cgroup.
    pub unified: BTreeMap<String, String>,
}

impl LimitsText {
    pub(super) fn limits(&self) -> Limits {
        let bytes = |size: Option<Size>| size.map(|size| size.bytes);
        Limits {
            cpu_weight: self.cpu_weight,
            cpu_max_percent: self.cpu_max_percent,
            memory_max: bytes(self.memory_max),
            memory_high: bytes(self.memory_high),
            memory_min: bytes(self.memory_min),
            memory_swap_max: bytes(self.memory_swap_max),
            pids_max: self.pids_max,
            io_read_max: bytes(self.io_read_max),
            io_write_max: bytes(self.io_write_max),
            io_reads_max: self.io_reads_max,
            io_writes_max: self.io_writes_max,
            root_max: bytes(self.root_max),
            unified: self.unified.clone(),
        }
    }
}
