//! Tests of trials with a loader that counts nothing: what is written, in which order, and how a try is made.

use super::*;
use crate::record::Reason;
use kedge_revision::ObjectId;

const COMMITTED: Loader = Loader::starts(Slot::A);

fn target(number: u8, slot: Slot) -> Target {
    Target {
        revision: ObjectId::from_digest([number; 32]),
        parameters: 0,
        slot,
    }
}

fn born() -> State {
    State::born(ObjectId::from_digest([1; 32]), Floor::default(), 1)
}

fn boot(state: State, slot: Slot, cause: Cause, tried: bool) -> (Control, Vec<Write>, Decision) {
    Control::boot(Found {
        loader: Some(COMMITTED),
        mirrored: true,
        state: Some(state),
        slot,
        cause,
        says: Tryboot::says(tried),
        counts: Counts::Device,
    })
    .unwrap()
}

/// A trial in slot b that was begun with so many tries, and its writes.
fn begun(tries: u8) -> (Control, Vec<Write>) {
    let (mut control, ..) = boot(born(), Slot::A, Cause::Unknown, false);
    assert!(!control.restarts_to_try());
    let new = target(2, Slot::B);
    let (writes, next) = control.begin(new, tries, How::Slot, Hub::Silent).unwrap();
    assert_eq!(next, Next::Reboot);
    (control, writes)
}

fn left(state: &State) -> Option<(u8, u8)> {
    let trial = state.trial?;
    Some((trial.tries_left, trial.starts))
}

#[test]
fn a_try_is_counted_before_the_restart_that_makes_it() {
    let (control, writes) = begun(3);
    assert!(control.restarts_to_try());
    let [Write::State(state)] = &writes[..] else {
        panic!("{writes:?}");
    };
    assert_eq!(left(state), Some((2, 0)));
    assert_eq!(control.loader(), COMMITTED);
}

#[test]
fn the_slot_that_was_asked_for_is_tried_and_a_good_verdict_exchanges_the_default() {
    let (control, _) = begun(3);
    let (mut control, writes, decision) =
        boot(control.state().clone(), Slot::B, Cause::Unknown, true);
    assert_eq!(decision, Decision::Try);
    let [Write::State(state)] = &writes[..] else {
        panic!("{writes:?}");
    };
    assert_eq!(left(state), Some((2, 1)));
    let writes = control.good(Floor::default(), 1);
    let [
        Write::StateBoth(held),
        Write::Loader(record),
        Write::StateBoth(committed),
    ] = &writes[..]
    else {
        panic!("{writes:?}");
    };
    assert!(held.trial.unwrap().held);
    assert_eq!(*record, Loader::starts(Slot::B));
    assert_eq!(committed.committed, target(2, Slot::B));
}

#[test]
fn a_try_without_a_verdict_is_followed_by_the_next_one_and_the_last_by_waiting() {
    let mut state = begun(3).0.state().clone();
    for expected in [1, 0] {
        let (control, writes, decision) = boot(state, Slot::A, Cause::Unknown, false);
        assert_eq!(decision, Decision::RebootToTry);
        assert!(control.restarts_to_try());
        assert!(matches!(&writes[..], [Write::State(_)]), "{writes:?}");
        state = control.state().clone();
        assert_eq!(left(&state), Some((expected, 0)));
    }
    let (mut control, _, decision) = boot(state, Slot::A, Cause::Unknown, false);
    assert_eq!(decision, Decision::Committed);
    assert_eq!(control.retry_due(), Some(1));
    let (writes, next) = control.retry();
    assert_eq!((writes.len(), next), (1, Next::Reboot));
    assert!(control.restarts_to_try());
    assert_eq!(left(control.state()), Some((2, 0)));
}

#[test]
fn evidence_is_put_down_to_a_trial_that_was_seen_and_to_no_other() {
    let begun = begun(1).0.state().clone();
    for cause in [Cause::Watchdog, Cause::Panic] {
        let (control, _, decision) = boot(begun.clone(), Slot::A, cause, false);
        assert_eq!(decision, Decision::Committed);
        assert_eq!(control.retry_due(), Some(1), "{cause:?}");
    }
}

/// The trial's PID 1 is seen with the tries that are left, and ends so.
fn ended(state: State, cause: Cause) -> (State, Decision) {
    let (control, _, decision) = boot(state, Slot::B, Cause::Unknown, true);
    assert_eq!(decision, Decision::Try);
    let (control, _, decision) = boot(control.state().clone(), Slot::A, cause, false);
    (control.state().clone(), decision)
}

