//! One container's machine; the diagram is in the parent module.

use super::event::{Action, Checked, Command, Ending, Id};
use super::health::Watch;
use super::rule::Rule;
use super::state::{After, Pressure, Run, State};
use super::{Context, SHUTDOWN_GRACE};
use kedge_revision::container::{RestartPolicy, Then};
use kedge_sys::process::ExitStatus;

/// The signal that the kernel's out-of-memory killer sends: SIGKILL.
const KILL: i32 = 9;

/// A container, its rules and what became of it.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) id: Id,
    pub(super) rule: Rule,
    pub(super) state: State,
    /// When the state began.
    pub(super) since: u64,
    pub(super) pid: Option<u32>,
    /// Automatic restarts since boot.
    pub(super) restarts: u32,
    pub(super) last: Option<Ending>,
    /// Its turn had come: it never waits for others again.
    pub(super) admitted: bool,
    /// A device that it requires is not there, or nobody has looked yet.
    pub(super) lacks: bool,
    /// Restarts in this row of failures.
    attempt: u32,
    /// The newest check's number.
    pub(super) token: u32,
    /// The kernel killed in its cgroup during this run.
    oom: bool,
    /// It goes down for good, and makes place for another.
    pub(super) retiring: bool,
}

impl Unit {
    pub(super) fn new(id: Id, rule: Rule) -> Self {
        Self {
            id,
            lacks: rule.devices,
            rule,
            state: State::Waiting,
            since: 0,
            pid: None,
            restarts: 0,
            last: None,
            admitted: false,
            attempt: 0,
            token: 0,
            oom: false,
            retiring: false,
        }
    }

    /// Whether a process may be there.
    pub(super) const fn live(&self) -> bool {
        match self.state {
            State::Starting { .. }
            | State::Running(_)
            | State::Stopping { .. }
            | State::Clearing { .. } => true,
            State::Waiting
            | State::BackingOff { .. }
            | State::Finished
            | State::Failed(_)
            | State::Stopped => false,
        }
    }

    pub(super) fn set(&mut self, cx: &mut Context<'_>, state: State) {
        self.state = state;
        self.since = cx.now;
        cx.actions.push(Action::Changed(self.id));
    }

    /// Starts it; its turn has come. Without a device that it requires it waits for that.
    pub(super) fn start(&mut self, cx: &mut Context<'_>) {
        self.admitted = true;
        if self.lacks {
            self.set(cx, State::Waiting);
            return;
        }
        self.oom = false;
        self.pid = None;
        self.set(cx, State::Starting { ready: false });
        cx.actions.push(Action::Spawn(self.id));
    }

    pub(super) fn started(&mut self, cx: &mut Context<'_>, pid: u32) {
        match self.state {
            State::Starting { .. } | State::Running(_) => self.pid = Some(pid),
            State::Stopping { pressure, .. } => {
                self.pid = Some(pid);
                if let Pressure::Killed { .. } = pressure {
                    // The kill came before there was a process.
                    cx.actions.push(Action::KillCgroup(self.id));
                }
            }
            State::Waiting
            | State::Clearing { .. }
            | State::BackingOff { .. }
            | State::Finished
            | State::Failed(_)
            | State::Stopped => {}
        }
    }

    pub(super) fn spawn_failed(&mut self, cx: &mut Context<'_>, errno: i32) {
        if self.pid.is_some() {
            return;
        }
        let ending = Ending::SpawnFailed { errno };
        match self.state {
            State::Starting { .. } => {
                self.last = Some(ending);
                self.settle(cx, After::Ended(ending));
            }
            State::Stopping { then, .. } => {
                self.last = Some(ending);
                self.settle(cx, then.unwrap_or(After::Ended(ending)));
            }
            State::Waiting
            | State::Running(_)
            | State::Clearing { .. }
            | State::BackingOff { .. }
            | State::Finished
            | State::Failed(_)
            | State::Stopped => {}
        }
    }

    pub(super) fn executed(&mut self, cx: &mut Context<'_>) {
        let State::Starting { ready } = self.state else {
            return;
        };
        let health = self.rule.health.as_ref().filter(|_| !cx.halting);
        let run = Run {
            ready: false,
            ready_by: health.map(|h| cx.now.saturating_add(h.patience())),
            watch: health.map_or(Watch::Off, |h| h.begin(cx.now)),
            failures: 0,
        };
        self.set(cx, State::Running(run));
        if ready {
            self.notify_ready(cx);
        }
    }

