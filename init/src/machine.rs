//! The supervisor: groups, containers, goals, restarts, health and shutdown, decided and not done.
//!
//! Pure: [`Machine::step`] takes the time and an [`Event`] and answers with [`Action`]s. It does no
//! I/O and has no clock; time is milliseconds since boot, and never goes back. One driver performs
//! the actions and reports what came of them. What the machine does not do: it starts nothing
//! itself, judges no revision (it says which goals hold, and since when) and knows no file.
//!
//! A container:
//!
//! ```text
//!             its turn                exec seen               ready: it says so, or its check passes
//!  Waiting ─────────────▶ Starting ─────────────▶ Running
//!                          ▲  ▲ │                  │ │
//!                          │  │ │ exec failed,     │ │ operator, shutdown, ill, not ready in time,
//!                          │  │ │ too slow,        │ │ or it says that it stops
//!                          │  │ │ operator         │ ▼
//!                          │  │ └────────────────▶ │ Stopping: asked by signal, at its deadline
//!                          │  │                    │ │         (at once before its exec) killed
//!                          │  │     main process   │ │
//!                          │  │     gone           ▼ ▼
//!                          │  └────────────────── Clearing: cgroup killed, not known to be empty
//!                    due   │   operator's restart  │
//!                          │                       │ empty; or no process could be made
//!  BackingOff ─────────────┘                       ▼
//!      ▲            restart policy ┌───────────┬───┴──────┬───────────┐
//!      └───────────────────────────┘           ▼          ▼           ▼
//!                                           Finished    Failed      Stopped
//!                                        (ended well) (for good) (by the operator, or a shutdown)
//! ```
//!
//! From the lowest row an operator's start leads to Starting, or back to Waiting if the container's
//! turn never came.
//!
//! Rules that the tests hold: never two runs of one container; no start before its cgroup is empty;
//! groups never overtake; an operator's stop sticks; every stop ends in a kill by its deadline;
//! nothing starts after a shutdown, and a shutdown ends by itself.
//!
//! Once its turn has come, a container never waits for others again: order is for starting up, and
//! a restart must not leave a container down because another one is ill.
//!
//! A container that requires a device is not started while that is absent: it waits, at each of its starts, also after its
//! turn. One that runs goes on when the device leaves.
//!
//! Some containers can be exchanged while the others go on: [`Machine::retire`], then [`Machine::exchange`]; what
//! that asks of the driver stands at [`Machine::exchange`].
//!
//! What the driver owes (the machine survives a driver that does not, but may then wait for ever):
//! - Every [`Action::Spawn`] is answered with [`Event::Started`] or [`Event::SpawnFailed`]; after the latter no
//!   process is left. A started process is followed by one [`Event::Exited`] and, before it, by
//!   [`Event::Executed`] or [`Event::ExecFailed`] if the exec pipe says so (drain it first).
//! - Every [`Action::KillCgroup`] is answered with [`Event::CgroupEmpty`] once the cgroup is empty, also if it
//!   already was. An answer that comes while the main process is not reaped yet is ignored; another kill follows.
//! - [`Event::Tick`] when [`Machine::next_deadline`] is due.

mod due;
mod event;
mod exchange;
mod health;
mod order;
mod rule;
mod state;
mod status;
mod unit;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod properties;
#[cfg(test)]
pub(crate) mod random;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod world;

pub use event::{Action, Checked, Command, Ending, Event, Halt, Id};
pub use exchange::{Exchanged, Refused};
pub use health::Watch;
pub use state::{After, Pressure, Run, State};
pub use status::{ContainerStatus, GoalMissed, Missed, STUCK_AFTER, WaitsFor};

use kedge_revision::{Content, Name};
use unit::Unit;

/// Longest grace of one container in a shutdown or when it is retired, milliseconds.
pub const SHUTDOWN_GRACE: u64 = 30_000;
/// Milliseconds from the beginning of a shutdown or a retirement to the kill of all of it that is left.
pub const SHUTDOWN_LIMIT: u64 = 90_000;
/// How long a shutdown waits for what was killed before it goes on without it, milliseconds. A
/// process in an uninterruptible sleep (a dying disk) cannot be killed, and must not keep the device up.
pub const KILL_WAIT: u64 = 5_000;

/// What the device as a whole is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Nothing has been let go yet.
    Resting,
    /// Containers run.
    Up,
    /// Containers are being stopped.
    Halting(Halt),
    /// All are down.
    Down(Halt),
}

/// What every decision about a container needs beside the container.
struct Context<'a> {
    now: u64,
    halting: bool,
    actions: &'a mut Vec<Action>,
}

