//! The `net` helper: interfaces as the revision configures them, and kept so.
//!
//! It brings `lo` up, gives the configured interfaces their addresses and default routes as they appear (the kernel tells;
//! nothing is polled), again when a link comes back, leases addresses ([`dhcp`]), writes `resolv.conf`, and lets containers
//! with the device's network listen on low ports. Where no interface is configured, every Ethernet port of the machine has
//! DHCP. All interfaces are up at once; of their default routes the metric decides, and routes of a port whose link is down
//! are passed over by the kernel, so that a port that fails falls to the next.
//!
//! It opens the socket of the DHCP client, which takes `CAP_NET_RAW`, and then keeps `CAP_NET_ADMIN` and nothing else. A new
//! configuration replaces the old one as it runs: what is no longer wanted is removed, also what a predecessor has left that
//! ended before its time. A setting that the kernel refuses is reported, does not stop the others, and is tried again. Networks of
//! containers' own are its work, too ([`pools`]). What it does not do yet: VLANs, time, name servers of IPv6 routers.

mod bridges;
mod connections;
pub mod dhcp;
mod frames;
mod held;
mod leases;
mod links;
pub mod pools;
mod ports;
mod rtnetlink;
mod rules;
mod ruling;

pub use frames::{MAX_REPORT, Report, Standing, configure, decode_configure};

use super::{Error, confine};
use crate::control::PortStatus;
use crate::few::Few;
use bridges::Bridges;
use dhcp::client::{Event, State};
use held::{Addresses, Pace};
use kedge_revision::configuration::{Interface, Ipv6, NetworkConfiguration, Prefix};
use kedge_sys::privilege::CapabilitySet;
use kedge_sys::rustix::event::{PollFd, PollFlags, poll};
use kedge_sys::seccomp::SockFilter;
use kedge_sys::{Errno, packet, sock, timer};
use links::Links;
use pools::{Attach, Pools};
use ports::{Port, Refused, Settings};
use rtnetlink::{Link, Listing, Netlink, News};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Largest frame from PID 1: 32 interfaces with 16 addresses each have less than 40 KiB.
pub const MAX_CONFIGURATION: usize = 64 * 1024;
/// Largest message of news, bytes: the kernel makes them no larger than the reader's buffer, and of 8 KiB first
/// (Linux `net/netlink/af_netlink.c`, netlink_dump).
const MAX_NEWS: usize = 16 * 1024;
/// By which name what is refused of containers' networks stands among ports: no interface can have one with a space in it.
pub const POOLS: &str = "containers' networks";
/// Where host-network containers find their name servers.
pub const RESOLV_CONF: &str = "/run/kedge/resolv.conf";
/// From which port on no privilege is needed to listen.
const LOW_PORTS: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
/// Lets UDP to the port of DHCP clients pass, in whole packets; offsets are from the IPv4 header on.
const FILTER: [SockFilter; 9] = [
    // Protocol: UDP.
    SockFilter::new(0x30, 0, 0, 9),
    SockFilter::new(0x15, 0, 6, 17),
    // No later fragment.
    SockFilter::new(0x28, 0, 0, 6),
    SockFilter::new(0x45, 4, 0, 0x1fff),
    // The header's length, and the port behind it.
    SockFilter::new(0xb1, 0, 0, 0),
    SockFilter::new(0x48, 0, 0, 2),
    SockFilter::new(0x15, 0, 1, 68),
    SockFilter::new(0x06, 0, 0, u32::MAX),
    SockFilter::new(0x06, 0, 0, 0),
];

/// The helper: confines itself and serves until PID 1 closes `socket`. The first frame is the configuration.
///
/// # Errors
/// [`Error::Privilege`], [`Error::Netlink`], [`Error::Socket`], [`Error::Frame`].
#[inline(never)]
pub fn run(socket: BorrowedFd<'_>, resolv_conf: &Path) -> Result<(), Error> {
    // Before the privilege for it goes. Without it there is no DHCP, and the rest goes on.
    let packets = packet::open(&FILTER).map_err(Error::Netlink);
    confine(CapabilitySet::NET_ADMIN)?;
    // Containers with the device's network have a user namespace of their own, whose
    // CAP_NET_BIND_SERVICE means nothing to it.
    if let Err(error) = overwrite(Path::new(LOW_PORTS), "0") {
        report_failure(socket, "", &error)?;
    }
    let packets = match packets {
        Ok(packets) => Some(packets),
        Err(error) => {
            report_failure(socket, "", &error)?;
            None
        }
    };
    match Net::new(socket, resolv_conf, packets)?.serve() {
        // PID 1 has closed between two looks at the socket: what was to be told is nobody's any more.
        Err(Error::Socket(error)) if error.errno == Errno::PIPE => Ok(()),
        served => served,
    }
}

