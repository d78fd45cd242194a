//! Definitions for the tests.

use crate::container::{
    Check, Container, Goal, Health, Network, Process, Restart, RestartPolicy, RootWrites, Then,
    User,
};
use crate::content::{Change, Commit, Content, Group, HubGoal};
use crate::{Configuration, Name};
use std::collections::BTreeMap;

pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Restarted on failure without end after 100, 200 … 1000 ms, reset by a run of 5 s, grace 2 s.
pub(super) fn container(group: &str, goal: Goal) -> Container {
    Container {
        group: name(group),
        layers: Vec::new(),
        process: Process {
            arguments: vec!["/app".to_owned()],
            environment: vec!["PATH=/".to_owned()],
            user: User::default(),
            working_directory: "/".to_owned(),
            stop_signal: 15,
            stop_grace_ms: 2000,
            parameters: BTreeMap::new(),
            secrets: Vec::new(),
        },
        goal,
        health: None,
        restart: Restart {
            policy: RestartPolicy::OnFailure,
            delay_ms: 100,
            max_delay_ms: 1000,
            reset_after_ms: 5000,
            max_retries: None,
            then: Then::Leave,
        },
        root: RootWrites::Refused,
        volumes: BTreeMap::new(),
        limits: crate::container::Limits::default(),
        network: Network::None,
        devices: Vec::new(),
        capabilities: Vec::new(),
        roles: Vec::new(),
        after: Vec::new(),
    }
}

/// Every second, 500 ms at most, three in a row, 2 s to start in.
pub(super) fn health(check: Check) -> Health {
    Health {
        check,
        interval_ms: 1000,
        timeout_ms: 500,
        retries: 3,
        start_period_ms: 2000,
    }
}

pub(super) fn content(groups: &[&str], containers: Vec<(&str, Container)>) -> Content {
    Content {
        requires: Vec::new(),
        parameters: BTreeMap::new(),
        groups: groups
            .iter()
            .map(|group| Group {
                name: name(group),
                change: Change::Reboot,
            })
            .collect(),
        containers: containers
            .into_iter()
            .map(|(text, container)| (name(text), container))
            .collect(),
        configuration: Configuration::default(),
        commit: Commit {
            window_s: 60,
            hub: HubGoal::Never,
            hub_wait_s: None,
        },
    }
}
