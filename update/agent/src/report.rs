//! What a hub is told: made when something worth telling has changed, kept until a hub has it, sent in order.
//!
//! What containers use goes along with what is sent anyway. That it has changed is no reason to send anything: it always has.

use crate::error::Error;
use crate::hub::Connection;
use crate::kept::{Kept, Memory, report_name};
use crate::local::{Local, Status};
use crate::tls::Stream;
use kedge_api::device::{ContainerLog, Phase, Report, Reports};
use kedge_revision::Timestamp;

/// A number that no device's reports get to. Beyond it a hub could take all numbers away that are still to come.
const MOST_SEQ: u64 = 1 << 53;

/// Usage goes along with reports, but not again so soon, seconds: a download is reported every few seconds, and a network
/// may be paid for by its bytes.
const USAGE_APART_S: u64 = 60;
/// After so long, seconds, usage is sent though nothing else is: a device that runs well reports nothing for months. In an
/// hour a held poll is asked some seventy times, beside which one more connection is little.
const USAGE_ALONE_S: u64 = 3600;

/// Whether a hub is to be told now what containers use: by when one was told last, and whether a report is sent anyway.
#[must_use]
pub const fn usage_is_due(told: Option<u64>, now: u64, report_waits: bool) -> bool {
    let Some(told) = told else {
        return true;
    };
    let apart = if report_waits {
        USAGE_APART_S
    } else {
        USAGE_ALONE_S
    };
    now.saturating_sub(told) >= apart
}

/// What a report says beside the status.
#[derive(Debug, Clone)]
pub struct Telling<'a> {
    /// Where the update stands.
    pub phase: &'a Phase,
    /// Whether the last fresh answer holds no longer.
    pub stale: bool,
    /// The time, if a hub has told it.
    pub time: Option<u64>,
    /// Whether something has failed, whose end of the log is to go along.
    pub failure: bool,
}

/// Makes reports and sends them.
#[derive(Debug, Default)]
pub struct Reporter {
    /// The last one, without what differs each time.
    last: Option<Report>,
    /// Numbers that wait.
    waiting: Vec<u64>,
    /// When a hub was told last what containers use, seconds since the agent began.
    usage_told: Option<u64>,
}

impl Reporter {
    /// With what an earlier run has left.
    ///
    /// # Errors
    /// [`Error::Kept`].
    pub fn new(kept: &Kept) -> Result<Self, Error> {
        Ok(Self {
            last: None,
            waiting: kept.reports()?,
            usage_told: None,
        })
    }

    /// Whether something waits for a hub.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whoever is told from now on knows nothing yet: how things stand is told again, though nothing has changed. What waits
    /// ends with it anyway.
    pub fn tell_again(&mut self) {
        if !self.is_waiting() {
            self.last = None;
        }
        self.usage_told = None;
    }

    /// As when a hub has acknowledged all that waits.
    #[cfg(test)]
    pub(crate) fn acknowledged(&mut self, kept: &Kept) {
        for number in self.waiting.drain(..) {
            kept.forget(&report_name(number)).unwrap();
        }
    }

    /// What containers use, in PID 1's words, if it is time to tell it.
    #[must_use]
    pub fn usage(&self, local: &Local, now: u64) -> Option<Vec<u8>> {
        if !usage_is_due(self.usage_told, now, self.is_waiting()) {
            return None;
        }
        local.usage()
    }

    /// Keeps a report if it tells something new.
    ///
    /// # Errors
    /// [`Error::Kept`], [`Error::Store`].
    pub fn note(
        &mut self,
        kept: &Kept,
        memory: &Memory,
        local: &Local,
        status: &Status,
        telling: &Telling<'_>,
    ) -> Result<(), Error> {
        let mut report = status.report();
        report.uptime_ms = 0;
        report.phase = telling.phase.clone();
        report.stale = telling.stale;
        report.action = memory.action;
        if self.last.as_ref() == Some(&report) {
            return Ok(());
        }
        let told = report.clone();
        report.uptime_ms = status.uptime_ms;
        report.time = telling.time.map(Timestamp::from_unix);
        if telling.failure {
            report.console = Some(local.tail("kedge"));
            report.container_log = blamed(telling.phase).map(|container| ContainerLog {
                text: local.tail(&container),
                container,
            });
        }
        let newest = self.waiting.last().copied().unwrap_or(0);
        report.seq = newest.max(memory.report).saturating_add(1);
        kept.keep_report(&report)?;
        // Not before it is kept: what could not be written is tried again.
        self.last = Some(told);
        self.waiting = kept.reports()?;
        Ok(())
    }

