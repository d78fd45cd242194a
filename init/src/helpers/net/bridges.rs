//! Networks of containers' own on the device: a bridge a pool, a pair of interfaces a container, and the rules beside them.
//!
//! A pool's bridge is called `br-` and its name, and is told from a board's own by its group ([`GROUP`]). A container's end outside is
//! called `kedge` and its process's id, which nobody else has until it is reaped; so what a predecessor has left is known by its
//! name. A pair goes with its container, though somebody may hold the namespace; a bridge goes when the pool does, or its
//! address changes.
//!
//! What a port has, or leases, goes before a pool: while they overlap, the bridge is down and without its address,
//! and the rules do not know the pool. That is refused as what the kernel refuses is: told, shown, and tried again.
//!
//! A pool with a prefix of IPv6 has both families; without one its bridge has none.
//!
//! Addresses of interfaces are made from those of IPv4, so that neighbours need not ask anew when a container or the bridge
//! has been made again.

use super::pools::{Attach, Forward, Pool, Pools};
use super::ports::{Port, Refusals, Refused};
use super::rtnetlink::{
    ACKNOWLEDGED, GROUP, Held, IFF_UP, IFLA_ADDRESS, IFLA_GROUP, IFLA_IFNAME, Link, Listing,
    Netlink, News, RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK, attribute, interface, message,
};
use super::{
    Error, MAX_NEWS, Net, POOLS, Report, connections, now_ms, only_refusals, overwrite, ruling,
};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use kedge_container::INTERFACE;
use kedge_revision::configuration::Prefix;
use kedge_revision::pool::BRIDGE;
use kedge_sys::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

/// `NLM_F_CREATE | NLM_F_EXCL`.
const NEW: u16 = 0x600;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
/// Of Linux 6.7 on (`include/uapi/linux/if_link.h`).
const IFLA_BR_FDB_MAX_LEARNED: u16 = 49;
/// Most hardware addresses that a bridge learns. Each takes memory that is counted as nobody's, for five minutes, and whoever may
/// send raw frames makes as many as it likes.
const MOST_LEARNED: u32 = 1024;
const VETH_INFO_PEER: u16 = 1;
/// What is tried first for a pool.
const MAKE: &str = "make the network";
/// Before the process's id in the name of a container's end outside.
const PAIR: &str = "kedge";
/// Whether packets of IPv4 are forwarded at all; which are, the rules say.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// The same of IPv6, by pools that have such a prefix. Ports hear routers nevertheless: see their rules.
const FORWARDING6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// What the helper has made, and is to make.
#[derive(Debug, Default)]
pub(super) struct Bridges {
    /// What is to be; none before PID 1 has said it.
    wanted: Option<Pools>,
    /// Bridges that are as they are to be.
    there: Vec<Bridge>,
    /// For each pool that is to be, what of a port it overlaps with.
    overlaps: Vec<Option<String>>,
    /// The ports of the rules that are set, if any are.
    ruled: Option<Vec<Forward>>,
    /// Whether rules of a predecessor were looked for.
    looked: bool,
    /// What was refused.
    pub(super) refused: Refusals,
}

/// A pool's name, and the number of its bridge.
type Bridge = (String, u32);

fn find(bridges: &[Bridge], pool: &str) -> Option<u32> {
    let found = bridges.iter().find(|(name, _)| name == pool);
    found.map(|(_, index)| *index)
}

/// Whether it was done; what was refused is kept.
fn note(
    refused: &mut Vec<Refused>,
    doing: &'static str,
    value: &str,
    done: Result<(), Error>,
) -> bool {
    let Err(error) = done else {
        return true;
    };
    refused.push(Refused {
        doing,
        value: value.to_owned(),
        errno: error.errno(),
    });
    false
}

