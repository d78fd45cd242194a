//! A hub that is never silent, and never done. It waits for a minute, so it stands where it begins early.

use super::{HELPER, HUB};
use anyhow::{Result, ensure};
use kedge_tests::agent::Device;
use kedge_tests::proxy::{Answer, Cable, Fault, Impostor};
use kedge_tests::releases::Fleet;
use std::time::{Duration, Instant};

#[test]
fn host_a_hub_that_drips_is_left_for_the_next_one() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let folder = tempfile::tempdir()?;
    let proxy = Impostor::new(&fleet, &folder.path().join("state"))?;
    let second = Cable::new(fleet.address()?)?;
    let hubs = [proxy.url(), second.url()];
    let mut device = Device::new(HELPER, folder.path(), &fleet, &hubs)?;
    device.provision(fleet.provision(1, 3600)?);
    let answer = Answer::json(200, "", &" ".repeat(60_000));
    let drip = Fault::Drip(answer, Duration::from_millis(500));
    proxy.plays("POST /v1/time", 9, drip);
    let start = Instant::now();
    device.start()?;
    let patience = Duration::from_secs(120);
    device.until_within(patience, "the other hub", |device| device.state().hub)?;
    let took = start.elapsed();
    ensure!(took > Duration::from_secs(30), "nobody dripped: {took:?}");
    ensure!(took < Duration::from_secs(90), "held up for {took:?}");
    Ok(())
}
