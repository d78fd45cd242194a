//! What goes into layers and initramfs: OCI images, archives and root file systems into reproducible EROFS layers.
//!
//! Host code. It reads what strangers made, so every name, size and digest is checked, every total has a bound ([`Bounds`]), and
//! nothing of an image is ever unpacked onto the host's file system: contents go through one unnamed temporary file, entries
//! through a tree in memory, and out comes one normalised tar for mkfs.erofs, which the caller provides.
//!
//! Not here: fetching images, signing, disk images, and any choice about what the revision says of a container.

#![forbid(unsafe_code)]

mod archive;
mod bounds;
pub mod config;
mod error;
mod import;
pub mod initramfs;
mod layer;
mod note;
pub mod oci_write;
mod options;
mod source;
mod stream;
#[cfg(test)]
mod tests;

pub use bounds::{Bounds, Limit};
pub use config::{Healthcheck, ImageProcess};
pub use error::{EntryFault, Error, TarFault};
pub use import::{Image, LayerFile, Progress, import, normalise, normalise_directory};
pub use initramfs::Initramfs;
pub use note::Note;
pub use oci_write::{LayoutImage, write_layout};
pub use options::{Devices, ImportOptions, Owners, Policy, SetId, oci_architecture};
pub use source::Source;
