//! `qemu-mipsel`: what the kernel, the sources and another C library make of this processor, and a boot record in erase blocks,
//! as on flash. The loader is the one that `qemu-x86-64` has, too; what a device must do is written where other boards do it.
//!
//! All are run by `cargo xtask test vm --all-boards` alone. The kernel is our own, and is built by whoever runs this first:
//! no kernel of Debian's serves. Our kernels take no system request from a serial line, so no running one is made to panic here; that a
//! panic's text outlives its reset is part of `trials_of_a_slot`.

use crate::uboot;
use anyhow::{Result, ensure};
use kedge_board_support::boards;
use kedge_image_build::qemu::VmConfig;
use kedge_tests::guest::{BOOT, Checks, Guest, text};

const BOARD: &str = "qemu-mipsel";

#[test]
fn vm_mipsel_smoke() -> Result<()> {
    uboot::vm_uboot_smoke(BOARD)
}

/// The least machine that README promises, and what it is for: containers run, and another slot is tried and committed.
#[test]
fn vm_mipsel_smoke_in_32_mib() -> Result<()> {
    let (project, disk) = crate::built_trials_for(BOARD)?;
    let board = boards::find(BOARD)?;
    let mut config = VmConfig::new(board, disk.path(), &disk.folder().join("vm"));
    config.memory = Some(32);
    let mut guest = Guest::with(config)?;
    let mut checks = Checks::default();
    checks.run("containers run", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        for name in ["keeper", "data", "base", "app"] {
            guest.wait_for_state(name, "running", BOOT)?;
        }
        Ok(())
    });
    checks.run("an update of the other slot", &mut guest, |guest| {
        project.kernel_arguments("tests.kedge=1")?;
        let pushed = project.push(guest, &[])?;
        ensure!(pushed.committed, "{}", pushed.said);
        let status = guest.status()?;
        ensure!(text(&status, "slot") == "b", "{status}");
        ensure!(guest.boots() == 2, "{} boots", guest.boots());
        Ok(())
    });
    checks.finish()
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
