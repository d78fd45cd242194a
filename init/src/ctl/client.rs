//! A request over a unix socket, and its answer.

use crate::control::Problem;
use core::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Longest line of a head that is looked at, bytes.
const MAX_LINE: u64 = 8192;
/// Largest part of an answer's body, bytes: the status of 64 containers has about 32 KiB.
const MAX_PART: usize = 1024 * 1024;
/// Bytes of a request's body that are sent at a time.
const PIECE: usize = 8 * 1024;

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// The socket could not be reached.
    Connect {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke.
    Connection(std::io::Error),
    /// The answer is not as it should be: what of it.
    Protocol(&'static str),
    /// The device refused.
    Refused {
        /// The status code.
        status: u16,
        /// What exactly is wrong.
        detail: String,
    },
    /// What came could not be printed.
    Output(std::io::Error),
    /// What is to be sent could not be read.
    File {
        /// From which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is to be sent is not as it should be.
    Bundle(kedge_revision::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { path, source } => {
                write!(f, "cannot connect to {}: {source}", path.display())
            }
            Self::Connection(source) => write!(f, "the connection broke: {source}"),
            Self::Protocol(what) => write!(f, "malformed answer: {what}"),
            Self::Refused { status, detail } => write!(f, "{detail} ({status})"),
            Self::Output(source) => write!(f, "cannot print: {source}"),
            Self::File { path, source } => write!(f, "cannot read {}: {source}", path.display()),
            Self::Bundle(source) => source.fmt(f),
        }
    }
}

impl core::error::Error for ClientError {}

/// The body of a request: pieces of a file.
#[derive(Debug)]
pub struct Body<'a> {
    /// The file's name, for errors.
    pub path: &'a Path,
    /// The file.
    pub file: &'a File,
    /// Where each piece begins, and its bytes.
    pub ranges: [(u64, u64); 2],
}

/// Takes parts of a body as they come.
type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), ClientError> + 'a;

/// A connection to a device.
#[derive(Debug)]
pub struct Client<S> {
    stream: BufReader<S>,
    requests: u32,
}

/// What counts of an answer's head.
#[derive(Debug, Default)]
struct Answer {
    status: u16,
    length: usize,
    chunked: bool,
    id: String,
}

impl Client<UnixStream> {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        UnixStream::connect(path)
            .map(Self::new)
            .map_err(|source| ClientError::Connect {
                path: path.to_owned(),
                source,
            })
    }
}

impl<S> Client<S> {
    /// What it speaks over; what was read of it beyond the last answer is gone.
    pub(super) fn into_stream(self) -> S {
        self.stream.into_inner()
    }
}

impl<S: Read + Write> Client<S> {
    /// Over a stream that is connected.
    pub fn new(stream: S) -> Self {
        Self {
            stream: BufReader::new(stream),
            requests: 0,
        }
    }

