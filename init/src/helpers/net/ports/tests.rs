//! What ports are to have, by configuration and lease.

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
        group: 0,
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
        serde_json::from_str(r#"{"addresses":["fd00::7/64"],"dhcp":true,"gateways":["fd00::1"]}"#)
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

#[test]
fn a_router_outside_of_the_lease_is_on_the_link_all_the_same() {
    let mut port = Port::new(&link(2, "eth0", true), Interface::default(), 100);
    for (prefix, onlink) in [(24, false), (32, true)] {
        let State::Bound(mut lease) = lease([10, 0, 2, 3], None) else {
            unreachable!()
        };
        lease.prefix = prefix;
        port.dhcp = State::Bound(lease);
        assert_eq!(port.wanted().routes[0].onlink, onlink);
    }
}

#[test]
fn what_was_refused_is_tried_again_and_told_once() {
    let mut port = Port::new(&link(2, "eth0", true), Interface::default(), 100);
    let refused = |errno| {
        vec![Refused {
            doing: "route by",
            value: "10.0.2.2".to_owned(),
            errno,
        }]
    };
    let told = port.refused.take(refused(Errno::NETUNREACH), 5000);
    assert_eq!((told.len(), port.due()), (1, Some(6000)));
    assert_eq!(
        port.status("eth0", &[]).refused,
        [format!("route by eth0 10.0.2.2: {}", Errno::NETUNREACH)]
    );
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert!(port.refused.take(refused(Errno::NETUNREACH), 0).is_empty());
        waits.push(port.due().unwrap());
    }
    assert_eq!(waits, [2000, 4000, 8000, 16000, 32000, 64000, 64000, 64000]);
    // Another reason is news; and once it is taken, the next refusal is, too.
    assert_eq!(port.refused.take(refused(Errno::NODEV), 0).len(), 1);
    assert!(port.refused.take(Vec::new(), 0).is_empty());
    assert_eq!(port.due(), None);
    assert_eq!(port.refused.take(refused(Errno::NODEV), 0).len(), 1);
    assert_eq!(port.due(), Some(1000));
}

#[test]
fn how_a_port_stands() {
    let mut port = Port::new(&link(2, "eth0", true), Interface::default(), 100);
    assert_eq!(port.status("eth0", &[]).dhcp, None);
    port.interface.dhcp = true;
    port.dhcp = lease([10, 0, 2, 3], None);
    port.given = port.wanted();
    let held = [
        "10.0.2.15/24".parse().unwrap(),
        "fd00::7/64".parse().unwrap(),
    ];
    let status = port.status("eth0", &held);
    assert_eq!(status.dhcp.as_deref(), Some("bound"));
    assert_eq!(status.addresses, ["10.0.2.15/24", "fd00::7/64"]);
    assert_eq!(
        (status.gateways, status.metric),
        (vec!["10.0.2.2".to_owned()], 100)
    );
    let lease = status.lease.unwrap();
    assert_eq!(
        (lease.server.as_str(), lease.ends_ms),
        ("10.0.2.2", Some(3))
    );
    // Routers announce as many as they like.
    let many = vec![held[1]; 1000];
    assert_eq!(port.status("eth0", &many).addresses.len(), MOST_SHOWN);
}

#[test]
fn a_port_that_is_not_listed_has_vanished() {
    let mut ports = Few::default();
    for (index, name) in [(2, "eth0"), (3, "eth1"), (4, "eth2")] {
        let port = Port::new(&link(index, name, true), Interface::default(), 100);
        ports.insert(name.to_owned(), port);
    }
    // One is there, one is another of the same name, and one is gone.
    let listed = [link(1, "lo", false), link(2, "eth0", true)];
    let mut listed: Vec<News> = listed.into_iter().map(News::Link).collect();
    listed.push(News::Link(link(9, "eth1", true)));
    let vanished = vanished(&ports, &listed);
    let told: Vec<_> = vanished
        .iter()
        .map(|l| (l.index, l.name.as_str()))
        .collect();
    assert_eq!(told, [(3, "eth1"), (4, "eth2")]);
    assert!(vanished.iter().all(|link| link.gone));
    // Each is taken for a port whatever the configuration says, and its link went down.
    let none = NetworkConfiguration::default();
    assert!(interface(&none, &vanished[1]).is_some());
    let mut links = super::super::links::Links::default();
    links.update(&link(4, "eth2", true));
    assert_eq!(links.update(&vanished[1]).carrier, Some(false));
}
