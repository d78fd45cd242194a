//! Faults and attacks on a device's disk: the device lives, says what is wrong, and nothing else suffers.

use crate::{built, built_fleet, exec, fresh_disk};
use anyhow::{Context, Result, ensure};
use kedge_board_support::boards;
use kedge_image_build::keys::{KeyFile, Passphrase};
use kedge_image_build::qemu::VmConfig;
use kedge_image_build::{files, keys};
use kedge_revision::signing::Kind;
use kedge_revision::{SignatureSet, verity};
use kedge_tests::disk::Disk;
use kedge_tests::guest::{BOOT, Checks, Guest, text};
use kedge_tests::product::{BOARD, MARKER};
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// Boots a harmed disk and returns what the status says about its phase, with all containers' number.
fn repair(disk: &Disk, reasons: &[&str]) -> Result<()> {
    in_repair(Guest::start(disk, &[])?, reasons)
}

fn in_repair(mut guest: Guest, reasons: &[&str]) -> Result<()> {
    let mut checks = Checks::default();
    checks.run("answers", &mut guest, |guest| {
        guest.wait_for_control(BOOT).map(drop)
    });
    checks.run(
        "says why, over the control interface",
        &mut guest,
        |guest| {
            let status = guest.status()?;
            let phase = text(&status, "phase");
            ensure!(phase.starts_with("repair"), "phase: {phase}");
            for reason in reasons {
                ensure!(phase.contains(reason), "no {reason:?} in: {phase}");
            }
            let containers = status
                .get("containers")
                .and_then(Value::as_array)
                .context("no containers")?;
            ensure!(
                containers.is_empty(),
                "containers in repair mode: {containers:?}"
            );
            Ok(())
        },
    );
    checks.run("says why, on the console", &mut guest, |guest| {
        guest.expect("repair mode", SOON)?;
        for reason in reasons {
            guest.expect(reason, SOON)?;
        }
        Ok(())
    });
    checks.run("goes on living, and powers off", &mut guest, |guest| {
        guest.post("/v1/poweroff")?;
        guest.wait_for_end(Duration::from_secs(60)).map(drop)
    });
    checks.finish()
}

/// The product's release key signs these bytes.
fn signed(bytes: &[u8]) -> Result<Vec<u8>> {
    let path = built()?.kedge.folder().join("keys/release.toml");
    let key = KeyFile::read(&path)?.open(&Passphrase::Prompt)?;
    let mut set = SignatureSet::default();
    set.sign(Kind::Revision, bytes, &key);
    Ok(set.encode()?)
}

/// A disk whose revision is replaced by these bytes, with these signatures.
fn with_revision(document: &[u8], signatures: &[u8]) -> Result<Disk> {
    let disk = fresh_disk()?;
    let folder = disk.revision_folder()?;
    disk.replace(&format!("{folder}/revision.json"), document)?;
    disk.replace(&format!("{folder}/revision.sig"), signatures)?;
    Ok(disk)
}

/// A disk whose committed revision is another document, installed with everything that belongs to it.
fn with_committed(document: &str) -> Result<Disk> {
    let bytes = document.as_bytes();
    let disk = fresh_disk()?;
    let old = disk.revision_folder()?;
    let id = verity::digest(bytes);
    let folder = format!("/revisions/{}", id.hex());
    disk.debugfs(&format!(
        "mkdir {folder}\nrm {old}/revision.json\nrm {old}/revision.sig\n"
    ))?;
    disk.write(&format!("{folder}/revision.json"), bytes)?;
    disk.write(&format!("{folder}/revision.sig"), &signed(bytes)?)?;
    disk.commit(id)?;
    Ok(disk)
}

fn revision() -> Result<String> {
    files::read_text(&built()?.kedge.folder().join("build/revision.json"))
}

#[test]
fn vm_an_unsigned_revision_is_not_run() -> Result<()> {
    let none = SignatureSet::default().encode()?;
    repair(
        &with_revision(revision()?.as_bytes(), &none)?,
        &["revision", "signature"],
    )
}

