//! The sequences of a block: how many literals come, and what is repeated behind them (RFC 8878, sections 3.1.1.3.2 and 3.1.1.4).

use super::Damaged;
use super::bits::Backward;
use super::fse::Table;
use super::literals::split;

/// Numbers from their codes on: the least of each code, and how many bits are added to it.
type Numbers = &'static [(u32, u8)];

/// From code 16 on of literals, from 32 on of matches; below, each code is a number.
const LITERALS: Numbers = &[
    (16, 1),
    (18, 1),
    (20, 1),
    (22, 1),
    (24, 2),
    (28, 2),
    (32, 3),
    (40, 3),
    (48, 4),
    (64, 6),
    (128, 7),
    (256, 8),
    (512, 9),
    (1024, 10),
    (2048, 11),
    (4096, 12),
    (8192, 13),
    (16384, 14),
    (32768, 15),
    (65536, 16),
];
const MATCHES: Numbers = &[
    (35, 1),
    (37, 1),
    (39, 1),
    (41, 1),
    (43, 2),
    (47, 2),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 5),
    (131, 7),
    (259, 8),
    (515, 9),
    (1027, 10),
    (2051, 11),
    (4099, 12),
    (8195, 13),
    (16387, 14),
    (32771, 15),
    (65539, 16),
];

/// What tables hold and are when nobody says: symbols, most bits, how often each is, of how many bits.
struct Known {
    symbols: usize,
    most: u32,
    usual: &'static [i16],
    log: u32,
}

const LITERAL_LENGTHS: Known = Known {
    symbols: 36,
    most: 9,
    usual: &[
        4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1,
        1, 1, -1, -1, -1, -1,
    ],
    log: 6,
};
const OFFSETS: Known = Known {
    symbols: 32,
    most: 8,
    usual: &[
        1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1,
    ],
    log: 5,
};
const MATCH_LENGTHS: Known = Known {
    symbols: 53,
    most: 9,
    usual: &[
        1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
    ],
    log: 6,
};

/// What stays from block to block of a frame.
#[derive(Debug)]
pub(super) struct Sequences {
    literals: Option<Table>,
    offsets: Option<Table>,
    matches: Option<Table>,
    /// The last three distances.
    last: [usize; 3],
}

impl Default for Sequences {
    fn default() -> Self {
        Self {
            literals: None,
            offsets: None,
            matches: None,
            last: [1, 4, 8],
        }
    }
}

/// Sets a table as its mode says; what comes behind its description.
fn set<'a>(
    table: &mut Option<Table>,
    known: &Known,
    mode: u8,
    section: &'a [u8],
) -> Result<&'a [u8], Damaged> {
    match mode & 3 {
        0 => {
            *table = Some(Table::new(known.usual, known.log)?);
            Ok(section)
        }
        1 => {
            let (symbol, rest) = split(section, 1)?;
            let symbol = symbol.first().copied().unwrap_or(0);
            if usize::from(symbol) >= known.symbols {
                return Err(Damaged("a code that is none"));
            }
            *table = Some(Table::constant(symbol));
            Ok(rest)
        }
        2 => {
            let (read, used) = Table::read(section, known.symbols, known.most)?;
            *table = Some(read);
            Ok(split(section, used)?.1)
        }
        _ if table.is_some() => Ok(section),
        _ => Err(Damaged("a table that nobody gave")),
    }
}

/// A number from its code and the bits behind it.
fn number(
    code: u8,
    (plain, least): (u8, u32),
    numbers: Numbers,
    input: &mut Backward<'_>,
) -> Result<usize, Damaged> {
    let number = match code.checked_sub(plain) {
        None => u64::from(code) + u64::from(least),
        Some(index) => {
            let (base, bits) = numbers
                .get(usize::from(index))
                .ok_or(Damaged("a code that is none"))?;
            u64::from(*base) + input.read(u32::from(*bits))
        }
    };
    usize::try_from(number).map_err(|_| Damaged("a number that is too large"))
}

