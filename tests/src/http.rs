//! One HTTP/1.1 exchange, for the control port and for servers in containers. Plain on purpose: it must not share the
//! mistakes of the product's own client.

use anyhow::{Context, Result, bail};
use kedge_image_build::progress::say;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

/// Asks the device over the socket that leads to its control port.
///
/// # Errors
/// Nobody answers in time.
pub fn control(socket: &Path, method: &str, target: &str) -> Result<Answer> {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    let id = format!(
        "test-{}-{}",
        std::process::id(),
        NUMBER.fetch_add(1, Ordering::Relaxed)
    );
    // QEMU serves one client at a time, and may let go of one that came while its predecessor went, unheard; or, as seen
    // once on a machine under load, keep its line open and its question to itself.
    let mut last = None;
    for _ in 0..3 {
        let stream = UnixStream::connect(socket).context("cannot connect to the control port")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        match exchange(&stream, method, target, Some(&id)) {
            Err(error) if error.is::<Unheard>() => last = Some(error),
            // What only asks may be asked twice. Whoever is really deaf is so again.
            Err(error) if method == "GET" && last.is_none() && is_late(&error) => {
                say(format_args!(
                    "      no answer to {target} in {PATIENCE:?}: asked again"
                ));
                last = Some(error);
            }
            answer => return answer,
        }
    }
    Err(last.unwrap_or_else(|| Unheard.into()))
}

/// Whether it was waited for in vain.
fn is_late(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::WouldBlock)
}

/// The connection ended before a byte of an answer came.
#[derive(Debug)]
struct Unheard;

impl std::fmt::Display for Unheard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection ended without an answer")
    }
}

impl std::error::Error for Unheard {}

/// Sends a request without a body and reads the answer to its end; answers with another id than `id` belong to
/// predecessors on the same line and are passed over.
///
/// # Errors
/// Nobody answers, or not in HTTP.
pub fn exchange<S>(stream: &S, method: &str, target: &str, id: Option<&str>) -> Result<Answer>
where
    for<'a> &'a S: Read + Write,
{
    let tag = id
        .map(|id| format!("x-request-id: {id}\r\n"))
        .unwrap_or_default();
    let mut writer = stream;
    let request =
        format!("{method} {target} HTTP/1.1\r\nhost: kedge\r\n{tag}content-length: 0\r\n\r\n");
    writer
        .write_all(request.as_bytes())
        .context("cannot send a request")?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let count = reader.read_line(&mut head).context("no answer")?;
            if count == 0 && head.is_empty() {
                return Err(Unheard.into());
            }
            if count == 0 {
                bail!("the connection ended after {head:?}");
            }
            // The rest of an answer that its reader left behind.
            if !head.starts_with("HTTP/1.1 ") {
                head.clear();
            }
        }
        let answer = body(&head, &mut reader)?;
        let lower = head.to_lowercase();
        if id.is_none_or(|id| lower.contains(&format!("x-request-id: {id}\r\n"))) {
            return Ok(answer);
        }
    }
}

fn body(head: &str, reader: &mut impl BufRead) -> Result<Answer> {
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("no HTTP: {head:?}"))?;
    let lower = head.to_lowercase();
    let mut bytes = Vec::new();
    if lower.contains("transfer-encoding: chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).context("a chunk is missing")?;
            let size = usize::from_str_radix(line.trim(), 16)
                .with_context(|| format!("no chunk: {line:?}"))?;
            let mut chunk = vec![0; size.saturating_add(2)];
            reader.read_exact(&mut chunk).context("a chunk is cut")?;
            if size == 0 {
                break;
            }
            chunk.truncate(size);
            bytes.extend(chunk);
        }
    } else {
        let length = lower
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length = length
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0);
        bytes = vec![0; length];
        reader.read_exact(&mut bytes).context("the body is cut")?;
    }
    Ok(Answer {
        status,
        body: String::from_utf8_lossy(&bytes).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_predecessors_answer_is_passed_over() {
        let (near, far) = UnixStream::pair().unwrap();
        (&far)
            .write_all(
                b"left over\r\nHTTP/1.1 200 OK\r\nx-request-id: 1\r\ncontent-length: 3\r\n\r\nold",
            )
            .unwrap();
        (&far)
            .write_all(b"HTTP/1.1 200 OK\r\nX-Request-Id: 2\r\ntransfer-encoding: chunked\r\n\r\n3\r\nnew\r\n0\r\n\r\n")
            .unwrap();
        let answer = exchange(&near, "GET", "/v1/status", Some("2")).unwrap();
        assert_eq!(
            answer,
            Answer {
                status: 200,
                body: "new".into()
            }
        );
    }
}
