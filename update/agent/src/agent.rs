//! The agent's loop: it waits for PID 1 and for the hub's answer in one poll(2), and does one thing at a time.
//!
//! The question what to run is held open by the hub on a connection of its own; whatever else is to be asked meanwhile
//! has another one, for as long as it takes. What fails is said, and tried again after a pause that grows.

use crate::asking::Asking;
use crate::decide::{Device, HELD_BACK, Step, TRIAL_S, Target, View, count_trials, decide};
use crate::error::Error;
use crate::failing::Stuck;
use crate::floor::Rising;
use crate::frames::{Configure, Level, MAX_CONFIGURE, Order, Report};
use crate::hub::{Address, Connection};
use crate::kept::{Kept, Memory, random};
use crate::local::{Local, Status};
use crate::logging::Logging;
use crate::ready::{Identity, Known};
use crate::report::{Reporter, Telling};
use crate::schedule::Backoff;
use crate::tls::{Clock, Stream};
use kedge_api::device::{Desired, Phase};
use kedge_revision::{KeyId, Product, Root};
use kedge_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use kedge_sys::{Errno, sock, timer};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Where the agent's things are.
#[derive(Debug, Clone)]
pub struct Paths {
    /// What it keeps.
    pub state: PathBuf,
    /// PID 1's control socket.
    pub control: PathBuf,
}

/// What is not tried for a while.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) target: Target,
    pub(crate) reason: String,
    /// Seconds since the start.
    pub(crate) until: u64,
    /// The hub's `retry` then: one that is raised ends it.
    pub(crate) retry: u32,
}

/// See the module.
pub(crate) struct Agent<'a> {
    socket: BorrowedFd<'a>,
    pub(crate) kept: Kept,
    pub(crate) local: Local,
    pub(crate) identity: Identity,
    pub(crate) device: KeyId,
    pub(crate) memory: Memory,
    pub(crate) configure: Option<Box<Configure>>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) known: Known,
    /// The claims that were shown, of each hub its own.
    pub(crate) claims: Vec<String>,
    pub(crate) reporter: Reporter,
    start: Instant,
    /// Which of the hubs is asked.
    pub(crate) hub: usize,
    pub(crate) backoff: Backoff,
    /// What stands in the way of the assignment alone.
    pub(crate) stuck: Stuck,
    /// No hub is asked before, milliseconds since the start.
    pub(crate) paused_until: u64,
    /// What was said last of failures, so that the log is not filled with it.
    pub(crate) said: String,
    /// The same of what failed apart from the rest.
    said_apart: String,
    /// When a hub has answered last, and whether PID 1 knows it.
    pub(crate) answered_at: Option<u64>,
    pub(crate) told_answered: Option<bool>,
    changed: bool,
    status: Status,
    pub(crate) phase: Phase,
    pub(crate) asking: Asking,
    pub(crate) confirmed: Option<Target>,
    /// How far the floor of time may rise, once it is raised.
    pub(crate) rising: Option<Rising>,
    /// When the last fresh answer came, seconds since the start, and for how long it holds.
    pub(crate) fresh: Option<(u64, u64)>,
    pub(crate) staged: Option<Target>,
    /// Bytes of objects that have come over the network, since it was said last.
    pub(crate) wire: u64,
    /// Frames of a hub were damaged: objects come as they are.
    pub(crate) plain: bool,
    pub(crate) refused: Option<Refusal>,
    /// What PID 1 has taken to be tried, as far as this process knows.
    pub(crate) taken: Option<Target>,
    /// The action that was tried last and failed, and how often it was.
    pub(crate) tried: Option<(u64, u32)>,
    /// It was said that a restart waits.
    pub(crate) restart_waits: bool,
    /// A restart that the disk could not remember: it is due once a hub was told.
    pub(crate) owes_restart: bool,
    /// [`Memory::ran`] when it began.
    ran_before: u64,
    /// A root that PID 1 would not take, until when it is not brought again.
    pub(crate) refused_root: Option<(u32, u64)>,
    pub(crate) logging: Logging,
}

