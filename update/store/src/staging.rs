//! Staging: an object arrives as its tree first and then as blocks, each judged on arrival.
//!
//! ```text
//! begin(tree) → write(bytes)… → finish
//!    │             │ first bad block: refused, nothing of it kept
//!    └ resume: blocks that are there are judged again; what is good stays
//! ```
//! The `.part` file is sparse up to what arrived in order; a resume trusts exactly the blocks that
//! verify. On finish the file is synced, sealed, measured, and only then named.

use crate::durable;
use crate::error::Error;
use crate::store::Store;
use kedge_revision::revision::Object;
use kedge_revision::verity::{BLOCK, Tree, tree_size};
use kedge_revision::{ObjectId, verity};
use kedge_sys::verity::{VerityError, measure, seal};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What has arrived is put on the disk every 256 blocks, 1 MiB: so much comes again at most after a power cut. Without that
/// the kernel would keep half a minute of it in memory.
const SYNC_BLOCKS: u64 = 256;

/// An object that is arriving, in order.
#[derive(Debug)]
pub struct Staging {
    store: Store,
    id: ObjectId,
    object: Object,
    tree: Tree,
    part: File,
    path: PathBuf,
    /// Verified and written, bytes; a multiple of the block size until the end.
    done: u64,
    /// Bytes of a block that has not arrived whole.
    pending: Vec<u8>,
}

impl Staging {
    /// The tree that an earlier, interrupted download left, if it is still the right one.
    #[must_use]
    pub fn saved_tree(store: &Store, id: ObjectId, object: Object) -> Option<Vec<u8>> {
        let path = store.staging_path(id, "tree");
        // The size is checked first: what stands there may be anything.
        let expected = tree_size(object.size);
        let actual = std::fs::metadata(&path).ok()?.len();
        if actual != expected {
            return None;
        }
        let tree = std::fs::read(path).ok()?;
        Tree::open(id, object.size, &tree).ok().map(|_| tree)
    }

    /// Bytes of an interrupted object that are there and verify: where it goes on. An object of which nothing but
    /// its name was missing gets that, and then [`Store::has`] it.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Seal`].
    pub fn resumable(store: &Store, id: ObjectId, object: Object) -> Result<u64, Error> {
        let path = store.staging_path(id, "part");
        let Ok(file) = File::open(&path) else {
            return Ok(0);
        };
        // A cut after the sealing: such a file cannot be opened for writing any more.
        if measure(&file).is_ok() {
            if check_seal(&file, id).is_ok() {
                name(store, id, &file, &path)?;
                return Ok(object.size);
            }
            durable::remove(&path)?;
            return Ok(0);
        }
        let Some(tree) = Self::saved_tree(store, id, object) else {
            return Ok(0);
        };
        let staging = Self::open(store, id, object, &tree)?;
        let done = staging.done();
        if done == object.size {
            staging.finish()?;
        }
        Ok(done)
    }

    /// Begins or resumes: judges the tree, then the blocks that are already there.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the tree is not the object's, [`Error::File`].
    pub fn begin(store: &Store, id: ObjectId, object: Object, tree: &[u8]) -> Result<Self, Error> {
        let staging = Self::open(store, id, object, tree)?;
        // Before the first block: without it nothing of the file could be judged after a cut.
        durable::write(&store.staging_path(id, "tree"), tree)?;
        Ok(staging)
    }

