//! PID 1 and the agent: what it is told, what it says, and what its word is worth.
//!
//! The agent is the one part of the system that talks to the network, so it is believed in little: that a hub answered
//! (which can hold a trial back, and make none good that is not), and what time it is (never before the running
//! revision was made). What it brings goes the way of every upload, and is verified behind it.

use super::helpers::{AGENT, DISK};
use super::{Driver, now_ms};
use crate::boot;
use crate::boot::Side;
use crate::condition;
use crate::control::{AGENT_SOCKET, Role};
use crate::driver::clients::Listener;
use crate::error::Error;
use crate::helpers::agent::{USER, has_hub};
use crate::helpers::disk;
use crate::judge::{HubRule, Input};
use crate::log::Stream;
use kedge_agent::frames::{Configure, Level, Order, Report};
use kedge_board_support::record::Hub;
use kedge_revision::content::HubGoal;
use kedge_revision::enrolment::Provision;
use kedge_revision::{Configuration, Content, Timestamp};
use kedge_sys::rustix::fs::{Gid, Uid, chown};
use std::path::Path;

/// Index of the agent's listener among those of containers, which are below.
pub(super) const LISTENER: u16 = u16::MAX;
/// The agent hears of changes at most so often, milliseconds: it asks for the whole status then.
const HINT_MS: u64 = 250;

/// What PID 1 keeps about the agent.
#[derive(Debug, Default)]
pub(crate) struct Agent {
    listener: Option<Listener>,
    /// Whether a hub answers.
    hub: bool,
    /// None has answered for over an hour, after one had.
    lost: bool,
    /// A hub has taken the device in, in this boot or before.
    taken_in: bool,
    /// What the agent was told of last, and when.
    told: u64,
    told_at: u64,
    /// When it is to be told, for what has changed meanwhile.
    hint_at: Option<u64>,
    /// What the device was provisioned with.
    provision: Option<String>,
    /// What it may say.
    lines: Allowance,
}

/// Lines that the agent may say at once, and milliseconds for each further one: it talks to the network, and the log is
/// everybody's.
const LINES: u64 = 30;
const LINE_MS: u64 = 2000;

/// A bound on lines in time.
#[derive(Debug, Default)]
struct Allowance {
    /// Up to this time its lines are spent, milliseconds since the boot; in the past: some are left.
    spent: u64,
    /// Lines that were not said.
    dropped: u64,
}

impl Allowance {
    /// Whether a line may be said now; how many before it were not.
    fn take(&mut self, now: u64) -> Option<u64> {
        let spent = self.spent.max(now).saturating_add(LINE_MS);
        if spent > now.saturating_add(LINES.saturating_mul(LINE_MS)) {
            self.dropped = self.dropped.saturating_add(1);
            return None;
        }
        self.spent = spent;
        Some(std::mem::take(&mut self.dropped))
    }
}

impl Agent {
    /// When something is due.
    pub(crate) const fn deadline(&self) -> Option<u64> {
        self.hint_at
    }

    /// Takes whoever asks for the agent's socket.
    pub(crate) const fn listener(&self) -> Option<&Listener> {
        self.listener.as_ref()
    }

    /// Whether a hub answers, by the agent's word.
    const fn told_of_hub(&mut self, answered: bool) {
        self.hub = answered;
        self.lost = !answered;
        self.taken_in |= answered;
    }

    /// Where the device stands with its hub.
    pub(super) const fn stands(&self) -> condition::Hub {
        if self.listener.is_none() {
            condition::Hub::Unasked
        } else if self.hub {
            condition::Hub::Answers
        } else if self.lost {
            condition::Hub::Lost
        } else if self.taken_in {
            condition::Hub::Awaited
        } else {
            condition::Hub::Enrolling
        }
    }

    /// What is kept with a trial that begins.
    pub(crate) const fn hub(&self) -> Hub {
        if self.hub { Hub::Answered } else { Hub::Silent }
    }
}

impl Driver {
    /// Makes the agent's socket and looks for a provisioning; whether there is a hub to ask.
    pub(super) fn prepare_agent(&mut self) -> bool {
        match boot::provision() {
            Ok(found) => self.agent.provision = found,
            Err(error) => self.say(Stream::Warning, &format!("provisioning: {error}")),
        }
        self.keep_provision();
        self.agent.taken_in = has_hub();
        if self.hubs().is_empty() && !self.agent.taken_in {
            return false;
        }
        let made = agent_listener().and_then(|listener| {
            listener.watch(&self.poller, LISTENER)?;
            Ok(listener)
        });
        match made {
            Ok(listener) => {
                self.agent.listener = Some(listener);
                true
            }
            Err(error) => {
                self.say(Stream::Error, &format!("agent: {error}"));
                false
            }
        }
    }

