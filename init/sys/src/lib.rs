//! Typed wrappers of the Linux system calls that Kedge needs.
//!
//! This is the only crate with `unsafe` code: one operation a block, each with the invariant that
//! it needs and why that holds. Whatever rustix wraps safely is used through [`rustix`], which is
//! re-exported so that the crates above share one version of it; what rustix lacks is here.
//!
//! What it does not do: policy. No paths, no retries, no logging, no knowledge of containers,
//! boards or revisions. It opens no file that the caller did not name. It keeps no state.
//!
//! Descriptors are `OwnedFd` and `BorrowedFd` everywhere and are created close-on-exec.
#![allow(
    unsafe_code,
    reason = "the one crate whose job it is; every other crate denies it"
)]

pub mod attempt;
pub mod block;
pub mod bpf;
pub mod clone;
pub mod descriptors;
mod error;
pub mod exec;
pub mod ext4;
pub mod fsids;
pub mod inbox;
pub mod keyring;
pub mod landlock;
pub mod loopback;
pub mod memory;
pub mod module;
pub mod mount;
pub mod netlink;
pub mod open;
pub mod packet;
pub mod privilege;
pub mod process;
pub mod reboot;
pub mod resident;
pub mod seccomp;
pub mod signals;
pub mod sock;
mod syscall;
pub mod terminal;
pub mod timer;
pub mod verity;
pub mod watchdog;

pub use error::{During, Error, Result};
pub use rustix;
pub use rustix::io::Errno;
