//! Messages as servers send them, as nobody should, and what the client sends.

use super::*;
use proptest::prelude::*;

/// A reply with these options, after its magic.
fn reply(options: &[u8]) -> Vec<u8> {
    let mut message = vec![2, 1, 6, 0, 0, 0, 0, 7];
    message.resize(16, 0);
    message.extend_from_slice(&[10, 0, 2, 15]);
    message.resize(28, 0);
    message.extend_from_slice(&[2, 0, 0, 0, 0, 1]);
    message.resize(FIXED, 0);
    message.extend_from_slice(&MAGIC);
    message.extend_from_slice(options);
    message
}

const OFFER: [u8; 31] = [
    53, 1, 2, 54, 4, 10, 0, 2, 2, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 2, 2, 51, 4, 0, 1, 0x51,
    0x80, 99, 1, 0, 255,
];

/// As servers send it: with headers of IPv4, with options if wanted, and of UDP.
fn packet(payload: &[u8], ports: [u16; 2], options: usize) -> Vec<u8> {
    let header = 20 + options;
    let total = u16::try_from(header + 8 + payload.len()).unwrap();
    let mut packet = vec![0x40 | u8::try_from(header / 4).unwrap(), 0];
    packet.extend_from_slice(&total.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 2, 2, 255, 255, 255, 255]);
    packet.resize(header, 1);
    for port in ports {
        packet.extend_from_slice(&port.to_be_bytes());
    }
    let length = u16::try_from(8 + payload.len()).unwrap();
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(payload);
    packet
}

#[test]
fn an_offer() {
    let message = reply(&OFFER);
    let parsed = Reply::parse(&message).unwrap();
    assert_eq!(parsed.answer, Answer::Offer);
    assert_eq!((parsed.xid, parsed.hardware), (7, [2, 0, 0, 0, 0, 1]));
    assert_eq!(parsed.address, Ipv4Addr::new(10, 0, 2, 15));
    assert_eq!(parsed.server, Some(Ipv4Addr::new(10, 0, 2, 2)));
    assert_eq!(parsed.lease, Some(86400));
    assert_eq!(parsed.options.prefix, Some(24));
    assert_eq!(parsed.options.router, parsed.server);
    for options in [0, 4, 40] {
        let mut packet = packet(&message, [67, 68], options);
        // An Ethernet pads.
        packet.extend_from_slice(&[0; 9]);
        assert_eq!(Reply::from_packet(&packet).as_ref(), Some(&parsed));
    }
}

#[test]
fn packets_of_others() {
    let message = reply(&OFFER);
    assert_eq!(Reply::from_packet(&packet(&message, [67, 67], 0)), None);
    assert_eq!(Reply::from_packet(&packet(&message, [53, 68], 0)), None);
    let good = packet(&message, [67, 68], 0);
    for (at, value) in [(0, 0x65), (0, 0x44), (6, 0x20), (7, 1), (9, 6), (25, 200)] {
        let mut bad = good.clone();
        bad[at] = value;
        assert_eq!(Reply::from_packet(&bad), None, "byte {at}");
    }
    // A request, another kind of link, another magic, no kind, an unknown kind.
    for (at, value) in [(0, 1), (1, 6), (2, 8), (236, 0), (240, 99), (242, 9)] {
        let mut bad = message.clone();
        bad[at] = value;
        assert_eq!(Reply::parse(&bad), None, "byte {at}");
    }
}

#[test]
fn an_option_that_does_not_fit() {
    for bad in [&[53, 1, 2, 1][..], &[53, 1, 2, 1, 9, 255], &[53]] {
        assert_eq!(Reply::parse(&reply(bad)), None);
    }
}

