//! The tier `root`: the container engine on this machine's kernel, and that it leaves nothing behind.
//!
//! The tests stand beside the engine, where its developers run them alone; here they are part of the whole.
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

#[path = "../../../init/container/tests/root/bench.rs"]
mod bench;
mod cards;
#[path = "../../../init/container/tests/root/confinement.rs"]
mod confinement;
#[path = "../../../init/container/tests/root/devices.rs"]
mod devices;
#[path = "../../../init/container/tests/root/files.rs"]
mod files;
mod full_disk;
mod helpers;
mod leases;
mod pools;
#[path = "../../../init/container/tests/root/running.rs"]
mod running;
mod stage;

/// Gives this thread, and what it starts, mounts of its own: another test compares all that it sees before and after.
fn own_mounts() -> kedge_sys::Result<()> {
    use kedge_sys::rustix::mount::{MountPropagationFlags, mount_change};
    kedge_sys::process::unshare(kedge_sys::clone::Namespaces::MOUNT)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|errno| kedge_sys::Error::new("mount", errno))
}
