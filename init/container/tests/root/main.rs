//! Containers on this machine's kernel. Needs root, user namespaces, overlayfs and idmapped mounts
//! (Linux 6.7 or newer).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a failed test panics"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "what a test writes need not outlive it"
)]

mod bench;
mod confinement;
mod devices;
mod files;
mod running;
