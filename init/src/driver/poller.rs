//! The one epoll: descriptors in, typed tokens out.

use crate::error::Error;
use kedge_sys::Errno;
use kedge_sys::rustix::buffer::spare_capacity;
use kedge_sys::rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use std::os::fd::{AsFd, OwnedFd};

/// Whose descriptor is ready. Index: of a container, a client, or a helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// The signal descriptor.
    Signals,
    /// The machine's next deadline.
    Deadline,
    /// `/dev/kmsg`.
    Kernel,
    /// A control socket: 0 is the device's own, n that of container n-1.
    Listener(u16),
    /// A container's pidfd.
    Ended(u16),
    /// A container's exec report.
    Report(u16),
    /// A container's standard output.
    Output(u16),
    /// A container's standard error.
    Errors(u16),
    /// A container's `cgroup.events`.
    Cgroup(u16),
    /// A container's notify socket.
    Notify(u16),
    /// A container's running health check.
    Check(u16),
    /// A client of the control socket.
    Client(u16),
    /// A helper's socket.
    Helper(u16),
    /// A helper's pidfd.
    HelperEnded(u16),
    /// The development port of a virtual machine.
    Port,
    /// The kernel's events of devices.
    Devices,
    /// Something of a command that runs for a client.
    Commands,
    /// The kernel's events of devices, for containers.
    Uevents,
    /// What a look at devices says.
    Look,
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, index) = match self {
            Self::Signals => (0_u64, 0),
            Self::Deadline => (1, 0),
            Self::Kernel => (2, 0),
            Self::Listener(index) => (3, index),
            Self::Ended(index) => (4, index),
            Self::Report(index) => (5, index),
            Self::Output(index) => (6, index),
            Self::Errors(index) => (7, index),
            Self::Cgroup(index) => (8, index),
            Self::Notify(index) => (9, index),
            Self::Check(index) => (10, index),
            Self::Client(index) => (11, index),
            Self::Helper(index) => (12, index),
            Self::HelperEnded(index) => (13, index),
            Self::Port => (14, 0),
            Self::Devices => (15, 0),
            Self::Commands => (16, 0),
            Self::Uevents => (17, 0),
            Self::Look => (18, 0),
        };
        kind << 16 | u64::from(index)
    }

    fn unpack(data: u64) -> Option<Self> {
        let index = u16::try_from(data & 0xffff).ok()?;
        Some(match data >> 16 {
            0 => Self::Signals,
            1 => Self::Deadline,
            2 => Self::Kernel,
            3 => Self::Listener(index),
            4 => Self::Ended(index),
            5 => Self::Report(index),
            6 => Self::Output(index),
            7 => Self::Errors(index),
            8 => Self::Cgroup(index),
            9 => Self::Notify(index),
            10 => Self::Check(index),
            11 => Self::Client(index),
            12 => Self::Helper(index),
            13 => Self::HelperEnded(index),
            14 => Self::Port,
            15 => Self::Devices,
            16 => Self::Commands,
            17 => Self::Uevents,
            18 => Self::Look,
            _ => return None,
        })
    }
}

/// What a descriptor is ready for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    /// Data, an event, or the end of both.
    pub(crate) input: bool,
    /// Room to write.
    pub(crate) output: bool,
    /// The other side has gone.
    pub(crate) hung_up: bool,
}

/// The epoll.
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Poller").field(&self.epoll).finish()
    }
}

/// Events taken from the kernel at once.
const BATCH: usize = 32;

