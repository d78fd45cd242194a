//! Every answer of the machine once. That they fit together, whatever is cut, is what the model check is for.

use super::*;
use kedge_revision::ObjectId;

mod mend;
mod unwritten;

fn target(revision: u8, slot: Slot) -> Target {
    Target {
        revision: ObjectId::from_digest([revision; 32]),
        parameters: 0,
        slot,
    }
}

fn floor(counter: u64) -> Floor {
    Floor { root: 1, counter }
}

fn born() -> State {
    State::born(ObjectId::from_digest([1; 32]), floor(10), 1)
}

fn found(loader: Loader, state: State, slot: Slot) -> Found {
    Found {
        loader: Some(loader),
        mirrored: true,
        state: Some(state),
        slot,
        cause: Cause::Unknown,
        says: LoaderSays::default(),
        counts: Counts::Loader,
    }
}

fn boot(found: Found) -> (Control, Vec<Write>, Decision) {
    Control::boot(found).unwrap()
}

/// The committed revision runs from slot a.
fn running() -> Control {
    boot(found(Loader::born(), born(), Slot::A)).0
}

/// A trial of slot b was begun with three tries.
fn begun() -> Control {
    let mut control = running();
    control
        .begin(target(2, Slot::B), 3, How::Slot, Hub::Silent)
        .unwrap();
    control
}

fn armed(left: u8) -> Loader {
    Loader::starts(Slot::A).tries(Slot::B, left)
}

/// The first try of slot b runs.
fn trying() -> Control {
    let (control, _, decision) = boot(found(armed(2), begun().state, Slot::B));
    assert_eq!(decision, Decision::Try);
    control
}

fn trial(control: &Control) -> Trial {
    control.state.trial.unwrap()
}

fn reason_of(control: &Control) -> Reason {
    control.state.failed.clone().unwrap().reason
}

#[test]
fn a_boot_of_the_committed_revision_is_counted_until_it_settles() {
    let (mut control, writes, decision) = boot(found(Loader::born(), born(), Slot::A));
    assert_eq!(decision, Decision::Committed);
    assert_eq!(writes, [Write::State(control.state.clone())]);
    assert_eq!(control.state.unsettled, 1);
    assert_eq!(control.settled(), [Write::State(born())]);
    assert_eq!(control.settled(), []);
    assert_eq!(control.orderly(), []);
}

#[test]
fn an_orderly_restart_gives_the_count_back_once() {
    let mut control = running();
    assert_eq!(control.orderly(), [Write::State(born())]);
    assert_eq!(control.orderly(), []);
}

#[test]
fn the_ninth_unsettled_boot_is_repair_mode_and_ends_after_an_hour() {
    let mut state = born();
    for _ in 0..UNSETTLED_MOST {
        let (control, _, decision) = boot(found(Loader::born(), state, Slot::A));
        assert_eq!(decision, Decision::Committed);
        state = control.state;
    }
    let (mut control, writes, decision) = boot(found(Loader::born(), state.clone(), Slot::A));
    assert_eq!(decision, Decision::Repair(Repair::Unsettled));
    assert_eq!((writes, control.running()), (vec![], Running::Repair));
    assert_eq!(
        control.begin(target(2, Slot::A), 3, How::Live, Hub::Silent),
        Err(Busy::Repair)
    );
    // What mends it is an update: committed, it has a chance of its own.
    let mut mended = control.clone();
    let begun = mended
        .begin(target(2, Slot::A), 3, How::Reboot, Hub::Silent)
        .unwrap();
    assert_eq!(begun.1, Next::Reboot);
    let mut mended = boot(found(Loader::born(), mended.state, Slot::A)).0;
    mended.good(floor(2), 1);
    assert_eq!(mended.state.unsettled, 0);
    assert_eq!(control.settled(), []);
    state.unsettled = 0;
    assert_eq!(control.repaired(), [Write::State(state)]);
}

#[test]
fn watchdog_resets_are_counted_until_the_revision_settles() {
    let mut state = born();
    for cause in [Cause::Watchdog, Cause::Watchdog, Cause::Unknown] {
        let mut start = found(Loader::born(), state, Slot::A);
        start.cause = cause;
        state = boot(start).0.state;
    }
    assert_eq!(state.watchdog_resets, 2);
    let mut start = found(Loader::born(), state, Slot::A);
    start.says.watchdog = true;
    let mut control = boot(start).0;
    assert_eq!(control.state.watchdog_resets, 3);
    control.settled();
    assert_eq!(control.state.watchdog_resets, 0);
}

