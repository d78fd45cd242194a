//! What a boot has left in the logs on disk, a page at a time.
//!
//! A page is the lines as they stand in the [segments](super::segments), the first one the boot's head; behind them, where
//! there is more, a line `{"next":PLACE}`. A place is the number of a segment and an offset in it. What was deleted
//! meanwhile is passed over.

use super::super::Error;
use super::segments::{HEAD, Segment, list, path_of};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes of a page, one line aside.
const PAGE: usize = 24 * 1024;
/// What is taken for a line at the most: a whole one has 25 KiB, and a damaged file may have none.
const LINE: u64 = 32 * 1024;

/// Where a line begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    segment: u32,
    offset: u32,
}

impl Place {
    const fn number(self) -> u64 {
        (self.segment as u64) << 32 | self.offset as u64
    }

    fn of(number: u64) -> Self {
        let low = |number: u64| u32::try_from(number & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        Self {
            segment: low(number >> 32),
            offset: low(number),
        }
    }
}

/// A page of the boot that was so many before the one that writes now, from its beginning or a place on. Nothing where there
/// is no such boot any more.
///
/// # Errors
/// [`Error::File`].
pub(super) fn page(directory: &Path, back: u32, from: Option<u64>) -> Result<Vec<u8>, Error> {
    let segments = list(directory)?;
    let begin = match from {
        Some(number) => Some(Place::of(number)),
        None => begin(directory, &segments, back)?,
    };
    let (mut page, Some(begin)) = (Vec::new(), begin) else {
        return Ok(Vec::new());
    };
    let mut over = false;
    for segment in segments.iter().filter(|one| one.number >= begin.segment) {
        let offset = if segment.number == begin.segment {
            begin.offset
        } else {
            0
        };
        let place = Place {
            segment: segment.number,
            offset,
        };
        lines(directory, place, &mut |place, line| {
            let is_own_head = from.is_none() && place == begin;
            over = line.starts_with(HEAD) && !is_own_head;
            if over {
                return false;
            }
            if !page.is_empty() && page.len().saturating_add(line.len()) > PAGE {
                page.extend_from_slice(format!("{{\"next\":{}}}\n", place.number()).as_bytes());
                over = true;
                return false;
            }
            page.extend_from_slice(line);
            if !line.ends_with(b"\n") {
                page.push(b'\n');
            }
            true
        })?;
        if over {
            break;
        }
    }
    Ok(page)
}

/// Where a boot begins.
fn begin(directory: &Path, segments: &[Segment], back: u32) -> Result<Option<Place>, Error> {
    let mut left = usize::try_from(back).unwrap_or(usize::MAX);
    for segment in segments.iter().rev() {
        let mut heads = Vec::new();
        let place = Place {
            segment: segment.number,
            offset: 0,
        };
        lines(directory, place, &mut |place, line| {
            if line.starts_with(HEAD) {
                heads.push(place);
            }
            true
        })?;
        match heads
            .len()
            .checked_sub(1)
            .and_then(|last| last.checked_sub(left))
        {
            Some(wanted) => return Ok(heads.get(wanted).copied()),
            None => left = left.saturating_sub(heads.len()),
        }
    }
    Ok(None)
}

/// The lines of a segment from a place on, until `take` has enough. One that is gone has none.
fn lines(
    directory: &Path,
    mut place: Place,
    take: &mut dyn FnMut(Place, &[u8]) -> bool,
) -> Result<(), Error> {
    let path = path_of(directory, place.segment);
    let failed = |source| Error::File {
        doing: "read",
        path: path.clone(),
        source,
    };
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    file.seek(SeekFrom::Start(place.offset.into()))
        .map_err(failed)?;
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(LINE).read_until(b'\n', &mut line);
        let length = read.map_err(failed)?;
        if length == 0 || !take(place, &line) {
            return Ok(());
        }
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        place.offset = place.offset.saturating_add(length);
    }
}

#[cfg(test)]
mod tests {
    use super::super::segments::Segments;
    use super::*;
    use crate::log::{Journal, Stream};

