//! The journal: sources with their limits, the rings, and what is still to go to disk.
//!
//! Records go to the disk helper in batches taken from the rings, so nothing is kept twice: as long
//! as the helper is slow or gone, the rings are the queue, and what it loses the next batch says.

use super::{
    Bucket, KernelRecord, KmsgError, Lines, Next, Position, Record, Rings, SourceId, Stream,
    Verdict, batch,
};
use core::fmt;

/// A batch goes to disk once so much is waiting; it holds at most twice that.
pub const BATCH_BYTES: usize = 8 * 1024;
/// … or once something has waited so long.
pub const BATCH_AFTER_MS: u64 = 2000;
/// Names of sources that come from a [`kedge_revision::Name`] have at most 32.
const MAX_NAME: usize = 32;

/// One who talks.
#[derive(Debug)]
struct Source {
    name: Box<str>,
    bucket: Bucket,
    out: Lines,
    err: Lines,
}

/// See the module.
#[derive(Debug)]
pub struct Journal {
    ring: Rings,
    sources: Vec<Source>,
    /// What has been handed to the disk helper.
    disk: Position,
    /// When the oldest record came that the disk helper has not got.
    waiting_since_ms: Option<u64>,
    /// When the first record of the kernel was read.
    kernel_since_ms: Option<u64>,
}

impl Default for Journal {
    fn default() -> Self {
        Self::new()
    }
}

impl Journal {
    /// An empty journal that knows PID 1 (`kedge`) and the kernel (`kernel`).
    #[must_use]
    pub fn new() -> Self {
        let ring = Rings::default();
        let disk = ring.oldest();
        let mut journal = Self {
            ring,
            sources: Vec::new(),
            disk,
            waiting_since_ms: None,
            kernel_since_ms: None,
        };
        for name in ["kedge", "kernel"] {
            journal.source(name);
        }
        journal
    }

    /// The number of a source, which is made if the name is new. A name is cut at 32 bytes. Names are
    /// never forgotten; should 255 be used up, which only hundreds of container names over one boot
    /// can do, later ones talk as PID 1.
    pub fn source(&mut self, name: &str) -> SourceId {
        if let Some(known) = self.find(name) {
            return known;
        }
        let Ok(number) = u8::try_from(self.sources.len()) else {
            return SourceId::KEDGE;
        };
        self.sources.push(Source {
            name: name.chars().take(MAX_NAME).collect::<String>().into(),
            bucket: Bucket::default(),
            out: Lines::default(),
            err: Lines::default(),
        });
        SourceId(number)
    }

