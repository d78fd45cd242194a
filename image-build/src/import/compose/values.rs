//! Small forms of the compose specification: spans, sizes, ports, words of a shell.

use crate::project::units::Span;
use anyhow::{Context, Result, bail, ensure};

/// A span as compose writes it: `1m30s`, `1.5s`, `500ms`, or a number of seconds.
///
/// # Errors
/// It is none, or longer than 49 days.
pub fn span(text: &str) -> Result<Span> {
    let bad = || format!("`{text}` is no span of time, as in 1m30s");
    let mut rest = text;
    let mut total = 0.0_f64;
    ensure!(!text.is_empty(), bad());
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'));
        let (number, behind) = rest.split_at(digits.unwrap_or(rest.len()));
        let number: f64 = number.parse().ok().with_context(bad)?;
        let letters = behind.find(|c: char| c.is_ascii_digit());
        let (unit, behind) = behind.split_at(letters.unwrap_or(behind.len()));
        let factor = match unit {
            "h" => 3_600_000.0,
            "m" => 60_000.0,
            "s" => 1000.0,
            "" if rest == text && behind.is_empty() => 1000.0,
            "ms" => 1.0,
            "us" => 0.001,
            "ns" => 0.000_001,
            _ => bail!(bad()),
        };
        total += number * factor;
        rest = behind;
    }
    ensure!(
        total <= f64::from(u32::MAX),
        "`{text}` is longer than 49 days"
    );
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is positive and was compared with the largest"
    )]
    Ok(Span::ms(total.ceil() as u32))
}

/// A size as compose writes it, in powers of 1024: `64m`, `1gb`, `512k`, or bytes.
///
/// # Errors
/// It is none.
pub fn size(text: &str) -> Result<u64> {
    let lower = text.trim().to_lowercase();
    let end = lower.find(|c: char| !(c.is_ascii_digit() || c == '.'));
    let (number, unit) = lower.split_at(end.unwrap_or(lower.len()));
    let factor = match unit.trim() {
        "" | "b" => 1_u32,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => bail!("`{text}` is no size, as in 64m"),
    };
    let number: f64 = number
        .parse()
        .ok()
        .with_context(|| format!("`{text}` is no size, as in 64m"))?;
    let bytes = number * f64::from(factor);
    ensure!(bytes < 1e15, "`{text}` is too large");
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is positive and was compared with the largest"
    )]
    Ok(bytes as u64)
}

/// Percent of one processor, from a number of processors: `0.5`.
///
/// # Errors
/// It is no number above 0.
pub fn percent(text: &str) -> Result<u32> {
    let number: f64 = text
        .parse()
        .ok()
        .with_context(|| format!("`{text}` is no number"))?;
    let percent = (number * 100.0).round();
    ensure!(
        (1.0..=100_000.0).contains(&percent),
        "`{text}` is no number of processors from 0.01 to 1000"
    );
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it lies in the range above"
    )]
    Ok(percent as u32)
}

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The address it is bound to; empty for all.
    pub address: String,
    /// The port of the device; none: any that is free.
    pub published: Option<u16>,
    /// The port that the program listens to.
    pub target: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
}

/// The short form: `[address:][published:]target[/protocol]`, each of the two a range.
///
/// # Errors
/// It is none.
pub fn ports(text: &str) -> Result<Vec<Port>> {
    let bad = || format!("`{text}` is no port, as in 8080:80 or 127.0.0.1:8080:80/tcp");
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (rest, target) = match rest.rsplit_once(':') {
        Some((rest, target)) => (Some(rest), target),
        None => (None, rest),
    };
    let (address, published) = match rest {
        None => ("", None),
        // An address of IPv6 stands in brackets, and its last part is no port.
        Some(rest) => match rest.rsplit_once(':') {
            Some((address, published)) => (address, Some(published)),
            None => ("", Some(rest)),
        },
    };
    let targets = range(target).with_context(bad)?;
    let published = match published.filter(|text| !text.is_empty()) {
        None => vec![None; targets.len()],
        Some(text) => range(text)
            .with_context(bad)?
            .into_iter()
            .map(Some)
            .collect(),
    };
    ensure!(
        published.len() == targets.len(),
        "`{text}`: the two ranges are of different lengths"
    );
    let address = address.trim_matches(['[', ']']);
    Ok(published
        .into_iter()
        .zip(targets)
        .map(|(published, target)| Port {
            address: address.to_owned(),
            published,
            target,
            protocol: protocol.to_owned(),
        })
        .collect())
}

