//! The cgroup tree: `containers/` for what a revision runs, `system/` for PID 1's helpers.
//!
//! `containers/` may take all memory but a reserve, and `system/` keeps a minimum, so that the
//! device survives containers without limits, and so it is with tasks (Linux `Documentation/admin-guide/cgroup-v2.rst`,
//! "Memory Protection").

use crate::boot::files;
use crate::boot::mounts::make_directory;
use crate::error::Error;
use std::path::Path;

/// Where the tree stands after the change of root.
pub const ROOT: &str = "/sys/fs/cgroup";
/// Controllers that containers are limited by; a kernel may lack some.
const WANTED: [&str; 5] = ["cpu", "memory", "pids", "io", "cpuset"];
/// Memory that `system/` keeps under any pressure: PID 1's helpers with their buffers.
const SYSTEM_MINIMUM: u64 = 4 << 20;

/// Bytes that containers may not take: one sixteenth of the memory, 4 to 64 MiB.
fn reserve(total: u64) -> u64 {
    (total / 16).clamp(SYSTEM_MINIMUM, 64 << 20)
}

/// Total memory, bytes, from `/proc/meminfo`.
pub(super) fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Numbers of processes and threads that containers may not take, of all that there are: one sixteenth, at least 64.
fn spare(numbers: u64) -> u64 {
    (numbers / 16).max(64)
}

/// Bounds the tasks of all containers together, so that PID 1 can start what it has to.
fn bound_tasks(containers: &Path) -> Result<(), Error> {
    let numbers = files::read(Path::new("/proc/sys/kernel/pid_max"), 64)?;
    let numbers = String::from_utf8_lossy(&numbers).trim().parse();
    // A number, always (`Documentation/admin-guide/sysctl/kernel.rst`).
    let Ok(numbers) = numbers else { return Ok(()) };
    let most: u64 = numbers;
    let most = most.saturating_sub(spare(most)).to_string();
    files::set(&containers.join("pids.max"), most.as_bytes())
}

/// Turns controllers on and makes the two cgroups.
///
/// # Errors
/// [`Error::File`]: without cgroup v2 no container is bounded, and none is started.
pub(crate) fn prepare() -> Result<(), Error> {
    let root = Path::new(ROOT);
    let available = files::read(&root.join("cgroup.controllers"), 4096)?;
    let available = String::from_utf8_lossy(&available);
    let mut enable = String::new();
    for name in WANTED {
        if available.split_ascii_whitespace().any(|have| have == name) {
            enable.push_str(" +");
            enable.push_str(name);
        }
    }
    files::set(&root.join("cgroup.subtree_control"), enable.as_bytes())?;
    make_directory(c"/sys/fs/cgroup/containers", 0o755)?;
    make_directory(c"/sys/fs/cgroup/system", 0o755)?;
    let containers = root.join("containers");
    files::set(
        &containers.join("cgroup.subtree_control"),
        enable.as_bytes(),
    )?;
    if enable.contains("+pids") {
        bound_tasks(&containers)?;
    }
    if !enable.contains("+memory") {
        return Ok(());
    }
    let meminfo = files::read(Path::new("/proc/meminfo"), 16 * 1024)?;
    if let Some(total) = total_memory(&String::from_utf8_lossy(&meminfo)) {
        let most = total.saturating_sub(reserve(total)).to_string();
        files::set(&containers.join("memory.max"), most.as_bytes())?;
    }
    let minimum = SYSTEM_MINIMUM.to_string();
    files::set(&root.join("system/memory.min"), minimum.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_bounded_both_ways() {
        assert_eq!(reserve(32 << 20), 4 << 20);
        assert_eq!(reserve(256 << 20), 16 << 20);
        assert_eq!(reserve(64 << 30), 64 << 20);
    }

    #[test]
    fn numbers_are_left_for_the_system() {
        assert_eq!(spare(32_768), 2048);
        assert_eq!(spare(301), 64);
    }

    #[test]
    fn memory_is_read_from_meminfo() {
        assert_eq!(
            total_memory("MemTotal:      10 kB\nMemFree: 1 kB\n"),
            Some(10_240)
        );
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
    }
}
