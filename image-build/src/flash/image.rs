//! Where an image's bytes come from: a file with holes, or one packed with zstd.
//!
//! A packed image is read as it unpacks, in pieces of a bounded size, and never lies unpacked anywhere. A block map beside it
//! says what of it has to be written; each range must have the checksum that the map gives it. A map of an image that is
//! not packed is not looked at: its holes say as much, and it may have been written to since.

use crate::bmap::{self, Map};
use crate::image::packed;
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of one write or read.
const PIECE: u64 = 4 * 1024 * 1024;
/// How a frame of zstd begins (RFC 8878, section 3.1.1).
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The largest window that a frame may ask for, as a power of two: zstd's own default, 128 MiB.
const WINDOW: u32 = 27;
/// Bytes in which a partition table's first header ends.
const HEAD: usize = 1024;

/// A disk image that can be read from its beginning to its end, more than once.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// As it is; its size.
    Plain(u64),
    /// With zstd; the size that its head says, and its map, if it has one.
    Packed { size: Option<u64>, map: Option<Map> },
}

/// What an image has in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// So many zeros, at most [`PIECE`].
    Zeros(u64),
    /// So many zeros that nobody needs.
    Left(u64),
}

impl Piece<'_> {
    /// Bytes of the image.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => as_u64(bytes.len()),
            Self::Zeros(length) | Self::Left(length) => *length,
        }
    }
}

/// Takes the pieces of an image: each with its offset.
type Take<'a> = dyn FnMut(u64, Piece<'_>) -> Result<()> + 'a;

