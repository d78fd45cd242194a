//! Standing in for a command that runs in a container of a device, until it ends.
//!
//! The request goes over the device's control port as any other does; from its answer on both sides send frames: a letter,
//! the length of the rest as two bytes, the higher first, and the rest (`docs/control-socket.md`).

use crate::http::{self, Refused};
use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::Value;
use std::io::{BufReader, ErrorKind, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A size for a terminal when there is none to go by.
const USUAL: (u16, u16) = (24, 80);
/// How often the terminal's size is looked at.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 300_000_000,
};
/// PID 1 answers at once; an emulated one on a busy machine takes a while.
const PATIENCE: Duration = Duration::from_secs(20);
/// Largest refusal that is read.
const LARGEST_REFUSAL: usize = 64 * 1024;

/// How a command has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// As a shell has it.
    pub code: u8,
    /// Why it was not run; empty if it was.
    pub sentence: String,
}

/// Rows and columns of the terminal that is standard input, or of the usual one.
#[must_use]
pub fn own_size() -> (u16, u16) {
    tcgetwinsize(std::io::stdin()).map_or(USUAL, |size| (size.ws_row, size.ws_col))
}

/// Runs what `command` describes. With `input` this process's standard input is the command's.
///
/// # Errors
/// The device refuses, or the connection breaks.
pub fn run(socket: &Path, container: &str, command: &Value, input: bool) -> Result<End> {
    let (stream, got) = begin(socket, container, command)?;
    let has_terminal = command.get("terminal").is_some_and(|size| !size.is_null());
    let raw = has_terminal.then(Raw::set).transpose()?.flatten();
    let mut relay = Relay {
        stream,
        sends: Vec::new(),
        got,
        reads: input,
        size: has_terminal.then(own_size),
    };
    let end = relay.run();
    drop(raw);
    end
}