impl Net<'_> {
    /// Goes from the pools that there are to these.
    pub(super) fn set_pools(&mut self, wanted: Pools) -> Result<(), Error> {
        self.bridges.wanted = Some(wanted);
        self.bridges.overlaps = self.overlaps(None);
        self.make_pools()
    }

    /// Makes room for what ports have, and what one is about to be given; and takes it again when they have it no more.
    pub(super) fn make_room(&mut self, coming: Option<(&str, &Port)>) -> Result<(), Error> {
        let overlaps = self.overlaps(coming);
        if overlaps == self.bridges.overlaps {
            return Ok(());
        }
        self.bridges.overlaps = overlaps;
        self.make_pools()
    }

    /// Pools in which a port has an address, or what it reaches others by: its routers, and the name servers of its lease.
    fn overlaps(&self, coming: Option<(&str, &Port)>) -> Vec<Option<String>> {
        let Some(wanted) = &self.bridges.wanted else {
            return Vec::new();
        };
        let configuration = self.configuration.as_ref();
        let are_asked = configuration.is_none_or(|all| all.nameservers.is_empty());
        let mut found = vec![None; wanted.pools.len()];
        let named = self.ports.iter().map(|(name, port)| (name.as_str(), port));
        for (name, port) in named.chain(coming) {
            let mut all = port.reaches(are_asked);
            // What routers announce is nobody's decision here, and every neighbour's in reach: it takes no pool down.
            let held = self.held.of(port.index).iter();
            all.extend(held.filter(|held| held.address.is_ipv4()));
            for other in all {
                for (pool, found) in wanted.pools.iter().zip(&mut found) {
                    if found.is_none() && prefixes(pool).any(|own| other.overlaps(own)) {
                        let name_of_pool = &pool.name;
                        let text = format!("{name_of_pool}, which overlaps with {other} of {name}");
                        *found = Some(text);
                    }
                }
            }
        }
        found
    }

    /// Makes them as they are to be, as far as that goes.
    pub(super) fn make_pools(&mut self) -> Result<(), Error> {
        let Some(wanted) = self.bridges.wanted.take() else {
            return Ok(());
        };
        let refused = &mut Vec::new();
        let mut made = wanted.clone();
        for (pool, overlaps) in wanted.pools.iter().zip(&self.bridges.overlaps) {
            if let Some(text) = overlaps {
                let error = kedge_sys::Error::new("bridge", Errno::ADDRINUSE);
                note(refused, MAKE, text, Err(Error::Netlink(error)));
                made.pools.retain(|other| other != pool);
                made.ports
                    .retain(|port| !prefix(pool).overlaps(host(port.to)));
            }
        }
        let done = self
            .make_bridges(&wanted, &made, refused)
            .and_then(|()| self.forward(&made, refused));
        self.bridges.wanted = Some(wanted);
        done?;
        let waited = self.bridges.refused.due().is_some();
        let refused = core::mem::take(refused);
        for Refused {
            doing,
            value,
            errno,
        } in self.bridges.refused.take(refused, now_ms())
        {
            let name = &value;
            self.report(&Report::Failed { errno, name, doing })?;
        }
        if waited && self.bridges.refused.due().is_none() {
            self.report(&Report::Applied { name: POOLS })?;
        }
        Ok(())
    }

    /// Makes the bridges of `made`, and takes down those of the other pools that are wanted.
    fn make_bridges(
        &mut self,
        wanted: &Pools,
        made: &Pools,
        refused: &mut Vec<Refused>,
    ) -> Result<(), Error> {
        let buffer = &mut vec![0; MAX_NEWS];
        self.bridges.there.clear();
        let addresses = self.requests.list(Listing::Addresses, buffer)?;
        for (name, index) in self.bridges(buffer)? {
            // One without an address is taken down, or was not yet given it.
            let holds = |held: &Held| held.index == index && is_global(held.prefix.address);
            let other = |pool: &Pool| {
                let is = |news: &News| matches!(news, News::Address(held) if holds(held) && !prefixes(pool).any(|own| held.prefix == own));
                addresses.iter().any(is)
            };
            let pool = wanted.pools.iter().find(|pool| pool.name == name);
            let Some(pool) = pool.filter(|pool| !other(pool)) else {
                let done = self.requests.remove(index);
                note(refused, "remove the network", &name, done);
                continue;
            };
            // What is in it stays, for when there is room again.
            if !made.pools.contains(pool) {
                for own in prefixes(pool) {
                    let done = self.requests.remove_address(index, own);
                    done.or_else(only_refusals)?;
                }
                let done = self.requests.set_up(index, false);
                note(refused, "take down the network", &name, done);
            }
        }
        let before = self.bridges(buffer)?;
        for pool in &made.pools {
            if find(&before, &pool.name).is_none()
                && let Err(error) = self.requests.add_bridge(pool)
            {
                let doing = if error.errno() == Errno::OPNOTSUPP {
                    "make, as this kernel has no bridges, the network"
                } else {
                    MAKE
                };
                note(refused, doing, &pool.name, Err(error));
            }
        }
        let mut there = self.bridges(buffer)?;
        there.retain(|(name, index)| {
            let Some(pool) = made.pools.iter().find(|pool| pool.name == *name) else {
                return false;
            };
            let mut done = confine(pool);
            for own in prefixes(pool) {
                done = done.and_then(|()| self.requests.add_own_address(*index, own));
            }
            let done = done.and_then(|()| self.requests.set_up(*index, true));
            note(refused, "set up the network", name, done)
        });
        self.bridges.there = there;
        Ok(())
    }

    /// Bridges of pools by the pools' names. Ends of containers that are no more are removed: PID 1 may have told a
    /// predecessor of it.
    fn bridges(&self, buffer: &mut [u8]) -> Result<Vec<Bridge>, Error> {
        let mut found = Vec::new();
        for news in self.requests.list(Listing::Links, buffer)? {
            let News::Link(Link {
                name, index, group, ..
            }) = news
            else {
                continue;
            };
            if group != GROUP {
                continue;
            }
            if let Some(pool) = name.strip_prefix(BRIDGE) {
                found.push((pool.to_owned(), index));
            } else if let Some(pid) = name.strip_prefix(PAIR)
                && !Path::new("/proc").join(pid).exists()
            {
                self.requests.remove(index).or_else(only_refusals)?;
            }
        }
        Ok(found)
    }

    /// Sets the rules, and forwards only where they hold. Without pools neither is there.
    fn forward(&mut self, made: &Pools, refused: &mut Vec<Refused>) -> Result<(), Error> {
        let on = !made.pools.is_empty();
        // A kernel without rules has none to be removed, and who else forwards is left alone.
        let is_left = !self.bridges.looked && ruling::are_there();
        if !on && self.bridges.ruled.is_none() && !is_left {
            self.bridges.looked = true;
            return Ok(());
        }
        let on6 = made.pools.iter().any(|pool| pool.six.is_some());
        for (file, on) in [(FORWARDING, on), (FORWARDING6, on6)] {
            if !on {
                let done = overwrite(Path::new(file), "0");
                note(refused, "stop to forward", "", unless_absent(done));
            }
        }
        let done = if on {
            ruling::set(made).map(|unbounded| {
                let doing = "bound connections of networks, as this kernel cannot count them,";
                note(refused, doing, "", unbounded.map_or(Ok(()), Err));
            })
        } else {
            ruling::remove()
        };
        // A bridge without them is a network whose containers have one another alone.
        let doing = "set rules for networks, which this kernel may not have";
        if !note(refused, doing, "", done) {
            return Ok(());
        }
        self.bridges.looked = true;
        let before = self.bridges.ruled.take().unwrap_or_default();
        self.bridges.ruled = on.then(|| made.ports.clone());
        for (file, on) in [(FORWARDING, on), (FORWARDING6, on6)] {
            if on {
                let done = overwrite(Path::new(file), "1");
                note(refused, "forward", "", done);
            }
        }
        // Connections outlive the rules that they were made by.
        let mut changed = Vec::new();
        for (these, those) in [(&before, &made.ports), (&made.ports, &before)] {
            let other = these.iter().filter(|port| !those.contains(port));
            changed.extend(other.flat_map(|port| both(port.to, port.to6)));
        }
        self.forget(&changed)
    }

    /// Ends what is known of connections of these addresses, whose owners or ports are others now.
    fn forget(&self, addresses: &[IpAddr]) -> Result<(), Error> {
        if addresses.is_empty() {
            return Ok(());
        }
        connections::forget(addresses).or_else(|error| {
            let doing = "end connections of former containers of networks";
            self.refused("", doing, error)
        })
    }

    /// Puts an interface into a container's network namespace.
    pub(super) fn attach(
        &self,
        attach: &Attach<'_>,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        // A container is there as soon as its interface is: by then nobody speaks with who had its addresses before.
        if !self.requests.has_pair(attach.pid) {
            let addresses: Vec<IpAddr> = both(attach.address, attach.address6).collect();
            self.forget(&addresses)?;
        }
        let done = match find(&self.bridges.there, attach.pool) {
            Some(bridge) => self.requests.add_pair(bridge, attach, namespace),
            None => Err(Error::Netlink(kedge_sys::Error::new("pair", Errno::NODEV))),
        };
        match done {
            Ok(()) => Ok(()),
            Err(error) => {
                let doing = if error.errno() == Errno::OPNOTSUPP {
                    "add, as this kernel has no pairs of interfaces, a container to the network"
                } else {
                    "add a container to the network"
                };
                self.refused(attach.pool, doing, error)
            }
        }
    }

    /// A container has ended: its pair goes, though somebody may still hold its namespace, where the other end has
    /// the address that the next one has.
    pub(super) fn detach(&self, pid: u32) -> Result<(), Error> {
        let parts = [&interface(0, 0, 0)[..], &outside(pid)];
        let message = message(RTM_DELLINK, ACKNOWLEDGED, &parts);
        // As a rule it has gone by itself.
        self.requests
            .command("pair", &message)
            .or_else(only_refusals)
    }
}

