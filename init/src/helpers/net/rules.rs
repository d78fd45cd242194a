//! What is forwarded between pools and the world: one table of nftables, made as bytes. Pure.
//!
//! ```text
//! table inet kedge
//!   chain sources      filter, raw:   iifname "br-NAME" ip6 saddr PREFIX accept      for each pool that has one of IPv6
//!                                     iifgroup POOLS ip6 saddr fe80::/10 accept
//!                                     iifgroup POOLS ip6 saddr :: accept
//!                                     iifgroup POOLS meta nfproto ipv6 drop
//!   chain bounds       filter, mangle: iifname "br-NAME" ct status ! confirmed ct count over N drop   for each pool
//!   chain prerouting   nat, dstnat:   iifgroup POOLS accept
//!                                     ip daddr ADDRESS tcp|udp dport PORT dnat ip to CONTAINER:PORT   for each published port;
//!                                     without an address: meta nfproto ipv4 meta pkttype host …,
//!                                     and the same once more for IPv6, if the container has such an address
//!   chain forward      filter, drop:  ct state invalid drop
//!                                     oifname != "br-NAME" ip6 daddr PREFIX drop     for each pool that has one of IPv6
//!                                     ct state established,related accept
//!                                     ct status dnat accept
//!                                     iifname "br-NAME" oifname "br-NAME" accept     for each pool
//!                                     ct state untracked drop
//!                                     oifgroup POOLS drop
//!                                     iifgroup POOLS accept
//!   chain postrouting  nat, srcnat:   iifgroup POOLS oifgroup != POOLS masquerade
//! ```
//! So a container reaches what is outside the device under the device's address, and no container of another pool; nobody
//! reaches a container but by a published port; and what has nothing to do with pools is forwarded by nobody, as before there
//! were any. Packets within a pool cross its bridge, and come here only on a kernel that shows them to these rules, too
//! (`br_netfilter`): hence the rule for each pool. In all others an interface of their group is a pool's.
//!
//! All share the kernel's one table of connections, the device's agent too. What a pool begins is bounded ([`share`]), where
//! what is forwarded and what is asked of the device itself still go one way; a connection is counted by its first packet, since
//! only then it is not in the table.
//!
//! Of IPv6 there is no `rp_filter`: each packet that comes out of a pool has an address of its, or one that asks neighbours
//! and is never forwarded. What is untracked there, as questions to neighbours are, would leave as it is. And where a router outside
//! announces a narrower network in a pool's prefix, nothing that is a container's goes there.
//!
//! Messages are those of `NETLINK_NETFILTER` (Linux `include/uapi/linux/netfilter/nf_tables.h`), in one batch, which the kernel does
//! as a whole or not at all. It makes the table, so that it is there, removes it with all that is in it, and
//! makes it anew: whatever was before, after it these rules hold, and at no moment in between none.

use super::pools::{Forward, Pool, Pools, Six};
use super::rtnetlink::GROUP;
use core::net::Ipv6Addr;
use kedge_revision::pool::{BRIDGE, Protocol};

