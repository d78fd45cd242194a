//! The boot-control machine: what a boot runs, how a trial begins and ends, and what is written for it, in order.
//!
//! ```text
//!               begin                        good (slot: held, the loader's default, commit; else: commit)
//!  ┌─────────┐ ──────────────▶ ┌────────┐ ─────────────────────────────────▶ committed, with a new revision
//!  │committed│                 │ trying │
//!  │         │ ◀────────────── └────────┘
//!  └─────────┘  bad: failed      │    ▲
//!    │     ▲                     │    │ retry, after a back-off
//!    │     │                     ▼    │
//!    │     │                   ┌─────────┐ the tries ran out and nothing says why: the committed revision runs;
//!    │     │                   │ waiting │ the third time it has failed
//!    │     │                   └─────────┘
//!    │     │ repaired, an hour later
//!    ▼     │
//!  ┌─────────┐ eight boots of the committed revision in a row did not settle,
//!  │ repair  │ or the loader could not start the committed slot, or starts the other one as a try, again and again
//!  └─────────┘
//! ```
//!
//! - A trial of another *slot* is counted by the loader: it takes a try off before it starts the slot. A trial in the
//!   *same slot* is counted here: the try is taken before anything is mounted.
//! - A loader that counts nothing ([`Counts::Device`]) starts the other slot once, if it is told so by the restart itself.
//!   Then the committed slot counts the try, before that restart ([`Control::restarts_to_try`]), and where the trial comes back
//!   without a verdict it makes the next one ([`Decision::RebootToTry`]).
//! - The commit point of a slot trial is the loader's default, that of a same-slot trial the state record. A state
//!   that says `held` was cut short on the way, and is completed by [`Control::boot`].
//! - What ends a trial or raises the floor is written to both copies of the state, before the loader is told.
//! - A boot of a slot that is neither committed nor trying ends in [`Decision::Reboot`], after the loader was set right.
//!   If the loader is right already, the committed slot does not load, and repair mode comes instead of a loop.
//!
//! - No row of boots and crashes goes on for ever: each fills a count that ends in repair mode, or in a failed trial.
//!
//! - A slot is written only where [`Control::admits`] says so. Where it is not certain which slot the loader starts, since a
//!   write of its record or of a trial's end has failed, none is, before a restart has found out.
//!
//! It is pure: it answers with [`Write`]s, which [`crate::bootenv::Bootenv::perform`] does. Whoever performs them stops
//! at the first that fails; at a boot, [`Control::unwritable`] says what happens then, and at a commit
//! [`Control::not_committed`]: it is a power cut at that write, after which the disk decides, for every loader. It judges
//! nothing, verifies nothing, and writes no slot: what it is told to begin is complete on disk, read back, and never the
//! committed slot.
//!
//! `tests/model` explores it together with the loaders and with every power cut.

mod backend;
mod boot;
mod unwritten;

pub use backend::{Backend, Counts, Direct, LoaderSays, Tryboot, UBoot, Uefi};

use crate::record::loader::Armed;
use crate::record::{Failure, Hub, Loader, Reason, Slot, State, Target, Trial};
use core::fmt;
use kedge_revision::Floor;
use unwritten::Barred;

/// Boots of the committed revision in a row that may fail to settle; the next one is repair mode.
pub const UNSETTLED_MOST: u32 = 8;
/// The committed slot is written anew at most so often before the device settles, or has been in repair mode for an hour.
pub const MENDS_MOST: u32 = 2;
/// How often the loader is armed for one filling of the tries: its record may be lost or not written.
pub const ARMINGS_MOST: u8 = 3;
/// How often tries may run out without a verdict.
pub const EXHAUSTIONS_MOST: u8 = 3;
/// How often an orderly reboot gives its try back.
pub const GIVE_BACKS_MOST: u8 = 2;
/// The loader record has one digit for the tries.
const TRIES_MOST: u8 = 9;

