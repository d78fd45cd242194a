//! A revision with its values, ready to be run: read from disk and judged, at boot and when a trial begins.

use super::{Boot, DATA, Identity, Roots, Values, objects, partitions, trust};
use crate::error::Error;
use crate::helpers::stage::{COMPLETE, envelope_of};
use kedge_board_support::control::Decision;
use kedge_board_support::record::Slot;
use kedge_board_support::record::state::Target;
use kedge_revision::change::Running;
use kedge_revision::configuration::NetworkConfiguration;
use kedge_revision::container::Snapshot;
use kedge_revision::revision::Object;
use kedge_revision::{Content, ObjectId, Verified};
use kedge_store::Store;
use std::path::{Path, PathBuf};

/// Where copies of volumes are kept while a trial runs.
const SNAPSHOTS: &str = "snapshots";
/// Where the kernel lists block devices.
const CLASS: &str = "/sys/class/block";

/// What can be run.
#[derive(Debug)]
pub struct Side {
    /// The revision.
    pub revision: Verified,
    /// Its content.
    pub content: Content,
    /// The values of its parameters.
    pub parameters: Values,
}

impl Side {
    /// As a comparison takes it.
    #[must_use]
    pub fn running(&self) -> Running<'_> {
        Running {
            revision: self.revision.id(),
            boot: &self.revision.envelope().boot,
            content: &self.content,
            parameters: &self.parameters,
        }
    }

    /// The network as it is to be, with the values of its parameters.
    #[must_use]
    pub fn network(&self) -> NetworkConfiguration {
        let network = &self.content.configuration.network;
        network.with_values(&self.parameters)
    }
}

impl Boot {
    fn judges(&self) -> Result<(&Identity, &Roots, kedge_revision::Floor), Error> {
        match (&self.identity, &self.roots, &self.control) {
            (Some(identity), Some(roots), Some(control)) => {
                Ok((identity, roots, control.state().floor))
            }
            _ => Err(Error::BootRecord {
                which: "state record",
            }),
        }
    }

    /// Reads a new revision from the store and judges it by the newest root.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Document`], [`Error::Object`].
    pub fn read_document(&self, id: ObjectId) -> Result<Verified, Error> {
        self.read_judged(id, trust::Judges::Newest)
    }

    pub(super) fn read_judged(
        &self,
        id: ObjectId,
        judges: trust::Judges,
    ) -> Result<Verified, Error> {
        let (identity, roots, floor) = self.judges()?;
        let store = Store::at(Path::new(DATA));
        trust::revision(&store, id, roots, judges, &identity.product, floor)
    }

    /// Judges the content of a revision and reads the values that its target names.
    ///
    /// # Errors
    /// [`Error::Document`], [`Error::File`], [`Error::Parameters`].
    pub fn read_side(&self, revision: Verified, target: Target) -> Result<Side, Error> {
        let store = Store::at(Path::new(DATA));
        let content = revision.content().map_err(|source| Error::Document {
            path: store
                .revision_directory(target.revision)
                .join("revision.json"),
            source,
        })?;
        let parameters = trust::parameters(&store, target, &content)?;
        Ok(Side {
            revision,
            content,
            parameters,
        })
    }

    /// Whether a revision needs another kernel, initramfs or arguments than the committed slot holds.
    #[must_use]
    pub fn needs_slot(&self, new: &Verified) -> bool {
        let boot = &new.envelope().boot;
        if let Some(running) = &self.revision {
            return running.envelope().boot != *boot;
        }
        let Some(control) = &self.control else {
            return true;
        };
        // Of a committed revision that is lost nobody knows what its slot holds: a whole slot mends it. The stage helper
        // asks for what boots by the same rule.
        let committed = control.state().committed.revision;
        let committed = envelope_of(&Store::at(Path::new(DATA)), committed);
        committed.is_none_or(|committed| committed.boot != *boot)
    }

    /// The committed revision, while another one is on trial or none runs.
    ///
    /// # Errors
    /// As [`Boot::read_document`].
    pub fn read_committed(&self, target: Target) -> Result<Side, Error> {
        let revision = self.read_judged(target.revision, trust::Judges::Any)?;
        self.read_side(revision, target)
    }

