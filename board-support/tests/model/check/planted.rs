//! Faults that are planted on purpose: a check that does not find them proves nothing.

use super::disk::Op;
use kedge_board_support::bootenv::Side;
use kedge_board_support::control::Write;
use kedge_board_support::record::{Loader, State};

/// A row of writes, by what caused it and by what it consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub event: &'static str,
    /// `l` loader, `s` state, `b` state to both copies; zeros after the last.
    pub shape: [u8; 4],
}

impl Place {
    pub(crate) fn of(event: &'static str, writes: &[Write]) -> Self {
        let mut shape = [0; 4];
        for (to, write) in shape.iter_mut().zip(writes) {
            *to = match write {
                Write::Loader(_) => b'l',
                Write::State(_) => b's',
                Write::StateBoth(_) => b'b',
            };
        }
        Self { event, shape }
    }

    pub(crate) fn writes(self) -> u8 {
        let count = self.shape.iter().filter(|write| **write != 0).count();
        u8::try_from(count).unwrap()
    }
}

/// What is wrong in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    /// Nothing.
    Nothing,
    /// A flush does nothing.
    NoFlush(Place, u8),
    /// A write is done after the one that should follow it.
    Swapped(Place, u8),
    /// A write is not done.
    NoWrite(Place, u8),
    /// The rules themselves are wrong.
    Logic(Logic),
}

/// Faults of logic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logic {
    /// PID 1 leaves two loader copies that differ.
    NotMirrored,
    /// Of the loader record only the first copy is written.
    OneLoaderCopy,
    /// What goes to both copies of the state goes to one.
    OneStateCopy,
    /// The copy of the state that counts is written over.
    OverNewest,
    /// A slot is armed without having been read back.
    NoReadBack,
    /// A slot is armed while it is still on its way to the disk.
    NoSlotFlush,
    /// The committed slot is the one that is staged.
    StagedOverCommitted,
    /// A same-slot try is taken after the trial's containers were mounted and run.
    MountedFirst,
    /// The loader takes a try after the slot was started.
    StartedFirst,
    /// The loader writes the first copy first, also when it is the only whole one.
    FirstCopyFirst,
    /// An arming is not counted.
    ArmingNotCounted,
    /// The starts of the trial's PID 1 are not counted.
    StartsNotCounted,
    /// Exhaustions are not counted.
    ExhaustionsNotCounted,
    /// What is given back is not counted.
    GiveBacksNotCounted,
    /// A try that is given back comes back twice.
    GivenBackTwice,
    /// Boots that did not settle are not counted.
    UnsettledNotCounted,
    /// The floor rises with the good verdict, before the commit.
    FloorEarly,
    /// The floor that a cut commit brings is not remembered.
    FloorForgotten,
    /// A commit lowers the floor to the revision's own.
    FloorFalls,
    /// The trial's end is written, its failure is not.
    FailureForgotten,
    /// A failed trial stays in the state.
    TrialKept,
    /// A try that PID 1 counts before a restart is not counted.
    TryNotCounted,
    /// The restart to a try is an ordinary one.
    WordForgotten,
    /// A trial is armed by making its slot the default.
    ArmedByDefault,
    /// A start by a word that nobody gave is not counted.
    StrayNotCounted,
    /// A commit whose writes have failed is believed.
    FailedCommitBelieved,
}

impl Logic {
    /// Those that a loader with a record can have, or those of one that counts nothing.
    pub(crate) fn all(counts_itself: bool) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |logic| match logic {
            // There are no two copies, no loader that writes, and no armings but tries.
            Self::NotMirrored
            | Self::OneLoaderCopy
            | Self::FirstCopyFirst
            | Self::ArmingNotCounted => !counts_itself,
            Self::TryNotCounted
            | Self::WordForgotten
            | Self::ArmedByDefault
            | Self::StrayNotCounted => counts_itself,
            _ => true,
        })
    }

    const ALL: [Self; 26] = [
        Self::NotMirrored,
        Self::OneLoaderCopy,
        Self::OneStateCopy,
        Self::OverNewest,
        Self::NoReadBack,
        Self::NoSlotFlush,
        Self::StagedOverCommitted,
        Self::MountedFirst,
        Self::StartedFirst,
        Self::FirstCopyFirst,
        Self::ArmingNotCounted,
        Self::StartsNotCounted,
        Self::ExhaustionsNotCounted,
        Self::GiveBacksNotCounted,
        Self::GivenBackTwice,
        Self::UnsettledNotCounted,
        Self::FloorEarly,
        Self::FloorForgotten,
        Self::FloorFalls,
        Self::FailureForgotten,
        Self::TrialKept,
        Self::TryNotCounted,
        Self::WordForgotten,
        Self::ArmedByDefault,
        Self::StrayNotCounted,
        Self::FailedCommitBelieved,
    ];
}

