//! One request over one TLS connection, and its answer.

use super::Address;
use crate::http::{self, Take};
use anyhow::{Context, Result, ensure};
use kedge_api::Problem;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest silence of a hub that works: a large object is judged and written before its upload is answered.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a body that are read at a time: four TLS records.
const PIECE: usize = 64 * 1024;
/// Most of a refusal's body that is kept.
const LARGEST_PROBLEM: usize = 64 * 1024;

/// What is sent behind the head.
#[allow(missing_debug_implementations, reason = "a body is a reader")]
pub struct Body<'a> {
    /// Its media type.
    pub kind: &'a str,
    /// Its length, bytes.
    pub length: u64,
    /// Where it comes from.
    pub reader: &'a mut dyn Read,
    /// Is told of bytes that were handed to the system.
    pub progress: &'a mut dyn FnMut(u64),
}

/// A request.
pub(super) struct Question<'a> {
    method: &'a str,
    target: &'a str,
    pub(super) body: Option<Body<'a>>,
    /// Once the answer has begun, the hub may keep silent for ever.
    pub(super) endless: bool,
}

impl<'a> Question<'a> {
    pub(super) const fn new(method: &'a str, target: &'a str) -> Self {
        Self {
            method,
            target,
            body: None,
            endless: false,
        }
    }
}

/// The hub answered, and will not do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// In its words.
    pub problem: Problem,
    /// When it wants to be asked again, seconds.
    pub retry_after: Option<u64>,
}

impl Refused {
    /// Whether the same may be good a little later.
    #[must_use]
    pub const fn passes(&self) -> bool {
        matches!(self.problem.status, 429 | 502..=504)
    }

    const fn help(&self) -> Option<&'static str> {
        match self.problem.status {
            401 => {
                Some("`kedge login URL` with a token that holds; the hub's administrator makes one")
            }
            429 => Some("wait a little, and ask again"),
            502..=504 => Some("the hub, or a proxy before it, is busy or restarting: ask again"),
            507 => Some(
                "make room on the hub's disk; what was sent is kept, and it goes on from there",
            ),
            _ => None,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem {
            status,
            kind,
            title,
            detail,
        } = &self.problem;
        let what = if kind.is_empty() || kind == "about:blank" {
            title
        } else {
            kind
        };
        write!(f, "the hub refuses ({status} {what})")?;
        if !detail.is_empty() {
            write!(f, ": {detail}")?;
        }
        match self.help() {
            Some(help) => write!(f, "\nhelp: {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refused {}

/// An answer that was to go on came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended;

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the hub tells no more: it stops, or the connection broke off\nhelp: ask again once it is there")
    }
}

impl std::error::Error for Ended {}

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Asks; a good answer's body goes to `take`.
///
/// # Errors
/// [`Refused`]; nobody answers; the other side is not the hub; the body cannot be read; [`Ended`].
pub(super) fn exchange(
    address: &Address,
    tls: &Arc<ClientConfig>,
    token: Option<&String>,
    question: Question<'_>,
    take: &mut Take<'_>,
) -> Result<()> {
    let mut stream = connect(address, tls)?;
    let head = head(address, token, &question)?;
    let endless = question.endless;
    let sent = stream
        .write_all(head.as_bytes())
        .map_err(anyhow::Error::from);
    let sent = match question.body {
        Some(mut body) if sent.is_ok() => send(&mut stream, &mut body),
        Some(_) | None => sent,
    };
    let sent = sent.and_then(|()| Ok(stream.flush()?));
    let mut reader = BufReader::new(&mut stream);
    // A hub that refuses closes before it has read everything: its answer tells more than the broken connection.
    let answer = match (http::next_head(&mut reader), sent) {
        (Ok(answer), _) => answer,
        (Err(_), Err(sent)) => return Err(explained(address, sent)),
        (Err(error), Ok(())) => return Err(explained(address, error)),
    };
    if !(200..300).contains(&answer.status) {
        return Err(refused(&mut reader, &answer).into());
    }
    if endless {
        let socket = &reader.get_ref().sock;
        socket
            .set_read_timeout(None)
            .context("cannot set a timeout")?;
        return endlessly(&mut reader, &answer, take);
    }
    http::body(&mut reader, &answer, take)
}

/// Reads a body that has no end: one that comes to an end all the same is a failure, unless `take` wanted no more.
fn endlessly(reader: &mut impl BufRead, answer: &http::Head, take: &mut Take<'_>) -> Result<()> {
    let mut enough = false;
    let read = http::body(reader, answer, &mut |piece| {
        let more = take(piece);
        enough = !matches!(more, Ok(true));
        more
    });
    match read {
        read if enough => read,
        Ok(()) => Err(Ended.into()),
        Err(error) => Err(error.context(Ended)),
    }
}

fn connect(address: &Address, tls: &Arc<ClientConfig>) -> Result<Stream> {
    let socket = dial(address).with_context(|| {
        format!("the hub {address} cannot be reached\nhelp: see whether it runs, and whether the address is right")
    })?;
    socket
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| socket.set_write_timeout(Some(PATIENCE)))
        .and_then(|()| socket.set_nodelay(true))
        .context("cannot set up the connection")?;
    let connection = ClientConnection::new(Arc::clone(tls), address.server_name()?)
        .context("cannot set up TLS")?;
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream
            .conn
            .complete_io(&mut stream.sock)
            .map_err(|error| explained(address, error.into()))?;
    }
    Ok(stream)
}

