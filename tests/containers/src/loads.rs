//! Loads for limits: each says what it got of what it wanted, in relation to the kernel's own counts in its cgroup.

use crate::say;
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, inotify};
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A count in a file of the cgroup, by its name: 0 where there is none.
fn counted(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/sys/fs/cgroup/{file}")).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let found = lines.find(|(key, _)| *key == name);
    found.and_then(|(_, count)| count.parse().ok()).unwrap_or(0)
}

fn milliseconds(time: Timespec) -> u64 {
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + nanoseconds / 1_000_000
}

/// Takes all of a processor that it gets: `spun PERMILLE throttled TIMES`.
pub(crate) fn spin(seconds: u64) {
    let used = || milliseconds(clock_gettime(ClockId::ProcessCPUTime));
    let (begun, before) = (Instant::now(), counted("cpu.stat", "nr_throttled"));
    while begun.elapsed() < Duration::from_secs(seconds) {
        std::hint::spin_loop();
    }
    let passed = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let times = counted("cpu.stat", "nr_throttled") - before;
    say(&format!(
        "spun {} throttled {times}",
        used() * 1000 / passed.max(1)
    ));
}

/// Takes so many things that watch files, if it may: `gathered COUNT refused ERRNO`.
pub(crate) fn gather(most: u64) -> Vec<OwnedFd> {
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..most {
        match inotify::init(inotify::CreateFlags::CLOEXEC) {
            Ok(one) => held.push(one),
            Err(error) => {
                refused = error.raw_os_error();
                break;
            }
        }
    }
    say(&format!("gathered {} refused {refused}", held.len()));
    held
}

/// Takes memory until the kernel has slowed it down, or so much of it: `swollen MEBIBYTES high TIMES killed TIMES`.
pub(crate) fn swell(most: u64) {
    let before = counted("memory.events", "high");
    let high = || counted("memory.events", "high") - before;
    let mut all: Vec<Vec<u8>> = Vec::new();
    while high() == 0 && all.len() < usize::try_from(most).unwrap_or(0) {
        // Written, not only reserved.
        all.push(vec![1; 1 << 20]);
    }
    let killed = counted("memory.events", "oom_kill");
    say(&format!(
        "swollen {} high {} killed {killed}",
        all.len(),
        high()
    ));
}

/// Writes a file of so many mebibytes to the disk, and takes it away: `wrote BYTES in MILLISECONDS`.
pub(crate) fn write(folder: &str, mebibytes: u64) {
    let path = format!("{folder}/written");
    let begun = Instant::now();
    let written = File::create(&path).and_then(|mut file| {
        for _ in 0..mebibytes {
            file.write_all(&vec![b'w'; 1 << 20])?;
        }
        file.sync_all()?;
        file.metadata().map(|of| of.len())
    });
    let passed = begun.elapsed().as_millis();
    fs::remove_file(&path).ok();
    match written {
        Ok(bytes) => say(&format!("wrote {bytes} in {passed}")),
        Err(error) => say(&format!("wrote nothing: {error}")),
    }
}

/// Bytes of a block that is read or written by itself.
const BLOCK: usize = 4096;
/// The same, of a place in a file.
const BLOCK_BYTES: u64 = 4096;

/// Writes a file of so many mebibytes, which the kernel goes on to hold in memory, too.
fn prepared(path: &str, mebibytes: u64) -> io::Result<File> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    for _ in 0..mebibytes {
        file.write_all(&vec![b'p'; 1 << 20])?;
    }
    file.sync_all()?;
    Ok(file)
}

/// As long as its container lives a file of so many mebibytes is among what the kernel may forget: `holds BYTES`.
pub(crate) fn hold(folder: &str, mebibytes: u64) {
    match prepared(&format!("{folder}/held"), mebibytes) {
        Ok(_) => say(&format!("holds {}", counted("memory.stat", "file"))),
        Err(error) => say(&format!("holds nothing: {error}")),
    }
}

/// Says a work's count and how long it took, `WORD COUNT in MILLISECONDS`, and takes its file away.
fn timed(word: &str, folder: &str, mebibytes: u64, work: impl Fn(&mut File) -> io::Result<u64>) {
    let path = format!("{folder}/{word}");
    let done = prepared(&path, mebibytes).and_then(|mut file| {
        // What comes is on the disk, and nowhere else.
        fadvise(&file, 0, None, Advice::DontNeed)?;
        let begun = Instant::now();
        let count = work(&mut file)?;
        Ok((count, begun.elapsed().as_millis()))
    });
    fs::remove_file(&path).ok();
    match done {
        Ok((count, passed)) => say(&format!("{word} {count} in {passed}")),
        Err(error) => say(&format!("{word} nothing: {error}")),
    }
}

