//! What a boot decides. Two questions, in this order: which slot was started, and what does the state say of it.
//!
//! | state | started: committed slot | started: the other slot |
//! |---|---|---|
//! | no trial | count `unsettled`, run, or repair mode | astray: set the loader right, restart |
//! | same-slot trial | commit, take a try, or count the exhaustion and run | astray |
//! | slot trial | why is the trial not what was started? Or: make the next try | commit, take a try, or go back |
//!
//! "Astray" with a loader that is right already: it could not start the committed slot. That is repair mode. Or its firmware
//! was given the word of a restart to a try: then the next restart brings the default, and where the word sticks, so that it
//! does not, each such boot counts as one that did not settle.

use super::{
    ARMINGS_MOST, Cause, Control, Counts, Decision, EXHAUSTIONS_MOST, Found, LoaderSays, Owed,
    Repair, Run, StateLost, UNSETTLED_MOST, Write, commit,
};
use crate::record::loader::Armed;
use crate::record::{Failure, Loader, Reason, Slot, State, Trial};

/// How the state is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Save {
    /// Nothing but this boot's count has changed.
    Count,
    /// To one copy.
    One,
    /// To both: a trial has ended.
    Both,
}

struct Boot {
    state: State,
    loader: Option<Loader>,
    slot: Slot,
    cause: Cause,
    says: LoaderSays,
    counts: Counts,
    owed: Owed,
    writes: Vec<Write>,
}

pub(super) fn decide(found: Found) -> Result<(Control, Vec<Write>, Decision), StateLost> {
    let mut boot = Boot {
        state: found.state.ok_or(StateLost)?,
        loader: found.loader,
        slot: found.slot,
        cause: match found.cause {
            Cause::Unknown if found.says.watchdog => Cause::Watchdog,
            cause @ (Cause::Unknown | Cause::Watchdog | Cause::Panic) => cause,
        },
        says: found.says,
        counts: found.counts,
        owed: Owed::Nothing,
        writes: Vec::new(),
    };
    if boot.cause == Cause::Watchdog {
        boot.state.watchdog_resets = boot.state.watchdog_resets.saturating_add(1);
    }
    let decision = boot.decide();
    let saved = |write: &Write| matches!(write, Write::State(_) | Write::StateBoth(_));
    if boot.cause == Cause::Watchdog && !boot.writes.iter().any(saved) {
        boot.writes.push(Write::State(boot.state.clone()));
    }
    let told = |write: &Write| matches!(write, Write::Loader(_));
    if let (Some(record), false) = (boot.loader, found.mirrored)
        && !boot.writes.iter().any(told)
    {
        boot.writes.push(Write::Loader(record));
    }
    let committed = boot.state.committed.slot;
    let control = Control {
        loader: boot.loader.unwrap_or(Loader::starts(committed)),
        state: boot.state,
        run: Run::of(decision, boot.owed),
        counts: boot.counts,
    };
    Ok((control, boot.writes, decision))
}

impl Boot {
    fn decide(&mut self) -> Decision {
        let committed = self.state.committed.slot;
        match (self.state.trial, self.slot == committed) {
            (None, true) => self.committed(Save::Count),
            (Some(trial), true) if trial.target.slot == committed => self.same_slot(trial),
            (Some(trial), true) => self.not_in_trial_slot(trial),
            (Some(trial), false) if trial.target.slot != committed => self.in_trial_slot(trial),
            (None | Some(_), false) => self.astray(),
        }
    }

    /// The committed revision runs, unless it did not settle too often. What else has changed is saved by the same write.
    fn committed(&mut self, save: Save) -> Decision {
        let repair = self.state.unsettled >= UNSETTLED_MOST;
        if !repair {
            self.state.unsettled = self.state.unsettled.saturating_add(1);
            self.owed = Owed::Count;
        }
        match save {
            Save::Both => self.writes.push(Write::StateBoth(self.state.clone())),
            Save::Count if repair => {}
            Save::One | Save::Count => self.writes.push(Write::State(self.state.clone())),
        }
        self.tell_loader(Loader::starts(self.state.committed.slot));
        if repair {
            Decision::Repair(Repair::Unsettled)
        } else {
            Decision::Committed
        }
    }

    /// A slot that is neither committed nor trying.
    fn astray(&mut self) -> Decision {
        let right = Loader::starts(self.state.committed.slot);
        if self.loader == Some(right) {
            return match self.counts {
                Counts::Device if self.says.tried.is_some() => self.stray(),
                Counts::Device | Counts::Loader => Decision::Repair(Repair::CommittedSlotLost),
            };
        }
        self.set_right(right)
    }

