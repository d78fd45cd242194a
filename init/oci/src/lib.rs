//! The OCI runtime command of Kedge: containers by `config.json`, with the arguments of runc.
//!
//! It makes containers as the engine of the device does, of the same parts ([`kedge_sys`]): one `clone3` into the control
//! group, the new mount API, filters that are judged by a tree. What it does otherwise follows from what is asked: a
//! configuration may want anything, where a revision wants what is confined; and it is a command that ends, where the engine is
//! part of PID 1, so that what is known of a container lies in a folder in memory and a started process has no parent of ours.
//! It is no part of a device's image.
//!
//! | module | does |
//! |---|---|
//! | [`config`] | the document |
//! | [`plan`], [`resources`] | decide, without any I/O |
//! | `create`, `exec` | the parent's half of a start |
//! | `child`, `rootfs`, `nodes`, `become_process` | the process's own half, up to its exec |
//! | `inside` | paths in a root that somebody else has filled |
//! | `link` | what both halves say to each other |
//! | `state` | what is known of a container between two commands |
//! | `arguments`, `commands`, `usage` | the command line |
//!
//! Invariant: nothing that a document asks for is left out silently. What is not supported (AppArmor, SELinux, Intel RDT,
//! version 1 of the control groups, systemd's) is refused by its name.

mod arguments;
mod become_process;
mod cgroup;
mod child;
mod commands;
pub mod config;
mod copy;
mod create;
mod exec;
mod features;
mod filter;
mod foreground;
mod hooks;
mod inside;
mod link;
mod nodes;
pub mod plan;
pub mod resources;
mod rootfs;
mod sealed;
mod state;
mod template;
mod terminal;
mod usage;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::SystemTime;

use arguments::{Command, Global};
use kedge_sys::descriptors::is_open;

/// The whole command: reads the command line, does what it says, tells what failed.
#[must_use]
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (global, command) = arguments::parse(words);
    match command.and_then(|command| perform(&global, command)) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            let text = format!("{error:#}");
            let mut output = std::io::stderr().lock();
            // There is nowhere left to say that this failed.
            writeln!(output, "error: {text}").ok();
            log(&global, "error", &text);
            ExitCode::FAILURE
        }
    }
}

fn perform(global: &Global, command: Command) -> anyhow::Result<u8> {
    if let Command::Create(create::Options { preserve_fds, .. })
    | Command::Run {
        create: create::Options { preserve_fds, .. },
        ..
    }
    | Command::Exec(exec::Options { preserve_fds, .. }) = &command
    {
        check_preserved(*preserve_fds)?;
        sealed::run_from_read_only_mount()?;
    }
    commands::perform(global, command)
}

/// Before anything is opened here: what is opened later would have the number of one that is missing, and the container get
/// a descriptor of the machine's (CVE-2024-21626).
fn check_preserved(kept: u32) -> anyhow::Result<()> {
    let missing = (3..kept.saturating_add(3)).find(|number| !is_open(*number));
    match missing {
        None => Ok(()),
        Some(number) => {
            anyhow::bail!("--preserve-fds {kept}: there is no descriptor {number} to be kept")
        }
    }
}

/// Tells of what is no error: in the log, or on standard error where there is none.
pub(crate) fn warn(global: &Global, text: &str) {
    if global.log.is_none() {
        // There is nowhere left to say that this failed.
        writeln!(std::io::stderr().lock(), "warning: {text}").ok();
    }
    log(global, "warning", text);
}

/// Writes a line where the caller looks for it.
fn log(global: &Global, level: &str, text: &str) {
    let Some(path) = &global.log else {
        return;
    };
    let time = state::rfc3339(SystemTime::now());
    let line = if global.log_json {
        serde_json::json!({"level": level, "msg": text, "time": time}).to_string()
    } else {
        format!("time={time:?} level={level} msg={text:?}")
    };
    let mut options = std::fs::OpenOptions::new();
    // It was said on standard error already.
    if let Ok(mut file) = options.create(true).append(true).open(path) {
        writeln!(file, "{line}").ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_the_command_line_is_logged() {
        let folder = tempfile::tempdir().unwrap();
        for (number, (before, after, word)) in [
            ("", "frobnicate", "frobnicate"),
            ("", "create --what one", "--what"),
            ("", "--what", "--what"),
            // Wherever the log is named before the command.
            ("--systemd-cgroup", "create one", "cgroupfs"),
        ]
        .into_iter()
        .enumerate()
        {
            let path = folder.path().join(number.to_string());
            let line = format!("{before} --log {} {after}", path.display());
            let status = main(line.split_whitespace().map(OsString::from));
            assert_eq!(status, ExitCode::FAILURE, "{line}");
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                text.contains("level=error") && text.contains(word),
                "{text}"
            );
        }
    }
}
