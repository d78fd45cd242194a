//! Where the parts of the boot record are in its partition, and what must be erased before one of them is written.
//!
//! | part | on a disk | on raw flash |
//! |---|---|---|
//! | loader record, first and second copy | 0, 4 KiB | erase blocks 0 and 1 |
//! | state record, first and second copy | 8 KiB, 12 KiB | erase blocks 2 and 3 |
//! | text of `last_resort` | 64 KiB | from erase block 4 on, as many as it takes |
//!
//! A disk takes a sector in place. Flash does not: a write only clears bits, and what sets them again is an erase, of a whole
//! block at a time. A cut in between leaves of that block whatever it leaves. So on flash each copy has a block of its own,
//! and nobody's bytes are lost but those that were to be replaced. Erased bytes are ones, which are no record.
//!
//! It is pure; [`super::Bootenv`] reads and writes. Who does the erasing is the device's matter: a disk and the kernel's
//! `mtdblock` take ones for it.

use super::Side;

/// Bytes of a copy ([`crate::record::COPY`]).
const COPY_SIZE: u64 = 4096;
/// Bytes of the longest text of `last_resort` ([`super::LAST_RESORT_TEXT`]) and its header.
const TEXT_SIZE: u64 = 32 * 1024 + 16;

/// A part of the boot record that is written by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// A copy of the loader record.
    Loader(Side),
    /// A copy of the state record.
    State(Side),
    /// The text of `last_resort` behind its header.
    LastResort,
}

/// The size of an erase block: a power of two from 4 KiB, which a copy needs, to 1 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EraseBlock {
    bits: u8,
}

impl EraseBlock {
    /// Of this many bytes; none: it is no size of an erase block.
    #[must_use]
    pub fn new(bytes: u32) -> Option<Self> {
        let fits = bytes.is_power_of_two() && (1 << 12..=1 << 20).contains(&bytes);
        let bits = u8::try_from(bytes.trailing_zeros()).ok()?;
        fits.then_some(Self { bits })
    }

    /// Its size, bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        1 << self.bits
    }

    fn size(self) -> u64 {
        u64::from(self.bytes())
    }
}

/// How a partition `bootenv` is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// On a disk, which writes sectors in place.
    #[default]
    Sectors,
    /// On raw flash with erase blocks of this size.
    EraseBlocks(EraseBlock),
}

/// What a device does for a part to be written, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// Sets this many bytes to ones: whole erase blocks.
    Erase {
        /// Byte offset in the partition.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Writes these bytes.
    Write {
        /// Byte offset in the partition.
        offset: u64,
        /// What is written.
        bytes: &'a [u8],
    },
}

impl Layout {
    /// Where a part begins, bytes from the partition's beginning.
    #[must_use]
    pub fn offset(self, part: Part) -> u64 {
        let number = match part {
            Part::Loader(side) => side.of([0, 1]),
            Part::State(side) => side.of([2, 3]),
            Part::LastResort => 4,
        };
        match (self, part) {
            (Self::Sectors, Part::LastResort) => 64 * 1024,
            (Self::Sectors, Part::Loader(_) | Part::State(_)) => COPY_SIZE.saturating_mul(number),
            (Self::EraseBlocks(block), _) => block.size().saturating_mul(number),
        }
    }

    /// Bytes of the smallest partition that holds everything.
    #[must_use]
    pub fn minimum(self) -> u64 {
        let last = Part::LastResort;
        self.offset(last).saturating_add(self.span(last))
    }

    /// What must be erased before the part is written; none where a write needs none.
    #[must_use]
    pub fn erase(self, part: Part) -> Option<Step<'static>> {
        match self {
            Self::Sectors => None,
            Self::EraseBlocks(_) => Some(Step::Erase {
                offset: self.offset(part),
                length: self.span(part),
            }),
        }
    }

    /// How the part is given these bytes, from its beginning on.
    pub fn steps<'a>(self, part: Part, bytes: &'a [u8]) -> impl Iterator<Item = Step<'a>> {
        let offset = self.offset(part);
        self.erase(part)
            .into_iter()
            .chain([Step::Write { offset, bytes }])
    }

    /// Bytes that are the part's own.
    fn span(self, part: Part) -> u64 {
        let size = match part {
            Part::Loader(_) | Part::State(_) => COPY_SIZE,
            Part::LastResort => TEXT_SIZE,
        };
        match self {
            Self::Sectors => size,
            Self::EraseBlocks(block) => size.next_multiple_of(block.size()),
        }
    }
}

#[cfg(test)]
mod tests;