#[test]
fn a_panic_is_the_reason_once_no_try_is_left_and_not_before() {
    let mut state = begun(3).0.state().clone();
    for left in [1, 0] {
        let decision;
        (state, decision) = ended(state, Cause::Panic);
        assert_eq!(decision, Decision::RebootToTry);
        assert_eq!(state.failed, None);
        assert_eq!(state.trial.unwrap().tries_left, left);
    }
    let (state, decision) = ended(state, Cause::Panic);
    assert_eq!(decision, Decision::Committed);
    assert_eq!(state.failed.unwrap().reason, Reason::KernelPanic);
    assert_eq!(state.trial, None);
}

#[test]
fn a_watchdog_reset_ends_a_trial_that_was_seen_at_its_first_of_three_tries() {
    let (state, decision) = ended(begun(3).0.state().clone(), Cause::Watchdog);
    assert_eq!(decision, Decision::Committed);
    assert_eq!(state.failed.unwrap().reason, Reason::Watchdog);
    assert_eq!(state.trial, None);
}

/// Boots from this slot, each after the last one's restart, as long as they end in one: how many, and what ends the row.
fn restarts(mut state: State, slot: Slot, loader: Option<Loader>) -> (u32, State, Decision) {
    for count in 0..100 {
        let (control, _, decision) = Control::boot(Found {
            loader,
            ..found(state, slot)
        })
        .unwrap();
        state = control.state().clone();
        if decision != Decision::Reboot {
            return (count, state, decision);
        }
    }
    panic!("it restarts for ever: {state:?}");
}

/// With the word, as from a firmware with which it sticks.
fn found(state: State, slot: Slot) -> Found {
    Found {
        loader: Some(COMMITTED),
        mirrored: true,
        state: Some(state),
        slot,
        cause: Cause::Unknown,
        says: Tryboot::says(true),
        counts: Counts::Device,
    }
}

#[test]
fn a_word_that_sticks_ends_in_repair_mode() {
    let stuck = Decision::Repair(Repair::WordStuck);
    let (count, state, decision) = restarts(born(), Slot::B, Some(COMMITTED));
    assert_eq!((count, decision), (UNSETTLED_MOST, stuck));
    assert_eq!(state.committed, born().committed);
    // As well while a trial waits for its next tries, and with one in the same slot.
    let mut waits = begun(1).0.state().clone();
    let trial = waits.trial.as_mut().unwrap();
    (trial.armings, trial.tries_left) = (0, 0);
    assert_eq!(restarts(waits, Slot::B, Some(COMMITTED)).2, stuck);
    let (mut control, ..) = boot(born(), Slot::A, Cause::Unknown, false);
    let new = target(2, Slot::A);
    control.begin(new, 2, How::Reboot, Hub::Silent).unwrap();
    let same = control.state().clone();
    assert_eq!(restarts(same, Slot::B, Some(COMMITTED)).2, stuck);
    // Where the committed slot comes up, nobody minds.
    let (_, _, decision) = Control::boot(found(state, Slot::A)).unwrap();
    assert_eq!(decision, Decision::Repair(Repair::Unsettled));
    let (_, _, decision) = Control::boot(found(born(), Slot::A)).unwrap();
    assert_eq!(decision, Decision::Committed);
}

#[test]
fn a_word_that_sticks_makes_no_more_tries_than_were_counted() {
    let mut state = begun(3).0.state().clone();
    let (control, _, decision) = Control::boot(found(state, Slot::B)).unwrap();
    assert_eq!(decision, Decision::Try);
    state = control.state().clone();
    // It dies, and the firmware starts it again.
    let (count, after, decision) = restarts(state.clone(), Slot::B, Some(COMMITTED));
    assert_eq!(decision, Decision::Repair(Repair::WordStuck));
    // One boot of the committed slot had not settled before.
    assert_eq!(count, UNSETTLED_MOST - 1);
    assert_eq!(left(&after), left(&state));
    // A try that an orderly restart gave back is counted anew.
    let (mut control, ..) = boot(begun(1).0.state().clone(), Slot::B, Cause::Unknown, true);
    control.orderly();
    let given = control.state().clone();
    let (.., decision) = restarts(given.clone(), Slot::B, Some(COMMITTED));
    assert_eq!(decision, Decision::Repair(Repair::WordStuck));
    let (control, _, decision) = boot(given, Slot::A, Cause::Unknown, false);
    assert_eq!(decision, Decision::RebootToTry);
    let (.., decision) = boot(control.state().clone(), Slot::B, Cause::Unknown, true);
    assert_eq!(decision, Decision::Try);
}

