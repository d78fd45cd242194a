//! Networks of containers' own: pools of addresses, a container's place in one, and the ports that it publishes.
//!
//! A pool is declared once, `configuration.networks.<pool>`, with a prefix; a container names its pool and has an address
//! of it in its own definition. So what is signed is what runs, nothing is given out on the device, and an address
//! that changes is a definition that changes: its container is started again, and no other.
//!
//! The first address of a prefix is the device's own, which containers have their default route by ([`Pool::gateway`]); the
//! host gives the others to a pool's containers in the order of their names ([`Pool::member`]). A pool that has a prefix of IPv6,
//! too, counts in it by the same numbers: who is 10.88.0.7 is fd00:88::7.

use crate::configuration::Prefix;
use crate::container::Container;
use crate::content::Content;
use crate::error::Error;
use crate::id::Name;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::BTreeMap;

/// Most pools.
const MOST: usize = 16;
/// Most bytes of a pool's name: with `br-` before it, it is an interface's, which has at most 15.
pub const MAX_NAME: usize = 12;
/// What a pool's interface is called by on the device, before its name.
pub const BRIDGE: &str = "br-";
/// Most ports that a container publishes.
const MOST_PORTS: usize = 64;
/// Most ports that all publish: each is a rule of some hundred bytes, and all rules go to the kernel in one message.
const MOST_PORTS_TOGETHER: usize = 256;

/// `configuration.networks.<pool>`: a network that containers share with one another and with nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Pool {
    /// Its private addresses of IPv4: 8 to 30 bits of prefix, and zeros.
    pub prefix: Prefix,
    /// Its unique local addresses of IPv6 (RFC 4193), if it has any: 48 to 96 bits of prefix, and zeros.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix6: Option<Prefix>,
}

/// Which network a container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// A network namespace of its own with a loopback interface.
    #[default]
    None,
    /// The device's own.
    Host,
    /// A network namespace of its own with an interface in a pool.
    Pool(Place),
}

impl Network {
    /// Its place in a pool, if it has one.
    #[must_use]
    pub const fn place(&self) -> Option<&Place> {
        match self {
            Self::Pool(place) => Some(place),
            Self::None | Self::Host => None,
        }
    }
}

/// A container's place in a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Place {
    /// The pool.
    pub name: Name,
    /// The container's address, with the length of the pool's prefix.
    pub address: Prefix,
    /// That of IPv6, if the pool has such a prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Prefix>,
    /// What of it is reached from outside the device, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Published>,
}

/// A port of the device behind which a container listens: `8080:80`, `192.168.1.10:5353:53/udp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    /// Of which protocol.
    pub protocol: Protocol,
    /// The device's port.
    pub port: u16,
    /// The device's address that it is of; of all if absent.
    pub address: Option<Ipv4Addr>,
    /// The container's port.
    pub to: u16,
}

/// What a port is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP, said by nothing.
    Tcp,
    /// UDP, said by `/udp`.
    Udp,
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.address {
            write!(f, "{address}:")?;
        }
        write!(f, "{}:{}", self.port, self.to)?;
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => f.write_str("/udp"),
        }
    }
}

impl FromStr for Published {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::invalid("port", "is not port:port");
        let (rest, protocol) = match text.strip_suffix("/udp") {
            Some(rest) => (rest, Protocol::Udp),
            None => (text, Protocol::Tcp),
        };
        let (outside, to) = rest.rsplit_once(':').ok_or_else(bad)?;
        let (address, port) = match outside.rsplit_once(':') {
            Some((address, port)) => (Some(address.parse().map_err(|_| bad())?), port),
            None => (None, outside),
        };
        let number = |text: &str| text.parse::<u16>().map_err(|_| bad());
        let published = Self {
            protocol,
            port: number(port)?,
            address,
            to: number(to)?,
        };
        // The comparison refuses other spellings, as 080:80 or 80:80/tcp.
        if published.port != 0 && published.to != 0 && published.to_string() == text {
            Ok(published)
        } else {
            Err(bad())
        }
    }
}
crate::id::serde_as_text!(
    Published,
    "a published port, as 8080:80, 192.168.1.10:8080:80 or 5353:53/udp",
    "^([0-9.]+:)?[0-9]{1,5}:[0-9]{1,5}(/udp)?$"
);

impl Pool {
    /// The device's own address in it, which containers send by; `None` for a prefix that [`Content::check`] refuses.
    #[must_use]
    pub fn gateway(&self) -> Option<Prefix> {
        self.host(1)
    }

    /// The address of the pool's container number `index` from 0 on, in the order of names; `None`: it has no more.
    #[must_use]
    pub fn member(&self, index: usize) -> Option<Prefix> {
        let number = u32::try_from(index).ok()?.checked_add(2)?;
        self.host(number)
    }

    /// The device's address of IPv6 in it, if it has such a prefix.
    #[must_use]
    pub fn gateway6(&self) -> Option<Prefix> {
        self.host6(1)
    }