#[test]
fn both_loader_copies_are_made_equal_or_made_anew() {
    let mut start = found(Loader::born(), born(), Slot::A);
    start.mirrored = false;
    assert_eq!(boot(start.clone()).1[1..], [Write::Loader(Loader::born())]);
    start.loader = None;
    assert!(
        boot(start.clone())
            .1
            .contains(&Write::Loader(Loader::born()))
    );
    // Without a record a loader starts slot a.
    let mut state = born();
    state.committed.slot = Slot::B;
    start.state = Some(state);
    let (_, writes, decision) = boot(start);
    assert_eq!(decision, Decision::Reboot);
    assert_eq!(writes, [Write::Loader(Loader::starts(Slot::B))]);
}

#[test]
fn a_lost_state_is_said() {
    let mut start = found(Loader::born(), born(), Slot::A);
    start.state = None;
    assert_eq!(Control::boot(start), Err(StateLost));
}

#[test]
fn an_unknown_slot_is_left_and_a_dead_committed_slot_is_repair_mode() {
    let (mut control, writes, decision) = boot(found(armed(1), born(), Slot::B));
    assert_eq!(decision, Decision::Reboot);
    assert_eq!(writes, [Write::Loader(Loader::born())]);
    assert_eq!(
        control.begin(target(2, Slot::A), 3, How::Live, Hub::Silent),
        Err(Busy::Trial)
    );
    let (_, writes, decision) = boot(found(Loader::born(), born(), Slot::B));
    assert_eq!(decision, Decision::Repair(Repair::CommittedSlotLost));
    assert_eq!(writes, []);
}

#[test]
fn a_slot_trial_is_counted_then_armed_then_tried() {
    let mut control = running();
    let (writes, next) = control
        .begin(target(2, Slot::B), 3, How::Slot, Hub::Silent)
        .unwrap();
    assert_eq!(next, Next::Reboot);
    assert_eq!(
        writes,
        [Write::State(control.state.clone()), Write::Loader(armed(3))]
    );
    assert_eq!(
        (trial(&control).armings, trial(&control).tries_left),
        (1, 3)
    );
    let (control, writes, decision) = boot(found(armed(2), control.state, Slot::B));
    assert_eq!(decision, Decision::Try);
    assert_eq!(writes, [Write::State(control.state.clone())]);
    assert_eq!((trial(&control).starts, trial(&control).tries_left), (1, 2));
    assert_eq!(control.running(), Running::Trial);
}

#[test]
fn a_trial_names_the_right_slot_and_is_alone() {
    let mut control = running();
    for (slot, how) in [
        (Slot::A, How::Slot),
        (Slot::B, How::Live),
        (Slot::B, How::Reboot),
    ] {
        assert_eq!(
            control.begin(target(2, slot), 3, how, Hub::Silent),
            Err(Busy::Slot)
        );
    }
    control
        .begin(target(2, Slot::A), 0, How::Reboot, Hub::Silent)
        .unwrap();
    assert_eq!(trial(&control).tries, 1);
    assert_eq!(
        control.begin(target(3, Slot::A), 3, How::Live, Hub::Silent),
        Err(Busy::Trial)
    );
}

#[test]
fn what_is_committed_has_not_failed_with_older_values_any_more() {
    for (revision, forgotten) in [(2, true), (9, false)] {
        let mut control = trying();
        control.state.failed = Some(Failure {
            target: Target {
                parameters: 77,
                ..target(revision, Slot::A)
            },
            reason: Reason::Storage,
        });
        let writes = control.good(floor(20), 2);
        let Some(Write::StateBoth(committed)) = writes.last() else {
            panic!("{writes:?}");
        };
        assert_eq!(committed.failed.is_none(), forgotten, "{revision}");
    }
}

