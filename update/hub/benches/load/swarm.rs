//! A fleet: enrols, holds its polls and reports now and then, and comes back all at once when the hub was started again.

use super::crowd::{Member, Place};
use super::process::{memory, peak, processor};
use super::world::{Server, World, report};
use super::{figure, note};
use kedge_api::device::{Phase, Reports};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// As the hub tells devices to ask.
const HOLD_S: u32 = 50;
/// All must be there by then.
const BOUND: Duration = Duration::from_secs(600);

/// What the fleet counts.
#[derive(Default)]
struct Counts {
    polls: AtomicU32,
    reports: AtomicU32,
    connections: AtomicU32,
    failures: AtomicU32,
}

fn add(count: &AtomicU32, more: u32) {
    count.fetch_add(more, Ordering::Relaxed);
}

/// A device's life: polls that are held, a report after each, and a new connection when one ends.
async fn live(member: Member, counts: Arc<Counts>) {
    let mut tag: Option<String> = None;
    let mut seq = 0;
    loop {
        let (mut line, failures) = member.connect_at_last().await;
        add(&counts.connections, 1);
        add(&counts.failures, failures);
        loop {
            let Ok(answer) = line.poll(tag.as_deref(), HOLD_S).await else {
                break;
            };
            add(&counts.polls, 1);
            if answer.status != 304 {
                tag = Some(answer.is(200).headers["etag"].clone());
                continue;
            }
            seq += 1;
            let reports = Reports {
                reports: vec![report(seq, Phase::Idle, None)],
                usage: None,
            };
            let body = serde_json::to_vec(&reports).unwrap();
            match line.ask("PUT", "/v1/device/report", "", &body).await {
                Ok(answer) => drop(answer.is(200)),
                Err(_) => break,
            }
            add(&counts.reports, 1);
        }
    }
}

/// A counter of `/metrics`.
fn metric(server: &Server, name: &str) -> Option<u64> {
    let answer = server.client().ask("GET", "/metrics", &[], &[]).ok()?;
    let text = answer.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}

/// Waits until the hub holds a poll of every device.
fn all_held(server: &Server, devices: u32, begun: Instant) -> f64 {
    loop {
        let online = metric(server, "kedge_devices_online ").unwrap_or(0);
        if online >= u64::from(devices) {
            return begun.elapsed().as_secs_f64();
        }
        let took = begun.elapsed();
        assert!(took < BOUND, "{online} of {devices} polls are held");
        std::thread::sleep(Duration::from_millis(200));
    }
}

pub(crate) fn measure(devices: u32, seconds: u32) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut world = World::at("127.77.0.1:0");
    let place = Place::of(&world.server);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let pid = world.server.pid();

    let (begun, used) = (Instant::now(), processor(pid));
    let token = world.join_token(devices);
    let members = runtime.block_on(place.enrol(0..devices, &token));
    figure("swarm.enrol.time", begun.elapsed().as_secs_f64(), "s");
    let used = processor(pid) - used;
    figure("swarm.enrol.cpu", used as f64 / f64::from(devices), "us");
    note("all are enrolled");

    let (empty, begun, used) = (memory(pid), Instant::now(), processor(pid));
    let counts = Arc::new(Counts::default());
    for member in members {
        runtime.spawn(live(member, Arc::clone(&counts)));
    }
    figure(
        "swarm.come.time",
        all_held(&world.server, devices, begun),
        "s",
    );
    let cpu = (processor(pid) - used) as f64 / 1e6;
    figure("swarm.come.cpu", cpu, "s");
    let grown = memory(pid).saturating_sub(empty);
    figure("swarm.rss-without-polls", empty as f64, "B");
    figure("swarm.held-poll", grown as f64 / f64::from(devices), "B");
    note("all polls are held");

    steady(pid, seconds, &counts);

    let connections = counts.connections.load(Ordering::Relaxed);
    let failures = counts.failures.load(Ordering::Relaxed);
    world = world.restarted_in_place(Server::kill);
    let begun = Instant::now();
    let pid = world.server.pid();
    figure(
        "swarm.herd.time",
        all_held(&world.server, devices, begun),
        "s",
    );
    figure("swarm.herd.cpu", processor(pid) as f64 / 1e6, "s");
    figure("swarm.herd.peak-rss", peak(pid) as f64, "B");
    let made = counts.connections.load(Ordering::Relaxed) - connections;
    figure("swarm.herd.connections", f64::from(made), "");
    let failed = counts.failures.load(Ordering::Relaxed) - failures;
    figure("swarm.herd.failures", f64::from(failed), "");
    let stuck = metric(&world.server, "kedge_handshakes_failed_total ");
    figure("swarm.herd.handshakes-failed", stuck.unwrap() as f64, "");
    runtime.shutdown_timeout(Duration::from_secs(10));
    assert!(world.server.stop());
}

/// An ordinary while.
fn steady(pid: u32, seconds: u32, counts: &Counts) {
    let count = |of: &AtomicU32| f64::from(of.load(Ordering::Relaxed));
    let (polls, reports) = (count(&counts.polls), count(&counts.reports));
    let (begun, used) = (Instant::now(), processor(pid));
    std::thread::sleep(Duration::from_secs(seconds.into()));
    let took = begun.elapsed().as_secs_f64();
    let used = (processor(pid) - used) as f64 / 1e6;
    figure("swarm.steady.cpu", used / took * 100.0, "%");
    figure(
        "swarm.steady.polls",
        (count(&counts.polls) - polls) / took,
        "/s",
    );
    let reports = (count(&counts.reports) - reports) / took;
    figure("swarm.steady.reports", reports, "/s");
    figure("swarm.steady.peak-rss", peak(pid) as f64, "B");
}
