//! Questions to a person on the terminal, wherever standard input and output lead.

use anyhow::{Context, Result, ensure};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use zeroize::Zeroizing;

/// Longest answer, bytes.
const LONGEST: u64 = 1024;

/// Asks for a secret, without echo.
///
/// # Errors
/// There is no terminal.
pub fn hidden(prompt: &str) -> Result<Zeroizing<String>> {
    let mut terminal = open()?;
    write(&mut terminal, prompt)?;
    let quiet = NoEcho::on(terminal.try_clone().context("cannot share the terminal")?)?;
    let line = line(&terminal);
    drop(quiet);
    write(&mut terminal, "\n")?;
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
    let mut line = Zeroizing::new(String::with_capacity(256));
    BufReader::new(terminal.take(LONGEST))
        .read_line(&mut line)
        .context("cannot read from the terminal")?;
    let length = line.trim_end_matches(['\n', '\r']).len();
    line.truncate(length);
    Ok(line)
}

/// Echo is off until this is dropped.
struct NoEcho {
    terminal: File,
    before: rustix::termios::Termios,
}

impl NoEcho {
    fn on(terminal: File) -> Result<Self> {
        let before = tcgetattr(&terminal).context("cannot read the terminal's modes")?;
        let mut modes = before.clone();
        modes.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Flush, &modes)
            .context("cannot turn the terminal's echo off")?;
        Ok(Self { terminal, before })
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        // Nothing better can be done than to try; the next prompt of the shell shows whether it worked.
        tcsetattr(&self.terminal, OptionalActions::Flush, &self.before).ok();
    }
}
