//! One-shot timers on the monotonic clock, as descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

use crate::{During, Errno, Result};

// On 32 bits, too: the time of C libraries that have not been told so ends in 2038.
const _: () = assert!(size_of::<libc::timespec>() == 16);

/// Time since the boot, without time in suspend (`CLOCK_MONOTONIC`).
#[must_use]
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    // The monotonic clock starts at 0 and has less than a second of nanoseconds.
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// A duration as system calls take it. What its nanoseconds are counted in differs between processors.
#[must_use]
pub fn timespec(duration: Duration) -> Timespec {
    // Beyond the range is never, and so are i64::MAX seconds.
    Timespec::try_from(duration).unwrap_or(Timespec {
        tv_sec: i64::MAX,
        tv_nsec: 0,
    })
}

/// A timer that goes off once at an absolute time, and then is readable. Non-blocking, close-on-exec.
#[derive(Debug)]
pub struct DeadlineTimer(OwnedFd);

impl AsFd for DeadlineTimer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl DeadlineTimer {
    /// A timer that is not set.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn new() -> Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        timerfd_create(TimerfdClockId::Monotonic, flags)
            .during("timerfd_create")
            .map(Self)
    }

    /// Sets it to `deadline`, on the clock of [`now`]; at once if that is past. `None` unsets it.
    ///
    /// # Errors
    /// None that is known; the kernel's answer is passed on.
    pub fn set(&self, deadline: Option<Duration>) -> Result<()> {
        // A value of zero means "unset" to the kernel: the very start of the clock becomes 1 ns.
        let value = deadline.map_or(Duration::ZERO, |at| at.max(Duration::from_nanos(1)));
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let specification = Itimerspec {
            it_interval: zero,
            it_value: timespec(value),
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &specification)
            .during("timerfd_settime")
            .map(drop)
    }

    /// Takes the expiry, so that the descriptor is no longer readable. Whether there was one.
    ///
    /// # Errors
    /// None that is known; the kernel's answer is passed on.
    pub fn take(&self) -> Result<bool> {
        let mut count = [0u8; 8];
        match rustix::io::read(&self.0, &mut count) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(errno) => Err(errno).during("read timerfd"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    #[test]
    fn a_past_deadline_goes_off_at_once_and_only_once() {
        let timer = DeadlineTimer::new().expect("timerfd");
        assert_eq!(timer.take(), Ok(false));
        timer.set(Some(Duration::ZERO)).expect("set");
        let mut waiting = [PollFd::new(&timer, PollFlags::IN)];
        poll(&mut waiting, None).expect("poll");
        assert_eq!(timer.take(), Ok(true));
        assert_eq!(timer.take(), Ok(false));
    }

    #[test]
    fn an_unset_timer_stays_silent() {
        let timer = DeadlineTimer::new().expect("timerfd");
        timer.set(Some(Duration::MAX)).expect("far away");
        timer
            .set(Some(now() + Duration::from_millis(2)))
            .expect("set");
        timer.set(None).expect("unset");
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(timer.take(), Ok(false));
    }
}
