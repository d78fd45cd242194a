//! Unix sockets: pairs, listeners, messages with descriptors, who is at the other end.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::Mode;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, RecvMsg, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::inbox::let_go;
use crate::syscall::checked_int;
use crate::{During, Errno, Error, Result};

/// The most descriptors of one message.
pub const MAX_DESCRIPTORS: usize = 32;

/// What a socket keeps together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A stream of bytes.
    Stream,
    /// Connected, and each message arrives as one.
    Messages,
    /// Not connected, and each message arrives as one.
    Datagrams,
}

impl Kind {
    const fn socket_type(self) -> SocketType {
        match self {
            Self::Stream => SocketType::STREAM,
            Self::Messages => SocketType::SEQPACKET,
            Self::Datagrams => SocketType::DGRAM,
        }
    }
}

/// Two connected unix sockets, both close-on-exec and blocking.
///
/// # Errors
/// `EMFILE`, `ENFILE`.
pub fn pair(kind: Kind) -> Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socketpair(AddressFamily::UNIX, kind.socket_type(), flags, None)
        .during("socketpair")
}

/// A unix socket bound to `path` with exactly `mode`, non-blocking and close-on-exec; it listens
/// unless it is for datagrams. An existing `path` is not removed. A path of more than 107 bytes is
/// too long: go through `/proc/self/fd/N/…` then.
///
/// # Errors
/// `EADDRINUSE` where `path` exists, `ENAMETOOLONG`, `ENOENT`.
pub fn bind(path: &Path, kind: Kind, mode: u32) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind.socket_type(), flags, None)
        .during("socket")?;
    let mode = Mode::from_raw_mode(mode);
    // The file is born with the socket's own mode less the umask, so that there is no moment at
    // which more may connect; the second change undoes the umask.
    rustix::fs::fchmod(&socket, mode).during("fchmod")?;
    let address = SocketAddrUnix::new(path).during("bind")?;
    rustix::net::bind(&socket, &address).during("bind")?;
    rustix::fs::chmod(path, mode).during("chmod")?;
    if kind != Kind::Datagrams {
        rustix::net::listen(&socket, 64).during("listen")?;
    }
    Ok(socket)
}

/// The next connection, non-blocking and close-on-exec; `None` when there is none.
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn accept<Fd: AsFd>(listener: Fd) -> Result<Option<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    match rustix::net::accept_with(listener, flags) {
        Ok(connection) => Ok(Some(connection)),
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
        Err(errno) => Err(errno).during("accept4"),
    }
}

/// A connection to the socket at `path`, blocking and close-on-exec.
///
/// # Errors
/// `ENOENT`, `ECONNREFUSED`, `EACCES`, `ENAMETOOLONG`.
pub fn connect(path: &Path, kind: Kind) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind.socket_type(), flags, None)
        .during("socket")?;
    let address = SocketAddrUnix::new(path).during("connect")?;
    rustix::net::connect(&socket, &address).during("connect")?;
    Ok(socket)
}

/// Sends `payload`, which must not be empty, and copies of `descriptors` with it, as one message.
/// Returns the bytes that were taken: on a stream maybe fewer, and the descriptors are gone then.
///
/// # Errors
/// `EINVAL` for an empty payload or more than [`MAX_DESCRIPTORS`]; `EPIPE` (without a signal),
/// `EAGAIN`, `EMSGSIZE`, `ETOOMANYREFS`.
pub fn send<Fd: AsFd>(socket: Fd, payload: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = descriptors.is_empty()
        || (descriptors.len() <= MAX_DESCRIPTORS
            && control.push(SendAncillaryMessage::ScmRights(descriptors)));
    if payload.is_empty() || !fits {
        return Err(Error::new("sendmsg", Errno::INVAL));
    }
    let parts = [IoSlice::new(payload)];
    rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL).during("sendmsg")
}

/// A message that came in.
#[derive(Debug)]
pub struct Received {
    /// Bytes in the buffer; 0 when the other end has closed.
    pub bytes: usize,
    /// Descriptors that came along, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Receives one message into `buffer`.
///
/// # Errors
/// `EAGAIN`; `EMSGSIZE` where the message was longer than `buffer` or had more than
/// [`MAX_DESCRIPTORS`]: it is lost then, and its descriptors are closed.
pub fn receive<Fd: AsFd>(socket: Fd, buffer: &mut [u8]) -> Result<Received> {
    receive_with(socket.as_fd(), buffer, RecvFlags::empty())
}

/// As [`receive`], but does not wait, whatever the socket is set to.
///
/// # Errors
/// As [`receive`].
pub fn receive_now<Fd: AsFd>(socket: Fd, buffer: &mut [u8]) -> Result<Received> {
    receive_with(socket.as_fd(), buffer, RecvFlags::DONTWAIT)
}

fn receive_with(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: RecvFlags) -> Result<Received> {
    let (message, descriptors) = receive_all(socket, buffer, flags)?;
    let is_cut = message
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    if is_cut || descriptors.len() > MAX_DESCRIPTORS {
        let_go(descriptors);
        return Err(Error::new("recvmsg", Errno::MSGSIZE));
    }
    Ok(Received {
        bytes: message.bytes,
        descriptors,
    })
}

/// Most descriptors that the kernel lets one message have (`SCM_MAX_FD`).
pub(crate) const MOST: usize = 253;

/// Receives one message with every descriptor that came along: with room for all of them the kernel throws none away itself.
pub(crate) fn receive_all(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> Result<(RecvMsg, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let message =
        rustix::net::recvmsg(socket, &mut parts, &mut control, flags).during("recvmsg")?;
    let mut descriptors = Vec::new();
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = ancillary {
            descriptors.extend(rights);
        }
    }
    Ok((message, descriptors))
}

/// Bytes of the message that is received next, which waits for one; 0: the other end is closed. For sockets of
/// messages.
///
/// # Errors
/// `EAGAIN`, `EINTR`, `ECONNRESET`.
pub fn pending<Fd: AsFd>(socket: Fd) -> Result<usize> {
    let mut nothing = [0_u8; 1];
    let flags = RecvFlags::PEEK | RecvFlags::TRUNC;
    let (_, length) = rustix::net::recv(socket, &mut nothing[..], flags).during("recv")?;
    Ok(length)
}

/// Who connected (`SO_PEERCRED`): as of the connection, in the namespaces of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Process; 0 where it is outside the caller's pid namespace.
    pub pid: i32,
    /// User; the overflow id (65534) where it is not mapped.
    pub uid: u32,
    /// Group; likewise.
    pub gid: u32,
}