    const BOUND: u64 = 1 << 20;
    const MOST_LINE: usize = 32 * 1024;

    /// Boots that say so many lines each, the last one of which goes on.
    fn boots(directory: &Path, counts: &[u32]) {
        for (boot, count) in counts.iter().enumerate() {
            let mut segments = Segments::open(directory, BOUND, &format!("boot-{boot}")).unwrap();
            let mut journal = Journal::new();
            for number in 0..*count {
                let text = format!("{boot} says {number} {}", "x".repeat(500));
                // Who talks for ever is slowed down.
                let now = u64::from(number) * 1000;
                journal.say(Stream::Notice, format_args!("{text}"), now);
                while let Some(batch) = journal.batch(u64::MAX) {
                    segments.append(&batch).unwrap();
                }
            }
        }
    }

    /// All that a boot has said, and in how many pages it came.
    fn read(directory: &Path, back: u32) -> (String, usize) {
        let (mut all, mut from, mut pages) = (String::new(), None, 0);
        loop {
            let page = String::from_utf8(page(directory, back, from).unwrap()).unwrap();
            assert!(page.len() <= PAGE + MOST_LINE);
            pages += 1;
            let lines: Vec<&str> = page.lines().collect();
            let next = lines
                .last()
                .and_then(|last| last.strip_prefix("{\"next\":"));
            let own = lines.len() - usize::from(next.is_some());
            for line in &lines[..own] {
                all.push_str(line);
                all.push('\n');
            }
            match next {
                Some(next) => from = Some(next.trim_end_matches('}').parse().unwrap()),
                None => return (all, pages),
            }
        }
    }

    #[test]
    fn each_boot_is_told_whole_and_alone() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path(), 0), (String::new(), 1));
        let counts = [3, 0, 700, 5];
        boots(directory.path(), &counts);
        assert!(list(directory.path()).unwrap().len() > 1);
        for (boot, count) in counts.iter().enumerate() {
            let back = u32::try_from(counts.len() - 1 - boot).unwrap();
            let (all, pages) = read(directory.path(), back);
            let mut lines = all.lines();
            let head = format!("{{\"boot-id\":\"boot-{boot}\"}}");
            assert_eq!(lines.next(), Some(head.as_str()));
            for number in 0..*count {
                let line = lines.next().unwrap();
                assert!(line.contains(&format!("{boot} says {number} x")), "{line}");
            }
            assert_eq!(lines.next(), None);
            assert_eq!(pages > 1, *count > 100, "{pages} pages");
        }
        assert_eq!(read(directory.path(), 4), (String::new(), 1));
        assert_eq!(read(directory.path(), u32::MAX), (String::new(), 1));
    }

    #[test]
    fn what_is_torn_or_gone_ends_nothing() {
        let directory = tempfile::tempdir().unwrap();
        boots(directory.path(), &[2, 700]);
        let segments = list(directory.path()).unwrap();
        let path = |segment: &Segment| path_of(directory.path(), segment.number);
        // A file without a line's end, as large as a segment gets.
        kedge_store::durable::write(&path(&segments[0]), &vec![b'x'; 1 << 20]).unwrap();
        let (all, _) = read(directory.path(), 0);
        assert!(all.is_empty());
        let place = Place::of(
            Place {
                segment: segments[0].number,
                offset: 0,
            }
            .number(),
        );
        let torn = page(directory.path(), 0, Some(place.number())).unwrap();
        assert!(torn.len() <= PAGE + MOST_LINE + 40);
        // Deleted between two pages: what is left of it comes.
        std::fs::remove_file(path(&segments[0])).unwrap();
        let rest = page(directory.path(), 0, Some(place.number())).unwrap();
        assert!(
            rest.starts_with(b"{\"seq\""),
            "{:?}",
            String::from_utf8_lossy(&rest[..40])
        );
        assert_eq!(page(directory.path(), 0, Some(u64::MAX)).unwrap(), b"");
    }
}
