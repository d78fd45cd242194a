//! What each interface is to have, and what it was given: pure, but for the types of the kernel's messages.

use super::dhcp::client::{Lease, State};
use super::rtnetlink::{Link, News, Route};
use crate::control::{LeaseStatus, PortStatus};
use crate::few::Few;
use core::net::{IpAddr, Ipv4Addr};
use kedge_revision::configuration::{Interface, NetworkConfiguration, Ports, Prefix};
use kedge_sys::Errno;
use std::net::UdpSocket;

/// Between the metrics of default routes of one interface and the next.
const METRIC: u32 = 100;
/// Smallest MTU that a lease may set: that of IPv6, which the kernel takes from an interface with less.
const MIN_MTU: u16 = 1280;
/// What is added to the metric for default routes that IPv6 routers announce: those of the configuration go first.
const ANNOUNCED: u32 = METRIC / 2;
/// Before what the kernel refused is tried again, milliseconds; twice that each time, up to [`RETRY_MOST_MS`].
const RETRY_MS: u64 = 1000;
const RETRY_MOST_MS: u64 = 64_000;
/// Most addresses of a port that the status shows: routers may announce as many as they like.
const MOST_SHOWN: usize = 16;

/// An interface that is set up.
#[derive(Debug)]
pub(super) struct Port {
    /// The kernel's number for it.
    pub(super) index: u32,
    /// The link's address, if it is an Ethernet.
    pub(super) hardware: Option<[u8; 6]>,
    /// Largest packet before a lease said otherwise.
    pub(super) mtu: u32,
    /// What it is to be.
    pub(super) interface: Interface,
    /// Whether there is a link.
    pub(super) carrier: bool,
    /// Of its default routes.
    pub(super) metric: u32,
    /// The client, where the address is leased.
    pub(super) dhcp: State,
    /// While a lease is renewed: by which the server is asked, and which holds the port that it answers to.
    pub(super) renewing: Option<UdpSocket>,
    /// What it was given, and the kernel took.
    pub(super) given: Settings,
    /// What the kernel refused.
    pub(super) refused: Refusals,
}

/// What was refused of one thing, and is tried again.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    all: Vec<Refused>,
    /// When it is tried again, milliseconds, and how often it was.
    retry: Option<(u64, u32)>,
}

/// A setting that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    /// What was tried, as in "cannot … eth0".
    pub(super) doing: &'static str,
    /// The value.
    pub(super) value: String,
    /// Why.
    pub(super) errno: Errno,
}

/// What an interface has beside its link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) addresses: Vec<Prefix>,
    pub(super) routes: Vec<Route>,
    pub(super) mtu: Option<u16>,
}

impl Refusals {
    /// Takes in what has been refused this time: what is to be told of it, which is what was not told before. What
    /// is left is tried again after a while.
    pub(super) fn take(&mut self, refused: Vec<Refused>, now: u64) -> Vec<Refused> {
        let before = core::mem::replace(&mut self.all, refused);
        let tried = self.retry.take().map_or(0, |(_, tried)| tried);
        if !self.all.is_empty() {
            let wait = (RETRY_MS << tried.min(6)).min(RETRY_MOST_MS);
            self.retry = Some((now.saturating_add(wait), tried.saturating_add(1)));
        }
        let new = |refused: &&Refused| !before.contains(refused);
        self.all.iter().filter(new).cloned().collect()
    }

    /// When it is tried again.
    pub(super) fn due(&self) -> Option<u64> {
        self.retry.map(|(at, _)| at)
    }

    /// For the device's status, with `of` before each value; at most [`MOST_SHOWN`].
    pub(super) fn texts(&self, of: &str) -> impl Iterator<Item = String> {
        let all = self.all.iter().map(move |refused| {
            let Refused {
                doing,
                value,
                errno,
            } = refused;
            format!("{doing} {of}{value}: {errno}")
        });
        all.take(MOST_SHOWN)
    }
}

impl Port {
    pub(super) fn new(link: &Link, interface: Interface, metric: u32) -> Self {
        Self {
            index: link.index,
            hardware: link.hardware,
            mtu: link.mtu,
            interface,
            carrier: link.carrier,
            metric,
            dhcp: State::Nothing,
            renewing: None,
            given: Settings::default(),
            refused: Refusals::default(),
        }
    }

    /// When the client or the kernel is to be asked again.
    pub(super) fn due(&self) -> Option<u64> {
        self.dhcp.due().into_iter().chain(self.refused.due()).min()
    }

    /// The metric of default routes that IPv6 routers announce.
    pub(super) const fn announced_metric(&self) -> u32 {
        self.metric.saturating_add(ANNOUNCED)
    }

    /// For the device's status; `held` is what the kernel says that it has.
    pub(super) fn status(&self, name: &str, held: &[Prefix]) -> PortStatus {
        let texts = |values: &mut dyn Iterator<Item = String>| values.take(MOST_SHOWN).collect();
        let lease = self.dhcp.lease().map(|lease| LeaseStatus {
            address: lease.address.to_string(),
            server: lease.server.to_string(),
            nameservers: texts(&mut lease.options.nameservers.iter().map(ToString::to_string)),
            ends_ms: (lease.expires_at != u64::MAX).then_some(lease.expires_at),
        });
        PortStatus {
            name: name.to_owned(),
            link: self.carrier,
            dhcp: self.leases().map(|_| self.dhcp.word().to_owned()),
            addresses: texts(&mut held.iter().map(ToString::to_string)),
            gateways: texts(
                &mut self
                    .given
                    .routes
                    .iter()
                    .map(|route| route.gateway.to_string()),
            ),
            metric: self.metric,
            lease,
            refused: texts(&mut self.refused.texts(&format!("{name} "))),
        }
    }

