//! Where a container stands: the states of the diagram in the parent module, with their data.

use super::event::Ending;
use super::health::Watch;

/// Where a container stands. Times are milliseconds since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// For its group's or its own turn.
    Waiting,
    /// A process is asked for or made; its program does not run yet.
    Starting {
        /// It said that it is ready before its exec was seen.
        ready: bool,
    },
    /// Its program runs.
    Running(Run),
    /// It shall end.
    Stopping {
        /// What follows; `None`: what its restart policy says of its own exit.
        then: Option<After>,
        /// What was done to it so far.
        pressure: Pressure,
    },
    /// Its main process is gone, its cgroup is killed and not yet known to be empty.
    Clearing {
        /// What follows.
        then: After,
    },
    /// It ended and starts again later.
    BackingOff {
        /// When.
        until: u64,
        /// The restart's number in this row of failures, from 1.
        attempt: u32,
    },
    /// It ended well and is not started again.
    Finished,
    /// It is down for good.
    Failed(Ending),
    /// The operator (or a shutdown) stopped it.
    Stopped,
}

/// A run of a container's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// It said so, or its check passed.
    pub ready: bool,
    /// When it is ill if it is not ready by then.
    pub ready_by: Option<u64>,
    /// What its health waits for.
    pub watch: Watch,
    /// Checks that failed in a row since it was ready.
    pub failures: u32,
}

/// What was done to a container that shall end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    /// It was asked, or says itself that it ends; its cgroup is killed at this time.
    Asked {
        /// When.
        kill_at: u64,
    },
    /// Its cgroup was killed.
    Killed {
        /// When.
        at: u64,
    },
}

/// What follows once a container's cgroup is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// What its restart policy says of this ending.
    Ended(Ending),
    /// A start.
    Restart,
    /// Nothing.
    Stop,
}

impl State {
    /// One word for it, for status and journal.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting { .. } => "starting",
            Self::Running(_) => "running",
            Self::Stopping { .. } | Self::Clearing { .. } => "stopping",
            Self::BackingOff { .. } => "backing-off",
            Self::Finished => "finished",
            Self::Failed(_) => "failed",
            Self::Stopped => "stopped",
        }
    }
}