impl Image {
    /// Opens an image, and reads the map beside a packed one.
    ///
    /// # Errors
    /// It cannot be read, is empty or no disk image, or the map is none.
    pub fn open(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot read {}", path.display());
        let file = File::open(path).with_context(cannot)?;
        let length = file.metadata().with_context(cannot)?.len();
        ensure!(length > 0, "{} is empty", path.display());
        let mut magic = [0; MAGIC.len()];
        // What is shorter is not packed.
        let is_packed = file.read_exact_at(&mut magic, 0).is_ok() && magic == MAGIC;
        let form = if is_packed {
            Form::Packed {
                size: frame_size(&file),
                map: map(&packed::map_path(path))?,
            }
        } else {
            Form::Plain(length)
        };
        Ok(Self {
            path: path.to_owned(),
            form,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it has to be unpacked.
    #[must_use]
    pub const fn is_packed(&self) -> bool {
        matches!(self.form, Form::Packed { .. })
    }

    /// Its size as a disk, bytes; none of a packed one that does not say.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        match &self.form {
            Form::Plain(size) => Some(*size),
            Form::Packed { map: Some(map), .. } => Some(map.size()),
            Form::Packed { size, map: None } => *size,
        }
    }

    /// Whether it begins as a disk with a partition table does, and is as long as that table says (UEFI 2.10, 5.3.2: the
    /// header's `AlternateLBA` is the disk's last block).
    ///
    /// # Errors
    /// It cannot be read or unpacked, is no disk image, or its end is missing: with both sizes.
    pub fn check(&self) -> Result<()> {
        let mut head = [0; HEAD];
        let mut reader = self.reader()?;
        let length = fill(&mut *reader, &mut head).with_context(|| self.damaged(0))?;
        let is_disk = length == HEAD && head.get(512..520) == Some(b"EFI PART");
        ensure!(is_disk, "{} is no disk image", self.path.display());
        let last = head.get(544..552).and_then(|bytes| bytes.try_into().ok());
        let last = u64::from_le_bytes(last.unwrap_or_default());
        let whole = last.saturating_add(1).saturating_mul(512);
        // One that does not say how long it is ends with a checksum of its own.
        let size = self.size().unwrap_or(whole);
        ensure!(
            size >= whole,
            "{} has {size} bytes, and its partition table is of a disk of {whole}: its end is missing\nhelp: copy or \
             build it again",
            self.path.display()
        );
        Ok(())
    }

    /// Hands all of it to `take`, in order and without gaps.
    ///
    /// # Errors
    /// It cannot be read or unpacked, with the byte of the image; a range does not have the bytes that its map says; or
    /// whatever `take` says.
    pub fn read(&self, take: &mut Take<'_>) -> Result<()> {
        match &self.form {
            Form::Plain(size) => self.read_plain(*size, take),
            Form::Packed { map, .. } => self.read_packed(map.as_ref(), take),
        }
    }

    /// Unpacks it into an empty file, which gets holes; `most` bytes are for a disk that has no more.
    ///
    /// # Errors
    /// As [`Image::read`], it has more, or the file cannot be written.
    pub fn unpack(&self, to: &File, most: u64) -> Result<()> {
        let own = self.path.display();
        let size = self.size().unwrap_or_default();
        ensure!(
            size <= most,
            "{own} takes {size} bytes, and the disk has {most}"
        );
        self.read(&mut |offset, piece| {
            let end = offset.saturating_add(piece.length());
            ensure!(
                end <= most,
                "{own} takes {end} bytes or more, and the disk has {most}"
            );
            if let Piece::Bytes(bytes) = piece {
                to.write_all_at(bytes, offset)
                    .with_context(|| format!("cannot write the copy at byte {offset}"))?;
            }
            to.set_len(end).context("cannot size the copy")
        })
    }

    fn reader(&self) -> Result<Box<dyn Read>> {
        let cannot = || format!("cannot read {}", self.path.display());
        let file = File::open(&self.path).with_context(cannot)?;
        if !self.is_packed() {
            return Ok(Box::new(file));
        }
        let mut decoder = zstd::Decoder::new(file).with_context(cannot)?;
        decoder.window_log_max(WINDOW).with_context(cannot)?;
        Ok(Box::new(decoder))
    }

    fn damaged(&self, at: u64) -> String {
        let what = if self.is_packed() { "unpacked" } else { "read" };
        format!(
            "{} cannot be {what} at byte {at} of the image",
            self.path.display()
        )
    }

    fn read_plain(&self, size: u64, take: &mut Take<'_>) -> Result<()> {
        let file = File::open(&self.path)
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        let parts = parts(&file, size)
            .with_context(|| format!("cannot tell the holes of {}", self.path.display()))?;
        let mut buffer = vec![0; usize::try_from(PIECE)?];
        for part in parts {
            for (offset, length) in part.pieces() {
                if part.is_data {
                    let bytes = buffer.get_mut(..length).unwrap_or_default();
                    file.read_exact_at(bytes, offset)
                        .with_context(|| self.damaged(offset))?;
                    take(offset, Piece::Bytes(bytes))?;
                } else {
                    take(offset, Piece::Zeros(as_u64(length)))?;
                }
            }
        }
        Ok(())
    }

    fn read_packed(&self, map: Option<&Map>, take: &mut Take<'_>) -> Result<()> {
        let mut reader = self.reader()?;
        let mut buffer = vec![0; usize::try_from(PIECE)?];
        let mut mapped = map.map(Mapped::new);
        let mut at = 0_u64;
        loop {
            let length = fill(&mut *reader, &mut buffer).with_context(|| self.damaged(at))?;
            let bytes = buffer.get(..length).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            let end = at.saturating_add(as_u64(length));
            match &mut mapped {
                None => take(at, piece(bytes))?,
                Some(mapped) => {
                    let size = mapped.map.size();
                    ensure!(end <= size, "{}", self.other_size("more than ", size));
                    mapped
                        .take(at, bytes, take)
                        .with_context(|| format!("cannot use {}", self.path.display()))?;
                }
            }
            at = end;
        }
        match map.map(Map::size).filter(|size| *size != at) {
            None => Ok(()),
            Some(size) => bail!(self.other_size(&format!("to {at} bytes, not to "), size)),
        }
    }

    fn other_size(&self, what: &str, size: u64) -> String {
        format!(
            "{} unpacks {what}the {size} bytes that its block map is for\nhelp: map and image are not of one build; copy both, or remove the map",
            self.path.display()
        )
    }
}

/// The map of this path, if there is one.
fn map(path: &Path) -> Result<Option<Map>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut text = String::new();
    // One byte more than a map has: then it is refused for its size.
    file.take(as_u64(bmap::CAP).saturating_add(1))
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let map = Map::parse(&text)
        .with_context(|| format!("{} is no block map that can be used", path.display()))?;
    Ok(Some(map))
}

/// The size that the head of a frame says, if it says one.
fn frame_size(file: &File) -> Option<u64> {
    // A head has at most 18 bytes (RFC 8878, section 3.1.1.1).
    let mut head = [0; 18];
    let length = file.read_at(&mut head, 0).ok()?;
    zstd::zstd_safe::get_frame_content_size(head.get(..length)?).ok()?
}

