//! Messages as the kernel sends them, torn ones, and the kernel itself.

use super::*;
use proptest::prelude::*;

fn news(kind: u16, index: u32, flags: u32, name: &str) -> Vec<u8> {
    let mut text = name.as_bytes().to_vec();
    text.resize((name.len() + 1).next_multiple_of(4), 0);
    let other = attribute(13, &[1, 2, 3, 4]);
    message(
        kind,
        0,
        &[
            &interface(index, flags, flags),
            &other,
            &attribute(IFLA_IFNAME, &text),
        ],
    )
}

fn links(datagram: &[u8]) -> Vec<Link> {
    Messages(datagram)
        .filter_map(|(kind, payload)| link(kind, payload))
        .collect()
}

/// What is sent is understood as what it was, and as ours.
#[test]
fn addresses_and_routes_are_known_again() {
    for (address, gateway, onlink) in [
        ("10.0.2.15/24", "10.0.2.2", false),
        ("10.0.2.15/32", "10.0.9.1", true),
        ("fd00::7/64", "fe80::1", false),
    ] {
        let prefix: Prefix = address.parse().unwrap();
        let sent = address_message(RTM_NEWADDR, 0, 7, prefix);
        let (kind, payload) = Messages(&sent).next().unwrap();
        let known = held(kind, payload).unwrap();
        assert_eq!((known.index, known.prefix), (7, prefix));
        assert!(known.usable && known.ours && !known.gone);
        let sent = Route {
            gateway: gateway.parse().unwrap(),
            metric: 300,
            onlink,
        };
        let message = route_message(RTM_NEWROUTE, 0, 7, sent);
        let (_, payload) = Messages(&message).next().unwrap();
        assert_eq!(route(payload), Some((7, sent)));
    }
    // Another's, by its protocol; a tentative one; one of the link alone.
    let mut message = route_message(
        RTM_NEWROUTE,
        0,
        7,
        Route {
            gateway: "10.0.2.2".parse().unwrap(),
            metric: 1,
            onlink: false,
        },
    );
    message[HEADER + 5] = 4;
    assert_eq!(route(&message[HEADER..]), None);
    for (at, value) in [(2, 0x40), (2, 8), (3, 253)] {
        let prefix = "fe80::7/64".parse().unwrap();
        let mut message = address_message(RTM_NEWADDR, 0, 7, prefix);
        message[HEADER + at] = value;
        assert!(!held(RTM_NEWADDR, &message[HEADER..]).unwrap().usable);
    }
}

#[test]
fn news_of_links() {
    let mut datagram = news(RTM_NEWLINK, 2, IFF_UP | IFF_LOWER_UP, "eth0");
    datagram.extend(news(RTM_DELLINK, 3, IFF_UP, "wlan0"));
    let links = links(&datagram);
    assert_eq!(links.len(), 2);
    assert_eq!((links[0].index, links[0].name.as_str()), (2, "eth0"));
    assert!(links[0].carrier && !links[0].gone);
    assert!(!links[1].carrier && links[1].gone);
}

#[test]
fn an_address_has_its_broadcast() {
    let message = address_message(RTM_NEWADDR, 0, 2, "10.0.2.15/24".parse().unwrap());
    assert_eq!(message.len(), 16 + 8 + 4 * 8);
    assert_eq!(message[16..20], [2, 24, 0, 0]);
    assert_eq!(message[message.len() - 12..][..4], [10, 0, 2, 255]);
    let message = address_message(RTM_NEWADDR, 0, 2, "fd00::1/64".parse().unwrap());
    assert_eq!(message.len(), 16 + 8 + 2 * 20 + 8);
}

#[test]
fn answers() {
    assert_eq!(answer(&0_i32.to_ne_bytes()), Ok(()));
    assert_eq!(answer(&(-17_i32).to_ne_bytes()), Err(Errno::EXIST));
    assert_eq!(answer(&i32::MIN.to_ne_bytes()), Err(Errno::PROTO));
    assert_eq!(answer(b"x"), Err(Errno::PROTO));
}

#[test]
fn the_loopback_interface_is_listed() {
    let netlink = Netlink::open(0).unwrap();
    let mut buffer = vec![0; 65536];
    let all = netlink.list(Listing::Links, &mut buffer).unwrap();
    let is_lo = |news: &News| matches!(news, News::Link(link) if link.index == LOOPBACK && link.name == "lo");
    assert!(all.iter().any(is_lo), "{all:?}");
    for what in [Listing::Addresses, Listing::Routes] {
        netlink.list(what, &mut buffer).unwrap();
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(links(&bytes).len() <= bytes.len() / HEADER);
        let _ = (held(RTM_NEWADDR, &bytes), route(&bytes));
    }

    #[test]
    fn torn_news_are_survived(cut in 0_usize..60) {
        let datagram = news(RTM_NEWLINK, 2, IFF_UP, "eth0");
        prop_assert!(links(&datagram[..cut.min(datagram.len() - 1)]).is_empty());
    }
}