    /// A restart, after the loader was set right. Where it is a file of its own on the disk, the disk may forget that, and keep
    /// the state: so each is counted. At the last one the file is set right all the same, and nothing restarts.
    fn set_right(&mut self, record: Loader) -> Decision {
        let counted = self.counts == Counts::Device;
        let last = counted && self.state.unsettled >= UNSETTLED_MOST;
        if counted && !last {
            self.state.unsettled = self.state.unsettled.saturating_add(1);
            // With what else of the state this boot saves.
            match self.writes.last_mut() {
                Some(Write::State(saved)) => saved.clone_from(&self.state),
                Some(Write::StateBoth(_) | Write::Loader(_)) | None => {
                    self.writes.push(Write::State(self.state.clone()));
                }
            }
        }
        self.tell_loader(record);
        if last {
            Decision::Repair(Repair::RecordUnwritable)
        } else {
            Decision::Reboot
        }
    }

    /// The word of a restart to a try brought this slot, and none is due. The next restart has no word. A firmware that goes
    /// on as if it had would start this slot for ever.
    fn stray(&mut self) -> Decision {
        if self.state.unsettled >= UNSETTLED_MOST {
            return Decision::Repair(Repair::WordStuck);
        }
        self.state.unsettled = self.state.unsettled.saturating_add(1);
        self.writes.push(Write::State(self.state.clone()));
        Decision::Reboot
    }

    fn same_slot(&mut self, trial: Trial) -> Decision {
        if trial.held {
            commit(&mut self.state, &trial);
            return self.committed(Save::Both);
        }
        if trial.waits() {
            return self.committed(Save::Count);
        }
        if self.cause == Cause::Watchdog && trial.starts > 0 {
            let save = self.fail(trial, Reason::Watchdog);
            return self.committed(save);
        }
        let Some(left) = trial.tries_left.checked_sub(1) else {
            let save = self.exhausted(trial, self.cause);
            return self.committed(save);
        };
        self.take(trial, left);
        self.tell_loader(Loader::starts(self.state.committed.slot));
        Decision::Try
    }

    /// A slot trial is pending, and its slot was started.
    fn in_trial_slot(&mut self, trial: Trial) -> Decision {
        if trial.held {
            self.mirror_held(trial.target.slot);
            self.tell_loader(Loader::starts(trial.target.slot));
            commit(&mut self.state, &trial);
            return self.committed(Save::Both);
        }
        match self.counts {
            Counts::Loader => self.armed_by_loader(trial),
            Counts::Device => self.armed_by_restart(trial),
        }
    }

    /// The loader counts: its record says whether this start is a try.
    fn armed_by_loader(&mut self, trial: Trial) -> Decision {
        let armed = match self.loader {
            Some(Loader {
                default,
                trial: Some(armed),
            }) if default == self.state.committed.slot
                && armed.slot == trial.target.slot
                && !trial.waits() =>
            {
                armed
            }
            // Changed by somebody else, or told to start the committed slot.
            Some(_) => return self.astray(),
            // Lost, and started by chance.
            None => {
                self.see_first(trial);
                return self.astray();
            }
        };
        // Without a try left, or if the try could not be taken, the loader starts this slot only because the committed one
        // does not load; or it does not tell what it does. The next start tells.
        let tried = self.says.tried.is_some() || (armed.left > 0 && !self.says.unwritable);
        if !tried {
            let save = self.exhausted(trial, self.cause);
            return self.leave(save);
        }
        if self.cause == Cause::Watchdog && trial.starts > 0 {
            let save = self.fail(trial, Reason::Watchdog);
            return self.leave(save);
        }
        self.take(trial, armed.left);
        Decision::Try
    }

    /// The loader counts nothing: it was this start's try that the committed slot has counted, or it is none. How the last
    /// run ended is not asked: that run was the committed slot's.
    fn armed_by_restart(&mut self, trial: Trial) -> Decision {
        let right = Loader::starts(self.state.committed.slot);
        // Each try that was counted is one start. One that an orderly restart gave back was one, too. (Those of earlier
        // fillings make it two starts too many at most.)
        let counted = trial.tries.saturating_sub(trial.tries_left);
        let made = trial.starts >= counted.saturating_add(trial.give_backs);
        let tried = self.says.tried.is_some() && !trial.waits() && !made;
        if self.loader == Some(right) && tried {
            self.take(trial, trial.tries_left);
            return Decision::Try;
        }
        if self.loader.is_none() {
            self.see_first(trial);
        }
        self.astray()
    }

    /// A slot trial is pending, and the committed slot was started.
    fn not_in_trial_slot(&mut self, trial: Trial) -> Decision {
        let slot = trial.target.slot;
        if trial.held {
            // Set as default already, and yet not started: it no longer loads. Nothing was acknowledged, the floor has
            // not risen: the committed revision is whole.
            if self.loader.is_some_and(|record| record.default == slot) {
                // Unless a word that nobody gave has brought the other one than the default.
                if self.counts == Counts::Device && self.says.tried.is_some() {
                    return self.stray();
                }
                let save = self.fail(trial, Reason::TriesExhausted);
                return self.committed(save);
            }
            match self.counts {
                Counts::Loader => self.mirror_held(slot),
                // The count of this restart brings it to the other copy.
                Counts::Device => {}
            }
            return self.set_right(Loader::starts(slot));
        }
        if trial.waits() {
            return self.committed(Save::Count);
        }
        if self.counts == Counts::Device {
            return self.try_again(trial);
        }
        // While no record was lost and no tries ran out, it is known whether the slot was ever started.
        let unseen = trial.starts == 0 && trial.exhaustions == 0 && self.loader.is_some();
        // Tries that this start has taken.
        let taken = u8::from(!self.says.unwritable);
        let armed = self.loader.and_then(|record| record.trial);
        let save = match armed.filter(|armed| armed.slot == slot) {
            // The first start since it was armed, and the loader started the default.
            Some(Armed {
                left: left @ 1.., ..
            }) if unseen && left.saturating_add(taken) >= trial.tries => {
                self.fail(trial, Reason::NeverBooted)
            }
            Some(Armed { .. }) => self.exhausted(trial, self.cause),
            None if trial.armings < ARMINGS_MOST => return self.arm_again(trial),
            None if unseen => self.fail(trial, Reason::NeverBooted),
            None => self.exhausted(trial, Cause::Unknown),
        };
        self.committed(save)
    }

