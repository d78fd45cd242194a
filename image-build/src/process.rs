//! Running other programs: quietly while all is well, with the end of their output when it is not.
//!
//! No shell is involved anywhere, so nothing is ever quoted. Standard input is closed: nothing here may ask.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How much of a failed program's output an error shows: the cause is at the end, and a screen has 24 lines.
const TAIL_LINES: usize = 20;

/// Runs a program to its end and discards what it prints.
///
/// # Errors
/// It cannot be started, or it fails: then with the command line and the last lines of its output.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Copies a disk image; holes stay holes, since an image is mostly that.
///
/// # Errors
/// As [`run`].
pub fn copy_with_holes(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp")
        .args(["--sparse=always", "--reflink=auto", "--"])
        .arg(from)
        .arg(to))
}

/// Runs a program and returns what it wrote to standard output.
///
/// # Errors
/// As [`run`].
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let done = collect(command)?;
    if !done.status.success() {
        let mut text = String::from_utf8_lossy(&done.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&done.stderr));
        bail!(
            "`{}` ended with {}\n{}",
            line(command),
            done.status,
            tail(&text)
        );
    }
    Ok(done.stdout)
}

/// Runs a program and returns what it wrote to standard output; none: it wrote more than `most` bytes, and was ended.
///
/// # Errors
/// As [`run`], without its last lines.
pub fn output_up_to(command: &mut Command, most: usize) -> Result<Option<Vec<u8>>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(most)?.saturating_add(1);
    let read = child
        .stdout
        .take()
        .map(|out| out.take(limit).read_to_end(&mut bytes));
    if bytes.len() > most {
        // It may have ended just now.
        child.kill().ok();
        child.wait().ok();
        return Ok(None);
    }
    let status = child.wait()?;
    read.transpose()
        .with_context(|| format!("cannot read what `{}` prints", line(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", line(command));
    }
    Ok(Some(bytes))
}

/// Runs a program and returns its standard output as trimmed text.
///
/// # Errors
/// As [`run`], or the output is not UTF-8.
pub fn text(command: &mut Command) -> Result<String> {
    let bytes = output(command)?;
    let text = String::from_utf8(bytes)
        .with_context(|| format!("`{}` printed something that is not UTF-8", line(command)))?;
    Ok(text.trim().to_owned())
}

/// Whether a program starts and ends well; its output is discarded.
#[must_use]
pub fn succeeds(command: &mut Command) -> bool {
    collect(command).is_ok_and(|done| done.status.success())
}

/// Runs a program with both outputs in `log`, for what takes minutes and prints thousands of lines; calls `tick`
/// with the time spent whenever `every` has passed.
///
/// # Errors
/// As [`run`], with the path of the log.
pub fn run_watched(
    command: &mut Command,
    log: &Path,
    every: Duration,
    mut tick: impl FnMut(Duration),
) -> Result<()> {
    let file =
        File::create(log).with_context(|| format!("cannot open the log {}", log.display()))?;
    let both = file
        .try_clone()
        .context("cannot share the log between two outputs")?;
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(both)
        .spawn()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    let mut next = every;
    let status = loop {
        if let Some(status) = child
            .try_wait()
            .context("cannot wait for a child process")?
        {
            break status;
        }
        std::thread::sleep(Duration::from_millis(100));
        if start.elapsed() >= next {
            tick(start.elapsed());
            next += every;
        }
    };
    if !status.success() {
        let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
        bail!(
            "`{}` ended with {status}; all of its output is in {}\n{}",
            line(command),
            log.display(),
            tail(&text)
        );
    }
    Ok(())
}

/// Runs a program whose output the person shall see as it comes.
///
/// # Errors
/// It cannot be started, or it fails.
pub fn run_visibly(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", line(command));
    }
    Ok(())
}

/// As [`run_visibly`], and `see` is shown each piece of the standard output as well.
///
/// # Errors
/// As [`run_visibly`]; or its output cannot be read, or not be written on.
pub fn run_seen(command: &mut Command, see: &mut dyn FnMut(&[u8])) -> Result<()> {
    run_shown(command, &mut std::io::stdout(), see)
}

fn run_shown(command: &mut Command, out: &mut dyn Write, see: &mut dyn FnMut(&[u8])) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    let shown = child.stdout.take().map(|from| show(from, out, see));
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for `{}`", line(command)))?;
    shown
        .transpose()
        .with_context(|| format!("cannot show what `{}` prints", line(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", line(command));
    }
    Ok(())
}

fn show(
    mut from: impl Read,
    out: &mut dyn Write,
    see: &mut dyn FnMut(&[u8]),
) -> std::io::Result<()> {
    let mut bytes = [0; 8192];
    loop {
        let read = match from.read(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read?,
        };
        let Some(piece @ [_, ..]) = bytes.get(..read) else {
            return Ok(());
        };
        see(piece);
        out.write_all(piece)?;
        out.flush()?;
    }
}

/// The first executable of that name in `PATH`.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// The command line as a person would type it, for messages only.
#[must_use]
pub fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

fn collect(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", line(command)))
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let start = lines.len().saturating_sub(TAIL_LINES);
    lines.get(start..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_command_status_and_the_end_of_the_output() {
        let error = run(Command::new("sh").args(["-c", "seq 1 100; echo cause >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.ends_with("99\n100\ncause"), "{error}");
        assert!(!error.contains("\n80\n"), "{error}");
    }

    #[test]
    fn a_program_that_prints_without_end_is_ended() {
        let mut endless = Command::new("yes");
        assert_eq!(output_up_to(&mut endless, 1000).unwrap(), None);
        let mut short = Command::new("echo");
        assert_eq!(
            output_up_to(short.arg("four"), 5).unwrap().unwrap(),
            b"four\n"
        );
        assert_eq!(output_up_to(&mut Command::new("echo"), 0).unwrap(), None);
        output_up_to(&mut Command::new("false"), 5).unwrap_err();
    }

    #[test]
    fn what_is_shown_is_seen() {
        let (mut shown, mut seen) = (Vec::new(), Vec::new());
        let mut see = |bytes: &[u8]| seen.extend_from_slice(bytes);
        run_shown(Command::new("echo").arg("one"), &mut shown, &mut see).unwrap();
        let mut fails = Command::new("sh");
        fails.args(["-c", "echo two; exit 3"]);
        run_shown(&mut fails, &mut shown, &mut see).unwrap_err();
        assert_eq!(
            (shown.as_slice(), seen.as_slice()),
            (&b"one\ntwo\n"[..], &b"one\ntwo\n"[..])
        );
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("kedge-no-such-program"))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "cannot start `kedge-no-such-program`");
    }

    #[test]
    fn standard_input_is_closed() {
        assert_eq!(output(&mut Command::new("cat")).unwrap(), b"");
    }
}
