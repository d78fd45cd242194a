//! What a device is told when it asks for its state: pure.

use crate::fleet::{Row, Wanted};
use kedge_api::device::{Desired, Poll, State};
use kedge_api::operator::Window;

const DAY: u64 = 86_400;

/// How devices are to ask. Held polls are answered at once when something changes, so the interval may be long.
pub(crate) const POLL: Poll = Poll {
    interval_s: 60,
    hold_s: 50,
    jitter_s: 10,
};

/// Where a moment stands to a daily window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Seconds until it opens; 0: it is open.
    pub(crate) opens_in_s: u32,
    /// Seconds that it stays open, from then on.
    pub(crate) lasts_s: u32,
    /// Which of them: counts the windows since 1970.
    pub(crate) number: u64,
}

/// Where `now` stands to the window.
pub(crate) fn standing(window: Window, now: u64) -> Standing {
    let (opens, lasts) = (u64::from(window.opens_s), u64::from(window.lasts_s));
    // Counted from the opening on, a day more, so that nothing falls below zero in 1970.
    let since = (now + DAY).saturating_sub(opens);
    let (number, into) = (since / DAY, since % DAY);
    let narrow = |seconds: u64| u32::try_from(seconds).unwrap_or(u32::MAX);
    if into < lasts {
        Standing {
            opens_in_s: 0,
            lasts_s: narrow(lasts - into),
            number,
        }
    } else {
        Standing {
            opens_in_s: narrow(DAY - into),
            lasts_s: window.lasts_s,
            number: number + 1,
        }
    }
}

/// The answer to a poll; `logs`: somebody looks on.
pub(crate) fn state(row: &Row, root: u32, now: u64, logs: bool) -> State {
    let assignment = row.wanted.as_ref().map(|wanted| {
        let window = wanted.awaited().map(|window| standing(window, now));
        Desired {
            revision: wanted.revision,
            parameters: row.parameters,
            retry: wanted.retry,
            download_only: wanted.download_only,
            now: wanted.now,
            apply_in_s: window.map(|window| window.opens_in_s),
            apply_within_s: window.map(|window| window.lasts_s),
            rate: wanted.rate,
        }
    });
    State {
        requires: Vec::new(),
        assignment,
        actions: row.actions.clone(),
        poll: POLL,
        root,
        logs,
    }
}

/// The name of that answer: another one once anything in it is, but for the seconds that pass.
pub(crate) fn etag(row: &Row, tag: &str, root: u32, now: u64, logs: bool) -> String {
    let window = row.wanted.as_ref().and_then(Wanted::awaited);
    let number = window.map_or(0, |window| standing(window, now).number);
    let poll = POLL.interval_s ^ POLL.hold_s << 8 ^ POLL.jitter_s << 16;
    let logs = u8::from(logs);
    format!("\"{tag}-{root}-{poll:x}-{number:x}-{logs}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_opens_closes_and_opens_again_the_next_day() {
        let window = Window {
            opens_s: 82_800,
            lasts_s: 7_200,
        };
        let at = |now: u64| {
            let Standing {
                opens_in_s,
                lasts_s,
                number,
            } = standing(window, 100 * DAY + now);
            (opens_in_s, lasts_s, number)
        };
        // Over midnight: from 23:00 to 01:00.
        assert_eq!(at(0), (0, 3_600, 100));
        assert_eq!(at(3_599), (0, 1, 100));
        assert_eq!(at(3_600), (79_200, 7_200, 101));
        assert_eq!(at(82_799), (1, 7_200, 101));
        assert_eq!(at(82_800), (0, 7_200, 101));
        assert_eq!(at(DAY - 1), (0, 3_601, 101));
    }

    #[test]
    fn a_window_of_a_day_is_always_open() {
        let window = Window {
            opens_s: 0,
            lasts_s: 86_400,
        };
        for now in [0, 1, DAY - 1, DAY, 3 * DAY + 7] {
            assert_eq!(standing(window, now).opens_in_s, 0, "{now}");
        }
    }
}
