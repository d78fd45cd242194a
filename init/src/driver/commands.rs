//! Commands in containers that clients of the control interface run: bytes move between a client's connection and a
//! command's pipes or terminal, and nothing here waits.
//!
//! A command ends with its client: SIGHUP, and SIGKILL five seconds later. It ends with its container, too, of whose
//! cgroup and pid namespace it is. Descriptors are watched for one event at a time, so that one which nobody can take
//! anything from now does not wake the loop; every turn of the loop sees to all commands, of which there are few.

use super::Driver;
use crate::control::exec::FRAME_FILL;
use crate::control::{Exec, Problem, Refusal, Role, Said};
use crate::driver::clients::{ClientId, Clients};
use crate::driver::poller::{Poller, Ready, Token};
use crate::driver::unit::Running;
use crate::log::Stream;
use crate::machine::State;
use kedge_container::{Command, Input, Report, SpawnError, Spawned, Stage};
use kedge_revision::{Mode, Name};
use kedge_sys::inbox::let_go;
use kedge_sys::process::{ExitStatus, Pid, Signal, send_signal, try_wait_pidfd};
use kedge_sys::rustix::fs::{OFlags, fcntl_setfl};
use kedge_sys::rustix::io::{Errno, read, write};
use kedge_sys::rustix::process::kill_process_group;
use kedge_sys::terminal::set_size;
use std::os::fd::{AsFd, OwnedFd};

/// Most commands at once.
const MOST: usize = 4;
/// Milliseconds between a command's SIGHUP and its SIGKILL.
const HANG_UP_MS: u64 = 5000;
/// Pieces that are moved each way in one turn of the loop.
const PIECES: usize = 8;
/// A time that has passed, milliseconds since the boot; nothing at all would be no time.
const LONG_AGO: u64 = 1;
/// What a terminal's user types to say that there is no more: Control-D.
const END_OF_INPUT: &[u8] = &[4];

/// All commands that run.
#[derive(Debug, Default)]
pub(crate) struct Commands(Vec<Session>);

/// A command and its client.
#[derive(Debug)]
struct Session {
    /// The client, and which of those that had its place; `None`: it has gone.
    client: Option<(ClientId, u32)>,
    process: Running,
    /// How it has ended; it is reaped.
    ended: Option<ExitStatus>,
    report: Option<OwnedFd>,
    failed: Option<SpawnError>,
    /// Its input is its output's other direction.
    has_terminal: bool,
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    errors: Option<OwnedFd>,
    kill_at: Option<u64>,
    /// There is more to move.
    again: bool,
}

/// How far one turn came in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Whatever is there has been moved.
    Done,
    /// The other side takes no more for now.
    Held,
    /// There may be more.
    Again,
}

impl Drop for Session {
    fn drop(&mut self) {
        // Its terminal may be on its way still.
        let ends = [self.output.take(), self.report.take()];
        let_go_of(self.has_terminal, ends.into_iter().flatten());
    }
}

/// Closes ends of a command's pipes, or its terminal: that one hangs up the other side as it is closed, and waits for whoever reads or
/// writes there, in a page fault for as long as the container's disk takes (Linux `drivers/tty/tty_ldisc.c`, `tty_ldisc_hangup`).
fn let_go_of(is_terminal: bool, ends: impl Iterator<Item = OwnedFd>) {
    if is_terminal {
        let_go(ends.collect());
    }
}

impl Commands {
    /// When one of them is killed, or at once if there is more to move than one turn does.
    pub(crate) fn deadline(&self) -> Option<u64> {
        let due = |session: &Session| {
            let again = session.again.then_some(LONG_AGO);
            again.or(session.kill_at)
        };
        self.0.iter().filter_map(due).min()
    }

    /// Reaps the command of this process id; false: it is none.
    pub(crate) fn reap(&mut self, pid: Pid) -> bool {
        let mut running = self.0.iter_mut();
        let found = running.find(|session| session.process.pid == pid && session.ended.is_none());
        found.map(Session::reap).is_some()
    }
}

/// Why a command is not run.
enum Refused {
    By(Refusal),
    Failed(SpawnError),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::By(refusal)
    }
}

