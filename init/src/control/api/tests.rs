//! The status as JSON.

use super::*;

fn target() -> TargetStatus<'static> {
    TargetStatus {
        revision: "v1:0".into(),
        parameters: 0,
        slot: "a".into(),
    }
}

fn ports() -> Vec<PortStatus> {
    vec![
        PortStatus {
            name: "eth0".to_owned(),
            link: true,
            dhcp: Some("bound".to_owned()),
            addresses: vec!["10.0.2.15/24".to_owned(), "fd00::7/64".to_owned()],
            gateways: vec!["10.0.2.2".to_owned()],
            metric: 100,
            lease: Some(LeaseStatus {
                address: "10.0.2.15".to_owned(),
                server: "10.0.2.2".to_owned(),
                ..LeaseStatus::default()
            }),
            refused: Vec::new(),
        },
        PortStatus {
            name: "eth1".to_owned(),
            refused: vec!["route by eth1 10.9.9.9: unreachable".to_owned()],
            ..PortStatus::default()
        },
    ]
}

fn example() -> Status<'static> {
    Status {
        product: "gateway".into(),
        board: "qemu-x86-64".into(),
        mode: Mode::Development,
        revision: Some(RevisionStatus {
            id: "0123456789abcdef0123".into(),
            version: "1.2.0".into(),
        }),
        slot: "b".into(),
        secure_boot: true,
        from_memory: true,
        state: StateStatus {
            word: "attention".into(),
            text: "a container misses its goal; web: not ready".into(),
        },
        phase: "running".into(),
        boot_id: "x".into(),
        uptime_ms: 3_725_000,
        trial: Trial::Trying { tries_left: 2 },
        update: Some(UpdateStatus {
            committed: target(),
            trial: None,
            failed: None,
            floor: "1.40".into(),
            unsettled: 0,
            watchdog_resets: 0,
            staging: None,
            locks: vec![LockStatus {
                container: "web".into(),
                until_ms: 3_730_000,
            }],
        }),
        goals_missing: vec![MissingGoal {
            container: "web".into(),
            goal: Goal::Ready,
            reason: "its check failed 3 times".into(),
        }],
        containers: vec![ContainerStatus {
            name: "web".into(),
            group: "apps".into(),
            state: ContainerState::BackOff,
            pid: None,
            ready: false,
            restarts: 4,
            last_exit: Some(Exit::Signal(9)),
            since_ms: 3_720_000,
            waiting_for: vec!["db".into()],
        }],
        network: ports(),
        memory: Memory {
            total: 64 << 20,
            available: 40 << 20,
        },
        processes: Vec::new(),
    }
}

#[test]
fn a_status_is_what_it_was_after_a_journey() {
    let json = serde_json::to_string(&example()).unwrap();
    assert_eq!(
        serde_json::from_str::<Status<'_>>(&json).unwrap(),
        example()
    );
    for part in [
        "\"trial\":{\"trying\":{\"tries-left\":2}}",
        "\"secure-boot\":true",
        "\"from-memory\":true",
    ] {
        assert!(json.contains(part), "{json}");
    }
    let off = Status {
        secure_boot: false,
        from_memory: false,
        ..example()
    };
    let json = serde_json::to_string(&off).unwrap();
    assert!(
        !json.contains("secure-boot") && !json.contains("from-memory"),
        "{json}"
    );
}
