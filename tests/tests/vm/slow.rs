//! Objects that come slowly: packed, resumed after a cut, and out of the way of whoever stands before the device.

use crate::built_fleet;
use anyhow::{Context, Result, ensure};
use kedge_image_build::files;
use kedge_tests::fleet::{Fleet, PULLED};
use kedge_tests::guest::{BOOT, Checks, Guest};
use kedge_tests::trials::update;

/// Bytes of text that become about a third when they are packed.
const LARGE: u64 = 8 << 20;

/// Has the fleet run a revision with a layer of that size, which comes at this rate.
fn large(fleet: &Fleet, rate: &str) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let mut text = String::new();
    let mut state = 1_u64;
    while text.len() < usize::try_from(LARGE)? {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        text.push_str(&format!(
            "a line of a file with the number {:08x}\n",
            state >> 32
        ));
    }
    files::write(&folder.path().join("large"), text)?;
    let layer = fleet.project.layer_of(folder.path())?;
    fleet.project.lay("app", &layer)?;
    let revision = fleet.publish(&[])?;
    let words = ["assign", "all", &revision, "--rate", rate, "--yes"];
    fleet.project.kedge.ask(&words)?;
    Ok(revision)
}

/// More than so many bytes of what is under way are here.
fn has_come(guest: &Guest, bytes: u64) -> Result<()> {
    guest.wait("a part of it is here", PULLED, |guest| {
        let received = update(guest)?.pointer("/staging/received").cloned();
        let received = received.and_then(|received| received.as_u64());
        Ok(received.filter(|received| *received > bytes).map(drop))
    })
}

/// Whoever stands before the device does not wait for a slow network, and what had come is not lost.
#[test]
fn vm_what_a_hub_sends_gives_way_to_a_push() -> Result<()> {
    let (fleet, disk) = built_fleet()?;
    let mut guest = fleet.start(&disk)?;
    let mut checks = Checks::default();
    checks.run("a part of it comes, slowly", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        fleet.wait_for_enrolment(guest)?;
        // Two minutes: a project is built and pushed within them.
        large(&fleet, "8KiB")?;
        has_come(guest, 1 << 20)
    });
    checks.run("a push is taken meanwhile", &mut guest, |guest| {
        let project = &fleet.project;
        project.app("started", &["sleep", "pushed"], "")?;
        let pushed = project.push(guest, &[])?;
        ensure!(pushed.committed, "{}", pushed.said);
        guest.wait_for_log("kedge", "what a hub sends gives way", BOOT)?;
        Ok(())
    });
    checks.run("what had come goes on", &mut guest, |guest| {
        has_come(guest, 2 << 20)
    });
    checks.run(
        "so does it to a revision that is here",
        &mut guest,
        |guest| {
            let committed = update(guest)?.pointer("/committed/revision").cloned();
            let committed = committed.context("nothing is committed")?;
            let committed = committed.as_str().and_then(|id| id.strip_prefix("v1:"));
            let committed = committed.context("no name")?;
            let target = format!("/v1/update/apply?revision={committed}&parameters=0");
            let answer = guest.control("POST", &target)?;
            ensure!(answer.status == 503, "{}: {}", answer.status, answer.body);
            guest.wait("it is judged", BOOT, |guest| {
                let answer = guest.control("POST", &target)?;
                let judged = answer.status == 409 && answer.body.contains("this is what runs");
                Ok(judged.then_some(()))
            })
        },
    );
    checks.finish()
}

/// What is packed travels packed, and what is there after a cut does not travel again.
#[test]
fn vm_frames_travel_and_a_cut_costs_one_of_them() -> Result<()> {
    let (fleet, disk) = built_fleet()?;
    let mut guest = fleet.start(&disk)?;
    let mut checks = Checks::default();
    let mut revision = String::new();
    checks.run("half of it comes", &mut guest, |guest| {
        guest.wait_for_control(BOOT)?;
        fleet.wait_for_enrolment(guest)?;
        revision = large(&fleet, "150KiB")?;
        has_come(guest, LARGE / 2)
    });
    guest.cut_power()?;
    checks.finish()?;
    let mut guest = fleet.start(&disk)?;
    let mut checks = Checks::default();
    checks.run(
        "the rest comes, in a third of its bytes",
        &mut guest,
        |guest| {
            guest.wait_for_control(BOOT)?;
            let line = guest.wait_for_log("kedge", " came as ", PULLED)?.text;
            let number = |before: &str| {
                let (_, rest) = line.split_once(before)?;
                rest.split(' ').next()?.parse::<u64>().ok()
            };
            let (bytes, wire) = (number("agent: "), number("came as "));
            let (bytes, wire) = bytes.zip(wire).context(line.clone())?;
            ensure!(bytes < LARGE * 3 / 4, "nothing was kept: {line}");
            // A frame that is there in part comes whole.
            ensure!(wire < bytes / 2 + 512 * 1024, "it was not packed: {line}");
            fleet.wait_for_commit(guest, &revision)
        },
    );
    checks.finish()
}
