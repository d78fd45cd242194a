//! What a hub is told: made when something worth telling has changed, kept until a hub has it, sent in order.
//!
//! Where the disk takes nothing, the newest goes from memory: that is when an operator must hear of the device.
//!
//! What containers use goes along with what is sent anyway. That it has changed is no reason to send anything: it always has.

use crate::error::Error;
use crate::hub::Connection;
use crate::kept::{Kept, Memory, report_name};
use crate::local::{Local, Status};
use crate::tls::Stream;
use kedge_api::device::{ContainerLog, Phase, Report, Reports};
use kedge_revision::Timestamp;

/// How far a hub may be ahead of what it was sent: an agent whose disk kept nothing has given those numbers before. One that
/// could be ahead by any number would take all numbers away that are still to come.
const MOST_AHEAD: u64 = 1 << 32;

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
    /// The newest, which could not be kept.
    unkept: Option<Report>,
    /// Up to here all is acknowledged, though its file may be there yet.
    acknowledged: u64,
    /// What the disk has refused and was not said.
    trouble: Option<Error>,
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
            waiting: kept.reports()?,
            ..Self::default()
        })
    }

    /// Whether something waits for a hub.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() || self.unkept.is_some()
    }

    /// What the disk has refused since this was asked last.
    pub const fn trouble(&mut self) -> Option<Error> {
        self.trouble.take()
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

    /// Keeps a report if it tells something new: in memory alone where the disk takes none, see [`Self::trouble`].
    pub fn note(
        &mut self,
        kept: &Kept,
        memory: &Memory,
        local: &Local,
        status: &Status,
        telling: &Telling<'_>,
    ) {
        let mut report = status.report();
        report.uptime_ms = 0;
        report.phase = telling.phase.clone();
        report.stale = telling.stale;
        report.action = memory.action;
        if self.last.as_ref() == Some(&report) {
            return;
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
        // The one that is not kept may have been sent, though no answer came.
        let unkept = self.unkept.as_ref().map_or(0, |report| report.seq);
        let newest = self.waiting.last().copied().unwrap_or(0).max(unkept);
        let before = newest.max(memory.report).max(self.acknowledged);
        report.seq = before.saturating_add(1);
        match kept.keep_report(&report) {
            Ok(()) => self.unkept = None,
            Err(error) => {
                // Whoever hears of it should hear why.
                let console = report.console.take();
                report.console = console.or_else(|| Some(local.tail("kedge")));
                self.unkept = Some(report);
                self.trouble = Some(error);
            }
        }
        self.last = Some(told);
        self.list(kept);
    }

    /// Which files wait.
    fn list(&mut self, kept: &Kept) {
        match kept.reports() {
            Ok(waiting) => {
                self.waiting = waiting;
                self.waiting.retain(|number| *number > self.acknowledged);
            }
            Err(error) => self.trouble = Some(error),
        }
    }

    /// The oldest that wait, or the one that could not be kept.
    fn next(&mut self, kept: &Kept) -> Vec<Report> {
        let mut reports = Vec::new();
        for number in self.waiting.iter().take(Reports::MOST / 8) {
            let name = report_name(*number);
            let read = kept.get(&name, &mut |_| {});
            match read.and_then(|report| match report {
                None => kept.forget(&name).map(|()| None),
                report => Ok(report),
            }) {
                Ok(report) => reports.extend(report),
                Err(error) => self.trouble = Some(error),
            }
        }
        if reports.is_empty() {
            reports.extend(self.unkept.clone());
        }
        reports
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
        while usage.is_some() || self.is_waiting() {
            let reports = self.next(kept);
            let newest = reports.last().map(|report| report.seq);
            if newest.is_none() && usage.is_none() {
                self.list(kept);
                return Ok(());
            }
            let acknowledged = hub.report(&reports, usage.as_deref())?.seq;
            if usage.take().is_some() {
                self.usage_told = Some(now);
            }
            let Some(newest) = newest else {
                self.list(kept);
                continue;
            };
            if acknowledged > newest.saturating_add(MOST_AHEAD) {
                return Err(Error::Protocol {
                    doing: "report",
                    what: "an acknowledgement of what no device has sent",
                });
            }
            let before = self.waiting.len();
            self.are_acknowledged(kept, memory, acknowledged);
            if self.waiting.len() >= before && acknowledged < newest {
                return Err(Error::Protocol {
                    doing: "report",
                    what: "an acknowledgement of nothing",
                });
            }
        }
        Ok(())
    }

    /// A hub has all reports up to this one. Where the disk does not take that, it is remembered as long as the agent runs.
    fn are_acknowledged(&mut self, kept: &Kept, memory: &mut Memory, acknowledged: u64) {
        self.acknowledged = self.acknowledged.max(acknowledged);
        memory.report = memory.report.max(acknowledged);
        let unkept = self.unkept.take_if(|report| report.seq <= acknowledged);
        if unkept.is_some_and(|report| report.seq < acknowledged) {
            // Its number was given before, by an agent whose disk did not keep that either: the hub has not read it.
            self.last = None;
        }
        // Before the files go: a number must never be given twice.
        let gone = kept.put("memory", memory).and_then(|()| {
            let mut gone = self.waiting.iter().filter(|n| **n <= acknowledged);
            gone.try_for_each(|number| kept.forget(&report_name(*number)))
        });
        if let Err(error) = gone {
            self.trouble = Some(error);
        }
        self.list(kept);
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
    fn a_report_that_could_not_be_written_waits_in_memory() {
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
        // As on a disk without room.
        reporter.note(&kept, &memory, &local, &Status::default(), &telling);
        assert!(reporter.is_waiting() && reporter.trouble().is_some());
        assert!(reporter.trouble().is_none());
        assert_eq!(reporter.unkept.as_ref().unwrap().seq, 1);
        std::fs::create_dir(&state).unwrap();
        // It may have been sent: its number is not given again.
        let phase = &Phase::Idle;
        let telling = Telling { phase, ..telling };
        for _ in 0..2 {
            reporter.note(&kept, &memory, &local, &Status::default(), &telling);
            assert_eq!(kept.reports().unwrap(), [2]);
        }
        assert!(reporter.unkept.is_none() && reporter.trouble().is_none());
    }

    #[test]
    fn what_a_disk_does_not_forget_is_sent_once() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path());
        let (mut memory, local) = (Memory::default(), Local::new(folder.path()));
        let mut reporter = Reporter::default();
        let telling = Telling {
            phase: &Phase::Committed,
            stale: false,
            time: None,
            failure: false,
        };
        reporter.note(&kept, &memory, &local, &Status::default(), &telling);
        // What stands in the place of a file cannot be replaced.
        std::fs::create_dir(folder.path().join("memory")).unwrap();
        reporter.are_acknowledged(&kept, &mut memory, 1);
        assert!(reporter.trouble().is_some());
        assert_eq!(kept.reports().unwrap(), [1]);
        assert!(!reporter.is_waiting());
        // A number that a hub knows already was given by an agent that could not keep it: how things stand is told again.
        reporter.unkept = Some(Status::default().report());
        reporter.are_acknowledged(&kept, &mut memory, 9);
        assert!(!reporter.is_waiting());
        reporter.note(&kept, &memory, &local, &Status::default(), &telling);
        assert_eq!(kept.reports().unwrap(), [1, 10]);
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
            reporter.note(&kept, &memory, &local, &Status::default(), &telling);
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
