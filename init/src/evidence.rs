//! Evidence of why the last run ended: a panic's text, the watchdog's mark, PID 1's own last words.
//!
//! | source | tells | lost by a power cut |
//! |---|---|---|
//! | pstore, `dmesg-*` | a kernel panic, with the end of the kernel's log | memory's yes, a UEFI firmware's no |
//! | `kedge.reset=watchdog`, or the watchdog's boot status | a reset by the watchdog | yes |
//! | the boot record's place for last words | PID 1 gave up, and why | no |
//!
//! [`gather`] is cheap when there is nothing (some 0.1 ms emulated), so that boot control can have the cause before
//! anything else happens. The last words take a read from the disk and do not change the cause: [`last_words`] is for
//! later. What was found stays where it is until it was kept elsewhere, and [`forget_panic`] or [`forget_last_words`]
//! is called: a reset in between must not lose it.
//!
//! A run that left nothing ended by a power cut, by an order, or by something that cannot be told from them.

use crate::boot::RecordPlace;
use crate::error::Error;
use kedge_sys::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen,
};
use kedge_sys::rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, StatxFlags, fstat, openat, statx, unlinkat,
};
use kedge_sys::{Errno, rustix};
use serde::Serialize;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Longest text, bytes.
pub const TEXT: usize = 4096;
/// How much of a record is read: its lines begin with their levels, which are taken off.
const READ: usize = 2 * TEXT;
/// Within how many seconds all parts of a text are written.
const MOMENT: i64 = 5;
/// What begins the line that says what the panic is.
const PANIC_LINE: &str = "Kernel panic - not syncing";
/// `WDIOF_CARDRESET` of `linux/watchdog.h`: the last reset was the watchdog's.
const CARD_RESET: u32 = 0x20;

/// Why the last run ended, as far as there is evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Nothing tells: a power cut, an order, or PID 1's own end.
    #[default]
    Unknown,
    /// The hardware watchdog reset the machine.
    Watchdog,
    /// The kernel panicked.
    Panic,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Evidence {
    /// Why the last run ended.
    pub cause: Cause,
    /// The end of the kernel's log, at most [`TEXT`] bytes of whole lines; after a panic only.
    pub text: Option<String>,
}

/// Looks for what the last run left. `root` is where `/sys` is, `told` whether the loader told of a watchdog's reset.
///
/// A panic outweighs the watchdog: a panicking kernel that could not reset the machine was reset by it. What cannot be
/// read tells nothing.
#[must_use]
pub fn gather(root: &Path, told: bool) -> Evidence {
    if let Some(text) = Records::open().and_then(|records| records.newest()) {
        return Evidence {
            cause: Cause::Panic,
            text: Some(text),
        };
    }
    let cause = if told || watchdog_says_so(root) {
        Cause::Watchdog
    } else {
        Cause::Unknown
    };
    Evidence { cause, text: None }
}

/// What PID 1 left when it gave up: its reason and what was said last, at most [`TEXT`] bytes from the beginning.
#[must_use]
pub fn last_words(bootenv: &RecordPlace) -> Option<String> {
    let text = bootenv.open().ok()?.0.read_last_resort().ok()??;
    let text = readable(&text);
    Some(head(&text, TEXT).to_owned())
}

/// Removes the records of panics, once they were kept elsewhere.
///
/// # Errors
/// [`Error::File`] for the first that stays.
pub fn forget_panic() -> Result<(), Error> {
    Records::open().map_or(Ok(()), |records| records.remove())
}

/// Clears PID 1's last words, once they were kept elsewhere.
///
/// # Errors
/// [`Error::File`], [`Error::Record`], [`Error::BootRecord`].
pub fn forget_last_words(bootenv: &RecordPlace) -> Result<(), Error> {
    let (record, _) = bootenv.open()?;
    record.clear_last_resort().map_err(|_| Error::BootRecord {
        which: "last words",
    })
}

/// At most `most` bytes of a panic's text that hold the line which says what the panic is; else its end.
#[must_use]
pub fn gist(text: &str, most: usize) -> &str {
    let end = tail(text, most);
    match text.find(PANIC_LINE) {
        Some(at) if at < text.len().saturating_sub(end.len()) => {
            let line = text.get(..at).and_then(|before| before.rfind('\n'));
            let begin = line.map_or(0, |line| line.saturating_add(1));
            head(text.get(begin..).unwrap_or_default(), most)
        }
        Some(_) | None => end,
    }
}

