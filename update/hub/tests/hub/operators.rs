//! What operators ask, and how mistakes are told.

use crate::client::{receive_chunk, receive_head};
use crate::world::{Device, Plan, World, report};
use kedge_api::device::{ActionKind, Phase, Reports, State};
use kedge_api::operator::{Assigned, Device as Shown, Page, ParametersSet, Revision, Token, Why};
use kedge_revision::bundle::Head;
use kedge_revision::parameters::Parameters;
use serde_json::{Value, json};

fn path(device: &Device, what: &str) -> String {
    format!("/v1/devices/{}{what}", device.id)
}

fn tell(device: &Device, report: kedge_api::device::Report) {
    let reports = Reports {
        reports: vec![report],
        usage: None,
    };
    device.client.put("/v1/device/report", &reports).is(200);
}

#[test]
fn mistakes_are_problems_that_say_what_is_wrong() {
    let world = World::new();
    let operator = &world.operator;
    operator.get("/v1/nothing").refused(404, "not-found");
    operator
        .delete("/v1/hub")
        .refused(405, "method-not-allowed");
    let field = json!({"query": "all", "revision": format!("v1:{}", "0".repeat(64)), "wave": 1});
    let problem = operator
        .post("/v1/assignments", &field)
        .refused(400, "unknown-field");
    assert!(problem.detail.contains("wave"), "{problem:?}");
    let nested = json!({"query": "all", "revision": format!("v1:{}", "0".repeat(64)),
        "window": {"opens-s": 1, "lasts-s": 60, "days": 3}});
    let problem = operator
        .post("/v1/assignments", &nested)
        .refused(400, "unknown-field");
    assert!(problem.detail.contains("window.days"), "{problem:?}");
    operator
        .post("/v1/assignments", &json!({"query": "all"}))
        .refused(400, "json");
    let large = vec![b' '; 300 * 1024];
    let answer = operator.ask("POST", "/v1/tokens", &[], &large).unwrap();
    answer.refused(413, "too-large");
    let problem = operator
        .get("/v1/devices?query=colour%3Dred")
        .refused(400, "query");
    assert!(problem.detail.contains("tag:NAME"));
    operator.get("/v1/devices?limit=0").refused(400, "limit");
    operator
        .get("/v1/devices/00000000")
        .refused(404, "not-found");
}

#[test]
fn whatever_the_description_lists_is_there() {
    let world = World::new();
    let document: Value = world.operator.get("/openapi.json").is(200).json();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 30);
    for (path, methods) in paths {
        let path = path.replace(['{', '}'], "");
        for method in methods.as_object().unwrap().keys() {
            // A client without anything: whoever is there says so before looking at the rest.
            let stranger = world.server.client();
            let answer = stranger
                .ask(&method.to_uppercase(), &path, &[], b"{}")
                .unwrap();
            assert!(
                ![404, 405].contains(&answer.status),
                "{method} {path}: {}",
                answer.text()
            );
        }
    }
    world.server.client().get("/healthz").is(200);
    assert!(
        world
            .server
            .client()
            .get("/metrics")
            .text()
            .contains("kedge_requests_total")
    );
}

#[test]
fn devices_are_listed_in_pages_and_found_by_queries() {
    let world = World::new();
    let token = world.join_token(5);
    let devices: Vec<_> = (1..=5)
        .map(|number| Device::enrol(&world.server, number, Some(&token)))
        .collect();
    let tags = json!({"site": "paris", "name": "north"});
    world
        .operator
        .put(&path(&devices[2], "/tags"), &tags)
        .is(204);
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let address = format!("/v1/devices?limit=2&cursor={cursor}");
        let page: Page<Shown> = world.operator.get(&address).is(200).json();
        found.extend(page.items.into_iter().map(|device| device.id));
        match page.cursor {
            Some(next) => cursor = next,
            None => break,
        }
    }
    let mut expected: Vec<_> = devices.iter().map(|device| device.id).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    let page: Page<Shown> = world
        .operator
        .get("/v1/devices?query=tag%3Asite%3Dparis+and+not+online")
        .is(200)
        .json();
    assert_eq!(page.items.len(), 1);
    let shown: Shown = world.operator.get("/v1/devices/north").is(200).json();
    assert_eq!(shown.id, devices[2].id);
}

