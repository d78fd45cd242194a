//! Trials and their ends: the judge's verdict becomes boot control's writes, and what follows from them.
//!
//! The same judge tells, outside trials, when a committed revision has settled. Nothing is decided here but when to
//! ask: by time, and whenever something has changed.

use super::{Driver, now_ms};
use crate::boot::{self, DATA};
use crate::evidence;
use crate::history::{Event as Note, Kind};
use crate::judge::{Input, Judge, Probe, Verdict};
use crate::log::Stream;
use crate::machine::{Ending, Event, Halt, Id};
use kedge_board_support::Error as RecordError;
use kedge_board_support::control::{Control, Decision, Next, Running, Write};
use kedge_board_support::record::Reason;
use kedge_board_support::record::state::Target;
use std::path::Path;

/// How long repair mode lasts before the committed revision is tried again, milliseconds.
const REPAIR_MS: u64 = 3_600_000;

/// Times of what waits.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// When the trial that runs, or what is to settle, began: milliseconds since the boot.
    began: u64,
    /// When the judge is to be asked again, if nothing happens before.
    look_at: Option<u64>,
    /// When a trial whose tries ran out is tried again.
    retry_at: Option<u64>,
    /// When repair mode is over.
    repair_until: Option<u64>,
    /// The panic's record is to be removed once the history has it.
    forget_panic: bool,
    /// As well PID 1's last words.
    forget_words: bool,
}

impl Times {
    /// When the containers that run now were let go, milliseconds since the boot.
    pub(super) const fn began(&self) -> u64 {
        self.began
    }
}

/// An event of the history about a target, if there is one.
pub(super) fn note(kind: Kind, target: Option<&Target>) -> Note {
    target.map_or_else(|| Note::new(kind), |target| Note::of(kind, target))
}

impl Driver {
    /// A person asks for a roll back of the trial that runs.
    pub(super) fn operator_rolls_back(&mut self) {
        if self.judge.is_some() {
            self.ask_judge(Input::Operator);
        } else {
            self.verdict_bad(Reason::Operator);
        }
    }

    /// Whether a trial runs, and is not judged yet.
    pub(super) fn on_trial(&self) -> bool {
        let control = self.boot.control.as_ref();
        control.is_some_and(|control| control.running() == Running::Trial)
    }

    /// What this boot is, and what is known of the end of the last run, for the history; and what follows by time.
    pub(super) fn note_boot(&mut self) {
        let evidence = std::mem::take(&mut self.boot.evidence);
        let mut booted = note(Kind::Booted, self.boot.target().as_ref());
        booted.slot = self.boot.slot;
        booted.cause = Some(evidence.cause);
        self.history.note(booted);
        if let Some(text) = evidence.text {
            self.note_text(text);
            self.times.forget_panic = true;
        }
        let words = self.boot.bootenv.as_ref().and_then(evidence::last_words);
        if let Some(text) = words {
            self.note_text(text);
            self.times.forget_words = true;
        }
        if self.in_repair() {
            let until = now_ms().saturating_add(REPAIR_MS);
            self.times.repair_until = Some(until);
            self.history.note(Note::new(Kind::Repair));
        }
    }

    fn note_text(&mut self, text: String) {
        let mut panic = Note::new(Kind::Panic);
        panic.text = Some(text);
        self.history.note(panic);
    }

    /// What was found of the last run's end is on disk: its source is cleared, so that it is told once.
    pub(super) fn forget_evidence(&mut self) {
        if !self.history.is_kept() {
            return;
        }
        let panic = std::mem::take(&mut self.times.forget_panic);
        let words = std::mem::take(&mut self.times.forget_words);
        let forgotten = [
            panic.then(evidence::forget_panic),
            words.then(|| {
                let place = self.boot.bootenv.as_ref();
                place.map_or(Ok(()), evidence::forget_last_words)
            }),
        ];
        for error in forgotten.into_iter().flatten().filter_map(Result::err) {
            self.say(Stream::Warning, &error.to_string());
        }
    }

    /// Starts the containers of this boot, and begins to judge them.
    pub(super) fn start_containers(&mut self) {
        self.step(Event::Begin);
        self.begin_judging(now_ms());
    }

