//! Memory with an agent: a device that has enrolled and holds its question open at a hub, and one in the middle of an
//! update of 50 MB that do not compress.
//!
//! Idle is read ten seconds after the hub has the first report. The peaks are the largest of samples over the control
//! interface, two or three a second, from the publishing to the commit: the agent alone, and PID 1 with all its helpers at
//! one moment.

use super::memory::{PATIENCE, Resident, SETTLE, read};
use super::{Figure, note, subject};
use crate::device::{Device, list};
use crate::hub::Hub;
use crate::kedge::Kedge;
use crate::project::{self, Built, copy_disk};
use anyhow::{Context, Result, ensure};
use kedge_image_build::{files, progress};
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// Bytes of the update.
const UPDATE: u64 = 50_000_000;
/// An emulated device stages 50 MB in a minute.
const UPDATED: Duration = Duration::from_secs(400);

pub(super) fn measure(platform: &Path, folder: &Path) -> Result<Vec<Figure>> {
    let folder = folder.join("agent");
    files::make_folder(&folder)?;
    let hub = Hub::start(&folder)?;
    let built = product(&hub, platform, &folder)?;
    let mut device = boot(&hub, &built, &folder)?;
    let idle = progress::step("memory with an agent whose poll is held", || {
        device.until("the device has reported", PATIENCE, |_| {
            ensure!(hub.device()?.report > 0, "it has not reported");
            Ok(())
        })?;
        device.listen(SETTLE);
        sample(&device.status()?)
    })?;
    note(format_args!("{idle:?}"));
    let peak = progress::step("memory in an update of 50 MB", || {
        update(&hub, &built, &mut device, &folder)
    })?;
    note(format_args!("{peak:?}"));
    device.cut_power()?;
    Ok(vec![
        Figure::bytes("memory.agent-idle", idle.agent, None),
        Figure::bytes("memory.system-with-agent", idle.system, Some(1_500_000)),
        Figure::bytes("memory.agent-peak", peak.agent, None),
        Figure::bytes("memory.system-peak", peak.system, None),
    ])
}

/// PSS in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sample {
    agent: u64,
    system: u64,
}

fn sample(status: &Value) -> Result<Sample> {
    let Resident { system, .. } = read(status)?;
    let agent = list(status, "processes")
        .find(|process| process.get("name").and_then(Value::as_str) == Some("agent"))
        .and_then(|process| process.get("pss").and_then(Value::as_u64))
        .context("the device has no agent")?;
    Ok(Sample { agent, system })
}

/// A product of one tiny container, whose first revision the hub has.
fn product(hub: &Hub, platform: &Path, folder: &Path) -> Result<Built> {
    let settings = folder.join("settings");
    let place = folder.join("measure-agent");
    let (url, token) = (hub.url(), hub.token().to_string_lossy());
    Kedge::at(&place, &settings).ask(&["login", &url, "--token-file", &token, "--yes"])?;
    let trusts = ["--hub", &url, "--device-hub", &hub.device_url()];
    let board = project::board(platform)?;
    let kedge = Kedge::new_project_with(&place, board.name.as_str(), &settings, &trusts)?;
    let image = subject::image(folder, subject::Program::First, &board)?;
    kedge.ask(&["add", &image, "--name", "tiny", "--root", "refused"])?;
    project::edit(&kedge, "window", "\"5s\"")?;
    let built = project::build(board, kedge, platform)?;
    publish(&built, &[])?;
    Ok(built)
}

fn publish(built: &Built, more: &[&str]) -> Result<String> {
    let platform = built.platform.to_string_lossy();
    let words = ["publish", "--platform", &platform];
    let published = built.kedge.ask(&[&words[..], more].concat())?;
    let revision = published.get("revision").and_then(Value::as_str);
    Ok(revision
        .context("kedge publish names no revision")?
        .to_owned())
}

/// The device, with what it needs to join the hub.
fn boot(hub: &Hub, built: &Built, folder: &Path) -> Result<Device> {
    let provision = folder.join("provision.json");
    let out = provision.to_string_lossy();
    let for_devices = hub.device_url();
    let words = ["join-token", "new", "--device-hub", &for_devices];
    built.kedge.ask(&[&words[..], &["--out", &out]].concat())?;
    // As a card is written: not every machine has something that hands a provisioning over.
    let disk = folder.join("disk");
    copy_disk(&built.image, &disk)?;
    let (image, to) = (built.image.to_string_lossy(), disk.to_string_lossy());
    let words = [
        "flash",
        &to,
        "--image",
        &image,
        "--provision",
        &out,
        "--yes",
    ];
    built.kedge.ask(&words)?;
    Device::start(&built.kedge, built.machine_with(&disk), false)
}

/// Adds a container with noise, and looks on while the device takes it.
fn update(hub: &Hub, built: &Built, device: &mut Device, folder: &Path) -> Result<Sample> {
    let root = folder.join("noise");
    for name in ["dev", "proc", "sys", "tmp"] {
        files::make_folder(&root.join(name))?;
    }
    let program = files::read(&subject::program(subject::Program::First, built.board())?)?;
    files::write_executable(&root.join("program"), program)?;
    let mut noise = Vec::new();
    let source = File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    source.take(UPDATE).read_to_end(&mut noise)?;
    files::write(&root.join("noise"), noise)?;
    let image = format!("dir:{}", root.display());
    let words = ["add", &image, "--name", "noise", "--command", "/program"];
    built.kedge.ask(&words)?;
    let revision = publish(built, &["--assign", "all", "--yes"])?;
    let mut peak = Sample::default();
    look_on(device, &mut peak, |status| {
        let committed = status.pointer("/update/committed/revision");
        committed.and_then(Value::as_str) == Some(&revision)
    })?;
    ensure!(peak.agent > 0, "the update was not seen");
    let known = hub.device()?;
    ensure!(
        known.failed.is_none(),
        "the update failed: {:?}",
        known.failed
    );
    Ok(peak)
}

fn look_on(device: &mut Device, peak: &mut Sample, done: impl Fn(&Value) -> bool) -> Result<()> {
    let seen = std::cell::Cell::new(*peak);
    device.until("the update is committed", UPDATED, |device| {
        let status = device.status()?;
        let now = sample(&status)?;
        let before = seen.get();
        seen.set(Sample {
            agent: before.agent.max(now.agent),
            system: before.system.max(now.system),
        });
        ensure!(done(&status), "it is not yet");
        Ok(())
    })?;
    *peak = seen.get();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_agent_is_told_by_itself_and_in_the_sum() {
        let status = json!({"memory": {"available": 5_000_000}, "processes": [
            {"name": "init", "pid": 1, "pss": 300_000},
            {"name": "agent", "pid": 30, "pss": 500_000},
        ]});
        let sample = sample(&status).unwrap();
        assert_eq!((sample.agent, sample.system), (500_000, 800_000));
        super::sample(
            &json!({"memory": {"available": 1}, "processes": [{"name": "init", "pss": 1}]}),
        )
        .unwrap_err();
    }
}
