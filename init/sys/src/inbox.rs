//! Unix sockets that strangers write to, and what they may send along.
//!
//! Whoever may send bytes over a unix socket may send descriptors, too (`unix(7)`, `SCM_RIGHTS`), and the last to close one
//! waits for what its closing waits for. A TCP connection with `SO_LINGER` and data that nobody acknowledges has it wait
//! for hours, in the kernel and past all signals that are blocked: whoever reads with `read(2)`, which throws descriptors
//! away, waits there, and so does whoever closes a socket in which such a message lies unread.
//!
//! A process that ends lingers for nobody, and whatever else it waits for waits without us. So descriptors that came along are copied
//! into a child ([`let_go`]) and closed here, where they are never the last then; and the child ends.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::read;
use rustix::net::sockopt::{set_socket_oobinline, socket_type};
use rustix::net::{RecvFlags, Shutdown, SocketType, shutdown};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::clone::{Namespaces, spawn};
use crate::descriptors::close_all_but;
use crate::sock::{self, receive_all};
use crate::{Errno, Result};

/// So many are collected before they are let go together: a process of its own for each message were too many.
const TOGETHER: usize = 4 * sock::MOST;

/// A connection or a datagram socket. What it is dropped with is read first and let go.
#[derive(Debug)]
pub struct Inbox(OwnedFd);

/// What came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Bytes in the buffer; 0 on a stream: the other end has closed. Of a datagram that is longer than the buffer the rest is
    /// lost.
    pub bytes: usize,
    /// Whether descriptors came along, which are gone.
    pub descriptors: bool,
}

impl Inbox {
    /// Takes over a socket of which nothing has been read.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        // A byte out of band (`MSG_OOB`) would be thrown away in the midst of reading, with what came along with it. Sockets for
        // datagrams have none.
        set_socket_oobinline(&socket, true).ok();
        Self(socket)
    }

    /// Takes what is next, and does not wait.
    ///
    /// # Errors
    /// `EAGAIN`, `EINTR`, `ECONNRESET`.
    pub fn take(&self, buffer: &mut [u8]) -> Result<Taken> {
        let (message, descriptors) = receive_all(self.as_fd(), buffer, RecvFlags::DONTWAIT)?;
        let taken = Taken {
            bytes: message.bytes,
            descriptors: !descriptors.is_empty(),
        };
        let_go(descriptors);
        Ok(taken)
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // From here on nobody can send (EPIPE), so that what is read is all there is.
        shutdown(&self.0, Shutdown::Read).ok();
        // Datagrams may be empty: their end is an error. A stream's end is 0.
        let streams = socket_type(&self.0).is_ok_and(|kind| kind == SocketType::STREAM);
        let mut descriptors = Vec::new();
        let mut buffer = [0_u8; 4096];
        loop {
            match receive_all(self.as_fd(), &mut buffer, RecvFlags::DONTWAIT) {
                Ok((message, _)) if streams && message.bytes == 0 => break,
                Ok((_, more)) => descriptors.extend(more),
                Err(error) if error.errno == Errno::INTR => {}
                Err(_) => break,
            }
            if descriptors.len() >= TOGETHER {
                let_go(std::mem::take(&mut descriptors));
            }
        }
        let_go(descriptors);
    }
}

/// A listening socket. Connections that nobody has taken when it is dropped are let go like an [`Inbox`].
#[derive(Debug)]
pub struct Doorstep(OwnedFd);

impl Doorstep {
    /// Takes over a listening socket, which does not wait.
    #[must_use]
    pub const fn new(listener: OwnedFd) -> Self {
        Self(listener)
    }

    /// The next connection, non-blocking and close-on-exec; `None` when there is none.
    ///
    /// # Errors
    /// As [`sock::accept`].
    pub fn accept(&self) -> Result<Option<Inbox>> {
        Ok(sock::accept(&self.0)?.map(Inbox::new))
    }
}

