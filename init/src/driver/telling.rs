//! The history and the logs of earlier boots, asked for over the control interface: the disk helper has them, and tells them
//! in parts.

use super::helpers::DISK;
use super::{Driver, now_ms};
use crate::control::{Connection, Earlier, Refusal};
use crate::driver::clients::ClientId;
use crate::driver::poller::Ready;
use crate::helpers::disk::Request;

/// How long a client waits, milliseconds.
const PATIENCE_MS: u64 = 10_000;
/// More than the disk helper keeps of the history, or than a page of logs has, bytes.
const MOST: usize = 64 * 1024;

/// A client that waits for an answer.
#[derive(Debug)]
pub(crate) struct Asking {
    client: ClientId,
    generation: Option<u32>,
    token: u32,
    until: u64,
    lines: Vec<u8>,
}

impl Asking {
    /// When it has waited long enough.
    pub(crate) const fn until(&self) -> u64 {
        self.until
    }
}

impl Driver {
    /// A client asks for what the disk helper has: the history, or a page of the logs of a boot.
    pub(super) fn ask_disk(&mut self, client: ClientId, logs: Option<Earlier>) {
        let refusal = if self.asking.is_some() {
            Some(Refusal::Unavailable("another client is told something"))
        } else if !self.helpers.disk_runs() {
            Some(Refusal::Unavailable("the disk helper does not run"))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            if let Some(connection) = self.clients.connection(client) {
                connection.answer_refused(refusal);
            }
            return;
        }
        self.asked = self.asked.wrapping_add(1);
        self.asking = Some(Asking {
            client,
            generation: self.clients.generation(client),
            token: self.asked,
            until: now_ms().saturating_add(PATIENCE_MS),
            lines: Vec::new(),
        });
        let token = self.asked;
        let request = match logs {
            None => Request::History { token },
            Some(Earlier { back, from }) => Request::Earlier { token, back, from },
        };
        self.send(DISK, request.encode());
    }

    /// A part of it; the last one makes the answer.
    pub(super) fn history_told(&mut self, token: u32, more: bool, bytes: &[u8]) {
        let Some(asking) = &mut self.asking else {
            return;
        };
        if asking.token != token {
            return;
        }
        asking.lines.extend_from_slice(bytes);
        if more && asking.lines.len() < MOST {
            return;
        }
        let Some(asking) = self.asking.take() else {
            return;
        };
        self.answer_asking(&asking, |connection| {
            connection.answer_bytes(200, "application/x-ndjson", &asking.lines);
        });
    }

    /// Answers a client that has waited, if it is still the same one.
    fn answer_asking(&mut self, asking: &Asking, answer: impl FnOnce(&mut Connection)) {
        if self.clients.generation(asking.client) != asking.generation {
            return;
        }
        if let Some(connection) = self.clients.connection(asking.client) {
            answer(connection);
        }
        let ready = Ready {
            input: true,
            ..Ready::default()
        };
        self.serve_client(asking.client, ready);
    }

    /// Nobody waits for ever for a disk helper that does not answer.
    pub(super) fn history_turn(&mut self, now: u64) {
        if let Some(asking) = self.asking.take_if(|asking| asking.until <= now) {
            self.answer_asking(&asking, |connection| {
                connection.answer_refused(Refusal::Unavailable("the disk does not answer"));
            });
        }
    }
}
