//! A board from its first instruction on: QEMU's Orange Pi PC has a boot ROM that reads the SPL from a card, and nothing else is
//! given to it than the image. SPL, U-Boot, our script, the slot's device tree, the kernel with the board's modules, PID 1 and
//! containers from the card; a network by the processor's own controller. What QEMU lacks of the machine, and what is done in its
//! place, is in the board's file and in `image-build/src/qemu/card.rs`.
//!
//! By `cargo xtask test vm --all-boards` alone: U-Boot looks for screens and USB for minutes there.

use crate::{built_for, confined, life, uboot};
use anyhow::{Context, Result, ensure};
use kedge_board_support::record::Slot;
use kedge_tests::disk::Disk;
use kedge_tests::guest::{BOOT, Checks, Guest};

const BOARD: &str = "orange-pi-pc-plus";
/// What U-Boot has by itself as the machine's name, and what the slot's device tree is given instead, so that the kernel tells
/// whose it got.
const OWN: &str = "Xunlong Orange Pi PC Plus";
const SLOTS: &str = "Xunlong Orange Pi of Slot";
const TREE: &str = "sun8i-h3-orangepi-pc-plus.dtb";

/// No orderly restart: the slot's device tree is that of the PC Plus, whose WLAN and eMMC QEMU's PC has not, and the kernel waits for
/// an answer of theirs before it restarts.
#[test]
fn vm_orange_pi_runs_containers() -> Result<()> {
    let disk = Disk::copy_of(&built_for(BOARD)?.image)?;
    let mut guest = Guest::start_on(BOARD, &disk, &[8080])?;
    let mut checks = Checks::default();
    checks.run("boots, containers run", &mut guest, life::boots);
    checks.run("confinement", &mut guest, confined::confinement);
    checks.run(
        "what is widened, and no more",
        &mut guest,
        confined::widened,
    );
    checks.run("idle memory", &mut guest, |guest| {
        life::idle_memory(guest, BOARD)
    });
    checks.run(
        "the data partition takes the rest of the card",
        &mut guest,
        |_| {
            let data = disk.partition("data")?;
            let end = data.offset.saturating_add(data.size);
            ensure!(end > 1000 << 20, "it ends at {end}");
            Ok(())
        },
    );
    checks.finish()
}

#[test]
fn vm_orange_pi_counts_a_trial_that_panics_and_goes_back() -> Result<()> {
    uboot::vm_uboot_counts_a_trial_that_panics_and_goes_back(BOARD)
}

#[test]
fn vm_orange_pi_starts_with_the_slots_device_tree() -> Result<()> {
    starts(SLOTS, |disk| {
        let mut tree = disk.read_from_fat("slot-a", TREE)?;
        let at = tree
            .windows(OWN.len())
            .position(|found| found == OWN.as_bytes());
        let name = at.and_then(|at| tree.get_mut(at..)?.get_mut(..OWN.len()));
        name.context("the device tree has another name")?
            .copy_from_slice(SLOTS.as_bytes());
        disk.write_to_slot(Slot::A, TREE, &tree)
    })
}

#[test]
fn vm_orange_pi_starts_with_u_boots_own_device_tree_where_the_slot_has_none() -> Result<()> {
    starts(OWN, |disk| disk.remove_from_slot(Slot::A, TREE))
}

/// Starts the card after `edit`; the kernel must then say that it runs on this machine.
fn starts(machine: &str, edit: fn(&Disk) -> Result<()>) -> Result<()> {
    let disk = Disk::copy_of(&built_for(BOARD)?.image)?;
    edit(&disk)?;
    let mut guest = Guest::start_on(BOARD, &disk, &[])?;
    let mut checks = Checks::default();
    checks.run("everything in its order", &mut guest, |guest| {
        guest.wait_for_boot(1, BOOT)?;
        let mut lines = guest.before_boot(1).iter();
        for wanted in [
            "U-Boot SPL 20",
            "Trying to boot from MMC1",
            "Allwinner Technology",
        ] {
            ensure!(lines.any(|line| line.contains(wanted)), "no {wanted:?}");
        }
        guest.expect(&format!("OF: fdt: Machine model: {machine}"), BOOT)?;
        guest.expect("PID 1 started at", BOOT).map(drop)
    });
    checks.finish()
}
