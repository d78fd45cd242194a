//! HTTP/1.1 (RFC 9112) over a stream that is connected: one question at a time, every part of an answer bounded.
//!
//! It serves a hub's TLS and PID 1's socket alike. What it does not do: redirects, which no hub of ours gives, trailers,
//! compression, pipelining.

use crate::error::{Error, Peer};
use crate::pace::Pace;
use kedge_api::Problem;
use kedge_revision::json;
use std::io::{self, Read, Write};
use std::sync::Arc;

/// Largest head of an answer, bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Most fields of a head.
const MAX_FIELDS: usize = 48;
/// Bytes that are moved at a time.
pub const PIECE: usize = 16 * 1024;
/// Answers that are only a beginning, before the answer itself.
const MOST_INTERIM: u32 = 8;
/// Largest body of a refusal, bytes.
const MAX_PROBLEM: u64 = 16 * 1024;

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// In words, for errors.
    pub doing: &'static str,
    /// `GET`, `POST`, `PUT`.
    pub method: &'static str,
    /// Path and query.
    pub target: &'a str,
    /// Further fields, each with its line end.
    pub fields: &'a str,
    /// Length of the body, bytes; the caller writes it.
    pub length: u64,
}

/// The head of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// Bytes of the body; none: it is chunked, or there is none.
    pub length: Option<u64>,
    /// Whether it comes in chunks.
    pub chunked: bool,
    /// Whether the connection ends with it.
    pub close: bool,
    /// The entity tag, as it is sent back.
    pub etag: Option<String>,
    /// When to ask again, seconds.
    pub retry_after: Option<u32>,
}

/// Parses the head of an answer; none: it is not complete.
///
/// # Errors
/// What of it is wrong.
pub fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, &'static str> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= MAX_HEAD => {
            return Err("a head of more than 16 KiB");
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err("no HTTP"),
    };
    let mut head = Head {
        status: response.code.unwrap_or(0),
        close: response.version == Some(0),
        ..Head::default()
    };
    for field in response.headers.iter() {
        let Ok(value) = core::str::from_utf8(field.value) else {
            continue;
        };
        let value = value.trim();
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            let length = value.parse().map_err(|_| "a length that is no number")?;
            if head.length.is_some_and(|other| other != length) {
                return Err("two lengths");
            }
            head.length = Some(length);
        } else if is("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") {
                return Err("a transfer encoding that was not asked for");
            }
            head.chunked = true;
        } else if is("connection") {
            head.close |= value.eq_ignore_ascii_case("close");
        } else if is("etag") && value.len() <= 128 {
            head.etag = Some(value.to_owned());
        } else if is("retry-after") {
            head.retry_after = value.parse().ok();
        }
    }
    if head.chunked && head.length.is_some() {
        // Which of the two counts is what smuggling lives on (RFC 9112, 6.3).
        return Err("a length and chunks");
    }
    Ok(Some((head, length)))
}

/// One connection.
#[derive(Debug)]
pub struct Http<S> {
    peer: Peer,
    stream: S,
    host: String,
    /// What came and was not taken yet.
    input: Vec<u8>,
    taken: usize,
    broken: bool,
    pace: Option<Arc<Pace>>,
}

impl<S: Read + Write> Http<S> {
    /// Over a stream to `host`.
    pub const fn new(peer: Peer, stream: S, host: String) -> Self {
        Self {
            peer,
            stream,
            host,
            input: Vec::new(),
            taken: 0,
            broken: false,
            pace: None,
        }
    }

    /// The same, whose stream gives up by this pace.
    #[must_use]
    pub fn paced(mut self, pace: Arc<Pace>) -> Self {
        self.pace = Some(pace);
        self
    }

    /// Who is at the other end.
    pub const fn asks(&mut self, peer: Peer) {
        self.peer = peer;
    }

    fn begin(&self, bytes: u64) {
        if let Some(pace) = &self.pace {
            pace.begin(bytes);
        }
    }

