//! A hub, or a device's own trouble, that would keep a device from ever coming to rest.

use super::{Bench, HUB};
use anyhow::{Context, Result, ensure};
use kedge_agent::decide::{HELD_BACK, TRIALS};
use kedge_api::device::Phase;
use kedge_api::operator::{Assign, Assigned};
use kedge_tests::agent::Device;
use kedge_tests::proxy::{Answer, Fault};
use kedge_tests::releases::{Fleet, Plan, Release};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

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
fn host_questions_that_fail_are_asked_again_after_pauses_that_grow() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let mut bench = Bench::new(&fleet)?;
    bench.enrol()?;
    // Everything goes well but the answer itself.
    let broken = Fault::Instead(Answer::refusal(500, "", "broken"));
    let asked = |since| bench.proxy.count("/v1/device/state", since);
    let first = bench.start;
    bench
        .device
        .until("the first question", |_| asked(first) > 0)?;
    bench.device.kill();
    bench.proxy.plays("/v1/device/state", 99, broken);
    let start = Instant::now();
    bench.device.start()?;
    bench.device.until("six questions", |_| asked(start) >= 6)?;
    // Half a second, then twice as long each time, at the least.
    let least = Duration::from_millis(500 * (1 + 2 + 4 + 8 + 16));
    let took = start.elapsed();
    ensure!(took >= least, "{} questions in {took:?}", asked(start));
    bench.proxy.honest();
    let release = fleet.publish(&Plan::new(2, 9000))?;
    bench.update(&fleet, &release)?;
    bench.audit(&[&release])
}

#[test]
fn host_a_hub_that_asks_for_what_is_not_known_is_not_asked_all_the_time() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let mut bench = Bench::new(&fleet)?;
    bench.enrol()?;
    let newer = |answer: Answer| -> Result<Answer> {
        let mut state: Value = serde_json::from_slice(&answer.body)?;
        state["requires"] = json!(["teleport"]);
        state["poll"]["interval-s"] = json!(1);
        state["poll"]["jitter-s"] = json!(0);
        let head = String::from_utf8(answer.head)?;
        let tag = head
            .lines()
            .find(|line| line.to_ascii_lowercase().starts_with("etag:"));
        let tag = tag.map_or_else(String::new, |tag| format!("{tag}\r\n"));
        Ok(Answer::json(200, &tag, &state.to_string()))
    };
    let fault = Fault::changed(move |answer| newer(answer).unwrap_or_default());
    bench.proxy.plays("/v1/device/state", 99, fault);
    let start = Instant::now();
    bench.device.start()?;
    let said = |device: &Device| device.has_said("asks for teleport");
    bench.device.until("the complaint", said)?;
    std::thread::sleep(Duration::from_secs(9));
    // The hub holds the second one: nothing has changed.
    let asked = bench.proxy.count("/v1/device/state", start);
    ensure!((1..=3).contains(&asked), "{asked} questions in 9 s");
    let said = bench.device.state().said.clone();
    let complaints = said.iter().filter(|line| line.contains("teleport"));
    ensure!(complaints.count() == 1, "{said:?}");
    Ok(())
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

/// Assigns a release that may come with so many bytes a second.
fn assign_slowly(bench: &Bench, fleet: &Fleet, release: &Release, rate: u64) -> Result<()> {
    let slowly = Assign {
        query: format!("id={}", bench.device.id()?),
        revision: release.id,
        download_only: false,
        dry_run: false,
        window: None,
        rate: Some(rate),
    };
    let assigned: Assigned = fleet.operator.send("POST", "/v1/assignments", &slowly)?;
    ensure!(assigned.devices.len() == 1, "{assigned:?}");
    Ok(())
}

#[test]
fn host_a_rate_below_a_piece_a_second_is_kept() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let mut bench = Bench::new(&fleet)?;
    bench.enrol()?;
    let release = fleet.publish(&Plan::noise(2, 49_152))?;
    let start = Instant::now();
    assign_slowly(&bench, &fleet, &release, 4096)?;
    bench.device.until_committed(release.id)?;
    let took = start.elapsed();
    ensure!(took >= Duration::from_secs(10), "12 s of bytes in {took:?}");
    bench.audit(&[&release])
}

#[test]
fn host_what_is_taken_back_while_it_comes_is_not_tried() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let mut bench = Bench::new(&fleet)?;
    bench.enrol()?;
    let bad = fleet.publish(&Plan::noise(2, 300_000))?;
    let good = fleet.publish(&Plan::new(3, 9000))?;
    let id = bench.device.id()?;
    assign_slowly(&bench, &fleet, &bad, 16 * 1024)?;
    let comes = |_: &Device| bench.proxy.count("/v1/objects/", bench.start) > 2;
    bench.device.until("the download", comes)?;
    bench.assign(&fleet, &good)?;
    bench.device.until_committed(good.id)?;
    let trials = bench.device.state().trials;
    ensure!(trials == 1, "what was taken back was tried, too");
    let shown = fleet.device(id)?.desired.context("nothing is desired")?;
    ensure!(shown.revision == good.id);
    bench.audit(&[&bad, &good])
}

#[test]
fn host_an_object_that_comes_for_long_makes_no_device_deaf() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let mut bench = Bench::new(&fleet)?;
    bench.enrol()?;
    // Nearly ten minutes.
    let slow = fleet.publish(&Plan::noise(2, 1_200_000))?;
    let good = fleet.publish(&Plan::new(3, 9000))?;
    let id = bench.device.id()?;
    assign_slowly(&bench, &fleet, &slow, 2048)?;
    let shown = || fleet.device(id).ok().and_then(|device| device.phase);
    let half_way = |_: &Device| matches!(shown(), Some(Phase::Downloading { done, total }) if done > 0 && done < total);
    bench.device.until("progress within an object", half_way)?;
    bench.assign(&fleet, &good)?;
    bench.device.until_committed(good.id)?;
    ensure!(bench.device.has_said("the hub wants something else"));
    ensure!(bench.device.state().trials == 1);
    bench.audit(&[&slow, &good])
}

#[test]
fn host_a_rate_is_raised_while_an_object_comes() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let mut bench = Bench::new(&fleet)?;
    bench.enrol()?;
    let release = fleet.publish(&Plan::noise(2, 1_200_000))?;
    assign_slowly(&bench, &fleet, &release, 2048)?;
    let comes = |_: &Device| bench.proxy.count("/v1/objects/", bench.start) > 2;
    bench.device.until("the download", comes)?;
    assign_slowly(&bench, &fleet, &release, 1 << 20)?;
    bench.device.until_committed(release.id)?;
    ensure!(bench.device.state().trials == 1);
    bench.audit(&[&release])
}
