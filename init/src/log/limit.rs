//! How fast a source may talk: two token buckets of bytes, of which one is for a while and one for ever.

/// Bytes a source may say at once after a silence: a start with its banners passes, and fits its ring.
const BURST: u32 = 16 * 1024;
/// Bytes a second that it may say until [`SPELL`] is used up.
const RATE: u64 = 32 * 1024;
/// Bytes that it may say at that rate: a trace of an hour's trouble passes.
const SPELL: u32 = 256 * 1024;
/// Bytes a second that it may say for ever. All of it is written to flash, and takes from what is kept of others on the disk.
const LASTING: u64 = 2 * 1024;
/// What a line costs besides its text: its header in the ring, names and numbers on disk.
const LINE_COST: u32 = 64;

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Kept; so many lines before it were not.
    Keep {
        /// Lines dropped since the last that was kept.
        suppressed: u32,
    },
    /// Dropped and counted.
    Drop,
}

/// One bucket, at its bound as long as it says nothing.
#[derive(Debug)]
struct Tokens {
    left: u32,
    most: u32,
    /// Tokens a second.
    rate: u64,
    filled_ms: u64,
}

impl Tokens {
    const fn new(most: u32, rate: u64) -> Self {
        Self {
            left: most,
            most,
            rate,
            filled_ms: 0,
        }
    }

    fn fill(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.filled_ms);
        let new = passed.saturating_mul(self.rate) / 1000;
        // Below one token nothing is taken from the time either, or a fast caller would never be paid.
        if new > 0 {
            self.filled_ms = now_ms;
            let new = u32::try_from(new).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(new).min(self.most);
        }
    }
}

/// The buckets of one source.
#[derive(Debug)]
pub struct Bucket {
    burst: Tokens,
    spell: Tokens,
    suppressed: u32,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            burst: Tokens::new(BURST, RATE),
            spell: Tokens::new(SPELL, LASTING),
            suppressed: 0,
        }
    }
}

impl Bucket {
    /// Judges a line of `length` bytes at `now_ms`.
    pub fn take(&mut self, now_ms: u64, length: usize) -> Verdict {
        let left = self.fill(now_ms);
        let cost = u32::try_from(length)
            .unwrap_or(u32::MAX)
            .saturating_add(LINE_COST);
        // Once it is suppressed, a source is let through again only with a quarter of its
        // burst in hand: one note for many lines, instead of a note before each line.
        if left < cost || self.suppressed > 0 && left < BURST / 4 {
            self.suppressed = self.suppressed.saturating_add(1);
            return Verdict::Drop;
        }
        for tokens in [&mut self.burst, &mut self.spell] {
            tokens.left = tokens.left.saturating_sub(cost);
        }
        Verdict::Keep {
            suppressed: core::mem::take(&mut self.suppressed),
        }
    }

    /// Lines dropped that nobody was told of, once; for a source that fell silent.
    pub fn settle(&mut self, now_ms: u64) -> u32 {
        if self.fill(now_ms) >= BURST / 4 {
            core::mem::take(&mut self.suppressed)
        } else {
            0
        }
    }

    /// Whether lines were dropped that nobody was told of.
    #[must_use]
    pub const fn is_suppressing(&self) -> bool {
        self.suppressed > 0
    }

    /// What both have in hand now.
    fn fill(&mut self, now_ms: u64) -> u32 {
        self.burst.fill(now_ms);
        self.spell.fill(now_ms);
        self.burst.left.min(self.spell.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted_once() {
        let mut bucket = Bucket::default();
        let kept = (0..10_000)
            .filter(|_| bucket.take(0, 64) != Verdict::Drop)
            .count();
        assert_eq!(kept, 128);
        assert!(bucket.is_suppressing());
        assert_eq!(bucket.settle(10), 0);
        assert_eq!(bucket.take(2000, 64), Verdict::Keep { suppressed: 9872 });
        assert_eq!(bucket.take(2000, 64), Verdict::Keep { suppressed: 0 });
    }

    /// Bytes that come through of a line of 192 bytes each millisecond.
    fn kept(seconds: u64) -> u64 {
        let mut bucket = Bucket::default();
        let kept = (0..seconds * 1000).filter(|ms| bucket.take(*ms, 192) != Verdict::Drop);
        u64::try_from(kept.count()).unwrap() * 256
    }

    #[test]
    fn the_rates_hold_over_time() {
        let most = u64::from(BURST) + 5 * RATE;
        assert!((most * 9 / 10..=most).contains(&kept(5)), "{}", kept(5));
        for seconds in [100, 1000] {
            let most = u64::from(SPELL) + seconds * LASTING;
            let kept = kept(seconds);
            assert!((most * 9 / 10..=most).contains(&kept), "{kept}");
        }
    }

    #[test]
    fn a_silence_earns_a_spell_again() {
        let mut bucket = Bucket::default();
        for now in 0..100_000 {
            bucket.take(now, 192);
        }
        let now = 100_000 + 1000 * u64::from(SPELL) / LASTING;
        assert!(bucket.settle(now) > 0);
        let kept = (0..5000).filter(|ms| bucket.take(now + ms, 192) != Verdict::Drop);
        assert!(kept.count() * 256 > 160 * 1024);
    }
}
