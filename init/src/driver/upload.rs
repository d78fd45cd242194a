//! Bodies on their way from a client to the stage helper: PID 1 hands them on and writes nothing.
//!
//! ```text
//! client ──HTTP──▶ Connection::body ──Data──▶ stage helper ──▶ store
//!                                 ◀──Credit── at most WINDOW bytes ahead
//!        ◀──────── answer ◀──────── Answer
//! ```
//! One upload at a time. What a hub sends gives way to whoever stands before the device, at a shell or with a stick: over a
//! slow link it could keep them out for days. What has come of it stays. The helper is started when the first one comes, and
//! ends when nothing has been asked of it for a minute: an idle device has no such process.

use super::helpers::STAGE;
use super::{Driver, now_ms};
use crate::control::{Problem, Refusal, Upload as What};
use crate::driver::agent::LISTENER as AGENT;
use crate::driver::clients::ClientId;
use crate::driver::poller::Ready;
use crate::driver::update::Refused;
use crate::helpers::stage::{Body, MAX_DATA, Request, WINDOW};
use crate::log::Stream;
use kedge_revision::ObjectId;
use serde::Deserialize;

/// How long an upload may stand still, milliseconds: sealing a large object takes the kernel a while.
const STILL_MS: u64 = 120_000;

/// For so long what a hub sends keeps out of the way of whoever it made way for, milliseconds.
const YIELDS_MS: u64 = 60_000;

/// Once the helper that works on it has ended there is room.
const GIVES_WAY: Refusal = Refusal::Unavailable("what a hub sends gives way; try again");

/// What its answers are.
const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";

/// An upload that is under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upload {
    client: ClientId,
    /// Which of the clients that had this slot.
    generation: Option<u32>,
    /// Bytes of data for which no credit has come back.
    ahead: usize,
    /// When something of it was last handed on or worked off, milliseconds since the boot.
    moved: u64,
    what: What,
    /// The agent's, which gives way.
    yields: bool,
}

/// What PID 1 wants to know of the helper's answer to an offer.
#[derive(Deserialize)]
pub(super) struct Offered {
    pub(super) revision: ObjectId,
    pub(super) parameters: Option<u64>,
}

impl Driver {
    /// Takes a new upload, or refuses it.
    pub(super) fn upload_begins(&mut self, client: ClientId, what: What, length: u64) {
        let yields = self.clients.listener(client) == Some(AGENT);
        let refusal = self.upload_refusal(yields).map(|refusal| {
            // Whatever is in the way passes; a stick's helper looks again then, and an agent whose object it is has nothing
            // to hold against its hub.
            if self.is_stick(client) || (yields && matches!(what, What::Object { .. })) {
                Refusal::Unavailable(refusal.detail())
            } else {
                refusal
            }
        });
        let Some(connection) = self.clients.connection(client) else {
            return;
        };
        if let Some(refusal) = refusal {
            connection.answer_refused(refusal);
            return;
        }
        if !self.stage_runs() {
            if let Some(connection) = self.clients.connection(client) {
                connection.answer_refused(Refusal::Unavailable("the stage helper does not run"));
            }
            return;
        }
        self.update.receiving = true;
        self.upload = Some(Upload {
            client,
            generation: self.clients.generation(client),
            ahead: 0,
            moved: now_ms(),
            what,
            yields,
        });
        let body = match what {
            What::Offer => {
                self.update.received = 0;
                self.configure_stage();
                Body::Offer
            }
            What::Root => {
                self.configure_stage();
                Body::Root
            }
            What::Object { id, offset } => Body::Object { id, offset },
        };
        self.send(STAGE, Request::Begin { body, length }.encode());
    }

