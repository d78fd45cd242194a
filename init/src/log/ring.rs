//! The ring: records one behind the other in a buffer of one size; the oldest make room.
//!
//! A record is a header of 12 bytes (length of the text u16, source u8, stream u8, time u64, all
//! little-endian) and its text. Its sequence number is not stored: records are numbered without
//! gaps. Positions are offsets that never wrap (2⁶⁴ bytes are never written), so that a reader's
//! position stays meaningful after the ring has gone past it.

use super::{MAX_TEXT, SourceId, Stream};

const HEADER: usize = 12;

/// A bounded sequence of records. See the module.
#[derive(Debug)]
pub struct Ring {
    /// Grows to `capacity` with what is written, and never beyond: memory is touched when it is needed.
    buffer: Vec<u8>,
    capacity: usize,
    /// Offset of the oldest record.
    head: u64,
    /// Offset behind the newest record.
    tail: u64,
    /// Sequence number of the oldest record.
    head_sequence: u64,
    /// Sequence number of the next record; the first is 1.
    next_sequence: u64,
}

/// A place between two records, of one reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    offset: u64,
    sequence: u64,
}

impl Position {
    /// The sequence number of the record that is read next.
    #[must_use]
    pub const fn sequence(self) -> u64 {
        self.sequence
    }
}

/// One record, borrowed from the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Sequence number, without gaps over all sources.
    pub sequence: u64,
    /// Milliseconds since the boot.
    pub time_ms: u64,
    /// Who said it.
    pub source: SourceId,
    /// Where or how gravely.
    pub stream: Stream,
    /// The text without its line end, in two parts since the buffer wraps.
    pub text: [&'a [u8]; 2],
}

impl Record<'_> {
    /// Length of the text, bytes.
    #[must_use]
    pub fn text_len(&self) -> usize {
        self.text.iter().map(|part| part.len()).sum()
    }

    /// Appends the text.
    pub fn append_text(&self, into: &mut Vec<u8>) {
        for part in self.text {
            into.extend_from_slice(part);
        }
    }
}

/// What a reader finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next<'a> {
    /// So many records went by unread.
    Lost(u64),
    /// The next record.
    Record(Record<'a>),
}

impl Ring {
    /// A ring of `capacity` bytes, and of one largest record at least.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(HEADER + MAX_TEXT);
        Self {
            // Reserved at once: growing would copy, and leave holes behind.
            buffer: Vec::with_capacity(capacity),
            capacity,
            head: 0,
            tail: 0,
            head_sequence: 1,
            next_sequence: 1,
        }
    }

    /// Appends a record and returns its sequence number. Text beyond [`MAX_TEXT`] is cut off.
    pub fn push(&mut self, time_ms: u64, source: SourceId, stream: Stream, text: &[u8]) -> u64 {
        let text = text.get(..MAX_TEXT).unwrap_or(text);
        let size = wide(HEADER + text.len());
        while self.tail.saturating_add(size).saturating_sub(self.head) > wide(self.capacity) {
            self.drop_oldest();
        }
        // MAX_TEXT fits.
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
        let mut header = [0; HEADER];
        let [l0, l1, s, k, time @ ..] = &mut header;
        [*l0, *l1] = length.to_le_bytes();
        *s = source.0;
        *k = stream.number();
        *time = time_ms.to_le_bytes();
        self.write(&header);
        self.write(text);
        let sequence = self.next_sequence;
        self.next_sequence = sequence.saturating_add(1);
        sequence
    }

    /// Before the oldest record.
    #[must_use]
    pub const fn oldest(&self) -> Position {
        Position {
            offset: self.head,
            sequence: self.head_sequence,
        }
    }

    /// Behind the newest record.
    #[must_use]
    pub const fn newest(&self) -> Position {
        Position {
            offset: self.tail,
            sequence: self.next_sequence,
        }
    }

    /// Before the record `sequence`; the oldest or newest place if that has gone or is yet to come.
    #[must_use]
    pub fn seek(&self, sequence: u64) -> Position {
        if sequence >= self.next_sequence {
            return self.newest();
        }
        let mut at = self.oldest();
        while at.sequence < sequence {
            if self.next(&mut at).is_none() {
                break;
            }
        }
        at
    }

    /// Bytes between a position and the newest record, headers included.
    #[must_use]
    pub fn behind(&self, at: Position) -> u64 {
        self.tail.saturating_sub(at.offset.max(self.head))
    }

    /// What is at a position; moves it on. `None`: nothing yet.
    pub fn next(&self, at: &mut Position) -> Option<Next<'_>> {
        if at.offset < self.head {
            let lost = self.head_sequence.saturating_sub(at.sequence);
            *at = self.oldest();
            return Some(Next::Lost(lost));
        }
        if at.offset >= self.tail {
            return None;
        }
        let record = self.record(*at)?;
        at.offset = at.offset.saturating_add(wide(HEADER + record.text_len()));
        at.sequence = at.sequence.saturating_add(1);
        Some(Next::Record(record))
    }

    fn record(&self, at: Position) -> Option<Record<'_>> {
        let mut header = [0; HEADER];
        let [first, second] = self.slices(at.offset, HEADER);
        for (to, from) in header.iter_mut().zip(first.iter().chain(second)) {
            *to = *from;
        }
        let [l0, l1, source, stream, time @ ..] = header;
        let length = usize::from(u16::from_le_bytes([l0, l1]));
        Some(Record {
            sequence: at.sequence,
            time_ms: u64::from_le_bytes(time),
            source: SourceId(source),
            stream: Stream::from_number(stream)?,
            text: self.slices(at.offset.saturating_add(wide(HEADER)), length),
        })
    }

    fn drop_oldest(&mut self) {
        let mut at = self.oldest();
        if self.next(&mut at).is_none() {
            // Empty: nothing is in the way of anything.
            at = self.newest();
        }
        self.head = at.offset;
        self.head_sequence = at.sequence;
    }

    /// Where an offset is in the buffer.
    fn place(&self, offset: u64) -> usize {
        // The remainder is smaller than a length, so it fits; the capacity is never 0.
        offset
            .checked_rem(wide(self.capacity))
            .and_then(|place| usize::try_from(place).ok())
            .unwrap_or(0)
    }

    fn slices(&self, offset: u64, length: usize) -> [&[u8]; 2] {
        let at = self.place(offset).min(self.buffer.len());
        let (before, after) = self.buffer.split_at(at);
        let first = after.get(..length).unwrap_or(after);
        let rest = length.saturating_sub(first.len());
        [first, before.get(..rest).unwrap_or(before)]
    }

    fn write(&mut self, bytes: &[u8]) {
        let place = self.place(self.tail);
        let room = self.capacity.saturating_sub(place);
        let (first, second) = bytes.split_at(room.min(bytes.len()));
        // Until it went round once, the tail is the buffer's end.
        for (index, from) in (place..).zip(first).chain((0..).zip(second)) {
            match self.buffer.get_mut(index) {
                Some(to) => *to = *from,
                None => self.buffer.push(*from),
            }
        }
        self.tail = self.tail.saturating_add(wide(bytes.len()));
    }
}

