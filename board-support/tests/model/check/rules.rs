//! The invariants, and what an observer concludes from two pictures of the disk.

use super::disk::Disk;
use super::node::{Extra, Ghost, Watch, bit, number, root_version};
use kedge_board_support::control::{
    ARMINGS_MOST, Cause, Decision, EXHAUSTIONS_MOST, GIVE_BACKS_MOST, Repair, UNSETTLED_MOST,
};
use kedge_board_support::record::loader::Armed;
use kedge_board_support::record::{Loader, Reason, Slot, State, Trial};

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Invariant {
    /// Something that can be repaired over the network always starts.
    SomethingStarts,
    /// No endless loop of boots and crashes without repair mode in it.
    NoLoop,
    /// Repair mode comes only for its reasons.
    RepairForAReason,
    /// The committed slot is never written, and holds what was committed.
    CommittedSlotWhole,
    /// The committed revision is never older than the last acknowledged commit.
    CommittedNotOlder,
    /// Only a good verdict commits.
    CommittedIsGood,
    /// From the commit point on, the device ends committed.
    CommitPointHolds,
    /// The floor and the root rise with a commit, only then, and never fall.
    FloorRisesAtCommit,
    /// What failed does not run again.
    FailedStaysDown,
    /// A trial takes no more tries than it has, and those that were given back.
    TriesBounded,
    /// Tries run out only after they were taken: it counts its own failed boots.
    TriesRunOutHonestly,
    /// One cut alone neither fails nor exhausts a trial.
    OneCutIsForgiven,
    /// The loader is not disarmed while the trial goes on.
    VerdictBeforeDisarm,
    /// A loader is not armed more often than was counted.
    ArmingsCounted,
    /// Tries are given back at most twice.
    GiveBacksBounded,
    /// What is armed is whole on disk.
    ArmedIsWhole,
    /// A loader starts nothing that the state does not name.
    StartedIsNamed,
    /// Each revision runs from its own slot, on its own kernel.
    OwnSlot,
    /// The reason that is reported is what happened.
    ReasonIsTrue,
    /// A trial whose begin was acknowledged ends in a commit or in a failure that is kept.
    TrialNotForgotten,
    /// After a boot both loader copies are whole and equal.
    Mirrored,
    /// At any cut a copy of each record is whole, if one was before.
    OneCopyWhole,
    /// What was performed is on disk before the next write.
    PerformedIsDurable,
    /// What the machine believes is what the disk says.
    BelievedIsOnDisk,
}

impl Invariant {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::BelievedIsOnDisk as usize + 1;
}

/// One that did not hold.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub invariant: Invariant,
    pub detail: String,
}

pub(crate) type Checked<T> = Result<T, Violation>;

pub(crate) fn require(
    holds: bool,
    invariant: Invariant,
    detail: impl FnOnce() -> String,
) -> Checked<()> {
    if holds {
        return Ok(());
    }
    Err(Violation {
        invariant,
        detail: detail(),
    })
}

/// The trial that the loader is armed for, if the state knows it.
fn pending(disk: &Disk) -> Option<(&State, Trial)> {
    let state = disk.newest()?;
    Some((state, state.trial?))
}

fn armed(disk: &Disk, slot: Slot) -> Option<Armed> {
    disk.record()?.trial.filter(|armed| armed.slot == slot)
}

/// Which failure both copies of the state remember.
fn observe_failure(after: &Disk, ghost: &mut Ghost) {
    let Some(failed) = after.newest().and_then(|state| state.failed.as_ref()) else {
        return;
    };
    let kept = after.state.iter().all(|copy| {
        copy.as_ref()
            .is_some_and(|copy| copy.state.failed.as_ref() == Some(failed))
    });
    if kept {
        ghost.dead |= bit(number(&failed.target));
    }
}

