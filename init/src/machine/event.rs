//! What goes into the machine and what comes out of it.

use core::fmt;
use kedge_sys::process::ExitStatus;

/// A container, for as long as one of its name is there: an exchange gives the same name the same id, and a new name
/// the lowest that is free. Always less than the most containers that a revision may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(pub(super) u16);

impl Id {
    /// The id as an index, for tables beside the machine's.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// How a shutdown ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// The device starts again.
    Reboot,
    /// The device goes off.
    PowerOff,
}

/// What an operator asks of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Run, with fresh retries; if it waits for its turn it goes on waiting.
    Start,
    /// Do not run, until told otherwise or the device boots again.
    Stop,
    /// End and run again, with fresh retries.
    Restart,
}

/// What came of a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// The container is well.
    Passed,
    /// It is not.
    Failed,
    /// The check could not be made: nothing is known of the container.
    Unknown,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The boot is through its phases: the first group may start.
    Begin,
    /// Time has passed.
    Tick,
    /// The device shall go down. The first one counts.
    Shutdown(Halt),
    /// A spawn succeeded: the process exists, its program does not run yet.
    Started {
        /// The container.
        id: Id,
        /// Its process, as the device's pid namespace numbers it.
        pid: u32,
    },
    /// A spawn failed and left no process.
    SpawnFailed {
        /// The container.
        id: Id,
        /// errno(3).
        errno: i32,
    },
    /// The program runs: the exec pipe closed without an error.
    Executed(Id),
    /// The child reported an error before its program ran; it ends by itself.
    ExecFailed {
        /// The container.
        id: Id,
        /// What it was doing, in the engine's words.
        stage: &'static str,
        /// errno(3).
        errno: i32,
    },
    /// The main process ended and was reaped.
    Exited {
        /// The container.
        id: Id,
        /// How.
        status: ExitStatus,
    },
    /// The answer to [`Action::KillCgroup`]: no process is in the cgroup.
    CgroupEmpty(Id),
    /// The kernel killed for want of memory in its cgroup (`memory.events`, `oom_kill`).
    Oom(Id),
    /// `READY=1` (`sd_notify(3)`).
    NotifyReady(Id),
    /// `WATCHDOG=1`.
    NotifyWatchdog(Id),
    /// `STOPPING=1`.
    NotifyStopping(Id),
    /// A health check ended.
    CheckDone {
        /// The container.
        id: Id,
        /// As [`Action::RunCheck`] had it; an answer to an older one is ignored.
        token: u32,
        /// What came of it.
        checked: Checked,
    },
    /// What is known of the devices that it requires.
    Devices {
        /// The container.
        id: Id,
        /// Whether one of them is not there. One that runs goes on, and waits before its next start.
        lacks: bool,
    },
    /// An operator's command.
    Command {
        /// The container.
        id: Id,
        /// What is asked.
        command: Command,
    },
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start its process in its (empty) cgroup.
    Spawn(Id),
    /// Send a signal to its main process.
    Signal {
        /// The container.
        id: Id,
        /// signal(7).
        signal: u8,
    },
    /// Write `cgroup.kill`, and answer with [`Event::CgroupEmpty`] when the cgroup is empty, or already is.
    KillCgroup(Id),
    /// Run its health check; at most one runs.
    RunCheck {
        /// The container.
        id: Id,
        /// To be given back with [`Event::CheckDone`].
        token: u32,
        /// After this the machine itself counts it as failed and asks for its kill, milliseconds.
        timeout: u32,
    },
    /// End the check that runs (kill its command, close its connection). No answer is due.
    KillCheck {
        /// The container.
        id: Id,
        /// Which check.
        token: u32,
    },
    /// Its state has changed: journal and listeners want to know.
    Changed(Id),
    /// It is down for good and asks for a roll back: on trial the verdict is bad, otherwise nothing follows.
    RollBack {
        /// The container.
        id: Id,
        /// What it ended with.
        ending: Ending,
    },
    /// It is down for good and asks for a reboot; the driver bounds how often that is granted.
    Reboot {
        /// The container.
        id: Id,
        /// What it ended with.
        ending: Ending,
    },
    /// A shutdown is through: every container is down, or could not be killed. Comes once.
    AllDown(Halt),
}

/// How a run of a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its main process ended.
    Exit(ExitStatus),
    /// The kernel killed it for want of memory.
    OutOfMemory,
    /// No process could be made.
    SpawnFailed {
        /// errno(3).
        errno: i32,
    },
    /// Its program could not be run.
    ExecFailed {
        /// What the child was doing, in the engine's words.
        stage: &'static str,
        /// errno(3).
        errno: i32,
    },
    /// Its program did not run within the time for it.
    StartTimeout,
    /// It was not ready in time.
    NotReady,
    /// Its health checks failed, or its watchdog message stayed away.
    Ill,
    /// Killed, and still there: an uninterruptible sleep. Only a shutdown gives up like this.
    Stuck,
}

impl Ending {
    /// Whether it is no failure: exit status 0.
    #[must_use]
    pub fn success(self) -> bool {
        matches!(self, Self::Exit(status) if status.success())
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exit(ExitStatus::Exited(code)) => write!(f, "exit status {code}"),
            Self::Exit(ExitStatus::Signaled { signal, .. }) => write!(f, "signal {signal}"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::SpawnFailed { errno } => write!(f, "no process: error {errno}"),
            Self::ExecFailed { stage, errno } => write!(f, "{stage}: error {errno}"),
            Self::StartTimeout => f.write_str("did not start in time"),
            Self::NotReady => f.write_str("not ready in time"),
            Self::Ill => f.write_str("health check failed"),
            Self::Stuck => f.write_str("cannot be killed"),
        }
    }
}
