//! What is left when things go wrong for good: a store that fails in a trial, repair mode and its way out.

use crate::{built_trials, live};
use anyhow::{Context, Result, ensure};
use kedge_tests::disk::Disk;
use kedge_tests::guest::{BOOT, Checks, Guest, text};
use kedge_tests::trials::{Project, committed, failure, pid, running, update};
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// All containers reach their goals: that the store takes no write any more is what ends the trial.
#[test]
fn vm_a_store_that_turns_read_only_is_a_reason_of_its_own() -> Result<()> {
    let (project, disk) = built_trials()?;
    // The volume is whole, and what lies in it has no inode: whoever looks at it makes the kernel find damage.
    disk.debugfs(
        "mkdir /volumes/reader\nmkdir /volumes/reader/keep\nmkdir /volumes/reader/keep/hurt\n\
         clri /volumes/reader/keep/hurt\n",
    )?;
    let mut guest = Guest::start(&disk, &[])?;
    let mut checks = Checks::default();
    checks.run("the trial fails, and says why", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        let before = committed(guest)?;
        let keeper = running(guest, "keeper")?;
        let volume = "[volumes.keep]\npath = \"/keep\"\nlifetime = \"permanent\"\n";
        project.set("reader", "app", "started", &["read", "/keep/hurt"], volume)?;
        let pushed = project.push(guest, &[])?;
        ensure!(!pushed.committed, "{}", pushed.said);
        let reason = failure(guest)?;
        ensure!(reason == "storage", "the reason is {reason}");
        ensure!(committed(guest)? == before, "something else is committed");
        ensure!(pid(guest, "keeper")? == keeper, "keeper is another process");
        ensure!(guest.boots() == 1, "the device was restarted");
        Ok(())
    });
    checks.finish()
}

/// The damage is where the trial's own container needs it.
#[test]
fn vm_a_store_that_turns_read_only_ends_a_trial() -> Result<()> {
    let (project, disk) = built_trials()?;
    // A folder whose inode is gone: whoever looks into it makes the kernel find the file system damaged.
    disk.debugfs("mkdir /volumes/app\nmkdir /volumes/app/hurt\nclri /volumes/app/hurt\n")?;
    let mut guest = Guest::start(&disk, &[])?;
    let mut checks = Checks::default();
    checks.run("the trial fails, and says why", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        let before = committed(guest)?;
        let volume = "[volumes.hurt]\npath = \"/keep\"\nlifetime = \"permanent\"\n";
        project.app("started", &["sleep"], volume)?;
        let pushed = project.push(guest, &[])?;
        ensure!(!pushed.committed, "{}", pushed.said);
        let reason = failure(guest)?;
        // Whichever is seen first: the store that takes no write, or the container that cannot have its volume.
        ensure!(
            reason == "storage" || reason.starts_with("goal-missed(app, started"),
            "the reason is {reason}"
        );
        ensure!(committed(guest)? == before, "something else is committed");
        Ok(())
    });
    checks.run("what is committed runs on", &mut guest, |guest| {
        guest.wait_for_state("keeper", "running", SOON).map(drop)
    });
    checks.finish()
}

#[test]
fn vm_a_device_that_never_settles_can_be_mended() -> Result<()> {
    let (project, disk) = built_trials()?;
    disk.set_unsettled(8)?;
    let mut guest = Guest::start(&disk, &[])?;
    let mut checks = Checks::default();
    checks.run("repair mode, which says why", &mut guest, |guest| {
        let status = guest.wait_for_control(BOOT)?;
        let phase = text(&status, "phase");
        ensure!(phase.starts_with("repair"), "phase: {phase}");
        ensure!(phase.contains("too many boots"), "phase: {phase}");
        let containers = status.get("containers").and_then(|list| list.as_array());
        ensure!(containers.context("no containers")?.is_empty(), "{status}");
        Ok(())
    });
    checks.run("an update mends it", &mut guest, |guest| {
        project.app("started", &["sleep", "mended"], "")?;
        let pushed = project.push(guest, &[])?;
        ensure!(pushed.committed, "{}", pushed.said);
        guest.wait_for_state("app", "running", SOON)?;
        let update = update(guest)?;
        ensure!(update.get("unsettled") == Some(&0.into()), "{update}");
        Ok(())
    });
    checks.finish()
}