    /// Takes what runs out, for an undo.
    pub fn take_side(&mut self) -> Option<Side> {
        match (self.revision.take(), self.content.take()) {
            (Some(revision), Some(content)) => Some(Side {
                revision,
                content,
                parameters: std::mem::take(&mut self.parameters),
            }),
            _ => None,
        }
    }

    /// Puts `side` in the place of what runs, which is given back. Layers are measured again.
    pub fn exchange_side(&mut self, side: Side) -> Option<Side> {
        let before = self.take_side();
        self.revision = Some(side.revision);
        self.content = Some(side.content);
        self.parameters = side.parameters;
        self.bad_objects.clear();
        if let Err(error) = super::objects(self) {
            self.problems.push(("objects", error));
        }
        before
    }

    /// Whether this boot tries its revision.
    #[must_use]
    pub fn is_try(&self) -> bool {
        self.decision == Decision::Try
    }
}

/// Checks one object of the store, as a boot does.
///
/// # Errors
/// [`Error::Object`], [`Error::File`].
pub fn check_object(id: ObjectId, object: Object) -> Result<(), Error> {
    objects::check(&Store::at(Path::new(DATA)), id, object)
}

/// Volumes of which a trial needs copies, as container and volume: both revisions want that. One that the new revision
/// does not know it cannot change; and where it says that it takes its chance, a volume that its container has made too
/// large to copy does not keep its own mending away.
#[must_use]
pub fn snapshot_volumes(committed: &Content, tried: &Content) -> Vec<(String, String)> {
    let wants = |content: &Content, name, volume| {
        let container = content.containers.get(name);
        let definition = container.and_then(|container| container.volumes.get(volume));
        definition.is_some_and(|definition| definition.snapshot == Snapshot::OnTrial)
    };
    let mut volumes = Vec::new();
    for (name, container) in &committed.containers {
        for volume in container.volumes.keys() {
            if wants(committed, name, volume) && wants(tried, name, volume) {
                volumes.push((name.to_string(), volume.to_string()));
            }
        }
    }
    volumes
}

/// The trial for which copies of volumes are kept, all of them; none: there are none.
#[must_use]
pub fn snapshot_of(data: &Path) -> Option<ObjectId> {
    let entries = std::fs::read_dir(data.join(SNAPSHOTS)).ok()?;
    entries.flatten().find_map(|entry| {
        // Copies that were cut short are of a trial whose containers never started.
        if !entry.path().join(COMPLETE).exists() {
            return None;
        }
        let name = entry.file_name().into_string().ok()?;
        format!("v1:{name}").parse().ok()
    })
}

/// The device of a slot's partition, on the disk that the data partition is on.
#[must_use]
pub fn slot_device(slot: Slot, data: Option<&Path>) -> Option<PathBuf> {
    partitions::sibling(Path::new(CLASS), data?, slot.partition())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::helpers::stage::fixture::{container, draft};
    use kedge_revision::container::{Lifetime, Volume};

    #[test]
    fn copies_are_made_of_what_both_revisions_want_copied() {
        let with = |names: &[&str], snapshot| {
            let mut content = draft(1, &[b"layer"]).content;
            for name in names {
                let volume = Volume {
                    path: "/data".into(),
                    lifetime: Lifetime::Permanent,
                    owner: None,
                    size: None,
                    snapshot,
                    snapshot_max: None,
                };
                let name = name.parse().unwrap();
                content.containers.insert(name, container(b"layer", volume));
            }
            content
        };
        let data = |name: &str| (name.to_owned(), "data".to_owned());
        let committed = with(&["left", "stays"], Snapshot::OnTrial);
        let tried = with(&["new", "stays"], Snapshot::OnTrial);
        assert_eq!(snapshot_volumes(&committed, &tried), [data("stays")]);
        let daring = with(&["left", "stays"], Snapshot::Never);
        assert_eq!(snapshot_volumes(&committed, &daring), []);
        assert_eq!(snapshot_volumes(&daring, &committed), []);
    }
}
