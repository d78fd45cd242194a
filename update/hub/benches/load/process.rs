//! What a process has used, by proc(5).

/// Clock ticks of a second in `/proc` (`_SC_CLK_TCK`).
const TICKS: u64 = 100;

/// Processor time that a process has used for itself and in the kernel, microseconds.
pub(crate) fn processor(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks * 1_000_000 / TICKS
}

/// A line of `/proc/PID/status` that counts kB, in bytes.
fn status(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes * 1024
}

/// Memory that a process has now, bytes.
pub(crate) fn memory(pid: u32) -> u64 {
    status(pid, "VmRSS")
}

/// The most that it ever had.
pub(crate) fn peak(pid: u32) -> u64 {
    status(pid, "VmHWM")
}
