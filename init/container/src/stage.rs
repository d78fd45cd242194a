//! What can fail on the way to a running container, and how that is told.
//!
//! The parent's failures are returned; the child's come over its report socket. Both have the same
//! three parts: the [`Stage`], the errno, and the path or name that it was about.

use std::ffi::CStr;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};

use kedge_sys::Errno;
use kedge_sys::rustix::net::{SendFlags, send};
use kedge_sys::sock::{Received, receive_now};

/// Declares the stages once: their numbers on the wire follow their order here.
macro_rules! stages {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// A step on the way to a running container, in the order in which they happen.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Stage { $($(#[$doc])* $name,)+ }

        impl Stage {
            const ALL: &[Self] = &[$(Self::$name,)+];

            /// The stage in words.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

stages! {
    /// The engine's own directories and the shared device nodes.
    Prepare = "prepare",
    /// The container's cgroup and its limits.
    Cgroup = "cgroup",
    /// Pipes and sockets between PID 1 and the container.
    Pipes = "pipes",
    /// The process itself, in its namespaces.
    Clone = "clone",
    /// Ids of the user namespace.
    IdMap = "id map",
    /// Limits of the process.
    Limits = "limits",
    /// A layer's mount.
    Layer = "layer",
    /// The overlay of layers and writable directory.
    Overlay = "overlay",
    /// A volume's directory or mount, outside.
    Volume = "volume",
    /// The limit of what a volume or a root that is written to may take on disk.
    Quota = "quota",
    /// A file or directory of the device that the container sees.
    Bind = "bind",
    /// Mounts handed from parent to child.
    Handshake = "handshake",
    /// Namespaces of a running container.
    Join = "join",
    /// Back to the device's own process namespace, as the place where children are born. Whoever cannot go back must start
    /// nothing more: it would be born in a container.
    Return = "return",
    /// Becoming root of the user namespace.
    Identity = "identity",
    /// `/proc`.
    Proc = "proc",
    /// `/sys`.
    Sysfs = "sysfs",
    /// The new root.
    Root = "root",
    /// `/dev` and what is mounted in it.
    Devices = "devices",
    /// Masked and read-only paths.
    Mask = "mask",
    /// A volume's place inside.
    VolumeTarget = "volume target",
    /// The host name.
    HostName = "host name",
    /// The loopback interface.
    Loopback = "loopback",
    /// The interface in a pool, which somebody else puts into the namespace: `ETIMEDOUT` where nobody does.
    Interface = "interface",
    /// The fence behind the system call filter.
    Landlock = "Landlock",
    /// Standard input, output and error.
    Streams = "streams",
    /// Session, signals, descriptors.
    Session = "session",
    /// The working directory.
    WorkingDirectory = "working directory",
    /// User, groups, capabilities.
    Privileges = "privileges",
    /// The system call filter.
    Filter = "system call filter",
    /// The program.
    Execute = "execute",
}

impl Stage {
    /// The stage of a number on the wire.
    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A container, a command in it or a probe that was not started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpawnError {
    /// Where.
    pub stage: Stage,
    /// Why, in the kernel's words.
    pub errno: Errno,
    /// The path, file or name that it was about.
    pub path: String,
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.stage, self.path, self.errno)
    }
}

impl std::error::Error for SpawnError {}

/// The same, borrowed: for a child, which does not allocate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure<'a> {
    pub(crate) stage: Stage,
    pub(crate) errno: Errno,
    pub(crate) path: &'a CStr,
}

impl From<Failure<'_>> for SpawnError {
    fn from(failure: Failure<'_>) -> Self {
        Self {
            stage: failure.stage,
            errno: failure.errno,
            path: failure.path.to_string_lossy().into_owned(),
        }
    }
}

/// An error that comes down to an errno.
pub(crate) trait HasErrno {
    fn errno(&self) -> Errno;
}

impl HasErrno for Errno {
    fn errno(&self) -> Errno {
        *self
    }
}

impl HasErrno for kedge_sys::Error {
    fn errno(&self) -> Errno {
        self.errno
    }
}

/// Says of a failed call where it was and what it was about.
pub(crate) trait At<T> {
    fn at(self, stage: Stage, path: &CStr) -> Result<T, Failure<'_>>;
}

impl<T, E: HasErrno> At<T> for Result<T, E> {
    fn at(self, stage: Stage, path: &CStr) -> Result<T, Failure<'_>> {
        self.map_err(|error| Failure {
            stage,
            errno: error.errno(),
            path,
        })
    }
}

