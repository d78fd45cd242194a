//! From a staged revision to a trial: what is asked is judged again from disk, and boot control begins it.
//!
//! ```text
//!  Idle ─apply─▶ WritingSlot ─written─▶ (armed) reboot
//!    │ └───────▶ (state says trying)    reboot                      a reboot in the same slot
//!    └─────────▶ Retiring ─all down─▶ Copying ─▶ Idle, judged       an exchange of containers
//!                    ▲                   │ volumes are kept, or brought back
//!                    └──── bad verdict ──┘
//! ```
//! What it does not do: it decides nothing that boot control, [`kedge_revision::change`] or the judge decide.

use super::helpers::STAGE;
use super::{Driver, FAREWELL_MS, now_ms};
use crate::boot::{self, DATA, Side};
use crate::control::Refusal;
use crate::driver::trial::note;
use crate::error::Error;
use crate::helpers::stage::Request;
use crate::history::Kind;
use crate::lock::Locks;
use crate::log::Stream;
use crate::machine::{Event, Halt};
use kedge_board_support::control::{Control, Decision, How, Next, Write};
use kedge_board_support::record::Slot;
use kedge_board_support::record::state::Target;
use kedge_revision::change::{Change, Exchange, Running, change};
use kedge_revision::revision::{Object, ObjectKind};
use kedge_revision::{Name, ObjectId, Verified};
use kedge_store::Store;
use std::path::Path;

/// How long the stopping of what an exchange replaces, or the copying of its volumes, may take, milliseconds. Every
/// stop ends in a kill; what cannot even be killed is cured by a reboot.
pub(super) const EXCHANGE_LIMIT: u64 = 600_000;

/// How long the stage helper may take to end once it is killed, milliseconds: who waits for a disk ends when that answers.
const KILLED_LIMIT: u64 = 60_000;

const LATE_COPIES: &str = "the volumes of the trial take too long to be copied";

/// What is under way between revisions.
#[derive(Debug, Default)]
pub(crate) struct Update {
    pub(crate) step: Step,
    /// What ran before a trial that was begun live: what an undo goes back to.
    pub(super) before: Option<Box<Side>>,
    /// Bytes of bodies since the last offer.
    pub(crate) received: u64,
    /// A body is on its way.
    pub(crate) receiving: bool,
    /// Until when what a hub sends keeps out of the way of somebody before the device, milliseconds since the boot.
    pub(crate) yields_until: u64,
    /// When an exchange has taken too long.
    pub(crate) limit: Option<u64>,
    /// The stage helper was killed for that, and has not ended yet.
    killed: bool,
    /// Which containers hold updates back.
    pub(crate) locks: Locks,
    /// How what was applied last came, for the history.
    pub(super) source: Option<&'static str>,
}

/// One step of the way.
#[derive(Debug, Default)]
pub(crate) enum Step {
    /// Nothing is under way, or a trial runs and is judged.
    #[default]
    Idle,
    /// The other slot is being written, for a trial with so many tries; without any the committed one that is lost.
    WritingSlot(Target, Option<u8>),
    /// Containers are being stopped for an exchange.
    Retiring(Box<Planned>),
    /// Volumes are being kept or brought back, after which the containers are exchanged.
    Copying(Box<Planned>),
    /// Volumes are being kept or brought back, after which the containers of this boot are started.
    Preparing,
}

/// An exchange that is under way.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(super) side: Side,
    pub(super) direction: Direction,
    /// Containers that were stopped for it: only their volumes may be copied or brought back.
    pub(super) stopped: Vec<Name>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// To the revision on trial.
    Forward,
    /// Back to the committed one.
    Back,
}

impl Update {
    /// Whether something is under way that nothing else may come between.
    pub(crate) const fn is_busy(&self) -> bool {
        match self.step {
            Step::Idle => false,
            Step::WritingSlot(..) | Step::Retiring(_) | Step::Copying(_) | Step::Preparing => true,
        }
    }