/// The supervisor of one revision's containers.
#[derive(Debug)]
pub struct Machine {
    mode: Mode,
    groups: Vec<Name>,
    /// By name.
    units: Vec<Unit>,
    /// How many groups may start; only grows, until an exchange.
    open: usize,
    settled: Option<u64>,
    /// When all that is to be down is killed.
    limit: Option<u64>,
}

impl Machine {
    /// For the containers of a revision, all at rest until [`Event::Begin`]. An [`Id`] is the
    /// index of a container among the sorted names, until an exchange.
    #[must_use]
    pub fn new(content: &Content) -> Self {
        let mut machine = Self::empty();
        machine.replace(content);
        machine
    }

    /// For a device that runs nothing: repair mode.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            mode: Mode::Resting,
            groups: Vec::new(),
            units: Vec::new(),
            open: 0,
            settled: None,
            limit: None,
        }
    }

    /// The container of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Id> {
        self.units
            .iter()
            .find(|unit| unit.rule.name.as_str() == name)
            .map(|unit| unit.id)
    }

    /// The name of a container.
    #[must_use]
    pub fn name(&self, id: Id) -> Option<&Name> {
        self.unit(id).map(|unit| &unit.rule.name)
    }

    /// Whether a shutdown has begun, and what it ends in. Commands are then ignored.
    #[must_use]
    pub const fn halting(&self) -> Option<Halt> {
        match self.mode {
            Mode::Resting | Mode::Up => None,
            Mode::Halting(halt) | Mode::Down(halt) => Some(halt),
        }
    }

    /// Decides what follows from an event at `now` (milliseconds since boot); appends to `actions`,
    /// which are to be performed in order. Events about containers that do not exist, or that do
    /// not fit the container's state, change nothing.
    pub fn step(&mut self, now: u64, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Begin => {
                if self.mode == Mode::Resting {
                    self.mode = Mode::Up;
                }
            }
            Event::Tick => self.tick(now, actions),
            Event::Shutdown(halt) => self.shut_down(now, halt, actions),
            Event::Started { id, pid } => {
                self.with(now, id, actions, |unit, cx| unit.started(cx, pid));
            }
            Event::SpawnFailed { id, errno } => {
                self.with(now, id, actions, |unit, cx| unit.spawn_failed(cx, errno));
            }
            Event::Executed(id) => self.with(now, id, actions, Unit::executed),
            Event::ExecFailed { id, stage, errno } => {
                let ending = Ending::ExecFailed { stage, errno };
                self.with(now, id, actions, |unit, cx| unit.exec_failed(cx, ending));
            }
            Event::Exited { id, status } => {
                self.with(now, id, actions, |unit, cx| unit.exited(cx, status));
            }
            Event::CgroupEmpty(id) => self.with(now, id, actions, Unit::cgroup_empty),
            Event::Oom(id) => self.with(now, id, actions, |unit, _| unit.out_of_memory()),
            Event::NotifyReady(id) => self.with(now, id, actions, Unit::notify_ready),
            Event::NotifyWatchdog(id) => self.with(now, id, actions, Unit::notify_watchdog),
            Event::NotifyStopping(id) => self.with(now, id, actions, Unit::notify_stopping),
            Event::CheckDone { id, token, checked } => {
                self.with(now, id, actions, |unit, cx| {
                    unit.check_done(cx, token, checked);
                });
            }
            Event::Devices { id, lacks } => {
                self.with(now, id, actions, |unit, _| unit.lacks = lacks);
            }
            Event::Command { id, command } => {
                self.with(now, id, actions, |unit, cx| unit.command(cx, command));
            }
        }
        self.proceed(now, actions);
    }

    /// When [`Event::Tick`] is next due, milliseconds since boot; `None` if nothing waits for time.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let halting = matches!(self.mode, Mode::Halting(_));
        self.units
            .iter()
            .filter_map(|unit| unit.deadline(halting))
            .chain(self.limit)
            .min()
    }

    fn unit(&self, id: Id) -> Option<&Unit> {
        self.units.iter().find(|unit| unit.id == id)
    }

    fn with(
        &mut self,
        now: u64,
        id: Id,
        actions: &mut Vec<Action>,
        change: impl FnOnce(&mut Unit, &mut Context<'_>),
    ) {
        let halting = self.halting().is_some();
        if let Some(unit) = self.units.iter_mut().find(|unit| unit.id == id) {
            change(
                unit,
                &mut Context {
                    now,
                    halting,
                    actions,
                },
            );
        }
    }
}