#[test]
fn vm_a_wrongly_signed_revision_is_not_run() -> Result<()> {
    let document = revision()?;
    let mut set = SignatureSet::default();
    set.sign(Kind::Revision, document.as_bytes(), &keys::generate()?);
    repair(
        &with_revision(document.as_bytes(), &set.encode()?)?,
        &["revision", "signature"],
    )
}

#[test]
fn vm_a_revision_for_another_board_is_not_run() -> Result<()> {
    let document = revision()?.replacen("\"board\":\"qemu-x86-64\"", "\"board\":\"toaster\"", 1);
    repair(&with_committed(&document)?, &["toaster"])
}

#[test]
fn vm_an_unknown_field_in_a_revision_is_refused() -> Result<()> {
    let document = revision()?.replacen("\"content\":{", "\"content\":{\"colour\":\"red\",", 1);
    repair(&with_committed(&document)?, &["colour"])
}

#[test]
fn vm_an_oversized_revision_is_refused() -> Result<()> {
    let mut document = revision()?;
    document.push_str(&" ".repeat(256 * 1024));
    repair(&with_committed(&document)?, &["revision.json"])
}

#[test]
fn vm_without_a_data_partition_the_device_says_so() -> Result<()> {
    let disk = fresh_disk()?;
    disk.remove_partition(4)?;
    repair(&disk, &["no disk has a partition named \"data\""])
}

#[test]
fn vm_a_revision_under_another_name_is_not_run() -> Result<()> {
    let document = revision()?.replacen("\"version\":\"0.1.0\"", "\"version\":\"0.1.1\"", 1);
    let disk = with_revision(document.as_bytes(), &signed(document.as_bytes())?)?;
    repair(&disk, &["is not the revision that stands under its name"])
}

/// The record is made again from the verified revisions of the store; that it was lost is told.
#[test]
fn vm_with_both_state_records_damaged_the_device_runs_and_says_so() -> Result<()> {
    const REASON: &str = "both copies of the state record are damaged";
    let disk = fresh_disk()?;
    disk.damage_state(&[0, 1])?;
    let mut guest = Guest::start(&disk, &[])?;
    let mut checks = Checks::default();
    checks.run("answers", &mut guest, |guest| {
        guest.wait_for_control(BOOT).map(drop)
    });
    checks.run("runs, and says why not all is well", &mut guest, |guest| {
        let status = guest.status()?;
        let phase = text(&status, "phase");
        ensure!(
            phase.starts_with("running") && phase.contains(REASON),
            "phase: {phase}"
        );
        guest.expect(REASON, SOON)?;
        guest.wait_for_state("confined", "running", BOOT).map(drop)
    });
    checks.run("powers off", &mut guest, |guest| {
        guest.post("/v1/poweroff")?;
        guest.wait_for_end(Duration::from_secs(60)).map(drop)
    });
    checks.run("the record is whole again", &mut guest, |_| {
        let valid = disk.valid_states()?;
        ensure!(
            valid == 2,
            "{valid} copies of the state record are valid after the boot"
        );
        Ok(())
    });
    checks.finish()
}

/// One damaged copy of the state record, and one flipped bit in a layer: both cost nobody else anything.
#[test]
fn vm_a_flipped_bit_costs_only_its_file() -> Result<()> {
    let disk = fresh_disk()?;
    disk.damage_state(&[0])?;
    disk.flip_bit_at(MARKER)?;
    let mut guest = Guest::start(&disk, &[8080])?;
    let mut checks = Checks::default();
    checks.run(
        "boots with one copy of the state record",
        &mut guest,
        |guest| {
            let status = guest.wait_for_control(BOOT)?;
            ensure!(
                text(&status, "phase") == "running",
                "phase: {}",
                text(&status, "phase")
            );
            Ok(())
        },
    );
    checks.run("reading the damaged file fails", &mut guest, |guest| {
        // EIO is 5.
        guest
            .wait_for_log("delicate", "read /big error 5", BOOT)
            .map(drop)
    });
    checks.run("the rest of the layer is read", &mut guest, |guest| {
        guest.wait_for_state("delicate", "running", SOON).map(drop)
    });
    checks.run("others live", &mut guest, |guest| {
        guest.wait("web answers", SOON, |guest| {
            Ok((guest.get(8080, "/health")?.status == 200).then_some(()))
        })
    });
    checks.run("the kernel's log tells", &mut guest, |guest| {
        guest.wait_for_log("kernel", "verity", SOON).map(drop)
    });
    checks.finish()
}