/// Why the last run ended, as far as there is evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Nothing says: a power cut, a reboot, or a crash that left no trace.
    Unknown,
    /// The hardware watchdog reset the device.
    Watchdog,
    /// The kernel panicked.
    Panic,
}

/// What a boot finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The loader record that counts; none if both copies are lost.
    pub loader: Option<Loader>,
    /// Whether both loader copies are whole and equal.
    pub mirrored: bool,
    /// The state that counts; none if both copies are lost.
    pub state: Option<State>,
    /// The slot that was started.
    pub slot: Slot,
    /// Why the last run ended.
    pub cause: Cause,
    /// What the loader said on the kernel's command line, or in the device tree.
    pub says: LoaderSays,
    /// Who counts the tries of another slot.
    pub counts: Counts,
}

/// A change of the boot record. They are performed in order, and each is on disk before the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Both copies of the loader record, one after the other.
    Loader(Loader),
    /// The copy of the state that does not count now.
    State(State),
    /// Both copies of the state, one after the other.
    StateBoth(State),
}

/// What a boot does, after its writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Run the committed revision.
    Committed,
    /// Run the trial's revision.
    Try,
    /// Run PID 1 and its helpers only.
    Repair(Repair),
    /// Restart: nothing may run from the slot that was started.
    Reboot,
    /// Restart into the trial's slot, once: its try is counted.
    RebootToTry,
}

/// Why a boot is in repair mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Repair {
    /// Too many boots in a row did not hold their goals.
    Unsettled,
    /// The loader was told to start the committed slot, and started the other one.
    CommittedSlotLost,
    /// The boot record takes no writes, and what was to run relies on them.
    RecordUnwritable,
    /// Nobody asks for a try, and the firmware makes one at each start.
    WordStuck,
}

/// What runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Running {
    /// The committed revision.
    Committed,
    /// The trial's.
    Trial,
    /// Neither: repair mode.
    Repair,
}

/// How a trial begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum How {
    /// In the slot that runs, now: only containers differ that may be restarted.
    Live,
    /// In the slot that runs, after a reboot.
    Reboot,
    /// In the other slot, which was written and read back.
    Slot,
}

/// What to do after the writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Next {
    /// Nothing: what runs goes on.
    GoOn,
    /// Replace the containers that differ by the trial's.
    RunTrialLive,
    /// Replace them by the committed revision's again.
    UndoLive,
    /// Restart.
    Reboot,
}

/// Both copies of the state are lost. It is made anew from the store first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateLost;

/// Why no trial begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    /// One is pending, or has just ended and the device restarts.
    Trial,
    /// The device is in repair mode.
    Repair,
    /// The boot record was not written: which slot the loader starts is not certain before a restart.
    Record,
    /// A slot trial that names the committed slot, or another one that does not.
    Slot,
}

impl fmt::Display for StateLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("both copies of the state record are lost")
    }
}

impl std::error::Error for StateLost {}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trial => "a trial is pending",
            Self::Repair => "the device is in repair mode",
            Self::Record => "the boot record could not be written: a restart comes first",
            Self::Slot => "the trial names the wrong slot",
        })
    }
}

impl std::error::Error for Busy {}

/// What an orderly restart gives back, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Owed {
    Nothing,
    /// The try that this boot has taken.
    Try,
    /// This boot's place in `unsettled`.
    Count,
}

/// What ends a repair, beside an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Mends {
    Nothing,
    /// An update.
    Update,
    /// The committed slot, written anew.
    Slot,
}

/// What PID 1 holds of the boot record, and what may happen next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    state: State,
    loader: Loader,
    run: Run,
    counts: Counts,
}

/// What a restart forgets. It says nothing but whether two runs can go on differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    running: Running,
    /// The trial was begun in this boot, without a restart.
    live: bool,
    owed: Owed,
    /// The slot or the revision that runs is given up: only a restart is left.
    leaving: bool,
    mends: Mends,
    /// The next restart is a try.
    to_try: bool,
    barred: Barred,
}