    /// From now on the window counts.
    pub(super) fn begin_judging(&mut self, now: u64) {
        self.times.began = now;
        self.times.look_at = None;
        self.judge = self.boot.content.as_ref().map(|content| {
            let window = content.commit.window_s;
            if self.on_trial() {
                let judge = Judge::trial(window, now, &self.machine, self.hub_rule(content));
                match content.commit.hub_wait_s {
                    Some(wait) => judge.waiting_for_hub(wait, now),
                    None => judge,
                }
            } else {
                Judge::settling(window)
            }
        });
        self.ask_judge(Input::Look);
        self.judge_network();
    }

    /// Each turn: what is due by time, and the judge's word.
    pub(super) fn trial_turn(&mut self, now: u64) {
        if self.machine.halting().is_some() {
            return;
        }
        if self.times.repair_until.take_if(|at| *at <= now).is_some() {
            // What failed by itself is tried again by the next boot, and goes on to be counted.
            if let Decision::Repair(_) = self.boot.decision {
                let control = self.boot.control.as_mut();
                let writes = control.map(|control| control.repaired());
                self.write_or_say(&writes.unwrap_or_default());
            }
            self.step(Event::Shutdown(Halt::Reboot));
            return;
        }
        if self.times.retry_at.take_if(|at| *at <= now).is_some() && !self.update.is_busy() {
            self.retry();
            return;
        }
        self.ask_judge(Input::Look);
    }

    pub(super) fn ask_judge(&mut self, input: Input) {
        // What goes down has lost its goals by that: it counts against no trial.
        if self.machine.halting().is_some() {
            return;
        }
        let now = now_ms();
        let Some(judge) = &mut self.judge else {
            return;
        };
        let judged = judge.step(now, input, &self.machine);
        if judged.probe {
            self.helpers.probing.ask();
        }
        match judged.verdict {
            Verdict::Pending(at) => self.times.look_at = at,
            Verdict::Good => self.verdict_good(now),
            Verdict::Bad(reason) => self.verdict_bad(reason),
        }
    }

    /// It was tried to write to the store for the judge.
    pub(super) fn judge_probed(&mut self, passed: bool) {
        let probe = if passed { Probe::Passed } else { Probe::Failed };
        self.ask_judge(Input::Probe(probe));
    }

    /// When [`Driver::trial_turn`] has something to do.
    pub(super) fn trial_deadline(&self) -> Option<u64> {
        if self.machine.halting().is_some() {
            return None;
        }
        let look_at = self.judge.as_ref().and(self.times.look_at);
        let times = [self.times.repair_until, self.times.retry_at, look_at];
        times.into_iter().flatten().min()
    }

    /// All goals were held for the window: the trial is committed, or the committed revision has settled.
    fn verdict_good(&mut self, now: u64) {
        self.judge = None;
        if !self.on_trial() {
            let control = self.boot.control.as_mut();
            let writes = control.map(|control| control.settled()).unwrap_or_default();
            self.write_or_say(&writes);
            if !writes.is_empty() {
                self.history
                    .note(note(Kind::Settled, self.boot.target().as_ref()));
            }
            if boot::snapshot_of(Path::new(DATA)).is_some() {
                // What has settled is what is kept: copies that could not be brought back are of no use any more.
                self.drop_copies();
            }
            self.plan_retry(now);
            return;
        }
        let target = self.boot.target();
        let (Some(control), Some(revision)) = (&mut self.boot.control, &self.boot.revision) else {
            return;
        };
        let envelope = revision.envelope();
        let writes = control.good(envelope.floor(), envelope.root);
        let took = now.saturating_sub(self.times.began);
        if self.write_or_say(&writes) {
            self.boot.decision = Decision::Committed;
            self.say(Stream::Notice, "the trial holds: it is committed");
            let mut committed = note(Kind::Committed, target.as_ref());
            committed.took_ms = Some(took);
            self.history.note(committed);
            self.update.forget_before();
            self.drop_copies();
            return;
        }
        // As after a power cut at that write: what is on the disk decides at the next boot, and nothing may rely on it before.
        let control = self.boot.control.as_mut();
        if control.map(Control::not_committed) == Some(Next::Reboot) {
            let text = "the commit could not be written: the device restarts, and what is on the disk decides";
            self.say(Stream::Error, text);
            self.step(Event::Shutdown(Halt::Reboot));
        }
    }