    /// The stream.
    pub const fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Whether another question may be asked over it.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        !self.broken
    }

    /// Sends a question's head.
    ///
    /// # Errors
    /// [`Error::Connection`].
    pub fn send(&mut self, request: &Request<'_>) -> Result<(), Error> {
        let Request {
            doing,
            method,
            target,
            fields,
            length,
        } = *request;
        self.broken = true;
        self.begin(length);
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: {}\r\n{fields}content-length: {length}\r\n\r\n",
            self.host
        );
        let sent = self.stream.write_all(head.as_bytes());
        sent.map_err(|source| Error::Connection { doing, source })
    }

    /// Sends a part of its body.
    ///
    /// # Errors
    /// [`Error::Connection`].
    pub fn send_body(&mut self, request: &Request<'_>, bytes: &[u8]) -> Result<(), Error> {
        let doing = request.doing;
        let sent = self.stream.write_all(bytes);
        sent.map_err(|source| Error::Connection { doing, source })
    }

    /// The head of the answer; a refusal is read to its end and is an error.
    ///
    /// # Errors
    /// [`Error::Connection`], [`Error::Protocol`], [`Error::Refused`].
    pub fn head(&mut self, request: &Request<'_>) -> Result<Head, Error> {
        let doing = request.doing;
        let flushed = self.stream.flush();
        flushed.map_err(|source| Error::Connection { doing, source })?;
        self.begin(0);
        let mut interim = 0;
        let head = loop {
            let rest = self.input.get(self.taken..).unwrap_or_default();
            match parse_head(rest) {
                // What is only a beginning is followed by the answer itself (RFC 9110, 15.2).
                Ok(Some((head, length))) if (100..200).contains(&head.status) => {
                    self.taken = self.taken.saturating_add(length);
                    interim += 1;
                    if interim > MOST_INTERIM {
                        let what = "beginnings without an end";
                        return Err(Error::Protocol { doing, what });
                    }
                }
                Ok(Some((head, length))) => {
                    self.taken = self.taken.saturating_add(length);
                    break head;
                }
                Ok(None) => self.fill(doing)?,
                Err(what) => return Err(Error::Protocol { doing, what }),
            }
        };
        if (200..400).contains(&head.status) {
            return Ok(head);
        }
        Err(self.refusal(request, &head))
    }

    fn refusal(&mut self, request: &Request<'_>, head: &Head) -> Error {
        let mut body = Vec::new();
        let read = self.body(request, head, MAX_PROBLEM, &mut |part| {
            body.extend_from_slice(part);
            Ok(())
        });
        if let Err(error) = read {
            return error;
        }
        let problem = json::read::<Problem>(&body).ok();
        let (kind, detail) = problem.map_or_else(
            || (String::new(), "refused".to_owned()),
            |problem| (problem.kind, problem.detail),
        );
        Error::Refused {
            by: self.peer,
            doing: request.doing,
            status: head.status,
            kind,
            detail: detail.chars().take(300).collect(),
            retry_after: head.retry_after,
        }
    }

    /// Hands the body to `sink`, at most `most` bytes of it.
    ///
    /// # Errors
    /// [`Error::Connection`], [`Error::Protocol`], and what `sink` says.
    pub fn body(
        &mut self,
        request: &Request<'_>,
        head: &Head,
        most: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let doing = request.doing;
        let over = Error::Protocol {
            doing,
            what: "a body that is too long",
        };
        let mut total = 0_u64;
        if matches!(head.status, 204 | 304) {
            // Whatever length it tells is that of a body which does not come (RFC 9112, 6.3).
        } else if head.chunked {
            loop {
                let size = self.chunk_size(doing)?;
                total = total.saturating_add(size);
                if total > most {
                    return Err(over);
                }
                self.take(doing, size, sink)?;
                self.line_end(doing)?;
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = head.length {
            if length > most {
                return Err(over);
            }
            self.take(doing, length, sink)?;
        } else {
            return Err(Error::Protocol {
                doing,
                what: "a body without an end",
            });
        }
        // What comes unasked behind an answer would be taken for that to the next question.
        self.broken = head.close || self.taken < self.input.len();
        if self.taken == self.input.len() {
            self.input = Vec::new();
            self.taken = 0;
        }
        Ok(())
    }

    /// A question without a body, and its whole answer.
    ///
    /// # Errors
    /// As [`Http::head`] and [`Http::body`].
    pub fn ask(
        &mut self,
        request: &Request<'_>,
        body: &[u8],
        most: u64,
    ) -> Result<(Head, Vec<u8>), Error> {
        self.send(request)?;
        self.send_body(request, body)?;
        let head = self.head(request)?;
        let mut answer = Vec::new();
        self.body(request, &head, most, &mut |part| {
            answer.extend_from_slice(part);
            Ok(())
        })?;
        Ok((head, answer))
    }

    fn fill(&mut self, doing: &'static str) -> Result<(), Error> {
        let failed = |source| Error::Connection { doing, source };
        if self.taken > 0 {
            self.input.drain(..self.taken.min(self.input.len()));
            self.taken = 0;
        }
        let before = self.input.len();
        self.input.resize(before.saturating_add(PIECE), 0);
        let space = self.input.get_mut(before..).unwrap_or_default();
        let read = loop {
            match self.stream.read(space) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let count = *read.as_ref().unwrap_or(&0);
        self.input.truncate(before.saturating_add(count));
        match read.map_err(failed)? {
            0 => Err(failed(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    fn take(
        &mut self,
        doing: &'static str,
        length: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut left = length;
        while left > 0 {
            if self.taken >= self.input.len() {
                self.fill(doing)?;
            }
            let part = self.input.get(self.taken..).unwrap_or_default();
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let part = part.get(..most).unwrap_or(part);
            let count = part.len();
            sink(part)?;
            self.taken = self.taken.saturating_add(count);
            let count = u64::try_from(count).unwrap_or(left);
            if let Some(pace) = &self.pace {
                pace.add(count);
            }
            left = left.saturating_sub(count);
        }
        Ok(())
    }

    fn byte(&mut self, doing: &'static str) -> Result<u8, Error> {
        if self.taken >= self.input.len() {
            self.fill(doing)?;
        }
        let byte = self.input.get(self.taken).copied().unwrap_or(0);
        self.taken = self.taken.saturating_add(1);
        Ok(byte)
    }

    /// The size of the next chunk; its extensions are passed over.
    fn chunk_size(&mut self, doing: &'static str) -> Result<u64, Error> {
        let malformed = Error::Protocol {
            doing,
            what: "a chunk without a size",
        };
        let mut line = Vec::new();
        loop {
            match self.byte(doing)? {
                b'\n' => break,
                byte if line.len() < 64 => line.push(byte),
                _ => return Err(malformed),
            }
        }
        let line = core::str::from_utf8(&line).unwrap_or_default();
        let digits = line.split(';').next().unwrap_or_default().trim();
        if digits.is_empty() || digits.len() > 15 {
            return Err(malformed);
        }
        u64::from_str_radix(digits, 16).map_err(|_| malformed)
    }

    fn line_end(&mut self, doing: &'static str) -> Result<(), Error> {
        match (self.byte(doing)?, self.byte(doing)?) {
            (b'\r', b'\n') => Ok(()),
            _ => Err(Error::Protocol {
                doing,
                what: "a chunk without an end",
            }),
        }
    }
}

#[cfg(test)]
mod tests;