    fn upload_refusal(&mut self, yields: bool) -> Option<Refusal> {
        if self.machine.halting().is_some() {
            return Some(Refusal::Unavailable("the device goes down"));
        }
        if self.boot.control.is_none() || self.boot.identity.is_none() {
            return Some(Refusal::Unavailable("this device has no boot record"));
        }
        match self.upload {
            Some(upload) if upload.yields && !yields => {
                self.give_way();
                return Some(GIVES_WAY);
            }
            Some(_) => return Some(Refusal::Conflict("another upload is under way")),
            None if yields && now_ms() < self.update.yields_until => {
                return Some(Refusal::Conflict(
                    "somebody before the device brings a revision",
                ));
            }
            None => {}
        }
        // What is staged for it may be collected by an offer, and what it is judged by may change.
        if self.update.is_busy() || self.trial_pending() {
            return Some(Refusal::Conflict("a trial is under way"));
        }
        None
    }

    fn give_way(&mut self) {
        self.update.yields_until = now_ms().saturating_add(YIELDS_MS);
        self.say(Stream::Notice, "what a hub sends gives way");
        self.upload_lost();
        self.close_stage();
    }

    /// What a hub sends gives way to whoever else applies a revision, too: why it has to wait for the helper's end.
    pub(super) fn in_the_way_of(&mut self, client: ClientId) -> Option<Refusal> {
        let sent = self.upload.is_some_and(|upload| upload.yields);
        if !sent || self.clients.listener(client) == Some(AGENT) {
            return None;
        }
        self.give_way();
        Some(GIVES_WAY)
    }

    /// Hands on what has come, as far as credit goes.
    pub(super) fn upload_pump(&mut self) {
        // Bounded by the credit: each turn hands on at least a byte.
        loop {
            let Some(mut upload) = self.upload else {
                return;
            };
            if !self.stage_takes() {
                // Many small frames fill its socket before the credit is used up; its next credit wakes us.
                return;
            }
            let alive = self.clients.generation(upload.client) == upload.generation;
            let connection = self.clients.connection(upload.client);
            let Some(connection) = connection.filter(|c| alive && c.is_asking()) else {
                self.upload = None;
                self.update.receiving = false;
                // An answer that is on its way must not go to the next client: the helper ends, and what it has
                // verified stays.
                self.close_stage();
                self.say(Stream::Notice, "an upload ended before it was complete");
                return;
            };
            let room = WINDOW.saturating_sub(upload.ahead).min(MAX_DATA);
            let body = connection.body();
            let part = body.get(..room).unwrap_or(body);
            let length = part.len();
            if length == 0 {
                return;
            }
            let frame = Request::Data(part).encode();
            connection.took(length);
            upload.ahead = upload.ahead.saturating_add(length);
            upload.moved = now_ms();
            self.upload = Some(upload);
            let received = u64::try_from(length).unwrap_or(0);
            self.update.received = self.update.received.saturating_add(received);
            self.send(STAGE, frame);
            // There is room for more of it now.
            self.clients.fill(upload.client);
            self.clients.settle(upload.client, &self.poller);
        }
    }

    /// The helper has worked off so many bytes.
    pub(super) fn upload_credit(&mut self, bytes: u32) {
        if let Some(upload) = &mut self.upload {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            upload.ahead = upload.ahead.saturating_sub(bytes);
            upload.moved = now_ms();
        }
        self.upload_pump();
    }

    /// The helper's answer goes to the client.
    pub(super) fn upload_answered(&mut self, status: u16, body: &[u8]) {
        let Some(upload) = self.upload.take() else {
            return;
        };
        self.update.receiving = false;
        if !upload.yields {
            // Whoever has brought that goes on with it.
            self.update.yields_until = now_ms().saturating_add(YIELDS_MS);
        }
        if upload.what == What::Root && status == 200 {
            self.follow_roots();
        }
        if self.clients.generation(upload.client) != upload.generation {
            return;
        }
        let unwanted = self.against_stick(upload.client, upload.what, status, body);
        let (status, body) = match &unwanted {
            Some((status, body)) => (*status, body.as_slice()),
            None => (status, body),
        };
        // An offer's answer says what the revision would change, too.
        let judged = (upload.what == What::Offer && status == 200).then(|| self.with_change(body));
        let (status, body) = match &judged {
            Some((status, body)) => (*status, body.as_slice()),
            None => (status, body),
        };
        if let Some(connection) = self.clients.connection(upload.client) {
            let kind = if status < 400 { JSON } else { PROBLEM };
            connection.answer_bytes(status, kind, body);
        }
        let ready = Ready {
            input: true,
            ..Ready::default()
        };
        self.serve_client(upload.client, ready);
    }

