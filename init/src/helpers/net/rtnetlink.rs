//! The little of rtnetlink(7) that wired networks need: links up, addresses, default routes, news of links and addresses.
//!
//! What is set here bears our mark ([`OURS`]), so that a helper that is started again knows what its predecessor has left.
//!
//! Messages are built and read as bytes, in the machine's own byte order; lengths that the kernel
//! sends are checked as if a stranger had sent them.

use super::super::Error;
use core::net::IpAddr;
use kedge_revision::configuration::Prefix;
use kedge_sys::rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use kedge_sys::rustix::net::sockopt::set_socket_send_buffer_size;
use kedge_sys::rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send,
    socket_with,
};
use kedge_sys::{During, Errno};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// `RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR`.
pub(super) const EVENTS: u32 = 0x111;
/// The loopback interface has this index in every network namespace.
pub(super) const LOOPBACK: u32 = 1;

/// What is asked for, of which the kernel makes twice as much.
const MOST_RULES: usize = 212_992;
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
pub(super) const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
/// `NLM_F_REQUEST | NLM_F_ACK`.
pub(super) const ACKNOWLEDGED: u16 = 5;
/// `NLM_F_REPLACE | NLM_F_CREATE`: doing it twice is no error.
const REPLACE: u16 = 0x500;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
pub(super) const DUMP: u16 = 0x301;
pub(super) const IFF_UP: u32 = 1;
/// The driver sees a carrier.
const IFF_LOWER_UP: u32 = 0x1_0000;
/// `ARPHRD_ETHER`
const ETHERNET: u16 = 1;
pub(super) const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
pub(super) const IFLA_GROUP: u16 = 27;
/// The group of interfaces that are made for pools. Whose group a board sets, and to what, it knows; nobody else has this one.
pub(super) const GROUP: u32 = 0x4b45;
/// Only an interface that stands on a device has it, since Linux 5.14: no bridge, tunnel or pair has.
const IFLA_PARENT_DEV_NAME: u16 = 56;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// Who has set an address, since Linux 5.18.
const IFA_PROTO: u16 = 11;
/// `IFA_F_NODAD`.
const NOBODY_ELSES: u8 = 2;
/// `RT_SCOPE_LINK`: from there on an address is known to the link, or to the host alone.
const LINK: u8 = 253;
/// `IFA_F_TENTATIVE | IFA_F_DADFAILED`: not to be used yet, or at all.
const UNUSABLE: u32 = 0x48;
/// The value of [`IFA_PROTO`] and of a route's protocol that marks what is set here. Both are for user space to choose, and
/// nobody whom iproute2's tables know has this one.
const OURS: u8 = 75;
/// `RTNH_F_ONLINK`: the gateway is taken to be behind the interface, though no address says so.
const ONLINK: u32 = 4;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
/// `RT_TABLE_MAIN`, [`OURS`], `RT_SCOPE_UNIVERSE`, `RTN_UNICAST`.
const DEFAULT_ROUTE: [u8; 4] = [254, OURS, 0, 1];
const HEADER: usize = 16;

/// One link, as the kernel tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// The interface's index.
    pub(super) index: u32,
    /// The interface's name.
    pub(super) name: String,
    /// Whether a cable, or what stands for it, is in.
    pub(super) carrier: bool,
    /// Whether it has just gone.
    pub(super) gone: bool,
    /// Its address, if it is an Ethernet.
    pub(super) hardware: Option<[u8; 6]>,
    /// Whether it is a port of the machine: an Ethernet that stands on a device.
    pub(super) is_port: bool,
    /// Largest packet.
    pub(super) mtu: u32,
    /// Its group; [`GROUP`] is that of pools.
    pub(super) group: u32,
}

/// An address that the kernel tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    /// The interface's index.
    pub(super) index: u32,
    /// The address.
    pub(super) prefix: Prefix,
    /// Whether others can reach it: its scope is no link's, and it is known to be nobody else's.
    pub(super) usable: bool,
    /// Whether it bears our mark.
    pub(super) ours: bool,
    /// Whether it has just gone.
    pub(super) gone: bool,
}

/// What the kernel tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// Of a link.
    Link(Link),
    /// Of an address.
    Address(Held),
    /// Of a default route with our mark, and of which interface it is.
    Route(u32, Route),
}

/// What can be asked for as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listing {
    Links,
    Addresses,
    Routes,
}

/// A default route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    /// By which router.
    pub(super) gateway: IpAddr,
    /// Its place among the default routes.
    pub(super) metric: u32,
    /// Whether the router is reached though no address of the interface is in its network.
    pub(super) onlink: bool,
}

