//! Probes of the store: whether the disk below it still takes a block and gives it back.
//!
//! Each is a child of PID 1 that lives for it alone, and no work of the disk helper's: what that brings to the disk waits for
//! transactions of the file system, and those for data of whoever wrote at the same time (ext4, `data=ordered`), a container's that
//! is held to 64 KiB a second or a slow card's. Minutes of that are no sign of a bad disk; a probe that hangs is one. Its exit code is
//! the errno, or 0.

use super::{Driver, now_ms};
use crate::boot::DATA;
use crate::helpers::disk::{DIRECTORY, probe::probe};
use crate::log::Stream;
use kedge_sys::Errno;
use kedge_sys::clone::{self, Child, Namespaces};
use kedge_sys::descriptors::close_from;
use kedge_sys::process::{ExitStatus, Pid, reap};
use std::path::Path;

/// The probe that runs, one at a time: a second one would hang where the first does.
#[derive(Debug, Default)]
pub(crate) struct Probing {
    running: Option<Child>,
    /// The judge waits for one that has not begun.
    asked: bool,
    /// The judge waits for the one that runs.
    judged: bool,
    /// How many there were: each writes something else.
    count: u32,
}

/// How one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ended {
    failed: Option<Errno>,
    /// The judge has asked for it.
    judged: bool,
}

impl Probing {
    /// The judge asks for one that begins from now on.
    pub(super) const fn ask(&mut self) {
        self.asked = true;
    }

    /// Lets `work` be done in a child.
    fn begin(&mut self, work: impl FnOnce(u32) -> i32) -> kedge_sys::Result<()> {
        let token = self.count.wrapping_add(1);
        let child = clone::spawn(Namespaces::NONE, None, || work(token))?;
        self.running = Some(child);
        self.count = token;
        self.judged = std::mem::take(&mut self.asked);
        Ok(())
    }

    /// A child has ended and is not reaped; `None`: it is another one.
    fn ended(&mut self, pid: Pid) -> Option<Ended> {
        self.running.take_if(|child| child.pid == pid)?;
        let failed = match reap(pid) {
            Ok(Some(ExitStatus::Exited(0))) => None,
            Ok(Some(ExitStatus::Exited(code))) => Some(Errno::from_raw_os_error(code)),
            Ok(Some(ExitStatus::Signaled { .. }) | None) | Err(_) => Some(Errno::CANCELED),
        };
        let judged = std::mem::take(&mut self.judged);
        Some(Ended { failed, judged })
    }
}

impl Driver {
    /// Begins a probe that is due.
    pub(super) fn probe_turn(&mut self, now: u64) {
        let due = self.helpers.probing.asked || self.helpers.progress.is_due(now);
        // Containers have their head start before it, too.
        if !due || self.helpers.probing.running.is_some() || self.furnish_at.is_some() {
            return;
        }
        match self.helpers.probing.begin(try_store) {
            Ok(()) => self.helpers.progress.begun(now),
            Err(error) => {
                self.helpers.progress.probed(now);
                self.say(Stream::Warning, &format!("probe of {DATA}: {error}"));
            }
        }
    }

    /// A child has ended; false: it is no probe.
    pub(super) fn probe_ended(&mut self, pid: Pid) -> bool {
        let Some(Ended { failed, judged }) = self.helpers.probing.ended(pid) else {
            return false;
        };
        self.helpers.progress.probed(now_ms());
        if let Some(errno) = failed {
            self.say(Stream::Error, &format!("{DATA} fails: {errno}"));
        }
        if judged {
            self.judge_probed(failed.is_none());
        }
        true
    }
}

/// What the child does.
fn try_store(token: u32) -> i32 {
    // Were it to hang, nobody who waits for the end of a pipe or socket of PID 1's shall hang with it.
    if let Err(error) = close_from(3) {
        return code(error.errno);
    }
    let outcome = probe(Path::new(DIRECTORY), token);
    outcome.map_or_else(|error| code(error.errno()), |()| 0)
}

/// An exit code has eight bits, and MIPS one errno more than they hold.
fn code(errno: Errno) -> i32 {
    u8::try_from(errno.raw_os_error()).map_or(Errno::IO.raw_os_error(), i32::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_sys::rustix::event::{PollFd, PollFlags, poll};

    /// Waits for the child as the loop does, and tells how it ended.
    fn end(probing: &mut Probing) -> Ended {
        let child = probing.running.as_ref().unwrap();
        let pid = child.pid;
        poll(&mut [PollFd::new(&child.pidfd, PollFlags::IN)], None).unwrap();
        probing.ended(pid).unwrap()
    }

    #[test]
    fn an_exit_code_is_an_errno() {
        let mut probing = Probing::default();
        for (exit, failed) in [
            (0, None),
            (code(Errno::NOSPC), Some(Errno::NOSPC)),
            (
                code(Errno::from_raw_os_error(1133)),
                Some(Errno::from_raw_os_error(code(Errno::IO))),
            ),
        ] {
            probing.begin(|_| exit).unwrap();
            let judged = false;
            assert_eq!(end(&mut probing), Ended { failed, judged });
            assert!(probing.running.is_none());
        }
        assert_eq!(probing.count, 3);
    }

    #[test]
    fn the_judge_is_answered_by_a_probe_that_begins_after_it_asked() {
        let mut probing = Probing::default();
        probing.begin(|_| 0).unwrap();
        probing.ask();
        let other = kedge_sys::process::Pid::INIT;
        assert_eq!(probing.ended(other), None);
        assert!(!end(&mut probing).judged);
        assert!(probing.asked);
        probing.begin(|_| 0).unwrap();
        assert!(end(&mut probing).judged && !probing.asked);
        probing.begin(|_| 0).unwrap();
        assert!(!end(&mut probing).judged);
    }
}
