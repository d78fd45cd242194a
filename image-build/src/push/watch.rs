//! Waiting for a verdict: the device reboots while it tries, so it falls silent and comes back, and nothing is waited for
//! without a bound.

use super::device::{Change, Device};
use super::status::{Stand, Status, Target, Trial, Update};
use super::{News, Verdict};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Looks at a device in which a trial that was begun is nowhere to be seen, before that is believed.
const MOST_ABSENT: u32 = 10;
/// So long, at most, a device is given to be well again with what it ran before: that may never have been.
const BACK: Duration = Duration::from_secs(60);

/// Waits for the verdict on `target`, at most `limit`. `before` is what the device said of updates before it was told to
/// apply it: the same failure may stand there from an earlier trial. `change` is what the trial costs, if that is known.
pub(super) fn watch(
    device: &Device,
    target: &Target,
    before: &Update,
    change: Option<Change>,
    limit: Duration,
    news: &mut dyn FnMut(News<'_>),
) -> Result<Verdict> {
    let mut watch = Watch {
        stale: target.failure(before),
        seen: false,
        absent: 0,
    };
    let (start, mut heard) = (Instant::now(), Instant::now());
    let mut shown = String::new();
    let mut unanswered = 0_u32;
    loop {
        let words = match device.status::<Status>() {
            Ok(status) => {
                heard = Instant::now();
                unanswered = 0;
                let stand = Stand::of(&status.update, target);
                let words = words(&stand, &status);
                match watch.judge(stand) {
                    Some(verdict @ Verdict::RolledBack { .. }) => {
                        wait_until_back(device, news);
                        return Ok(verdict);
                    }
                    Some(verdict @ (Verdict::Nothing | Verdict::Begun | Verdict::Committed)) => {
                        return Ok(verdict);
                    }
                    None => words,
                }
            }
            Err(_) => {
                unanswered = unanswered.saturating_add(1);
                silence(change, unanswered).unwrap_or(&shown).to_owned()
            }
        };
        if words != shown {
            news(News::Trial(&words));
            shown = words;
        }
        let silent = heard.elapsed();
        if silent > device.waits().silence {
            bail!(
                "the device has been silent for {} s in its trial\nhelp: it may be switched off; once it answers, `kedge ctl history` tells what it did",
                silent.as_secs()
            );
        }
        if start.elapsed() > limit {
            bail!(
                "no verdict after {} s: {shown}\nhelp: look again with `kedge ctl status`, end the trial with `kedge ctl rollback`",
                limit.as_secs()
            );
        }
        std::thread::sleep(device.waits().pause);
    }
}

/// Waits until the device runs what it ran before the trial, so that whoever goes on after a push finds that; at most
/// [`BACK`], since nothing more depends on it.
fn wait_until_back(device: &Device, news: &mut dyn FnMut(News<'_>)) {
    let start = Instant::now();
    let mut shown = String::new();
    while start.elapsed() < BACK {
        if let Ok(status) = device.status::<Status>() {
            let Some(words) = lacks(&status) else {
                return;
            };
            if words != shown {
                news(News::Trial(&words));
                shown = words;
            }
        }
        std::thread::sleep(device.waits().pause);
    }
}

/// What a device lacks to run what is committed as it should; none: nothing.
fn lacks(status: &Status) -> Option<String> {
    let committed = status.update.committed.as_ref();
    let runs = status.revision.as_ref().map(|revision| revision.id);
    let back = status.trial == Trial::Committed && runs == committed.map(|place| place.revision);
    if back && status.goals_missing.is_empty() {
        return None;
    }
    let mut words = "it goes back to what it ran before".to_owned();
    if back {
        name_goals(&mut words, status);
    }
    Some(words)
}

fn name_goals(words: &mut String, status: &Status) {
    for goal in &status.goals_missing {
        words.push_str(&format!("; {} is not {}", goal.container, goal.goal));
    }
}

/// What a device's silence means, once so many questions in a row had no answer; none: nothing yet. One whose trial takes
/// no boot is busy, or its port is, and a failed trial that it cannot undo makes it boot all the same.
const fn silence(change: Option<Change>, unanswered: u32) -> Option<&'static str> {
    match change {
        Some(Change::Reboot | Change::Slot) => Some("the device is silent: it boots"),
        Some(Change::Nothing | Change::Restart | Change::Other) | None if unanswered > 1 => {
            Some("the device does not answer: it is busy, or boots")
        }
        Some(Change::Nothing | Change::Restart | Change::Other) | None => None,
    }
}

/// What was seen until now.
struct Watch {
    /// The reason of an earlier failure of the same.
    stale: Option<String>,
    /// The trial was seen to run.
    seen: bool,
    /// Times in a row that it was not.
    absent: u32,
}

impl Watch {
    fn judge(&mut self, stand: Stand) -> Option<Verdict> {
        match stand {
            Stand::Trying => {
                self.seen = true;
                self.absent = 0;
                None
            }
            Stand::Committed => Some(Verdict::Committed),
            // It may be the last trial's verdict, as long as nothing else was seen.
            Stand::Failed(reason) if !self.seen && self.stale.as_ref() == Some(&reason) => {
                self.gone(&reason)
            }
            Stand::Failed(reason) => Some(Verdict::RolledBack { reason }),
            Stand::Absent => self.gone("the device does not say why"),
        }
    }

    /// The trial is not there: it is given some time to appear.
    fn gone(&mut self, reason: &str) -> Option<Verdict> {
        self.absent = self.absent.saturating_add(1);
        let reason = reason.to_owned();
        (self.absent > MOST_ABSENT).then_some(Verdict::RolledBack { reason })
    }
}

fn words(stand: &Stand, status: &Status) -> String {
    let mut words = match stand {
        Stand::Trying => match status.trial {
            Trial::Trying { tries_left } => format!("on trial, {tries_left} tries left"),
            // It waits for the boot that tries it.
            Trial::Committed => "on trial".to_owned(),
        },
        Stand::Committed | Stand::Failed(_) | Stand::Absent => "the trial begins".to_owned(),
    };
    name_goals(&mut words, status);
    words
}

#[cfg(test)]
mod tests {
    use super::super::status::{MissingGoal, Place, Runs};
    use super::*;
    use kedge_revision::ObjectId;

    fn failed(reason: &str) -> Stand {
        Stand::Failed(reason.into())
    }

    fn rolled_back(reason: &str) -> Option<Verdict> {
        let reason = reason.into();
        Some(Verdict::RolledBack { reason })
    }

    #[test]
    fn an_earlier_failure_is_no_verdict_until_it_stays() {
        let trying = Stand::Trying;
        let fresh = || Watch {
            stale: Some("panic".into()),
            seen: false,
            absent: 0,
        };
        let mut watch = fresh();
        assert_eq!(watch.judge(failed("panic")), None);
        assert_eq!(watch.judge(trying), None);
        assert_eq!(watch.judge(failed("panic")), rolled_back("panic"));
        let mut watch = fresh();
        assert_eq!(watch.judge(failed("watchdog")), rolled_back("watchdog"));
        let mut watch = fresh();
        for _ in 0..MOST_ABSENT {
            assert_eq!(watch.judge(failed("panic")), None);
        }
        assert_eq!(watch.judge(failed("panic")), rolled_back("panic"));
    }

    #[test]
    fn a_device_is_back_once_what_is_committed_runs_well() {
        let id = |byte| ObjectId::from_digest([byte; 32]);
        let status = |runs: Option<u8>, trial, missing: &[&str]| Status {
            revision: runs.map(|byte| Runs { id: id(byte) }),
            trial,
            update: Update {
                committed: Some(Place {
                    revision: id(1),
                    parameters: 0,
                    slot: None,
                }),
                ..Update::default()
            },
            goals_missing: missing.iter().copied().map(missed).collect(),
            ..Status::default()
        };
        let trying = Trial::Trying { tries_left: 1 };
        assert_eq!(lacks(&status(Some(1), Trial::Committed, &[])), None);
        for other in [
            status(None, Trial::Committed, &[]),
            status(Some(2), Trial::Committed, &["web"]),
            status(Some(1), trying, &[]),
        ] {
            let words = lacks(&other).unwrap();
            assert_eq!(words, "it goes back to what it ran before");
        }
        let words = lacks(&status(Some(1), Trial::Committed, &["web"])).unwrap();
        assert!(words.ends_with("; web is not ready"), "{words}");
    }

    fn missed(container: &str) -> MissingGoal {
        MissingGoal {
            container: container.into(),
            goal: "ready".into(),
            reason: String::new(),
        }
    }

    #[test]
    fn a_port_that_is_slow_once_is_no_boot() {
        for live in [Some(Change::Restart), Some(Change::Other), None] {
            assert_eq!(silence(live, 1), None);
            assert!(silence(live, 2).is_some_and(|words| words.contains("busy")));
        }
        for boots in [Change::Reboot, Change::Slot] {
            assert_eq!(
                silence(Some(boots), 1),
                Some("the device is silent: it boots")
            );
        }
    }

    #[test]
    fn a_trial_that_vanishes_did_not_hold() {
        let mut watch = Watch {
            stale: None,
            seen: false,
            absent: 0,
        };
        assert_eq!(watch.judge(Stand::Trying), None);
        let verdicts: Vec<_> = (0..=MOST_ABSENT)
            .map(|_| watch.judge(Stand::Absent))
            .collect();
        let (last, before) = verdicts.split_last().unwrap();
        assert!(before.iter().all(Option::is_none));
        assert!(matches!(last, Some(Verdict::RolledBack { .. })));
        assert_eq!(watch.judge(Stand::Committed), Some(Verdict::Committed));
    }
}
