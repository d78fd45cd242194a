//! Values as people write them in project files: `"10s"`, `"64MiB"`, `"1000:1000"`, `"SIGTERM"`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// Reads and writes a type as text in TOML.
macro_rules! text {
    ($name:ty, $example:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("a text such as ", $example))
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

/// A number and what follows it.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    Some((digits.parse().ok()?, unit.trim_start()))
}

/// A span of time: `"500ms"`, `"10s"`, `"2min"` or `"2m"`, `"1h"`, `"7d"`; at most 49 days, as the format has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Milliseconds.
    pub ms: u32,
}

impl Span {
    /// From milliseconds.
    #[must_use]
    pub const fn ms(ms: u32) -> Self {
        Self { ms }
    }

    /// From seconds.
    #[must_use]
    pub const fn s(s: u32) -> Self {
        Self {
            ms: s.saturating_mul(1000),
        }
    }
}

/// Units of time, the largest first, with their milliseconds.
const TIME: [(&str, u64); 4] = [("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1)];

/// Units that are read, too, and never written: a day, and a minute as `kedge ctl logs --since` and the queries of a hub have it.
const ALSO: [(&str, u64); 2] = [("d", 86_400_000), ("m", 60_000)];

/// Milliseconds of a span of time, however long: one grammar for project files and the command line.
///
/// # Errors
/// It is none; in words that list the units.
pub fn milliseconds(text: &str) -> Result<u64, String> {
    let bad = || {
        format!(
            "`{text}` is no span of time; write a number with ms, s, min or m, h, d, as in \"500ms\", \"10s\", \"2min\", \"1h\" or \"7d\""
        )
    };
    let (number, unit) = split(text).ok_or_else(bad)?;
    let mut units = TIME.iter().chain(&ALSO);
    let (_, factor) = units.find(|(name, _)| *name == unit).ok_or_else(bad)?;
    number.checked_mul(*factor).ok_or_else(bad)
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ms = u32::try_from(milliseconds(text)?);
        ms.map(Self::ms)
            .map_err(|_| format!("`{text}` is longer than 49 days"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::from(self.ms);
        let fits = TIME
            .iter()
            .find(|(_, factor)| ms > 0 && ms.is_multiple_of(*factor));
        let (unit, factor) = fits.copied().unwrap_or(("s", 1000));
        write!(f, "{}{unit}", ms / factor)
    }
}
text!(Span, "\"10s\"");

/// A number of bytes: `"64MiB"`, `"1GiB"`, `"512KiB"`, `"100B"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Bytes.
    pub bytes: u64,
}

/// Units of size, the largest first.
const SIZES: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no size; write it as \"512KiB\", \"64MiB\" or \"1GiB\"");
        let (number, unit) = split(text).ok_or_else(bad)?;
        let (_, factor) = SIZES
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(bad)?;
        let bytes = number.checked_mul(*factor).ok_or_else(bad)?;
        Ok(Self { bytes })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = SIZES
            .iter()
            .find(|(_, factor)| self.bytes > 0 && self.bytes.is_multiple_of(*factor));
        let (unit, factor) = fits.copied().unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.bytes / factor)
    }
}
text!(Size, "\"64MiB\"");

/// User and group as an image names them: `"1000:1000"`, `"nginx"`, `"nginx:nginx"`, `"1000"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserText {
    /// Number or name.
    pub user: String,
    /// Number or name; the user's own group from `/etc/passwd` if absent.
    pub group: Option<String>,
}

impl FromStr for UserText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let good = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-$".contains(&b))
        };
        if good(user) && group.is_none_or(good) {
            Ok(Self {
                user: user.to_owned(),
                group: group.map(str::to_owned),
            })
        } else {
            Err(format!(
                "`{text}` is no user; write it as \"1000:1000\" or as a name of the image's /etc/passwd"
            ))
        }
    }
}

impl fmt::Display for UserText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "{}:{group}", self.user),
            None => f.write_str(&self.user),
        }
    }
}
text!(UserText, "\"1000:1000\"");

/// A signal (signal(7)) by name, with or without `SIG`, or by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    /// Its number, 1 to 64.
    pub number: u8,
}

/// Numbers as on x86, ARM and RISC-V. The few that differ on MIPS are no stop signals that images use, but for USR1, USR2 and WINCH.
const SIGNALS: [(&str, u8); 13] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("KILL", 9),
    ("USR1", 10),
    ("USR2", 12),
    ("ALRM", 14),
    ("TERM", 15),
    ("CONT", 18),
    ("WINCH", 28),
    ("PWR", 30),
    ("RTMIN", 34),
];

