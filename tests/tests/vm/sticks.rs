//! Revisions that come on removable disks: taken where the running one allows it, and only forward.

use crate::built_trials;
use anyhow::{Context, Result, ensure};
use kedge_board_support::boards;
use kedge_image_build::files;
use kedge_image_build::payload::Payload;
use kedge_image_build::qemu::VmConfig;
use kedge_tests::disk::Disk;
use kedge_tests::guest::{BOOT, Checks, Guest};
use kedge_tests::product::BOARD;
use kedge_tests::stick;
use kedge_tests::trials::{JUDGED, Project, committed, failure, pid, running, update};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a bundle of some 40 MB may take from the stick to the store, emulated, on a machine that is busy.
const TAKEN: Duration = Duration::from_secs(180);
/// What begins the large file, so that it is found in the bundle.
const MARK: &[u8] = b"the first bytes of the large file";
/// Bytes of it.
const LARGE: usize = 32 << 20;

/// A device with a bus for sticks, and these in it.
fn start(disk: &Disk, sticks: &[&Path]) -> Result<Guest> {
    let mut config = VmConfig::new(boards::find(BOARD)?, disk.path(), &disk.folder().join("vm"));
    config.sticks = Some(sticks.iter().map(|path| path.to_path_buf()).collect());
    Guest::with(config)
}

fn accept(project: &Project) -> Result<()> {
    project.edit(
        "\n[configuration]\n",
        "\n[configuration]\nsticks = \"accept\"\n",
    )
}

fn id_of(bundle: &Path) -> Result<String> {
    Ok(Payload::open(bundle)?.id().to_string())
}

fn holds(guest: &Guest, id: &str) -> Result<()> {
    guest.wait("the stick's revision is committed", TAKEN, |guest| {
        Ok((committed(guest)? == id).then_some(()))
    })
}

/// Events of the history of one kind.
fn events(guest: &Guest, kind: &str) -> Result<Vec<Value>> {
    let answer = guest.control("GET", "/v1/history")?;
    let lines = answer.body.lines().map(serde_json::from_str::<Value>);
    let lines: Vec<Value> = lines.collect::<Result<_, _>>()?;
    let is = |event: &Value| event.get("event").and_then(Value::as_str) == Some(kind);
    Ok(lines.into_iter().filter(is).collect())
}

/// Bundles of one project, each with what it is.
struct Bundles {
    good: PathBuf,
    bad: PathBuf,
    /// On one stick: none of them may be taken.
    refused: Vec<PathBuf>,
}

