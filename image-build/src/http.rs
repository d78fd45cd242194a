//! One HTTP/1.1 exchange over the unix socket that leads to a guest's control port.
//!
//! The port outlives its clients: what the last one did not read still comes. So each request carries an `x-request-id`, and
//! everything is passed over until an answer with that id begins. No HTTP crate: the peer is PID 1, and one request is all.

mod lines;

pub(crate) use lines::Lines;

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fmt;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest line of a head, and of a chunk's size.
const LONGEST_LINE: u64 = 16 * 1024;
/// Largest body that [`ask`] keeps: a status of 64 containers has about 20 kB.
const LARGEST_BODY: usize = 4 * 1024 * 1024;
/// Most bytes that may come while a request's body is still being sent: what a predecessor left, and an answer.
const LARGEST_EARLY: usize = 1024 * 1024;
/// Bytes of a body that are read at a time, of a request's and of an answer's.
const PIECE: usize = 64 * 1024;
/// PID 1 answers at once; an emulated one on a busy machine takes a while.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a body is read with: pieces as they come, each small, however large a chunk the other side makes; `false` ends the exchange.
/// A body has no bound but what this sets.
pub type Take<'a> = dyn FnMut(&[u8]) -> Result<bool> + 'a;

/// What is asked for.
#[allow(missing_debug_implementations, reason = "a body is a reader")]
pub struct Request<'a> {
    /// `GET` or `POST`.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// What is sent behind the head: exactly `length` bytes of the reader.
    pub body: Option<(u64, &'a mut dyn Read)>,
    /// How long the answer may keep silent, and the device take nothing of the body.
    pub patience: Duration,
    /// Once the answer has begun, it may keep silent for ever.
    pub endless: bool,
}

impl<'a> Request<'a> {
    /// A request without a body, of a peer that answers at once.
    #[must_use]
    pub fn new(method: &'a str, target: &'a str) -> Self {
        Self {
            method,
            target,
            body: None,
            patience: PATIENCE,
            endless: false,
        }
    }
}

/// The device answered, and will not do it (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The status code.
    pub status: u16,
    /// The kind of refusal.
    pub title: String,
    /// What exactly is wrong.
    pub detail: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            status,
            title,
            detail,
        } = self;
        write!(f, "the device refuses ({status} {title}): {detail}")
    }
}

impl std::error::Error for Refused {}

/// Whether an answer is a good one.
///
/// # Errors
/// [`Refused`], in the device's words.
pub fn check(status: u16, body: &[u8]) -> Result<(), Refused> {
    if (200..300).contains(&status) {
        return Ok(());
    }
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let word = |name: &str| {
        let word = problem.get(name).and_then(serde_json::Value::as_str);
        word.unwrap_or_default().to_owned()
    };
    Err(Refused {
        status,
        title: word("title"),
        detail: word("detail"),
    })
}

/// A request whose whole answer is kept.
///
/// # Errors
/// As [`exchange`], and [`Refused`].
pub fn ask(socket: &Path, request: Request<'_>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let status = exchange(socket, request, &mut keep(&mut bytes, LARGEST_BODY))?;
    check(status, &bytes)?;
    Ok(bytes)
}

/// Keeps a body, up to so many bytes.
pub(crate) fn keep(bytes: &mut Vec<u8>, most: usize) -> impl FnMut(&[u8]) -> Result<bool> {
    move |piece| {
        ensure!(
            bytes.len().saturating_add(piece.len()) <= most,
            "the answer is over {most} bytes"
        );
        bytes.extend_from_slice(piece);
        Ok(true)
    }
}

/// A status code and the body's length, if it is known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    length: Option<usize>,
    chunked: bool,
    id: Option<String>,
    /// Seconds after which a busy peer wants to be asked again.
    pub(crate) retry_after: Option<u64>,
}

