//! What attackers may bring to the documents that a device believes, and what it meets.
//!
//! Each test is named after its row of the table in `docs/trust.md`, which lists them; for each row `tests/faults.toml` has
//! mutations of the code that let the attack through, and `cargo xtask mutate` demands that the tests fail then.
//!
//! What happens to bytes on their way and on a disk is attacked where those are handled: `update/store`, `update/agent`,
//! `init/src/helpers/stage`, `tests/tests/host/hostile`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test; helpers outside of test functions are not exempt by themselves"
)]

mod answers;
mod fixture;
mod keys;
mod order;
mod shape;
mod signatures;