/// On a bridge the device has no address but the pool's, and hears no container as a router; and what comes from there
/// has an address of the pool. Containers are attached after.
fn confine(pool: &Pool) -> Result<(), Error> {
    let name = &pool.name;
    let off = if pool.six.is_some() { "0" } else { "1" };
    for (family, rule, value) in [
        ("ipv6", "accept_ra", "0"),
        // A container that says it had the bridge's own address of the link would take it for good, and with it all asking for neighbours.
        ("ipv6", "accept_dad", "0"),
        ("ipv6", "disable_ipv6", off),
        ("ipv4", "rp_filter", "1"),
    ] {
        let path = format!("/proc/sys/net/{family}/conf/{BRIDGE}{name}/{rule}");
        let done = overwrite(Path::new(&path), value);
        if family == "ipv6" {
            unless_absent(done)?;
        } else {
            done?;
        }
    }
    Ok(())
}

/// A kernel without IPv6 has nothing to be told: its addresses are refused where they are given.
fn unless_absent(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(error) if error.errno() == Errno::NOENT => Ok(()),
        other => other,
    }
}

/// Whether it is no address that every interface makes for itself (RFC 4291, 2.5.6).
fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}

/// A container's addresses.
fn both(four: Ipv4Addr, six: Option<Ipv6Addr>) -> impl Iterator<Item = IpAddr> {
    [Some(four.into()), six.map(IpAddr::V6)]
        .into_iter()
        .flatten()
}

