//! Hooks: programs that are run at a container's turns, with its state on their standard input.
//!
//! Source: runtime specification, `config.md`, "POSIX-platform Hooks".

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kedge_sys::rustix::fs::{MemfdFlags, memfd_create};
use kedge_sys::rustix::process::{Pid, Signal, kill_process_group};
use kedge_sys::signals::with_none_blocked;

use crate::config::Hook;
use crate::state::Told;

/// How often a hook with a time limit is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// What of a hook's complaints is told, bytes.
const COMPLAINT: u64 = 2048;

/// Runs them one after the other, to the first that fails.
///
/// # Errors
/// The hook: it cannot be run, fails, or takes longer than it may.
pub(crate) fn run(turn: &str, hooks: &[Hook], told: &Told<'_>) -> Result<()> {
    if hooks.is_empty() {
        return Ok(());
    }
    let state = serde_json::to_vec(told)?;
    for hook in hooks {
        one(hook, &state).with_context(|| format!("hook {turn} {}", hook.path))?;
    }
    Ok(())
}

/// Runs those that follow the end, all of them: the container is gone, and what its hooks want is no reason to say that it is
/// not (specification, "Lifecycle"). Returns what went wrong.
pub(crate) fn poststop(hooks: &[Hook], told: &Told<'_>) -> Vec<anyhow::Error> {
    let all = hooks.iter();
    all.filter_map(|hook| run("poststop", std::slice::from_ref(hook), told).err())
        .collect()
}

fn one(hook: &Hook, state: &[u8]) -> Result<()> {
    ensure!(
        Path::new(&hook.path).is_absolute(),
        "its path is not absolute"
    );
    // A file in memory and no pipe: nobody reads while the hook runs, and one that complains at length must not wait for that.
    let complaints = memfd_create(c"hook", MemfdFlags::CLOEXEC).context("a file for complaints")?;
    let mut complaints = File::from(complaints);
    // So is its input: a pipe takes 64 KiB, and a hook that does not read would be waited for before its time begins.
    let input = memfd_create(c"state", MemfdFlags::CLOEXEC).context("a file for the state")?;
    let mut input = File::from(input);
    input.write_all(state).context("the state")?;
    input.rewind().context("the state")?;
    let mut command = Command::new(&hook.path);
    command
        .env_clear()
        // A group of its own: a hook that takes too long ends with the programs that it has started.
        .process_group(0)
        .stdin(input)
        .stdout(Stdio::null())
        .stderr(complaints.try_clone()?);
    if let Some((name, arguments)) = hook.args.split_first() {
        command.arg0(name).args(arguments);
    }
    for variable in &hook.env {
        if let Some((name, value)) = variable.split_once('=') {
            command.env(name, value);
        }
    }
    // In the foreground this command takes signals from a descriptor, so they are blocked.
    let mut child = with_none_blocked(&mut command).spawn()?;
    let status = match hook.timeout {
        None => child.wait()?,
        Some(seconds) => wait(&mut child, Duration::from_secs(seconds))?,
    };
    if !status.success() {
        let mut complaint = Vec::new();
        complaints.rewind()?;
        complaints.take(COMPLAINT).read_to_end(&mut complaint).ok();
        bail!("{status}: {}", String::from_utf8_lossy(&complaint).trim());
    }
    Ok(())
}

fn wait(child: &mut Child, longest: Duration) -> Result<std::process::ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() >= longest {
            // Its number is its own until it is waited for.
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                kill_process_group(group, Signal::KILL).ok();
            }
            child.kill().ok();
            child.wait().ok();
            bail!("it took longer than {} s", longest.as_secs());
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_sys::signals::{SignalSet, set_blocked};

    #[test]
    fn hooks_can_be_ended_by_signals_that_are_blocked_here() {
        let script =
            "grep 'SigBlk:.0*$' /proc/self/status || { cat /proc/self/status >&2; exit 1; }";
        let hook = Hook {
            path: "/bin/sh".to_owned(),
            args: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec!["PATH=/bin:/usr/bin".to_owned()],
            timeout: Some(20),
        };
        let before = set_blocked(&SignalSet::of(&[Signal::TERM, Signal::CHILD])).unwrap();
        let done = one(&hook, b"{}");
        set_blocked(&before).unwrap();
        done.unwrap();
    }
}
