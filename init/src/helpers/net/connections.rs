//! Connections that the kernel tracks: those of addresses that are another's now are ended.
//!
//! They outlive the rules that they were made by, and the container too: who sends UDP without a pause would reach whoever
//! has the address next. The kernel is asked for all (Linux `include/uapi/linux/netfilter/nfnetlink_conntrack.h`; it
//! takes a filter for what is to go only since 6.10), and each that has such an address at one of its ends is removed by what it
//! began with.

use super::rtnetlink::{
    ACKNOWLEDGED, DUMP, NLMSG_DONE, NLMSG_ERROR, Netlink, answer, attribute, message,
    next_attribute, refused,
};
use super::{Error, MAX_NEWS, only_refusals};
use core::net::IpAddr;

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_NEW`, `IPCTNL_MSG_CT_GET`, `IPCTNL_MSG_CT_DELETE`.
const TOLD: u16 = 1 << 8;
const GET: u16 = TOLD | 1;
const DELETE: u16 = TOLD | 2;
/// struct nfgenmsg: of any family.
const BODY: [u8; 4] = [0; 4];
/// `CTA_TUPLE_ORIG` and `CTA_TUPLE_REPLY`, with `NLA_F_NESTED`: the ends as its first packet has them, and as answers have.
const FIRST: u16 = 0x8001;
const ANSWERS: u16 = 0x8002;
/// `CTA_TUPLE_IP`, with `NLA_F_NESTED`.
const IP: u16 = 0x8001;

/// Ends what is known of connections with these addresses.
///
/// # Errors
/// [`Error::Netlink`], also where the kernel tells nobody what it tracks.
pub(super) fn forget(addresses: &[IpAddr]) -> Result<(), Error> {
    let (listing, removing) = (Netlink::open_rules()?, Netlink::open_rules()?);
    listing.send(&message(GET, DUMP, &[&BODY]))?;
    let mut buffer = vec![0; MAX_NEWS];
    loop {
        for (kind, payload) in listing.receive(&mut buffer)? {
            match kind {
                TOLD => {
                    if let Some(first) = first_of(payload, addresses) {
                        // The same family as it was told with.
                        let body = payload.get(..BODY.len()).unwrap_or(&BODY);
                        let parts = [body, &attribute(FIRST, first)];
                        let message = message(DELETE, ACKNOWLEDGED, &parts);
                        // It may have ended by itself.
                        let done = removing.command("connection", &message);
                        done.or_else(only_refusals)?;
                    }
                }
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => answer(payload).map_err(|errno| refused("connections", errno))?,
                _ => {}
            }
        }
    }
}

/// What a connection began with, if it has one of these addresses.
fn first_of<'a>(payload: &'a [u8], addresses: &[IpAddr]) -> Option<&'a [u8]> {
    let mut rest = payload.get(BODY.len()..)?;
    let (mut first, mut has) = (None, false);
    while let Some((kind, value)) = next_attribute(&mut rest)? {
        if kind == FIRST {
            first = Some(value);
        }
        if kind == FIRST || kind == ANSWERS {
            has |= has_one(value, addresses);
        }
    }
    first.filter(|_| has)
}

/// Whether a tuple has one of these addresses: its first attribute is `CTA_TUPLE_IP`, and in that are `CTA_IP_V4_SRC`,
/// `CTA_IP_V4_DST`, or those of IPv6, and nothing else.
fn has_one(mut tuple: &[u8], addresses: &[IpAddr]) -> bool {
    let Some(Some((IP, mut ends))) = next_attribute(&mut tuple) else {
        return false;
    };
    while let Some(Some((_, value))) = next_attribute(&mut ends) {
        let is = |address: &IpAddr| match address {
            IpAddr::V4(address) => value == address.octets(),
            IpAddr::V6(address) => value == address.octets(),
        };
        if addresses.iter().any(is) {
            return true;
        }
    }
    false
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    const V4: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
    const CONTAINER: IpAddr = IpAddr::V4(V4);

    /// Ends of a connection as the kernel tells them: UDP, from the first address to the second.
    fn tuple(kind: u16, from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
        let ip = [attribute(1, &from), attribute(2, &to)].concat();
        let ports = [
            attribute(1, &[17]),
            attribute(2, &[0xc0, 0]),
            attribute(3, &[0, 53]),
        ];
        let all = [attribute(0x8001, &ip), attribute(0x8002, &ports.concat())];
        attribute(kind, &all.concat())
    }

    #[test]
    fn connections_of_an_address() {
        let (outside, device) = ([10, 77, 0, 1], [10, 77, 0, 2]);
        let published = [
            &BODY[..],
            &tuple(FIRST, outside, device),
            &tuple(ANSWERS, V4.octets(), outside),
            // The time that it has left.
            &attribute(7, &[0, 0, 0, 30]),
        ]
        .concat();
        let first = tuple(FIRST, outside, device);
        let others = [IpAddr::from([10, 88, 0, 3]), CONTAINER];
        assert_eq!(first_of(&published, &others), Some(&first[4..]));
        assert_eq!(first_of(&published, &others[..1]), None);
        assert_eq!(first_of(&published, &[]), None);
        // By any of its four ends.
        for address in [outside, device] {
            assert!(first_of(&published, &[address.into()]).is_some());
        }
        // Neither what a counter says, nor a message that is cut.
        let counted = [
            &BODY[..],
            &first,
            &attribute(8, &tuple(1, [10, 88, 0, 2], device)),
        ];
        assert_eq!(first_of(&counted.concat(), &[CONTAINER]), None);
        for end in 0..published.len() {
            first_of(&published[..end], &[CONTAINER]);
        }
        // Of IPv6, whose attributes have other numbers.
        let six = Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 2);
        let ends = [attribute(3, &six.octets()), attribute(4, &[9; 16])].concat();
        let tuple = attribute(FIRST, &attribute(IP, &ends));
        let told = [&[10, 0, 0, 0][..], &tuple].concat();
        assert_eq!(first_of(&told, &[six.into()]), Some(&tuple[4..]));
        assert_eq!(first_of(&told, &[CONTAINER]), None);
    }
}
