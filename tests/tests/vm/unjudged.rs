//! Trials that PID 1 gives no verdict on by its judge: refused from disk, cut each time, or never started.

use crate::built_trials;
use anyhow::{Context, Result, ensure};
use kedge_board_support::record::Slot;
use kedge_revision::SignatureSet;
use kedge_tests::disk::Disk;
use kedge_tests::guest::{BOOT, Checks, Guest, text};
use kedge_tests::trials::{Project, committed, failure, update};
use std::time::{Duration, Instant};

/// A retry comes after the committed revision has settled, and then four windows.
const RETRIED: Duration = Duration::from_secs(240);

#[test]
fn vm_trials_that_are_never_judged() -> Result<()> {
    let (project, disk) = built_trials()?;
    let mut guest = Guest::start(&disk, &[])?;
    guest.wait_for_control(BOOT)?;
    let before = committed(&guest)?;
    // Nothing is judged for want of time.
    project.window("10min")?;
    let mut checks = Checks::default();
    checks.run("what was harmed on disk is refused", &mut guest, |guest| {
        refused(&project, &disk, guest, &before)
    });
    checks.run("cut in every try", &mut guest, |guest| {
        cut(&project, &disk, guest, &before)
    });
    checks.run("never booted", &mut guest, |guest| {
        never_booted(&project, &disk, guest)
    });
    checks.finish()
}

/// The device has given up what was tried, for this reason, and runs what is committed.
fn back(guest: &mut Guest, tried: &str, before: &str, reason: &str) -> Result<()> {
    guest.wait("the trial has failed", BOOT, |guest| {
        let update = update(guest)?;
        let failed = update.get("failed").map(|failed| text(failed, "revision"));
        Ok((update.get("trial").is_none() && failed == Some(tried)).then_some(()))
    })?;
    let failed = failure(guest)?;
    ensure!(failed == reason, "the reason is {failed}");
    ensure!(committed(guest)? == before, "another revision is committed");
    let status = guest.status()?;
    ensure!(text(&status, "slot") == "a", "{status}");
    guest.wait_for_state("app", "running", BOOT).map(drop)
}

/// Pushes without waiting; the revision that is tried.
fn push(project: &Project, guest: &Guest) -> Result<String> {
    let pushed = project.push(guest, &["--detach"])?;
    ensure!(pushed.committed, "refused: {}", pushed.said);
    Ok(text(&pushed.said, "revision").to_owned())
}

/// Waits until this boot of the machine runs the trial.
fn trying(guest: &mut Guest, boot: u32, patience: Duration) -> Result<()> {
    guest.wait_for_boot(boot, patience)?;
    guest.wait("the trial runs", BOOT, |guest| {
        Ok(guest.status()?.pointer("/trial/trying").map(drop))
    })
}

fn refused(project: &Project, disk: &Disk, guest: &mut Guest, before: &str) -> Result<()> {
    project.set("base", "platform", "started", &["sleep", "refused"], "")?;
    let tried = push(project, guest)?;
    trying(guest, 2, BOOT)?;
    guest.post("/v1/poweroff")?;
    guest.wait_for_end(Duration::from_secs(60))?;
    let hex = tried.strip_prefix("v1:").context("no id")?;
    let none = SignatureSet::default().encode()?;
    disk.replace(&format!("/revisions/{hex}/revision.sig"), &none)?;
    *guest = Guest::start(disk, &[])?;
    back(guest, &tried, before, "refused")?;
    ensure!(guest.boots() == 2, "{} boots", guest.boots());
    Ok(())
}

/// With one try for each of the three times that tries may run out in silence.
fn cut(project: &Project, disk: &Disk, guest: &mut Guest, before: &str) -> Result<()> {
    project.tries(1)?;
    project.set("base", "platform", "started", &["sleep", "cut"], "")?;
    let tried = push(project, guest)?;
    for _ in 0..3 {
        let next = guest.boots() + 1;
        trying(guest, next, RETRIED)?;
        guest.cut_power()?;
        *guest = Guest::start(disk, &[])?;
        guest.wait_for_boot(1, BOOT)?;
        guest.wait_for_control(BOOT)?;
        ensure!(committed(guest)? == before, "another revision is committed");
    }
    back(guest, &tried, before, "power-cut")
}

/// A container that does not want to end leaves time to cut the power between the arming and the restart.
fn never_booted(project: &Project, disk: &Disk, guest: &mut Guest) -> Result<()> {
    project.tries(3)?;
    project.window(&format!("{}s", kedge_tests::trials::WINDOW))?;
    project.app("started", &["stubborn"], "stop-grace = \"1min\"\n")?;
    project.set("base", "platform", "started", &["sleep"], "")?;
    let pushed = project.push(guest, &[])?;
    ensure!(pushed.committed, "{}", pushed.said);
    let before = committed(guest)?;
    project.kernel_arguments("tests.kedge=never")?;
    let tried = push(project, guest)?;
    armed(disk)?;
    guest.cut_power()?;
    disk.spoil(Slot::B.partition())?;
    *guest = Guest::start(disk, &[])?;
    guest.wait_for_control(BOOT)?;
    back(guest, &tried, &before, "never-booted")?;
    ensure!(guest.boots() == 1, "{} boots", guest.boots());
    Ok(())
}

/// Waits until the loader is told to try slot b.
fn armed(disk: &Disk) -> Result<()> {
    let deadline = Instant::now() + BOOT;
    loop {
        // A copy may be read while it is written: both must say so.
        let found = disk.boot_record()?;
        let told = found.loader.iter().all(|copy| {
            let trial = copy.as_ref().ok().and_then(|record| record.trial);
            trial.is_some_and(|armed| armed.slot == Slot::B)
        });
        if told {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the loader was never armed");
        std::thread::sleep(Duration::from_millis(100));
    }
}