/// A connection to the first of the host's addresses that answers.
fn dial(address: &Address) -> Result<TcpStream> {
    let places = (address.host(), address.port())
        .to_socket_addrs()
        .with_context(|| format!("`{}` has no address", address.host()))?;
    let mut last = None;
    for place in places {
        match TcpStream::connect_timeout(&place, CONNECT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(anyhow::Error::from(error).context(place.to_string())),
        }
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("`{}` has no address", address.host())))
}

/// A broken connection in words; one whose certificate is wrong says what that means.
fn explained(address: &Address, error: anyhow::Error) -> anyhow::Error {
    let inner = error.downcast_ref::<std::io::Error>().and_then(|error| {
        let inner = error.get_ref()?;
        inner.downcast_ref::<rustls::Error>()
    });
    if let Some(rustls::Error::InvalidCertificate(_)) = inner {
        return error.context(format!(
            "{address} is not the hub that `kedge login` pinned, or is not known under this name\nhelp: see whether \
             the address is one of the hub's names; if the hub was set up anew: `kedge logout` and `kedge login` again"
        ));
    }
    let is_closed = |cause: &(dyn std::error::Error + 'static)| {
        let cause = cause.downcast_ref::<std::io::Error>();
        cause.is_some_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof)
    };
    if error.chain().any(is_closed) {
        // What TLS has to say of it is of no use to whoever reads this.
        return anyhow::anyhow!("the connection to {address} was closed in the middle");
    }
    error.context(format!("the connection to {address} broke off"))
}

fn head(
    address: &Address,
    token: Option<&String>,
    question: &Question<'_>,
) -> Result<Zeroizing<String>> {
    let (method, target) = (question.method, question.target);
    // Made large enough at once: a text that grows leaves copies of the token behind.
    let mut head = Zeroizing::new(String::with_capacity(target.len().saturating_add(1024)));
    head.push_str(&format!(
        "{method} {target} HTTP/1.1\r\nhost: {}\r\nuser-agent: kedge/{}\r\nconnection: close\r\n",
        address.authority(),
        env!("CARGO_PKG_VERSION")
    ));
    if let Some(token) = token {
        // A line break would be another header; `Settings` keeps none, but a text is a text.
        ensure!(
            token.bytes().all(|byte| byte.is_ascii_graphic()),
            "the token is not printable text without spaces\nhelp: log in again: kedge login {address}"
        );
        head.push_str("authorization: Bearer ");
        head.push_str(token);
        head.push_str("\r\n");
    }
    if method != "GET" {
        let mut key = [0; 16];
        getrandom::fill(&mut key)
            .map_err(|error| anyhow::anyhow!("the kernel gives no random bytes: {error}"))?;
        head.push_str(&format!(
            "idempotency-key: {}\r\n",
            kedge_revision::id::hex(&key)
        ));
        let length = question.body.as_ref().map_or(0, |body| body.length);
        head.push_str(&format!("content-length: {length}\r\n"));
    }
    if let Some(body) = &question.body {
        head.push_str(&format!("content-type: {}\r\n", body.kind));
    }
    head.push_str("\r\n");
    Ok(head)
}

