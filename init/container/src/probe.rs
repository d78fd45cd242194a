//! TCP and HTTP probes of a container, from within its network.
//!
//! A probe is a short-lived child of PID 1, without privileges, in the container's network namespace
//! only. Its exit status is its outcome. What the container answers, it reads; PID 1 never does.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use kedge_sys::clone::{self, Child, Namespaces};
use kedge_sys::descriptors::close_from;
use kedge_sys::privilege::CapabilitySet;
use kedge_sys::privilege::{bound_capabilities, set_group, set_groups, set_no_new_privs, set_user};
use kedge_sys::process::{ExitStatus, enter_namespaces_of, set_dumpable};
use kedge_sys::rustix::net::sockopt::{Timeout, set_socket_timeout};
use kedge_sys::rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
};
use kedge_sys::{Errno, Result as SysResult};

use crate::engine::Engine;
use crate::plan::Plan;
use crate::stage::{At, SpawnError, Stage};

/// What is probed, at 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe<'a> {
    /// A connection opens.
    Tcp {
        /// The port.
        port: u16,
    },
    /// A GET is answered with 200 to 399.
    Http {
        /// The port.
        port: u16,
        /// The path, beginning with `/`, without spaces and control characters.
        path: &'a str,
    },
}

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Healthy,
    /// Nothing listens, or the connection broke.
    Refused,
    /// No answer in time; also if the caller had to kill the probe.
    TimedOut,
    /// An answer that is no HTTP, or has another status.
    BadAnswer,
    /// The probe itself could not be made: nothing is known about the container.
    Unknown,
}

impl Outcome {
    /// The outcome that a probe's exit status means.
    #[must_use]
    pub const fn of(status: ExitStatus) -> Self {
        match status {
            ExitStatus::Exited(0) => Self::Healthy,
            ExitStatus::Exited(1) => Self::Refused,
            ExitStatus::Exited(2) | ExitStatus::Signaled { .. } => Self::TimedOut,
            ExitStatus::Exited(3) => Self::BadAnswer,
            ExitStatus::Exited(_) => Self::Unknown,
        }
    }

    const fn code(self) -> i32 {
        match self {
            Self::Healthy => 0,
            Self::Refused => 1,
            Self::TimedOut => 2,
            Self::BadAnswer => 3,
            Self::Unknown => 4,
        }
    }
}

/// The device's `nobody`: owns nothing.
const NOBODY: u32 = 65_534;

impl Engine {
    /// Probes the container of `plan` whose process is `pidfd`. The child ends within `timeout`; its
    /// exit status is an [`Outcome`]. The caller reaps it.
    ///
    /// # Errors
    /// Stage `Clone`.
    pub fn probe(
        &self,
        plan: &Plan,
        pidfd: BorrowedFd<'_>,
        probe: Probe<'_>,
        timeout: Duration,
    ) -> Result<Child, SpawnError> {
        let (port, request) = match probe {
            Probe::Tcp { port } => (port, None),
            Probe::Http { port, path } => (port, Some(request(port, path))),
        };
        let namespace = plan.network.is_own().then_some(pidfd);
        let child = clone::spawn(Namespaces::NONE, None, || {
            let deadline = Instant::now() + timeout;
            let outcome = match confine(namespace) {
                Ok(()) => judge(port, request.as_deref(), deadline),
                Err(_) => Outcome::Unknown,
            };
            outcome.code()
        });
        Ok(child.at(Stage::Clone, &plan.name)?)
    }
}

fn request(port: u16, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: kedge\r\nConnection: close\r\n\r\n"
    )
}

/// Enters the network namespace and gives up everything else.
fn confine(namespace: Option<BorrowedFd<'_>>) -> SysResult<()> {
    set_dumpable(false)?;
    if let Some(pidfd) = namespace {
        enter_namespaces_of(pidfd, Namespaces::NETWORK)?;
    }
    // Whoever waits for PID 1 to close a connection must not have to wait for this probe, too.
    close_from(0)?;
    bound_capabilities(CapabilitySet::empty())?;
    set_groups(&[])?;
    set_group(NOBODY)?;
    set_user(NOBODY)?;
    set_no_new_privs()
}

fn judge(port: u16, request: Option<&str>, deadline: Instant) -> Outcome {
    match talk(port, request, deadline) {
        Ok(true) => Outcome::Healthy,
        Ok(false) => Outcome::BadAnswer,
        // Of a socket with a timeout: `EINPROGRESS` by connect, `EAGAIN` by the others.
        Err(Errno::AGAIN | Errno::INPROGRESS | Errno::TIMEDOUT) => Outcome::TimedOut,
        // The machine has none left to give.
        Err(Errno::NOMEM | Errno::NOBUFS | Errno::NFILE) => Outcome::Unknown,
        Err(_) => Outcome::Refused,
    }
}

/// Connects; sends the request, if there is one; whether the answer is good.
fn talk(port: u16, request: Option<&str>, deadline: Instant) -> Result<bool, Errno> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    limit(&socket, deadline)?;
    connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    let Some(request) = request else {
        return Ok(true);
    };
    let mut rest = request.as_bytes();
    while !rest.is_empty() {
        let sent = send(&socket, rest, SendFlags::NOSIGNAL)?;
        rest = rest.get(sent..).unwrap_or_default();
    }
    let mut line = [0_u8; STATUS_LINE];
    let mut filled = 0_usize;
    while let Some(room) = line.get_mut(filled..).filter(|room| !room.is_empty()) {
        limit(&socket, deadline)?;
        match recv(&socket, room, RecvFlags::empty())? {
            (0, _) => break,
            (length, _) => filled = filled.saturating_add(length),
        }
    }
    Ok(good_status(&line))
}

/// Bytes of a status line up to its code: `HTTP/1.1 200`.
const STATUS_LINE: usize = 12;

fn good_status(line: &[u8; STATUS_LINE]) -> bool {
    let code = line.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..));
    matches!(code, Some([b'2' | b'3', b'0'..=b'9', b'0'..=b'9']))
}

/// Has calls on the socket return by the deadline.
fn limit(socket: &OwnedFd, deadline: Instant) -> Result<(), Errno> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Errno::TIMEDOUT);
    }
    set_socket_timeout(socket, Timeout::Send, Some(left))?;
    set_socket_timeout(socket, Timeout::Recv, Some(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_success_and_redirection_are_good() {
        for good in [b"HTTP/1.1 200", b"HTTP/1.0 204", b"HTTP/1.1 301"] {
            assert!(good_status(good));
        }
        for bad in [
            b"HTTP/1.1 404",
            b"HTTP/1.1 500",
            b"HTTP/2.0 200",
            b"SSH-2.0-Open",
        ] {
            assert!(!good_status(bad));
        }
    }

    #[test]
    fn outcomes_cross_the_exit_status() {
        use Outcome::{BadAnswer, Healthy, Refused, TimedOut, Unknown};
        for outcome in [Healthy, Refused, TimedOut, BadAnswer, Unknown] {
            assert_eq!(Outcome::of(ExitStatus::Exited(outcome.code())), outcome);
        }
    }
}
