//! The device's own configuration: network, time, logs, hubs. Part of the revision, tried and judged with it.

use crate::error::Error;
use crate::id::Name;
use crate::pool::Pool;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::{BTreeMap, BTreeSet};

/// `content.configuration`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Configuration {
    /// Interfaces and names.
    pub network: NetworkConfiguration,
    /// Networks of containers' own by name, [`crate::pool::MAX_NAME`] bytes at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<Name, Pool>,
    /// Bounds of what is logged.
    pub logs: Logs,
    /// Addresses of the hubs, `https://…`, tried in order; none: the device is on its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hubs: Vec<String>,
    /// What becomes of bundles on removable disks.
    #[serde(default, skip_serializing_if = "Sticks::is_ignore")]
    pub sticks: Sticks,
}

/// What becomes of bundles on removable disks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sticks {
    /// Nothing: no such disk is ever mounted.
    #[default]
    Ignore,
    /// The newest one is tried, if it is newer than what the device returns to.
    Accept,
}

impl Sticks {
    fn is_ignore(&self) -> bool {
        *self == Self::Ignore
    }
}

/// Interfaces and names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NetworkConfiguration {
    /// Host name of the device and of host-network containers; the product's name if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Name>,
    /// Interface (kernel's name, `eth0`) → how it is set up. Others stay down.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub interfaces: BTreeMap<String, Interface>,
    /// What happens to the machine's Ethernet ports where no interface is listed.
    #[serde(default, skip_serializing_if = "Ports::is_automatic")]
    pub ports: Ports,
    /// The fallback list: interfaces in the order in which their default routes are preferred. Those that are not in it
    /// come after, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefer: Vec<String>,
    /// Name servers for host-network containers; if absent, those that came with leases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<IpAddr>,
}

/// What happens to Ethernet ports where no interface is listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ports {
    /// Each has DHCP, and IPv6 as its routers say.
    #[default]
    Automatic,
    /// They stay down.
    Off,
}

impl Ports {
    fn is_automatic(&self) -> bool {
        *self == Self::Automatic
    }
}

/// How one interface is set up: with addresses of its own, with one by DHCP, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Interface {
    /// Addresses with prefix lengths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Prefix>,
    /// A parameter of type `ipv4-prefix` that holds one more address, or `dhcp`; without a value it adds nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_parameter: Option<Name>,
    /// An address is leased.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub dhcp: bool,
    /// Default route for each family present; of DHCP, where none of IPv4 is named, the server's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// A parameter of type `ipv4` that holds one more gateway; of no effect where the address is leased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_parameter: Option<Name>,
    /// Addresses beside those listed.
    #[serde(default, skip_serializing_if = "Ipv6::is_automatic")]
    pub ipv6: Ipv6,
}

/// Where an interface's addresses of IPv6 come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ipv6 {
    /// The kernel makes them from what routers say (SLAAC), beside those that are listed.
    #[default]
    Automatic,
    /// The interface has none.
    Off,
}

impl Ipv6 {
    fn is_automatic(&self) -> bool {
        *self == Self::Automatic
    }
}

impl NetworkConfiguration {
    /// The same with the values of its parameters in their places. A value that does not fit adds nothing: whoever took
    /// it in has checked it.
    #[must_use]
    pub fn with_values(&self, values: &BTreeMap<Name, String>) -> Self {
        let mut network = self.clone();
        for interface in network.interfaces.values_mut() {
            let value = |name: Option<Name>| name.and_then(|name| values.get(&name));
            match value(interface.address_parameter.take()).map(String::as_str) {
                Some("dhcp") => interface.dhcp = true,
                Some(text) => interface.addresses.extend(text.parse::<Prefix>()),
                None => {}
            }
            if let Some(text) = value(interface.gateway_parameter.take())
                && !interface.dhcp
            {
                interface.gateways.extend(text.parse::<IpAddr>());
            }
        }
        network
    }
}

/// Bounds of the log store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Logs {
    /// Most bytes kept on disk for all containers and the kernel together.
    pub disk_max: u64,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            disk_max: 8 * 1024 * 1024,
        }
    }
}

/// An address with the length of its prefix, `192.168.1.10/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// Bits of the prefix, at most 32 or 128.
    pub length: u8,
}

