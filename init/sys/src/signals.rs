//! Signals as events: blocked, and read from a descriptor.
//!
//! PID 1 blocks every signal at its start and reads them from a `signalfd(2)` in its reactor, so
//! that no handler ever runs. A child that will exec something must undo that: [`reset`].

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::Signal;

use crate::syscall::{checked_int, new_descriptor};
use crate::{During, Errno, Error, Result};

/// The highest signal number there is (128 on MIPS, 64 elsewhere).
const HIGHEST: i32 = if cfg!(target_arch = "mips") { 127 } else { 64 };

/// The signal that has `number` on most processors (Linux `include/uapi/asm-generic/signal.h`), which is how revisions
/// name signals; none where this processor has no such signal.
#[must_use]
pub fn of_generic(number: u8) -> Option<Signal> {
    if cfg!(target_arch = "mips") {
        Signal::from_named_raw(on_mips(number)?)
    } else {
        Signal::from_named_raw(i32::from(number))
    }
}

/// What a generic number is in Linux `arch/mips/include/uapi/asm/signal.h`.
fn on_mips(number: u8) -> Option<i32> {
    let number = match number {
        // SIGBUS, SIGUSR1, SIGUSR2.
        7 => 10,
        10 => 16,
        12 => 17,
        // SIGSTKFLT, which no processor but x86 had a use for.
        16 => return None,
        // From SIGCHLD to SIGTTOU.
        17 => 18,
        18 => 25,
        19 => 23,
        20 => 24,
        21 => 26,
        22 => 27,
        // From SIGURG to SIGSYS.
        23 => 21,
        24 => 30,
        25 => 31,
        26 => 28,
        27 => 29,
        28 => 20,
        29 => 22,
        30 => 19,
        31 => 12,
        same => same,
    };
    Some(i32::from(number))
}

/// A set of signals (`sigset_t`).
#[derive(Clone, Copy)]
pub struct SignalSet(libc::sigset_t);

impl std::fmt::Debug for SignalSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SignalSet")
    }
}

impl SignalSet {
    /// The set of no signals.
    #[must_use]
    pub fn empty() -> Self {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the pointer is to memory of a sigset_t; sigemptyset cannot fail and fills it.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: sigemptyset has initialised all of it.
        Self(unsafe { set.assume_init() })
    }

    /// The set of all signals, but those that the C library keeps for itself.
    #[must_use]
    pub fn all() -> Self {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the pointer is to memory of a sigset_t; sigfillset cannot fail and fills it.
        unsafe { libc::sigfillset(set.as_mut_ptr()) };
        // SAFETY: sigfillset has initialised all of it.
        Self(unsafe { set.assume_init() })
    }

    /// The set of `signals`.
    #[must_use]
    pub fn of(signals: &[Signal]) -> Self {
        let mut set = Self::empty();
        for signal in signals {
            // SAFETY: `set.0` is an initialised sigset_t; an unknown number changes nothing.
            unsafe { libc::sigaddset(&raw mut set.0, signal.as_raw()) };
        }
        set
    }
}

/// What the reactor of PID 1 listens to.
pub const INIT_SIGNALS: [Signal; 8] = [
    Signal::CHILD,
    Signal::TERM,
    Signal::INT,
    Signal::HUP,
    Signal::USR1,
    Signal::USR2,
    Signal::POWER,
    Signal::QUIT,
];

/// Replaces the set of blocked signals of this thread; returns the former one.
///
/// # Errors
/// None that is known; the kernel's answer is passed on.
pub fn set_blocked(set: &SignalSet) -> Result<SignalSet> {
    let mut former = SignalSet::empty();
    // SAFETY: both point to initialised sets that live through the call.
    let answer =
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set.0, &raw mut former.0) };
    checked_int("sigprocmask", answer)?;
    Ok(former)
}

/// Has a command's process begin with no signal blocked, whatever this one blocks.
pub fn with_none_blocked(command: &mut Command) -> &mut Command {
    let none = SignalSet::empty();
    // SAFETY: between fork and exec the closure makes one system call, which may be made there, and allocates nothing.
    unsafe { command.pre_exec(move || set_blocked(&none).map(drop).map_err(Into::into)) }
}

/// A descriptor from which blocked signals are read. Non-blocking, close-on-exec.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl AsFd for SignalFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A signal that arrived (`struct signalfd_siginfo`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalInfo {
    /// Its number; compare with `Signal::TERM.as_raw()`.
    pub signal: i32,
    /// Why it was sent (`SI_USER`, `CLD_EXITED`, …).
    pub code: i32,
    /// The process that sent it, or for SIGCHLD the child; 0 where unknown or the kernel's.
    pub pid: u32,
    /// The real user id of that process.
    pub uid: u32,
    /// For SIGCHLD: exit code or signal.
    pub status: i32,
}

impl SignalFd {
    /// Bytes of `struct signalfd_siginfo`.
    const RECORD: usize = 128;

