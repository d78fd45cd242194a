//! The tier `vm`: devices in QEMU. Each test is one machine with many checks on it, since a boot costs seconds.

mod apply;
mod arm64;
mod cuts;
mod faults;
mod fleet;
mod hangs;
mod life;
mod live;
mod mend;
mod slots;
mod unjudged;

use anyhow::Result;
use kedge_tests::disk::Disk;
use kedge_tests::product::{BOARD, Product, product};

/// The product, built once for all tests of this run.
fn built() -> Result<Product> {
    built_for(BOARD)
}

/// The same for another board.
fn built_for(board: &str) -> Result<Product> {
    product(env!("CARGO_BIN_EXE_kedge"), board)
}

/// A disk of its own for one test.
fn fresh_disk() -> Result<Disk> {
    Disk::copy_of(&built()?.image)
}

/// A project of one test's own and its device's disk.
fn built_trials() -> Result<(kedge_tests::trials::Project, Disk)> {
    kedge_tests::trials::project(env!("CARGO_BIN_EXE_kedge"))
}
