//! What a hub is told: made when something worth telling has changed, kept until a hub has it, sent in order.

use crate::error::Error;
use crate::hub::Connection;
use crate::kept::{Kept, Memory, report_name};
use crate::local::{Local, Status};
use crate::tls::Stream;
use kedge_api::device::{ContainerLog, Phase, Report, Reports};
use kedge_revision::Timestamp;

/// A number that no device's reports get to. Beyond it a hub could take all numbers away that are still to come.
const MOST_SEQ: u64 = 1 << 53;

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
        })
    }

    /// Whether something waits for a hub.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
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
        self.last = Some(report.clone());
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
        self.waiting = kept.reports()?;
        Ok(())
    }

    /// Sends what waits, the oldest first; a report that cannot be read any more is dropped.
    ///
    /// # Errors
    /// Whatever befalls a question; [`Error::Store`].
    pub fn send(
        &mut self,
        kept: &Kept,
        memory: &mut Memory,
        hub: &mut Connection<Stream>,
    ) -> Result<(), Error> {
        while !self.waiting.is_empty() {
            let mut reports = Vec::new();
            for number in self.waiting.iter().take(Reports::MOST / 8) {
                let name = report_name(*number);
                match kept.get(&name, &mut |_| {})? {
                    Some(report) => reports.push(report),
                    None => kept.forget(&name)?,
                }
            }
            if reports.is_empty() {
                self.waiting = kept.reports()?;
                return Ok(());
            }
            let acknowledged = hub.report(&Reports { reports })?.seq;
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
