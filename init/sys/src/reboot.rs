//! The end of the machine: restart, power off, halt, and syncing before it.
//!
//! Nothing here is orderly: file systems are the caller's to unmount.

use std::ffi::CStr;

use rustix::system::RebootCommand;

use crate::syscall::checked;
use crate::{During, Result};

/// How the machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Starts again.
    Restart,
    /// Starts again, with this word for whoever starts it: drivers of the kernel's pass it on, or do not know it.
    RestartWith(&'static CStr),
    /// Switches itself off, where the board can.
    PowerOff,
    /// Stops, with the power on.
    Halt,
}

/// Ends the machine now (`reboot(2)`); in another pid namespace than the first it ends that one.
///
/// # Errors
/// `EPERM` without `CAP_SYS_BOOT`; otherwise it does not return.
pub fn reboot(ending: Ending) -> Result<()> {
    let command = match ending {
        Ending::Restart => RebootCommand::Restart,
        Ending::RestartWith(word) => return restart_with(word),
        Ending::PowerOff => RebootCommand::PowerOff,
        Ending::Halt => RebootCommand::Halt,
    };
    rustix::system::reboot(command).during("reboot")
}

/// `LINUX_REBOOT_CMD_RESTART2`, which rustix does not have.
fn restart_with(word: &CStr) -> Result<()> {
    // SAFETY: the fourth argument is a string that ends in NUL and outlives the call, which copies it; the others are numbers.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_reboot,
            libc::LINUX_REBOOT_MAGIC1,
            libc::LINUX_REBOOT_MAGIC2,
            libc::LINUX_REBOOT_CMD_RESTART2,
            word.as_ptr(),
        )
    };
    checked("reboot", answer).map(drop)
}

/// Makes the key combination ctrl-alt-del (and a serial break's `b`… of the same kind) send SIGINT to
/// PID 1 instead of restarting the machine at once.
///
/// # Errors
/// `EPERM` without `CAP_SYS_BOOT`.
pub fn ctrl_alt_del_to_init() -> Result<()> {
    rustix::system::reboot(RebootCommand::CadOff).during("reboot")
}

/// Writes out all that is dirty, on every file system, and waits for it: on a dying disk for ever.
/// Whoever must not wait so long does it in a child.
pub fn sync() {
    rustix::fs::sync();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clone::{Namespaces, spawn};
    use crate::process::{ExitStatus, wait_pidfd};
    use std::os::fd::AsFd;

    #[test]
    fn a_restart_with_a_word_ends_a_pid_namespace() {
        // reboot(2): in another pid namespace than the first, its init is killed by SIGHUP, with and without a word.
        for ending in [Ending::Restart, Ending::RestartWith(c"0 tryboot")] {
            let child = spawn(Namespaces::USER | Namespaces::PID, None, || {
                reboot(ending).map_or(1, |()| 0)
            });
            let child = child.unwrap();
            let status = wait_pidfd(child.pidfd.as_fd()).unwrap();
            assert!(
                matches!(
                    status,
                    ExitStatus::Signaled {
                        signal: libc::SIGHUP,
                        ..
                    }
                ),
                "{ending:?}: {status:?}"
            );
        }
    }
}
