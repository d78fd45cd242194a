//! What one stranger, one address and one device cannot take from all others.

use crate::client::receive;
use crate::world::{Device, Server, World, report};
use kedge_api::device::{Phase, Reports};
use serde_json::json;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Nothing takes so long, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the other side has closed a connection; what it says before is passed over.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    loop {
        match stream.read(&mut [0; 4096]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// A connection from a certain address that says nothing.
fn silent(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(to).await.unwrap().into_std().unwrap()
    })
}

/// Waits until so many of some connections are closed.
fn wait_closed(streams: &mut [TcpStream], wanted: usize) -> usize {
    let begun = Instant::now();
    loop {
        let closed = streams.iter_mut().map(is_closed).filter(|it| *it).count();
        if closed >= wanted || begun.elapsed() > PATIENCE {
            return closed;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_address_that_only_connects_leaves_places_for_others() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start_with(
        data.path(),
        &["--mode", "development", "--connections", "30"],
    );
    // Each may come as long as its address has fewer than half of what is free: ten of thirty, or nine while the hub has
    // not seen yet that the client which waited for its start is gone.
    let greedy = Ipv4Addr::new(127, 88, 0, 1);
    let mut strangers: Vec<_> = (0..25).map(|_| silent(greedy, server.address)).collect();
    let closed = wait_closed(&mut strangers, 15);
    assert!(matches!(closed, 15 | 16), "{closed} of 25 were closed");
    server.client().get("/healthz").is(200);
}

/// A connection of a device on which it has asked once.
fn asked(device: &Device) -> TcpStream {
    let mut stream = device.client.connect().unwrap();
    let client = &device.client;
    client
        .send(stream.get_mut(), "GET", "/v1/hub", &[], &[])
        .unwrap();
    receive(&mut stream).unwrap().is(200);
    stream.get_ref().sock.try_clone().unwrap()
}

#[test]
fn a_device_keeps_its_newest_connections_and_loses_all_when_it_is_shut_out() {
    let world = World::new();
    let (device, other) = (world.device(1), world.device(2));
    let mut others = vec![asked(&other)];
    let mut streams: Vec<_> = (0..8).map(|_| asked(&device)).collect();
    assert_eq!(wait_closed(&mut streams, 0), 0);
    streams.push(asked(&device));
    assert_eq!(wait_closed(&mut streams[..1], 1), 1);
    assert_eq!(wait_closed(&mut streams[1..], 0), 0);
    let path = format!("/v1/devices/{}/revoke", device.id);
    world.operator.post(&path, &json!({})).is(204);
    assert_eq!(wait_closed(&mut streams, 9), 9);
    assert_eq!(wait_closed(&mut others, 0), 0);
}

#[test]
fn a_device_that_tells_without_end_does_not_push_out_what_others_did() {
    let world = World::new();
    let (device, calm) = (world.device(1), world.device(2));
    for boot in 1..=120 {
        let mut told = report(boot, Phase::Idle, None);
        told.boot_id = format!("boot-{boot}");
        let reports = Reports {
            reports: vec![told],
            usage: None,
        };
        device.client.put("/v1/device/report", &reports).is(200);
    }
    let events = world.operator.get("/v1/events?limit=1000").is(200).text();
    let count = |what: &str| events.matches(&format!("event: {what}\n")).count();
    // What its enrolment wrote counts towards the hundred, too.
    assert_eq!((count("booted"), count("noisy")), (99, 1), "{events}");
    let told = report(1, Phase::Committed, None);
    let reports = Reports {
        reports: vec![told],
        usage: None,
    };
    calm.client.put("/v1/device/report", &reports).is(200);
    let events = world.operator.get("/v1/events?limit=1000").is(200).text();
    assert_eq!(events.matches("event: committed\n").count(), 1);
}

#[test]
fn a_key_of_a_repeated_request_is_for_those_who_are_known() {
    let world = World::new();
    let ask = |client: &crate::client::Client| {
        let headers = [("idempotency-key", "once")];
        let body = serde_json::to_vec(&json!({"name": "ci"})).unwrap();
        client.ask("POST", "/v1/tokens", &headers, &body).unwrap()
    };
    ask(&world.server.client()).refused(401, "token-needed");
    let made: kedge_api::operator::Token = world
        .operator
        .post("/v1/tokens", &json!({"name": "short"}))
        .is(201)
        .json();
    let short = world.server.operator(made.token.as_ref().unwrap());
    ask(&short).is(201);
    world
        .operator
        .delete(&format!("/v1/tokens/{}", made.id))
        .is(204);
    // The answer holds a token: who has none any more does not get it again.
    ask(&short).refused(401, "token-refused");
}

#[test]
fn a_certificate_that_was_taken_back_is_a_strangers() {
    let world = World::new();
    let mut devices = [world.device(1), world.device(2)];
    let [_, revoked] = &devices;
    let path = format!("/v1/devices/{}/revoke", revoked.id);
    world.operator.ask("POST", &path, &[], &[]).unwrap().is(204);
    for device in &mut devices {
        device.reconnect(&world.server);
    }
    // Above what an address may ask at once.
    let refused = |device: &Device| {
        let client = &device.client;
        let mut stream = client.connect().unwrap();
        (0..900).any(|_| {
            let sent = client.send(stream.get_mut(), "GET", "/v1/authority", &[], &[]);
            sent.unwrap();
            receive(&mut stream).unwrap().status == 429
        })
    };
    let [good, revoked] = &devices;
    assert!(refused(revoked), "a revoked device may ask without end");
    assert!(!refused(good), "a device of the fleet is no stranger");
}
