//! Memory: the proportional set size (PSS, `/proc/PID/smaps_rollup`) of PID 1 and its helpers, and the least memory that a
//! device runs in.
//!
//! PID 1 tells the figures of itself and its helpers in the status of development products. They are read ten seconds
//! after all goals are met, with one container and with five; containers' own processes are not counted, nor is what the
//! kernel keeps for itself. What the agent adds, [`super::agent`] measures.
//!
//! `memory.pid1-100` is PID 1 after its container was started a hundred times more. `memory.machine-per-container` is by how
//! much less the whole machine has (`MemAvailable`) for each of 32 further containers that do nothing: what the kernel
//! keeps for processes, namespaces, mounts and control groups is in it, and the containers' own process, which is a page or two.
//!
//! `memory.smallest-m` is QEMU's smallest `-m` with which one container reaches its goal in the first boot and a pushed
//! revision, whose kernel arguments are new, is written into the other slot, tried and committed.
//! `memory.smallest-m-bare` is the control: with which the same kernel starts a program that does nothing. In both the
//! host plays the loader, on every board: it is the system that is measured, and not where a firmware wants to have
//! kernel and initramfs in memory.

use super::subject::Program;
use super::trial::push;
use super::{Figure, agent, note, subject};
use crate::device::{Device, console_tail, list};
use crate::project::{self, Built, copy_disk};
use anyhow::{Context, Result, bail, ensure};
use kedge_board_support::record::Slot;
use kedge_image_build::progress;
use kedge_image_build::qemu::VmConfig;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

pub(super) const PATIENCE: Duration = Duration::from_secs(180);
/// A device without enough memory may hang; one with enough is up in ten seconds.
const VERDICT: Duration = Duration::from_secs(60);
/// Helpers end their first work meanwhile: growing the file system, writing logs.
pub(super) const SETTLE: Duration = Duration::from_secs(10);
/// Starts of a container, for what PID 1 keeps of them.
const STARTS: u32 = 100;
/// Containers by which the machine's memory is divided: many, for the kernel counts it in batches.
const MANY: u32 = 33;
/// Least and most MiB that are tried: the kernel alone needs more than the first.
const LEAST: u32 = 12;
const MOST: u32 = 128;

pub(super) fn measure(platform: &Path) -> Result<Vec<Figure>> {
    let folder = subject::fast_folder()?;
    let one = subject::tiny(folder.path(), platform, 1)?;
    project::edit(&one, "window", "\"5s\"")?;
    let one = project::build(project::board(platform)?, one, platform)?;
    let five = subject::build(folder.path(), platform, 5)?;
    let many = subject::build(folder.path(), platform, MANY)?;
    let with_one = progress::step("memory with one container", || {
        resident(&one, folder.path(), 0)
    })?;
    let after = progress::step(
        format_args!("memory after {STARTS} starts of a container"),
        || resident(&one, folder.path(), STARTS),
    )?;
    let with_five = progress::step("memory with five containers", || {
        resident(&five, folder.path(), 0).with_context(|| subject::console(folder.path()))
    })?;
    let with_many = progress::step(format_args!("memory with {MANY} containers"), || {
        resident(&many, folder.path(), 0).with_context(|| subject::console(folder.path()))
    })?;
    let machine = with_one.available.saturating_sub(with_many.available) / u64::from(MANY - 1);
    let smallest = smallest("one container and an update", |memory| {
        lives(&one, folder.path(), memory)
    })?;
    let bare = bare(&one, folder.path())?;
    let further = with_five.system.saturating_sub(with_one.system) / 4;
    let with_agent =
        agent::measure(platform, folder.path()).with_context(|| subject::console(folder.path()))?;
    let mut figures = vec![
        Figure::bytes("memory.pid1", with_one.pid1, Some(350_000)),
        Figure::bytes("memory.system-1", with_one.system, Some(1_500_000)),
        Figure::bytes("memory.system-5", with_five.system, Some(1_660_000)),
        Figure::bytes("memory.per-container", further, Some(40_000)),
        Figure::bytes("memory.machine-per-container", machine, None),
        Figure::bytes("memory.pid1-100", after.pid1, None),
        Figure::mebibytes("memory.smallest-m", smallest, Some(32)),
        Figure::mebibytes("memory.smallest-m-bare", bare, None),
    ];
    figures.extend(with_one.each.iter().map(|(name, size)| {
        let name = format!("memory.process.{name}");
        Figure::bytes(&name, *size, None)
    }));
    figures.extend(with_agent);
    Ok(figures)
}

/// PSS in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resident {
    pub(super) pid1: u64,
    pub(super) system: u64,
    /// Each process by its name.
    pub(super) each: Vec<(String, u64)>,
    /// What the machine could still give, bytes.
    available: u64,
}