    /// The loader counts nothing, and its default runs: a try has ended without a verdict, or never began. The next one is
    /// counted here. What blames the trial is believed once its PID 1 was seen: before, the last run may have been that of
    /// the committed slot, on its way to the restart.
    fn try_again(&mut self, trial: Trial) -> Decision {
        let cause = match self.cause {
            Cause::Watchdog | Cause::Panic if trial.starts == 0 => Cause::Unknown,
            cause @ (Cause::Unknown | Cause::Watchdog | Cause::Panic) => cause,
        };
        if cause == Cause::Watchdog {
            let save = self.fail(trial, Reason::Watchdog);
            return self.committed(save);
        }
        let Some(tries_left) = trial.tries_left.checked_sub(1) else {
            let save = self.exhausted(trial, cause);
            return self.committed(save);
        };
        self.state.trial = Some(Trial {
            tries_left,
            ..trial
        });
        self.writes.push(Write::State(self.state.clone()));
        self.tell_loader(Loader::starts(self.state.committed.slot));
        Decision::RebootToTry
    }

    /// Before the commit point of a held trial. A cut may have left `held` in one copy of the state alone: it goes to the other
    /// one first, so that the loss of a copy does not undo what the loader is told next.
    fn mirror_held(&mut self, slot: Slot) {
        if self.loader != Some(Loader::starts(slot)) {
            self.writes.push(Write::State(self.state.clone()));
        }
    }

    /// The record that arms the loader was never written, or is lost.
    fn arm_again(&mut self, mut trial: Trial) -> Decision {
        trial.armings = trial.armings.saturating_add(1);
        trial.tries_left = trial.tries;
        self.state.trial = Some(trial);
        self.writes.push(Write::State(self.state.clone()));
        self.tell_loader(
            Loader::starts(self.state.committed.slot).tries(trial.target.slot, trial.tries),
        );
        Decision::Reboot
    }

    fn take(&mut self, trial: Trial, tries_left: u8) {
        self.see(Trial {
            tries_left,
            ..trial
        });
        self.owed = Owed::Try;
    }

    /// The trial's PID 1 was seen in a start that nobody asked for: nobody may say that it never was.
    fn see_first(&mut self, trial: Trial) {
        if !trial.waits() && trial.starts == 0 {
            self.see(trial);
        }
    }

    /// The trial's PID 1 was seen.
    fn see(&mut self, mut trial: Trial) {
        trial.starts = trial.starts.saturating_add(1);
        self.state.trial = Some(trial);
        self.writes.push(Write::State(self.state.clone()));
    }

    fn leave(&mut self, save: Save) -> Decision {
        self.writes.push(match save {
            Save::Both => Write::StateBoth(self.state.clone()),
            Save::One | Save::Count => Write::State(self.state.clone()),
        });
        self.tell_loader(Loader::starts(self.state.committed.slot));
        Decision::Reboot
    }

    fn fail(&mut self, trial: Trial, reason: Reason) -> Save {
        let target = trial.target;
        self.state.trial = None;
        self.state.failed = Some(Failure { target, reason });
        Save::Both
    }

    /// The tries ran out without a verdict. With evidence that is one; without, the trial waits to be tried again, twice.
    fn exhausted(&mut self, mut trial: Trial, cause: Cause) -> Save {
        trial.exhaustions = trial.exhaustions.saturating_add(1);
        let reason = match cause {
            Cause::Watchdog => Reason::Watchdog,
            Cause::Panic => Reason::KernelPanic,
            Cause::Unknown if trial.exhaustions < EXHAUSTIONS_MOST => {
                trial.armings = 0;
                trial.tries_left = 0;
                self.state.trial = Some(trial);
                return Save::One;
            }
            // PID 1 was seen, and then nothing is known.
            Cause::Unknown if trial.starts > 0 => Reason::PowerCut,
            Cause::Unknown => Reason::TriesExhausted,
        };
        self.fail(trial, reason)
    }

    /// Tells the loader, if it does not know.
    fn tell_loader(&mut self, record: Loader) {
        if self.loader != Some(record) {
            self.loader = Some(record);
            self.writes.push(Write::Loader(record));
        }
    }
}