impl Netlink {
    fn add_bridge(&self, pool: &Pool) -> Result<(), Error> {
        self.command("bridge", &bridge(pool))
    }

    /// Removes an interface.
    fn remove(&self, index: u32) -> Result<(), Error> {
        let body = interface(index, 0, 0);
        self.command("link", &message(RTM_DELLINK, ACKNOWLEDGED, &[&body]))
    }

    /// Whether a container's end outside is there: the kernel answers with it, or refuses.
    fn has_pair(&self, pid: u32) -> bool {
        let question = message(RTM_GETLINK, REQUEST, &[&interface(0, 0, 0), &outside(pid)]);
        let asked = self.command("pair", &question);
        asked.is_err_and(|error| error.errno() == Errno::PROTO)
    }

    /// Makes a pair; one that is there already is put on the bridge.
    fn add_pair(
        &self,
        bridge: u32,
        attach: &Attach<'_>,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        match self.command("pair", &pair(bridge, attach, namespace.as_raw_fd())) {
            Err(error) if error.errno() == Errno::EXIST => {
                let (name, bridge) = (
                    outside(attach.pid),
                    attribute(IFLA_MASTER, &bridge.to_ne_bytes()),
                );
                let parts = [&interface(0, 0, 0)[..], &name, &bridge];
                self.command("pair", &message(RTM_NEWLINK, ACKNOWLEDGED, &parts))
            }
            other => other,
        }
    }
}

fn prefix(pool: &Pool) -> Prefix {
    Prefix {
        address: IpAddr::V4(pool.gateway),
        length: pool.length,
    }
}

/// The device's addresses in a pool.
fn prefixes(pool: &Pool) -> impl Iterator<Item = Prefix> {
    let six = pool.six.map(|(address, length)| Prefix {
        address: IpAddr::V6(address),
        length,
    });
    [Some(prefix(pool)), six].into_iter().flatten()
}

fn host(address: Ipv4Addr) -> Prefix {
    Prefix {
        address: IpAddr::V4(address),
        length: 32,
    }
}