#[test]
fn an_assignment_says_which_devices_cannot_run_it_and_why() {
    let world = World::new();
    let made = world.publish(&Plan::default());
    let arm = world.publish(&Plan {
        board: "qemu-arm64",
        ..Plan::default()
    });
    let second = world.publish(&Plan {
        counter: 2,
        ..Plan::default()
    });
    let (old, new) = (world.device(1), world.device(2));
    let mut told = report(1, Phase::Committed, Some(second.id));
    told.floor = "1.2".to_owned();
    tell(&new, told);
    let assigned = world.assign("all", made.id);
    assert_eq!(assigned.devices, [old.id]);
    assert!(
        assigned.refused[0]
            .1
            .contains("below the device's floor 1.2")
    );
    let assigned = world.assign("all", arm.id);
    assert!(
        assigned
            .refused
            .iter()
            .all(|(_, why)| why.contains("board"))
    );
    let dry = json!({"query": "all", "revision": second.id, "dry-run": true});
    let dry: Assigned = world.operator.post("/v1/assignments", &dry).is(200).json();
    assert_eq!(dry.devices.len(), 2);
    assert_eq!(
        new.client
            .get("/v1/device/state")
            .json::<State>()
            .assignment,
        None
    );
    let nobody = json!({"query": "all", "revision": format!("v1:{}", "0".repeat(64))});
    world
        .operator
        .post("/v1/assignments", &nobody)
        .refused(404, "not-found");
}

#[test]
fn parameters_are_judged_counted_handed_to_their_device_and_never_shown() {
    let world = World::new();
    let made = world.publish(&Plan::default());
    let device = world.device(1);
    world.assign("all", made.id);
    let mut told = report(1, Phase::Committed, Some(made.id));
    told.running.as_mut().unwrap().parameters = 7;
    tell(&device, told);
    let put = |values: Value| {
        let body = json!({"values": values});
        world.operator.put(&path(&device, "/parameters"), &body)
    };
    put(json!({"speed": "fast"})).refused(400, "parameters");
    // Only the device can read a secret: one that the hub could read is refused.
    put(json!({"password": "hunter2"})).refused(400, "parameters");
    let sealed = format!("sealed:v1:{}", "5a".repeat(32 + 16 + 7));
    let set: ParametersSet = put(json!({"site": "berlin", "password": sealed, "later": "x"}))
        .is(200)
        .json();
    assert_eq!(set.counter, 8);
    let set: ParametersSet = put(json!({"site": null, "speed": "9"})).is(200).json();
    assert_eq!(set.counter, 9);
    let state: State = device.client.get("/v1/device/state").is(200).json();
    assert_eq!(state.assignment.unwrap().parameters, 9);
    let address =
        |counter: u64| format!("/v1/revisions/{}/head?parameters={counter}", made.id.hex());
    let head = device.client.get(&address(9)).is(200);
    let document = Head::parse(&head.body).unwrap().parameters.unwrap();
    let parameters = Parameters::parse(&document).unwrap();
    let values: Vec<_> = parameters
        .values
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    // What the revision does not declare stays at the hub.
    assert_eq!(values, [format!("password={sealed}"), "speed=9".to_owned()]);
    let before = Head::parse(&device.client.get(&address(8)).is(200).body).unwrap();
    assert!(
        Parameters::parse(&before.parameters.unwrap())
            .unwrap()
            .values
            .len()
            == 2
    );
    device.client.get(&address(10)).refused(404, "not-found");
    for address in [
        path(&device, ""),
        path(&device, "/why"),
        "/v1/events".to_owned(),
    ] {
        let text = world.operator.get(&address).is(200).text();
        assert!(!text.contains("hunter2") && !text.contains(&sealed));
    }
}

#[test]
fn actions_go_on_behind_what_a_device_has_done_for_a_hub_that_forgot_it() {
    let world = World::new();
    let device = world.device(1);
    let mut told = report(1, Phase::Idle, None);
    told.action = 7;
    tell(&device, told);
    let asked = world
        .operator
        .post(&path(&device, "/actions"), &json!({"what": "identify"}));
    asked.is(202);
    let state: State = device.client.get("/v1/device/state").is(200).json();
    let ids: Vec<_> = state.actions.iter().map(|action| action.id).collect();
    assert_eq!(ids, [8]);
    // Whatever it claims, there are numbers left.
    let mut told = report(2, Phase::Idle, None);
    told.action = u64::MAX;
    tell(&device, told);
    let path = path(&device, "/actions");
    let asked = world.operator.post(&path, &json!({"what": "identify"}));
    asked.is(202);
}

