//! The store: where things are, and how a revision gets in.

use crate::durable;
use crate::error::Error;
use crate::space::{Space, footprint};
use kedge_revision::parameters::Parameters;
use kedge_revision::revision::{self, Object};
use kedge_revision::{Content, Envelope, ObjectId, SignatureSet, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// The mark in the directory of a revision that was committed once.
const COMMITTED: &str = "committed";

/// What is remembered of a commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Later commits have higher ones.
    pub number: u64,
    /// Counter of the parameters; 0: none.
    pub parameters: u64,
}

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
            let directory = store.revision_directory(revision);
            durable::sweep(&directory)?;
            durable::sweep(&directory.join("parameters"))?;
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
        let needed = self.needed(self.missing(envelope));
        Space::of(&self.data)?.check(needed)?;
        Ok(needed)
    }

    /// Bytes of the disk that these objects still need: what an interrupted download has is there already.
    pub fn needed(&self, objects: impl IntoIterator<Item = (ObjectId, Object)>) -> u64 {
        objects.into_iter().fold(0_u64, |sum, (id, object)| {
            let staged = self.staged_bytes(id);
            sum.saturating_add(footprint(object.size).saturating_sub(staged))
        })
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

    /// Replaces the signatures of a revision that is there.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn put_signatures(&self, id: ObjectId, signatures: &[u8]) -> Result<(), Error> {
        durable::write(
            &self.revision_directory(id).join("revision.sig"),
            signatures,
        )
    }

    /// A revision's document and signatures as they are on the disk: nothing is judged but their sizes and
    /// that the document is the one of that name.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Damaged`] if the bytes are another revision's.
    pub fn revision(&self, id: ObjectId) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let directory = self.revision_directory(id);
        let document = read(&directory.join("revision.json"), revision::CAP)?;
        let found = kedge_revision::verity::digest(&document);
        if found != id {
            let source = kedge_revision::Error::Digest {
                expected: id,
                found,
            };
            return Err(Error::Damaged { source });
        }
        let signatures = read(&directory.join("revision.sig"), SignatureSet::CAP)?;
        Ok((document, signatures))
    }

    /// The objects of a revision that is there, as its document lists them; nobody's signature is looked at.
    ///
    /// # Errors
    /// As [`Store::revision`].
    pub fn objects_of(&self, id: ObjectId) -> Result<BTreeMap<ObjectId, Object>, Error> {
        let (document, _) = self.revision(id)?;
        let envelope: Envelope = json::parse("revision", revision::CAP, &document)
            .map_err(|source| Error::Damaged { source })?;
        Ok(envelope.objects)
    }

    /// The content of a revision that is there; nobody's signature is looked at.
    ///
    /// # Errors
    /// As [`Store::revision`]; [`Error::Damaged`] for one that this version does not understand, too.
    pub fn content_of(&self, id: ObjectId) -> Result<Content, Error> {
        let (document, _) = self.revision(id)?;
        let envelope: Envelope = json::parse("revision", revision::CAP, &document)
            .map_err(|source| Error::Damaged { source })?;
        envelope
            .content()
            .map_err(|source| Error::Damaged { source })
    }

    /// Whether a revision came with the image: it is what a reset returns to.
    #[must_use]
    pub fn is_factory(&self, id: ObjectId) -> bool {
        let path = self.revision_directory(id).join("origin");
        read(&path, 64).is_ok_and(|origin| origin == b"factory\n")
    }

    /// Remembers that a revision was committed with these parameters, after all others. A lost boot record is made anew from
    /// that alone. Without anything new nothing is written.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn mark_committed(&self, id: ObjectId, parameters: u64) -> Result<(), Error> {
        let mut last: Option<(Mark, ObjectId)> = None;
        for other in self.revisions()? {
            last = last.max(self.mark(other).map(|mark| (mark, other)));
        }
        if last.is_some_and(|(mark, of)| of == id && mark.parameters == parameters) {
            return Ok(());
        }
        let number = last.map_or(0, |(mark, _)| mark.number.saturating_add(1));
        let text = format!("{number} {parameters}\n");
        let path = self.revision_directory(id).join(COMMITTED);
        durable::write(&path, text.as_bytes())
    }

    /// The mark of a revision that was ever committed. One that does not say when, as that of an image, is before all others.
    #[must_use]
    pub fn mark(&self, id: ObjectId) -> Option<Mark> {
        let path = self.revision_directory(id).join(COMMITTED);
        if !path.is_file() {
            return None;
        }
        let text = read(&path, 64)
            .ok()
            .and_then(|text| String::from_utf8(text).ok());
        let numbers = text
            .as_deref()
            .and_then(|text| text.trim_end().split_once(' '));
        let numbers = numbers.and_then(|(number, parameters)| {
            Some(Mark {
                number: number.parse().ok()?,
                parameters: parameters.parse().ok()?,
            })
        });
        Some(numbers.unwrap_or_default())
    }

    /// Whether a revision was ever committed.
    #[must_use]
    pub fn is_committed(&self, id: ObjectId) -> bool {
        self.mark(id).is_some()
    }

    /// Where a revision's parameters of this counter are, whether they are there or not.
    #[must_use]
    pub fn parameters_path(&self, id: ObjectId, counter: u64) -> PathBuf {
        let directory = self.revision_directory(id).join("parameters");
        directory.join(counter.to_string())
    }

    /// Keeps the parameters of a revision. They may be there already; others under the same counter are refused.
    ///
    /// # Errors
    /// [`Error::File`], with `AlreadyExists` for other parameters of that counter.
    pub fn put_parameters(&self, id: ObjectId, counter: u64, document: &[u8]) -> Result<(), Error> {
        let path = self.parameters_path(id, counter);
        match read(&path, Parameters::CAP) {
            Ok(there) if there == document => return Ok(()),
            Err(Error::File { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(_) => {
                return Err(Error::file("replace", &path)(
                    ErrorKind::AlreadyExists.into(),
                ));
            }
        }
        if let Some(directory) = path.parent() {
            durable::make_directory(directory)?;
        }
        durable::write(&path, document)
    }

    /// Keeps a root. Its signatures first: where the document is, both are.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn put_root(&self, version: u32, document: &[u8], signatures: &[u8]) -> Result<(), Error> {
        let directory = self.data.join("roots");
        durable::write(&directory.join(format!("{version}.sig")), signatures)?;
        durable::write(&directory.join(format!("{version}.json")), document)
    }

    /// The parameters that a revision has, with their counters, in no order.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn parameters(&self, id: ObjectId) -> Result<Vec<(u64, Vec<u8>)>, Error> {
        let directory = self.revision_directory(id).join("parameters");
        if !directory.is_dir() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for name in names(&directory)? {
            if let Ok(counter) = name.parse() {
                found.push((counter, read(&directory.join(&name), Parameters::CAP)?));
            }
        }
        Ok(found)
    }

    /// Drops the parameters of a revision but those of these counters.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn drop_parameters(&self, id: ObjectId, keep: &[u64]) -> Result<(), Error> {
        let directory = self.revision_directory(id).join("parameters");
        if !directory.is_dir() {
            return Ok(());
        }
        for name in names(&directory)? {
            let counter = name.parse::<u64>().ok();
            if counter.is_some_and(|counter| !keep.contains(&counter)) {
                durable::remove(&directory.join(&name))?;
            }
        }
        Ok(())
    }

    /// Every revision whose document is there.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn revisions(&self) -> Result<Vec<ObjectId>, Error> {
        let directory = self.data.join("revisions");
        let mut ids = Vec::new();
        for name in names(&directory)? {
            if let Some(id) = id_of(&name)
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
                ids.extend(id_of(&name));
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }
}

