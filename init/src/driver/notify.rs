//! `sd_notify(3)`: what containers say of themselves, one datagram socket each.
//!
//! Which container speaks is told by the socket and not by a process id: nothing can be claimed
//! for another container. Messages are at most 4 KiB; unknown lines are passed over.

use crate::error::Error;
use kedge_sys::inbox::Inbox;
use kedge_sys::rustix::io::Errno;
use kedge_sys::sock;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// One meaning of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// `READY=1`
    Ready,
    /// `WATCHDOG=1`
    Watchdog,
    /// `STOPPING=1`
    Stopping,
}

/// A container's notify socket.
#[derive(Debug)]
pub(crate) struct NotifySocket(Inbox);

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl NotifySocket {
    /// Binds the socket at `path`, which every user of the container may write to.
    pub(crate) fn bind(path: &Path) -> Result<Self, Error> {
        // A socket of an earlier life of the container may stand there.
        std::fs::remove_file(path).ok();
        let socket = sock::bind(path, sock::Kind::Datagrams, 0o666)
            .map_err(|error| Error::file("bind", path)(error.errno))?;
        Ok(Self(Inbox::new(socket)))
    }

    /// Takes the next message; `None` when there is no more.
    pub(crate) fn read(&self) -> Option<Vec<Notice>> {
        let mut buffer = [0_u8; 4096];
        loop {
            return match self.0.take(&mut buffer) {
                // Descriptors that came along are nobody's here: PID 1 keeps none for a container (`FDSTORE=1`).
                Ok(taken) => Some(parse(buffer.get(..taken.bytes).unwrap_or_default())),
                Err(error) if error.errno == Errno::INTR => continue,
                Err(_) => None,
            };
        }
    }
}

fn parse(message: &[u8]) -> Vec<Notice> {
    message
        .split(|byte| *byte == b'\n')
        .filter_map(|line| match line {
            b"READY=1" => Some(Notice::Ready),
            b"WATCHDOG=1" => Some(Notice::Watchdog),
            b"STOPPING=1" => Some(Notice::Stopping),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_may_say_several_things() {
        assert_eq!(
            parse(b"STATUS=fine\nREADY=1\nWATCHDOG=1"),
            [Notice::Ready, Notice::Watchdog]
        );
        assert_eq!(parse(b"READY=10\nXREADY=1\n\n"), []);
    }

    #[test]
    fn messages_come_over_a_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = NotifySocket::bind(&path).unwrap();
        let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
        sender.send_to(b"READY=1\n", &path).unwrap();
        assert_eq!(socket.read(), Some(vec![Notice::Ready]));
        assert_eq!(socket.read(), None);
    }
}
