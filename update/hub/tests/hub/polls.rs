//! Polls: held, woken, answered at the end, and never a write.

use crate::client::receive;
use crate::world::{Plan, World};
use kedge_api::device::State;
use kedge_api::operator::Device as Shown;
use serde_json::json;
use std::time::{Duration, Instant};

/// The tag of a device's state.
fn tag(device: &crate::world::Device) -> String {
    let answer = device.client.get("/v1/device/state").is(200);
    answer.headers["etag"].clone()
}

#[test]
fn a_held_poll_is_answered_when_something_changes_and_not_before() {
    let world = World::new();
    let made = world.publish(&Plan::default());
    let device = world.device(1);
    let tag = tag(&device);
    let headers = [("if-none-match", tag.as_str()), ("prefer", "wait=20")];
    let mut stream = device.client.connect().unwrap();
    device
        .client
        .send(stream.get_mut(), "GET", "/v1/device/state", &headers, &[])
        .unwrap();
    let path = format!("/v1/devices/{}", device.id);
    let is_online = || world.operator.get(&path).json::<Shown>().online;
    let begun = Instant::now();
    while !is_online() {
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    let begun = Instant::now();
    world.assign("online", made.id);
    let answer = receive(&mut stream).unwrap().is(200);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(answer.json::<State>().assignment.unwrap().revision, made.id);
    assert!(!is_online());
}

#[test]
fn a_poll_that_nothing_answers_ends_unchanged_in_time() {
    let world = World::new();
    let device = world.device(1);
    let tag = tag(&device);
    let headers = [("if-none-match", tag.as_str()), ("prefer", "wait=1")];
    let begun = Instant::now();
    let answer = device.client.ask("GET", "/v1/device/state", &headers, &[]);
    assert_eq!(answer.unwrap().is(304).headers["etag"], tag);
    assert!((900..5000).contains(&begun.elapsed().as_millis()));
}

#[test]
fn held_polls_are_answered_when_the_hub_stops_and_tags_outlive_it() {
    let world = World::new();
    let made = world.publish(&Plan::default());
    let mut device = world.device(1);
    world.assign("all", made.id);
    let tag = tag(&device);
    let headers = [("if-none-match", tag.as_str()), ("prefer", "wait=60")];
    let mut stream = device.client.connect().unwrap();
    device
        .client
        .send(stream.get_mut(), "GET", "/v1/device/state", &headers, &[])
        .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    let world = world.restarted(|server| assert!(server.stop()));
    assert!(begun.elapsed() < Duration::from_secs(10));
    receive(&mut stream).unwrap().is(304);
    device.reconnect(&world.server);
    let again = device
        .client
        .ask("GET", "/v1/device/state", &headers[..1], &[]);
    again.unwrap().is(304);
    // What was only in memory was written at the end.
    let path = format!("/v1/devices/{}", device.id);
    assert!(world.operator.get(&path).json::<Shown>().seen_s.is_some());
}

#[test]
fn polls_write_nothing() {
    let world = World::new();
    let device = world.device(1);
    let tag = tag(&device);
    // The minute's work of the start is over.
    std::thread::sleep(Duration::from_millis(300));
    let written = || {
        let data = world.directory.path();
        ["hub.db", "hub.db-wal"].map(|name| {
            let file = std::fs::metadata(data.join(name)).unwrap();
            (file.len(), file.modified().unwrap())
        })
    };
    let before = written();
    for _ in 0..300 {
        let headers = [("if-none-match", tag.as_str())];
        let answer = device.client.ask("GET", "/v1/device/state", &headers, &[]);
        answer.unwrap().is(304);
    }
    assert_eq!(written(), before);
}

#[test]
fn a_device_asks_for_itself_alone() {
    let world = World::new();
    let (one, other) = (world.device(1), world.device(2));
    let ask = json!({"device": other.id, "nonce": "00".repeat(32)});
    let answer = one.client.post("/v1/device/assignment", &ask);
    answer.refused(403, "another-device");
}
