//! Debian as a source of parts: packages for this machine, and packages taken apart without being installed.
//!
//! - [`require`] installs what a step needs on this machine, says why, and never asks.
//! - [`Archive`] is another suite's archive behind a private apt configuration: lists, package status and
//!   downloads are apart from the machine's own. The mirror's address and its proxy come from the machine's
//!   configuration, so none is written here; what is downloaded is verified with Debian's archive keyring.
//! - [`rootfs_tar`] merges packages into the file system of a container image.
//!
//! No maintainer script of a package from an [`Archive`] is ever run.

mod archive;
mod host;
mod rootfs;

pub use archive::{Archive, Package, Status};
pub use host::require;
pub use rootfs::rootfs_tar;