/// Learns what has happened to the trial from the disk before and after.
pub(crate) fn observe(before: &Disk, after: &Disk, ghost: &mut Ghost) {
    let none = after
        .state
        .iter()
        .flatten()
        .all(|copy| copy.state.trial.is_none());
    if none {
        ghost.trial = Watch::default();
    }
    observe_failure(after, ghost);
    let Some((_, trial)) = pending(after) else {
        return;
    };
    let revision = number(&trial.target);
    let old = pending(before)
        .map(|(_, old)| old)
        .filter(|old| old.target == trial.target);
    if ghost.trial.revision != revision {
        ghost.trial = Watch {
            revision,
            ..Watch::default()
        };
    }
    let watch = &mut ghost.trial;
    let filled = old.is_some_and(|old| old.waits() && !trial.waits());
    if filled {
        (watch.taken, watch.armed, watch.back, watch.seen) = (0, 0, 0, false);
    }
    let let_wait = trial.waits() && !old.is_none_or(|old| old.waits());
    watch.waited = watch
        .waited
        .saturating_add(u8::from(let_wait))
        .min(EXHAUSTIONS_MOST);
    let mut gave = 0;
    let starts = old.map_or(0, |old| if filled { 0 } else { old.starts });
    watch.seen |= trial.starts > starts;
    let in_slot = ghost.kernels[usize::from(revision)] == revision;
    if in_slot {
        let slot = trial.target.slot;
        if ghost.counts_itself {
            // By the state alone. Whatever fills the tries takes the first one.
            match old.filter(|_| !filled).map(|old| old.tries_left) {
                Some(old) if !trial.waits() => {
                    watch.taken += old.saturating_sub(trial.tries_left);
                    gave = trial.tries_left.saturating_sub(old);
                }
                Some(_) => {}
                None => watch.taken += trial.tries - trial.tries_left,
            }
        }
        match (armed(before, slot), armed(after, slot)) {
            (Some(old), Some(new)) if new.left < old.left => watch.taken += old.left - new.left,
            (Some(old), Some(new)) => gave = new.left - old.left,
            (None, Some(_)) => watch.armed += 1,
            (_, None) => {}
        }
        let default = after.record().map(|record| record.default);
        let good = trial.held || ghost.good & bit(revision) != 0;
        watch.point |= good && default == Some(slot);
    } else {
        watch.taken += trial.starts.saturating_sub(starts);
        if let Some(old) = old.filter(|old| !filled && trial.starts == old.starts && !trial.waits())
        {
            gave = trial.tries_left.saturating_sub(old.tries_left);
        }
    }
    watch.gave += gave;
    watch.back += gave;
}

/// Whether PID 1 would make this loader record anew from the state alone.
fn follows(disk: &Disk, record: Loader) -> bool {
    disk.newest().is_some_and(|state| {
        let held = state.trial.filter(|trial| trial.held);
        let slots = [
            Some(state.committed.slot),
            held.map(|trial| trial.target.slot),
        ];
        slots
            .into_iter()
            .flatten()
            .map(Loader::starts)
            .any(|follows| follows == record)
    })
}

/// Whatever a cut or a write has left. `writing`: what was being written at that instant where there is one copy of the loader
/// record. Then alone it may be lost, and only if it follows from the state.
pub(crate) fn judge(
    before: &Disk,
    after: &Disk,
    ghost: &Ghost,
    writing: Option<Loader>,
) -> Checked<()> {
    let whole = |old: bool, new: bool| !old || new;
    let excused = writing.is_some_and(|record| follows(after, record));
    require(
        (excused || whole(before.record().is_some(), after.record().is_some()))
            && whole(before.newest().is_some(), after.newest().is_some()),
        Invariant::OneCopyWhole,
        || format!("{after:?}"),
    )?;
    let Some(state) = after.newest() else {
        return Ok(());
    };
    let committed = number(&state.committed);
    require(
        committed >= ghost.acked,
        Invariant::CommittedNotOlder,
        || format!("{committed} after {}", ghost.acked),
    )?;
    let good = committed == ghost.acked || ghost.good & bit(committed) != 0;
    require(good, Invariant::CommittedIsGood, || format!("{committed}"))?;
    let floor = if committed == ghost.acked {
        ghost.floor
    } else {
        ghost.floor_with(committed)
    };
    require(
        (state.floor.counter, state.root_version) == (floor, root_version(committed)),
        Invariant::FloorRisesAtCommit,
        || format!("{:?} {} for {committed}", state.floor, state.root_version),
    )?;
    require(
        matches!(ghost.extra, Extra::CommittedSlot | Extra::StateBoth)
            || after.image(state.committed.slot) == ghost.kernel(committed),
        Invariant::CommittedSlotWhole,
        || format!("{:?}", after.slots),
    )?;
    require(state.unsettled <= UNSETTLED_MOST, Invariant::NoLoop, || {
        "unsettled".to_owned()
    })?;
    if let Some(trial) = state.trial {
        judge_trial(after, ghost, state, &trial)?;
        let slot = trial.target.slot;
        let disarmed = armed(before, slot).is_some()
            && after.record().is_some_and(|record| record.trial.is_none());
        require(
            !disarmed || trial.held || trial.waits() || ghost.extra != Extra::None,
            Invariant::VerdictBeforeDisarm,
            || format!("{trial:?}"),
        )?;
    }
    let point = ghost.trial.point && !matches!(ghost.extra, Extra::TrialSlot | Extra::StateBoth);
    let kept = state.trial.is_some_and(|trial| trial.held) || committed == ghost.trial.revision;
    require(!point || kept, Invariant::CommitPointHolds, || {
        format!("{state:?}")
    })?;
    let begun = ghost.begins;
    let forgotten = ghost.promised & bit(begun) != 0
        && ![
            Some(committed),
            state.trial.map(|trial| number(&trial.target)),
            state.failed.as_ref().map(|failed| number(&failed.target)),
        ]
        .contains(&Some(begun));
    let lost = matches!(ghost.extra, Extra::StateCopy | Extra::StateBoth);
    require(!forgotten || lost, Invariant::TrialNotForgotten, || {
        format!("{state:?}")
    })
}

