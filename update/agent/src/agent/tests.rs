//! The agent without a hub: PID 1 listens, and its control interface is not there.

use super::*;
use crate::error::Peer;
use crate::kept::Failed;
use kedge_api::device::{Action, ActionKind, Poll, State};
use kedge_revision::root::{Role, Roles};
use kedge_revision::{Mode, ObjectId, Timestamp};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// What is told to it comes from here.
struct Init {
    own: OwnedFd,
    agents: OwnedFd,
    folder: tempfile::TempDir,
}

impl Init {
    fn new() -> Self {
        let (own, agents) = sock::pair(sock::Kind::Messages).unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self {
            own,
            agents,
            folder,
        }
    }

    fn agent(&self) -> Agent<'_> {
        let state = self.folder.path().to_owned();
        let control = Path::new("/nonexistent/control.sock").to_owned();
        let paths = Paths { state, control };
        let mut agent = Agent::new(self.agents.as_fd(), &paths).unwrap();
        agent.changed = false;
        agent
    }

    /// What the agent has said since it was asked last.
    fn heard(&self) -> Vec<String> {
        let mut heard = Vec::new();
        let mut ready = [PollFd::new(&self.own, PollFlags::IN)];
        while poll(&mut ready, Some(&milliseconds(0))) == Ok(1) {
            let mut frame = vec![0; 4096];
            let length = sock::receive(&self.own, &mut frame).unwrap().bytes;
            if let Ok(Report::Say { text, .. }) = Report::decode(&frame[..length]) {
                heard.push(text.to_owned());
            }
        }
        heard
    }
}

const fn tried(byte: u8, retry: u32) -> Failed {
    Failed {
        revision: ObjectId::from_digest([byte; 32]),
        parameters: 3,
        retry,
    }
}

const fn target(byte: u8) -> Target {
    Target {
        revision: ObjectId::from_digest([byte; 32]),
        parameters: 3,
    }
}

/// A hub that is not there.
fn nowhere(agent: &mut Agent<'_>) -> Address {
    let url = "https://127.0.0.1:1";
    agent.configure = Some(Box::new(Configure {
        hubs: vec![url.to_owned()],
        product: String::new(),
        root: String::new(),
        boot_id: String::new(),
        created: Some(Timestamp::from_unix(1)),
        repair: false,
        provision: None,
    }));
    Address::parse(url).unwrap()
}

fn root(agent: &Agent<'_>) -> Root {
    let key = agent.identity.public();
    let role = || Role {
        keys: vec![key.id()],
        threshold: 1,
    };
    let roles = Roles {
        root: role(),
        release: role(),
        hub: role(),
    };
    Root::new(1, Mode::Development, &[key], roles).unwrap()
}

/// What a hub answers.
fn state(assignment: Option<Desired>, actions: Vec<Action>) -> State {
    State {
        requires: Vec::new(),
        assignment,
        actions,
        poll: Poll {
            interval_s: 1,
            hold_s: 1,
            jitter_s: 1,
        },
        root: 1,
        logs: false,
    }
}

fn refused(status: u16, kind: &str) -> Error {
    Error::Refused {
        by: Peer::Hub,
        doing: "fetch the revision",
        status,
        kind: kind.to_owned(),
        detail: "speed is no integer".to_owned(),
        retry_after: None,
    }
}

#[test]
fn what_was_committed_is_no_failure_any_more() {
    let init = Init::new();
    let mut agent = init.agent();
    agent.memory.failed = vec![tried(1, 0), tried(2, 0)];
    agent.memory.trying = Some(tried(1, 1));
    agent.settle(Phase::Committed, None).unwrap();
    assert_eq!(agent.memory.failed, [tried(2, 0)]);
    assert_eq!(init.agent().memory, agent.memory);
    // What was never begun, or has failed, is none that was committed.
    agent.memory.trying = Some(tried(2, 1));
    agent.settle(Phase::Idle, None).unwrap();
    assert_eq!(agent.memory.failed, [tried(2, 0)]);
}

#[test]
fn a_hub_that_takes_it_in_is_told_how_things_stand() {
    let init = Init::new();
    let mut agent = init.agent();
    agent.note(false).unwrap();
    assert_eq!(agent.kept.reports().unwrap(), [1]);
    agent.reporter.acknowledged(&agent.kept);
    agent.note(false).unwrap();
    assert!(agent.kept.reports().unwrap().is_empty());
    agent.move_in().unwrap();
    agent.note(false).unwrap();
    assert_eq!(agent.kept.reports().unwrap().len(), 1);
}

