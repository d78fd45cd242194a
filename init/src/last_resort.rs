//! The end when nothing else is left: keep the reason, sync with a bound, restart.
//!
//! PID 1 never exits: the kernel would panic, and the reason would be lost. The text goes to the
//! console and to its place in the boot record's raw partition (a panicking kernel cannot write there;
//! its own text is ramoops' work), then dirty data is written out by a child that may hang for as
//! long as it likes, and the machine restarts.

use crate::boot::RecordPlace;
use kedge_board_support::bootenv::LAST_RESORT_TEXT;
use kedge_sys::rustix::event::{PollFd, PollFlags, poll};
use kedge_sys::{clone, reboot, timer};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Longest text, bytes.
const MOST: usize = LAST_RESORT_TEXT;
/// How long dirty data may take to be written out.
const SYNC_BOUND: Duration = Duration::from_secs(10);

/// Keeps `reason` and the console's tail, and restarts the machine.
pub fn last_resort(reason: &str, tail: &[u8], record: Option<&RecordPlace>) -> ! {
    let mut text = Vec::with_capacity(MOST);
    for part in [
        b"kedge: last resort: ".as_slice(),
        reason.as_bytes(),
        b"\n",
        tail,
    ] {
        let room = MOST.saturating_sub(text.len());
        text.extend_from_slice(part.get(..room).unwrap_or(part));
    }
    // Every step is tried whatever became of the one before: there is nobody left to tell.
    std::io::stderr().write_all(&text).ok();
    if let Some(place) = record {
        keep(place, &text);
    }
    sync_bounded();
    reboot::reboot(reboot::Ending::Restart).ok();
    // Only without CAP_SYS_BOOT, which PID 1 has. Waiting for the watchdog is better than a panic loop.
    loop {
        poll(&mut [], None).ok();
    }
}

/// Restarts the machine at once and in order: nothing is mounted for writing, and nothing is wrong. `how` is
/// [`reboot::Ending::Restart`], or the same with a word.
pub fn restart(why: &str, how: reboot::Ending) -> ! {
    // Whoever watches the console wants to know; nobody else is there.
    writeln!(std::io::stderr(), "kedge: {why}: restarting").ok();
    reboot::sync();
    let failed = reboot::reboot(how);
    last_resort(&format!("restart: {failed:?}"), &[], None)
}

/// Writes the text into its place in the boot record partition.
fn keep(place: &RecordPlace, text: &[u8]) {
    // Before the change of root the device stands below the root that is being made.
    let early = place.path.strip_prefix("/").map(|rest| RecordPlace {
        path: Path::new("/root").join(rest),
        layout: place.layout,
    });
    let opened = place.open();
    let opened = opened.or_else(|error| early.map_err(|_| error).and_then(|early| early.open()));
    if let Ok((record, _)) = opened {
        record.write_last_resort(text).ok();
    }
}

/// `sync` in a child, waited for as long as [`SYNC_BOUND`]: on a dying disk it never returns.
pub fn sync_bounded() {
    if bounded(SYNC_BOUND, reboot::sync).is_err() {
        reboot::sync();
    }
}

/// Lets a child do what may never come to its end, and waits for `limit` at most: whether it has come to it.
///
/// # Errors
/// There is no child, and nothing is done: those of [`clone::spawn`].
pub fn bounded(limit: Duration, work: impl FnOnce()) -> kedge_sys::Result<bool> {
    let child = clone::spawn(clone::Namespaces::NONE, None, || {
        work();
        0
    })?;
    let mut ended = [PollFd::new(&child.pidfd, PollFlags::IN)];
    let limit = timer::timespec(limit);
    Ok(poll(&mut ended, Some(&limit)).is_ok_and(|ended| ended > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_longer_than_the_bound() {
        let begun = std::time::Instant::now();
        // In a child of a process with threads nothing may allocate.
        let sleep = |seconds| {
            move || {
                let time = timer::timespec(Duration::from_secs(seconds));
                poll(&mut [], Some(&time)).ok();
            }
        };
        assert_eq!(bounded(Duration::from_millis(50), sleep(20)), Ok(false));
        assert_eq!(bounded(Duration::from_secs(20), sleep(0)), Ok(true));
        assert!(begun.elapsed() < Duration::from_secs(15));
    }
}