/// A socket to the kernel's network configuration.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Netlink {
    /// A socket that is told of `groups`.
    pub(super) fn open(groups: u32) -> Result<Self, Error> {
        // NETLINK_ROUTE is 0, the protocol that is meant where none is named.
        Self::of(None, groups)
    }

    /// A socket to the kernel's rules for packets.
    pub(super) fn open_rules() -> Result<Self, Error> {
        let socket = Self::of(Some(NETFILTER), 0)?;
        // All rules are one message, of up to 300 kB.
        set_socket_send_buffer_size(&socket.0, MOST_RULES)
            .during("buffer")
            .map_err(Error::Netlink)?;
        Ok(socket)
    }

    fn of(protocol: Option<Protocol>, groups: u32) -> Result<Self, Error> {
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, protocol)
            .during("socket")
            .map_err(Error::Netlink)?;
        bind(&socket, &SocketAddrNetlink::new(0, groups))
            .during("bind")
            .map_err(Error::Netlink)?;
        Ok(Self(socket))
    }

    /// Everything of a kind, read to its end.
    pub(super) fn list(&self, what: Listing, buffer: &mut [u8]) -> Result<Vec<News>, Error> {
        // The bodies are struct ifinfomsg, ifaddrmsg and rtmsg, of which zeros mean all.
        let ask = match what {
            Listing::Links => message(RTM_GETLINK, DUMP, &[&[0; 16]]),
            Listing::Addresses => message(RTM_GETADDR, DUMP, &[&[0; 8]]),
            Listing::Routes => message(RTM_GETROUTE, DUMP, &[&[0; 12]]),
        };
        self.send(&ask)?;
        let mut all = Vec::new();
        loop {
            let (news, done) = self.news(buffer)?;
            all.extend(news);
            if done {
                return Ok(all);
            }
        }
    }

    /// What the next datagram tells, and whether a listing ends with it.
    pub(super) fn news(&self, buffer: &mut [u8]) -> Result<(Vec<News>, bool), Error> {
        let mut news = Vec::new();
        let mut done = false;
        for (kind, payload) in self.receive(buffer)? {
            match kind {
                RTM_NEWLINK | RTM_DELLINK => news.extend(link(kind, payload).map(News::Link)),
                RTM_NEWADDR | RTM_DELADDR => news.extend(held(kind, payload).map(News::Address)),
                RTM_NEWROUTE => {
                    news.extend(route(payload).map(|(index, route)| News::Route(index, route)));
                }
                NLMSG_DONE => done = true,
                NLMSG_ERROR => answer(payload).map_err(|errno| refused("listing", errno))?,
                _ => {}
            }
        }
        Ok((news, done))
    }

    /// Brings an interface up, or takes it down.
    pub(super) fn set_up(&self, index: u32, up: bool) -> Result<(), Error> {
        let body = interface(index, if up { IFF_UP } else { 0 }, IFF_UP);
        self.command("link up", &message(RTM_NEWLINK, ACKNOWLEDGED, &[&body]))
    }

    /// Sets the largest packet.
    pub(super) fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), Error> {
        let body = interface(index, 0, 0);
        let parts = [&body[..], &attribute(IFLA_MTU, &mtu.to_ne_bytes())];
        self.command("mtu", &message(RTM_NEWLINK, ACKNOWLEDGED, &parts))
    }

    /// Gives an interface an address.
    pub(super) fn add_address(&self, index: u32, prefix: Prefix) -> Result<(), Error> {
        let (kind, flags) = (RTM_NEWADDR, ACKNOWLEDGED | REPLACE);
        self.command("address", &address_message(kind, flags, index, prefix))
    }

    /// Gives an interface an address that is nobody else's by what we give out: nobody is asked for it, and it is good at once.
    pub(super) fn add_own_address(&self, index: u32, prefix: Prefix) -> Result<(), Error> {
        let (kind, flags) = (RTM_NEWADDR, ACKNOWLEDGED | REPLACE);
        let mut message = address_message(kind, flags, index, prefix);
        if let (Some(flags), IpAddr::V6(_)) = (message.get_mut(HEADER + 2), prefix.address) {
            *flags = NOBODY_ELSES;
        }
        self.command("address", &message)
    }

    /// Takes an address from an interface, and with it the routes that use it.
    pub(super) fn remove_address(&self, index: u32, prefix: Prefix) -> Result<(), Error> {
        let message = address_message(RTM_DELADDR, ACKNOWLEDGED, index, prefix);
        self.command("address", &message)
    }

    /// Makes `gateway`, reached over the interface, a default route of its family; of several, that with the lowest
    /// metric is taken.
    pub(super) fn add_default_route(&self, index: u32, route: Route) -> Result<(), Error> {
        let flags = ACKNOWLEDGED | REPLACE;
        self.command("route", &route_message(RTM_NEWROUTE, flags, index, route))
    }

    /// Removes such a route.
    pub(super) fn remove_default_route(&self, index: u32, route: Route) -> Result<(), Error> {
        let message = route_message(RTM_DELROUTE, ACKNOWLEDGED, index, route);
        self.command("route", &message)
    }

    /// The messages of the next datagram.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<Messages<'a>, Error> {
        let (length, _) = recv(&self.0, &mut *buffer, RecvFlags::empty())
            .during("recv")
            .map_err(Error::Netlink)?;
        Ok(Messages(buffer.get(..length).unwrap_or_default()))
    }

    pub(super) fn send(&self, message: &[u8]) -> Result<(), Error> {
        send(&self.0, message, SendFlags::empty())
            .during("send")
            .map(drop)
            .map_err(Error::Netlink)
    }

    /// Sends and waits for the kernel's answer, which it gives before the send returns.
    pub(super) fn command(&self, operation: &'static str, message: &[u8]) -> Result<(), Error> {
        self.send(message)?;
        let mut buffer = [0; 1024];
        for (kind, payload) in self.receive(&mut buffer)? {
            if kind == NLMSG_ERROR {
                return answer(payload).map_err(|errno| refused(operation, errno));
            }
        }
        Err(refused(operation, Errno::PROTO))
    }
}

