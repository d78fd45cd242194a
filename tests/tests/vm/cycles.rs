//! A device on which containers come and go a thousand times holds afterwards what it held before.

use crate::{built_trials, exec};
use anyhow::{Context, Result, ensure};
use kedge_tests::guest::{BOOT, Checks, Guest, text};
use kedge_tests::trials::{Project, failure, update};
use serde_json::Value;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);
/// How often containers are started anew.
const CYCLES: usize = 1000;
/// A network of its own and a read-only root; an overlay on disk and a volume; an overlay in memory; an address of a pool, a
/// published port and a device.
const CONTAINERS: [&str; 4] = ["keeper", "data", "base", "app"];
/// The kinds of namespaces that a container has of its own, as `/proc/sys/user/max_*_namespaces` calls them.
const KINDS: [&str; 7] = ["user", "mnt", "pid", "ipc", "uts", "cgroup", "net"];
/// So many of each kind are enough for five containers, those that start while others end, and the device's helpers.
const ENOUGH: u32 = 40;
/// So many are not: PID 1 keeps a namespace for each container with an address.
const TOO_FEW: u32 = 2;

/// Arguments that let the kernel make at most so many namespaces of each kind: one that nobody has any more, but which is
/// there, counts among them, and can be counted in no other way.
fn at_most(namespaces: u32) -> String {
    KINDS
        .map(|kind| format!("sysctl.user.max_{kind}_namespaces={namespaces}"))
        .join(" ")
}

fn with_a_pool_and_a_device(project: &Project) -> Result<()> {
    project.edit(
        "[configuration]\n",
        "[configuration.networks.front]\nprefix = \"10.88.0.0/24\"\nprefix6 = \"fd00:88::/64\"\n\n[configuration]\n",
    )?;
    project.add_line("app", "network = { pool = \"front\" }")?;
    project.add_line("app", "ports = [\"8080:80\"]")?;
    project.add_line(
        "app",
        "devices = [{ subsystem = \"misc\", path = \"/devices/virtual/misc/hw_random\", name = \"noise\", access = \"r\" }]",
    )?;
    project.add_line("base", "root = \"boot\"")?;
    project.add_line("data", "root = \"revision\"")
}

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
    let (project, _) = built_trials()?;
    with_a_pool_and_a_device(&project)?;
    project.kernel_arguments(&at_most(ENOUGH))?;
    let disk = project.build()?;
    let mut guest = Guest::start(&disk, &[])?;
    guest.wait_for_control(BOOT)?;
    for name in CONTAINERS {
        guest.wait_for_state(name, "running", SOON)?;
    }
    let mut checks = Checks::default();
    checks.run("the device is there", &mut guest, |guest| {
        let found = exec::ask(guest, "/v1/containers/app")?;
        let node = found.pointer("/devices/0");
        let node = node.with_context(|| format!("app has no device: {found}"))?;
        ensure!(node.to_string().contains("noise"), "{node}");
        Ok(())
    });
    checks.run("a thousand starts", &mut guest, thousand);
    checks.run("so many namespaces were all", &mut guest, |guest| {
        too_few(&project, guest)
    });
    checks.finish()
}

fn thousand(guest: &mut Guest) -> Result<()> {
    // One cycle first: what is made once stays.
    cycle(guest, CONTAINERS.len())?;
    let before = held(guest)?;
    cycle(guest, CYCLES)?;
    let after = held(guest)?;
    for name in ["descriptors", "mounts", "cgroups", "interfaces"] {
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

/// The kernel does count: with two of each no five containers start, and the revision that says so is rolled back.
fn too_few(project: &Project, guest: &mut Guest) -> Result<()> {
    project.kernel_arguments(&at_most(TOO_FEW))?;
    let pushed = project.push(guest, &[])?;
    ensure!(!pushed.committed, "it was committed: {}", pushed.said);
    let why = failure(guest)?;
    ensure!(why.starts_with("crash-loop("), "{}", update(guest)?);
    Ok(())
}
