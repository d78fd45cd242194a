//! Nothing goes wrong: what the others are measured by.

use super::{Bench, HUB};
use anyhow::{Result, ensure};
use kedge_tests::releases::{Fleet, Plan};

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
    // Nothing to complain of.
    let mut said = bench.device.state().said.clone();
    said.retain(|line| !line.contains("came as"));
    ensure!(said == ["a hub has taken this device in"], "{said:?}");
    Ok(())
}
