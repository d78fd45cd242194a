//! Tests of writes that fail: at a commit, and at a boot. What is believed then must not be relied on.

use super::*;

#[test]
fn what_relies_on_a_record_that_takes_no_writes_does_not_happen() {
    let lost = Decision::Repair(Repair::RecordUnwritable);
    let (mut control, writes, decision) = boot(found(armed(1), born(), Slot::B));
    assert_eq!(control.unwritable(decision, &writes), lost);
    assert_eq!(control.running(), Running::Repair);
    let mut control = trying();
    assert_eq!(control.unwritable(Decision::Try, &[]), lost);
    // In its own slot the committed revision can run, and the trial is still to come.
    let mut control = running();
    control
        .begin(target(2, Slot::A), 3, How::Reboot, Hub::Silent)
        .unwrap();
    let (mut control, writes, decision) = boot(found(Loader::born(), control.state, Slot::A));
    assert_eq!(decision, Decision::Try);
    assert_eq!(control.unwritable(decision, &writes), Decision::Committed);
    assert_eq!(
        (control.running(), control.retry_due()),
        (Running::Committed, None)
    );
    assert_eq!(control.orderly(), []);
}

/// A trial in slot b that holds, and what commits it.
fn committing() -> (Control, Vec<Write>) {
    let mut control = trying();
    assert_eq!(control.running(), Running::Trial);
    let writes = control.good(Floor::default(), 1);
    assert!(writes.len() >= 2, "{writes:?}");
    (control, writes)
}

#[test]
fn a_commit_that_was_not_written_leaves_only_a_restart() {
    // Without a failure an update may follow at once.
    let (mut control, _) = committing();
    assert_eq!(control.admits(Slot::A, How::Slot), Ok(()));
    assert_eq!(control.not_committed(), Next::Reboot);
    for (slot, how) in [
        (Slot::A, How::Slot),
        (Slot::B, How::Live),
        (Slot::B, How::Reboot),
    ] {
        assert_eq!(control.admits(slot, how), Err(Busy::Record));
        let begun = control.begin(target(3, slot), 3, how, Hub::Silent);
        assert_eq!(begun, Err(Busy::Record));
    }
    // It comes to the disk by no other way, and the restart is no try.
    assert_eq!(control.settled(), []);
    assert_eq!(control.orderly(), []);
    assert_eq!(control.retry(), (Vec::new(), Next::GoOn));
    assert!(!control.restarts_to_try());
}

#[test]
fn a_write_that_failed_keeps_the_other_slot_as_it_is() {
    let mut control = running();
    let before = control.clone();
    control
        .begin(target(2, Slot::B), 3, How::Slot, Hub::Silent)
        .unwrap();
    // The loader's record may be armed, and what was before could not be brought back.
    control = before;
    assert!(!control.is_barred());
    control.not_written();
    assert!(control.is_barred());
    assert_eq!(control.admits(Slot::B, How::Slot), Err(Busy::Record));
    assert_eq!(control.admits(Slot::A, How::Live), Ok(()));
    assert_eq!(control.admits(Slot::A, How::Reboot), Ok(()));
    // A commit that fails after it bars more, and nothing less.
    control.not_committed();
    control.not_written();
    assert_eq!(control.admits(Slot::A, How::Live), Err(Busy::Record));
    assert_eq!(control.repaired(), []);
}

#[test]
fn what_a_failed_commit_leaves_on_the_disk_is_completed_or_has_had_its_try() {
    let (_, writes) = committing();
    let [Write::StateBoth(held), Write::Loader(_), ..] = &writes[..] else {
        panic!("{writes:?}");
    };
    // The loader's record failed: it is set by the next boot, whichever slot that is of.
    let (_, writes, decision) = boot(found(armed(0), held.clone(), Slot::A));
    assert_eq!(decision, Decision::Reboot);
    assert!(writes.contains(&Write::Loader(Loader::starts(Slot::B))));
    let (control, writes, decision) = boot(found(armed(2), held.clone(), Slot::B));
    assert_eq!(decision, Decision::Committed);
    assert!(writes.contains(&Write::Loader(Loader::starts(Slot::B))));
    assert_eq!(control.state().committed.slot, Slot::B);
}

#[test]
fn a_boot_that_cannot_complete_a_commit_runs_and_lets_nothing_begin() {
    let (_, writes) = committing();
    let [Write::StateBoth(held), ..] = &writes[..] else {
        panic!("{writes:?}");
    };
    let (mut control, writes, decision) = boot(found(armed(2), held.clone(), Slot::B));
    assert_eq!(control.admits(Slot::A, How::Slot), Ok(()));
    let decision = control.unwritable(decision, &writes);
    assert_eq!(decision, Decision::Committed);
    // Slot a is the one that the loader still starts.
    assert_eq!(control.admits(Slot::A, How::Slot), Err(Busy::Record));
    assert_eq!(control.admits(Slot::B, How::Live), Err(Busy::Record));
    assert_eq!(control.settled(), []);
}

#[test]
fn while_the_loaders_record_cannot_be_written_nothing_is_tried_in_the_other_slot() {
    let mut start = found(Loader::born(), born(), Slot::A);
    start.loader = None;
    let (mut control, writes, decision) = boot(start);
    assert_eq!(control.unwritable(decision, &writes), Decision::Committed);
    assert_eq!(control.admits(Slot::B, How::Slot), Err(Busy::Record));
    assert_eq!(control.admits(Slot::A, How::Live), Ok(()));
    assert_eq!(control.admits(Slot::A, How::Reboot), Ok(()));
    // A count that was not written says nothing of slots.
    let (mut control, writes, decision) = boot(found(Loader::born(), born(), Slot::A));
    assert_eq!(control.unwritable(decision, &writes), Decision::Committed);
    assert_eq!(control.admits(Slot::B, How::Slot), Ok(()));
}

#[test]
fn no_slot_is_written_where_it_may_be_the_only_one_that_starts() {
    let (control, _, decision) = boot(found(Loader::born(), born(), Slot::B));
    assert_eq!(decision, Decision::Repair(Repair::CommittedSlotLost));
    assert_eq!(control.admits(Slot::B, How::Slot), Err(Busy::Repair));
}
