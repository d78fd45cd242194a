//! A hub for the demonstration and for measures: the real program, on a port of this machine, with a folder of its own.

use crate::cargo::cargo;
use crate::device::free_port;
use anyhow::{Context, Result, bail, ensure};
use kedge_api::operator::{Device, Event};
use kedge_image_build::hub::{Address, Client, unhex};
use kedge_image_build::{files, process, progress, toolchain};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Under which names devices and operators reach it: QEMU's user network leads 10.0.2.2 to this machine.
const NAMES: &str = "127.0.0.1,10.0.2.2";
/// How long a start or an end may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A hub, and an operator's way to it.
#[derive(Debug)]
pub(crate) struct Hub {
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    child: Option<Child>,
    client: Client,
    token: PathBuf,
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // What it has acknowledged is on the disk.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Hub {
    /// Builds the program, starts it in a new folder, and learns its key and its first token.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let program = build()?;
        let folder = folder.join("hub");
        files::make_folder(&folder)?;
        let port = free_port()?;
        let (child, token) = launch(&program, &folder, port)?;
        let token = token.context("a new hub prints no token")?;
        let place = folder.join("first-token");
        files::write(&place, &token)?;
        let address: Address = format!("https://127.0.0.1:{port}").parse()?;
        let hub = Client::unjudged(address.clone())?.hub()?;
        let authority = unhex(&hub.authority).context("the hub's authority is no hexadecimal")?;
        Ok(Self {
            client: Client::judged(address, &authority, Some(token.into()))?,
            program,
            folder,
            port,
            child: Some(child),
            token: place,
        })
    }

    /// Its address for operators.
    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Its address for devices.
    pub(crate) fn device_url(&self) -> String {
        format!("https://10.0.2.2:{}", self.port)
    }

    /// The file with its first token.
    pub(crate) fn token(&self) -> &Path {
        &self.token
    }

    /// Asks it to end, as a service manager does.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        process::run(Command::new("kill").args(["-TERM", &child.id().to_string()]))?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "the hub ended with {status}");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        child.kill().ok();
        bail!("the hub did not end in {} s", PATIENCE.as_secs())
    }

    /// Starts it again on what it has.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        let (child, token) = launch(&self.program, &self.folder, self.port)?;
        self.child = Some(child);
        ensure!(token.is_none(), "a second start printed a token");
        Ok(())
    }

    /// The device that the hub knows, once there is one.
    pub(crate) fn device(&self) -> Result<Device> {
        let mut devices: Vec<Device> = self.client.list("/v1/devices", "")?;
        ensure!(devices.len() < 2, "the hub knows {} devices", devices.len());
        let listed = devices.pop().context("the hub knows no device")?;
        // A list leaves out containers and logs.
        self.client.get(&format!("/v1/devices/{}", listed.id))
    }

    /// What has happened, as the hub tells it, the newest last.
    pub(crate) fn events(&self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let mut take = |line: &[u8]| {
            if let Some(json) = line.strip_prefix(b"data:") {
                events.push(serde_json::from_slice(json)?);
            }
            Ok(())
        };
        self.client.lines("/v1/events", false, &mut take)?;
        Ok(events)
    }
}

fn build() -> Result<PathBuf> {
    progress::step("building the hub", || {
        process::run(cargo()?.args(["build", "--quiet", "--locked", "--package", "kedge-hub"]))
    })?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = match target {
        Some(target) => target,
        None => toolchain::workspace()?.join("target"),
    };
    Ok(target.join("debug/kedge-hub"))
}

/// Starts it; its first token, if it is new.
fn launch(program: &Path, folder: &Path, port: u16) -> Result<(Child, Option<String>)> {
    let log = folder.join("log");
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    let mut child = Command::new(program)
        .args(["serve", "--mode", "development", "--name", NAMES])
        .args(["--listen", &format!("127.0.0.1:{port}"), "--data"])
        .arg(folder.join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let output = child.stdout.take().context("the hub has no output")?;
    let mut lines = BufReader::new(output).lines();
    let first = lines.next().context("the hub ended at once")??;
    ensure!(first.starts_with("listening on"), "the hub says {first:?}");
    // A new one prints one line more, at once; one that is not new prints none, and waiting for it would not end.
    let new = !folder.join("first-token").exists();
    let token = if new {
        let line = lines.next().context("the hub ended at once")??;
        line.strip_prefix("first token: ").map(str::to_owned)
    } else {
        None
    };
    Ok((child, token))
}