/// What ends the loop.
pub(crate) enum Ended {
    /// PID 1 has closed.
    Closed,
    /// Something without which nothing goes.
    Failed(Error),
}

impl<'a> Agent<'a> {
    pub(crate) fn new(socket: BorrowedFd<'a>, paths: &Paths) -> Result<Self, Error> {
        let kept = Kept::new(&paths.state);
        let key = kept.key()?;
        let nobody = || Product::new(unnamed(), unnamed(), kedge_revision::Mode::Production);
        let product = nobody();
        let identity = Identity {
            key,
            product: product.product,
            board: product.board,
        };
        let reporter = Reporter::new(&kept)?;
        let mut agent = Self {
            socket,
            device: identity.public().id(),
            identity,
            local: Local::new(&paths.control),
            memory: Memory::default(),
            configure: None,
            clock: Arc::new(Clock::default()),
            known: Known::default(),
            claims: Vec::new(),
            reporter,
            start: Instant::now(),
            hub: 0,
            backoff: Backoff::default(),
            stuck: Stuck::default(),
            paused_until: 0,
            said: String::new(),
            said_apart: String::new(),
            answered_at: None,
            told_answered: None,
            changed: true,
            status: Status::default(),
            phase: Phase::Idle,
            asking: Asking::default(),
            confirmed: None,
            rising: None,
            fresh: None,
            staged: None,
            wire: 0,
            plain: false,
            refused: None,
            taken: None,
            tried: None,
            restart_waits: false,
            owes_restart: false,
            ran_before: 0,
            refused_root: None,
            logging: Logging::default(),
            kept,
        };
        let mut damaged = false;
        let memory = agent.kept.get("memory", &mut |_| damaged = true)?;
        if damaged {
            agent.say(
                Level::Warning,
                "the memory of failures is damaged, and begins anew",
            )?;
        }
        agent.memory = memory.unwrap_or_default();
        agent.ran_before = agent.memory.ran;
        agent.known = Known::kept(&agent)?;
        Ok(agent)
    }

    /// Serves until PID 1 closes.
    pub(crate) fn serve(&mut self) -> Result<(), Error> {
        loop {
            match self.take_frames() {
                Ok(()) => {}
                Err(Ended::Closed) => return Ok(()),
                Err(Ended::Failed(error)) => return Err(error),
            }
            let until = self.turn()?;
            self.wait(until)?;
        }
    }

    /// Seconds since the agent began.
    pub(crate) fn seconds(&self) -> u64 {
        self.start.elapsed().as_secs()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Says something in PID 1's log.
    pub(crate) fn say(&self, level: Level, text: &str) -> Result<(), Error> {
        self.tell(&Report::Say { level, text })
    }

    pub(crate) fn tell(&self, report: &Report<'_>) -> Result<(), Error> {
        match sock::send(self.socket, &report.encode(), &[]) {
            Ok(_) => Ok(()),
            // PID 1 is behind: it has other things to do than to read us.
            Err(error) if matches!(error.errno, Errno::AGAIN | Errno::NOBUFS) => Ok(()),
            Err(error) => Err(Error::Socket(error)),
        }
    }

    /// Takes what PID 1 has sent, without waiting.
    pub(crate) fn take_frames(&mut self) -> Result<(), Ended> {
        loop {
            let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut ready, Some(&milliseconds(0))) {
                Ok(0) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => {
                    let error = kedge_sys::Error::new("poll", errno);
                    return Err(Ended::Failed(Error::Socket(error)));
                }
            }
            let length = match sock::pending(self.socket) {
                Ok(0) => return Err(Ended::Closed),
                Ok(length) => length.min(MAX_CONFIGURE),
                Err(error) if error.errno == Errno::INTR => continue,
                Err(error) if error.errno == Errno::CONNRESET => return Err(Ended::Closed),
                Err(error) => return Err(Ended::Failed(Error::Socket(error))),
            };
            let mut frame = vec![0; length];
            let received = sock::receive(self.socket, &mut frame)
                .map_err(|error| Ended::Failed(Error::Socket(error)))?;
            match Order::decode(frame.get(..received.bytes).unwrap_or_default()) {
                Ok(Order::Configure(configure)) => self.configured(configure),
                Ok(Order::Changed) => self.changed = true,
                Err(_) => {
                    let said = self.say(Level::Error, "PID 1 talks nonsense");
                    said.map_err(Ended::Failed)?;
                }
            }
        }
    }