impl Poller {
    pub(crate) fn new() -> Result<Self, Error> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)
            .map_err(|errno| kedge_sys::Error::new("epoll_create1", errno))?;
        Ok(Self {
            epoll,
            events: Vec::with_capacity(BATCH),
        })
    }

    /// Watches for input.
    pub(crate) fn watch<Fd: AsFd>(&self, fd: Fd, token: Token) -> Result<(), Error> {
        self.add(fd, token, EventFlags::IN)
    }

    /// Watches for a priority event: how the kernel tells of changes in its own files.
    pub(crate) fn watch_changes<Fd: AsFd>(&self, fd: Fd, token: Token) -> Result<(), Error> {
        self.add(fd, token, EventFlags::PRI)
    }

    /// Watches for the end of a process, told once. A process that another one traces is gone for its pidfd
    /// but cannot be reaped yet: told again and again, it would wake the loop until its tracer lets go. When
    /// that does, SIGCHLD tells.
    pub(crate) fn watch_end<Fd: AsFd>(&self, pidfd: Fd, token: Token) -> Result<(), Error> {
        self.add(pidfd, token, EventFlags::IN | EventFlags::ET)
    }

    /// Watches for changes only: whoever is told must read and write until there is no more.
    pub(crate) fn watch_edges<Fd: AsFd>(&self, fd: Fd, token: Token) -> Result<(), Error> {
        self.add(fd, token, EventFlags::IN | EventFlags::OUT | EventFlags::ET)
    }

    /// Watches for nothing yet: [`Poller::arm`] says each time what for.
    pub(crate) fn watch_once<Fd: AsFd>(&self, fd: Fd, token: Token) -> Result<(), Error> {
        self.add(fd, token, EventFlags::ONESHOT)
    }

    /// Watches for the next event of what [`Poller::watch_once`] watches, and for no further one. Where nothing is wanted it is
    /// left alone: whoever changes what is watched is told once more that the other side has gone, which would go on for ever.
    pub(crate) fn arm<Fd: AsFd>(
        &self,
        fd: Fd,
        token: Token,
        input: bool,
        output: bool,
    ) -> Result<(), Error> {
        if !(input || output) {
            return Ok(());
        }
        self.change(fd, token, EventFlags::ONESHOT, (input, output))
    }

    fn add<Fd: AsFd>(&self, fd: Fd, token: Token, flags: EventFlags) -> Result<(), Error> {
        epoll::add(&self.epoll, fd, EventData::new_u64(token.pack()), flags)
            .map_err(|errno| kedge_sys::Error::new("epoll_ctl", errno).into())
    }

    /// Also watches for room to write, or no longer. Input that nobody takes must not be watched:
    /// it would wake the loop without end.
    pub(crate) fn interest<Fd: AsFd>(
        &self,
        fd: Fd,
        token: Token,
        input: bool,
        output: bool,
    ) -> Result<(), Error> {
        self.change(fd, token, EventFlags::empty(), (input, output))
    }

    fn change<Fd: AsFd>(
        &self,
        fd: Fd,
        token: Token,
        mut flags: EventFlags,
        (input, output): (bool, bool),
    ) -> Result<(), Error> {
        flags.set(EventFlags::IN, input);
        flags.set(EventFlags::OUT, output);
        epoll::modify(&self.epoll, fd, EventData::new_u64(token.pack()), flags)
            .map_err(|errno| kedge_sys::Error::new("epoll_ctl", errno).into())
    }

    /// Stops watching. Closing a descriptor does that too, but only if no child holds a copy of it.
    pub(crate) fn forget<Fd: AsFd>(&self, fd: Fd) {
        // It may never have been watched.
        epoll::delete(&self.epoll, fd).ok();
    }

    /// Waits for events and hands them over, at most [`BATCH`] of them.
    pub(crate) fn wait(&mut self, into: &mut Vec<(Token, Ready)>) -> Result<(), Error> {
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(kedge_sys::Error::new("epoll_wait", errno).into()),
        }
        for event in &self.events {
            let Event { flags, data } = *event;
            if let Some(token) = Token::unpack(data.u64()) {
                let ready = Ready {
                    input: flags.intersects(EventFlags::IN | EventFlags::PRI),
                    output: flags.contains(EventFlags::OUT),
                    hung_up: flags.intersects(EventFlags::HUP | EventFlags::ERR),
                };
                into.push((token, ready));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [
            Token::Signals,
            Token::Port,
            Token::Devices,
            Token::Commands,
            Token::Uevents,
            Token::Look,
            Token::Ended(0),
            Token::Check(65_535),
            Token::HelperEnded(1),
        ] {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(u64::MAX), None);
    }

    #[test]
    fn a_pipe_is_ready_and_then_hung_up() {
        let mut poller = Poller::new().unwrap();
        let (read, write) = std::io::pipe().unwrap();
        poller.watch(&read, Token::Output(3)).unwrap();
        std::io::Write::write_all(&mut &write, b"x").unwrap();
        drop(write);
        let mut events = Vec::new();
        poller.wait(&mut events).unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].0, Token::Output(3));
        assert!(events[0].1.input && events[0].1.hung_up);
    }
}
