//! Which files there are of objects, and how they go.

use super::Objects;
use crate::error::Error;
use crate::fleet::Revision;
use kedge_revision::ObjectId;
use kedge_store::durable;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// All files of one object.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) id: ObjectId,
    /// With their lengths, in the order in which they go. An index goes before its frames, which it says are whole, and the
    /// object last.
    files: Vec<(PathBuf, u64)>,
}

impl Files {
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Objects {
    /// Everything that lies in the directories of objects and uploads under an object's name.
    pub(crate) fn files(&self) -> Result<Vec<Files>, Error> {
        let mut all: BTreeMap<ObjectId, Vec<(PathBuf, u64)>> = BTreeMap::new();
        let objects = self.store.data().join("objects/v1");
        let prefixes = kedge_store::names(&objects)?;
        let directories = prefixes.iter().map(|prefix| objects.join(prefix));
        for directory in directories.chain([self.staging()]) {
            for name in kedge_store::names(&directory)? {
                let digits = name.split('.').next().unwrap_or_default();
                let Ok(id) = format!("v1:{digits}").parse::<ObjectId>() else {
                    continue;
                };
                let path = directory.join(&name);
                // One that has just got its name is not under this one any more.
                if let Ok(file) = std::fs::metadata(&path) {
                    all.entry(id).or_default().push((path, file.len()));
                }
            }
        }
        let files = all.into_iter().map(|(id, mut files)| {
            // `index` comes before `tree` and `zst`.
            files.sort_unstable_by_key(|(path, _)| (path.extension().is_none(), path.clone()));
            Files { id, files }
        });
        Ok(files.collect())
    }

    /// Removes the files of an object. Nobody may need it, and nobody uploads it meanwhile.
    pub(crate) fn remove(&self, files: &Files) -> Result<(), Error> {
        let Some(_busy) = self.take(files.id) else {
            return Ok(());
        };
        for (path, _) in &files.files {
            durable::remove(path)?;
        }
        Ok(())
    }

    /// Whether somebody uploads it right now.
    pub(crate) fn is_busy(&self, id: ObjectId) -> bool {
        let all = self.busy.lock();
        all.unwrap_or_else(std::sync::PoisonError::into_inner)
            .contains(&id)
    }

    fn staging(&self) -> PathBuf {
        self.store.data().join("staging")
    }

    /// Whether a revision that is not complete was offered, or a piece of it came, within `patience`.
    pub(crate) fn is_coming(&self, revision: &Revision, patience: Duration) -> bool {
        let offered = SystemTime::UNIX_EPOCH + Duration::from_secs(revision.published.unix());
        let came = revision.objects.keys().flat_map(|id| {
            let part = self.staging().join(format!("{}.part", id.hex()));
            [self.path(*id), part]
        });
        let came = came.filter_map(|path| std::fs::metadata(path).and_then(|f| f.modified()).ok());
        // A clock that was set back makes nothing old.
        came.chain([offered])
            .any(|time| time.elapsed().map_or(true, |since| since < patience))
    }
}
