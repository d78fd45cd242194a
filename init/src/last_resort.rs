//! The end when nothing else is left: keep the reason, sync with a bound, restart.
//!
//! PID 1 never exits: the kernel would panic, and the reason would be lost. The text goes to its place in
//! the boot record's raw partition (a panicking kernel cannot write there; its own text is ramoops' work)
//! and to the console, then dirty data is written out, and the machine restarts. Each of these is the work
//! of a child that may hang for as long as it likes: on a dying disk, or on a line that somebody has stopped.

use crate::boot::RecordPlace;
use kedge_board_support::bootenv::LAST_RESORT_TEXT;
use kedge_sys::rustix::event::{PollFd, PollFlags, poll};
use kedge_sys::rustix::io::write;
use kedge_sys::{clone, reboot, timer};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

/// Longest text, bytes.
const MOST: usize = LAST_RESORT_TEXT;
/// How long the reason may take to be kept. All bounds together are less than the watchdog leaves, which is fed no more.
const KEEP_BOUND: Duration = Duration::from_secs(5);
/// How long the console may take for it: a line of 115200 baud takes half a second for the 4 KiB that PID 1 has to say.
const TELL_BOUND: Duration = Duration::from_secs(2);
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
    leave(&text, record, std::io::stderr().as_fd());
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
    let text = format!("kedge: {why}: restarting\n");
    leave(text.as_bytes(), None, std::io::stderr().as_fd());
    sync_bounded();
    let failed = reboot::reboot(how);
    last_resort(&format!("restart: {failed:?}"), &[], None)
}

/// Leaves the text behind. Every step is tried whatever became of the one before: there is nobody left to tell.
fn leave(text: &[u8], record: Option<&RecordPlace>, console: BorrowedFd<'_>) {
    if let Some(place) = record
        && bounded(KEEP_BOUND, || keep(place, text)).is_err()
    {
        keep(place, text);
    }
    let tell = || {
        let mut rest = text;
        while let Ok(count @ 1..) = write(console, rest) {
            rest = rest.get(count..).unwrap_or_default();
        }
    };
    // Without a child nobody is told: that could be for ever.
    bounded(TELL_BOUND, tell).ok();
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
    use kedge_board_support::bootenv::{Bootenv, Layout};
    use kedge_board_support::record::Loader;
    use kedge_board_support::record::state::State;
    use kedge_revision::{Floor, ObjectId};
    use kedge_sys::rustix::io::read;
    use kedge_sys::rustix::pipe::pipe;

    #[test]
    fn a_console_that_takes_nothing_keeps_no_reason_from_its_place() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let floor = Floor {
            root: 1,
            counter: 1,
        };
        let state = State::born(ObjectId::from_digest([7; 32]), floor, 1);
        let place = RecordPlace {
            path: file.path().to_owned(),
            layout: Layout::Sectors,
        };
        Bootenv::create_at(file.as_file(), 0, place.layout, &Loader::born(), &state).unwrap();
        // More than a pipe takes, of whose reader nothing is heard.
        let (reader, console) = pipe().unwrap();
        let much = "x".repeat(65_536);
        assert_eq!(write(&console, much.as_bytes()), Ok(much.len()));
        let begun = std::time::Instant::now();
        leave(b"kedge: last resort: why", Some(&place), console.as_fd());
        let took = begun.elapsed();
        // Lets the child go.
        read(&reader, &mut vec![0; 65_536]).unwrap();
        assert!(took < KEEP_BOUND + TELL_BOUND);
        let kept = crate::evidence::last_words(&place);
        assert_eq!(kept.as_deref(), Some("kedge: last resort: why\n"));
        // One that listens is told all of it.
        let (reader, console) = pipe().unwrap();
        leave(b"all", None, console.as_fd());
        drop(console);
        let mut told = [0; 8];
        assert_eq!(read(&reader, &mut told), Ok(3));
    }

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
