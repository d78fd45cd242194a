//! What PID 1 tells the net helper of networks of containers' own.
//!
//! Kind 2 is all pools: their count u8 and of each the length of its name u8, the name, the device's address (4 bytes) and the
//! prefix's length u8, and both of IPv6 (16 bytes and u8; zeros: none); then the count of published ports u16 and of each 1 for UDP
//! and 0 for TCP, the device's address (zeros: any), its port u16, the container's address, that of IPv6 (zeros: none) and
//! its port u16. Kind 3 is a container that waits for its interface: its process's id u32, its address, that of IPv6, and
//! its pool's name; its network namespace's descriptor comes along. Kind 4 is its end: the process's id u32.

use super::super::FrameError;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use kedge_revision::Content;
use kedge_revision::configuration::Prefix;
use kedge_revision::pool::{MAX_NAME, Place, Protocol, Published};

/// Pools and published ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pools {
    /// The pools.
    pub pools: Vec<Pool>,
    /// The ports.
    pub ports: Vec<Forward>,
}

/// A pool as the helper makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// The device's address in it.
    pub gateway: Ipv4Addr,
    /// Bits of its prefix.
    pub length: u8,
    /// The same of IPv6, if it has that.
    pub six: Option<Six>,
}

/// An address of IPv6, and the bits of its prefix.
pub type Six = (Ipv6Addr, u8);

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// The container's address.
    pub to: Ipv4Addr,
    /// That of IPv6, if it has one.
    pub to6: Option<Ipv6Addr>,
    /// The rest.
    pub port: Published,
}

/// A container that waits for its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attach<'a> {
    /// Its first process: nobody else's as long as its network namespace lasts.
    pub pid: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// That of IPv6, if it has one.
    pub address6: Option<Ipv6Addr>,
    /// Its pool.
    pub pool: &'a str,
}

/// The IPv4 address of a prefix; one of IPv6 is refused before a content is run.
fn v4(prefix: Prefix) -> Ipv4Addr {
    match prefix.address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

/// The other way round: the IPv6 address of a prefix.
fn v6(prefix: Option<Prefix>) -> Option<Six> {
    match prefix? {
        Prefix {
            address: IpAddr::V6(address),
            length,
        } => Some((address, length)),
        _ => None,
    }
}

/// An address of IPv6 that may be absent, as frames have it.
fn octets(address: Option<Ipv6Addr>) -> [u8; 16] {
    address.unwrap_or(Ipv6Addr::UNSPECIFIED).octets()
}

fn take6(rest: &mut &[u8]) -> Result<Option<Ipv6Addr>, FrameError> {
    let address = Ipv6Addr::from(take::<16>(rest)?);
    Ok(Some(address).filter(|address| !address.is_unspecified()))
}

impl Pools {
    /// Those of a content.
    #[must_use]
    pub fn of(content: &Content) -> Self {
        let mut found = Self::default();
        for (name, pool) in &content.configuration.networks {
            let gateway = pool.gateway().unwrap_or(pool.prefix);
            found.pools.push(Pool {
                name: name.to_string(),
                gateway: v4(gateway),
                length: gateway.length,
                six: v6(pool.gateway6()),
            });
        }
        for container in content.containers.values() {
            let Some(place) = container.network.place() else {
                continue;
            };
            let to = v4(place.address);
            let to6 = v6(place.address6).map(|(address, _)| address);
            let ports = place.ports.iter().map(|port| Forward {
                to,
                to6,
                port: *port,
            });
            found.ports.extend(ports);
        }
        found
    }

    /// The frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut frame = vec![2, u8::try_from(self.pools.len()).unwrap_or(u8::MAX)];
        for pool in self.pools.iter().take(usize::from(u8::MAX)) {
            frame.push(u8::try_from(pool.name.len()).unwrap_or(u8::MAX));
            frame.extend_from_slice(pool.name.as_bytes());
            frame.extend_from_slice(&pool.gateway.octets());
            frame.push(pool.length);
            let (address, length) = pool.six.unwrap_or((Ipv6Addr::UNSPECIFIED, 0));
            frame.extend_from_slice(&address.octets());
            frame.push(length);
        }
        let count = u16::try_from(self.ports.len()).unwrap_or(u16::MAX);
        frame.extend_from_slice(&count.to_le_bytes());
        for Forward { to, to6, port } in self.ports.iter().take(usize::from(u16::MAX)) {
            frame.push((port.protocol == Protocol::Udp).into());
            let address = port.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
            frame.extend_from_slice(&address.octets());
            frame.extend_from_slice(&port.port.to_le_bytes());
            frame.extend_from_slice(&to.octets());
            frame.extend_from_slice(&octets(*to6));
            frame.extend_from_slice(&port.to.to_le_bytes());
        }
        frame
    }

    /// From a frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let mut rest = frame.strip_prefix(&[2]).ok_or(FrameError)?;
        let mut found = Self::default();
        let [count] = take(&mut rest)?;
        for _ in 0..count {
            let [length] = take(&mut rest)?;
            let (name, after) = rest.split_at_checked(length.into()).ok_or(FrameError)?;
            rest = after;
            let name = name_of(name)?.to_owned();
            let gateway = take::<4>(&mut rest)?.into();
            let [length] = take(&mut rest)?;
            let address = take6(&mut rest)?;
            let [bits] = take(&mut rest)?;
            if address.is_none() && bits != 0 {
                return Err(FrameError);
            }
            found.pools.push(Pool {
                name,
                gateway,
                length,
                six: address.map(|address| (address, bits)),
            });
        }
        for _ in 0..u16::from_le_bytes(take(&mut rest)?) {
            let protocol = match take(&mut rest)? {
                [0] => Protocol::Tcp,
                [1] => Protocol::Udp,
                _ => return Err(FrameError),
            };
            let address = Ipv4Addr::from(take::<4>(&mut rest)?);
            let port = u16::from_le_bytes(take(&mut rest)?);
            let to = take::<4>(&mut rest)?.into();
            let to6 = take6(&mut rest)?;
            let port = Published {
                protocol,
                port,
                address: Some(address).filter(|address| !address.is_unspecified()),
                to: u16::from_le_bytes(take(&mut rest)?),
            };
            found.ports.push(Forward { to, to6, port });
        }
        if rest.is_empty() {
            Ok(found)
        } else {
            Err(FrameError)
        }
    }
}