/// After so many further starts of the first container.
fn resident(built: &Built, folder: &Path, starts: u32) -> Result<Resident> {
    let disk = folder.join("disk");
    copy_disk(&built.image, &disk)?;
    let mut device = Device::start(&built.kedge, built.machine_with(&disk), false)?;
    device.until_goals(PATIENCE)?;
    for _ in 0..starts {
        device.ctl(&["restart", "tiny-1"])?;
        device.until_goals(PATIENCE)?;
    }
    device.listen(SETTLE);
    let status = device.status()?;
    let resident = read(&status)?;
    for process in list(&status, "processes") {
        note(process);
    }
    device.cut_power()?;
    Ok(resident)
}

pub(super) fn read(status: &Value) -> Result<Resident> {
    let pss = |process: &Value| process.get("pss").and_then(Value::as_u64);
    let name = |process: &Value| process.get("name").and_then(Value::as_str) == Some("init");
    let pid1 = list(status, "processes")
        .find(|process| name(process))
        .and_then(pss)
        .context(
            "the device does not tell the memory of its processes; is it a development product?",
        )?;
    let each = list(status, "processes").filter_map(|process| {
        let name = process.get("name").and_then(Value::as_str)?;
        Some((name.to_owned(), pss(process)?))
    });
    let each: Vec<_> = each.collect();
    Ok(Resident {
        pid1,
        system: each.iter().map(|(_, size)| size).sum(),
        each,
        available: status
            .pointer("/memory/available")
            .and_then(Value::as_u64)
            .context("the device does not tell the memory of its machine")?,
    })
}

/// Halves the range until the smallest is found. Assumes that more memory is never worse.
fn smallest(what: &str, mut works: impl FnMut(u32) -> Result<()>) -> Result<u32> {
    let (mut bad, mut good) = (LEAST, MOST);
    works(good).with_context(|| format!("{what}: not in {MOST} MiB"))?;
    while good - bad > 1 {
        let middle = bad.midpoint(good);
        match progress::step(format_args!("{what} in {middle} MiB"), || {
            anyhow::Ok(works(middle).err())
        })? {
            None => good = middle,
            Some(error) => {
                note(error.to_string().lines().next().unwrap_or_default());
                bad = middle;
            }
        }
    }
    Ok(good)
}

fn without_firmware(built: &Built, disk: &Path, memory: u32) -> VmConfig {
    let mut config = built.machine_without_firmware(disk);
    config.memory = Some(memory);
    config
}

/// The device reaches its goals in its first boot with so many MiB, and takes an update.
///
/// # Errors
/// It does not; why not.
fn lives(built: &Built, folder: &Path, memory: u32) -> Result<()> {
    let disk = folder.join("disk");
    copy_disk(&built.image, &disk)?;
    let config = without_firmware(built, &disk, memory);
    let mut device = Device::start(&built.kedge, config, false)?;
    let reached = device.until("its goals are met", VERDICT, |device| {
        if device.boots() > 1 {
            return Ok(Err("it panicked and reset"));
        }
        match crate::device::missing(&device.status()?) {
            None => Ok(Ok(())),
            Some(why) => bail!("{why}"),
        }
    })?;
    reached.map_err(|why| anyhow::anyhow!(why))?;
    // The push asks the device over and over, and nobody else takes the console's lines meanwhile: they wait in a queue.
    project::edit(
        &built.kedge,
        "arguments",
        &format!("\"measure.round={memory}\""),
    )?;
    push(&device, &built.kedge, &built.platform, &[])?;
    device.listen(Duration::from_millis(200));
    ensure!(device.boots() == 2, "{} boots, not 2", device.boots());
    device.cut_power()
}

/// The least with which a kernel starts a program that does nothing.
fn bare(built: &Built, folder: &Path) -> Result<u32> {
    let program = subject::program(Program::Bare, built.board())?;
    let disk = folder.join("bare");
    copy_disk(&built.image, &disk)?;
    subject::instead_of_init(&disk, Slot::A, folder, ("bare-init", &program), |_| {
        Vec::new()
    })?;
    smallest("a bare init", |memory| {
        let mut config = without_firmware(built, &disk, memory);
        config.folder = folder.join(format!("bare-{memory}"));
        let place = config.folder.clone();
        let mut device = Device::start(&built.kedge, config, false)?;
        device.until("it runs", VERDICT, |_| {
            let runs = console_tail(&place).contains("a bare init runs at");
            ensure!(runs, "it says nothing");
            Ok(())
        })?;
        device.cut_power()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_system_is_pid_1_and_its_helpers() {
        let status = json!({"memory": {"total": 9_000_000, "available": 5_000_000}, "processes": [
            {"name": "init", "pid": 1, "pss": 300_000},
            {"name": "disk", "pid": 30, "pss": 100_000},
            {"name": "net", "pid": 31, "pss": 90_000},
        ]});
        let resident = read(&status).unwrap();
        assert_eq!((resident.pid1, resident.system), (300_000, 490_000));
        assert_eq!(resident.available, 5_000_000);
        read(&json!({})).unwrap_err();
    }
}
