//! The fleet in memory: what polls, queries and lists are answered from.
//!
//! It follows the database: the writer thread changes it after each commit, and nobody else does. Only what is worth no
//! write is kept here alone: when a device was last heard of, and whether its poll is held.

mod device;
mod product;

pub(crate) use device::{Device, Presence, Row, Summary, Wanted};
pub(crate) use product::{Known, Product, Revision, serves};

use kedge_api::operator::Event;
use kedge_revision::{KeyId, Name, ObjectId};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::broadcast;

/// Events that a slow follower may be behind before it has to read the database.
const EVENTS: usize = 1024;

/// What was committed.
#[derive(Debug)]
pub(crate) enum Change {
    /// A device is there, or has changed.
    Device(Box<Row>),
    /// A device was removed.
    Removed(KeyId),
    /// A product has a further root.
    Root(Name, Known),
    /// A revision was published.
    Revision(Arc<Revision>),
    /// All objects of a revision are there.
    Complete(ObjectId),
    /// A revision was removed.
    Collected(ObjectId),
    /// Something happened.
    Event(Event),
}

/// Everything that is known.
#[derive(Debug)]
pub(crate) struct Fleet {
    devices: RwLock<BTreeMap<KeyId, Arc<Device>>>,
    products: RwLock<BTreeMap<Name, Product>>,
    revisions: RwLock<BTreeMap<ObjectId, Arc<Revision>>>,
    events: broadcast::Sender<Arc<Event>>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            devices: RwLock::default(),
            products: RwLock::default(),
            revisions: RwLock::default(),
            events: broadcast::Sender::new(EVENTS),
        }
    }
}

impl Fleet {
    /// Takes over what was committed.
    pub(crate) fn apply(&self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Device(row) => self.put(*row),
                Change::Removed(id) => {
                    let mut devices = self.devices.write().unwrap_or_else(PoisonError::into_inner);
                    let removed = devices.remove(&id);
                    drop(devices);
                    if let Some(device) = removed {
                        device.leave();
                    }
                }
                Change::Root(product, known) => {
                    let mut products = self
                        .products
                        .write()
                        .unwrap_or_else(PoisonError::into_inner);
                    products.entry(product.clone()).or_default().add(known);
                    drop(products);
                    // Their answers name the newest root.
                    for device in self.devices() {
                        if device.row().product == product {
                            device.wake();
                        }
                    }
                }
                Change::Revision(revision) => {
                    let mut revisions = self
                        .revisions
                        .write()
                        .unwrap_or_else(PoisonError::into_inner);
                    revisions.insert(revision.id, revision);
                }
                Change::Complete(id) => {
                    if let Some(revision) = self.revision(id) {
                        revision.set_complete();
                    }
                }
                Change::Collected(id) => {
                    let mut revisions = self
                        .revisions
                        .write()
                        .unwrap_or_else(PoisonError::into_inner);
                    revisions.remove(&id);
                }
                // Nobody may be listening.
                Change::Event(event) => drop(self.events.send(Arc::new(event))),
            }
        }
    }

    fn put(&self, row: Row) {
        if let Some(device) = self.device(row.id) {
            device.replace(row);
            return;
        }
        let mut devices = self.devices.write().unwrap_or_else(PoisonError::into_inner);
        devices.insert(row.id, Arc::new(Device::new(row, 0)));
    }

    /// Takes in a device as the database has it at the start.
    pub(crate) fn load(&self, row: Row, seen: u64) {
        let mut devices = self.devices.write().unwrap_or_else(PoisonError::into_inner);
        devices.insert(row.id, Arc::new(Device::new(row, seen)));
    }

    pub(crate) fn device(&self, id: KeyId) -> Option<Arc<Device>> {
        let devices = self.devices.read().unwrap_or_else(PoisonError::into_inner);
        devices.get(&id).map(Arc::clone)
    }

    /// All devices, in order of their ids.
    pub(crate) fn devices(&self) -> Vec<Arc<Device>> {
        let devices = self.devices.read().unwrap_or_else(PoisonError::into_inner);
        devices.values().map(Arc::clone).collect()
    }

    pub(crate) fn revision(&self, id: ObjectId) -> Option<Arc<Revision>> {
        let revisions = self
            .revisions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        revisions.get(&id).map(Arc::clone)
    }

    pub(crate) fn revisions(&self) -> Vec<Arc<Revision>> {
        let revisions = self
            .revisions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        revisions.values().map(Arc::clone).collect()
    }

    /// What is known of a product, if the hub serves it.
    pub(crate) fn product<T>(&self, name: &Name, look: impl FnOnce(&Product) -> T) -> Option<T> {
        let products = self.products.read().unwrap_or_else(PoisonError::into_inner);
        products.get(name).map(look)
    }

    /// Version of the root by which a product is served; 0 if it is not.
    pub(crate) fn serving_root(&self, product: &Name) -> u32 {
        self.product(product, |product| {
            product.serving().map_or(0, |root| root.version)
        })
        .unwrap_or(0)
    }

    /// Events from now on.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Arc<Event>> {
        self.events.subscribe()
    }
}