struct Net<'a> {
    socket: BorrowedFd<'a>,
    resolv_conf: &'a Path,
    /// Asks and is answered.
    requests: Netlink,
    /// Is told of links.
    events: Netlink,
    /// Hears DHCP servers, once `listens`.
    packets: Option<OwnedFd>,
    listens: bool,
    links: Links,
    bridges: Bridges,
    ports: Few<String, Port>,
    held: Addresses,
    /// What is to be; none before PID 1 has said it.
    configuration: Option<NetworkConfiguration>,
    /// PID 1's number for it.
    number: u32,
    /// What PID 1 was told last of how ports stand.
    told: Option<(u32, Vec<PortStatus>)>,
    pace: Pace,
    /// What `resolv.conf` holds.
    names: Option<String>,
}

impl<'a> Net<'a> {
    fn new(
        socket: BorrowedFd<'a>,
        resolv_conf: &'a Path,
        packets: Option<OwnedFd>,
    ) -> Result<Self, Error> {
        Ok(Self {
            socket,
            resolv_conf,
            // Events first: what changes between the listing and the listening is not missed.
            events: Netlink::open(rtnetlink::EVENTS)?,
            requests: Netlink::open(0)?,
            packets,
            listens: false,
            links: Links::default(),
            bridges: Bridges::default(),
            ports: Few::default(),
            held: Addresses::default(),
            configuration: None,
            number: 0,
            told: None,
            pace: Pace::default(),
            names: None,
        })
    }

    fn serve(&mut self) -> Result<(), Error> {
        let mut buffer = vec![0; MAX_NEWS];
        loop {
            let due = self.ports.values().filter_map(Port::due);
            let due = due.chain(self.bridges.refused.due());
            let due = due.chain(self.pace.due()).min();
            let [socket, events, packets] = self.wait(due)?;
            if socket && !self.receive(&mut buffer)? {
                return Ok(());
            }
            if events {
                self.changed(&mut buffer)?;
            }
            if packets {
                self.heard(&mut buffer)?;
            }
            self.time_passes()?;
            self.make_room(None)?;
            self.write_names()?;
            self.tell()?;
        }
    }

    /// Waits for PID 1, the kernel, a server, or until `due`.
    fn wait(&self, due: Option<u64>) -> Result<[bool; 3], Error> {
        let timeout = due.map(|due| {
            let left = Duration::from_millis(due.saturating_sub(now_ms()));
            timer::timespec(left)
        });
        let packets = self.packets.as_ref().map_or(self.socket, AsFd::as_fd);
        let heard = if self.listens {
            PollFlags::IN
        } else {
            PollFlags::empty()
        };
        let mut waiting = [
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::new(&self.events, PollFlags::IN),
            PollFd::new(&packets, heard),
        ];
        match poll(&mut waiting, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(waiting.map(|fd| !fd.revents().is_empty())),
            Err(errno) => Err(Error::Socket(kedge_sys::Error::new("poll", errno))),
        }
    }

