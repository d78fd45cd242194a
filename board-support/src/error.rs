//! What can go wrong with a boot record. A caller tells a damaged copy (use the other one) from a disk that fails.

use core::fmt;
use kedge_sys::Errno;

/// Why a record was not read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Fewer bytes than a copy has.
    Short {
        /// Bytes that were there.
        length: usize,
    },
    /// The checksum is not that of the bytes: torn, erased or damaged.
    Checksum,
    /// It does not begin as this format does.
    Magic,
    /// A version that this code does not know.
    Version {
        /// The version found.
        version: u32,
    },
    /// The checksum holds, but a field has a value that nothing of ours writes.
    Field {
        /// Its name.
        field: &'static str,
    },
    /// More text than its area holds.
    TooLong {
        /// Bytes of the text.
        length: usize,
    },
    /// The partition could not be read.
    Read {
        /// Byte offset in the partition.
        offset: u64,
        /// What the kernel answered.
        errno: Errno,
    },
    /// The partition could not be written.
    Write {
        /// Byte offset in the partition.
        offset: u64,
        /// What the kernel answered.
        errno: Errno,
    },
    /// The loader record is to be in `autoboot.txt`, and no partition for it was opened.
    NoAutoboot,
    /// `autoboot.txt`, or the file system that it is in, is not what is written there.
    AutobootDamaged,
    /// `autoboot.txt` was written, and reads otherwise.
    AutobootLost,
    /// The state record that was written is not the one that is on the disk.
    StateLost,
    /// What was written did not reach the disk.
    Sync {
        /// What the kernel answered.
        errno: Errno,
    },
    /// A partition is too small for a slot's file system, whatever is in it.
    SlotSize {
        /// Its size, bytes.
        size: u64,
    },
    /// The files of a slot do not fit its partition.
    SlotFull {
        /// What they need, bytes.
        needed: u64,
        /// What there is for them, bytes.
        free: u64,
    },
    /// A slot cannot have this file: its name, its length or the number of files.
    SlotFile {
        /// Its place in the list.
        number: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { length } => write!(f, "boot record has only {length} bytes"),
            Self::Checksum => f.write_str("boot record has a wrong checksum"),
            Self::Magic => f.write_str("no boot record is there"),
            Self::Version { version } => write!(f, "boot record has the unknown version {version}"),
            Self::Field { field } => write!(f, "boot record has a bad field {field}"),
            Self::TooLong { length } => write!(
                f,
                "text of {length} bytes does not fit the partition bootenv"
            ),
            Self::Read { offset, errno } => write!(f, "reading bootenv at {offset}: {errno}"),
            Self::Write { offset, errno } => write!(f, "writing bootenv at {offset}: {errno}"),
            Self::StateLost => f.write_str("the state record is not what was written to it"),
            Self::AutobootDamaged => f.write_str("autoboot.txt or its file system is damaged"),
            Self::AutobootLost => f.write_str("autoboot.txt is not what was written to it"),
            Self::NoAutoboot => f.write_str("there is no partition for autoboot.txt"),
            Self::Sync { errno } => write!(f, "syncing bootenv: {errno}"),
            Self::SlotSize { size } => {
                write!(f, "{size} bytes are too few for a slot's file system")
            }
            Self::SlotFull { needed, free } => write!(
                f,
                "its files need {needed} bytes and {free} are there: {} are missing",
                needed.saturating_sub(*free)
            ),
            Self::SlotFile { number } => write!(f, "a slot cannot have file {number} of its list"),
        }
    }
}

impl std::error::Error for Error {}

impl From<kedge_loading::Damage> for Error {
    fn from(damage: kedge_loading::Damage) -> Self {
        match damage {
            kedge_loading::Damage::Short { length } => Self::Short { length },
            kedge_loading::Damage::Checksum => Self::Checksum,
            kedge_loading::Damage::Field { field } => Self::Field { field },
        }
    }
}
