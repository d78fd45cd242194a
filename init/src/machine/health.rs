//! Health: when the next check is due, what its result means, and what `WATCHDOG=1` keeps alive.
//!
//! While a container is not ready, checks come fast (100 ms, growing by half up to the interval),
//! only to learn of readiness early: their failures count for nothing. What bounds a start is a
//! time: start period plus `retries` slow checks (interval and timeout each). Once it is ready,
//! `retries` failures in a row make it ill; with `notify` and an interval, as many intervals
//! without `WATCHDOG=1`.

use kedge_revision::container::{Check, Health};

/// Milliseconds before the first check; none follows another faster than this.
pub(super) const FASTEST: u32 = 100;

/// A container's health as numbers.
#[derive(Debug)]
pub(super) struct HealthRule {
    notify: bool,
    /// Milliseconds; for checks at least [`FASTEST`], for notify 0 means no watchdog.
    interval: u32,
    /// Milliseconds, at least 1.
    pub(super) timeout: u32,
    pub(super) retries: u32,
    start_period: u32,
}

impl HealthRule {
    pub(super) fn new(health: &Health) -> Self {
        let notify = match health.check {
            Check::Notify => true,
            Check::Command(_) | Check::Http { .. } | Check::Tcp { .. } => false,
        };
        let floor = if notify { 0 } else { FASTEST };
        Self {
            notify,
            interval: health.interval_ms.max(floor),
            timeout: health.timeout_ms.max(1),
            retries: health.retries.max(1),
            start_period: health.start_period_ms,
        }
    }

    /// How long after its start a container must be ready, milliseconds.
    pub(super) fn patience(&self) -> u64 {
        let slow = u64::from(self.interval) + u64::from(self.timeout);
        u64::from(self.start_period).saturating_add(slow.saturating_mul(u64::from(self.retries)))
    }

    /// What is watched from the start on.
    pub(super) fn begin(&self, now: u64) -> Watch {
        if self.notify {
            Watch::Off
        } else {
            let pause = FASTEST;
            let at = now.saturating_add(u64::from(pause));
            Watch::Due { at, pause }
        }
    }

    /// What is watched once a check has ended.
    pub(super) fn after_check(&self, now: u64, pause: u32, ready: bool) -> Watch {
        let pause = if ready {
            self.interval
        } else {
            pause.saturating_add(pause / 2).min(self.interval)
        };
        let at = now.saturating_add(u64::from(pause));
        Watch::Due { at, pause }
    }

    /// What is watched after a sign of life by message; `None` leaves it as it is.
    pub(super) fn sign(&self, now: u64) -> Option<Watch> {
        (self.notify && self.interval > 0).then(|| {
            let patience = u64::from(self.interval).saturating_mul(u64::from(self.retries));
            Watch::Sign {
                by: now.saturating_add(patience),
            }
        })
    }
}

/// What a running container's health waits for. Times are milliseconds since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// Nothing.
    Off,
    /// The next check.
    Due {
        /// When.
        at: u64,
        /// The pause that led to it.
        pause: u32,
    },
    /// The end of a check.
    Busy {
        /// Which.
        token: u32,
        /// When it has failed.
        until: u64,
        /// The pause that led to it.
        pause: u32,
    },
    /// `WATCHDOG=1`.
    Sign {
        /// When it is ill without.
        by: u64,
    },
}

impl Watch {
    pub(super) const fn deadline(self) -> Option<u64> {
        match self {
            Self::Off => None,
            Self::Due { at, .. } => Some(at),
            Self::Busy { until, .. } => Some(until),
            Self::Sign { by } => Some(by),
        }
    }
}
