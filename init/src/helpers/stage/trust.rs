//! What this device accepts, as PID 1 says.

use super::super::FrameError;
use super::refused::Refused;
use kedge_revision::revision::Envelope;
use kedge_revision::{
    Floor, ObjectId, Policy, Product, Root, SignatureSet, Verified, json, revision, verity,
};
use kedge_store::Store;

/// The device's identity, newest root, floor and committed revision.
#[derive(Debug)]
pub(super) struct Trust {
    product: Product,
    root: Root,
    floor: Floor,
    pub(super) committed: ObjectId,
    /// The firmware verifies what it starts; false until somebody says so.
    pub(super) secure_boot: bool,
}

impl Trust {
    pub(super) fn new(
        floor: Floor,
        committed: ObjectId,
        product: &[u8],
        root: &[u8],
    ) -> Result<Self, FrameError> {
        Ok(Self {
            product: Product::parse(product).map_err(|_| FrameError)?,
            root: Root::parse(root).map_err(|_| FrameError)?,
            floor,
            committed,
            secure_boot: false,
        })
    }

    /// Judges the root that follows, by what it replaces; its version.
    pub(super) fn follow(&mut self, document: &[u8], signatures: &[u8]) -> Result<u32, Refused> {
        let signatures = SignatureSet::parse(signatures)?;
        self.root = self.root.replace(document, &signatures)?;
        Ok(self.root.version)
    }

    /// Judges a revision.
    pub(super) fn verify(&self, document: &[u8], signatures: &[u8]) -> Result<Verified, Refused> {
        let signatures = SignatureSet::parse(signatures)?;
        let policy = Policy {
            product: &self.product,
            floor: self.floor,
        };
        Ok(Verified::verify(
            document,
            &signatures,
            &self.root,
            &policy,
        )?)
    }

    /// Reads a revision of the store and judges it.
    pub(super) fn load(&self, store: &Store, id: ObjectId) -> Result<Verified, Refused> {
        let (document, signatures) = store.revision(id)?;
        self.verify(&document, &signatures)
    }

    /// The committed revision's envelope; see [`envelope_of`].
    pub(super) fn committed(&self, store: &Store) -> Option<Envelope> {
        envelope_of(store, self.committed)
    }
}

/// What a revision that this device has committed says beside its content; none if its document is lost or another one.
///
/// Its name is enough, since it names these bytes: PID 1 judged them when they were tried. What may not run any more,
/// because it is below the floor or lacks a signature, still tells what its slot holds.
#[must_use]
pub fn envelope_of(store: &Store, id: ObjectId) -> Option<Envelope> {
    let (document, _) = store.revision(id).ok()?;
    if verity::digest(&document) != id {
        return None;
    }
    json::parse("revision", revision::CAP, &document).ok()
}