#[test]
fn a_good_verdict_holds_then_sets_the_default_then_commits() {
    let mut control = trying();
    let writes = control.good(floor(20), 2);
    let [
        Write::StateBoth(held),
        Write::Loader(loader),
        Write::StateBoth(committed),
    ] = &writes[..]
    else {
        panic!("{writes:?}");
    };
    assert!(held.trial.unwrap().held);
    assert_eq!(
        (held.floor, held.root_version, held.committed.slot),
        (floor(10), 1, Slot::A)
    );
    assert_eq!(*loader, Loader::starts(Slot::B));
    assert_eq!(committed.committed, target(2, Slot::B));
    assert_eq!((committed.floor, committed.root_version), (floor(20), 2));
    assert_eq!(
        (committed.trial, control.running()),
        (None, Running::Committed)
    );
    assert_eq!(control.good(floor(30), 3), []);
}

#[test]
fn a_commit_that_was_cut_is_completed_with_its_floor() {
    let mut control = trying();
    let Write::StateBoth(held) = control.good(floor(20), 2).remove(0) else {
        panic!("the first write is the state");
    };
    // In the trial's slot, whatever the loader says.
    for loader in [armed(1), Loader::starts(Slot::B)] {
        let (control, writes, decision) = boot(found(loader, held.clone(), Slot::B));
        assert_eq!(decision, Decision::Committed);
        assert_eq!(control.state.committed, target(2, Slot::B));
        assert_eq!(
            (control.state.floor, control.state.root_version),
            (floor(20), 2)
        );
        assert_eq!(
            writes.last(),
            Some(&Write::StateBoth(control.state.clone()))
        );
        if loader == armed(1) {
            assert_eq!(writes[0], Write::State(held.clone()));
            assert_eq!(writes[1], Write::Loader(Loader::starts(Slot::B)));
        } else {
            assert_eq!(writes.len(), 1);
        }
    }
    // In the committed slot: once more; and then it does not load any more.
    let (_, writes, decision) = boot(found(armed(0), held.clone(), Slot::A));
    assert_eq!(decision, Decision::Reboot);
    assert_eq!(
        writes,
        [
            Write::State(held.clone()),
            Write::Loader(Loader::starts(Slot::B))
        ]
    );
    let (control, writes, decision) = boot(found(Loader::starts(Slot::B), held, Slot::A));
    assert_eq!(decision, Decision::Committed);
    assert_eq!(control.state.floor, floor(10));
    assert_eq!(
        writes,
        [
            Write::StateBoth(control.state.clone()),
            Write::Loader(Loader::born())
        ]
    );
}

#[test]
fn a_bad_verdict_is_kept_before_the_loader_is_disarmed() {
    let mut control = trying();
    let (writes, next) = control.bad(Reason::HubLost);
    assert_eq!(next, Next::Reboot);
    assert_eq!(
        writes,
        [
            Write::StateBoth(control.state.clone()),
            Write::Loader(Loader::born())
        ]
    );
    assert_eq!(reason_of(&control), Reason::HubLost);
    assert_eq!(
        control.begin(target(3, Slot::B), 3, How::Slot, Hub::Silent),
        Err(Busy::Trial)
    );
    assert_eq!(control.bad(Reason::Operator), (vec![], Next::GoOn));
    assert_eq!(control.orderly(), []);
}

#[test]
fn a_trial_that_does_not_run_ends_without_a_restart() {
    let mut control = begun();
    let (writes, next) = control.bad(Reason::Operator);
    assert_eq!((writes.len(), next), (2, Next::GoOn));
    assert_eq!(control.running(), Running::Committed);
}

#[test]
fn a_live_trial_takes_its_try_and_is_undone_live() {
    let mut control = running();
    let (writes, next) = control
        .begin(target(2, Slot::A), 3, How::Live, Hub::Silent)
        .unwrap();
    assert_eq!(next, Next::RunTrialLive);
    assert_eq!(writes, [Write::State(control.state.clone())]);
    assert_eq!((trial(&control).starts, trial(&control).tries_left), (1, 2));
    let state = control.state.clone();
    let (writes, next) = control.bad(Reason::Storage);
    assert_eq!((writes.len(), next), (1, Next::UndoLive));
    // After a restart it is a trial like any other.
    let (mut control, writes, decision) = boot(found(Loader::born(), state, Slot::A));
    assert_eq!((writes.len(), decision), (1, Decision::Try));
    assert_eq!((trial(&control).starts, trial(&control).tries_left), (2, 1));
    assert_eq!(control.clone().bad(Reason::Storage).1, Next::Reboot);
    assert_eq!(control.good(floor(20), 1).len(), 1);
    assert_eq!(control.state.committed, target(2, Slot::A));
}

