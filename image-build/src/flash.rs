//! Writes a disk image onto a card, a stick or a disk, and reads it back.
//!
//! What the image has as holes is made zeros, not skipped: a card has been used before, and a file system trusts that what
//! it never wrote is zero. Only what an image's block map leaves out stays as it is ([`image`]). Every byte that was written
//! is compared afterwards, read from the medium and not from memory.

pub mod disks;
pub mod image;

use anyhow::{Context, Result, bail, ensure};
pub use image::{Image, Piece};
use rustix::fs::{Advice, FallocateFlags, SeekFrom, fadvise, fallocate, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

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
    /// What its block map leaves out: not written.
    pub left: u64,
}

/// Where an image goes: a block device, which nobody else uses from now on, or a file.
#[derive(Debug)]
pub struct Target {
    file: File,
    path: PathBuf,
    size: u64,
    is_device: bool,
}

/// Why a target cannot be opened, and what to do.
fn closed(path: &Path, is_device: bool, error: std::io::Error) -> anyhow::Error {
    let path = path.display();
    let busy = error.raw_os_error() == Some(Errno::BUSY.raw_os_error());
    // Of EACCES and EPERM.
    let forbidden = is_device && error.kind() == ErrorKind::PermissionDenied;
    let what = if busy {
        format!(
            "{path} is in use: something of it is mounted, or part of a volume\nhelp: unmount it first; lsblk {path} tells what"
        )
    } else if forbidden {
        format!(
            "{path} may not be written by this user\nhelp: writing a disk takes root: sudo env \"PATH=$PATH\" kedge flash {path}"
        )
    } else {
        format!("cannot open {path} for writing")
    };
    anyhow::Error::new(error).context(what)
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
        let file = options
            .open(path)
            .map_err(|error| closed(path, is_device, error))?;
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
    /// The image does not fit, cannot be read, or is not what its block map says; the medium refuses a write or a read, or
    /// gives back other bytes: with the offset. What was written before that is no whole image.
    pub fn flash(&self, image: &Image, progress: &mut dyn FnMut(Stage, u64)) -> Result<Flashed> {
        let own = self.path.display();
        self.check(image)?;
        let mut flashed = Flashed {
            size: 0,
            data: 0,
            left: 0,
        };
        let mut unsynced = 0..0_u64;
        let written = image.read(&mut |offset, piece| {
            let length = piece.length();
            let end = offset.saturating_add(length);
            // One that says no size, or a wrong one: what comes behind this is not known.
            ensure!(
                end <= self.size,
                "{} takes {end} bytes or more, and {own} has {}",
                image.path().display(),
                self.size
            );
            match piece {
                Piece::Bytes(bytes) => self.put(bytes, offset),
                Piece::Zeros(length) => self.zero(length, offset),
                Piece::Left(_) => Ok(()),
            }
            .with_context(|| format!("writing {own} failed"))?;
            match piece {
                Piece::Bytes(_) => flashed.data = flashed.data.saturating_add(length),
                Piece::Left(_) => flashed.left = flashed.left.saturating_add(length),
                Piece::Zeros(_) => {}
            }
            progress(Stage::Writing, length);
            flashed.size = end;
            unsynced.end = end;
            if unsynced.end.saturating_sub(unsynced.start) >= SYNCED {
                self.sync(&unsynced)?;
                unsynced.start = end;
            }
            Ok(())
        });
        written
            .and_then(|()| self.sync(&unsynced))
            .with_context(|| incomplete(&self.path, flashed.size))?;
        // Pages that are clean are dropped: what is read next comes from the medium.
        fadvise(&self.file, 0, None, Advice::DontNeed).context("cannot drop what memory has")?;
        image.read(&mut |offset, piece| {
            self.compare(piece, offset)?;
            progress(Stage::Comparing, piece.length());
            Ok(())
        })?;
        Ok(flashed)
    }

    /// Whether an image that says its size fits. Of one that does not say it, [`Target::flash`] finds out as it goes.
    ///
    /// # Errors
    /// It does not, with both sizes.
    pub fn check(&self, image: &Image) -> Result<()> {
        let size = image.size().unwrap_or_default();
        ensure!(
            size <= self.size,
            "{} takes {size} bytes, and {} has {}",
            image.path().display(),
            self.path.display(),
            self.size
        );
        Ok(())
    }

    /// Waits until the medium has what was written.
    fn sync(&self, bytes: &Range<u64>) -> Result<()> {
        self.file.sync_data().with_context(|| {
            format!(
                "{} did not keep what was written: some of bytes {} to {} is lost; {}",
                self.path.display(),
                bytes.start,
                bytes.end,
                self.state(bytes.end)
            )
        })
    }

    fn put(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let end = offset.saturating_add(u64::try_from(bytes.len())?);
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = match self.file.write_at(rest, at) {
                Ok(0) => Err(ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                taken => taken,
            };
            let taken = taken.with_context(|| {
                format!("bytes {at} to {end} were not taken; {}", self.state(end))
            })?;
            rest = rest.get(taken..).unwrap_or_default();
            at = at.saturating_add(u64::try_from(taken)?);
        }
        Ok(())
    }

    /// Makes zeros, by the medium itself where it can (fallocate(2) on a block device).
    fn zero(&self, length: u64, offset: u64) -> Result<()> {
        let what = if self.is_device {
            FallocateFlags::ZERO_RANGE
        } else {
            FallocateFlags::PUNCH_HOLE
        };
        match fallocate(&self.file, what | FallocateFlags::KEEP_SIZE, offset, length) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::INVAL) => {
                self.put(&vec![0; usize::try_from(length)?], offset)
            }
            Err(errno) => Err(errno).with_context(|| {
                let end = offset.saturating_add(length);
                let state = self.state(end);
                format!("zeros for bytes {offset} to {end} were not taken; {state}")
            }),
        }
    }

    /// What can be said of the medium after a failure.
    fn state(&self, end: u64) -> String {
        // Asked anew: a device that was pulled out keeps its size for whoever has it open.
        let now = File::open(&self.path)
            .ok()
            .and_then(|file| seek(&file, SeekFrom::End(0)).ok());
        state(self.is_device, now, end)
    }

    fn compare(&self, piece: Piece<'_>, offset: u64) -> Result<()> {
        if matches!(piece, Piece::Left(_)) {
            return Ok(());
        }
        let length = usize::try_from(piece.length())?;
        let mut found = vec![0; length];
        let end = offset.saturating_add(piece.length());
        self.file
            .read_exact_at(&mut found, offset)
            .with_context(|| {
                format!(
                    "bytes {offset} to {end} of {} cannot be read back; {}",
                    self.path.display(),
                    self.state(end)
                )
            })?;
        let differs = match piece {
            Piece::Bytes(bytes) => bytes.iter().zip(&found).position(|(a, b)| a != b),
            Piece::Zeros(_) | Piece::Left(_) => found.iter().position(|byte| *byte != 0),
        };
        if let Some(at) = differs {
            let at = offset.saturating_add(u64::try_from(at)?);
            bail!(
                "{} does not keep what is written to it: byte {at} came back as another one\nhelp: try another card; some pretend to be larger than they are",
                self.path.display()
            );
        }
        Ok(())
    }
}

/// What a failed write leaves.
fn incomplete(path: &Path, size: u64) -> String {
    match size {
        0 => format!("the image did not come onto {}", path.display()),
        size => format!(
            "{} has a part of the image, its first {size} bytes at most: it is of no use until it is written again",
            path.display()
        ),
    }
}

/// The sentence of [`Target::state`]: `now` is the size that the medium has by now, if it can be opened at all.
fn state(is_device: bool, now: Option<u64>, end: u64) -> String {
    match now {
        None | Some(0) if is_device => "it is gone: was it pulled out?".to_owned(),
        None => "it is gone".to_owned(),
        Some(now) if is_device && now < end => format!("it has {now} bytes by now"),
        Some(_) if is_device => {
            "it is still there: it is worn out, or its connection is bad".to_owned()
        }
        Some(_) => "the file is still there: is its own disk full?".to_owned(),
    }
}

#[cfg(test)]
mod tests;
