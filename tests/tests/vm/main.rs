//! The tier `vm`: devices in QEMU. Each test is one machine with many checks on it, since a boot costs seconds.

mod agent;
mod apply;
mod boards;
mod confined;
mod containers;
mod cuts;
mod cycles;
mod devices;
mod escapes;
mod exec;
mod faults;
#[cfg(feature = "all-boards")]
mod first_stage;
mod fleet;
mod guides;
mod hangs;
mod hostile;
mod life;
mod limits;
mod live;
mod mend;
#[cfg(feature = "all-boards")]
mod mipsel;
mod network;
mod oci;
mod operator;
mod pc;
mod pools;
mod ram;
mod secure_boot;
mod slots;
mod slow;
mod spent;
mod sticks;
mod uboot;
mod uefi;
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

/// A hub, a project that trusts it, and its device's disk.
fn built_fleet() -> Result<(kedge_tests::fleet::Fleet, Disk)> {
    built_fleet_for(BOARD)
}

/// The same for another board.
fn built_fleet_for(board: &str) -> Result<(kedge_tests::fleet::Fleet, Disk)> {
    let hub = env!("CARGO_BIN_EXE_test-hub");
    kedge_tests::fleet::Fleet::new(env!("CARGO_BIN_EXE_kedge"), hub, board)
}

/// A project of one test's own and its device's disk.
fn built_trials() -> Result<(kedge_tests::trials::Project, Disk)> {
    built_trials_for(BOARD)
}

/// The same for another board.
fn built_trials_for(board: &str) -> Result<(kedge_tests::trials::Project, Disk)> {
    kedge_tests::trials::project_on(env!("CARGO_BIN_EXE_kedge"), board)
}