#[test]
fn an_orderly_restart_gives_a_try_back_twice() {
    let mut control = trying();
    for (left, back) in [(3, 1), (3, 2)] {
        let writes = control.orderly();
        assert_eq!(
            writes,
            [
                Write::State(control.state.clone()),
                Write::Loader(armed(left))
            ]
        );
        assert_eq!(trial(&control).give_backs, back);
        assert_eq!(control.orderly(), []);
        control = boot(found(armed(left - 1), control.state, Slot::B)).0;
    }
    assert_eq!(control.orderly(), []);
    let mut live = running();
    live.begin(target(2, Slot::A), 3, How::Live, Hub::Silent)
        .unwrap();
    assert_eq!(live.orderly().len(), 1);
    assert_eq!(trial(&live).tries_left, 3);
}

#[test]
fn a_loader_that_was_never_armed_is_armed_again_three_times_in_all() {
    let mut state = begun().state;
    for armings in [2, 3] {
        let (control, writes, decision) = boot(found(Loader::born(), state, Slot::A));
        assert_eq!(decision, Decision::Reboot);
        assert_eq!(
            writes,
            [Write::State(control.state.clone()), Write::Loader(armed(3))]
        );
        assert_eq!(trial(&control).armings, armings);
        state = control.state;
    }
    let (control, _, decision) = boot(found(Loader::born(), state, Slot::A));
    assert_eq!(decision, Decision::Committed);
    assert_eq!(reason_of(&control), Reason::NeverBooted);
}

#[test]
fn a_slot_that_the_loader_did_not_start_never_booted() {
    for left in [3, 2] {
        let (control, writes, decision) = boot(found(armed(left), begun().state, Slot::A));
        assert_eq!(decision, Decision::Committed);
        assert_eq!(reason_of(&control), Reason::NeverBooted);
        assert_eq!(writes.last(), Some(&Write::Loader(Loader::born())));
    }
    // It was started before: then it is not said that it never was.
    let (control, _, _) = boot(found(armed(1), trying().state, Slot::A));
    assert_eq!(
        (control.state.failed.clone(), control.retry_due()),
        (None, Some(1))
    );
    let (control, _, _) = boot(found(armed(1), begun().state, Slot::A));
    assert_eq!(control.retry_due(), Some(1));
}

#[test]
fn tries_that_ran_out_are_filled_twice_and_then_it_has_failed() {
    for (seen, reason) in [(true, Reason::PowerCut), (false, Reason::TriesExhausted)] {
        let mut state = begun().state;
        for round in 1..=3 {
            if seen {
                state = boot(found(armed(1), state, Slot::B)).0.state;
            }
            let (mut control, writes, decision) = boot(found(armed(0), state, Slot::A));
            assert_eq!(decision, Decision::Committed);
            assert_eq!(writes.last(), Some(&Write::Loader(Loader::born())));
            if round == 3 {
                assert_eq!(
                    (control.retry_due(), reason_of(&control)),
                    (None, reason.clone())
                );
                break;
            }
            assert_eq!(control.retry_due(), Some(round));
            let (_, writes, decision) = boot(found(Loader::born(), control.state.clone(), Slot::A));
            assert_eq!((writes.len(), decision), (1, Decision::Committed));
            let (writes, next) = control.retry();
            assert_eq!(next, Next::Reboot);
            assert_eq!(
                writes,
                [Write::State(control.state.clone()), Write::Loader(armed(3))]
            );
            state = control.state;
        }
    }
}

#[test]
fn evidence_ends_a_trial_whose_tries_ran_out() {
    for (cause, reason) in [
        (Cause::Panic, Reason::KernelPanic),
        (Cause::Watchdog, Reason::Watchdog),
    ] {
        let mut start = found(armed(0), begun().state, Slot::A);
        start.cause = cause;
        assert_eq!(reason_of(&boot(start).0), reason);
    }
}

