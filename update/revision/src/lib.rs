//! Formats and trust: what a device runs, who may say so, and how each byte of it is judged.
//!
//! This crate parses, checks, orders and verifies. It does no I/O: a parser takes bytes, a loader
//! elsewhere reads them. It is the lowest crate of the workspace; everything that touches a
//! document or an object's id goes through its types, and what is verified has another type than
//! what is not.
//!
//! | module | holds |
//! |---|---|
//! | [`id`] | names of objects, keys and things |
//! | [`verity`] | fs-verity trees: computing them, checking blocks as they arrive |
//! | [`json`] | the canonical form that every document has |
//! | [`signing`] | signatures over exact bytes, thresholds |
//! | [`root`] | the trust root and its rotation |
//! | [`revision`] | a revision's envelope and its verification |
//! | [`content`], [`container`], [`configuration`] | what the envelope carries |
//! | [`change`] | what going from one revision to another costs |
//! | [`definition`] | what a container's data is kept under |
//! | [`bundle`] | a revision with its objects in one file |
//! | [`device`] | rules for devices of containers |
//! | [`limits`] | bounds on what a container uses |
//! | [`pool`] | networks of containers' own |
//! | [`parameters`] | the values that differ between devices |
//! | [`sealed`] | secrets that only one device can read |
//! | [`fresh`] | the hub's signed answer |
//! | [`authority`] | which certificates a hub is to be known by |
//! | [`enrolment`] | a device's request to be taken in, and what it was provisioned with |
//! | [`product`] | the identity that is built into an image |
//! | [`order`] | which revision is newer, and what may never run again |
//! | [`time`] | time stamps |

pub mod authority;
pub mod bundle;
pub mod change;
pub mod configuration;
pub mod container;
pub mod content;
pub mod definition;
pub mod device;
pub mod enrolment;
pub mod error;
pub mod fresh;
pub mod id;
pub mod json;
pub mod limits;
pub mod order;
pub mod parameters;
pub mod pool;
pub mod product;
pub mod revision;
pub mod root;
pub mod sealed;
pub mod signing;
pub mod time;
pub mod verity;

pub use configuration::Configuration;
pub use container::{Container, ControlRole, Goal};
pub use content::Content;
pub use error::Error;
pub use id::{FileName, KeyId, Name, ObjectId};
pub use order::{Floor, Order};
pub use product::{Mode, Product};
pub use revision::{Envelope, Policy, Verified};
pub use root::{Role, Root};
pub use signing::{PublicKey, SignatureSet};
pub use time::Timestamp;
