//! A hub, or a device's own trouble, that would keep a device from ever coming to rest.

use super::{Bench, HUB};
use anyhow::{Result, ensure};
use kedge_agent::decide::{HELD_BACK, TRIALS};
use kedge_api::device::Phase;
use kedge_tests::agent::Device;
use kedge_tests::proxy::{Answer, Fault};
use kedge_tests::releases::{Fleet, Plan};

#[test]
fn host_restarts_without_end_are_not_granted() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let mut bench = Bench::new(&fleet)?;
    let asks = |first: u32| {
        let actions: Vec<String> = (first..first + 8)
            .map(|id| format!(r#"{{"id":{id},"what":"reboot"}}"#))
            .collect();
        let state = format!(
            r#"{{"actions":[{}],"poll":{{"interval-s":60,"hold-s":50,"jitter-s":0}}}}"#,
            actions.join(",")
        );
        Fault::Instead(Answer::json(200, "", &state))
    };
    bench.proxy.plays("/v1/device/state", 1, asks(1));
    bench.enrol()?;
    let waits = |device: &Device| device.has_said("one more restart");
    bench.device.until("the third restart", waits)?;
    ensure!(
        bench.device.state().reboots == 2,
        "{:?}",
        bench.device.state()
    );
    // A restart, as far as the agent can tell: it knows how many there were.
    bench.device.kill();
    bench.device.state().said.clear();
    bench.proxy.plays("/v1/device/state", 1, asks(100));
    bench.device.start()?;
    bench.device.until("the next restart", waits)?;
    ensure!(
        bench.device.state().reboots == 2,
        "{:?}",
        bench.device.state()
    );
    let release = fleet.publish(&Plan::new(2, 9000))?;
    bench.update(&fleet, &release)?;
    ensure!(
        bench.device.state().reboots == 2,
        "{:?}",
        bench.device.state()
    );
    bench.audit(&[&release])
}

#[test]
fn host_trials_without_end_are_not_granted() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let mut bench = Bench::new(&fleet)?;
    bench.enrol()?;
    // Two revisions in turn: both are signed, and each is good.
    let releases = [2, 3].map(|counter| fleet.publish(&Plan::new(counter, 9000)));
    let [one, other] = releases;
    let (one, other) = (one?, other?);
    for round in 0..TRIALS {
        let release = if round % 2 == 0 { &one } else { &other };
        bench.update(&fleet, release)?;
    }
    bench.assign(&fleet, &one)?;
    let id = bench.device.id()?;
    let told = |_: &Device| {
        let shown = fleet.device(id).ok();
        shown.is_some_and(|shown| match shown.phase {
            Some(Phase::Refused { reason }) => reason == HELD_BACK,
            Some(_) | None => false,
        })
    };
    bench.device.until("the report of it", told)?;
    // A restart, as far as the agent can tell: it knows how many there were.
    bench.device.kill();
    bench.device.state().said.clear();
    bench.device.start()?;
    let holds = |device: &Device| device.has_said(HELD_BACK);
    bench.device.until("the trial that is held back", holds)?;
    ensure!(
        bench.device.state().trials == TRIALS,
        "{:?}",
        bench.device.state()
    );
    bench.device.audit(&[&one, &other])
}

#[test]
fn host_a_trial_that_cannot_begin_is_not_asked_for_again_and_again() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let mut bench = Bench::new(&fleet)?;
    bench.enrol()?;
    bench.device.state().never_begins = true;
    let release = fleet.publish(&Plan::new(2, 9000))?;
    bench.assign(&fleet, &release)?;
    let id = bench.device.id()?;
    let told = |_: &Device| {
        let shown = fleet.device(id).ok();
        shown.is_some_and(|shown| match shown.phase {
            Some(Phase::Refused { reason }) => reason.contains("could not begin"),
            Some(_) | None => false,
        })
    };
    bench.device.until("the report of it", told)?;
    ensure!(
        bench.device.state().trials == 1,
        "{:?}",
        bench.device.state()
    );
    // The next boot may know better.
    bench.device.kill();
    bench.device.state().never_begins = false;
    bench.device.start()?;
    bench.device.until_committed(release.id)?;
    ensure!(
        bench.device.state().trials == 2,
        "{:?}",
        bench.device.state()
    );
    bench.audit(&[&release])
}