/// Whether the first watchdog's driver says that it reset the machine. In sysfs, since opening the device arms it.
fn watchdog_says_so(root: &Path) -> bool {
    let path = root.join("sys/class/watchdog/watchdog0/bootstatus");
    let Ok(file) = openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    let mut buffer = [0_u8; 16];
    let read = rustix::io::read(&file, &mut buffer[..]).unwrap_or(0);
    let digits = buffer
        .get(..read)
        .and_then(|text| str::from_utf8(text).ok());
    digits
        .and_then(|digits| digits.trim().parse::<u32>().ok())
        .is_some_and(|status| status & CARD_RESET != 0)
}

/// The records of pstore, in a mount that only this value knows: it is in no table, and goes with it.
#[derive(Debug)]
struct Records(OwnedFd);

impl Records {
    /// None where the kernel has no pstore.
    fn open() -> Option<Self> {
        let context = fsopen(c"pstore", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
        fsconfig_create(context.as_fd()).ok()?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).ok()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&mount, c".", flags, Mode::empty()).ok().map(Self)
    }

    /// Names of the panics' records.
    fn names(&self) -> Vec<CString> {
        let Ok(entries) = Dir::read_from(&self.0) else {
            return Vec::new();
        };
        entries
            .filter_map(Result::ok)
            .map(|entry| entry.file_name().to_owned())
            .filter(|name| name.to_bytes().starts_with(b"dmesg-"))
            .collect()
    }

    /// The text of the newest panic: where a record is too small for it, as a firmware's are, its parts in their order.
    fn newest(&self) -> Option<String> {
        let mut records: Vec<Record> = self.names().iter().map(|name| self.read(name)).collect();
        let newest = records
            .iter()
            .max_by_key(|record| (record.made, record.panic))?;
        let (made, panic) = (newest.made, newest.panic);
        // A record that does not say what it is a part of stands for itself.
        records.retain(|record| match panic {
            Some(_) => record.panic == panic && made.0.saturating_sub(record.made.0) <= MOMENT,
            None => record.made == made,
        });
        // The first part is the end of the log.
        records.sort_by_key(|record| std::cmp::Reverse(record.part));
        let texts: Vec<String> = records
            .iter()
            .map(|record| readable(&record.bytes))
            .collect();
        Some(tail(&texts.concat(), TEXT).to_owned())
    }

    fn read(&self, name: &CStr) -> Record {
        // The one call whose times are of one type on every processor.
        let made = statx(&self.0, name, AtFlags::empty(), StatxFlags::MTIME);
        let bytes = end_of(&self.0, name).unwrap_or_default();
        let numbers = part(&bytes);
        Record {
            made: made.map_or((0, 0), |data| {
                (data.stx_mtime.tv_sec, data.stx_mtime.tv_nsec)
            }),
            panic: numbers.map(|(panic, _)| panic),
            part: numbers.map_or(1, |(_, part)| part),
            bytes,
        }
    }

    fn remove(&self) -> Result<(), Error> {
        let mut outcome = Ok(());
        for name in self.names() {
            let removed = unlinkat(&self.0, &name, AtFlags::empty());
            if let (Err(errno), true) = (removed, outcome.is_ok()) {
                let name = name.to_string_lossy().into_owned();
                outcome = Err(Error::file("remove", name)(errno));
            }
        }
        outcome
    }
}

/// A record of pstore, or the end of a long one.
#[derive(Debug)]
struct Record {
    /// Seconds and nanoseconds.
    made: (i64, u32),
    /// Which panic of its run it belongs to, if it says.
    panic: Option<u32>,
    /// Which part of its text it is.
    part: u32,
    bytes: Vec<u8>,
}

/// The numbers in a record's first line, `Panic#1 Part2` (Linux `fs/pstore/platform.c`).
fn part(bytes: &[u8]) -> Option<(u32, u32)> {
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    let (panic, part) = str::from_utf8(line).ok()?.split_once(" Part")?;
    let (_, panic) = panic.rsplit_once('#')?;
    Some((panic.parse().ok()?, part.parse().ok()?))
}

