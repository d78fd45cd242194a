//! Logs on disk: files of JSON lines, numbered, the oldest deleted as the bound is reached.
//!
//! `NNNNNNNNNN.jsonl`: [`LogLine`]s as the control interface streams them. What a boot writes begins
//! with a line `{"boot-id":"…"}`, since times and sequence numbers begin anew with it. A power
//! cut may leave a torn last line; the next boot ends it and goes on in the same file, so that a
//! device which boots often does not push its own history out with nearly empty files.

use super::super::Error;
use crate::log::{Batch, LogLine};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Lines are gathered to writes of so much; a write has at most this and one line of 25 KiB.
const WRITE_BYTES: usize = 8 * 1024;
/// Largest segment, bytes; with a small bound for all, a quarter of that.
const SEGMENT_MAX: u64 = 1024 * 1024;

/// How the line begins that what a boot writes begins with.
pub(super) const HEAD: &[u8] = b"{\"boot-id\":\"";

/// One file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) number: u32,
    size: u64,
}

/// All segments of a directory; writes go to the newest.
#[derive(Debug)]
pub struct Segments {
    directory: PathBuf,
    bound: u64,
    segments: VecDeque<Segment>,
    current: Option<File>,
    /// Whether a name came or went since the last sync.
    names_changed: bool,
}

impl Segments {
    /// Opens the logs in `directory`, which is made with mode 0700 if it is absent, for at most `bound` bytes, and
    /// writes the head of this boot.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn open(directory: &Path, bound: u64, boot_id: &str) -> Result<Self, Error> {
        let failed = |doing, source| Error::File {
            doing,
            path: directory.to_owned(),
            source,
        };
        match std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
            .create(directory)
        {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(failed("make", error));
            }
            Ok(()) | Err(_) => {}
        }
        let found = list(directory)?;
        let mut segments = Self {
            directory: directory.to_owned(),
            bound,
            segments: found.into(),
            current: None,
            names_changed: true,
        };
        segments.reopen()?;
        let boot_id: String = boot_id
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
            .collect();
        segments.write(format!("{{\"boot-id\":\"{boot_id}\"}}\n").as_bytes())?;
        Ok(segments)
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }

    /// Goes on in the newest segment; ends a line that a power cut tore.
    fn reopen(&mut self) -> Result<(), Error> {
        let Some(last) = self.segments.back().copied() else {
            return Ok(());
        };
        let path = self.path(last.number);
        let failed = |source| Error::File {
            doing: "open",
            path: path.clone(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(&path)
            .map_err(failed)?;
        let mut end = [b'\n'];
        if let Some(at) = last.size.checked_sub(1) {
            file.read_exact_at(&mut end, at).map_err(failed)?;
        }
        self.current = Some(file);
        if end == *b"\n" {
            Ok(())
        } else {
            self.write(b"\n")
        }
    }

    /// Appends the records of a batch.
    ///
    /// # Errors
    /// [`Error::File`]; the rest of the batch is dropped. A torn batch is appended as far as it is whole.
    pub fn append(&mut self, batch: &[u8]) -> Result<(), Error> {
        let mut lines = Vec::with_capacity(WRITE_BYTES);
        for entry in Batch::new(batch) {
            let Ok(entry) = entry else { break };
            let begin = lines.len();
            if kedge_revision::json::write(&mut lines, &LogLine::from(entry)).is_err() {
                lines.truncate(begin);
                continue;
            }
            lines.push(b'\n');
            if lines.len() >= WRITE_BYTES {
                self.write(&lines)?;
                lines.clear();
            }
        }
        self.write(&lines)
    }

    /// Brings everything to disk.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn sync(&mut self) -> Result<(), Error> {
        let failed = |source| Error::File {
            doing: "sync",
            path: self.directory.clone(),
            source,
        };
        if let Some(file) = &self.current {
            file.sync_data().map_err(failed)?;
        }
        if self.names_changed {
            File::open(&self.directory)
                .and_then(|directory| directory.sync_all())
                .map_err(failed)?;
            self.names_changed = false;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        match self.write_once(bytes) {
            // A disk that others filled: logs give way to logs.
            Err(Error::File { source, .. })
                if source.kind() == std::io::ErrorKind::StorageFull && self.segments.len() > 1 =>
            {
                self.delete_oldest()?;
                self.write_once(bytes)
            }
            outcome => outcome,
        }
    }

    fn write_once(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let segment_max = (self.bound / 4).min(SEGMENT_MAX);
        let full = self
            .segments
            .back()
            .is_none_or(|last| last.size > 0 && last.size.saturating_add(size) > segment_max);
        if full || self.current.is_none() {
            self.begin()?;
        }
        while self.segments.len() > 1 && self.total().saturating_add(size) > self.bound {
            self.delete_oldest()?;
        }
        let number = self.segments.back().map_or(0, |last| last.number);
        let path = self.path(number);
        let Some(file) = &mut self.current else {
            return Ok(());
        };
        let outcome = file.write_all(bytes);
        // Also after a failure: some of it may have been written.
        let now = file.metadata().map(|data| data.len());
        if let (Some(last), Ok(now)) = (self.segments.back_mut(), now) {
            last.size = now;
        }
        outcome.map_err(|source| Error::File {
            doing: "write",
            path,
            source,
        })
    }

    /// A new, empty segment.
    fn begin(&mut self) -> Result<(), Error> {
        // What is no longer written to is brought to disk first; later it would be forgotten.
        self.sync()?;
        let number = self
            .segments
            .back()
            .map_or(1, |last| last.number.saturating_add(1));
        let path = self.path(number);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|source| Error::File {
                doing: "make",
                path,
                source,
            })?;
        self.current = Some(file);
        self.segments.push_back(Segment { number, size: 0 });
        self.names_changed = true;
        Ok(())
    }

    fn delete_oldest(&mut self) -> Result<(), Error> {
        let Some(oldest) = self.segments.pop_front() else {
            return Ok(());
        };
        let path = self.path(oldest.number);
        self.names_changed = true;
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::File {
                doing: "delete",
                path,
                source,
            }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn path(&self, number: u32) -> PathBuf {
        path_of(&self.directory, number)
    }
}

/// The file of a segment.
pub(super) fn path_of(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:010}.jsonl"))
}

