//! Sparse files: GNU's old header (`S`) and PAX 1.0 (GNU tar manual, "Storing Sparse Files").
//!
//! A map is a list of (offset, length) with data; the rest are zeros. Maps are checked here once: in order, no overlap, inside the
//! file, and exactly as long as the data that is stored.

use super::pax::decimal;
use crate::error::TarFault;

/// Where the stored bytes belong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SparseMap(Vec<(u64, u64)>);

/// More pieces than any file system makes of a file that fits the bounds; each costs 16 bytes.
const MAX_PIECES: usize = 65_536;

impl SparseMap {
    /// Checks pieces against the file's size and the number of bytes stored.
    pub(crate) fn checked(
        pieces: Vec<(u64, u64)>,
        size: u64,
        stored: u64,
    ) -> Result<Self, TarFault> {
        let mut end = 0;
        let mut sum = 0_u64;
        for (offset, length) in &pieces {
            if *offset < end {
                return Err(TarFault::SparseMap);
            }
            end = offset.checked_add(*length).ok_or(TarFault::SparseMap)?;
            sum = sum.checked_add(*length).ok_or(TarFault::SparseMap)?;
        }
        if end > size || sum != stored || pieces.len() > MAX_PIECES {
            return Err(TarFault::SparseMap);
        }
        Ok(Self(pieces))
    }

    pub(crate) fn pieces(&self) -> &[(u64, u64)] {
        &self.0
    }
}

/// Parses the map of PAX 1.0 as far as `text` goes: a count, then offset and length of each piece, a line each.
/// `None` asks for more text; otherwise the pieces, and the caller skips to the end of the block.
pub(crate) fn parse_v1(text: &[u8]) -> Result<Option<Vec<(u64, u64)>>, TarFault> {
    let mut lines = text.split(|b| *b == b'\n');
    // What follows the last newline is not a whole line yet.
    let whole = text.iter().filter(|b| **b == b'\n').count();
    if whole == 0 {
        return if text.len() > 32 {
            Err(TarFault::SparseMap)
        } else {
            Ok(None)
        };
    }
    let count = decimal(lines.next().unwrap_or_default())?;
    let count = usize::try_from(count)
        .ok()
        .filter(|c| *c <= MAX_PIECES)
        .ok_or(TarFault::SparseMap)?;
    if whole < 1 + 2 * count {
        return Ok(None);
    }
    let mut pieces = Vec::with_capacity(count);
    for _ in 0..count {
        let offset = decimal(lines.next().unwrap_or_default())?;
        let length = decimal(lines.next().unwrap_or_default())?;
        if length != 0 {
            pieces.push((offset, length));
        }
    }
    Ok(Some(pieces))
}

/// Room check while the old header's extension blocks are read.
pub(crate) fn push(pieces: &mut Vec<(u64, u64)>, offset: u64, length: u64) -> Result<(), TarFault> {
    if pieces.len() >= MAX_PIECES {
        return Err(TarFault::SparseMap);
    }
    if length != 0 {
        pieces.push((offset, length));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_sparse_pieces() {
        assert!(SparseMap::checked(vec![(0, 10), (5, 10)], 20, 20).is_err());
        assert!(SparseMap::checked(vec![(0, 10)], 5, 10).is_err());
        assert!(SparseMap::checked(vec![(u64::MAX, 2)], u64::MAX, 2).is_err());
        assert!(SparseMap::checked(vec![(3, 2), (8, 1)], 20, 3).is_ok());
    }

    #[test]
    fn map_before_the_data() {
        assert_eq!(parse_v1(b"1\n0\n").unwrap(), None);
        assert_eq!(
            parse_v1(b"2\n0\n5\n9\n0\n\0\0").unwrap(),
            Some(vec![(0, 5)])
        );
        assert!(parse_v1(b"9999999\n").is_err());
        assert!(parse_v1(b"-1\n").is_err());
    }
}
