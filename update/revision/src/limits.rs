//! Bounds on what a container uses.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bounds on what a container uses (cgroup v2; Linux `Documentation/admin-guide/cgroup-v2.rst`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limits {
    /// `cpu.weight`, 1 to 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u32>,
    /// `cpu.max`, percent of one processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_max_percent: Option<u32>,
    /// `memory.max`, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<u64>,
    /// `memory.high`, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_high: Option<u64>,
    /// `memory.min`, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_min: Option<u64>,
    /// `memory.swap.max`, bytes; 0 keeps it out of any swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_swap_max: Option<u64>,
    /// `pids.max`; 512 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<u32>,
    /// `io.max`, `rbps` of the disk that data is on: bytes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_read_max: Option<u64>,
    /// `io.max`, `wbps` of that disk: bytes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_write_max: Option<u64>,
    /// `io.max`, `riops` of that disk: reads a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_reads_max: Option<u32>,
    /// `io.max`, `wiops` of that disk: writes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_writes_max: Option<u32>,
    /// Most that writes to its root take, bytes: on disk for `root` `revision`, in memory for `boot`, where it is
    /// [`Container::DEFAULT_ROOT_BOOT`](crate::Container::DEFAULT_ROOT_BOOT) if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_max: Option<u64>,
    /// Further files of its cgroup and what is written into them, after all others; at most [`Limits::MAX_UNIFIED`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unified: BTreeMap<String, String>,
}

impl Limits {
    /// Most entries of `unified`.
    pub const MAX_UNIFIED: usize = 16;
    /// Longest value in `unified`, bytes.
    pub const MAX_UNIFIED_VALUE: usize = 256;
    /// Least bytes a second.
    pub const LEAST_RATE: u64 = 64 * 1024;
    /// Least reads or writes a second.
    pub const LEAST_OPERATIONS: u32 = 10;
    /// Files of a cgroup that have keys of their own here.
    const NAMED: [&str; 9] = [
        "cpu.max",
        "cpu.weight",
        "cpu.weight.nice",
        "io.max",
        "memory.high",
        "memory.max",
        "memory.min",
        "memory.swap.max",
        "pids.max",
    ];

    /// Whether anything is said about what is read from a disk or written to it.
    #[must_use]
    pub const fn are_of_disk(&self) -> bool {
        self.io_read_max.is_some()
            || self.io_write_max.is_some()
            || self.io_reads_max.is_some()
            || self.io_writes_max.is_some()
    }

    pub(crate) fn check(&self, field: &str) -> Result<(), Error> {
        let bad = |name: &str, why| Err(Error::invalid(format!("{field}.{name}"), why));
        if self.cpu_weight.is_some_and(|w| !(1..=10_000).contains(&w)) {
            return bad("cpu-weight", "is not 1 to 10000");
        }
        if self
            .cpu_max_percent
            .is_some_and(|p| !(1..=100_000).contains(&p))
        {
            return bad("cpu-max-percent", "is not 1 to 100000");
        }
        if self.memory_max.is_some_and(|bytes| bytes < 64 * 1024) {
            return bad("memory-max", "is under 64 KiB, in which no process starts");
        }
        if self.pids_max == Some(0) {
            return bad("pids-max", "is 0");
        }
        // The journal waits for data that is on its way: whoever writes very slowly holds up what others write.
        for (name, rate) in [
            ("io-read-max", self.io_read_max),
            ("io-write-max", self.io_write_max),
        ] {
            if rate.is_some_and(|rate| rate < Self::LEAST_RATE) {
                return bad(
                    name,
                    "is under 64 KiB a second, at which others would wait for it",
                );
            }
        }
        for (name, rate) in [
            ("io-reads-max", self.io_reads_max),
            ("io-writes-max", self.io_writes_max),
        ] {
            if rate.is_some_and(|rate| rate < Self::LEAST_OPERATIONS) {
                return bad(
                    name,
                    "is under 10 a second, at which others would wait for it",
                );
            }
        }
        if self.root_max.is_some_and(|bytes| bytes < 64 * 1024) {
            return bad("root-max", "is under 64 KiB, in which no folder is made");
        }
        if self.unified.len() > Self::MAX_UNIFIED {
            return bad("unified", "has over 16 entries");
        }
        for (file, value) in &self.unified {
            check_unified(file, value).map_err(|why| {
                Error::invalid(format!("{field}.unified.{}", file.escape_debug()), why)
            })?;
        }
        Ok(())
    }
}

