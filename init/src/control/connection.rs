//! One connection: bytes in, calls out, answers in, bytes out.
//!
//! ```text
//!            next_call               answer_*
//!   Idle ──────────────▶ Asked ──────────────▶ Idle | Closing
//!    ▲                      │ answer_logs
//!    │ input, or the end    ▼
//!    ├────────────────── Streaming ──▶ Closing
//!    │                took all
//!    │ next_call: an upload ──▶ Receiving ──▶ Asked
//!    │                             │ answered before its body is here
//!    └───────────────────────── Discarding
//!
//!   Asked ── begin_exec ──▶ Executing ── end_exec, leave_exec ──▶ Idle | Closing
//! ```
//!
//! The driver: read at most [`Connection::room`] bytes while [`Connection::wants_input`], hand them to
//! [`Connection::input`]; call [`Connection::next_call`] and answer, until it gives nothing; call
//! [`Connection::pump`] when the journal has grown or output was written; write
//! [`Connection::output`], say [`Connection::wrote`], and begin again with `next_call`; close when
//! [`Connection::is_finished`].
//!
//! A peer that reads nothing costs its bounds and no more: while output waits, no further request is
//! taken. A serial line has no beginning and no end, so there:
//! - lines that are no request line are passed over between requests, and a request line in the
//!   middle of a head begins a new request (its predecessor's client went away);
//! - an error does not close; what follows is searched for the next request line;
//! - [`Connection::reset`] on a hang-up of the port forgets everything;
//! - a new request ends the stream of a log that is followed, on every transport.

mod exec;

use super::api::{Command, Earlier, LogQuery, Status, Upload};
use super::exec::Exec;
use super::head::{self, Head, MAX_BODY, MAX_HEAD};
use super::refusal::{Problem, Refusal};
use super::role::Role;
use super::route::route;
use super::stream::{LOG_FILL, LogStream};
use crate::log::Journal;
use kedge_revision::Name;
use serde::Serialize;

/// What bytes travel over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A stream that begins and ends with its client.
    Socket,
    /// A port that outlives its clients.
    Serial,
}

/// A request that the driver answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// With [`Connection::answer_status`].
    Status,
    /// With [`Connection::answer_logs`].
    Logs(LogQuery),
    /// With [`Connection::answer_done`], [`Connection::answer_json`] or [`Connection::answer_refused`].
    Command(Command),
    /// With [`Connection::answer_bytes`].
    History,
    /// With [`Connection::answer_bytes`].
    Earlier(Earlier),
    /// With [`Connection::answer_bytes`].
    Usage,
    /// With [`Connection::answer_bytes`].
    Inspect(Name),
    /// With [`Connection::begin_exec`], then with what the command says.
    Exec {
        /// In which container.
        container: Name,
        /// What.
        exec: Exec,
    },
    /// Take the body ([`Connection::body`]), then answer with [`Connection::answer_bytes`]; a refusal may come first.
    Upload {
        /// What the body holds.
        what: Upload,
        /// Its length, bytes.
        length: u64,
    },
}

#[derive(Debug)]
enum State {
    Idle,
    Asked(Reply),
    /// So many bytes of the body have not been taken.
    Receiving(u64, Reply),
    /// The answer went before the body: what still comes of it is dropped.
    Discarding(u64, Reply),
    Streaming(LogStream, Reply),
    /// A command runs; so many bytes of a frame for its input have not been taken.
    Executing {
        left: usize,
    },
    Closing,
}

/// What the answer takes over from its request.
#[derive(Debug, Clone, Default)]
struct Reply {
    keep_alive: bool,
    id: Option<Box<str>>,
}

/// See the module.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    transport: Transport,
    state: State,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    input_ended: bool,
}

impl Connection {
    /// Most bytes kept of what a peer sends: a head and a body.
    pub const MAX_INPUT: usize = MAX_HEAD + MAX_BODY;
    /// Most bytes kept of the body of an upload.
    pub const MAX_UPLOAD: usize = 32 * 1024;

    /// What its peer may.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// A connection of a peer with `role`.
    #[must_use]
    pub const fn new(role: Role, transport: Transport) -> Self {
        Self {
            role,
            transport,
            state: State::Idle,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            input_ended: false,
        }
    }

    /// Bytes that [`Self::input`] takes now.
    #[must_use]
    pub fn room(&self) -> usize {
        let most = match self.state {
            State::Receiving(..) => Self::MAX_UPLOAD,
            State::Idle
            | State::Asked(_)
            | State::Discarding(..)
            | State::Streaming(..)
            | State::Executing { .. }
            | State::Closing => Self::MAX_INPUT,
        };
        most.saturating_sub(self.input.len())
    }

