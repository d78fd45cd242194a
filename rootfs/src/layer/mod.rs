//! One layer: entries in, a normalised tar and an EROFS image out.
//!
//! Stages, each on its own: `path` cleans names; `normalise` judges entries and builds a `tree` over the `merged` view of the layers
//! below; `emit` writes the tree as a tar, always the same bytes for the same tree; `erofs` hands that to mkfs.erofs; `machine` knows whose programs are in it. Contents
//! lie in the `spool`, one unnamed temporary file for a whole image; only names and attributes are held in memory.

pub(crate) mod emit;
pub(crate) mod erofs;
pub(crate) mod machine;
pub(crate) mod merged;
pub(crate) mod normalise;
pub(crate) mod path;
pub(crate) mod spool;
pub(crate) mod tree;
pub(crate) mod xattr;