    /// As [`Staging::begin`], but the tree is not kept: it is there, and a full disk would take no other.
    fn open(store: &Store, id: ObjectId, object: Object, tree: &[u8]) -> Result<Self, Error> {
        let judged =
            Tree::open(id, object.size, tree).map_err(|source| Error::Damaged { source })?;
        let path = store.staging_path(id, "part");
        let part = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::file("open", &path))?;
        let mut staging = Self {
            store: store.clone(),
            id,
            object,
            tree: judged,
            part,
            path,
            done: 0,
            pending: Vec::with_capacity(BLOCK),
        };
        staging.resume()?;
        Ok(staging)
    }

    /// Judges what is there from the start, and cuts the file behind the last good block.
    fn resume(&mut self) -> Result<(), Error> {
        let mut block = vec![0_u8; BLOCK];
        for number in 0..self.tree.blocks() {
            let length = self.block_length(number);
            let bytes = block.get_mut(..length).unwrap_or_default();
            let good =
                self.part.read_exact(bytes).is_ok() && self.tree.check(number, bytes).is_ok();
            if !good {
                break;
            }
            self.done = self.done.saturating_add(as_u64(length));
        }
        self.part
            .set_len(self.done)
            .map_err(Error::file("cut", &self.path))?;
        self.part
            .seek(SeekFrom::Start(self.done))
            .map_err(Error::file("seek in", &self.path))?;
        Ok(())
    }

    /// Bytes of data block `number`.
    fn block_length(&self, number: u64) -> usize {
        let start = number.saturating_mul(as_u64(BLOCK));
        let left = self.object.size.saturating_sub(start);
        usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK))
    }

    /// Bytes that are verified and written: where a resumed download goes on.
    #[must_use]
    pub const fn done(&self) -> u64 {
        self.done
    }

    /// Takes the next bytes, any number of them.
    ///
    /// # Errors
    /// [`Error::Damaged`] at the first block that is not the object's: it is dropped, and what came
    /// before stays. [`Error::TooLong`], [`Error::File`].
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            if self.done == self.object.size {
                return Err(Error::TooLong {
                    id: self.id,
                    size: self.object.size,
                });
            }
            let number = self.done / as_u64(BLOCK);
            let length = self.block_length(number);
            let room = length.saturating_sub(self.pending.len());
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.pending.extend_from_slice(now);
            bytes = rest;
            if self.pending.len() == length {
                self.keep(number)?;
            }
        }
        Ok(())
    }

    /// Judges and writes the block that has arrived whole.
    fn keep(&mut self, number: u64) -> Result<(), Error> {
        let judged = self.tree.check(number, &self.pending);
        if let Err(source) = judged {
            self.pending.clear();
            return Err(Error::Damaged { source });
        }
        if let Err(error) = self.part.write_all(&self.pending) {
            self.pending.clear();
            // A part of the block may be there: go back, so that what follows is in its place.
            drop(self.part.seek(SeekFrom::Start(self.done)));
            return Err(Error::file("write", &self.path)(error));
        }
        self.done = self.done.saturating_add(as_u64(self.pending.len()));
        self.pending.clear();
        if number % SYNC_BLOCKS == SYNC_BLOCKS - 1 {
            // With a new file, its name goes to the disk too (ext4's journal holds both).
            durable::sync_or_drop(&self.part, &self.path)?;
        }
        Ok(())
    }

    /// Seals the complete object and gives it its name.
    ///
    /// # Errors
    /// [`Error::Incomplete`]; [`Error::Seal`] and [`Error::File`], after which it can be tried again: from the beginning if
    /// it was the disk that failed.
    pub fn finish(self) -> Result<PathBuf, Error> {
        if self.done != self.object.size {
            return Err(Error::Incomplete {
                id: self.id,
                missing: self.object.size.saturating_sub(self.done),
            });
        }
        durable::sync_or_drop(&self.part, &self.path)?;
        // Sealing wants nobody to have the file open for writing (FS_IOC_ENABLE_VERITY, ETXTBSY).
        drop(self.part);
        let file = File::open(&self.path).map_err(Error::file("open", &self.path))?;
        match seal(&file) {
            Ok(()) | Err(VerityError::AlreadySealed) => check_seal(&file, self.id)?,
            // Such a file system is judged at each boot instead; every block was judged on arrival.
            Err(VerityError::NotSupported) => {}
            Err(source) => {
                return Err(Error::Seal {
                    id: self.id,
                    source: Some(source),
                });
            }
        }
        name(&self.store, self.id, &file, &self.path)
    }
}

/// Gives a sealed object its name.
fn name(store: &Store, id: ObjectId, file: &File, path: &Path) -> Result<PathBuf, Error> {
    durable::sync_or_drop(file, path)?;
    let target = store.object_path(id);
    if let Some(parent) = target.parent() {
        durable::make_directory(parent)?;
    }
    durable::rename(path, &target)?;
    durable::remove(&store.staging_path(id, "tree"))?;
    Ok(target)
}

