//! A batch of records on its way from PID 1 to the disk helper.
//!
//! Records one behind the other, little-endian: sequence u64, time u64 (ms since the boot), stream
//! u8, length of the source's name u8, length of the text u16, name, text.

use super::{Record, Stream};
use core::fmt;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// One record of a batch, borrowed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Sequence number.
    pub sequence: u64,
    /// Milliseconds since the boot.
    pub time_ms: u64,
    /// Who said it.
    pub source: &'a str,
    /// Where or how gravely.
    pub stream: Stream,
    /// The text.
    pub text: &'a [u8],
}

/// A batch that is not as described here; what came before the fault is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadBatch;

impl fmt::Display for BadBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("torn or malformed log batch")
    }
}

impl core::error::Error for BadBatch {}

/// Appends one record.
pub(super) fn append(into: &mut Vec<u8>, record: &Record<'_>, source: &str) {
    // Names have 32 characters and texts 4096 bytes; a longer name would be cut, not misread.
    let name = source.as_bytes();
    let name = name.get(..255).unwrap_or(name);
    into.extend_from_slice(&record.sequence.to_le_bytes());
    into.extend_from_slice(&record.time_ms.to_le_bytes());
    into.push(record.stream.number());
    into.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    let length = u16::try_from(record.text_len()).unwrap_or(u16::MAX);
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(name);
    record.append_text(into);
}

/// The records of an encoded batch. Ends after the first fault.
#[derive(Debug)]
pub struct Batch<'a> {
    rest: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Over `encoded`.
    #[must_use]
    pub const fn new(encoded: &'a [u8]) -> Self {
        Self { rest: encoded }
    }

    fn take(&mut self) -> Option<Entry<'a>> {
        let (sequence, rest) = self.rest.split_first_chunk::<8>()?;
        let (time, rest) = rest.split_first_chunk::<8>()?;
        let ([stream, name], rest) = rest.split_first_chunk::<2>()?;
        let (text, rest) = rest.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(usize::from(*name))?;
        let (text, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*text)))?;
        self.rest = rest;
        Some(Entry {
            sequence: u64::from_le_bytes(*sequence),
            time_ms: u64::from_le_bytes(*time),
            source: core::str::from_utf8(name).ok()?,
            stream: Stream::from_number(*stream)?,
            text,
        })
    }
}

impl<'a> Iterator for Batch<'a> {
    type Item = Result<Entry<'a>, BadBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = self.take().ok_or(BadBatch);
        if entry.is_err() {
            self.rest = &[];
        }
        Some(entry)
    }
}

/// One line of a log as JSON: what the control interface streams and what the segments on disk hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LogLine<'a> {
    /// Sequence number, without gaps over all sources of one boot.
    pub seq: u64,
    /// Milliseconds since the boot.
    pub time_ms: u64,
    /// Container, `kernel` or `kedge`.
    #[serde(borrow)]
    pub source: Cow<'a, str>,
    /// Where or how gravely.
    pub stream: Stream,
    /// The text; bytes that are not UTF-8 are replaced.
    #[serde(borrow)]
    pub text: Cow<'a, str>,
}

impl<'a> From<Entry<'a>> for LogLine<'a> {
    fn from(entry: Entry<'a>) -> Self {
        Self {
            seq: entry.sequence,
            time_ms: entry.time_ms,
            source: Cow::Borrowed(entry.source),
            stream: entry.stream,
            text: String::from_utf8_lossy(entry.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::SourceId;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_torn_batch_gives_what_is_whole() {
        let record = Record {
            sequence: 9,
            time_ms: 8,
            source: SourceId::KERNEL,
            stream: Stream::Error,
            text: [b"split ", b"text"],
        };
        let mut encoded = Vec::new();
        append(&mut encoded, &record, "kernel");
        let one = encoded.len();
        append(&mut encoded, &record, "kernel");
        for cut in 1..one {
            let entries: Vec<_> = Batch::new(&encoded[..one + cut]).collect();
            assert_eq!(entries.len(), 2);
            assert_eq!(entries[0].unwrap().text, b"split text");
            assert_eq!(entries[1], Err(BadBatch));
        }
        assert!(Batch::new(&encoded).all(|entry| entry.is_ok()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Batch::new(&bytes).count() <= bytes.len() / 20 + 1);
        }
    }
}
