//! Nothing goes wrong: what the others are measured by.

use super::{Bench, HUB};
use anyhow::{Context, Result, ensure};
use kedge_api::device::{ContainerUsage, Pressure};
use kedge_tests::agent::{Device, PLAYED_MEMORY};
use kedge_tests::releases::{Fleet, Plan};
use std::time::Duration;

#[test]
fn host_an_honest_network_brings_an_update_with_few_questions() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let mut bench = Bench::new(&fleet)?;
    bench.enrol()?;
    let release = fleet.publish(&Plan::new(2, 3_000_000))?;
    bench.update(&fleet, &release)?;
    bench.audit(&[&release])?;
    let asked = bench.proxy.count("", bench.start);
    ensure!(asked <= 24, "{asked} questions");
    // What the device used came along with the first report, and took no question of its own.
    let known = fleet.device(bench.device.id()?)?;
    let usage = known.usage.context("the hub knows no usage")?;
    ensure!(usage.data_free == Some(1 << 30), "{usage:?}");
    let played = ContainerUsage {
        name: "played".to_owned(),
        cpu_us: 1_500_000,
        memory: Some(PLAYED_MEMORY),
        memory_peak: Some(PLAYED_MEMORY + 1),
        memory_max: Some(PLAYED_MEMORY + 2),
        pids: Some(3),
        pressure: Some(Pressure {
            cpu: 1205,
            memory: 0,
            io: 7,
        }),
    };
    ensure!(usage.containers == [played], "{usage:?}");
    // Nothing to complain of.
    let mut said = bench.device.state().said.clone();
    said.retain(|line| !line.contains("came as"));
    ensure!(said == ["a hub has taken this device in"], "{said:?}");
    Ok(())
}

#[test]
fn host_a_hub_that_is_told_late_is_asked_all_the_same() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let bench = &mut Bench::new(&fleet)?;
    // As on a device that gets its network, or its provisioning, when it has run for a while.
    bench.device.start_silently()?;
    std::thread::sleep(Duration::from_millis(1500));
    bench.device.configure();
    let answers = |device: &Device| device.state().hub;
    bench.device.until("the hub's answer", answers)?;
    bench.audit(&[])
}