/// The id whose digits a name is.
pub(crate) fn id_of(name: &str) -> Option<ObjectId> {
    format!("v1:{name}").parse().ok()
}

/// Names in a directory that are valid text; others are none of ours.
///
/// # Errors
/// [`Error::File`].
pub fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let entries = std::fs::read_dir(directory).map_err(Error::file("list", directory))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::file("list", directory))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// Reads a file of at most `most` bytes.
fn read(path: &Path, most: usize) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(Error::file("open", path))?;
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(Error::file("read", path))?;
    if bytes.len() > most {
        return Err(Error::file("read", path)(ErrorKind::FileTooLarge.into()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store, ObjectId) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let id = kedge_revision::verity::digest(b"document");
        store.put_revision(id, b"document", b"sig", "test").unwrap();
        (directory, store, id)
    }

    #[test]
    fn a_mark_of_commit_stays() {
        let (directory, store, id) = store();
        assert!(!store.is_committed(id));
        store.mark_committed(id, 7).unwrap();
        store.mark_committed(id, 7).unwrap();
        let (number, parameters) = (0, 7);
        let first = Mark { number, parameters };
        assert_eq!(Store::open(directory.path()).unwrap().mark(id), Some(first));
        // Nothing is marked that is not there.
        let other = kedge_revision::verity::digest(b"other");
        store.mark_committed(other, 0).unwrap_err();
        assert!(!store.is_committed(other));
        // Who comes later, or comes back, or has other values, stands above all before.
        store.put_revision(other, b"other", b"sig", "test").unwrap();
        for (number, id, parameters) in [(1, other, 0), (2, id, 7), (2, id, 7), (3, id, 8)] {
            store.mark_committed(id, parameters).unwrap();
            let mark = Mark { number, parameters };
            assert_eq!(store.mark(id), Some(mark));
        }
        // As an image has it, or what is damaged.
        for text in ["", "x 1", "1", "1 -1"] {
            durable::write(
                &store.revision_directory(id).join(COMMITTED),
                text.as_bytes(),
            )
            .unwrap();
            assert_eq!(store.mark(id), Some(Mark::default()), "{text}");
        }
    }

    #[test]
    fn parameters_of_one_counter_never_change() {
        let (_guard, store, id) = store();
        assert!(store.parameters(id).unwrap().is_empty());
        for counter in [10, 9, 10] {
            store.put_parameters(id, counter, b"values").unwrap();
        }
        assert!(matches!(
            store.put_parameters(id, 10, b"others"),
            Err(Error::File { source, .. }) if source.kind() == ErrorKind::AlreadyExists
        ));
        let mut found = store.parameters(id).unwrap();
        found.sort_unstable();
        assert_eq!(found, [(9, b"values".into()), (10, b"values".into())]);
        store.drop_parameters(id, &[0, 10, 11]).unwrap();
        let found = store.parameters(id).unwrap();
        assert_eq!(found, [(10, b"values".into())]);
    }

    #[test]
    fn a_revision_is_read_as_what_its_name_says() {
        let (_guard, store, id) = store();
        assert_eq!(store.revision(id).unwrap().0, b"document");
        assert!(!store.is_factory(id));
        let path = store.revision_directory(id).join("revision.json");
        durable::write(&path, b"documenT").unwrap();
        assert!(matches!(store.revision(id), Err(Error::Damaged { .. })));
        durable::write(&path, &vec![0; revision::CAP + 1]).unwrap();
        assert!(matches!(
            store.revision(id),
            Err(Error::File { source, .. }) if source.kind() == ErrorKind::FileTooLarge
        ));
    }
}
