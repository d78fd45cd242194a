//! Devices for containers: plugged in and pulled out while containers run that asked for them, and that did not.
//!
//! The device is a disk on a virtual SCSI bus, which both kernels of this board have drivers for. What a rule chooses it by
//! is what a USB device would be chosen by: the ids of what it hangs on.

use crate::{built_trials, exec};
use anyhow::{Context, Result, ensure};
use kedge_board_support::boards;
use kedge_image_build::files;
use kedge_image_build::qemu::VmConfig;
use kedge_tests::guest::{BOOT, Checks, Guest, text};
use kedge_tests::product::BOARD;
use kedge_tests::stick;
use kedge_tests::trials::{JUDGED, failure, pid, running};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// How long a device may take from the plug to the container, emulated, on a machine that is busy.
const SOON: Duration = Duration::from_secs(60);

/// A rule that fits every disk of the machine's, the device's own, too.
const READS: &str =
    "devices = [{ subsystem = \"block\", vendor = \"1af4\", name = \"stick\", access = \"r\" }]";
const NEEDS: &str =
    "devices = [{ subsystem = \"block\", vendor = \"1af4\", name = \"needed\", required = true }]";

/// What opening a device in a container says.
fn open(guest: &Guest, container: &str, path: &str, mode: &str) -> Result<String> {
    let said = exec::run(
        guest,
        &["exec", container, "/probe", "open", path, mode],
        b"",
    )?;
    ensure!(said.status.success(), "{said:?}");
    let said = String::from_utf8(said.stdout)?;
    let said = said
        .trim_end()
        .strip_prefix(&format!("open {path} {mode} "));
    Ok(said.context("another answer")?.to_owned())
}

fn says(guest: &Guest, container: &str, path: &str, mode: &str, wanted: &str) -> Result<()> {
    let said = open(guest, container, path, mode)?;
    ensure!(
        said == wanted,
        "{container}: {path} {mode}: {said:?}, not {wanted:?}"
    );
    Ok(())
}

/// A disk that begins with this text.
fn image(folder: &Path, name: &str) -> Result<()> {
    let mut bytes = format!("this is {name}").into_bytes();
    bytes.resize(1 << 20, 0);
    files::write(&folder.join(name), bytes)
}

fn inspect(guest: &Guest, container: &str) -> Result<Value> {
    let answer = guest.control("GET", &format!("/v1/containers/{container}"))?;
    Ok(serde_json::from_str(&answer.body)?)
}

/// Before anything is plugged in: who asks has nothing, who needs waits, and the device's own disk is nobody's.
fn before(guest: &mut Guest) -> Result<()> {
    guest.wait_for_control(BOOT)?;
    guest.wait_for_state("app", "running", SOON)?;
    guest.expect(
        "app: vda is not given: it is of the disk that Kedge runs from",
        SOON,
    )?;
    says(guest, "app", "/dev/stick", "r", "error 2")?;
    says(guest, "app", "/dev/vda", "r", "error 2")?;
    says(guest, "app", "/dev/null", "rw", "ok")?;
    let needing = guest.wait_for_state("keeper", "waiting", SOON)?;
    let waits = needing.pointer("/waiting-for/0");
    ensure!(waits == Some(&"a device".into()), "{needing}");
    // Nor does it make a node itself.
    let said = exec::run(guest, &["exec", "app", "/probe", "look"], b"")?;
    let said = String::from_utf8(said.stdout)?;
    ensure!(said.contains("fact try-make-disk-node 1\n"), "{said}");
    Ok(())
}

fn plugged(guest: &mut Guest, folder: &Path) -> Result<()> {
    stick::plug(guest, "first", &folder.join("first"))?;
    guest.expect("app: /dev/stick is there (sda 8:0)", SOON)?;
    guest.wait_for_state("keeper", "running", SOON)?;
    says(guest, "app", "/dev/stick", "r", "ok this is first")?;
    says(guest, "keeper", "/dev/needed", "r", "ok this is first")?;
    // The node lets its owner write; who judges is the cgroup's program, which says EPERM.
    says(guest, "app", "/dev/stick", "rw", "error 1")?;
    // Not for writing either; but that is what the disk itself says (EROFS or EACCES).
    let writes = open(guest, "keeper", "/dev/needed", "rw")?;
    ensure!(writes != "error 1", "{writes}");
    // Who has not asked.
    says(guest, "site", "/dev/stick", "r", "error 2")?;
    let app = inspect(guest, "app")?;
    let device = app.pointer("/devices/0");
    let device = device.with_context(|| format!("no device: {app}"))?;
    ensure!(
        text(device, "node") == "/dev/stick"
            && text(device, "kernel-name") == "sda"
            && text(device, "number") == "8:0"
            && text(device, "ids").starts_with("1af4:"),
        "{app}"
    );
    Ok(())
}

fn pulled(guest: &mut Guest, folder: &Path) -> Result<()> {
    let keeper = running(guest, "keeper")?;
    stick::pull(guest, "first")?;
    guest.expect("app: /dev/stick has left", SOON)?;
    guest.expect("keeper: /dev/needed has left", SOON)?;
    says(guest, "app", "/dev/stick", "r", "error 2")?;
    ensure!(
        inspect(guest, "app")?.get("devices").is_none(),
        "it is still told of"
    );
    // What runs goes on, and waits when it is started again.
    ensure!(pid(guest, "keeper")? == keeper, "keeper is another process");
    guest.post("/v1/containers/keeper/restart")?;
    guest.wait_for_state("keeper", "waiting", SOON)?;
    stick::plug(guest, "second", &folder.join("second"))?;
    guest.wait_for_state("keeper", "running", SOON)?;
    says(guest, "keeper", "/dev/needed", "r", "ok this is second")?;
    says(guest, "app", "/dev/stick", "r", "ok this is second")
}

#[test]
fn vm_devices_that_are_plugged_in() -> Result<()> {
    let (project, _) = built_trials()?;
    project.add_line("app", READS)?;
    project.add_line("keeper", NEEDS)?;
    let disk = project.build()?;
    let folder = disk.folder().to_owned();
    image(&folder, "first")?;
    image(&folder, "second")?;
    let mut config = VmConfig::new(boards::find(BOARD)?, disk.path(), &folder.join("vm"));
    config.sticks = Some(Vec::new());
    let mut guest = Guest::with(config)?;
    let mut checks = Checks::default();
    checks.run("nothing is plugged in", &mut guest, before);
    checks.run("a device comes", &mut guest, |guest| {
        plugged(guest, &folder)
    });
    checks.run("it leaves, and another one comes", &mut guest, |guest| {
        pulled(guest, &folder)
    });
    checks.run(
        "a trial that needs what is not there",
        &mut guest,
        |guest| {
            project.app("started", &["sleep"], "")?;
            project.add_line(
                "app",
                "devices = [{ subsystem = \"tty\", vendor = \"0403\", required = true }]",
            )?;
            let pushed = project.push(guest, &[])?;
            ensure!(!pushed.committed, "{:?}", pushed.said);
            let why = failure(guest)?;
            ensure!(why.starts_with("goal-missed(app, started"), "{why}");
            // The committed revision runs again, with what it asked for.
            guest.wait_for_state("app", "running", JUDGED)?;
            says(guest, "app", "/dev/stick", "r", "ok this is second")
        },
    );
    checks.finish()
}
