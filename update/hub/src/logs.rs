//! Devices' logs: JSON lines as they were sent, in files, bounded for each device.
//!
//! ```text
//! logs/<64 hex>/<number>   zstd frames, one a request (RFC 8878); a new file begins at 1 MiB, the oldest is dropped
//! ```
//! A request is acknowledged once its frame is synced. What a cut left of a frame that was not acknowledged is cut off
//! before the next one is written.

use crate::error::{Error, Refusal};
use kedge_revision::KeyId;
use kedge_store::durable;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast;

/// Longest request, bytes, and what may come out of it.
pub(crate) const REQUEST: usize = 512 * 1024;
pub(crate) const LINES: usize = 4 << 20;
/// Bytes from which on a new file begins.
const FILE: u64 = 1 << 20;
/// Files of a device.
const FILES: usize = 4;
/// Locks by a device's first byte: two requests of one device do not write at once.
const LOCKS: usize = 16;

/// All devices' logs.
#[derive(Debug)]
pub(crate) struct Logs {
    directory: PathBuf,
    locks: [Mutex<()>; LOCKS],
    news: broadcast::Sender<KeyId>,
}

/// How far somebody has read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Place {
    file: u64,
    offset: u64,
}

impl Logs {
    pub(crate) fn new(data: &Path) -> Self {
        Self {
            directory: data.join("logs"),
            locks: Default::default(),
            news: broadcast::Sender::new(256),
        }
    }

    /// Told whose logs have grown.
    pub(crate) fn follow(&self) -> broadcast::Receiver<KeyId> {
        self.news.subscribe()
    }

    fn directory_of(&self, device: KeyId) -> PathBuf {
        self.directory.join(device.to_string())
    }

    fn lock(&self, device: KeyId) -> Option<MutexGuard<'_, ()>> {
        let [first, ..] = *device.digest();
        let lock = self.locks.get(usize::from(first) % LOCKS);
        lock.map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Removes all logs of a device.
    pub(crate) fn remove(&self, device: KeyId) -> Result<(), Error> {
        let _one_at_a_time = self.lock(device);
        Ok(durable::remove_tree(&self.directory_of(device))?)
    }

    /// Removes what a crash left of devices that were removed.
    pub(crate) fn sweep(&self, is_known: impl Fn(KeyId) -> bool) -> Result<(), Error> {
        if !self.directory.is_dir() {
            return Ok(());
        }
        for name in kedge_store::names(&self.directory)? {
            if let Ok(device) = name.parse::<KeyId>()
                && !is_known(device)
            {
                self.remove(device)?;
            }
        }
        Ok(())
    }

    /// Keeps what a device has sent: zstd of JSON lines.
    pub(crate) fn append(&self, device: KeyId, compressed: &[u8]) -> Result<(), Refusal> {
        let lines = judged(compressed)?;
        if lines.is_empty() {
            return Ok(());
        }
        let _one_at_a_time = self.lock(device);
        let directory = self.directory_of(device);
        durable::make_directory(&directory)?;
        let files = files(&directory)?;
        let number = match files.last_key_value() {
            Some((number, length)) if *length < FILE => *number,
            Some((number, _)) => number.saturating_add(1),
            None => 1,
        };
        // Compressed anew, so that the file holds whole frames of ours, whatever the device's encoder did.
        let frame = zstd::bulk::compress(&lines, 3).map_err(Error::file("compress", &directory))?;
        write(&directory.join(number.to_string()), &frame)?;
        let over = files.len().saturating_sub(FILES);
        for old in files.keys().take(over) {
            durable::remove(&directory.join(old.to_string()))?;
        }
        // Nobody may be listening.
        drop(self.news.send(device));
        Ok(())
    }

    /// The lines from a place on, some megabytes of one file at most, and where to go on; none if there are no more.
    pub(crate) fn read(
        &self,
        device: KeyId,
        from: Place,
    ) -> Result<Option<(Vec<u8>, Place)>, Error> {
        let directory = self.directory_of(device);
        if !directory.is_dir() {
            return Ok(None);
        }
        for (number, length) in files(&directory)?.range(from.file..) {
            let offset = if *number == from.file { from.offset } else { 0 };
            if offset >= *length {
                continue;
            }
            let path = directory.join(number.to_string());
            let mut file = File::open(&path).map_err(Error::file("open", &path))?;
            file.seek(SeekFrom::Start(offset))
                .map_err(Error::file("seek in", &path))?;
            let mut compressed = Vec::new();
            file.take(length - offset)
                .read_to_end(&mut compressed)
                .map_err(Error::file("read", &path))?;
            let (lines, good) = frames(&compressed);
            let place = Place {
                file: *number,
                offset: offset + good,
            };
            if good > 0 {
                return Ok(Some((lines, place)));
            }
        }
        Ok(None)
    }
}

