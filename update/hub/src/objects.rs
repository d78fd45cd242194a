//! Objects on the hub's disk: as they are uploaded, and as they are served.
//!
//! ```text
//! objects/v1/ab/<64 hex>        the object; its name is given to it when it is complete and synced
//! objects/v1/ab/<64 hex>.tree   its Merkle tree
//! objects/v1/ab/<64 hex>.zst    its bytes in zstd frames of 1 MiB each (RFC 8878), each for itself
//! objects/v1/ab/<64 hex>.index  where each frame begins, and the end: u64, little-endian, one more than frames
//! staging/                      uploads that are not complete
//! ```
//! An upload is staged, judged block by block and sealed as on a device (`kedge_store`). Tree and frames can be made
//! anew from the object, and are when they are missing.

mod files;

use crate::error::{Error, Refusal};
use axum::http::StatusCode;
use kedge_api::operator::{Done, Missing};
use kedge_revision::revision::Object;
use kedge_revision::verity::tree_size;
use kedge_revision::{Envelope, ObjectId};
use kedge_store::space::Space;
use kedge_store::{Arrival, Staging, Store, durable, staging};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of an object in one frame.
pub(crate) const FRAME: usize = 1 << 20;
/// Compressed once, fetched by a fleet; higher levels take long for a few percent.
const LEVEL: i32 = 6;

/// The hub's objects.
#[derive(Debug, Clone)]
pub(crate) struct Objects {
    store: Store,
    /// Objects that are being uploaded: each by one request at a time, since both would write the same file.
    busy: Arc<Mutex<BTreeSet<ObjectId>>>,
    /// One thread at a time makes trees, and one frames.
    making: Arc<[Mutex<()>; 2]>,
}

/// An object that nobody else uploads meanwhile.
#[derive(Debug)]
struct Busy {
    id: ObjectId,
    all: Arc<Mutex<BTreeSet<ObjectId>>>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.id);
    }
}

/// What lies beside an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    Tree,
    Frames,
    Index,
}

impl Beside {
    const fn ending(self) -> &'static str {
        match self {
            Self::Tree => "tree",
            Self::Frames => "zst",
            Self::Index => "index",
        }
    }
}

impl Objects {
    pub(crate) fn open(data: &Path) -> Result<Self, Error> {
        let store = Store::open(data)?;
        let objects = data.join("objects/v1");
        for prefix in kedge_store::names(&objects)? {
            durable::sweep(&objects.join(prefix))?;
        }
        Ok(Self {
            store,
            busy: Arc::default(),
            making: Arc::default(),
        })
    }

    /// The file of an object, whether it is there or not.
    pub(crate) fn path(&self, id: ObjectId) -> PathBuf {
        self.store.object_path(id)
    }

    /// The file of what lies beside it.
    pub(crate) fn path_beside(&self, id: ObjectId, what: Beside) -> PathBuf {
        self.path(id).with_extension(what.ending())
    }

    fn take(&self, id: ObjectId) -> Option<Busy> {
        let mut all = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(id).then(|| Busy {
            id,
            all: Arc::clone(&self.busy),
        })
    }

    /// What of a revision is not there, and how much of it is. Refuses what would not fit on the disk.
    pub(crate) fn missing(&self, envelope: &Envelope) -> Result<Vec<Missing>, Error> {
        let missing: Vec<_> = self.store.missing(envelope).collect();
        let mut offered = Vec::with_capacity(missing.len());
        for (id, object) in missing {
            // One that is being uploaded is not looked at: that would write to its file.
            let have = match self.take(id) {
                Some(_busy) => Staging::resumable(&self.store, id, object)?,
                None => 0,
            };
            if !self.store.has(id, object) {
                let size = object.size;
                offered.push(Missing { id, size, have });
            }
        }
        self.check_room(envelope)?;
        Ok(offered)
    }

    /// Objects, their trees, and their frames, which may be as large again.
    fn check_room(&self, envelope: &Envelope) -> Result<(), Error> {
        let missing: Vec<_> = self.store.missing(envelope).collect();
        let frames: u64 = missing.iter().map(|(_, object)| object.size).sum();
        let needed = self.store.needed(missing).saturating_add(frames);
        Ok(Space::of(self.store.data())?.of_others().check(needed)?)
    }

