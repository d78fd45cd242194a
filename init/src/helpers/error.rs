//! What goes wrong in a helper.

use core::fmt;
use kedge_sys::Errno;
use std::path::PathBuf;

/// A frame that is not as described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameError;

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("malformed frame")
    }
}

impl core::error::Error for FrameError {}

/// What ends a helper, or what it reports.
#[derive(Debug)]
pub enum Error {
    /// The socket to PID 1.
    Socket(kedge_sys::Error),
    /// PID 1 sent nonsense.
    Frame(FrameError),
    /// Privilege could not be given up.
    Privilege(kedge_sys::Error),
    /// A file or directory: what was done, where, why.
    File {
        /// As in "cannot … path".
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The device holds no ext4 where one was expected.
    NotExt4 {
        /// Which.
        path: PathBuf,
    },
    /// Growing the file system.
    Grow(kedge_sys::Error),
    /// What was read is not what was written.
    ReadBack {
        /// Which file.
        path: PathBuf,
    },
    /// A slot cannot be laid out.
    Slot(kedge_board_support::Error),
    /// A slot holds something else than what was written.
    SlotReadBack {
        /// What of it.
        what: String,
        /// The partition.
        path: PathBuf,
    },
    /// The copy of a volume is over its bound.
    CopyTooLarge {
        /// The volume.
        path: PathBuf,
        /// Of what there is too much, as in "more than 5 bytes".
        what: &'static str,
        /// How much there may be.
        most: u64,
    },
    /// The kernel's network configuration.
    Netlink(kedge_sys::Error),
    /// One setting of an interface was refused.
    Interface {
        /// Which.
        name: String,
        /// The setting, as in "cannot … eth0".
        doing: &'static str,
        /// Why.
        errno: Errno,
    },
}

impl Error {
    /// The errno behind it, for frames; `EIO` where there is none.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Socket(source)
            | Self::Privilege(source)
            | Self::Grow(source)
            | Self::Netlink(source) => source.errno,
            Self::File { source, .. } => Errno::from_io_error(source).unwrap_or(Errno::IO),
            Self::Interface { errno, .. } => *errno,
            Self::Frame(_) | Self::NotExt4 { .. } => Errno::INVAL,
            Self::Slot(_) | Self::CopyTooLarge { .. } => Errno::NOSPC,
            Self::ReadBack { .. } | Self::SlotReadBack { .. } => Errno::IO,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(_) => f.write_str("cannot talk with PID 1"),
            Self::Frame(error) => write!(f, "PID 1 sent a {error}"),
            Self::Privilege(_) => f.write_str("cannot give privilege up"),
            Self::File { doing, path, .. } => write!(f, "cannot {doing} {}", path.display()),
            Self::NotExt4 { path } => write!(f, "{} holds no ext4", path.display()),
            Self::Grow(_) => f.write_str("cannot grow the file system"),
            Self::ReadBack { path } => {
                write!(f, "{} reads back other than written", path.display())
            }
            Self::Slot(_) => f.write_str("cannot lay the slot out"),
            Self::SlotReadBack { what, path } => {
                write!(
                    f,
                    "{what} of {} reads back other than written",
                    path.display()
                )
            }
            Self::CopyTooLarge { path, what, most } => {
                write!(
                    f,
                    "a copy of {} has more than {most} {what}",
                    path.display()
                )
            }
            Self::Netlink(_) => f.write_str("cannot ask the kernel about interfaces"),
            Self::Interface { name, doing, .. } => write!(f, "cannot {doing} {name}"),
        }
    }
}

impl core::error::Error for Error {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Socket(source)
            | Self::Privilege(source)
            | Self::Grow(source)
            | Self::Netlink(source) => Some(source),
            Self::File { source, .. } => Some(source),
            Self::Interface { errno, .. } => Some(errno),
            Self::Slot(source) => Some(source),
            Self::Frame(_)
            | Self::NotExt4 { .. }
            | Self::ReadBack { .. }
            | Self::CopyTooLarge { .. }
            | Self::SlotReadBack { .. } => None,
        }
    }
}