pub(super) fn refused(operation: &'static str, errno: Errno) -> Error {
    Error::Netlink(kedge_sys::Error::new(operation, errno))
}

/// struct nlmsghdr and what follows it.
pub(super) fn message(kind: u16, flags: u16, parts: &[&[u8]]) -> Vec<u8> {
    let size: usize = parts.iter().map(|part| part.len()).sum::<usize>() + HEADER;
    let mut message = Vec::with_capacity(size);
    // A message here has less than 200 bytes.
    let length = u32::try_from(size).unwrap_or(u32::MAX);
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    // Sequence number and port: one question at a time on a socket needs neither.
    message.extend_from_slice(&[0; 8]);
    for part in parts {
        message.extend_from_slice(part);
    }
    message
}

/// struct ifinfomsg: family, type, index, flags and which of them are meant.
pub(super) fn interface(index: u32, flags: u32, meant: u32) -> [u8; 16] {
    let mut body = [0; 16];
    let fields = index
        .to_ne_bytes()
        .into_iter()
        .chain(flags.to_ne_bytes())
        .chain(meant.to_ne_bytes());
    for (to, from) in body.iter_mut().skip(4).zip(fields) {
        *to = from;
    }
    body
}

/// struct rtmsg and its attributes; destination and source have a prefix of 0 bits.
fn route_message(kind: u16, flags: u16, index: u32, route: Route) -> Vec<u8> {
    let [table, protocol, scope, unicast] = DEFAULT_ROUTE;
    let family = family(route.gateway);
    let body = [family, 0, 0, 0, table, protocol, scope, unicast];
    let how = if route.onlink { ONLINK } else { 0 }.to_ne_bytes();
    let parts = [
        &body[..],
        &how,
        &attribute(RTA_GATEWAY, &octets(route.gateway)),
        &attribute(RTA_OIF, &index.to_ne_bytes()),
        &attribute(RTA_PRIORITY, &route.metric.to_ne_bytes()),
    ];
    message(kind, flags, &parts)
}

/// struct ifaddrmsg and its attributes.
fn address_message(kind: u16, flags: u16, index: u32, prefix: Prefix) -> Vec<u8> {
    let Prefix { address, length } = prefix;
    let mut body = vec![family(address), length, 0, 0];
    body.extend_from_slice(&index.to_ne_bytes());
    let bytes = octets(address);
    let mut parts = vec![
        body,
        attribute(IFA_LOCAL, &bytes),
        attribute(IFA_ADDRESS, &bytes),
    ];
    if let IpAddr::V4(v4) = address
        && length < 31
    {
        // The kernel does not derive it.
        let hosts = u32::MAX.checked_shr(length.into()).unwrap_or(0);
        let broadcast = (v4.to_bits() | hosts).to_be_bytes();
        parts.push(attribute(IFA_BROADCAST, &broadcast));
    }
    parts.push(attribute(IFA_PROTO, &[OURS]));
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    message(kind, flags, &parts)
}

