//! The numbers that libc lacks on some target, and the check of a raw system call's answer.
//!
//! From 424 on the numbers are the same on every architecture, but for an offset: 4000 on MIPS o32.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_long};
use rustix::io::Errno;

use crate::{Error, Result};

/// Where a architecture's table of unified numbers starts.
#[cfg(target_arch = "mips")]
const UNIFIED: c_long = 4000;
/// Where a architecture's table of unified numbers starts.
#[cfg(not(target_arch = "mips"))]
const UNIFIED: c_long = 0;

/// `pidfd_send_signal(2)`.
pub(crate) const PIDFD_SEND_SIGNAL: c_long = UNIFIED + 424;
/// `io_uring_setup(2)`.
pub(crate) const IO_URING_SETUP: c_long = UNIFIED + 425;
/// `clone3(2)`.
pub(crate) const CLONE3: c_long = UNIFIED + 435;
/// `close_range(2)`.
pub(crate) const CLOSE_RANGE: c_long = UNIFIED + 436;
/// `openat2(2)`.
pub(crate) const OPENAT2: c_long = UNIFIED + 437;
/// `mount_setattr(2)`.
pub(crate) const MOUNT_SETATTR: c_long = UNIFIED + 442;
/// `quotactl_fd(2)`.
pub(crate) const QUOTACTL_FD: c_long = UNIFIED + 443;
/// `landlock_create_ruleset(2)`.
pub(crate) const LANDLOCK_CREATE_RULESET: c_long = UNIFIED + 444;
/// `landlock_add_rule(2)`.
pub(crate) const LANDLOCK_ADD_RULE: c_long = UNIFIED + 445;
/// `landlock_restrict_self(2)`.
pub(crate) const LANDLOCK_RESTRICT_SELF: c_long = UNIFIED + 446;

/// The value of a system call that answers −1 with errno.
pub(crate) fn checked(operation: &'static str, answer: c_long) -> Result<c_long> {
    if answer == -1 {
        return Err(Error::last(operation));
    }
    Ok(answer)
}

/// As [`checked`], for functions of the C library that return an `int`.
pub(crate) fn checked_int(operation: &'static str, answer: c_int) -> Result<c_int> {
    if answer == -1 {
        return Err(Error::last(operation));
    }
    Ok(answer)
}

/// Takes the descriptor that a system call has just made.
///
/// # Safety
/// `answer` must be the successful answer of a call that returns a new descriptor, and nothing
/// else may own that descriptor.
pub(crate) unsafe fn new_descriptor(operation: &'static str, answer: c_long) -> Result<OwnedFd> {
    let raw = RawFd::try_from(answer).map_err(|_| Error::new(operation, Errno::BADF))?;
    // SAFETY: the caller's contract: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_agree_with_libc() {
        assert_eq!(PIDFD_SEND_SIGNAL, libc::SYS_pidfd_send_signal);
        assert_eq!(CLONE3, libc::SYS_clone3);
        assert_eq!(CLOSE_RANGE, libc::SYS_close_range);
        assert_eq!(MOUNT_SETATTR, libc::SYS_mount_setattr);
        assert_eq!(LANDLOCK_CREATE_RULESET, libc::SYS_landlock_create_ruleset);
        assert_eq!(LANDLOCK_RESTRICT_SELF, libc::SYS_landlock_restrict_self);
        #[cfg(not(target_arch = "riscv64"))]
        assert_eq!(QUOTACTL_FD, libc::SYS_quotactl_fd);
    }

    #[test]
    fn minus_one_is_an_error() {
        assert_eq!(checked("x", 7), Ok(7));
        // SAFETY: closing a descriptor that cannot exist has no effect but errno.
        let answer = unsafe { libc::close(-1) };
        assert_eq!(
            checked_int("close", answer),
            Err(Error::new("close", Errno::BADF))
        );
    }
}
