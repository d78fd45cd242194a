//! Two hubs that a product's root names, each with an authority of its own.

use super::{HELPER, HUB};
use anyhow::{Context, Result, ensure};
use kedge_agent::kept::Certificate;
use kedge_tests::agent::Device;
use kedge_tests::proxy::Cable;
use kedge_tests::releases::{Fleet, Plan};

#[test]
fn host_a_hub_that_was_away_for_a_moment_keeps_its_devices() -> Result<()> {
    let [first, second] = Fleet::start_all(HUB)?;
    let folder = tempfile::tempdir()?;
    let cables = [
        Cable::new(first.address()?)?,
        Cable::new(second.address()?)?,
    ];
    let hubs = cables.each_ref().map(Cable::url);
    let mut device = Device::new(HELPER, folder.path(), &first, &hubs)?;
    device.provision(first.provision(1, 3600)?);
    let [to_first, _] = &cables;
    device.start()?;
    device.until("the first hub's answer", |device| device.state().hub)?;
    let kept = |device: &Device| device.kept().get::<Certificate>("certificate", &mut |_| {});
    let before = kept(&device)?.context("no certificate")?;
    // The token is spent; the second hub lets it wait for somebody who claims it.
    device.configured(|configure| configure.provision = None);
    to_first.lead_to(None);
    device.start()?;
    let waits = |device: &Device| device.has_said("to take this device in");
    device.until("the second hub's answer", waits)?;
    to_first.lead_to(Some(first.address()?));
    let release = first.publish(&Plan::new(2, 9000))?;
    let assigned = first.assign(&format!("id={}", device.id()?), release.id)?;
    ensure!(assigned.devices.len() == 1, "{assigned:?}");
    device.until_committed(release.id)?;
    // What the first hub gave it was never lost.
    ensure!(kept(&device)?.context("no certificate")? == before);
    device.audit(&[&release])
}