/// A file of one of the controllers that containers have, in one line.
fn check_unified(file: &str, value: &str) -> Result<(), &'static str> {
    let (controller, rest) = file.split_once('.').unwrap_or((file, ""));
    if !matches!(controller, "cpu" | "cpuset" | "io" | "memory" | "pids") {
        return Err("is no file of the controllers cpu, cpuset, io, memory or pids");
    }
    let plain = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'.' | b'_');
    if rest.is_empty() || rest.len() > 48 || !rest.bytes().all(plain) {
        return Err("is no name of a file of a cgroup");
    }
    if Limits::NAMED.contains(&file) {
        return Err("has a key of its own in limits");
    }
    // A watch that ends with the writing; work that is done once; processors that nobody else would have.
    let is_none = file.ends_with(".pressure")
        || matches!(
            file,
            "memory.reclaim" | "cpuset.cpus.exclusive" | "cpuset.cpus.partition"
        );
    if is_none {
        return Err("is no limit of a container");
    }
    let fits = !value.is_empty() && value.len() <= Limits::MAX_UNIFIED_VALUE;
    if !fits || value.contains(|c: char| c.is_control()) {
        return Err("is not one line of 1 to 256 bytes");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let limits: Limits = serde_json::from_str(text).unwrap();
        match limits.check("limits") {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn bounds_at_which_nothing_runs_are_refused_by_their_key() {
        for (text, key) in [
            (r#"{"io-read-max":65535}"#, "limits.io-read-max"),
            (r#"{"io-write-max":65535}"#, "limits.io-write-max"),
            (r#"{"io-reads-max":9}"#, "limits.io-reads-max"),
            (r#"{"io-writes-max":9}"#, "limits.io-writes-max"),
            (r#"{"root-max":65535}"#, "limits.root-max"),
            (r#"{"memory-max":65535}"#, "limits.memory-max"),
            (r#"{"pids-max":0}"#, "limits.pids-max"),
        ] {
            assert!(refused(text).contains(key), "{text}: {}", refused(text));
        }
        assert_eq!(
            refused(r#"{"memory-swap-max":0,"io-reads-max":10,"io-write-max":65536}"#),
            ""
        );
    }

    #[test]
    fn further_files_are_those_of_the_controllers_of_containers() {
        let entry = |file: &str, value: &str| {
            refused(&serde_json::json!({"unified": {file: value}}).to_string())
        };
        for (file, value) in [
            ("cpuset.cpus", "0-1"),
            ("memory.swap.high", "1048576"),
            ("memory.oom.group", "0"),
            ("io.prio.class", "idle"),
        ] {
            assert_eq!(entry(file, value), "", "{file}");
        }
        for (file, value, why) in [
            ("cgroup.freeze", "1", "is no file of the controllers"),
            ("cgroup.kill", "1", "is no file of the controllers"),
            ("hugetlb.2MB.max", "1", "is no file of the controllers"),
            ("memory", "1", "is no name"),
            ("memory.", "1", "is no name"),
            ("memory.../x", "1", "is no name"),
            ("memory.max", "1", "has a key of its own"),
            ("cpu.max", "1", "has a key of its own"),
            ("cpu.weight.nice", "1", "has a key of its own"),
            ("memory.pressure", "some 1 2", "is no limit"),
            ("memory.reclaim", "1", "is no limit"),
            ("cpuset.cpus.partition", "isolated", "is no limit"),
            ("cpu.idle", "", "is not one line"),
            ("cpu.idle", "1\n2", "is not one line"),
        ] {
            assert!(
                entry(file, value).contains(why),
                "{file}: {}",
                entry(file, value)
            );
        }
        assert!(entry("cpu.idle", &"1".repeat(257)).contains("is not one line"));
        let many: BTreeMap<String, &str> = ('a'..='q')
            .map(|letter| (format!("cpu.{letter}"), "1"))
            .collect();
        let text = serde_json::json!({"unified": many}).to_string();
        assert!(refused(&text).contains("over 16 entries"));
    }
}
