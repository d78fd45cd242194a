//! The hub's binary on loopback, with real TLS: what devices and operators ask of it, and what it survives.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod admission;
mod bounds;
mod client;
mod crowd;
mod desired;
mod first_path;
mod operators;
mod polls;
mod publishing;
mod removal;
mod survival;
mod swarm;
mod usage;
mod world;