    pub(super) fn exec_failed(&mut self, cx: &mut Context<'_>, ending: Ending) {
        match self.state {
            State::Starting { .. } => self.kill(cx, Some(After::Ended(ending))),
            // The exit was seen before what explains it.
            State::Clearing {
                then: After::Ended(Ending::Exit(_)),
            } => {
                self.last = Some(ending);
                self.state = State::Clearing {
                    then: After::Ended(ending),
                };
            }
            State::Waiting
            | State::Running(_)
            | State::Stopping { .. }
            | State::Clearing { .. }
            | State::BackingOff { .. }
            | State::Finished
            | State::Failed(_)
            | State::Stopped => {}
        }
    }

    /// The main process is gone: nothing of its cgroup may stay.
    pub(super) fn exited(&mut self, cx: &mut Context<'_>, status: ExitStatus) {
        let own = match status {
            ExitStatus::Signaled { signal: KILL, .. } if self.oom => Ending::OutOfMemory,
            ExitStatus::Exited(_) | ExitStatus::Signaled { .. } => Ending::Exit(status),
        };
        let then = match self.state {
            State::Starting { .. } | State::Running(_) => {
                self.leave_run(cx);
                After::Ended(own)
            }
            State::Stopping { then, .. } => then.unwrap_or(After::Ended(own)),
            State::Waiting
            | State::Clearing { .. }
            | State::BackingOff { .. }
            | State::Finished
            | State::Failed(_)
            | State::Stopped => return,
        };
        self.pid = None;
        self.last = match then {
            After::Ended(ending) => Some(ending),
            After::Restart | After::Stop => Some(own),
        };
        self.set(cx, State::Clearing { then });
        cx.actions.push(Action::KillCgroup(self.id));
    }

    pub(super) fn cgroup_empty(&mut self, cx: &mut Context<'_>) {
        if let State::Clearing { then } = self.state {
            self.settle(cx, then);
        }
    }

    /// The kernel's message may come before or after the end that it explains.
    pub(super) fn out_of_memory(&mut self) {
        self.oom = true;
        if let State::Clearing {
            then: After::Ended(Ending::Exit(ExitStatus::Signaled { signal: KILL, .. })),
        } = self.state
        {
            self.last = Some(Ending::OutOfMemory);
            self.state = State::Clearing {
                then: After::Ended(Ending::OutOfMemory),
            };
        }
    }

    /// Nothing of the run is left: what next?
    fn settle(&mut self, cx: &mut Context<'_>, then: After) {
        match then {
            _ if cx.halting || self.retiring => self.set(cx, State::Stopped),
            After::Stop => self.set(cx, State::Stopped),
            After::Restart => {
                self.attempt = 0;
                self.start(cx);
            }
            After::Ended(ending) => self.judge(cx, ending),
        }
    }

    /// What the restart policy says of an ending.
    fn judge(&mut self, cx: &mut Context<'_>, ending: Ending) {
        let again = match self.rule.restart.policy {
            RestartPolicy::No => false,
            RestartPolicy::OnFailure => !ending.success(),
            RestartPolicy::Always => true,
        };
        let left = |max| self.attempt < max;
        if again && self.rule.restart.max_retries.is_none_or(left) {
            self.attempt = self.attempt.saturating_add(1);
            let attempt = self.attempt;
            let until = cx.now.saturating_add(self.rule.delay(attempt));
            self.set(cx, State::BackingOff { until, attempt });
        } else if again || !ending.success() {
            self.set(cx, State::Failed(ending));
            let id = self.id;
            match self.rule.restart.then {
                Then::Leave => {}
                Then::RollBack => cx.actions.push(Action::RollBack { id, ending }),
                Then::Reboot => cx.actions.push(Action::Reboot { id, ending }),
            }
        } else {
            self.set(cx, State::Finished);
        }
    }

    /// A run ends: its check with it, and a long run clears the row of failures.
    pub(super) fn leave_run(&mut self, cx: &mut Context<'_>) {
        let State::Running(run) = &mut self.state else {
            return;
        };
        if let Watch::Busy { token, .. } = run.watch {
            let id = self.id;
            cx.actions.push(Action::KillCheck { id, token });
        }
        run.watch = Watch::Off;
        let reset_after = u64::from(self.rule.restart.reset_after_ms);
        if cx.now.saturating_sub(self.since) >= reset_after {
            self.attempt = 0;
        }
    }

    /// Kills its cgroup now. `then` is what follows; `None` leaves that as it is.
    pub(super) fn kill(&mut self, cx: &mut Context<'_>, then: Option<After>) {
        let mut then = then;
        if let State::Stopping { then: planned, .. } = self.state {
            then = then.or(planned);
        }
        self.leave_run(cx);
        let pressure = Pressure::Killed { at: cx.now };
        self.set(cx, State::Stopping { then, pressure });
        cx.actions.push(Action::KillCgroup(self.id));
    }

