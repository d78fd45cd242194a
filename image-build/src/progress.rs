//! What a person sees while something takes long: a line when it starts and a line with the time it took.
//!
//! It writes to standard error, so that standard output stays what a script may parse. It draws nothing that
//! moves: the same lines are read in a terminal and in a log of continuous integration.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Runs `work` between two lines: `… title` and `✓ title (1.2 s)`, or `✗ title (1.2 s)` when it fails.
///
/// # Errors
/// Whatever `work` returns.
pub fn step<T, E>(title: impl Display, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    say(format_args!("… {title}"));
    let start = Instant::now();
    let result = work();
    let mark = if result.is_ok() { '✓' } else { '✗' };
    say(format_args!(
        "{mark} {title} ({})",
        seconds(start.elapsed())
    ));
    result
}

/// One line for the person who waits.
#[allow(
    clippy::print_stderr,
    reason = "the one place of this library that talks to a person"
)]
pub fn say(line: impl Display) {
    eprintln!("{line}");
}

/// A duration as people say it: `0.4 s`, `42 s`, `16 min 05 s`.
#[must_use]
pub fn seconds(time: Duration) -> String {
    let whole = time.as_secs();
    match whole {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{whole} s"),
        _ => format!("{} min {:02} s", whole / 60, whole % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short_words() {
        assert_eq!(seconds(Duration::from_millis(420)), "0.4 s");
        assert_eq!(seconds(Duration::from_secs(42)), "42 s");
        assert_eq!(seconds(Duration::from_secs(965)), "16 min 05 s");
    }
}
