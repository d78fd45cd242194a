//! Health checks: made, ended, and what came of them. Of a check that could not be made nothing follows: a machine that has no
//! process left to give would take down all that is well.

use super::Driver;
use crate::driver::perform::cgroup_file;
use crate::driver::poller::Token;
use crate::driver::unit::{Running, RunningCheck};
use crate::log::Stream;
use crate::machine::{Checked, Event, Id};
use kedge_container::{Command, Outcome, Probe, Report};
use kedge_revision::Name;
use kedge_revision::container::Check;
use kedge_sys::process::{ExitStatus, send_signal, try_wait_pidfd};
use kedge_sys::rustix::io::Errno;
use kedge_sys::rustix::process::{Signal, kill_process_group};
use std::os::fd::AsFd;
use std::time::Duration;

impl Driver {
    pub(super) fn run_check(&mut self, id: Id, token: u32, timeout_ms: u32) -> Option<Event> {
        let done = |checked| Event::CheckDone { id, token, checked };
        let index = u16::try_from(id.index()).ok()?;
        let unit = self.units.get_mut(id.index())?;
        let (Some(running), Some(plan)) = (&unit.running, &unit.plan) else {
            return Some(done(Checked::Failed));
        };
        let Some(engine) = &self.engine else {
            return Some(done(Checked::Failed));
        };
        let check = unit.definition.health.as_ref().map(|health| &health.check);
        let pidfd = running.pidfd.as_fd();
        let timeout = Duration::from_millis(timeout_ms.into());
        let probe = |probe| {
            let child = engine.probe(plan, pidfd, probe, timeout)?;
            let process = Running {
                pid: child.pid,
                pidfd: child.pidfd,
            };
            Ok((process, None))
        };
        let started = match check {
            Some(Check::Command(arguments)) => engine
                .exec(plan, pidfd, &Command::health(plan, arguments))
                .map(|spawned| {
                    let process = Running {
                        pid: spawned.pid,
                        pidfd: spawned.pidfd,
                    };
                    (process, Some(spawned.report))
                }),
            Some(Check::Http { port, path }) => probe(Probe::Http { port: *port, path }),
            Some(Check::Tcp { port }) => probe(Probe::Tcp { port: *port }),
            Some(Check::Notify) | None => return Some(done(Checked::Failed)),
        };
        let (process, report) = match started {
            Ok(started) => started,
            Err(error) => {
                let text = format!("check of {}: {error}", unit.name);
                let is_own = || is_full(&unit.name);
                let checked = of_failure(error.errno, is_own);
                self.unless_astray(error.stage, &text);
                self.say(Stream::Warning, &text);
                return Some(done(checked));
            }
        };
        // Unwatched, its end is told by SIGCHLD.
        self.poller
            .watch_end(&process.pidfd, Token::Check(index))
            .ok();
        unit.check = Some(RunningCheck {
            token,
            process,
            report,
        });
        None
    }

    pub(super) fn kill_check(&mut self, id: Id, token: u32) {
        let Some(unit) = self.units.get_mut(id.index()) else {
            return;
        };
        if let Some(check) = unit.check.take_if(|check| check.token == token) {
            self.poller.forget(&check.process.pidfd);
            // It may have ended meanwhile; the reaper of orphans takes it in either case. It is not reaped yet, so that its
            // number is its own, and what it has started and waits for ends with it.
            if kill_process_group(check.process.pid, Signal::KILL).is_err() {
                // It leads no group yet.
                send_signal(check.process.pidfd.as_fd(), Signal::KILL).ok();
            }
        }
    }

    pub(super) fn check_ended(&mut self, index: u16) {
        let Some(id) = self.id(index) else {
            return;
        };
        let Some(check) = self.unit(id).and_then(|unit| unit.check.take()) else {
            return;
        };
        let status = match try_wait_pidfd(check.process.pidfd.as_fd()) {
            Ok(None) => {
                if let Some(unit) = self.unit(id) {
                    unit.check = Some(check);
                }
                return;
            }
            Ok(Some(status)) => Some(status),
            Err(_) => None,
        };
        self.poller.forget(&check.process.pidfd);
        let checked = match check.report {
            None => status.map_or(Checked::Failed, of_probe),
            Some(report) => match Report::receive(&report) {
                Ok(Some(Report::Failed(failure))) => {
                    self.say(Stream::Warning, &format!("check: {failure}"));
                    let name = self.machine.name(id).cloned();
                    of_failure(failure.errno, || name.is_some_and(|name| is_full(&name)))
                }
                _ => of_command(status),
            },
        };
        self.step(Event::CheckDone {
            id,
            token: check.token,
            checked,
        });
    }
}

/// What a probe's end says.
fn of_probe(status: ExitStatus) -> Checked {
    match Outcome::of(status) {
        Outcome::Healthy => Checked::Passed,
        Outcome::Refused | Outcome::TimedOut | Outcome::BadAnswer => Checked::Failed,
        Outcome::Unknown => Checked::Unknown,
    }
}

/// What the end of a command within the container says; of one that was not to be had, nothing good.
fn of_command(status: Option<ExitStatus>) -> Checked {
    match status {
        Some(status) if status.success() => Checked::Passed,
        Some(_) | None => Checked::Failed,
    }
}

/// What it says that no check could be made. What the container itself has used up is its own fault, and what will fail
/// each time, as a command that is not there, is not to be passed over for ever.
fn of_failure(errno: Errno, is_own: impl FnOnce() -> bool) -> Checked {
    let is_scarce = matches!(
        errno,
        Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE
    );
    if is_scarce && !is_own() {
        Checked::Unknown
    } else {
        Checked::Failed
    }
}

/// Whether a container has as many processes as it may (Linux `Documentation/admin-guide/cgroup-v2.rst`, "PID").
fn is_full(container: &Name) -> bool {
    let number = |file| {
        let text = std::fs::read_to_string(cgroup_file(container, file)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    match (number("pids.current"), number("pids.max")) {
        (Some(current), Some(most)) => current >= most,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_could_not_be_made_says_nothing() {
        assert_eq!(of_probe(ExitStatus::Exited(0)), Checked::Passed);
        for code in 1..=3 {
            assert_eq!(of_probe(ExitStatus::Exited(code)), Checked::Failed);
        }
        assert_eq!(of_probe(ExitStatus::Exited(4)), Checked::Unknown);
        for errno in [Errno::AGAIN, Errno::NOMEM, Errno::NFILE, Errno::MFILE] {
            assert_eq!(of_failure(errno, || false), Checked::Unknown);
        }
    }

    #[test]
    fn what_a_container_has_used_up_or_lacks_is_its_own_fault() {
        assert_eq!(of_failure(Errno::AGAIN, || true), Checked::Failed);
        assert_eq!(of_failure(Errno::NOENT, || false), Checked::Failed);
        assert_eq!(of_command(Some(ExitStatus::Exited(4))), Checked::Failed);
        assert_eq!(of_command(None), Checked::Failed);
        assert_eq!(of_command(Some(ExitStatus::Exited(0))), Checked::Passed);
    }
}
