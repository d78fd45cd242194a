//! PID 1's end of the socket to a helper: never blocks, holds a bounded queue.

use kedge_sys::rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use kedge_sys::rustix::net::{Shutdown, shutdown};
use kedge_sys::{During, Errno, Error, sock};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// See the module.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    queue: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
    refused: u64,
}

/// A frame was not taken: the helper is too slow. Counted in [`Link::refused`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull;

impl core::fmt::Display for QueueFull {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the helper is too slow: frame dropped")
    }
}

impl core::error::Error for QueueFull {}

/// What came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// Nothing now.
    Nothing,
    /// A frame.
    Frame(&'a [u8]),
    /// The helper has gone.
    Closed,
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Link {
    /// Most frames that wait: what the socket's own buffer (208 KiB) does not take. Frames of PID 1 have at
    /// most 17 KiB, but for the network's configuration, which is one.
    pub const MAX_QUEUED: usize = 4;

    /// Over PID 1's end of a pair of [`sock::Kind::Messages`], which is made non-blocking.
    ///
    /// # Errors
    /// None that is known; the kernel's answer is passed on.
    pub fn new(socket: OwnedFd) -> Result<Self, Error> {
        let flags = fcntl_getfl(&socket).during("F_GETFL")?;
        fcntl_setfl(&socket, flags | OFlags::NONBLOCK).during("F_SETFL")?;
        Ok(Self {
            socket,
            queue: VecDeque::new(),
            refused: 0,
        })
    }

    /// Whether everything sent so far is in the socket. Log batches are made only then.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Tells the helper that nothing more comes, which ends it.
    pub fn close(&self) {
        // It may have gone already.
        shutdown(&self.socket, Shutdown::Both).ok();
    }

    /// Frames that were dropped since the helper started.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Queues a frame; [`Self::flush`] writes.
    ///
    /// # Errors
    /// [`QueueFull`]; the frame is dropped and counted.
    pub fn send(&mut self, frame: Vec<u8>) -> Result<(), QueueFull> {
        self.send_with(frame, None)
    }

    /// Likewise, with a descriptor that goes along.
    ///
    /// # Errors
    /// [`QueueFull`].
    pub fn send_with(
        &mut self,
        frame: Vec<u8>,
        descriptor: Option<OwnedFd>,
    ) -> Result<(), QueueFull> {
        if self.queue.len() >= Self::MAX_QUEUED {
            self.refused = self.refused.saturating_add(1);
            return Err(QueueFull);
        }
        self.queue.push_back((frame, descriptor));
        Ok(())
    }

    /// Writes what the socket takes now. Poll for output while not [`Self::is_idle`].
    ///
    /// # Errors
    /// `EPIPE`, `ECONNRESET` where the helper has gone. A frame that the socket refuses for its size is
    /// dropped and counted.
    pub fn flush(&mut self) -> Result<(), Error> {
        while let Some((frame, descriptor)) = self.queue.front() {
            let descriptor = descriptor.as_ref().map(AsFd::as_fd);
            match sock::send(&self.socket, frame, descriptor.as_slice()) {
                Ok(_) => {}
                Err(Error {
                    errno: Errno::AGAIN | Errno::INTR,
                    ..
                }) => return Ok(()),
                Err(Error {
                    errno: Errno::MSGSIZE | Errno::INVAL,
                    ..
                }) => self.refused = self.refused.saturating_add(1),
                Err(error) => return Err(error),
            }
            self.queue.pop_front();
        }
        // The queue's own memory goes with its last frame.
        self.queue = VecDeque::new();
        Ok(())
    }

    /// The next frame from the helper. A helper's frames have at most [`super::net::MAX_REPORT`] bytes.
    ///
    /// # Errors
    /// `ECONNRESET`, `EMSGSIZE`.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<Incoming<'a>, Error> {
        match sock::receive(&self.socket, buffer) {
            Ok(received) if received.bytes == 0 => Ok(Incoming::Closed),
            Ok(received) => Ok(buffer
                .get(..received.bytes)
                .map_or(Incoming::Nothing, Incoming::Frame)),
            Err(Error {
                errno: Errno::AGAIN | Errno::INTR,
                ..
            }) => Ok(Incoming::Nothing),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_that_does_not_read_blocks_nothing() {
        let (own, other) = sock::pair(sock::Kind::Messages).unwrap();
        let mut link = Link::new(own).unwrap();
        let mut taken = 0;
        while link.send(vec![7; 16 * 1024]).is_ok() {
            link.flush().unwrap();
            taken += 1;
            assert!(taken < 1000, "a socket without a bound");
        }
        assert_eq!(link.refused(), 1);
        assert!(!link.is_idle());
        let mut buffer = vec![0; 32 * 1024];
        for _ in 0..taken {
            link.flush().unwrap();
            assert_eq!(sock::receive(&other, &mut buffer).unwrap().bytes, 16 * 1024);
        }
        assert!(link.is_idle());
        assert_eq!(link.receive(&mut buffer).unwrap(), Incoming::Nothing);
        sock::send(&other, b"hi", &[]).unwrap();
        assert_eq!(link.receive(&mut buffer).unwrap(), Incoming::Frame(b"hi"));
        drop(other);
        assert_eq!(link.receive(&mut buffer).unwrap(), Incoming::Closed);
        link.send(vec![1]).unwrap();
        assert!(link.flush().is_err());
    }

    #[test]
    fn a_descriptor_goes_along() {
        let (own, other) = sock::pair(sock::Kind::Messages).unwrap();
        let mut link = Link::new(own).unwrap();
        let (sent, kept) = sock::pair(sock::Kind::Messages).unwrap();
        link.send_with(vec![3], Some(sent)).unwrap();
        link.flush().unwrap();
        let received = sock::receive(&other, &mut [0; 8]).unwrap();
        assert_eq!(received.bytes, 1);
        sock::send(&received.descriptors[0], b"x", &[]).unwrap();
        assert_eq!(sock::receive(&kept, &mut [0; 8]).unwrap().bytes, 1);
    }
}
