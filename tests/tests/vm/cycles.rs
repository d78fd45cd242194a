//! A device on which containers come and go a thousand times holds afterwards what it held before.

use crate::{exec, fresh_disk};
use anyhow::{Context, Result, ensure};
use kedge_tests::guest::{BOOT, Guest, text};
use serde_json::Value;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);
/// How often containers are started anew.
const CYCLES: u32 = 1000;
/// A network of its own and a read-only root, one layer; an overlay on disk and volumes; an overlay in memory.
const CONTAINERS: [&str; 3] = ["later", "filler", "polite"];

/// What the device holds, once nothing of a stop is under way any more.
fn held(guest: &Guest) -> Result<Value> {
    let mut before = Value::Null;
    guest.wait("nothing comes or goes", SOON, |guest| {
        let usage = exec::ask(guest, "/v1/usage")?;
        let now = usage.get("held").context("nothing is held")?.clone();
        let same = now == before;
        before = now.clone();
        Ok(same.then_some(now))
    })
}

fn number(held: &Value, name: &str) -> Result<u64> {
    let found = held.get(name).and_then(Value::as_u64);
    found.with_context(|| format!("no {name} in {held}"))
}

#[test]
fn vm_a_thousand_starts_leave_nothing_behind() -> Result<()> {
    let disk = fresh_disk()?;
    let mut guest = Guest::start(&disk, &[])?;
    guest.wait_for_control(BOOT)?;
    for name in CONTAINERS {
        guest.wait_for_state(name, "running", SOON)?;
    }
    // One cycle first: what is made once stays.
    cycle(&guest, CONTAINERS.len())?;
    let before = held(&guest)?;
    cycle(&guest, usize::try_from(CYCLES)?)?;
    let after = held(&guest)?;
    for name in ["descriptors", "mounts", "cgroups"] {
        let (one, other) = (number(&before, name)?, number(&after, name)?);
        ensure!(
            one == other && one > 0,
            "{name}: {one} before, {other} after"
        );
    }
    // The kernel's workers come and go by themselves.
    let (one, other) = (number(&before, "processes")?, number(&after, "processes")?);
    ensure!(
        other <= one + 20,
        "{one} processes before, {other} after {CYCLES} starts"
    );
    Ok(())
}

/// Restarts containers in turn, each when it runs again.
fn cycle(guest: &Guest, count: usize) -> Result<()> {
    for name in CONTAINERS.iter().cycle().take(count) {
        let before = guest.container(name)?;
        guest.post(&format!("/v1/containers/{name}/restart"))?;
        let begun = Instant::now();
        loop {
            let now = guest.container(name)?;
            if text(&now, "state") == "running" && now.get("pid") != before.get("pid") {
                break;
            }
            ensure!(begun.elapsed() < SOON, "{name} does not run again: {now}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}
