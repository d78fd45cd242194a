//! The ids with which this thread makes and opens files (`setfsuid(2)`), apart from all others.

use libc::{c_int, c_long};

use crate::privilege::{CapabilitiesSecureBits, set_secure_bits};
use crate::{Errno, Error, Result};

/// Runs `action` with user `user` and group `group` as the owner of the files that it makes, and with
/// all capabilities as they are. The ids are 0 before and after.
///
/// # Errors
/// `EPERM` without the privilege to change ids, or where the former ones did not come back; the
/// errors of `action` are inside.
pub fn with_file_ids<T>(user: u32, group: u32, action: impl FnOnce() -> T) -> Result<T> {
    // Otherwise the change of user would take the capabilities that are about files.
    set_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
    let changed = set_ids(user, group);
    let outcome = changed.map(|()| action());
    set_ids(0, 0)?;
    set_secure_bits(CapabilitiesSecureBits::empty())?;
    outcome
}

// The older calls of these architectures take 16 bits.
#[cfg(not(any(target_arch = "arm", target_arch = "x86")))]
use libc::{SYS_setfsgid as SETFSGID, SYS_setfsuid as SETFSUID};
#[cfg(any(target_arch = "arm", target_arch = "x86"))]
use libc::{SYS_setfsgid32 as SETFSGID, SYS_setfsuid32 as SETFSUID};

/// The calls answer the former id whether or not they worked, so each is asked again with an id
/// that is never valid.
fn set_ids(user: u32, group: u32) -> Result<()> {
    set_one("setfsgid", SETFSGID, group)?;
    set_one("setfsuid", SETFSUID, user)
}

fn set_one(operation: &'static str, number: c_long, id: u32) -> Result<()> {
    // SAFETY: it changes an id of this thread and touches no memory.
    unsafe { libc::syscall(number, id) };
    // SAFETY: as before; -1 is no id, so this only answers the present one.
    let now = unsafe { libc::syscall(number, -1 as c_int) };
    if u32::try_from(now.cast_unsigned()) == Ok(id) {
        Ok(())
    } else {
        Err(Error::new(operation, Errno::PERM))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clone::{Namespaces, spawn};
    use crate::process::{ExitStatus, wait_pidfd};
    use std::os::fd::AsFd;

    #[test]
    fn ids_change_for_the_action_and_come_back() {
        // In a child: secure bits and ids are the thread's.
        let child = spawn(Namespaces::NONE, None, || {
            let probe = |number, id| set_one("probe", number, id).is_ok();
            let inside = with_file_ids(2_147_483_900, 5, || {
                probe(SETFSUID, 2_147_483_900) && probe(SETFSGID, 5)
            });
            match inside {
                Ok(true) => i32::from(!(probe(SETFSUID, 0) && probe(SETFSGID, 0))),
                Ok(false) => 2,
                // Not root: nothing changed.
                Err(error) => i32::from(error.errno != Errno::PERM),
            }
        });
        let status = wait_pidfd(child.expect("clone3").pidfd.as_fd()).expect("waitid");
        assert_eq!(status, ExitStatus::Exited(0));
    }
}
