//! The boards that U-Boot starts, as Debian ships it: the same images through it, and what our script does with the loader
//! record. U-Boot decides in five seconds, so that most cases end there and need no kernel.
//!
//! A case takes a board; [`cases`] makes a test of each for each board. `qemu-arm64` has all of them at all times. Of the
//! others, which differ by what compiled the same sources, a smoke test alone is run unless `cargo xtask test vm --all-boards`
//! asks for the rest.

use crate::{built_for, confined, life};
use anyhow::{Result, ensure};
use kedge_board_support::boards;
use kedge_board_support::record::loader::Armed;
use kedge_board_support::record::{Loader, Slot};
use kedge_image_build::files;
use kedge_image_build::image::gpt;
use kedge_image_build::platform::Platform;
use kedge_image_build::qemu::{ResetCause, VmConfig};
use kedge_rootfs::Initramfs;
use kedge_tests::disk::Disk;
use kedge_tests::guest::{BOOT, Checks, Guest, text};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// The tests of a board: its module, its name, the cases that are always run, and those that only a run over all boards has.
macro_rules! cases {
    ($module:ident, $board:literal, always: [$($always:ident),*], all_boards: [$($rest:ident),*]) => {
        mod $module {
            use anyhow::Result;
            $(
                #[test]
                fn $always() -> Result<()> {
                    super::$always($board)
                }
            )*
            $(
                #[cfg(feature = "all-boards")]
                #[test]
                fn $rest() -> Result<()> {
                    super::$rest($board)
                }
            )*
        }
    };
}

cases!(arm64, "qemu-arm64", always: [
    vm_uboot_boots_the_same_images,
    vm_uboot_counts_a_trial_that_panics_and_goes_back,
    vm_uboot_leaves_a_panics_text_alone,
    vm_uboot_goes_back_from_a_trial_that_hangs,
    vm_uboot_falls_back_from_what_cannot_be_started,
    vm_uboot_does_not_try_what_it_cannot_count,
    vm_uboot_smoke
], all_boards: [
    vm_a_confined_agent_brings_an_update,
    vm_a_hub_brings_other_slots,
    vm_a_device_that_runs_from_memory,
    vm_trials_of_a_slot,
    vm_power_cuts_at_any_moment_of_a_trial
]);
cases!(armv7, "qemu-armv7", always: [vm_uboot_smoke], all_boards: [
    vm_uboot_boots_the_same_images,
    vm_uboot_counts_a_trial_that_panics_and_goes_back,
    vm_uboot_leaves_a_panics_text_alone,
    vm_uboot_goes_back_from_a_trial_that_hangs,
    vm_uboot_falls_back_from_what_cannot_be_started,
    vm_uboot_does_not_try_what_it_cannot_count,
    vm_a_confined_agent_brings_an_update,
    vm_a_hub_brings_other_slots,
    vm_a_device_that_runs_from_memory,
    vm_trials_of_a_slot,
    vm_power_cuts_at_any_moment_of_a_trial
]);
cases!(riscv64, "qemu-riscv64", always: [vm_uboot_smoke], all_boards: [
    vm_uboot_boots_the_same_images,
    vm_uboot_counts_a_trial_that_panics_and_goes_back,
    vm_uboot_leaves_a_panics_text_alone,
    vm_uboot_goes_back_from_a_trial_that_hangs,
    vm_uboot_falls_back_from_what_cannot_be_started,
    vm_uboot_does_not_try_what_it_cannot_count,
    vm_a_confined_agent_brings_an_update,
    vm_a_hub_brings_other_slots,
    vm_a_device_that_runs_from_memory,
    vm_trials_of_a_slot,
    vm_power_cuts_at_any_moment_of_a_trial
]);

/// For a firmware and a loader to decide, and for a kernel to panic.
pub(crate) const SOON: Duration = Duration::from_secs(120);

fn fresh_disk(board: &str) -> Result<Disk> {
    Disk::copy_of(&built_for(board)?.image)
}

/// Slot b on trial, a the default.
pub(crate) const fn armed(left: u8) -> Loader {
    Loader {
        default: Slot::A,
        trial: Some(Armed {
            slot: Slot::B,
            left,
        }),
    }
}