    pub(crate) fn has_all<'a>(
        &self,
        objects: impl IntoIterator<Item = (&'a ObjectId, &'a Object)>,
    ) -> bool {
        objects
            .into_iter()
            .all(|(id, object)| self.store.has(*id, *object))
    }

    /// Begins to take an object, from `offset` on.
    pub(crate) fn begin(
        &self,
        id: ObjectId,
        object: Object,
        offset: u64,
    ) -> Result<Upload, Refusal> {
        if self.store.has(id, object) {
            return Ok(Upload {
                objects: self.clone(),
                id,
                object,
                arrival: None,
                _busy: None,
            });
        }
        let busy = self.take(id).ok_or_else(|| {
            Refusal::conflict(
                "upload-running",
                "another request is uploading this object; ask again when it has ended",
            )
        })?;
        let arrival = Arrival::begin(&self.store, id, object, offset).map_err(refusal)?;
        Ok(Upload {
            objects: self.clone(),
            id,
            object,
            arrival: Some(arrival),
            _busy: Some(busy),
        })
    }

    /// Brings what has come of an object to the disk: it is about to be acknowledged.
    fn sync_part(&self, id: ObjectId) -> Result<(), Error> {
        let name = format!("{}.part", id.hex());
        let path = self.store.data().join("staging").join(name);
        match File::open(&path) {
            Ok(file) => Ok(durable::sync(&file, &path)?),
            // Nothing has come: not even the tree.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::file("open", &path)(error)),
        }
    }

    /// Makes what lies beside an object, where it is missing.
    pub(crate) fn complete(&self, id: ObjectId, size: u64) -> Result<(), Error> {
        self.complete_tree(id, size)?;
        let [_, frames] = &*self.making;
        let _one_at_a_time = frames.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.path_beside(id, Beside::Index).is_file() {
            self.compress(id)?;
        }
        Ok(())
    }

    /// Makes the tree of an object, if it is missing: without it nobody can fetch the object.
    pub(crate) fn complete_tree(&self, id: ObjectId, size: u64) -> Result<(), Error> {
        let tree = self.path_beside(id, Beside::Tree);
        let is_there = || std::fs::metadata(&tree).is_ok_and(|file| file.len() == tree_size(size));
        if is_there() {
            return Ok(());
        }
        let [trees, _] = &*self.making;
        let _one_at_a_time = trees.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_there() {
            let sealed = staging::measure_file(&self.path(id))?;
            durable::write(&tree, &sealed.tree)?;
        }
        Ok(())
    }

    /// Keeps all frames from being made for as long as it lives, as a large object does.
    #[cfg(test)]
    pub(crate) fn hold_frames(&self) -> std::sync::MutexGuard<'_, ()> {
        let [_, frames] = &*self.making;
        frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index is written last: where it is, the frames are whole.
    fn compress(&self, id: ObjectId) -> Result<(), Error> {
        let source = self.path(id);
        let target = self.path_beside(id, Beside::Frames);
        let new = target.with_extension("zst.new");
        let mut from = File::open(&source).map_err(Error::file("open", &source))?;
        let file = File::create(&new).map_err(Error::file("create", &new))?;
        let mut to = BufWriter::with_capacity(256 * 1024, file);
        let mut index = 0_u64.to_le_bytes().to_vec();
        let (mut end, mut frame) = (0_u64, Vec::with_capacity(FRAME));
        loop {
            frame.clear();
            let limit = u64::try_from(FRAME).unwrap_or(u64::MAX);
            let read = (&mut from).take(limit).read_to_end(&mut frame);
            if read.map_err(Error::file("read", &source))? == 0 {
                break;
            }
            let packed =
                zstd::bulk::compress(&frame, LEVEL).map_err(Error::file("compress", &source))?;
            to.write_all(&packed).map_err(Error::file("write", &new))?;
            end = end.saturating_add(u64::try_from(packed.len()).unwrap_or(u64::MAX));
            index.extend_from_slice(&end.to_le_bytes());
        }
        let file = to
            .into_inner()
            .map_err(|error| Error::file("write", &new)(error.into_error()))?;
        durable::sync(&file, &new)?;
        durable::rename(&new, &target)?;
        durable::write(&self.path_beside(id, Beside::Index), &index)?;
        Ok(())
    }

    /// Bytes of an object's frames; of the object itself where there are none.
    pub(crate) fn compressed(&self, id: ObjectId, object: Object) -> u64 {
        let path = self.path_beside(id, Beside::Frames);
        std::fs::metadata(path).map_or(object.size, |file| file.len())
    }
}

/// An object that is being uploaded: its tree, then its bytes.
#[derive(Debug)]
pub(crate) struct Upload {
    objects: Objects,
    id: ObjectId,
    object: Object,
    /// None if the object was there before.
    arrival: Option<Arrival>,
    _busy: Option<Busy>,
}

impl Upload {
    /// Whether it was there before.
    pub(crate) const fn is_there(&self) -> bool {
        self.arrival.is_none()
    }

    /// Bytes that are to come.
    pub(crate) fn length(&self) -> u64 {
        self.arrival.as_ref().map_or(0, Arrival::length)
    }

    /// Takes the next bytes; what was judged good stays, whatever comes after.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        match &mut self.arrival {
            Some(arrival) => arrival.write(bytes).map_err(refusal),
            None => Ok(()),
        }
    }

    /// The end of what came: names the object if it is complete.
    pub(crate) fn end(self) -> Result<Done, Refusal> {
        let size = self.object.size;
        if let Some(arrival) = self.arrival {
            if !arrival.is_complete() {
                let done = arrival.done();
                self.objects.sync_part(self.id)?;
                return Ok(Done {
                    done,
                    complete: false,
                });
            }
            arrival.finish().map_err(refusal)?;
        }
        // Without frames it is served as it is; the next start makes them.
        if let Err(error) = self.objects.complete(self.id, size) {
            log::warn!("{}: {}", self.id, crate::error::Chain(&error));
        }
        Ok(Done {
            done: size,
            complete: true,
        })
    }
}

fn refusal(error: kedge_store::Error) -> Refusal {
    use kedge_store::Error as Store;
    match error {
        Store::Damaged { .. } => Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "damaged",
            format!("{error}; what came before it is kept"),
        ),
        Store::TooLong { .. } => Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "too-long",
            error.to_string(),
        ),
        Store::Offset { .. } => Refusal::conflict("offset", error.to_string()),
        Store::Incomplete { .. } => Refusal::conflict("incomplete", error.to_string()),
        Store::File { .. } | Store::NoSpace { .. } | Store::Seal { .. } => {
            Error::Store(error).into()
        }
    }
}
