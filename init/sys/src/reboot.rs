//! The end of the machine: restart, power off, halt, and syncing before it.
//!
//! Nothing here is orderly: file systems are the caller's to unmount.

use rustix::system::RebootCommand;

use crate::{During, Result};

/// How the machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Starts again.
    Restart,
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
        Ending::PowerOff => RebootCommand::PowerOff,
        Ending::Halt => RebootCommand::Halt,
    };
    rustix::system::reboot(command).during("reboot")
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
