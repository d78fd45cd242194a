//! The interface of a container in a pool, from inside its network namespace: rtnetlink(7) without allocating.
//!
//! One end of a veth pair is put into the namespace by somebody outside (the net helper, which PID 1 hands the namespace
//! to), called [`INTERFACE`]. Nothing of the container runs before it has come and has its address and its
//! default route. All this is done in here, as root of the container's user namespace, so that whoever brings the
//! interface needs no way into the namespace.

use std::ffi::CStr;
use std::time::Duration;

use kedge_sys::Errno;
use kedge_sys::rustix::event::{PollFd, PollFlags, poll};
use kedge_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use kedge_sys::rustix::io::write;
use kedge_sys::rustix::net::netlink::SocketAddrNetlink;
use kedge_sys::rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};
use kedge_sys::timer;
use std::os::fd::OwnedFd;

use crate::plan::Attachment;

/// What a container in a pool calls its interface.
pub const INTERFACE: &CStr = c"eth0";
/// How long it is waited for. The helper that brings it starts after the first containers, and again after
/// a second if it has ended.
const PATIENCE: Duration = Duration::from_secs(20);
/// From which port on no privilege is needed to listen: as on the device's own network, from the first.
pub(crate) const LOW_PORTS: &CStr = c"/proc/sys/net/ipv4/ip_unprivileged_port_start";
/// Whether routers are heard on interfaces that are still to come, as [`INTERFACE`] is.
const ROUTERS: &CStr = c"/proc/sys/net/ipv6/conf/default/accept_ra";

/// `RTMGRP_LINK`.
const LINKS: u32 = 1;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
/// `NLM_F_REQUEST`.
const ASK: u16 = 1;
/// `NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE | NLM_F_CREATE`.
const SET: u16 = 0x505;
const IFF_UP: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
/// `AF_INET`, `AF_INET6`.
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// `IFA_F_NODAD`: the revision says whose an address is; nobody is asked, and it is good at once.
const NOBODY_ELSES: u8 = 2;
/// `RT_TABLE_MAIN`, `RTPROT_BOOT`, `RT_SCOPE_UNIVERSE`, `RTN_UNICAST`.
const DEFAULT_ROUTE: [u8; 4] = [254, 3, 0, 1];
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Lets programs without privilege listen on low ports of this network namespace. And another container of the pool that says it
/// were a router is not believed.
pub(crate) fn prepare() -> Result<(), Errno> {
    set_to_zero(LOW_PORTS)?;
    match set_to_zero(ROUTERS) {
        // A kernel without IPv6.
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn set_to_zero(path: &CStr) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::empty())?;
    write(&file, b"0").map(drop)
}

/// Waits for the interface, and sets it up.
///
/// # Errors
/// `ETIMEDOUT`: it did not come; or the kernel's.
pub(crate) fn set_up(attachment: &Attachment) -> Result<(), Errno> {
    // News first: what comes between the question and the wait is not missed.
    let news = open(LINKS)?;
    let requests = open(0)?;
    let index = wait_for(&news, &requests)?;
    set(&requests, &up(index))?;
    let Attachment { address, .. } = attachment;
    let body = [IPV4, attachment.length, 0, 0];
    let mut message = addressed(index, body, &address.octets());
    message.attribute(IFA_BROADCAST, &attachment.broadcast.octets());
    set(&requests, &message)?;
    set(&requests, &route(index, IPV4, &attachment.gateway.octets()))?;
    let Some(six) = &attachment.six else {
        return Ok(());
    };
    let body = [IPV6, six.length, NOBODY_ELSES, 0];
    let message = addressed(index, body, &six.address.octets());
    set(&requests, &message)?;
    set(&requests, &route(index, IPV6, &six.gateway.octets()))
}