    /// Opens one for the signals of `set`, which must be blocked to be seen here.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn new(set: &SignalSet) -> Result<Self> {
        // SAFETY: `set` is initialised and only read; −1 asks for a new descriptor.
        let answer =
            unsafe { libc::signalfd(-1, &raw const set.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        let raw = checked_int("signalfd", answer)?;
        // SAFETY: signalfd has just made this descriptor, for us alone.
        unsafe { new_descriptor("signalfd", libc::c_long::from(raw)) }.map(Self)
    }

    /// The next signal, or `None` when there is none. Signals of one kind that arrive together are
    /// one record: SIGCHLD means "look at all children".
    ///
    /// # Errors
    /// `EIO` for a short record; those of `read(2)`.
    pub fn read(&self) -> Result<Option<SignalInfo>> {
        let mut record = [0u8; Self::RECORD];
        match rustix::io::read(&self.0, &mut record) {
            Ok(length) if length == Self::RECORD => Ok(Some(parse(&record))),
            Ok(_) => Err(Error::new("read signalfd", Errno::IO)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno).during("read signalfd"),
        }
    }
}

/// Reads the fields at their fixed offsets, in the machine's byte order.
fn parse(record: &[u8; SignalFd::RECORD]) -> SignalInfo {
    let word = |offset: usize| {
        let bytes = record
            .get(offset..)
            .and_then(|rest| rest.first_chunk::<4>());
        bytes.copied().unwrap_or_default()
    };
    SignalInfo {
        signal: i32::from_ne_bytes(word(0)),
        code: i32::from_ne_bytes(word(8)),
        pid: u32::from_ne_bytes(word(12)),
        uid: u32::from_ne_bytes(word(16)),
        status: i32::from_ne_bytes(word(40)),
    }
}

/// Gives every signal its default effect and blocks none: what a program expects at its exec.
/// For a child between fork and exec; allocates nothing.
///
/// # Errors
/// None that is known; the kernel's answer is passed on.
pub fn reset() -> Result<()> {
    for number in 1..=HIGHEST {
        // KILL and STOP cannot be changed, and some numbers are the C library's own: both are
        // refused, and have their default effect already.
        // SAFETY: SIG_DFL installs no code of ours.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    set_blocked(&SignalSet::empty()).map(drop)
}

/// Ignores SIGPIPE: a closed pipe is an error (`EPIPE`) of the write.
///
/// # Errors
/// None that is known; the kernel's answer is passed on.
pub fn ignore_broken_pipe() -> Result<()> {
    // SAFETY: SIG_IGN installs no code of ours.
    if unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(Error::last("signal"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clone::{Namespaces, spawn};
    use crate::process::{ExitStatus, wait_pidfd};

    #[test]
    fn each_signal_of_mips_is_one_of_the_generic_ones() {
        let mut numbers: Vec<i32> = (1..=31).filter_map(on_mips).collect();
        numbers.sort_unstable();
        // SIGEMT, which no other processor has, is nobody's.
        let expected: Vec<i32> = (1..=31).filter(|number| *number != 7).collect();
        assert_eq!(numbers, expected);
        assert_eq!(on_mips(15), Some(15));
        assert_eq!((on_mips(32), on_mips(64)), (Some(32), Some(64)));
    }

    #[test]
    fn a_revisions_number_is_a_signal() {
        for (number, signal) in [(10, Signal::USR1), (15, Signal::TERM), (28, Signal::WINCH)] {
            assert_eq!(of_generic(number), Some(signal));
        }
    }

    #[test]
    fn a_record_is_read_at_its_offsets() {
        let mut record = [0u8; SignalFd::RECORD];
        for (offset, value) in [(0, 17i32), (8, 1), (12, 4711), (16, 1000), (40, 3)] {
            record[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        }
        let info = SignalInfo {
            signal: 17,
            code: 1,
            pid: 4711,
            uid: 1000,
            status: 3,
        };
        assert_eq!(parse(&record), info);
        let kernels = std::mem::size_of::<libc::signalfd_siginfo>();
        assert_eq!(SignalFd::RECORD, kernels);
        assert_eq!(std::mem::offset_of!(libc::signalfd_siginfo, ssi_status), 40);
    }

    #[test]
    fn a_blocked_signal_is_read_and_a_reset_child_dies_of_it() {
        // In a child, whose one thread is the only one that the signal can go to.
        let child = spawn(Namespaces::NONE, None, || match signal_round() {
            Ok(()) => 0,
            Err(error) => error.errno.raw_os_error(),
        });
        let child = child.expect("clone3");
        let status = wait_pidfd(child.pidfd.as_fd()).expect("waitid");
        assert_eq!(
            status,
            ExitStatus::Signaled {
                signal: libc::SIGTERM,
                core: false
            }
        );
    }

    fn signal_round() -> Result<()> {
        set_blocked(&SignalSet::all())?;
        let signals = SignalFd::new(&SignalSet::of(&INIT_SIGNALS))?;
        if signals.read()?.is_some() {
            return Err(Error::new("spurious", Errno::BADMSG));
        }
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, Signal::TERM).during("kill")?;
        match signals.read()? {
            Some(info) if info.signal == libc::SIGTERM => {}
            Some(_) | None => return Err(Error::new("lost", Errno::BADMSG)),
        }
        reset()?;
        rustix::process::kill_process(own, Signal::TERM).during("kill")
    }
}