/// Lengths of a device's files by their numbers.
fn files(directory: &Path) -> Result<BTreeMap<u64, u64>, Error> {
    let mut files = BTreeMap::new();
    for name in kedge_store::names(directory)? {
        let path = directory.join(&name);
        if let (Ok(number), Ok(file)) = (name.parse(), std::fs::metadata(&path)) {
            files.insert(number, file.len());
        }
    }
    Ok(files)
}

/// Appends a frame behind the last whole one.
fn write(path: &Path, frame: &[u8]) -> Result<(), Error> {
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(Error::file("open", path))?;
    let mut there = Vec::new();
    file.read_to_end(&mut there)
        .map_err(Error::file("read", path))?;
    let good = whole(&there);
    file.set_len(good).map_err(Error::file("cut", path))?;
    file.seek(SeekFrom::Start(good))
        .map_err(Error::file("seek in", path))?;
    let written = file.write_all(frame).map_err(Error::file("write", path));
    if let Err(error) = written {
        // As on a full disk: nothing of it stays.
        drop(file.set_len(good));
        return Err(error);
    }
    durable::sync(&file, path)?;
    Ok(())
}

/// Bytes of the whole frames at the beginning.
fn whole(bytes: &[u8]) -> u64 {
    let mut good = 0;
    while let Some(rest) = bytes.get(good..).filter(|rest| !rest.is_empty()) {
        match zstd::zstd_safe::find_frame_compressed_size(rest) {
            Ok(length) if length > 0 && length <= rest.len() => good += length,
            _ => break,
        }
    }
    u64::try_from(good).unwrap_or(0)
}

/// The lines of whole frames, until there are enough of them, and how many bytes those frames take. A frame may be a
/// thousandth of its lines, and whoever sent it chose that.
fn frames(bytes: &[u8]) -> (Vec<u8>, u64) {
    let end = usize::try_from(whole(bytes)).unwrap_or(0);
    let mut lines = Vec::new();
    let mut taken = 0;
    while lines.len() < LINES
        && let Some(rest) = bytes.get(taken..end).filter(|rest| !rest.is_empty())
        && let Ok(length) = zstd::zstd_safe::find_frame_compressed_size(rest)
        && let Some(frame) = rest.get(..length)
    {
        // Frames are our own; one that the disk has damaged is passed over.
        lines.extend(zstd::bulk::decompress(frame, LINES + 1).unwrap_or_default());
        taken += length;
    }
    (lines, u64::try_from(taken).unwrap_or(0))
}

/// What a device has sent, if it is lines of JSON objects.
pub(crate) fn judged(compressed: &[u8]) -> Result<Vec<u8>, Refusal> {
    let limit = u64::try_from(LINES).unwrap_or(u64::MAX);
    let mut lines = Vec::new();
    let mut decoder =
        zstd::Decoder::new(compressed).map_err(|error| Refusal::bad("zstd", error.to_string()))?;
    // 8 MiB: what a device's encoder may look back, and no more of the hub's memory.
    decoder
        .window_log_max(23)
        .map_err(|error| Refusal::bad("zstd", error.to_string()))?;
    decoder
        .take(limit + 1)
        .read_to_end(&mut lines)
        .map_err(|error| Refusal::bad("zstd", error.to_string()))?;
    if lines.len() > LINES {
        return Err(Refusal::too_large(LINES));
    }
    if lines.last().is_some_and(|last| *last != b'\n') {
        lines.push(b'\n');
    }
    let good = lines
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .all(is_object);
    if good {
        Ok(lines)
    } else {
        Err(Refusal::bad("lines", "logs are lines of JSON objects"))
    }
}

/// Whether a line is one JSON object; nothing of it is kept, however many members it has.
fn is_object(line: &[u8]) -> bool {
    line.trim_ascii_start().first() == Some(&b'{')
        && serde_json::from_slice::<IgnoredAny>(line).is_ok()
}

