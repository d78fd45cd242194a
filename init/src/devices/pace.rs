//! When it is looked for devices: one look at a time, soon after an event, and less and less often while looks come to no end.
//!
//! ```text
//!          due               ended
//! waiting ────▶ looking ────────────▶ waiting
//!                  │ given up            ▲
//!                  └───────▶ held ───────┘ the child is reaped
//! ```

/// Several devices come with one plug: how long after the first event it is looked, milliseconds.
pub const CALM_MS: u64 = 150;
/// When a look that came to no end is repeated at first, milliseconds; then after twice as long each time.
pub const AGAIN_MS: u64 = 5000;
/// How often that doubles: up to 320 s.
const DOUBLINGS: u32 = 6;
/// How long a look may take: of USB devices, an attribute may wait for a driver, and that for the device, milliseconds.
const LIMIT_MS: u64 = 15_000;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// A look is to begin.
    Look,
    /// The look that is under way takes too long.
    GiveUp,
}

/// When it is looked. Times are milliseconds since the boot.
#[derive(Debug, Default)]
pub struct Pace {
    /// When it is looked next.
    at: Option<u64>,
    /// When the look that is under way is given up.
    until: Option<u64>,
    /// A child that was killed is not reaped yet: a new one might get stuck behind it.
    held: bool,
    /// Looks without an end, one after the other.
    failures: u32,
}

impl Pace {
    /// When there is something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        // The end of a child wakes the loop by itself.
        self.until.or(self.at.filter(|_| !self.held))
    }

    /// It is to be looked then, if not before.
    pub fn ask(&mut self, at: u64) {
        self.at = Some(self.at.map_or(at, |before| before.min(at)));
    }

    /// Nobody asks any more.
    pub fn stop(&mut self) {
        self.at = None;
    }

    /// What is due; a look that is, counts as begun. `held`: a child that was killed is not reaped yet.
    pub fn due(&mut self, now: u64, held: bool) -> Due {
        self.held = held;
        match self.until {
            Some(until) if until <= now => Due::GiveUp,
            Some(_) => Due::Nothing,
            None if held || self.at.take_if(|at| *at <= now).is_none() => Due::Nothing,
            None => {
                self.until = Some(now.saturating_add(LIMIT_MS));
                Due::Look
            }
        }
    }

    /// The look is let go of, and counts for nothing.
    pub fn forget(&mut self) {
        self.until = None;
    }

    /// The look came to its end, or failed and is to be repeated. True: that is to be said, once until it succeeds.
    pub fn ended(&mut self, now: u64, whole: bool) -> bool {
        self.until = None;
        if whole {
            self.failures = 0;
            return false;
        }
        self.ask(now.saturating_add(AGAIN_MS << self.failures.min(DOUBLINGS)));
        self.failures = self.failures.saturating_add(1);
        self.failures == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_follows_the_first_of_many_events() {
        let mut pace = Pace::default();
        assert_eq!((pace.due(0, false), pace.deadline()), (Due::Nothing, None));
        pace.ask(150);
        pace.ask(200);
        assert_eq!(pace.deadline(), Some(150));
        assert_eq!(pace.due(149, false), Due::Nothing);
        assert_eq!(pace.due(150, false), Due::Look);
        assert_eq!(pace.deadline(), Some(150 + LIMIT_MS));
        // What comes meanwhile waits for its end.
        pace.ask(300);
        assert_eq!(pace.due(400, false), Due::Nothing);
        assert!(!pace.ended(500, true));
        assert_eq!(
            (pace.deadline(), pace.due(500, false)),
            (Some(300), Due::Look)
        );
        // Events were lost: it begins anew.
        pace.forget();
        pace.ask(600);
        assert_eq!(pace.due(600, false), Due::Look);
        pace.ask(700);
        pace.stop();
        assert!(!pace.ended(800, true));
        assert_eq!(pace.deadline(), None);
    }

    #[test]
    fn looks_that_come_to_no_end_are_repeated_ever_later_and_told_once() {
        let mut pace = Pace::default();
        let mut now = 0;
        pace.ask(now);
        let mut waits = Vec::new();
        for round in 0..9 {
            assert_eq!(pace.due(now, false), Due::Look);
            now += LIMIT_MS;
            assert_eq!(pace.due(now - 1, false), Due::Nothing);
            assert_eq!(pace.due(now, false), Due::GiveUp);
            assert_eq!(pace.ended(now, false), round == 0);
            let at = pace.deadline().unwrap();
            waits.push(at - now);
            now = at;
        }
        assert_eq!(waits[..3], [5000, 10_000, 20_000]);
        assert_eq!(waits[6..], [320_000; 3]);
        // An event does not wait for that, and an end makes all as it was.
        pace.ask(now - 1);
        assert_eq!(pace.due(now, false), Due::Look);
        assert!(!pace.ended(now, true));
        assert_eq!(pace.deadline(), None);
        assert!(pace.ended(now, false));
        assert_eq!(pace.deadline(), Some(now + AGAIN_MS));
    }

    #[test]
    fn none_begins_while_a_child_is_stuck() {
        let mut pace = Pace::default();
        pace.ask(0);
        assert_eq!(pace.due(10, true), Due::Nothing);
        // Else the loop would turn for nothing.
        assert_eq!(pace.deadline(), None);
        pace.ask(20);
        assert_eq!(pace.due(30, true), Due::Nothing);
        assert_eq!(pace.due(30, false), Due::Look);
    }
}
