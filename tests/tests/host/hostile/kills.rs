//! The agent and the hub are killed, each at moments that nobody chose.

use super::{Bench, HELPER, HUB};
use anyhow::{Result, ensure};
use kedge_agent::kept::{Certificate, MOST_REPORTS, Memory};
use kedge_tests::agent::Device;
use kedge_tests::proxy::Cable;
use kedge_tests::releases::{Fleet, Plan};
use std::time::Duration;

/// Kills of each test; `KEDGE_SEEDS` for more.
fn seeds() -> Result<u64> {
    std::env::var("KEDGE_SEEDS").map_or(Ok(16), |text| Ok(text.parse()?))
}

/// A moment within a third of a second, in no order.
const fn moment(seed: u64) -> Duration {
    Duration::from_millis(seed * 7919 % 331)
}

#[test]
fn host_an_agent_that_is_killed_at_any_moment_goes_on() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let mut bench = Bench::new(&fleet)?;
    // Before it is known to anybody, too.
    for seed in 0..4 {
        bench.device.start()?;
        std::thread::sleep(moment(seed) / 4);
    }
    bench.enrol()?;
    let id = bench.device.id()?;
    let mut releases = Vec::new();
    for counter in 2..4 {
        releases.push(fleet.publish(&Plan::noise(counter, 3_000_000))?);
    }
    for release in &releases {
        bench.assign(&fleet, release)?;
        let tried = bench.device.state().trials;
        for seed in 0..seeds()? {
            std::thread::sleep(moment(seed));
            bench.device.start()?;
        }
        bench.device.until_committed(release.id)?;
        // Once is enough; twice would be a restart that nobody needed.
        let trials = bench.device.state().trials - tried;
        ensure!(trials == 1, "it was tried {trials} times");
    }
    ensure!(bench.device.id()? == id, "it is another device now");
    let told = |_: &Device| {
        let shown = fleet.device(id).ok();
        let committed = shown.as_ref().and_then(|shown| shown.committed.as_ref());
        committed.is_some_and(|now| Some(now.revision) == releases.last().map(|last| last.id))
    };
    bench.device.until("the report of the commit", told)?;
    let files = std::fs::read_dir(bench.device.state_folder())?.count();
    ensure!(files <= MOST_REPORTS, "{files} files are left");
    let all: Vec<_> = releases.iter().collect();
    bench.device.audit(&all)
}

#[test]
fn host_a_hub_that_is_killed_at_any_moment_knows_what_it_acknowledged() -> Result<()> {
    let mut fleet = Fleet::start(HUB)?;
    let cable = Cable::new(fleet.address()?)?;
    let folders = [(); 3].map(|()| tempfile::tempdir());
    let mut devices = Vec::new();
    for folder in folders {
        let folder = folder?;
        let device = Device::new(HELPER, folder.path(), &fleet, &[cable.url()])?;
        device.provision(fleet.provision(1, 3600)?);
        devices.push((device, folder));
    }
    let release = fleet.publish(&Plan::noise(2, 2_000_000))?;
    for seed in 0..seeds()? {
        // Whoever is known is given something to do; the others come in meanwhile.
        for (device, _) in &mut devices {
            device.start()?;
            if acknowledged(device)?.is_some() {
                fleet.assign(&format!("id={}", device.id()?), release.id)?;
            }
        }
        std::thread::sleep(moment(seed) + Duration::from_millis(100));
        cable.lead_to(None);
        fleet.restart()?;
        cable.lead_to(Some(fleet.address()?));
        for (device, _) in &devices {
            if let Some(report) = acknowledged(device)? {
                let known = fleet.device(device.id()?)?.report;
                ensure!(known >= report, "{known} of {report} reports, seed {seed}");
            }
        }
    }
    for (device, _) in &devices {
        device.until("the hub's answer", |device| device.state().hub)?;
        fleet.assign(&format!("id={}", device.id()?), release.id)?;
        device.until_committed(release.id)?;
        device.audit(&[&release])?;
    }
    Ok(())
}

/// The number of the last report that the hub has acknowledged; none: it has not taken the device in.
fn acknowledged(device: &Device) -> Result<Option<u64>> {
    let kept = device.kept();
    let certificate: Option<Certificate> = kept.get("certificate", &mut |_| {})?;
    let memory: Option<Memory> = kept.get("memory", &mut |_| {})?;
    Ok(certificate.map(|_| memory.unwrap_or_default().report))
}
