//! The literals of a block: raw, repeated, or in a Huffman code (RFC 8878, sections 3.1.1.3.1 and 4.2).

use super::bits::Backward;
use super::fse::Table;
use super::{BLOCK, Damaged};

/// Longest code, bits.
const LONGEST: u32 = 11;
/// Bits of a table of weights at most.
const WEIGHTS_LOG: u32 = 6;
/// Weights: none is above [`LONGEST`] + 1.
const WEIGHTS: usize = 13;

/// A Huffman code: by the next bits, a symbol and how many of them are its.
#[derive(Debug, Clone, Default)]
pub(super) struct Code {
    entries: Vec<(u8, u8)>,
    longest: u32,
}

/// Parts of a block.
type Parts<'a> = (&'a [u8], &'a [u8]);

pub(super) fn split(bytes: &[u8], at: usize) -> Result<Parts<'_>, Damaged> {
    bytes
        .split_at_checked(at)
        .ok_or(Damaged("a block that is cut short"))
}

/// Reads the section of literals into `out`; what comes behind it. `code` stays for blocks that repeat it.
pub(super) fn read<'a>(
    block: &'a [u8],
    code: &mut Code,
    out: &mut Vec<u8>,
) -> Result<&'a [u8], Damaged> {
    out.clear();
    let number = |bytes: &[u8]| {
        let bytes = bytes.iter().rev();
        bytes.fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let first = block.first().copied().unwrap_or(0);
    let (kind, format) = (first & 3, first >> 2 & 3);
    let packed = kind >= 2;
    // Bytes of the header, where its sizes begin, bits of each, streams.
    let (header, shift, bits, streams) = match (packed, format) {
        (false, 0 | 2) => (1, 3, 5, 1),
        (false, 1) => (2, 4, 12, 1),
        (false, _) => (3, 4, 20, 1),
        (true, 0) => (3, 4, 10, 1),
        (true, 1) => (3, 4, 10, 4),
        (true, 2) => (4, 4, 14, 4),
        (true, _) => (5, 4, 18, 4),
    };
    let (head, rest) = split(block, header)?;
    let sizes = number(head) >> shift;
    let mask = (1_u64 << bits) - 1;
    let size = usize::try_from(sizes & mask).unwrap_or(usize::MAX);
    if size > BLOCK {
        return Err(Damaged("too many literals"));
    }
    if !packed {
        let (literals, rest) = split(rest, if kind == 0 { size } else { 1 })?;
        match literals {
            [one] if kind == 1 => out.resize(size, *one),
            literals => out.extend_from_slice(literals),
        }
        return Ok(rest);
    }
    let length = usize::try_from(sizes >> bits & mask).unwrap_or(usize::MAX);
    let (mut section, rest) = split(rest, length)?;
    if kind == 2 {
        section = code.read(section)?;
    } else if code.entries.is_empty() {
        return Err(Damaged("a code that nobody gave"));
    }
    if streams == 1 {
        code.stream(section, size, out)?;
        return Ok(rest);
    }
    let (jumps, mut streams) = split(section, 6)?;
    let each = size.div_ceil(4);
    let mut left = size;
    for jump in jumps.chunks(2) {
        let length = usize::try_from(number(jump)).unwrap_or(usize::MAX);
        let (stream, others) = split(streams, length)?;
        code.stream(stream, each, out)?;
        left = left.checked_sub(each).ok_or(Damaged("too few literals"))?;
        streams = others;
    }
    code.stream(streams, left, out)?;
    Ok(rest)
}

impl Code {
    /// Reads the description of a code; what comes behind it.
    fn read<'a>(&mut self, section: &'a [u8]) -> Result<&'a [u8], Damaged> {
        let (head, rest) = split(section, 1)?;
        let head = usize::from(head.first().copied().unwrap_or(0));
        let mut weights = Vec::with_capacity(256);
        let rest = match head.checked_sub(127) {
            Some(count) if count > 0 => {
                let (bytes, rest) = split(rest, count.div_ceil(2))?;
                weights.extend(bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]));
                weights.truncate(count);
                rest
            }
            _ => {
                let (bytes, rest) = split(rest, head)?;
                packed_weights(bytes, &mut weights)?;
                rest
            }
        };
        self.build(&mut weights)?;
        Ok(rest)
    }

    fn build(&mut self, weights: &mut Vec<u8>) -> Result<(), Damaged> {
        let wrong = Damaged("weights that are no code");
        let part = |weight: u8| match weight {
            0 => Some(0),
            weight => 1_usize.checked_shl(u32::from(weight) - 1),
        };
        let mut sum = 0_usize;
        for weight in &*weights {
            let part = part(*weight).filter(|_| usize::from(*weight) < WEIGHTS);
            sum = sum.saturating_add(part.ok_or(wrong)?);
        }
        let longest = sum.checked_ilog2().ok_or(wrong)? + 1;
        if longest > LONGEST || weights.len() > 255 {
            return Err(wrong);
        }
        let size = 1_usize << longest;
        // The last symbol has what is left.
        let left = size.checked_sub(sum).filter(|left| left.is_power_of_two());
        let last = left.ok_or(wrong)?.ilog2() + 1;
        weights.push(u8::try_from(last).map_err(|_| wrong)?);
        self.entries.clear();
        self.longest = longest;
        for weight in 1..=longest {
            let bits = u8::try_from(longest + 1 - weight).map_err(|_| wrong)?;
            for (symbol, has) in (0..=u8::MAX).zip(&*weights) {
                if u32::from(*has) == weight {
                    let end = self.entries.len() + (1 << (weight - 1));
                    self.entries.resize(end, (symbol, bits));
                }
            }
        }
        if self.entries.len() == size {
            Ok(())
        } else {
            self.entries.clear();
            Err(wrong)
        }
    }

    /// Reads one stream of `count` symbols.
    fn stream(&self, stream: &[u8], count: usize, out: &mut Vec<u8>) -> Result<(), Damaged> {
        let mut input = Backward::new(stream)?;
        for _ in 0..count {
            let index = usize::try_from(input.peek(self.longest)).unwrap_or(usize::MAX);
            let found = self.entries.get(index).copied();
            let (symbol, bits) = found.ok_or(Damaged("bits that are no code"))?;
            input.skip(u32::from(bits));
            out.push(symbol);
        }
        input.end()
    }
}

/// Weights by finite state entropy: two states by turns, until the bits are at their end.
fn packed_weights(bytes: &[u8], weights: &mut Vec<u8>) -> Result<(), Damaged> {
    let (table, used) = Table::read(bytes, WEIGHTS, WEIGHTS_LOG)?;
    let mut input = Backward::new(bytes.get(used..).unwrap_or_default())?;
    let mut one = table.begin(&mut input);
    let mut other = table.begin(&mut input);
    if input.is_over() {
        return Err(Damaged("too few weights"));
    }
    while weights.len() < 255 {
        weights.push(one.symbol);
        one = table.next(one, &mut input);
        if input.is_over() {
            weights.push(other.symbol);
            return Ok(());
        }
        core::mem::swap(&mut one, &mut other);
    }
    Err(Damaged("too many weights"))
}