/// Sends a request and returns the status; the answer's body goes to `take`.
///
/// An answer that comes before the request's body is sent ends the sending: the connection is closed, which a device
/// sees on a port, too.
///
/// # Errors
/// Nobody listens, nobody answers in time, the body cannot be read, or the answer is no HTTP.
pub fn exchange(socket: &Path, request: Request<'_>, take: &mut Take<'_>) -> Result<u16> {
    let mut stream = UnixStream::connect(socket).with_context(|| {
        format!(
            "nothing listens on {}; start the device with `kedge run`",
            socket.display()
        )
    })?;
    let timeout = |stream: &UnixStream, patience| {
        stream
            .set_read_timeout(patience)
            .context("cannot set a timeout")
    };
    timeout(&stream, Some(request.patience))?;
    let id = request_id()?;
    let (method, target) = (request.method, request.target);
    let length = request.body.as_ref().map_or(0, |(length, _)| *length);
    // The empty line first ends whatever half of a request a predecessor may have left.
    let head = format!(
        "\r\n{method} {target} HTTP/1.1\r\nhost: kedge\r\nx-request-id: {id}\r\ncontent-length: {length}\r\n\r\n"
    );
    stream
        .write_all(head.as_bytes())
        .context("cannot send the request")?;
    let mut early = Vec::new();
    if let Some((length, body)) = request.body {
        let cannot = "cannot change the socket";
        stream.set_nonblocking(true).context(cannot)?;
        send(&stream, &id, length, body, request.patience, &mut early)?;
        stream.set_nonblocking(false).context(cannot)?;
    }
    let rest = stream.try_clone().context("cannot share the socket")?;
    let mut reader = BufReader::new(early.as_slice().chain(rest));
    let head =
        answer(&mut reader, &id).context("the device does not answer; it may still be booting")?;
    if request.endless {
        timeout(&stream, None)?;
    }
    body(&mut reader, &head, take)?;
    Ok(head.status)
}

/// Sends a body, and keeps in `early` what comes meanwhile. It ends before the body does when that holds our answer's id,
/// or the other side takes no more: what it said tells why.
fn send(
    mut stream: &UnixStream,
    id: &str,
    length: u64,
    body: &mut dyn Read,
    patience: Duration,
    early: &mut Vec<u8>,
) -> Result<()> {
    let mut body = body.take(length);
    let mut piece = vec![0; PIECE];
    let mut sent = 0_u64;
    while sent < length {
        let count = body.read(&mut piece).context("cannot read what to send")?;
        ensure!(
            count > 0,
            "what is to be sent has {sent} bytes, not {length}"
        );
        sent = sent.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        let mut rest = piece.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            let (readable, writable) = wait(stream, patience)?;
            if readable && (!hear(stream, early)? || contains(early, id)) {
                return Ok(());
            }
            if writable {
                match stream.write(rest) {
                    Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                    Err(error) if passes(&error) => {}
                    Err(_) => return Ok(()),
                }
            }
        }
    }
    Ok(())
}

/// Waits until the socket can be read or written.
fn wait(stream: &UnixStream, patience: Duration) -> Result<(bool, bool)> {
    let limit = Timespec {
        tv_sec: patience.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: patience.subsec_nanos().into(),
    };
    let mut polled = [PollFd::new(stream, PollFlags::IN | PollFlags::OUT)];
    let ready = match poll(&mut polled, Some(&limit)) {
        Err(rustix::io::Errno::INTR) => return Ok((false, false)),
        ready => ready.context("cannot wait for the socket")?,
    };
    ensure!(
        ready > 0,
        "the device has taken nothing for {} s",
        patience.as_secs()
    );
    let events = polled.first().map_or(PollFlags::empty(), PollFd::revents);
    let gone = events.intersects(PollFlags::HUP | PollFlags::ERR);
    Ok((
        events.contains(PollFlags::IN) || gone,
        events.contains(PollFlags::OUT) || gone,
    ))
}

/// Reads what is there; false at the end.
fn hear(mut stream: &UnixStream, early: &mut Vec<u8>) -> Result<bool> {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(count) => {
            early.extend_from_slice(buffer.get(..count).unwrap_or_default());
            ensure!(
                early.len() <= LARGEST_EARLY,
                "more than {LARGEST_EARLY} bytes came that answer nothing"
            );
            Ok(true)
        }
        Err(error) if passes(&error) => Ok(true),
        Err(error) => Err(error).context("the connection broke off"),
    }
}

fn passes(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

pub(crate) fn request_id() -> Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow::anyhow!("the kernel gives no random bytes: {error}"))?;
    Ok(kedge_revision::id::hex(&bytes))
}

/// The head of the answer with our id; everything before it is passed over.
pub(crate) fn answer(reader: &mut impl BufRead, id: &str) -> Result<Head> {
    loop {
        let text = line(reader)?;
        if let Some(at) = text.find("HTTP/1.1 ") {
            let head = head(text.get(at..).unwrap_or_default(), reader)?;
            if head.id.as_deref() == Some(id) {
                return Ok(head);
            }
        }
    }
}

/// The head of the answer that comes next.
pub(crate) fn next_head(reader: &mut impl BufRead) -> Result<Head> {
    let first = line(reader)?;
    ensure!(first.starts_with("HTTP/1."), "what answers speaks no HTTP");
    head(&first, reader)
}

