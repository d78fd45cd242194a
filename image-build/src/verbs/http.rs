//! One HTTP/1.1 exchange over the unix socket that leads to a guest's control port.
//!
//! The port outlives its clients: what the last one did not read still comes. So each request carries an `x-request-id`, and
//! everything is passed over until an answer with that id begins. No HTTP crate: the peer is PID 1, and one request is all.

use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest line of a head, and of a chunk's size.
const LONGEST_LINE: u64 = 16 * 1024;
/// Largest body that is kept: a status of 64 containers has about 20 kB.
const LARGEST_BODY: usize = 4 * 1024 * 1024;
/// PID 1 answers at once; an emulated one on a busy machine takes a while.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a body is read with: pieces as they come; `false` ends the exchange.
pub(super) type Take<'a> = dyn FnMut(&[u8]) -> Result<bool> + 'a;

/// A status code and the body's length, if it is known.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: Option<usize>,
    chunked: bool,
    id: Option<String>,
}

/// Sends a request without a body and returns the status; the body goes to `take`.
///
/// # Errors
/// Nobody listens, nobody answers in time, or the answer is no HTTP.
pub(super) fn exchange(
    socket: &Path,
    method: &str,
    target: &str,
    patient: bool,
    take: &mut Take<'_>,
) -> Result<u16> {
    let mut stream = UnixStream::connect(socket).with_context(|| {
        format!(
            "nothing listens on {}; start the device with `kedge run`",
            socket.display()
        )
    })?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .context("cannot set a timeout")?;
    let id = request_id()?;
    // The empty line first ends whatever half of a request a predecessor may have left.
    let request = format!(
        "\r\n{method} {target} HTTP/1.1\r\nhost: kedge\r\nx-request-id: {id}\r\ncontent-length: 0\r\n\r\n"
    );
    stream
        .write_all(request.as_bytes())
        .context("cannot send the request")?;
    let mut reader = BufReader::new(stream.try_clone().context("cannot share the socket")?);
    let head =
        answer(&mut reader, &id).context("the device does not answer; it may still be booting")?;
    if patient {
        stream
            .set_read_timeout(None)
            .context("cannot set a timeout")?;
    }
    body(&mut reader, &head, take)?;
    Ok(head.status)
}

fn request_id() -> Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow::anyhow!("the kernel gives no random bytes: {error}"))?;
    Ok(kedge_revision::id::hex(&bytes))
}

/// The head of the answer with our id; everything before it is passed over.
fn answer(reader: &mut impl BufRead, id: &str) -> Result<Head> {
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

fn head(first: &str, reader: &mut impl BufRead) -> Result<Head> {
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let mut head = Head {
        status: status.unwrap_or_default(),
        length: None,
        chunked: false,
        id: None,
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

fn body(reader: &mut impl BufRead, head: &Head, take: &mut Take<'_>) -> Result<()> {
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

fn piece(reader: &mut impl Read, length: usize, take: &mut Take<'_>) -> Result<bool> {
    ensure!(length <= LARGEST_BODY, "the answer has {length} bytes");
    let mut bytes = vec![0; length];
    reader
        .read_exact(&mut bytes)
        .context("the answer broke off")?;
    take(&bytes)
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
        let status = exchange(&path, "GET", "/v1/status", false, &mut |bytes| {
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
        served(b"HTTP/1.1 200 OK\r\nx-request-id: ID\r\ncontent-length: 99999999\r\n\r\n")
            .unwrap_err();
        served(b"nonsense\r\n").unwrap_err();
    }

    #[test]
    fn nobody_listening_says_what_to_start() {
        let error = exchange(Path::new("/nonexistent"), "GET", "/", false, &mut |_| {
            Ok(true)
        })
        .unwrap_err();
        assert!(error.to_string().contains("kedge run"));
    }
}