    fn configured(&mut self, configure: Box<Configure>) {
        if let Ok(product) = Product::parse(configure.product.as_bytes()) {
            self.identity.product = product.product;
            self.identity.board = product.board;
        }
        self.configure = Some(configure);
        self.changed = true;
        self.known.doubt();
        self.asking = Asking::default();
        self.hub = 0;
        self.paused_until = 0;
    }

    /// Does what is due; until when to wait, milliseconds since the start.
    fn turn(&mut self) -> Result<Option<u64>, Error> {
        let now = self.now_ms();
        if self.configure.is_none() {
            return Ok(None);
        }
        let noted = self.look().and_then(|()| self.note(false));
        if let Err(error) = noted {
            self.failed(&error)?;
        }
        if now < self.paused_until {
            return Ok(Some(self.paused_until));
        }
        match self.work() {
            Ok(until) => Ok(until),
            Err(error @ Error::Socket(_)) => Err(error),
            Err(error) => {
                self.failed(&error)?;
                Ok(Some(self.paused_until))
            }
        }
    }

    /// A hub has given an authenticated answer.
    pub(crate) fn answered(&mut self) -> Result<(), Error> {
        self.answered_at = Some(self.seconds());
        self.told_answered = Some(true);
        self.tell(&Report::Hub { answered: true })
    }

    /// Asks PID 1 how things stand, if they may have changed.
    pub(crate) fn look(&mut self) -> Result<(), Error> {
        if self.changed {
            self.status = self.local.status()?;
            self.changed = false;
        }
        Ok(())
    }

    pub(crate) fn look_again(&mut self) -> Result<(), Error> {
        self.changed = true;
        self.look()
    }

    /// Keeps a report if something has changed.
    pub(crate) fn note(&mut self, failure: bool) -> Result<(), Error> {
        let now = self.seconds();
        let telling = Telling {
            phase: &self.phase,
            stale: self
                .fresh
                .is_some_and(|(at, holds)| now > at.saturating_add(holds)),
            time: self.time(),
            failure,
        };
        self.reporter.note(
            &self.kept,
            &self.memory,
            &self.local,
            &self.status,
            &telling,
        );
        self.say_trouble()
    }

    /// Says what the disk has refused of reports.
    fn say_trouble(&mut self) -> Result<(), Error> {
        match self.reporter.trouble() {
            Some(error) => self.apart::<()>(Err(error)).map(drop),
            None => Ok(()),
        }
    }

    /// What fails on the device's own side in one errand of a turn, and is said, must not keep the others from being run: by
    /// those an operator learns of it, and mends it.
    pub(crate) fn apart<T>(&mut self, done: Result<T, Error>) -> Result<Option<T>, Error> {
        match done {
            Err(error) if error.is_local() => {
                let text = error.to_string();
                if text != self.said_apart {
                    self.say(Level::Warning, &text)?;
                    self.said_apart = text;
                }
                Ok(None)
            }
            done => done.map(Some),
        }
    }

    /// The time, if a hub has told it.
    pub(crate) fn time(&self) -> Option<u64> {
        self.clock.now().filter(|unix| *unix > 1_000_000_000)
    }

    pub(crate) const fn status(&self) -> &Status {
        &self.status
    }

    pub(crate) fn root(&self) -> Result<Root, Error> {
        let text = self.configure.as_ref().map_or("", |c| c.root.as_str());
        Root::parse(text.as_bytes()).map_err(|source| Error::Document {
            what: "the trust root",
            source,
        })
    }