/// What differs between boards whose firmware and script are the same: what the kernel and the sources make of the processor.
pub(crate) fn vm_uboot_smoke(board: &str) -> Result<()> {
    let disk = fresh_disk(board)?;
    let mut guest = Guest::start_on(board, &disk, &[8080])?;
    let mut checks = Checks::default();
    checks.run("boots, containers run", &mut guest, life::boots);
    checks.run("status", &mut guest, |guest| status(guest, board));
    checks.run("confinement", &mut guest, confined::confinement);
    checks.run(
        "what is widened, and no more",
        &mut guest,
        confined::widened,
    );
    checks.run("orderly reboot through the loader", &mut guest, reboots);
    checks.run("containers run again", &mut guest, life::boots);
    checks.run("idle memory", &mut guest, |guest| {
        life::idle_memory(guest, board)
    });
    checks.finish()
}

/// Whether the kernel of the board's platform has this driver: ours has all that the boards name, Debian's its modules.
fn has_driver(board: &str, name: &str) -> Result<bool> {
    let platform = Platform::load(&built_for(board)?.platform)?;
    let file = format!("modules/{name}.ko");
    Ok(platform.has_own_kernel() || platform.modules.contains(&file))
}

fn status(guest: &Guest, board: &str) -> Result<()> {
    let status = guest.status()?;
    for (field, expected) in [("board", board), ("slot", "a"), ("phase", "running")] {
        ensure!(text(&status, field) == expected, "{field}: {status}");
    }
    Ok(())
}

fn reboots(guest: &mut Guest) -> Result<()> {
    ensure!(
        guest.boots() == 1,
        "it was started before: {} times",
        guest.boots()
    );
    guest.post("/v1/reboot")?;
    guest.wait_for_boot(2, SOON)?;
    ensure!(
        guest.resets() == [ResetCause::Guest],
        "{:?}",
        guest.resets()
    );
    guest.wait_for_control(BOOT).map(drop)
}

pub(crate) fn vm_uboot_boots_the_same_images(board: &str) -> Result<()> {
    let disk = fresh_disk(board)?;
    let mut guest = Guest::start_on(board, &disk, &[8080])?;
    let mut checks = Checks::default();
    checks.run("boots, containers run", &mut guest, life::boots);
    checks.run("status", &mut guest, |guest| status(guest, board));
    checks.run("confinement", &mut guest, confined::confinement);
    checks.run(
        "what is widened, and no more",
        &mut guest,
        confined::widened,
    );
    checks.run("memory limit", &mut guest, life::memory);
    checks.run(
        "lives on when the boot's memory is given back",
        &mut guest,
        |guest| {
            // PID 1 does so 5 s after it has begun to serve.
            guest.wait("it runs for 15 s", SOON, |guest| {
                let uptime = guest.status()?.get("uptime-ms").and_then(Value::as_u64);
                Ok(uptime.filter(|time| *time > 15_000))
            })?;
            ensure!(guest.boots() == 1, "boot {}", guest.boots());
            Ok(())
        },
    );
    checks.run("volumes, first boot", &mut guest, |guest| {
        life::volumes(guest, 1, 1, 1)
    });
    checks.run("orderly reboot through the loader", &mut guest, reboots);
    checks.run("volumes, second boot", &mut guest, |guest| {
        life::volumes(guest, 2, 2, 1)
    });
    checks.run("power off", &mut guest, life::power_off);
    checks.run("the file system is clean", &mut guest, |_| {
        disk.check_data()
    });
    checks.finish()
}

/// The agent's filter has a table for each architecture.
#[cfg(feature = "all-boards")]
pub(crate) fn vm_a_confined_agent_brings_an_update(board: &str) -> Result<()> {
    let (fleet, disk) = crate::built_fleet_for(board)?;
    let guest = fleet.start_flashed(&disk)?;
    crate::agent::confined_agent(&fleet, guest)
}

#[cfg(feature = "all-boards")]
fn vm_a_hub_brings_other_slots(board: &str) -> Result<()> {
    let (fleet, disk) = crate::built_fleet_for(board)?;
    crate::agent::other_slots(&fleet, &disk)
}

#[cfg(feature = "all-boards")]
fn vm_a_device_that_runs_from_memory(board: &str) -> Result<()> {
    crate::ram::runs_from_memory(board)
}

#[cfg(feature = "all-boards")]
fn vm_trials_of_a_slot(board: &str) -> Result<()> {
    crate::slots::trials_of_a_slot(board)
}

#[cfg(feature = "all-boards")]
fn vm_power_cuts_at_any_moment_of_a_trial(board: &str) -> Result<()> {
    crate::cuts::power_cuts(board)
}

/// What a loader is to do with a record.
pub(crate) struct Case {
    /// Lines of the console, in their order.
    pub(crate) says: &'static [&'static str],
    /// The slot that starts.
    pub(crate) slot: Slot,
    /// The record that is on disk then, in both copies; none if neither is whole.
    pub(crate) record: Option<Loader>,
}

