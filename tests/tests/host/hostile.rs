//! The agent on a hostile network and against a hostile hub: real agent, real hub, real stage helper, and a proxy between
//! them (`kedge_tests::agent` and `kedge_tests::proxy` say what is real and what plays a part).
//!
//! Whatever happens on the way, in each of these tests:
//! - what the device has stored afterwards is what release keys have signed, byte for byte ([`Device::audit`]);
//! - the agent never had more memory than [`MOST_MEMORY`];
//! - it did not ask all the time ([`Bench::most`]);
//! - once the network is sane, the update is brought and committed.
//!
//! | module | plays |
//! |---|---|
//! | `clean` | nothing: the measure for the others |
//! | `inside` | a table of faults above TLS, each at the requests of each step |
//! | `below` | a table of faults below TLS, and other certificates |
//! | `poison` | answers of a hub that would last: time, certificates, numbers, pauses |
//! | `drip` | a hub that sends a byte now and then, before another one |
//! | `kills` | the agent and the hub killed at any moment |
//! | `twice` | two hubs, of which one is away for a while |
//! | `bad` | what is old, foreign, out of order or out of place |
//!
//! Covered elsewhere, and not again here: join tokens spent, too late and of another product, claims, certificates that have
//! run out, parameters out of type, assignments below the floor, a database of a newer hub, operators' and devices' calls
//! to a hub that is killed (`update/hub/tests`); revisions of another product, board or signer, below the floor, trees
//! and blocks that lie, full disks by number (`init/src/helpers/stage/tests.rs`); PID 1 against the agent's words
//! (`init/src/driver/agent.rs`); all of it on a booted device (`tests/vm`).

mod bad;
mod below;
mod clean;
mod drip;
mod inside;
mod kills;
mod poison;
mod restless;
mod twice;

use anyhow::{Context, Result, ensure};
use kedge_tests::agent::Device;
use kedge_tests::proxy::Impostor;
use kedge_tests::releases::{Fleet, Release};
use std::time::Instant;
use tempfile::TempDir;

const HUB: &str = env!("CARGO_BIN_EXE_test-hub");
const HELPER: &str = env!("CARGO_BIN_EXE_test-helper");

/// The most memory that an agent may ever have had, bytes. A whole update takes 5 MiB of it, most of it the program. On top
/// comes what one question may bring: a head of 512 KiB, an answer of PID 1's of 256 KiB, a message of 64 KiB, an HTTP
/// head of 16 KiB, a record of TLS; each twice while it grows and is parsed. That is below 2 MiB; the rest is room for
/// the heap's own.
const MOST_MEMORY: u64 = 8 << 20;

/// A device behind an impostor.
struct Bench {
    proxy: Impostor,
    device: Device,
    start: Instant,
    /// Goes away with it.
    _folder: TempDir,
}

impl Bench {
    /// The agent does not run yet.
    fn new(fleet: &Fleet) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let proxy = Impostor::new(fleet, &folder.path().join("state"))?;
        let device = Device::new(HELPER, folder.path(), fleet, &[proxy.url()])?;
        device.provision(fleet.provision(1, 3600)?);
        Ok(Self {
            proxy,
            device,
            start: Instant::now(),
            _folder: folder,
        })
    }

    /// Starts the agent and waits until the hub knows it.
    fn enrol(&mut self) -> Result<()> {
        self.start = Instant::now();
        self.device.start()?;
        let answers = |device: &Device| device.state().hub;
        self.device.until("the hub's answer", answers)
    }

    /// Assigns a release to this device, and waits until it is committed.
    fn update(&self, fleet: &Fleet, release: &Release) -> Result<()> {
        self.assign(fleet, release)?;
        self.device.until_committed(release.id)
    }

    fn assign(&self, fleet: &Fleet, release: &Release) -> Result<()> {
        let query = format!("id={}", self.device.id()?);
        let assigned = fleet.assign(&query, release.id)?;
        ensure!(assigned.devices.len() == 1, "{assigned:?}");
        Ok(())
    }

    /// What holds after whatever happened.
    fn audit(&self, releases: &[&Release]) -> Result<()> {
        self.device.audit(releases)?;
        let peak = self.device.peak()?;
        ensure!(peak <= MOST_MEMORY, "the agent had {} KiB", peak / 1024);
        self.most(30)
    }

    /// The agent asked no more than so often, and once a second beside that: an update takes some twenty questions, and
    /// between failures are pauses of half a second and more.
    fn most(&self, questions: usize) -> Result<()> {
        let seconds = usize::try_from(self.start.elapsed().as_secs())?;
        let asked = self.proxy.count("", self.start);
        // A failure takes up to five questions: time, authority, enrolment, the state, and what fails.
        ensure!(
            asked <= questions + seconds * 5,
            "{asked} questions in {seconds} s"
        );
        Ok(())
    }
}

/// Runs all cases side by side, since they wait for most of their time; tells all that failed.
fn side_by_side<T: Send>(
    cases: Vec<(String, T)>,
    run: impl Fn(&str, T) -> Result<()> + Sync,
) -> Result<()> {
    let run = &run;
    let failed: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = cases
            .into_iter()
            .map(|(name, case)| {
                let ended = scope.spawn({
                    let name = name.clone();
                    move || run(&name, case).with_context(|| name)
                });
                (name, ended)
            })
            .collect();
        let ended = running.into_iter().map(|(name, ended)| match ended.join() {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some(format!("{name}: panicked")),
        });
        ended.flatten().collect()
    });
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
}
