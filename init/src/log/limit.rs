//! How fast a source may talk: a token bucket of bytes.

/// Bytes a source may say at once after a silence: a start with its banners passes, and at most a
/// quarter of the ring: nobody drives out what the others said.
const BURST: u32 = 16 * 1024;
/// Bytes a second that it may say for ever.
const RATE: u64 = 32 * 1024;
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

/// The bucket of one source.
#[derive(Debug)]
pub struct Bucket {
    tokens: u32,
    filled_ms: u64,
    suppressed: u32,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            tokens: BURST,
            filled_ms: 0,
            suppressed: 0,
        }
    }
}

impl Bucket {
    /// Judges a line of `length` bytes at `now_ms`.
    pub fn take(&mut self, now_ms: u64, length: usize) -> Verdict {
        self.fill(now_ms);
        let cost = u32::try_from(length)
            .unwrap_or(u32::MAX)
            .saturating_add(LINE_COST);
        match self.tokens.checked_sub(cost) {
            // Once it is suppressed, a source is let through again only with a quarter of its
            // burst in hand: one note for many lines, instead of a note before each line.
            Some(left) if self.suppressed == 0 || self.tokens >= BURST / 4 => {
                self.tokens = left;
                Verdict::Keep {
                    suppressed: core::mem::take(&mut self.suppressed),
                }
            }
            Some(_) | None => {
                self.suppressed = self.suppressed.saturating_add(1);
                Verdict::Drop
            }
        }
    }

    /// Lines dropped that nobody was told of, once; for a source that fell silent.
    pub fn settle(&mut self, now_ms: u64) -> u32 {
        self.fill(now_ms);
        if self.tokens >= BURST / 4 {
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

    fn fill(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.filled_ms);
        let new = passed.saturating_mul(RATE) / 1000;
        // Below one token nothing is taken from the time either, or a fast caller would never be paid.
        if new > 0 {
            self.filled_ms = now_ms;
            self.tokens = self
                .tokens
                .saturating_add(u32::try_from(new).unwrap_or(u32::MAX))
                .min(BURST);
        }
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

    #[test]
    fn the_rate_holds_over_time() {
        let mut bucket = Bucket::default();
        let kept = (0..100_000_u64)
            .filter(|ms| bucket.take(*ms, 192) != Verdict::Drop)
            .count();
        let most = (BURST + 100 * 32 * 1024) / 256;
        assert!(kept <= usize::try_from(most).unwrap());
        assert!(kept >= usize::try_from(most).unwrap() * 9 / 10);
    }
}
