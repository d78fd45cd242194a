//! What a client saw of a server: its answers, and the gaps between them. Pure.

use std::time::Duration;

/// The end of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// Since the client began.
    pub(super) at: Duration,
    /// Whether the server answered as it should.
    pub(super) good: bool,
}

/// Between two good answers that follow each other.
struct Gap {
    time: Duration,
    /// A request failed in between.
    failed: bool,
}

fn gaps(answers: &[Answer]) -> Vec<Gap> {
    let mut last: Option<Duration> = None;
    let mut failed = false;
    let mut gaps = Vec::new();
    for answer in answers {
        if !answer.good {
            failed = true;
            continue;
        }
        if let Some(last) = last {
            let time = answer.at.saturating_sub(last);
            gaps.push(Gap { time, failed });
        }
        last = Some(answer.at);
        failed = false;
    }
    gaps
}

/// The middle gap: how often answers come when nothing happens.
pub(super) fn usual(answers: &[Answer]) -> Duration {
    let mut times: Vec<_> = gaps(answers).iter().map(|gap| gap.time).collect();
    times.sort_unstable();
    let middle = times.len().saturating_sub(1) / 2;
    times.get(middle).copied().unwrap_or_default()
}

/// By how much the longest gap is longer than the usual one.
pub(super) fn longest(answers: &[Answer]) -> Duration {
    beyond_usual(answers, |_| true)
}

/// The same of the gaps in which a request failed; nothing if none did.
pub(super) fn longest_failure(answers: &[Answer]) -> Duration {
    beyond_usual(answers, |gap| gap.failed)
}

fn beyond_usual(answers: &[Answer], which: fn(&Gap) -> bool) -> Duration {
    let gaps = gaps(answers);
    let longest = gaps
        .iter()
        .filter(|gap| which(gap))
        .map(|gap| gap.time)
        .max();
    longest.unwrap_or_default().saturating_sub(usual(answers))
}

/// Requests that failed.
pub(super) fn failures(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| !answer.good).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` is good; milliseconds.
    fn answers(list: &[(char, u64)]) -> Vec<Answer> {
        let answer = |(mark, at): &(char, u64)| Answer {
            at: Duration::from_millis(*at),
            good: *mark == '+',
        };
        list.iter().map(answer).collect()
    }

    #[test]
    fn the_usual_gap_is_no_downtime() {
        let steady = answers(&[('+', 0), ('+', 10), ('+', 20), ('+', 30)]);
        assert_eq!(usual(&steady), Duration::from_millis(10));
        assert_eq!(longest(&steady), Duration::ZERO);
        assert_eq!(longest_failure(&steady), Duration::ZERO);
        assert_eq!(failures(&steady), 0);
    }

    #[test]
    fn a_late_answer_is_a_gap_but_no_failure() {
        let late = answers(&[('+', 0), ('+', 10), ('+', 20), ('+', 95), ('+', 105)]);
        assert_eq!(longest(&late), Duration::from_millis(65));
        assert_eq!(longest_failure(&late), Duration::ZERO);
    }

    #[test]
    fn failed_requests_make_one_gap_from_answer_to_answer() {
        let seen = answers(&[
            ('-', 0),
            ('+', 10),
            ('+', 20),
            ('-', 30),
            ('-', 40),
            ('+', 60),
            ('+', 70),
            ('+', 200),
            ('+', 210),
            ('-', 900),
        ]);
        assert_eq!(longest(&seen), Duration::from_millis(120));
        assert_eq!(longest_failure(&seen), Duration::from_millis(30));
        assert_eq!(failures(&seen), 4);
    }

    #[test]
    fn nothing_seen_is_nothing() {
        for few in [answers(&[]), answers(&[('-', 1)]), answers(&[('+', 1)])] {
            assert_eq!(usual(&few), Duration::ZERO);
            assert_eq!(longest(&few), Duration::ZERO);
        }
    }
}