/// All segments of a directory, the oldest first.
///
/// # Errors
/// [`Error::File`].
pub(super) fn list(directory: &Path) -> Result<Vec<Segment>, Error> {
    let failed = |source| Error::File {
        doing: "list",
        path: directory.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let (Some(number), Ok(data)) = (number(&entry.file_name()), entry.metadata()) {
            found.push(Segment {
                number,
                size: data.len(),
            });
        }
    }
    found.sort_unstable_by_key(|segment| segment.number);
    Ok(found)
}

/// The number of a segment's file name; other files are left alone.
fn number(name: &std::ffi::OsStr) -> Option<u32> {
    let digits = name.to_str()?.strip_suffix(".jsonl")?;
    (digits.len() == 10).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Journal, Stream};

    fn batch(text: &str) -> Vec<u8> {
        let mut journal = Journal::new();
        journal.say(Stream::Notice, format_args!("{text}"), 1);
        journal.batch(1).unwrap()
    }

    fn files(directory: &Path) -> Vec<(String, u64)> {
        let mut files: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                (name, entry.metadata().unwrap().len())
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn the_bound_holds_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let mut segments = Segments::open(directory.path(), 64 * 1024, "boot").unwrap();
        let hostile = "\u{1}".repeat(4000);
        for number in 0..400 {
            let text = if number % 50 == 0 {
                hostile.clone()
            } else {
                format!("{number} {}", "x".repeat(700))
            };
            segments.append(&batch(&text)).unwrap();
            let total: u64 = files(directory.path()).iter().map(|file| file.1).sum();
            assert!(total <= 64 * 1024, "{total}");
            assert_eq!(total, segments.total());
        }
        let files = files(directory.path());
        assert!(files.len() >= 2 && files[0].0.as_str() > "0000000001.jsonl");
        let newest = &files.last().unwrap().0;
        let text = std::fs::read_to_string(directory.path().join(newest)).unwrap();
        assert!(text.contains("\"text\":\"399 x"));
        for line in text.lines() {
            serde_json::from_str::<LogLine<'_>>(line).unwrap();
        }
    }

    #[test]
    fn a_torn_line_is_ended_and_foreign_files_stay() {
        let directory = tempfile::tempdir().unwrap();
        let mut segments = Segments::open(directory.path(), 65536, "one").unwrap();
        segments.append(&batch("whole")).unwrap();
        drop(segments);
        let path = directory.path().join("0000000001.jsonl");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"seq\":2,\"ti").unwrap();
        File::create(directory.path().join("notes.txt")).unwrap();
        let mut segments = Segments::open(directory.path(), 65536, "two").unwrap();
        segments.append(&batch("after")).unwrap();
        segments.sync().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[2], "{\"seq\":2,\"ti");
        assert_eq!(lines[3], "{\"boot-id\":\"two\"}");
        assert!(directory.path().join("notes.txt").exists());
    }

    #[test]
    fn a_smaller_bound_deletes_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut segments = Segments::open(directory.path(), 1 << 20, "one").unwrap();
        for _ in 0..800 {
            segments.append(&batch(&"y".repeat(1000))).unwrap();
        }
        drop(segments);
        let segments = Segments::open(directory.path(), 64 * 1024, "two").unwrap();
        assert!(segments.total() <= 64 * 1024);
    }
}