/// Without it the kernel would judge nothing that is read of a layer. The container `delicate` has one of its own.
#[test]
fn vm_fs_verity_cannot_be_switched_off() -> Result<()> {
    let disk = fresh_disk()?;
    let layer = disk.object_with(MARKER)?;
    disk.clear_verity(&layer)?;
    let mut guest = Guest::start(&disk, &[])?;
    let mut checks = Checks::default();
    checks.run("a layer without its flag", &mut guest, |guest| {
        guest.wait_for_state("confined", "running", BOOT)?;
        unsealed(guest, "is not sealed")?;
        not_running(guest, "delicate")
    });
    checks.finish()?;
    drop(guest);

    let disk = fresh_disk()?;
    disk.debugfs("feature -verity\n")?;
    let mut guest = Guest::start(&disk, &[])?;
    let mut checks = Checks::default();
    checks.run("a file system without the feature", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        unsealed(guest, "is not sealed: its file system")?;
        not_running(guest, "delicate")?;
        not_running(guest, "confined")
    });
    checks.finish()
}

/// The status says why.
fn unsealed(guest: &Guest, why: &str) -> Result<()> {
    let status = guest.status()?;
    let phase = text(&status, "phase");
    ensure!(phase.contains(why), "no {why:?} in: {phase}");
    Ok(())
}

/// Its layer is refused, for as long as somebody looks: a container that waits to be started again is none that runs.
fn not_running(guest: &mut Guest, name: &str) -> Result<()> {
    guest.wait_for_log("kedge", "is absent or damaged", SOON)?;
    let container = guest.container(name)?;
    ensure!(
        container.get("pid").is_none_or(Value::is_null),
        "{container}"
    );
    Ok(())
}

/// A loader that knows says which disk it came from. Here the host plays it, and a stick that sorts first carries a copy.
#[test]
fn vm_another_disk_with_the_same_partitions_is_not_taken() -> Result<()> {
    const OTHER: &str = "0f0e0d0c-0b0a-4908-8706-050403020100";
    let start = |disk: &Disk, stick: &Disk, own: &str| {
        let mut config =
            VmConfig::new(boards::find(BOARD)?, disk.path(), &disk.folder().join("vm"));
        config.sticks = Some(vec![stick.path().to_owned()]);
        config.arguments = format!("kedge.disk={own}");
        Guest::with(config)
    };
    let (disk, stick) = (fresh_disk()?, fresh_disk()?);
    stick.set_guid(OTHER)?;
    let mut guest = start(&disk, &stick, &disk.guid()?.to_string())?;
    let mut checks = Checks::default();
    checks.run("the own disk is taken", &mut guest, |guest| {
        guest.wait_for_state("confined", "running", BOOT)?;
        let status = guest.status()?;
        ensure!(text(&status, "phase") == "running", "{status}");
        // Sticks are plugged in read-only: what is written can only be on the device's own disk.
        guest
            .wait_for_log("volumes", "volume /keep 1", BOOT)
            .map(drop)
    });
    checks.run("while the other one is there", &mut guest, |guest| {
        guest.expect("[sda]", SOON).map(drop)
    });
    checks.finish()?;
    drop(guest);

    // Neither is the loader's.
    let (disk, stick) = (fresh_disk()?, fresh_disk()?);
    let absent = OTHER.replace('0', "1");
    let why = format!("no disk with the loader's GUID {absent} has a partition named");
    in_repair(start(&disk, &stick, &absent)?, &[&why])
}

