//! A committed slot that does not load comes back.

use super::*;

#[test]
fn a_dead_committed_slot_is_written_anew_and_that_is_counted() {
    let mut state = born();
    for count in 1..=MENDS_MOST {
        let (mut control, _, decision) = boot(found(Loader::born(), state.clone(), Slot::B));
        assert_eq!(decision, Decision::Repair(Repair::CommittedSlotLost));
        state.unsettled = count;
        assert_eq!(control.mend_slot(), Some(vec![Write::State(state.clone())]));
        // Once in a boot.
        assert_eq!(control.mend_slot(), None);
    }
    let (mut control, _, decision) = boot(found(Loader::born(), state.clone(), Slot::B));
    assert_eq!(decision, Decision::Repair(Repair::CommittedSlotLost));
    assert_eq!(control.mend_slot(), None);
    // After an hour it is due again.
    let mut rested = control.clone();
    rested.repaired();
    let (mut control, ..) = boot(found(Loader::born(), rested.state, Slot::B));
    assert!(control.mend_slot().is_some());
    // Written anew, the slot has its boot, and settles.
    let (mut mended, _, decision) = boot(found(Loader::born(), state, Slot::A));
    assert_eq!(decision, Decision::Committed);
    assert_eq!(mended.mend_slot(), None);
    mended.settled();
    assert_eq!(mended.state.unsettled, 0);
    // A device that does not settle has its slot.
    let mut state = born();
    state.unsettled = UNSETTLED_MOST;
    let (mut control, _, decision) = boot(found(Loader::born(), state, Slot::A));
    assert_eq!(decision, Decision::Repair(Repair::Unsettled));
    assert_eq!(control.mend_slot(), None);
}
