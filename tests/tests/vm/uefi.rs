//! The board `pc-x86-64`: the same images through real firmware, Debian's OVMF, and what our loader there does with the
//! loader record, with a firmware that has forgotten everything, and with its own partitions damaged.

use crate::uboot::{Case, SOON, armed, judge};
use crate::{built_for, confined, life, slots};
use anyhow::{Context, Result, ensure};
use kedge_board_support::boards;
use kedge_board_support::record::{Loader, Slot};
use kedge_image_build::qemu::{ResetCause, VARIABLES, VmConfig};
use kedge_image_build::{files, toolchain};
use kedge_tests::disk::Disk;
use kedge_tests::guest::{BOOT, Checks, Guest, text};
use kedge_tests::trials;
use serde_json::Value;
use std::path::PathBuf;

const BOARD: &str = "pc-x86-64";
const PROGRAM: &str = "EFI/BOOT/BOOTX64.EFI";

fn fresh_disk() -> Result<Disk> {
    Disk::copy_of(&built_for(BOARD)?.image)
}

#[test]
fn vm_uefi_boots_the_same_images() -> Result<()> {
    let disk = fresh_disk()?;
    let mut guest = Guest::start_on(BOARD, &disk, &[8080])?;
    let mut checks = Checks::default();
    checks.run("boots, containers run", &mut guest, life::boots);
    checks.run("status", &mut guest, |guest| {
        let status = guest.status()?;
        for (field, expected) in [("board", BOARD), ("slot", "a"), ("phase", "running")] {
            ensure!(text(&status, field) == expected, "{field}: {status}");
        }
        ensure!(status.get("secure-boot").is_none(), "{status}");
        Ok(())
    });
    checks.run("confinement", &mut guest, confined::confinement);
    checks.run("idle memory", &mut guest, |guest| {
        life::idle_memory(guest, BOARD)
    });
    checks.run("volumes, first boot", &mut guest, |guest| {
        life::volumes(guest, 1, 1, 1)
    });
    checks.run("orderly reboot through the firmware", &mut guest, |guest| {
        guest.post("/v1/reboot")?;
        guest.wait_for_boot(2, SOON)?;
        let resets = guest.resets();
        ensure!(resets == [ResetCause::Guest], "{resets:?}");
        guest.wait_for_control(BOOT).map(drop)
    });
    checks.run("volumes, second boot", &mut guest, |guest| {
        life::volumes(guest, 2, 2, 1)
    });
    checks.run("power off", &mut guest, life::power_off);
    checks.run("the file system is clean", &mut guest, |_| {
        disk.check_data()
    });
    checks.finish()
}

/// A trial of two tries whose kernel panics.
const PANICS: [Case; 3] = [
    Case {
        says: &[
            "kedge: default a, trial b, tries left 1; slot b kedge.try=1",
            "kedge: starting slot b",
        ],
        slot: Slot::B,
        record: Some(armed(1)),
    },
    Case {
        says: &[
            "Kernel panic",
            "kedge: default a, trial b, tries left 0; slot b kedge.try=0",
            "kedge: starting slot b",
        ],
        slot: Slot::B,
        record: Some(armed(0)),
    },
    Case {
        says: &[
            "Kernel panic",
            "kedge: default a, trial b, tries left 0; slot a kedge.failed=b",
            "kedge: starting slot a",
        ],
        slot: Slot::A,
        record: Some(armed(0)),
    },
];

#[test]
fn vm_uefi_counts_a_trial_that_panics_and_goes_back() -> Result<()> {
    let disk = fresh_disk()?;
    // The kernel finds no program to run, and panics. It is the last argument of a name that counts.
    disk.fill_slot_b("rdinit=/nonexistent")?;
    disk.set_loader(&armed(2))?;
    disk.damage_loader(&[0])?;
    let mut guest = Guest::start_on(BOARD, &disk, &[])?;
    let mut checks = Checks::default();
    for (number, case) in (1..).zip(&PANICS) {
        checks.run(&format!("boot {number}"), &mut guest, |guest| {
            judge(guest, &disk, number, case)
        });
    }
    checks.run("the kernel is told", &mut guest, |guest| {
        let (first, own) = (boards::find(BOARD)?.arguments(), disk.guid()?);
        for rest in [
            "kedge.slot=b kedge.try=1 rdinit=/nonexistent",
            "kedge.slot=a kedge.failed=b",
        ] {
            let line = format!("{first} kedge.disk={own} {rest}");
            guest.expect(&format!("Kernel command line: {line}"), SOON)?;
        }
        Ok(())
    });
    checks.run("the default lives", &mut guest, |guest| {
        let status = guest.wait_for_control(BOOT)?;
        ensure!(text(&status, "slot") == "a", "{status}");
        Ok(())
    });
    checks.finish()
}

