//! Giving back memory that a process needed at its start and does not need to idle.
//!
//! A boot calls deep once. The stack's pages stay until somebody gives them back.

use std::ops::Range;

use crate::{During, Error, Result};

/// Below the frames of this module so much stays: what is called from here has to fit.
const MARGIN: usize = 8 * 1024;

/// Gives back the unused part of the main thread's stack.
///
/// The program's code is left mapped: unmapping it would make the process look smaller, while the pages are the
/// initramfs's and stay in memory all the same.
///
/// # Errors
/// Those of reading `/proc/self/maps`; `EINVAL` of `madvise(2)`.
// As part of a caller whose own frame is larger than the margin, `here` could lie anywhere in that frame, and what the
// caller keeps below it would be lost: seen on 64-bit ARM, where the driver's loop has 14 KiB.
#[inline(never)]
pub fn release() -> Result<()> {
    let maps = std::fs::read_to_string("/proc/self/maps")
        .map_err(|error| rustix::io::Errno::from_io_error(&error).unwrap_or(crate::Errno::IO))
        .during("read /proc/self/maps")?;
    let here = std::ptr::from_ref(&maps).addr();
    maps.lines()
        .filter_map(|line| releasable(line, here))
        .try_for_each(|range| discard(&range))
}

/// What of a mapping, a line of `/proc/PID/maps`, is stack that holds nothing; `here` is an address in the frame of
/// a function that runs.
fn releasable(line: &str, here: usize) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let path = words.nth(4)?;
    if path != "[stack]" || !(start..end).contains(&here) {
        return None;
    }
    let unused = here.checked_sub(MARGIN)?;
    let end = unused.checked_sub(unused.checked_rem(page_size())?)?;
    (start < end).then_some(start..end)
}

fn page_size() -> usize {
    // SAFETY: sysconf reads a number, and has no conditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // The largest of any Linux, should it not be known.
    usize::try_from(size).unwrap_or(64 * 1024)
}

fn discard(range: &Range<usize>) -> Result<()> {
    let start = std::ptr::with_exposed_provenance_mut(range.start);
    // SAFETY: `releasable` gives the main thread's stack below the frame of `release`, which is never part of another
    // one, with a margin for those that are called from it; of what lies there nothing is read before it is written.
    let answer = unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) };
    if answer == 0 {
        Ok(())
    } else {
        Err(Error::last("madvise"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_unused_stack_is_let_go() {
        let here = 0x7ffe_40b6_0000;
        let of = |line| releasable(line, here);
        assert_eq!(of("01017000-010ad000 r-xp 00016000 00:02 5 /init"), None);
        assert_eq!(of("01000000-01017000 r--p 00000000 00:02 5 /init"), None);
        assert_eq!(of("010ad000-010ae000 rw-p 000ac000 00:02 5 /init"), None);
        assert_eq!(
            of("7f903b579000-7f903b57b000 r-xp 00000000 00:00 0 [vdso]"),
            None
        );
        assert_eq!(of("7f903b4b0000-7f903b4c0000 rw-p 00000000 00:00 0"), None);
        let stack = of("7ffe40b40000-7ffe40b61000 rw-p 00000000 00:00 0 [stack]").unwrap();
        assert_eq!(stack.start, 0x7ffe_40b4_0000);
        assert!(stack.end <= here - MARGIN && stack.end > here - MARGIN - 65_536);
        assert_eq!(
            of("7ffe40b61000-7ffe40b62000 rw-p 00000000 00:00 0 [stack]"),
            None
        );
    }

    #[test]
    fn a_process_goes_on_after_it() {
        release().unwrap();
        let text: String = (0..1000)
            .map(|n| if n % 2 == 0 { 'a' } else { 'b' })
            .collect();
        assert_eq!(text.len(), 1000);
    }
}
