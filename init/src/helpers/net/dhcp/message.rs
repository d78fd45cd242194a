//! DHCP messages as IPv4 packets: what a server sent is read, what a client sends is written.
//!
//! What comes in is a stranger's: every length is checked, what is not understood is skipped, and a message that
//! contradicts itself is none. A checksum is not looked at: the link has its own, one that the sender's card was to fill
//! in is not there yet on virtual links, and a forger makes a good one.

use core::net::Ipv4Addr;

/// Largest packet that is read, bytes: that of an Ethernet. Servers are told so.
pub const MAX_PACKET: usize = 1500;
/// Most name servers that are taken of a lease; resolv.conf(5) uses three.
pub const MAX_SERVERS: usize = 3;
const SERVER_PORT: u16 = 67;
/// Where clients listen.
pub const CLIENT_PORT: u16 = 68;
/// IPv4 and UDP headers.
const HEADERS: usize = 28;
/// The fixed part, up to the options' magic.
const FIXED: usize = 236;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// What BOOTP relays pass on at least (RFC 1542, 2.1).
const MIN_MESSAGE: usize = 300;

/// What a server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// DHCPOFFER
    Offer,
    /// DHCPACK
    Ack,
    /// DHCPNAK
    Nak,
}

/// A message from a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What it says.
    pub answer: Answer,
    /// To which exchange it belongs.
    pub xid: u32,
    /// To whom it is.
    pub hardware: [u8; 6],
    /// The address that is offered or leased.
    pub address: Ipv4Addr,
    /// Which server (54).
    pub server: Option<Ipv4Addr>,
    /// For how many seconds (51).
    pub lease: Option<u32>,
    /// T1, seconds (58).
    pub renew: Option<u32>,
    /// T2, seconds (59).
    pub rebind: Option<u32>,
    /// What the lease brings beside the address.
    pub options: Options,
}

/// What a lease brings beside its address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Bits of the prefix (1).
    pub prefix: Option<u8>,
    /// The first router (3).
    pub router: Option<Ipv4Addr>,
    /// Name servers (6), at most [`MAX_SERVERS`].
    pub nameservers: Vec<Ipv4Addr>,
    /// The domain's name (15): letters, digits, hyphens and dots.
    pub domain: Option<String>,
    /// Largest packet (26).
    pub mtu: Option<u16>,
}

impl Reply {
    /// From an IPv4 packet that came in.
    #[must_use]
    pub fn from_packet(packet: &[u8]) -> Option<Self> {
        let (first, total) = (*packet.first()?, u16_at(packet, 2)?);
        let packet = packet.get(..usize::from(total))?;
        let header = usize::from(first & 0xf).checked_mul(4)?;
        let fragment = u16_at(packet, 6)? & 0x3fff != 0;
        if first >> 4 != 4 || header < 20 || fragment || *packet.get(9)? != 17 {
            return None;
        }
        let datagram = packet.get(header..)?;
        let length = usize::from(u16_at(datagram, 4)?);
        let ports = (u16_at(datagram, 0)?, u16_at(datagram, 2)?);
        if ports != (SERVER_PORT, CLIENT_PORT) {
            return None;
        }
        Self::parse(datagram.get(8..length)?)
    }

