//! Which revision is newer, and what may never run again.

use core::fmt;
use serde::{Deserialize, Serialize};

/// A revision's place: by root version first, then by counter, so that a counter of 2⁶⁴−1 signed
/// with a stolen key loses to any revision under the next root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Order {
    /// Version of the root under which the revision was signed.
    pub root: u32,
    /// The revision's counter.
    pub counter: u64,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.root, self.counter)
    }
}

/// The lowest place that a device will ever run again. Never falls; rises at commit only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Floor {
    /// Root version.
    pub root: u32,
    /// Counter.
    pub counter: u64,
}

impl Floor {
    /// Whether a revision at `order` may run on a device with this floor.
    #[must_use]
    pub fn allows(self, order: Order) -> bool {
        (order.root, order.counter) >= (self.root, self.counter)
    }

    /// The floor after a revision at `order` with the signed floor `counter` was committed.
    #[must_use]
    pub fn after_commit(self, root: u32, counter: u64) -> Self {
        self.max(Self { root, counter })
    }
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.root, self.counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_new_root_outranks_every_counter() {
        let fast_forward = Order {
            root: 1,
            counter: u64::MAX,
        };
        let rescue = Order {
            root: 2,
            counter: 1,
        };
        assert!(rescue > fast_forward);
    }

    proptest! {
        #[test]
        fn a_floor_never_falls(root: u32, counter: u64, next_root: u32, next: u64) {
            let floor = Floor { root, counter };
            let after = floor.after_commit(next_root, next);
            prop_assert!(after >= floor);
            let lowest = Order { root: after.root, counter: after.counter };
            prop_assert!(after.allows(lowest));
        }
    }
}