fn open(groups: u32) -> Result<OwnedFd, Errno> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// The interface's number, once it is there.
fn wait_for(news: &OwnedFd, requests: &OwnedFd) -> Result<u32, Errno> {
    let until = timer::now() + PATIENCE;
    let mut buffer = [0_u8; 64];
    loop {
        match ask(requests) {
            Err(Errno::NODEV) => {}
            other => return other,
        }
        let left = until.saturating_sub(timer::now());
        let mut waiting = [PollFd::new(news, PollFlags::IN)];
        match poll(&mut waiting, Some(&timer::timespec(left))) {
            Ok(0) => return Err(Errno::TIMEDOUT),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        }
        // What the news are does not matter, nor that there were more than fit.
        match recv(news, &mut buffer[..], RecvFlags::empty()) {
            Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn ask(requests: &OwnedFd) -> Result<u32, Errno> {
    let mut message = Message::new(RTM_GETLINK, ASK, &[0; 16]);
    message.attribute(IFLA_IFNAME, INTERFACE.to_bytes_with_nul());
    send(requests, message.bytes(), SendFlags::empty())?;
    // What more it says of the interface is cut off.
    let mut buffer = [0_u8; 64];
    let (length, _) = recv(requests, &mut buffer[..], RecvFlags::empty())?;
    let answer = buffer.get(..length).unwrap_or_default();
    match kind(answer) {
        Some(RTM_NEWLINK) => word(answer, HEADER + 4).ok_or(Errno::BADMSG),
        Some(NLMSG_ERROR) => Err(error(answer).err().unwrap_or(Errno::BADMSG)),
        Some(_) | None => Err(Errno::BADMSG),
    }
}

/// Sends a message, and takes the acknowledgement.
fn set(requests: &OwnedFd, message: &Message) -> Result<(), Errno> {
    send(requests, message.bytes(), SendFlags::empty())?;
    let mut buffer = [0_u8; 64];
    let (length, _) = recv(requests, &mut buffer[..], RecvFlags::empty())?;
    let answer = buffer.get(..length).unwrap_or_default();
    match kind(answer) {
        Some(NLMSG_ERROR) => error(answer),
        Some(_) | None => Err(Errno::BADMSG),
    }
}

fn kind(answer: &[u8]) -> Option<u16> {
    let bytes = answer.get(4..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

fn word(answer: &[u8], at: usize) -> Option<u32> {
    let bytes = answer.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

/// What an acknowledgement says.
fn error(answer: &[u8]) -> Result<(), Errno> {
    let code = word(answer, HEADER).ok_or(Errno::BADMSG)?.cast_signed();
    match code {
        0 => Ok(()),
        code => Err(Errno::from_raw_os_error(code.saturating_neg())),
    }
}

/// "Interface: up".
fn up(index: u32) -> Message {
    let mut body = [0; 16];
    let words = [index, IFF_UP, IFF_UP]
        .into_iter()
        .flat_map(u32::to_ne_bytes);
    // Family, padding and type are 0; then index, flags, and which flags change.
    for (to, from) in body.iter_mut().skip(4).zip(words) {
        *to = from;
    }
    Message::new(RTM_NEWLINK, SET & !0x500, &body)
}

/// struct ifaddrmsg, of which `head` is family, length of the prefix, flags and scope, and its attributes.
fn addressed(index: u32, head: [u8; 4], own: &[u8]) -> Message {
    let mut body = [0; 8];
    let bytes = head.into_iter().chain(index.to_ne_bytes());
    for (to, from) in body.iter_mut().zip(bytes) {
        *to = from;
    }
    let mut message = Message::new(RTM_NEWADDR, SET, &body);
    message.attribute(IFA_LOCAL, own);
    message.attribute(IFA_ADDRESS, own);
    message
}

/// struct rtmsg and its attributes: the default route.
fn route(index: u32, family: u8, gateway: &[u8]) -> Message {
    let [table, protocol, scope, unicast] = DEFAULT_ROUTE;
    let body = [family, 0, 0, 0, table, protocol, scope, unicast, 0, 0, 0, 0];
    let mut message = Message::new(RTM_NEWROUTE, SET, &body);
    message.attribute(RTA_GATEWAY, gateway);
    message.attribute(RTA_OIF, &index.to_ne_bytes());
    message
}

/// A message in the making; the largest, an address of IPv6, has 64 bytes.
struct Message {
    bytes: [u8; 64],
    length: usize,
}

impl Message {
    /// struct nlmsghdr and a body.
    fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut message = Self {
            bytes: [0; 64],
            length: 4,
        };
        message.put(&kind.to_ne_bytes());
        message.put(&flags.to_ne_bytes());
        // Sequence number and port: one question at a time on a socket needs neither.
        message.put(&[0; 8]);
        message.put(body);
        message
    }

    fn put(&mut self, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(self.length).zip(bytes) {
            *to = *from;
        }
        self.length = self
            .length
            .saturating_add(bytes.len())
            .min(self.bytes.len());
        let length = u32::try_from(self.length).unwrap_or_default();
        for (to, from) in self.bytes.iter_mut().zip(length.to_ne_bytes()) {
            *to = from;
        }
    }

    /// struct rtattr and its value, which has whole words but for the name of the interface.
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len().saturating_add(4)).unwrap_or_default();
        self.put(&length.to_ne_bytes());
        self.put(&kind.to_ne_bytes());
        self.put(value);
        let over = self.length % 4;
        if over > 0 {
            self.put([0; 4].get(over..).unwrap_or_default());
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_kernel_reads_them() {
        let mut ask = Message::new(RTM_GETLINK, ASK, &[0; 16]);
        ask.attribute(IFLA_IFNAME, INTERFACE.to_bytes_with_nul());
        assert_eq!(ask.bytes().len(), 44);
        assert_eq!(&ask.bytes()[..8], &[44, 0, 0, 0, 18, 0, 1, 0]);
        assert_eq!(&ask.bytes()[32..], b"\x09\0\x03\0eth0\0\0\0\0");
        assert_eq!(&up(7).bytes()[..8], &[32, 0, 0, 0, 16, 0, 5, 0]);
        assert_eq!(&up(7).bytes()[20..], &[7, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
        let mut address = addressed(7, [IPV4, 24, 0, 0], &[10, 88, 0, 2]);
        address.attribute(IFA_BROADCAST, &[10, 88, 0, 255]);
        assert_eq!(&address.bytes()[..8], &[48, 0, 0, 0, 20, 0, 5, 5]);
        assert_eq!(
            &address.bytes()[16..32],
            &[2, 24, 0, 0, 7, 0, 0, 0, 8, 0, 2, 0, 10, 88, 0, 2]
        );
        assert_eq!(&address.bytes()[40..], &[8, 0, 4, 0, 10, 88, 0, 255]);
        let six = std::net::Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 2).octets();
        let address = addressed(7, [IPV6, 64, NOBODY_ELSES, 0], &six);
        assert_eq!(&address.bytes()[..8], &[64, 0, 0, 0, 20, 0, 5, 5]);
        assert_eq!(
            &address.bytes()[16..28],
            &[10, 64, 2, 0, 7, 0, 0, 0, 20, 0, 2, 0]
        );
        assert_eq!(&address.bytes()[28..44], &six);
        assert_eq!(&address.bytes()[48..], &six);
        let route = route(7, IPV4, &[10, 88, 0, 1]);
        assert_eq!(&route.bytes()[..8], &[44, 0, 0, 0, 24, 0, 5, 5]);
        assert_eq!(
            &route.bytes()[28..],
            &[8, 0, 5, 0, 10, 88, 0, 1, 8, 0, 4, 0, 7, 0, 0, 0]
        );
    }

    #[test]
    fn answers_that_are_cut_are_refused() {
        assert_eq!(error(&[0; 19]), Err(Errno::BADMSG));
        assert_eq!(error(&[0; 20]), Ok(()));
        let mut refused = [0; 20];
        refused[16..].copy_from_slice(&(-19_i32).to_ne_bytes());
        assert_eq!(error(&refused), Err(Errno::NODEV));
        assert_eq!(kind(&[0; 5]), None);
    }
}