/// The message that a terminal's other side comes with.
pub(crate) const TERMINAL: &[u8] = b"t";
/// Bytes of a report: stage, errno, then as much of the path as fits.
const REPORT_BYTES: usize = 256;
/// Bytes of a report before its path.
const REPORT_HEAD: usize = 5;

/// What a child says about itself on its report socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The socket closed without a word: the program was executed, or the child was killed before,
    /// which its exit status tells.
    Executed,
    /// It could not be executed.
    Failed(SpawnError),
}

impl Report {
    /// Reads the report of a [`crate::Spawned`] without blocking; `None` while there is none.
    ///
    /// # Errors
    /// Those of `recv(2)`; `EBADMSG` for what no child of ours says.
    pub fn receive<Fd: AsFd>(socket: Fd) -> Result<Option<Self>, Errno> {
        Self::receive_with(socket, &mut None)
    }

    /// The same of a command with a terminal, whose other side may come before.
    ///
    /// # Errors
    /// As [`Report::receive`].
    pub fn receive_with<Fd: AsFd>(
        socket: Fd,
        terminal: &mut Option<OwnedFd>,
    ) -> Result<Option<Self>, Errno> {
        let mut buffer = [0_u8; REPORT_BYTES];
        let length = loop {
            match receive_now(socket.as_fd(), &mut buffer) {
                Ok(Received { bytes, descriptors }) => match descriptors.into_iter().next() {
                    Some(other_side) => *terminal = Some(other_side),
                    None => break bytes,
                },
                Err(error) => match error.errno {
                    Errno::AGAIN | Errno::INTR => return Ok(None),
                    // The child left with our message unread: it is gone, and its exit status says how.
                    Errno::CONNRESET => break 0,
                    errno => return Err(errno),
                },
            }
        };
        Self::parse(buffer.get(..length).unwrap_or_default())
            .map(Some)
            .ok_or(Errno::BADMSG)
    }

    /// A report from the bytes of its message; none at all is the end of the socket.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let Some((stage, rest)) = bytes.split_first() else {
            return Some(Self::Executed);
        };
        let (errno, path) = rest.split_first_chunk()?;
        let errno = u16::try_from(i32::from_le_bytes(*errno)).ok()?;
        Some(Self::Failed(SpawnError {
            stage: Stage::from_number(*stage)?,
            errno: Errno::from_raw_os_error(i32::from(errno)),
            path: String::from_utf8_lossy(path).into_owned(),
        }))
    }
}

/// Sends a child's failure to its parent. Nobody can be told if that fails, too.
pub(crate) fn report<Fd: AsFd>(socket: Fd, failure: &Failure<'_>) {
    let mut buffer = [0_u8; REPORT_BYTES];
    let length = encode(failure, &mut buffer);
    let message = buffer.get(..length).unwrap_or_default();
    send(socket, message, SendFlags::NOSIGNAL).ok();
}

/// Writes a failure into `buffer`; returns the bytes used.
fn encode(failure: &Failure<'_>, buffer: &mut [u8; REPORT_BYTES]) -> usize {
    let (head, tail) = buffer.split_at_mut(REPORT_HEAD);
    let errno = failure.errno.raw_os_error().to_le_bytes();
    for (to, from) in head
        .iter_mut()
        .zip(std::iter::once(failure.stage as u8).chain(errno))
    {
        *to = from;
    }
    let path = failure.path.to_bytes();
    for (to, from) in tail.iter_mut().zip(path) {
        *to = *from;
    }
    REPORT_HEAD.saturating_add(path.len()).min(REPORT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_crosses_the_socket() {
        let failure = Failure {
            stage: Stage::VolumeTarget,
            errno: Errno::ROFS,
            path: c"/data",
        };
        let mut buffer = [0; REPORT_BYTES];
        let length = encode(&failure, &mut buffer);
        let report = Report::parse(&buffer[..length]);
        assert_eq!(report, Some(Report::Failed(failure.into())));
        assert_eq!(Report::parse(&[]), Some(Report::Executed));
        assert_eq!(Report::parse(&[0, 1]), None);
        assert_eq!(Report::parse(&[255, 1, 0, 0, 0]), None);
    }

    #[test]
    fn a_long_path_is_cut() {
        let path = std::ffi::CString::new("x".repeat(4096)).unwrap();
        let failure = Failure {
            stage: Stage::Execute,
            errno: Errno::NAMETOOLONG,
            path: &path,
        };
        assert_eq!(encode(&failure, &mut [0; REPORT_BYTES]), REPORT_BYTES);
    }

    #[test]
    fn numbers_and_stages_agree() {
        for stage in Stage::ALL {
            assert_eq!(Stage::from_number(*stage as u8), Some(*stage));
        }
    }
}
