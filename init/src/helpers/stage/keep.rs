//! What a collection leaves: what PID 1 names, the committed and the factory revision, and what an offer needs.

use super::rights;
use kedge_revision::ObjectId;
use kedge_store::collect::{Collected, collect, collect_state};
use kedge_store::{Error, Store};

/// The revisions that PID 1 named last, and the one that it said is committed.
#[derive(Debug, Default)]
pub(super) struct Keep {
    named: Vec<ObjectId>,
    committed: Option<ObjectId>,
    /// Of parameters that are committed or on trial.
    counters: [u64; 2],
}

impl Keep {
    pub(super) fn name(&mut self, revisions: Vec<ObjectId>) {
        self.named = revisions;
    }

    pub(super) const fn commit(&mut self, revision: ObjectId) {
        self.committed = Some(revision);
    }

    pub(super) const fn counters(&mut self, counters: [u64; 2]) {
        self.counters = counters;
    }

    /// Drops a revision's parameters but those that are committed, on trial, or of this counter. A hub may give new ones
    /// as often as it likes, and none before them is ever asked for again.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn drop_parameters(
        &self,
        store: &Store,
        revision: ObjectId,
        newest: u64,
    ) -> Result<(), Error> {
        let [committed, on_trial] = self.counters;
        store.drop_parameters(revision, &[committed, on_trial, newest])
    }

    /// Removes what containers wrote under definitions that are not those of the committed revision. Where that cannot
    /// be read, nobody knows what is needless.
    pub(super) fn drop_state(&self, store: &Store) {
        let Some(committed) = self.committed else {
            return;
        };
        let dropped = store
            .content_of(committed)
            .and_then(|content| rights::with(|| collect_state(store, &content)));
        if let Err(error) = dropped {
            super::say(&error);
        }
    }

    /// Removes everything else but the revision that is offered, and these objects. As long as PID 1 has not said
    /// what is committed, nothing is known to be needless.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Damaged`] if the document of the committed revision or of a named one is, and it is not the one
    /// that is offered: what it needs is unknown then, and nothing was removed.
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
            match store.objects_of(*id) {
                Ok(needed) => objects.extend(needed.keys()),
                // What is offered again has told its objects. A factory revision that can never run again is kept as it is, and
                // what it needed for nothing.
                Err(_) if offered == Some(*id) => {}
                Err(error) if committed != *id && !self.named.contains(id) => super::say(error),
                Err(error) => return Err(error),
            }
        }
        // What containers wrote in the lifetime of a revision goes with it, and belongs to their users.
        rights::with(|| collect(store, &revisions, &objects))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Device, container, draft};
    use super::*;
    use kedge_revision::container::{Lifetime, Snapshot, Volume};
    use kedge_revision::definition;
    use kedge_revision::revision::ObjectKind;
    use std::collections::BTreeMap;

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

    #[test]
    fn damage_that_an_offer_mends_or_that_nobody_runs_is_in_no_updates_way() {
        let device = Device::new();
        let store = &device.store;
        let factory = device.put(1, &[b"factory layer"], "factory\n");
        let committed = device.put(2, &[b"committed layer"], "bundle\n");
        device.put(3, &[b"needless layer"], "bundle\n");
        let needed = store.objects_of(committed).unwrap();
        for damaged in [factory, committed] {
            let path = store.revision_directory(damaged).join("revision.json");
            kedge_store::durable::write(&path, b"{}").unwrap();
        }
        let mut keep = Keep::default();
        keep.commit(committed);
        // Without the offer nobody knows what the committed revision needs.
        keep.collect(store, None, Vec::new()).unwrap_err();
        let objects = needed.keys().copied().collect();
        let collected = keep.collect(store, Some(committed), objects).unwrap();
        assert_eq!((collected.revisions, collected.objects), (1, 2));
        let mut layers = needed
            .iter()
            .filter(|(_, object)| object.kind == ObjectKind::Layer);
        assert!(layers.all(|(id, object)| store.has(*id, *object)));
        assert!(store.revision_directory(factory).exists());
    }

    #[test]
    fn data_of_a_definition_that_is_not_committed_goes() {
        let device = Device::new();
        let store = &device.store;
        let volume = |lifetime| Volume {
            path: "/data".to_owned(),
            lifetime,
            owner: None,
            size: None,
            snapshot: Snapshot::Never,
            snapshot_max: None,
        };
        let [old, new] =
            [b"old layer", b"new layer"].map(|layer| container(layer, volume(Lifetime::Revision)));
        let [old_digest, new_digest] =
            [&old, &new].map(|container| definition::digest(container).unwrap());
        assert_ne!(old_digest, new_digest);
        let mut draft = draft(2, &[b"new layer"]);
        draft.content.containers = BTreeMap::from([("web".parse().unwrap(), new)]);
        let (committed, document, signatures) = device.sign(draft);
        let put = store.put_revision(committed, &document, &signatures, "bundle\n");
        put.unwrap();
        let state = store.data().join("state");
        let wrote = |container: &str, digest: &str| {
            let directory = state.join(container).join(digest).join("root");
            std::fs::create_dir_all(&directory).unwrap();
            directory
        };
        let kept = wrote("web", &new_digest);
        let gone = [wrote("web", &old_digest), wrote("db", &old_digest)];
        let mut keep = Keep::default();
        keep.drop_state(store);
        assert!(gone.iter().all(|directory| directory.exists()));
        keep.commit(committed);
        keep.drop_state(store);
        assert!(kept.exists() && !gone.iter().any(|directory| directory.exists()));
    }
}