/// As a device is that was set back to its factory revision after the floor has risen.
#[test]
fn vm_a_revision_below_the_floor_can_be_mended() -> Result<()> {
    let (project, disk) = built_trials()?;
    // The image's revision has counter 1, what is pushed next has 2.
    disk.set_floor(2)?;
    let update = mended(&project, &disk, "below the device's floor", "a")?;
    ensure!(text(&update, "floor") == "1.2", "{update}");
    Ok(())
}

/// Nobody can say what its slot holds: the whole of the other one is sent.
#[test]
fn vm_a_revision_that_is_lost_can_be_mended() -> Result<()> {
    let (project, disk) = built_trials()?;
    let folder = disk.revision_folder()?;
    disk.replace(&format!("{folder}/revision.json"), b"{}")?;
    mended(&project, &disk, "revision.json", "b").map(drop)
}

#[test]
fn vm_a_committed_slot_that_is_lost_is_written_anew() -> Result<()> {
    let (project, disk) = built_trials()?;
    let mut guest = Guest::start(&disk, &[])?;
    let mut checks = Checks::default();
    checks.run("an update brings slot b", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        project.kernel_arguments("tests.kedge=1")?;
        let pushed = project.push(guest, &[])?;
        ensure!(pushed.committed, "{}", pushed.said);
        Ok(())
    });
    checks.run("it is lost, and comes back", &mut guest, |guest| {
        slot_b_comes_back(&disk, guest)
    });
    checks.run("it settles", &mut guest, |guest| {
        guest.wait("it has settled", SOON, |guest| {
            let settled = update(guest)?.get("unsettled") == Some(&0.into());
            Ok(settled.then_some(()))
        })
    });
    checks.run(
        "what is lost again and again is left",
        &mut guest,
        |guest| {
            let boots = guest.boots();
            disk.set_unsettled(2)?;
            disk.spoil("slot-b")?;
            guest.press_reset()?;
            guest.wait_for_boot(boots + 1, BOOT)?;
            let status = guest.wait_for_control(BOOT)?;
            let phase = text(&status, "phase");
            ensure!(
                phase.contains("the committed slot does not load"),
                "{status}"
            );
            ensure!(text(&status, "slot") == "a", "{status}");
            std::thread::sleep(Duration::from_secs(10));
            ensure!(guest.boots() == boots + 1, "it is written again");
            Ok(())
        },
    );
    checks.finish()
}

/// Which revision is committed, and with which values, comes back with it.
#[test]
fn vm_a_state_record_that_is_lost_comes_back_with_its_values() -> Result<()> {
    let (project, disk) = built_trials()?;
    let mut guest = Guest::start(&disk, &[])?;
    let mut checks = Checks::default();
    let mut before = String::new();
    checks.run(
        "two updates, of which one brings values",
        &mut guest,
        |guest| {
            guest.wait_for_control(BOOT)?;
            let file = project.kedge.folder().join("site.toml");
            kedge_image_build::files::write(&file, "site = \"berlin\"\n")?;
            let file = file.display().to_string();
            let with = ["--parameters", &file, "--parameters-counter", "7"];
            let pushed = project.push(guest, &with)?;
            ensure!(pushed.committed, "{}", pushed.said);
            project.app("started", &["sleep", "another"], "")?;
            let pushed = project.push(guest, &[])?;
            ensure!(pushed.committed, "{}", pushed.said);
            live::site(guest, "berlin")?;
            before = committed(guest)?;
            Ok(())
        },
    );
    checks.run("both copies are lost", &mut guest, |guest| {
        disk.damage_state(&[0, 1])?;
        guest.press_reset()?;
        guest.expect("both copies of the state record are damaged", BOOT)?;
        guest.wait_for_boot(2, BOOT)?;
        guest.wait_for_control(BOOT)?;
        let now = committed(guest)?;
        ensure!(now == before, "{now} is committed, and was {before}");
        live::site(guest, "berlin")?;
        let counter = update(guest)?;
        let counter = counter.pointer("/committed/parameters");
        ensure!(counter == Some(&7.into()), "parameters {counter:?}");
        Ok(())
    });
    checks.finish()
}

