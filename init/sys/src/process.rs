//! Processes: waiting, signalling by pidfd, namespaces, limits, identity of the process itself.
//!
//! What gives up privilege is in [`crate::privilege`], what becomes another program in
//! [`crate::exec`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, chdir, chroot, fchdir, getpid, prlimit, setrlimit,
    setsid, umask,
};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, WaitOptions};
use rustix::thread::UnshareFlags;

use crate::clone::Namespaces;
use crate::syscall::{PIDFD_SEND_SIGNAL, checked, checked_int};
use crate::{During, Errno, Error, Result};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// By itself, with this code (0 to 255).
    Exited(i32),
    /// By a signal.
    Signaled {
        /// The signal's number.
        signal: i32,
        /// Whether a core was dumped.
        core: bool,
    },
}

impl ExitStatus {
    /// Whether it ended by itself with code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Exited(0)
    }

    fn from_waitid(status: &WaitIdStatus) -> Option<Self> {
        if let Some(code) = status.exit_status() {
            return Some(Self::Exited(code));
        }
        let core = status.dumped();
        let signal = status.terminating_signal()?;
        Some(Self::Signaled { signal, core })
    }

    /// From the number that `wait4(2)` gives.
    fn from_wait(status: i32) -> Option<Self> {
        if libc::WIFEXITED(status) {
            return Some(Self::Exited(libc::WEXITSTATUS(status)));
        }
        libc::WIFSIGNALED(status).then(|| Self::Signaled {
            signal: libc::WTERMSIG(status),
            core: libc::WCOREDUMP(status),
        })
    }
}

/// A descriptor of process `pid`, close-on-exec; readable once it has ended.
///
/// # Errors
/// `ESRCH` where there is none.
pub fn open_pidfd(pid: Pid) -> Result<OwnedFd> {
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).during("pidfd_open")
}

/// Sends `signal` to the process of `pidfd`, never to another that got its number.
///
/// # Errors
/// `ESRCH` where it has been reaped, `EPERM`.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: Signal) -> Result<()> {
    rustix::process::pidfd_send_signal(pidfd, signal).during("pidfd_send_signal")
}

/// As [`send_signal`], for any number that is one: those for real time have no name.
///
/// # Errors
/// As [`send_signal`]; `EINVAL` for a number that is none.
pub fn send_signal_number(pidfd: BorrowedFd<'_>, number: i32) -> Result<()> {
    let nothing: *const libc::c_void = std::ptr::null();
    // SAFETY: no memory is passed: a null pointer has the kernel fill in who sends. Numbers that the C library uses itself have a
    // meaning for this process's own threads alone, and the receiver is another process.
    let answer = unsafe {
        libc::syscall(
            PIDFD_SEND_SIGNAL,
            std::os::fd::AsRawFd::as_raw_fd(&pidfd),
            number,
            nothing,
            0,
        )
    };
    checked("pidfd_send_signal", answer).map(drop)
}

/// Reaps the child of `pidfd` if it has ended; `None` while it runs.
///
/// # Errors
/// `ECHILD` where it is no child of ours or was reaped already.
pub fn try_wait_pidfd(pidfd: BorrowedFd<'_>) -> Result<Option<ExitStatus>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = rustix::process::waitid(WaitId::PidFd(pidfd), options).during("waitid")?;
    Ok(status.as_ref().and_then(ExitStatus::from_waitid))
}

/// Waits for the child of `pidfd` to end, and reaps it. Blocks: not for a reactor.
///
/// # Errors
/// As [`try_wait_pidfd`].
pub fn wait_pidfd(pidfd: BorrowedFd<'_>) -> Result<ExitStatus> {
    loop {
        let answer = rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED);
        if matches!(answer, Err(Errno::INTR)) {
            continue;
        }
        let status = answer.during("waitid")?;
        if let Some(ended) = status.as_ref().and_then(ExitStatus::from_waitid) {
            return Ok(ended);
        }
    }
}

