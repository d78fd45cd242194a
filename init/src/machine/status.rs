//! What the machine says of itself: states, goals, and who waits for whom. Types; words are made by
//! `Display`, where a person reads.

use super::event::{Ending, Id};
use super::state::{Pressure, State};
use super::unit::Unit;
use super::{Machine, Mode};
use core::fmt;
use kedge_revision::Name;
use kedge_revision::container::Goal;

/// How long what was killed may take to end, milliseconds. A process in an uninterruptible sleep ends when that does: drivers give up a
/// command after minutes, with their repetitions, and what may wait to be written (`boot/dirty.rs`) takes up to nine at the least rate
/// that a container can be held to. What then still stands will not end.
pub const STUCK_AFTER: u64 = 600_000;

/// One container, now.
#[derive(Debug, Clone, Copy)]
pub struct ContainerStatus<'a> {
    /// Which.
    pub id: Id,
    /// Its name.
    pub name: &'a Name,
    /// Its group's name.
    pub group: Option<&'a Name>,
    /// Where it stands; [`State::word`] is the word for it.
    pub state: &'a State,
    /// When that began, milliseconds since boot.
    pub since: u64,
    /// Its main process.
    pub pid: Option<u32>,
    /// Whether it is ready.
    pub ready: bool,
    /// What it is to reach.
    pub goal: Goal,
    /// Whether that holds.
    pub goal_met: bool,
    /// Automatic restarts since boot.
    pub restarts: u32,
    /// How its newest run that ended did so.
    pub last_exit: Option<Ending>,
    /// What it waits for, if it waits for its turn.
    pub waiting_for: Option<WaitsFor<'a>>,
}

impl ContainerStatus<'_> {
    /// Whether even a kill has not ended it. A shutdown waits for less: then it is so once that has gone on without it.
    #[must_use]
    pub const fn is_stuck(&self, now: u64) -> bool {
        let killed = if let State::Stopping {
            pressure: Pressure::Killed { at },
            ..
        } = self.state
        {
            *at
        } else if let State::Clearing { .. } = self.state {
            self.since
        } else {
            return matches!(self.state, State::Failed(Ending::Stuck));
        };
        now.saturating_sub(killed) >= STUCK_AFTER
    }
}

/// What a container waits for before its first start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsFor<'a> {
    /// The boot is not through.
    Boot,
    /// An earlier group, in which this container has not met its goal.
    Group {
        /// The earlier group.
        group: &'a Name,
        /// Its first container that lacks its goal.
        container: &'a Name,
    },
    /// A device that it requires.
    Device,
    /// A container of its own group that it comes after.
    After {
        /// That container.
        container: &'a Name,
    },
}

/// A goal that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoalMissed {
    /// The container.
    pub id: Id,
    /// What it is to reach.
    pub goal: Goal,
    /// Why it has not.
    pub reason: Missed,
    /// How its newest run that ended did so.
    pub last_exit: Option<Ending>,
}

/// Why a goal does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// Its turn has not come.
    Waiting,
    /// A device that it requires is not there.
    NoDevice,
    /// Its program does not run yet.
    Starting,
    /// It runs and is not ready.
    NotReady,
    /// It runs and has not finished.
    Unfinished,
    /// It is ending.
    Stopping,
    /// It ended and starts again.
    BackingOff {
        /// The restart's number in this row of failures, from 1.
        attempt: u32,
    },
    /// It ended well where it should have stayed.
    Ended,
    /// It is down for good.
    Failed(Ending),
    /// The operator stopped it.
    Stopped,
}

impl Machine {
    /// Whether every container has met its goal and holds it.
    #[must_use]
    pub fn goals_met(&self) -> bool {
        self.units.iter().all(Unit::goal_met)
    }

    /// The time (milliseconds since boot) since which all goals have held without a break.
    #[must_use]
    pub const fn settled_since(&self) -> Option<u64> {
        self.settled
    }

