//! Writes a disk image onto a card, a stick or a disk, and reads it back.
//!
//! What the image has as holes is made zeros, not skipped: a card has been used before, and a file system trusts that what
//! it never wrote is zero. Every byte is compared afterwards, read from the medium and not from memory.

pub mod disks;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Advice, FallocateFlags, SeekFrom, fadvise, fallocate, seek};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of one write or read.
const PIECE: u64 = 4 * 1024 * 1024;
/// After so many bytes the medium has to have them: else memory takes all, and the rate that is shown is memory's.
const SYNCED: u64 = 32 * 1024 * 1024;

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The image is written.
    Writing,
    /// It is read back and compared.
    Comparing,
}

/// What was done, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flashed {
    /// Size of the image.
    pub size: u64,
    /// Its data, without holes.
    pub data: u64,
}

/// Where an image goes: a block device, which nobody else uses from now on, or a file.
#[derive(Debug)]
pub struct Target {
    file: File,
    path: PathBuf,
    size: u64,
    is_device: bool,
}

impl Target {
    /// Opens a block device for oneself alone, or a file that is there.
    ///
    /// # Errors
    /// It is neither, it is mounted or otherwise in use, or may not be written.
    pub fn open(path: &Path) -> Result<Self> {
        let kind = path
            .metadata()
            .with_context(|| format!("cannot open {}", path.display()))?
            .file_type();
        let is_device = kind.is_block_device();
        ensure!(
            is_device || kind.is_file(),
            "{} is neither a disk nor a file",
            path.display()
        );
        let mut options = File::options();
        options.read(true).write(true);
        if is_device {
            // The kernel refuses whoever wants alone what is mounted, or part of a volume (open(2), O_EXCL).
            options.custom_flags(rustix::fs::OFlags::EXCL.bits().cast_signed());
        }
        let file = options.open(path).map_err(|error| {
            let busy = error.raw_os_error() == Some(Errno::BUSY.raw_os_error());
            let error = anyhow::Error::new(error);
            if busy {
                error.context(format!(
                    "{} is in use: something of it is mounted, or part of a volume\nhelp: unmount it first; lsblk {0} tells what",
                    path.display()
                ))
            } else {
                error.context(format!("cannot open {} for writing", path.display()))
            }
        })?;
        let size = seek(&file, SeekFrom::End(0))
            .with_context(|| format!("cannot tell the size of {}", path.display()))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            size,
            is_device,
        })
    }

    /// Its size, bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Writes an image and compares it. `progress` is told of each piece, with its bytes.
    ///
    /// # Errors
    /// The image does not fit, or cannot be read; the medium refuses a write or a read, or gives back other bytes: with the
    /// offset.
    pub fn flash(&self, image: &Path, progress: &mut dyn FnMut(Stage, u64)) -> Result<Flashed> {
        let source =
            File::open(image).with_context(|| format!("cannot open {}", image.display()))?;
        let size = source
            .metadata()
            .with_context(|| format!("cannot look at {}", image.display()))?
            .len();
        ensure!(size > 0, "{} is empty", image.display());
        ensure!(
            size <= self.size,
            "{} takes {size} bytes, and {} has {}",
            image.display(),
            self.path.display(),
            self.size
        );
        let parts = parts(&source, size)
            .with_context(|| format!("cannot tell the holes of {}", image.display()))?;
        let mut unsynced = 0_u64;
        for part in &parts {
            self.write(&source, *part, &mut |bytes| progress(Stage::Writing, bytes))
                .with_context(|| format!("writing {} failed", self.path.display()))?;
            unsynced = unsynced.saturating_add(if part.is_data { part.length } else { 0 });
            if unsynced >= SYNCED {
                self.sync()?;
                unsynced = 0;
            }
        }
        self.sync()?;
        // Pages that are clean are dropped: what is read next comes from the medium.
        fadvise(&self.file, 0, None, Advice::DontNeed).context("cannot drop what memory has")?;
        for part in &parts {
            self.compare(&source, *part, &mut |bytes| {
                progress(Stage::Comparing, bytes);
            })?;
        }
        let data = parts.iter().filter(|part| part.is_data);
        Ok(Flashed {
            size,
            data: data.fold(0, |sum, part| sum.saturating_add(part.length)),
        })
    }

    fn sync(&self) -> Result<()> {
        self.file
            .sync_data()
            .with_context(|| format!("{} did not keep what was written", self.path.display()))
    }

    fn write(&self, source: &File, part: Part, told: &mut dyn FnMut(u64)) -> Result<()> {
        let mut buffer = vec![0; usize::try_from(PIECE)?];
        for (offset, length) in part.pieces() {
            let bytes = buffer.get_mut(..length).unwrap_or_default();
            if part.is_data {
                source
                    .read_exact_at(bytes, offset)
                    .with_context(|| format!("the image cannot be read at byte {offset}"))?;
                self.put(bytes, offset)?;
            } else {
                self.zero(bytes, offset)?;
            }
            told(u64::try_from(length)?);
        }
        Ok(())
    }

    fn put(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(bytes, offset).with_context(|| {
            let end = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(0));
            format!("bytes {offset} to {end} were not taken; was it pulled out?")
        })
    }

    /// Makes zeros, by the medium itself where it can (fallocate(2) on a block device).
    fn zero(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let length = u64::try_from(buffer.len())?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let flags = if self.is_device {
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE
        } else {
            flags
        };
        match fallocate(&self.file, flags, offset, length) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::INVAL) => {
                buffer.fill(0);
                self.put(buffer, offset)
            }
            Err(errno) => Err(errno).with_context(|| {
                format!("{length} zeros were not taken at byte {offset}; was it pulled out?")
            }),
        }
    }

    fn compare(&self, source: &File, part: Part, told: &mut dyn FnMut(u64)) -> Result<()> {
        let size = usize::try_from(PIECE)?;
        let (mut wanted, mut found) = (vec![0; size], vec![0; size]);
        for (offset, length) in part.pieces() {
            let wanted = wanted.get_mut(..length).unwrap_or_default();
            let found = found.get_mut(..length).unwrap_or_default();
            if part.is_data {
                source
                    .read_exact_at(wanted, offset)
                    .with_context(|| format!("the image cannot be read at byte {offset}"))?;
            } else {
                wanted.fill(0);
            }
            self.file.read_exact_at(found, offset).with_context(|| {
                format!("{} cannot be read at byte {offset}", self.path.display())
            })?;
            let differs = wanted.iter().zip(found.iter()).position(|(a, b)| a != b);
            if let Some(at) = differs {
                let at = offset.saturating_add(u64::try_from(at)?);
                bail!(
                    "{} does not keep what is written to it: byte {at} came back as another one\nhelp: try another card; some pretend to be larger than they are",
                    self.path.display()
                );
            }
            told(u64::try_from(length)?);
        }
        Ok(())
    }
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
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Data at its beginning and in its middle, and holes.
    fn image(folder: &Path) -> PathBuf {
        let path = folder.join("image");
        let file = File::create(&path).unwrap();
        file.set_len(20 * MIB).unwrap();
        file.write_all_at(&[1; 5000], 0).unwrap();
        file.write_all_at(&vec![2; 6 << 20], 9 * MIB).unwrap();
        path
    }

    fn used(folder: &Path, size: u64) -> PathBuf {
        let path = folder.join("card");
        crate::files::write(&path, vec![0xaa; usize::try_from(size).unwrap()]).unwrap();
        path
    }

    #[test]
    fn a_used_card_becomes_the_image_and_what_is_behind_it_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (image, card) = (image(folder.path()), used(folder.path(), 21 * MIB));
        let (mut written, mut compared) = (0, 0);
        let target = Target::open(&card).unwrap();
        assert_eq!(target.size(), 21 * MIB);
        let flashed = target.flash(&image, &mut |stage, bytes| match stage {
            Stage::Writing => written += bytes,
            Stage::Comparing => compared += bytes,
        });
        let flashed = flashed.unwrap();
        assert_eq!((written, compared), (20 * MIB, 20 * MIB));
        assert_eq!(flashed.size, 20 * MIB);
        assert!(
            flashed.data >= 6 * MIB && flashed.data < 8 * MIB,
            "{flashed:?}"
        );
        let card = std::fs::read(card).unwrap();
        let (first, behind) = card.split_at(usize::try_from(20 * MIB).unwrap());
        assert_eq!(first, std::fs::read(image).unwrap());
        assert!(behind.iter().all(|byte| *byte == 0xaa));
    }

    #[test]
    fn what_does_not_fit_is_refused_before_a_byte_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (image, card) = (image(folder.path()), used(folder.path(), 19 * MIB));
        let refused = Target::open(&card).unwrap().flash(&image, &mut |_, _| {});
        let said = format!("{:#}", refused.unwrap_err());
        assert!(
            said.contains("20971520 bytes") && said.contains("19922944"),
            "{said}"
        );
        assert!(
            std::fs::read(card)
                .unwrap()
                .iter()
                .all(|byte| *byte == 0xaa)
        );
    }

    #[test]
    fn a_medium_that_fails_is_named_with_the_place() {
        let folder = tempfile::tempdir().unwrap();
        let image = image(folder.path());
        // A file that ends where writes are refused, as a pulled card does: its handle reads only.
        let card = used(folder.path(), 21 * MIB);
        let target = Target {
            file: File::open(&card).unwrap(),
            path: card,
            size: 21 * MIB,
            is_device: false,
        };
        let said = format!("{:#}", target.flash(&image, &mut |_, _| {}).unwrap_err());
        assert!(said.contains("bytes 0 to"), "{said}");
        let other = Part {
            offset: 0,
            length: 5000,
            is_data: true,
        };
        let said = target.compare(&File::open(&image).unwrap(), other, &mut |_| {});
        let said = said.unwrap_err().to_string();
        assert!(said.contains("byte 0 came back"), "{said}");
    }

    #[test]
    fn pieces_cover_a_part() {
        let part = Part {
            offset: 3,
            length: 2 * PIECE + 1,
            is_data: true,
        };
        let pieces: Vec<(u64, usize)> = part.pieces().collect();
        let piece = usize::try_from(PIECE).unwrap();
        assert_eq!(pieces, [(3, piece), (3 + PIECE, piece), (3 + 2 * PIECE, 1)]);
    }
}
