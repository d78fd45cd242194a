//! Readers that count, hash, limit and decompress what comes out of an image.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use sha2::{Digest, Sha256};

use crate::bounds::{Bounds, Exceeded, Limit, len};
use crate::error::Error;

/// Length and SHA-256 of what was read so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    count: Rc<Cell<u64>>,
    hash: Rc<RefCell<Sha256>>,
}

impl Tally {
    pub(crate) fn count(&self) -> u64 {
        self.count.get()
    }

    /// `sha256:…`
    pub(crate) fn digest(&self) -> String {
        show(self.hash.borrow().clone())
    }
}

/// `sha256:…` of bytes at hand.
pub(crate) fn digest(bytes: &[u8]) -> String {
    show(Sha256::new_with_prefix(bytes))
}

fn show(hash: Sha256) -> String {
    format!("sha256:{}", kedge_revision::id::hex(&hash.finalize()))
}

/// Counts and hashes what passes.
#[derive(Debug)]
pub(crate) struct Tallied<R> {
    inner: R,
    tally: Tally,
}

impl<R> Tallied<R> {
    pub(crate) fn new(inner: R) -> (Self, Tally) {
        let tally = Tally::default();
        (
            Self {
                inner,
                tally: tally.clone(),
            },
            tally,
        )
    }
}

impl<R: Read> Read for Tallied<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.tally
            .count
            .set(self.tally.count.get().saturating_add(len(read)));
        self.tally
            .hash
            .borrow_mut()
            .update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// Ends with [`Exceeded`] when a decoder gives more than it may.
struct Guard<R> {
    inner: R,
    input: Tally,
    output: u64,
    bounds: Bounds,
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.output = self.output.saturating_add(len(read));
        let exceeded = |limit, max| Err(io::Error::other(Exceeded { limit, max }));
        if self.output > self.bounds.stream() {
            return exceeded(Limit::Stream, self.bounds.stream());
        }
        let fair = self.input.count().saturating_mul(self.bounds.ratio);
        if self.output > fair.saturating_add(self.bounds.ratio_slack) {
            return exceeded(Limit::Ratio, self.bounds.ratio);
        }
        Ok(read)
    }
}

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Tells the compression by the first bytes; media types lie too often.
pub(crate) fn sniff(start: &[u8]) -> Compression {
    if start.starts_with(&[0x1f, 0x8b]) {
        Compression::Gzip
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Compression::Zstd
    } else {
        Compression::None
    }
}

/// A stream, decompressed within limits, and the tally of its compressed side.
pub(crate) struct Plain<'r> {
    pub(crate) reader: Box<dyn Read + 'r>,
    pub(crate) input: Tally,
}

/// Largest window a zstd frame may ask for: 2^27 bytes, zstd's own default for decoding.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Starts decompressing.
pub(crate) fn decompress<'r>(
    reader: impl Read + 'r,
    bounds: Bounds,
    at: &str,
) -> Result<Plain<'r>, Error> {
    let (tallied, input) = Tallied::new(reader);
    let mut buffered = BufReader::with_capacity(128 << 10, tallied);
    let compression = sniff(buffered.fill_buf().map_err(|e| Error::stream(at, e))?);
    let inner: Box<dyn Read + 'r> = match compression {
        Compression::None => Box::new(buffered),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered)
                .map_err(|e| Error::stream(at, e))?;
            decoder
                .window_log_max(ZSTD_WINDOW_LOG)
                .map_err(|e| Error::stream(at, e))?;
            Box::new(decoder)
        }
    };
    let reader = Box::new(Guard {
        inner,
        input: input.clone(),
        output: 0,
        bounds,
    });
    Ok(Plain { reader, input })
}

/// Reads to the end, so that tallies are complete.
pub(crate) fn drain(reader: &mut dyn Read, at: &str) -> Result<(), Error> {
    io::copy(reader, &mut io::sink())
        .map(drop)
        .map_err(|e| Error::stream(at, e))
}

/// A stretch of a file, read without moving the file's own place: several can be read at once.
#[derive(Debug)]
pub(crate) struct Stretch<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl<'a> Stretch<'a> {
    pub(crate) const fn new(file: &'a File, offset: u64, size: u64) -> Self {
        Self {
            file,
            offset,
            left: size,
        }
    }
}

impl Read for Stretch<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).map_or(buffer.len(), |l| l.min(buffer.len()));
        let read = self
            .file
            .read_at(buffer.get_mut(..want).unwrap_or_default(), self.offset)?;
        self.offset += len(read);
        self.left -= len(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn stretches_of_a_file_are_read_side_by_side() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"onetwothree").unwrap();
        let mut first = Stretch::new(&file, 0, 3);
        let mut letter = [0];
        first.read_exact(&mut letter).unwrap();
        let mut second = String::new();
        Stretch::new(&file, 3, 3)
            .read_to_string(&mut second)
            .unwrap();
        let mut rest = String::new();
        first.read_to_string(&mut rest).unwrap();
        assert_eq!((rest.as_str(), second.as_str()), ("ne", "two"));
        // A file that is shorter than it was ends.
        let mut end = String::new();
        Stretch::new(&file, 6, 100)
            .read_to_string(&mut end)
            .unwrap();
        assert_eq!(end, "three");
    }
}