    /// Every goal that does not hold, with the reason.
    pub fn missing(&self) -> impl Iterator<Item = GoalMissed> + '_ {
        self.units.iter().filter_map(|unit| {
            Some(GoalMissed {
                id: unit.id,
                goal: unit.rule.goal,
                reason: unit.missed()?,
                last_exit: unit.last,
            })
        })
    }

    /// Every container, by name.
    pub fn status(&self) -> impl Iterator<Item = ContainerStatus<'_>> {
        self.units.iter().map(|unit| self.unit_status(unit))
    }

    /// One container.
    #[must_use]
    pub fn status_of(&self, id: Id) -> Option<ContainerStatus<'_>> {
        self.unit(id).map(|unit| self.unit_status(unit))
    }

    /// The groups in order, and whether each may start.
    pub fn groups(&self) -> impl Iterator<Item = (&Name, bool)> {
        let open = |(index, name)| (name, index < self.open);
        self.groups.iter().enumerate().map(open)
    }

    fn unit_status<'a>(&'a self, unit: &'a Unit) -> ContainerStatus<'a> {
        ContainerStatus {
            id: unit.id,
            name: &unit.rule.name,
            group: self.groups.get(unit.rule.group),
            state: &unit.state,
            since: unit.since,
            pid: unit.pid,
            ready: matches!(unit.state, State::Running(run) if run.ready),
            goal: unit.rule.goal,
            goal_met: unit.goal_met(),
            restarts: unit.restarts,
            last_exit: unit.last,
            waiting_for: self.waits_for(unit),
        }
    }

    fn waits_for<'a>(&'a self, unit: &'a Unit) -> Option<WaitsFor<'a>> {
        if unit.state != State::Waiting {
            return None;
        }
        if self.mode == Mode::Resting {
            return Some(WaitsFor::Boot);
        }
        if unit.admitted {
            return unit.lacks.then_some(WaitsFor::Device);
        }
        if unit.rule.group < self.open {
            if self.unmet_dependency(unit).is_none() && unit.lacks {
                return Some(WaitsFor::Device);
            }
            let other = self.unmet_dependency(unit)?;
            let container = &other.rule.name;
            return Some(WaitsFor::After { container });
        }
        let other = self
            .units
            .iter()
            .filter(|other| other.rule.group < self.open && !other.goal_met())
            .min_by_key(|other| other.rule.group)?;
        Some(WaitsFor::Group {
            group: self.groups.get(other.rule.group)?,
            container: &other.rule.name,
        })
    }
}

impl Unit {
    pub(super) fn goal_met(&self) -> bool {
        self.missed().is_none()
    }

    /// Why its goal does not hold; `None` if it does. A container that was only to start and has
    /// ended well holds it still.
    fn missed(&self) -> Option<Missed> {
        match (self.state, self.rule.goal) {
            (State::Running(_), Goal::Started)
            | (State::Running(super::Run { ready: true, .. }), Goal::Ready)
            | (State::Finished, Goal::Started | Goal::Finished) => None,
            (State::Running(_), Goal::Ready) => Some(Missed::NotReady),
            (State::Running(_), Goal::Finished) => Some(Missed::Unfinished),
            (State::Finished, Goal::Ready) => Some(Missed::Ended),
            (State::Waiting, _) if self.lacks => Some(Missed::NoDevice),
            (State::Waiting, _) => Some(Missed::Waiting),
            (State::Starting { .. }, _) => Some(Missed::Starting),
            (State::Stopping { .. } | State::Clearing { .. }, _) => Some(Missed::Stopping),
            (State::BackingOff { attempt, .. }, _) => Some(Missed::BackingOff { attempt }),
            (State::Failed(ending), _) => Some(Missed::Failed(ending)),
            (State::Stopped, _) => Some(Missed::Stopped),
        }
    }
}

impl fmt::Display for WaitsFor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boot => f.write_str("the boot"),
            Self::Device => f.write_str("a device"),
            Self::Group { group, container } => write!(f, "group {group}: {container}"),
            Self::After { container } => write!(f, "{container}"),
        }
    }
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("waiting for its turn"),
            Self::NoDevice => f.write_str("waiting for a device"),
            Self::Starting => f.write_str("starting"),
            Self::NotReady => f.write_str("not ready"),
            Self::Unfinished => f.write_str("not finished"),
            Self::Stopping => f.write_str("stopping"),
            Self::BackingOff { attempt } => write!(f, "waiting for restart {attempt}"),
            Self::Ended => f.write_str("ended"),
            Self::Failed(ending) => write!(f, "failed: {ending}"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}