    /// [`Pool::member`] of IPv6, if it has such a prefix.
    #[must_use]
    pub fn member6(&self, index: usize) -> Option<Prefix> {
        let number = u32::try_from(index).ok()?.checked_add(2)?;
        self.host6(number)
    }

    /// Address number `number` of IPv6: every number of an IPv4 prefix fits behind 96 bits.
    fn host6(&self, number: u32) -> Option<Prefix> {
        let Prefix { address, length } = self.prefix6?;
        let IpAddr::V6(first) = address else {
            return None;
        };
        let address = Ipv6Addr::from_bits(first.to_bits().checked_add(number.into())?);
        Some(Prefix {
            address: address.into(),
            length,
        })
    }

    /// Address number `number` of it, if a host may have it.
    fn host(&self, number: u32) -> Option<Prefix> {
        let Prefix { address, length } = self.prefix;
        let IpAddr::V4(first) = address else {
            return None;
        };
        let last = u32::MAX.checked_shr(length.into())?;
        let address = IpAddr::V4(first.to_bits().checked_add(number)?.into());
        (number < last).then_some(Prefix { address, length })
    }

    /// Bounds of a pool by itself.
    fn check(&self, name: &Name, field: &str) -> Result<(), Error> {
        if name.as_str().len() > MAX_NAME {
            return Err(Error::invalid(
                field,
                "has a name over 12 bytes, which no interface can be called by",
            ));
        }
        let bad = |why| Err(Error::invalid(format!("{field}.prefix"), why));
        let IpAddr::V4(address) = self.prefix.address else {
            return bad("is not of IPv4");
        };
        if !(8..=30).contains(&self.prefix.length) {
            return bad("has not 8 to 30 bits, so that a container has an address");
        }
        let hosts = u32::MAX.checked_shr(self.prefix.length.into()).unwrap_or(0);
        if address.to_bits() & hosts != 0 {
            return bad("has bits set behind its length");
        }
        // RFC 1918, and RFC 6598 beside it.
        let is_shared = address.octets().first() == Some(&100)
            && address.octets().get(1).is_some_and(|b| b & 0xc0 == 64);
        let fits = |first: Ipv4Addr, length| {
            let whole = Prefix {
                address: first.into(),
                length,
            };
            self.prefix.length >= length && whole.overlaps(self.prefix)
        };
        let is_private = fits(Ipv4Addr::new(10, 0, 0, 0), 8)
            || fits(Ipv4Addr::new(172, 16, 0, 0), 12)
            || fits(Ipv4Addr::new(192, 168, 0, 0), 16)
            || (is_shared && self.prefix.length >= 10);
        if !is_private {
            return bad(
                "is not private: in 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10",
            );
        }
        self.check6()
            .map_err(|why| Error::invalid(format!("{field}.prefix6"), why))
    }

    fn check6(&self) -> Result<(), &'static str> {
        let Some(Prefix { address, length }) = self.prefix6 else {
            return Ok(());
        };
        let IpAddr::V6(address) = address else {
            return Err("is not of IPv6");
        };
        if !(48..=96).contains(&length) {
            return Err("has not 48 to 96 bits");
        }
        let hosts = u128::MAX.checked_shr(length.into()).unwrap_or(0);
        if address.to_bits() & hosts != 0 {
            return Err("has bits set behind its length");
        }
        // RFC 4193: with the bit that says that somebody chose it.
        if address.octets().first() != Some(&0xfd) {
            return Err("is not unique local: in fd00::/8");
        }
        Ok(())
    }

    /// Whether an address is of one of its prefixes, or one of them of its.
    fn overlaps(&self, other: Prefix) -> bool {
        let six = self.prefix6.is_some_and(|prefix| prefix.overlaps(other));
        six || self.prefix.overlaps(other)
    }
}

/// Gives the containers of each pool its addresses, in the order of their names: for the host, which makes revisions. A
/// container for which there is none, or no pool, keeps what it has, which [`Content::check`] refuses.
pub fn give_addresses(pools: &BTreeMap<Name, Pool>, containers: &mut BTreeMap<Name, Container>) {
    for (name, pool) in pools {
        let places = containers
            .values_mut()
            .filter_map(|container| match &mut container.network {
                Network::Pool(place) if place.name == *name => Some(place),
                Network::None | Network::Host | Network::Pool(_) => None,
            });
        for (index, place) in places.enumerate() {
            if let Some(address) = pool.member(index) {
                place.address = address;
                place.address6 = pool.member6(index);
            }
        }
    }
}

