//! Logs for a person.

use crate::log::{LogLine, Stream};
use std::io::{Result, Write};

/// One line of a log. Control characters of a container's text do not reach the terminal.
pub(super) fn line(out: &mut impl Write, line: &LogLine<'_>) -> Result<()> {
    let mark = match line.stream {
        Stream::Out | Stream::Notice | Stream::Debug => ' ',
        Stream::Err | Stream::Warning => '!',
        Stream::Error => 'E',
    };
    let (seconds, rest) = (line.time_ms / 1000, line.time_ms % 1000);
    write!(out, "{seconds:6}.{rest:03} {:<12} {mark} ", line.source)?;
    let clean = line.text.chars().map(|c| {
        if c.is_control() && c != '\t' {
            '\u{fffd}'
        } else {
            c
        }
    });
    writeln!(out, "{}", clean.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cannot_command_the_terminal() {
        let mut out = Vec::new();
        let text = LogLine {
            seq: 1,
            time_ms: 1500,
            source: "web".into(),
            stream: Stream::Err,
            text: "\u{1b}[2Jhello".into(),
        };
        line(&mut out, &text).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "     1.500 web          ! \u{fffd}[2Jhello\n"
        );
    }
}
