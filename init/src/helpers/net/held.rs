//! Addresses that can be used, and how often PID 1 is told what has changed. Pure.
//!
//! Neighbours decide both: whoever announces himself as a router renews addresses with each packet, or brings others.

use super::rtnetlink::Held;
use crate::few::Few;
use kedge_revision::configuration::Prefix;

/// Between one telling and the next, milliseconds.
const EVERY_MS: u64 = 250;

/// What the kernel says of addresses that can be used, by the interface's index, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Addresses(Few<u32, Vec<Prefix>>);

impl Addresses {
    /// Those of an interface.
    pub(super) fn of(&self, index: u32) -> &[Prefix] {
        self.0.get(&index).map_or(&[], Vec::as_slice)
    }

    /// Takes news of one. One that is renewed keeps its place: nothing has changed.
    pub(super) fn hold(&mut self, held: &Held) {
        let addresses = self.0.of(held.index);
        let has = addresses.contains(&held.prefix);
        let good = held.usable && !held.gone;
        if good && !has {
            addresses.push(held.prefix);
        } else if !good {
            addresses.retain(|prefix| *prefix != held.prefix);
        }
        if addresses.is_empty() {
            self.0.take(&held.index);
        }
    }

    /// Before a listing of all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// When it may be told again.
#[derive(Debug, Default)]
pub(super) struct Pace {
    next: u64,
    waits: bool,
}

impl Pace {
    /// Whether there may be told what has changed, which counts as done then; else it waits until it is due.
    pub(super) fn may(&mut self, now: u64) -> bool {
        self.waits = now < self.next;
        if !self.waits {
            self.next = now.saturating_add(EVERY_MS);
        }
        !self.waits
    }

    /// There is nothing to tell, or not any more.
    pub(super) fn rest(&mut self) {
        self.waits = false;
    }

    /// When what waits is to be told.
    pub(super) fn due(&self) -> Option<u64> {
        self.waits.then_some(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_renewed_keeps_its_place() {
        let mut addresses = Addresses::default();
        let [one, two] = ["fd00::1/64", "fd00::2/64"].map(|text| text.parse().unwrap());
        let held = |prefix, usable, gone| Held {
            index: 2,
            prefix,
            usable,
            ours: false,
            gone,
        };
        for prefix in [one, two, one] {
            addresses.hold(&held(prefix, true, false));
        }
        assert_eq!(addresses.of(2), [one, two]);
        assert_eq!(addresses.of(3), []);
        addresses.hold(&held(one, false, false));
        assert_eq!(addresses.of(2), [two]);
        addresses.hold(&held(two, true, true));
        assert!(addresses.of(2).is_empty() && addresses.0 == Few::default());
    }

    #[test]
    fn what_changes_without_end_is_told_now_and_then() {
        let mut pace = Pace::default();
        let told = (1000..2000).filter(|now| pace.may(*now)).count();
        assert_eq!(told, 4);
        assert_eq!(pace.due(), Some(2000));
        pace.rest();
        assert_eq!(pace.due(), None);
        assert!(pace.may(2000));
        assert_eq!(pace.due(), None);
    }
}
