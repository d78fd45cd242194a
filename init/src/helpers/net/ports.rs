//! What each interface is to have, and what it was given: pure, but for the types of the kernel's messages.

use super::dhcp::client::{Lease, State};
use super::rtnetlink::{Link, Route};
use core::net::{IpAddr, Ipv4Addr};
use kedge_revision::configuration::{Interface, NetworkConfiguration, Ports, Prefix};
use std::net::UdpSocket;

/// Between the metrics of default routes of one interface and the next.
const METRIC: u32 = 100;
/// Smallest MTU that a lease may set: that of IPv6, which the kernel takes from an interface with less.
const MIN_MTU: u16 = 1280;

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
    /// Of its default routes.
    pub(super) metric: u32,
    /// The client, where the address is leased.
    pub(super) dhcp: State,
    /// While a lease is renewed: by which the server is asked, and which holds the port that it answers to.
    pub(super) renewing: Option<UdpSocket>,
    /// What it was given.
    pub(super) given: Settings,
}

/// What an interface has beside its link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) addresses: Vec<Prefix>,
    pub(super) routes: Vec<Route>,
    pub(super) mtu: Option<u16>,
}

impl Port {
    pub(super) fn new(link: &Link, interface: Interface, metric: u32) -> Self {
        Self {
            index: link.index,
            hardware: link.hardware,
            mtu: link.mtu,
            interface,
            metric,
            dhcp: State::Nothing,
            renewing: None,
            given: Settings::default(),
        }
    }

    /// The address of the client, if it is to have one.
    pub(super) fn leases(&self) -> Option<[u8; 6]> {
        self.hardware.filter(|_| self.interface.dhcp)
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
        let route = |gateway| Route {
            gateway,
            metric: self.metric,
        };
        let smaller = |mtu: &u16| *mtu >= MIN_MTU && u32::from(*mtu) <= self.mtu;
        Settings {
            addresses,
            routes: gateways.into_iter().map(route).collect(),
            mtu: lease.and_then(|lease| lease.options.mtu.filter(smaller)),
        }
    }
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
    text
}

/// Where the server listens.
pub(super) const fn server(address: Ipv4Addr) -> (Ipv4Addr, u16) {
    (address, 67)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::helpers::net::dhcp::message::Options;

    fn link(index: u32, name: &str, is_port: bool) -> Link {
        Link {
            index,
            name: name.to_owned(),
            carrier: true,
            gone: false,
            hardware: Some([2, 0, 0, 0, 0, 1]),
            is_port,
            mtu: 1500,
        }
    }

    fn network(json: &str) -> NetworkConfiguration {
        serde_json::from_str(json).unwrap()
    }

    fn lease(nameserver: [u8; 4], mtu: Option<u16>) -> State {
        State::Bound(Lease {
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            server: Ipv4Addr::new(10, 0, 2, 2),
            options: Options {
                prefix: Some(24),
                router: Some(Ipv4Addr::new(10, 0, 2, 2)),
                nameservers: vec![nameserver.into()],
                domain: Some("site.example".to_owned()),
                mtu,
            },
            renew_at: 1,
            rebind_at: 2,
            expires_at: 3,
        })
    }

    #[test]
    fn without_interfaces_every_port_leases() {
        let none = NetworkConfiguration::default();
        assert!(interface(&none, &link(2, "eth0", true)).unwrap().dhcp);
        assert_eq!(interface(&none, &link(2, "veth0", false)), None);
        let off = network(r#"{"ports":"off"}"#);
        assert_eq!(interface(&off, &link(2, "eth0", true)), None);
        let listed = network(r#"{"interfaces":{"eth1":{"dhcp":true}}}"#);
        assert_eq!(interface(&listed, &link(2, "eth0", true)), None);
        assert!(interface(&listed, &link(3, "eth1", true)).is_some());
    }

    #[test]
    fn the_fallback_list_orders_the_routes() {
        let interfaces = r#""interfaces":{"a":{"dhcp":true},"b":{"dhcp":true},"c":{"dhcp":true}}"#;
        let listed = network(&format!(r#"{{{interfaces},"prefer":["c"]}}"#));
        let metrics = ["a", "b", "c"].map(|name| metric(&listed, &link(9, name, true)));
        assert_eq!(metrics, [200, 300, 100]);
        let none = NetworkConfiguration::default();
        assert!(metric(&none, &link(2, "x", true)) < metric(&none, &link(3, "a", true)));
    }

    #[test]
    fn a_lease_adds_to_what_is_configured() {
        let mut port = Port::new(
            &link(2, "eth0", true),
            serde_json::from_str(
                r#"{"addresses":["fd00::7/64"],"dhcp":true,"gateways":["fd00::1"]}"#,
            )
            .unwrap(),
            100,
        );
        assert_eq!(port.wanted().addresses.len(), 1);
        port.dhcp = lease([10, 0, 2, 3], Some(1400));
        let wanted = port.wanted();
        assert_eq!(wanted.addresses[1].to_string(), "10.0.2.15/24");
        assert_eq!(wanted.routes.len(), 2);
        assert_eq!(wanted.mtu, Some(1400));
        for refused in [Some(68), Some(9000), None] {
            port.dhcp = lease([10, 0, 2, 3], refused);
            assert_eq!(port.wanted().mtu, None);
        }
        port.interface.gateways = vec!["10.0.2.1".parse().unwrap()];
        assert_eq!(port.wanted().routes[0].gateway.to_string(), "10.0.2.1");
        assert_eq!(port.wanted().routes.len(), 1);
    }

    #[test]
    fn configured_name_servers_win() {
        let port = |metric, nameserver| {
            let mut port = Port::new(&link(2, "eth0", true), Interface::default(), metric);
            port.dhcp = lease(nameserver, None);
            port
        };
        let ports = [port(200, [10, 0, 2, 3]), port(100, [10, 0, 9, 9])];
        assert_eq!(
            names(&NetworkConfiguration::default(), ports.iter()),
            "search site.example\nnameserver 10.0.9.9\nnameserver 10.0.2.3\n"
        );
        let configured = network(r#"{"nameservers":["10.0.0.1","fd00::1"]}"#);
        assert_eq!(
            names(&configured, ports.iter()),
            "search site.example\nnameserver 10.0.0.1\nnameserver fd00::1\n"
        );
    }
}
