//! Writes that failed: what runs then, and what may not begin before a restart has found out what is on the disk.
//!
//! | failed | then |
//! |---|---|
//! | the writes of a boot | [`Control::unwritable`] says what runs instead |
//! | those of a commit | only the restart is left: [`Control::not_committed`] |
//! | any other | what runs goes on, and the other slot is left alone: [`Control::not_written`] |

use super::{Control, Decision, Next, Owed, Repair, Run, Write};
use crate::record::Trial;

/// What may not begin before a restart, since writes of the boot record have failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Barred {
    /// All may.
    Nothing,
    /// What is tried in the other slot: the loader may start that one.
    Slots,
    /// Anything: what is committed is not certain.
    All,
}

impl Control {
    /// These writes of this boot failed, or were not reached: what runs instead of `decision`. A try that is not counted and
    /// a restart that changes nothing would go on for ever. What may be on the disk all the same, or may not, bars what
    /// relies on it.
    pub fn unwritable(&mut self, decision: Decision, writes: &[Write]) -> Decision {
        let ended = |write: &Write| matches!(write, Write::StateBoth(_));
        let told = |write: &Write| matches!(write, Write::Loader(_));
        let slot = self.state.committed.slot;
        let here = |trial: Trial| trial.target.slot == slot;
        let decision = match decision {
            Decision::Try if self.state.trial.is_some_and(here) => Decision::Committed,
            // The slot that runs is the committed one.
            Decision::RebootToTry => Decision::Committed,
            Decision::Try | Decision::Reboot => Decision::Repair(Repair::RecordUnwritable),
            Decision::Committed | Decision::Repair(_) => decision,
        };
        self.run = Run::of(decision, Owed::Nothing);
        self.run.barred = if writes.iter().any(ended) {
            Barred::All
        } else if writes.iter().any(told) {
            Barred::Slots
        } else {
            Barred::Nothing
        };
        decision
    }

    /// The writes of [`Control::good`] failed. The disk is as a power cut there would have left it, and decides at the next
    /// boot, as after one: a trial that is held on it is completed, any other has had its try. Only the restart is left.
    pub fn not_committed(&mut self) -> Next {
        self.run.barred = Barred::All;
        Next::Reboot
    }

    /// Other writes failed: what they tell the loader may be on the disk or not, and it may start the other slot. That one
    /// is left as it is until a restart has looked.
    pub fn not_written(&mut self) {
        match self.run.barred {
            Barred::Nothing => self.run.barred = Barred::Slots,
            Barred::Slots | Barred::All => {}
        }
    }

    /// Whether updates wait for a restart, since writes of the boot record have failed.
    #[must_use]
    pub const fn is_barred(&self) -> bool {
        match self.run.barred {
            Barred::Nothing => false,
            Barred::Slots | Barred::All => true,
        }
    }
}
