//! What a container does when time has passed, and what a shutdown or its retirement does to its times.

use super::event::{Action, Checked, Ending};
use super::health::Watch;
use super::state::{After, Pressure, Run, State};
use super::unit::Unit;
use super::{Context, KILL_WAIT, SHUTDOWN_GRACE};

/// Milliseconds from a spawn to the exec of its program. Mounts and id maps take a few; the rest
/// is for a slow disk.
const START_LIMIT: u64 = 30_000;

impl Unit {
    /// When [`Unit::tick`] has something to do.
    pub(super) fn deadline(&self, halting: bool) -> Option<u64> {
        match self.state {
            State::Starting { .. } => Some(self.since.saturating_add(START_LIMIT)),
            State::Running(run) => run.ready_by.into_iter().chain(run.watch.deadline()).min(),
            State::Stopping {
                pressure: Pressure::Asked { kill_at },
                ..
            } => Some(kill_at),
            State::Stopping {
                pressure: Pressure::Killed { at },
                ..
            } => halting.then(|| at.saturating_add(KILL_WAIT)),
            State::Clearing { .. } => halting.then(|| self.since.saturating_add(KILL_WAIT)),
            State::BackingOff { until, .. } => Some(until),
            State::Waiting | State::Finished | State::Failed(_) | State::Stopped => None,
        }
    }

    /// Does what is due. Whatever it begins ends later than now.
    pub(super) fn tick(&mut self, cx: &mut Context<'_>) {
        if self.deadline(cx.halting).is_none_or(|at| at > cx.now) {
            return;
        }
        match self.state {
            State::Starting { .. } => self.kill(cx, Some(After::Ended(Ending::StartTimeout))),
            State::Running(run) => self.tick_run(cx, run),
            State::Stopping {
                pressure: Pressure::Asked { .. },
                ..
            } => self.kill(cx, None),
            State::Stopping { .. } | State::Clearing { .. } => {
                self.pid = None;
                self.last = Some(Ending::Stuck);
                self.set(cx, State::Failed(Ending::Stuck));
            }
            State::BackingOff { .. } => {
                self.restarts = self.restarts.saturating_add(1);
                self.start(cx);
            }
            State::Waiting | State::Finished | State::Failed(_) | State::Stopped => {}
        }
    }

    fn tick_run(&mut self, cx: &mut Context<'_>, run: Run) {
        if run.ready_by.is_some_and(|by| by <= cx.now) {
            self.stop(cx, After::Ended(Ending::NotReady));
            return;
        }
        let id = self.id;
        match run.watch {
            Watch::Off => {}
            Watch::Sign { .. } => self.stop(cx, After::Ended(Ending::Ill)),
            Watch::Busy { token, .. } => {
                cx.actions.push(Action::KillCheck { id, token });
                self.check_done(cx, token, Checked::Failed);
            }
            Watch::Due { pause, .. } => {
                let Some(health) = &self.rule.health else {
                    return;
                };
                let timeout = health.timeout;
                self.token = self.token.wrapping_add(1);
                let token = self.token;
                let until = cx.now.saturating_add(u64::from(timeout));
                let watch = Watch::Busy {
                    token,
                    until,
                    pause,
                };
                self.state = State::Running(Run { watch, ..run });
                cx.actions.push(Action::RunCheck { id, token, timeout });
            }
        }
    }

    /// A shutdown begins: what does not run never will, what runs is no longer watched, what is
    /// ending gets no more time than a shutdown has.
    pub(super) fn halt(&mut self, cx: &mut Context<'_>) {
        let most = cx.now.saturating_add(SHUTDOWN_GRACE);
        match &mut self.state {
            State::Waiting | State::BackingOff { .. } => self.set(cx, State::Stopped),
            State::Running(run) => {
                let watch = run.watch;
                run.watch = Watch::Off;
                run.ready_by = None;
                if let Watch::Busy { token, .. } = watch {
                    let id = self.id;
                    cx.actions.push(Action::KillCheck { id, token });
                }
            }
            State::Stopping {
                pressure: Pressure::Asked { kill_at },
                ..
            } => *kill_at = most.min(*kill_at),
            // What was killed long ago gets its wait from now: the deadline must not lie behind.
            State::Stopping {
                pressure: Pressure::Killed { at },
                ..
            } => *at = cx.now,
            State::Clearing { .. } => self.since = cx.now,
            State::Starting { .. } | State::Finished | State::Failed(_) | State::Stopped => {}
        }
    }

    /// It makes place for another: what does not run never will, what is ending gets no more time than in a shutdown.
    pub(super) fn retire(&mut self, cx: &mut Context<'_>) {
        if core::mem::replace(&mut self.retiring, true) {
            return;
        }
        let most = cx.now.saturating_add(SHUTDOWN_GRACE);
        match &mut self.state {
            State::Waiting | State::BackingOff { .. } | State::Finished | State::Failed(_) => {
                self.set(cx, State::Stopped);
            }
            State::Stopping {
                pressure: Pressure::Asked { kill_at },
                ..
            } => *kill_at = most.min(*kill_at),
            State::Starting { .. }
            | State::Running(_)
            | State::Stopping { .. }
            | State::Clearing { .. }
            | State::Stopped => {}
        }
    }
}