    /// The helper's answer to an offer with what the revision would change, and with which parameters: that takes what runs, which it
    /// does not know. What would be refused once it is all here is refused now.
    fn with_change(&self, body: &[u8]) -> (u16, Vec<u8>) {
        let offered = kedge_revision::json::read::<Offered>(body);
        let offered = offered.map_err(|_| Refused::from("the answer to the offer is none"));
        let judged = offered.and_then(|offered| {
            let (change, counter) = self.preview(offered.revision, offered.parameters)?;
            let told = offered.parameters.is_some() || counter == 0;
            Ok((change, (!told).then_some(counter)))
        });
        match judged {
            Ok((change, counter)) => {
                let mut answer = format!("{{\"change\":\"{change}\",").into_bytes();
                if let Some(counter) = counter {
                    answer.extend_from_slice(format!("\"parameters\":{counter},").as_bytes());
                }
                answer.extend_from_slice(body.strip_prefix(b"{").unwrap_or_default());
                (200, answer)
            }
            Err(Refused(why)) => {
                let problem = Problem {
                    status: 409,
                    title: "Conflict".into(),
                    detail: why.into(),
                };
                // Plain data in memory: it cannot fail.
                (409, kedge_revision::json::bytes(&problem))
            }
        }
    }

    /// There is a new root on the disk: the chain is judged again, and who goes by the newest is told.
    fn follow_roots(&mut self) {
        if let Err(error) = self.boot.follow_roots() {
            self.say(Stream::Error, &format!("roots: {error}"));
        }
        let newest = self.boot.roots.as_ref().and_then(|roots| roots.newest());
        if let Some(version) = newest.map(|root| root.version) {
            self.say(Stream::Notice, &format!("root {version} is trusted"));
        }
        self.configure_stage();
        self.brief_agent();
    }

    /// A client that sends nothing, or a helper that works nothing off, must not keep others out for ever.
    pub(super) fn upload_turn(&mut self, now: u64) {
        if self.upload_until().is_some_and(|at| at <= now) {
            self.say(Stream::Warning, "an upload has not moved for two minutes");
            self.upload_lost();
            self.close_stage();
        }
    }

    /// Whether nothing is uploaded but what gives way.
    pub(super) fn may_upload(&self) -> bool {
        self.upload.is_none_or(|upload| upload.yields)
    }

    /// When the upload that is under way has not moved for too long.
    pub(super) fn upload_until(&self) -> Option<u64> {
        Some(self.upload?.moved.saturating_add(STILL_MS))
    }

    /// The helper has gone: nobody else would answer.
    pub(super) fn upload_lost(&mut self) {
        let body = br#"{"status":503,"title":"Service Unavailable","detail":"the stage helper has ended; try again"}"#;
        self.upload_answered(503, body);
    }

    /// Tells the helper what offers are judged by.
    pub(super) fn configure_stage(&mut self) {
        let boot = &self.boot;
        let (Some(identity), Some(control)) = (&boot.identity, &boot.control) else {
            return;
        };
        let newest = boot.roots.as_ref().and_then(|roots| roots.newest());
        let root = newest.unwrap_or(&identity.root);
        let (Ok(product), Ok(root)) = (identity.product.encode(), root.encode()) else {
            return;
        };
        let state = control.state();
        let configure = Request::Configure {
            floor: state.floor,
            committed: state.committed.revision,
            parameters: [
                state.committed.parameters,
                state.trial.map_or(0, |trial| trial.target.parameters),
            ],
            secure_boot: boot.arguments.secure_boot,
            product: &product,
            root: &root,
        };
        let frame = configure.encode();
        self.send(STAGE, frame);
    }

    /// When the helper ends for want of work.
    pub(super) fn stage_idle_at(&self) -> Option<u64> {
        let busy = self.upload.is_some() || self.update.is_busy() || self.discards();
        let at = self.helpers.stage_idle_at()?;
        Some(if busy {
            at.max(now_ms().saturating_add(1000))
        } else {
            at
        })
    }
}