    /// A new configuration, pools, a container for one, or its end; false: PID 1 has closed.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<bool, Error> {
        // Its buffer is made as large as it is: most configurations have some hundred bytes.
        let length = match sock::pending(self.socket) {
            Ok(length) => length.min(MAX_CONFIGURATION),
            Err(error) if error.errno == Errno::INTR => return Ok(true),
            Err(error) if error.errno == Errno::CONNRESET => return Ok(false),
            Err(error) => return Err(Error::Socket(error)),
        };
        let mut frame = vec![0; length];
        let (frame, descriptors) = match sock::receive(self.socket, &mut frame) {
            Ok(received) if received.bytes == 0 => return Ok(false),
            Ok(received) => (
                frame.get(..received.bytes).unwrap_or_default(),
                received.descriptors,
            ),
            Err(error) if error.errno == Errno::INTR => return Ok(true),
            Err(error) if error.errno == Errno::CONNRESET => return Ok(false),
            Err(error) => return Err(Error::Socket(error)),
        };
        match (frame.first(), descriptors.first()) {
            (Some(2), _) => {
                let wanted = Pools::decode(frame).map_err(Error::Frame)?;
                return self.set_pools(wanted).map(|()| true);
            }
            (Some(3), Some(namespace)) => {
                let attach = Attach::decode(frame).map_err(Error::Frame)?;
                return self.attach(&attach, namespace.as_fd()).map(|()| true);
            }
            (Some(4), _) => {
                let pid = pools::decode_detach(frame).map_err(Error::Frame)?;
                return self.detach(pid).map(|()| true);
            }
            _ => {}
        }
        let (number, configuration) = decode_configure(frame).map_err(Error::Frame)?;
        let first = self.configuration.replace(configuration).is_none();
        self.number = number;
        if let Err(error) = self.requests.set_up(rtnetlink::LOOPBACK, true) {
            self.refused("lo", "bring up", error)?;
        }
        self.links = Links::default();
        self.list(first, buffer)?;
        Ok(true)
    }

    /// Looks at all that is there; the first time also at what a predecessor has left.
    fn list(&mut self, first: bool, buffer: &mut [u8]) -> Result<(), Error> {
        let links = self.requests.list(Listing::Links, buffer)?;
        self.held.clear();
        let addresses = self.requests.list(Listing::Addresses, buffer)?;
        let mut left: Few<u32, Settings> = Few::default();
        for news in &addresses {
            let News::Address(held) = news else { continue };
            self.held.hold(held);
            if held.ours {
                left.of(held.index).addresses.push(held.prefix);
            }
        }
        if first {
            for news in self.requests.list(Listing::Routes, buffer)? {
                if let News::Route(index, route) = news {
                    left.of(index).routes.push(route);
                }
            }
            self.adopt(&links, left);
        }
        links.iter().try_for_each(|news| self.take(news))?;
        let vanished = ports::vanished(&self.ports, &links);
        vanished.iter().try_for_each(|link| self.link(link))
    }

    /// What a predecessor has set up is as if it were set up here, and goes or stays as the configuration says. An address that
    /// was leased goes until there is a new lease: how long the old one held is not known.
    fn adopt(&mut self, links: &[News], mut left: Few<u32, Settings>) {
        for news in links {
            let News::Link(link) = news else { continue };
            // Bridges of pools are not among the interfaces that are configured.
            if link.group == rtnetlink::GROUP {
                continue;
            }
            if let Some((_, given)) = left.take(&link.index) {
                let mut port = Port::new(link, Interface::default(), 0);
                port.given = given;
                self.ports.insert(link.name.clone(), port);
            }
        }
    }

    fn take(&mut self, news: &News) -> Result<(), Error> {
        match news {
            News::Link(link) => self.link(link),
            News::Address(held) => {
                self.held.hold(held);
                Ok(())
            }
            News::Route(..) => Ok(()),
        }
    }

    fn changed(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        // What was before the configuration is listed with it.
        let configured = self.configuration.is_some();
        match self.events.news(buffer) {
            Ok((news, _)) if configured => news.iter().try_for_each(|news| self.take(news)),
            Ok(_) => Ok(()),
            // More happened than the socket holds: what is there now is what counts.
            Err(Error::Netlink(error)) if error.errno == Errno::NOBUFS && configured => {
                self.list(false, buffer)
            }
            Err(Error::Netlink(error)) if error.errno == Errno::NOBUFS => Ok(()),
            Err(Error::Netlink(error)) if matches!(error.errno, Errno::AGAIN | Errno::INTR) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// What is known of one link has changed, or not.
    fn link(&mut self, link: &Link) -> Result<(), Error> {
        let name = link.name.as_str();
        let network = self.configuration.as_ref();
        let Some(interface) = network.and_then(|network| ports::interface(network, link)) else {
            return self.release(link);
        };
        let change = self.links.update(link);
        // Gone, or another one of the same name in its place, which has nothing yet. An older one may go after the newer came.
        let over = |port: &Port| (port.index == link.index) == link.gone;
        if self.ports.get(name).is_some_and(over) {
            self.ports.take(name);
        }
        if change.apply {
            self.set_up(link, interface)?;
        }
        if let Some(port) = self.ports.get_mut(name) {
            port.carrier = link.carrier;
        }
        match change.carrier {
            Some(true) => self.report(&Report::Up { name })?,
            Some(false) => self.report(&Report::Down { name })?,
            None => {}
        }
        match change.carrier {
            Some(true) => self.dhcp(name, Event::Up),
            Some(false) => self.dhcp(name, Event::Down),
            None => Ok(()),
        }
    }

    /// An interface that the configuration has no more is as if it never had been in it.
    fn release(&mut self, link: &Link) -> Result<(), Error> {
        let Some((_, mut port)) = self.ports.take(&link.name) else {
            return Ok(());
        };
        if link.gone {
            return Ok(());
        }
        self.replace(&link.name, &mut port, &Settings::default())?;
        if port.index == rtnetlink::LOOPBACK {
            return Ok(());
        }
        self.requests
            .set_up(port.index, false)
            .or_else(|error| self.refused(&link.name, "take down", error))
    }

    /// Begins with an interface, or begins anew with what a new configuration says of it.
    fn set_up(&mut self, link: &Link, interface: Interface) -> Result<(), Error> {
        let name = link.name.as_str();
        let network = self.configuration.as_ref();
        let metric = network.map_or(0, |network| ports::metric(network, link));
        let fresh = || Port::new(link, Interface::default(), metric);
        let mut port = self.ports.take(name).map_or_else(fresh, |(_, port)| port);
        if !interface.dhcp {
            port.dhcp = State::Nothing;
        }
        port.interface = interface;
        port.metric = metric;
        self.rules(name, &port)?;
        if let Err(error) = self.requests.set_up(link.index, true) {
            self.refused(name, "bring up", error)?;
        }
        if port.interface.dhcp && port.hardware.is_none() {
            let errno = Errno::OPNOTSUPP;
            let doing = "lease an address for";
            self.report(&Report::Failed { errno, name, doing })?;
        }
        let wanted = port.wanted();
        if self.replace(name, &mut port, &wanted)? {
            self.report(&Report::Applied { name })?;
        }
        self.ports.insert(link.name.clone(), port);
        Ok(())
    }

    /// What the kernel is to do by itself on an interface.
    fn rules(&self, name: &str, port: &Port) -> Result<(), Error> {
        let metric = port.announced_metric().to_string();
        let off = match port.interface.ipv6 {
            Ipv6::Automatic => "0",
            Ipv6::Off => "1",
        };
        for (family, rule, value) in [
            ("ipv4", "ignore_routes_with_linkdown", "1"),
            ("ipv6", "ignore_routes_with_linkdown", "1"),
            // Before addresses and announcements come. Of a router that is known already it counts from its next one on.
            ("ipv6", "ra_defrtr_metric", &metric),
            // Also where the device forwards for pools.
            ("ipv6", "accept_ra", "2"),
            ("ipv6", "disable_ipv6", off),
        ] {
            let path = format!("/proc/sys/net/{family}/conf/{name}/{rule}");
            match overwrite(Path::new(&path), value) {
                // A kernel without IPv6 has nothing to be told.
                Err(error) if error.errno() == Errno::NOENT && family == "ipv6" => {}
                Err(error) => report_failure(self.socket, name, &error)?,
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Goes from what a port was given to `wanted`: removes the rest, and gives all of it again, since the kernel drops
    /// routes with the addresses that they use and with a link that is taken down. False: something was refused, and is
    /// tried again.
    fn replace(&mut self, name: &str, port: &mut Port, wanted: &Settings) -> Result<bool, Error> {
        self.make_room(Some((name, port)))?;
        let index = port.index;
        let mut refused = Vec::new();
        let mut outcome =
            |doing, value: &dyn core::fmt::Display, done: Result<(), Error>| match done {
                Ok(()) => Ok(true),
                Err(Error::Netlink(error)) => {
                    let (value, errno) = (value.to_string(), error.errno);
                    refused.push(Refused {
                        doing,
                        value,
                        errno,
                    });
                    Ok(false)
                }
                // Anything else ends the helper.
                Err(error) => Err(error),
            };
        let given = core::mem::take(&mut port.given);
        // What is to go may have gone already.
        for route in given.routes.iter().filter(|r| !wanted.routes.contains(r)) {
            let done = self.requests.remove_default_route(index, *route);
            done.or_else(only_refusals)?;
        }
        let other = |prefix: &&Prefix| !wanted.addresses.contains(prefix);
        for prefix in given.addresses.iter().filter(other) {
            let done = self.requests.remove_address(index, *prefix);
            done.or_else(only_refusals)?;
        }
        port.given.mtu = given.mtu;
        if given.mtu != wanted.mtu {
            let mtu = wanted.mtu.map_or(port.mtu, u32::from);
            if outcome("set the MTU of", &mtu, self.requests.set_mtu(index, mtu))? {
                port.given.mtu = wanted.mtu;
            }
        }
        for prefix in &wanted.addresses {
            let done = self.requests.add_address(index, *prefix);
            if outcome("give an address to", prefix, done)? {
                port.given.addresses.push(*prefix);
            }
        }
        for route in &wanted.routes {
            let done = self.requests.add_default_route(index, *route);
            if outcome("route by", &route.gateway, done)? {
                port.given.routes.push(*route);
            }
        }
        let good = refused.is_empty();
        for Refused { doing, errno, .. } in port.refused.take(refused, now_ms()) {
            self.report(&Report::Failed { errno, name, doing })?;
        }
        Ok(good)
    }

    /// Tells PID 1 how ports stand, where that is not what it was told, and not at the pace of others.
    fn tell(&mut self) -> Result<(), Error> {
        if self.configuration.is_none() {
            return Ok(());
        }
        let status = |(name, port): (&String, &Port)| port.status(name, self.held.of(port.index));
        let mut stand: Vec<PortStatus> = self.ports.iter().map(status).collect();
        if self.bridges.refused.due().is_some() {
            stand.push(PortStatus {
                name: POOLS.to_owned(),
                refused: self.bridges.refused.texts("").collect(),
                ..PortStatus::default()
            });
        }
        let stand = (self.number, stand);
        if self.told.as_ref() == Some(&stand) {
            self.pace.rest();
            return Ok(());
        }
        if !self.pace.may(now_ms()) {
            return Ok(());
        }
        for frame in frames::ports(stand.0, &stand.1) {
            sock::send(self.socket, &frame, &[]).map_err(Error::Socket)?;
        }
        self.told = Some(stand);
        Ok(())
    }

    /// A refusal of the kernel is reported; anything else ends the helper.
    fn refused(&self, name: &str, doing: &'static str, error: Error) -> Result<(), Error> {
        let errno = error.errno();
        if !matches!(error, Error::Netlink(_)) {
            return Err(error);
        }
        self.report(&Report::Failed { errno, name, doing })
    }

    fn report(&self, report: &Report<'_>) -> Result<(), Error> {
        sock::send(self.socket, &report.encode(), &[])
            .map(drop)
            .map_err(Error::Socket)
    }

    /// Writes `resolv.conf` where it is not as it should be.
    fn write_names(&mut self) -> Result<(), Error> {
        let Some(configuration) = &self.configuration else {
            return Ok(());
        };
        let names = ports::names(configuration, self.ports.values());
        if self.names.as_ref() == Some(&names) {
            return Ok(());
        }
        if let Err(error) = overwrite(self.resolv_conf, &names) {
            report_failure(self.socket, "", &error)?;
        }
        self.names = Some(names);
        Ok(())
    }
}

fn now_ms() -> u64 {
    u64::try_from(timer::now().as_millis()).unwrap_or(u64::MAX)
}

/// For what may fail because it is done already.
fn only_refusals(error: Error) -> Result<(), Error> {
    if matches!(error, Error::Netlink(_)) {
        Ok(())
    } else {
        Err(error)
    }
}

fn report_failure(socket: BorrowedFd<'_>, name: &str, error: &Error) -> Result<(), Error> {
    let doing = &error.to_string();
    let errno = error.errno();
    let report = Report::Failed { errno, name, doing };
    sock::send(socket, &report.encode(), &[])
        .map(drop)
        .map_err(Error::Socket)
}

/// Writes in place: containers have the file itself mounted, so another one by the same name would
/// not reach them. It lives in memory, so there is nothing to sync.
fn overwrite(path: &Path, text: &str) -> Result<(), Error> {
    OpenOptions::new()
        .write(true)
        .create(!path.starts_with("/proc"))
        .truncate(true)
        .open(path)
        .and_then(|mut file: File| file.write_all(text.as_bytes()))
        .map_err(|source| Error::File {
            doing: "write",
            path: path.to_owned(),
            source,
        })
}