/// Fills the buffer, or as much of it as there is.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0_usize;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(count) => length = length.saturating_add(count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

fn piece(bytes: &[u8]) -> Piece<'_> {
    if bytes.iter().all(|byte| *byte == 0) {
        Piece::Zeros(as_u64(bytes.len()))
    } else {
        Piece::Bytes(bytes)
    }
}

/// What no range of a map has. It is left out if it is nothing: a map is anybody's word, and with one that lists nothing, or no
/// partition table, a card would keep what was on it before.
fn unmapped(bytes: &[u8]) -> Piece<'_> {
    match piece(bytes) {
        Piece::Zeros(length) | Piece::Left(length) => Piece::Left(length),
        Piece::Bytes(bytes) => Piece::Bytes(bytes),
    }
}

/// Divides bytes as a map says, and judges its ranges.
struct Mapped<'a> {
    map: &'a Map,
    ranges: std::slice::Iter<'a, bmap::Range>,
    now: Option<&'a bmap::Range>,
    hash: Sha256,
}

impl<'a> Mapped<'a> {
    fn new(map: &'a Map) -> Self {
        let mut ranges = map.ranges().iter();
        Self {
            map,
            now: ranges.next(),
            ranges,
            hash: Sha256::new(),
        }
    }

    /// Hands bytes of the image on, which begin at `at`. A range's last bytes are handed on if the range is good.
    fn take(&mut self, mut at: u64, mut bytes: &[u8], take: &mut Take<'_>) -> Result<()> {
        while !bytes.is_empty() {
            let range = self.now.map(|range| self.map.bytes(range));
            let until = match &range {
                None => u64::MAX,
                Some(range) if at < range.start => range.start,
                Some(range) => range.end,
            };
            let is_mapped = range.as_ref().is_some_and(|range| range.start <= at);
            let length = usize::try_from(until.saturating_sub(at)).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(length.min(bytes.len()));
            let end = at.saturating_add(as_u64(now.len()));
            if is_mapped {
                self.hash.update(now);
                if end == until {
                    self.judge()?;
                }
                take(at, piece(now))?;
            } else {
                take(at, unmapped(now))?;
            }
            (at, bytes) = (end, rest);
        }
        Ok(())
    }

    /// Whether the range that has ended is what the map says.
    fn judge(&mut self) -> Result<()> {
        let found = std::mem::take(&mut self.hash).finalize();
        let Some(range) = self.now else { return Ok(()) };
        let bytes = self.map.bytes(range);
        ensure!(
            found.as_slice() == range.sum,
            "blocks {}-{}, bytes {} to {}, are not those that its block map is for\nhelp: the image is damaged, or map and image are not of one build; copy both again",
            range.first,
            range.last,
            bytes.start,
            bytes.end
        );
        self.now = self.ranges.next();
        Ok(())
    }
}

fn as_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// A stretch of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    offset: u64,
    length: u64,
    is_data: bool,
}

impl Part {
    /// Offsets and lengths of its pieces.
    fn pieces(self) -> impl Iterator<Item = (u64, usize)> {
        let end = self.offset.saturating_add(self.length);
        let mut next = self.offset;
        std::iter::from_fn(move || {
            let offset = next;
            let length = PIECE.min(end.checked_sub(offset)?);
            next = offset.saturating_add(length);
            // A piece fits memory.
            (length > 0).then(|| (offset, usize::try_from(length).unwrap_or(0)))
        })
    }
}

/// Data and holes of a file, in order, without gaps (lseek(2), SEEK_DATA).
fn parts(file: &File, size: u64) -> Result<Vec<Part>, Errno> {
    let mut parts = Vec::new();
    let mut add = |from: u64, to: u64, is_data| {
        if let Some(length) = to.checked_sub(from).filter(|length| *length > 0) {
            parts.push(Part {
                offset: from,
                length,
                is_data,
            });
        }
    };
    let mut at = 0;
    while at < size {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(size),
            // No data behind this.
            Err(Errno::NXIO) => size,
            Err(errno) => return Err(errno),
        };
        add(at, data, false);
        let hole = if data < size {
            seek(file, SeekFrom::Hole(data))?.min(size)
        } else {
            size
        };
        add(data, hole, true);
        at = hole;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests;
