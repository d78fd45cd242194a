//! `qemu-mipsel`: what the kernel, the sources and another C library make of this processor, and a boot record in erase blocks,
//! as on flash. The loader is the one that `qemu-x86-64` has, too; what a device must do is written where other boards do it.
//!
//! All are run by `cargo xtask test vm --all-boards` alone. The kernel is our own, and is built by whoever runs this first:
//! no kernel of Debian's serves. Our kernels take no system request from a serial line, so no running one is made to panic here; that a
//! panic's text outlives its reset is part of `trials_of_a_slot`.

use crate::uboot;
use anyhow::Result;

const BOARD: &str = "qemu-mipsel";

#[test]
fn vm_mipsel_smoke() -> Result<()> {
    uboot::vm_uboot_smoke(BOARD)
}

#[test]
fn vm_mipsel_boots_the_same_images() -> Result<()> {
    uboot::vm_uboot_boots_the_same_images(BOARD)
}

#[test]
fn vm_mipsel_trials_of_a_slot() -> Result<()> {
    crate::slots::trials_of_a_slot(BOARD)
}

#[test]
fn vm_mipsel_a_hub_brings_other_slots() -> Result<()> {
    let (fleet, disk) = crate::built_fleet_for(BOARD)?;
    crate::agent::other_slots(&fleet, &disk)
}

#[test]
fn vm_mipsel_power_cuts_at_any_moment_of_a_trial() -> Result<()> {
    crate::cuts::power_cuts(BOARD)
}

#[test]
fn vm_mipsel_a_device_that_runs_from_memory() -> Result<()> {
    crate::ram::runs_from_memory(BOARD)
}

#[test]
fn vm_mipsel_a_confined_agent_brings_an_update() -> Result<()> {
    uboot::vm_a_confined_agent_brings_an_update(BOARD)
}
