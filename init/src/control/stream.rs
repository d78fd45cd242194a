//! A log on its way to one reader: records of the ring as chunks of JSON lines.

use super::api::LogQuery;
use super::since::Since;
use crate::log::{Journal, LogLine, Next, Position, Record, SourceId, Stream};

/// A reader's output is filled up to so much; one record of 4 KiB, escaped, may go beyond once.
pub const LOG_FILL: usize = 4096;

/// Where one reader is.
#[derive(Debug)]
pub(super) struct LogStream {
    at: Position,
    source: Option<SourceId>,
    follow: bool,
    /// What was said before, milliseconds since the boot, is left out.
    from_ms: u64,
    /// Records of the past that are left out before the first, so that `limit` remain.
    skip: u64,
    /// Without `follow`, the end as of the beginning: a talkative container cannot keep a reader for ever.
    end: u64,
}

impl LogStream {
    /// Over what a query selects, whose time is settled; `None`: nobody of that name has talked.
    pub(super) fn new(query: &LogQuery, journal: &Journal) -> Option<Self> {
        let source = match &query.source {
            Some(name) => Some(journal.find(name.as_str())?),
            None => None,
        };
        let ring = journal.ring();
        let (at, from_ms) = match query.since {
            Some(Since::Sequence(number)) => (ring.seek(number), 0),
            Some(Since::Boot(ms)) => (ring.oldest(), ms),
            None | Some(Since::Ago(_) | Since::Unix(_)) => (ring.oldest(), 0),
        };
        let mut stream = Self {
            at: at.clone(),
            source,
            follow: query.follow,
            from_ms,
            skip: 0,
            end: ring.newest().sequence(),
        };
        if let Some(limit) = query.limit {
            let mut matching = 0_u64;
            let mut look = at.clone();
            while let Some(next) = ring.next(&mut look) {
                matching = matching.saturating_add(u64::from(stream.selects(&next)));
            }
            stream.skip = matching.saturating_sub(u64::from(limit));
        }
        Some(stream)
    }

    fn selects(&self, next: &Next<'_>) -> bool {
        match next {
            Next::Record(record) => {
                record.time_ms >= self.from_ms
                    && self.source.is_none_or(|source| source == record.source)
            }
            Next::Lost(_) => true,
        }
    }

    /// Appends chunks until `output` has [`LOG_FILL`] bytes or nothing is left. False: the stream has ended.
    pub(super) fn fill(&mut self, journal: &Journal, output: &mut Vec<u8>) -> bool {
        while output.len() < LOG_FILL {
            if !self.follow && self.at.sequence() >= self.end {
                return false;
            }
            let Some(next) = journal.ring().next(&mut self.at) else {
                return self.follow;
            };
            if !self.selects(&next) {
                continue;
            }
            if self.skip > 0 {
                self.skip = self.skip.saturating_sub(1);
                continue;
            }
            match next {
                Next::Record(record) => append(output, &record, journal.name(record.source)),
                Next::Lost(count) => {
                    let text = format!("{count} records were lost: this reader was too slow");
                    let record = Record {
                        sequence: self.at.sequence().saturating_sub(1),
                        time_ms: 0,
                        source: SourceId::KEDGE,
                        stream: Stream::Warning,
                        text: [text.as_bytes(), b""],
                    };
                    append(output, &record, journal.name(SourceId::KEDGE));
                }
            }
        }
        true
    }
}

/// One record as one chunk (RFC 9112, 7.1).
fn append(output: &mut Vec<u8>, record: &Record<'_>, source: &str) {
    let mut text = Vec::with_capacity(record.text_len());
    record.append_text(&mut text);
    let line = LogLine {
        seq: record.sequence,
        time_ms: record.time_ms,
        source: source.into(),
        stream: record.stream,
        text: String::from_utf8_lossy(&text),
    };
    let mut json = Vec::with_capacity(text.len().saturating_add(96));
    // Writing plain data to memory cannot fail; an unfinished line must not go out in any case.
    if kedge_revision::json::write(&mut json, &line).is_ok() {
        json.push(b'\n');
        output.extend_from_slice(format!("{:x}\r\n", json.len()).as_bytes());
        output.append(&mut json);
        output.extend_from_slice(b"\r\n");
    }
}
