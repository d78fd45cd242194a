//! Products with their roots, and published revisions.

use kedge_api::Signed;
use kedge_revision::bundle::Head;
use kedge_revision::parameters::Parameter;
use kedge_revision::revision::Object;
use kedge_revision::{Floor, KeyId, Name, ObjectId, Order, Root, Timestamp};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// A root and the document that it came as.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) root: Root,
    pub(crate) signed: Signed,
    /// Whether this hub may serve its product by it: it names the hub, and asks for no other one beside it.
    pub(crate) serves: bool,
}

/// Whether a hub of this key may serve a product by its root.
pub(crate) fn serves(root: &Root, hub: KeyId) -> bool {
    root.roles.hub.keys.contains(&hub) && root.roles.hub.threshold == 1
}

/// A product's roots by version, without a gap.
#[derive(Debug, Default)]
pub(crate) struct Product {
    roots: BTreeMap<u32, Known>,
}

impl Product {
    pub(crate) fn add(&mut self, known: Known) {
        self.roots.insert(known.root.version, known);
    }

    /// What the next one has to follow.
    pub(crate) fn newest(&self) -> Option<&Root> {
        self.roots.values().next_back().map(|known| &known.root)
    }

    /// What an earlier one has to be followed by.
    pub(crate) fn oldest(&self) -> Option<&Known> {
        self.roots.values().next()
    }

    /// By which the product is served: the newest that names this hub. Those behind it are for devices that follow the
    /// chain, to another hub or back to this one.
    pub(crate) fn serving(&self) -> Option<&Root> {
        let mut newest = self.roots.values().rev();
        newest.find(|known| known.serves).map(|known| &known.root)
    }

    pub(crate) fn root(&self, version: u32) -> Option<&Known> {
        self.roots.get(&version)
    }
}

/// A published revision, judged.
#[derive(Debug)]
pub(crate) struct Revision {
    pub(crate) id: ObjectId,
    pub(crate) product: Name,
    pub(crate) board: Name,
    pub(crate) version: String,
    pub(crate) order: Order,
    pub(crate) floor: Floor,
    pub(crate) objects: BTreeMap<ObjectId, Object>,
    /// What it declares; none if only its own init can read its content: then values are that one's to judge.
    pub(crate) parameters: Option<BTreeMap<Name, Parameter>>,
    /// The document and its signatures, as a head without parameters.
    pub(crate) head: Head,
    pub(crate) published: Timestamp,
    complete: AtomicBool,
}

impl Revision {
    /// From a judged envelope and the documents that it came as.
    pub(crate) fn new(
        id: ObjectId,
        envelope: &kedge_revision::Envelope,
        head: Head,
        published: Timestamp,
        complete: bool,
    ) -> Self {
        Self {
            id,
            product: envelope.product.clone(),
            board: envelope.board.clone(),
            version: envelope.version.clone(),
            order: envelope.order(),
            floor: envelope.floor(),
            objects: envelope.objects.clone(),
            parameters: envelope.content().ok().map(|content| content.parameters),
            head,
            published,
            complete: AtomicBool::new(complete),
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    pub(super) fn set_complete(&self) {
        self.complete.store(true, Ordering::Release);
    }
}
