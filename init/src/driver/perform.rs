//! Actions: what the machine decided, done.

use super::{Driver, FAREWELL_MS, now_ms};
use crate::boot::CGROUPS;
use crate::driver::ending;
use crate::driver::poller::Token;
use crate::driver::unit::{Layers, Running, Unit};
use crate::log::{SourceId, Stream};
use crate::machine::{Action, Event, Halt, Id};
use kedge_board_support::control::Control;
use kedge_container::Spawned;
use kedge_revision::Name;
use kedge_sys::process::send_signal;
use kedge_sys::rustix::fs::{CWD, Mode, OFlags, fcntl_setfl, openat};
use kedge_sys::rustix::io::pread;
use kedge_sys::rustix::process::Signal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Uptime at which a reboot that a container asks for is granted: 20 minutes.
const REBOOT_AFTER_MS: u64 = 1_200_000;
/// Uptime at which a restart is granted that the agent asks for. It counts a hub's itself; this is for an agent that somebody
/// else has taken over: what it can do without end still leaves the device its minute.
const AGENT_REBOOT_MS: u64 = 60_000;

impl Driver {
    /// Does what the machine decided; what is known at once comes back as the next event.
    pub(super) fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Spawn(id) => Some(self.spawn(id)),
            Action::Signal { id, signal } => {
                self.signal(id, signal);
                None
            }
            Action::KillCgroup(id) => self.kill_cgroup(id),
            Action::RunCheck { id, token, timeout } => self.run_check(id, token, timeout),
            Action::KillCheck { id, token } => {
                self.kill_check(id, token);
                None
            }
            Action::Changed(id) => {
                self.changed(id);
                None
            }
            Action::RollBack { id, ending } => {
                let text = format!("{} asks for a roll back: {ending}", self.name(id));
                self.say(Stream::Error, &text);
                self.container_asks_roll_back(id, ending);
                None
            }
            Action::Reboot { id, ending } => {
                self.reboot_asked(id, &ending.to_string());
                None
            }
            Action::AllDown(halt) => {
                self.state_turn(now_ms());
                self.say(Stream::Notice, "all containers are down");
                self.flush_logs();
                let control = self.boot.control.as_ref();
                let to_try = control.is_some_and(Control::restarts_to_try);
                ending::end(halt, to_try, self.showing.take_led())
            }
        }
    }

    fn name(&self, id: Id) -> String {
        self.machine
            .name(id)
            .map_or_else(|| "a container".to_owned(), ToString::to_string)
    }

    fn spawn(&mut self, id: Id) -> Event {
        match self.try_spawn(id) {
            Ok(pid) => Event::Started { id, pid },
            Err((text, errno)) => {
                let text = format!("{} cannot be started: {text}", self.name(id));
                self.say(Stream::Error, &text);
                Event::SpawnFailed { id, errno }
            }
        }
    }

    fn try_spawn(&mut self, id: Id) -> Result<u32, (String, i32)> {
        let invalid = kedge_sys::Errno::INVAL.raw_os_error();
        let missing = || ("it is not known".to_owned(), invalid);
        let index = u16::try_from(id.index()).map_err(|_| missing())?;
        // Out of the driver for a moment, so that a unit and what it needs of the driver can be held at once.
        let mut units = std::mem::take(&mut self.units);
        let mut layers = std::mem::take(&mut self.layers);
        let spawned = match units.get_mut(id.index()) {
            Some(unit) => self.prepare_and_spawn(unit, index, &mut layers),
            None => Err(missing()),
        };
        let notes = units
            .get_mut(id.index())
            .map(|unit| std::mem::take(&mut unit.notes));
        self.layers = layers;
        self.units = units;
        for note in notes.into_iter().flatten() {
            self.say(Stream::Warning, &format!("{}: {note}", self.name(id)));
        }
        let spawned = spawned?;
        self.adopt(id, index, spawned).ok_or_else(missing)
    }

    fn prepare_and_spawn(
        &self,
        unit: &mut Unit,
        index: u16,
        layers: &mut Layers,
    ) -> Result<Spawned, (String, i32)> {
        let Some(engine) = &self.engine else {
            let errno = kedge_sys::Errno::NOSYS.raw_os_error();
            return Err(("there is no engine".to_owned(), errno));
        };
        if unit.plan.is_none() {
            let io = kedge_sys::Errno::IO.raw_os_error();
            unit.prepare(index, layers, &self.device())
                .map_err(|text| (text, io))?;
            if let Some(listener) = &unit.listener {
                // A socket nobody listens on is told by its clients; the container runs all the same.
                listener.watch(&self.poller, index.saturating_add(1)).ok();
            }
            if let Some(notify) = &unit.notify {
                self.poller.watch(notify, Token::Notify(index)).ok();
            }
        }
        let Some(plan) = &unit.plan else {
            return Err(("it has no plan".to_owned(), 0));
        };
        engine
            .spawn(plan)
            .map_err(|error| (error.to_string(), error.errno.raw_os_error()))
    }

    /// Watches a new process and its pipes.
    fn adopt(&mut self, id: Id, index: u16, spawned: Spawned) -> Option<u32> {
        // Our ends alone: the container's own stay as programs expect them.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        fcntl_setfl(&spawned.stdout, flags).ok();
        fcntl_setfl(&spawned.stderr, flags).ok();
        let watched = self
            .poller
            .watch(&spawned.report, Token::Report(index))
            .and(self.poller.watch_end(&spawned.pidfd, Token::Ended(index)))
            .and(self.poller.watch(&spawned.stdout, Token::Output(index)))
            .and(self.poller.watch(&spawned.stderr, Token::Errors(index)));
        if let Err(error) = watched {
            let text = format!("{} cannot be watched: {error}", self.name(id));
            self.say(Stream::Error, &text);
        }
        let pid = u32::try_from(spawned.pid.as_raw_nonzero().get()).ok()?;
        self.end_output(index);
        let unit = self.unit(id)?;
        unit.report = Some(spawned.report);
        unit.output = Some(spawned.stdout);
        unit.errors = Some(spawned.stderr);
        unit.running = Some(Running {
            pid: spawned.pid,
            pidfd: spawned.pidfd,
        });
        self.attach_to_pool(id.index());
        Some(pid)
    }

    /// Lets go of pipes of an earlier run that have not come to their end: somebody may still hold one.
    fn end_output(&mut self, index: u16) {
        let now = now_ms();
        let Some(unit) = self.units.get_mut(usize::from(index)) else {
            return;
        };
        let pipes = [
            (unit.output.take(), Stream::Out),
            (unit.errors.take(), Stream::Err),
        ];
        for (pipe, stream) in pipes {
            if let Some(pipe) = pipe {
                self.poller.forget(&pipe);
                self.journal.output_ended(unit.source, stream, now);
            }
        }
    }

    fn signal(&mut self, id: Id, signal: u8) {
        let Some(unit) = self.unit(id) else {
            return;
        };
        let (sends, news) = unit.stop_signal.of(signal);
        let sent = unit
            .running
            .as_ref()
            .map(|running| send_signal(running.pidfd.as_fd(), sends));
        if news {
            let text = format!(
                "{}: the signal {signal} cannot be sent here: it is stopped by SIGTERM",
                self.name(id)
            );
            self.say(Stream::Warning, &text);
        }
        if let Some(Err(error)) = sent {
            // It has ended meanwhile, which its pidfd tells; anything else is worth a line.
            if error.errno != kedge_sys::Errno::SRCH {
                let text = format!("{}: {error}", self.name(id));
                self.say(Stream::Warning, &text);
            }
        }
    }

    /// Kills everything in the cgroup; what is to be said where that cannot be done.
    pub(super) fn kill_all(&self, id: Id) -> Option<String> {
        let unit = self.units.get(id.index())?;
        let errno = self.engine.as_ref()?.kill(&unit.name).err()?;
        // Its process at least can, and all of its pid namespace ends with that.
        if let Some(running) = &unit.running {
            send_signal(running.pidfd.as_fd(), Signal::KILL).ok();
        }
        let name = &unit.name;
        Some(format!("cgroup of {name} cannot be killed: {errno}"))
    }

    /// Kills everything in the cgroup, and watches for it to be empty unless it is already.
    fn kill_cgroup(&mut self, id: Id) -> Option<Event> {
        let index = u16::try_from(id.index()).ok()?;
        if let Some(text) = self.kill_all(id) {
            self.say(Stream::Error, &text);
        }
        let unit = self.units.get_mut(id.index())?;
        if unit.clearing.is_none() {
            let events = openat(
                CWD,
                cgroup_file(&unit.name, "cgroup.events"),
                OFlags::RDONLY | OFlags::CLOEXEC,
                Mode::empty(),
            );
            if let Ok(events) = events
                && self
                    .poller
                    .watch_changes(&events, Token::Cgroup(index))
                    .is_ok()
            {
                unit.clearing = Some(events);
            }
        }
        self.cgroup_empty(id)
    }

    /// Whether the cgroup that was killed is empty by now; the watch is first, this look is after it.
    pub(super) fn cgroup_empty(&mut self, id: Id) -> Option<Event> {
        let unit = self.units.get_mut(id.index())?;
        if let Some(events) = &unit.clearing {
            // Reading takes the event away (Linux fs/kernfs/file.c); unread, it is told without end.
            pread(events, &mut [0_u8; 256], 0).ok();
        }
        let populated = self
            .engine
            .as_ref()
            .map(|engine| engine.populated(&unit.name));
        // A cgroup that cannot be read is one that is gone.
        if matches!(populated, Some(Ok(true))) {
            return None;
        }
        if let Some(events) = unit.clearing.take() {
            self.poller.forget(&events);
        }
        // The next start needs a new cgroup: Linux 6.12 compares the kill count of a cgroup that is
        // cloned into with that of the cloning process's own cgroup, so that whatever is cloned into
        // one that was ever killed is killed at once (kernel/cgroup/cgroup.c, cgroup_css_set_fork).
        if let Some(Err(errno)) = self.engine.as_ref().map(|engine| engine.remove(&unit.name)) {
            let text = format!("cgroup of {} cannot be removed: {errno}", unit.name);
            self.say(Stream::Warning, &text);
        }
        if let Some(unit) = self.units.get_mut(id.index()) {
            unit.oom_kills = 0;
        }
        Some(Event::CgroupEmpty(id))
    }

    fn changed(&mut self, id: Id) {
        let Some(status) = self.machine.status_of(id) else {
            return;
        };
        let mut text = format!("{}: {}", status.name, status.state.word());
        if status.ready {
            text.push_str(", ready");
        }
        if let Some(pid) = status.pid {
            text.push_str(&format!(", pid {pid}"));
        }
        if let (Some(ending), None) = (status.last_exit, status.pid) {
            text.push_str(&format!(", {ending}"));
        }
        self.say(Stream::Notice, &text);
    }

    /// A container is down for good and asks for a reboot: not before the device was up for a third
    /// of an hour, which makes at most three an hour over any number of boots.
    fn reboot_asked(&mut self, id: Id, ending: &str) {
        let at = now_ms().max(REBOOT_AFTER_MS);
        let text = format!(
            "{} asks for a reboot: {ending}; granted at {} s",
            self.name(id),
            at / 1000
        );
        self.say(Stream::Error, &text);
        self.reboot_at.get_or_insert(at);
    }

    /// The agent asks for a restart.
    pub(super) fn restart_asked(&mut self) {
        let at = now_ms().saturating_add(FAREWELL_MS).max(AGENT_REBOOT_MS);
        let text = format!("the agent asks for a restart; granted at {} s", at / 1000);
        self.say(Stream::Notice, &text);
        self.end_at(at, Halt::Reboot);
    }

    /// Ends then, or before, if that was asked for.
    pub(super) fn end_at(&mut self, at: u64, halt: Halt) {
        if self.asked_end.is_none_or(|(due, _)| due > at) {
            self.asked_end = Some((at, halt));
        }
    }

    /// Drains a container's pipe into the journal; closes it at its end.
    pub(super) fn read_output(&mut self, index: u16, stream: Stream) {
        let now = now_ms();
        let Some(unit) = self.units.get_mut(usize::from(index)) else {
            return;
        };
        let source: SourceId = unit.source;
        let pipe = if stream == Stream::Out {
            &mut unit.output
        } else {
            &mut unit.errors
        };
        let mut buffer = [0_u8; 4096];
        // Bounded: a container that never stops talking takes turns with everyone else.
        for _ in 0..8 {
            let Some(fd) = pipe.as_ref() else {
                return;
            };
            match kedge_sys::rustix::io::read(fd, &mut buffer) {
                Ok(0) => {
                    self.poller.forget(fd);
                    *pipe = None;
                    self.journal.output_ended(source, stream, now);
                    return;
                }
                Ok(count) => {
                    let bytes = buffer.get(..count).unwrap_or_default();
                    self.journal.output(source, stream, bytes, now);
                }
                Err(kedge_sys::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

/// A file of a container's cgroup.
pub(super) fn cgroup_file(container: &Name, file: &str) -> PathBuf {
    cgroups().join(container.as_str()).join(file)
}

/// Where containers have their cgroups.
pub(super) fn cgroups() -> PathBuf {
    Path::new(CGROUPS).join("containers")
}

/// How often the kernel has killed for want of memory in a container's cgroup (`memory.events`).
pub(super) fn oom_kills(container: &Name) -> u64 {
    let events = std::fs::read_to_string(cgroup_file(container, "memory.events"));
    events
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
        .unwrap_or(0)
}
