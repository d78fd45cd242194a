//! Status and logs for a person.

use crate::control::{
    ContainerState, ContainerStatus, Exit, LockStatus, Memory, MissingGoal, PortStatus,
    RevisionStatus, Trial,
};
use crate::log::{LogLine, Stream};
use kedge_revision::Mode;
use kedge_revision::container::Goal;
use serde::Deserialize;
use std::borrow::Cow;
use std::io::{Result, Write};

/// Of a [`Status`](crate::control::Status) what a screen shows: what is not parsed takes no code.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Shown<'a> {
    #[serde(borrow)]
    product: Cow<'a, str>,
    #[serde(borrow)]
    board: Cow<'a, str>,
    mode: Mode,
    #[serde(borrow, default)]
    revision: Option<RevisionStatus<'a>>,
    #[serde(borrow)]
    slot: Cow<'a, str>,
    #[serde(default)]
    secure_boot: bool,
    #[serde(default)]
    from_memory: bool,
    #[serde(borrow)]
    phase: Cow<'a, str>,
    uptime_ms: u64,
    trial: Trial,
    #[serde(borrow)]
    goals_missing: Vec<MissingGoal<'a>>,
    #[serde(borrow)]
    containers: Vec<ContainerStatus<'a>>,
    memory: Memory,
    #[serde(default)]
    network: Vec<PortStatus>,
    #[serde(borrow, default)]
    update: Option<Update<'a>>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Update<'a> {
    #[serde(borrow, default)]
    locks: Vec<LockStatus<'a>>,
}

/// The status on a screen.
pub(super) fn status(out: &mut impl Write, status: &Shown<'_>) -> Result<()> {
    let mode = match status.mode {
        Mode::Development => "development",
        Mode::Production => "production",
    };
    writeln!(
        out,
        "product   {} on {} ({mode})",
        status.product, status.board
    )?;
    match &status.revision {
        Some(revision) => {
            let short = revision.id.get(..16).unwrap_or(&revision.id);
            writeln!(out, "revision  {} {short}", revision.version)?;
        }
        None => writeln!(out, "revision  none")?,
    }
    write!(out, "slot      {}", status.slot)?;
    match status.trial {
        Trial::Committed => out.write_all(b", committed")?,
        Trial::Trying { tries_left } => write!(out, ", on trial, {tries_left} tries left")?,
    }
    let verified = if status.secure_boot {
        ", Secure Boot"
    } else {
        ""
    };
    writeln!(out, "{verified}")?;
    if status.from_memory {
        out.write_all(b"disk      none: it runs from memory, and a reboot begins anew\n")?;
    }
    writeln!(out, "phase     {}", status.phase)?;
    writeln!(out, "up        {}", duration(status.uptime_ms))?;
    let (total, available) = (status.memory.total >> 20, status.memory.available >> 20);
    writeln!(out, "memory    {available} of {total} MiB available")?;
    for lock in status.update.iter().flat_map(|update| &update.locks) {
        let left = duration(lock.until_ms.saturating_sub(status.uptime_ms));
        writeln!(
            out,
            "locked    {} holds updates back for {left}",
            lock.container
        )?;
    }
    for one in &status.network {
        port(out, one)?;
    }
    for missing in &status.goals_missing {
        let goal = match missing.goal {
            Goal::Started => "started",
            Goal::Ready => "ready",
            Goal::Finished => "finished",
        };
        writeln!(
            out,
            "missing   {} is not {goal}: {}",
            missing.container, missing.reason
        )?;
    }
    if status.containers.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n{:<20} {:<12} {:<9} {:>7} {:>8} {:>9}  LAST EXIT",
        "CONTAINER", "GROUP", "STATE", "PID", "RESTARTS", "SINCE"
    )?;
    status
        .containers
        .iter()
        .try_for_each(|one| container(out, one, status.uptime_ms))
}

/// What a DHCP server or the kernel gave it is text of the device's own: numbers, and names of interfaces.
fn port(out: &mut impl Write, one: &PortStatus) -> Result<()> {
    let link = if one.link { "up" } else { "down" };
    write!(out, "network   {} {link}", one.name)?;
    match (&one.dhcp, &one.lease) {
        (Some(dhcp), Some(lease)) => write!(out, ", {dhcp}, leased of {}", lease.server)?,
        (Some(dhcp), None) => write!(out, ", {dhcp}")?,
        (None, _) => {}
    }
    for (word, values) in [("", &one.addresses), ("by ", &one.gateways)] {
        if !values.is_empty() {
            write!(out, ", {word}{}", values.join(" "))?;
        }
    }
    for refused in &one.refused {
        write!(out, "; cannot {refused}")?;
    }
    writeln!(out)
}

fn container(out: &mut impl Write, one: &ContainerStatus<'_>, uptime_ms: u64) -> Result<()> {
    let state = match one.state {
        ContainerState::Running if one.ready => "ready",
        ContainerState::Running => "running",
        ContainerState::Waiting => "waiting",
        ContainerState::Starting => "starting",
        ContainerState::Stopping => "stopping",
        ContainerState::BackOff => "back-off",
        ContainerState::Finished => "finished",
        ContainerState::Failed => "failed",
        ContainerState::Stopped => "stopped",
    };
    let pid = one
        .pid
        .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let exit = match one.last_exit {
        None => "-".to_owned(),
        Some(Exit::Code(code)) => format!("code {code}"),
        Some(Exit::Signal(signal)) => format!("signal {signal}"),
    };
    let since = duration(uptime_ms.saturating_sub(one.since_ms));
    write!(
        out,
        "{:<20} {:<12} {state:<9} {pid:>7} {:>8} {since:>9}  {exit}",
        one.name, one.group, one.restarts
    )?;
    if !one.waiting_for.is_empty() {
        write!(out, "  waits for {}", one.waiting_for.join(", "))?;
    }
    writeln!(out)
}