/// All of a content that is about pools.
///
/// # Errors
/// [`Error::Invalid`] with the path of the field.
pub(crate) fn check(content: &Content) -> Result<(), Error> {
    let configuration = &content.configuration;
    let pools = &configuration.networks;
    if pools.len() > MOST {
        return Err(Error::invalid("configuration.networks", "are over 16"));
    }
    let mut before: Vec<&Pool> = Vec::new();
    for (name, pool) in pools {
        let field = format!("configuration.networks.{name}");
        pool.check(name, &field)?;
        let overlaps = |prefix: Prefix, why| {
            let which = if prefix.address.is_ipv4() {
                "prefix"
            } else {
                "prefix6"
            };
            Err(Error::invalid(format!("{field}.{which}"), why))
        };
        let interfaces = &configuration.network.interfaces;
        for prefix in [Some(pool.prefix), pool.prefix6].into_iter().flatten() {
            if before.iter().any(|other| other.overlaps(prefix)) {
                return overlaps(prefix, "overlaps that of another network");
            }
            let mut addresses = interfaces.values().flat_map(|other| &other.addresses);
            if addresses.any(|address| prefix.overlaps(*address)) {
                return overlaps(prefix, "overlaps an address of an interface");
            }
        }
        if interfaces
            .keys()
            .any(|other| other.strip_prefix(BRIDGE) == Some(name.as_str()))
        {
            return Err(Error::invalid(
                field,
                "has the interface of one that is listed",
            ));
        }
        before.push(pool);
    }
    let mut places: Vec<&Place> = Vec::new();
    for (name, container) in &content.containers {
        let Some(place) = container.network.place() else {
            continue;
        };
        let field = format!("containers.{name}.network");
        let Some(pool) = pools.get(&place.name) else {
            return Err(Error::invalid(
                field,
                "names a pool that is not in configuration.networks",
            ));
        };
        place.check(pool, &field)?;
        for other in &places {
            place.check_beside(other, &field)?;
        }
        places.push(place);
    }
    if places.iter().map(|place| place.ports.len()).sum::<usize>() > MOST_PORTS_TOGETHER {
        return Err(Error::invalid(
            "containers",
            "publish over 256 ports together",
        ));
    }
    Ok(())
}

impl Place {
    /// A place whose address is still to be given ([`give_addresses`]).
    #[must_use]
    pub const fn without_address(name: Name, ports: Vec<Published>) -> Self {
        Self {
            name,
            address: Prefix {
                address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                length: 0,
            },
            address6: None,
            ports,
        }
    }

    fn check(&self, pool: &Pool, field: &str) -> Result<(), Error> {
        let Prefix { address, length } = self.address;
        let number = match (address, pool.prefix.address) {
            (IpAddr::V4(own), IpAddr::V4(first)) => own.to_bits().saturating_sub(first.to_bits()),
            _ => 0,
        };
        if length != pool.prefix.length || number < 2 || pool.host(number).is_none() {
            return Err(Error::invalid(
                format!("{field}.address"),
                "is none that the pool has for a container",
            ));
        }
        if self.address6 != pool.host6(number) {
            return Err(Error::invalid(
                format!("{field}.address6"),
                "is not the pool's of the same number",
            ));
        }
        let ports = format!("{field}.ports");
        if self.ports.len() > MOST_PORTS || !self.ports.is_sorted_by(|a, b| a < b) {
            return Err(Error::invalid(
                ports,
                "are over 64, not sorted, or one is there twice",
            ));
        }
        let never = |address: Ipv4Addr| {
            address.is_loopback() || address.is_unspecified() || address.is_multicast()
        };
        if self.ports.iter().filter_map(|port| port.address).any(never) {
            return Err(Error::invalid(
                ports,
                "have an address that others cannot reach the device by",
            ));
        }
        let mut rest = self.ports.as_slice();
        while let Some((port, others)) = rest.split_first() {
            if others.iter().any(|other| port.collides(other)) {
                return Err(Error::invalid(ports, "have one port of the device twice"));
            }
            rest = others;
        }
        Ok(())
    }

    /// What two containers cannot both have.
    fn check_beside(&self, other: &Self, field: &str) -> Result<(), Error> {
        if self.address.address == other.address.address {
            return Err(Error::invalid(
                format!("{field}.address"),
                "is another container's, too",
            ));
        }
        let collides = |port: &Published| other.ports.iter().any(|one| one.collides(port));
        if self.ports.iter().any(collides) {
            return Err(Error::invalid(
                format!("{field}.ports"),
                "have a port of the device that another container has",
            ));
        }
        Ok(())
    }
}

impl Published {
    /// Whether a packet may be meant for both.
    fn collides(&self, other: &Self) -> bool {
        let addresses = self.address.zip(other.address);
        self.protocol == other.protocol
            && self.port == other.port
            && addresses.is_none_or(|(one, two)| one == two)
    }
}

/// What containers of a pool see as `/etc/hosts` (hosts(5)): themselves, and one another by name.
#[must_use]
pub fn hosts(content: &Content, pool: &Name) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost\n");
    let mut put = |address: IpAddr, name: &str| {
        text.push_str(&address.to_string());
        text.push(' ');
        text.push_str(name);
        text.push('\n');
    };
    for (name, container) in &content.containers {
        if let Some(place) = container.network.place()
            && place.name == *pool
        {
            for address in [Some(place.address), place.address6].into_iter().flatten() {
                put(address.address, name.as_str());
            }
        }
    }
    text
}

#[cfg(test)]
mod tests;