/// struct rtattr and its value, filled to four bytes.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut attribute = length.to_ne_bytes().to_vec();
    attribute.extend_from_slice(&kind.to_ne_bytes());
    attribute.extend_from_slice(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// `AF_INET`, `AF_INET6`.
const fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The errno of an `NLMSG_ERROR`; 0 is an acknowledgement.
pub(super) fn answer(payload: &[u8]) -> Result<(), Errno> {
    let code = payload.first_chunk().copied().map(i32::from_ne_bytes);
    match code.and_then(i32::checked_neg) {
        Some(0) => Ok(()),
        Some(errno @ 1..4096) => Err(Errno::from_raw_os_error(errno)),
        Some(_) | None => Err(Errno::PROTO),
    }
}

/// A link from the payload of its message.
fn link(kind: u16, payload: &[u8]) -> Option<Link> {
    let (body, mut rest) = payload.split_first_chunk::<16>()?;
    let [_, _, t0, t1, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *body;
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let ethernet = u16::from_ne_bytes([t0, t1]) == ETHERNET;
    let mut link = Link {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        name: String::new(),
        carrier: flags & (IFF_UP | IFF_LOWER_UP) == IFF_UP | IFF_LOWER_UP,
        gone: kind == RTM_DELLINK,
        hardware: None,
        is_port: false,
        mtu: 0,
        group: 0,
    };
    while let Some((attribute, value)) = next_attribute(&mut rest)? {
        match attribute {
            IFLA_IFNAME => {
                link.name = core::str::from_utf8(value)
                    .ok()?
                    .trim_end_matches('\0')
                    .to_owned();
            }
            IFLA_ADDRESS if ethernet => link.hardware = value.try_into().ok(),
            IFLA_MTU => link.mtu = u32::from_ne_bytes(value.try_into().ok()?),
            IFLA_GROUP => link.group = u32::from_ne_bytes(value.try_into().ok()?),
            IFLA_PARENT_DEV_NAME => link.is_port = ethernet,
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

/// The next attribute and its value, `Some(None)` at the end; `None`: it does not fit.
#[expect(
    clippy::option_option,
    reason = "the end of a list is something else than a torn one"
)]
pub(super) fn next_attribute<'a>(rest: &mut &'a [u8]) -> Option<Option<(u16, &'a [u8])>> {
    let Some((length, after)) = rest.split_first_chunk::<2>() else {
        return Some(None);
    };
    let length = usize::from(u16::from_ne_bytes(*length));
    let attribute = after.first_chunk().copied().map(u16::from_ne_bytes)?;
    let value = rest.get(4..length)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some(Some((attribute, value)))
}

/// An address from the payload of its message.
fn held(kind: u16, payload: &[u8]) -> Option<Held> {
    let (body, mut rest) = payload.split_first_chunk::<8>()?;
    let [family, length, flags, scope, i0, i1, i2, i3] = *body;
    let (mut address, mut flags, mut proto) = (None, u32::from(flags), 0);
    while let Some((attribute, value)) = next_attribute(&mut rest)? {
        match attribute {
            // Where it has a peer, that is the other one.
            IFA_LOCAL => address = ip(family, value),
            IFA_ADDRESS if address.is_none() => address = ip(family, value),
            IFA_FLAGS => flags = u32::from_ne_bytes(value.try_into().ok()?),
            IFA_PROTO => proto = value.first().copied()?,
            _ => {}
        }
    }
    Some(Held {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        prefix: Prefix {
            address: address?,
            length,
        },
        usable: scope < LINK && flags & UNUSABLE == 0,
        ours: proto == OURS,
        gone: kind == RTM_DELADDR,
    })
}

/// A default route with our mark from the payload of its message, and its interface.
fn route(payload: &[u8]) -> Option<(u32, Route)> {
    let (body, mut rest) = payload.split_first_chunk::<12>()?;
    let [
        family,
        destination,
        _,
        _,
        table,
        protocol,
        scope,
        kind,
        flags @ ..,
    ] = *body;
    if destination != 0 || [table, protocol, scope, kind] != DEFAULT_ROUTE {
        return None;
    }
    let (mut gateway, mut index, mut metric) = (None, None, 0);
    while let Some((attribute, value)) = next_attribute(&mut rest)? {
        match attribute {
            RTA_GATEWAY => gateway = ip(family, value),
            RTA_OIF => index = Some(u32::from_ne_bytes(value.try_into().ok()?)),
            RTA_PRIORITY => metric = u32::from_ne_bytes(value.try_into().ok()?),
            _ => {}
        }
    }
    let route = Route {
        gateway: gateway?,
        metric,
        onlink: u32::from_ne_bytes(flags) & ONLINK != 0,
    };
    Some((index?, route))
}

fn ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match family {
        2 => Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
        10 => Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
        _ => None,
    }
}

/// The messages of a datagram: kind and payload.
pub(super) struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.0.split_first_chunk()?;
        let kind = rest.first_chunk().copied().map(u16::from_ne_bytes)?;
        let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
        let payload = self.0.get(HEADER..length)?;
        let next = length.checked_next_multiple_of(4)?;
        self.0 = self.0.get(next..).unwrap_or_default();
        Some((kind, payload))
    }
}

#[cfg(test)]
mod tests;
