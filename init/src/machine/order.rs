//! Who may start and who must stop, and when: groups and `after`, forwards and backwards.

use super::event::{Action, Halt};
use super::state::{After, Pressure, State};
use super::unit::Unit;
use super::{Context, Machine, Mode, SHUTDOWN_LIMIT};

impl Machine {
    /// Does what is due everywhere.
    pub(super) fn tick(&mut self, now: u64, actions: &mut Vec<Action>) {
        let halting = self.halting().is_some();
        let mut cx = Context {
            now,
            halting,
            actions,
        };
        for unit in &mut self.units {
            unit.tick(&mut cx);
        }
        if self.limit.take_if(|at| *at <= now).is_some() {
            let left = |unit: &&mut Unit| (halting || unit.retiring) && killable(unit);
            for unit in self.units.iter_mut().filter(left) {
                unit.kill(&mut cx, Some(After::Stop));
            }
        }
    }

    /// Begins a shutdown.
    pub(super) fn shut_down(&mut self, now: u64, halt: Halt, actions: &mut Vec<Action>) {
        if self.halting().is_some() {
            return;
        }
        self.mode = Mode::Halting(halt);
        self.limit = Some(now.saturating_add(SHUTDOWN_LIMIT));
        let mut cx = Context {
            now,
            halting: true,
            actions,
        };
        for unit in &mut self.units {
            unit.halt(&mut cx);
        }
    }

    /// What follows for the others from what just happened to one.
    pub(super) fn proceed(&mut self, now: u64, actions: &mut Vec<Action>) {
        match self.mode {
            Mode::Resting | Mode::Down(_) => {}
            Mode::Up => {
                self.stop_next(now, actions);
                if self.retired() {
                    self.limit = None;
                }
                self.release(now, actions);
                self.settled = if self.goals_met() {
                    self.settled.or(Some(now))
                } else {
                    None
                };
            }
            Mode::Halting(halt) => {
                self.settled = None;
                self.stop_next(now, actions);
                if !self.units.iter().any(Unit::live) {
                    self.mode = Mode::Down(halt);
                    self.limit = None;
                    actions.push(Action::AllDown(halt));
                }
            }
        }
    }

    /// Opens groups whose predecessors have all met their goals, and starts whose turn it is. No
    /// loop over both: a start meets no goal by itself.
    fn release(&mut self, now: u64, actions: &mut Vec<Action>) {
        while self.open < self.groups.len()
            && self
                .units
                .iter()
                .filter(|unit| unit.rule.group < self.open)
                .all(Unit::goal_met)
        {
            self.open = self.open.saturating_add(1);
        }
        for index in 0..self.units.len() {
            let due = self.units.get(index).is_some_and(|unit| {
                let has_turn = unit.admitted
                    || unit.rule.group < self.open && self.unmet_dependency(unit).is_none();
                unit.state == State::Waiting && has_turn && !unit.lacks
            });
            if let (true, Some(unit)) = (due, self.units.get_mut(index)) {
                unit.start(&mut Context {
                    now,
                    halting: false,
                    actions,
                });
            }
        }
    }

    /// The first container that this one comes after and whose goal is not met.
    pub(super) fn unmet_dependency(&self, unit: &Unit) -> Option<&Unit> {
        unit.rule
            .after
            .iter()
            .filter_map(|id| self.unit(*id))
            .find(|other| !other.goal_met())
    }

    /// Of those that are to be down, asks those of the last group that still runs to end, each once all that come
    /// after it are down. Those that are not do not count: they go on without what they once waited for.
    fn stop_next(&mut self, now: u64, actions: &mut Vec<Action>) {
        let halting = self.halting().is_some();
        let ends = |unit: &Unit| unit.live() && (halting || unit.retiring);
        let live = self.units.iter().filter(|unit| ends(unit));
        let Some(group) = live.map(|unit| unit.rule.group).max() else {
            return;
        };
        for index in 0..self.units.len() {
            let due = self.units.get(index).is_some_and(|unit| {
                let needed = |other: &Unit| ends(other) && other.rule.after.contains(&unit.id);
                ends(unit)
                    && unit.rule.group == group
                    && matches!(unit.state, State::Starting { .. } | State::Running(_))
                    && !self.units.iter().any(needed)
            });
            if let (true, Some(unit)) = (due, self.units.get_mut(index)) {
                let mut cx = Context {
                    now,
                    halting,
                    actions,
                };
                unit.stop(&mut cx, After::Stop);
            }
        }
    }
}

/// Whether its cgroup has not been killed yet.
const fn killable(unit: &Unit) -> bool {
    match unit.state {
        State::Starting { .. } | State::Running(_) => true,
        State::Stopping { pressure, .. } => matches!(pressure, Pressure::Asked { .. }),
        State::Waiting
        | State::Clearing { .. }
        | State::BackingOff { .. }
        | State::Finished
        | State::Failed(_)
        | State::Stopped => false,
    }
}
