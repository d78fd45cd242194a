//! The hardware watchdog: fed by progress and by nothing else.
//!
//! The hardware is given [`TIMEOUT_S`]; the reactor feeds it when its turn ends, at most every
//! [`FEED_MS`]. A loop that hangs, a child of the kernel's that never returns, a machine that
//! thrashes: nobody feeds, and the hardware resets.
//!
//! A loop that turns is not all: [`Progress`] also asks the disk helper for a probe of the store now and then. One that
//! is not answered for [`PATIENCE`] of the hardware's timeouts ends the feeding. A probe that fails is an answer: an
//! error is for the verdict and the status, a disk that hangs is for the watchdog. So is a container that even a kill
//! does not end: it waits in the kernel for something that does not come, and no start of it can follow. After
//! [`MOST_RESETS`] resets in a row neither counts any more, and that is said: a dying disk must not become a reboot loop.

use kedge_sys::watchdog::Watchdog as Device;
use std::path::Path;

/// What the hardware waits, seconds. Some boards round it; what they answer is used.
const TIMEOUT_S: u16 = 30;
/// How often the reactor wakes to feed it, unless the hardware waits less than three times that.
const FEED_MS: u64 = 10_000;

/// How many of the hardware's timeouts a probe of the store may take.
const PATIENCE: u64 = 3;
/// Between an answer and the next probe.
const PROBE_MS: u64 = 30_000;
/// So many resets in a row end the probes.
const MOST_RESETS: u32 = 3;

/// Whether the device gets on.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The store is not probed any more.
    blind: bool,
    /// The probe that was asked for and not answered: its number and when.
    asked: Option<(u32, u64)>,
    /// The number of the last one.
    token: u32,
    /// When the next one is due, once there is a helper.
    probe_at: Option<u64>,
    /// Since when a container cannot be killed.
    stuck: Option<u64>,
}

impl Progress {
    /// After so many watchdog resets in a row; with what is to be said about it.
    pub(crate) fn new(watchdog_resets: u32) -> (Self, Option<String>) {
        let blind = watchdog_resets >= MOST_RESETS;
        let told = blind.then(|| {
            format!(
                "{watchdog_resets} watchdog resets in a row: a disk or a container that hangs does not reset the \
                 device any more"
            )
        });
        let progress = Self {
            blind,
            ..Self::default()
        };
        (progress, told)
    }

    /// The helper that probes was started, or has ended: who does not hang may end, so that what it was asked counts
    /// for nothing.
    pub(crate) fn helper(&mut self, runs: bool, now_ms: u64) {
        self.asked = None;
        self.probe_at = (runs && !self.blind).then(|| now_ms.saturating_add(PROBE_MS));
    }

    /// The number of the probe that is to be asked for now.
    pub(crate) fn probe(&mut self, now_ms: u64) -> Option<u32> {
        self.probe_at.take_if(|at| *at <= now_ms)?;
        self.token = self.token.wrapping_add(1);
        self.asked = Some((self.token, now_ms));
        Some(self.token)
    }

    /// A probe was answered, whatever the answer is.
    pub(crate) fn probed(&mut self, token: u32, now_ms: u64) {
        if self.asked.take_if(|(asked, _)| *asked == token).is_some() {
            self.probe_at = Some(now_ms.saturating_add(PROBE_MS));
        }
    }

    /// When the next probe is due.
    pub(crate) const fn deadline(&self) -> Option<u64> {
        self.probe_at
    }

    /// Whether a container cannot be killed now; true: that is new.
    pub(crate) fn container_stuck(&mut self, is: bool, now_ms: u64) -> bool {
        let was = self.stuck.is_some();
        self.stuck = is.then(|| self.stuck.unwrap_or(now_ms));
        is && !was
    }

    /// Whether a watchdog with this timeout is to be fed. That the question is asked shows that the loop turns.
    fn feeds(&self, now_ms: u64, timeout_ms: u64) -> bool {
        let patience = timeout_ms.saturating_mul(PATIENCE);
        let waited = |since: u64| now_ms.saturating_sub(since) <= patience;
        let stuck = self.stuck.filter(|_| !self.blind);
        self.asked.is_none_or(|(_, since)| waited(since)) && stuck.is_none_or(waited)
    }
}