/// Only the lines of a source: a container, `kernel`, `kedge`; and before them the head of what they were sent with
/// ([`kedge_api::device::LogHead`]).
pub(crate) fn of_source(lines: &[u8], source: &str) -> Vec<u8> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Line {
        #[serde(default)]
        source: String,
        boot_id: Option<IgnoredAny>,
    }
    let mut kept = Vec::new();
    let mut head: &[u8] = &[];
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let Ok(told) = serde_json::from_slice::<Line>(line) else {
            continue;
        };
        if told.source == source {
            kept.extend_from_slice(core::mem::take(&mut head));
            kept.extend_from_slice(line);
        } else if told.boot_id.is_some() {
            head = line;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sources_lines_keep_the_head_that_they_came_with() {
        let head = |boot: u8| format!("{{\"boot-id\":\"{boot}\",\"uptime-ms\":9}}\n");
        let line = |source: &str| format!("{{\"seq\":1,\"source\":\"{source}\"}}\n");
        let (web, db) = (line("web"), line("db"));
        let lines = [
            head(1),
            db.clone(),
            head(2),
            web.clone(),
            db,
            web.clone(),
            head(3),
        ]
        .concat();
        let kept = of_source(lines.as_bytes(), "web");
        assert_eq!(String::from_utf8(kept).unwrap(), head(2) + &web + &web);
    }

    fn sent(lines: &str) -> Vec<u8> {
        zstd::bulk::compress(lines.as_bytes(), 3).unwrap()
    }

    fn all(logs: &Logs, device: KeyId) -> String {
        let mut place = Place::default();
        let mut all = Vec::new();
        while let Some((lines, next)) = logs.read(device, place).unwrap() {
            all.extend(lines);
            place = next;
        }
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn lines_that_pack_well_come_back_a_part_at_a_time() {
        let data = tempfile::tempdir().unwrap();
        let logs = Logs::new(data.path());
        let device = KeyId::from_digest([7; 32]);
        let line = format!("{{\"text\":\"{}\"}}\n", "a".repeat(3 << 20));
        for _ in 0..5 {
            logs.append(device, &sent(&line)).unwrap();
        }
        let mut place = Place::default();
        let mut count = 0;
        while let Some((lines, next)) = logs.read(device, place).unwrap() {
            assert!(lines.len() <= 2 * LINES, "{} at once", lines.len());
            count += lines.iter().filter(|byte| **byte == b'\n').count();
            place = next;
        }
        assert_eq!(count, 5);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for line in ["[]", "1", "\"{\"", "{", "{}{}", "null"] {
            assert!(judged(&sent(line)).is_err(), "{line}");
        }
        for line in ["{}", " {\"a\":[1],\"a\":2}"] {
            assert!(judged(&sent(line)).is_ok(), "{line}");
        }
    }

    #[test]
    fn lines_come_back_in_order_and_a_torn_frame_is_cut_off() {
        let data = tempfile::tempdir().unwrap();
        let logs = Logs::new(data.path());
        let device = KeyId::from_digest([7; 32]);
        assert_eq!(logs.read(device, Place::default()).unwrap(), None);
        logs.append(device, &sent("{\"n\":1}\n")).unwrap();
        let path = logs.directory_of(device).join("1");
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(&sent("{\"torn\":1}")[..9]).unwrap();
        assert_eq!(all(&logs, device), "{\"n\":1}\n");
        logs.append(device, &sent("{\"n\":2}")).unwrap();
        assert_eq!(all(&logs, device), "{\"n\":1}\n{\"n\":2}\n");
    }

    #[test]
    fn a_device_fills_its_files_and_no_more() {
        let data = tempfile::tempdir().unwrap();
        let logs = Logs::new(data.path());
        let device = KeyId::from_digest([7; 32]);
        // Random digits, so that they stay as long as they are.
        for number in 0..70 {
            let noise = crate::random::digits::<100_000>().unwrap();
            let line = format!("{{\"n\":{number},\"noise\":\"{noise}\"}}\n");
            logs.append(device, &sent(&line)).unwrap();
        }
        let kept = files(&logs.directory_of(device)).unwrap();
        assert!(kept.len() <= FILES + 1, "{kept:?}");
        assert!(
            kept.values().sum::<u64>() <= (u64::try_from(FILES).unwrap() + 1) * (FILE + 200_000)
        );
        assert!(all(&logs, device).contains("\"n\":39"));
        assert!(!all(&logs, device).contains("\"n\":0,"));
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let logs = Logs::new(data.path());
        let device = KeyId::from_digest([7; 32]);
        for bad in [
            b"plain".to_vec(),
            sent("[1]\n"),
            sent("{\"a\":\n1}"),
            sent("{\"a\":1} {\"b\":2}"),
            sent("\u{fffd}"),
        ] {
            assert!(logs.append(device, &bad).is_err());
        }
        let bomb = sent(&" ".repeat(LINES + 1));
        assert_eq!(logs.append(device, &bomb).unwrap_err().kind, "too-large");
        assert!(!data.path().join("logs").exists());
    }

    #[test]
    fn one_sources_lines_are_picked() {
        let lines = b"{\"source\":\"web\",\"n\":1}\n{\"n\":2}\n{\"source\":\"db\"}\n";
        assert_eq!(of_source(lines, "web"), b"{\"source\":\"web\",\"n\":1}\n");
    }
}
