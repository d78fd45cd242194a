//! Whether containers hold updates back: decides, without I/O.
//!
//! A container may ask that nothing be tried for a while: a machine is milling, a patient is connected. It is asked to
//! say so again at least once an hour, and it cannot say so for ever: a fault in it must not leave the device without
//! updates.
//!
//! ```text
//!            take                  let go, ended, its time is over
//!   (free) ───────▶ Held ───────────────────────────────▶ Loose ─ a minute ─▶ (free)
//!                    │ ▲ take: longer                       │ take: counts on
//!                    │ └────────────────────────────────────┘
//!                    └─ MOST since the first take ─▶ Spent ─ an hour ─▶ (free)
//! ```
//! What is let go for less than a minute counts on, so that letting go and taking again wins nothing. A lock ends with
//! its container's process, and with the boot. It says nothing about what is tried already, nor to an operator, who may
//! try what they like.

use kedge_revision::Name;

/// The longest that is asked for at once, seconds.
pub const MOST_AT_ONCE_S: u32 = 3600;
/// The longest in all, milliseconds: a day.
const MOST: u64 = 24 * 3600 * 1000;
/// For so long what was let go is not forgotten, milliseconds: time for an update to begin.
const LOOSE: u64 = 60 * 1000;
/// For so long nothing can be held back by whoever has done so for [`MOST`], milliseconds.
const SPENT: u64 = 3600 * 1000;

/// One container's lock. Times are milliseconds since the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It holds until then.
    Held { since: u64, until: u64 },
    /// It has let go, then.
    Loose { since: u64, at: u64 },
    /// It has held for too long, and may again then.
    Spent { until: u64 },
}

/// What happens to a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The container asks for so many seconds from now on.
    Take(u32),
    /// It lets go.
    LetGo,
    /// Its process has ended.
    Ended,
    /// Time has passed.
    Time,
}

/// What a container is told that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Nothing is tried before then.
    Until(u64),
    /// It holds nothing.
    Free,
    /// It has held for a day, and may again then.
    Spent(u64),
}

/// `None` is a container that holds nothing and has not lately.
fn step(state: Option<State>, event: Event, now: u64) -> (Option<State>, Answer) {
    let state = state.and_then(|state| pass(state, now));
    let take = |since: u64, seconds: u32| {
        let asked = u64::from(seconds.min(MOST_AT_ONCE_S)).saturating_mul(1000);
        let until = now
            .saturating_add(asked)
            .min(since.saturating_add(MOST))
            .max(now);
        (Some(State::Held { since, until }), Answer::Until(until))
    };
    match (state, event) {
        (None, Event::Take(seconds)) => take(now, seconds),
        (Some(State::Held { since, .. } | State::Loose { since, .. }), Event::Take(seconds)) => {
            take(since, seconds)
        }
        (Some(spent @ State::Spent { until }), Event::Take(_)) => {
            (Some(spent), Answer::Spent(until))
        }
        (Some(State::Held { since, .. }), Event::LetGo | Event::Ended) => {
            (Some(State::Loose { since, at: now }), Answer::Free)
        }
        (Some(held @ State::Held { until, .. }), Event::Time) => (Some(held), Answer::Until(until)),
        (
            state @ (None | Some(State::Loose { .. } | State::Spent { .. })),
            Event::LetGo | Event::Ended | Event::Time,
        ) => (state, Answer::Free),
    }
}

/// What becomes of a lock as time passes.
fn pass(state: State, now: u64) -> Option<State> {
    match state {
        State::Held { since, until } if until <= now => {
            let next = if until >= since.saturating_add(MOST) {
                State::Spent {
                    until: until.saturating_add(SPENT),
                }
            } else {
                State::Loose { since, at: until }
            };
            pass(next, now)
        }
        State::Loose { at, .. } if at.saturating_add(LOOSE) <= now => None,
        State::Spent { until } if until <= now => None,
        State::Held { .. } | State::Loose { .. } | State::Spent { .. } => Some(state),
    }
}

/// All locks. There are as many as containers that may hold something, and those of the revision before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locks {
    of: Vec<(Name, State)>,
}

impl Locks {
    /// Something happens to a container's lock.
    pub fn step(&mut self, container: &Name, event: Event, now: u64) -> Answer {
        let at = self.of.iter().position(|(name, _)| name == container);
        let before = at.map(|at| self.of.swap_remove(at).1);
        let (after, answer) = step(before, event, now);
        if let Some(after) = after {
            self.of.push((container.clone(), after));
        }
        answer
    }

    /// Time passes.
    pub fn pass(&mut self, now: u64) {
        self.of.retain_mut(|(_, state)| match pass(*state, now) {
            Some(next) => {
                *state = next;
                true
            }
            None => false,
        });
    }

