//! How much one address may ask without saying who it is.
//!
//! A bucket an address, of [`BURST`] requests that fill up again at [`PER_SECOND`]; a whole site behind one address may
//! come back at once after a power cut. Addresses are forgotten once their bucket is full, and no more than [`ADDRESSES`]
//! are kept: beyond that, all others share one. Connections are counted from the start: for an address as long as they have not said
//! whose they are and if they then show no certificate, and for a device if they do.

use kedge_revision::KeyId;
use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::oneshot;

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
const GUESTS: usize = 256;
/// Connections of one device: its poll, its downloads, its logs, and some that the other side does not know to be dead.
const OF_A_DEVICE: usize = 8;

/// All buckets, and how many connections each has.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    buckets: Mutex<Buckets>,
    newcomers: Places<IpAddr>,
    guests: Places<IpAddr>,
    devices: Mutex<HashMap<KeyId, Vec<Held>>>,
    numbers: AtomicU64,
}

/// How many places somebody has; those without one are not kept.
#[derive(Debug)]
struct Places<K>(Mutex<HashMap<K, usize>>);

impl<K> Default for Places<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Copy + Eq + Hash> Places<K> {
    /// One more for `whose`; none if that has `most`.
    fn take(&self, whose: K, most: usize) -> Option<Place<'_, K>> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(&whose).copied().unwrap_or(0);
        if count >= most {
            return None;
        }
        counts.insert(whose, count + 1);
        Some(Place {
            places: self,
            whose,
        })
    }
}

/// A place that is counted for somebody until it is dropped.
#[derive(Debug)]
pub(crate) struct Place<'a, K: Copy + Eq + Hash> {
    places: &'a Places<K>,
    whose: K,
}

impl<K: Copy + Eq + Hash> Drop for Place<'_, K> {
    fn drop(&mut self) {
        let counts = &self.places.0;
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.whose);
            }
        }
    }
}

/// A device's connection, as the limits know it.
#[derive(Debug)]
struct Held {
    number: u64,
    /// Dropped when the connection has to end.
    _hold: oneshot::Sender<Infallible>,
}

/// A connection that is counted for its device until this is dropped.
#[derive(Debug)]
pub(crate) struct OfDevice<'a> {
    limits: &'a Limits,
    device: KeyId,
    number: u64,
    over: oneshot::Receiver<Infallible>,
}

impl OfDevice<'_> {
    /// Ready when the connection has to end: newer ones took its place, or the device was shut out.
    pub(crate) async fn over(&mut self) {
        // Nothing is ever sent: the other end was dropped.
        let _dropped = (&mut self.over).await;
    }
}

impl Drop for OfDevice<'_> {
    fn drop(&mut self) {
        let devices = &self.limits.devices;
        let mut devices = devices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = devices.get_mut(&self.device) {
            held.retain(|held| held.number != self.number);
            if held.is_empty() {
                devices.remove(&self.device);
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
    /// A place for a connection that has not said yet whose it is. An address has at most half as many as are `free`: alone
    /// it gets a third of the hub's connections, two get a quarter each, and something is always left for the others.
    /// Once the handshake is done, what comes of it is counted elsewhere.
    pub(crate) fn newcomer(&self, address: IpAddr, free: usize) -> Option<Place<'_, IpAddr>> {
        self.newcomers.take(network(address), free / 2)
    }

    /// A place for a connection without a certificate; none if its address has too many.
    pub(crate) fn guest(&self, address: IpAddr) -> Option<Place<'_, IpAddr>> {
        self.guests.take(network(address), GUESTS)
    }

    /// Counts a connection with the certificate of a device, whatever has become of that. The newest ones are good: those
    /// before them may be of a network that was lost, which the hub notices late.
    pub(crate) fn device(&self, device: KeyId) -> OfDevice<'_> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (hold, over) = oneshot::channel();
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let held = devices.entry(device).or_default();
        if held.len() >= OF_A_DEVICE {
            held.remove(0);
        }
        held.push(Held {
            number,
            _hold: hold,
        });
        OfDevice {
            limits: self,
            device,
            number,
            over,
        }
    }

    /// Ends all connections of a device.
    pub(crate) fn end(&self, device: KeyId) {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.remove(&device);
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
pub(crate) fn network(address: IpAddr) -> IpAddr {
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
    use kedge_revision::PublicKey;
    use std::time::Duration;
    use tokio::sync::oneshot::error::TryRecvError;

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
        assert!(limits.guests.0.lock().unwrap().is_empty());
        assert!(limits.guest(address).is_some());
    }

    #[test]
    fn newcomers_of_one_address_leave_places_for_others() {
        let limits = Limits::default();
        let (greedy, other) = (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::BROADCAST.into());
        let all = 300;
        let mut taken = Vec::new();
        while let Some(place) = limits.newcomer(greedy, all - taken.len()) {
            taken.push(place);
        }
        assert_eq!(taken.len(), 100);
        assert!(limits.newcomer(other, all - taken.len()).is_some());
        taken.truncate(99);
        assert!(limits.newcomer(greedy, all - taken.len()).is_some());
    }

    #[tokio::test]
    async fn a_device_has_so_many_connections_and_the_newest_stay() {
        let limits = Limits::default();
        let key = |byte| PublicKey::from_bytes([byte; 32]).id();
        let mut of_one: Vec<_> = (0..=OF_A_DEVICE).map(|_| limits.device(key(1))).collect();
        let mut other = limits.device(key(2));
        of_one[0].over().await;
        for held in of_one.iter_mut().skip(1).chain([&mut other]) {
            assert!(held.over.try_recv().unwrap_err() == TryRecvError::Empty);
        }
        limits.end(key(1));
        for held in of_one.iter_mut().skip(1) {
            held.over().await;
        }
        assert!(other.over.try_recv().unwrap_err() == TryRecvError::Empty);
        drop(of_one);
        drop(other);
        assert!(limits.devices.lock().unwrap().is_empty());
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
