//! The end of an orderly run: volumes and store away in order, data on disk, then the machine.

use super::led::Led;
use crate::boot::{DATA, TO_TRY};
use crate::last_resort::sync_bounded;
use crate::machine::Halt;
use kedge_sys::reboot::{Ending, reboot};
use kedge_sys::rustix::mount::{MountFlags, mount_remount};
use std::ffi::CString;

/// Ends the machine. Every container is down, or could not be killed. `to_try`: a restart is a try. `led` goes out once
/// nothing is written any more, before the power goes off: not every board can switch that off by itself.
///
/// The store is made read-only rather than unmounted: layers are mounted from its files and keep
/// it busy, while a read-only remount writes the journal out and leaves the file system clean.
pub(crate) fn end(halt: Halt, to_try: bool, led: Option<Led>) -> ! {
    sync_bounded();
    if let Ok(data) = CString::new(DATA) {
        // A process that cannot be killed keeps a file open for writing: then the journal has it.
        mount_remount(
            data.as_c_str(),
            MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV,
            c"",
        )
        .ok();
    }
    if let (Halt::PowerOff, Some(mut led)) = (halt, led) {
        led.put_out();
    }
    let ending = match halt {
        Halt::Reboot if to_try => TO_TRY,
        Halt::Reboot => Ending::Restart,
        Halt::PowerOff => Ending::PowerOff,
    };
    let failed = reboot(ending);
    crate::last_resort::last_resort(&format!("reboot: {failed:?}"), &[], None)
}
