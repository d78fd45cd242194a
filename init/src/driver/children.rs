//! PID 1's helpers as processes: the same binary under another name, in the `system/` cgroup, with
//! one end of a socket as its standard input.
//!
//! A helper may crash at any time: it is started again after a delay that doubles up to a minute.

use crate::boot::CGROUPS;
use crate::error::Error;
use crate::helpers::Link;
use kedge_sys::clone::{self, Child, Namespaces};
use kedge_sys::exec::ExecImage;
use kedge_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use kedge_sys::{process, signals, sock};
use std::ffi::{CStr, CString};
use std::os::fd::AsFd;
use std::path::Path;

/// First and longest delay before a helper is started again, milliseconds.
const DELAY_MS: (u64, u64) = (500, 60_000);

/// A running helper.
#[derive(Debug)]
pub(crate) struct Running {
    /// The process.
    pub(crate) child: Child,
    /// PID 1's end.
    pub(crate) link: Link,
}

/// One helper and its history.
#[derive(Debug)]
pub(crate) struct Helper {
    /// Its name, as the process is called.
    pub(crate) name: &'static CStr,
    /// The process, if it runs.
    pub(crate) running: Option<Running>,
    /// When it is started again.
    pub(crate) restart_at: Option<u64>,
    delay_ms: u64,
    started_ms: u64,
}

impl Helper {
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Self {
            name,
            running: None,
            restart_at: None,
            delay_ms: DELAY_MS.0,
            started_ms: 0,
        }
    }

    /// Starts it.
    pub(crate) fn start(&mut self, now_ms: u64) -> Result<&mut Running, Error> {
        self.restart_at = None;
        self.started_ms = now_ms;
        let running = match spawn(self.name) {
            Ok(running) => running,
            Err(error) => {
                self.ended(now_ms);
                return Err(error);
            }
        };
        Ok(self.running.insert(running))
    }

    /// Its process has ended: plans the next one. A run of a minute makes the delay short again.
    pub(crate) fn ended(&mut self, now_ms: u64) {
        self.running = None;
        if now_ms.saturating_sub(self.started_ms) >= DELAY_MS.1 {
            self.delay_ms = DELAY_MS.0;
        }
        self.restart_at = Some(now_ms.saturating_add(self.delay_ms));
        self.delay_ms = self.delay_ms.saturating_mul(2).min(DELAY_MS.1);
    }

    /// Whether it is time to start it again.
    pub(crate) fn is_due(&self, now_ms: u64) -> bool {
        self.running.is_none() && self.restart_at.is_some_and(|at| at <= now_ms)
    }
}

fn spawn(name: &'static CStr) -> Result<Running, Error> {
    let (ours, theirs) = sock::pair(sock::Kind::Messages)?;
    let link = Link::new(ours)?;
    let image = ExecImage::new(
        CString::from(c"/proc/self/exe"),
        vec![CString::from(name)],
        Vec::new(),
    );
    let system = Path::new(CGROUPS).join("system");
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    // Without cgroups (repair mode) it runs beside PID 1.
    let cgroup = openat(CWD, &system, flags, Mode::empty()).ok();
    let child = clone::spawn(Namespaces::NONE, cgroup.as_ref().map(AsFd::as_fd), || {
        let ready = signals::reset().is_ok() && process::set_standard(&theirs, 0).is_ok();
        if ready {
            image.exec();
        }
        127
    })?;
    Ok(Running { child, link })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_a_minute_and_falls_after_a_long_run() {
        let mut helper = Helper::new(c"disk");
        let mut now = 0;
        let mut delays = Vec::new();
        for _ in 0..9 {
            helper.started_ms = now;
            helper.ended(now);
            let at = helper.restart_at.unwrap();
            delays.push(at - now);
            now = at;
        }
        assert_eq!(delays[..3], [500, 1000, 2000]);
        assert_eq!(*delays.last().unwrap(), 60_000);
        helper.started_ms = now;
        helper.ended(now + 60_000);
        assert_eq!(helper.restart_at, Some(now + 60_500));
    }
}
