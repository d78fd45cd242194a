//! The device's history on disk: lines of JSON in two files of at most 16 KiB, the older one dropped as the newer fills.
//!
//! `events.jsonl` is written, `events.old.jsonl` was before. A line begins with its number and the number of its boot:
//! both go on where the newest line left off, and another boot begins where the kernel's name of the boot is another one.
//! A power cut may tear the last line: it is cut off when the files are opened. A line is on disk before it is answered.

use super::super::Error;
use kedge_store::durable;
use serde::Deserialize;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Largest file, bytes.
const SEGMENT: usize = 16 * 1024;
/// Longest event, bytes.
const EVENT: usize = 6 * 1024;
/// Most bytes that are given back.
const NEWEST: usize = 24 * 1024;
/// Letters of the kernel's name of a boot that a line has.
const BOOT_ID: usize = 8;

/// What the next line is numbered by.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Head {
    seq: u64,
    boot: u64,
    boot_id: String,
}

/// The files; opened by the first event, so that a helper which is asked for nothing reads nothing.
#[derive(Debug)]
pub(super) struct Events {
    directory: PathBuf,
    boot_id: String,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: usize,
    head: Head,
}

impl Events {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            boot_id: String::new(),
            open: None,
        }
    }

    /// What the kernel calls this boot.
    pub(super) fn set_boot(&mut self, boot_id: &str) {
        let letters = boot_id.chars().filter(char::is_ascii_alphanumeric);
        self.boot_id = letters.take(BOOT_ID).collect();
        self.open = None;
    }

    /// Keeps an event, an object of JSON: what it begins with is put in front of its fields.
    pub(super) fn append(&mut self, event: &[u8]) -> Result<(), Error> {
        let fields = event
            .strip_prefix(b"{")
            .filter(|rest| rest.first() == Some(&b'"') && rest.ends_with(b"}"))
            .filter(|rest| rest.len() <= EVENT && !rest.contains(&b'\n'))
            .ok_or(Error::Frame(super::super::FrameError))?;
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.open()?,
        };
        let (seq, boot) = (open.head.seq, open.head.boot);
        let boot_id = &open.head.boot_id;
        let mut line =
            format!("{{\"seq\":{seq},\"boot\":{boot},\"boot-id\":\"{boot_id}\",").into_bytes();
        line.extend_from_slice(fields);
        line.push(b'\n');
        if open.size > 0 && open.size.saturating_add(line.len()) > SEGMENT {
            durable::rename(&self.path(), &self.old()).map_err(|source| self.failed(source))?;
            (open.file, open.size) = (self.create()?, 0);
        }
        let written = open
            .file
            .write_all(&line)
            .and_then(|()| open.file.sync_data());
        if let Err(source) = written {
            // Opened anew for the next event, which also cuts off what was written of this one.
            return Err(self.io("write")(source));
        }
        open.size = open.size.saturating_add(line.len());
        open.head.seq = seq.saturating_add(1);
        self.open = Some(open);
        Ok(())
    }

    /// The newest lines, oldest first, without the kernel's names of boots.
    pub(super) fn newest(&self) -> Vec<u8> {
        let mut lines = Vec::new();
        for path in [self.old(), self.path()] {
            let text = read(&path).unwrap_or_default();
            for line in whole(&text).split_inclusive(|byte| *byte == b'\n') {
                if let Some((before, after)) = told(line) {
                    lines.extend_from_slice(before.as_bytes());
                    lines.extend_from_slice(after.as_bytes());
                }
            }
        }
        let mut begin = lines.len().saturating_sub(NEWEST);
        if begin > 0 {
            let rest = lines.get(begin.saturating_sub(1)..).unwrap_or_default();
            let line = rest.iter().position(|byte| *byte == b'\n');
            begin = begin.saturating_add(line.unwrap_or(rest.len()));
        }
        lines.drain(..begin);
        lines
    }

    /// Finds out where the numbers are, and cuts off what a power cut left half written.
    fn open(&self) -> Result<Open, Error> {
        durable::make_directory(&self.directory).map_err(|source| self.failed(source))?;
        let text = read(&self.path()).map_err(self.io("read"))?;
        let mut good = whole(&text);
        let mut last = None;
        while !good.is_empty() {
            let before = good.strip_suffix(b"\n").unwrap_or(good);
            let begin = before.iter().rposition(|byte| *byte == b'\n');
            let (rest, line) = good.split_at(begin.map_or(0, |at| at.saturating_add(1)));
            last = head(line);
            if last.is_some() {
                break;
            }
            good = rest;
        }
        let last = last.or_else(|| {
            let old = read(&self.old()).unwrap_or_default();
            let mut lines = old.split(|byte| *byte == b'\n').rev();
            lines.find_map(head)
        });
        let size = good.len();
        let file = self.create()?;
        if size < text.len() {
            let length = u64::try_from(size).unwrap_or(u64::MAX);
            file.set_len(length).map_err(self.io("repair"))?;
        }
        let head = match last {
            Some(last) if last.boot_id == self.boot_id => Head {
                seq: last.seq.saturating_add(1),
                ..last
            },
            last => {
                let last = last.unwrap_or_default();
                Head {
                    seq: last.seq.saturating_add(1),
                    boot: last.boot.saturating_add(1),
                    boot_id: self.boot_id.clone(),
                }
            }
        };
        Ok(Open { file, size, head })
    }

    /// Opens the file that is written; its name is on disk before a line is.
    fn create(&self) -> Result<File, Error> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(self.path())
            .map_err(self.io("open"))?;
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(self.io("sync"))?;
        Ok(file)
    }

    fn path(&self) -> PathBuf {
        self.directory.join("events.jsonl")
    }

    fn old(&self) -> PathBuf {
        self.directory.join("events.old.jsonl")
    }

    fn io(&self, doing: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let path = self.path();
        move |source| Error::File {
            doing,
            path,
            source,
        }
    }

    /// What the store's durable operations say.
    fn failed(&self, error: kedge_store::Error) -> Error {
        let source = if let kedge_store::Error::File { source, .. } = error {
            source
        } else {
            std::io::Error::other(error)
        };
        self.io("make")(source)
    }
}