impl Sequences {
    /// Puts the block together, behind what is in `out` already and within `size` bytes in all.
    pub(super) fn run(
        &mut self,
        section: &[u8],
        mut literals: &[u8],
        out: &mut Vec<u8>,
        size: usize,
    ) -> Result<(), Damaged> {
        let (count, section) = count(section)?;
        if count > 0 {
            let (modes, section) = split(section, 1)?;
            let modes = modes.first().copied().unwrap_or(0);
            let section = set(&mut self.literals, &LITERAL_LENGTHS, modes >> 6, section)?;
            let section = set(&mut self.offsets, &OFFSETS, modes >> 4, section)?;
            let section = set(&mut self.matches, &MATCH_LENGTHS, modes >> 2, section)?;
            if modes & 3 != 0 {
                return Err(Damaged("a mode that is none"));
            }
            self.sequences(count, section, &mut literals, out, size)?;
        } else if !section.is_empty() {
            return Err(Damaged("more than there is to read"));
        }
        append(out, literals, size)
    }

    fn sequences(
        &mut self,
        count: usize,
        section: &[u8],
        literals: &mut &[u8],
        out: &mut Vec<u8>,
        size: usize,
    ) -> Result<(), Damaged> {
        let Self {
            literals: Some(lengths),
            offsets: Some(offsets),
            matches: Some(matches),
            last,
        } = self
        else {
            return Err(Damaged("a table that nobody gave"));
        };
        let mut input = Backward::new(section)?;
        let mut length = lengths.begin(&mut input);
        let mut offset = offsets.begin(&mut input);
        let mut matched = matches.begin(&mut input);
        for left in (0..count).rev() {
            let power = u32::from(offset.symbol);
            let distance = (1_u64 << power.min(31)) + input.read(power.min(31));
            let again = number(matched.symbol, (32, 3), MATCHES, &mut input)?;
            let before = number(length.symbol, (16, 0), LITERALS, &mut input)?;
            if input.is_over() {
                return Err(Damaged("a sequence that is cut short"));
            }
            let distance = from(distance, before, last)?;
            let (these, others) = split(literals, before)?;
            *literals = others;
            append(out, these, size)?;
            repeat(out, distance, again, size)?;
            if left > 0 {
                length = lengths.next(length, &mut input);
                matched = matches.next(matched, &mut input);
                offset = offsets.next(offset, &mut input);
            }
        }
        input.end()
    }
}

/// How many sequences there are, and what comes behind that.
fn count(section: &[u8]) -> Result<(usize, &[u8]), Damaged> {
    let byte = |index: usize| usize::from(section.get(index).copied().unwrap_or(0));
    let (count, header) = match byte(0) {
        few @ 0..128 => (few, 1),
        255 => (byte(1) + (byte(2) << 8) + 0x7f00, 3),
        more => (((more - 128) << 8) + byte(1), 2),
    };
    Ok((count, split(section, header)?.1))
}

/// The distance that a value means, which may be one of the last three.
fn from(value: u64, literals: usize, last: &mut [usize; 3]) -> Result<usize, Damaged> {
    let [first, second, third] = *last;
    let distance = match (value, literals) {
        (1, 1..) => return Ok(first),
        (2, 1..) | (1, 0) => {
            *last = [second, first, third];
            return Ok(second);
        }
        (3, 1..) | (2, 0) => third,
        (3, 0) => first.saturating_sub(1),
        (value, _) => usize::try_from(value.saturating_sub(3)).unwrap_or(usize::MAX),
    };
    *last = [distance, first, second];
    if distance == 0 {
        return Err(Damaged("a distance of nothing"));
    }
    Ok(distance)
}

fn append(out: &mut Vec<u8>, bytes: &[u8], size: usize) -> Result<(), Damaged> {
    if bytes.len() > size.saturating_sub(out.len()) {
        return Err(Damaged("more than its frame has"));
    }
    out.extend_from_slice(bytes);
    Ok(())
}

/// Repeats what is `distance` bytes back, which may be less than what is repeated.
fn repeat(out: &mut Vec<u8>, distance: usize, count: usize, size: usize) -> Result<(), Damaged> {
    if count > size.saturating_sub(out.len()) {
        return Err(Damaged("more than its frame has"));
    }
    let far = Damaged("a distance before the frame");
    let start = out.len().checked_sub(distance).ok_or(far)?;
    let mut left = count;
    while left > 0 {
        let end = out.len().min(start.saturating_add(left));
        left = left.saturating_sub(end.saturating_sub(start));
        out.extend_from_within(start..end);
    }
    Ok(())
}
