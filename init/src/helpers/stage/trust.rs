//! What this device accepts, as PID 1 says.

use super::super::FrameError;
use super::refused::Refused;
use kedge_revision::revision::Envelope;
use kedge_revision::{
    Floor, ObjectId, Policy, Product, Root, SignatureSet, Verified, json, revision,
};
use kedge_store::Store;

/// The device's identity, newest root, floor and committed revision.
#[derive(Debug)]
pub(super) struct Trust {
    product: Product,
    root: Root,
    floor: Floor,
    pub(super) committed: ObjectId,
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
        })
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

    /// The committed revision's envelope. PID 1 judged it, by the root that it names; here its name is enough.
    pub(super) fn committed(&self, store: &Store) -> Result<Envelope, Refused> {
        let (document, _) = store.revision(self.committed)?;
        Ok(json::parse("revision", revision::CAP, &document)?)
    }
}