impl Run {
    fn of(decision: Decision, owed: Owed) -> Self {
        Self {
            running: match decision {
                Decision::Committed | Decision::Reboot | Decision::RebootToTry => {
                    Running::Committed
                }
                Decision::Try => Running::Trial,
                Decision::Repair(_) => Running::Repair,
            },
            live: false,
            owed,
            leaving: matches!(decision, Decision::Reboot | Decision::RebootToTry),
            mends: match decision {
                Decision::Repair(Repair::Unsettled) => Mends::Update,
                Decision::Repair(Repair::CommittedSlotLost) => Mends::Slot,
                Decision::Repair(Repair::RecordUnwritable | Repair::WordStuck)
                | Decision::Committed
                | Decision::Try
                | Decision::Reboot
                | Decision::RebootToTry => Mends::Nothing,
            },
            to_try: decision == Decision::RebootToTry,
            barred: Barred::Nothing,
        }
    }
}

impl Control {
    /// Decides what this boot runs. The writes come first, before anything is mounted.
    ///
    /// # Errors
    /// [`StateLost`]: make the state anew and ask again.
    pub fn boot(found: Found) -> Result<(Self, Vec<Write>, Decision), StateLost> {
        boot::decide(found)
    }

    /// What is remembered.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// What the loader will find.
    #[must_use]
    pub const fn loader(&self) -> Loader {
        self.loader
    }

    /// What runs.
    #[must_use]
    pub const fn running(&self) -> Running {
        self.run.running
    }

    /// What a restart forgets.
    #[must_use]
    pub const fn run(&self) -> Run {
        self.run
    }

    /// Whether the restart that follows is a try, counted already: it has to bring the word that the loader starts the other
    /// slot by.
    #[must_use]
    pub const fn restarts_to_try(&self) -> bool {
        self.run.to_try
    }

