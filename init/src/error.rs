//! What can go wrong in PID 1: one variant an operation, each naming its thing.

use kedge_board_support::loading::gpt::Guid;
use kedge_board_support::record::Slot as BootSlot;
use kedge_revision::ObjectId;
use kedge_sys::Errno;
use std::fmt;
use std::path::PathBuf;

/// A problem that PID 1 met; shown on the console and over the control socket.
#[derive(Debug)]
pub enum Error {
    /// A system call on a file, device or mount point failed.
    File {
        /// What was being done, as `mount` or `read`.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// A system call without a path failed.
    Sys(kedge_sys::Error),
    /// A partition did not appear in time.
    MissingPartition {
        /// Its name in the partition table.
        name: &'static str,
        /// The one disk that may have it.
        disk: Option<Guid>,
        /// How long was waited, milliseconds.
        waited_ms: u64,
    },
    /// The disk in the initramfs was not unpacked as a whole.
    Memory {
        /// What it has, bytes.
        size: u64,
    },
    /// A document is not acceptable.
    Document {
        /// Where it stands.
        path: PathBuf,
        /// Why it was refused.
        source: kedge_revision::Error,
    },
    /// No root that this device trusts signed the revision.
    NoRoot {
        /// The revision.
        revision: ObjectId,
        /// Why the newest root refused it.
        source: kedge_revision::Error,
    },
    /// An object is not there, or is not what its name says.
    Object {
        /// The object.
        id: ObjectId,
        /// What is wrong.
        why: &'static str,
    },
    /// The boot record holds no valid copy.
    BootRecord {
        /// Which record.
        which: &'static str,
    },
    /// The boot record cannot be read or written.
    Record {
        /// What failed.
        source: kedge_board_support::Error,
    },
    /// Boot control wants no container to run.
    Repair {
        /// Why.
        why: &'static str,
    },
    /// The kernel lacks what the revision requires.
    Lacks {
        /// The word of `requires`.
        word: &'static str,
        /// What it stands for.
        what: &'static str,
    },
    /// A document of parameters is another one's.
    Parameters {
        /// The counter that was asked for.
        wanted: u64,
        /// The counter that the document has.
        found: u64,
    },
    /// The kernel was not told which slot it was loaded from, and the record does not say either.
    Slot,
    /// The firmware says that it has started a partition, and the slot was not written there.
    OtherPartition {
        /// The partition's number in the table; 0 from a firmware that does not tell.
        said: u32,
        /// Where the slot says that it was written; none if it says nothing.
        slot: Option<BootSlot>,
    },
}

impl Error {
    /// For `map_err` on calls that take a path.
    pub fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(Errno) -> Self {
        let path = path.into();
        move |errno| Self::File { doing, path, errno }
    }

    /// For `map_err` on calls of `std` that take a path.
    pub fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |error| Self::File {
            doing,
            path,
            errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        }
    }
}

impl From<kedge_sys::Error> for Error {
    fn from(error: kedge_sys::Error) -> Self {
        Self::Sys(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { doing, path, errno } => {
                write!(f, "{doing} {}: {errno}", path.display())
            }
            Self::Sys(error) => error.fmt(f),
            Self::MissingPartition {
                name,
                disk,
                waited_ms,
            } => {
                f.write_str("no disk")?;
                if let Some(disk) = disk {
                    write!(f, " with the loader's GUID {disk}")?;
                }
                write!(f, " has a partition named {name:?} (waited {waited_ms} ms)")
            }
            Self::Memory { size } => write!(
                f,
                "the disk of {size} bytes did not come into memory as a whole: there is too little of it, or the initramfs was cut off on its way"
            ),
            Self::Document { path, source } => {
                write!(f, "{}: {source}", path.display())?;
                cause(source, f)
            }
            Self::NoRoot { revision, source } => {
                write!(f, "no trusted root accepts revision {revision}: {source}")?;
                cause(source, f)
            }
            Self::Object { id, why } => write!(f, "object {id} {why}"),
            Self::BootRecord { which } => write!(f, "both copies of the {which} are damaged"),
            Self::Record { source } => source.fmt(f),
            Self::Repair { why } => f.write_str(why),
            Self::Lacks { word, what } => {
                write!(
                    f,
                    "the revision requires {word}, and this kernel has no {what}"
                )
            }
            Self::Parameters { wanted, found } => {
                write!(f, "parameters {wanted} are those of counter {found}")
            }
            Self::Slot => f.write_str("kernel argument kedge.slot is absent"),
            Self::OtherPartition { said, slot } => {
                write!(
                    f,
                    "the firmware says that it has started partition {said}, "
                )?;
                match slot {
                    Some(slot) => write!(f, "and what runs was written to slot {slot}"),
                    None => {
                        f.write_str("which is no slot, and what runs does not say where it lies")
                    }
                }
            }
        }
    }
}

/// What made a document unacceptable: the parser's own words. Console and status show one line an
/// error, and without these nobody could tell which field it is.
fn cause(error: &kedge_revision::Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match std::error::Error::source(error) {
        Some(cause) => write!(f, ": {cause}"),
        None => Ok(()),
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Document { source, .. } | Self::NoRoot { source, .. } => Some(source),
            Self::Sys(source) => Some(source),
            Self::Record { source } => Some(source),
            Self::Repair { .. }
            | Self::Lacks { .. }
            | Self::Parameters { .. }
            | Self::File { .. }
            | Self::MissingPartition { .. }
            | Self::Memory { .. }
            | Self::Object { .. }
            | Self::BootRecord { .. }
            | Self::Slot
            | Self::OtherPartition { .. } => None,
        }
    }
}
