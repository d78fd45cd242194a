//! What PCs are made of where QEMU's own devices are not: disks on SATA, NVMe and USB, and Intel's network cards. Each machine boots
//! through its firmware, takes its address, restarts and finds its data again. With `--all-boards` also every test of a slot.

use crate::{built_for, life, uboot};
use anyhow::{Context, Result, ensure};
use kedge_board_support::boards;
use kedge_image_build::qemu::VmConfig;
use kedge_tests::disk::Disk;
use kedge_tests::guest::{BOOT, Checks, Guest, text};

const BOARD: &str = "pc-x86-64";

/// A PC: what QEMU is told of its disk and of its network card.
struct Machine {
    name: &'static str,
    /// What the disk hangs on, where the machine has it not by itself.
    controller: Option<&'static str>,
    disk: &'static str,
    network: &'static str,
}

impl Machine {
    fn start(&self, disk: &Disk) -> Result<Guest> {
        let mut config =
            VmConfig::new(boards::find(BOARD)?, disk.path(), &disk.folder().join("vm"));
        let qemu = config.board.qemu.as_mut().context("no [qemu]")?;
        qemu.disk = Some(self.disk.to_owned());
        qemu.network = Some(self.network.to_owned());
        config.devices = self.controller.map(str::to_owned).into_iter().collect();
        Guest::with(config)
    }

    /// Boots, has an address, restarts, and has kept what its containers wrote.
    fn lives(&self) -> Result<()> {
        let disk = Disk::copy_of(&built_for(BOARD)?.image)?;
        let mut guest = self.start(&disk)?;
        let mut checks = Checks::default();
        let said = |what| format!("{}: {what}", self.name);
        checks.run(&said("boots, containers run"), &mut guest, life::boots);
        checks.run(&said("has its address"), &mut guest, has_address);
        checks.run(&said("volumes, first boot"), &mut guest, |guest| {
            life::volumes(guest, 1, 1, 1)
        });
        checks.run(&said("restarts"), &mut guest, |guest| {
            guest.post("/v1/reboot")?;
            guest.wait_for_boot(2, uboot::SOON)?;
            guest.wait_for_control(BOOT).map(drop)
        });
        checks.run(&said("volumes, second boot"), &mut guest, |guest| {
            life::volumes(guest, 2, 2, 1)
        });
        checks.run(&said("power off"), &mut guest, life::power_off);
        checks.finish()
    }
}

/// The one network card's address is there, and nothing of the boot failed.
fn has_address(guest: &mut Guest) -> Result<()> {
    let status = guest.wait("an address by DHCP", uboot::SOON, |guest| {
        let status = guest.status()?;
        let bound = status
            .pointer("/network/0/dhcp")
            .and_then(|word| word.as_str());
        Ok((bound == Some("bound")).then_some(status))
    })?;
    ensure!(text(&status, "phase") == "running", "{status}");
    Ok(())
}

#[test]
fn vm_pc_with_nvme() -> Result<()> {
    let machine = Machine {
        name: "NVMe, e1000e",
        controller: None,
        disk: "nvme,serial=kedge",
        network: "e1000e",
    };
    machine.lives()
}

#[test]
fn vm_pc_with_sata() -> Result<()> {
    let machine = Machine {
        name: "SATA, e1000",
        controller: None,
        disk: "ide-hd,bus=ide.0",
        network: "e1000",
    };
    machine.lives()
}

#[test]
fn vm_pc_with_a_stick() -> Result<()> {
    let machine = Machine {
        name: "USB stick, virtio",
        controller: Some("qemu-xhci,id=usb"),
        disk: "usb-storage,bus=usb.0,removable=on",
        network: "virtio-net-pci",
    };
    machine.lives()
}

#[cfg(feature = "all-boards")]
mod all_boards {
    use super::BOARD;
    use crate::{agent, built_fleet_for, cuts, ram, slots};
    use anyhow::Result;

    #[test]
    fn vm_pc_trials_of_a_slot() -> Result<()> {
        slots::trials_of_a_slot(BOARD)
    }

    #[test]
    fn vm_pc_power_cuts_at_any_moment_of_a_trial() -> Result<()> {
        cuts::power_cuts(BOARD)
    }

    #[test]
    fn vm_pc_a_hub_brings_other_slots() -> Result<()> {
        let (fleet, disk) = built_fleet_for(BOARD)?;
        agent::other_slots(&fleet, &disk)
    }

    #[test]
    fn vm_pc_runs_from_memory() -> Result<()> {
        ram::runs_from_memory(BOARD)
    }
}