impl Driver {
    /// Runs a command in a container for a client.
    pub(super) fn execute(&mut self, client: ClientId, container: &Name, exec: &Exec) {
        let begun = self.begin_command(client, container, exec);
        let Some(connection) = self.clients.connection(client) else {
            return;
        };
        match begun {
            Ok(session) => {
                connection.begin_exec();
                self.commands.0.push(session);
                // What is executed may hold a secret among its arguments.
                let program = exec.arguments.first().map_or("", String::as_str);
                self.say(
                    Stream::Notice,
                    &format!("{container}: runs {program:?} for a client"),
                );
            }
            Err(Refused::By(refusal)) => connection.answer_refused(refusal),
            Err(Refused::Failed(error)) => {
                let refusal = Refusal::Conflict("");
                let problem = Problem {
                    status: refusal.status(),
                    title: refusal.title().into(),
                    detail: format!("it cannot be run: {error}").into(),
                };
                // Plain data in memory: it cannot fail.
                let body = kedge_revision::json::bytes(&problem);
                connection.answer_bytes(refusal.status(), "application/problem+json", &body);
            }
        }
    }

    fn begin_command(
        &mut self,
        client: ClientId,
        container: &Name,
        exec: &Exec,
    ) -> Result<Session, Refused> {
        let gone = Refusal::Conflict("the client has gone");
        let role = self.clients.connection(client).ok_or(gone)?.role();
        let generation = self.clients.generation(client).ok_or(gone)?;
        if !role.may_execute(self.mode()) {
            return Err(Refused::By(match role {
                Role::Operate => Refusal::Production,
                Role::Observe | Role::Lock | Role::Update | Role::Stick | Role::Execute => {
                    Refusal::Forbidden
                }
            }));
        }
        if self.commands.0.len() >= MOST {
            return Err(Refusal::Unavailable("four commands run already").into());
        }
        let unknown = Refusal::NotFound("there is no such container");
        let id = self.machine.find(container.as_str()).ok_or(unknown)?;
        let state = self.machine.status_of(id).map(|status| status.state);
        let down = Refusal::Conflict("the container does not run");
        if !matches!(state, Some(State::Running(_))) || self.machine.halting().is_some() {
            return Err(down.into());
        }
        let unit = self.units.get(id.index()).ok_or(down)?;
        let (Some(running), Some(plan), Some(engine)) = (&unit.running, &unit.plan, &self.engine)
        else {
            return Err(down.into());
        };
        let command = Command {
            arguments: &exec.arguments,
            environment: &exec.environment,
            user: exec.user.as_ref(),
            working_directory: exec.working_directory.as_deref(),
            input: match exec.terminal {
                Some([rows, columns]) => Input::Terminal { rows, columns },
                None if exec.input => Input::Pipe,
                None => Input::Nothing,
            },
            // Who executes something wants to see what the container does.
            fenced: false,
        };
        let spawned = engine.exec(plan, running.pidfd.as_fd(), &command);
        if let Err(error) = &spawned {
            self.unless_astray(error.stage, &error.to_string());
        }
        let spawned = spawned.map_err(Refused::Failed)?;
        let session = Session::new((client, generation), spawned, exec.terminal.is_some());
        session.watch(&self.poller);
        Ok(session)
    }

    /// Development or production; without an identity the stricter.
    pub(super) fn mode(&self) -> Mode {
        let identity = self.boot.identity.as_ref();
        identity.map_or(Mode::Production, |identity| identity.product.mode)
    }

    /// Moves what there is to move.
    pub(super) fn commands_turn(&mut self, now: u64) {
        if self.commands.0.is_empty() {
            return;
        }
        let mut sessions = std::mem::take(&mut self.commands.0);
        let mut free = Vec::new();
        sessions.retain_mut(|session| {
            let client = session.client;
            let goes_on = session.turn(&mut self.clients, &self.poller, now);
            if session.client.is_none() || !goes_on {
                free.extend(client.map(|(client, _)| client));
            }
            goes_on
        });
        self.commands.0 = sessions;
        // Behind its command a client may have asked for more.
        for client in free {
            self.serve_client(client, Ready::default());
        }
    }
}

impl Session {
    fn new(client: (ClientId, u32), spawned: Spawned, has_terminal: bool) -> Self {
        // Of a terminal's pipes nothing ever comes.
        let pipe = |pipe| Some(pipe).filter(|_| !has_terminal);
        let session = Self {
            client: Some(client),
            process: Running {
                pid: spawned.pid,
                pidfd: spawned.pidfd,
            },
            ended: None,
            report: Some(spawned.report),
            failed: None,
            has_terminal,
            input: spawned.stdin,
            output: pipe(spawned.stdout),
            errors: pipe(spawned.stderr),
            kill_at: None,
            again: false,
        };
        if let Some(input) = &session.input {
            fcntl_setfl(input, OFlags::WRONLY | OFlags::NONBLOCK).ok();
        }
        for pipe in [&session.output, &session.errors].into_iter().flatten() {
            fcntl_setfl(pipe, OFlags::RDONLY | OFlags::NONBLOCK).ok();
        }
        session
    }