fn head(first: &str, reader: &mut impl BufRead) -> Result<Head> {
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let mut head = Head {
        status: status.unwrap_or_default(),
        length: None,
        chunked: false,
        id: None,
        retry_after: None,
    };
    loop {
        let text = line(reader)?;
        if text.is_empty() {
            return Ok(head);
        }
        let Some((name, value)) = text.split_once(':') else {
            continue;
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => head.length = value.parse().ok(),
            "transfer-encoding" => head.chunked = value.eq_ignore_ascii_case("chunked"),
            "retry-after" => head.retry_after = value.parse().ok(),
            "x-request-id" => head.id = Some(value.to_owned()),
            _ => {}
        }
    }
}

fn line(reader: &mut impl BufRead) -> Result<String> {
    let mut bytes = Vec::new();
    reader
        .take(LONGEST_LINE)
        .read_until(b'\n', &mut bytes)
        .context("the connection broke off")?;
    ensure!(!bytes.is_empty(), "the connection ended before an answer");
    Ok(String::from_utf8_lossy(&bytes)
        .trim_end_matches(['\r', '\n'])
        .to_owned())
}

/// The body behind a head.
pub(crate) fn body(reader: &mut impl BufRead, head: &Head, take: &mut Take<'_>) -> Result<()> {
    if head.chunked {
        return chunks(reader, take);
    }
    let length = head.length.unwrap_or(0);
    piece(reader, length, take).map(drop)
}

fn chunks(reader: &mut impl BufRead, take: &mut Take<'_>) -> Result<()> {
    loop {
        let text = line(reader)?;
        let size = text.split(';').next().unwrap_or_default().trim();
        let Ok(size) = usize::from_str_radix(size, 16) else {
            bail!("the answer's chunk begins with {text:?}")
        };
        if size == 0 {
            // The empty line after the last chunk.
            line(reader)?;
            return Ok(());
        }
        if !piece(reader, size, take)? {
            return Ok(());
        }
        line(reader)?;
    }
}