fn judge_trial(disk: &Disk, ghost: &Ghost, state: &State, trial: &Trial) -> Checked<()> {
    let watch = &ghost.trial;
    let lost = matches!(
        ghost.extra,
        Extra::StateCopy
            | Extra::StateBoth
            | Extra::LoaderCopy
            | Extra::LoaderBoth
            | Extra::WriteFails
    );
    let said = || format!("{watch:?} {trial:?}");
    let tries = if lost {
        trial.tries * ARMINGS_MOST
    } else {
        trial.tries * watch.armed.max(1)
    };
    require(
        watch.taken <= tries + watch.back
            && trial.exhaustions < EXHAUSTIONS_MOST
            && (watch.waited < EXHAUSTIONS_MOST || lost),
        Invariant::TriesBounded,
        said,
    )?;
    let counted = watch.armed <= trial.armings.max(u8::from(trial.waits()) * ARMINGS_MOST);
    require(
        (counted || lost) && trial.armings <= ARMINGS_MOST,
        Invariant::ArmingsCounted,
        said,
    )?;
    require(
        watch.gave <= GIVE_BACKS_MOST || lost,
        Invariant::GiveBacksBounded,
        said,
    )?;
    let slot = trial.target.slot;
    let starts = armed(disk, slot).is_some_and(|armed| armed.left > 0)
        || (ghost.counts_itself && !trial.waits())
        || disk.record().is_some_and(|record| record.default == slot);
    require(
        slot == state.committed.slot
            || !starts
            || ghost.extra == Extra::TrialSlot
            || disk.image(slot) == ghost.kernel(number(&trial.target)),
        Invariant::ArmedIsWhole,
        || format!("{:?}", disk.slots),
    )
}

/// What a loader starts.
pub(crate) fn judge_start(disk: &Disk, ghost: &Ghost, slot: Slot) -> Checked<()> {
    let lost = disk.record().is_none() || ghost.extra != Extra::None;
    let Some(state) = disk.newest().filter(|_| !lost) else {
        return Ok(());
    };
    let image = disk.image(slot);
    let named = image == ghost.kernel(number(&state.committed))
        || state.trial.is_some_and(|trial| {
            trial.target.slot == slot
                && image == ghost.kernel(number(&trial.target))
                && (trial.held || !trial.waits())
        })
        || state.failed.as_ref().is_some_and(|failed| {
            failed.target.slot == slot && image == ghost.kernel(number(&failed.target))
        });
    require(named, Invariant::StartedIsNamed, || {
        format!("slot {slot}: {state:?}")
    })
}

/// What is known of the boot that decides.
pub(crate) struct Scene<'a> {
    pub disk: &'a Disk,
    pub ghost: &'a Ghost,
    pub slot: Slot,
    pub cause: Cause,
    pub blame: bool,
}

