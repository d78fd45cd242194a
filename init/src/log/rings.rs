//! Rings of all sources, read as one sequence: what one of them says drives out nothing of the others.
//!
//! PID 1 and the kernel share one, containers have one each. A reader has a place in each of them and takes the record with
//! the lowest number. With 64 containers a look at all of them costs less than writing the record out.

use super::ring::{Place, Record, Ring};
use super::{SourceId, Stream};

/// Size of the ring of PID 1 and the kernel, bytes: what a kernel says while it boots fits, of our own and of Debian's.
const DEVICE_BYTES: usize = 48 * 1024;
/// Size of a container's ring, bytes. Most use little of it, and take no more memory than they use.
const CONTAINER_BYTES: usize = 32 * 1024;
/// Most rings of containers' own, of whom a revision has 64: over updates by which all of them come to be called otherwise, within
/// one boot, later ones share the last. Those who are gone may be read to the end, so that theirs stay.
const MOST: usize = 96;

/// See the module.
#[derive(Debug)]
pub struct Rings {
    /// That of PID 1 and the kernel, then those of containers, by their numbers.
    all: Vec<Ring>,
    /// Sequence number of the next record; the first is 1.
    next_sequence: u64,
}

/// A place between two records, of one reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// In each ring; those that came later are read from their beginning.
    places: Vec<Place>,
    sequence: u64,
}

impl Position {
    /// The sequence number of the record that is read next; it may have gone by then.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
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

impl Default for Rings {
    fn default() -> Self {
        Self {
            all: vec![Ring::new(DEVICE_BYTES)],
            next_sequence: 1,
        }
    }
}

impl Rings {
    /// Appends a record. Text beyond [`super::MAX_TEXT`] is cut off.
    pub fn push(&mut self, time_ms: u64, source: SourceId, stream: Stream, text: &[u8]) {
        let sequence = self.next_sequence;
        self.next_sequence = sequence.saturating_add(1);
        let number = usize::from(source.0.saturating_sub(SourceId::KERNEL.0)).min(MOST);
        while self.all.len() <= number {
            self.all.push(Ring::new(CONTAINER_BYTES));
        }
        if let Some(ring) = self.all.get_mut(number) {
            ring.push(&Record {
                sequence,
                time_ms,
                source,
                stream,
                text: [text, b""],
            });
        }
    }

    /// Before the oldest record.
    #[must_use]
    pub fn oldest(&self) -> Position {
        self.at(self.all.iter().map(Ring::oldest).collect())
    }

    /// Behind the newest record.
    #[must_use]
    pub fn newest(&self) -> Position {
        self.at(self.all.iter().map(Ring::newest).collect())
    }

    fn at(&self, places: Vec<Place>) -> Position {
        let mut position = Position {
            places,
            sequence: 0,
        };
        self.number(&mut position);
        position
    }

    /// Before the record `sequence`; the oldest or newest place if that has gone or is yet to come.
    #[must_use]
    pub fn seek(&self, sequence: u64) -> Position {
        if sequence >= self.next_sequence {
            return self.newest();
        }
        let before = |ring: &Ring| {
            let mut at = ring.oldest();
            while let Some((record, next)) = ring.read(at) {
                if record.sequence >= sequence {
                    break;
                }
                at = next;
            }
            at
        };
        self.at(self.all.iter().map(before).collect())
    }

    /// Bytes between a position and the newest records, headers included.
    #[must_use]
    pub fn behind(&self, at: &Position) -> u64 {
        let all = self.all.iter().enumerate();
        all.fold(0, |sum: u64, (index, ring)| {
            let place = at.places.get(index).copied();
            sum.saturating_add(ring.behind(place.unwrap_or_default()))
        })
    }

    /// What is at a position; moves it on. `None`: nothing yet.
    pub fn next(&self, at: &mut Position) -> Option<Next<'_>> {
        at.places.resize(self.all.len(), Place::default());
        let mut lost = 0_u64;
        for (ring, place) in self.all.iter().zip(&mut at.places) {
            lost = lost.saturating_add(ring.catch_up(place));
        }
        if lost > 0 {
            self.number(at);
            return Some(Next::Lost(lost));
        }
        let (record, place, next) = self
            .all
            .iter()
            .zip(&mut at.places)
            .filter_map(|(ring, place)| {
                ring.read(*place)
                    .map(|(record, next)| (record, place, next))
            })
            .min_by_key(|(record, ..)| record.sequence)?;
        *place = next;
        at.sequence = record.sequence.saturating_add(1);
        Some(Next::Record(record))
    }