#[test]
fn actions_wait_until_they_are_reported_and_some_change_what_is_desired() {
    let world = World::new();
    let first = world.publish(&Plan::default());
    let second = world.publish(&Plan {
        counter: 2,
        ..Plan::default()
    });
    let device = world.device(1);
    let act = |what: &str| {
        world
            .operator
            .post(&path(&device, "/actions"), &json!({"what": what}))
    };
    let state = || {
        device
            .client
            .get("/v1/device/state")
            .is(200)
            .json::<State>()
    };
    act("retry").refused(409, "nothing-assigned");
    act("fall-back").refused(409, "nothing-before");
    act("explode").refused(400, "json");
    act("reboot").is(202);
    act("identify").is(202);
    let kinds: Vec<_> = state().actions.iter().map(|action| action.what).collect();
    assert_eq!(kinds, [ActionKind::Reboot, ActionKind::Identify]);
    let mut told = report(1, Phase::Committed, Some(first.id));
    told.action = 1;
    tell(&device, told);
    assert_eq!(state().actions.len(), 1);
    world.assign("all", second.id);
    act("retry").is(202);
    assert_eq!(state().assignment.unwrap().retry, 1);
    tell(&device, report(2, Phase::Committed, Some(second.id)));
    act("fall-back").is(202);
    assert_eq!(state().assignment.unwrap().revision, first.id);
}

#[test]
fn a_failure_is_told_with_its_reason_and_tails_and_reports_count_once() {
    let world = World::new();
    let made = world.publish(&Plan::default());
    let device = world.device(1);
    world.assign("all", made.id);
    let mut bad = report(
        2,
        Phase::RolledBack {
            reason: "goal-missed(web)".to_owned(),
        },
        None,
    );
    bad.failed = Some(kedge_api::device::Failed {
        revision: made.id,
        parameters: 0,
        reason: "goal-missed(web)".to_owned(),
    });
    bad.console = Some("web: exited with 1".to_owned());
    tell(&device, bad.clone());
    bad.phase = Phase::Committed;
    tell(&device, bad.clone());
    bad.seq = 1;
    tell(&device, bad);
    let shown: Shown = world.operator.get(&path(&device, "")).is(200).json();
    assert_eq!(
        (shown.report, shown.console.as_deref()),
        (2, Some("web: exited with 1"))
    );
    let why: Why = world.operator.get(&path(&device, "/why")).is(200).json();
    assert!(
        !why.up_to_date && why.summary.contains("goal-missed(web)"),
        "{why:?}"
    );
    let events = world.operator.get("/v1/events").is(200).text();
    assert_eq!(events.matches("event: rolled-back").count(), 1);
    assert!(!events.contains("event: committed"));
}

#[test]
fn events_are_followed_as_they_happen() {
    let world = World::new();
    let operator = &world.operator;
    let mut stream = operator.connect().unwrap();
    operator
        .send(stream.get_mut(), "GET", "/v1/events?follow=1", &[], &[])
        .unwrap();
    receive_head(&mut stream).unwrap().is(200);
    let mut seen = String::new();
    let mut until = |what: &str| {
        while !seen.contains(what) {
            seen.push_str(
                &String::from_utf8(receive_chunk(&mut stream).unwrap().unwrap()).unwrap(),
            );
        }
    };
    until("event: root\n");
    world.device(1);
    until("event: enrolled\n");
    let seen = operator.get("/v1/events?since=2").is(200).text();
    assert!(!seen.contains("id: 2\n") && seen.contains("id: 3\n"));
    let count = |query: &str| {
        let told = operator.get(&format!("/v1/events?{query}")).is(200).text();
        told.matches("event: ").count()
    };
    assert_eq!((count("last=2"), count("last=0")), (2, 0));
    assert_eq!(count(&format!("last=1&since={}", u32::MAX)), 0);
    // Whoever has seen none knows from where to go on.
    let mut stream = operator.connect().unwrap();
    let target = "/v1/events?follow=1&last=0";
    operator
        .send(stream.get_mut(), "GET", target, &[], &[])
        .unwrap();
    receive_head(&mut stream).unwrap().is(200);
    let begins = receive_chunk(&mut stream).unwrap().unwrap();
    assert_eq!(String::from_utf8(begins).unwrap(), "id: 4\n\n");
    let device = world.device(2);
    operator
        .put(
            &path(&device, "/tags"),
            &json!({"name": "hall-2", "ring": "canary"}),
        )
        .is(204);
    operator
        .put(&path(&device, "/tags"), &json!({"name": "hall-2"}))
        .is(204);
    operator
        .put(&path(&device, "/tags"), &json!({"name": "hall-2"}))
        .is(204);
    // That it enrolled, and two changes: the third changed nothing.
    assert_eq!(count("device=hall-2"), 3);
    assert_eq!(count("device=hall-2&last=2"), 2);
    let told = operator
        .get("/v1/events?device=hall-2&last=2")
        .is(200)
        .text();
    assert!(
        told.contains("changed tags: name=hall-2, ring=canary")
            && told.contains("changed tags: without ring"),
        "{told}"
    );
    operator
        .get("/v1/events?device=hall-9")
        .refused(404, "not-found");
}

