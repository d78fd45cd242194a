//! The status that `GET /v1/status` answers with.

use crate::boot::Boot;
use crate::control::{
    ContainerState, ContainerStatus, Exit, FailureStatus, LockStatus, Memory, MissingGoal,
    PortStatus, ProcessStatus, RevisionStatus, StagingStatus, StateStatus, Status, TargetStatus,
    Trial, UpdateStatus,
};
use crate::driver::update::Update;
use crate::machine::{Ending, Machine, State, WaitsFor};
use kedge_board_support::control::{Control, Decision, Running};
use kedge_board_support::record::state::Target;
use kedge_revision::Mode;
use kedge_sys::process::ExitStatus;
use std::borrow::Cow;

/// Makes the status of this moment.
///
/// `processes` are PID 1 and its helpers; what they take is told in development products only.
pub(crate) fn status<'a>(
    boot: &'a Boot,
    machine: &'a Machine,
    update: &'a Update,
    state: StateStatus<'a>,
    network: &[PortStatus],
    processes: impl Iterator<Item = (&'static str, u32)>,
    now_ms: u64,
) -> Status<'a> {
    let product = boot.identity.as_ref().map(|identity| &identity.product);
    let text = |text: Option<&'a str>| Cow::Borrowed(text.unwrap_or("unknown"));
    let mode = product.map_or(Mode::Production, |product| product.mode);
    Status {
        product: text(product.map(|product| product.product.as_str())),
        board: text(product.map(|product| product.board.as_str())),
        mode,
        revision: boot.revision.as_ref().map(|revision| RevisionStatus {
            id: revision.id().to_string().into(),
            version: revision.envelope().version.as_str().into(),
        }),
        slot: boot
            .slot
            .map_or(Cow::Borrowed("unknown"), |slot| slot.letter().into()),
        secure_boot: boot.arguments.secure_boot,
        from_memory: boot.from_memory,
        state,
        phase: phase(boot),
        boot_id: boot_id().into(),
        uptime_ms: now_ms,
        trial: trial(boot),
        update: boot
            .control
            .as_ref()
            .map(|control| update_status(control, update)),
        goals_missing: machine
            .missing()
            .map(|missing| MissingGoal {
                container: machine
                    .name(missing.id)
                    .map_or(Cow::Borrowed("unknown"), |name| name.as_str().into()),
                goal: missing.goal,
                reason: missing.reason.to_string().into(),
            })
            .collect(),
        containers: machine.status().map(container).collect(),
        network: network.to_vec(),
        memory: memory(),
        processes: match mode {
            Mode::Development => processes.filter_map(process).collect(),
            Mode::Production => Vec::new(),
        },
    }
}

/// Whether what runs is judged yet.
fn trial(boot: &Boot) -> Trial {
    let control = boot.control.as_ref();
    let trial = control
        .filter(|control| control.running() == Running::Trial)
        .and_then(|control| control.state().trial.as_ref());
    trial.map_or(Trial::Committed, |trial| Trial::Trying {
        tries_left: trial.tries_left,
    })
}

fn update_status<'a>(control: &'a Control, update: &'a Update) -> UpdateStatus<'a> {
    let state = control.state();
    UpdateStatus {
        committed: target(&state.committed),
        trial: state.trial.as_ref().map(|trial| target(&trial.target)),
        failed: state.failed.as_ref().map(|failed| FailureStatus {
            revision: failed.target.revision.to_string().into(),
            parameters: failed.target.parameters,
            reason: failed.reason.to_string().into(),
        }),
        floor: state.floor.to_string().into(),
        unsettled: state.unsettled,
        watchdog_resets: state.watchdog_resets,
        staging: update.phase().map(|phase| StagingStatus {
            phase: phase.into(),
            received: update.received,
        }),
        locks: update
            .locks
            .held()
            .map(|(name, until_ms)| LockStatus {
                container: name.as_str().into(),
                until_ms,
            })
            .collect(),
    }
}

