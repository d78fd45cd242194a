//! The steps that are decided, one by one: confirm, apply, settle, and what a hub asks for once.

use crate::agent::{Agent, Refusal};
use crate::decide::Target;
use crate::error::Error;
use crate::frames::Level;
use crate::hub::Address;
use crate::kept::Failed;
use crate::ready::WORTH_WRITING;
use kedge_api::device::{ActionKind, Phase};
use kedge_revision::Root;

/// A refusal of PID 1's is asked again after so long, seconds: room may have been made.
pub(crate) const REFUSED_S: u64 = 3600;
/// Restarts that are done as soon as a hub asks for them. Whoever has a hub's key must not keep its fleet from working.
const SOON: u32 = 2;
/// Any other waits until the device was up for so long, seconds: at most three an hour.
const UP_S: u64 = 1200;
/// Actions that are done for one answer of the hub's.
const MOST_ACTIONS: u32 = 16;
/// So often logs that a hub asks for are tried to be sent.
const MOST_TRIES: u32 = 3;
/// A fresh answer is asked for at least so often, seconds.
const FRESH_S: u64 = 6 * 3600;

impl Agent<'_> {
    pub(crate) fn confirm(&mut self, hub: &Address, root: &Root) -> Result<(), Error> {
        let mut connection = self.connect(hub)?;
        let fresh = connection.assignment(self.device, root)?;
        self.answered()?;
        let judged_at = self.clock.now().unwrap_or(0);
        self.take_time(&fresh)?;
        // A leap was told over a connection that was judged before it: the next one is judged after it, and counts.
        if fresh.time.unix() <= judged_at.saturating_add(WORTH_WRITING) {
            self.raise_floor(&fresh)?;
        }
        self.fresh = Some((self.seconds(), u64::from(fresh.holds_s)));
        let assigned = fresh.assignment.map(|assignment| Target {
            revision: assignment.revision,
            parameters: assignment.parameters,
        });
        let matches = self.desired().is_none_or(|desired| {
            assigned.is_some_and(|assigned| {
                assigned.revision == desired.revision && assigned.parameters == desired.parameters
            })
        });
        if !matches {
            // Changed between the two questions: the first is asked again.
            self.asking.etag = None;
            self.asking.state = None;
        }
        self.confirmed = assigned;
        Ok(())
    }

    /// A fresh answer now and then, also when nothing changes: a hub that holds devices back must not go unnoticed.
    pub(crate) fn refresh(&mut self, hub: &Address, root: &Root) -> Result<(), Error> {
        let now = self.seconds();
        let due = match self.fresh {
            Some((at, _)) => now.saturating_sub(at) >= FRESH_S,
            None => self.asking.state.is_some(),
        };
        if due {
            self.confirm(hub, root)?;
        }
        Ok(())
    }

    /// Keeps that a revision is tried, and lets PID 1 try it.
    pub(crate) fn apply(&mut self, target: Target) -> Result<(), Error> {
        self.memory.trying = Some(Failed {
            revision: target.revision,
            parameters: target.parameters,
            retry: self.desired_retry(),
        });
        // Before it begins: a restart must not make it uncounted.
        self.memory.trials = self.memory.trials.saturating_add(1);
        self.memory.ran = self.ran();
        let kept = self.kept.put("memory", &self.memory);
        if kept.is_err() {
            self.is_not_tried();
            return kept;
        }
        let Target {
            revision,
            parameters,
        } = target;
        let hex = revision.hex();
        let now = u8::from(self.desired().is_some_and(|desired| desired.now));
        let place = format!("/v1/update/apply?revision={hex}&parameters={parameters}&now={now}");
        let applied = self.local.post("let PID 1 try the revision", &place);
        if let Err(error @ Error::Refused { .. }) = applied {
            self.is_not_tried();
            self.kept.put("memory", &self.memory)?;
            if error.status() == Some(423) {
                // A container was quicker with its lock: the status tells of it.
                return self.look_again();
            }
            if matches!(error.status(), Some(500 | 502..=506)) {
                // PID 1 or a helper of its has trouble of its own, which says nothing of the revision.
                return Err(error);
            }
            self.refuse(target, &error);
            return Ok(());
        }
        applied?;
        self.taken = Some(target);
        self.phase = Phase::Trying;
        self.look_again()
    }

    /// What was about to be tried is not.
    const fn is_not_tried(&mut self) {
        self.memory.trying = None;
        self.memory.trials = self.memory.trials.saturating_sub(1);
    }

    /// Ends a trial that waits. PID 1 refuses where there is none any more, or the device goes down for it.
    pub(crate) fn give_up(&mut self) -> Result<(), Error> {
        let place = "/v1/update/rollback";
        let done = self.local.post("give up a trial that waits", place);
        if done
            .as_ref()
            .is_err_and(|error| error.status() != Some(409))
        {
            return done;
        }
        self.look_again()
    }

    /// PID 1 does not take it.
    pub(crate) fn refuse(&mut self, target: Target, error: &Error) {
        self.refuse_for(target, error, REFUSED_S);
    }

    /// It is not tried for so long, seconds.
    pub(crate) fn refuse_for(&mut self, target: Target, error: &Error, seconds: u64) {
        let until = self.seconds().saturating_add(seconds);
        let reason = if let Error::Refused { detail, .. } = error {
            detail.clone()
        } else {
            error.to_string()
        };
        self.refused = Some(Refusal {
            target,
            reason,
            until,
            retry: self.desired_retry(),
        });
        // What was missing then may have been collected for another offer: it is brought anew.
        self.staged = None;
    }

    pub(crate) fn settle(&mut self, phase: Phase, failed: Option<Failed>) -> Result<(), Error> {
        let tried = self.memory.trying.take();
        if let (Phase::Committed, Some(tried)) = (&phase, tried) {
            self.memory.forget(tried);
        }
        if let (Phase::Idle, Some(target)) = (&phase, self.taken.take()) {
            // Taken and not begun, without a boot in between: a slot that cannot be written, say. Again at once would only
            // wear it out.
            let until = self.seconds().saturating_add(REFUSED_S);
            let reason = "the trial could not begin; the device's log says why".to_owned();
            self.refused = Some(Refusal {
                target,
                reason,
                until,
                retry: self.desired_retry(),
            });
        }
        if let Some(failed) = failed {
            self.memory.fail(failed);
        }
        let bad = matches!(phase, Phase::RolledBack { .. });
        self.phase = phase;
        // The report first: what is told twice is one report, what is forgotten is none.
        self.note(bad)?;
        self.kept.put("memory", &self.memory)
    }

    /// Does what the hub asks for once.
    pub(crate) fn act(&mut self, hub: &Address) -> Result<(), Error> {
        if self.memory.restarts > 0 && self.seconds() >= UP_S {
            self.memory.restarts = 0;
            self.kept.put("memory", &self.memory)?;
        }
        if self.owes_restart {
            return self.restart_unkept(hub);
        }
        let actions = self.asking.state.as_ref().map(|s| s.actions.clone());
        let mut done = 0_u32;
        for action in actions.unwrap_or_default() {
            if action.id <= self.memory.action {
                continue;
            }
            // What is left is told again: a hub that asks for thousands must not wear the disk out at once.
            if done >= MOST_ACTIONS {
                break;
            }
            if action.what == ActionKind::Reboot && self.restart_waits()? {
                break;
            }
            done = done.saturating_add(1);
            match action.what {
                // Before it is done: a restart must not be done again after itself.
                ActionKind::Reboot => {
                    self.memory.restarts = self.memory.restarts.saturating_add(1);
                    let kept = self.has_done(action.id);
                    self.say(Level::Notice, "a hub asks for a restart")?;
                    self.note(false)?;
                    if let Err(error) = kept {
                        // What the disk cannot remember the hub has to: it asks no more once it is told.
                        self.say(Level::Warning, &error.to_string())?;
                        self.restart_unkept(hub)?;
                    } else {
                        self.local.post("restart", "/v1/reboot")?;
                    }
                }
                ActionKind::Identify => {
                    self.say(Level::Notice, "this is the device that you look for")?;
                    self.has_done(action.id)?;
                }
                ActionKind::CollectLogs => {
                    self.send_all_logs(action.id)?;
                    self.has_done(action.id)?;
                }
                ActionKind::Unknown => {
                    self.say(
                        Level::Warning,
                        "a hub asks for something that this agent does not know",
                    )?;
                    self.has_done(action.id)?;
                }
            }
            self.note(false)?;
        }
        Ok(())
    }

    /// A restart that the disk cannot remember, once the hub knows of it.
    fn restart_unkept(&mut self, hub: &Address) -> Result<(), Error> {
        self.owes_restart = true;
        self.report(hub)?;
        self.owes_restart = false;
        self.local.post("restart", "/v1/reboot")
    }

    /// Keeps that an action was done, in any case as long as the agent runs: hubs are told so, and ask for it no more.
    fn has_done(&mut self, action: u64) -> Result<(), Error> {
        self.memory.action = action;
        self.kept.put("memory", &self.memory)
    }

    /// Sends all logs, as a hub asks for. Where that breaks off it is tried again, but not for ever: what comes behind it
    /// waits.
    fn send_all_logs(&mut self, action: u64) -> Result<(), Error> {
        let Some(hub) = self.address()? else {
            return Ok(());
        };
        let Err(error) = self.collect_logs(&hub) else {
            return Ok(());
        };
        let before = self.tried.filter(|(tried, _)| *tried == action);
        let times = before.map_or(0, |(_, times)| times).saturating_add(1);
        self.tried = Some((action, times));
        if times < MOST_TRIES {
            return Err(error);
        }
        let text =
            format!("the logs that a hub asks for are not sent after {times} tries: {error}");
        self.say(Level::Warning, &text)
    }

    /// Whether a restart has to wait, because hubs asked for too many.
    fn restart_waits(&mut self) -> Result<bool, Error> {
        let waits = self.memory.restarts >= SOON && self.seconds() < UP_S;
        if waits && !self.restart_waits {
            let minutes = UP_S / 60;
            let text = format!(
                "a hub asks for one more restart: it waits until the device was up for {minutes} minutes"
            );
            self.say(Level::Warning, &text)?;
        }
        self.restart_waits = waits;
        Ok(waits)
    }
}