    pub(crate) fn address(&self) -> Result<Option<Address>, Error> {
        self.url().map(Address::parse).transpose()
    }

    /// Where the hub is that is asked: one of those that the device is configured with, or the one that took it in.
    pub(crate) fn url(&self) -> Option<&str> {
        let hubs = self.configure.as_ref().map_or(&[][..], |c| &c.hubs);
        let kept = self.known.hub.as_ref();
        let kept = kept.filter(|url| !hubs.contains(url));
        let count = hubs.len().saturating_add(usize::from(kept.is_some()));
        let index = self.hub.checked_rem(count)?;
        hubs.get(index).or(kept).map(String::as_str)
    }

    /// A connection over mutual TLS, for everything but the question that is held.
    pub(crate) fn connect(&self, hub: &Address) -> Result<Connection<Stream>, Error> {
        match &self.known.tls {
            Some(config) => hub.connect(config),
            None => Err(Error::Protocol {
                doing: "connect",
                what: "no certificate",
            }),
        }
    }

    /// All that is due; until when to wait.
    fn work(&mut self) -> Result<Option<u64>, Error> {
        let Some(hub) = self.address()? else {
            return Ok(None);
        };
        let root = self.root()?;
        if let Some(again) = self.get_ready(&hub, &root)? {
            self.paused_until = self
                .now_ms()
                .saturating_add(u64::from(again).saturating_mul(1000));
            self.went_well();
            // Another hub may know it, above all the one that it was taken in by.
            self.next_hub();
            return Ok(Some(self.paused_until));
        }
        self.hear()?;
        self.look()?;
        if self.follow_roots(&hub, &root)? {
            // PID 1 says what is to be believed from now on.
            return Ok(None);
        }
        let until = self.follow_apart(&hub, &root)?;
        self.report(&hub)?;
        let acted = self.act(&hub);
        self.apart(acted)?;
        let refreshed = self.refresh(&hub, &root);
        self.apart(refreshed)?;
        let asked = self.ask(&hub)?;
        let logs = self.stream_logs(&hub)?;
        Ok([until, Some(asked), logs].into_iter().flatten().min())
    }

    /// Does what is decided until nothing is left to do.
    pub(crate) fn follow(&mut self, hub: &Address, root: &Root) -> Result<Option<u64>, Error> {
        if self.asking.outdated {
            return Ok(None);
        }
        // Bounded: each kind of step leads on, and a hub that changes its mind is asked again in the next turn.
        for _ in 0..16 {
            self.look()?;
            self.forget_trials()?;
            let step = self.decide();
            match step {
                Step::Rest(phase, until) => {
                    let keeps = phase == Phase::Idle && self.phase == Phase::Committed;
                    let mut failure = false;
                    if !keeps && self.phase != phase {
                        let in_repair = |phase: &Phase| matches!(phase, Phase::Repair { .. });
                        failure = in_repair(&phase) && !in_repair(&self.phase);
                        self.phase = phase;
                        self.say_held_back()?;
                    }
                    self.note(failure)?;
                    return Ok(until.map(|seconds| seconds.saturating_mul(1000)));
                }
                Step::Confirm => self.confirm(hub, root)?,
                Step::Fetch(target) => {
                    self.bring(hub, target)?;
                    if self.asking.outdated {
                        return Ok(None);
                    }
                }
                Step::Apply(target) => self.apply(target)?,
                Step::GiveUp => self.give_up()?,
                Step::Settle(phase, failed) => self.settle(phase, failed)?,
            }
        }
        Ok(None)
    }

    /// Trials of a while ago count no longer.
    fn forget_trials(&mut self) -> Result<(), Error> {
        let ran = self.ran();
        if count_trials(&mut self.memory, ran) {
            self.kept.put("memory", &self.memory)?;
        }
        Ok(())
    }

    /// For how long agents have run on this device, seconds.
    pub(crate) fn ran(&self) -> u64 {
        self.ran_before.saturating_add(self.seconds())
    }