impl Planted {
    pub(crate) fn is(self, logic: Logic) -> bool {
        self == Self::Logic(logic)
    }

    /// The writes as the fault lets them be.
    pub(crate) fn writes(self, place: Place, before: Option<&State>, writes: &mut Vec<Write>) {
        match self {
            Self::Swapped(at, first) if at == place => {
                writes.swap(usize::from(first), usize::from(first) + 1);
            }
            Self::NoWrite(at, which) if at == place => {
                writes.remove(usize::from(which));
            }
            Self::Logic(Logic::ArmedByDefault) if place.event == "begin in slot" => {
                let slot = before.map(|state| state.committed.slot.other());
                writes.extend(slot.map(|slot| Write::Loader(Loader::starts(slot))));
            }
            Self::Logic(logic) => {
                let mut last = before.cloned();
                for write in writes {
                    match write {
                        Write::State(state) | Write::StateBoth(state) => {
                            if let Some(last) = &last {
                                wrong(logic, place, last, state);
                            }
                            last = Some(state.clone());
                        }
                        Write::Loader(record) => {
                            if let (Logic::GivenBackTwice, "orderly", Some(armed)) =
                                (logic, place.event, &mut record.trial)
                            {
                                armed.left += 1;
                            }
                        }
                    }
                }
            }
            Self::Nothing | Self::NoFlush(..) | Self::Swapped(..) | Self::NoWrite(..) => {}
        }
    }

    /// What reaches the disk as the fault lets it be.
    pub(crate) fn ops(self, place: Place, ops: &mut Vec<Op>) {
        match self {
            Self::NoFlush(at, which) if at == place => {
                let mut flushes = 0_u8;
                ops.retain(|op| {
                    let hit = *op == Op::Flush && flushes == which;
                    flushes += u8::from(*op == Op::Flush);
                    !hit
                });
            }
            Self::Logic(Logic::OneLoaderCopy) => {
                ops.retain(|op| !matches!(op, Op::Loader(Side::Second, _)));
            }
            Self::Logic(Logic::OneStateCopy) => {
                let mut last = 0;
                ops.retain(|op| match op {
                    Op::State(_, state) => {
                        core::mem::replace(&mut last, state.sequence) != state.sequence
                    }
                    Op::Loader(..) | Op::Autoboot(_) | Op::Slot(..) | Op::Flush => true,
                });
            }
            Self::Logic(Logic::OverNewest) => {
                for op in ops {
                    if let Op::State(side, _) = op {
                        *side = side.other();
                    }
                }
            }
            Self::Nothing
            | Self::NoFlush(..)
            | Self::Swapped(..)
            | Self::NoWrite(..)
            | Self::Logic(_) => {}
        }
    }
}

/// Makes `state`, which is written after `last`, wrong.
fn wrong(logic: Logic, place: Place, last: &State, state: &mut State) {
    if logic == Logic::UnsettledNotCounted && state.unsettled > last.unsettled {
        state.unsettled = last.unsettled;
    }
    if logic == Logic::StrayNotCounted && place.event == "boot: restart" {
        state.unsettled = last.unsettled;
    }
    let ended = last.trial.is_some() && state.trial.is_none();
    let committed = last.committed != state.committed;
    match logic {
        Logic::FailureForgotten if ended => state.failed.clone_from(&last.failed),
        Logic::TrialKept if ended && !committed => state.trial = last.trial,
        Logic::FloorFalls if committed => {
            state.floor = super::node::floor(super::node::number(&state.committed));
        }
        _ => {}
    }
    let (Some(before), Some(after)) = (&last.trial, &mut state.trial) else {
        return;
    };
    match logic {
        Logic::ArmingNotCounted if place.event.starts_with("boot") && !before.waits() => {
            after.armings = before.armings;
        }
        Logic::StartsNotCounted => after.starts = before.starts,
        Logic::ExhaustionsNotCounted => after.exhaustions = before.exhaustions,
        Logic::GiveBacksNotCounted => after.give_backs = before.give_backs,
        Logic::TryNotCounted if after.tries_left < before.tries_left => {
            after.tries_left = before.tries_left;
        }
        Logic::GivenBackTwice if place.event == "orderly" => after.tries_left += 1,
        Logic::FloorEarly if after.held => state.floor = after.floor,
        Logic::FloorForgotten if after.held => after.floor = last.floor,
        _ => {}
    }
}