#[test]
fn vm_a_full_data_partition_does_not_stop_the_device() -> Result<()> {
    let disk = fresh_disk()?;
    disk.fill(8)?;
    let mut guest = Guest::start(&disk, &[8080])?;
    let mut checks = Checks::default();
    checks.run("answers", &mut guest, |guest| {
        guest.wait_for_control(BOOT).map(drop)
    });
    checks.run("containers without data run", &mut guest, |guest| {
        guest.wait_for_state("confined", "running", BOOT)?;
        guest.wait_for_state("ill", "running", BOOT).map(drop)
    });
    checks.run("says that the disk is full", &mut guest, |guest| {
        guest.wait("somebody tells", SOON, |guest| {
            let mut lines = guest.logs("kedge")?;
            lines.extend(guest.logs("volumes")?);
            let full = |text: &str| text.contains("No space left") || text.contains("os error 28");
            Ok(lines.iter().any(|line| full(&line.text)).then_some(()))
        })
    });
    checks.run("reboots in order", &mut guest, |guest| {
        guest.post("/v1/reboot")?;
        guest.wait_for_boot(2, Duration::from_secs(60))?;
        guest.wait_for_control(BOOT).map(drop)
    });
    checks.finish()
}

/// What containers write without a limit ends before the system's room does, in a volume and in a root: the device enrols, takes
/// an update with a new layer, and tells its hub.
#[test]
fn vm_containers_that_fill_the_disk_leave_room_for_an_update() -> Result<()> {
    const FILLED: Duration = Duration::from_secs(120);
    let (fleet, _) = built_fleet()?;
    let project = &fleet.project;
    let volume = "[volumes.hog]\npath = \"/keep\"\nlifetime = \"permanent\"\n";
    project.app("started", &["hog", "/keep", "/"], volume)?;
    project.add_line("app", "root = \"revision\"")?;
    let disk = project.build()?;
    let mut guest = fleet.start(&disk)?;
    let mut checks = Checks::default();
    checks.run("containers take all that they get", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        for folder in ["/keep", "/"] {
            let said = guest.wait_for_log("app", &format!("hog {folder} "), FILLED)?;
            ensure!(said.text.ends_with("refused 28"), "{}", said.text);
        }
        full(guest)
    });
    checks.run("the device enrols", &mut guest, |guest| {
        fleet.wait_for_enrolment(guest)
    });
    checks.run("an update comes, and the hub knows", &mut guest, |guest| {
        let folder = tempfile::tempdir()?;
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_be_bytes()[0]
        });
        let noise: Vec<u8> = noise.take(4 << 20).collect();
        files::write(&folder.path().join("noise"), noise)?;
        project.lay("site", &project.layer_of(folder.path())?)?;
        let revision = fleet.publish(&[])?;
        project.kedge.ask(&["assign", "all", &revision, "--yes"])?;
        fleet.wait_for_commit(guest, &revision)?;
        full(guest)
    });
    checks.run("reboots in order", &mut guest, |guest| {
        guest.post("/v1/reboot")?;
        guest.wait_for_boot(2, Duration::from_secs(60))?;
        guest.wait_for_state("site", "running", BOOT).map(drop)
    });
    checks.finish()
}

/// Nothing is left for containers.
fn full(guest: &Guest) -> Result<()> {
    let usage = exec::ask(guest, "/v1/usage")?;
    let free = usage.get("data-free").and_then(Value::as_u64);
    ensure!(free.is_some_and(|free| free < 1 << 20), "{usage}");
    Ok(())
}

/// Three cuts at moments of their own: a boot never depends on how the last one ended.
#[test]
fn vm_a_power_cut_costs_nothing_that_was_synced() -> Result<()> {
    let disk = fresh_disk()?;
    for count in 1..=2 {
        let mut guest = Guest::start(&disk, &[])?;
        let mut checks = Checks::default();
        checks.run("boots", &mut guest, |guest| {
            guest.wait_for_control(BOOT).map(drop)
        });
        checks.run("counts on", &mut guest, |guest| {
            guest
                .wait_for_log("volumes", &format!("volume /keep {count}"), BOOT)
                .map(drop)
        });
        checks.finish()?;
        guest.cut_power()?;
    }
    disk.check_data()
}