    /// From the payload of a datagram.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        // BOOTREPLY to an Ethernet address.
        let options = message.get(FIXED..)?.strip_prefix(&MAGIC)?;
        if message.get(..3)? != [2, 1, 6] {
            return None;
        }
        let mut reply = Self {
            answer: Answer::Nak,
            xid: u32_of(message.get(4..8)?)?,
            hardware: message.get(28..34)?.first_chunk().copied()?,
            address: address(message.get(16..20)?)?,
            server: None,
            lease: None,
            renew: None,
            rebind: None,
            options: Options::default(),
        };
        let mut read = Read::default();
        reply.read(options, &mut read)?;
        // The fields for file and server name may hold options as well (RFC 2131, 4.1): in this order.
        let overload = read.overload.unwrap_or(0);
        if overload & 1 != 0 {
            reply.read(message.get(108..FIXED)?, &mut read)?;
        }
        if overload & 2 != 0 {
            reply.read(message.get(44..108)?, &mut read)?;
        }
        reply.answer = match read.kind? {
            2 => Answer::Offer,
            5 => Answer::Ack,
            6 => Answer::Nak,
            _ => return None,
        };
        Some(reply)
    }

    /// Reads a field of options; of one that comes twice the first counts. `None`: one does not fit its field.
    fn read(&mut self, mut field: &[u8], read: &mut Read) -> Option<()> {
        while let Some((&code, rest)) = field.split_first() {
            match code {
                0 => field = rest,
                255 => break,
                _ => {
                    let (&length, rest) = rest.split_first()?;
                    let (value, rest) = rest.split_at_checked(usize::from(length))?;
                    field = rest;
                    self.option(code, value, read);
                }
            }
        }
        Some(())
    }

    fn option(&mut self, code: u8, value: &[u8], read: &mut Read) {
        let options = &mut self.options;
        match code {
            1 => first(&mut options.prefix, address(value).and_then(prefix)),
            3 => first(&mut options.router, servers(value).next()),
            6 if options.nameservers.is_empty() => {
                options.nameservers.extend(servers(value).take(MAX_SERVERS));
            }
            15 => first(&mut options.domain, domain(value)),
            26 => first(&mut options.mtu, u16_of(value)),
            51 => first(&mut self.lease, u32_of(value)),
            52 => first(&mut read.overload, value.first().copied()),
            53 => first(&mut read.kind, value.first().copied()),
            54 => first(&mut self.server, address(value)),
            58 => first(&mut self.renew, u32_of(value)),
            59 => first(&mut self.rebind, u32_of(value)),
            _ => {}
        }
    }
}

/// What is needed only to read a message.
#[derive(Debug, Default)]
struct Read {
    kind: Option<u8>,
    overload: Option<u8>,
}

fn first<T>(known: &mut Option<T>, value: Option<T>) {
    if known.is_none() {
        *known = value;
    }
}

fn u16_of(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u16::from_be_bytes)
}

fn u32_of(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

fn address(value: &[u8]) -> Option<Ipv4Addr> {
    u32_of(value).map(Ipv4Addr::from_bits)
}

/// Addresses of hosts.
fn servers(value: &[u8]) -> impl Iterator<Item = Ipv4Addr> {
    value.chunks_exact(4).filter_map(address).filter(is_host)
}

/// Whether a host can have this address.
#[must_use]
pub fn is_host(address: &Ipv4Addr) -> bool {
    // 0.0.0.0/8 is "this network", 240.0.0.0/4 reserved, with 255.255.255.255 in it.
    let [first, ..] = address.octets();
    (1..224).contains(&first) && first != 127
}

/// Bits of a mask; none for one with holes.
fn prefix(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    let length = bits.leading_ones();
    (bits.count_ones() == length && length > 0)
        .then(|| u8::try_from(length).ok())
        .flatten()
}

/// A name that may go into a file: the stranger's text is not.
fn domain(value: &[u8]) -> Option<String> {
    let text = core::str::from_utf8(value).ok()?.trim_end_matches('\0');
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let named = text.bytes().any(|byte| byte.is_ascii_alphanumeric());
    (named && text.bytes().all(good)).then(|| text.to_owned())
}

/// What a client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// DHCPDISCOVER
    Discover,
    /// DHCPREQUEST
    Request,
}

