//! Devices for containers: the kernel's events bring a look at what is there, and what is there goes to those who asked for it.
//!
//! Nothing of this runs where no container has a rule. A look is a child's work: PID 1 reads what it says, and gives nodes
//! and takes them away in the `/dev` of the containers, which is in memory. A container with rules is not started before the
//! first look; one that requires a device not before that is there.

use super::{Driver, now_ms};
use crate::boot::listen_to_kernel;
use crate::devices::{Found, MOST_SAID, choose, nodes, read, sysfs, uevent};
use crate::driver::poller::Token;
use crate::driver::unit::Unit;
use crate::error::Error;
use crate::log::Stream;
use crate::machine::{Event, Id};
use kedge_sys::clone::{self, Child, Namespaces};
use kedge_sys::descriptors::close_from;
use kedge_sys::privilege::{
    CapabilitySet, bound_capabilities, set_group, set_groups, set_no_new_privs, set_user,
};
use kedge_sys::process::{send_signal, set_dumpable, set_standard};
use kedge_sys::rustix::fs::{OFlags, fcntl_setfl};
use kedge_sys::rustix::io::{Errno, read as read_pipe};
use kedge_sys::rustix::net::{RecvFlags, recv};
use kedge_sys::rustix::pipe::{PipeFlags, pipe_with};
use kedge_sys::rustix::process::Signal;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Several devices come with one plug: how long after the first event it is looked, milliseconds.
const CALM_MS: u64 = 150;
/// When a look that has failed is repeated, milliseconds.
const AGAIN_MS: u64 = 5000;
/// How long a look may take: of USB devices, an attribute may wait for a driver, and that for the device, milliseconds.
const LIMIT_MS: u64 = 15_000;
/// What a whole look ends with.
const END: &[u8] = b".\n";
/// The device's `nobody`: owns nothing.
const NOBODY: u32 = 65_534;
/// Devices that are named of those that are not given.
const NAMED: usize = 3;

/// What PID 1 keeps about devices for containers.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    /// The kernel's events; none: no container has rules.
    events: Option<OwnedFd>,
    /// Subsystems that rules are for.
    wanted: Vec<String>,
    /// When it is looked next.
    look_at: Option<u64>,
    look: Option<Look>,
}

/// A child that looks.
#[derive(Debug)]
struct Look {
    child: Child,
    pipe: OwnedFd,
    said: Vec<u8>,
    until: u64,
}

impl Devices {
    pub(super) fn deadline(&self) -> Option<u64> {
        match &self.look {
            Some(look) => Some(look.until),
            None => self.look_at,
        }
    }
}

impl Driver {
    /// Begins or ends to look for devices, as the containers of what runs ask.
    pub(super) fn watch_devices(&mut self) {
        let content = self.boot.content.as_ref().filter(|_| self.engine.is_some());
        let containers = content
            .into_iter()
            .flat_map(|content| content.containers.values());
        let mut wanted: Vec<String> = Vec::new();
        for rule in containers.flat_map(|container| &container.devices) {
            if !wanted.contains(&rule.subsystem) {
                wanted.push(rule.subsystem.clone());
            }
        }
        self.devices.wanted = wanted;
        if self.devices.wanted.is_empty() {
            self.forget_look();
            if let Some(events) = self.devices.events.take() {
                self.poller.forget(&events);
            }
            self.devices.look_at = None;
            return;
        }
        // Before the look: what comes between the two is not missed.
        if self.devices.events.is_none() {
            let opened = listen_to_kernel().and_then(|events| {
                self.poller.watch(&events, Token::Uevents)?;
                Ok(events)
            });
            match opened {
                Ok(events) => self.devices.events = Some(events),
                Err(error) => self.say(
                    Stream::Error,
                    &format!("devices that are plugged in: {error}"),
                ),
            }
        }
        self.devices.look_at = Some(now_ms());
        self.devices_turn(now_ms());
    }