fn target(target: &Target) -> TargetStatus<'static> {
    TargetStatus {
        revision: target.revision.to_string().into(),
        parameters: target.parameters,
        slot: target.slot.letter().into(),
    }
}

/// `running`, or everything that went wrong on the way.
fn phase(boot: &Boot) -> Cow<'_, str> {
    let repair = boot.repair || matches!(boot.decision, Decision::Repair(_));
    if boot.problems.is_empty() && !repair {
        return "running".into();
    }
    let mut text = String::from(if repair { "repair" } else { "running" });
    for (phase, error) in boot.problems.iter().take(16) {
        text.push_str("; ");
        text.push_str(phase);
        text.push_str(": ");
        text.push_str(&error.to_string());
    }
    text.into()
}

pub(super) fn container(status: crate::machine::ContainerStatus<'_>) -> ContainerStatus<'_> {
    let waiting_for = match status.waiting_for {
        None => Vec::new(),
        Some(WaitsFor::Boot) => vec!["the boot".into()],
        Some(WaitsFor::Device) => vec!["a device".into()],
        Some(WaitsFor::Group { container, .. } | WaitsFor::After { container }) => {
            vec![container.as_str().into()]
        }
    };
    ContainerStatus {
        name: status.name.as_str().into(),
        group: status.group.map_or("", |group| group.as_str()).into(),
        state: state(status.state),
        pid: status.pid,
        ready: status.ready,
        restarts: status.restarts,
        last_exit: status.last_exit.and_then(exit),
        since_ms: status.since,
        waiting_for,
    }
}

fn state(state: &State) -> ContainerState {
    match state {
        State::Waiting => ContainerState::Waiting,
        State::Starting { .. } => ContainerState::Starting,
        State::Running(_) => ContainerState::Running,
        State::Stopping { .. } | State::Clearing { .. } => ContainerState::Stopping,
        State::BackingOff { .. } => ContainerState::BackOff,
        State::Finished => ContainerState::Finished,
        State::Failed(_) => ContainerState::Failed,
        State::Stopped => ContainerState::Stopped,
    }
}

fn exit(ending: Ending) -> Option<Exit> {
    match ending {
        Ending::Exit(ExitStatus::Exited(code)) => Some(Exit::Code(code)),
        Ending::Exit(ExitStatus::Signaled { signal, .. }) => Some(Exit::Signal(signal)),
        Ending::OutOfMemory
        | Ending::SpawnFailed { .. }
        | Ending::ExecFailed { .. }
        | Ending::StartTimeout
        | Ending::NotReady
        | Ending::Ill
        | Ending::Stuck => None,
    }
}

/// The kernel's random name of this boot.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim_end().to_owned())
        .unwrap_or_default()
}

/// A value of `/proc/meminfo` or `/proc/PID/smaps_rollup`, bytes.
fn bytes(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines();
    let rest = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kilobytes: u64 = rest.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes.saturating_mul(1024))
}

fn process((name, pid): (&'static str, u32)) -> Option<ProcessStatus<'static>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    Some(ProcessStatus {
        name: name.into(),
        pid,
        pss: bytes(&text, "Pss")?,
        anonymous: bytes(&text, "Pss_Anon").unwrap_or(0),
        confinement: confinement(pid).into(),
    })
}

/// What the kernel says that a process may do.
fn confinement(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mut text = String::new();
    for line in status.lines() {
        let mut words = line.split_whitespace();
        if let Some(key @ ("Uid:" | "CapPrm:" | "NoNewPrivs:" | "Seccomp:")) = words.next() {
            text.push_str(key);
            text.push_str(words.next().unwrap_or_default());
            text.push(' ');
        }
    }
    if let Ok(root) = std::fs::read_link(format!("/proc/{pid}/root")) {
        text.push_str("Root:");
        text.push_str(&root.to_string_lossy());
    }
    text
}

fn memory() -> Memory {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Memory {
        total: bytes(&meminfo, "MemTotal").unwrap_or(0),
        available: bytes(&meminfo, "MemAvailable").unwrap_or(0),
    }
}