    /// Sends what waits, the oldest first, and with the first of it what containers use `now`. A report that cannot be
    /// read any more is dropped.
    ///
    /// # Errors
    /// Whatever befalls a question; [`Error::Store`].
    pub fn send(
        &mut self,
        kept: &Kept,
        memory: &mut Memory,
        (mut usage, now): (Option<Vec<u8>>, u64),
        hub: &mut Connection<Stream>,
    ) -> Result<(), Error> {
        while usage.is_some() || !self.waiting.is_empty() {
            let mut reports = Vec::new();
            for number in self.waiting.iter().take(Reports::MOST / 8) {
                let name = report_name(*number);
                match kept.get(&name, &mut |_| {})? {
                    Some(report) => reports.push(report),
                    None => kept.forget(&name)?,
                }
            }
            let alone = reports.is_empty();
            if alone && usage.is_none() {
                self.waiting = kept.reports()?;
                return Ok(());
            }
            let acknowledged = hub.report(&reports, usage.as_deref())?.seq;
            if usage.take().is_some() {
                self.usage_told = Some(now);
            }
            if alone {
                self.waiting = kept.reports()?;
                continue;
            }
            if acknowledged > MOST_SEQ {
                return Err(Error::Protocol {
                    doing: "report",
                    what: "an acknowledgement of what no device has sent",
                });
            }
            // Before the files go: a number must never be given twice.
            memory.report = memory.report.max(acknowledged);
            kept.put("memory", memory)?;
            let before = self.waiting.len();
            for number in self
                .waiting
                .iter()
                .filter(|number| **number <= acknowledged)
            {
                kept.forget(&report_name(*number))?;
            }
            self.waiting = kept.reports()?;
            if self.waiting.len() >= before {
                return Err(Error::Protocol {
                    doing: "report",
                    what: "an acknowledgement of nothing",
                });
            }
        }
        Ok(())
    }
}

/// The container that a reason is about, if any: `crash-loop(web, exit 1)`.
fn blamed(phase: &Phase) -> Option<String> {
    let Phase::RolledBack { reason } = phase else {
        return None;
    };
    let (_, inner) = reason.split_once('(')?;
    let name = inner.split([',', ')']).next()?.trim();
    let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    good.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_told_by_the_clock_and_by_nothing_else() {
        // An agent that has told nothing yet tells it, with a report or alone.
        assert!(usage_is_due(None, 0, true) && usage_is_due(None, 0, false));
        for told in [0, 7, 1_000_000] {
            let due = |later, waits| usage_is_due(Some(told), told + later, waits);
            let with_reports = [(0, false), (59, false), (60, true), (3600, true)];
            for (later, expected) in with_reports {
                assert_eq!(due(later, true), expected, "after {later} s, with a report");
            }
            let alone = [(0, false), (60, false), (3599, false), (3600, true)];
            for (later, expected) in alone {
                assert_eq!(due(later, false), expected, "after {later} s, alone");
            }
        }
        // A clock that goes back says nothing.
        assert!(!usage_is_due(Some(5000), 100, true));
    }

    #[test]
    fn a_report_that_could_not_be_written_is_written_later() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let kept = Kept::new(&state);
        let (memory, local) = (Memory::default(), Local::new(&state));
        let mut reporter = Reporter::default();
        let telling = Telling {
            phase: &Phase::Committed,
            stale: false,
            time: None,
            failure: false,
        };
        let mut note = || reporter.note(&kept, &memory, &local, &Status::default(), &telling);
        // As on a disk without room.
        note().unwrap_err();
        std::fs::create_dir(&state).unwrap();
        note().unwrap();
        note().unwrap();
        assert_eq!(kept.reports().unwrap(), [1]);
    }

    #[test]
    fn a_hub_that_knows_nothing_is_told_what_has_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path());
        let (memory, local) = (Memory::default(), Local::new(folder.path()));
        let mut reporter = Reporter::default();
        let telling = Telling {
            phase: &Phase::Committed,
            stale: false,
            time: None,
            failure: false,
        };
        let note = |reporter: &mut Reporter| {
            let noted = reporter.note(&kept, &memory, &local, &Status::default(), &telling);
            noted.unwrap();
            kept.reports().unwrap()
        };
        assert_eq!(note(&mut reporter), [1]);
        // It goes to whichever hub there is.
        reporter.tell_again();
        assert_eq!(note(&mut reporter), [1]);
        reporter.acknowledged(&kept);
        assert!(note(&mut reporter).is_empty());
        reporter.tell_again();
        assert_eq!(note(&mut reporter), [1]);
    }

    #[test]
    fn the_container_to_blame_is_in_the_reason() {
        let of = |reason: &str| {
            blamed(&Phase::RolledBack {
                reason: reason.to_owned(),
            })
        };
        assert_eq!(of("crash-loop(web, exit 1)").as_deref(), Some("web"));
        assert_eq!(of("out-of-memory(db)").as_deref(), Some("db"));
        assert_eq!(of("kernel-panic"), None);
        assert_eq!(of("x(../../etc)"), None);
        assert_eq!(blamed(&Phase::Idle), None);
    }
}