impl<'a> Attach<'a> {
    /// For a container's process in its place.
    #[must_use]
    pub fn new(pid: u32, place: &'a Place) -> Self {
        Self {
            pid,
            address: v4(place.address),
            address6: v6(place.address6).map(|(address, _)| address),
            pool: place.name.as_str(),
        }
    }

    /// The frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut frame = vec![3];
        frame.extend_from_slice(&self.pid.to_le_bytes());
        frame.extend_from_slice(&self.address.octets());
        frame.extend_from_slice(&octets(self.address6));
        frame.extend_from_slice(self.pool.as_bytes());
        frame
    }

    /// From a frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(frame: &'a [u8]) -> Result<Self, FrameError> {
        let mut rest = frame.strip_prefix(&[3]).ok_or(FrameError)?;
        Ok(Self {
            pid: u32::from_le_bytes(take(&mut rest)?),
            address: take::<4>(&mut rest)?.into(),
            address6: take6(&mut rest)?,
            pool: name_of(rest)?,
        })
    }
}

/// The frame of a container's end, by its process's id.
#[must_use]
pub fn detach(pid: u32) -> Vec<u8> {
    [&[4][..], &pid.to_le_bytes()].concat()
}

/// The process's id from such a frame.
///
/// # Errors
/// [`FrameError`].
pub(super) fn decode_detach(frame: &[u8]) -> Result<u32, FrameError> {
    match frame {
        [4, rest @ ..] => rest
            .try_into()
            .map(u32::from_le_bytes)
            .map_err(|_| FrameError),
        _ => Err(FrameError),
    }
}

fn name_of(bytes: &[u8]) -> Result<&str, FrameError> {
    let fits = (1..=MAX_NAME).contains(&bytes.len());
    let name = core::str::from_utf8(bytes).ok();
    name.filter(|_| fits).ok_or(FrameError)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], FrameError> {
    let (taken, after) = rest.split_first_chunk().ok_or(FrameError)?;
    *rest = after;
    Ok(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 1);

    fn pools() -> Pools {
        let pool = |name: &str, third| Pool {
            name: name.to_owned(),
            gateway: Ipv4Addr::new(10, 88, third, 1),
            length: 24,
            six: (third == 0).then_some((SIX, 64)),
        };
        let forward = |port: &str, last| Forward {
            to: Ipv4Addr::new(10, 88, 0, last),
            to6: (last == 2).then_some(SIX),
            port: port.parse().unwrap(),
        };
        Pools {
            pools: vec![pool("front", 0), pool("back", 1)],
            ports: vec![forward("8080:80", 2), forward("10.0.2.15:53:53/udp", 3)],
        }
    }

    #[test]
    fn every_frame_comes_back() {
        for pools in [Pools::default(), pools()] {
            let frame = pools.encode();
            assert_eq!(Pools::decode(&frame), Ok(pools));
            for end in 0..frame.len() {
                assert!(Pools::decode(&frame[..end]).is_err());
            }
            assert!(Pools::decode(&[frame.as_slice(), &[0]].concat()).is_err());
        }
        let attach = Attach {
            pid: 4711,
            address: Ipv4Addr::new(10, 88, 0, 2),
            address6: Some(SIX),
            pool: "front",
        };
        let frame = attach.encode();
        assert_eq!(Attach::decode(&frame), Ok(attach));
        assert!(Attach::decode(&frame[..25]).is_err());
        assert!(Attach::decode(&[frame.as_slice(), b"12345678"].concat()).is_err());
        let frame = detach(4711);
        assert_eq!(decode_detach(&frame), Ok(4711));
        assert!(decode_detach(&frame[..4]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..90)) {
            for kind in [2, 3] {
                let mut frame = vec![kind];
                frame.extend_from_slice(&bytes);
                if let Ok(pools) = Pools::decode(&frame) {
                    prop_assert_eq!(Pools::decode(&pools.encode()), Ok(pools));
                }
                if let Ok(attach) = Attach::decode(&frame) {
                    prop_assert_eq!(attach.encode(), frame);
                }
            }
        }
    }
}