/// Asks for the command; the connection, and what has come of its frames.
fn begin(socket: &Path, container: &str, command: &Value) -> Result<(UnixStream, Vec<u8>)> {
    let mut stream = UnixStream::connect(socket).with_context(|| {
        let path = socket.display();
        format!("nothing listens on {path}; start the device with `kedge run`")
    })?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .context("cannot set a timeout")?;
    let id = http::request_id()?;
    let body = command.to_string();
    let length = body.len();
    let head = format!(
        "\r\nPOST /v1/containers/{container}/exec HTTP/1.1\r\nhost: kedge\r\nx-request-id: {id}\r\nconnection: upgrade\r\n\
         upgrade: kedge-exec\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream
        .write_all(head.as_bytes())
        .context("cannot send the request")?;
    let mut reader = BufReader::new(stream.try_clone().context("cannot share the socket")?);
    let head = http::answer(&mut reader, &id)
        .context("the device does not answer; it may still be booting")?;
    if head.status != 101 {
        let mut why = Vec::new();
        http::body(&mut reader, &head, &mut |piece| {
            why.extend_from_slice(piece.get(..LARGEST_REFUSAL).unwrap_or(piece));
            Ok(why.len() < LARGEST_REFUSAL)
        })?;
        http::check(head.status, &why)?;
        return Err(Refused {
            status: head.status,
            title: "an answer of another kind".to_owned(),
            detail: "it runs no commands".to_owned(),
        }
        .into());
    }
    stream
        .set_nonblocking(true)
        .context("cannot change the socket")?;
    Ok((stream, reader.buffer().to_vec()))
}

/// What is on its way between this process and the command.
struct Relay {
    stream: UnixStream,
    /// For the device.
    sends: Vec<u8>,
    /// From the device, up to the end of a frame.
    got: Vec<u8>,
    /// Whether our input is passed on.
    reads: bool,
    /// The size that the command's terminal has.
    size: Option<(u16, u16)>,
}

impl Relay {
    fn run(&mut self) -> Result<End> {
        loop {
            if let Some(end) = self.show()? {
                return Ok(end);
            }
            let (typed, came) = self.wait()?;
            if typed {
                self.pass()?;
            }
            if came {
                self.receive()?;
            }
            self.send()?;
        }
    }

    /// Waits until our input or the device has something, or the device takes something.
    fn wait(&mut self) -> Result<(bool, bool)> {
        let input = std::io::stdin();
        let mut wanted = PollFlags::IN;
        wanted.set(PollFlags::OUT, !self.sends.is_empty());
        let mut list = vec![PollFd::new(&self.stream, wanted)];
        // What the device does not take yet is not read.
        if self.reads && self.sends.is_empty() {
            list.push(PollFd::new(&input, PollFlags::IN));
        }
        match poll(&mut list, self.size.is_some().then_some(&LOOK)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for the device"),
        }
        let ready = |at: usize| list.get(at).map_or(PollFlags::empty(), PollFd::revents);
        let came = ready(0).intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        let typed = !ready(1).is_empty();
        let now = own_size();
        if let Some(size) = self.size.as_mut().filter(|size| **size != now) {
            *size = now;
            let [r0, r1] = now.0.to_be_bytes();
            let [c0, c1] = now.1.to_be_bytes();
            self.sends.extend([b'w', 0, 4, r0, r1, c0, c1]);
        }
        Ok((typed, came))
    }

    /// From our input to the device; nothing at all says that it has ended.
    fn pass(&mut self) -> Result<()> {
        let mut buffer = [0; 2048];
        // Not through the standard library's buffer, which poll does not see.
        let count = match rustix::io::read(std::io::stdin(), &mut buffer) {
            Err(Errno::INTR | Errno::AGAIN) => return Ok(()),
            count => count.context("cannot read the input")?,
        };
        self.reads = count > 0;
        let [high, low] = u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes();
        self.sends.extend([b'i', high, low]);
        self.sends
            .extend_from_slice(buffer.get(..count).unwrap_or_default());
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        while !self.sends.is_empty() {
            match self.stream.write(&self.sends) {
                Ok(count) => drop(self.sends.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("the connection broke off"),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => bail!("the connection broke off"),
            Ok(count) => self
                .got
                .extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context("the connection broke off"),
        }
        Ok(())
    }

    /// Prints what is here; the command's end, if it is.
    fn show(&mut self) -> Result<Option<End>> {
        while let Some((kind, rest)) = frame(&self.got) {
            let cannot = "cannot print what the command says";
            let whole = rest.len().saturating_add(3);
            match kind {
                b'o' => print(&mut std::io::stdout().lock(), rest).context(cannot)?,
                b'e' => print(&mut std::io::stderr().lock(), rest).context(cannot)?,
                b'x' => {
                    let (code, sentence) = rest.split_first().unwrap_or((&0, &[]));
                    return Ok(Some(End {
                        code: *code,
                        sentence: String::from_utf8_lossy(sentence).into_owned(),
                    }));
                }
                _ => bail!("the device speaks of a command in a way that is not known here"),
            }
            self.got.drain(..whole);
        }
        Ok(None)
    }
}

/// The first frame: its kind and its rest.
fn frame(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let [kind, high, low, rest @ ..] = bytes else {
        return None;
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    Some((*kind, rest.get(..length)?))
}

fn print(out: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}

/// This process's own terminal, raw for as long as it stands in for another one.
struct Raw(Termios);

impl Raw {
    /// Sets it; none: standard input is no terminal.
    fn set() -> Result<Option<Self>> {
        let input = std::io::stdin();
        if !input.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&input).context("cannot read the terminal's modes")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&input, OptionalActions::Now, &raw).context("cannot change the terminal")?;
        Ok(Some(Self(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no mode.
        tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_whole() {
        assert_eq!(frame(b""), None);
        assert_eq!(frame(b"o\0\x02h"), None);
        assert_eq!(frame(b"o\0\x02hie"), Some((b'o', &b"hi"[..])));
        assert_eq!(frame(b"x\0\0"), Some((b'x', &b""[..])));
    }
}
