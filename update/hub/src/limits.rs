//! How much one address may ask without saying who it is.
//!
//! A bucket an address, of [`BURST`] requests that fill up again at [`PER_SECOND`]; a whole site behind one address may
//! come back at once after a power cut. Addresses are forgotten once their bucket is full, and no more than [`ADDRESSES`]
//! are kept: beyond that, all others share one. Connections without a certificate are limited for each address, too.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Requests at once.
pub(crate) const BURST: f64 = 600.0;
/// Requests a second, from then on.
const PER_SECOND: f64 = 20.0;
/// Most addresses that are told apart.
const ADDRESSES: usize = 16 * 1024;
/// Where everybody else is counted.
const OTHERS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * PER_SECOND).min(BURST);
        self.at = now;
    }
}

/// Connections of an address that do not say whose they are: operators' tools, and devices that come.
const GUESTS: u32 = 256;

/// All buckets.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    buckets: Mutex<Buckets>,
    guests: Mutex<HashMap<IpAddr, u32>>,
}

/// A connection that is counted for its address.
#[derive(Debug)]
pub(crate) struct Guest<'a> {
    limits: &'a Limits,
    address: IpAddr,
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let guests = &self.limits.guests;
        let mut guests = guests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = guests.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                guests.remove(&self.address);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Buckets {
    known: HashMap<IpAddr, Bucket>,
    /// When full ones were last dropped: once a second at most, since it looks at all of them.
    swept: Option<Instant>,
}

impl Buckets {
    fn sweep(&mut self, now: Instant) {
        let due = self
            .swept
            .is_none_or(|swept| now.saturating_duration_since(swept).as_secs() >= 1);
        if due {
            self.swept = Some(now);
            self.known.retain(|_, bucket| {
                bucket.fill(now);
                bucket.left < BURST
            });
        }
    }
}

impl Limits {
    /// A place for a connection without a certificate; none if its address has too many.
    pub(crate) fn guest(&self, address: IpAddr) -> Option<Guest<'_>> {
        let address = network(address);
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        let count = guests.entry(address).or_default();
        if *count >= GUESTS {
            return None;
        }
        *count += 1;
        Some(Guest {
            limits: self,
            address,
        })
    }

    /// Takes `cost` requests from an address's bucket; false if it has not that many.
    pub(crate) fn take(&self, address: IpAddr, cost: f64, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = network(address);
        if !buckets.known.contains_key(&key) && buckets.known.len() >= ADDRESSES {
            buckets.sweep(now);
            if buckets.known.len() >= ADDRESSES {
                key = OTHERS;
            }
        }
        let bucket = buckets.known.entry(key).or_insert(Bucket {
            left: BURST,
            at: now,
        });
        bucket.fill(now);
        let enough = bucket.left >= cost;
        if enough {
            bucket.left -= cost;
        }
        enough
    }
}

/// What is told apart: an IPv4 address, and of IPv6 the /64 that one site has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let bits = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let limits = Limits::default();
        let now = Instant::now();
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let taken = (0..1000).filter(|_| limits.take(address, 1.0, now)).count();
        assert_eq!(taken, 600);
        assert!(limits.take(IpAddr::V4(Ipv4Addr::BROADCAST), 1.0, now));
        let later = now + Duration::from_secs(1);
        let taken = (0..1000)
            .filter(|_| limits.take(address, 1.0, later))
            .count();
        assert_eq!(taken, 20);
    }

    #[test]
    fn an_address_has_so_many_guests_and_no_more() {
        let limits = Limits::default();
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let guests: Vec<_> = (0..GUESTS)
            .map(|_| limits.guest(address).unwrap())
            .collect();
        assert!(limits.guest(address).is_none());
        assert!(limits.guest(IpAddr::V4(Ipv4Addr::BROADCAST)).is_some());
        drop(guests);
        assert!(limits.guests.lock().unwrap().is_empty());
        assert!(limits.guest(address).is_some());
    }

    #[test]
    fn more_addresses_than_are_kept_share_a_bucket() {
        let limits = Limits::default();
        let now = Instant::now();
        for number in 0..20_000_u32 {
            let address = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number));
            limits.take(address, 1.0, now);
        }
        let kept = limits.buckets.lock().unwrap().known.len();
        assert_eq!(kept, ADDRESSES + 1);
        assert!(!limits.take(IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000)), 1.0, now));
    }
}
