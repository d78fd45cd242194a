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
    let (control, ..) = boot(begun, Slot::B, Cause::Unknown, true);
    let seen = control.state().clone();
    for (cause, reason) in [
        (Cause::Watchdog, Reason::Watchdog),
        (Cause::Panic, Reason::KernelPanic),
    ] {
        let (control, _, decision) = boot(seen.clone(), Slot::A, cause, false);
        assert_eq!(decision, Decision::Committed);
        assert_eq!(control.state().failed.as_ref().unwrap().reason, reason);
        assert_eq!(control.state().trial, None);
    }
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
    assert_eq!((writes.len(), decision), (0, Decision::Reboot));
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
    let (mut control, _, decision) = boot(pending, Slot::A, Cause::Unknown, false);
    assert_eq!(control.unwritable(decision), Decision::Committed);
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