    /// Whether a trial may begin in `slot`. It is asked before that slot is written, too: in repair mode the other slot may
    /// be the only one that starts, and after a failed write the one that the loader starts.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn admits(&self, slot: Slot, how: How) -> Result<(), Busy> {
        match (self.run.barred, how) {
            (Barred::All, _) | (Barred::Slots, How::Slot) => return Err(Busy::Record),
            (Barred::Slots, How::Live | How::Reboot) | (Barred::Nothing, _) => {}
        }
        if self.state.trial.is_some() || self.run.leaving {
            return Err(Busy::Trial);
        }
        // An update is what mends a device that does not settle. Where the committed slot is lost, or the record cannot be
        // written, none can be tried.
        let mends = self.run.mends == Mends::Update && how != How::Live;
        if self.run.running == Running::Repair && !mends {
            return Err(Busy::Repair);
        }
        let elsewhere = slot != self.state.committed.slot;
        if elsewhere != (how == How::Slot) {
            return Err(Busy::Slot);
        }
        Ok(())
    }

    /// Begins a trial of `target`, which is complete on disk, its slot too. `tries` is held to 1 to 9.
    /// `hub` is kept with it, for the judge of a later boot.
    ///
    /// # Errors
    /// [`Busy`], as [`Control::admits`] says.
    pub fn begin(
        &mut self,
        target: Target,
        tries: u8,
        how: How,
        hub: Hub,
    ) -> Result<(Vec<Write>, Next), Busy> {
        self.admits(target.slot, how)?;
        let tries = tries.clamp(1, TRIES_MOST);
        let mut trial = Trial {
            target,
            tries_left: tries,
            armings: 1,
            give_backs: 0,
            exhaustions: 0,
            held: false,
            hub,
            starts: 0,
            tries,
            floor: Floor::default(),
            root_version: 0,
        };
        Ok(match how {
            How::Live => {
                trial.tries_left = tries.saturating_sub(1);
                trial.starts = 1;
                self.state.trial = Some(trial);
                self.run.running = Running::Trial;
                self.run.live = true;
                self.run.owed = Owed::Try;
                (vec![Write::State(self.state.clone())], Next::RunTrialLive)
            }
            How::Reboot | How::Slot => (self.fill(trial), Next::Reboot),
        })
    }

    /// The verdict on the running trial is good: it is committed. `floor` and `root_version` are the revision's own;
    /// neither ever falls. Nothing is written if no trial runs.
    pub fn good(&mut self, floor: Floor, root_version: u32) -> Vec<Write> {
        let (Running::Trial, Some(mut trial)) = (self.run.running, self.state.trial) else {
            return Vec::new();
        };
        trial.held = true;
        trial.floor = self.state.floor.max(floor);
        trial.root_version = self.state.root_version.max(root_version);
        let mut writes = Vec::new();
        if trial.target.slot != self.state.committed.slot {
            self.state.trial = Some(trial);
            // Nor is anything left of older counts.
            self.state.unsettled = 0;
            writes.push(Write::StateBoth(self.state.clone()));
            self.tell_loader(Loader::starts(trial.target.slot), &mut writes);
        }
        commit(&mut self.state, &trial);
        writes.push(Write::StateBoth(self.state.clone()));
        self.run.running = Running::Committed;
        self.run.live = false;
        self.run.owed = Owed::Nothing;
        writes
    }

    /// The pending trial has failed, whether or not it runs. Nothing is written if none is pending.
    pub fn bad(&mut self, reason: Reason) -> (Vec<Write>, Next) {
        let Some(trial) = self.state.trial.take() else {
            return (Vec::new(), Next::GoOn);
        };
        let target = trial.target;
        self.state.failed = Some(Failure { target, reason });
        self.run.to_try = false;
        let mut writes = vec![Write::StateBoth(self.state.clone())];
        self.tell_loader(Loader::starts(self.state.committed.slot), &mut writes);
        let next = match self.run.running {
            Running::Trial if self.run.live => {
                self.run.running = Running::Committed;
                Next::UndoLive
            }
            Running::Trial => {
                self.run.leaving = true;
                Next::Reboot
            }
            Running::Committed | Running::Repair => Next::GoOn,
        };
        self.run.live = false;
        if self.run.owed == Owed::Try {
            self.run.owed = Owed::Nothing;
        }
        (writes, next)
    }

    /// A person asked for a restart or for power-off: what this boot has taken is given back.
    pub fn orderly(&mut self) -> Vec<Write> {
        let owed = core::mem::replace(&mut self.run.owed, Owed::Nothing);
        let mut writes = Vec::new();
        match (owed, &mut self.state.trial) {
            (Owed::Try, Some(trial)) if trial.give_backs < GIVE_BACKS_MOST => {
                trial.give_backs = trial.give_backs.saturating_add(1);
                trial.tries_left = trial.tries_left.saturating_add(1).min(TRIES_MOST);
                let left = trial.tries_left;
                writes.push(Write::State(self.state.clone()));
                if let Some(armed) = self.loader.trial {
                    let trial = Some(Armed { left, ..armed });
                    let record = Loader {
                        trial,
                        ..self.loader
                    };
                    self.tell_loader(record, &mut writes);
                }
            }
            (Owed::Count, _) => {
                self.state.unsettled = self.state.unsettled.saturating_sub(1);
                writes.push(Write::State(self.state.clone()));
            }
            (Owed::Try | Owed::Nothing, _) => {}
        }
        writes
    }

    /// The committed revision has held its goals for the window.
    pub fn settled(&mut self) -> Vec<Write> {
        // A commit that was not written must not come to the disk by the way.
        if self.run.running != Running::Committed || self.run.barred == Barred::All {
            return Vec::new();
        }
        self.clear_counts(true)
    }

    /// Whether the committed slot may be written anew, from what the store has of the committed revision: nothing loads it, and
    /// the other slot runs. The writes come first: they count it, so that a slot that never keeps what is written ends in repair
    /// mode. Once it is written and read back, a restart follows.
    pub fn mend_slot(&mut self) -> Option<Vec<Write>> {
        let lost = self.run.mends == Mends::Slot && self.run.barred == Barred::Nothing;
        if !lost || self.run.leaving || self.state.unsettled >= MENDS_MOST {
            return None;
        }
        self.run.mends = Mends::Nothing;
        self.state.unsettled = self.state.unsettled.saturating_add(1);
        Some(vec![Write::State(self.state.clone())])
    }

    /// An hour of repair mode is over: the committed revision is due again, after a restart.
    pub fn repaired(&mut self) -> Vec<Write> {
        // What could not be written at the boot must not come to the disk by the way.
        if self.run.barred == Barred::All {
            return Vec::new();
        }
        self.clear_counts(false)
    }

    /// How often the tries of the waiting trial ran out; none if no trial waits. The caller knows how long to wait for it.
    #[must_use]
    pub fn retry_due(&self) -> Option<u8> {
        let trial = self.state.trial.filter(Trial::waits)?;
        (self.run.running == Running::Committed && !self.run.leaving).then_some(trial.exhaustions)
    }

    /// The waiting trial is tried again.
    pub fn retry(&mut self) -> (Vec<Write>, Next) {
        match (self.retry_due(), self.state.trial) {
            (Some(_), Some(mut trial)) => {
                trial.armings = 1;
                trial.starts = 0;
                trial.tries_left = trial.tries;
                (self.fill(trial), Next::Reboot)
            }
            (Some(_) | None, _) => (Vec::new(), Next::GoOn),
        }
    }

    /// The tries of `trial` are full, and the loader is armed if it counts them: the arming is counted first. If it does
    /// not, the restart that comes is the first try.
    fn fill(&mut self, mut trial: Trial) -> Vec<Write> {
        let Target { slot, .. } = trial.target;
        let elsewhere = slot != self.state.committed.slot;
        self.run.to_try = elsewhere && self.counts == Counts::Device;
        if self.run.to_try {
            trial.tries_left = trial.tries_left.saturating_sub(1);
        }
        self.state.trial = Some(trial);
        let mut writes = vec![Write::State(self.state.clone())];
        if elsewhere && self.counts == Counts::Loader {
            let record = Loader::starts(self.state.committed.slot).tries(slot, trial.tries_left);
            self.tell_loader(record, &mut writes);
        }
        writes
    }

    fn tell_loader(&mut self, record: Loader, writes: &mut Vec<Write>) {
        if self.loader != record {
            self.loader = record;
            writes.push(Write::Loader(record));
        }
    }

    fn clear_counts(&mut self, resets_too: bool) -> Vec<Write> {
        let before = (self.state.unsettled, self.state.watchdog_resets);
        self.state.unsettled = 0;
        if resets_too {
            self.state.watchdog_resets = 0;
        }
        if self.run.owed == Owed::Count {
            self.run.owed = Owed::Nothing;
        }
        if before == (self.state.unsettled, self.state.watchdog_resets) {
            return Vec::new();
        }
        vec![Write::State(self.state.clone())]
    }
}

/// The trial becomes what is committed. It has held its goals: nothing is left of older counts.
fn commit(state: &mut State, trial: &Trial) {
    state.committed = trial.target;
    state.trial = None;
    state.floor = state.floor.max(trial.floor);
    state.root_version = state.root_version.max(trial.root_version);
    state.unsettled = 0;
    state.watchdog_resets = 0;
    // Of this revision with other values, say: a failure of what is committed now would have its volumes brought back.
    let failed = &mut state.failed;
    failed.take_if(|failed| failed.target.revision == trial.target.revision);
}

#[cfg(test)]
mod once;
#[cfg(test)]
mod tests;
