//! What a loader of Kedge decides, for all of them: the one that the host plays, the one for UEFI (`board-support/efi`), and
//! the model check. U-Boot's script does the same in its own language.
//!
//! | module | holds |
//! |---|---|
//! | [`record`] | the loader record: its format, and which copy to believe |
//! | [`plan`] | from both copies: the slots to start, what to tell their kernels, the record to write before |
//! | [`gpt`] | where the partitions of a disk are, from its partition table |
//! | [`program`] | where the parts of a kernel go in memory |
//! | [`statement`] | which files of a slot belong together, as firmware with Secure Boot can verify it |
//!
//! No I/O, no allocation, no standard library, no dependency: it runs before there is a system.

#![no_std]

#[cfg(test)]
extern crate std;

mod fields;
pub mod gpt;
pub mod plan;
pub mod program;
pub mod record;
pub mod statement;

pub use plan::{Plan, Word};
pub use record::Loader;

use core::fmt;

/// Why a copy of the loader record does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Fewer bytes than a copy has.
    Short {
        /// Bytes that were there.
        length: usize,
    },
    /// The checksum is not that of the bytes: torn, erased or damaged.
    Checksum,
    /// The checksum holds, but a field has a value that nothing of ours writes.
    Field {
        /// Its name.
        field: &'static str,
    },
}

/// One of two copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The copy that comes first on disk.
    First,
    /// The other one.
    Second,
}

impl Side {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    /// The one of two things that is this side's.
    pub const fn of<T: Copy>(self, [first, second]: [T; 2]) -> T {
        match self {
            Self::First => first,
            Self::Second => second,
        }
    }
}

/// Bytes of one copy of either record. 4 KiB is the block of every disk we meet: no copy shares one with another.
pub const COPY: usize = 4096;

/// Where the loader finds a kernel and an initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The partition `slot-a`.
    A,
    /// The partition `slot-b`.
    B,
}

impl Slot {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The letter in the loader record and in `kedge.slot=`.
    #[must_use]
    pub const fn letter(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// The name of its partition.
    #[must_use]
    pub const fn partition(self) -> &'static str {
        match self {
            Self::A => "slot-a",
            Self::B => "slot-b",
        }
    }

    /// The slot of a letter.
    #[must_use]
    pub fn from_letter(letter: &str) -> Option<Self> {
        match letter {
            "a" => Some(Self::A),
            "b" => Some(Self::B),
            _ => None,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.letter())
    }
}

/// CRC-32 of ISO 3309 (reflected, polynomial 0xEDB88320), as zlib and U-Boot compute it.
///
/// By table: four copies are checked at each boot, and bit by bit they would take half a millisecond.
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    let mut crc = u32::MAX;
    for byte in bytes {
        let [low, ..] = crc.to_le_bytes();
        let entry = TABLE
            .get(usize::from(low ^ byte))
            .copied()
            .unwrap_or_default();
        crc = entry ^ (crc >> 8);
    }
    !crc
}

#[allow(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler, which refuses an index that is out of bounds"
)]
const fn table() -> [u32; 256] {
    let mut table = [0_u32; 256];
    let mut value = 0_u32;
    let mut index = 0_usize;
    while index < 256 {
        let mut entry = value;
        let mut bit = 0;
        while bit < 8 {
            entry = if entry & 1 == 1 {
                0xEDB8_8320 ^ (entry >> 1)
            } else {
                entry >> 1
            };
            bit += 1;
        }
        table[index] = entry;
        index += 1;
        value += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), 0);
    }
}