/// What a boot decides, given the state that it found and the state that it leaves.
pub(crate) fn judge_boot(
    scene: &Scene<'_>,
    old: &State,
    new: &State,
    decision: Decision,
) -> Checked<()> {
    let Scene {
        disk, ghost, slot, ..
    } = scene;
    let target = match decision {
        Decision::Committed => Some(new.committed),
        Decision::Try => new.trial.map(|trial| trial.target),
        Decision::Repair(reason) => {
            let last = new.unsettled >= UNSETTLED_MOST;
            let needed = match reason {
                Repair::Unsettled => new.unsettled >= UNSETTLED_MOST,
                Repair::CommittedSlotLost => ghost.extra == Extra::CommittedSlot,
                // Or eight boots in a row were cut before they had set it right.
                Repair::RecordUnwritable => {
                    ghost.extra == Extra::WriteFails || last && ghost.counts_itself
                }
                // One word too many may also follow from a state that was lost.
                Repair::WordStuck => last && ghost.extra != Extra::None,
            };
            require(needed, Invariant::RepairForAReason, || {
                format!("{reason:?}")
            })?;
            None
        }
        Decision::Reboot | Decision::RebootToTry => None,
    };
    if let Some(target) = target {
        let revision = number(&target);
        require(
            target.slot == *slot && disk.image(*slot) == ghost.kernel(revision),
            Invariant::OwnSlot,
            || format!("{revision} in slot {slot}"),
        )?;
        require(
            ghost.dead & bit(revision) == 0,
            Invariant::FailedStaysDown,
            || format!("{revision}"),
        )?;
    }
    judge_end(scene, old, new)
}

/// A trial that this boot ends, or lets wait.
fn judge_end(scene: &Scene<'_>, old: &State, new: &State) -> Checked<()> {
    let Some(trial) = old.trial else {
        return Ok(());
    };
    let watch = &scene.ghost.trial;
    let reason = match &new.failed {
        Some(failed) if new.failed != old.failed => Some(&failed.reason),
        Some(_) | None => None,
    };
    let waits = new
        .trial
        .is_some_and(|now| now.exhaustions > trial.exhaustions);
    let said = || format!("{reason:?} {watch:?} {trial:?} {:?}", scene.cause);
    let slot = trial.target.slot;
    // Armed as often as may be, and the record was lost each time.
    let gone = trial.armings == ARMINGS_MOST && armed(scene.disk, slot).is_none();
    let excused = gone || watch.unloadable || scene.ghost.extra != Extra::None;
    let at_once = matches!(reason, Some(Reason::Watchdog)) && watch.seen;
    let never = matches!(reason, Some(Reason::NeverBooted));
    if (waits || reason.is_some()) && !at_once && !never && !excused {
        let due = trial.tries + watch.back;
        require(watch.taken >= due, Invariant::TriesRunOutHonestly, said)?;
        require(
            watch.crashes >= trial.tries.min(2),
            Invariant::OneCutIsForgiven,
            said,
        )?;
    }
    // A slot that is left again and again ends in repair mode on its own kernel, which is the trial's.
    let left = matches!(scene.ghost.extra, Extra::WordSticks | Extra::LoaderBoth);
    let blame = scene.blame || left && scene.ghost.counts_itself;
    let last = trial.exhaustions + 1 == EXHAUSTIONS_MOST;
    let is_true = match reason {
        None => true,
        Some(Reason::Watchdog) => scene.cause == Cause::Watchdog && blame,
        Some(Reason::KernelPanic) => scene.cause == Cause::Panic && blame,
        Some(Reason::NeverBooted) => !watch.started,
        Some(Reason::PowerCut) => last && watch.seen,
        Some(Reason::TriesExhausted) => (last && !watch.seen) || (trial.held && watch.unloadable),
        // Nothing else is a boot's to say.
        Some(_) => false,
    };
    // A lost copy brings back the state before the last write: what it blames on the trial may be of the boot after it. And a
    // try that was written although its write failed was never made.
    let resurrected = matches!(scene.ghost.extra, Extra::StateCopy | Extra::WriteFails);
    require(is_true || resurrected, Invariant::ReasonIsTrue, said)
}