    /// Lets the values of a provisioning be kept: it is given once.
    fn keep_provision(&mut self) {
        let Some(document) = &self.agent.provision else {
            return;
        };
        if let Some(values) = disk::kept_values(document) {
            self.send(DISK, disk::Request::Provision(&values).encode());
        } else if !boot::provisioned_values(document).is_empty() {
            let text = "provisioning: values of over 16 KiB hold for this boot alone";
            self.say(Stream::Warning, text);
        }
    }

    /// Hubs of the provisioning, then those of the revision.
    pub(super) fn hubs(&self) -> Vec<String> {
        let provision = self.agent.provision.as_deref();
        let provision = provision.and_then(|text| Provision::parse(text.as_bytes()).ok());
        let mut hubs = provision.map_or_else(Vec::new, |provision| provision.hubs);
        for hub in self.configuration(|configuration| configuration.hubs.clone()) {
            if !hubs.contains(&hub) {
                hubs.push(hub);
            }
        }
        hubs
    }

    /// Something of the configuration of what runs; in repair mode of what is committed, which is to be mended over the
    /// network as it knows it.
    pub(super) fn configuration<T: Default>(&self, of: impl Fn(&Configuration) -> T) -> T {
        if let Some(content) = &self.boot.content {
            return of(&content.configuration);
        }
        self.committed()
            .map_or_else(T::default, |side| of(&side.content.configuration))
    }

    /// The committed revision, read from disk.
    pub(super) fn committed(&self) -> Option<Side> {
        let target = self.boot.control.as_ref()?.state().committed;
        self.boot.read_committed(target).ok()
    }

    /// Tells the agent what it must know.
    pub(super) fn brief_agent(&mut self) {
        let boot = &self.boot;
        let Some(identity) = &boot.identity else {
            return;
        };
        let newest = boot.roots.as_ref().and_then(|roots| roots.newest());
        let root = newest.unwrap_or(&identity.root).encode();
        let documents = identity.product.encode().and_then(|p| Ok((p, root?)));
        let text = |bytes| String::from_utf8(bytes).unwrap_or_default();
        let Ok((product, root)) = documents else {
            return;
        };
        let configure = Configure {
            hubs: self.hubs(),
            product: text(product),
            root: text(root),
            boot_id: super::status::boot_id(),
            created: boot.revision.as_ref().map(|r| r.envelope().created),
            repair: self.in_repair(),
            provision: self.agent.provision.clone(),
        };
        match Order::Configure(Box::new(configure)).encode() {
            Some(frame) => self.send(AGENT, frame),
            None => self.say(Stream::Error, "agent: its configuration is too large"),
        }
    }

    /// What the agent says.
    pub(super) fn agent_says(&mut self, frame: &[u8]) {
        match Report::decode(frame) {
            Ok(Report::Say { level, text }) => {
                let stream = match level {
                    Level::Error => Stream::Error,
                    Level::Warning => Stream::Warning,
                    Level::Notice => Stream::Notice,
                };
                // Some of its words are a stranger's: they must not be taken for ours, nor steer a terminal.
                let text = text.replace(char::is_control, " ");
                self.agent_line(stream, &text);
            }
            Ok(Report::Hub { answered }) => {
                let first = answered && !self.agent.hub;
                self.agent.told_of_hub(answered);
                if first {
                    self.send(DISK, disk::Request::Provisioned.encode());
                }
                if answered {
                    self.ask_judge(Input::Hub);
                }
            }
            Ok(Report::Clock { unix }) => self.set_clock(Timestamp::from_unix(unix)),
            Err(_) => self.agent_line(Stream::Error, "talks nonsense"),
        }
    }

    /// A line of the agent's, or because of it, as long as there are not too many.
    fn agent_line(&mut self, stream: Stream, text: &str) {
        match self.agent.lines.take(now_ms()) {
            Some(0) => self.say(stream, &format!("agent: {text}")),
            Some(more) => {
                let before = format!("agent: {more} lines were too many; {text}");
                self.say(stream, &before);
            }
            None => {}
        }
    }

    /// Sets the clock, but never to before the running revision was made.
    fn set_clock(&mut self, time: Timestamp) {
        let floor = self.boot.revision.as_ref().map(|r| r.envelope().created);
        if floor.is_some_and(|floor| time < floor) {
            self.agent_line(Stream::Warning, "a hub's time is before the revision's");
            return;
        }
        match boot::set_clock(time) {
            Ok(true) => self.agent_line(Stream::Notice, &format!("the clock is set to {time}")),
            Ok(false) => {}
            Err(error) => self.agent_line(Stream::Warning, &format!("clock: {error}")),
        }
    }

