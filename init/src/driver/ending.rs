//! The end of an orderly run: volumes and store away in order, data on disk, then the machine.

use super::led::Led;
use super::{Driver, TAIL};
use crate::boot::{DATA, TO_TRY};
use crate::last_resort::{bounded, last_resort, sync_bounded};
use crate::machine::Halt;
use kedge_container::Stage;
use kedge_sys::reboot::{Ending, reboot};
use kedge_sys::rustix::io::Errno;
use kedge_sys::rustix::mount::{MountFlags, mount_remount};
use kedge_sys::rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::CString;
use std::time::Duration;

/// Ends the machine. Every container is down, or could not be killed. `to_try`: a restart is a try. `led` goes out once
/// nothing is written any more, before the power goes off: not every board can switch that off by itself.
///
/// The store is made read-only rather than unmounted: layers are mounted from its files and keep
/// it busy, while a read-only remount writes the journal out and leaves the file system clean.
pub(crate) fn end(halt: Halt, to_try: bool, led: Option<Led>) -> ! {
    sync_bounded();
    // A disk that is dying, or that is not done, holds this, too. Where it does, or where there can be no child, the journal has what there is.
    bounded(READ_ONLY_BOUND, write_no_more).ok();
    if let (Halt::PowerOff, Some(mut led)) = (halt, led) {
        led.put_out();
    }
    let ending = match halt {
        Halt::Reboot if to_try => TO_TRY,
        Halt::Reboot => Ending::Restart,
        Halt::PowerOff => Ending::PowerOff,
    };
    let failed = reboot(ending);
    last_resort(&format!("reboot: {failed:?}"), &[], None)
}

impl Driver {
    /// After an error of this stage nothing may be started any more: there is only a restart.
    pub(super) fn unless_astray(&mut self, stage: Stage, error: &str) {
        if stage == Stage::Return {
            self.show_last_resort();
            let tail = self.journal.console_tail(TAIL);
            last_resort(error, &tail, self.boot.bootenv.as_ref())
        }
    }
}

/// How long the store may take to become read-only: with the logs' two seconds and the sync's ten it is less than a watchdog of
/// thirty leaves, which is fed no more.
const READ_ONLY_BOUND: Duration = Duration::from_secs(5);
/// How often it is tried before the helpers are ended, and then again.
const ATTEMPTS: u32 = 100;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// Makes the store read-only. A helper that is in the middle of a file keeps it from that: each has a second to be done with it, and
/// is ended then. What cannot be killed keeps its file open, and the journal has it.
fn write_no_more() {
    let Ok(data) = CString::new(DATA) else {
        return;
    };
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    for round in 0..2 {
        if round > 0 {
            // To -1, which is everybody but PID 1 and the caller, a child of it (kill(2)).
            kill_process_group(Pid::INIT, Signal::KILL).ok();
        }
        for _ in 0..ATTEMPTS {
            match mount_remount(data.as_c_str(), flags, c"") {
                Err(Errno::BUSY) => std::thread::sleep(PAUSE),
                Ok(()) | Err(_) => return,
            }
        }
    }
}