#[test]
fn a_repeated_request_with_its_key_changes_nothing_twice() {
    let world = World::new();
    let ask = |key: &str, name: &str| {
        let body = serde_json::to_vec(&json!({"name": name})).unwrap();
        let headers = [("idempotency-key", key)];
        world
            .operator
            .ask("POST", "/v1/tokens", &headers, &body)
            .unwrap()
    };
    let first: Token = ask("a", "ci").is(201).json();
    let again = ask("a", "ci").is(201);
    assert_eq!(again.headers["idempotent-replay"], "true");
    assert_eq!(again.json::<Token>().token, first.token);
    ask("a", "other").refused(422, "key-reused");
    ask("b", "ci").is(201);
    let listed: Page<Token> = world.operator.get("/v1/tokens").is(200).json();
    assert_eq!(listed.items.len(), 3);
    let client = world.server.operator(first.token.as_ref().unwrap());
    client.get("/v1/devices").is(200);
    client.delete(&format!("/v1/tokens/{}", first.id)).is(204);
    client.get("/v1/devices").refused(401, "token-refused");
}

#[test]
fn a_token_that_ends_makes_none_that_outlasts_it() {
    let world = World::new();
    let new = json!({"name": "guest", "lasts-s": 600});
    let guest: Token = world.operator.post("/v1/tokens", &new).is(201).json();
    let client = world.server.operator(guest.token.as_ref().unwrap());
    for lasts in [
        json!({"name": "more"}),
        json!({"name": "more", "lasts-s": 3600}),
    ] {
        client
            .post("/v1/tokens", &lasts)
            .refused(403, "outlasts-its-maker");
    }
    let less = json!({"name": "less", "lasts-s": 60});
    client.post("/v1/tokens", &less).is(201);
    // Deleted again: it is forgotten, whoever asks.
    let path = format!("/v1/tokens/{}", guest.id);
    world.operator.delete(&path).is(204);
    client.get("/v1/devices").refused(401, "token-refused");
    world.operator.delete(&path).refused(404, "not-found");
}

#[test]
fn what_a_hub_keeps_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let directory = world.directory.path();
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    let world = world.restarted(|server| assert!(server.stop()));
    assert_eq!(mode(world.directory.path()), 0o700);
}

#[test]
fn logs_are_kept_for_a_device_and_read_by_container() {
    let world = World::new();
    let device = world.device(1);
    let lines = "{\"source\":\"web\",\"text\":\"hello\"}\n{\"source\":\"db\",\"text\":\"x\"}\n";
    let body = zstd::bulk::compress(lines.as_bytes(), 3).unwrap();
    let post = |body: &[u8]| {
        device
            .client
            .ask("POST", "/v1/device/logs", &[], body)
            .unwrap()
    };
    post(&body).is(204);
    post(b"{}").refused(400, "zstd");
    let address = path(&device, "/logs");
    assert_eq!(world.operator.get(&address).is(200).text(), lines);
    let web = world
        .operator
        .get(&format!("{address}?container=web"))
        .is(200)
        .text();
    assert_eq!(web, lines.split_inclusive('\n').next().unwrap());
    let operator = &world.operator;
    let mut stream = operator.connect().unwrap();
    let follow = format!("{address}?follow=1&container=web");
    operator
        .send(stream.get_mut(), "GET", &follow, &[], &[])
        .unwrap();
    receive_head(&mut stream).unwrap().is(200);
    for _ in 0..2 {
        let chunk = receive_chunk(&mut stream).unwrap().unwrap();
        assert_eq!(String::from_utf8(chunk).unwrap(), web);
        post(&body).is(204);
    }
}

