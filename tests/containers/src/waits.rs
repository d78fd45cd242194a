//! Waiting for the end. As the first process of its pid namespace a program is only reached by signals that it takes.

use kedge_sys::process::Signal;
use kedge_sys::rustix::event::{PollFd, PollFlags, poll};
use kedge_sys::rustix::process::{WaitOptions, wait};
use kedge_sys::signals::{SignalFd, SignalSet, set_blocked};
use std::process::ExitCode;
use std::thread;

/// Blocks everything: called before any thread exists, so that no signal is lost to one that would ignore it.
pub(crate) fn block_all() {
    if let Err(error) = set_blocked(&SignalSet::all()) {
        crate::say(&format!("cannot block signals: {error}"));
    }
}

/// Waits for any signal; its number.
pub(crate) fn for_any() -> i32 {
    let Ok(signals) = SignalFd::new(&SignalSet::all()) else {
        return 0;
    };
    loop {
        let mut ready = [PollFd::new(&signals, PollFlags::IN)];
        if poll(&mut ready, None).is_err() {
            continue;
        }
        match signals.read() {
            // Of what commands have started and left: their first process has them now.
            Ok(Some(info)) if info.signal == Signal::CHILD.as_raw() => reap(),
            Ok(Some(info)) => return info.signal,
            Ok(None) | Err(_) => {}
        }
    }
}

fn reap() {
    while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
}

/// Waits until it is asked to stop, and ends well.
pub(crate) fn for_stop() -> ExitCode {
    for_any();
    ExitCode::SUCCESS
}

/// Hears nothing, for ever.
pub(crate) fn stubborn() {
    crate::say("stubborn");
    loop {
        thread::park();
    }
}