/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`.
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
/// `NFNL_SUBSYS_NFTABLES`, as the high byte of a message's kind.
const TABLES: u16 = 10 << 8;
const NEW_TABLE: u16 = TABLES;
const GET_TABLE: u16 = TABLES | 1;
const DELETE_TABLE: u16 = TABLES | 2;
const NEW_CHAIN: u16 = TABLES | 3;
const NEW_RULE: u16 = TABLES | 6;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `NLM_F_ACK`.
const ACKNOWLEDGE: u16 = 4;
/// `NLM_F_CREATE`.
const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: to the end of the chain.
const APPEND: u16 = 0x800;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// `NFPROTO_INET`: IPv4 and IPv6.
const BOTH: u8 = 1;
/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const IPV4: u8 = 2;
const IPV6: u8 = 10;
const TABLE: &str = "kedge";
/// `NFT_META_IIFNAME`, `NFT_META_OIFNAME`, `NFT_META_NFPROTO`, `NFT_META_L4PROTO`, `NFT_META_PKTTYPE`, `NFT_META_IIFGROUP`, `NFT_META_OIFGROUP`.
const COMES_IN_BY: u32 = 6;
const GOES_OUT_BY: u32 = 7;
const FAMILY: u32 = 15;
const PROTOCOL: u32 = 16;
const SENT_TO: u32 = 19;
const COMES_OUT_OF: u32 = 21;
const GOES_INTO: u32 = 22;
/// `PACKET_HOST`: to this device, and not to all or several.
const THIS_DEVICE: [u8; 1] = [0];
/// The group of pools' interfaces, as the machine has it.
const POOLS: [u8; 4] = GROUP.to_ne_bytes();
/// `NF_DROP`, `NF_ACCEPT`.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
/// `NFT_CMP_EQ`, `NFT_CMP_NEQ`.
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;
/// `IFNAMSIZ`.
const NAME: usize = 16;
/// `NFT_CT_STATE`, `NFT_CT_STATUS`.
const STATE: u32 = 0;
const STATUS: u32 = 2;
/// The bit of what is part of no connection (`NF_CT_STATE_INVALID_BIT`).
const INVALID: u32 = 1;
/// The bit of what is not looked at for connections (`NF_CT_STATE_UNTRACKED_BIT`).
const UNTRACKED: u32 = 1 << 6;
/// Bits of established and related connections.
const KNOWN: u32 = 2 | 4;
/// `IPS_CONFIRMED`: it is in the table of connections.
const CONFIRMED: u32 = 1 << 3;
/// `IPS_DST_NAT`.
const REDIRECTED: u32 = 1 << 5;
/// `NFT_CONNLIMIT_F_INV`: more than so many.
const MORE: u32 = 1;
/// Most connections that a pool may have begun, however large the table is: the kernel looks at all of them for each that
/// is new (Linux `net/netfilter/nf_conncount.c`), if at most once in a tick of its clock.
const MOST_CONNECTIONS: u32 = 4096;
/// `NFT_PAYLOAD_NETWORK_HEADER` and where an IPv4 packet has its destination, and one of IPv6 its source and its destination;
/// `NFT_PAYLOAD_TRANSPORT_HEADER` and where TCP and UDP have their destination: base, offset, length.
const DESTINATION: [u32; 3] = [1, 16, 4];
const SOURCE6: [u32; 3] = [1, 8, 16];
const DESTINATION6: [u32; 3] = [1, 24, 16];
/// What asks neighbours: addresses of a link (RFC 4291, 2.5.6), and none yet (RFC 4862, 5.4).
const ASKING: [Six; 2] = [
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::UNSPECIFIED, 128),
];
const PORT: [u32; 3] = [2, 2, 2];

/// A value of an attribute.
#[derive(Clone, Copy)]
enum Value<'a> {
    /// A number, big-endian.
    Number(u32),
    /// What a register is compared with, or loaded.
    Data(&'a [u8]),
    /// What becomes of the packet.
    Verdict(u32),
}
use Value::{Data, Number, Verdict};

/// How many connections each of so many pools may have begun, where the table has room for `most`: a quarter is the device's own.
pub(super) fn share(most: u32, pools: usize) -> u32 {
    let pools = u32::try_from(pools).unwrap_or(u32::MAX).max(1);
    let free = most.saturating_sub(most / 4);
    (free / pools).clamp(1, MOST_CONNECTIONS)
}

/// One batch, which makes everything anew. `bound`: how many connections a pool may have begun; `None`: the kernel cannot count them.
pub(super) fn all(Pools { pools, ports }: &Pools, bound: Option<u32>) -> Vec<u8> {
    let mut batch = Batch(Vec::new());
    batch.frame(BEGIN);
    batch.clear();
    batch.table(NEW_TABLE, CREATE);
    // NF_INET_PRE_ROUTING, NF_INET_FORWARD, NF_INET_POST_ROUTING; priorities as Netfilter has them for such chains.
    batch.chain("sources", "filter", [0, -300], ACCEPT);
    batch.chain("bounds", "filter", [0, -150], ACCEPT);
    batch.chain("prerouting", "nat", [0, -100], ACCEPT);
    batch.chain("forward", "filter", [2, 0], DROP);
    batch.chain("postrouting", "nat", [4, 100], ACCEPT);
    batch.sources(pools);
    if let Some(bound) = bound {
        for pool in pools {
            batch.bound(pool, bound);
        }
    }
    batch.pools("prerouting", COMES_OUT_OF, |batch| batch.verdict(ACCEPT));
    for forward in ports {
        batch.forward(forward, IPV4, &forward.to.octets());
        // An address of the device is one of IPv4.
        if let (Some(to), None) = (forward.to6, forward.port.address) {
            batch.forward(forward, IPV6, &to.octets());
        }
    }
    // What belongs to no connection is not translated, and would leave with a pool's own address or any other.
    batch.connections(STATE, INVALID, DROP);
    for (pool, six) in pools.iter().filter_map(with_six) {
        let rule = batch.rule("forward", 0);
        batch.known(GOES_OUT_BY);
        batch.compare(UNEQUAL, &bridge(pool));
        batch.within_prefix(DESTINATION6, six);
        batch.verdict(DROP);
        batch.close_rule(rule);
    }
    batch.connections(STATE, KNOWN, ACCEPT);
    batch.connections(STATUS, REDIRECTED, ACCEPT);
    for pool in pools {
        batch.within(pool);
    }
    batch.connections(STATE, UNTRACKED, DROP);
    batch.pools("forward", GOES_INTO, |batch| batch.verdict(DROP));
    batch.pools("forward", COMES_OUT_OF, |batch| batch.verdict(ACCEPT));
    let rule = batch.rule("postrouting", ACKNOWLEDGE);
    batch.meets(COMES_OUT_OF, &POOLS);
    batch.known(GOES_INTO);
    batch.compare(UNEQUAL, &POOLS);
    batch.expression("masq", &[]);
    batch.close_rule(rule);
    batch.frame(END);
    batch.0
}

/// One batch, after which nothing of it is there.
pub(super) fn none() -> Vec<u8> {
    let mut batch = Batch(Vec::new());
    batch.frame(BEGIN);
    batch.table(NEW_TABLE, CREATE);
    batch.table(DELETE_TABLE, ACKNOWLEDGE);
    batch.frame(END);
    batch.0
}

/// Asks for the table.
pub(super) fn question() -> Vec<u8> {
    let mut batch = Batch(Vec::new());
    batch.table(GET_TABLE, 0);
    batch.0
}

/// Where something begins whose length is not known yet.
#[derive(Clone, Copy)]
struct Start(usize);

struct Batch(Vec<u8>);

impl Batch {
    /// struct nlmsghdr and struct nfgenmsg, whose last field is big-endian.
    fn open(&mut self, kind: u16, flags: u16, family: u8, resource: u16) -> Start {
        let start = Start(self.0.len());
        self.0.extend_from_slice(&[0; 4]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        self.0.extend_from_slice(&[0; 8]);
        self.0.extend_from_slice(&[family, 0]);
        self.0.extend_from_slice(&resource.to_be_bytes());
        start
    }

    fn close(&mut self, Start(at): Start) {
        // A rule has some hundred bytes.
        let length = u32::try_from(self.0.len().saturating_sub(at)).unwrap_or(u32::MAX);
        self.write(at, &length.to_ne_bytes());
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.0.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    /// An end of the batch: it names whose messages these are.
    fn frame(&mut self, kind: u16) {
        let start = self.open(kind, 0, 0, TABLES >> 8);
        self.close(start);
    }

    /// struct nlattr and its value, filled to four bytes.
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let start = self.begin(kind);
        self.0.extend_from_slice(value);
        self.end(start);
    }

    fn text(&mut self, kind: u16, text: &str) {
        let start = self.begin(kind);
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self.end(start);
    }

    fn number(&mut self, kind: u16, number: u32) {
        self.attribute(kind, &number.to_be_bytes());
    }

    fn begin(&mut self, kind: u16) -> Start {
        let start = Start(self.0.len());
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    /// An attribute that holds attributes.
    fn nest(&mut self, kind: u16) -> Start {
        self.begin(NESTED | kind)
    }

    fn end(&mut self, Start(at): Start) {
        let length = self.0.len().saturating_sub(at);
        self.write(at, &u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn table(&mut self, kind: u16, flags: u16) {
        let start = self.open(kind, flags, BOTH, 0);
        // NFTA_TABLE_NAME.
        self.text(1, TABLE);
        self.close(start);
    }

    fn clear(&mut self) {
        self.table(NEW_TABLE, CREATE);
        self.table(DELETE_TABLE, 0);
    }

    /// A chain at a hook with a priority, and what becomes of packets that reach its end.
    fn chain(&mut self, name: &str, kind: &str, [hook, priority]: [i32; 2], policy: u32) {
        let start = self.open(NEW_CHAIN, CREATE, BOTH, 0);
        // NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY, NFTA_CHAIN_TYPE.
        self.text(1, TABLE);
        self.text(3, name);
        let nest = self.nest(4);
        self.number(1, hook.cast_unsigned());
        self.number(2, priority.cast_unsigned());
        self.end(nest);
        self.number(5, policy);
        self.text(7, kind);
        self.close(start);
    }

    /// A rule, and the list of its expressions: both are still open.
    fn rule(&mut self, chain: &str, flags: u16) -> [Start; 2] {
        let start = self.open(NEW_RULE, CREATE | APPEND | flags, BOTH, 0);
        // NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS.
        self.text(1, TABLE);
        self.text(2, chain);
        [start, self.nest(4)]
    }

    fn close_rule(&mut self, [start, expressions]: [Start; 2]) {
        self.end(expressions);
        self.close(start);
    }

    /// A rule for packets of pools.
    fn pools(&mut self, chain: &str, way: u32, then: fn(&mut Self)) {
        let rule = self.rule(chain, 0);
        self.meets(way, &POOLS);
        then(self);
        self.close_rule(rule);
    }

    fn expression(&mut self, name: &str, attributes: &[(u16, Value<'_>)]) {
        // NFTA_LIST_ELEM, and in it NFTA_EXPR_NAME and NFTA_EXPR_DATA.
        let element = self.nest(1);
        self.text(1, name);
        let all = self.nest(2);
        for (kind, value) in attributes {
            match value {
                Number(number) => self.number(*kind, *number),
                Data(bytes) => {
                    // NFTA_DATA_VALUE.
                    let nest = self.nest(*kind);
                    self.attribute(1, bytes);
                    self.end(nest);
                }
                Verdict(code) => {
                    // NFTA_DATA_VERDICT, and in it NFTA_VERDICT_CODE.
                    let nest = self.nest(*kind);
                    let verdict = self.nest(2);
                    self.number(1, *code);
                    self.end(verdict);
                    self.end(nest);
                }
            }
        }
        self.end(all);
        self.end(element);
    }

    /// The register must be `data`, or must not.
    fn compare(&mut self, operation: u32, data: &[u8]) {
        // NFTA_CMP_SREG, NFTA_CMP_OP, NFTA_CMP_DATA.
        let attributes = [(1, Number(1)), (2, Number(operation)), (3, Data(data))];
        self.expression("cmp", &attributes);
    }

    /// Loads what is known of the packet.
    fn known(&mut self, key: u32) {
        // NFTA_META_DREG, NFTA_META_KEY.
        self.expression("meta", &[(1, Number(1)), (2, Number(key))]);
    }

    /// What is known of the packet must be `data`.
    fn meets(&mut self, key: u32, data: &[u8]) {
        self.known(key);
        self.compare(EQUAL, data);
    }

    /// Which addresses of IPv6 come out of pools.
    fn sources(&mut self, pools: &[Pool]) {
        for (pool, six) in pools.iter().filter_map(with_six) {
            let rule = self.rule("sources", 0);
            self.meets(COMES_IN_BY, &bridge(pool));
            self.within_prefix(SOURCE6, six);
            self.verdict(ACCEPT);
            self.close_rule(rule);
        }
        for six in ASKING {
            let rule = self.rule("sources", 0);
            self.meets(COMES_OUT_OF, &POOLS);
            self.within_prefix(SOURCE6, six);
            self.verdict(ACCEPT);
            self.close_rule(rule);
        }
        let rule = self.rule("sources", 0);
        self.meets(COMES_OUT_OF, &POOLS);
        self.meets(FAMILY, &[IPV6]);
        self.verdict(DROP);
        self.close_rule(rule);
    }

    /// A packet of IPv6, one of whose addresses is in this prefix.
    fn within_prefix(&mut self, piece: [u32; 3], (address, length): Six) {
        let hosts = u128::MAX.checked_shr(length.into()).unwrap_or(0);
        self.meets(FAMILY, &[IPV6]);
        self.payload(piece);
        self.masked(&(!hosts).to_be_bytes());
        let prefix = address.to_bits() & !hosts;
        self.compare(EQUAL, &prefix.to_be_bytes());
    }

    /// Bounds what a pool begins.
    fn bound(&mut self, pool: &Pool, bound: u32) {
        let rule = self.rule("bounds", 0);
        self.meets(COMES_IN_BY, &bridge(pool));
        self.connection(STATUS, CONFIRMED, EQUAL);
        // NFTA_CONNLIMIT_COUNT, NFTA_CONNLIMIT_FLAGS.
        self.expression("connlimit", &[(1, Number(bound)), (2, Number(MORE))]);
        self.verdict(DROP);
        self.close_rule(rule);
    }

    /// A rule for packets within a pool.
    fn within(&mut self, pool: &Pool) {
        let name = bridge(pool);
        let rule = self.rule("forward", 0);
        self.meets(COMES_IN_BY, &name);
        self.meets(GOES_OUT_BY, &name);
        self.verdict(ACCEPT);
        self.close_rule(rule);
    }

    /// Loads a piece of the packet.
    fn payload(&mut self, [base, offset, length]: [u32; 3]) {
        // NFTA_PAYLOAD_DREG, NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_OFFSET, NFTA_PAYLOAD_LEN.
        let attributes = [
            (1, Number(1)),
            (2, Number(base)),
            (3, Number(offset)),
            (4, Number(length)),
        ];
        self.expression("payload", &attributes);
    }

    /// A piece of the packet must be `data`.
    fn holds(&mut self, piece: [u32; 3], data: &[u8]) {
        self.payload(piece);
        self.compare(EQUAL, data);
    }

    /// Keeps these bits of what is loaded.
    fn masked(&mut self, mask: &[u8]) {
        let nothing = [0; 16];
        let nothing = nothing.get(..mask.len()).unwrap_or_default();
        // NFTA_BITWISE_SREG, NFTA_BITWISE_DREG, NFTA_BITWISE_LEN, NFTA_BITWISE_MASK, NFTA_BITWISE_XOR.
        let attributes = [
            (1, Number(1)),
            (2, Number(1)),
            (3, Number(u32::try_from(mask.len()).unwrap_or(0))),
            (4, Data(mask)),
            (5, Data(nothing)),
        ];
        self.expression("bitwise", &attributes);
    }

    /// A rule for what is forwarded of connections with these bits.
    fn connections(&mut self, key: u32, bits: u32, verdict: u32) {
        let rule = self.rule("forward", 0);
        self.connection(key, bits, UNEQUAL);
        self.verdict(verdict);
        self.close_rule(rule);
    }

    /// Its connection must have one of these bits, which are the machine's own numbers; or none of them, if that is to be equal to zero.
    fn connection(&mut self, key: u32, bits: u32, operation: u32) {
        // NFTA_CT_DREG, NFTA_CT_KEY.
        self.expression("ct", &[(1, Number(1)), (2, Number(key))]);
        self.masked(&bits.to_ne_bytes());
        self.compare(operation, &[0; 4]);
    }

    fn load(&mut self, register: u32, value: Value<'_>) {
        // NFTA_IMMEDIATE_DREG, NFTA_IMMEDIATE_DATA.
        self.expression("immediate", &[(1, Number(register)), (2, value)]);
    }

    fn verdict(&mut self, code: u32) {
        self.load(0, Verdict(code));
    }

    /// A published port, for packets of a family.
    fn forward(&mut self, Forward { port, .. }: &Forward, family: u8, to: &[u8]) {
        let rule = self.rule("prerouting", 0);
        self.meets(FAMILY, &[family]);
        match port.address {
            Some(address) => self.holds(DESTINATION, &address.octets()),
            // Who asks all for something does not ask a container.
            None => self.meets(SENT_TO, &THIS_DEVICE),
        }
        let protocol = match port.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        };
        self.meets(PROTOCOL, &[protocol]);
        self.holds(PORT, &port.port.to_be_bytes());
        // Register 1 has 16 bytes, and 2 is behind it.
        self.load(1, Data(to));
        self.load(2, Data(&port.to.to_be_bytes()));
        // NFTA_NAT_TYPE: NFT_NAT_DNAT; NFTA_NAT_FAMILY; NFTA_NAT_REG_ADDR_MIN, NFTA_NAT_REG_PROTO_MIN: registers.
        let attributes = [
            (1, Number(1)),
            (2, Number(family.into())),
            (3, Number(1)),
            (5, Number(2)),
        ];
        self.expression("nat", &attributes);
        self.close_rule(rule);
    }
}

/// A pool and its prefix of IPv6, if it has one.
fn with_six(pool: &Pool) -> Option<(&Pool, Six)> {
    pool.six.map(|six| (pool, six))
}

/// The name of a pool's interface, as it is compared: as a whole, filled with zeros.
fn bridge(pool: &Pool) -> Vec<u8> {
    let mut name = [BRIDGE, &pool.name].concat().into_bytes();
    name.resize(NAME, 0);
    name
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests;