/// The id of some child that has ended and is not reaped, without reaping it: so that whoever holds
/// its pidfd still finds its status. It is always the same one until that is reaped.
///
/// # Errors
/// None for a process without children: that is `None`, too.
pub fn peek_ended() -> Result<Option<Pid>> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is memory of a siginfo_t that lives through the call.
    let answer = unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) };
    match checked_int("waitid", answer) {
        Ok(_) => {}
        Err(Error {
            errno: Errno::CHILD,
            ..
        }) => return Ok(None),
        Err(error) => return Err(error),
    }
    // SAFETY: it was zeroed, which is a valid siginfo_t, and the kernel may have filled it since.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid either left the zeroes or filled the fields of SIGCHLD, of which si_pid is one.
    let pid = unsafe { info.si_pid() };
    Ok(Pid::from_raw(pid))
}

/// Reaps the child `pid` if it has ended.
///
/// # Errors
/// `ECHILD` where there is no such child.
pub fn reap(pid: Pid) -> Result<Option<ExitStatus>> {
    let ended = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG).during("wait4")?;
    Ok(ended.and_then(|(_, status)| ExitStatus::from_wait(status.as_raw())))
}

/// Reaps any child that has ended, one a call; `None` when there is no more. It takes the status
/// away from whoever waits by pidfd: see [`peek_ended`].
///
/// # Errors
/// None that is known; the kernel's answer is passed on.
pub fn reap_any() -> Result<Option<(Pid, ExitStatus)>> {
    match rustix::process::wait(WaitOptions::NOHANG) {
        Ok(ended) => Ok(ended.and_then(|(pid, status)| {
            ExitStatus::from_wait(status.as_raw()).map(|status| (pid, status))
        })),
        Err(Errno::CHILD) => Ok(None),
        Err(errno) => Err(errno).during("wait4"),
    }
}

/// Has the kernel send this process `signal` when its parent (thread) ends, or nothing any more.
///
/// # Errors
/// None that is known; the kernel's answer is passed on.
pub fn set_parent_death_signal(signal: Option<Signal>) -> Result<()> {
    rustix::process::set_parent_process_death_signal(signal).during("PR_SET_PDEATHSIG")
}

/// Whether this process leaves core dumps, and whether those of its own user may trace it and open
/// its `/proc` entries.
///
/// # Errors
/// None that is known; the kernel's answer is passed on.
pub fn set_dumpable(dumpable: bool) -> Result<()> {
    use rustix::process::DumpableBehavior;
    let behaviour = if dumpable {
        DumpableBehavior::Dumpable
    } else {
        DumpableBehavior::NotDumpable
    };
    rustix::process::set_dumpable_behavior(behaviour).during("PR_SET_DUMPABLE")
}

/// Makes this process the new parent of its descendants' orphans.
///
/// # Errors
/// None that is known; the kernel's answer is passed on.
pub fn become_subreaper() -> Result<()> {
    let own = Some(rustix::process::getpid());
    rustix::process::set_child_subreaper(own).during("PR_SET_CHILD_SUBREAPER")
}

/// Moves this process into new namespaces (`unshare(2)`); a new pid namespace is for its children.
///
/// # Errors
/// `EPERM`, `ENOSPC` at a limit, `EINVAL` for what the kernel does not know.
pub fn unshare(namespaces: Namespaces) -> Result<()> {
    let bits = u32::try_from(namespaces.bits());
    let bits = bits.map_err(|_| Error::new("unshare", Errno::INVAL))?;
    // SAFETY: `Namespaces` has only CLONE_NEW* bits: the table of descriptors (CLONE_FILES), whose
    // unsharing is what makes this unsafe, stays shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::from_bits_retain(bits)) }
        .during("unshare")
}

/// Moves this thread into the namespace of an open `/proc/PID/ns/*` file (`setns(2)`).
///
/// # Errors
/// `EINVAL` where it is no namespace or cannot be entered, `EPERM`.
pub fn enter_namespace(namespace: BorrowedFd<'_>) -> Result<()> {
    rustix::thread::move_into_link_name_space(namespace, None).during("setns")
}

/// Moves this thread into `namespaces` of the process of `pidfd`, all or none.
///
/// # Errors
/// As [`enter_namespace`]; `ESRCH` where the process has ended.
pub fn enter_namespaces_of(pidfd: BorrowedFd<'_>, namespaces: Namespaces) -> Result<()> {
    let bits = u32::try_from(namespaces.bits());
    let bits = bits.map_err(|_| Error::new("setns", Errno::INVAL))?;
    let types = rustix::thread::ThreadNameSpaceType::from_bits_retain(bits);
    rustix::thread::move_into_thread_name_spaces(pidfd, types).during("setns")
}

