//! Logs: what containers, the kernel and PID 1 say, kept in bounded rings on its way to disk and readers.
//!
//! Everything here is pure: bytes and times come in, records and batches go out. The reactor reads
//! pipes and `/dev/kmsg`, the disk helper writes segments. Nothing here blocks, and nothing grows
//! with what is said: a ring has one size, a torn line is cut at [`MAX_TEXT`], a source that talks
//! too fast is cut short and told so in its own log, and a reader or disk that is too slow loses
//! the oldest records and is told how many.

mod batch;
mod journal;
mod kmsg;
mod limit;
mod lines;
mod ring;
mod rings;

pub use batch::{BadBatch, Batch, Entry, LogLine};
pub use journal::{BATCH_AFTER_MS, BATCH_BYTES, Journal};
pub use kmsg::{KernelRecord, KmsgError};
pub use limit::{Bucket, Verdict};
pub use lines::Lines;
pub use ring::Record;
pub use rings::{Next, Position, Rings};

use serde::{Deserialize, Serialize};

/// Longest text of one record, bytes; longer lines become several records.
pub const MAX_TEXT: usize = 4096;

/// Who said something: an index into [`Journal::sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceId(pub u8);

impl SourceId {
    /// PID 1 and its helpers.
    pub const KEDGE: Self = Self(0);
    /// The kernel.
    pub const KERNEL: Self = Self(1);
    /// The first container's; 64 containers and some that were replaced at run time fit.
    pub const FIRST_CONTAINER: Self = Self(2);
}

/// Where a container said it, or how grave a message of the kernel or of PID 1 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Stream {
    /// A container's standard output.
    Out = 0,
    /// A container's standard error.
    Err = 1,
    /// Kernel levels 0 to 3 (syslog(2)).
    Error = 2,
    /// Kernel level 4.
    Warning = 3,
    /// Kernel levels 5 and 6.
    Notice = 4,
    /// Kernel level 7.
    Debug = 5,
}

impl Stream {
    /// From its number in a ring or frame.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Out,
            1 => Self::Err,
            2 => Self::Error,
            3 => Self::Warning,
            4 => Self::Notice,
            5 => Self::Debug,
            _ => return None,
        })
    }

    /// Its number in a ring or frame.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// From a kernel level (syslog(2)).
    #[must_use]
    pub const fn from_level(level: u8) -> Self {
        match level {
            0..=3 => Self::Error,
            4 => Self::Warning,
            5 | 6 => Self::Notice,
            _ => Self::Debug,
        }
    }
}
