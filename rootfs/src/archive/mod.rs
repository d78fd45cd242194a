//! The tar format: a reader with limits, and a writer that always writes the same bytes.
//!
//! The reader takes headers apart with the `tar` crate, but walks members, PAX records and sparse maps itself, because the crate
//! holds a PAX header or a long name of any size in memory. Where the size in a PAX record and in the header disagree the PAX
//! record holds, as everywhere; the file's data is never looked at twice. Global PAX headers are skipped, as Docker does.

mod pax;
mod read;
mod sparse;
mod write;

pub(crate) use read::{Kind, Member, Mtime, Sink, TarReader};
pub(crate) use write::{Fields, TarWriter};

/// Block of a tar: headers are one, contents are padded to whole ones.
pub(crate) const BLOCK: usize = 512;
