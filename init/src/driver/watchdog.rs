//! The hardware watchdog: fed by progress and by nothing else.
//!
//! The hardware is given [`TIMEOUT_S`]; the reactor feeds it when its turn ends, at most every
//! [`FEED_MS`]. A loop that hangs, a child of the kernel's that never returns, a machine that
//! thrashes: nobody feeds, and the hardware resets.
//!
//! A loop that turns is not all: [`Progress`] also wants a probe of the store now and then (`driver/probing.rs`). One that
//! takes longer than [`PATIENCE`] of the hardware's timeouts ends the feeding. A probe that fails is an answer: an
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
/// The same for the first of a boot, which may have to wait for others' data as no later one has (`helpers/disk/probe.rs`): what
/// may be dirty at once (`boot/dirty.rs`) takes less than nine minutes at the least rate that a container can be held to.
const FIRST_PATIENCE: u64 = 20;
/// When the first begins, milliseconds: before much is dirty, so that patience is short soon.
const FIRST_MS: u64 = 1000;
/// Between an answer and the next probe.
const PROBE_MS: u64 = 30_000;
/// So many resets in a row end the probes.
const MOST_RESETS: u32 = 3;

/// Whether the device gets on.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// What hangs does not count any more.
    blind: bool,
    /// The store is probed.
    probes: bool,
    /// When the probe began that runs.
    asked: Option<u64>,
    /// One has ended.
    answered: bool,
    /// When the next one is due.
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

    /// There is a store to be probed from now on.
    pub(crate) fn begin(&mut self, now_ms: u64) {
        self.probes = !self.blind;
        self.probe_at = self.probes.then(|| now_ms.saturating_add(FIRST_MS));
    }

    fn wait(&mut self, now_ms: u64) {
        self.probe_at = self.probes.then(|| now_ms.saturating_add(PROBE_MS));
    }

    /// Whether a probe is to begin.
    pub(crate) fn is_due(&self, now_ms: u64) -> bool {
        self.probe_at.is_some_and(|at| at <= now_ms)
    }

    /// One has begun, for whomever.
    pub(crate) fn begun(&mut self, now_ms: u64) {
        self.probe_at = None;
        self.asked = self.probes.then_some(now_ms);
    }

    /// It has ended, whatever the answer is, or could not begin.
    pub(crate) fn probed(&mut self, now_ms: u64) {
        self.answered |= self.asked.take().is_some();
        self.wait(now_ms);
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
        let within = |since: u64, timeouts| {
            now_ms.saturating_sub(since) <= timeout_ms.saturating_mul(timeouts)
        };
        let patience = if self.answered {
            PATIENCE
        } else {
            FIRST_PATIENCE
        };
        let stuck = self.stuck.filter(|_| !self.blind);
        self.asked.is_none_or(|since| within(since, patience))
            && stuck.is_none_or(|since| within(since, PATIENCE))
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
        assert_eq!((told, progress.deadline()), (None, None));
        assert!(!progress.is_due(u64::MAX));
        let mut now = 1000;
        progress.begin(now);
        for (after, patience) in [
            (FIRST_MS, FIRST_PATIENCE),
            (PROBE_MS, PATIENCE),
            (PROBE_MS, PATIENCE),
        ] {
            assert!(!progress.is_due(now + after - 1));
            now = progress.deadline().unwrap();
            assert!(progress.is_due(now));
            progress.begun(now);
            assert_eq!(progress.deadline(), None);
            now += patience * TIMEOUT;
            assert!(progress.feeds(now, TIMEOUT));
            progress.probed(now);
        }
    }

    #[test]
    fn a_store_that_hangs_ends_the_feeding() {
        let (mut progress, _) = Progress::new(0);
        progress.begin(0);
        for patience in [FIRST_PATIENCE, PATIENCE] {
            let begun = progress.deadline().unwrap();
            progress.begun(begun);
            let last = begun + patience * TIMEOUT;
            assert!(progress.feeds(last, TIMEOUT) && !progress.feeds(last + 1, TIMEOUT));
            // A late answer is one.
            progress.probed(last + 2);
            assert!(progress.feeds(last + 2, TIMEOUT));
        }
    }

    #[test]
    fn a_probe_for_somebody_else_counts_and_one_without_a_store_does_not() {
        let (mut progress, _) = Progress::new(0);
        progress.begin(0);
        progress.begun(5);
        let hangs = 6 + FIRST_PATIENCE * TIMEOUT;
        assert!(!progress.is_due(PROBE_MS) && !progress.feeds(hangs, TIMEOUT));
        let (mut progress, _) = Progress::new(0);
        progress.begun(5);
        assert!(progress.feeds(hangs, TIMEOUT));
        progress.probed(6);
        assert_eq!(progress.deadline(), None);
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
    fn a_dying_disk_does_not_become_a_reboot_loop() {
        let (mut progress, told) = Progress::new(3);
        assert!(told.unwrap().starts_with("3 watchdog resets in a row"));
        progress.begin(0);
        assert_eq!(progress.deadline(), None);
        // The judge's.
        progress.begun(0);
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
