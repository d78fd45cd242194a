//! All descriptors at once: `close_range(2)`, for a process that [`crate::clone::spawn`] made.

use std::os::fd::{AsRawFd, BorrowedFd};

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

/// Closes every descriptor from `first` on, but for `kept`. As with [`close_from`], whose invariant it has: none of the others
/// is used any more.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn close_all_but(first: u32, kept: &[BorrowedFd<'_>]) -> Result<()> {
    let mut numbers: Vec<u32> = kept
        .iter()
        .map(|fd| fd.as_raw_fd().unsigned_abs())
        .collect();
    numbers.sort_unstable();
    let mut start = first;
    for number in numbers.into_iter().filter(|number| *number >= first) {
        if number > start {
            close_range(start, number.saturating_sub(1))?;
        }
        start = number.saturating_add(1);
    }
    close_range(start, c_uint::MAX)
}

/// As [`close_all_but`] for one that is kept; allocates nothing.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn close_all_but_one(first: u32, kept: BorrowedFd<'_>) -> Result<()> {
    close_all_but_two(first, kept, kept)
}

/// As [`close_all_but`] for two that are kept; allocates nothing.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn close_all_but_two(first: u32, one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Result<()> {
    let (one, other) = (
        one.as_raw_fd().unsigned_abs(),
        other.as_raw_fd().unsigned_abs(),
    );
    let mut start = first;
    for number in [one.min(other), one.max(other)] {
        if number > start {
            close_range(start, number.saturating_sub(1))?;
        }
        start = start.max(number.saturating_add(1));
    }
    close_range(start, c_uint::MAX)
}

fn close_range(first: c_uint, last: c_uint) -> Result<()> {
    let flags: c_uint = 0;
    // SAFETY: as in `close_from`.
    let answer = unsafe { libc::syscall(CLOSE_RANGE, first, last, flags) };
    checked("close_range", answer).map(drop)
}

/// Whether a descriptor of this number is open, whoever has it.
#[must_use]
pub fn is_open(number: u32) -> bool {
    let Ok(number) = libc::c_int::try_from(number) else {
        return false;
    };
    // SAFETY: this reads a flag of a descriptor, and answers -1 where there is none.
    let answer = unsafe { libc::fcntl(number, libc::F_GETFD) };
    answer >= 0
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clone::{Namespaces, spawn};
    use crate::process::{ExitStatus, wait_pidfd};
    use std::os::fd::AsFd;

    #[test]
    fn a_number_is_open_as_long_as_somebody_has_it() {
        let file = std::fs::File::open("/dev/null").expect("/dev/null");
        assert!(is_open(file.as_raw_fd().unsigned_abs()));
        assert!(!is_open(1 << 30));
        assert!(!is_open(u32::MAX));
    }

    #[test]
    fn all_but_those_that_are_kept_are_closed() {
        let files: Vec<_> = (0..6)
            .map(|_| std::fs::File::open("/dev/null").expect("/dev/null"))
            .collect();
        let kept = [files[4].as_fd(), files[1].as_fd()];
        let child = spawn(Namespaces::NONE, None, || {
            if close_all_but(3, &kept).is_err() {
                return 100;
            }
            let open = |file: &std::fs::File| rustix::io::fcntl_getfd(file).is_ok();
            let bits = files.iter().map(|file| i32::from(open(file)));
            bits.enumerate().map(|(at, bit)| bit << at).sum()
        });
        let status = wait_pidfd(child.expect("clone3").pidfd.as_fd());
        assert_eq!(status, Ok(ExitStatus::Exited(0b01_0010)));
        let child = spawn(Namespaces::NONE, None, || {
            if close_all_but_one(3, files[2].as_fd()).is_err() {
                return 100;
            }
            let open = |file: &std::fs::File| rustix::io::fcntl_getfd(file).is_ok();
            let bits = files.iter().map(|file| i32::from(open(file)));
            bits.enumerate().map(|(at, bit)| bit << at).sum()
        });
        let status = wait_pidfd(child.expect("clone3").pidfd.as_fd());
        assert_eq!(status, Ok(ExitStatus::Exited(0b00_0100)));
        let child = spawn(Namespaces::NONE, None, || {
            let closed = close_all_but_two(3, files[5].as_fd(), files[3].as_fd());
            // One that is lower than the first is left, and so is nothing else.
            let first = files[4].as_raw_fd().unsigned_abs();
            if closed
                .and_then(|()| close_all_but_two(first, files[3].as_fd(), files[5].as_fd()))
                .is_err()
            {
                return 100;
            }
            let open = |file: &std::fs::File| rustix::io::fcntl_getfd(file).is_ok();
            let bits = files.iter().map(|file| i32::from(open(file)));
            bits.enumerate().map(|(at, bit)| bit << at).sum()
        });
        let status = wait_pidfd(child.expect("clone3").pidfd.as_fd());
        assert_eq!(status, Ok(ExitStatus::Exited(0b10_1000)));
    }
}