/// Waits for the boot of this number and judges it.
pub(crate) fn judge(guest: &mut Guest, disk: &Disk, boot: u32, case: &Case) -> Result<()> {
    guest.wait_for_boot(boot, SOON)?;
    // Now, before PID 1 puts the record in order.
    let found = disk.boot_record()?;
    let record = [&found.loader[0], &found.loader[1]].map(|copy| copy.as_ref().ok().copied());
    ensure!(record == [case.record; 2], "the record is {record:?}");
    ensure!(
        guest.slot() == Some(case.slot),
        "slot {:?} starts",
        guest.slot()
    );
    let mut lines = guest.before_boot(boot).iter();
    for wanted in case.says {
        ensure!(
            lines.any(|line| line.contains(wanted)),
            "the loader does not say {wanted:?} where it should"
        );
    }
    Ok(())
}

/// A trial of two tries whose kernel panics.
const PANICS: [Case; 3] = [
    Case {
        says: &[
            "bad CRC",
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

pub(crate) fn vm_uboot_counts_a_trial_that_panics_and_goes_back(board: &str) -> Result<()> {
    let disk = fresh_disk(board)?;
    // The kernel finds no program to run, and panics. It is the last argument of a name that counts.
    disk.fill_slot_b("rdinit=/nonexistent")?;
    disk.set_loader(&armed(2))?;
    disk.damage_loader(&[0])?;
    let mut guest = Guest::start_on(board, &disk, &[])?;
    let mut checks = Checks::default();
    for (number, case) in (1..).zip(&PANICS) {
        checks.run(&format!("boot {number}"), &mut guest, |guest| {
            judge(guest, &disk, number, case)
        });
    }
    checks.run(
        "a panic is a reset that the guest asked for",
        &mut guest,
        |guest| {
            ensure!(
                guest.resets() == [ResetCause::Guest; 2],
                "{:?}",
                guest.resets()
            );
            Ok(())
        },
    );
    checks.run("the kernel is told", &mut guest, |guest| {
        let first = boards::find(board)?.arguments();
        // Which disk it comes from stands there, too: no other one is taken.
        let own = gpt::disk_guid(&std::fs::File::open(disk.path())?)?;
        for rest in [
            "kedge.slot=b kedge.try=1 rdinit=/nonexistent",
            "kedge.slot=a kedge.failed=b",
        ] {
            let line = format!("Kernel command line: {first} kedge.disk={own} {rest}");
            guest.expect(&line, SOON)?;
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

/// QEMU is one process here, but U-Boot and a kernel run between the panic and whoever reads its text.
pub(crate) fn vm_uboot_leaves_a_panics_text_alone(board: &str) -> Result<()> {
    let disk = fresh_disk(board)?;
    // Our own kernels know ramoops before any program runs, and take no orders over a serial line.
    let is_early = Platform::load(&built_for(board)?.platform)?.has_own_kernel();
    if is_early {
        disk.fill_slot_b("rdinit=/nonexistent")?;
        disk.set_loader(&armed(1))?;
    } else {
        disk.write_to_slot(Slot::A, "cmdline.txt", b"sysrq_always_enabled\n")?;
    }
    let mut guest = Guest::start_on(board, &disk, &[])?;
    let mut checks = Checks::default();
    checks.run("a running kernel panics", &mut guest, |guest| {
        if !is_early {
            guest.wait_for_control(BOOT)?;
            guest.press_sysrq('c')?;
        }
        guest.wait_for_boot(2, SOON)?;
        let resets = guest.resets();
        ensure!(resets == [ResetCause::Guest], "{resets:?}");
        Ok(())
    });
    let keeps = has_driver(board, "ramoops")?;
    checks.run("the next boot tells of it", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        guest.wait("the history has this boot", SOON, |guest| {
            let history = guest.control("GET", "/v1/history")?.body;
            let has = |event: &str, text: &str| {
                let event = format!("\"event\":\"{event}\"");
                let mut lines = history.lines();
                lines.any(|line| line.contains(&event) && line.contains(text))
            };
            if keeps {
                let why = if is_early {
                    "VFS: Unable to mount root fs"
                } else {
                    "sysrq triggered crash"
                };
                let text = &format!("Kernel panic - not syncing: {why}");
                return Ok(has("panic", text).then_some(()));
            }
            // Nobody kept it, and nothing is made up.
            ensure!(!has("panic", ""), "a panic without ramoops: {history}");
            Ok(has("booted", "\"boot\":2").then_some(()))
        })
    });
    checks.finish()
}

/// An initramfs whose `/init` starts the watchdog and then does nothing.
fn hanging(board: &str) -> Result<Vec<u8>> {
    let product = built_for(board)?;
    let mut archive = Initramfs::new();
    archive.directory("dev", 0o755)?;
    archive.character_device("dev/console", 0o600, 5, 1)?;
    let probe = files::read(&product.folder().join("plain/probe"))?;
    archive.file("init", 0o755, probe)?;
    // The driver, the kernel's own timer where there is none, and what drivers of watchdogs have in common, in the order in
    // which they are loaded.
    let driver = boards::find(board)?.watchdog.driver;
    let mut list = String::new();
    for path in Platform::load(&product.platform)?.modules {
        let file = path.rsplit('/').next().unwrap_or_default();
        let name = file.trim_end_matches(".ko");
        if ["watchdog", "softdog", &driver].contains(&name) {
            let module = files::read(&product.platform.join(&path))?;
            archive.file(&format!("modules/{file}"), 0o644, module)?;
            list.push_str(&format!("{file}\n"));
        }
    }
    if !list.is_empty() {
        archive.file("modules/list", 0o644, list.into_bytes())?;
    }
    Ok(archive.compressed()?)
}

fn vm_uboot_goes_back_from_a_trial_that_hangs(board: &str) -> Result<()> {
    let disk = fresh_disk(board)?;
    // What stands behind the dashes are `/init`'s words.
    disk.fill_slot_b("-- hang")?;
    disk.write_to_slot(Slot::B, "initramfs", &hanging(board)?)?;
    disk.set_loader(&armed(1))?;
    let mut guest = Guest::start_on(board, &disk, &[])?;
    let mut checks = Checks::default();
    checks.run("the trial hangs", &mut guest, |guest| {
        guest.expect("hanging under a watchdog", SOON).map(drop)
    });
    checks.run(
        "the watchdog resets, the default starts",
        &mut guest,
        |guest| {
            let case = Case {
                says: &["hanging under a watchdog", "slot a kedge.failed=b"],
                slot: Slot::A,
                record: Some(armed(0)),
            };
            judge(guest, &disk, 2, &case)?;
            // Without a driver for the hardware the kernel resets by itself.
            let cause = if has_driver(board, &boards::find(board)?.watchdog.driver)? {
                ResetCause::Watchdog
            } else {
                ResetCause::Guest
            };
            ensure!(guest.resets() == [cause], "{:?}", guest.resets());
            Ok(())
        },
    );
    checks.finish()
}

/// One machine, whose reset button is pressed once U-Boot has decided.
fn vm_uboot_falls_back_from_what_cannot_be_started(board: &str) -> Result<()> {
    let disk = fresh_disk(board)?;
    disk.spoil("slot-b")?;
    disk.set_loader(&armed(2))?;
    let mut guest = Guest::start_on(board, &disk, &[])?;
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
        "a default that does not load gives way",
        &mut guest,
        |guest| {
            disk.fill_slot_b("")?;
            disk.spoil("slot-a")?;
            disk.set_loader(&Loader::born())?;
            guest.press_reset()?;
            let case = Case {
                says: &["kedge: slot a cannot be started", "kedge: starting slot b"],
                slot: Slot::B,
                record: Some(Loader::born()),
            };
            judge(guest, &disk, 3, &case)
        },
    );
    checks.run("resets are told with their cause", &mut guest, |guest| {
        ensure!(
            guest.resets() == [ResetCause::Host; 2],
            "{:?}",
            guest.resets()
        );
        guest.expect("kedge.slot=b", SOON).map(drop)
    });
    checks.finish()
}

/// QEMU fails every write to one copy of the record. A trial that cannot be counted would be tried for ever.
fn vm_uboot_does_not_try_what_it_cannot_count(board: &str) -> Result<()> {
    for failing in [0, 8] {
        let disk = fresh_disk(board)?;
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
            VmConfig::new(boards::find(board)?, disk.path(), &disk.folder().join("vm"));
        config.disk = PathBuf::from(path);
        let mut guest = Guest::with(config)?;
        let mut checks = Checks::default();
        checks.run("the default starts, and is told why", &mut guest, |guest| {
            guest.wait_for_boot(1, SOON)?;
            ensure!(
                guest.slot() == Some(Slot::A),
                "slot {:?} starts",
                guest.slot()
            );
            guest.expect("slot a kedge.record=unwritable", SOON)?;
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
