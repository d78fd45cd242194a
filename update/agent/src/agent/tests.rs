//! The agent without a hub: PID 1 listens, and its control interface is not there.

use super::*;
use crate::kept::Failed;
use kedge_revision::ObjectId;
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