#[test]
fn a_disk_that_forgets_autoboot_txt_and_keeps_the_state_ends_in_repair_mode() {
    let unwritable = Decision::Repair(Repair::RecordUnwritable);
    let (_, state, decision) = restarts(born(), Slot::B, None);
    assert_eq!((state.unsettled, decision), (UNSETTLED_MOST, unwritable));
    // The last boot sets it right, too.
    let (_, writes, _) = Control::boot(Found {
        loader: None,
        ..found(state, Slot::B)
    })
    .unwrap();
    assert_eq!(writes, [Write::Loader(COMMITTED)]);
    let (mut control, ..) = boot(begun(1).0.state().clone(), Slot::B, Cause::Unknown, true);
    let writes = control.good(Floor::default(), 1);
    let [Write::StateBoth(held), ..] = &writes[..] else {
        panic!("{writes:?}");
    };
    // What has held begins with no older counts: its commit is completed.
    assert_eq!(held.unsettled, 0);
    let (.., decision) = restarts(held.clone(), Slot::A, None);
    assert_eq!(decision, unwritable);
}

#[test]
fn a_word_that_sticks_undoes_no_commit() {
    let (mut control, ..) = boot(begun(1).0.state().clone(), Slot::B, Cause::Unknown, true);
    let writes = control.good(Floor::default(), 1);
    let [Write::StateBoth(held), Write::Loader(new), ..] = &writes[..] else {
        panic!("{writes:?}");
    };
    // `autoboot.txt` names slot b, and the word brings the other one.
    let (count, state, decision) = restarts(held.clone(), Slot::A, Some(*new));
    assert_eq!(decision, Decision::Repair(Repair::WordStuck));
    assert!(count > 0 && state.trial.unwrap().held);
    // Without the word slot b does not load.
    let (control, _, decision) = Control::boot(Found {
        loader: Some(*new),
        says: Tryboot::says(false),
        ..found(held.clone(), Slot::A)
    })
    .unwrap();
    assert_eq!(decision, Decision::Committed);
    assert_eq!(control.state().trial, None);
}

#[test]
fn a_bad_verdict_and_an_orderly_restart_bring_the_default() {
    let (control, _) = begun(2);
    let (mut control, ..) = boot(control.state().clone(), Slot::B, Cause::Unknown, true);
    let mut orderly = control.clone();
    let writes = orderly.orderly();
    assert_eq!(left(orderly.state()), Some((2, 1)));
    assert!(matches!(&writes[..], [Write::State(_)]), "{writes:?}");
    assert!(!orderly.restarts_to_try());
    let (writes, next) = control.bad(Reason::Operator);
    assert_eq!(next, Next::Reboot);
    assert!(matches!(&writes[..], [Write::StateBoth(_)]), "{writes:?}");
    assert!(!control.restarts_to_try());
}

#[test]
fn a_trial_slot_that_nobody_asked_for_is_left() {
    let pending = begun(3).0.state().clone();
    // The word came, and there is nothing to try: the default is next.
    let (_, writes, decision) = boot(born(), Slot::B, Cause::Unknown, true);
    assert!(matches!(&writes[..], [Write::State(state)] if state.unsettled == 1));
    assert_eq!(decision, Decision::Reboot);
    // Without the word the firmware starts it only for want of the default.
    for state in [born(), pending] {
        let (.., decision) = boot(state, Slot::B, Cause::Unknown, false);
        assert_eq!(decision, Decision::Repair(Repair::CommittedSlotLost));
    }
}

#[test]
fn a_lost_autoboot_txt_is_made_anew_before_the_next_try() {
    let found = |slot, tried| Found {
        loader: None,
        mirrored: true,
        state: Some(begun(3).0.state().clone()),
        slot,
        cause: Cause::Unknown,
        says: Tryboot::says(tried),
        counts: Counts::Device,
    };
    let (_, writes, decision) = Control::boot(found(Slot::A, false)).unwrap();
    assert_eq!(decision, Decision::RebootToTry);
    assert!(
        matches!(&writes[..], [Write::State(_), Write::Loader(record)] if *record == COMMITTED),
        "{writes:?}"
    );
    let (_, writes, decision) = Control::boot(found(Slot::B, true)).unwrap();
    assert_eq!(decision, Decision::Reboot);
    assert!(
        matches!(&writes[..], [Write::State(_), Write::Loader(record)] if *record == COMMITTED),
        "{writes:?}"
    );
}

#[test]
fn a_try_that_cannot_be_counted_is_not_made() {
    let pending = begun(3).0.state().clone();
    let (mut control, writes, decision) = boot(pending, Slot::A, Cause::Unknown, false);
    assert_eq!(control.unwritable(decision, &writes), Decision::Committed);
    assert!(!control.restarts_to_try());
}

#[test]
fn a_trial_in_the_same_slot_needs_no_word() {
    let (mut control, ..) = boot(born(), Slot::A, Cause::Unknown, false);
    let new = target(2, Slot::A);
    control.begin(new, 2, How::Reboot, Hub::Silent).unwrap();
    assert!(!control.restarts_to_try());
    assert_eq!(left(control.state()), Some((2, 0)));
    let (control, _, decision) = boot(control.state().clone(), Slot::A, Cause::Unknown, false);
    assert_eq!(decision, Decision::Try);
    assert_eq!(left(control.state()), Some((1, 1)));
}