#[test]
fn a_watchdog_reset_ends_a_trial_that_has_run_at_once() {
    let mut start = found(armed(1), trying().state, Slot::B);
    start.cause = Cause::Watchdog;
    let (control, writes, decision) = boot(start);
    assert_eq!((writes.len(), decision), (2, Decision::Reboot));
    assert_eq!(reason_of(&control), Reason::Watchdog);
    // Before its first start, the reset was of something else.
    let mut start = found(armed(2), begun().state, Slot::B);
    start.cause = Cause::Watchdog;
    assert_eq!(boot(start).2, Decision::Try);
    // In the same slot the committed revision runs at once.
    let mut control = running();
    control
        .begin(target(2, Slot::A), 3, How::Live, Hub::Silent)
        .unwrap();
    let mut start = found(Loader::born(), control.state, Slot::A);
    start.cause = Cause::Watchdog;
    let (control, writes, decision) = boot(start);
    assert_eq!(decision, Decision::Committed);
    assert_eq!(writes, [Write::StateBoth(control.state.clone())]);
    assert_eq!(reason_of(&control), Reason::Watchdog);
}

#[test]
fn a_same_slot_trial_waits_too() {
    let mut control = running();
    control
        .begin(target(2, Slot::A), 1, How::Reboot, Hub::Silent)
        .unwrap();
    let mut state = control.state;
    for round in [1, 2] {
        let (control, _, decision) = boot(found(Loader::born(), state, Slot::A));
        assert_eq!(decision, Decision::Try);
        let (mut control, _, decision) = boot(found(Loader::born(), control.state, Slot::A));
        assert_eq!(
            (decision, control.retry_due()),
            (Decision::Committed, Some(round))
        );
        let (writes, next) = control.retry();
        assert_eq!((writes.len(), next), (1, Next::Reboot));
        assert_eq!(trial(&control).tries_left, 1);
        state = control.state;
    }
    // A watchdog reset of the committed revision is not the waiting trial's.
    let mut waiting = state;
    waiting.trial.as_mut().unwrap().armings = 0;
    let mut start = found(Loader::born(), waiting, Slot::A);
    start.cause = Cause::Watchdog;
    assert_eq!(boot(start).0.state.failed, None);
}

#[test]
fn a_foreign_default_is_set_back() {
    let (_, writes, decision) = boot(found(Loader::starts(Slot::B), trying().state, Slot::B));
    assert_eq!(decision, Decision::Reboot);
    assert_eq!(writes, [Write::Loader(Loader::born())]);
}

#[test]
fn a_trial_slot_that_runs_without_a_try_is_left() {
    let mut start = found(armed(0), trying().state, Slot::B);
    assert_eq!(boot(start.clone()).2, Decision::Reboot);
    start.says.tried = Some(0);
    assert_eq!(boot(start).2, Decision::Try);
    let mut start = found(armed(3), begun().state, Slot::B);
    start.says.unwritable = true;
    assert_eq!(boot(start).2, Decision::Reboot);
}

#[test]
fn what_the_machine_writes_is_what_both_loaders_read() {
    let loaders: [&dyn Backend; 3] = [&Direct, &UBoot, &Uefi];
    for loader in loaders {
        assert_eq!(loader.arm(Slot::A, Slot::B, 3), armed(3));
        assert_eq!(loader.commit(Slot::B), Loader::starts(Slot::B));
        assert_eq!(loader.slots(Some(armed(1))), [Slot::B, Slot::A]);
        assert_eq!(loader.slots(Some(armed(0))), [Slot::A, Slot::B]);
        assert_eq!(loader.slots(None), [Slot::A, Slot::B]);
        assert_eq!(loader.default(Some(Loader::starts(Slot::B))), Slot::B);
    }
    assert!(UBoot.starts_unwritable() && Uefi.starts_unwritable() && !Direct.starts_unwritable());
}

#[test]
fn what_the_loader_says_is_read() {
    let says = UBoot.reason("console=ttyS0 kedge.slot=b kedge.try=2 quiet kedge.try=9");
    assert_eq!(says.tried, Some(2));
    let says = Direct.reason("kedge.failed=b kedge.record=unwritable kedge.reset=watchdog");
    assert_eq!(
        says,
        LoaderSays {
            tried: None,
            failed: Some(Slot::B),
            unwritable: true,
            watchdog: true,
        }
    );
    let nothing = "kedge.try=x kedge.failed=c kedge.record=fine kedge.reset=cold kedge.try";
    assert_eq!(Direct.reason(nothing), LoaderSays::default());
}
