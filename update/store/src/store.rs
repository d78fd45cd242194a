//! The store: where things are, and how a revision gets in.

use crate::durable;
use crate::error::Error;
use crate::space::{Space, footprint};
use kedge_revision::revision::Object;
use kedge_revision::{Envelope, ObjectId};
use std::path::{Path, PathBuf};

/// A data partition's store.
#[derive(Debug, Clone)]
pub struct Store {
    data: PathBuf,
}

impl Store {
    /// The store at `data` as it is: nothing is made, swept or looked at.
    #[must_use]
    pub fn at(data: &Path) -> Self {
        Self {
            data: data.to_path_buf(),
        }
    }

    /// The store on the file system mounted at `data`; makes its directories and sweeps what a power cut left.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn open(data: &Path) -> Result<Self, Error> {
        let store = Self::at(data);
        for name in ["objects/v1", "revisions", "roots", "staging"] {
            durable::make_directory(&store.data.join(name))?;
        }
        durable::sweep(&store.data.join("roots"))?;
        for revision in store.revisions()? {
            durable::sweep(&store.revision_directory(revision))?;
        }
        Ok(store)
    }

    /// Where the file system is mounted.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The file of an object, whether it is there or not.
    #[must_use]
    pub fn object_path(&self, id: ObjectId) -> PathBuf {
        let hex = id.hex();
        let prefix = hex.get(..2).unwrap_or_default();
        self.data.join("objects/v1").join(prefix).join(&hex)
    }

    /// The directory of a revision, whether it is there or not.
    #[must_use]
    pub fn revision_directory(&self, id: ObjectId) -> PathBuf {
        self.data.join("revisions").join(id.hex())
    }

    /// Whether an object is there with the size that it should have. A name is only given to what
    /// was sealed, so this is enough to know that it need not be fetched; running it measures it.
    #[must_use]
    pub fn has(&self, id: ObjectId, object: Object) -> bool {
        std::fs::metadata(self.object_path(id)).is_ok_and(|file| file.len() == object.size)
    }

    /// Objects of a revision that are not there, with their sizes.
    pub fn missing<'a>(
        &'a self,
        envelope: &'a Envelope,
    ) -> impl Iterator<Item = (ObjectId, Object)> + 'a {
        envelope
            .objects
            .iter()
            .map(|(id, object)| (*id, *object))
            .filter(|(id, object)| !self.has(*id, *object))
    }

    /// Whether what a revision still needs fits beside the reserve.
    ///
    /// # Errors
    /// [`Error::NoSpace`] with the number of bytes missing, [`Error::File`].
    pub fn preflight(&self, envelope: &Envelope) -> Result<u64, Error> {
        let needed = self.missing(envelope).fold(0_u64, |sum, (id, object)| {
            let staged = self.staged_bytes(id);
            sum.saturating_add(footprint(object.size).saturating_sub(staged))
        });
        Space::of(&self.data)?.check(needed)?;
        Ok(needed)
    }

    /// Bytes that an interrupted download already takes on the disk.
    fn staged_bytes(&self, id: ObjectId) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let path = self.staging_path(id, "part");
        std::fs::metadata(path).map_or(0, |file| file.blocks().saturating_mul(512))
    }

    pub(crate) fn staging_path(&self, id: ObjectId, ending: &str) -> PathBuf {
        self.data
            .join("staging")
            .join(format!("{}.{ending}", id.hex()))
    }

    /// Keeps a revision's document and signatures. The directory has its name only once both are
    /// complete: the document is written last.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Damaged`] if the bytes are another revision's.
    pub fn put_revision(
        &self,
        id: ObjectId,
        document: &[u8],
        signatures: &[u8],
        origin: &str,
    ) -> Result<(), Error> {
        let found = kedge_revision::verity::digest(document);
        if found != id {
            let source = kedge_revision::Error::Digest {
                expected: id,
                found,
            };
            return Err(Error::Damaged { source });
        }
        let directory = self.revision_directory(id);
        durable::make_directory(&directory)?;
        durable::write(&directory.join("origin"), origin.as_bytes())?;
        durable::write(&directory.join("revision.sig"), signatures)?;
        durable::write(&directory.join("revision.json"), document)
    }

    /// Every revision whose document is there.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn revisions(&self) -> Result<Vec<ObjectId>, Error> {
        let directory = self.data.join("revisions");
        let mut ids = Vec::new();
        for name in names(&directory)? {
            if let Ok(id) = format!("v1:{name}").parse()
                && directory.join(&name).join("revision.json").is_file()
            {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// Every object that has its name.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn objects(&self) -> Result<Vec<ObjectId>, Error> {
        let directory = self.data.join("objects/v1");
        let mut ids = Vec::new();
        for prefix in names(&directory)? {
            for name in names(&directory.join(&prefix))? {
                if let Ok(id) = format!("v1:{name}").parse() {
                    ids.push(id);
                }
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }
}

/// Names in a directory that are valid text; others are none of ours.
pub(crate) fn names(directory: &Path) -> Result<Vec<String>, Error> {
    std::fs::read_dir(directory)
        .map_err(Error::file("list", directory))?
        .filter_map(|entry| match entry {
            Ok(entry) => entry.file_name().into_string().ok().map(Ok),
            Err(error) => Some(Err(Error::file("list", directory)(error))),
        })
        .collect()
}