/// An object as it is sent: its tree, then its bytes from `offset` on, in pieces of any size.
#[derive(Debug)]
pub struct Arrival {
    store: Store,
    id: ObjectId,
    object: Object,
    offset: u64,
    /// What has come of the tree; it is in `staging` once it is whole.
    tree: Vec<u8>,
    staging: Option<Staging>,
}

impl Arrival {
    /// Before the first byte. An object of at most one block has no tree, and is begun at once.
    ///
    /// # Errors
    /// As [`Arrival::write`].
    pub fn begin(store: &Store, id: ObjectId, object: Object, offset: u64) -> Result<Self, Error> {
        let mut arrival = Self {
            store: store.clone(),
            id,
            object,
            offset,
            tree: Vec::new(),
            staging: None,
        };
        arrival.take_tree(&[])?;
        Ok(arrival)
    }

    /// Bytes that are to come.
    #[must_use]
    pub fn length(&self) -> u64 {
        let bytes = self.object.size.saturating_sub(self.offset);
        tree_size(self.object.size).saturating_add(bytes)
    }

    /// Bytes of the object that are verified and written.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.staging.as_ref().map_or(0, Staging::done)
    }

    /// Whether all bytes are there, so that [`Arrival::finish`] seals them.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let done = self.staging.as_ref().map(Staging::done);
        done == Some(self.object.size)
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// As [`Staging::begin`] and [`Staging::write`]; [`Error::Offset`] if the object goes on elsewhere, told once
    /// the tree has come. What was verified stays; this one is of no further use.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let rest = self.take_tree(bytes)?;
        match &mut self.staging {
            Some(staging) => staging.write(rest),
            None => Ok(()),
        }
    }

    /// Takes what is the tree's, and tells what is not.
    fn take_tree<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
        if self.staging.is_some() {
            return Ok(bytes);
        }
        let size = tree_size(self.object.size);
        let missing = size.saturating_sub(as_u64(self.tree.len()));
        let missing = usize::try_from(missing).unwrap_or(usize::MAX);
        let (now, rest) = bytes.split_at(missing.min(bytes.len()));
        self.tree.extend_from_slice(now);
        if as_u64(self.tree.len()) == size {
            let tree = std::mem::take(&mut self.tree);
            let staging = Staging::begin(&self.store, self.id, self.object, &tree)?;
            if staging.done() != self.offset {
                return Err(Error::Offset {
                    id: self.id,
                    offset: self.offset,
                    done: staging.done(),
                });
            }
            self.staging = Some(staging);
        }
        Ok(rest)
    }

    /// Seals the object and gives it its name.
    ///
    /// # Errors
    /// As [`Staging::finish`].
    pub fn finish(self) -> Result<PathBuf, Error> {
        match self.staging {
            Some(staging) => staging.finish(),
            None => Err(Error::Incomplete {
                id: self.id,
                missing: self.object.size,
            }),
        }
    }
}

fn check_seal(file: &File, id: ObjectId) -> Result<(), Error> {
    match measure(file) {
        Ok(digest) if ObjectId::from_digest(digest) == id => Ok(()),
        Ok(_) => Err(Error::Seal { id, source: None }),
        Err(source) => Err(Error::Seal {
            id,
            source: Some(source),
        }),
    }
}

fn as_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// The id, size and tree of a file, by reading it: for the side that serves objects.
///
/// # Errors
/// [`Error::File`].
pub fn measure_file(path: &Path) -> Result<verity::Sealed, Error> {
    let mut file = File::open(path).map_err(Error::file("open", path))?;
    let mut builder = verity::Builder::new();
    let mut buffer = vec![0_u8; 256 * 1024];
    loop {
        let count = file.read(&mut buffer).map_err(Error::file("read", path))?;
        if count == 0 {
            return Ok(builder.finish());
        }
        builder.update(buffer.get(..count).unwrap_or_default());
    }
}

#[cfg(test)]
#[path = "staging_tests.rs"]
mod tests;
