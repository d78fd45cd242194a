//! Definitions and a hand-driven machine for the tests.

use super::{Action, Event, Id, Machine, State};
use kedge_revision::container::{
    Check, Container, Goal, Health, Network, Process, Restart, RestartPolicy, RootWrites, Then,
    User,
};
use kedge_revision::content::{Change, Commit, Content, Group, HubGoal};
use kedge_revision::{Configuration, Name};
use std::collections::BTreeMap;

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Restarted on failure without end after 100, 200 … 1000 ms, reset by a run of 5 s, grace 2 s.
pub(crate) fn container(group: &str, goal: Goal) -> Container {
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
        limits: kedge_revision::container::Limits::default(),
        network: Network::None,
        devices: Vec::new(),
        capabilities: Vec::new(),
        roles: Vec::new(),
        after: Vec::new(),
    }
}

/// Every second, 500 ms at most, three in a row, 2 s to start in.
pub(crate) fn health(check: Check) -> Health {
    Health {
        check,
        interval_ms: 1000,
        timeout_ms: 500,
        retries: 3,
        start_period_ms: 2000,
    }
}

pub(crate) fn content(groups: &[&str], containers: Vec<(&str, Container)>) -> Content {
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

/// A machine, its clock, and the actions of the newest step without [`Action::Changed`].
pub(crate) struct Rig {
    pub(crate) machine: Machine,
    pub(crate) now: u64,
}

impl Rig {
    /// Begun at 1000 ms; gives also what that led to.
    pub(crate) fn begin(content: &Content) -> (Self, Vec<Action>) {
        let machine = Machine::new(content);
        let mut rig = Self { machine, now: 1000 };
        let actions = rig.step(Event::Begin);
        (rig, actions)
    }

    pub(crate) fn step(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.machine.step(self.now, event, &mut actions);
        actions.retain(|action| !matches!(action, Action::Changed(_)));
        actions
    }

    /// Time passes, and a tick comes.
    pub(crate) fn pass(&mut self, ms: u64) -> Vec<Action> {
        self.now += ms;
        self.step(Event::Tick)
    }

    pub(crate) fn id(&self, name: &str) -> Id {
        self.machine.find(name).unwrap()
    }

    pub(crate) fn state(&self, id: Id) -> State {
        *self.machine.status_of(id).unwrap().state
    }

    /// From the spawn to the exec.
    pub(crate) fn run(&mut self, id: Id) -> Vec<Action> {
        let mut actions = self.step(Event::Started { id, pid: 100 });
        actions.extend(self.step(Event::Executed(id)));
        actions
    }
}
