//! Helpers: supervised children of PID 1, the same binary by another name, for whatever may block.
//!
//! | name | does |
//! |---|---|
//! | [`disk`] | writes logs, grows the file system, probes the store, syncs |
//! | [`net`] | sets interfaces up and keeps them so |
//! | [`stage`] | takes a revision in, writes slots, keeps and restores volumes |
//! | [`agent`] | asks a hub what to run, and brings it |
//! | [`stick`] | looks for a revision on removable disks, and brings it |
//!
//! Each talks with PID 1 over a pair of sockets that keep messages whole (`SOCK_SEQPACKET`): a frame
//! is a message, so there is nothing to reassemble and nothing torn. The helper's end is its
//! standard input: a descriptor that Rust lends without unsafe code. A helper ends when PID 1
//! closes its end. Frames are little-endian: a byte for the kind, and then what the kind says.
//!
//! PID 1's side is [`Link`]: it never blocks and holds at most [`Link::MAX_QUEUED`] frames.

pub mod agent;
pub mod disk;
mod error;
mod link;
pub mod net;
pub mod stage;
pub mod stick;
mod wire;

use kedge_sys::privilege::{self, CapabilitySet};

pub use error::{Error, FrameError};
pub use link::{Incoming, Link, QueueFull};

/// Leaves only `keep` of all capabilities, and no way back. What a helper may do beyond that it may as root,
/// the owner of its files.
fn confine(keep: CapabilitySet) -> Result<(), Error> {
    privilege::set_no_new_privs().map_err(Error::Privilege)?;
    privilege::bound_capabilities(keep).map_err(Error::Privilege)?;
    hold(keep)
}

/// Holds of `keep` what is held now, from now on: inside a container PID 1 itself may lack some, and then
/// only the work that needs it fails.
fn hold(keep: CapabilitySet) -> Result<(), Error> {
    let held = privilege::capabilities()
        .map_err(Error::Privilege)?
        .permitted
        & keep;
    privilege::set_capabilities(held, held, CapabilitySet::empty()).map_err(Error::Privilege)
}