    /// The trial is committed: there is no way back to what ran before.
    pub(crate) fn forget_before(&mut self) {
        self.before = None;
    }

    /// What is being done, in words; none: nothing.
    pub(crate) fn phase(&self) -> Option<&'static str> {
        match &self.step {
            Step::Idle => self.receiving.then_some("receiving"),
            Step::WritingSlot(target, _) => Some(match target.slot {
                Slot::A => "writing slot a",
                Slot::B => "writing slot b",
            }),
            Step::Retiring(_) => Some("stopping what changes"),
            Step::Copying(_) | Step::Preparing => Some("copying volumes"),
        }
    }
}

/// A staged revision that was judged good.
struct Offer {
    /// Its layers: all must be in the store, whole.
    objects: Vec<(ObjectId, Object)>,
    /// Absent where the other slot's own init judges the content.
    side: Option<Side>,
    cost: Change,
    target: Target,
    tries: u8,
}

/// What became of a request to the stage helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// There is nothing to be done.
    Nothing,
    /// Its answer comes.
    Sent,
    /// There is nobody to do it.
    Failed,
}

/// Why a revision is not tried.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) String);

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

impl From<&str> for Refused {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Why a device that runs from memory does not try a revision.
const FROM_MEMORY: &str = "the device runs from memory, and this takes a reboot, after which it would be gone: start it with the new revision's kernel and initramfs";

fn takes_reboot(cost: &Change) -> bool {
    match cost {
        Change::Slot | Change::Reboot(_) => true,
        Change::Nothing | Change::Restart(_) => false,
    }
}

fn layers(revision: &Verified) -> Vec<(ObjectId, Object)> {
    let objects = revision.envelope().objects.iter();
    objects
        .filter(|(_, object)| object.kind == ObjectKind::Layer)
        .map(|(id, object)| (*id, *object))
        .collect()
}

impl Driver {
    /// Whether a trial is recorded, running or not.
    pub(super) fn trial_pending(&self) -> bool {
        let control = self.boot.control.as_ref();
        control.is_some_and(|control| control.state().trial.is_some())
    }

    /// Whether a trial waits for its next try, and that will come.
    pub(super) fn trial_waits(&self) -> bool {
        let control = self.boot.control.as_ref();
        control.is_some_and(|control| control.retry_due().is_some())
    }

    /// The counter of the parameters that a revision is tried with. Whoever gives none (0) leaves the device those that it has,
    /// as far as the revision takes them: the stage helper has put them beside it. With none of them there, it is 0.
    fn parameters_for(&self, revision: ObjectId, given: u64) -> u64 {
        let control = self.boot.control.as_ref();
        let kept = control.map_or(0, |control| control.state().committed.parameters);
        let is_there = || {
            let path = Store::at(Path::new(DATA)).parameters_path(revision, kept);
            path.exists()
        };
        if given == 0 && kept != 0 && is_there() {
            kept
        } else {
            given
        }
    }

    /// Begins to try a staged revision; the answer says what it costs. Of parameters 0 means that nobody gave any.
    ///
    /// # Errors
    /// [`Refused`] with what is wrong; nothing was changed then.
    pub(super) fn apply(
        &mut self,
        revision: ObjectId,
        parameters: u64,
    ) -> Result<&'static str, Refused> {
        if self.machine.halting().is_some() {
            return Err("the device goes down".into());
        }
        if self.update.is_busy() || self.trial_pending() || self.upload.is_some() {
            return Err("a trial or an upload is under way".into());
        }
        let Offer {
            side,
            cost,
            target,
            tries,
            objects: _,
        } = self.judge_offer(revision, self.parameters_for(revision, parameters))?;
        let word = cost.word();
        match (cost, side) {
            (Change::Nothing, _) => return Err("this is what runs".into()),
            (Change::Slot, _) | (Change::Restart(_), None) => self.write_slot(target, tries)?,
            (Change::Reboot(why), _) => {
                self.say(Stream::Notice, &format!("the trial takes a reboot: {why}"));
                if self.begin_trial(target, tries, How::Reboot)? == Next::Reboot {
                    // In a later turn: an empty machine would go down before the client has its answer.
                    self.reboot_at = Some(now_ms().saturating_add(FAREWELL_MS));
                }
            }
            (Change::Restart(exchange), Some(side)) => {
                self.begin_trial(target, tries, How::Live)?;
                self.retire(side, &exchange, Direction::Forward);
            }
        }
        Ok(word)
    }

