//! Attacks and faults, each a test of its name. Archives are made here by code, so that nothing hostile lies in the tree.
//!
//! What needs mkfs.erofs is not here but in the host tier: these judge the normalised tar.

mod fixture;
mod hostile;
mod layers;
mod property;
mod sources;
