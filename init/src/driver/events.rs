//! Descriptors that are ready, turned into events for the machine or into work of the driver's own.

use super::agent::LISTENER;
use super::sticks::LISTENER as STICKS;
use super::{Driver, FAREWELL_MS, now_ms};
use crate::control::{Action as Verb, Call, Command as Asked, Problem, Refusal};
use crate::driver::clients::ClientId;
use crate::driver::notify::Notice;
use crate::driver::perform::oom_kills;
use crate::driver::poller::{Ready, Token};
use crate::driver::status::status;
use crate::driver::unit::{Running, Unit};
use crate::driver::update::Refused;
use crate::lock::Event as Lock;
use crate::log::Stream;
use crate::machine::{Command, Event, Halt};
use kedge_container::Report;
use kedge_sys::process::{peek_ended, reap, try_wait_pidfd};
use kedge_sys::rustix::io::{Errno, read};
use kedge_sys::rustix::process::Signal;
use std::os::fd::AsFd;

/// How often a pipe is read when its container has ended: three times 32 KiB are more than a pipe holds.
const LAST_READS: usize = 3;
/// Processes that are reaped in one turn.
const MOST_REAPED: usize = 256;

/// Performs what a ready descriptor asks for.
pub(super) fn event(driver: &mut Driver, token: Token, ready: Ready) {
    match token {
        Token::Signals => driver.signals(),
        Token::Deadline => {
            // Its reading clears it; what is due is looked for in every turn.
            driver.timer.take().ok();
        }
        Token::Kernel => driver.kernel_log(),
        Token::Devices => driver.devices_told(),
        Token::Uevents => driver.uevents_told(),
        Token::Look => driver.look_says(),
        Token::Listener(index) => driver.accept(index),
        Token::Ended(index) => driver.container_ended(index),
        Token::Report(index) => driver.reported(index),
        Token::Output(index) => driver.read_output(index, Stream::Out),
        Token::Errors(index) => driver.read_output(index, Stream::Err),
        Token::Cgroup(index) => {
            if let Some(event) = driver.id(index).and_then(|id| driver.cgroup_empty(id)) {
                driver.step(event);
            }
        }
        Token::Notify(index) => driver.notified(index),
        Token::Check(index) => driver.check_ended(index),
        // The turn that follows sees to all of them.
        Token::Commands => {}
        Token::Client(index) => driver.serve_client(ClientId::Slot(index), ready),
        Token::Port => driver.serve_client(ClientId::Port, ready),
        Token::Helper(index) => driver.helper_says(index),
        Token::HelperEnded(index) => driver.helper_ended(index),
    }
}