/// A file's first bytes, a little more than it may have; of an absent one none.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => {
            let most = u64::try_from(2 * SEGMENT).unwrap_or(u64::MAX);
            file.take(most).read_to_end(&mut bytes)?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(bytes)
}

/// All but a line without an end.
fn whole(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte == b'\n');
    text.get(..end.map_or(0, |at| at.saturating_add(1)))
        .unwrap_or_default()
}

/// A line's numbers, if it is one.
fn head(line: &[u8]) -> Option<Head> {
    kedge_revision::json::read(line).ok()
}

/// What a line has before and after the kernel's name of its boot, which only tells boots apart here.
fn told(line: &[u8]) -> Option<(&str, &str)> {
    let name = format!("\"boot-id\":\"{}\",", head(line)?.boot_id);
    str::from_utf8(line).ok()?.split_once(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events(directory: &Path, boot: &str) -> Events {
        let mut events = Events::new(directory.join("history"));
        events.set_boot(boot);
        events
    }

    fn lines(events: &Events) -> Vec<String> {
        let text = String::from_utf8(events.newest()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn numbers_go_on_and_boots_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let mut one = events(directory.path(), "aaaaaaaa-1");
        assert!(one.newest().is_empty());
        one.append(br#"{"event":"booted"}"#).unwrap();
        one.append(br#"{"event":"settled"}"#).unwrap();
        // A helper that is started again in the same boot.
        events(directory.path(), "aaaaaaaa-1")
            .append(br#"{"event":"ordered"}"#)
            .unwrap();
        let mut two = events(directory.path(), "bbbbbbbb-2");
        two.append(br#"{"event":"booted"}"#).unwrap();
        assert_eq!(
            lines(&two),
            [
                r#"{"seq":1,"boot":1,"event":"booted"}"#,
                r#"{"seq":2,"boot":1,"event":"settled"}"#,
                r#"{"seq":3,"boot":1,"event":"ordered"}"#,
                r#"{"seq":4,"boot":2,"event":"booted"}"#,
            ]
        );
        let text = std::fs::read_to_string(two.path()).unwrap();
        let last = r#"{"seq":4,"boot":2,"boot-id":"bbbbbbbb","event":"booted"}"#;
        assert_eq!(text.lines().last(), Some(last));
    }

    #[test]
    fn the_bound_holds_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let mut events = events(directory.path(), "a");
        let text = "x".repeat(900);
        for number in 1..=100 {
            let event = format!(r#"{{"n":{number},"text":"{text}"}}"#);
            events.append(event.as_bytes()).unwrap();
            for path in [events.path(), events.old()] {
                let size = std::fs::metadata(path).map_or(0, |data| data.len());
                assert!(size <= SEGMENT as u64, "{size}");
            }
            let lines = lines(&events);
            let bytes: usize = lines.iter().map(|line| line.len() + 1).sum();
            assert!(bytes <= NEWEST);
            // The newest are there, and without a gap.
            let numbers: Vec<u64> = lines
                .iter()
                .map(|line| {
                    let line: serde_json::Value = serde_json::from_str(line).unwrap();
                    line["seq"].as_u64().unwrap()
                })
                .collect();
            assert_eq!(*numbers.last().unwrap(), number);
            assert!(numbers.is_sorted() && numbers.windows(2).all(|two| two[0] + 1 == two[1]));
            assert!(numbers.len() as u64 >= number.min(16), "{numbers:?}");
        }
    }

    #[test]
    fn a_torn_line_is_cut_off_and_its_number_given_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut before = events(directory.path(), "a");
        before.append(br#"{"event":"booted"}"#).unwrap();
        before.append(br#"{"event":"settled"}"#).unwrap();
        let path = before.path();
        let whole_size = std::fs::metadata(&path).unwrap().len();
        // Cut anywhere in the second line, or followed by blocks that were never written.
        let text = std::fs::read(&path).unwrap();
        let first = text.iter().position(|byte| *byte == b'\n').unwrap() as u64 + 1;
        for size in (first..whole_size).chain([whole_size + 100]) {
            let copy = tempfile::tempdir().unwrap();
            let mut after = events(copy.path(), "b");
            std::fs::create_dir(copy.path().join("history")).unwrap();
            std::fs::copy(&path, after.path()).unwrap();
            File::options()
                .write(true)
                .open(after.path())
                .unwrap()
                .set_len(size)
                .unwrap();
            let kept = if size < whole_size { 1 } else { 2 };
            assert_eq!(lines(&after).len(), kept);
            after.append(br#"{"event":"booted"}"#).unwrap();
            let lines = lines(&after);
            assert_eq!(lines.len(), kept + 1);
            let expected = format!(r#"{{"seq":{},"boot":2,"#, kept + 1);
            assert!(lines[kept].starts_with(&expected), "{lines:?}");
            let text = std::fs::read_to_string(after.path()).unwrap();
            assert_eq!(text.lines().count(), lines.len());
            assert!(text.lines().all(|line| head(line.as_bytes()).is_some()));
        }
    }

    #[test]
    fn numbers_survive_the_loss_of_the_newer_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut before = events(directory.path(), "a");
        let event = format!(r#"{{"text":"{}"}}"#, "x".repeat(5000));
        for _ in 0..4 {
            before.append(event.as_bytes()).unwrap();
        }
        std::fs::remove_file(before.path()).unwrap();
        let mut after = events(directory.path(), "b");
        after.append(br#"{"event":"booted"}"#).unwrap();
        assert!(
            lines(&after)
                .last()
                .unwrap()
                .starts_with(r#"{"seq":4,"boot":2,"#)
        );
    }

    #[test]
    fn what_is_no_event_is_refused_and_a_place_that_is_no_folder_too() {
        let directory = tempfile::tempdir().unwrap();
        let mut events = events(directory.path(), "a");
        let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(EVENT));
        for event in ["", "{}", "[1]", "{\"a\":1}\n{}", "{\"a\":1", long.as_str()] {
            assert!(events.append(event.as_bytes()).is_err(), "{event}");
        }
        File::create(directory.path().join("history")).unwrap();
        assert!(events.append(br#"{"event":"booted"}"#).is_err());
        // It is tried again with the next event.
        std::fs::remove_file(directory.path().join("history")).unwrap();
        events.append(br#"{"event":"booted"}"#).unwrap();
        assert_eq!(lines(&events).len(), 1);
    }

    proptest! {
        #[test]
        fn any_file_is_survived(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'{'), Just(b'"'), any::<u8>()], 0..300)) {
            let directory = tempfile::tempdir().unwrap();
            let mut events = events(directory.path(), "a");
            std::fs::create_dir(directory.path().join("history")).unwrap();
            File::create(events.path()).unwrap().write_all(&bytes).unwrap();
            events.append(br#"{"event":"booted"}"#).unwrap();
            prop_assert_eq!(lines(&events).len(), 1);
        }
    }
}
