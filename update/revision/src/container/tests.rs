//! Bounds of a container, each with the words for what is beyond it.

use super::*;

#[test]
fn a_snapshot_is_of_a_permanent_volume_and_has_a_bound() {
    let volume = |snapshot, lifetime, size, snapshot_max| Volume {
        path: "/data".into(),
        lifetime,
        owner: None,
        size,
        snapshot,
        snapshot_max,
    };
    let (some, none, large) = (Some(1 << 16), None, Some(1 << 17));
    for (lifetime, size, most, bound) in [
        (Lifetime::Permanent, large, some, some),
        (Lifetime::Permanent, large, none, large),
        (Lifetime::Permanent, none, none, None),
        (Lifetime::Revision, some, some, None),
        (Lifetime::Boot, some, some, None),
    ] {
        let volume = volume(Snapshot::OnTrial, lifetime, size, most);
        assert_eq!(volume.check("v").is_ok(), bound.is_some(), "{volume:?}");
        assert!(bound.is_none() || volume.snapshot_bound() == bound);
    }
    let never = volume(Snapshot::Never, Lifetime::Permanent, some, none);
    never.check("v").unwrap();
    assert_eq!(never.snapshot_bound(), None);
    volume(Snapshot::Never, Lifetime::Permanent, some, some)
        .check("v")
        .unwrap_err();
    // In memory a page will do, on disk not even a folder fits.
    let small = |lifetime| volume(Snapshot::Never, lifetime, Some(4096), none).check("v");
    small(Lifetime::Boot).unwrap();
    small(Lifetime::Revision).unwrap_err();
}

/// A container as its author's document would have it.
fn container() -> Container {
    serde_json::from_value(serde_json::json!({
        "group": "app",
        "layers": [format!("v1:{}", "0a".repeat(32))],
        "process": {
            "arguments": ["/server"],
            "environment": ["PATH=/bin"],
            "user": { "uid": 0, "gid": 0 },
            "working-directory": "/",
            "stop-signal": 15,
            "stop-grace-ms": 1000,
        },
        "goal": "started",
        "restart": {
            "policy": "no",
            "delay-ms": 1000,
            "max-delay-ms": 1000,
            "reset-after-ms": 1000,
            "then": "leave",
        },
    }))
    .unwrap()
}

fn refused(change: impl FnOnce(&mut Container)) -> String {
    let mut container = container();
    change(&mut container);
    container
        .check("web")
        .map_or_else(|error| error.to_string(), |()| String::new())
}

#[test]
fn what_the_engine_starts_nowhere_is_refused_before_it_is_signed() {
    let volumes = |count: usize| {
        refused(|container| {
            for number in 0..count {
                let volume = Volume {
                    path: format!("/data/{number}"),
                    lifetime: Lifetime::Permanent,
                    owner: None,
                    size: None,
                    snapshot: Snapshot::Never,
                    snapshot_max: None,
                };
                let name = format!("v{number}").parse().unwrap();
                container.volumes.insert(name, volume);
            }
        })
    };
    assert_eq!(volumes(Container::MAX_VOLUMES), "");
    assert_eq!(
        volumes(Container::MAX_VOLUMES + 1),
        "web.volumes: are over 27"
    );
    let groups = |count: u16| refused(|c| c.process.user.groups = (0..count).collect());
    assert_eq!(groups(64), "");
    assert_eq!(groups(65), "web.process.user.groups: are over 64");
}

#[test]
fn a_fault_is_told_of_the_key_that_has_it_and_by_its_name() {
    let health = |check| {
        refused(|container| {
            container.health = Some(Health {
                check,
                interval_ms: 1,
                timeout_ms: 1,
                retries: 1,
                start_period_ms: 0,
            });
        })
    };
    let path = String::new();
    for (said, wanted) in [
        (
            refused(|c| c.restart.delay_ms = 0),
            "web.restart.delay-ms: is 0",
        ),
        (
            refused(|c| c.restart.max_delay_ms = 1),
            "web.restart.max-delay-ms: is less than",
        ),
        (health(Check::Tcp { port: 0 }), "web.health.check.tcp: is 0"),
        (
            health(Check::Http {
                port: 0,
                path: "/".into(),
            }),
            "web.health.check.http.port: is 0",
        ),
        (
            health(Check::Http { port: 1, path }),
            "web.health.check.http.path: ",
        ),
        (health(Check::Command(vec![])), "web.health.check.command: "),
        (
            refused(|c| c.process.environment.push("SHELL".into())),
            "web.process.environment: `SHELL` is not NAME=value",
        ),
        (
            refused(|c| {
                let name = "a".parse().unwrap();
                c.process.parameters.insert("A=B".into(), name);
            }),
            "web.process.parameters: `A=B` is no name",
        ),
    ] {
        assert!(said.starts_with(wanted), "{said}");
    }
    // A variable may be a secret, or a book.
    let long = refused(|c| c.process.environment.push("x".repeat(4000)));
    assert!(long.len() < 200, "{long}");
}