/// An open watchdog, or none.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    device: Option<Device>,
    timeout_ms: u64,
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
        let seconds = taken.unwrap_or_else(|_| TIMEOUT_S.into());
        let watchdog = Self {
            timeout_ms: u64::from(seconds).saturating_mul(1000),
            feed_ms: feed_ms(seconds),
            device: Some(device),
            next_ms: now_ms,
        };
        (watchdog, told)
    }

    /// Whether there is one.
    pub(crate) fn is_open(&self) -> bool {
        self.device.is_some()
    }

    /// Feeds it if it is time and the device gets on; called once a turn.
    pub(crate) fn turn(&mut self, now_ms: u64, progress: &Progress) {
        if let Some(device) = &self.device
            && now_ms >= self.next_ms
        {
            if progress.feeds(now_ms, self.timeout_ms) {
                // A watchdog that takes no food resets the machine, which is all that is left to do then.
                device.feed().ok();
            }
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

    const TIMEOUT: u64 = 30_000;

    #[test]
    fn a_store_that_answers_is_probed_on_and_on() {
        let (mut progress, told) = Progress::new(2);
        assert_eq!(
            (told, progress.deadline(), progress.probe(0)),
            (None, None, None)
        );
        let mut now = 1000;
        progress.helper(true, now);
        for token in 1..50 {
            assert_eq!(progress.probe(now + PROBE_MS - 1), None);
            now = progress.deadline().unwrap();
            assert_eq!(progress.probe(now), Some(token));
            assert_eq!((progress.probe(now), progress.deadline()), (None, None));
            now += 3 * TIMEOUT;
            assert!(progress.feeds(now, TIMEOUT));
            progress.probed(token, now);
        }
    }

    #[test]
    fn a_store_that_hangs_ends_the_feeding() {
        let (mut progress, _) = Progress::new(0);
        progress.helper(true, 0);
        let token = progress.probe(PROBE_MS).unwrap();
        let last = PROBE_MS + 3 * TIMEOUT;
        assert!(progress.feeds(last, TIMEOUT) && !progress.feeds(last + 1, TIMEOUT));
        // An answer to something else is none, a late one is one.
        progress.probed(token + 1, last);
        assert!(!progress.feeds(last + 1, TIMEOUT));
        progress.probed(token, last + 2);
        assert!(progress.feeds(last + 2, TIMEOUT));
    }

    #[test]
    fn a_container_that_cannot_be_killed_ends_the_feeding_but_not_for_ever() {
        let (mut progress, _) = Progress::new(2);
        assert!(progress.container_stuck(true, 1000));
        assert!(!progress.container_stuck(true, 2000));
        let last = 1000 + 3 * TIMEOUT;
        assert!(progress.feeds(last, TIMEOUT) && !progress.feeds(last + 1, TIMEOUT));
        assert!(!progress.container_stuck(false, last + 2));
        assert!(progress.feeds(u64::MAX, TIMEOUT));
        let (mut progress, _) = Progress::new(3);
        progress.container_stuck(true, 0);
        assert!(progress.feeds(u64::MAX, TIMEOUT));
    }

    #[test]
    fn a_helper_that_ended_does_not_hang() {
        let (mut progress, _) = Progress::new(0);
        progress.helper(true, 0);
        progress.probe(PROBE_MS).unwrap();
        progress.helper(false, PROBE_MS + 1);
        assert!(progress.feeds(u64::MAX, TIMEOUT));
        assert_eq!(
            (progress.deadline(), progress.probe(u64::MAX)),
            (None, None)
        );
        progress.helper(true, 100_000);
        assert_eq!(progress.deadline(), Some(100_000 + PROBE_MS));
    }

    #[test]
    fn a_dying_disk_does_not_become_a_reboot_loop() {
        let (mut progress, told) = Progress::new(3);
        assert!(told.unwrap().starts_with("3 watchdog resets in a row"));
        progress.helper(true, 0);
        assert_eq!(
            (progress.deadline(), progress.probe(u64::MAX)),
            (None, None)
        );
        assert!(progress.feeds(u64::MAX, TIMEOUT));
    }

    #[test]
    fn impatient_hardware_is_fed_more_often() {
        assert_eq!(feed_ms(30), FEED_MS);
        assert_eq!(feed_ms(600), FEED_MS);
        assert_eq!(feed_ms(15), 5000);
        assert_eq!(feed_ms(0), 100);
    }
}