/// The bridge of a pool, up.
fn bridge(pool: &Pool) -> Vec<u8> {
    let most = attribute(IFLA_BR_FDB_MAX_LEARNED, &MOST_LEARNED.to_ne_bytes());
    let kind = [
        attribute(IFLA_INFO_KIND, b"bridge"),
        attribute(IFLA_INFO_DATA, &most),
    ]
    .concat();
    let parts = [
        &interface(0, IFF_UP, IFF_UP)[..],
        &named(&[BRIDGE, &pool.name].concat()),
        &hardware(pool.gateway),
        &attribute(IFLA_GROUP, &GROUP.to_ne_bytes()),
        &attribute(IFLA_LINKINFO, &kind),
    ];
    message(RTM_NEWLINK, ACKNOWLEDGED | NEW, &parts)
}

/// A pair of interfaces: one on the bridge, up, and one in the namespace. That is down: Linux would bring it up before
/// it knows of the other, and fail by that (`drivers/net/veth.c`, veth_open).
fn pair(bridge: u32, attach: &Attach<'_>, namespace: i32) -> Vec<u8> {
    let inside = [
        &interface(0, 0, 0)[..],
        &attribute(IFLA_IFNAME, INTERFACE.to_bytes_with_nul()),
        &hardware(attach.address),
        &attribute(IFLA_NET_NS_FD, &namespace.to_ne_bytes()),
    ]
    .concat();
    let kind = [
        attribute(IFLA_INFO_KIND, b"veth"),
        attribute(IFLA_INFO_DATA, &attribute(VETH_INFO_PEER, &inside)),
    ]
    .concat();
    let parts = [
        &interface(0, IFF_UP, IFF_UP)[..],
        &outside(attach.pid),
        &attribute(IFLA_GROUP, &GROUP.to_ne_bytes()),
        &attribute(IFLA_MASTER, &bridge.to_ne_bytes()),
        &attribute(IFLA_LINKINFO, &kind),
    ];
    message(RTM_NEWLINK, ACKNOWLEDGED | NEW, &parts)
}

fn outside(pid: u32) -> Vec<u8> {
    named(&format!("{PAIR}{pid}"))
}

fn named(name: &str) -> Vec<u8> {
    attribute(IFLA_IFNAME, &[name.as_bytes(), &[0]].concat())
}

/// An Ethernet address that is nobody's (IEEE 802, local, unicast), made from an address that is nobody else's here.
fn hardware(address: Ipv4Addr) -> Vec<u8> {
    let [a, b, c, d] = address.octets();
    attribute(IFLA_ADDRESS, &[0x02, 0x4b, a, b, c, d])
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_kernel_reads_them() {
        let pool = Pool {
            name: "front".to_owned(),
            gateway: Ipv4Addr::new(10, 88, 0, 1),
            length: 24,
            six: None,
        };
        let bridge = bridge(&pool);
        assert_eq!(&bridge[..8], &[96, 0, 0, 0, 16, 0, 5, 6]);
        assert_eq!(&bridge[32..48], b"\x0d\0\x03\0br-front\0\0\0\0");
        assert_eq!(&bridge[48..60], &[10, 0, 1, 0, 2, 0x4b, 10, 88, 0, 1, 0, 0]);
        let group = [8, 0, 27, 0, 0x45, 0x4b, 0, 0];
        assert_eq!(bridge[60..68], group);
        assert_eq!(&bridge[68..84], b"\x1c\0\x12\0\x0a\0\x01\0bridge\0\0");
        assert_eq!(&bridge[84..], b"\x0c\0\x02\0\x08\0\x31\0\0\x04\0\0");
        let attach = Attach {
            pid: 4711,
            address: Ipv4Addr::new(10, 88, 0, 2),
            address6: None,
            pool: "front",
        };
        let pair = pair(5, &attach, 9);
        assert_eq!(pair[0] as usize, pair.len());
        assert_eq!(&pair[32..48], b"\x0e\0\x03\0kedge4711\0\0\0");
        assert_eq!(pair[48..56], group);
        assert_eq!(&pair[56..64], &[8, 0, 10, 0, 5, 0, 0, 0]);
        assert_eq!(&pair[64..80], b"\x44\0\x12\0\x08\0\x01\0veth\x38\0\x02\0");
        assert_eq!(&pair[80..84], &[52, 0, 1, 0]);
        assert_eq!(&pair[100..112], b"\x09\0\x03\0eth0\0\0\0\0");
        assert_eq!(&pair[124..], &[8, 0, 28, 0, 9, 0, 0, 0]);
    }
}
