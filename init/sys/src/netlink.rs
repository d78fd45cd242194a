//! Bringing up the loopback interface of a new network namespace: one rtnetlink(7) message.

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

use crate::{During, Errno, Result};

/// In a new network namespace it is the first interface.
const INDEX: u32 = 1;
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const IFF_UP: u32 = 1;
/// Bytes of `struct nlmsghdr` and `struct ifinfomsg` together.
const LENGTH: u16 = 32;
/// Bytes of `struct nlmsghdr`: the answer's error follows.
const HEADER: usize = 16;

/// Sets `lo` of this process's network namespace up; the kernel gives it its addresses. Allocates nothing.
///
/// # Errors
/// `EPERM`; those of `netlink(7)`.
pub fn bring_loopback_up() -> Result<()> {
    exchange().during("netlink: bring up the loopback")
}

fn exchange() -> std::result::Result<(), Errno> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    send(&socket, &message(), SendFlags::empty())?;
    let mut answer = [0_u8; 128];
    let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    let answer = answer.get(..length).unwrap_or_default();
    let error = answer.get(HEADER..).and_then(|rest| rest.first_chunk());
    match error.map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(0) => Ok(()),
        Some(error) => Err(Errno::from_raw_os_error(error.saturating_neg())),
        None => Err(Errno::BADMSG),
    }
}

/// "Interface 1: up", with an acknowledgement.
fn message() -> [u8; LENGTH as usize] {
    let mut message = [0; LENGTH as usize];
    let length = u32::from(LENGTH).to_ne_bytes();
    let kind = RTM_NEWLINK.to_ne_bytes();
    let flags = (NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes();
    let header = length.into_iter().chain(kind).chain(flags).chain([0; 8]);
    // Family, padding and type are 0; then index, flags, and which flags change.
    let words = [INDEX, IFF_UP, IFF_UP]
        .into_iter()
        .flat_map(u32::to_ne_bytes);
    for (to, from) in message.iter_mut().zip(header.chain([0; 4]).chain(words)) {
        *to = from;
    }
    message
}
