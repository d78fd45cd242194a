//! The stage helper as PID 1 runs it: the real one, in a process of its own, over its real frames.

use anyhow::{Context, Result, bail};
use kedge_init::helpers::stage::{MAX_FRAME, Report, Request};
use kedge_sys::rustix::event::{PollFd, PollFlags, poll};
use kedge_sys::sock;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};

/// See the module. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Stage {
    child: Child,
    socket: OwnedFd,
}

/// What came.
pub(super) enum Came {
    /// So many bytes are worked off.
    Credit(usize),
    /// The answer to the body.
    Answer(u16, Vec<u8>),
}

impl Stage {
    pub(super) fn start(program: &str, data: &Path) -> Result<Self> {
        let (socket, other) = sock::pair(sock::Kind::Messages)?;
        let child = Command::new(program)
            .arg("stage")
            .arg(data)
            .stdin(other)
            .spawn()
            .context("cannot start the stage helper")?;
        Ok(Self { child, socket })
    }

    pub(super) fn send(&self, request: &Request<'_>) -> Result<()> {
        sock::send(&self.socket, &request.encode(), &[])?;
        Ok(())
    }

    /// Waits for the helper, or for more from the client if that is wanted: whether the helper has said something, and
    /// whether the client has.
    pub(super) fn wait(&self, client: &UnixStream, wants: bool) -> Result<(bool, bool)> {
        let mut ready = vec![PollFd::new(&self.socket, PollFlags::IN)];
        if wants {
            ready.push(PollFd::new(client, PollFlags::IN));
        }
        poll(&mut ready, None)?;
        let mut said = ready.iter().map(|one| !one.revents().is_empty());
        Ok((said.next() == Some(true), said.next() == Some(true)))
    }

    /// The next word of the helper.
    pub(super) fn receive(&self) -> Result<Came> {
        let mut buffer = vec![0; MAX_FRAME];
        let count = sock::receive(&self.socket, &mut buffer)?.bytes;
        let frame = buffer.get(..count).unwrap_or_default();
        if frame.is_empty() {
            bail!("the stage helper has ended");
        }
        match Report::decode(frame)? {
            Report::Credit { bytes } => Ok(Came::Credit(usize::try_from(bytes)?)),
            Report::Answer { status, body } => Ok(Came::Answer(status, body.to_vec())),
            other @ (Report::SlotWritten { .. }
            | Report::Collected { .. }
            | Report::Snapshot { .. }) => bail!("unasked: {other:?}"),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // It is gone either way.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
