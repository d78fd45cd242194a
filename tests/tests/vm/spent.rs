//! A container whose restarts are spent asks for a reboot, which it gets once the device was up for 20 minutes.
//!
//! They pass while nobody waits for them: what the guest sleeps takes no time outside. So nobody talks to it, either: what is
//! judged is the boot that follows, and what is on the disk then.

use crate::built_trials;
use anyhow::{Context, Result, ensure};
use kedge_board_support::boards;
use kedge_image_build::qemu::{Clock, VmConfig};
use kedge_tests::disk::Disk;
use kedge_tests::guest::Guest;
use kedge_tests::product::BOARD;
use serde_json::Value;
use std::time::Duration;

/// How long it may take outside, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(600);
/// Milliseconds of uptime at which such a reboot is granted.
const GRANTED: u64 = 1_200_000;

#[test]
fn vm_a_container_that_is_down_for_good_gets_its_reboot() -> Result<()> {
    let (project, _) = built_trials()?;
    let restart = "[restart]\npolicy = \"on-failure\"\ndelay = \"100ms\"\nmax-retries = 2\nthen = \"reboot\"\n";
    project.app("started", &["crash", "50", "7"], restart)?;
    let disk = project.build()?;
    let mut config = VmConfig::new(boards::find(BOARD)?, disk.path(), &disk.folder().join("vm"));
    config.clock = Clock::Leaping;
    let mut guest = Guest::with(config)?;
    let booted = guest.wait_for_boot(2, PATIENCE);
    booted.map_err(|error| error.context(guest.tail()))?;
    drop(guest);
    judge(&disk)
}

/// By what the first boot has left: three runs, one request, and an orderly end not before its time.
fn judge(disk: &Disk) -> Result<()> {
    let mut lines: Vec<(u64, String)> = Vec::new();
    for name in disk.list("/logs")? {
        let text = disk.read(&format!("/logs/{name}"))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let records = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.extend(records.filter_map(|record| {
            let time = record.get("time-ms")?.as_u64()?;
            Some((time, record.get("text")?.as_str()?.to_owned()))
        }));
    }
    let at = |wanted: &str| -> Vec<u64> {
        let found = lines.iter().filter(|(_, text)| text.contains(wanted));
        found.map(|(time, _)| *time).collect()
    };
    let end = at("all containers are down");
    let end = *end.first().with_context(|| format!("no end: {lines:?}"))?;
    let starts = at("starting at")
        .into_iter()
        .filter(|time| *time < end)
        .count();
    ensure!(
        starts == 3,
        "{starts} starts, of which two are retries: {lines:?}"
    );
    let asked = at("app asks for a reboot: exit status 7; granted at 1200 s");
    ensure!(
        asked.first().is_some_and(|at| *at < GRANTED),
        "{asked:?}: {lines:?}"
    );
    ensure!(end >= GRANTED, "the end came at {end} ms");
    Ok(())
}