    fn descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        let all = [&self.report, &self.input, &self.output, &self.errors];
        all.into_iter().flatten()
    }

    fn watch(&self, poller: &Poller) {
        // Unwatched, its end is told by SIGCHLD.
        poller.watch_end(&self.process.pidfd, Token::Commands).ok();
        for descriptor in self.descriptors() {
            poller.watch_once(descriptor, Token::Commands).ok();
        }
    }

    fn reap(&mut self) {
        self.ended = match try_wait_pidfd(self.process.pidfd.as_fd()) {
            Ok(status) => status,
            // Reaped by nobody else: the kernel has lost it.
            Err(_) => Some(ExitStatus::Exited(255)),
        };
    }

    /// One turn. False: it is over.
    fn turn(&mut self, clients: &mut Clients, poller: &Poller, now: u64) -> bool {
        if self.ended.is_none() {
            self.reap();
        }
        // After the end: whatever the report says is there by then.
        self.hear(poller);
        let (mut input, mut output) = (Flow::Done, Flow::Done);
        if let Some((client, generation)) = self.client {
            input = self.pass_input(client, generation, clients, poller);
            output = self.pass_output(client, clients, poller);
            let here = clients.generation(client) == Some(generation);
            let connection = clients.connection(client);
            if !here || !connection.is_some_and(|connection| connection.is_executing()) {
                // One that has only closed its half would wait for an end that nobody tells.
                if let Some(connection) = clients.connection(client).filter(|_| here) {
                    connection.leave_exec();
                    clients.settle(client, poller);
                }
                self.client = None;
                self.hang_up(poller, now);
            } else if let (Some(status), Flow::Done) = (self.ended, output) {
                self.tell_end(status, client, clients, poller);
                self.close(poller);
                return false;
            }
        }
        self.again = self.client.is_some() && [input, output].contains(&Flow::Again);
        if self.kill_at.take_if(|at| *at <= now).is_some() {
            self.signal(Signal::KILL);
        }
        if self.client.is_none() && self.ended.is_some() {
            self.close(poller);
            return false;
        }
        self.arm(poller, input, output);
        true
    }

    /// What the child says on its way to the program.
    fn hear(&mut self, poller: &Poller) {
        let Some(report) = self.report.take() else {
            return;
        };
        let mut terminal = None;
        let heard = Report::receive_with(&report, &mut terminal);
        if self.client.is_none() {
            // Nobody would read it: to close it ends the session, as the hang-up does.
            let_go_of(true, terminal.into_iter());
        } else if let Some(terminal) = terminal {
            fcntl_setfl(&terminal, OFlags::RDWR | OFlags::NONBLOCK).ok();
            poller.watch_once(&terminal, Token::Commands).ok();
            self.output = Some(terminal);
        }
        match heard {
            Ok(None) => self.report = Some(report),
            Ok(Some(Report::Executed)) | Err(_) => poller.forget(&report),
            Ok(Some(Report::Failed(failed))) => {
                poller.forget(&report);
                self.failed = Some(failed);
            }
        }
    }

    /// From the client to the command.
    fn pass_input(
        &mut self,
        client: ClientId,
        generation: u32,
        clients: &mut Clients,
        poller: &Poller,
    ) -> Flow {
        // Its terminal is still to come.
        if self.has_terminal && self.output.is_none() && self.report.is_some() {
            return Flow::Done;
        }
        for _ in 0..PIECES {
            if clients.generation(client) != Some(generation) {
                return Flow::Done;
            }
            let Some(connection) = clients.connection(client) else {
                return Flow::Done;
            };
            let into = if self.has_terminal {
                &mut self.output
            } else {
                &mut self.input
            };
            match connection.said() {
                Said::Nothing => return Flow::Done,
                Said::Nonsense => {
                    connection.leave_exec();
                    return Flow::Done;
                }
                Said::Window { rows, columns } => {
                    if let Some(terminal) = into.as_ref().filter(|_| self.has_terminal) {
                        // A size that it does not take changes nothing.
                        set_size(terminal, rows, columns).ok();
                    }
                }
                Said::End if self.has_terminal => {
                    if let Some(terminal) = into {
                        write(terminal, END_OF_INPUT).ok();
                    }
                }
                Said::End => {
                    if let Some(pipe) = into.take() {
                        poller.forget(&pipe);
                    }
                }
                Said::Input(bytes) => {
                    // Nobody reads it (any more): it is taken all the same.
                    let mut taken = bytes.len();
                    match into.as_ref().map(|into| write(into, bytes)) {
                        Some(Ok(count)) => taken = count,
                        Some(Err(Errno::AGAIN)) => return Flow::Held,
                        Some(Err(Errno::INTR)) => taken = 0,
                        Some(Err(_)) if !self.has_terminal => {
                            if let Some(pipe) = into.take() {
                                poller.forget(&pipe);
                            }
                        }
                        Some(Err(_)) | None => {}
                    }
                    connection.took_input(taken);
                    clients.fill(client);
                }
            }
        }
        Flow::Again
    }

    /// From the command to the client.
    fn pass_output(&mut self, client: ClientId, clients: &mut Clients, poller: &Poller) -> Flow {
        let mut buffer = [0_u8; FRAME_FILL];
        for _ in 0..PIECES {
            let mut anything = false;
            for (stream, pipe) in [
                (Stream::Out, &mut self.output),
                (Stream::Err, &mut self.errors),
            ] {
                let Some(connection) = clients.connection(client).filter(|c| c.is_executing())
                else {
                    return Flow::Done;
                };
                let Some(from) = pipe.as_ref() else {
                    continue;
                };
                let room = connection.room_for_output();
                if room == 0 {
                    return Flow::Held;
                }
                match read(from, buffer.get_mut(..room).unwrap_or_default()) {
                    Ok(count @ 1..) => {
                        connection.tell_output(stream, buffer.get(..count).unwrap_or_default());
                        anything = true;
                    }
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    // Of a terminal: nobody has its other side open any more.
                    Ok(0) | Err(_) => {
                        poller.forget(from);
                        let_go_of(self.has_terminal, pipe.take().into_iter());
                    }
                }
            }
            if !anything {
                return Flow::Done;
            }
            clients.settle(client, poller);
        }
        Flow::Again
    }

    fn tell_end(
        &self,
        status: ExitStatus,
        client: ClientId,
        clients: &mut Clients,
        poller: &Poller,
    ) {
        let (code, sentence) = verdict(status, self.failed.as_ref());
        if let Some(connection) = clients.connection(client) {
            connection.end_exec(code, &sentence);
        }
        clients.settle(client, poller);
    }

    /// The client has gone.
    fn hang_up(&mut self, poller: &Poller, now: u64) {
        self.signal(Signal::HUP);
        self.kill_at = Some(now.saturating_add(HANG_UP_MS));
        let all = [self.input.take(), self.output.take(), self.errors.take()];
        all.iter().flatten().for_each(|pipe| poller.forget(pipe));
        let_go_of(self.has_terminal, all.into_iter().flatten());
    }

    /// To the command and what it has started, but for what has left its group.
    fn signal(&self, signal: Signal) {
        // Once it is reaped its number may be another's.
        if self.ended.is_none() && kill_process_group(self.process.pid, signal).is_err() {
            // It leads no group yet.
            send_signal(self.process.pidfd.as_fd(), signal).ok();
        }
    }

    fn arm(&self, poller: &Poller, into: Flow, out: Flow) {
        let arm = |descriptor: &Option<OwnedFd>, input, output| {
            if let Some(descriptor) = descriptor {
                poller.arm(descriptor, Token::Commands, input, output).ok();
            }
        };
        // What the client does not take now is looked at when it has taken what is here.
        let (held, wanted) = (into == Flow::Held, out != Flow::Held);
        arm(&self.report, true, false);
        arm(&self.input, false, held);
        arm(&self.output, wanted, held && self.has_terminal);
        arm(&self.errors, wanted, false);
    }

    /// Stops watching; a child of the moment may hold copies.
    fn close(&self, poller: &Poller) {
        poller.forget(&self.process.pidfd);
        for descriptor in self.descriptors() {
            poller.forget(descriptor);
        }
    }
}

/// The exit code as a shell has it, and a sentence where the command was not run.
fn verdict(status: ExitStatus, failed: Option<&SpawnError>) -> (u8, String) {
    if let Some(error) = failed {
        let (path, errno) = (&error.path, error.errno);
        if error.stage != Stage::Execute {
            return (126, format!("it cannot be run: {error}"));
        }
        if matches!(errno, Errno::NOENT | Errno::NOTDIR) {
            return (127, format!("{path} is not found"));
        }
        return (126, format!("{path} cannot be run: {errno}"));
    }
    let code = match status {
        ExitStatus::Exited(code) => code,
        ExitStatus::Signaled { signal, .. } => signal.saturating_add(128),
    };
    (u8::try_from(code).unwrap_or(u8::MAX), String::new())
}

#[cfg(test)]
mod tests;
