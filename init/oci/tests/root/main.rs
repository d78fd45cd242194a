//! The command on this machine's kernel: containers from bundles, hostile images, podman. Needs root; what else it needs is
//! installed. Limits need control groups of version 2 with controllers: those are tested in the guest.
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
mod hostile;
mod life;
mod mounts;
mod podman;
mod processes;
