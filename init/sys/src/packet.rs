//! Packet sockets (`packet(7)`) that carry IPv4 below the routing of the kernel: what a host without an address needs.

use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::seccomp::SockFilter;
use crate::syscall::{checked, checked_int};
use crate::{During, Errno, Error, Result};

/// `ETH_P_IP` in network order, as `sockaddr_ll` has it.
const IPV4: u16 = 0x0800_u16.to_be();
/// Every station of an Ethernet.
const BROADCAST: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0];

/// A non-blocking packet socket that hears nothing before [`listen`], and then what `filter` lets pass: classic BPF over
/// the packet from its IPv4 header on. Needs `CAP_NET_RAW`; what is done with the socket later needs nothing.
///
/// # Errors
/// `EPERM`; `EAFNOSUPPORT` where the kernel has no packet sockets; `EINVAL` for a filter that is none.
pub fn open(filter: &[SockFilter]) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, None)
        .during("socket")?;
    let invalid = Error::new("SO_ATTACH_FILTER", Errno::INVAL);
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| invalid)?,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `program` is a sock_fprog whose pointer and length are those of a live slice of instructions with the
    // layout of sock_filter (a test of `seccomp` compares them); the kernel copies it and writes nothing.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            length::<libc::sock_fprog>(),
        )
    };
    checked_int("SO_ATTACH_FILTER", answer)?;
    Ok(socket)
}

/// From now on the socket hears IPv4 on every interface.
///
/// # Errors
/// `ENOMEM`.
pub fn listen<Fd: AsFd>(socket: Fd) -> Result<()> {
    let address = address(0);
    // SAFETY: `address` is a sockaddr_ll that lives through the call, and the length is its size.
    let answer = unsafe {
        libc::bind(
            socket.as_fd().as_raw_fd(),
            (&raw const address).cast(),
            length::<libc::sockaddr_ll>(),
        )
    };
    checked_int("bind", answer).map(drop)
}

/// Sends an IPv4 packet to every station behind an Ethernet interface.
///
/// # Errors
/// `ENETDOWN`, `ENXIO`, `EMSGSIZE`, `ENOBUFS`, `EAGAIN`.
pub fn broadcast<Fd: AsFd>(socket: Fd, interface: u32, packet: &[u8]) -> Result<()> {
    let address = address(interface);
    // SAFETY: pointer and length are those of a live slice, `address` is a sockaddr_ll that lives through the call, and
    // its length is its size.
    let answer = unsafe {
        libc::sendto(
            socket.as_fd().as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            libc::MSG_NOSIGNAL,
            (&raw const address).cast(),
            length::<libc::sockaddr_ll>(),
        )
    };
    checked("sendto", answer as libc::c_long).map(drop)
}

/// A packet that came in: bytes in the buffer, where a longer one is cut; the interface; whether this machine sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes.
    pub bytes: usize,
    /// Index.
    pub interface: u32,
    /// It went out.
    pub own: bool,
}

/// The next packet.
///
/// # Errors
/// `EAGAIN`; `ENETDOWN` once where an interface went down.
pub fn receive<Fd: AsFd>(socket: Fd, buffer: &mut [u8]) -> Result<Received> {
    let mut address = MaybeUninit::<libc::sockaddr_ll>::zeroed();
    let mut size = length::<libc::sockaddr_ll>();
    // SAFETY: pointer and length are those of a live slice that nothing else uses; `address` has `size` bytes, and the
    // kernel writes no more than that.
    let answer = unsafe {
        libc::recvfrom(
            socket.as_fd().as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
            address.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    let bytes = checked("recvfrom", answer as libc::c_long)?;
    // SAFETY: it was zeroed, which is a valid sockaddr_ll, and holds what the kernel has written over that.
    let address = unsafe { address.assume_init() };
    Ok(Received {
        bytes: usize::try_from(bytes).unwrap_or(0).min(buffer.len()),
        interface: address.sll_ifindex.cast_unsigned(),
        own: address.sll_pkttype == libc::PACKET_OUTGOING,
    })
}

fn address(interface: u32) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        // AF_PACKET is 17 and the size 20: both fit their fields on every target.
        sll_family: AddressFamily::PACKET.as_raw(),
        sll_protocol: IPV4,
        sll_ifindex: interface.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: BROADCAST,
    }
}

/// Size of a type, as socket calls take it; all here have some dozen bytes.
fn length<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}
