//! The boot record: two records with two owners, each in two copies.
//!
//! - [`Loader`] is the only thing that a loader writes: which slot is the default, which is tried, tries left.
//! - [`State`] is PID 1's: what is committed, what is tried, how the last trial failed, the floor.
//!
//! Formats are specified in the modules [`loader`] and [`state`]. Nothing here does I/O; see [`crate::bootenv`].

pub mod state;

pub use kedge_loading::record as loader;
pub use kedge_loading::{COPY, Loader, Slot, crc32};
pub use state::{Failure, Hub, Reason, State, Target, Trial};
