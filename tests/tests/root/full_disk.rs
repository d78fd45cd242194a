//! A disk that fills up in the middle of a download, and one that takes nothing any more: the agent and the stage helper as
//! they run on a device, with a folder that is a file system of its own.

use anyhow::{Context, Result, ensure};
use kedge_api::device::Phase;
use kedge_api::operator::{ActionRequest, OperatorAction};
use kedge_store::Store;
use kedge_sys::Errno;
use kedge_sys::rustix::fs::{FallocateFlags, fallocate, statvfs};
use kedge_sys::rustix::mount::{
    MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount,
};
use kedge_tests::agent::{Device, PATIENCE};
use kedge_tests::proxy::{Break, Cable};
use kedge_tests::releases::{Fleet, Plan};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const HUB: &str = env!("CARGO_BIN_EXE_test-hub");
const HELPER: &str = env!("CARGO_BIN_EXE_test-helper");

/// What is downloaded, bytes.
const SIZE: usize = 6_000_000;
/// What has come of it before the disk is full, and a block less, bytes.
const PART: u64 = 1 << 20;
const KEPT: u64 = PART - 4096;

/// A small file system, gone with this value.
struct Disk {
    path: PathBuf,
}

impl Disk {
    fn mount(path: &Path, options: &std::ffi::CStr) -> Result<Self> {
        std::fs::create_dir(path)?;
        mount("kedge-test", path, "tmpfs", MountFlags::empty(), options)?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    fn free(&self) -> Result<u64> {
        let is = statvfs(&self.path)?;
        Ok(is.f_bavail.saturating_mul(is.f_frsize))
    }

    /// Takes all that is free, as somebody else's file does.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.path.join("somebody-elses");
        let file = File::create(&path)?;
        fallocate(&file, FallocateFlags::empty(), 0, self.free()?)?;
        Ok(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still has a file open there ends soon.
        unmount(&self.path, UnmountFlags::DETACH).ok();
    }
}

/// Bytes of what is not yet complete.
fn received(data: &Path) -> u64 {
    let entries = std::fs::read_dir(data.join("staging"));
    let files = entries.into_iter().flatten().flatten();
    files
        .filter(|file| file.path().extension().is_some_and(|kind| kind == "part"))
        .filter_map(|file| Some(file.metadata().ok()?.len()))
        .sum()
}

#[test]
fn root_a_disk_that_fills_up_in_the_middle_costs_nothing_that_was_there() -> Result<()> {
    crate::own_mounts()?;
    let fleet = Fleet::start(HUB)?;
    let folder = tempfile::tempdir()?;
    let disk = Disk::mount(&folder.path().join("data"), c"size=24m")?;
    let cable = Cable::new(fleet.address()?)?;
    let mut device = Device::new(HELPER, folder.path(), &fleet, &[cable.url()])?;
    let factory = device.state().committed.0;
    device.provision(fleet.provision(1, 3600)?);
    device.start()?;
    device.until("the hub's answer", |device| device.state().hub)?;
    let id = device.id()?;
    let release = fleet.publish(&Plan::noise(2, SIZE))?;

    // Slow enough that the disk is full before the object is there.
    cable.breaks(vec![Break::Slow(Duration::from_millis(30)); 9]);
    fleet.assign(&format!("id={id}"), release.id)?;
    device.until("a part of it", |device| received(device.data()) > PART)?;
    let somebody_elses = disk.fill()?;
    let reason = || match fleet.device(id).ok().and_then(|shown| shown.phase) {
        Some(Phase::Refused { reason }) => reason,
        _ => String::new(),
    };
    let told = device.until("the reason at the hub", |_| {
        reason().contains("are missing")
    });
    told.with_context(|| format!("the hub knows {:?}", fleet.device(id)))?;
    ensure!(received(device.data()) > KEPT, "what had come is gone");
    ensure!(device.state().committed.0 == factory && device.state().trials == 0);
    ensure!(device.runs(), "the agent has ended");
    device.audit(&[&release])?;

    // There is room again, and what had come does not come again.
    std::fs::remove_file(somebody_elses).context("the file is gone")?;
    device.start()?;
    device.until_committed(release.id)?;
    let offsets = device.offsets();
    ensure!(
        offsets.last().is_some_and(|offset| *offset > KEPT),
        "{offsets:?}"
    );
    ensure!(Store::at(device.data()).revisions()?.contains(&release.id));
    device.audit(&[&release])
}

/// Makes a bind mount one for reading alone, or for both. The kernel does not while somebody writes there.
fn mount_again(path: &Path, flags: MountFlags) -> Result<()> {
    let start = Instant::now();
    loop {
        match mount_remount(path, MountFlags::BIND | flags, c"") {
            Err(Errno::BUSY) if start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            done => return done.context("mount again"),
        }
    }
}

#[test]
fn root_a_disk_that_takes_nothing_any_more_silences_no_device() -> Result<()> {
    crate::own_mounts()?;
    let fleet = Fleet::start(HUB)?;
    let folder = tempfile::tempdir()?;
    let cable = Cable::new(fleet.address()?)?;
    let mut device = Device::new(HELPER, folder.path(), &fleet, &[cable.url()])?;
    device.provision(fleet.provision(1, 3600)?);
    let state = device.state_folder();
    mount_bind(&state, &state).context("mount")?;
    device.start()?;
    device.until("the hub's answer", |device| device.state().hub)?;
    let id = device.id()?;
    let shown = || fleet.device(id).ok();
    let reported = |_: &Device| shown().is_some_and(|shown| shown.report > 0);
    device.until("a report", reported)?;

    // As ext4 does it where its device fails.
    mount_again(&state, MountFlags::RDONLY)?;
    let release = fleet.publish(&Plan::new(2, 9000))?;
    fleet.assign(&format!("id={id}"), release.id)?;
    let staged = |_: &Device| shown().is_some_and(|shown| shown.phase == Some(Phase::Staged));
    device.until("the progress at the hub", staged)?;
    ensure!(
        device.state().trials == 0,
        "a trial that is not remembered could be repeated without end"
    );
    ensure!(device.has_said("Read-only file system"));
    let asks = |what| {
        let target = format!("/v1/devices/{id}/actions");
        fleet
            .operator
            .tell("POST", &target, &ActionRequest { what })
    };
    // A restart may be what mends it. It is asked for once, by an agent before and after it that remembers nothing.
    asks(OperatorAction::Reboot)?;
    device.until("the restart", |device| device.state().reboots == 1)?;
    device.start()?;
    device.until("the hub's answer", |device| device.state().hub)?;
    asks(OperatorAction::Identify)?;
    let found = |device: &Device| device.has_said("the device that you look for");
    device.until("the second action", found)?;
    ensure!(device.state().reboots == 1, "{:?}", device.state());
    device.until("the progress, told again", staged)?;

    // The disk is mended, and all goes on.
    mount_again(&state, MountFlags::empty())?;
    device.start()?;
    device.until_committed(release.id)?;
    device.audit(&[&release])?;
    device.kill();
    unmount(&state, UnmountFlags::DETACH).context("unmount")
}
