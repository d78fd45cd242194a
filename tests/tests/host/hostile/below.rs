//! Faults below TLS: what anybody on the way may do, who has no keys at all.

use super::{Bench, HELPER, HUB, MOST_MEMORY, side_by_side};
use anyhow::{Result, ensure};
use kedge_tests::agent::Device;
use kedge_tests::proxy::{Break, Cable};
use kedge_tests::releases::{Fleet, Plan, Release};
use std::time::Duration;

/// One way to break, at places in the handshake and behind it.
fn breaks() -> Vec<(String, Break)> {
    let mut breaks = vec![
        ("refused".to_owned(), Break::Refused),
        ("slow".to_owned(), Break::Slow(Duration::from_millis(30))),
        (
            "plain HTTP".to_owned(),
            Break::Endless(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_vec()),
        ),
        // A record of TLS that says it has 16 KiB, over and over.
        (
            "records without end".to_owned(),
            Break::Endless([b"\x16\x03\x03\x40\x00".as_slice(), &[0; 0x4000]].concat()),
        ),
        (
            "a banner in drops".to_owned(),
            Break::Drip(b"220 smtp ready\r\n".to_vec(), Duration::from_millis(50)),
        ),
    ];
    for place in [0, 3, 100, 700, 1100, 1500, 3000] {
        breaks.push((format!("cut at {place}"), Break::Cut(place)));
        breaks.push((format!("flipped at {place}"), Break::Flip(place)));
        breaks.push((format!("twice at {place}"), Break::Twice(place)));
    }
    breaks
}

fn survive(fleet: &Fleet, release: &Release, how: &Break) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cable = Cable::new(fleet.address()?)?;
    let mut device = Device::new(HELPER, folder.path(), fleet, &[cable.url()])?;
    device.provision(fleet.provision(1, 3600)?);
    // Connections are made for the time, the enrolment, the reports, the question that is held, the update: each of them
    // is met once, and the next attempt as well.
    let whole = Break::None;
    cable.breaks([how, how, &whole, how, &whole, &whole, how, &whole].map(Clone::clone));
    device.start()?;
    device.until("the hub's answer", |device| device.state().hub)?;
    fleet.assign(&format!("id={}", device.id()?), release.id)?;
    device.until_committed(release.id)?;
    ensure!(cable.left() <= 2, "{} breaks were not met", cable.left());
    device.audit(&[release])?;
    let peak = device.peak()?;
    ensure!(peak <= MOST_MEMORY, "the agent had {} KiB", peak / 1024);
    ensure!(
        cable.connections() < 60,
        "{} connections",
        cable.connections()
    );
    Ok(())
}

#[test]
fn host_an_update_survives_a_cable_that_breaks() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let release = fleet.publish(&Plan::new(2, 600_000))?;
    side_by_side(breaks(), |_, how| survive(&fleet, &release, &how))
}

#[test]
fn host_a_download_goes_on_where_it_was_cut() -> Result<()> {
    let fleet = Fleet::start(HUB)?;
    let folder = tempfile::tempdir()?;
    let cable = Cable::new(fleet.address()?)?;
    let mut device = Device::new(HELPER, folder.path(), &fleet, &[cable.url()])?;
    device.provision(fleet.provision(1, 3600)?);
    device.start()?;
    device.until("the hub's answer", |device| device.state().hub)?;
    // So that frames of zstd do not make it small.
    let release = fleet.publish(&Plan::noise(2, 4_000_000))?;
    // The first for the assignment; each attempt has one for time and one for the rest.
    let cut = Break::Cut(1_500_000);
    cable.breaks(vec![cut; 40]);
    fleet.assign(&format!("id={}", device.id()?), release.id)?;
    device.until_committed(release.id)?;
    let offsets: Vec<u64> = device.offsets();
    ensure!(
        offsets.iter().any(|offset| *offset > 1_000_000),
        "{offsets:?}"
    );
    ensure!(offsets.is_sorted(), "{offsets:?}");
    device.audit(&[&release])
}

#[test]
fn host_who_has_another_certificate_learns_nothing_and_is_told_nothing() -> Result<()> {
    let (fleet, other) = (Fleet::start(HUB)?, Fleet::start(HUB)?);
    let mut bench = Bench::new(&fleet)?;
    bench.proxy.certified_by(&other.data())?;
    bench.device.start()?;
    let said = |device: &Device| device.has_said("certificate");
    bench.device.until("the complaint", said)?;
    // The join token goes to nobody else; time and authority are signed by themselves.
    std::thread::sleep(Duration::from_secs(3));
    for secret in ["/v1/enroll", "/v1/device/"] {
        let asked = bench.proxy.count(secret, bench.start);
        ensure!(asked == 0, "{secret} was asked of a stranger");
    }
    bench.proxy.certified_by(&fleet.data())?;
    let release = fleet.publish(&Plan::new(2, 9000))?;
    bench
        .device
        .until("the hub's answer", |device| device.state().hub)?;
    bench.update(&fleet, &release)?;
    bench.audit(&[&release])
}

#[test]
fn host_a_hub_with_another_key_is_not_believed() -> Result<()> {
    let (fleet, other) = (Fleet::start(HUB)?, Fleet::start(HUB)?);
    let folder = tempfile::tempdir()?;
    let cable = Cable::new(other.address()?)?;
    let mut device = Device::new(HELPER, folder.path(), &fleet, &[cable.url()])?;
    device.provision(fleet.provision(1, 3600)?);
    device.start()?;
    let said = |device: &Device| device.has_said("the fresh answer is not believed");
    device.until("the complaint", said)?;
    std::thread::sleep(Duration::from_secs(3));
    let clock = device.state().clock.clone();
    ensure!(clock.is_empty(), "its time was believed: {clock:?}");
    ensure!(
        cable.connections() < 8,
        "{} connections",
        cable.connections()
    );
    cable.lead_to(Some(fleet.address()?));
    device.until("the hub's answer", |device| device.state().hub)
}