/// Who is at the other end of a connected unix socket.
///
/// # Errors
/// `ENOTSOCK`, `ENOPROTOOPT`.
pub fn peer<Fd: AsFd>(socket: Fd) -> Result<Peer> {
    // Not rustix's: its process id cannot be 0, which is what a process of another pid namespace has.
    let mut credentials = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let size = std::mem::size_of::<libc::ucred>();
    let mut length =
        libc::socklen_t::try_from(size).map_err(|_| Error::new("SO_PEERCRED", Errno::OVERFLOW))?;
    // SAFETY: the option's value is a ucred, `credentials` is one of `length` bytes; both live
    // through the call.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    checked_int("SO_PEERCRED", answer)?;
    Ok(Peer {
        pid: credentials.pid,
        uid: credentials.uid,
        gid: credentials.gid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn descriptors_travel_with_their_message() {
        let (one, two) = pair(Kind::Messages).expect("socketpair");
        let (read, write) = rustix::pipe::pipe().expect("pipe");
        let sent = send(&one, b"pipe", &[write.as_fd(), one.as_fd()]);
        assert_eq!(sent, Ok(4));
        let mut buffer = [0u8; 16];
        let received = receive(&two, &mut buffer).expect("recvmsg");
        assert_eq!(&buffer[..received.bytes], b"pipe");
        assert_eq!(received.descriptors.len(), 2);
        rustix::io::write(&received.descriptors[0], b"x").expect("write");
        assert_eq!(rustix::io::read(&read, &mut buffer), Ok(1));
        let flags = rustix::io::fcntl_getfd(&received.descriptors[0]).expect("fcntl");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn the_largest_message_passes_and_a_larger_one_is_refused() {
        let (one, two) = pair(Kind::Messages).expect("socketpair");
        let null = std::fs::File::open("/dev/null").expect("/dev/null");
        let many = [null.as_fd(); MAX_DESCRIPTORS + 1];
        assert_eq!(send(&one, b"x", &many[1..]), Ok(1));
        let received = receive(&two, &mut [0u8; 4]).expect("recvmsg");
        assert_eq!(received.descriptors.len(), MAX_DESCRIPTORS);
        let invalid = Err(Error::new("sendmsg", Errno::INVAL));
        assert_eq!(send(&one, b"x", &many), invalid);
        assert_eq!(send(&one, b"", &[]), invalid);
    }

    #[test]
    fn a_truncated_message_is_an_error_and_a_closed_end_is_not() {
        let (one, two) = pair(Kind::Messages).expect("socketpair");
        send(&one, b"too long", &[]).expect("sendmsg");
        let error = receive(&two, &mut [0u8; 3]).expect_err("truncated");
        assert_eq!(error.errno, Errno::MSGSIZE);
        drop(one);
        assert_eq!(receive(&two, &mut [0u8; 3]).expect("end").bytes, 0);
        let closed = send(&two, b"x", &[]);
        assert_eq!(closed, Err(Error::new("sendmsg", Errno::PIPE)));
    }

    #[test]
    fn a_listener_has_its_mode_and_knows_who_comes() {
        let name = format!("kedge-sys-{}.socket", std::process::id());
        let path = std::env::temp_dir().join(name);
        let listener = bind(&path, Kind::Stream, 0o666).expect("bind");
        let mode = std::fs::metadata(&path).expect("stat").permissions().mode();
        assert_eq!(mode & 0o7777, 0o666);
        assert!(accept(&listener).expect("nobody").is_none());
        let client = connect(&path, Kind::Stream).expect("connect");
        let server = accept(&listener).expect("accept").expect("one");
        std::fs::remove_file(&path).expect("unlink");
        let own = Peer {
            pid: rustix::process::getpid().as_raw_pid(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
        };
        assert_eq!(peer(&server), Ok(own));
        assert_eq!(peer(&client), Ok(own));
    }
}
