//! A hub and a device that trusts it: what a test of updates over the network begins with.

use crate::disk::Disk;
use crate::guest::{Guest, text};
use crate::hub::Hub;
use crate::kedge::Kedge;
use crate::trials::Project;
use anyhow::{Context, Result, ensure};
use kedge_board_support::boards;
use kedge_image_build::files;
use kedge_image_build::qemu::VmConfig;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// How long a device may take to do what a hub wants: it asks every few seconds, and a trial has its window.
pub const PULLED: Duration = Duration::from_secs(180);

/// A hub, the project of its devices, and what a device joins it with.
#[derive(Debug)]
pub struct Fleet {
    /// The project, whose trust root names the hub.
    pub project: Project,
    /// The hub.
    pub hub: Hub,
    /// The provisioning: the hub's address for devices, and a token.
    pub provision: PathBuf,
    board: String,
    folder: tempfile::TempDir,
}

impl Fleet {
    /// What its devices are.
    #[must_use]
    pub fn board(&self) -> &str {
        &self.board
    }

    /// Starts a hub, makes a project that trusts it, and publishes its first revision; with the disk of a device.
    /// `kedge` and `hub` are the paths of the programs.
    ///
    /// # Errors
    /// Something of it does not work.
    pub fn new(kedge: &str, hub: &str, board: &str) -> Result<(Self, Disk)> {
        let folder = tempfile::Builder::new().prefix("kedge-fleet-").tempdir()?;
        let hub = Hub::start(hub, folder.path())?;
        let kedge = Kedge::new(kedge, &folder.path().join("project"))
            .with("XDG_CONFIG_HOME", &folder.path().join("config"));
        let token = hub.token();
        kedge.ask(&["login", hub.url(), "--token-file", &token, "--yes"])?;
        let for_devices = device_address(&hub)?;
        let path = kedge.folder().display().to_string();
        kedge.ask(&[
            "new",
            "fleet",
            "--board",
            board,
            "--no-passphrase",
            "--path",
            &path,
            "--hub",
            "127.0.0.1",
            "--device-hub",
            &for_devices,
        ])?;
        let (project, disk) = Project::fill(kedge, board)?;
        let fleet = Self {
            provision: folder.path().join("provision.json"),
            project,
            hub,
            board: board.to_owned(),
            folder,
        };
        // A hub takes in devices of products that it knows.
        fleet.publish(&[])?;
        let out = fleet.provision.display().to_string();
        let words = ["join-token", "new", "--device-hub", &for_devices];
        let kedge = &fleet.project.kedge;
        kedge.ask(&[&words[..], &["--uses", "9", "--out", &out]].concat())?;
        Ok((fleet, disk))
    }

    /// Files of the hub in which these bytes are.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn hub_files_with(&self, bytes: &[u8]) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().join("data")];
        while let Some(folder) = folders.pop() {
            for path in files::list(&folder)? {
                if path.is_dir() {
                    folders.push(path);
                } else if files::read(&path)?
                    .windows(bytes.len())
                    .any(|part| part == bytes)
                {
                    found.push(path);
                }
            }
        }
        Ok(found)
    }

    /// Writes a file in the fleet's folder; its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.folder.path().join(name);
        files::write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// The hub's address for devices: QEMU's user network leads it to the machine's loopback.
    ///
    /// # Errors
    /// It has no port.
    pub fn device_address(&self) -> Result<String> {
        device_address(&self.hub)
    }

    /// Starts the device, provisioned.
    ///
    /// # Errors
    /// QEMU cannot be started.
    pub fn start(&self, disk: &Disk) -> Result<Guest> {
        let mut config = self.machine(disk)?;
        config.provision = Some(self.provision.clone());
        Guest::with(config)
    }

    /// The same, with the provisioning on the disk: not every board's kernel shows what QEMU hands over.
    ///
    /// # Errors
    /// The disk cannot be written, or QEMU cannot be started.
    pub fn start_flashed(&self, disk: &Disk) -> Result<Guest> {
        disk.write("/device/provision.json", &files::read(&self.provision)?)?;
        Guest::with(self.machine(disk)?)
    }

    /// The machine of a device that is not provisioned.
    ///
    /// # Errors
    /// There is no such board.
    pub fn machine(&self, disk: &Disk) -> Result<VmConfig> {
        let board = boards::find(&self.board)?;
        Ok(VmConfig::new(board, disk.path(), &disk.folder().join("vm")))
    }

    /// Publishes the project as it is now; its revision.
    ///
    /// # Errors
    /// As `kedge publish`.
    pub fn publish(&self, more: &[&str]) -> Result<String> {
        let platform = self.project.platform().display().to_string();
        let words = ["publish", "--platform", &platform];
        let published = self.project.kedge.ask(&[&words[..], more].concat())?;
        let revision = text(&published, "revision");
        ensure!(!revision.is_empty(), "{published}");
        Ok(revision.to_owned())
    }

    /// What the hub knows of the one device.
    ///
    /// # Errors
    /// It knows none, or more.
    pub fn device(&self) -> Result<Value> {
        let known = self.project.kedge.ask(&["devices"])?;
        let devices = known.get("devices").and_then(Value::as_array);
        match devices.map(Vec::as_slice) {
            Some([one]) => Ok(one.clone()),
            _ => anyhow::bail!("not one device: {known}"),
        }
    }

    /// Waits until what the hub knows of the device is right.
    ///
    /// # Errors
    /// It is not in time.
    pub fn wait<T>(
        &self,
        guest: &Guest,
        what: &str,
        check: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        self.wait_within(PULLED, guest, what, check)
    }

    /// [`Self::wait`], for so long at the most.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn wait_within<T>(
        &self,
        patience: Duration,
        guest: &Guest,
        what: &str,
        check: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        let told = guest.wait(what, patience, |_| Ok(check(&self.device()?)));
        told.with_context(|| format!("the hub knows: {:?}", self.device()))
    }

    /// Waits until the hub has taken the device in and heard of it.
    ///
    /// # Errors
    /// It has not in time.
    pub fn wait_for_enrolment(&self, guest: &Guest) -> Result<()> {
        self.wait(guest, "the device has enrolled", |device| {
            (device.get("report")?.as_u64()? > 0).then_some(())
        })
    }

    /// Waits until the hub knows that a revision is committed.
    ///
    /// # Errors
    /// It is not in time.
    pub fn wait_for_commit(&self, guest: &Guest, revision: &str) -> Result<()> {
        self.wait(guest, "the revision is committed", |device| {
            let committed = device.get("committed")?;
            (text(committed, "revision") == revision).then_some(())
        })
    }
}

fn device_address(hub: &Hub) -> Result<String> {
    let (_, port) = hub.url().rsplit_once(':').context("a hub has a port")?;
    Ok(format!("https://10.0.2.2:{port}"))
}
