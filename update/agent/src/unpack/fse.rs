//! Finite state entropy: tables of states (RFC 8878, section 4.1).

use super::Damaged;
use super::bits::{Backward, Forward};

/// One state.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Entry {
    pub(super) symbol: u8,
    /// Bits that are read for the next state, and what is added to them.
    bits: u8,
    base: u16,
}

/// All states; how many bits name one.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
    log: u32,
}

/// Most symbols: of match lengths.
const SYMBOLS: usize = 53;

impl Table {
    /// One symbol, always.
    pub(super) fn constant(symbol: u8) -> Self {
        Self {
            entries: vec![Entry {
                symbol,
                ..Entry::default()
            }],
            log: 0,
        }
    }

    /// From how often each symbol is, in parts of `1 << log`; -1: less than once.
    pub(super) fn new(frequencies: &[i16], log: u32) -> Result<Self, Damaged> {
        let wrong = Damaged("a table whose parts are not the whole");
        let size = 1_usize << log;
        let mut entries = vec![Entry::default(); size];
        let mut next = [0_u16; SYMBOLS];
        let mut rare = size;
        for ((symbol, frequency), next) in (0_u8..).zip(frequencies).zip(&mut next) {
            *next = u16::try_from(*frequency).unwrap_or(1);
            if *frequency < 0 {
                rare = rare.checked_sub(1).ok_or(wrong)?;
                entries.get_mut(rare).ok_or(wrong)?.symbol = symbol;
            }
        }
        let step = (size >> 1) + (size >> 3) + 3;
        let mut place = 0;
        for (symbol, frequency) in (0_u8..).zip(frequencies) {
            for _ in 0..(*frequency).max(0) {
                entries.get_mut(place).ok_or(wrong)?.symbol = symbol;
                // Ends: the step has no divisor in common with the size, and place 0 is no rare one's.
                loop {
                    place = (place + step) & (size - 1);
                    if place < rare || rare == 0 {
                        break;
                    }
                }
            }
        }
        if place != 0 {
            return Err(wrong);
        }
        for entry in &mut entries {
            let next = next.get_mut(usize::from(entry.symbol)).ok_or(wrong)?;
            let bits = log.checked_sub(next.checked_ilog2().ok_or(wrong)?);
            let bits = bits.ok_or(wrong)?;
            let base = (usize::from(*next) << bits).checked_sub(size);
            entry.base = base
                .and_then(|base| u16::try_from(base).ok())
                .ok_or(wrong)?;
            entry.bits = u8::try_from(bits).map_err(|_| wrong)?;
            *next = next.saturating_add(1);
        }
        Ok(Self { entries, log })
    }

    /// From its description, of at most `symbols` symbols and `most` bits; how many bytes that took.
    pub(super) fn read(bytes: &[u8], symbols: usize, most: u32) -> Result<(Self, usize), Damaged> {
        let mut input = Forward::new(bytes);
        let log = u32::try_from(input.read(4)).unwrap_or(0) + 5;
        if log > most {
            return Err(Damaged("a table of too many states"));
        }
        let mut left = 1_i32 << log;
        let mut frequencies = [0_i16; SYMBOLS];
        let mut count = 0_usize;
        while left > 0 {
            let slot = frequencies.get_mut(count).filter(|_| count < symbols);
            let slot = slot.ok_or(Damaged("a table of too many symbols"))?;
            let range = left.unsigned_abs() + 1;
            let bits = range.ilog2() + 1;
            let value = u32::try_from(input.peek(bits)).unwrap_or(0);
            let low = (1 << (bits - 1)) - 1;
            let short = (1 << bits) - 1 - range;
            let value = if value & low < short {
                input.skip(bits - 1);
                value & low
            } else {
                input.skip(bits);
                if value > low { value - short } else { value }
            };
            let frequency = i32::try_from(value).unwrap_or(0) - 1;
            left -= frequency.abs();
            *slot = i16::try_from(frequency).unwrap_or(0);
            count += 1;
            if frequency == 0 {
                loop {
                    let zeros = input.read(2);
                    count = count.saturating_add(usize::try_from(zeros).unwrap_or(0));
                    if zeros != 3 {
                        break;
                    }
                    // Of what is not there zeros are read, which ends it.
                }
            }
        }
        let used = input.bytes()?;
        if left < 0 {
            return Err(Damaged("a table whose parts are more than the whole"));
        }
        let frequencies = frequencies.get(..count).ok_or(Damaged("too many zeros"))?;
        Ok((Self::new(frequencies, log)?, used))
    }

    /// The first state.
    pub(super) fn begin(&self, input: &mut Backward<'_>) -> Entry {
        self.state(input.read(self.log))
    }

    /// The state after one.
    pub(super) fn next(&self, state: Entry, input: &mut Backward<'_>) -> Entry {
        let bits = input.read(u32::from(state.bits));
        self.state(u64::from(state.base).saturating_add(bits))
    }

    fn state(&self, number: u64) -> Entry {
        // Every number that can come has a state.
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        self.entries.get(index).copied().unwrap_or_default()
    }
}