    /// Who holds updates back, and until when.
    pub fn held(&self) -> impl Iterator<Item = (&Name, u64)> {
        self.of.iter().filter_map(|(name, state)| match state {
            State::Held { until, .. } => Some((name, *until)),
            State::Loose { .. } | State::Spent { .. } => None,
        })
    }

    /// When the next lock ends.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.held().map(|(_, until)| until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: u64 = 60_000;

    fn web() -> Name {
        "web".parse().unwrap()
    }

    #[test]
    fn a_hold_is_taken_let_go_and_runs_out() {
        let mut locks = Locks::default();
        let is_held = |locks: &Locks| locks.held().count() == 1;
        let until = Answer::Until(10 * MINUTE);
        assert_eq!(locks.step(&web(), Event::Take(540), MINUTE), until);
        assert!(is_held(&locks));
        assert_eq!(locks.deadline(), Some(10 * MINUTE));
        locks.pass(10 * MINUTE - 1);
        assert!(is_held(&locks));
        locks.pass(10 * MINUTE);
        assert!(!is_held(&locks) && locks.deadline().is_none());
        assert_eq!(
            locks.step(&web(), Event::Take(60), 20 * MINUTE),
            Answer::Until(21 * MINUTE)
        );
        assert_eq!(
            locks.step(&web(), Event::LetGo, 20 * MINUTE + 1),
            Answer::Free
        );
        assert!(!is_held(&locks));
        locks.step(&web(), Event::Take(60), 20 * MINUTE + 2);
        locks.step(&web(), Event::Ended, 20 * MINUTE + 3);
        assert!(!is_held(&locks));
        locks.pass(30 * MINUTE);
        assert_eq!(locks, Locks::default(), "nothing is left of it");
    }

    #[test]
    fn each_container_has_its_own() {
        let mut locks = Locks::default();
        let other = "other".parse().unwrap();
        locks.step(&web(), Event::Take(60), 0);
        locks.step(&other, Event::Take(120), 0);
        assert_eq!(locks.deadline(), Some(MINUTE));
        locks.step(&web(), Event::LetGo, 1);
        let held: Vec<_> = locks.held().collect();
        assert_eq!(held, [(&other, 2 * MINUTE)]);
    }

    #[test]
    fn nobody_asks_for_more_than_an_hour_nor_holds_for_more_than_a_day() {
        let mut locks = Locks::default();
        let mut now = 0;
        let first = locks.step(&web(), Event::Take(u32::MAX), now);
        assert_eq!(first, Answer::Until(60 * MINUTE));
        while now < MOST - 30 * MINUTE {
            now += 30 * MINUTE;
            locks.step(&web(), Event::Take(3600), now);
        }
        assert_eq!(locks.deadline(), Some(MOST));
        let spent = Answer::Spent(MOST + SPENT);
        assert_eq!(locks.step(&web(), Event::Take(1), MOST), spent);
        assert_eq!(locks.step(&web(), Event::Ended, MOST + 1), Answer::Free);
        assert_eq!(locks.step(&web(), Event::Take(1), MOST + 1), spent);
        assert!(matches!(
            locks.step(&web(), Event::Take(1), MOST + SPENT),
            Answer::Until(_)
        ));
    }

    proptest! {
        /// Whatever a container asks: what it holds, with gaps of less than a minute, is never longer than a day.
        #[test]
        fn no_way_of_asking_holds_for_ever(asks in prop::collection::vec((0_u64..40_000, 0_u8..4, 0_u32..5000), 1..4000)) {
            let mut locks = Locks::default();
            let (mut now, mut begun, mut free) = (0_u64, None, None);
            for (pause, what, seconds) in asks {
                // Between two asks time passes in steps that see every border.
                let next = now + pause * 20;
                for at in [locks.deadline().unwrap_or(next).clamp(now, next), next] {
                    now = at;
                    locks.pass(now);
                    let held = locks.held().count() > 0;
                    if held {
                        if free.is_some_and(|at| now - at >= LOOSE) || begun.is_none() {
                            begun = Some(now);
                        }
                        free = None;
                        prop_assert!(now - begun.unwrap() <= MOST, "held since {begun:?}, at {now}");
                    } else if free.is_none() {
                        free = Some(now);
                    }
                }
                locks.step(&web(), match what {
                    0 => Event::LetGo,
                    1 => Event::Ended,
                    _ => Event::Take(seconds),
                }, now);
                let held = locks.held().count() > 0;
                if held {
                    if free.is_some_and(|at| now - at >= LOOSE) || begun.is_none() {
                        begun = Some(now);
                    }
                    free = None;
                } else if free.is_none() {
                    free = Some(now);
                }
            }
        }
    }
}
