//! A ring of one source: records one behind the other in a buffer of one size; the oldest make room.
//!
//! A record is a header of 20 bytes (length of the text u16, source u8, stream u8, time u64, sequence number u64, all
//! little-endian) and its text. Places are offsets that never wrap (2⁶⁴ bytes are never written), so that a reader's
//! place stays meaningful after the ring has gone past it.

use super::{MAX_TEXT, SourceId, Stream};

const HEADER: usize = 20;
/// What a buffer begins with, bytes. It doubles as records come: most sources say a few lines and no more.
const FIRST: usize = 512;

/// A bounded sequence of records. See the module.
#[derive(Debug)]
pub(super) struct Ring {
    /// Grows to `capacity` with what is written, and never beyond: memory is touched when it is needed.
    buffer: Vec<u8>,
    capacity: usize,
    /// Before the oldest record.
    head: Place,
    /// Behind the newest record.
    tail: Place,
}

/// A place between two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    offset: u64,
    /// How many records were before it, of those that are and those that have gone.
    count: u64,
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

impl Ring {
    /// A ring of `capacity` bytes, and of one largest record at least.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            buffer: Vec::new(),
            capacity: capacity.max(HEADER + MAX_TEXT),
            head: Place::default(),
            tail: Place::default(),
        }
    }

    /// Appends a record. Text beyond [`MAX_TEXT`] is cut off.
    pub(super) fn push(&mut self, record: &Record<'_>) {
        let [first, second] = record.text;
        let first = first.get(..MAX_TEXT).unwrap_or(first);
        let room = MAX_TEXT.saturating_sub(first.len());
        let second = second.get(..room).unwrap_or(second);
        let length = first.len().saturating_add(second.len());
        let size = wide(HEADER.saturating_add(length));
        let most = wide(self.capacity);
        while self
            .tail
            .offset
            .saturating_add(size)
            .saturating_sub(self.head.offset)
            > most
        {
            // Empty: nothing is in the way of anything.
            self.head = self.read(self.head).map_or(self.tail, |(_, next)| next);
        }
        // MAX_TEXT fits.
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        let mut header = [0; HEADER];
        let [l0, l1, s, k, rest @ ..] = &mut header;
        [*l0, *l1] = length.to_le_bytes();
        *s = record.source.0;
        *k = record.stream.number();
        let numbers = record.time_ms.to_le_bytes().into_iter();
        for (to, from) in rest
            .iter_mut()
            .zip(numbers.chain(record.sequence.to_le_bytes()))
        {
            *to = from;
        }
        for bytes in [&header[..], first, second] {
            self.write(bytes);
        }
        self.tail.count = self.tail.count.saturating_add(1);
    }

    /// Before the oldest record.
    pub(super) const fn oldest(&self) -> Place {
        self.head
    }

    /// Behind the newest record.
    pub(super) const fn newest(&self) -> Place {
        self.tail
    }

    /// Bytes between a place and the newest record, headers included.
    pub(super) fn behind(&self, at: Place) -> u64 {
        let from = at.offset.max(self.head.offset);
        self.tail.offset.saturating_sub(from)
    }

    /// Moves a place that the ring has gone past to the oldest record; how many it has lost by that.
    pub(super) fn catch_up(&self, at: &mut Place) -> u64 {
        if at.offset >= self.head.offset {
            return 0;
        }
        let lost = self.head.count.saturating_sub(at.count);
        *at = self.head;
        lost
    }

    /// The record at a place that is still there, and the place behind it. `None`: nothing yet.
    pub(super) fn read(&self, at: Place) -> Option<(Record<'_>, Place)> {
        if at.offset >= self.tail.offset {
            return None;
        }
        let mut header = [0; HEADER];
        let [first, second] = self.slices(at.offset, HEADER);
        for (to, from) in header.iter_mut().zip(first.iter().chain(second)) {
            *to = *from;
        }
        let [
            l0,
            l1,
            source,
            stream,
            t0,
            t1,
            t2,
            t3,
            t4,
            t5,
            t6,
            t7,
            sequence @ ..,
        ] = header;
        let length = usize::from(u16::from_le_bytes([l0, l1]));
        let record = Record {
            sequence: u64::from_le_bytes(sequence),
            time_ms: u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]),
            source: SourceId(source),
            stream: Stream::from_number(stream)?,
            text: self.slices(at.offset.saturating_add(wide(HEADER)), length),
        };
        let size = wide(HEADER.saturating_add(length));
        let next = Place {
            offset: at.offset.saturating_add(size),
            count: at.count.saturating_add(1),
        };
        Some((record, next))
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
        let place = self.place(self.tail.offset);
        let room = self.capacity.saturating_sub(place);
        let (first, second) = bytes.split_at(room.min(bytes.len()));
        let needed = place.saturating_add(first.len());
        if needed > self.buffer.capacity() {
            let doubled = self.buffer.capacity().saturating_mul(2).max(FIRST);
            let wanted = doubled.max(needed).min(self.capacity);
            self.buffer
                .reserve_exact(wanted.saturating_sub(self.buffer.len()));
        }
        // Until it went round once, the tail is the buffer's end.
        for (index, from) in (place..).zip(first).chain((0..).zip(second)) {
            match self.buffer.get_mut(index) {
                Some(to) => *to = *from,
                None => self.buffer.push(*from),
            }
        }
        self.tail.offset = self.tail.offset.saturating_add(wide(bytes.len()));
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

    fn push(ring: &mut Ring, sequence: u64, text: &[u8]) {
        ring.push(&Record {
            sequence,
            time_ms: 7,
            source: SourceId::KERNEL,
            stream: Stream::Out,
            text: [text, b""],
        });
    }

    fn texts(ring: &Ring) -> Vec<(u64, Vec<u8>)> {
        let mut at = ring.oldest();
        let mut all = Vec::new();
        while let Some((record, next)) = ring.read(at) {
            let mut text = Vec::new();
            record.append_text(&mut text);
            assert_eq!((record.time_ms, record.source), (7, SourceId::KERNEL));
            all.push((record.sequence, text));
            at = next;
        }
        assert_eq!(at, ring.newest());
        all
    }

    #[test]
    fn text_beyond_the_bound_is_cut() {
        let mut ring = Ring::new(0);
        push(&mut ring, 9, &[1; 2 * MAX_TEXT]);
        assert_eq!(texts(&ring), [(9, vec![1; MAX_TEXT])]);
        let halves = [&[2; MAX_TEXT - 1][..], &[3; 9]];
        let (record, _) = ring.read(ring.oldest()).unwrap();
        let record = Record {
            text: halves,
            source: SourceId::KERNEL,
            ..record
        };
        let mut ring = Ring::new(0);
        ring.push(&record);
        assert_eq!(texts(&ring)[0].1, [&[2; MAX_TEXT - 1][..], &[3]].concat());
    }

    #[test]
    fn a_ring_takes_memory_as_it_is_used() {
        let mut ring = Ring::new(16 * 1024);
        assert_eq!(ring.buffer.capacity(), 0);
        push(&mut ring, 1, b"started");
        assert_eq!(ring.buffer.capacity(), FIRST);
        for sequence in 2..1000 {
            push(&mut ring, sequence, &[b'x'; 80]);
        }
        assert_eq!(ring.buffer.capacity(), 16 * 1024);
        assert_eq!(texts(&ring).len(), 16 * 1024 / 100);
    }

    proptest! {
        /// What is in the ring is always the newest of what was pushed, whole and in order, and as much as fits.
        #[test]
        fn the_ring_holds_the_newest(sizes in proptest::collection::vec(0_usize..1500, 1..60)) {
            let mut ring = Ring::new(0);
            let mut pushed = Vec::new();
            for (number, size) in sizes.iter().enumerate() {
                let text = vec![u8::try_from(number).unwrap(); *size];
                let sequence = 3 * u64::try_from(number).unwrap();
                push(&mut ring, sequence, &text);
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