    /// Writes down which record comes next.
    fn number(&self, at: &mut Position) {
        let read =
            |(ring, place): (&Ring, &Place)| ring.read(*place).map(|(record, _)| record.sequence);
        let next = self.all.iter().zip(&at.places).filter_map(read).min();
        at.sequence = next.unwrap_or(self.next_sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WEB: SourceId = SourceId(2);
    const DB: SourceId = SourceId(3);

    fn read(rings: &Rings, at: &mut Position) -> Vec<Result<(u64, SourceId), u64>> {
        let mut all = Vec::new();
        while let Some(next) = rings.next(at) {
            all.push(match next {
                Next::Record(record) => Ok((record.sequence, record.source)),
                Next::Lost(count) => Err(count),
            });
        }
        all
    }

    #[test]
    fn who_floods_drives_out_nothing_of_others() {
        let mut rings = Rings::default();
        for source in [SourceId::KEDGE, SourceId::KERNEL, WEB] {
            rings.push(1, source, Stream::Out, b"hello");
        }
        for _ in 0..10_000 {
            rings.push(2, DB, Stream::Out, &[b'x'; 1000]);
        }
        rings.push(3, WEB, Stream::Out, b"still here");
        let all = read(&rings, &mut rings.oldest());
        let of = |wanted| {
            let of = all
                .iter()
                .flatten()
                .filter(move |(_, source)| *source == wanted);
            of.map(|(sequence, _)| *sequence).collect::<Vec<_>>()
        };
        assert_eq!(of(SourceId::KEDGE), [1]);
        assert_eq!(of(SourceId::KERNEL), [2]);
        assert_eq!(of(WEB), [3, 10_004]);
        let flood = of(DB);
        assert_eq!(flood.len(), CONTAINER_BYTES / 1020);
        assert_eq!(flood.last(), Some(&10_003));
    }

    #[test]
    fn however_many_names_come_the_rings_have_a_bound() {
        let mut rings = Rings::default();
        for source in 2..=u8::MAX {
            rings.push(0, SourceId(source), Stream::Out, b"hello");
        }
        assert_eq!(rings.all.len(), MOST + 1);
        let all = read(&rings, &mut rings.oldest());
        let expected = (2..=u8::MAX).zip(1..);
        assert!(
            all.into_iter()
                .eq(expected.map(|(source, n)| Ok((n, SourceId(source)))))
        );
    }

    #[test]
    fn a_slow_reader_is_told_what_it_lost() {
        let mut rings = Rings::default();
        let mut at = rings.oldest();
        rings.push(0, SourceId::KEDGE, Stream::Notice, b"first");
        for _ in 0..36 {
            rings.push(0, WEB, Stream::Out, &[b'x'; 1000]);
        }
        let mut wanted = vec![Err(4), Ok((1, SourceId::KEDGE))];
        wanted.extend((6..=37).map(|sequence| Ok((sequence, WEB))));
        assert_eq!(read(&rings, &mut at), wanted);
        assert_eq!(at.sequence(), 38);
        assert_eq!(rings.seek(7).sequence(), 7);
        // What has gone: the next that is there.
        assert_eq!(rings.seek(3).sequence(), 6);
        assert_eq!(rings.seek(0).sequence(), 1);
        assert_eq!(rings.seek(99), rings.newest());
        assert_eq!(rings.newest().sequence(), 38);
        // A source that is new to a reader.
        rings.push(0, DB, Stream::Out, b"hello");
        assert!(rings.behind(&at) > 0);
        assert_eq!(read(&rings, &mut at), [Ok((38, DB))]);
        assert_eq!((rings.behind(&at), at.sequence()), (0, 39));
    }

    proptest! {
        /// Whoever reads now and then finds everything once and in order, or is told how much is missing.
        #[test]
        fn nothing_is_lost_unsaid(said in proptest::collection::vec((0_u8..5, 0_usize..3000, any::<bool>()), 1..200)) {
            let mut rings = Rings::default();
            let mut at = rings.oldest();
            let (mut found, mut lost, mut last) = (0, 0, 0);
            let count = u64::try_from(said.len()).unwrap();
            let end = said.len() - 1;
            for (index, (source, size, looks)) in said.into_iter().enumerate() {
                rings.push(0, SourceId(source), Stream::Out, &vec![0; size]);
                if !looks && index < end {
                    continue;
                }
                for one in read(&rings, &mut at) {
                    match one {
                        Ok((sequence, _)) => {
                            prop_assert!(sequence > last);
                            (found, last) = (found + 1, sequence);
                        }
                        Err(some) => lost += some,
                    }
                }
                prop_assert_eq!(at.sequence(), last + 1);
            }
            prop_assert_eq!(found + lost, count);
        }
    }
}
