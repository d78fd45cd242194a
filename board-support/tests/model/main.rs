//! Model check of the boot-control machine with the order of its writes, for each loader. See `check`.

#![allow(
    clippy::panic,
    reason = "so that a counterexample is printed as people read it"
)]

mod check;

use check::device::Kit;
use check::disk::Disk;
use check::node::Node;
use check::rules::{Invariant, judge};
use kedge_board_support::record::{Loader, Slot};

/// No node that can be reached breaks an invariant, and there are as many as there were.
fn holds(kit: Kit) {
    let visited = check::visit(kit).unwrap_or_else(|found| panic!("{kit:?}: {found}"));
    // A loader without a record has no copies that differ, and no numbers of its own.
    let least = if kit.counts_itself() {
        100_000
    } else {
        500_000
    };
    assert!(visited.states > least, "{kit:?}: {visited:?}");
    // From nine boots that do not settle, with a trial that is exhausted three times in between, and restarts.
    assert!(visited.longest < 40, "{kit:?}: {visited:?}");
}

fn catches(kit: Kit) {
    let places = check::places(kit).unwrap_or_else(|found| panic!("{kit:?}: {found}"));
    let faults = check::faults(kit, &places);
    let least = if kit.counts_itself() { 60 } else { 100 };
    assert!(faults.len() > least, "{kit:?}: {faults:?}");
    let missed: Vec<_> = faults
        .into_iter()
        .filter(|fault| check::hunt(kit, *fault, true).is_none())
        .collect();
    assert!(missed.is_empty(), "{kit:?}: {missed:#?}");
}

#[test]
fn nothing_breaks_with_the_direct_loader() {
    holds(Kit::Direct);
}

#[test]
fn nothing_breaks_with_u_boot() {
    holds(Kit::UBoot);
}

#[test]
fn nothing_breaks_with_uefi() {
    holds(Kit::Uefi);
}

#[test]
fn nothing_breaks_with_tryboot() {
    holds(Kit::Tryboot);
}

#[test]
fn every_planted_fault_is_found_with_the_direct_loader() {
    catches(Kit::Direct);
}

#[test]
fn every_planted_fault_is_found_with_u_boot() {
    catches(Kit::UBoot);
}

#[test]
fn every_planted_fault_is_found_with_uefi() {
    catches(Kit::Uefi);
}

#[test]
fn every_planted_fault_is_found_with_tryboot() {
    catches(Kit::Tryboot);
}

/// Of `autoboot.txt` there is one copy: only the instant in which it is written excuses its loss, and only if the state says
/// what it was to be.
#[test]
fn the_one_copy_may_be_lost_only_while_it_is_written_and_follows_from_the_state() {
    let node = Node::first(Slot::A, true);
    let without = Disk {
        loader: [None; 2],
        ..node.disk.clone()
    };
    let lost = |after: &Disk, writing| match judge(&node.disk, after, &node.ghost, writing) {
        Ok(()) => false,
        Err(found) => found.invariant == Invariant::OneCopyWhole,
    };
    assert!(!lost(&without, Some(Loader::starts(Slot::A))));
    assert!(lost(&without, None));
    assert!(lost(&without, Some(Loader::starts(Slot::B))));
    let nothing = Disk {
        state: [None, None],
        ..without
    };
    assert!(lost(&nothing, Some(Loader::starts(Slot::A))));
}

#[test]
fn the_invariants_are_counted() {
    assert_eq!(Invariant::COUNT, 24);
}