    /// The trial is given up.
    pub(super) fn verdict_bad(&mut self, reason: Reason) {
        self.judge = None;
        let target = self.trial_target().or_else(|| self.boot.target());
        let Some(control) = &mut self.boot.control else {
            return;
        };
        let text = reason.to_string();
        let (writes, next) = control.bad(reason);
        // Whether or not it could be written, the trial ends: its tries run out. Until then the loader may start its slot.
        if !self.write_or_say(&writes) {
            self.not_written();
        }
        let took = now_ms().saturating_sub(self.times.began);
        self.say(Stream::Error, &format!("the trial does not hold: {text}"));
        let mut rolled_back = note(Kind::RolledBack, target.as_ref());
        rolled_back.reason = Some(text);
        rolled_back.took_ms = Some(took);
        self.history.note(rolled_back);
        match next {
            Next::Reboot => self.step(Event::Shutdown(Halt::Reboot)),
            Next::UndoLive => self.undo_live(),
            Next::GoOn | Next::RunTrialLive => {}
        }
    }

    fn trial_target(&self) -> Option<Target> {
        let trial = self.boot.control.as_ref()?.state().trial.as_ref();
        trial.map(|trial| trial.target)
    }

    /// A container is down for good and asks for a roll back: that counts on trial only.
    pub(super) fn container_asks_roll_back(&mut self, id: Id, ending: Ending) {
        self.ask_judge(Input::RollBack { id, ending });
    }

    /// A trial that waits for its next try is given up; the committed revision goes on, and so does its judge.
    pub(super) fn give_up_waiting(&mut self) {
        let judge = self.judge.take();
        self.verdict_bad(Reason::Operator);
        self.judge = judge;
        self.times.retry_at = None;
    }

    /// A trial whose tries ran out waits: the longer, the more often that was. The first time twice the window.
    fn plan_retry(&mut self, now: u64) {
        let control = self.boot.control.as_ref();
        let exhausted = control.and_then(|control| control.retry_due());
        let window = self.boot.content.as_ref().map(|c| c.commit.window_s);
        if let (Some(times), Some(window)) = (exhausted, window) {
            let wait = u64::from(window).saturating_mul(1000) << times.min(8);
            self.times.retry_at = Some(now.saturating_add(wait));
        }
    }

    fn retry(&mut self) {
        let target = self.trial_target();
        let Some(control) = &mut self.boot.control else {
            return;
        };
        let before = control.clone();
        let (writes, next) = control.retry();
        if next != Next::Reboot {
            return;
        }
        if !self.write_or_say(&writes) {
            // It waits on, and longer than before: the disk is asked again at a later time, or by the next boot.
            self.write_back(before);
            self.plan_retry(now_ms());
            return;
        }
        self.say(Stream::Notice, "the trial is tried again");
        self.history.note(note(Kind::Retried, target.as_ref()));
        self.step(Event::Shutdown(Halt::Reboot));
    }

    /// A write of the boot record failed, and what runs goes on.
    fn not_written(&mut self) {
        if let Some(control) = &mut self.boot.control {
            control.not_written();
        }
    }

    /// A person asked for a restart or for power-off: it counts against nothing.
    pub(super) fn give_back(&mut self) {
        let control = self.boot.control.as_mut();
        let writes = control.map(|control| control.orderly()).unwrap_or_default();
        self.write_or_say(&writes);
        self.history.note(Note::new(Kind::Ordered));
    }

    /// Performs writes of boot control, in order, up to the first that fails.
    pub(super) fn perform_writes(&mut self, writes: &[Write]) -> Result<(), RecordError> {
        match &mut self.boot.record {
            Some(record) => writes.iter().try_for_each(|write| record.perform(write)),
            None => Ok(()),
        }
    }

    /// The same, and a failure is told. False: it failed.
    pub(super) fn write_or_say(&mut self, writes: &[Write]) -> bool {
        let written = self.perform_writes(writes);
        if let Err(error) = &written {
            self.say(Stream::Error, &format!("boot record: {error}"));
        }
        written.is_ok()
    }
}
