//! Runs what may never end: a fault can make a test wait for ever.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The most of a log that is looked at, bytes.
const MOST: u64 = 16 << 20;

/// Runs a program with both outputs in `log`: whether it ended well, and what it printed; none: it took longer than that,
/// and was ended with all that it had started.
///
/// # Errors
/// It cannot be started, or the log cannot be written.
pub(super) fn run_up_to(
    command: &mut Command,
    log: &Path,
    longest: Duration,
) -> Result<Option<(bool, String)>> {
    let file = File::create(log).with_context(|| format!("cannot open {}", log.display()))?;
    let both = file.try_clone().context("cannot share the log")?;
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(both)
        .process_group(0)
        .spawn()
        .context("cannot start cargo")?;
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for cargo")? {
            break status;
        }
        if start.elapsed() >= longest {
            let group = format!("-{}", child.id());
            let killed = Command::new("kill").args(["-KILL", "--", &group]).status();
            killed.context("cannot end what hangs")?;
            child.wait().context("cannot wait for cargo")?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let mut text = Vec::new();
    File::open(log)
        .and_then(|file| file.take(MOST).read_to_end(&mut text))
        .with_context(|| format!("cannot read {}", log.display()))?;
    Ok(Some((
        status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, longest: Duration) -> Option<(bool, String)> {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run_up_to(&mut command, &folder.path().join("log"), longest).unwrap()
    }

    #[test]
    fn what_ends_is_heard_and_what_does_not_is_ended() {
        let long = Duration::from_secs(60);
        assert_eq!(
            sh("echo a; echo b >&2", long),
            Some((true, "a\nb\n".to_owned()))
        );
        assert_eq!(sh("exit 101", long), Some((false, String::new())));
        let start = Instant::now();
        assert_eq!(
            sh("sleep 300 & sleep 300", Duration::from_millis(200)),
            None
        );
        assert!(start.elapsed() < long);
    }
}
