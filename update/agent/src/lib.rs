//! The agent: asks a hub what to run, and brings it to PID 1.
//!
//! A supervised helper of PID 1 under a user of its own, without privileges. Nobody trusts it: PID 1 verifies again
//! whatever it brings, and it may crash at any time.
//!
//! | module | holds |
//! |---|---|
//! | [`frames`] | what it and PID 1 tell each other, beside the control interface |
//! | [`decide`] | what to do next; pure |
//! | [`schedule`] | when to ask again; pure |
//! | `agent`, `asking`, `steps`, `failing` | the loop that does it |
//! | `floor` | how the floor of time rises; pure |
//! | `ready` | from an address to a hub that is known and knows the device |
//! | `roots` | a root on its way |
//! | `fetch` | a revision on its way |
//! | [`report`] | what a hub is told |
//! | [`hub`], [`local`], [`http`], [`tls`] | the two that it talks to, and how |
//! | [`secrets`] | values that were sealed for the device |
//! | [`unpack`] | frames of zstd |
//! | [`pace`] | how long an answer may take |
//! | [`kept`] | what it keeps over boots |
//!
//! What is not here: judging revisions and objects, which PID 1's helper does; names of interfaces and addresses.

#[cfg(feature = "client")]
mod agent;
#[cfg(feature = "client")]
mod asking;
#[cfg(feature = "client")]
pub mod decide;
#[cfg(feature = "client")]
mod error;
#[cfg(feature = "client")]
mod failing;
#[cfg(feature = "client")]
mod fetch;
#[cfg(feature = "client")]
mod floor;
pub mod frames;
#[cfg(feature = "client")]
pub mod http;
#[cfg(feature = "client")]
pub mod hub;
#[cfg(feature = "client")]
pub mod kept;
#[cfg(feature = "client")]
pub mod local;
#[cfg(feature = "client")]
mod logging;
#[cfg(feature = "client")]
pub mod pace;
#[cfg(feature = "client")]
mod ready;
#[cfg(feature = "client")]
pub mod report;
#[cfg(feature = "client")]
mod roots;
#[cfg(feature = "client")]
pub mod schedule;
#[cfg(feature = "client")]
pub mod secrets;
#[cfg(feature = "client")]
mod steps;
#[cfg(feature = "client")]
pub mod tls;
#[cfg(feature = "client")]
pub mod unpack;

#[cfg(feature = "client")]
pub use agent::Paths;
#[cfg(feature = "client")]
pub use error::{Error, Peer};

/// Becomes the agent, until PID 1 closes its end of `socket`.
///
/// # Errors
/// [`Error::Socket`], and what is wrong with the device's own key: without it nothing can be asked.
#[cfg(feature = "client")]
pub fn run(socket: std::os::fd::BorrowedFd<'_>, paths: &Paths) -> Result<(), Error> {
    agent::Agent::new(socket, paths)?.serve()
}
