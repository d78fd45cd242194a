//! Questions to a person on the terminal, wherever standard input and output lead.

use anyhow::{Context, Result, bail, ensure};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use zeroize::Zeroizing;

/// Longest answer, bytes.
const LONGEST: usize = 1024;

/// Whoever was asked gave no answer: Ctrl-C.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Asks for a secret, without echo.
///
/// # Errors
/// There is no terminal, or [`Interrupted`].
pub fn hidden(prompt: &str) -> Result<Zeroizing<String>> {
    let mut terminal = open()?;
    // Before the prompt: what is typed once it is there is not shown, and is no signal.
    let quiet = NoEcho::on(terminal.try_clone().context("cannot share the terminal")?)?;
    write(&mut terminal, prompt)?;
    let line = line(&terminal);
    let given_up = line.as_ref().is_ok_and(|line| quiet.is_end(line));
    drop(quiet);
    write(&mut terminal, "\n")?;
    if given_up {
        return Err(Interrupted.into());
    }
    line
}

/// Asks a question that is answered by `yes`; anything else is no.
///
/// # Errors
/// There is no terminal.
pub fn confirm(question: &str) -> Result<bool> {
    let mut terminal = open()?;
    write(&mut terminal, &format!("{question} [yes/no] "))?;
    Ok(matches!(line(&terminal)?.trim(), "yes" | "y"))
}

/// Asks whether something is meant that cannot be undone, unless `yes` says so already.
///
/// # Errors
/// It is not meant, or nobody can be asked.
pub fn sure(yes: bool, question: &str) -> Result<()> {
    if yes {
        return Ok(());
    }
    let answer = confirm(question).context("nobody can be asked whether it is meant: use --yes")?;
    ensure!(answer, "nothing was done");
    Ok(())
}

/// Text that came from somewhere else, without what would move the terminal's cursor: a device's words may be a container's.
#[must_use]
pub fn clean(text: &str) -> String {
    let visible = |c: char| {
        if c.is_control() && c != '\t' {
            '\u{fffd}'
        } else {
            c
        }
    };
    text.chars().map(visible).collect()
}

fn open() -> Result<File> {
    let terminal = File::options().read(true).write(true).open("/dev/tty");
    terminal.context("there is no terminal to ask on")
}

fn write(terminal: &mut File, text: &str) -> Result<()> {
    terminal
        .write_all(text.as_bytes())
        .context("cannot write to the terminal")
}

fn line(terminal: &File) -> Result<Zeroizing<String>> {
    // A terminal gives a line at a time, and no more of it than there is room.
    let mut bytes = Zeroizing::new(vec![0; LONGEST]);
    let mut terminal = terminal;
    let count = terminal.read(&mut bytes);
    let count = count.context("cannot read from the terminal")?;
    let given = bytes.get(..count).unwrap_or_default();
    let Ok(text) = std::str::from_utf8(given) else {
        bail!("what was typed is not UTF-8");
    };
    Ok(Zeroizing::new(
        text.trim_end_matches(['\n', '\r']).to_owned(),
    ))
}

/// What ends a line beside the end of a line: the keys of two signals.
const ENDS: [(SpecialCodeIndex, SpecialCodeIndex); 2] = [
    (SpecialCodeIndex::VEOL, SpecialCodeIndex::VINTR),
    (SpecialCodeIndex::VEOL2, SpecialCodeIndex::VQUIT),
];

/// Echo is off until this is dropped. So are signals: one that ended us would leave the terminal without echo. Ctrl-C ends the line
/// instead, which then says so.
struct NoEcho {
    terminal: File,
    before: rustix::termios::Termios,
}

impl NoEcho {
    fn on(terminal: File) -> Result<Self> {
        let before = tcgetattr(&terminal).context("cannot read the terminal's modes")?;
        let mut modes = before.clone();
        modes
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ISIG);
        for (end, key) in ENDS {
            modes.special_codes[end] = before.special_codes[key];
        }
        tcsetattr(&terminal, OptionalActions::Flush, &modes)
            .context("cannot turn the terminal's echo off")?;
        Ok(Self { terminal, before })
    }

    /// Whether a line has a key in it that would have been a signal.
    fn is_end(&self, line: &str) -> bool {
        let keys = [
            SpecialCodeIndex::VINTR,
            SpecialCodeIndex::VQUIT,
            SpecialCodeIndex::VSUSP,
        ];
        // 0 is a key that is not set (termios(3)).
        let keys = keys.map(|key| self.before.special_codes[key]);
        line.bytes().any(|byte| byte != 0 && keys.contains(&byte))
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        // Nothing better can be done than to try; the next prompt of the shell shows whether it worked.
        tcsetattr(&self.terminal, OptionalActions::Flush, &self.before).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_words_cannot_move_the_cursor() {
        assert_eq!(
            clean("a\tb\r\u{1b}[2J\u{9b}ü"),
            "a\tb\u{fffd}\u{fffd}[2J\u{fffd}ü"
        );
    }
}
