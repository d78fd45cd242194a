//! The hardware watchdog: fed by the reactor's own progress and by nothing else.
//!
//! The hardware is given [`TIMEOUT_S`]; the reactor feeds it when its turn ends, at most every
//! [`FEED_MS`]. A loop that hangs, a child of the kernel's that never returns, a machine that
//! thrashes: nobody feeds, and the hardware resets.

use kedge_sys::watchdog::Watchdog as Device;
use std::path::Path;

/// What the hardware waits, seconds. Some boards round it; what they answer is used.
const TIMEOUT_S: u16 = 30;
/// How often the reactor wakes to feed it, unless the hardware waits less than three times that.
const FEED_MS: u64 = 10_000;

/// An open watchdog, or none.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    device: Option<Device>,
    feed_ms: u64,
    next_ms: u64,
}

impl Watchdog {
    /// Opens the first watchdog. Most machines have one, some have none: then nothing guards PID 1.
    pub(crate) fn open(now_ms: u64) -> (Self, Option<String>) {
        let device = match Device::open(Path::new("/dev/watchdog0")) {
            Ok(device) => device,
            Err(error) => return (Self::default(), Some(format!("no watchdog: {error}"))),
        };
        let set = device.set_timeout(TIMEOUT_S);
        let taken = set.or_else(|_| device.timeout());
        let told = set
            .err()
            .map(|error| format!("the watchdog keeps its own timeout: {error}"));
        let watchdog = Self {
            feed_ms: feed_ms(taken.unwrap_or_else(|_| TIMEOUT_S.into())),
            device: Some(device),
            next_ms: now_ms,
        };
        (watchdog, told)
    }

    /// Whether there is one.
    pub(crate) fn is_open(&self) -> bool {
        self.device.is_some()
    }

    /// Feeds it if it is time; called once a turn.
    pub(crate) fn turn(&mut self, now_ms: u64) {
        if let Some(device) = &self.device
            && now_ms >= self.next_ms
        {
            // A watchdog that takes no food resets the machine, which is all that is left to do then.
            device.feed().ok();
            self.next_ms = now_ms.saturating_add(self.feed_ms);
        }
    }

    /// When the reactor must wake to feed it.
    pub(crate) fn deadline(&self) -> Option<u64> {
        self.device.is_some().then_some(self.next_ms)
    }
}

/// How often a watchdog that waits so many seconds is fed, milliseconds: three times, so that one turn may
/// be late.
fn feed_ms(seconds: u32) -> u64 {
    (u64::from(seconds).saturating_mul(1000) / 3).clamp(100, FEED_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impatient_hardware_is_fed_more_often() {
        assert_eq!(feed_ms(30), FEED_MS);
        assert_eq!(feed_ms(600), FEED_MS);
        assert_eq!(feed_ms(15), 5000);
        assert_eq!(feed_ms(0), 100);
    }
}