    /// What a revision whose documents are here would change, and with which parameters it would be tried.
    ///
    /// # Errors
    /// It would be refused.
    pub(super) fn preview(
        &self,
        revision: ObjectId,
        parameters: Option<u64>,
    ) -> Result<(&'static str, u64), Refused> {
        let parameters = self.parameters_for(revision, parameters.unwrap_or(0));
        // Of what apply will refuse, too: whoever offers it is told by apply why.
        let offer = self.judge_documents(revision, parameters)?;
        Ok((offer.cost.word(), parameters))
    }

    /// Judges what was staged from disk, as a boot would.
    fn judge_offer(&self, revision: ObjectId, parameters: u64) -> Result<Offer, Refused> {
        let offer = self.judge_change(revision, parameters)?;
        for (id, object) in &offer.objects {
            boot::check_object(*id, *object)?;
        }
        Ok(offer)
    }

    /// What nothing would be left of after the reboot that it takes is refused.
    fn judge_change(&self, revision: ObjectId, parameters: u64) -> Result<Offer, Refused> {
        let offer = self.judge_documents(revision, parameters)?;
        if self.boot.from_memory && takes_reboot(&offer.cost) {
            return Err(FROM_MEMORY.into());
        }
        Ok(offer)
    }

    fn judge_documents(&self, revision: ObjectId, parameters: u64) -> Result<Offer, Refused> {
        let Some(control) = &self.boot.control else {
            return Err("this device has no boot record".into());
        };
        let state = control.state();
        let target = Target {
            revision,
            parameters,
            slot: state.committed.slot,
        };
        let verified = self.boot.read_document(revision)?;
        let order = verified.envelope().order();
        if let Some(running) = &self.boot.revision
            && running.envelope().order() == order
            && running.id() != revision
        {
            return Err(Refused(format!(
                "another revision with counter {order} runs: a counter names one revision"
            )));
        }
        let mut offer = Offer {
            objects: layers(&verified),
            tries: verified.envelope().tries,
            side: None,
            cost: Change::Slot,
            target,
        };
        // Kernel and init of the trial may know more than we do: then its own init judges its content.
        if self.boot.needs_slot(&verified) {
            offer.target.slot = state.committed.slot.other();
            return Ok(offer);
        }
        let side = self.boot.read_side(verified, target)?;
        boot::requires(&side.content)?;
        offer.cost = match (&self.boot.revision, &self.boot.content) {
            (Some(running), Some(content)) => change(
                &Running {
                    revision: running.id(),
                    boot: &running.envelope().boot,
                    content,
                    parameters: &self.boot.parameters,
                },
                &side.running(),
            ),
            // Nothing runs (repair mode): whatever it is, it takes a boot.
            _ => Change::Reboot(kedge_revision::change::Why::Configuration),
        };
        offer.side = Some(side);
        Ok(offer)
    }

    /// Lets boot control begin the trial, and performs what it writes.
    fn begin_trial(&mut self, target: Target, tries: u8, how: How) -> Result<Next, Refused> {
        let Some(control) = &mut self.boot.control else {
            return Err("this device has no boot record".into());
        };
        let before = control.clone();
        let (writes, next) = control
            .begin(target, tries, how, self.agent.hub())
            .map_err(|busy| Refused(busy.to_string()))?;
        if let Err(error) = self.perform_writes(&writes) {
            self.write_back(before);
            return Err(Refused(error.to_string()));
        }
        let mut begun = note(Kind::TrialBegun, Some(&target));
        begun.source = self.update.source;
        self.history.note(begun);
        self.say(
            Stream::Notice,
            &format!("trial of {} begins", target.revision),
        );
        Ok(next)
    }

