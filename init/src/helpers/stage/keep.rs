//! What a collection leaves: what PID 1 names, the committed and the factory revision, and what an offer needs.

use super::rights;
use kedge_revision::ObjectId;
use kedge_store::collect::{Collected, collect};
use kedge_store::{Error, Store};

/// The revisions that PID 1 named last, and the one that it said is committed.
#[derive(Debug, Default)]
pub(super) struct Keep {
    named: Vec<ObjectId>,
    committed: Option<ObjectId>,
}

impl Keep {
    pub(super) fn name(&mut self, revisions: Vec<ObjectId>) {
        self.named = revisions;
    }

    pub(super) const fn commit(&mut self, revision: ObjectId) {
        self.committed = Some(revision);
    }

    /// Removes everything else but the revision that is offered, and these objects. As long as PID 1 has not said
    /// what is committed, nothing is known to be needless.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Damaged`] if the document of a kept revision is: what it needs is unknown then, and
    /// nothing was removed.
    pub(super) fn collect(
        &self,
        store: &Store,
        offered: Option<ObjectId>,
        mut objects: Vec<ObjectId>,
    ) -> Result<Collected, Error> {
        let Some(committed) = self.committed else {
            return Ok(Collected::default());
        };
        let mut revisions = self.named.clone();
        revisions.push(committed);
        revisions.extend(offered);
        let there = store.revisions()?;
        revisions.extend(there.iter().filter(|id| store.is_factory(**id)));
        for id in there.iter().filter(|id| revisions.contains(id)) {
            objects.extend(store.objects_of(*id)?.keys());
        }
        // What containers wrote in the lifetime of a revision goes with it, and belongs to their users.
        rights::with(|| collect(store, &revisions, &objects))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Device;
    use super::*;

    #[test]
    fn what_is_named_committed_factory_or_offered_stays() {
        let device = Device::new();
        let store = &device.store;
        let factory = device.put(1, &[b"factory layer"], "factory\n");
        let committed = device.put(2, &[b"committed layer"], "bundle\n");
        let named = device.put(3, &[b"named layer"], "bundle\n");
        let offered = device.put(4, &[b"offered layer"], "bundle\n");
        let gone = device.put(5, &[b"needless layer"], "bundle\n");
        let all = store.objects().unwrap().len();
        let mut keep = Keep::default();
        keep.name(vec![named]);
        let collected = keep.collect(store, Some(offered), Vec::new()).unwrap();
        assert_eq!(collected, Collected::default());
        keep.commit(committed);
        let collected = keep.collect(store, Some(offered), Vec::new()).unwrap();
        assert_eq!((collected.revisions, collected.objects), (1, 1));
        assert_eq!(store.objects().unwrap().len(), all - 1);
        let mut left = vec![factory, committed, named, offered];
        left.sort_unstable();
        assert_eq!(store.revisions().unwrap(), left);
        assert!(!store.revision_directory(gone).exists());
        // The offer is over, and what it brought goes.
        keep.collect(store, None, Vec::new()).unwrap();
        assert_eq!(store.revisions().unwrap().len(), 3);
    }

    #[test]
    fn a_kept_revision_that_is_damaged_lets_nothing_go() {
        let device = Device::new();
        let store = &device.store;
        let kept = device.put(1, &[b"kept layer"], "bundle\n");
        device.put(2, &[b"needless layer"], "bundle\n");
        let path = store.revision_directory(kept).join("revision.json");
        kedge_store::durable::write(&path, b"{}").unwrap();
        let mut keep = Keep::default();
        keep.commit(kept);
        let all = store.objects().unwrap();
        keep.collect(store, None, Vec::new()).unwrap_err();
        assert_eq!(store.objects().unwrap(), all);
    }
}