    fn say_held_back(&self) -> Result<(), Error> {
        if matches!(&self.phase, Phase::Refused { reason } if reason == HELD_BACK) {
            self.say(Level::Warning, HELD_BACK)?;
        }
        Ok(())
    }

    fn decide(&mut self) -> Step {
        let (now, retry) = (self.seconds(), self.desired_retry());
        self.refused
            .take_if(|refused| refused.until <= now || refused.retry < retry);
        let device: Device = self.status.device();
        let desired = self.desired();
        let opens = desired.and_then(|desired| desired.apply_in_s);
        let opens = opens.map(|seconds| self.asking.at.saturating_add(u64::from(seconds)));
        let closes = desired.and_then(|desired| desired.apply_within_s);
        let closes = closes.map(|seconds| {
            let opens = opens.unwrap_or(self.asking.at);
            opens.saturating_add(u64::from(seconds))
        });
        decide(&View {
            device: &device,
            desired,
            confirmed: self.confirmed,
            staged: self.staged,
            refused: self
                .refused
                .as_ref()
                .map(|refused| (refused.target, refused.reason.as_str())),
            memory: &self.memory,
            trials_until: (self.memory.trials_since)
                .saturating_add(TRIAL_S)
                .saturating_sub(self.ran_before),
            window: (opens, closes),
            now,
        })
    }

    /// What the hub wants.
    pub(crate) fn desired(&self) -> Option<&Desired> {
        self.asking.state.as_ref()?.assignment.as_ref()
    }

    pub(crate) fn desired_retry(&self) -> u32 {
        self.desired().map_or(0, |desired| desired.retry)
    }

    pub(crate) fn rate(&self) -> Option<u64> {
        self.desired()?.rate
    }

    pub(crate) fn report(&mut self, hub: &Address) -> Result<(), Error> {
        let told = self.usage();
        if told.0.is_none() && !self.reporter.is_waiting() {
            return Ok(());
        }
        let mut connection = self.connect(hub)?;
        self.reporter
            .send(&self.kept, &mut self.memory, told, &mut connection)?;
        self.say_trouble()?;
        self.answered()
    }

    /// What containers use, if it is time to tell it, and the time.
    fn usage(&self) -> (Option<Vec<u8>>, u64) {
        let now = self.seconds();
        (self.reporter.usage(&self.local, now), now)
    }

    /// Sends what has changed while something long goes on.
    pub(crate) fn progress(&mut self, hub: &mut Connection<Stream>) -> Result<(), Error> {
        self.note(false)?;
        let told = self.usage();
        self.reporter
            .send(&self.kept, &mut self.memory, told, hub)?;
        match self.address()? {
            Some(address) => self.stream_logs(&address).map(drop),
            None => Ok(()),
        }
    }

    /// Waits for PID 1, for the hub's answer, and until a time.
    fn wait(&mut self, until: Option<u64>) -> Result<(), Error> {
        let left = until.map(|until| milliseconds(until.saturating_sub(self.now_ms())));
        let held = self.asking.until.is_some();
        let hub = self.asking.connection.as_mut().filter(|_| held);
        let mut waiting = vec![PollFd::new(&self.socket, PollFlags::IN)];
        if let Some(connection) = hub {
            waiting.push(PollFd::new(connection.wait_on(), PollFlags::IN));
        }
        match poll(&mut waiting, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(Error::Socket(kedge_sys::Error::new("poll", errno))),
        }
    }
}

fn unnamed() -> kedge_revision::Name {
    // A name that is one by its letters.
    "unnamed".parse().unwrap_or_else(|_| unnamed())
}

pub(crate) fn milliseconds(time: u64) -> Timespec {
    timer::timespec(std::time::Duration::from_millis(time))
}

/// Any number.
pub(crate) fn chance() -> Result<u64, Error> {
    let bytes = random()?;
    let first = bytes.first_chunk().copied().unwrap_or_default();
    Ok(u64::from_le_bytes(first))
}

#[cfg(test)]
mod tests;