/// The last [`READ`] bytes of a file.
fn end_of(directory: &OwnedFd, name: &CStr) -> Result<Vec<u8>, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty())?;
    let size = u64::try_from(fstat(&file)?.st_size).unwrap_or(0);
    let room = u64::try_from(READ).unwrap_or(u64::MAX);
    let mut offset = size.saturating_sub(room);
    let mut bytes = vec![0; READ];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(&file, rest, offset)? {
            0 => break,
            count => {
                filled = filled.saturating_add(count);
                offset = offset.saturating_add(u64::try_from(count).unwrap_or(0));
            }
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Text for people: lines without the kernel's levels (`<6>`), nothing that moves a terminal's cursor.
fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut readable = String::with_capacity(text.len());
    for line in text.lines() {
        let level = line
            .strip_prefix('<')
            .and_then(|rest| rest.split_once('>'))
            .filter(|(level, _)| level.len() <= 3 && level.bytes().all(|b| b.is_ascii_digit()));
        let line = level.map_or(line, |(_, rest)| rest);
        readable.extend(line.chars().filter(|letter| !letter.is_control()));
        readable.push('\n');
    }
    readable
}

/// The last whole lines of a text, at most `most` bytes; of a longer line its end.
fn tail(text: &str, most: usize) -> &str {
    let begin = text.len().saturating_sub(most);
    if begin == 0 {
        return text;
    }
    let begin = text.ceil_char_boundary(begin);
    // Cut at a line: one that begins right there is whole.
    let searched = begin.saturating_sub(1);
    let line = text
        .as_bytes()
        .get(searched..)
        .and_then(|rest| rest.iter().position(|byte| *byte == b'\n'))
        .map(|at| searched.saturating_add(at).saturating_add(1))
        .filter(|at| *at < text.len());
    text.get(line.unwrap_or(begin)..).unwrap_or_default()
}