/// Slot b, which an update has brought and which is committed, does not load, and slot a does: what is committed comes back
/// from the store.
pub(crate) fn slot_b_comes_back(disk: &Disk, guest: &mut Guest) -> Result<()> {
    let (before, boots) = (committed(guest)?, guest.boots());
    disk.spoil("slot-b")?;
    guest.press_reset()?;
    guest.expect("slot b is written anew", BOOT)?;
    guest.wait_for_boot(boots + 2, BOOT)?;
    let status = guest.wait_for_control(BOOT)?;
    ensure!(text(&status, "slot") == "b", "{status}");
    guest.wait_for_state("app", "running", BOOT)?;
    ensure!(committed(guest)? == before, "something else is committed");
    Ok(())
}

/// The device is in repair mode and says why; a push ends that, and it runs from this slot. What it says of updates then.
fn mended(project: &Project, disk: &Disk, why: &str, slot: &str) -> Result<Value> {
    let mut guest = Guest::start(disk, &[])?;
    let mut checks = Checks::default();
    let mut after = Value::Null;
    checks.run("repair mode, which says why", &mut guest, |guest| {
        let status = guest.wait_for_control(BOOT)?;
        let phase = text(&status, "phase");
        ensure!(phase.starts_with("repair"), "phase: {phase}");
        ensure!(phase.contains(why), "phase: {phase}");
        let containers = status.get("containers").and_then(|list| list.as_array());
        ensure!(containers.context("no containers")?.is_empty(), "{status}");
        Ok(())
    });
    checks.run("an update mends it", &mut guest, |guest| {
        project.app("started", &["sleep", "mended"], "")?;
        let pushed = project.push(guest, &[])?;
        ensure!(pushed.committed, "{}", pushed.said);
        guest.wait_for_state("app", "running", SOON)?;
        let status = guest.status()?;
        ensure!(text(&status, "phase") == "running", "{status}");
        ensure!(text(&status, "slot") == slot, "{status}");
        after = update(guest)?;
        Ok(())
    });
    checks.finish()?;
    Ok(after)
}

/// Nothing runs of it, so it is not "there" either: whoever offers a revision that needs it brings it again.
#[test]
fn vm_a_damaged_layer_is_brought_again() -> Result<()> {
    let (project, disk) = built_trials()?;
    disk.clear_verity(&project.layer_on_disk()?)?;
    let mut guest = Guest::start(&disk, &[])?;
    let mut checks = Checks::default();
    checks.run("the device says what is damaged", &mut guest, |guest| {
        let status = guest.wait_for_control(BOOT)?;
        let phase = text(&status, "phase");
        ensure!(phase.contains("is not sealed"), "phase: {phase}");
        Ok(())
    });
    checks.run("the same revision brings it", &mut guest, |guest| {
        let pushed = project.push(guest, &[])?;
        ensure!(pushed.committed, "{}", pushed.said);
        let sent = pushed.said.get("objects-sent");
        ensure!(sent == Some(&1.into()), "{}", pushed.said);
        guest.expect("was damaged here", SOON)?;
        let again = project.push(guest, &[])?;
        let sent = again.said.get("objects-sent");
        ensure!(sent == Some(&0.into()), "{}", again.said);
        Ok(())
    });
    checks.run("the next boot runs it", &mut guest, |guest| {
        guest.post("/v1/reboot")?;
        guest.wait_for_boot(2, SOON)?;
        running(guest, "app")?;
        let status = guest.status()?;
        ensure!(text(&status, "phase") == "running", "{status}");
        Ok(())
    });
    checks.finish()
}