#[test]
fn what_a_hub_never_gives_is_refused_with_its_words() {
    let init = Init::new();
    let mut agent = init.agent();
    for (error, never) in [
        (refused(409, "parameters"), true),
        (refused(404, "not-found"), true),
        (refused(403, "not-assigned"), true),
        (refused(403, "revoked"), false),
        (refused(503, "busy"), false),
    ] {
        agent.refused = None;
        let given = agent.unless_refused::<()>(target(1), Err(error), &[404, 409]);
        assert_eq!(matches!(given, Ok(None)), never, "{given:?}");
        let told = agent.refused.as_ref();
        let told = told.map(|refused| (refused.target, refused.reason.as_str()));
        let expected = never.then_some((target(1), "speed is no integer"));
        assert_eq!(told, expected);
    }
    assert_eq!(
        agent.unless_refused(target(1), Ok(7), &[404]).unwrap(),
        Some(7)
    );
}

/// Whoever has mended what was in the way need not wait for an hour.
#[test]
fn a_retry_that_is_raised_ends_a_refusal() {
    let init = Init::new();
    let mut agent = init.agent();
    let wants = |retry| {
        let Target {
            revision,
            parameters,
        } = target(1);
        let desired = Desired {
            revision,
            parameters,
            retry,
            download_only: false,
            now: false,
            apply_in_s: None,
            apply_within_s: None,
            rate: None,
        };
        state(Some(desired), Vec::new())
    };
    agent.asking.state = Some(wants(3));
    agent.refuse(target(1), &refused(507, "full"));
    for (retry, is_refused) in [(3, true), (2, true), (4, false)] {
        agent.asking.state = Some(wants(retry));
        agent.decide();
        assert_eq!(agent.refused.is_some(), is_refused, "{retry}");
    }
}

#[test]
fn trouble_with_the_assignment_keeps_nothing_else_back() {
    let init = Init::new();
    let mut agent = init.agent();
    let (hub, root) = (nowhere(&mut agent), root(&agent));
    // PID 1 does not say how things stand.
    agent.changed = true;
    agent.follow(&hub, &root).unwrap_err();
    let until = agent.follow_apart(&hub, &root).unwrap();
    assert!(until.is_some_and(|until| until > agent.now_ms()));
    // Nor is it asked again before, and it is said once.
    agent.changed = false;
    agent.stuck.until = u64::MAX;
    assert_eq!(agent.follow_apart(&hub, &root).unwrap(), Some(u64::MAX));
    agent.stuck.until = 0;
    agent.changed = true;
    agent.follow_apart(&hub, &root).unwrap();
    assert_eq!(init.heard().len(), 1);
    // Then all is well.
    agent.stuck.until = 0;
    agent.changed = false;
    assert_eq!(agent.follow_apart(&hub, &root).unwrap(), None);
}

#[test]
fn trouble_with_who_the_device_is_or_with_the_hub_is_trouble_with_all() {
    for error in [refused(500, "error"), refused(409, "other")] {
        assert!(crate::failing::is_apart(&error), "{error}");
    }
    let pause = Error::Refused {
        by: Peer::Hub,
        doing: "",
        status: 503,
        kind: String::new(),
        detail: String::new(),
        retry_after: Some(7),
    };
    let others = [
        refused(403, "revoked"),
        refused(401, "certificate-expired"),
        pause,
    ];
    for error in others {
        assert!(!crate::failing::is_apart(&error), "{error}");
    }
}

#[test]
fn logs_that_could_not_be_sent_are_sent_again_three_times() {
    let init = Init::new();
    let mut agent = init.agent();
    let hub = nowhere(&mut agent);
    let action = |id, what| Action { id, what };
    let actions = vec![
        action(4, ActionKind::Identify),
        action(5, ActionKind::CollectLogs),
        action(6, ActionKind::Identify),
    ];
    agent.asking.state = Some(state(None, actions));
    for _ in 0..2 {
        agent.act(&hub).unwrap_err();
        assert_eq!(agent.memory.action, 4);
        assert_eq!(init.agent().memory.action, 4);
    }
    agent.act(&hub).unwrap();
    assert_eq!(agent.memory.action, 6);
    let heard = init.heard();
    let count = |words: &str| heard.iter().filter(|line| line.contains(words)).count();
    assert_eq!(count("this is the device"), 2);
    assert_eq!(count("not sent after 3 tries"), 1, "{heard:?}");
}
