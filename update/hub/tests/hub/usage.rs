//! What devices tell of their containers' use: kept, told, summed up, and bounded.

use crate::world::{Device, World, report};
use kedge_api::device::{Acknowledged, ContainerUsage, Phase, Pressure, Reports, Usage};
use kedge_api::operator::{Device as Shown, Page};
use serde_json::{Value, json};

const REPORT: &str = "/v1/device/report";

fn container(name: &str, memory: u64) -> ContainerUsage {
    ContainerUsage {
        name: name.to_owned(),
        cpu_us: 1_500_000,
        memory: Some(memory),
        memory_peak: Some(memory + 1),
        memory_max: Some(100_000),
        pids: Some(3),
        pressure: Some(Pressure {
            cpu: 1205,
            memory: 0,
            io: 7,
        }),
    }
}

fn used(containers: Vec<ContainerUsage>) -> Usage {
    Usage {
        uptime_ms: 60_000,
        data_free: Some(1 << 30),
        containers,
    }
}

fn shown(world: &World, device: &Device) -> Shown {
    let path = format!("/v1/devices/{}", device.id);
    world.operator.get(&path).is(200).json()
}

/// A gauge of the hub's.
fn gauge(world: &World, name: &str) -> u64 {
    let text = world.server.client().get("/metrics").is(200).text();
    let kind = format!("# TYPE kedge_usage_{name} gauge\n");
    assert_eq!(text.matches(&kind).count(), 1, "{text}");
    let line = format!("\nkedge_usage_{name} ");
    let (_, value) = text.split_once(&line).unwrap();
    value.lines().next().unwrap().parse().unwrap()
}

#[test]
fn the_last_use_that_was_told_is_kept_told_and_summed_up() {
    let world = World::new();
    let (mut device, other) = (world.device(1), world.device(2));
    assert_eq!(shown(&world, &device).usage, None);
    let first = used(vec![container("web", 95_000), container("db", 5_000)]);
    let told = Reports {
        reports: vec![report(1, Phase::Idle, None)],
        usage: Some(first.clone()),
    };
    device.client.put(REPORT, &told).is(200);
    let known = shown(&world, &device);
    assert_eq!((known.usage, known.report), (Some(first), 1));
    let before = known.usage_time.unwrap();

    // Nothing but its use is told: what was reported before stays.
    let second = used(vec![container("web", 40_000)]);
    let told = Reports {
        reports: Vec::new(),
        usage: Some(second.clone()),
    };
    let done: Acknowledged = device.client.put(REPORT, &told).is(200).json();
    assert_eq!(done.seq, 1);
    let known = shown(&world, &device);
    assert_eq!((known.usage.as_ref(), known.report), (Some(&second), 1));
    assert!(known.usage_time.unwrap() >= before);
    let page: Page<Shown> = world.operator.get("/v1/devices").is(200).json();
    assert!(page.items.iter().all(|device| device.usage.is_none()));

    let told = Reports {
        reports: Vec::new(),
        usage: Some(used(vec![container("web", 91_000)])),
    };
    other.client.put(REPORT, &told).is(200);

    // It outlives the hub, and so do the sums.
    let world = world.restarted(crate::world::Server::kill);
    device.reconnect(&world.server);
    assert_eq!(shown(&world, &device).usage, Some(second));
    assert_eq!(gauge(&world, "devices"), 2);
    assert_eq!(gauge(&world, "devices_data_nearly_full"), 0);
    assert_eq!(gauge(&world, "containers"), 2);
    assert_eq!(gauge(&world, "containers_memory_bytes"), 131_000);
    assert_eq!(gauge(&world, "containers_near_memory_limit"), 1);
    assert_eq!(gauge(&world, "containers_waiting_for_cpu"), 2);
    assert_eq!(gauge(&world, "containers_waiting_for_io"), 0);
}

#[test]
fn older_and_newer_devices_are_understood() {
    let world = World::new();
    let device = world.device(1);
    let put = |body: &Value| device.client.put(REPORT, body);
    // One that knows more, and whose kernel counts less, than this hub does.
    let newer = json!({"reports": [report(1, Phase::Idle, None)], "later": {"a": 1},
        "usage": {"uptime-ms": 5, "load": [1.5], "containers": [{"name": "web", "cpu-us": 7, "io-read": -1}]}});
    put(&newer).is(200);
    let known = shown(&world, &device).usage.unwrap();
    assert_eq!((known.data_free, known.containers.len()), (None, 1));
    assert_eq!(known.containers[0].memory, None);
    // What is absent is absent in what is told of it.
    let path = format!("/v1/devices/{}", device.id);
    let told: Value = world.operator.get(&path).is(200).json();
    let expected = json!({"uptime-ms": 5, "containers": [{"name": "web", "cpu-us": 7}]});
    assert_eq!(told["usage"], expected);
    // One that tells nothing of it: the last word stays.
    put(&json!({"reports": [report(2, Phase::Committed, None)]})).is(200);
    let known = shown(&world, &device);
    assert_eq!((known.report, known.usage.unwrap().uptime_ms), (2, 5));
}

#[test]
fn a_hostile_device_has_no_more_than_its_place() {
    let world = World::new();
    let device = world.device(1);
    let most = u64::MAX;
    let hostile = json!({"name": "\u{1}".repeat(100), "cpu-us": most, "memory": most, "memory-peak": most,
        "memory-max": most, "pids": most, "pressure": {"cpu": u32::MAX, "memory": u32::MAX, "io": u32::MAX}});
    let told = |count: usize| {
        let containers = vec![hostile.clone(); count];
        json!({"reports": [],
            "usage": {"uptime-ms": most, "data-free": most, "containers": containers}})
    };
    let large = world.device(2).client.put(REPORT, &told(700));
    large.refused(413, "too-large");
    device.client.put(REPORT, &told(200)).is(200);
    let usage = shown(&world, &device).usage.unwrap();
    assert_eq!(usage.containers.len(), 64);
    let exact = (1 << 53) - 1;
    assert_eq!((usage.uptime_ms, usage.data_free), (exact, Some(exact)));
    for container in &usage.containers {
        assert_eq!(container.name.len(), 64);
        assert_eq!(container.memory, Some(exact));
        assert_eq!(container.pressure.unwrap().io, 10_000);
    }
    let size = serde_json::to_vec(&usage).unwrap().len();
    assert!(size > 32 * 1024 && size <= 40 * 1024, "{size} bytes");
    // Of the fleet's sum it has one device's share; what is no number of the kernel's is no usage.
    assert_eq!(gauge(&world, "containers_memory_bytes"), 1 << 40);
    assert_eq!(gauge(&world, "containers"), 64);
    for wrong in [json!(-1), json!(1.5), json!("1")] {
        let body = json!({"reports": [], "usage": {"uptime-ms": wrong}});
        device.client.put(REPORT, &body).refused(400, "json");
    }
    // It is gone with its device.
    let path = format!("/v1/devices/{}", device.id);
    world.operator.delete(&path).is(204);
    assert_eq!(gauge(&world, "devices"), 0);
}