    /// Each turn: whether the agent is to be told that something has changed.
    pub(super) fn agent_turn(&mut self, now: u64) {
        if !self.helpers.agent_runs() {
            self.agent.hint_at = None;
            return;
        }
        let is = self.fingerprint();
        if is == self.agent.told {
            return;
        }
        let at = self.agent.told_at.saturating_add(HINT_MS);
        if at > now {
            self.agent.hint_at = Some(at);
            return;
        }
        self.agent.hint_at = None;
        self.agent.told = is;
        self.agent.told_at = now;
        if let Some(frame) = Order::Changed.encode() {
            self.send(AGENT, frame);
        }
    }

    /// A number that differs when the status does, in what a hub is told. A change that it misses is told with the next.
    fn fingerprint(&self) -> u64 {
        let mut sum = 0_u64;
        // FNV-1a over words (http://www.isthe.com/chongo/tech/comp/fnv/).
        let mut add = |word: u64| sum = (sum ^ word).wrapping_mul(0x100_0000_01b3);
        for status in self.machine.status() {
            add(status.since);
            add(u64::from(status.ready));
        }
        if let Some(control) = &self.boot.control {
            let state = control.state();
            add(state.floor.counter);
            add(u64::from(state.trial.is_some()));
            add(u64::from(self.judge.is_some()));
            let digest = state.committed.revision.digest();
            add(digest.iter().fold(state.committed.parameters, |sum, byte| {
                sum.rotate_left(8) ^ u64::from(*byte)
            }));
        }
        add(u64::from(self.update.is_busy()));
        for (_, until) in self.update.locks.held() {
            add(until);
        }
        sum
    }

    /// What a hub's silence means for the trial that begins to be judged.
    pub(super) fn hub_rule(&self, content: &Content) -> HubRule {
        let Some(control) = &self.boot.control else {
            return HubRule::Free;
        };
        let state = control.state();
        let Some(trial) = state.trial.as_ref() else {
            return HubRule::Free;
        };
        if content.commit.hub == HubGoal::Never || trial.hub == Hub::Silent {
            return HubRule::Free;
        }
        if trial.target.slot != state.committed.slot {
            // Another kernel, or another agent.
            return HubRule::Decides;
        }
        let read;
        let before = match &self.update.before {
            Some(before) => Some(before.as_ref()),
            None => {
                read = self.committed();
                read.as_ref()
            }
        };
        let same = |before: &Side| before.content.configuration == content.configuration;
        if before.is_some_and(same) && self.same_network() {
            HubRule::Waits
        } else {
            HubRule::Decides
        }
    }

    /// The agent's process has ended: what it said of a hub is as old as that.
    pub(super) fn agent_ended(&mut self) {
        self.agent.hub = false;
        self.agent.told = 0;
    }
}

/// The agent's control socket: the directory is all that the agent sees of the device.
fn agent_listener() -> Result<Listener, Error> {
    let path = Path::new(AGENT_SOCKET);
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(Error::io("make directory", directory))?;
    }
    let listener = Listener::bind(path, Role::Update, 0o600)?;
    chown(path, Some(Uid::from_raw(USER)), Some(Gid::from_raw(USER)))
        .map_err(Error::file("give away", path))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_device_stands_with_its_hub() {
        use condition::Hub;
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("control.sock");
        let mut agent = Agent {
            taken_in: true,
            ..Agent::default()
        };
        assert_eq!(agent.stands(), Hub::Unasked, "there is no agent");
        agent.listener = Some(Listener::bind(&path, Role::Update, 0o600).unwrap());
        assert_eq!(agent.stands(), Hub::Awaited);
        agent.taken_in = false;
        assert_eq!(agent.stands(), Hub::Enrolling);
        agent.told_of_hub(true);
        assert_eq!(agent.stands(), Hub::Answers);
        agent.told_of_hub(false);
        assert_eq!(agent.stands(), Hub::Lost);
        agent.told_of_hub(true);
        // Its process has ended: nothing was lost, and nobody is taken in anew.
        agent.hub = false;
        assert_eq!(agent.stands(), Hub::Awaited);
    }

    #[test]
    fn lines_beyond_the_allowance_are_counted_and_not_said() {
        let mut lines = Allowance::default();
        let said = (0..100).filter(|_| lines.take(5000).is_some()).count();
        assert_eq!(said, 30);
        assert_eq!(lines.take(6999), None);
        assert_eq!(lines.take(7000), Some(71));
        assert_eq!(lines.take(7000), None);
        assert_eq!(lines.take(1_000_000), Some(1));
        let said = (0..100).filter(|_| lines.take(1_000_000).is_some()).count();
        assert_eq!(said, 29);
    }
}
