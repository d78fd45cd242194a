//! Model check of the boot-control machine with the order of its writes, for each loader. See `check`.

#![allow(
    clippy::panic,
    reason = "so that a counterexample is printed as people read it"
)]

mod check;

use check::device::Kit;
use check::rules::Invariant;

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

#[test]
fn the_invariants_are_counted() {
    assert_eq!(Invariant::COUNT, 24);
}