impl AsFd for Doorstep {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Doorstep {
    fn drop(&mut self) {
        // Who connects from now on is refused.
        shutdown(&self.0, Shutdown::Read).ok();
        while let Ok(Some(_)) = self.accept() {}
    }
}

/// Closes descriptors of strangers without waiting for what their closing waits for. The child that closes them last is
/// reaped by whoever reaps orphans.
pub fn let_go(descriptors: Vec<OwnedFd>) {
    if descriptors.is_empty() {
        return;
    }
    let given = pipe_with(PipeFlags::CLOEXEC).and_then(|(here, there)| {
        let child = spawn(Namespaces::NONE, None, || {
            let mut kept: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            kept.push(here.as_fd());
            // What else it has copies of shall not wait along. Then it waits until it has the last ones.
            if close_all_but(0, &kept).is_ok() {
                read(&here, &mut [0_u8]).ok();
            }
            0
        });
        // The other end of the pipe is closed behind the descriptors.
        child.map(|_| there).map_err(|error| error.errno)
    });
    match given {
        Ok(there) => {
            drop(descriptors);
            drop(there);
        }
        // Better kept than waited for.
        Err(_) => std::mem::forget(descriptors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::sockopt::set_socket_linger;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    /// How long the closing of what is sent takes.
    const LINGER: Duration = Duration::from_secs(3);

    /// A connection whose closing lingers: data lies in it that its peer, which is given, too, does not take.
    fn lingering() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let mut stream = TcpStream::connect(address).expect("connect");
        let (peer, _) = listener.accept().expect("accept");
        stream.set_nonblocking(true).expect("fcntl");
        // What the peer's buffer takes a moment later must not empty ours: full is what stays full.
        let mut full = 0;
        while full < 3 {
            full += 1;
            if stream.write(&[0; 65536]).is_ok() {
                full = 0;
            } else {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        set_socket_linger(&stream, Some(LINGER)).expect("SO_LINGER");
        (stream, peer)
    }

    fn sockets(kind: sock::Kind) -> (OwnedFd, OwnedFd) {
        sock::pair(kind).expect("socketpair")
    }

    /// Sends such a connection; its peer is to be kept until it is closed.
    fn send_lingering(to: &OwnedFd) -> TcpStream {
        let (stream, peer) = lingering();
        let sent = sock::send(to, b"x", &[stream.as_fd()]);
        assert_eq!(sent, Ok(1));
        peer
    }

    #[test]
    fn reading_alone_waits_for_what_came_along() {
        let waits = || {
            let (one, two) = sockets(sock::Kind::Stream);
            let _peer = send_lingering(&one);
            let begun = Instant::now();
            assert_eq!(rustix::io::read(&two, &mut [0_u8; 8]), Ok(1));
            begun.elapsed() >= LINGER / 2
        };
        // A child of another test's that has just begun has the connection, too: then this is not the last to close it.
        assert!((0..10).any(|_| waits()), "the others cannot fail");
    }

    #[test]
    fn taking_does_not() {
        for kind in [sock::Kind::Stream, sock::Kind::Datagrams] {
            let (one, two) = sockets(kind);
            let two = Inbox::new(two);
            let _peer = send_lingering(&one);
            let begun = Instant::now();
            let mut buffer = [0; 8];
            let taken = two.take(&mut buffer);
            assert!(begun.elapsed() < LINGER / 2);
            let wanted = Taken {
                bytes: 1,
                descriptors: true,
            };
            assert_eq!((taken, &buffer[..1]), (Ok(wanted), &b"x"[..]));
            assert_eq!(sock::send(&one, b"yz", &[]), Ok(2));
            let wanted = Taken {
                bytes: 2,
                descriptors: false,
            };
            assert_eq!(two.take(&mut buffer), Ok(wanted));
            assert!(
                two.take(&mut buffer)
                    .is_err_and(|e| e.errno == Errno::AGAIN)
            );
        }
    }

    /// The same with a byte out of band.
    fn send_out_of_band(to: &OwnedFd) -> TcpStream {
        let (stream, peer) = lingering();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [stream.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let parts = [std::io::IoSlice::new(b"x")];
        let sent = rustix::net::sendmsg(to, &parts, &mut control, SendFlags::OOB);
        assert_eq!(sent, Ok(1));
        peer
    }

    #[test]
    fn nor_does_a_byte_out_of_band() {
        let (one, two) = sockets(sock::Kind::Stream);
        let two = Inbox::new(two);
        let _peers = [send_out_of_band(&one), send_out_of_band(&one)];
        let begun = Instant::now();
        let taken = two.take(&mut [0; 8]);
        assert!(taken.is_ok_and(|taken| taken.descriptors), "{taken:?}");
        drop(two);
        assert!(begun.elapsed() < LINGER / 2);
    }

    #[test]
    fn nor_does_dropping_what_was_never_read() {
        for kind in [sock::Kind::Stream, sock::Kind::Datagrams] {
            let (one, two) = sockets(kind);
            let two = Inbox::new(two);
            let _peers = [send_lingering(&one), send_lingering(&one)];
            let begun = Instant::now();
            drop(two);
            assert!(begun.elapsed() < LINGER / 2);
        }
    }

    #[test]
    fn nor_what_was_never_accepted() {
        let name = format!("kedge-doorstep-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let listener = sock::bind(&path, sock::Kind::Stream, 0o600).expect("bind");
        let listener = Doorstep::new(listener);
        let client = sock::connect(&path, sock::Kind::Stream).expect("connect");
        let _peer = send_lingering(&client);
        let begun = Instant::now();
        drop(listener);
        assert!(begun.elapsed() < LINGER / 2);
        assert!(sock::connect(&path, sock::Kind::Stream).is_err());
        std::fs::remove_file(&path).expect("unlink");
    }
}