    /// The number of a source that has been named before.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<SourceId> {
        self.sources
            .iter()
            .position(|source| &*source.name == name)
            .and_then(|place| u8::try_from(place).ok())
            .map(SourceId)
    }

    /// The name of a source.
    #[must_use]
    pub fn name(&self, source: SourceId) -> &str {
        self.sources
            .get(usize::from(source.0))
            .map_or("unknown", |source| &source.name)
    }

    /// The rings, for readers.
    #[must_use]
    pub const fn ring(&self) -> &Rings {
        &self.ring
    }

    /// Takes what was read from a container's pipe; `stream` is [`Stream::Err`] or else its output.
    pub fn output(&mut self, source: SourceId, stream: Stream, bytes: &[u8], now_ms: u64) {
        self.lines(source, stream, now_ms, |lines, line| {
            lines.feed(bytes, line);
        });
    }

    /// Takes what is left of a line when a container's pipe has ended.
    pub fn output_ended(&mut self, source: SourceId, stream: Stream, now_ms: u64) {
        self.lines(source, stream, now_ms, |lines, line| lines.finish(line));
    }

    fn lines(
        &mut self,
        source: SourceId,
        stream: Stream,
        now_ms: u64,
        feed: impl FnOnce(&mut Lines, &mut dyn FnMut(&[u8])),
    ) {
        let Some(entry) = self.sources.get_mut(usize::from(source.0)) else {
            return;
        };
        // Taken out for the time of the call: each line goes through the whole journal.
        let own = |entry: &mut Source| {
            core::mem::take(if stream == Stream::Err {
                &mut entry.err
            } else {
                &mut entry.out
            })
        };
        let mut lines = own(entry);
        feed(&mut lines, &mut |line| {
            self.record(source, stream, line, now_ms);
        });
        if let Some(entry) = self.sources.get_mut(usize::from(source.0)) {
            *(if stream == Stream::Err {
                &mut entry.err
            } else {
                &mut entry.out
            }) = lines;
        }
    }

    /// What PID 1 has to say.
    pub fn say(&mut self, stream: Stream, text: fmt::Arguments<'_>, now_ms: u64) {
        let text = text.to_string();
        self.record(SourceId::KEDGE, stream, text.as_bytes(), now_ms);
    }

    /// Takes one record of `/dev/kmsg`.
    ///
    /// # Errors
    /// [`KmsgError`] where it is none; nothing is kept then.
    pub fn kernel(&mut self, bytes: &[u8], now_ms: u64) -> Result<(), KmsgError> {
        let record = KernelRecord::parse(bytes)?;
        let stream = Stream::from_level(record.level);
        // The kernel's time, since its first records are read long after they were written.
        let time_ms = (record.time_us / 1000).min(now_ms);
        // What it said before anybody listened is one boot's, of a bounded size, and was not said at once.
        let since = *self.kernel_since_ms.get_or_insert(now_ms);
        if time_ms <= since || self.passes(SourceId::KERNEL, record.text().len(), now_ms) {
            self.push(time_ms, SourceId::KERNEL, stream, &record.text(), now_ms);
        }
        Ok(())
    }

    /// Records of the kernel that were overwritten before they were read (`EPIPE` of `/dev/kmsg`).
    pub fn kernel_lost(&mut self, now_ms: u64) {
        let text = b"records of the kernel were lost";
        self.push(now_ms, SourceId::KEDGE, Stream::Warning, text, now_ms);
    }

    /// Tells of suppressed lines of sources that fell silent. Called now and then, with [`Self::batch`].
    pub fn settle(&mut self, now_ms: u64) {
        for number in 0..self.sources.len() {
            let Some(source) = self.sources.get_mut(number) else {
                return;
            };
            let suppressed = source.bucket.settle(now_ms);
            if suppressed > 0 {
                let id = SourceId(u8::try_from(number).unwrap_or(0));
                self.tell_suppressed(id, suppressed, now_ms);
            }
        }
    }

    fn record(&mut self, source: SourceId, stream: Stream, text: &[u8], now_ms: u64) {
        if self.passes(source, text.len(), now_ms) {
            self.push(now_ms, source, stream, text, now_ms);
        }
    }

    fn passes(&mut self, source: SourceId, length: usize, now_ms: u64) -> bool {
        let Some(entry) = self.sources.get_mut(usize::from(source.0)) else {
            return false;
        };
        match entry.bucket.take(now_ms, length) {
            Verdict::Drop => false,
            Verdict::Keep { suppressed } => {
                if suppressed > 0 {
                    self.tell_suppressed(source, suppressed, now_ms);
                }
                true
            }
        }
    }

    fn tell_suppressed(&mut self, source: SourceId, lines: u32, now_ms: u64) {
        let text = format!("suppressed {lines} lines: too much at once");
        self.push(now_ms, source, Stream::Warning, text.as_bytes(), now_ms);
    }

    fn push(&mut self, time_ms: u64, source: SourceId, stream: Stream, text: &[u8], now_ms: u64) {
        self.ring.push(time_ms, source, stream, text);
        self.waiting_since_ms.get_or_insert(now_ms);
    }

    /// When the next batch is to be handed over (0: now); `None`: nothing waits.
    #[must_use]
    pub fn batch_due_ms(&self) -> Option<u64> {
        let since = self.waiting_since_ms?;
        let much = self.ring.behind(&self.disk) >= u64::try_from(BATCH_BYTES).unwrap_or(u64::MAX);
        Some(if much {
            0
        } else {
            since.saturating_add(BATCH_AFTER_MS)
        })
    }

    /// Encodes what waits, at most 16 KiB of it, and takes it as handed over: called only when the helper's
    /// queue is empty. `None`: nothing waits.
    pub fn batch(&mut self, now_ms: u64) -> Option<Vec<u8>> {
        let mut encoded = Vec::new();
        while encoded.len() < BATCH_BYTES {
            match self.ring.next(&mut self.disk) {
                None => break,
                Some(Next::Record(record)) => {
                    batch::append(&mut encoded, &record, self.name(record.source));
                }
                Some(Next::Lost(count)) => {
                    let text = format!("{count} records were lost on their way to disk");
                    let record = Record {
                        sequence: self.disk.sequence().saturating_sub(1),
                        time_ms: now_ms,
                        source: SourceId::KEDGE,
                        stream: Stream::Warning,
                        text: [text.as_bytes(), b""],
                    };
                    batch::append(&mut encoded, &record, self.name(SourceId::KEDGE));
                }
            }
        }
        let left = self.ring.behind(&self.disk) > 0;
        self.waiting_since_ms = left.then_some(now_ms);
        (!encoded.is_empty()).then_some(encoded)
    }

    /// The last lines of kernel and PID 1, at most `most` bytes, as they would stand on a console:
    /// what `last_resort` saves.
    #[must_use]
    pub fn console_tail(&self, most: usize) -> Vec<u8> {
        let mut tail = Vec::new();
        let mut at = self.ring.oldest();
        while let Some(next) = self.ring.next(&mut at) {
            let Next::Record(record) = next else { continue };
            if record.source > SourceId::KERNEL {
                continue;
            }
            let (seconds, rest) = (record.time_ms / 1000, record.time_ms % 1000);
            let name = self.name(record.source);
            tail.extend_from_slice(format!("[{seconds:5}.{rest:03}] {name}: ").as_bytes());
            record.append_text(&mut tail);
            tail.push(b'\n');
            // Twice the bound at most is held, and moved once for each `most` bytes.
            if tail.len() > most.saturating_mul(2) {
                tail.drain(..tail.len().saturating_sub(most));
            }
        }
        tail.drain(..tail.len().saturating_sub(most));
        tail
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::Batch;
    use super::*;

    fn lines(encoded: &[u8]) -> Vec<String> {
        Batch::new(encoded)
            .map(|entry| {
                let entry = entry.unwrap();
                format!("{} {}", entry.source, String::from_utf8_lossy(entry.text))
            })
            .collect()
    }

    #[test]
    fn output_of_two_streams_goes_to_disk_in_order() {
        let mut journal = Journal::new();
        let web = journal.source("web");
        assert_eq!(journal.source("web"), web);
        assert_eq!(journal.batch_due_ms(), None);
        journal.output(web, Stream::Out, b"hel", 100);
        journal.output(web, Stream::Err, b"error\n", 200);
        journal.output(web, Stream::Out, b"lo\nrest", 300);
        journal.output_ended(web, Stream::Out, 400);
        journal.say(Stream::Notice, format_args!("web ended"), 400);
        assert_eq!(journal.batch_due_ms(), Some(2200));
        let batch = journal.batch(500).unwrap();
        assert_eq!(
            lines(&batch),
            ["web error", "web hello", "web rest", "kedge web ended"]
        );
        assert_eq!(journal.batch_due_ms(), None);
        assert_eq!(journal.batch(500), None);
    }

    #[test]
    fn a_slow_disk_loses_the_oldest_and_says_so() {
        let mut journal = Journal::new();
        for number in 0..80_u64 {
            let web = journal.source(if number % 2 == 0 { "web" } else { "db" });
            // Slowly enough that nobody is suppressed.
            let now = number * 100;
            journal.output(web, Stream::Out, &[b'x'; 1999], now);
            journal.output(web, Stream::Out, b"\n", now);
        }
        assert_eq!(journal.batch_due_ms(), Some(0));
        let first = journal.batch(9000).unwrap();
        assert!(first.len() <= 2 * BATCH_BYTES);
        assert_eq!(
            lines(&first).first().map(String::as_str),
            Some("kedge 48 records were lost on their way to disk")
        );
        assert_eq!(journal.batch_due_ms(), Some(0));
    }

    #[test]
    fn a_flood_is_suppressed_and_told() {
        let mut journal = Journal::new();
        let web = journal.source("web");
        for _ in 0..10_000 {
            journal.output(web, Stream::Out, b"again and again\n", 5);
        }
        while journal.batch(6).is_some() {}
        journal.settle(60_000);
        let told = lines(&journal.batch(60_000).unwrap());
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("web suppressed "), "{told:?}");
    }

    #[test]
    fn what_the_kernel_said_before_is_never_too_much_at_once() {
        let mut journal = Journal::new();
        for number in 0..400_u64 {
            let record = format!(
                "6,{number},{},-;a line of some fifty bytes, as a booting kernel has\n",
                number * 1000
            );
            journal.kernel(record.as_bytes(), 1000).unwrap();
        }
        assert_eq!(journal.ring().newest().sequence(), 401);
    }

    #[test]
    fn the_console_tail_is_bounded_and_has_no_containers() {
        let mut journal = Journal::new();
        let web = journal.source("web");
        for number in 0..200 {
            journal.output(web, Stream::Out, b"secret\n", number);
            journal.kernel(b"6,1,1500000,-;eth0: up\n", 2000).unwrap();
        }
        let tail = String::from_utf8(journal.console_tail(4096)).unwrap();
        assert!(tail.len() <= 4096 && tail.len() > 4000);
        assert!(tail.ends_with("[    1.500] kernel: eth0: up\n"));
        assert!(!tail.contains("secret"));
        assert!(journal.kernel(b"nonsense", 0).is_err());
    }
}
