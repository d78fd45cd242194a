//! Objects and revisions on a device's data partition.
//!
//! ```text
//! objects/v1/ab/<64 hex>       immutable, sealed with fs-verity
//! revisions/<64 hex>/          revision.json, revision.sig, parameters/<counter>, origin, committed
//! roots/<n>.json, <n>.sig
//! staging/<64 hex>.part, .tree resumable downloads
//! volumes/<container>/<name>/
//! snapshots/<64 hex>/          volumes as they were before a trial
//! device/                      identity, enrolment
//! logs/
//! ```
//! What arrives is staged block by block, each judged on arrival; what is complete is sealed, synced
//! and only then given its name. Order of every change: contents, sync, name, sync of the directory.
//! [`durable`] is the only module that renames or syncs.
//!
//! Not here: networking, mounting, and the decision what to keep, which the caller makes.

pub mod collect;
mod damaged;
pub mod durable;
mod error;
pub mod space;
pub mod staging;
mod store;

pub use damaged::drop_damaged;
pub use error::Error;
pub use staging::{Arrival, Staging};
pub use store::{Mark, Store, names};