/// The two largest units.
fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds}.{}s", ms % 1000 / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// One line of a log. Control characters of a container's text do not reach the terminal.
pub(super) fn line(out: &mut impl Write, line: &LogLine<'_>) -> Result<()> {
    let mark = match line.stream {
        Stream::Out | Stream::Notice | Stream::Debug => ' ',
        Stream::Err | Stream::Warning => '!',
        Stream::Error => 'E',
    };
    let (seconds, rest) = (line.time_ms / 1000, line.time_ms % 1000);
    write!(out, "{seconds:6}.{rest:03} {:<12} {mark} ", line.source)?;
    let clean = line.text.chars().map(|c| {
        if c.is_control() && c != '\t' {
            '\u{fffd}'
        } else {
            c
        }
    });
    writeln!(out, "{}", clean.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::LeaseStatus;
    use crate::control::{Status, TargetStatus, UpdateStatus};

    fn target() -> TargetStatus<'static> {
        TargetStatus {
            revision: "v1:0".into(),
            parameters: 0,
            slot: "a".into(),
        }
    }

    fn ports() -> Vec<PortStatus> {
        vec![
            PortStatus {
                name: "eth0".to_owned(),
                link: true,
                dhcp: Some("bound".to_owned()),
                addresses: vec!["10.0.2.15/24".to_owned(), "fd00::7/64".to_owned()],
                gateways: vec!["10.0.2.2".to_owned()],
                metric: 100,
                lease: Some(LeaseStatus {
                    address: "10.0.2.15".to_owned(),
                    server: "10.0.2.2".to_owned(),
                    ..LeaseStatus::default()
                }),
                refused: Vec::new(),
            },
            PortStatus {
                name: "eth1".to_owned(),
                refused: vec!["route by eth1 10.9.9.9: unreachable".to_owned()],
                ..PortStatus::default()
            },
        ]
    }

    fn example() -> Status<'static> {
        Status {
            product: "gateway".into(),
            board: "qemu-x86-64".into(),
            mode: Mode::Development,
            revision: Some(RevisionStatus {
                id: "0123456789abcdef0123".into(),
                version: "1.2.0".into(),
            }),
            slot: "b".into(),
            secure_boot: true,
            from_memory: true,
            phase: "running".into(),
            boot_id: "x".into(),
            uptime_ms: 3_725_000,
            trial: Trial::Trying { tries_left: 2 },
            update: Some(UpdateStatus {
                committed: target(),
                trial: None,
                failed: None,
                floor: "1.40".into(),
                unsettled: 0,
                watchdog_resets: 0,
                staging: None,
                locks: vec![LockStatus {
                    container: "web".into(),
                    until_ms: 3_730_000,
                }],
            }),
            goals_missing: vec![MissingGoal {
                container: "web".into(),
                goal: Goal::Ready,
                reason: "its check failed 3 times".into(),
            }],
            containers: vec![ContainerStatus {
                name: "web".into(),
                group: "apps".into(),
                state: ContainerState::BackOff,
                pid: None,
                ready: false,
                restarts: 4,
                last_exit: Some(Exit::Signal(9)),
                since_ms: 3_720_000,
                waiting_for: vec!["db".into()],
            }],
            network: ports(),
            memory: Memory {
                total: 64 << 20,
                available: 40 << 20,
            },
            processes: Vec::new(),
        }
    }

    #[test]
    fn a_status_reads_well() {
        let mut out = Vec::new();
        let json = serde_json::to_string(&example()).unwrap();
        let shown = kedge_revision::json::read(json.as_bytes()).unwrap();
        status(&mut out, &shown).unwrap();
        let expected = "\
product   gateway on qemu-x86-64 (development)
revision  1.2.0 0123456789abcdef
slot      b, on trial, 2 tries left, Secure Boot
disk      none: it runs from memory, and a reboot begins anew
phase     running
up        1h02m
memory    40 of 64 MiB available
locked    web holds updates back for 5.0s
network   eth0 up, bound, leased of 10.0.2.2, 10.0.2.15/24 fd00::7/64, by 10.0.2.2
network   eth1 down; cannot route by eth1 10.9.9.9: unreachable
missing   web is not ready: its check failed 3 times

CONTAINER            GROUP        STATE         PID RESTARTS     SINCE  LAST EXIT
web                  apps         back-off        -        4      5.0s  signal 9  waits for db
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert!(
            json.contains("\"trial\":{\"trying\":{\"tries-left\":2}}"),
            "{json}"
        );
        assert_eq!(
            serde_json::from_str::<Status<'_>>(&json).unwrap(),
            example()
        );
        assert!(json.contains("\"secure-boot\":true"), "{json}");
        assert!(json.contains("\"from-memory\":true"), "{json}");
        let off = Status {
            secure_boot: false,
            from_memory: false,
            ..example()
        };
        let json = serde_json::to_string(&off).unwrap();
        assert!(
            !json.contains("secure-boot") && !json.contains("from-memory"),
            "{json}"
        );
    }

    #[test]
    fn a_line_cannot_command_the_terminal() {
        let mut out = Vec::new();
        let text = LogLine {
            seq: 1,
            time_ms: 1500,
            source: "web".into(),
            stream: Stream::Err,
            text: "\u{1b}[2Jhello".into(),
        };
        line(&mut out, &text).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "     1.500 web          ! \u{fffd}[2Jhello\n"
        );
    }
}