    /// The address of the client, if it is to have one.
    pub(super) fn leases(&self) -> Option<[u8; 6]> {
        self.hardware.filter(|_| self.interface.dhcp)
    }

    /// What others are reached by over it: its networks, routers, and the name servers of its lease, if those are asked.
    pub(super) fn reaches(&self, are_asked: bool) -> Vec<Prefix> {
        let Settings {
            addresses, routes, ..
        } = self.wanted();
        let leased = self.dhcp.lease().filter(|_| are_asked).into_iter();
        let servers = leased.flat_map(|lease| &lease.options.nameservers);
        let single = |address: IpAddr| Prefix {
            address,
            length: if address.is_ipv4() { 32 } else { 128 },
        };
        let routers = routes.into_iter().map(|route| route.gateway);
        let hosts = routers.chain(servers.copied().map(IpAddr::V4)).map(single);
        addresses.into_iter().chain(hosts).collect()
    }

    /// What it is to have now.
    pub(super) fn wanted(&self) -> Settings {
        let mut addresses = self.interface.addresses.clone();
        let mut gateways = self.interface.gateways.clone();
        let lease = self.dhcp.lease();
        if let Some(lease) = lease {
            addresses.push(Prefix {
                address: IpAddr::V4(lease.address),
                length: lease.prefix,
            });
            if !gateways.iter().any(IpAddr::is_ipv4) {
                gateways.extend(lease.options.router.map(IpAddr::V4));
            }
        }
        // Some servers lend a host of its own, whose router is in no network of it: the mask is then 255.255.255.255.
        let leased = lease.filter(|lease| !lease.covers_router());
        let leased = leased.and_then(|lease| lease.options.router);
        let route = |gateway| Route {
            gateway,
            metric: self.metric,
            onlink: leased.map(IpAddr::V4) == Some(gateway),
        };
        let smaller = |mtu: &u16| *mtu >= MIN_MTU && u32::from(*mtu) <= self.mtu;
        Settings {
            addresses,
            routes: gateways.into_iter().map(route).collect(),
            mtu: lease.and_then(|lease| lease.options.mtu.filter(smaller)),
        }
    }
}

/// Ports that have gone without a word, since a listing of all links has them no more.
pub(super) fn vanished(ports: &Few<String, Port>, listed: &[News]) -> Vec<Link> {
    let is_listed = |index: u32| {
        let mut all = listed.iter();
        all.any(|news| matches!(news, News::Link(link) if link.index == index))
    };
    let vanished = ports.iter().filter(|(_, port)| !is_listed(port.index));
    let gone = |(name, port): (&String, &Port)| Link {
        index: port.index,
        name: name.clone(),
        carrier: false,
        gone: true,
        hardware: port.hardware,
        is_port: true,
        mtu: port.mtu,
        group: 0,
    };
    vanished.map(gone).collect()
}

/// How a link is to be set up, if it is.
pub(super) fn interface(network: &NetworkConfiguration, link: &Link) -> Option<Interface> {
    if !network.interfaces.is_empty() {
        return network.interfaces.get(&link.name).cloned();
    }
    let leased = network.ports == Ports::Automatic && link.is_port;
    leased.then(|| Interface {
        dhcp: true,
        ..Interface::default()
    })
}

/// The metric of an interface's default routes: the order of the fallback list, then that of the names; of ports that
/// are not listed, the kernel's.
pub(super) fn metric(network: &NetworkConfiguration, link: &Link) -> u32 {
    let rest = network.interfaces.keys();
    let rest = rest.filter(|name| !network.prefer.contains(name));
    let place = network
        .prefer
        .iter()
        .chain(rest)
        .position(|name| *name == link.name);
    let place = place.map_or(link.index, |place| u32::try_from(place).unwrap_or(u32::MAX));
    place.saturating_add(1).saturating_mul(METRIC)
}

/// resolv.conf(5): the configuration's servers, or else those of the leases, in the order of their routes.
pub(super) fn names<'a>(
    network: &NetworkConfiguration,
    ports: impl Iterator<Item = &'a Port>,
) -> String {
    let mut leases: Vec<(u32, &Lease)> = ports
        .filter_map(|port| Some((port.metric, port.dhcp.lease()?)))
        .collect();
    leases.sort_by_key(|(metric, _)| *metric);
    let mut servers: Vec<IpAddr> = network.nameservers.clone();
    if servers.is_empty() {
        let leased = leases
            .iter()
            .flat_map(|(_, lease)| &lease.options.nameservers);
        for server in leased.copied().map(IpAddr::V4) {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
    }
    let domain = leases
        .iter()
        .find_map(|(_, lease)| lease.options.domain.as_ref());
    let mut text = domain.map_or_else(String::new, |domain| format!("search {domain}\n"));
    for server in servers {
        text.push_str("nameserver ");
        text.push_str(&server.to_string());
        text.push('\n');
    }
    text
}

/// A lease for people: `10.0.2.15/24 of 10.0.2.2`.
pub(super) fn told(lease: &Lease) -> String {
    let Lease {
        address,
        prefix,
        server,
        ..
    } = lease;
    let mut text = format!("{address}/{prefix} of {server}");
    if let Some(router) = lease.options.router {
        text.push_str(&format!(", router {router}"));
    }
    if lease.options.prefix.is_none() {
        text.push_str("; it has no mask: that of its class is taken");
    }
    text
}

/// Where the server listens.
pub(super) const fn server(address: Ipv4Addr) -> (Ipv4Addr, u16) {
    (address, 67)
}

#[cfg(test)]
mod tests;