/// The first whole lines of a text, at most `most` bytes; of a longer line its beginning.
fn head(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let end = text.floor_char_boundary(most);
    let cut = text.get(..end).unwrap_or_default();
    cut.rfind('\n')
        .and_then(|at| cut.get(..at.saturating_add(1)))
        .unwrap_or(cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_board_support::bootenv::{Bootenv, Layout};
    use kedge_board_support::record::Loader;
    use kedge_board_support::record::state::State;
    use kedge_revision::{Floor, ObjectId};
    use proptest::prelude::*;

    const RECORD: &[u8] = b"Panic#1 Part1\n<6>[    1.5] virtio_blk: fine\n<0>[    1.8] Kernel panic - not syncing: sysrq\n\
        <4>[    1.9] RIP: 0033:0x43a160\x1b[2J\r\n<12>[    2.0] end\n";

    #[test]
    fn a_record_is_made_readable() {
        assert_eq!(
            readable(RECORD),
            "Panic#1 Part1\n[    1.5] virtio_blk: fine\n[    1.8] Kernel panic - not syncing: sysrq\n\
             [    1.9] RIP: 0033:0x43a160[2J\n[    2.0] end\n"
        );
        assert_eq!(
            readable(b"<no level> a\n<>b"),
            "<no level> a\n<>b\n".replace("<>", "")
        );
        assert_eq!(readable(b"\xff<6>x"), "\u{fffd}<6>x\n");
    }

    #[test]
    fn texts_are_cut_at_lines() {
        let text = "one\ntwo\nthree\n";
        assert_eq!(tail(text, 14), text);
        assert_eq!(tail(text, 13), "two\nthree\n");
        assert_eq!(tail(text, 10), "two\nthree\n");
        assert_eq!(tail(text, 9), "three\n");
        assert_eq!(tail(text, 5), "hree\n");
        assert_eq!(head(text, 13), "one\ntwo\n");
        assert_eq!(head(text, 8), "one\ntwo\n");
        assert_eq!(head(text, 7), "one\n");
        assert_eq!(head(text, 2), "on");
    }

    #[test]
    fn the_gist_holds_what_the_panic_is() {
        let text = readable(RECORD);
        assert_eq!(gist(&text, 4096), text);
        let short = gist(&text, 60);
        assert_eq!(short, "[    1.8] Kernel panic - not syncing: sysrq\n");
        // Said last, as after an oops: then the end holds it.
        let text = "RIP: a\nRIP: b\n[    1.8] Kernel panic - not syncing: Fatal exception\n";
        assert_eq!(gist(text, 61), text.split_at(7).1);
        assert_eq!(gist("a\nb\n", 2), "b\n");
    }

    #[test]
    fn the_watchdogs_driver_is_believed() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("sys/class/watchdog/watchdog0");
        assert!(!watchdog_says_so(root.path()));
        std::fs::create_dir_all(&folder).unwrap();
        for (text, says) in [
            ("32\n", true),
            ("0\n", false),
            ("33", true),
            ("", false),
            ("x", false),
        ] {
            use std::io::Write;
            let mut file = std::fs::File::create(folder.join("bootstatus")).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            assert_eq!(watchdog_says_so(root.path()), says, "{text:?}");
        }
    }

    #[test]
    fn last_words_are_read_and_cleared() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let floor = Floor {
            root: 1,
            counter: 1,
        };
        let state = State::born(ObjectId::from_digest([7; 32]), floor, 1);
        let place = |path: &Path| RecordPlace {
            path: path.to_owned(),
            layout: Layout::Sectors,
        };
        let (here, nowhere) = (place(file.path()), place(Path::new("/nowhere")));
        let (file, born) = (file.as_file(), Loader::born());
        let record = Bootenv::create_at(file, 0, here.layout, &born, &state).unwrap();
        assert_eq!(last_words(&here), None);
        let words = format!(
            "kedge: last resort: no\n{}",
            "said\x07 before\n".repeat(1000)
        );
        record.write_last_resort(words.as_bytes()).unwrap();
        let found = last_words(&here).unwrap();
        assert!(found.starts_with("kedge: last resort: no\nsaid before\nsaid"));
        assert!(found.len() <= TEXT && found.ends_with("before\n"));
        forget_last_words(&here).unwrap();
        assert_eq!(last_words(&here), None);
        assert_eq!(last_words(&nowhere), None);
        assert!(forget_last_words(&nowhere).is_err());
    }

    #[test]
    fn the_newest_record_is_read_and_all_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            use std::io::Write;
            let path = folder.path().join(name);
            std::fs::File::create(path)
                .unwrap()
                .write_all(bytes)
                .unwrap();
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let records = || Records(openat(CWD, folder.path(), flags, Mode::empty()).unwrap());
        write("console-ramoops-0", b"no panic");
        assert_eq!(records().newest(), None);
        write("dmesg-ramoops-1", b"older");
        std::thread::sleep(std::time::Duration::from_millis(20));
        write(
            "dmesg-ramoops-0",
            &[&b"x".repeat(20_000)[..], b"\n<0>last\n"].concat(),
        );
        assert_eq!(records().newest().as_deref(), Some("last\n"));
        records().remove().unwrap();
        // As a firmware keeps it: parts with whole seconds, beside what an oops and an earlier panic left.
        for (name, made, text) in [
            (
                "dmesg-efi_pstore-2",
                1000,
                "Panic#2 Part2\n<0>Kernel panic\n",
            ),
            ("dmesg-efi_pstore-1", 1001, "Panic#2 Part1\n<4>the end\n"),
            ("dmesg-efi_pstore-3", 1001, "Oops#1 Part1\n<4>an oops\n"),
            (
                "dmesg-efi_pstore-4",
                900,
                "Panic#2 Part1\n<4>an earlier end\n",
            ),
        ] {
            write(name, text.as_bytes());
            let file = std::fs::File::options()
                .append(true)
                .open(folder.path().join(name))
                .unwrap();
            let made = std::time::Duration::from_secs(made);
            file.set_modified(std::time::UNIX_EPOCH + made).unwrap();
        }
        let whole = "Panic#2 Part2\nKernel panic\nPanic#2 Part1\nthe end\n";
        assert_eq!(records().newest().as_deref(), Some(whole));
        records().remove().unwrap();
        assert_eq!(records().newest(), None);
        assert!(folder.path().join("console-ramoops-0").exists());
    }

    proptest! {
        #[test]
        fn any_text_is_cut_within_its_bound(text in "[a-zé\n]{0,60}", most in 0_usize..70) {
            for cut in [tail(&text, most), head(&text, most), gist(&text, most)] {
                prop_assert!(cut.len() <= most && text.contains(cut));
            }
        }
    }
}
