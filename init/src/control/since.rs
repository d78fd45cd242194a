//! From when on a log is read: a place in it, a time, or how long ago. Pure.

use super::refusal::Refusal;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// The record with this sequence number.
    Sequence(u64),
    /// So many milliseconds ago.
    Ago(u64),
    /// So many milliseconds after 1970 began, by the device's clock.
    Unix(u64),
    /// So many milliseconds after the boot.
    Boot(u64),
}

/// Longest time that is looked at, bytes: one with nanoseconds has 35.
const LONGEST: usize = 40;

impl Since {
    /// From a number, a duration as `10m` (`ms`, `s`, `m` or `min`, `h`, `d`), or a time as RFC 3339 has it.
    ///
    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let bad = Refusal::Malformed(
            "since is no sequence number, no duration as 10m (ms, s, m or min, h, d), and no time as 2026-11-30T16:50:00Z",
        );
        if text.len() > LONGEST {
            return Err(bad);
        }
        let end = text.find(|c: char| !c.is_ascii_digit());
        let (digits, unit) = text.split_at(end.unwrap_or(text.len()));
        let Ok(number) = digits.parse::<u64>() else {
            return Err(bad);
        };
        let factor = match unit {
            "" => return Ok(Self::Sequence(number)),
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return unix(text.as_bytes()).map(Self::Unix).ok_or(bad),
        };
        number.checked_mul(factor).map(Self::Ago).ok_or(bad)
    }

    /// As a place or a time of this boot. What is now is given as of the boot, and as of 1970.
    #[must_use]
    pub const fn settle(self, now_ms: u64, unix_ms: u64) -> Self {
        match self {
            Self::Ago(ms) => Self::Boot(now_ms.saturating_sub(ms)),
            Self::Unix(ms) => Self::Boot(if ms > unix_ms {
                now_ms.saturating_add(ms - unix_ms)
            } else {
                now_ms.saturating_sub(unix_ms - ms)
            }),
            Self::Sequence(_) | Self::Boot(_) => self,
        }
    }
}

/// Milliseconds since 1970 of `2026-11-30T16:50:00Z`, with a fraction or an offset from UTC too (RFC 3339, 5.6).
/// What is below a millisecond counts for nothing; `None` for what is no time, or before 1970.
fn unix(text: &[u8]) -> Option<u64> {
    let [
        y0,
        y1,
        y2,
        y3,
        b'-',
        m0,
        m1,
        b'-',
        d0,
        d1,
        b'T' | b't' | b' ',
        h0,
        h1,
        b':',
        i0,
        i1,
        b':',
        s0,
        s1,
        rest @ ..,
    ] = text
    else {
        return None;
    };
    let year = number(&[*y0, *y1, *y2, *y3])?;
    let two = |high: &u8, low: &u8, least, most| {
        number(&[*high, *low]).filter(|number| (least..=most).contains(number))
    };
    let (month, day) = (two(m0, m1, 1, 12)?, two(d0, d1, 1, 31)?);
    // 60 is a leap second, which is the next one here.
    let (hour, minute, second) = (
        two(h0, h1, 0, 23)?,
        two(i0, i1, 0, 59)?,
        two(s0, s1, 0, 60)?,
    );
    let (ms, zone) = fraction(rest)?;
    let east = match zone {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h0, h1, b':', i0, i1] => {
            let minutes = two(h0, h1, 0, 23)? * 60 + two(i0, i1, 0, 59)?;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    let minutes = (days(year, month, day) * 24 + hour) * 60 + minute - east;
    let total = (minutes * 60 + second) * 1000 + ms;
    u64::try_from(total).ok()
}

/// Milliseconds of a fraction, if there is one, and what follows it.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(digits) = text.strip_prefix(b".") else {
        return Some((0, text));
    };
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    let (digits, zone) = digits.split_at(end);
    let mut places = digits.iter().copied().chain(std::iter::repeat(b'0'));
    let first = [places.next()?, places.next()?, places.next()?];
    if digits.is_empty() {
        return None;
    }
    Some((number(&first)?, zone))
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0_i64, |sum, digit| {
        digit
            .is_ascii_digit()
            .then(|| sum * 10 + i64::from(digit - b'0'))
    })
}

/// Days from 1970 to a day of the Gregorian calendar: years that begin in March, so that the leap day is a year's last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month < 3 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_durations_and_times() {
        for (text, since) in [
            ("7", Since::Sequence(7)),
            ("0s", Since::Ago(0)),
            ("250ms", Since::Ago(250)),
            ("10m", Since::Ago(600_000)),
            ("10min", Since::Ago(600_000)),
            ("2h", Since::Ago(7_200_000)),
            ("3d", Since::Ago(259_200_000)),
            ("1970-01-01T00:00:00Z", Since::Unix(0)),
            ("2000-02-29T12:00:00Z", Since::Unix(951_825_600_000)),
            ("2024-03-01T00:00:00.5Z", Since::Unix(1_709_251_200_500)),
            ("2026-11-30T16:50:00Z", Since::Unix(1_796_057_400_000)),
            (
                "2026-11-30T16:50:00.123456789Z",
                Since::Unix(1_796_057_400_123),
            ),
            ("2026-11-30T18:20:00+01:30", Since::Unix(1_796_057_400_000)),
            ("2026-11-30t11:50:00-05:00", Since::Unix(1_796_057_400_000)),
        ] {
            assert_eq!(Since::parse(text), Ok(since), "{text}");
        }
        for bad in [
            "",
            "m",
            "-1",
            "1w",
            "1.5h",
            "99999999999999999999",
            "9999999999999999999d",
            "2026-13-01T00:00:00Z",
            "2026-11-30",
            "2026-11-30T16:50:00",
            "2026-11-30T24:00:00Z",
            "2026-11-30T16:50:00.Z",
            "2026-11-30T16:50:00.1",
            "2026-11-30T16:50:00+1:00",
            "1969-12-31T23:59:59Z",
            "2026-11-30T16:50:00.00000000000000000000000000000Z",
        ] {
            assert!(Since::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_of_this_boot() {
        let now = |since: Since| since.settle(60_000, 1_000_000);
        assert_eq!(now(Since::Ago(1000)), Since::Boot(59_000));
        assert_eq!(now(Since::Ago(90_000)), Since::Boot(0));
        assert_eq!(now(Since::Unix(999_000)), Since::Boot(59_000));
        assert_eq!(now(Since::Unix(5)), Since::Boot(0));
        assert_eq!(now(Since::Unix(1_001_000)), Since::Boot(61_000));
        assert_eq!(now(Since::Sequence(7)), Since::Sequence(7));
    }
}
