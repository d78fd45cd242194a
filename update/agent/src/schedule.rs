//! When to ask again: what a hub says within bounds, and growing pauses after failures. Pure.

use kedge_api::device::Poll;

/// First and longest pause after a failure, milliseconds.
const PAUSE_MS: (u64, u64) = (1000, 5 * 60_000);
/// Longest pause that a hub may ask for, seconds.
const LONGEST_S: u32 = 86_400;
/// Longest question that is held open, seconds.
const LONGEST_HOLD_S: u32 = 600;

/// Failures in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff(u32);

impl Backoff {
    /// Something went well.
    pub const fn reset(&mut self) {
        self.0 = 0;
    }

    /// Something failed: how long to wait, milliseconds. `random` is any number; half of the pause is left to it, so
    /// that a fleet that fails together does not come back together. A pause that the hub asks for counts if longer.
    pub fn fail(&mut self, random: u64, retry_after_s: Option<u32>) -> u64 {
        let longest = PAUSE_MS
            .0
            .checked_shl(self.0.min(20))
            .unwrap_or(PAUSE_MS.1)
            .min(PAUSE_MS.1);
        self.0 = self.0.saturating_add(1);
        let half = longest / 2;
        let pause = half.saturating_add(random % half.saturating_add(1));
        let asked = u64::from(retry_after_s.unwrap_or(0).min(LONGEST_S)).saturating_mul(1000);
        // Not all at the same moment even then.
        let asked = asked.saturating_add(asked / 10 * (random % 8) / 8);
        pause.max(asked)
    }

    /// Failures in a row.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.0
    }
}

/// What a hub asks for, within bounds.
#[must_use]
pub fn bounded(poll: Poll) -> Poll {
    Poll {
        interval_s: poll.interval_s.clamp(1, LONGEST_S),
        hold_s: poll.hold_s.min(LONGEST_HOLD_S),
        jitter_s: poll.jitter_s.min(3600),
    }
}

/// The pause between two questions, milliseconds. A question that was held has waited already.
#[must_use]
pub fn pause_ms(poll: Poll, held: bool, random: u64) -> u64 {
    let poll = bounded(poll);
    if held && poll.hold_s > 0 {
        return random % 1000;
    }
    let jitter = u64::from(poll.jitter_s).saturating_mul(1000);
    let interval = u64::from(poll.interval_s).saturating_mul(1000);
    interval.saturating_add(random % jitter.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pauses_grow_up_to_five_minutes_and_fall_after_a_success() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u64> = (0..12).map(|_| backoff.fail(0, None)).collect();
        assert_eq!(pauses[..4], [500, 1000, 2000, 4000]);
        assert_eq!(pauses[11], 150_000);
        backoff.reset();
        assert_eq!(backoff.fail(0, None), 500);
    }

    proptest! {
        #[test]
        fn pauses_keep_their_bounds(failures in 0_u32..100, random: u64, asked in proptest::option::of(any::<u32>())) {
            let mut backoff = Backoff(failures);
            let pause = backoff.fail(random, asked);
            let asked = u64::from(asked.unwrap_or(0).min(LONGEST_S)) * 1000;
            prop_assert!(pause >= 500.max(asked));
            prop_assert!(pause <= PAUSE_MS.1.max(asked + asked / 10));
        }

        #[test]
        fn a_hub_cannot_make_a_device_spin_or_sleep_for_ever(interval_s: u32, hold_s: u32, jitter_s: u32, random: u64) {
            let poll = Poll { interval_s, hold_s, jitter_s };
            let pause = pause_ms(poll, false, random);
            prop_assert!((1000..=(86_400 + 3600) * 1000).contains(&pause));
            prop_assert!(pause_ms(poll, true, random) <= pause.max(1000));
        }
    }
}
