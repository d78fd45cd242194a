//! Figures of the hub: what polls, reports, handshakes and held connections cost it.
//!
//! `cargo bench -p kedge-hub` prints processor time of the hub's process for each request, and its memory for each held
//! poll. The client runs on the same machine, which is why it is not the wall clock that is looked at.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    dead_code,
    reason = "a measurement that cannot go on fails; the tests use what is not used here"
)]

#[path = "../tests/hub/client.rs"]
mod client;
#[path = "../tests/hub/world.rs"]
mod world;

use client::receive;
use kedge_api::device::{Phase, Reports};
use std::time::Duration;
use world::{Device, World, report};

/// Clock ticks of a second in `/proc` (proc(5), `_SC_CLK_TCK`).
const TICKS: u64 = 100;

/// Processor time that the hub has used, microseconds.
fn processor(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks * 1_000_000 / TICKS
}

/// Memory that the hub has, kB.
fn memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Prints what each of `count` requests cost.
fn measure(what: &str, pid: u32, count: u64, work: impl FnOnce()) {
    let before = processor(pid);
    work();
    let used = processor(pid) - before;
    println!("{what}: {} us of processor time", used / count);
}

fn main() {
    let world = World::new();
    let pid = world.server.pid();
    let token = world.join_token(100);
    let devices: Vec<Device> = (1..=32)
        .map(|number| Device::enrol(&world.server, number, Some(&token)))
        .collect();
    let device = &devices[0];
    let tag = device.client.get("/v1/device/state").is(200).headers["etag"].clone();
    let unchanged = [("if-none-match", tag.as_str())];

    measure("unchanged poll on an open connection", pid, 20_000, || {
        for _ in 0..20_000 {
            let answer = device
                .client
                .ask("GET", "/v1/device/state", &unchanged, &[]);
            answer.unwrap().is(304);
        }
    });
    measure("report, 32 devices at once", pid, 32 * 200, || {
        std::thread::scope(|scope| {
            for device in &devices {
                scope.spawn(|| {
                    for seq in 1..=200 {
                        let reports = Reports {
                            reports: vec![report(seq, Phase::Idle, None)],
                        };
                        device.client.put("/v1/device/report", &reports).is(200);
                    }
                });
            }
        });
    });
    measure(
        "new connection with a poll, TLS session not resumed",
        pid,
        1_000,
        || {
            for _ in 0..1_000 {
                let fresh = world.server.device(&device.credentials);
                fresh.get("/v1/device/state").is(200);
            }
        },
    );
    measure(
        "new connection with a poll, TLS session resumed",
        pid,
        1_000,
        || {
            for _ in 0..1_000 {
                let mut stream = device.client.connect().unwrap();
                let path = "/v1/device/state";
                device
                    .client
                    .send(stream.get_mut(), "GET", path, &[], &[])
                    .unwrap();
                receive(&mut stream).unwrap().is(200);
            }
        },
    );
    held(device, pid, &tag);
}

/// What a held poll takes of memory.
fn held(device: &Device, pid: u32, tag: &str) {
    let before = memory(pid);
    let held = [("if-none-match", tag), ("prefer", "wait=120")];
    let count = 1_000;
    let streams: Vec<_> = (0..count)
        .map(|_| {
            let mut stream = device.client.connect().unwrap();
            let path = "/v1/device/state";
            device
                .client
                .send(stream.get_mut(), "GET", path, &held, &[])
                .unwrap();
            stream
        })
        .collect();
    std::thread::sleep(Duration::from_secs(2));
    println!("held poll with TLS: {} kB", (memory(pid) - before) / count);
    drop(streams);
    println!("hub without held polls: {} kB", before);
}