/// A page of a log is one chunk no more: `kedge device logs` refused chunks of megabytes.
#[test]
fn many_lines_of_a_log_come_in_pieces_and_whole() {
    let world = World::new();
    let device = world.device(1);
    let lines: String = (0..40_000)
        .map(|number| format!("{{\"source\":\"web\",\"text\":\"line {number}\"}}\n"))
        .collect();
    assert!(lines.len() > 1 << 20);
    let body = zstd::bulk::compress(lines.as_bytes(), 3).unwrap();
    let sent = device.client.ask("POST", "/v1/device/logs", &[], &body);
    sent.unwrap().is(204);
    let mut stream = world.operator.connect().unwrap();
    let address = path(&device, "/logs");
    world
        .operator
        .send(stream.get_mut(), "GET", &address, &[], &[])
        .unwrap();
    receive_head(&mut stream).unwrap().is(200);
    let mut told = Vec::new();
    while let Some(chunk) = receive_chunk(&mut stream).unwrap() {
        assert!(chunk.len() <= 256 * 1024, "{} bytes at once", chunk.len());
        told.extend(chunk);
    }
    assert_eq!(String::from_utf8(told).unwrap(), lines);
}

#[test]
fn a_device_is_told_whether_somebody_looks_at_its_logs() {
    let world = World::new();
    let device = world.device(1);
    let state = |has: &str| {
        let headers = [("if-none-match", has), ("prefer", "wait=30")];
        device
            .client
            .ask("GET", "/v1/device/state", &headers, &[])
            .unwrap()
            .is(200)
    };
    let before = state("");
    assert!(!before.json::<State>().logs);
    let operator = &world.operator;
    let mut stream = operator.connect().unwrap();
    let follow = path(&device, "/logs?follow=1");
    std::thread::scope(|scope| {
        // Held until somebody looks on.
        let held = scope.spawn(|| state(&before.headers["etag"]));
        operator
            .send(stream.get_mut(), "GET", &follow, &[], &[])
            .unwrap();
        receive_head(&mut stream).unwrap().is(200);
        let during = held.join().unwrap();
        assert!(during.json::<State>().logs);
        let held = scope.spawn(move || state(&during.headers["etag"]));
        drop(stream);
        assert!(!held.join().unwrap().json::<State>().logs);
    });
}

/// Clients that send everything before they read lost the answer with the connection: `kedge publish` with a token that
/// had ended was told of a torn connection.
#[test]
fn a_refusal_reaches_whoever_sends_a_large_body_first() {
    let world = World::new();
    let stranger = world.server.client();
    let body = vec![b'x'; 1_500_000];
    for _ in 0..20 {
        for (method, path) in [("POST", "/v1/revisions"), ("PUT", "/v1/device/report")] {
            let answer = stranger.ask(method, path, &[], &body).unwrap().is(401);
            // What was sent was taken, so the connection is good for the next request.
            assert_eq!(answer.headers.get("connection"), None);
        }
    }
    // Nobody is asked for a body that is refused anyway.
    let mut stream = stranger.connect().unwrap();
    let head = "POST /v1/revisions HTTP/1.1\r\nhost: hub\r\ncontent-length: 1500000\r\nexpect: 100-continue\r\n\r\n";
    std::io::Write::write_all(stream.get_mut(), head.as_bytes()).unwrap();
    let answer = crate::client::receive(&mut stream).unwrap().is(401);
    assert_eq!(answer.headers["connection"], "close");
}

#[test]
fn a_product_that_is_no_name_is_a_mistake_and_not_an_empty_list() {
    let world = World::new();
    let list = |product: &str| {
        world
            .operator
            .get(&format!("/v1/revisions?product={product}"))
    };
    assert_eq!(list("gateway").is(200).json::<Page<Revision>>().items, []);
    for wrong in ["", "0.5", "Gateway"] {
        list(wrong).refused(400, "product");
    }
}