impl FromStr for Signal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no signal; write it as \"SIGTERM\" or \"15\"");
        if let Ok(number) = text.parse::<u8>() {
            return if (1..=64).contains(&number) {
                Ok(Self { number })
            } else {
                Err(bad())
            };
        }
        let name = text.strip_prefix("SIG").unwrap_or(text);
        if let Some(above) = name.strip_prefix("RTMIN+") {
            let number = above
                .parse::<u8>()
                .ok()
                .and_then(|above| above.checked_add(34));
            return number
                .filter(|n| *n <= 64)
                .map(|number| Self { number })
                .ok_or_else(bad);
        }
        let (_, number) = SIGNALS
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(bad)?;
        Ok(Self { number: *number })
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIGNALS.iter().find(|(_, number)| *number == self.number) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None if self.number > 34 => write!(f, "SIGRTMIN+{}", self.number - 34),
            None => write!(f, "{}", self.number),
        }
    }
}
text!(Signal, "\"SIGTERM\"");

/// A size for people: `4.1 MB`, in powers of ten as disks are sold.
#[must_use]
pub fn human(bytes: u64) -> String {
    let (factor, unit) = match bytes {
        0..1_000 => return format!("{bytes} B"),
        1_000..1_000_000 => (1_000, "kB"),
        1_000_000..1_000_000_000 => (1_000_000, "MB"),
        1_000_000_000.. => (1_000_000_000, "GB"),
    };
    format!(
        "{}.{} {unit}",
        bytes / factor,
        bytes % factor / (factor / 10)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn round<T: FromStr<Err = String> + fmt::Display>(texts: &[&str]) {
        for text in texts {
            assert_eq!(
                text.parse::<T>().map(|value| value.to_string()),
                Ok((*text).to_owned())
            );
        }
    }

    #[test]
    fn every_value_is_written_as_it_was_read() {
        round::<Span>(&["500ms", "10s", "2min", "1h", "90s", "0s"]);
        round::<Size>(&["64MiB", "1GiB", "512KiB", "100B", "0B"]);
        round::<UserText>(&["1000:1000", "nginx", "www-data:adm", "0"]);
        round::<Signal>(&["SIGTERM", "SIGQUIT", "SIGRTMIN+3", "17"]);
        for (text, written) in [("2m", "2min"), ("7d", "168h"), ("49d", "1176h")] {
            assert_eq!(
                text.parse::<Span>().map(|s| s.to_string()),
                Ok(written.into())
            );
        }
        assert_eq!("RTMIN+3".parse::<Signal>().map(|s| s.number), Ok(37));
        assert_eq!(
            "15".parse::<Signal>().map(|s| s.to_string()),
            Ok("SIGTERM".into())
        );
    }

    #[test]
    fn what_is_not_a_value_says_how_to_write_one() {
        for bad in [
            "",
            "10",
            "10 minutes",
            "s",
            "-1s",
            "1.5s",
            "50d",
            "9999999h",
        ] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
        let said = "10w".parse::<Span>().unwrap_err();
        assert!(said.contains("ms, s, min or m, h, d"), "{said}");
        for bad in ["", "64", "64M", "64mb", "MiB", "99999999999TiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
        for bad in ["", ":", "a:", ":1", "a b", "a:b:c", "../x"] {
            assert!(bad.parse::<UserText>().is_err(), "{bad}");
        }
        for bad in ["", "0", "65", "SIGNONE", "term", "RTMIN+31", "256"] {
            assert!(bad.parse::<Signal>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_number_that_is_no_text_says_how_to_write_one() {
        for (refused, example) in [
            (
                toml::from_str::<BTreeMap<String, Size>>("a = 8").err(),
                "\"64MiB\"",
            ),
            (
                toml::from_str::<BTreeMap<String, Span>>("a = 8").err(),
                "\"10s\"",
            ),
        ] {
            let said = refused.unwrap().to_string();
            assert!(said.contains(example), "{said}");
        }
    }

    #[test]
    fn sizes_are_short_words() {
        assert_eq!(human(999), "999 B");
        assert_eq!(human(4_138_656), "4.1 MB");
        assert_eq!(human(64 << 20), "67.1 MB");
    }
}