#[test]
fn options_in_the_fields_for_names() {
    let mut message = reply(&[52, 1, 3, 255]);
    message[108..114].copy_from_slice(&[53, 1, 5, 26, 2, 5]);
    message[114] = 0x78;
    message[44..51].copy_from_slice(&[15, 4, b's', b'i', b't', b'e', 255]);
    let parsed = Reply::parse(&message).unwrap();
    assert_eq!(parsed.answer, Answer::Ack);
    assert_eq!(parsed.options.mtu, Some(1400));
    assert_eq!(parsed.options.domain.as_deref(), Some("site"));
    // Only what is said to hold options is read.
    let mut file = reply(&[52, 1, 1, 255]);
    file[44..].copy_from_slice(&message[44..]);
    file[242] = 1;
    assert_eq!(Reply::parse(&file).unwrap().options.domain, None);
}

#[test]
fn values_that_cannot_be() {
    let options = |more: &[u8]| {
        let mut options = vec![53, 1, 5];
        options.extend_from_slice(more);
        Reply::parse(&reply(&options)).unwrap().options
    };
    // A mask with holes, one of no bits, a router of 0.0.0.0, a domain that would be a line of its own.
    assert_eq!(options(&[1, 4, 255, 0, 255, 0]).prefix, None);
    assert_eq!(options(&[1, 4, 0, 0, 0, 0]).prefix, None);
    assert_eq!(options(&[3, 4, 0, 0, 0, 0]).router, None);
    assert_eq!(options(&[15, 3, b'a', b'\n', b'b']).domain, None);
    assert_eq!(options(&[15, 1, b'.']).domain, None);
    let servers = options(&[
        6, 20, 10, 0, 0, 1, 127, 0, 0, 1, 10, 0, 0, 2, 10, 0, 0, 3, 10, 0, 0, 4,
    ]);
    let last: Vec<u8> = servers.nameservers.iter().map(|s| s.octets()[3]).collect();
    assert_eq!(last, [1, 2, 3]);
}

#[test]
fn what_a_client_sends() {
    let message = Message {
        question: Question::Request,
        xid: 0x0102_0304,
        seconds: 9,
        own: None,
        requested: Some(Ipv4Addr::new(10, 0, 2, 15)),
        server: Some(Ipv4Addr::new(10, 0, 2, 2)),
        unicast: None,
    };
    let payload = message.encode([2, 0, 0, 0, 0, 1], "gateway");
    assert_eq!(payload.len(), MIN_MESSAGE);
    assert_eq!(payload[..12], [1, 1, 6, 0, 1, 2, 3, 4, 0, 9, 0x80, 0]);
    assert_eq!(payload[240..243], [53, 1, 3]);
    assert_eq!(payload[243..249], [50, 4, 10, 0, 2, 15]);
    assert!(payload.windows(9).any(|w| w == b"\x0c\x07gateway"));
    let unnamed = message.encode([2, 0, 0, 0, 0, 1], "(none)");
    assert!(!unnamed.windows(6).any(|w| w == b"(none)"));
    let packet = broadcast_packet(None, &payload);
    assert_eq!(packet.len(), 328);
    // A header with its checksum sums up to all ones.
    assert_eq!(checksum(&packet[..20]), 0xffff);
    assert_eq!(packet[12..20], [0, 0, 0, 0, 255, 255, 255, 255]);
    assert_eq!(packet[20..28], [0, 68, 0, 67, 1, 52, 0, 0]);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        // What is read of a packet fits it; that nothing panics is the point.
        prop_assert!(Reply::from_packet(&bytes).is_none() || bytes.len() > FIXED);
        prop_assert!(Reply::parse(&bytes).is_none() || bytes.len() > FIXED);
    }

    #[test]
    fn any_options_are_survived(options in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Some(parsed) = Reply::parse(&reply(&options)) {
            prop_assert!(parsed.options.nameservers.len() <= MAX_SERVERS);
            prop_assert!(parsed.options.prefix.is_none_or(|bits| (1..=32).contains(&bits)));
            let lines = parsed.options.domain.is_some_and(|text| text.contains(['\n', ' ']));
            prop_assert!(!lines);
        }
    }

    #[test]
    fn torn_packets_are_survived(cut in 0_usize..400) {
        let whole = packet(&reply(&OFFER), [67, 68], 0);
        let torn = &whole[..cut.min(whole.len() - 1)];
        prop_assert_eq!(Reply::from_packet(torn), None);
    }
}
