//! Collection: what no kept revision names goes.
//!
//! The caller says which revisions are kept: committed, trial, factory, and what a pending update
//! needs. Runs before a download that would not fit, never while an object is being written.

use crate::durable;
use crate::error::Error;
use crate::store::{Store, id_of, names};
use kedge_revision::{Content, ObjectId, definition};

/// What a collection did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Collected {
    /// Objects removed.
    pub objects: usize,
    /// Revisions removed.
    pub revisions: usize,
    /// Interrupted downloads removed.
    pub staged: usize,
    /// Bytes given back.
    pub bytes: u64,
}

/// Removes revisions that are not in `revisions`, then objects and staged parts that are not in `objects`.
///
/// The order matters at a power cut: a revision goes before its objects, so that no revision is
/// ever left that names an object which is not there.
///
/// # Errors
/// [`Error::File`]; what was removed until then is gone, and running it again goes on.
pub fn collect(
    store: &Store,
    revisions: &[ObjectId],
    objects: &[ObjectId],
) -> Result<Collected, Error> {
    let mut collected = Collected::default();
    // By name, not by document: what a cut left of an earlier collection has lost that.
    for name in names(&store.data().join("revisions"))? {
        let Some(id) = id_of(&name) else {
            continue;
        };
        if !revisions.contains(&id) {
            let directory = store.revision_directory(id);
            // The document first: without it the directory is no revision any more.
            durable::remove(&directory.join("revision.json"))?;
            durable::remove_tree(&directory)?;
            collected.revisions += 1;
        }
    }
    for id in store.objects()? {
        if !objects.contains(&id) {
            let path = store.object_path(id);
            let size = std::fs::metadata(&path).map_or(0, |file| file.len());
            durable::remove(&path)?;
            collected.objects += 1;
            collected.bytes = collected.bytes.saturating_add(size);
        }
    }
    let staging = store.data().join("staging");
    for name in names(&staging)? {
        let wanted = name
            .split_once('.')
            .and_then(|(hex, _)| id_of(hex))
            .is_some_and(|id| objects.contains(&id));
        if !wanted {
            durable::remove(&staging.join(name))?;
            collected.staged += 1;
        }
    }
    Ok(collected)
}

/// Where data of `revision` lifetime is kept, below the data directory: `state/<container>/<definition>/`.
pub const STATE: &str = "state";

/// Removes the data that containers wrote under definitions which are not those of `content`; how many.
///
/// # Errors
/// As [`collect`].
pub fn collect_state(store: &Store, content: &Content) -> Result<usize, Error> {
    let state = store.data().join(STATE);
    if !state.exists() {
        return Ok(0);
    }
    let mut removed: usize = 0;
    for container in names(&state)? {
        let directory = state.join(&container);
        let definition = content
            .containers
            .iter()
            .find(|(name, _)| name.as_str() == container)
            .map(|(_, container)| definition::digest(container))
            .transpose()
            .map_err(|source| Error::Damaged { source })?;
        match definition {
            None => durable::remove_tree(&directory)?,
            Some(kept) => {
                for other in names(&directory)? {
                    if other != kept {
                        durable::remove_tree(&directory.join(other))?;
                        removed = removed.saturating_add(1);
                    }
                }
                continue;
            }
        }
        removed = removed.saturating_add(1);
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::staging::Staging;
    use kedge_revision::revision::{Object, ObjectKind};
    use kedge_revision::verity;

    fn put(store: &Store, text: &str) -> ObjectId {
        let mut builder = verity::Builder::new();
        builder.update(text.as_bytes());
        let sealed = builder.finish();
        let object = Object {
            size: sealed.size,
            kind: ObjectKind::Layer,
        };
        let mut staging = Staging::begin(store, sealed.id, object, &sealed.tree).unwrap();
        staging.write(text.as_bytes()).unwrap();
        staging.finish().unwrap();
        sealed.id
    }

    #[test]
    fn what_is_kept_stays_and_the_rest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let (a, b) = (put(&store, "a"), put(&store, "bb"));
        let document = b"document";
        let (kept, dropped) = (verity::digest(document), verity::digest(b"other"));
        store.put_revision(kept, document, b"sig", "test").unwrap();
        store
            .put_revision(dropped, b"other", b"sig", "test")
            .unwrap();
        let collected = collect(&store, &[kept], &[a]).unwrap();
        let expected = Collected {
            objects: 1,
            revisions: 1,
            staged: 0,
            bytes: 2,
        };
        assert_eq!(collected, expected);
        assert_eq!(store.objects().unwrap(), [a]);
        assert_eq!(store.revisions().unwrap(), [kept]);
        assert!(!store.object_path(b).exists());
    }

    #[test]
    fn what_a_cut_left_of_a_collection_goes() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let id = verity::digest(b"document");
        store.put_revision(id, b"document", b"sig", "test").unwrap();
        durable::remove(&store.revision_directory(id).join("revision.json")).unwrap();
        assert_eq!(collect(&store, &[], &[]).unwrap().revisions, 1);
        assert!(!store.revision_directory(id).exists());
    }

    #[test]
    fn a_document_of_another_revision_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let id = verity::digest(b"document");
        store
            .put_revision(id, b"documenT", b"sig", "test")
            .unwrap_err();
        assert_eq!(store.revisions().unwrap(), []);
    }
}