/// Revision 1 is older than what runs, 2 runs, 3 is good, 4 fails.
fn bundles(project: &Project) -> Result<(Disk, Bundles)> {
    let folder = project.kedge.folder().to_owned();
    let older = project.bundle("older.kedge")?;
    accept(project)?;
    let disk = project.build()?;
    let source = folder.join("large-files");
    files::make_folder(&source)?;
    // No two blocks are the same.
    let mut large = MARK.to_vec();
    for block in 0_u64.. {
        large.extend_from_slice(&block.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        if large.len() >= LARGE {
            break;
        }
    }
    files::write(&source.join("large"), large)?;
    project.lay("app", &project.layer_of(&source)?)?;
    let good = project.bundle("good.kedge")?;
    let write = |name: &str, bytes: Vec<u8>| -> Result<PathBuf> {
        let path = folder.join(name);
        files::write(&path, bytes)?;
        Ok(path)
    };
    let lied = stick::tampered(&good, b"\"counter\":3,", b"\"counter\":9,")?;
    let lied = write("lied.kedge", lied)?;
    let damaged = stick::tampered(&good, MARK, &[b'X'; MARK.len()])?;
    let damaged = write("damaged.kedge", damaged)?;
    let cut = files::read(&good)?;
    let cut = write("cut.kedge", cut.get(..300).context("300 bytes")?.to_vec())?;
    project.app("finished", &["finish", "1"], "[restart]\npolicy = \"no\"\n")?;
    let bad = project.bundle("bad.kedge")?;
    project.edit("product = \"trials\"", "product = \"others\"")?;
    let foreign = project.bundle("foreign.kedge")?;
    let refused = vec![older, lied, damaged, cut, foreign];
    Ok((disk, Bundles { good, bad, refused }))
}

/// What a stick holds that must not be taken is told of, and changes nothing.
fn refusals(guest: &mut Guest) -> Result<()> {
    guest.wait_for_control(BOOT)?;
    let before = (committed(guest)?, running(guest, "app")?);
    for line in [
        "stick: cut.kedge on sda: is no bundle, or a damaged one: malformed bundle: it ends inside of",
        "stick: foreign.kedge on sda: is for the product others",
        "stick: lied.kedge on sda: is not taken: ",
        "stick: damaged.kedge on sda: is not taken: ",
        "stick: older.kedge on sda: 1.1 is not newer than 1.2, which the device returns to",
    ] {
        guest.expect(line, TAKEN)?;
    }
    ensure!(
        before == (committed(guest)?, pid(guest, "app")?),
        "something was changed"
    );
    ensure!(
        events(guest, "trial-begun")?.is_empty(),
        "a trial has begun"
    );
    Ok(())
}

#[test]
fn vm_sticks_that_are_plugged_in() -> Result<()> {
    let (project, _) = built_trials()?;
    let (disk, bundles) = bundles(&project)?;
    let image = |name: &str| disk.folder().join(name);
    stick::make(&image("refused"), &bundles.refused)?;
    let lied = bundles.refused.get(1).context("five bundles")?;
    stick::make_divided(&image("good"), &[lied.clone(), bundles.good.clone()])?;
    stick::make(&image("bad"), std::slice::from_ref(&bundles.bad))?;
    let good = id_of(&bundles.good)?;
    let mut guest = start(&disk, &[&image("refused")])?;
    let mut checks = Checks::default();
    checks.run("what must not be taken is not", &mut guest, refusals);
    checks.run("pulled out in the middle", &mut guest, |guest| {
        let app = running(guest, "app")?;
        stick::plug(guest, "first", &image("good"))?;
        guest.wait("some of it is there", TAKEN, |guest| {
            let received = update(guest)?;
            let received = received.pointer("/staging/received");
            Ok(received
                .and_then(Value::as_u64)
                .filter(|bytes| *bytes > 4 << 20))
        })?;
        stick::pull(guest, "first")?;
        guest.expect("it goes on when the disk is back", JUDGED)?;
        ensure!(pid(guest, "app")? == app, "app is another process");
        ensure!(committed(guest)? != good, "half a bundle is committed");
        Ok(())
    });
    checks.run("and in again", &mut guest, |guest| {
        stick::plug(guest, "second", &image("good"))?;
        holds(guest, &good)?;
        let begun = events(guest, "trial-begun")?;
        let [begun] = begun.as_slice() else {
            anyhow::bail!("these trials have begun: {begun:?}");
        };
        ensure!(
            begun.get("source").and_then(Value::as_str) == Some("stick"),
            "{begun}"
        );
        ensure!(guest.boots() == 1, "the device was restarted");
        // Of either copy: what is damaged in the other one came with the first attempt.
        guest
            .expect(": revision 0.1.0 (1.3) is tried", JUDGED)
            .map(drop)
    });
    checks.run("what fails is tried once", &mut guest, |guest| {
        stick::plug(guest, "third", &image("bad"))?;
        guest.wait("the trial has failed", JUDGED, |guest| {
            Ok((!failure(guest)?.is_empty()).then_some(()))
        })?;
        ensure!(committed(guest)? == good, "it was committed");
        stick::pull(guest, "third")?;
        stick::plug(guest, "fourth", &image("bad"))?;
        guest.expect(
            "it was tried, and failed: goal-missed(app, finished",
            JUDGED,
        )?;
        ensure!(
            events(guest, "trial-begun")?.len() == 2,
            "it was tried again"
        );
        Ok(())
    });
    checks.finish()
}

/// The trial takes a reboot, in which the stick is still there, and again after the commit.
#[test]
fn vm_a_stick_that_stays_in() -> Result<()> {
    let (project, _) = built_trials()?;
    accept(&project)?;
    let disk = project.build()?;
    project.set(
        "base",
        "platform",
        "started",
        &["sleep", "from a stick"],
        "",
    )?;
    let bundle = project.bundle("update.kedge")?;
    let image = disk.folder().join("stick");
    stick::make_divided(&image, std::slice::from_ref(&bundle))?;
    let id = id_of(&bundle)?;
    let mut guest = start(&disk, &[&image])?;
    let mut checks = Checks::default();
    let again = "update.kedge on sda1: this is what the device runs";
    checks.run("it is there at the boot", &mut guest, |guest| {
        guest.wait_for_boot(2, TAKEN)?;
        guest.wait_for_control(BOOT)?;
        holds(guest, &id)?;
        guest.expect(again, JUDGED).map(drop)
    });
    checks.run("and at the next", &mut guest, |guest| {
        guest.post("/v1/reboot")?;
        guest.wait_for_boot(3, BOOT)?;
        guest.wait_for_control(BOOT)?;
        guest.wait_for_log("kedge", again, BOOT)?;
        ensure!(
            events(guest, "trial-begun")?.len() == 1,
            "it was tried again"
        );
        ensure!(
            guest.boots() == 3 && committed(guest)? == id,
            "the device goes round"
        );
        Ok(())
    });
    checks.finish()
}

#[test]
fn vm_a_stick_that_nobody_asked_for() -> Result<()> {
    let (project, disk) = built_trials()?;
    project.app("started", &["sleep", "from a stick"], "")?;
    let image = disk.folder().join("stick");
    stick::make(&image, &[project.bundle("update.kedge")?])?;
    let mut guest = start(&disk, &[&image])?;
    let mut checks = Checks::default();
    checks.run("it is left alone", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        let before = committed(guest)?;
        guest.wait_for_log("kernel", "[sda] Attached SCSI removable disk", BOOT)?;
        // Ten times as long as a disk is waited for where it is accepted.
        std::thread::sleep(Duration::from_secs(10));
        ensure!(!guest.has_said("stick:"), "it was looked at");
        ensure!(committed(guest)? == before, "something else is committed");
        ensure!(
            events(guest, "trial-begun")?.is_empty(),
            "a trial has begun"
        );
        Ok(())
    });
    checks.finish()
}