impl Prefix {
    /// Whether some address of IPv4 is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let (width, one, two) = match (self.address, other.address) {
            (IpAddr::V4(one), IpAddr::V4(two)) => {
                (32_u32, one.to_bits().into(), two.to_bits().into())
            }
            (IpAddr::V6(one), IpAddr::V6(two)) => (128, one.to_bits(), two.to_bits()),
            _ => return false,
        };
        let kept = width.saturating_sub(self.length.min(other.length).into());
        let head = |bits: u128| bits.checked_shr(kept).unwrap_or(0);
        head(one) == head(two)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::invalid("address", "is not address/prefix-length");
        let (address, length) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let length: u8 = length.parse().map_err(|_| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = Self { address, length };
        // The comparison refuses other spellings, as 010.0.0.1 or /08.
        if length <= most && prefix.to_string() == text {
            Ok(prefix)
        } else {
            Err(bad())
        }
    }
}
crate::id::serde_as_text!(
    Prefix,
    "an address with prefix length, as 192.168.1.10/24",
    "^[0-9a-fA-F.:]+/[0-9]{1,3}$"
);

impl Configuration {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the path of the field.
    pub fn check(&self) -> Result<(), Error> {
        let network = &self.network;
        if network.interfaces.len() > 32 {
            return Err(Error::invalid(
                "configuration.network.interfaces",
                "are over 32",
            ));
        }
        for (name, interface) in &network.interfaces {
            let field = format!("configuration.network.interfaces.{name}");
            check_interface(name, interface, &field)?;
        }
        let listed = |name: &String| network.interfaces.contains_key(name);
        let mut preferred = BTreeSet::new();
        let mut prefer = network.prefer.iter();
        if let Some(name) = prefer.find(|name| !preferred.insert(*name) || !listed(name)) {
            return Err(Error::invalid_one(
                "configuration.network.prefer",
                name,
                "is there twice, or is no interface that is listed",
            ));
        }
        if network.nameservers.len() > 8 {
            return Err(Error::invalid(
                "configuration.network.nameservers",
                "are over 8",
            ));
        }
        let logs = self.logs.disk_max;
        if !(64 * 1024..=1 << 40).contains(&logs) {
            return Err(Error::invalid(
                "configuration.logs.disk-max",
                "is not 64 KiB to 1 TiB",
            ));
        }
        check_hubs(&self.hubs, "configuration.hubs")
    }
}

/// Whether these are at most eight addresses of hubs.
pub(crate) fn check_hubs(hubs: &[String], field: &str) -> Result<(), Error> {
    let url = |hub: &String| {
        hub.len() <= 256
            && hub
                .strip_prefix("https://")
                .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic()))
    };
    if hubs.len() > 8 {
        return Err(Error::invalid(field, "are over 8"));
    }
    if let Some(hub) = hubs.iter().find(|hub| !url(hub)) {
        return Err(Error::invalid_one(field, hub, "is no https:// address"));
    }
    Ok(())
}

fn check_interface(name: &str, interface: &Interface, field: &str) -> Result<(), Error> {
    // IFNAMSIZ is 16 with its NUL; the kernel refuses slashes, colons and white space (net/core/dev.c, dev_valid_name).
    let good_name = (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
    if !good_name {
        return Err(Error::invalid(field, "is no name of an interface"));
    }
    let none =
        interface.addresses.is_empty() && interface.address_parameter.is_none() && !interface.dhcp;
    if none || interface.addresses.len() > 16 {
        return Err(Error::invalid(
            format!("{field}.addresses"),
            "are not 1 to 16, and nothing else gives one",
        ));
    }
    let v6 = |address: &IpAddr| address.is_ipv6();
    if interface.ipv6 == Ipv6::Off
        && (interface.addresses.iter().any(|p| v6(&p.address)) || interface.gateways.iter().any(v6))
    {
        return Err(Error::invalid(
            format!("{field}.ipv6"),
            "is off, and an address is of IPv6",
        ));
    }
    let unusable = |address: &IpAddr| match address {
        IpAddr::V4(a) => *a == Ipv4Addr::UNSPECIFIED || a.is_multicast() || a.is_broadcast(),
        IpAddr::V6(a) => *a == Ipv6Addr::UNSPECIFIED || a.is_multicast(),
    };
    if interface.addresses.iter().any(|p| unusable(&p.address))
        || interface.gateways.iter().any(unusable)
    {
        return Err(Error::invalid(
            field,
            "has an address that no interface can have",
        ));
    }
    let v4 = interface.gateways.iter().filter(|g| g.is_ipv4()).count();
    let v6 = interface.gateways.len().saturating_sub(v4);
    let v4 = v4.saturating_add(interface.gateway_parameter.is_some().into());
    if v4 > 1 || v6 > 1 {
        return Err(Error::invalid(
            format!("{field}.gateways"),
            "are more than one of a family",
        ));
    }
    Ok(())
}
