//! All descriptors at once: `close_range(2)`, for a process that [`crate::clone::spawn`] made.

use libc::c_uint;

use crate::Result;
use crate::syscall::{CLOSE_RANGE, checked};

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