/// Sends a body; it ends early when the hub has answered.
fn send(stream: &mut Stream, body: &mut Body<'_>) -> Result<()> {
    let mut reader = (&mut *body.reader).take(body.length);
    let mut piece = vec![0; PIECE];
    let mut sent = 0_u64;
    while sent < body.length {
        let count = reader
            .read(&mut piece)
            .context("cannot read what to send")?;
        ensure!(
            count > 0,
            "what is to be sent has {sent} bytes, not {}",
            body.length
        );
        stream.write_all(piece.get(..count).unwrap_or_default())?;
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        sent = sent.saturating_add(count);
        (body.progress)(count);
        if sent < body.length && has_answered(stream)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether an answer is there before the body is sent.
fn has_answered(stream: &mut Stream) -> Result<bool> {
    let mut polled = [PollFd::new(&stream.sock, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match poll(&mut polled, Some(&now)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(false),
        Ok(_) => {}
        Err(error) => return Err(error).context("cannot wait for the socket"),
    }
    // What TLS itself says, as a ticket for another session, is no answer.
    if stream.conn.read_tls(&mut stream.sock)? == 0 {
        return Ok(true);
    }
    let state = stream
        .conn
        .process_new_packets()
        .context("what the hub says is no TLS")?;
    Ok(state.plaintext_bytes_to_read() > 0)
}

fn refused(reader: &mut BufReader<&mut Stream>, answer: &http::Head) -> Refused {
    let mut bytes = Vec::new();
    let mut keep = http::keep(&mut bytes, LARGEST_PROBLEM);
    let read = http::body(reader, answer, &mut keep);
    drop(keep);
    let problem = read.ok().and_then(|()| serde_json::from_slice(&bytes).ok());
    let problem = problem.unwrap_or_else(|| Problem {
        status: answer.status,
        kind: String::new(),
        title: "without a reason".to_owned(),
        detail: String::new(),
    });
    Refused {
        problem: clean(problem),
        retry_after: answer.retry_after,
    }
}

/// Control characters do not reach the terminal.
fn clean(problem: Problem) -> Problem {
    let clean = |text: String| text.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}");
    Problem {
        status: problem.status,
        kind: clean(problem.kind),
        title: clean(problem.title),
        detail: clean(problem.detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do() {
        let refused = |status, kind: &str| Refused {
            problem: Problem {
                status,
                kind: kind.into(),
                title: "Unauthorized".into(),
                detail: "the hub does not know this token".into(),
            },
            retry_after: None,
        };
        let text = refused(401, "token-refused").to_string();
        assert!(text.contains("401 token-refused"), "{text}");
        assert!(text.contains("kedge login"), "{text}");
        assert!(refused(503, "").passes());
        assert!(!refused(409, "").passes());
    }

    #[test]
    fn an_answer_without_end_that_ends_is_a_failure() {
        let read = |bytes: &[u8], take: &mut Take<'_>| {
            let mut reader = bytes;
            let head = http::next_head(&mut reader).unwrap();
            endlessly(&mut reader, &head, take)
        };
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n:\n\r\n";
        // In order, as a hub that stops; and in the middle, as one that is killed.
        for end in ["0\r\n\r\n", "", "9\r\nid"] {
            let answer = format!("{head}{end}");
            let error = read(answer.as_bytes(), &mut |_| Ok(true)).unwrap_err();
            assert!(error.is::<Ended>(), "{error:#}");
        }
        read(head.as_bytes(), &mut |_| Ok(false)).unwrap();
        let mut full = |_: &[u8]| -> Result<bool> { anyhow::bail!("the disk is full") };
        let error = read(head.as_bytes(), &mut full).unwrap_err();
        assert!(!error.is::<Ended>(), "{error:#}");
    }

    #[test]
    fn a_head_has_its_token_and_no_other_lines() {
        let address: Address = "https://hub:8443".parse().unwrap();
        let question = Question::new("GET", "/v1/devices");
        let text = head(&address, Some(&"id.secret".to_owned()), &question).unwrap();
        assert!(
            text.contains("authorization: Bearer id.secret\r\n"),
            "{}",
            *text
        );
        assert!(text.contains("host: hub:8443\r\n"));
        assert!(!text.contains("content-length"));
        head(&address, Some(&"a\r\nx: y".to_owned()), &question).unwrap_err();
    }
}