/// So many bytes, in parts: a hub sends a page of a device's logs as one chunk, of several MiB. Whether more is wanted.
fn piece(reader: &mut impl Read, length: usize, take: &mut Take<'_>) -> Result<bool> {
    let mut bytes = vec![0; length.min(PIECE)];
    let mut left = length;
    while left > 0 {
        let part = left.min(PIECE);
        let part = bytes.get_mut(..part).unwrap_or_default();
        reader.read_exact(part).context("the answer broke off")?;
        if !take(part)? {
            return Ok(false);
        }
        left = left.saturating_sub(part.len());
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn served(answer: &'static [u8]) -> Result<(u16, String)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut id = String::new();
            loop {
                let text = line(&mut reader).unwrap();
                if let Some(value) = text.strip_prefix("x-request-id: ") {
                    id = value.to_owned();
                }
                if text.is_empty() && !id.is_empty() {
                    break;
                }
            }
            let text = String::from_utf8_lossy(answer).replace("ID", &id);
            stream.write_all(text.as_bytes()).unwrap();
        });
        let mut got = Vec::new();
        let status = exchange(&path, Request::new("GET", "/v1/status"), &mut |bytes| {
            got.extend_from_slice(bytes);
            Ok(true)
        });
        server.join().unwrap();
        Ok((status?, String::from_utf8(got)?))
    }

    #[test]
    fn an_answer_is_found_behind_what_a_predecessor_left() {
        let answer =
            b"5\r\nhello\r\nHTTP/1.1 500 X\r\nx-request-id: old\r\ncontent-length: 3\r\n\r\nold\
            HTTP/1.1 200 OK\r\nX-Request-Id: ID\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(served(answer).unwrap(), (200, "{}".to_owned()));
    }

    #[test]
    fn chunks_are_joined_and_204_has_no_body() {
        let chunked = b"HTTP/1.1 200 OK\r\nx-request-id: ID\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(served(chunked).unwrap(), (200, "abcde".to_owned()));
        assert_eq!(
            served(b"HTTP/1.1 204 No Content\r\nx-request-id: ID\r\n\r\n").unwrap(),
            (204, String::new())
        );
    }

    #[test]
    fn what_breaks_off_or_is_too_large_is_an_error() {
        served(b"HTTP/1.1 200 OK\r\nx-request-id: ID\r\ncontent-length: 9\r\n\r\nabc").unwrap_err();
        served(b"nonsense\r\n").unwrap_err();
        let large = [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 4194305\r\n\r\n"[..],
            &[b' '; 4_194_305],
        ];
        let (large, mut kept) = (large.concat(), Vec::new());
        let mut reader = large.as_slice();
        let head = next_head(&mut reader).unwrap();
        let error = body(&mut reader, &head, &mut keep(&mut kept, LARGEST_BODY)).unwrap_err();
        assert!(error.to_string().contains("over 4194304"), "{error}");
        assert_eq!(kept.len(), LARGEST_BODY);
    }

    #[test]
    fn a_large_chunk_comes_in_small_pieces() {
        let size = 5_000_001;
        let mut answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for _ in 0..2 {
            answer.extend_from_slice(format!("{size:x}\r\n").as_bytes());
            answer.resize(answer.len() + size, b'x');
            answer.extend_from_slice(b"\r\n");
        }
        answer.extend_from_slice(b"0\r\n\r\n");
        let read = |most: usize| {
            let mut reader = answer.as_slice();
            let head = next_head(&mut reader).unwrap();
            let mut got = 0;
            let end = body(&mut reader, &head, &mut |piece| {
                assert!(piece.len() <= PIECE && piece.iter().all(|byte| *byte == b'x'));
                got += piece.len();
                Ok(got < most)
            });
            end.unwrap();
            (got, reader.len())
        };
        assert_eq!(read(usize::MAX), (2 * size, 0));
        // Whoever has enough reads not on.
        assert_eq!(read(1).0, PIECE);
    }

    #[test]
    fn nobody_listening_says_what_to_start() {
        let error = ask(Path::new("/nonexistent"), Request::new("GET", "/")).unwrap_err();
        assert!(error.to_string().contains("kedge run"));
    }

    /// A device that takes `most` bytes of a body and answers.
    fn takes(most: usize, body: &[u8], closes: bool) -> Result<(Vec<u8>, Vec<u8>)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut id, mut length) = (String::new(), 0);
            loop {
                let text = line(&mut reader).unwrap();
                if let Some(value) = text.strip_prefix("x-request-id: ") {
                    id = value.to_owned();
                }
                if let Some(value) = text.strip_prefix("content-length: ") {
                    length = value.parse().unwrap();
                }
                if text.is_empty() && !id.is_empty() {
                    break;
                }
            }
            let mut got = vec![0; most.min(length)];
            reader.read_exact(&mut got).unwrap();
            if closes {
                return got;
            }
            let status = if most < length {
                "409 Conflict"
            } else {
                "200 OK"
            };
            let problem = r#"{"title":"conflict","detail":"block 3"}"#;
            let head = format!(
                "HTTP/1.1 {status}\r\nx-request-id: {id}\r\ncontent-length: {}\r\n\r\n{problem}",
                problem.len()
            );
            stream.write_all(head.as_bytes()).unwrap();
            // A port goes on to take what is sent, until the client goes away.
            std::io::copy(&mut reader, &mut std::io::sink()).ok();
            got
        });
        let mut reader = body;
        let mut request = Request::new("POST", "/x");
        request.body = Some((body.len() as u64, &mut reader));
        let answer = ask(&path, request);
        let got = server.join().unwrap();
        Ok((answer?, got))
    }

    #[test]
    fn a_body_arrives_whole() {
        let body: Vec<u8> = (0..1_000_000).map(|n: u32| n.to_le_bytes()[0]).collect();
        let (answer, got) = takes(usize::MAX, &body, false).unwrap();
        assert_eq!(got, body);
        assert!(answer.starts_with(b"{"));
        takes(usize::MAX, b"", false).unwrap();
    }

    #[test]
    fn a_refusal_before_the_end_of_a_body_is_heard() {
        let error = takes(5000, &vec![7; 3_000_000], false).unwrap_err();
        let refused = error.downcast_ref::<Refused>().unwrap();
        assert_eq!((refused.status, refused.detail.as_str()), (409, "block 3"));
    }

    #[test]
    fn a_connection_that_breaks_off_is_no_refusal() {
        let error = takes(5000, &vec![7; 3_000_000], true).unwrap_err();
        assert!(error.downcast_ref::<Refused>().is_none(), "{error:#}");
    }

    #[test]
    fn a_body_that_is_shorter_than_it_says_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        let mut reader: &[u8] = b"abc";
        let mut request = Request::new("POST", "/x");
        request.body = Some((4, &mut reader));
        let error = ask(&path, request).unwrap_err().to_string();
        assert!(error.contains("3 bytes, not 4"), "{error}");
    }

    #[test]
    fn a_refusal_shows_the_devices_words() {
        let body = br#"{"status":404,"title":"not found","detail":"no container db"}"#;
        let error = check(404, body).unwrap_err().to_string();
        assert!(error.contains("no container db"), "{error}");
        check(204, b"").unwrap();
    }
}