/// A length as an offset; lengths fit 64 bits on every machine that Linux runs on.
fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(ring: &Ring) -> Vec<(u64, Vec<u8>)> {
        let mut at = ring.oldest();
        let mut all = Vec::new();
        while let Some(Next::Record(record)) = ring.next(&mut at) {
            let mut text = Vec::new();
            record.append_text(&mut text);
            all.push((record.sequence, text));
        }
        all
    }

    #[test]
    fn a_slow_reader_is_told_what_it_lost() {
        let mut ring = Ring::new(0);
        let mut at = ring.oldest();
        for _ in 0..3 {
            ring.push(0, SourceId::KEDGE, Stream::Notice, &[b'x'; 2000]);
        }
        assert_eq!(ring.next(&mut at), Some(Next::Lost(1)));
        assert!(matches!(
            ring.next(&mut at),
            Some(Next::Record(Record { sequence: 2, .. }))
        ));
        assert_eq!(ring.seek(3).sequence(), 3);
        assert_eq!(ring.seek(1).sequence(), 2);
        assert_eq!(ring.seek(99).sequence(), 4);
    }

    #[test]
    fn text_beyond_the_bound_is_cut() {
        let mut ring = Ring::new(0);
        ring.push(0, SourceId::KERNEL, Stream::Error, &[1; 2 * MAX_TEXT]);
        assert_eq!(texts(&ring), [(1, vec![1; MAX_TEXT])]);
    }

    proptest! {
        /// What is in the ring is always the newest of what was pushed, whole and in order, and as much as fits.
        #[test]
        fn the_ring_holds_the_newest(sizes in proptest::collection::vec(0_usize..1500, 1..60)) {
            let mut ring = Ring::new(0);
            let mut pushed = Vec::new();
            for (number, size) in sizes.iter().enumerate() {
                let text = vec![u8::try_from(number).unwrap(); *size];
                let sequence = ring.push(7, SourceId::KEDGE, Stream::Out, &text);
                pushed.push((sequence, text));
                let kept = texts(&ring);
                prop_assert_eq!(&pushed[pushed.len() - kept.len()..], &kept[..]);
                let used: usize = kept.iter().map(|(_, text)| HEADER + text.len()).sum();
                prop_assert!(used <= ring.capacity);
                if kept.len() < pushed.len() {
                    let next = HEADER + pushed[pushed.len() - kept.len() - 1].1.len();
                    prop_assert!(used + next > ring.capacity);
                }
            }
        }
    }
}
