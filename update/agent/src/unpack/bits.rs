//! Bits of a block, forwards and backwards (RFC 8878, sections 4.1 and 4.2).

use super::Damaged;

/// `count` bits from bit `at` on, of bytes whose lowest bits come first; what is beyond the end is zero. At most 32.
fn bits(bytes: &[u8], at: usize, count: u32) -> u64 {
    let first = at / 8;
    let word = match bytes.get(first..).and_then(<[u8]>::first_chunk) {
        Some(eight) => u64::from_le_bytes(*eight),
        None => {
            let rest = bytes.get(first..).unwrap_or_default();
            let bytes = rest.iter().rev();
            bytes.fold(0, |word, byte| word << 8 | u64::from(*byte))
        }
    };
    let mask = (1_u64 << count).wrapping_sub(1);
    word >> (at % 8) & mask
}

/// Read from the first bit on.
#[derive(Debug)]
pub(super) struct Forward<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Forward<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next bits, which stay.
    pub(super) fn peek(&self, count: u32) -> u64 {
        bits(self.bytes, self.at, count)
    }

    /// Passes over bits.
    pub(super) fn skip(&mut self, count: u32) {
        self.at = self.at.saturating_add(usize::try_from(count).unwrap_or(0));
    }

    pub(super) fn read(&mut self, count: u32) -> u64 {
        let value = self.peek(count);
        self.skip(count);
        value
    }

    /// Whole bytes that were begun.
    pub(super) fn bytes(&self) -> Result<usize, Damaged> {
        let begun = self.at.div_ceil(8);
        if begun > self.bytes.len() {
            return Err(Damaged("a table that has no end"));
        }
        Ok(begun)
    }
}

/// Read from the last bit on: the highest one of the last byte says where that is.
#[derive(Debug)]
pub(super) struct Backward<'a> {
    bytes: &'a [u8],
    /// Bits that are left; below zero: so many were read that are not there.
    left: isize,
}

impl<'a> Backward<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, Damaged> {
        let last = bytes.last().copied().unwrap_or(0);
        // What comes is at most a block.
        let all = isize::try_from(bytes.len().saturating_mul(8)).unwrap_or(0);
        let padding = isize::try_from(last.leading_zeros()).unwrap_or(0);
        if last == 0 {
            return Err(Damaged("bits without an end"));
        }
        let left = all.saturating_sub(padding).saturating_sub(1);
        Ok(Self { bytes, left })
    }

    /// The next bits, the one that comes first the highest; where there are fewer, zeros follow.
    pub(super) fn peek(&self, count: u32) -> u64 {
        let wanted = isize::try_from(count).unwrap_or(0);
        let from = self.left.saturating_sub(wanted);
        match usize::try_from(from) {
            Ok(from) => bits(self.bytes, from, count),
            Err(_) => {
                let there = u32::try_from(self.left.max(0)).unwrap_or(0);
                let absent = count.saturating_sub(there);
                bits(self.bytes, 0, there) << absent
            }
        }
    }

    pub(super) fn skip(&mut self, count: u32) {
        let count = isize::try_from(count).unwrap_or(0);
        self.left = self.left.saturating_sub(count);
    }

    pub(super) fn read(&mut self, count: u32) -> u64 {
        let value = self.peek(count);
        self.skip(count);
        value
    }

    /// Whether more were read than there are.
    pub(super) const fn is_over(&self) -> bool {
        self.left < 0
    }

    /// All were read, and no more.
    pub(super) const fn end(&self) -> Result<(), Damaged> {
        if self.left == 0 {
            Ok(())
        } else {
            Err(Damaged("bits that nobody reads, or too few"))
        }
    }
}