    /// Asks it to end, or arranges what follows the end that is under way.
    pub(super) fn stop(&mut self, cx: &mut Context<'_>, after: After) {
        match &mut self.state {
            // Its program has not begun: there is nothing that it would have to finish.
            State::Starting { .. } => self.kill(cx, Some(after)),
            State::Running(_) => {
                self.leave_run(cx);
                let kill_at = self.kill_time(cx);
                let pressure = Pressure::Asked { kill_at };
                let then = Some(after);
                self.set(cx, State::Stopping { then, pressure });
                let signal = self.rule.stop_signal;
                cx.actions.push(Action::Signal {
                    id: self.id,
                    signal,
                });
            }
            State::Stopping { then, .. } => *then = Some(after),
            State::Clearing { then } => *then = after,
            State::Waiting
            | State::BackingOff { .. }
            | State::Finished
            | State::Failed(_)
            | State::Stopped => {}
        }
    }

    fn kill_time(&self, cx: &Context<'_>) -> u64 {
        let bounded = cx.halting || self.retiring;
        let most = if bounded { SHUTDOWN_GRACE } else { u64::MAX };
        cx.now.saturating_add(self.rule.grace.min(most))
    }

    pub(super) fn command(&mut self, cx: &mut Context<'_>, command: Command) {
        if cx.halting || self.retiring {
            return;
        }
        let live = self.live();
        match (command, self.state) {
            (Command::Stop, State::Waiting | State::BackingOff { .. }) => {
                self.set(cx, State::Stopped);
            }
            (Command::Stop, _) => self.stop(cx, After::Stop),
            (Command::Start, State::Starting { .. } | State::Running(_))
            | (Command::Start | Command::Restart, State::Waiting) => {}
            (Command::Start | Command::Restart, _) if live => self.stop(cx, After::Restart),
            (Command::Start | Command::Restart, _) => {
                self.attempt = 0;
                if self.admitted {
                    self.start(cx);
                } else {
                    self.set(cx, State::Waiting);
                }
            }
        }
    }

    pub(super) fn notify_ready(&mut self, cx: &mut Context<'_>) {
        match &mut self.state {
            State::Starting { ready } => *ready = true,
            State::Running(_) => {
                self.become_ready(cx);
                self.notify_watchdog(cx);
            }
            State::Waiting
            | State::Stopping { .. }
            | State::Clearing { .. }
            | State::BackingOff { .. }
            | State::Finished
            | State::Failed(_)
            | State::Stopped => {}
        }
    }

    fn become_ready(&mut self, cx: &mut Context<'_>) {
        if let State::Running(run) = &mut self.state
            && !run.ready
        {
            run.ready = true;
            run.ready_by = None;
            run.failures = 0;
            cx.actions.push(Action::Changed(self.id));
        }
    }

    /// A sign of life; before it is ready, what counts is that it becomes so.
    pub(super) fn notify_watchdog(&mut self, cx: &mut Context<'_>) {
        let sign = self.rule.health.as_ref().and_then(|h| h.sign(cx.now));
        if let (State::Running(run), Some(watch), false) = (&mut self.state, sign, cx.halting)
            && run.ready
        {
            run.watch = watch;
        }
    }

    /// It ends by itself: its exit decides, if that comes within its grace.
    pub(super) fn notify_stopping(&mut self, cx: &mut Context<'_>) {
        if let State::Running(_) = self.state {
            self.leave_run(cx);
            let kill_at = self.kill_time(cx);
            let pressure = Pressure::Asked { kill_at };
            self.set(
                cx,
                State::Stopping {
                    then: None,
                    pressure,
                },
            );
        }
    }

    pub(super) fn check_done(&mut self, cx: &mut Context<'_>, token: u32, checked: Checked) {
        let State::Running(run) = &mut self.state else {
            return;
        };
        let (
            Watch::Busy {
                token: due, pause, ..
            },
            Some(health),
        ) = (run.watch, &self.rule.health)
        else {
            return;
        };
        if token != due {
            return;
        }
        let is_ready = run.ready || checked == Checked::Passed;
        run.watch = health.after_check(cx.now, pause, is_ready);
        match checked {
            Checked::Passed => {
                run.failures = 0;
                self.become_ready(cx);
            }
            Checked::Failed if run.ready => {
                run.failures = run.failures.saturating_add(1);
                if run.failures >= health.retries {
                    self.stop(cx, After::Ended(Ending::Ill));
                }
            }
            Checked::Failed | Checked::Unknown => {}
        }
    }
}