/// A message from the client. What each state puts in is in RFC 2131, table 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// What it says.
    pub question: Question,
    /// Which exchange.
    pub xid: u32,
    /// Since when the client tries, seconds.
    pub seconds: u16,
    /// The address that the client has, and can be reached by.
    pub own: Option<Ipv4Addr>,
    /// The address that it asks for (50).
    pub requested: Option<Ipv4Addr>,
    /// The server whose offer it takes (54).
    pub server: Option<Ipv4Addr>,
    /// To this server alone; otherwise to all.
    pub unicast: Option<Ipv4Addr>,
}

impl Message {
    /// The payload of the datagram.
    #[must_use]
    pub fn encode(&self, hardware: [u8; 6], host: &str) -> Vec<u8> {
        // BOOTREQUEST from an Ethernet.
        let mut message = vec![1, 1, 6, 0];
        message.extend_from_slice(&self.xid.to_be_bytes());
        message.extend_from_slice(&self.seconds.to_be_bytes());
        // Without an address nothing but a broadcast reaches the client's UDP; this one would see more, but a server
        // that asks for the address with ARP first would get no answer.
        let broadcast = if self.own.is_none() { 0x8000_u16 } else { 0 };
        message.extend_from_slice(&broadcast.to_be_bytes());
        let own = self.own.unwrap_or(Ipv4Addr::UNSPECIFIED);
        message.extend_from_slice(&own.octets());
        message.extend_from_slice(&[0; 12]);
        message.extend_from_slice(&hardware);
        message.resize(FIXED, 0);
        message.extend_from_slice(&MAGIC);
        let kind = match self.question {
            Question::Discover => 1,
            Question::Request => 3,
        };
        message.extend_from_slice(&[53, 1, kind]);
        for (code, address) in [(50, self.requested), (54, self.server)] {
            if let Some(address) = address {
                message.extend_from_slice(&[code, 4]);
                message.extend_from_slice(&address.octets());
            }
        }
        // Largest message, and what is wanted.
        let [high, low] = 1500_u16.to_be_bytes();
        message.extend_from_slice(&[57, 2, high, low]);
        message.extend_from_slice(&[55, 8, 1, 3, 6, 15, 26, 51, 58, 59]);
        // A label; "(none)" is what a kernel without a name has.
        let label = host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if let Ok(length @ 1..64) = u8::try_from(host.len())
            && label
        {
            message.extend_from_slice(&[12, length]);
            message.extend_from_slice(host.as_bytes());
        }
        message.push(255);
        let size = message.len().max(MIN_MESSAGE);
        message.resize(size, 0);
        message
    }
}

/// A datagram of a client to every server, as an IPv4 packet.
#[must_use]
pub fn broadcast_packet(own: Option<Ipv4Addr>, payload: &[u8]) -> Vec<u8> {
    let size = |more: usize| u16::try_from(payload.len().saturating_add(more)).unwrap_or(u16::MAX);
    let mut header = vec![0x45, 0];
    header.extend_from_slice(&size(HEADERS).to_be_bytes());
    // Not to be fragmented; 64 hops; UDP; the checksum comes below.
    header.extend_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0]);
    header.extend_from_slice(&own.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    header.extend_from_slice(&Ipv4Addr::BROADCAST.octets());
    let sum = !checksum(&header);
    let mut packet = Vec::with_capacity(payload.len().saturating_add(HEADERS));
    for (at, byte) in header.into_iter().enumerate() {
        let [high, low] = sum.to_be_bytes();
        packet.push(match at {
            10 => high,
            11 => low,
            _ => byte,
        });
    }
    packet.extend_from_slice(&CLIENT_PORT.to_be_bytes());
    packet.extend_from_slice(&SERVER_PORT.to_be_bytes());
    packet.extend_from_slice(&size(8).to_be_bytes());
    // No checksum, which IPv4 allows (RFC 768).
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(payload);
    packet
}

/// The sum of RFC 1071 over some dozen bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum = sum.saturating_add(u16_of(pair).unwrap_or(0).into());
    }
    while sum > 0xffff {
        sum = (sum & 0xffff).saturating_add(sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