/// Sets the host name of this UTS namespace: at most 64 bytes.
///
/// # Errors
/// `EINVAL` for a longer one, `EPERM`.
pub fn set_host_name(name: &[u8]) -> Result<()> {
    rustix::system::sethostname(name).during("sethostname")
}

/// Sets the execution domain (`personality(2)`): `ADDR_NO_RANDOMIZE`, `PER_LINUX32`, ….
///
/// # Errors
/// `EINVAL` for what the kernel does not know.
pub fn set_personality(persona: u32) -> Result<()> {
    // SAFETY: it takes any number and changes only how later calls and execs behave.
    let answer = unsafe { libc::personality(libc::c_ulong::from(persona)) };
    checked_int("personality", answer).map(drop)
}

/// Priority of input and output of this process, as class and level are put together (`ioprio_set(2)`).
///
/// # Errors
/// `EINVAL` for what is none, `EPERM`.
pub fn set_io_priority(priority: u16) -> Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: the call takes three numbers.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0,
            libc::c_int::from(priority),
        )
    };
    checked("ioprio_set", answer).map(drop)
}

/// Makes `source` the standard descriptor `number` (0, 1 or 2) of this process, kept over an exec.
///
/// # Errors
/// `EBADF` for another number; `EBUSY`.
pub fn set_standard<Fd: AsFd>(source: Fd, number: u8) -> Result<()> {
    let answer = match number {
        0 => rustix::stdio::dup2_stdin(source),
        1 => rustix::stdio::dup2_stdout(source),
        2 => rustix::stdio::dup2_stderr(source),
        _ => Err(Errno::BADF),
    };
    answer.during("dup2")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clone::spawn;

    #[test]
    fn a_killed_child_says_by_which_signal() {
        let child = spawn(Namespaces::NONE, None, || {
            loop {
                rustix::event::poll(&mut [], None).ok();
            }
        });
        let child = child.expect("clone3");
        assert_eq!(try_wait_pidfd(child.pidfd.as_fd()), Ok(None));
        send_signal(child.pidfd.as_fd(), Signal::KILL).expect("kill");
        let status = wait_pidfd(child.pidfd.as_fd()).expect("waitid");
        assert_eq!(
            status,
            ExitStatus::Signaled {
                signal: libc::SIGKILL,
                core: false
            }
        );
        let gone = send_signal(child.pidfd.as_fd(), Signal::KILL);
        assert_eq!(gone, Err(Error::new("pidfd_send_signal", Errno::SRCH)));
        let reaped = try_wait_pidfd(child.pidfd.as_fd());
        assert_eq!(reaped, Err(Error::new("waitid", Errno::CHILD)));
    }

    #[test]
    fn peeking_leaves_the_status() {
        // In a child of our own, so that no other test's children are seen.
        let outer = spawn(Namespaces::NONE, None, || {
            let Ok(inner) = spawn(Namespaces::NONE, None, || 7) else {
                return 1;
            };
            while peek_ended() != Ok(Some(inner.pid)) {
                std::thread::yield_now();
            }
            if reap(inner.pid) != Ok(Some(ExitStatus::Exited(7))) {
                return 2;
            }
            if peek_ended() == Ok(None) && reap_any() == Ok(None) {
                0
            } else {
                3
            }
        });
        let outer = outer.expect("clone3");
        assert_eq!(wait_pidfd(outer.pidfd.as_fd()), Ok(ExitStatus::Exited(0)));
    }

    #[test]
    fn wait_numbers_are_understood() {
        assert_eq!(ExitStatus::from_wait(0x0700), Some(ExitStatus::Exited(7)));
        let segv = ExitStatus::Signaled {
            signal: 11,
            core: true,
        };
        assert_eq!(ExitStatus::from_wait(0x8b), Some(segv));
        assert_eq!(ExitStatus::from_wait(0x137f), None);
    }

    #[test]
    fn only_the_three_standard_descriptors_are_set() {
        let null = std::fs::File::open("/dev/null").expect("/dev/null");
        assert_eq!(set_standard(&null, 3), Err(Error::new("dup2", Errno::BADF)));
    }
}