/// Reads so many mebibytes from the disk: `read BYTES in MILLISECONDS`.
pub(crate) fn read(folder: &str, mebibytes: u64) {
    timed("read", folder, mebibytes, |file| {
        file.rewind()?;
        let (mut buffer, mut bytes) = (vec![0; 1 << 16], 0);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(bytes),
                more => bytes += u64::try_from(more).unwrap_or(0),
            }
        }
    });
}

/// Reads so many blocks, none beside another: `seek COUNT in MILLISECONDS`.
pub(crate) fn seek(folder: &str, count: u64) {
    timed("seek", folder, 4, |file| {
        fadvise(&*file, 0, None, Advice::Random)?;
        for number in 0..count {
            file.read_exact_at(&mut [0; BLOCK], number % 128 * 8 * BLOCK_BYTES)?;
        }
        Ok(count)
    });
}

/// Writes so many blocks, each to the disk before the next: `sync COUNT in MILLISECONDS`.
pub(crate) fn sync(folder: &str, count: u64) {
    timed("sync", folder, 1, |file| {
        for number in 0..count {
            file.write_all_at(&[b's'; BLOCK], number % 128 * BLOCK_BYTES)?;
            file.sync_data()?;
        }
        Ok(count)
    });
}

/// Takes what there is of a folder's disk, and keeps it: `hog PATH BYTES refused ERRNO`. First room that is asked for, then
/// what is written; the kernel gives out the two in different places.
pub(crate) fn hog(folder: &str) {
    let taken = |file: &mut File| -> io::Result<()> {
        let mut end = 0;
        while fallocate(&*file, FallocateFlags::empty(), end, 1 << 20).is_ok() {
            end += 1 << 20;
        }
        file.seek(SeekFrom::End(0))?;
        loop {
            file.write_all(&[b'h'; 4096])?;
        }
    };
    let (mut bytes, mut refused) = (0, 0);
    for number in 0..3 {
        let mut file = match File::create(format!("{folder}/hog-{number}")) {
            Ok(file) => file,
            Err(error) => {
                refused = error.raw_os_error().unwrap_or(0);
                break;
            }
        };
        refused = taken(&mut file)
            .err()
            .and_then(|error| error.raw_os_error())
            .unwrap_or(0);
        // The kernel counts what was written but has no place yet more generously than what has one.
        file.sync_all().ok();
        bytes += file.metadata().map_or(0, |of| of.len());
    }
    say(&format!("hog {folder} {bytes} refused {refused}"));
}

/// Starts itself for so many seconds, and whatever it has started does the same: `bomb refused TIMES`.
pub(crate) fn bomb(seconds: u64) {
    let before = counted("pids.events", "max");
    let now = milliseconds(clock_gettime(ClockId::Monotonic));
    multiply(now + seconds * 1000);
    let refused = counted("pids.events", "max") - before;
    say(&format!("bomb refused {refused}"));
}

/// Until then of the kernel's clock. Waits for all that it has started.
pub(crate) fn multiply(end: u64) {
    let mut children: Vec<Child> = Vec::new();
    while milliseconds(clock_gettime(ClockId::Monotonic)) < end {
        let started: io::Result<Child> = Command::new("/proc/self/exe")
            .args(["multiply", &end.to_string()])
            .spawn();
        children.extend(started);
    }
    for mut child in children {
        child.wait().ok();
    }
}

/// Writes into a folder without end for so many seconds, bytes and new files, and takes away again what it wrote:
/// `stuffed BYTES in FILES refused TIMES`.
pub(crate) fn stuff(folder: &str, seconds: u64) {
    let end = Instant::now() + Duration::from_secs(seconds);
    let name = |number: u64| format!("{folder}/stuff{number}");
    let (mut bytes, mut files, mut refused) = (0_u64, 0_u64, 0_u64);
    while Instant::now() < end {
        match File::create(name(files)) {
            Ok(mut file) => {
                files += 1;
                match file.write(&[b's'; 4096]) {
                    Ok(written) => bytes += written as u64,
                    Err(_) => refused += 1,
                }
            }
            Err(_) => refused += 1,
        }
    }
    (0..files).for_each(|number| drop(fs::remove_file(name(number))));
    say(&format!("stuffed {bytes} in {files} refused {refused}"));
}
