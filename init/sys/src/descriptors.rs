//! All descriptors at once: `close_range(2)`, for a process that [`crate::clone::spawn`] made.

use libc::c_uint;

use crate::Result;
use crate::syscall::{CLOSE_RANGE, checked};

/// Closes every descriptor from `first` on. For a child of [`crate::clone::spawn`] that lives for a
/// while without an exec: its copies would keep pipes and sockets of the parent open.
///
/// Invariant, the caller's: it is such a child, and uses none of the descriptors that it has inherited
/// any more. That their owners are never dropped there is `spawn`'s doing: the child leaves by `_exit`.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn close_from(first: u32) -> Result<()> {
    let flags: c_uint = 0;
    // SAFETY: this touches no memory. The descriptors have owners, but in a child those are copies
    // that are neither used nor dropped, see above.
    let answer = unsafe { libc::syscall(CLOSE_RANGE, first, c_uint::MAX, flags) };
    checked("close_range", answer).map(drop)
}

const CLOSE_RANGE_CLOEXEC: c_uint = 4;

/// Makes every descriptor from `first` on close at the next exec, whoever opened it: a second line
/// behind opening each of them that way.
///
/// # Errors
/// `ENOSYS` before Linux 5.9, `EINVAL` before 5.11.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    // SAFETY: this changes a flag of descriptors, closes none, and takes any range.
    let answer = unsafe { libc::syscall(CLOSE_RANGE, first, c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
    checked("close_range", answer).map(drop)
}
