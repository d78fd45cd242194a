//! How the floor of time rises: by what has passed for certain, and a little beyond. Pure.
//!
//! It is later than the floor for good, so a hub whose clock ran wild, or that is hostile, must not lift it out of the
//! device's reach: the device would refuse every answer until that time has come.

/// Beyond what has passed since the floor rose last, a hub's word lifts it by at most so much, seconds, and by at most as
/// much again as has passed, however often the agent or the device is started again. So a floor that lags comes nearer,
/// and a device is locked out for at most so long, for each time that it asked while the clock was wrong. It asks so often.
pub(crate) const MOST_AHEAD_S: u64 = 6 * 3600;

/// Where the floor stood when it was last known to, and when that was, seconds since the agent began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rising {
    from: u64,
    at: u64,
}

impl Rising {
    /// When the agent began, the floor stood there.
    pub(crate) const fn new(floor: u64) -> Self {
        Self { from: floor, at: 0 }
    }

    /// How high a hub that tells `unix` may lift it `now`.
    pub(crate) fn reaches(&self, unix: u64, now: u64) -> u64 {
        let passed = now.saturating_sub(self.at);
        let most = passed.saturating_add(passed.min(MOST_AHEAD_S));
        unix.min(self.from.saturating_add(most))
    }

    /// It has risen so high `now`: what has passed until then counts no more.
    pub(crate) const fn risen(&mut self, floor: u64, now: u64) {
        *self = Self {
            from: floor,
            at: now,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;
    const BEGAN: u64 = 1_800_000_000;

    /// The floor of a device that asks every so many seconds until `up`, while the hub's clock is right.
    fn asked_until(up: u64, every: u64, mut rising: Rising) -> Rising {
        for now in (every..=up).step_by(usize::try_from(every).unwrap()) {
            let risen = rising.reaches(BEGAN + now, now);
            rising.risen(risen, now);
        }
        rising
    }

    #[test]
    fn after_a_hundred_days_a_clock_that_ran_wild_locks_a_device_out_for_hours_at_most() {
        let up = 100 * DAY;
        for every in [3600, 6 * 3600, DAY, up] {
            let rising = asked_until(up, every, Rising::new(BEGAN));
            let wild = rising.reaches(BEGAN + up + 365 * DAY, up + every);
            let right = BEGAN + up + every;
            assert!(wild >= right && wild <= right + MOST_AHEAD_S, "{every}");
        }
        // The first question of all comes so late.
        let wild = Rising::new(BEGAN).reaches(BEGAN + 465 * DAY, up);
        assert!(wild <= BEGAN + up + MOST_AHEAD_S);
    }

    #[test]
    fn a_floor_that_lags_comes_nearer_at_twice_the_speed_of_time() {
        let rising = asked_until(100 * DAY, 6 * 3600, Rising::new(BEGAN - 90 * DAY));
        assert_eq!(rising.from, BEGAN + 100 * DAY);
        // However often it is started again: each begins with nothing.
        assert_eq!(Rising::new(BEGAN).reaches(u64::MAX, 0), BEGAN);
    }
}
