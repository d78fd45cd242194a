//! What one request of each kind costs the hub.

use super::client::{Client, receive};
use super::process::{memory, processor};
use super::world::{Device, World, report};
use super::{crowd, figure};
use kedge_api::device::{Phase, Reports};
use std::time::Duration;

/// Tells what each of `count` requests took of the hub's processor.
fn cost(name: &str, pid: u32, count: u32, work: impl FnOnce()) {
    let before = processor(pid);
    work();
    let used = processor(pid) - before;
    figure(name, used as f64 / f64::from(count), "us");
}

pub(crate) fn measure() {
    let world = World::new();
    let pid = world.server.pid();
    let token = world.join_token(100);
    let devices: Vec<Device> = (1..=32)
        .map(|number| Device::enrol(&world.server, number, Some(&token)))
        .collect();
    let device = &devices[0];
    let tag = device.client.get("/v1/device/state").is(200).headers["etag"].clone();
    let unchanged = [("if-none-match", tag.as_str())];
    // Alone, each poll wakes a thread that has gone to sleep; among others it finds one awake.
    cost("poll-unchanged-alone", pid, 20_000, || {
        polls(device, &unchanged, 20_000);
    });
    cost("poll-unchanged", pid, 32 * 1_000, || {
        std::thread::scope(|scope| {
            for device in &devices {
                scope.spawn(|| polls(device, &unchanged, 1_000));
            }
        });
    });
    cost("report-alone", pid, 2_000, || reports(device, 1..=2_000));
    cost("report-of-32-at-once", pid, 32 * 250, || {
        std::thread::scope(|scope| {
            for device in &devices {
                scope.spawn(|| reports(device, 2_001..=2_250));
            }
        });
    });
    enrolments(&world, pid);
    let fresh = |client: &Client| client.get("/v1/device/state").is(200);
    cost("connection-fresh", pid, 1_000, || {
        for _ in 0..1_000 {
            fresh(&world.server.device(&device.credentials));
        }
    });
    cost("connection-resumed", pid, 1_000, || {
        for _ in 0..1_000 {
            let mut stream = device.client.connect().unwrap();
            let path = "/v1/device/state";
            let asked = device.client.send(stream.get_mut(), "GET", path, &[], &[]);
            asked.unwrap();
            receive(&mut stream).unwrap().is(200);
        }
    });
    held(device, pid, &tag);
}

fn polls(device: &Device, headers: &[(&str, &str)], count: u32) {
    for _ in 0..count {
        let answer = device.client.ask("GET", "/v1/device/state", headers, &[]);
        answer.unwrap().is(304);
    }
}

fn reports(device: &Device, numbers: std::ops::RangeInclusive<u64>) {
    for seq in numbers {
        let reports = Reports {
            reports: vec![report(seq, Phase::Idle, None)],
            usage: None,
        };
        device.client.put("/v1/device/report", &reports).is(200);
    }
}

/// Each a request of its own on a connection that is kept, eight of them at a time.
fn enrolments(world: &World, pid: u32) {
    let place = crowd::Place::of(&world.server);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let token = world.join_token(2_000);
    cost("enrolment", pid, 2_000, || {
        runtime.block_on(place.enrol(0..2_000, &token));
    });
}

/// What a held poll takes of memory: a thousand of one device.
fn held(device: &Device, pid: u32, tag: &str) {
    let before = memory(pid);
    let held = [("if-none-match", tag), ("prefer", "wait=120")];
    let count = 1_000;
    let streams: Vec<_> = (0..count)
        .map(|_| {
            let mut stream = device.client.connect().unwrap();
            let path = "/v1/device/state";
            let asked = device
                .client
                .send(stream.get_mut(), "GET", path, &held, &[]);
            asked.unwrap();
            stream
        })
        .collect();
    std::thread::sleep(Duration::from_secs(2));
    let grown = memory(pid).saturating_sub(before);
    figure("held-poll", grown as f64 / f64::from(count), "B");
    drop(streams);
}
