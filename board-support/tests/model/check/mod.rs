//! The model check of the boot-control machine: every node that a device can reach, by power cuts at every point of every
//! row of writes, by crashes, verdicts and faults; and the same with faults planted, each of which must be found.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::large_enum_variant,
    clippy::wildcard_enum_match_arm,
    reason = "a test may stop, and need not be small; most planted faults change nothing at most places"
)]

pub(crate) mod device;
pub(crate) mod disk;
pub(crate) mod explore;
pub(crate) mod life;
pub(crate) mod node;
pub(crate) mod planted;
pub(crate) mod power;
pub(crate) mod rules;

use device::{Kit, Setup};
use explore::{Counterexample, Visited, explore};
use kedge_board_support::record::Slot;
use planted::{Logic, Place, Planted};
use std::collections::BTreeMap;

/// The runs that make up a check without planted faults.
pub(crate) fn setups(kit: Kit) -> [Setup; 4] {
    let usual = Setup {
        kit,
        begins: 1,
        tries: 3,
        home: Slot::A,
        extras: false,
        planted: Planted::Nothing,
        contract: true,
    };
    let fault = |home, tries| Setup {
        tries,
        extras: true,
        home,
        ..usual
    };
    let twice = Setup {
        begins: 2,
        tries: 1,
        ..usual
    };
    [usual, twice, fault(Slot::A, 2), fault(Slot::B, 1)]
}

/// Every fault that can be planted in the rows of writes that were seen, and every fault of logic.
pub(crate) fn faults(kit: Kit, places: &BTreeMap<Place, u8>) -> Vec<Planted> {
    let mut all = Vec::new();
    for (place, flushes) in places {
        all.extend((0..*flushes).map(|which| Planted::NoFlush(*place, which)));
        all.extend((1..place.writes()).map(|which| Planted::Swapped(*place, which - 1)));
        all.extend((0..place.writes()).map(|which| Planted::NoWrite(*place, which)));
    }
    all.extend(Logic::all(kit.counts_itself()).map(Planted::Logic));
    all
}

/// Looks for a planted fault, in small runs first.
pub(crate) fn hunt(kit: Kit, planted: Planted, contract: bool) -> Option<Box<Counterexample>> {
    let [usual, twice, faults, _] = setups(kit);
    let one = Setup { tries: 1, ..usual };
    let two = Setup { tries: 2, ..usual };
    let all = [one, two, faults, twice];
    // Without the contract much is found in none of them: the smallest must do.
    let runs = if contract { &all[..] } else { &all[..1] };
    runs.iter().find_map(|setup| {
        let setup = Setup {
            planted,
            contract,
            ..*setup
        };
        explore(setup).err()
    })
}

/// What all runs have visited.
pub(crate) fn visit(kit: Kit) -> Result<Visited, Box<Counterexample>> {
    let mut sum = Visited::default();
    for setup in setups(kit) {
        let run = explore(setup)?;
        sum.states += run.states;
        sum.transitions += run.transitions;
        sum.longest = sum.longest.max(run.longest);
        sum.places.extend(run.places);
    }
    Ok(sum)
}

/// The rows of writes in which faults are planted: those of a run without other faults, in which all of them occur.
pub(crate) fn places(kit: Kit) -> Result<BTreeMap<Place, u8>, Box<Counterexample>> {
    let [usual, ..] = setups(kit);
    Ok(explore(Setup { tries: 2, ..usual })?.places)
}
