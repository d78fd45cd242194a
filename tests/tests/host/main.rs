//! The tier `host`: the command `kedge` and the importer with the real image tools, without booting anything.

mod command;
mod documents;
mod flashing;
mod fleet;
mod hostile;
mod importing;
#[cfg(feature = "long")]
mod kernels;
mod keys;
mod layers;
mod outputs;
mod registries;
mod sbom;
mod secure_boot;
mod slots;
mod statuses;
mod tokens;
mod updates;