    /// What was written since `before` must not be believed: neither by us nor by the next boot. Each record is written,
    /// whatever becomes of the other; what cannot be keeps the other slot as it is.
    pub(super) fn write_back(&mut self, mut before: Control) {
        let back = [
            Write::StateBoth(before.state().clone()),
            Write::Loader(before.loader()),
        ];
        if back.map(|write| self.write_or_say(&[write])) != [true, true] {
            before.not_written();
        }
        self.boot.control = Some(before);
    }

    fn write_slot(&mut self, target: Target, tries: u8) -> Result<(), Refused> {
        // Before a byte of it is written: it may be the slot that the loader starts.
        if let Some(control) = &self.boot.control {
            let admitted = control.admits(target.slot, How::Slot);
            admitted.map_err(|busy| Refused(busy.to_string()))?;
        }
        self.fill_slot(target, Some(tries))
    }

    /// Nothing loads what is committed, and the other slot runs: the committed one is written anew, from the store.
    pub(super) fn mend_slot(&mut self) {
        let Some(control) = &mut self.boot.control else {
            return;
        };
        let Some(writes) = control.mend_slot() else {
            return;
        };
        let target = control.state().committed;
        if !self.write_or_say(&writes) {
            return;
        }
        let begins = format!("slot {} is written anew", target.slot);
        self.say(Stream::Warning, &begins);
        if let Err(Refused(why)) = self.fill_slot(target, None) {
            self.say(Stream::Error, &format!("slot {}: {why}", target.slot));
        }
    }

    fn fill_slot(&mut self, target: Target, tries: Option<u8>) -> Result<(), Refused> {
        let data = self.boot.data_device();
        let Some(device) = boot::slot_device(target.slot, data.as_deref()) else {
            return Err(Refused(format!(
                "there is no partition {}",
                target.slot.partition()
            )));
        };
        if !self.stage_runs() {
            return Err("the stage helper does not run".into());
        }
        self.configure_stage();
        let device = device.to_string_lossy();
        let request = Request::WriteSlot {
            slot: target.slot,
            teller: self.boot.teller(),
            revision: target.revision,
            device: &device,
        };
        let frame = request.encode();
        self.update.step = Step::WritingSlot(target, tries);
        self.update.limit = Some(now_ms().saturating_add(EXCHANGE_LIMIT));
        self.send(STAGE, frame);
        Ok(())
    }

    /// The slot holds the trial's kernel and initramfs, or it does not.
    pub(super) fn slot_written(&mut self, ok: bool, text: &str) {
        let Step::WritingSlot(target, tries) = self.update.step else {
            return;
        };
        self.update.step = Step::Idle;
        self.update.limit = None;
        let written = if ok {
            Ok(())
        } else {
            Err(Refused(format!("slot {}: {text}", target.slot)))
        };
        let Some(tries) = tries else {
            match written {
                Ok(()) => self.step(Event::Shutdown(Halt::Reboot)),
                Err(Refused(why)) => self.say(Stream::Error, &why),
            }
            return;
        };
        let begun = written.and_then(|()| self.begin_trial(target, tries, How::Slot));
        match begun {
            Ok(Next::Reboot) => self.step(Event::Shutdown(Halt::Reboot)),
            Ok(Next::GoOn | Next::RunTrialLive | Next::UndoLive) => {}
            Err(Refused(why)) => {
                self.say(Stream::Error, &format!("the trial cannot begin: {why}"));
                let mut refused = note(Kind::Refused, Some(&target));
                refused.reason = Some(why);
                refused.source = self.update.source;
                self.history.note(refused);
            }
        }
    }

