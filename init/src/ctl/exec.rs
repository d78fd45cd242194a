//! `ctl exec`: stands in for a command that runs in a container, until it ends.

use super::client::{Client, ClientError};
use crate::control::Exec;
use crate::control::exec::{ERRORS, EXIT, FRAME_HEAD, INPUT, OUTPUT, WINDOW, frame_head};
use kedge_revision::Name;
use kedge_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use kedge_sys::rustix::io::{Errno, read};
use kedge_sys::terminal::{Raw, own_size};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

/// A size for a terminal when there is none to go by.
const USUAL: (u16, u16) = (24, 80);
/// How often the terminal's size is looked at.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 300_000_000,
};

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

/// Runs it; its exit code, and a sentence if there is something to say about it.
pub(super) fn exec(
    mut client: Client<UnixStream>,
    container: &Name,
    exec: &Exec,
    has_terminal: bool,
) -> Result<(u8, String), ClientError> {
    let size = has_terminal.then(|| own_size().unwrap_or(USUAL));
    let mut exec = exec.clone();
    exec.terminal = size.map(|(rows, columns)| [rows, columns]);
    if let (Some(_), Ok(kind)) = (size, std::env::var("TERM")) {
        // In front: one that was named takes its place.
        exec.environment.insert(0, ["TERM=", &kind].concat());
    }
    // Plain data in memory: it cannot fail.
    let body = kedge_revision::json::bytes(&exec);
    let path = format!("/v1/containers/{container}/exec");
    let got = client.upgrade(&path, &body)?;
    let stream = client.into_stream();
    stream
        .set_nonblocking(true)
        .map_err(ClientError::Connection)?;
    let mut relay = Relay {
        stream,
        sends: Vec::new(),
        got,
        reads: exec.input || has_terminal,
        size,
    };
    // Without a terminal of our own there is no mode to change.
    let raw = size.and_then(|_| Raw::set().ok().flatten());
    let end = relay.run();
    drop(raw);
    end
}

impl Relay {
    fn run(&mut self) -> Result<(u8, String), ClientError> {
        loop {
            if let Some(end) = self.show()? {
                return Ok(end);
            }
            let (typed, came) = self.wait()?;
            if typed {
                self.pass();
            }
            if came {
                self.receive()?;
            }
            self.send()?;
        }
    }

    /// Waits until our input or the device has something, or the device takes something.
    fn wait(&mut self) -> Result<(bool, bool), ClientError> {
        let input = std::io::stdin();
        let wants = if self.sends.is_empty() {
            PollFlags::IN
        } else {
            PollFlags::IN | PollFlags::OUT
        };
        let mut list = vec![PollFd::new(&self.stream, wants)];
        // What the device does not take yet is not read.
        if self.reads && self.sends.is_empty() {
            list.push(PollFd::new(&input, PollFlags::IN));
        }
        let patience = self.size.is_some().then_some(&LOOK);
        match poll(&mut list, patience) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(ClientError::Connection(errno.into())),
        }
        let ready = |at: usize| list.get(at).map_or(PollFlags::empty(), PollFd::revents);
        let came = ready(0).intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        let typed = !ready(1).is_empty();
        if let (Some(_), Some(now)) = (self.size, own_size())
            && self.size.replace(now) != Some(now)
        {
            let (rows, columns) = now;
            self.sends.extend_from_slice(&frame_head(WINDOW, 4));
            self.sends.extend_from_slice(&rows.to_be_bytes());
            self.sends.extend_from_slice(&columns.to_be_bytes());
        }
        Ok((typed, came))
    }

    /// From our input to the device; nothing at all says that it has ended.
    fn pass(&mut self) {
        let mut buffer = [0; 2048];
        // Not through the standard library's buffer, which poll does not see.
        let count = match read(std::io::stdin(), &mut buffer) {
            Err(Errno::INTR | Errno::AGAIN) => return,
            count => count.unwrap_or(0),
        };
        self.reads = count > 0;
        self.sends.extend_from_slice(&frame_head(INPUT, count));
        self.sends
            .extend_from_slice(buffer.get(..count).unwrap_or_default());
    }

    fn send(&mut self) -> Result<(), ClientError> {
        while !self.sends.is_empty() {
            match self.stream.write(&self.sends) {
                Ok(count) => drop(self.sends.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // What it has said last is still to be read; without that the connection is broken there.
                Err(_) => self.sends.clear(),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), ClientError> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(ClientError::Connection(ErrorKind::UnexpectedEof.into())),
            Ok(count) => {
                self.got
                    .extend_from_slice(buffer.get(..count).unwrap_or_default());
                Ok(())
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(())
            }
            Err(error) => Err(ClientError::Connection(error)),
        }
    }

    /// Prints what is here; the command's end, if it is.
    fn show(&mut self) -> Result<Option<(u8, String)>, ClientError> {
        while let Some((kind, rest, whole)) = frame(&self.got) {
            match kind {
                OUTPUT => print(&mut std::io::stdout().lock(), rest)?,
                ERRORS => print(&mut std::io::stderr().lock(), rest)?,
                EXIT => {
                    let (code, sentence) = rest.split_first().unwrap_or((&0, &[]));
                    return Ok(Some((
                        *code,
                        String::from_utf8_lossy(sentence).into_owned(),
                    )));
                }
                _ => return Err(ClientError::Protocol("frame")),
            }
            self.got.drain(..whole);
        }
        Ok(None)
    }
}

/// The first frame: its kind, its rest, and its length with its head.
fn frame(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let [kind, high, low, rest @ ..] = bytes else {
        return None;
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let rest = rest.get(..length)?;
    Some((*kind, rest, length.saturating_add(FRAME_HEAD)))
}

fn print(out: &mut impl Write, bytes: &[u8]) -> Result<(), ClientError> {
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(ClientError::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_whole() {
        assert_eq!(frame(b""), None);
        assert_eq!(frame(b"o\0\x02h"), None);
        assert_eq!(frame(b"o\0\x02hie"), Some((b'o', &b"hi"[..], 5)));
        assert_eq!(frame(b"x\0\0"), Some((b'x', &b""[..], 3)));
    }
}