    /// The kernel tells of devices.
    pub(super) fn uevents_told(&mut self) {
        let mut buffer = [0_u8; uevent::MOST];
        let mut matters = false;
        // Bounded: what is left wakes the loop again.
        for _ in 0..64 {
            let Some(events) = &self.devices.events else {
                return;
            };
            match recv(events, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    let event = uevent::parse(buffer.get(..length).unwrap_or_default());
                    matters |= event.is_some_and(|event| {
                        self.devices.wanted.iter().any(|one| one == event.subsystem)
                    });
                }
                // Some were lost.
                Err(Errno::NOBUFS) => matters = true,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        if matters {
            let at = now_ms().saturating_add(CALM_MS);
            self.devices.look_at.get_or_insert(at);
        }
    }

    /// Each turn: looks, when it is time.
    pub(super) fn devices_turn(&mut self, now: u64) {
        if self
            .devices
            .look
            .as_ref()
            .is_some_and(|look| look.until <= now)
        {
            self.forget_look();
            self.look_failed("it takes too long");
        }
        if self.devices.look.is_some() || self.devices.look_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        match self.begin_look(now) {
            Ok(look) => self.devices.look = Some(look),
            Err(error) => self.look_failed(&error.to_string()),
        }
    }

    fn begin_look(&self, now: u64) -> Result<Look, Error> {
        let pipe_error = |errno| kedge_sys::Error::new("pipe", errno);
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(pipe_error)?;
        fcntl_setfl(&ours, OFlags::RDONLY | OFlags::NONBLOCK).map_err(pipe_error)?;
        let data = self.boot.data_device();
        let data = data.as_deref().and_then(Path::file_name);
        let data = data.and_then(|name| name.to_str()).unwrap_or_default();
        let wanted = &self.devices.wanted;
        let child = clone::spawn(Namespaces::NONE, None, || look(&theirs, wanted, data))?;
        self.poller.watch(&ours, Token::Look)?;
        Ok(Look {
            child,
            pipe: ours,
            said: Vec::new(),
            until: now.saturating_add(LIMIT_MS),
        })
    }

    fn look_failed(&mut self, why: &str) {
        self.say(Stream::Warning, &format!("cannot look for devices: {why}"));
        self.devices.look_at = Some(now_ms().saturating_add(AGAIN_MS));
    }

    /// Lets go of the child, which is reaped as an orphan is.
    fn forget_look(&mut self) {
        if let Some(look) = self.devices.look.take() {
            self.poller.forget(&look.pipe);
            // It may have ended.
            send_signal(look.child.pidfd.as_fd(), Signal::KILL).ok();
        }
    }

    /// The child says what is there.
    pub(super) fn look_says(&mut self) {
        let mut buffer = [0_u8; 4096];
        // Bounded: what is left wakes the loop again.
        for _ in 0..16 {
            let Some(look) = &mut self.devices.look else {
                return;
            };
            match read_pipe(&look.pipe, &mut buffer) {
                Ok(0) => return self.look_ended(),
                Ok(count) => {
                    let room = MOST_SAID.saturating_sub(look.said.len());
                    let bytes = buffer.get(..count.min(room)).unwrap_or_default();
                    look.said.extend_from_slice(bytes);
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn look_ended(&mut self) {
        let Some(look) = self.devices.look.take() else {
            return;
        };
        self.poller.forget(&look.pipe);
        if !look.said.ends_with(END) {
            return self.look_failed("it has ended in the middle");
        }
        let found = read(&look.said);
        let ids: Vec<Id> = self.machine.status().map(|status| status.id).collect();
        for id in ids {
            self.give_devices(id, &found);
        }
    }

    /// Gives a container what its rules name of what is there, and takes the rest from it.
    fn give_devices(&mut self, id: Id, found: &[Found]) {
        let Some(unit) = self.units.get_mut(id.index()) else {
            return;
        };
        if unit.definition.devices.is_empty() {
            return;
        }
        let rules = &unit.definition.devices;
        let chosen = choose(rules, found, &unit.devices);
        let changed = (self.engine.as_ref())
            .zip(unit.plan.as_mut())
            .map(|(engine, plan)| engine.change_devices(plan, nodes(rules, &chosen.given)));
        let mut told = Vec::new();
        for lost in unit
            .devices
            .iter()
            .filter(|given| !chosen.given.contains(given))
        {
            told.push((
                Stream::Notice,
                format!("{}: /dev/{} has left", unit.name, lost.name),
            ));
        }
        for new in chosen
            .given
            .iter()
            .filter(|given| !unit.devices.contains(given))
        {
            let (major, minor) = new.found.number;
            let text = format!(
                "{}: /dev/{} is there ({} {major}:{minor})",
                unit.name, new.name, new.found.node
            );
            told.push((Stream::Notice, text));
        }
        unit.devices = chosen.given;
        let refused = refused(unit, &chosen.refused);
        if refused != unit.refused_devices {
            unit.refused_devices.clone_from(&refused);
            told.extend((!refused.is_empty()).then_some((Stream::Warning, refused)));
        }
        if let Some(Err(error)) = changed {
            // It may be able to open what it has lost. Its restart policy says what follows.
            told.push((Stream::Error, format!("{} is killed: {error}", unit.name)));
            if let Some(engine) = &self.engine {
                engine.kill(&unit.name).ok();
            }
        }
        for (stream, text) in told {
            self.say(stream, &text);
        }
        let lacks = chosen.lacks;
        self.step(Event::Devices { id, lacks });
    }
}

/// Devices that fit a container's rules and are not given, in one line.
fn refused(unit: &Unit, refused: &[(String, &'static str)]) -> String {
    let mut text = String::new();
    for (node, why) in refused.iter().take(NAMED) {
        let start = if text.is_empty() { "" } else { "; " };
        text.push_str(&format!(
            "{start}{}: {node} is not given: it {why}",
            unit.name
        ));
    }
    if let Some(more) = refused.len().checked_sub(NAMED).filter(|more| *more > 0) {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

/// The child's whole life.
fn look(pipe: &OwnedFd, wanted: &[String], data: &str) -> i32 {
    if confine(pipe).is_err() {
        return 1;
    }
    let mut lines = Vec::new();
    for found in sysfs::look(Path::new("/sys"), wanted, data) {
        let line = found.line();
        // What a line cannot carry is no device that a container could have.
        if Found::parse(&line).is_some_and(|read| read == found) {
            lines.push(line);
        }
    }
    lines.sort_unstable();
    let mut said = Vec::new();
    for line in lines {
        if said.len().saturating_add(line.len()) < MOST_SAID - 8 {
            said.extend_from_slice(line.as_bytes());
            said.push(b'\n');
        }
    }
    said.extend_from_slice(END);
    let mut out = std::io::stdout().lock();
    i32::from(out.write_all(&said).and_then(|()| out.flush()).is_err())
}

/// Keeps the pipe as standard output, and gives up everything else of PID 1's.
fn confine(pipe: &OwnedFd) -> kedge_sys::Result<()> {
    set_dumpable(false)?;
    set_standard(pipe, 1)?;
    // Whoever waits for PID 1 to close something must not have to wait for this child, too.
    close_from(2)?;
    bound_capabilities(CapabilitySet::empty())?;
    set_groups(&[])?;
    set_group(NOBODY)?;
    set_user(NOBODY)?;
    set_no_new_privs()
}