    /// Stops what an exchange replaces.
    pub(super) fn retire(&mut self, side: Side, exchange: &Exchange, direction: Direction) {
        let ids: Vec<_> = exchange
            .stopped
            .iter()
            .filter_map(|name| self.machine.find(name.as_str()))
            .collect();
        self.judge = None;
        self.update.limit = Some(now_ms().saturating_add(EXCHANGE_LIMIT));
        self.update.step = Step::Retiring(Box::new(Planned {
            side,
            direction,
            stopped: exchange.stopped.clone(),
        }));
        let mut actions = std::mem::take(&mut self.actions);
        self.machine.retire(now_ms(), &ids, &mut actions);
        self.perform_all(actions);
    }

    /// Each turn: goes on where what was waited for has come.
    pub(super) fn update_turn(&mut self, now: u64) {
        self.update.locks.pass(now);
        if self.machine.halting().is_some() {
            self.update.limit = None;
            return;
        }
        if self.update.limit.is_some_and(|at| at <= now) {
            self.update.limit = None;
            let on_trial = self.on_trial();
            let given_up = match &self.update.step {
                Step::WritingSlot(..) => Some("a slot takes too long to be written"),
                // A trial without its copies ends; another try would copy for as long.
                Step::Copying(planned) if planned.direction == Direction::Forward => {
                    Some(LATE_COPIES)
                }
                Step::Preparing if on_trial => Some(LATE_COPIES),
                Step::Idle | Step::Retiring(_) | Step::Copying(_) | Step::Preparing => None,
            };
            if let Some(text) = given_up
                && !self.update.killed
            {
                self.say(Stream::Error, text);
                self.kill_stage();
                self.update.killed = true;
                self.update.limit = Some(now.saturating_add(KILLED_LIMIT));
                return;
            }
            self.say(Stream::Error, "an exchange of containers took too long");
            // Whatever is stuck, a boot is not: the trial's next try, or the committed revision, follows.
            self.step(Event::Shutdown(Halt::Reboot));
            return;
        }
        if matches!(self.update.step, Step::Retiring(_))
            && self.machine.retired()
            && let Step::Retiring(planned) = std::mem::take(&mut self.update.step)
        {
            self.copy_volumes(planned);
        }
    }

    /// The stage helper has gone in the middle of its work.
    pub(super) fn stage_lost(&mut self) {
        let text = "the stage helper has ended";
        self.update.killed = false;
        self.upload_lost();
        match self.update.step {
            Step::Idle | Step::Retiring(_) => {}
            Step::WritingSlot(..) => self.slot_written(false, text),
            Step::Copying(_) | Step::Preparing => self.volumes_copied(false, text),
        }
    }

    /// Puts the other side's containers in the place of those that were stopped.
    pub(super) fn exchange(&mut self, planned: Planned) {
        let Planned {
            side, direction, ..
        } = planned;
        self.update.limit = None;
        let before = self.boot.exchange_side(side);
        self.boot.decision = match direction {
            Direction::Forward => Decision::Try,
            Direction::Back => Decision::Committed,
        };
        self.update.before = match direction {
            Direction::Forward => before.map(Box::new),
            Direction::Back => None,
        };
        // The helper compares, and leaves alone what is the same.
        self.configure_network();
        self.exchange_units();
        self.watch_sticks();
        self.begin_judging(now_ms());
        let text = match direction {
            Direction::Forward => "the trial runs",
            Direction::Back => "the committed revision runs again",
        };
        self.say(Stream::Notice, text);
    }

    /// An operator gives a trial up, whether it runs or waits for its next try.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn roll_back_asked(&mut self) -> Result<(), Refusal> {
        if self.machine.halting().is_some() || !self.trial_pending() {
            return Err(Refusal::Conflict("there is no trial"));
        }
        if self.on_trial() {
            self.operator_rolls_back();
        } else {
            self.give_up_waiting();
        }
        Ok(())
    }
}