impl Driver {
    fn signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read() {
            let is = |known: Signal| signal.signal == known.as_raw();
            if is(Signal::TERM) || is(Signal::POWER) {
                self.say(Stream::Notice, "power off, by signal");
                self.shut_down(Halt::PowerOff);
            } else if is(Signal::INT) {
                // ctrl-alt-del
                self.say(Stream::Notice, "reboot, by signal");
                self.shut_down(Halt::Reboot);
            }
        }
        self.reap_ended();
    }

    /// Sees to everyone who has ended: watched ones, killed checks, orphans.
    ///
    /// All of them here, though a pidfd tells of the watched ones, too: the kernel names the same child until
    /// that is reaped, and those behind it cannot wait. A container's process ends only once all that was born
    /// in its pid namespace is reaped; and one whose pidfd could not be watched is told by nothing else.
    pub(super) fn reap_ended(&mut self) {
        let mut last = None;
        // Bounded: who ends without end takes turns with everyone else.
        for _ in 0..MOST_REAPED {
            let Ok(Some(pid)) = peek_ended() else {
                return;
            };
            if last.replace(pid) == Some(pid) {
                // It was not reaped, for whatever reason; that must not hold the loop.
                return;
            }
            let owner = |process: fn(&Unit) -> Option<&Running>| {
                let is = |unit: &Unit| process(unit).is_some_and(|running| running.pid == pid);
                let index = self.units.iter().position(is)?;
                u16::try_from(index).ok()
            };
            let container = owner(|unit| unit.running.as_ref());
            let check = owner(|unit| unit.check.as_ref().map(|check| &check.process));
            if let Some(index) = container {
                self.container_ended(index);
            } else if let Some(index) = check {
                self.check_ended(index);
            } else if let Some(index) = self.helpers.find(pid) {
                self.helper_ended(index);
            } else if !self.commands.reap(pid) && !self.probe_ended(pid) {
                reap(pid).ok();
            }
        }
        self.reap_at = Some(now_ms());
    }

    fn kernel_log(&mut self) {
        let mut buffer = [0_u8; 8192];
        for _ in 0..64 {
            let Some(fd) = &self.kernel else {
                return;
            };
            match read(fd, &mut buffer) {
                Ok(count) => {
                    let record = buffer.get(..count).unwrap_or_default();
                    // What cannot be parsed is no record of a kernel that we know; nothing is lost by it.
                    self.journal.kernel(record, now_ms()).ok();
                }
                // The ring went round before it was read.
                Err(Errno::PIPE) => self.journal.kernel_lost(now_ms()),
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn accept(&mut self, index: u16) {
        let listener = match index.checked_sub(1) {
            _ if index == LISTENER => self.agent.listener(),
            _ if index == STICKS => self.sticks.listener(),
            None => self.listener.as_ref(),
            Some(unit) => self
                .units
                .get(usize::from(unit))
                .and_then(|unit| unit.listener.as_ref()),
        };
        if let Some(listener) = listener {
            self.clients.accept(index, listener, &self.poller);
        }
    }

    /// The child's report: closed without a word means that its program runs.
    fn reported(&mut self, index: u16) {
        let Some(id) = self.id(index) else {
            return;
        };
        let Some(fd) = self.unit(id).and_then(|unit| unit.report.take()) else {
            return;
        };
        let report = match Report::receive(&fd) {
            Ok(None) => {
                if let Some(unit) = self.unit(id) {
                    unit.report = Some(fd);
                }
                return;
            }
            Ok(Some(report)) => Ok(report),
            Err(errno) => Err(errno),
        };
        self.poller.forget(&fd);
        let failed = match report {
            Ok(Report::Executed) => {
                self.step(Event::Executed(id));
                return;
            }
            Ok(Report::Failed(failure)) => failure,
            Err(errno) => {
                let stage = "report";
                let errno = errno.raw_os_error();
                self.step(Event::ExecFailed { id, stage, errno });
                return;
            }
        };
        if let Some(unit) = self.units.get(usize::from(index)) {
            let text = format!("{}: {failed}", unit.name);
            self.say(Stream::Error, &text);
        }
        self.step(Event::ExecFailed {
            id,
            stage: failed.stage.as_str(),
            errno: failed.errno.raw_os_error(),
        });
    }

    fn container_ended(&mut self, index: u16) {
        let Some(id) = self.id(index) else {
            return;
        };
        // What it said before its end comes before its end.
        self.reported(index);
        for _ in 0..LAST_READS {
            self.read_output(index, Stream::Out);
            self.read_output(index, Stream::Err);
        }
        // Left in the socket, it would count for the next run.
        self.notified(index);
        let Some(unit) = self.unit(id) else {
            return;
        };
        let Some(running) = unit.running.take() else {
            return;
        };
        let status = match try_wait_pidfd(running.pidfd.as_fd()) {
            Ok(Some(status)) => status,
            Ok(None) => {
                unit.running = Some(running);
                return;
            }
            // Reaped by nobody else: the kernel has lost it. The machine must not wait for ever.
            Err(_) => kedge_sys::process::ExitStatus::Exited(255),
        };
        let report = unit.report.take();
        self.poller.forget(&running.pidfd);
        if let Some(report) = report {
            self.poller.forget(&report);
        }
        self.detach_from_pool(running.pid);
        if let Some(unit) = self.units.get(id.index()) {
            let now = now_ms();
            self.update.locks.step(&unit.name, Lock::Ended, now);
        }
        if self.killed_for_memory(id) {
            self.step(Event::Oom(id));
        }
        self.step(Event::Exited { id, status });
    }

    /// Whether the kernel has killed in this container's cgroup since its start.
    fn killed_for_memory(&mut self, id: crate::machine::Id) -> bool {
        let Some(unit) = self.units.get_mut(id.index()) else {
            return false;
        };
        let kills = oom_kills(&unit.name);
        let more = kills > unit.oom_kills;
        unit.oom_kills = kills;
        more
    }

    fn notified(&mut self, index: u16) {
        let Some(id) = self.id(index) else {
            return;
        };
        // Bounded: a container that floods its socket takes turns with everyone else.
        for _ in 0..16 {
            let notices = self
                .unit(id)
                .and_then(|unit| unit.notify.as_ref())
                .and_then(super::notify::NotifySocket::read);
            let Some(notices) = notices else {
                return;
            };
            for notice in notices {
                self.step(match notice {
                    Notice::Ready => Event::NotifyReady(id),
                    Notice::Watchdog => Event::NotifyWatchdog(id),
                    Notice::Stopping => Event::NotifyStopping(id),
                });
            }
        }
    }

    pub(super) fn serve_client(&mut self, client: ClientId, ready: Ready) {
        let mut call = self.clients.take(client, ready);
        let mut answered = 0;
        while let Some(asked) = call {
            let ending = self.answer(client, asked);
            self.clients.settle(client, &self.poller);
            if let Some(halt) = ending {
                let at = now_ms().saturating_add(FAREWELL_MS);
                self.end_at(at, halt);
            }
            answered += 1;
            call = self.clients.next_of(client, answered);
        }
        self.clients.settle(client, &self.poller);
        if ready.hung_up {
            self.clients.hung_up(client, &self.poller);
        }
    }

    fn tell_status(&mut self, client: ClientId) {
        let status = status(
            &self.boot,
            &self.machine,
            &self.update,
            self.state_status(),
            &self.network.ports,
            self.helpers.processes(),
            now_ms(),
        );
        if let Some(connection) = self.clients.connection(client) {
            connection.answer_status(&status);
        }
    }

    /// Answers one call; what ends the device is done after its answer was written.
    fn answer(&mut self, client: ClientId, call: Call) -> Option<Halt> {
        match call {
            Call::Status => {
                self.tell_status(client);
            }
            Call::History => self.ask_disk(client, None),
            Call::Earlier(asked) => self.ask_disk(client, Some(asked)),
            Call::Upload { what, length } => {
                self.upload_begins(client, what, length);
                self.upload_pump();
            }
            Call::Usage => self.tell_usage(client),
            Call::Inspect(name) => self.tell_container(client, &name),
            Call::Exec { container, exec } => self.execute(client, &container, &exec),
            Call::Logs(mut query) => {
                let unix = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
                let unix = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
                query.since = query.since.map(|since| since.settle(now_ms(), unix));
                let journal = &self.journal;
                self.clients
                    .connection(client)?
                    .answer_logs(&query, journal);
            }
            Call::Command(command) => return self.command(client, command),
        }
        None
    }

    /// Does what one asks for.
    fn command(&mut self, client: ClientId, command: Asked) -> Option<Halt> {
        let (ending, event) = match command {
            Asked::Reboot => (Some(Halt::Reboot), None),
            Asked::RebootSoon => {
                self.restart_asked();
                (None, None)
            }
            Asked::PowerOff => (Some(Halt::PowerOff), None),
            Asked::RollBack => {
                let done = self.roll_back_asked();
                let connection = self.clients.connection(client)?;
                match done {
                    Ok(()) => connection.answer_done(),
                    Err(refusal) => connection.answer_refused(refusal),
                }
                return None;
            }
            Asked::Lock { seconds } => {
                self.lock(client, Lock::Take(seconds));
                return None;
            }
            Asked::Unlock => {
                self.lock(client, Lock::LetGo);
                return None;
            }
            Asked::Apply { now: false, .. } if self.is_locked_for(client) => {
                let connection = self.clients.connection(client)?;
                connection.answer_refused(Refusal::Locked);
                return None;
            }
            Asked::Apply {
                revision,
                parameters,
                now: _,
            } => {
                if let Some(refusal) = self.in_the_way_of(client) {
                    let connection = self.clients.connection(client)?;
                    connection.answer_refused(refusal);
                    return None;
                }
                let (status, kind, body) =
                    applied_answer(self.apply_for(client, revision, parameters));
                let connection = self.clients.connection(client)?;
                connection.answer_bytes(status, kind, &body);
                return None;
            }
            Asked::Container { name, action } => {
                let Some(id) = self.machine.find(name.as_str()) else {
                    let unknown = Refusal::NotFound("there is no such container");
                    self.clients.connection(client)?.answer_refused(unknown);
                    return None;
                };
                let command = match action {
                    Verb::Start => Command::Start,
                    Verb::Stop => Command::Stop,
                    Verb::Restart => Command::Restart,
                };
                (None, Some(Event::Command { id, command }))
            }
        };
        self.clients.connection(client)?.answer_done();
        if let Some(event) = event {
            self.step(event);
        }
        ending
    }
}

/// The answer to an apply: what the trial costs, or why there is none.
fn applied_answer(applied: Result<&'static str, Refused>) -> (u16, &'static str, Vec<u8>) {
    match applied {
        Ok(change) => {
            let body = format!("{{\"change\":\"{change}\"}}");
            (202, "application/json", body.into_bytes())
        }
        Err(Refused(why)) => {
            let conflict = Refusal::Conflict("");
            let problem = Problem {
                status: conflict.status(),
                title: conflict.title().into(),
                detail: why.into(),
            };
            // Plain data in memory: it cannot fail.
            let body = kedge_revision::json::bytes(&problem);
            (conflict.status(), "application/problem+json", body)
        }
    }
}