/// One machine, whose reset button is pressed once the loader has decided.
#[test]
fn vm_uefi_falls_back_from_what_cannot_be_started() -> Result<()> {
    let disk = fresh_disk()?;
    disk.spoil("slot-b")?;
    disk.set_loader(&armed(2))?;
    let mut guest = Guest::start_on(BOARD, &disk, &[])?;
    let mut checks = Checks::default();
    checks.run(
        "a trial that does not load costs a try",
        &mut guest,
        |guest| {
            let case = Case {
                says: &[
                    "slot b kedge.try=1",
                    "kedge: slot b cannot be started",
                    "kedge: starting slot a",
                ],
                slot: Slot::A,
                record: Some(armed(1)),
            };
            judge(guest, &disk, 1, &case)
        },
    );
    checks.run(
        "without a whole record the default is slot a",
        &mut guest,
        |guest| {
            disk.damage_loader(&[0, 1])?;
            guest.press_reset()?;
            let case = Case {
                says: &[
                    "both copies of the loader record are damaged",
                    "kedge: starting slot a",
                ],
                slot: Slot::A,
                record: None,
            };
            judge(guest, &disk, 2, &case)
        },
    );
    checks.run(
        "a default whose kernel is none gives way",
        &mut guest,
        |guest| {
            disk.fill_slot_b("")?;
            disk.write_to_slot(Slot::A, "kernel", b"MZ, and then nothing")?;
            disk.set_loader(&Loader::born())?;
            guest.press_reset()?;
            let case = Case {
                says: &[
                    "kedge: slot a cannot be started: its kernel is refused",
                    "kedge: starting slot b",
                ],
                slot: Slot::B,
                record: Some(Loader::born()),
            };
            judge(guest, &disk, 3, &case)
        },
    );
    checks.finish()
}

/// QEMU fails every write to one copy of the record. A trial that cannot be counted would be tried for ever.
#[test]
fn vm_uefi_does_not_try_what_it_cannot_count() -> Result<()> {
    for failing in [0, 8] {
        let disk = fresh_disk()?;
        disk.fill_slot_b("")?;
        disk.set_loader(&armed(3))?;
        let sector = disk.partition("bootenv")?.offset / 512 + failing;
        let rules = disk.folder().join("rules");
        files::write(
            &rules,
            format!(
                "[inject-error]\nevent = \"write_aio\"\nerrno = \"5\"\nsector = \"{sector}\"\n"
            ),
        )?;
        let path = format!("blkdebug:{}:{}", rules.display(), disk.path().display());
        let mut config =
            VmConfig::new(boards::find(BOARD)?, disk.path(), &disk.folder().join("vm"));
        config.disk = PathBuf::from(path);
        let mut guest = Guest::with(config)?;
        let mut checks = Checks::default();
        checks.run("the default starts, and is told why", &mut guest, |guest| {
            guest.wait_for_boot(1, SOON)?;
            let slot = guest.slot();
            ensure!(slot == Some(Slot::A), "slot {slot:?} starts");
            guest
                .expect("kedge.slot=a kedge.record=unwritable", SOON)
                .map(drop)
        });
        checks.run("the copy that was read is as it was", &mut guest, |_| {
            let found = disk.boot_record()?;
            let copies = [&found.loader[0], &found.loader[1]];
            let copies = copies.map(|copy| copy.as_ref().ok().copied());
            // The second is written first, and the first not at all once that has failed.
            let second = if failing == 0 { 2 } else { 3 };
            let expected = [armed(3), armed(second)].map(Some);
            ensure!(copies == expected, "{copies:?}");
            Ok(())
        });
        checks.finish()?;
    }
    Ok(())
}

/// Starts the machine and waits for the loader's decision.
fn starts(disk: &Disk, wanted: Slot) -> Result<Guest> {
    let mut guest = Guest::start_on(BOARD, disk, &[])?;
    guest.wait_for_boot(1, SOON)?;
    let slot = guest.slot();
    ensure!(slot == Some(wanted), "slot {slot:?} starts");
    Ok(guest)
}

#[test]
fn vm_uefi_needs_nothing_that_its_firmware_remembers() -> Result<()> {
    let disk = fresh_disk()?;
    disk.fill_slot_b("")?;
    disk.set_loader(&Loader::starts(Slot::B))?;
    drop(starts(&disk, Slot::B)?);
    let variables = disk.folder().join("vm").join(VARIABLES);
    ensure!(variables.is_file(), "the firmware keeps no variables");
    std::fs::remove_file(&variables)?;
    drop(starts(&disk, Slot::B)?);
    // The loader's first place is lost as a whole.
    disk.spoil("boot")?;
    drop(starts(&disk, Slot::B)?);
    std::fs::remove_file(&variables)?;
    drop(starts(&disk, Slot::B)?);
    Ok(())
}