    /// Asks, and hands the body of a good answer to `sink` in parts: chunk by chunk where it is chunked.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        sink: &mut Sink<'_>,
    ) -> Result<(), ClientError> {
        self.request_with(method, path, None, sink)
    }

    /// As [`Client::request`], with a body.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn request_with(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Body<'_>>,
        sink: &mut Sink<'_>,
    ) -> Result<(), ClientError> {
        let ranges = body.map_or([(0, 0); 2], |body| body.ranges);
        let length = ranges
            .iter()
            .fold(0_u64, |sum, (_, length)| sum.saturating_add(*length));
        let id = self.begin(method, path, length)?;
        if let Some(body) = body {
            self.send(body)?;
        }
        let answer = self.answer(&id)?;
        if (200..300).contains(&answer.status) {
            return self.body(&answer, sink);
        }
        Err(self.refused(&answer)?)
    }

    /// Asks for the connection to be used otherwise from now on. What has come of that already is returned.
    pub(super) fn upgrade(&mut self, path: &str, body: &[u8]) -> Result<Vec<u8>, ClientError> {
        let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
        let id = self.begin("POST", path, length)?;
        self.stream
            .get_mut()
            .write_all(body)
            .map_err(ClientError::Connection)?;
        let answer = self.answer(&id)?;
        if answer.status != 101 {
            return Err(self.refused(&answer)?);
        }
        Ok(self.stream.buffer().to_vec())
    }

    /// Sends the head of a request, and returns its id.
    fn begin(&mut self, method: &str, path: &str, length: u64) -> Result<String, ClientError> {
        self.requests = self.requests.wrapping_add(1);
        let id = format!("ctl-{}-{}", std::process::id(), self.requests);
        // The empty line ends whatever an earlier client left unfinished on a serial port.
        let request = format!(
            "\r\n{method} {path} HTTP/1.1\r\nhost: kedge\r\nx-request-id: {id}\r\ncontent-length: {length}\r\n\r\n"
        );
        self.stream
            .get_mut()
            .write_all(request.as_bytes())
            .map_err(ClientError::Connection)?;
        Ok(id)
    }

    /// Why an answer is not a good one.
    fn refused(&mut self, answer: &Answer) -> Result<ClientError, ClientError> {
        let mut body = Vec::new();
        self.body(answer, &mut |part| {
            body.extend_from_slice(part);
            Ok(())
        })?;
        let problem = kedge_revision::json::read::<Problem<'_>>(&body);
        Ok(ClientError::Refused {
            status: answer.status,
            detail: problem.map_or_else(|_| "refused".to_owned(), |p| p.detail.into_owned()),
        })
    }

    /// A device that takes no more has refused: its answer says why.
    fn send(&mut self, body: &Body<'_>) -> Result<(), ClientError> {
        let mut buffer = [0; PIECE];
        for (mut at, mut left) in body.ranges {
            while left > 0 {
                let most = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
                let piece = buffer.get_mut(..most).unwrap_or_default();
                let read = body.file.read_exact_at(piece, at);
                read.map_err(|source| ClientError::File {
                    path: body.path.to_owned(),
                    source,
                })?;
                if self.stream.get_mut().write_all(piece).is_err() {
                    return Ok(());
                }
                let count = u64::try_from(most).unwrap_or(left);
                at = at.saturating_add(count);
                left = left.saturating_sub(count);
            }
        }
        Ok(())
    }

    /// The head that answers `id`; whatever comes before it is left over from others. Only an
    /// error without any id can be ours, too: of a server that could not even read the request.
    fn answer(&mut self, id: &str) -> Result<Answer, ClientError> {
        loop {
            let line = self.line()?;
            // The status line may stand behind the end of something that was torn.
            let Some((_, rest)) = line.split_once("HTTP/1.1 ") else {
                continue;
            };
            let Some(status) = rest.get(..3).and_then(|code| code.parse().ok()) else {
                continue;
            };
            let answer = self.fields(status)?;
            if answer.id == id || status == 503 && answer.id.is_empty() {
                return Ok(answer);
            }
        }
    }

    fn fields(&mut self, status: u16) -> Result<Answer, ClientError> {
        let mut answer = Answer {
            status,
            ..Answer::default()
        };
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(answer);
            }
            let Some((name, value)) = line.split_once(':') else {
                return Ok(answer);
            };
            let value = value.trim();
            match name {
                "content-length" => answer.length = value.parse().unwrap_or(0),
                "transfer-encoding" => answer.chunked = value == "chunked",
                "x-request-id" => value.clone_into(&mut answer.id),
                _ => {}
            }
        }
    }

    fn body(&mut self, answer: &Answer, sink: &mut Sink<'_>) -> Result<(), ClientError> {
        if !answer.chunked {
            let part = self.part(answer.length)?;
            return sink(&part);
        }
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(&line, 16);
            let size = size.map_err(|_| ClientError::Protocol("size of a chunk"))?;
            let part = self.part(size)?;
            if !self.line()?.is_empty() {
                return Err(ClientError::Protocol("end of a chunk"));
            }
            if size == 0 {
                return Ok(());
            }
            sink(&part)?;
        }
    }

    fn part(&mut self, size: usize) -> Result<Vec<u8>, ClientError> {
        if size > MAX_PART {
            return Err(ClientError::Protocol("size"));
        }
        let mut part = vec![0; size];
        self.stream
            .read_exact(&mut part)
            .map_err(ClientError::Connection)?;
        Ok(part)
    }

    /// A line without its end; bytes that are no text are replaced.
    fn line(&mut self) -> Result<String, ClientError> {
        let mut line = Vec::new();
        let read = (&mut self.stream)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .map_err(ClientError::Connection)?;
        if read == 0 {
            return Err(ClientError::Connection(
                std::io::ErrorKind::UnexpectedEof.into(),
            ));
        }
        let text = String::from_utf8_lossy(&line);
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Role;
    use crate::control::{Call, Connection, Transport};
    use crate::log::{Journal, Stream};

    /// A device at the other end of the stream, without any wait.
    struct Device {
        connection: Connection,
        journal: Journal,
        stale: Vec<u8>,
    }

    impl Write for Device {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let taken = self.connection.input(bytes);
            while let Some(call) = self.connection.next_call() {
                match call {
                    Call::Logs(query) => self.connection.answer_logs(&query, &self.journal),
                    Call::Status
                    | Call::Command(_)
                    | Call::History
                    | Call::Earlier(_)
                    | Call::Usage
                    | Call::Inspect(_)
                    | Call::Upload { .. } => self.connection.answer_done(),
                    Call::Exec { exec, .. } => {
                        self.connection.begin_exec();
                        let said = exec.arguments.join(" ");
                        self.connection.tell_output(Stream::Out, said.as_bytes());
                        self.connection.end_exec(7, "");
                    }
                }
            }
            Ok(taken)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Read for Device {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if !self.stale.is_empty() {
                let size = buffer.len().min(self.stale.len());
                buffer[..size].copy_from_slice(&self.stale[..size]);
                self.stale.drain(..size);
                return Ok(size);
            }
            // Torn at every third byte.
            let size = buffer.len().min(3).min(self.connection.output().len());
            buffer[..size].copy_from_slice(&self.connection.output()[..size]);
            self.connection.wrote(size);
            self.connection.pump(&self.journal);
            Ok(size)
        }
    }

    fn device(role: Role, stale: &str) -> Client<Device> {
        let mut journal = Journal::new();
        for number in 0..300 {
            journal.say(Stream::Notice, format_args!("number {number}"), number);
        }
        Client::new(Device {
            connection: Connection::new(role, Transport::Serial),
            journal,
            stale: stale.as_bytes().to_vec(),
        })
    }

    #[test]
    fn an_answer_is_found_behind_what_others_left() {
        let stale = "\"text\":\"x\"}\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nx-request-id: other\r\ncontent-length: 4\r\n\r\n{\"a\"HTTP/1.1 204 No Content\r\n\r\n";
        let mut client = device(Role::Operate, stale);
        client
            .request("POST", "/v1/reboot", &mut |_| Ok(()))
            .unwrap();
        let mut lines = 0;
        client
            .request("GET", "/v1/logs", &mut |chunk| {
                assert!(chunk.ends_with(b"\n"));
                lines += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(lines, 300);
    }

    #[test]
    fn a_connection_is_used_otherwise() {
        let mut client = device(Role::Operate, "HTTP/1.1 204 No Content\r\n\r\n");
        let body = br#"{"arguments":["say","this"]}"#;
        let mut got = client.upgrade("/v1/containers/web/exec", body).unwrap();
        let mut stream = client.into_stream();
        // As much as comes: the stream never ends.
        while got.len() < 15 {
            let mut more = [0; 8];
            let count = stream.read(&mut more).unwrap();
            assert!(count > 0);
            got.extend_from_slice(&more[..count]);
        }
        assert_eq!(got, b"o\0\x08say thisx\0\x01\x07");
        let mut client = device(Role::Operate, "");
        let error = client.upgrade("/v1/containers/web/exec", b"{}");
        assert!(matches!(
            error,
            Err(ClientError::Refused { status: 400, .. })
        ));
    }

    #[test]
    fn a_refusal_says_why() {
        let mut client = device(Role::Observe, "");
        let error = client.request("POST", "/v1/reboot", &mut |_| Ok(()));
        assert!(matches!(
            error,
            Err(ClientError::Refused { status: 403, .. })
        ));
        let text = error.unwrap_err().to_string();
        assert_eq!(text, "the role of this socket does not allow it (403)");
    }
}
