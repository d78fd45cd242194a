//! Devices for containers: the kernel's events bring a look at what is there, and what is there goes to those who asked for it.
//!
//! Nothing of this runs where no container has a rule. A look is a child's work: PID 1 reads what it says, and gives nodes
//! and takes them away in the `/dev` of the containers, which is in memory. A container with rules is not started before the
//! first look; one that requires a device not before that is there.
//!
//! Who decides is pure, and elsewhere: when it is looked [`Pace`], what a look has said [`Seen`], who gets what
//! [`crate::devices::choose`].

mod giving;

use super::{Driver, now_ms};
use crate::boot::listen_to_kernel;
use crate::devices::pace::{CALM_MS, Due, Pace};
use crate::devices::seen::Seen;
use crate::devices::{Found, matters, sysfs, uevent};
use crate::driver::poller::Token;
use crate::error::Error;
use crate::log::Stream;
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

/// The device's `nobody`: owns nothing.
const NOBODY: u32 = 65_534;

/// What PID 1 keeps about devices for containers.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    /// The kernel's events; none: no container has rules.
    events: Option<OwnedFd>,
    /// Subsystems that rules are for.
    wanted: Vec<String>,
    pace: Pace,
    look: Option<Look>,
    /// A child that was killed, until it is reaped.
    killed: Option<OwnedFd>,
    /// Block devices of the last look.
    disks: Vec<Found>,
}

/// A child that looks.
#[derive(Debug)]
struct Look {
    child: Child,
    pipe: OwnedFd,
    seen: Seen,
    /// What is there without its serial number was given to those who do not ask for one.
    given: bool,
}

impl Devices {
    pub(super) fn deadline(&self) -> Option<u64> {
        self.pace.deadline()
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
        if self.devices.wanted != wanted {
            // The one under way looks for something else.
            self.forget_look();
            self.devices.wanted = wanted;
        }
        if self.devices.wanted.is_empty() {
            self.devices.pace.stop();
            if let Some(events) = self.devices.events.take() {
                self.poller.forget(&events);
            }
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
        self.devices.pace.ask(now_ms());
        self.devices_turn(now_ms());
    }

    /// The kernel tells of devices.
    pub(super) fn uevents_told(&mut self) {
        let mut buffer = [0_u8; uevent::MOST];
        // Bounded: what is left wakes the loop again.
        for _ in 0..64 {
            let Some(events) = &self.devices.events else {
                return;
            };
            match recv(events, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    if let Some(event) = uevent::parse(buffer.get(..length).unwrap_or_default()) {
                        self.device_told(event);
                    }
                }
                Err(Errno::NOBUFS) => self.look_anew(),
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
    }

    fn device_told(&mut self, event: uevent::Event<'_>) {
        let matters = matters(&self.devices.wanted, event.subsystem);
        if event.action == "remove" {
            self.take_device(event.path);
            self.devices.disks.retain(|disk| !disk.is_below(event.path));
            let look = self.devices.look.as_mut().filter(|_| matters);
            if look.is_some_and(|look| !look.seen.remove(event.path)) {
                self.look_anew();
            }
        }
        if matters {
            self.devices.pace.ask(now_ms().saturating_add(CALM_MS));
        }
    }

    /// Events were lost: what is known may be wrong, and so may be what is looked at now.
    fn look_anew(&mut self) {
        self.forget_look();
        self.devices.pace.ask(now_ms());
    }

    /// Each turn: looks, when it is time.
    pub(super) fn devices_turn(&mut self, now: u64) {
        // Killing it once more says whether it is there: one that is reaped is known no more.
        let is_left = |child: &OwnedFd| {
            let again = send_signal(child.as_fd(), Signal::KILL);
            !again.is_err_and(|error| error.errno == Errno::SRCH)
        };
        if self
            .devices
            .killed
            .as_ref()
            .is_some_and(|child| !is_left(child))
        {
            self.devices.killed = None;
        }
        match self.devices.pace.due(now, self.devices.killed.is_some()) {
            Due::Nothing => {}
            Due::GiveUp => {
                let seen = self.forget_look();
                self.look_ended(seen, "it takes too long; what it has found so far counts");
            }
            Due::Look => match self.begin_look() {
                Ok(look) => self.devices.look = Some(look),
                Err(error) => self.look_ended(None, &error.to_string()),
            },
        }
    }

    fn begin_look(&self) -> Result<Look, Error> {
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
            seen: Seen::default(),
            given: false,
        })
    }

    /// Lets go of the child, which is reaped as an orphan is: what it has said.
    fn forget_look(&mut self) -> Option<Seen> {
        self.devices.pace.forget();
        let look = self.devices.look.take()?;
        self.poller.forget(&look.pipe);
        // It may have ended.
        send_signal(look.child.pidfd.as_fd(), Signal::KILL).ok();
        self.devices.killed = Some(look.child.pidfd);
        Some(look.seen)
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
                Ok(0) => {
                    let seen = self.forget_look();
                    return self.look_ended(seen, "it has ended in the middle");
                }
                Ok(count) => look.seen.take(buffer.get(..count).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        // Reading serial numbers may take long: who asks for none does not wait for it.
        if let Some(look) = &mut self.devices.look
            && look.seen.listed
            && !look.given
        {
            look.given = true;
            let mut seen = std::mem::take(&mut look.seen);
            self.give_all(&mut seen, false);
            if let Some(look) = &mut self.devices.look {
                look.seen = seen;
            }
        }
    }

    fn look_ended(&mut self, seen: Option<Seen>, why: &str) {
        let mut seen = seen.unwrap_or_default();
        if self.devices.pace.ended(now_ms(), seen.whole) {
            let text = format!("looking for devices: {why}");
            self.say(Stream::Warning, &text);
        }
        // One that has said nothing says nothing of what is there.
        if seen.listed || !seen.found.is_empty() {
            self.give_all(&mut seen, true);
        }
    }
}

/// The child's whole life.
fn look(pipe: &OwnedFd, wanted: &[String], data: &str) -> i32 {
    if confine(pipe).is_err() {
        return 1;
    }
    let mut out = std::io::stdout().lock();
    let mut say = |line: &str| {
        out.write_all(line.as_bytes())?;
        out.write_all(b"\n")?;
        out.flush()
    };
    i32::from(sysfs::look(Path::new("/sys"), wanted, data, &mut say).is_err())
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