    /// Whether the driver is to read: poll for input only then.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.room() > 0 && !self.input_ended && !matches!(self.state, State::Closing)
    }

    /// Takes what was read; what is beyond [`Self::room`] is not taken. Returns the bytes taken.
    pub fn input(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.get(..self.room()).unwrap_or(bytes);
        self.input.extend_from_slice(taken);
        taken.len()
    }

    /// The peer of a socket sends nothing more; it may still wait for an answer.
    pub const fn end_input(&mut self) {
        self.input_ended = true;
    }

    /// The host's side of the serial port was closed. Word of that comes by another way than bytes do, and may come after the
    /// first of the next client: what may be its request, or an answer of which nobody has got anything, is kept. Whom it is
    /// not for passes over it by its id. False: it is as if nothing had been before.
    pub fn hang_up(&mut self) -> bool {
        let kept = match self.state {
            State::Idle => !self.input.is_empty() || !self.output.is_empty(),
            // Who waits for an answer may have gone long before it comes: the next client is not to wait for it, too.
            State::Asked(_)
            | State::Receiving(..)
            | State::Discarding(..)
            | State::Streaming(..)
            | State::Executing { .. }
            | State::Closing => false,
        };
        let kept = kept && self.written == 0 && self.room() > 0;
        if !kept {
            self.reset();
        }
        kept
    }

    /// Forgets everything: the host's side of the serial port was closed.
    pub fn reset(&mut self) {
        *self = Self::new(self.role, self.transport);
    }

    /// The next request. `None`: more input, answers or output first. Bad requests are answered here.
    pub fn next_call(&mut self) -> Option<Call> {
        loop {
            self.discard();
            // Output that nobody reads holds back further requests.
            if self.pending() > LOG_FILL || self.input.is_empty() {
                break;
            }
            if let State::Streaming(_, reply) = &self.state {
                let reply = reply.clone();
                self.end_stream(&reply);
            }
            if !matches!(self.state, State::Idle) {
                return None;
            }
            match self.parse() {
                Parsed::Call(call, reply) => {
                    self.state = match call {
                        Call::Upload {
                            length: length @ 1..,
                            ..
                        } => State::Receiving(length, reply),
                        Call::Upload { length: 0, .. }
                        | Call::Status
                        | Call::Logs(_)
                        | Call::Command(_)
                        | Call::History
                        | Call::Earlier(_)
                        | Call::Usage
                        | Call::Inspect(_)
                        | Call::Exec { .. } => State::Asked(reply),
                    };
                    return Some(call);
                }
                Parsed::Refused(refusal, reply) => self.refuse(refusal, &reply),
                Parsed::Skipped => {}
                Parsed::Incomplete => break,
            }
        }
        if self.input_ended && self.pending() == 0 && matches!(self.state, State::Idle) {
            self.state = State::Closing;
        }
        None
    }

    /// Takes at most one request, or a line of nonsense, from the input.
    fn parse(&mut self) -> Parsed {
        let skip = self.to_skip();
        if skip > 0 {
            self.consume(skip);
            return Parsed::Skipped;
        }
        let Some(length) = head::length(&self.input).filter(|length| *length <= MAX_HEAD) else {
            if self.input.len() < MAX_HEAD {
                return Parsed::Incomplete;
            }
            self.consume(MAX_HEAD);
            return Parsed::Refused(Refusal::HeadTooLarge, Reply::default());
        };
        let bytes = self.input.get(..length).unwrap_or_default();
        let (consumed, parsed) = match Head::parse(bytes) {
            Err(refusal) => (length, Parsed::Refused(refusal, Reply::default())),
            Ok(head) => {
                let reply = Reply {
                    keep_alive: head.keep_alive,
                    id: head.id.map(Into::into),
                };
                let small = usize::try_from(head.body).ok().filter(|n| *n <= MAX_BODY);
                match (route(&head, self.role), small) {
                    (Ok(call @ Call::Upload { .. }), _) => (length, Parsed::Call(call, reply)),
                    // What follows is a body that is too large to wait for: a socket ends with the answer.
                    (routed, None) => {
                        let refusal = routed.err().unwrap_or(Refusal::BodyTooLarge);
                        let reply = Reply {
                            keep_alive: false,
                            ..reply
                        };
                        (length, Parsed::Refused(refusal, reply))
                    }
                    (routed, Some(body)) => {
                        let whole = length.saturating_add(body);
                        if self.input.len() < whole {
                            return Parsed::Incomplete;
                        }
                        let body = self.input.get(length..whole).unwrap_or_default();
                        match routed.and_then(|call| with_body(call, body)) {
                            Ok(call) => (whole, Parsed::Call(call, reply)),
                            Err(refusal) => (whole, Parsed::Refused(refusal, reply)),
                        }
                    }
                }
            }
        };
        self.consume(consumed);
        parsed
    }

    /// Bytes before the next request: empty lines (RFC 9112, 2.2), and on a serial port whatever is not
    /// the beginning of a request.
    fn to_skip(&self) -> usize {
        let mut at = 0;
        let mut skip = 0;
        let mut in_head = false;
        for line in self.input.split_inclusive(|byte| *byte == b'\n') {
            let complete = line.ends_with(b"\n");
            let empty = matches!(line, b"\n" | b"\r\n");
            match self.transport {
                Transport::Socket if !empty => return skip,
                Transport::Socket => skip = at + line.len(),
                Transport::Serial if in_head && empty => return skip,
                Transport::Serial if complete && head::is_request_line(line) => {
                    skip = at;
                    in_head = true;
                }
                // Nonsense goes once its line is complete, or once it is too long for any request.
                Transport::Serial if !in_head && (complete || line.len() >= MAX_HEAD) => {
                    skip = at + line.len();
                }
                Transport::Serial => {}
            }
            at += line.len();
        }
        skip
    }

    fn consume(&mut self, bytes: usize) {
        self.input.drain(..bytes.min(self.input.len()));
        if self.input.is_empty() {
            // Idle connections hold no buffers.
            self.input = Vec::new();
        }
    }

    /// What is here of an upload's body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        let State::Receiving(left, _) = self.state else {
            return &[];
        };
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        self.input.get(..most).unwrap_or(&self.input)
    }

    /// So many bytes of [`Self::body`] were taken. True: that was all of it.
    pub fn took(&mut self, bytes: usize) -> bool {
        let bytes = bytes.min(self.body().len());
        let State::Receiving(left, reply) = &mut self.state else {
            return false;
        };
        *left = left.saturating_sub(u64::try_from(bytes).unwrap_or(u64::MAX));
        let all = *left == 0;
        if all {
            self.state = State::Asked(core::mem::take(reply));
        }
        self.consume(bytes);
        all
    }

    /// Whether a request of this connection waits for its answer. An upload whose client has gone does not.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        match &self.state {
            State::Asked(_) => true,
            State::Receiving(left, _) => {
                let here = u64::try_from(self.input.len()).unwrap_or(u64::MAX);
                !self.input_ended || here >= *left
            }
            State::Idle
            | State::Discarding(..)
            | State::Streaming(..)
            | State::Executing { .. }
            | State::Closing => false,
        }
    }

    /// Drops what comes of a body that was answered before it was here.
    fn discard(&mut self) {
        let State::Discarding(left, reply) = &mut self.state else {
            return;
        };
        let here = u64::try_from(self.input.len()).unwrap_or(u64::MAX);
        let gone = here.min(*left);
        *left -= gone;
        let over = *left == 0 || self.input_ended;
        let reply = if over {
            Some(core::mem::take(reply))
        } else {
            None
        };
        self.consume(usize::try_from(gone).unwrap_or(usize::MAX));
        if let Some(reply) = reply {
            self.settle(&reply);
        }
    }

    /// Answers [`Call::Status`].
    pub fn answer_status(&mut self, status: &Status<'_>) {
        self.answer(200, "OK", "application/json", status);
    }

    /// Answers a command that is done, or will be.
    pub fn answer_done(&mut self) {
        if let Some(reply) = self.asked() {
            self.head(204, "No Content", &reply, format_args!(""));
            self.settle(&reply);
        }
    }

    /// Answers with what somebody else has made: a document of JSON, or for a status from 400 on a [`Problem`].
    pub fn answer_bytes(&mut self, status: u16, kind: &str, body: &[u8]) {
        let Some(reply) = self.asked() else { return };
        let title = match status {
            200 => "OK",
            202 => "Accepted",
            409 => "Conflict",
            507 => "Insufficient Storage",
            _ => "Answer",
        };
        let length = body.len();
        let fields = format_args!("content-type: {kind}\r\ncontent-length: {length}\r\n");
        self.head(status, title, &reply, fields);
        self.output.extend_from_slice(body);
        self.settle(&reply);
    }

    /// Answers with an error.
    pub fn answer_refused(&mut self, refusal: Refusal) {
        let problem = Problem::from(refusal);
        let kind = "application/problem+json";
        self.answer(refusal.status(), refusal.title(), kind, &problem);
    }

    /// Answers [`Call::Logs`]; [`Self::pump`] brings the records.
    pub fn answer_logs(&mut self, query: &LogQuery, journal: &Journal) {
        let Some(stream) = LogStream::new(query, journal) else {
            let nobody = "nobody of this name has said anything";
            return self.answer_refused(Refusal::NotFound(nobody));
        };
        if let Some(reply) = self.asked() {
            let fields = "content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n";
            self.head(200, "OK", &reply, format_args!("{fields}"));
            self.state = State::Streaming(stream, reply);
            self.pump(journal);
        }
    }

    /// Goes on with a log that is being read, as far as the bound of the output allows.
    pub fn pump(&mut self, journal: &Journal) {
        if let State::Streaming(stream, reply) = &mut self.state {
            self.output.drain(..self.written);
            self.written = 0;
            if !stream.fill(journal, &mut self.output) {
                let reply = core::mem::take(reply);
                self.end_stream(&reply);
            }
        }
    }

    /// Bytes to write.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        self.output.get(self.written..).unwrap_or_default()
    }

    /// So many bytes of [`Self::output`] were written.
    pub fn wrote(&mut self, bytes: usize) {
        self.written = self.written.saturating_add(bytes).min(self.output.len());
        if self.written == self.output.len() {
            self.output = Vec::new();
            self.written = 0;
        }
    }

    /// Whether the driver is to close the socket now.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Closing) && self.pending() == 0
    }

    /// Whether a log is being followed: such connections are pumped when the journal grows.
    #[must_use]
    pub const fn is_streaming(&self) -> bool {
        matches!(self.state, State::Streaming(..))
    }

    fn pending(&self) -> usize {
        self.output.len().saturating_sub(self.written)
    }

    /// The outstanding request; `None` where there is none and an answer would have no place.
    fn asked(&mut self) -> Option<Reply> {
        match &mut self.state {
            State::Asked(reply) | State::Receiving(_, reply) => Some(reply.clone()),
            State::Idle
            | State::Discarding(..)
            | State::Streaming(..)
            | State::Executing { .. }
            | State::Closing => None,
        }
    }

    /// A request that could not be parsed has no [`Reply`] of its own: the default closes a socket,
    /// since what follows can no longer be told from the request.
    fn refuse(&mut self, refusal: Refusal, reply: &Reply) {
        self.state = State::Asked(reply.clone());
        self.answer_refused(refusal);
    }

    fn answer(&mut self, status: u16, title: &str, kind: &str, body: &impl Serialize) {
        let Some(reply) = self.asked() else { return };
        let mut json = Vec::new();
        // Plain data in memory: it cannot fail, and an empty body would be seen if it did.
        if kedge_revision::json::write(&mut json, body).is_err() {
            json.clear();
        }
        let length = json.len();
        let fields = format_args!("content-type: {kind}\r\ncontent-length: {length}\r\n");
        self.head(status, title, &reply, fields);
        self.output.append(&mut json);
        self.settle(&reply);
    }

    fn head(&mut self, status: u16, title: &str, reply: &Reply, fields: core::fmt::Arguments<'_>) {
        use std::io::Write as _;
        let close = if self.closes(reply) {
            "connection: close\r\n"
        } else {
            ""
        };
        let allow = match status {
            405 => "allow: GET, POST\r\n",
            _ => "",
        };
        let (id_name, id, id_end) = match &reply.id {
            Some(id) => ("x-request-id: ", &**id, "\r\n"),
            None => ("", "", ""),
        };
        let written = write!(
            self.output,
            "HTTP/1.1 {status} {title}\r\n{fields}{allow}{close}{id_name}{id}{id_end}\r\n"
        );
        debug_assert!(written.is_ok(), "a vector takes every write");
    }

    fn closes(&self, reply: &Reply) -> bool {
        self.transport == Transport::Socket && !reply.keep_alive
    }

    /// After an answer: to the next request, or to the end.
    fn settle(&mut self, reply: &Reply) {
        if let State::Receiving(left, _) = self.state {
            self.state = State::Discarding(left, reply.clone());
            return;
        }
        self.state = if self.closes(reply) {
            self.input = Vec::new();
            State::Closing
        } else {
            State::Idle
        };
    }

    fn end_stream(&mut self, reply: &Reply) {
        self.output.extend_from_slice(b"0\r\n\r\n");
        self.settle(reply);
    }
}

/// What a request asks for, with what only its body says.
fn with_body(call: Call, body: &[u8]) -> Result<Call, Refusal> {
    if let Call::Exec { container, .. } = call {
        let exec = Exec::parse(body)?;
        return Ok(Call::Exec { container, exec });
    }
    Ok(call)
}

/// What one look at the input gives.
enum Parsed {
    Call(Call, Reply),
    Refused(Refusal, Reply),
    Skipped,
    Incomplete,
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