#[test]
fn vm_uefi_has_its_loader_twice() -> Result<()> {
    let disk = fresh_disk()?;
    disk.write_to_fat("boot", PROGRAM, b"MZ, and then nothing")?;
    drop(starts(&disk, Slot::A)?);
    Ok(())
}

#[test]
fn vm_uefi_commits_an_update_in_the_other_slot() -> Result<()> {
    let (mut project, disk) = trials::project_on(env!("CARGO_BIN_EXE_kedge"), BOARD)?;
    let mut guest = Guest::start_on(BOARD, &disk, &[])?;
    let mut checks = Checks::default();
    checks.run("boots", &mut guest, |guest| {
        guest.wait_for_state("app", "running", BOOT).map(drop)
    });
    checks.run(
        "another kernel argument is tried and kept",
        &mut guest,
        |guest| {
            project.kernel_arguments("tests.kedge=1")?;
            let pushed = project.push(guest, &[])?;
            ensure!(pushed.committed, "{}", pushed.said);
            let status = guest.status()?;
            ensure!(text(&status, "slot") == "b", "{status}");
            let update = trials::update(guest)?;
            ensure!(update.pointer("/committed/slot") == Some(&Value::from("b")));
            Ok(())
        },
    );
    checks.run("the loader starts it from now on", &mut guest, |guest| {
        let found = disk.boot_record()?;
        ensure!(found.loader() == Some(Loader::starts(Slot::B)));
        let boots = guest.boots();
        guest.press_reset()?;
        guest.wait_for_boot(boots + 1, SOON)?;
        ensure!(guest.slot() == Some(Slot::B), "slot {:?}", guest.slot());
        guest.wait_for_state("app", "running", BOOT).map(drop)
    });
    checks.run(
        "a panic's text is kept by the firmware",
        &mut guest,
        |guest| {
            if !project.has_module("ext4")? {
                // Our own kernel has no modules, and not this driver.
                return Ok(());
            }
            ensure!(
                project.has_module("efi_pstore")?,
                "the board names no efi_pstore"
            );
            let before = trials::committed(guest)?;
            project.tries(1)?;
            project.kernel_arguments("-- leave")?;
            let probe = toolchain::build_program(&boards::find(BOARD)?, "kedge-probe", "probe")?;
            project.replace_init(&probe)?;
            let tried = slots::push(&project, guest)?;
            slots::back(guest, &tried, &before, "b", "kernel-panic")?;
            slots::told(guest, "Attempted to kill init")
        },
    );
    checks.finish()
}

const SECURE_BOOT: &str = r#"
[secure-boot]
key = "keys/secure-boot/db.key"
certificate = "keys/secure-boot/db.pem"
"#;

/// It would cost all its tries, each through the firmware, and the device a restart for each.
#[test]
fn vm_uefi_refuses_early_what_secure_boot_would_not_start() -> Result<()> {
    let (project, _) = trials::project_on(env!("CARGO_BIN_EXE_kedge"), BOARD)?;
    project
        .kedge
        .ask(&["key", "secure-boot", "--no-passphrase"])?;
    let folder = project.kedge.folder();
    let manifest = folder.join("kedge.toml");
    files::write(&manifest, files::read_text(&manifest)? + SECURE_BOOT)?;
    let platform = project.platform().display().to_string();
    let built = project.kedge.ask(&["build", "--platform", &platform])?;
    let image = built.pointer("/image/path").and_then(Value::as_str);
    let disk = Disk::copy_of(&folder.join(image.context("no image was made")?))?;
    let mut config = VmConfig::new(boards::find(BOARD)?, disk.path(), &disk.folder().join("vm"));
    config.secure_boot = Some(folder.join("keys/secure-boot/db.pem"));
    let mut guest = Guest::with(config)?;
    let mut checks = Checks::default();
    checks.run("the status tells that it is on", &mut guest, |guest| {
        guest.wait_for_state("app", "running", BOOT)?;
        let status = guest.status()?;
        let told = status.get("secure-boot") == Some(&Value::Bool(true));
        ensure!(told, "{status}");
        Ok(())
    });
    checks.run("an offer without a statement", &mut guest, |guest| {
        let before = trials::committed(guest)?;
        project.edit(SECURE_BOOT, "")?;
        let socket = guest.control_socket().display().to_string();
        let words = ["push", "--socket", &socket, "--platform", &platform];
        let (said, _) = project.kedge.refuse(&words)?;
        for part in [
            "no statement for Secure Boot",
            "build it with [secure-boot]",
        ] {
            ensure!(said.contains(part), "no {part:?} in: {said}");
        }
        ensure!(trials::committed(guest)? == before, "another is committed");
        let update = trials::update(guest)?;
        let untried = update.get("trial").is_none() && update.get("failed").is_none();
        ensure!(untried && guest.boots() == 1, "it was tried: {update}");
        Ok(())
    });
    checks.finish()
}