fn range(text: &str) -> Option<Vec<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last && last.abs_diff(first) < 256).then(|| (first..=last).collect())
}

/// The words of a command line, as a shell splits them; nothing is expanded.
///
/// # Errors
/// A quotation has no end.
pub fn words(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = text.chars();
    let mut quote = None;
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (Some(open), _) if letter == open => quote = None,
            (None | Some('"'), '\\') => {
                if let Some(next) = letters.next() {
                    word.get_or_insert_default().push(next);
                }
            }
            (None, _) if letter.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    ensure!(quote.is_none(), "a quotation has no end in `{text}`");
    words.extend(word);
    Ok(words)
}

/// The lines of an env file: `NAME=value`, quotation marks around a value taken away.
///
/// # Errors
/// A line is neither that nor a comment; it is named by its number alone, since values may be secret.
pub fn env_file(text: &str) -> Result<Vec<(String, String)>> {
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line
            .split_once('=')
            .with_context(|| format!("line {}: it is not NAME=value", number.saturating_add(1)))?;
        let value = value.trim();
        let quoted = |mark| {
            let inner = value.strip_prefix(mark)?;
            inner.strip_suffix(mark)
        };
        let value = quoted('"')
            .or_else(|| quoted('\''))
            .unwrap_or_else(|| value.split(" #").next().unwrap_or_default().trim_end());
        entries.push((name.trim().to_owned(), value.to_owned()));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_sizes_and_processors() {
        for (text, ms) in [
            ("1m30s", 90_000),
            ("1.5s", 1500),
            ("40", 40_000),
            ("2h", 7_200_000),
            ("500ms", 500),
            ("0s", 0),
        ] {
            assert_eq!(span(text).unwrap().ms, ms, "{text}");
        }
        for bad in [
            "", "s", "1", "1x", "1.2.3s", "9999999h", "1m 30s", "-1s", "5 5",
        ] {
            assert!(bad == "1" || span(bad).is_err(), "{bad}");
        }
        for (text, bytes) in [
            ("64m", 64 << 20),
            ("1gb", 1 << 30),
            ("512K", 512 << 10),
            ("100", 100),
            ("1.5k", 1536),
        ] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for bad in ["", "m", "1t", "-1", "99999999999g"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(percent("0.5").unwrap(), 50);
        assert!(percent("0").is_err() && percent("nan").is_err());
    }

    #[test]
    fn short_ports() {
        let one = |text: &str| {
            let port = ports(text).unwrap().remove(0);
            (port.address, port.published, port.target, port.protocol)
        };
        let tcp = || "tcp".to_owned();
        assert_eq!(one("80"), (String::new(), None, 80, tcp()));
        assert_eq!(one("8080:80"), (String::new(), Some(8080), 80, tcp()));
        assert_eq!(
            one("127.0.0.1:53:53/udp"),
            ("127.0.0.1".into(), Some(53), 53, "udp".into())
        );
        assert_eq!(one("127.0.0.1::53"), ("127.0.0.1".into(), None, 53, tcp()));
        assert_eq!(one("[::1]:80:81"), ("::1".into(), Some(80), 81, tcp()));
        assert_eq!(ports("3000-3002:4000-4002").unwrap().len(), 3);
        for bad in ["", "a", "0:80", "70000:1", "1-3:1-2", "5-3", "1-65535"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_are_split_as_a_shell_does() {
        assert_eq!(
            words("a 'b c' \"d\\\"e\" f\\ g ''").unwrap(),
            ["a", "b c", "d\"e", "f g", ""]
        );
        assert!(words("a 'b").is_err());
        assert!(words(" ").unwrap().is_empty());
    }

    #[test]
    fn env_files() {
        let text = "# c\nA=1\nexport B=\"two words\"\nC='#' \nD=x # why\nE=\n";
        let entries = env_file(text).unwrap();
        let values: Vec<&str> = entries.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, ["1", "two words", "#", "x", ""]);
        let error = env_file("A=1\nsecret\n").unwrap_err().to_string();
        assert!(
            error.contains("line 2") && !error.contains("secret"),
            "{error}"
        );
    }
}
