//! Tests of the device's state: every combination of what PID 1 can know, and what the past means.

use super::*;
use std::collections::BTreeSet;

const GOALS: [Goals; 3] = [Goals::Met, Goals::Coming, Goals::Missed];
const TRIALS: [Trial; 3] = [Trial::None, Trial::Runs, Trial::Waits];
const REACHES: [Reach; 4] = [Reach::Up, Reach::NoAddress, Reach::Unplugged, Reach::Untold];
const HUBS: [Hub; 5] = [
    Hub::Unasked,
    Hub::Enrolling,
    Hub::Awaited,
    Hub::Lost,
    Hub::Answers,
];
const CONDITIONS: [Condition; 15] = [
    Condition::LastResort,
    Condition::Stopping,
    Condition::Repair,
    Condition::Booting,
    Condition::Updating,
    Condition::Attention,
    Condition::Trial,
    Condition::Unwritten,
    Condition::Growing,
    Condition::Offline,
    Condition::NoNetwork,
    Condition::Enrolling,
    Condition::NoHub,
    Condition::Retrying,
    Condition::Good,
];

/// Nothing is wrong, and nothing goes on.
const WELL: Facts = Facts {
    stopping: false,
    repair: false,
    booting: false,
    updating: false,
    goals: Goals::Met,
    trial: Trial::None,
    unwritten: false,
    growing: false,
    reach: Reach::Up,
    hub: Hub::Answers,
    long: false,
};

fn all() -> Vec<Facts> {
    let mut all = Vec::new();
    for goals in GOALS {
        for trial in TRIALS {
            for reach in REACHES {
                for hub in HUBS {
                    for bits in 0..128_u32 {
                        let bit = |at: u32| bits & (1 << at) != 0;
                        all.push(Facts {
                            stopping: bit(0),
                            repair: bit(1),
                            booting: bit(2),
                            updating: bit(3),
                            growing: bit(4),
                            long: bit(5),
                            unwritten: bit(6),
                            goals,
                            trial,
                            reach,
                            hub,
                        });
                    }
                }
            }
        }
    }
    all
}

/// The table of the module, row by row; [`condition`] is written another way.
fn by_the_table(facts: &Facts) -> Condition {
    let lost = facts.hub == Hub::Lost;
    let unplugged = facts.reach == Reach::Unplugged && facts.hub != Hub::Unasked;
    let untold = [Reach::NoAddress, Reach::Untold].contains(&facts.reach);
    let no_network = untold || unplugged;
    let enrolling = facts.hub == Hub::Enrolling;
    let no_hub = lost || facts.hub == Hub::Awaited;
    let rows = [
        (facts.stopping, Condition::Stopping),
        (facts.repair, Condition::Repair),
        (facts.booting, Condition::Booting),
        (facts.updating, Condition::Updating),
        (facts.goals == Goals::Missed, Condition::Attention),
        (facts.trial == Trial::Runs, Condition::Trial),
        (facts.goals == Goals::Coming, Condition::Booting),
        (facts.unwritten, Condition::Unwritten),
        (facts.growing, Condition::Growing),
        (
            lost || facts.long && (no_network || enrolling || no_hub),
            Condition::Offline,
        ),
        (no_network, Condition::NoNetwork),
        (enrolling, Condition::Enrolling),
        (no_hub, Condition::NoHub),
        (facts.trial == Trial::Waits, Condition::Retrying),
        (true, Condition::Good),
    ];
    rows.into_iter().find(|(holds, _)| *holds).unwrap().1
}

#[test]
fn of_all_that_holds_the_first_row_counts() {
    let all = all();
    assert_eq!(all.len(), 128 * 3 * 3 * 4 * 5);
    let mut seen = BTreeSet::new();
    for facts in all {
        let found = condition(&facts);
        assert_eq!(found, by_the_table(&facts), "{facts:?}");
        seen.insert(found.word());
    }
    // All but the last resort, which nobody is asked about any more.
    assert_eq!(seen.len(), CONDITIONS.len() - 1, "{seen:?}");
}

#[test]
fn a_steady_light_is_never_a_lie() {
    for facts in all() {
        let steady = condition(&facts).light() == Light::Steady;
        let well = Facts {
            // Without a hub nobody asks for a cable; and how long nothing was missing says nothing.
            reach: if facts.reach == Reach::Unplugged && facts.hub == Hub::Unasked {
                Reach::Up
            } else {
                facts.reach
            },
            hub: if facts.hub == Hub::Unasked {
                Hub::Answers
            } else {
                facts.hub
            },
            long: false,
            ..facts
        } == WELL;
        assert_eq!(steady, well, "{facts:?}");
    }
}

#[test]
fn one_thing_alone_has_its_word_and_light() {
    use Light::{Fast, Flash, Slow, Steady};
    type Change = fn(&mut Facts);
    let rows: [(Change, &str, Light); 17] = [
        (|facts| facts.stopping = true, "stopping", Slow),
        (|facts| facts.repair = true, "repair", Flash),
        (|facts| facts.booting = true, "booting", Slow),
        (|facts| facts.updating = true, "updating", Slow),
        (|facts| facts.goals = Goals::Missed, "attention", Fast),
        (|facts| facts.goals = Goals::Coming, "booting", Slow),
        (|facts| facts.trial = Trial::Runs, "trial", Slow),
        (|facts| facts.trial = Trial::Waits, "retrying", Slow),
        (|facts| facts.unwritten = true, "unwritten", Fast),
        (|facts| facts.growing = true, "growing", Slow),
        (|facts| facts.reach = Reach::NoAddress, "no-network", Slow),
        (|facts| facts.reach = Reach::Untold, "no-network", Slow),
        (|facts| facts.reach = Reach::Unplugged, "no-network", Slow),
        (|facts| facts.hub = Hub::Enrolling, "enrolling", Slow),
        (|facts| facts.hub = Hub::Awaited, "no-hub", Slow),
        (|facts| facts.hub = Hub::Lost, "offline", Fast),
        (|facts| facts.hub = Hub::Unasked, "good", Steady),
    ];
    for (change, word, light) in rows {
        let mut facts = WELL;
        change(&mut facts);
        let found = condition(&facts);
        assert_eq!((found.word(), found.light()), (word, light), "{facts:?}");
    }
}

#[test]
fn every_state_has_a_word_of_its_own_and_a_sentence() {
    let mut words = BTreeSet::new();
    let mut sentences = BTreeSet::new();
    for condition in CONDITIONS {
        let word = condition.word();
        assert!(word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
        words.insert(word);
        sentences.insert(condition.sentence());
    }
    assert_eq!((words.len(), sentences.len()), (15, 15));
    // One state alone lights a LED for good.
    let steady = |condition: &&Condition| condition.light() == Light::Steady;
    assert_eq!(CONDITIONS.iter().filter(steady).count(), 1);
}

#[test]
fn the_documentation_has_every_state() {
    let text = include_str!("../../../docs/state.md");
    for condition in CONDITIONS {
        let light = match condition.light() {
            Light::Steady => "on",
            Light::Slow => "slow",
            Light::Fast => "fast",
            Light::Flash => "flash",
        };
        let begin = format!("| `{}` | {light} | ", condition.word());
        let rows = text.lines().filter(|line| line.starts_with(&begin));
        // Containers that are not let go yet, and those that are on their way: one word, at two places of the order.
        let places = if condition.word() == "booting" { 2 } else { 1 };
        assert_eq!(rows.count(), places, "{begin}");
    }
}

fn look(began: u64, settled: Option<u64>, down: bool) -> Look {
    Look {
        began,
        window: 60_000,
        settled,
        down,
    }
}

#[test]
fn what_comes_up_is_not_missed_before_its_window_is_over() {
    let mut course = Course::default();
    assert_eq!(course.goals(500, look(400, None, false)), Goals::Coming);
    assert_eq!(course.deadline(), Some(60_400));
    assert_eq!(course.goals(60_399, look(400, None, false)), Goals::Coming);
    assert_eq!(course.goals(60_400, look(400, None, false)), Goals::Missed);
    assert_eq!(course.deadline(), None, "time alone changes nothing more");
}

#[test]
fn a_goal_that_was_reached_and_lost_is_missed_until_it_has_held_again() {
    let mut course = Course::default();
    assert_eq!(course.goals(0, look(0, Some(0), false)), Goals::Met);
    assert_eq!(course.deadline(), None);
    // The program starts again at once: nothing is down, and yet it was lost.
    assert_eq!(course.goals(100, look(0, None, false)), Goals::Missed);
    assert_eq!(course.goals(200, look(0, Some(200), false)), Goals::Missed);
    assert_eq!(course.deadline(), Some(200 + HOLD_MS));
    let well = look(0, Some(200), false);
    assert_eq!(course.goals(199 + HOLD_MS, well), Goals::Missed);
    assert_eq!(course.goals(200 + HOLD_MS, well), Goals::Met);
    assert_eq!(course.deadline(), None);
}

#[test]
fn a_crash_loop_is_one_change() {
    let mut course = Course::default();
    let mut found = Vec::new();
    for now in (0..60_000).step_by(500) {
        let runs = now % 2000 == 0;
        let settled = runs.then_some(now);
        found.push(course.goals(now, look(0, settled, !runs)));
    }
    found.dedup();
    assert_eq!(found, [Goals::Met, Goals::Missed]);
}

#[test]
fn one_that_is_down_is_missed_at_once_and_an_exchange_begins_anew() {
    let mut course = Course::default();
    assert_eq!(course.goals(10, look(0, None, true)), Goals::Missed);
    assert_eq!(course.goals(20, look(20, None, false)), Goals::Coming);
    assert_eq!(course.goals(30, look(20, Some(30), false)), Goals::Met);
}

#[test]
fn what_is_away_for_long_is_seen_by_time_alone_and_only_once() {
    let mut course = Course::default();
    assert!(!course.long(1000, true));
    assert!(!course.long(5000, true));
    assert_eq!(course.deadline(), Some(1000 + LONG_MS));
    assert!(!course.long(999 + LONG_MS, true));
    assert!(course.long(1000 + LONG_MS, true));
    assert_eq!(course.deadline(), None);
    assert!(!course.long(2000 + LONG_MS, false));
    assert!(!course.long(3000 + LONG_MS, true), "it counts anew");
    assert_eq!(course.deadline(), Some(3000 + 2 * LONG_MS));
}

#[test]
fn a_cable_that_is_loose_does_not_flood_the_console() {
    let mut course = Course::default();
    let told = (0..1000).filter(|_| course.may_tell(7000)).count();
    assert_eq!(told, 20);
    let at = course.deadline().unwrap();
    assert_eq!(at, 7000 + CHANGE_MS);
    assert!(!course.may_tell(at - 1));
    assert!(course.may_tell(at));
    assert!(!course.may_tell(at));
    course.is_told();
    assert_eq!(course.deadline(), None);
}

#[test]
fn a_cable_has_a_moment_after_the_boot_and_no_second_one() {
    let mut course = Course::default();
    // However slow the boot is, it begins with the first word of a port.
    assert_eq!(course.reach(100, Reach::Untold), Reach::Untold);
    assert_eq!(course.deadline(), None);
    assert_eq!(course.reach(500, Reach::Unplugged), Reach::NoAddress);
    assert_eq!(course.deadline(), Some(500 + LINK_MS));
    // Ports that are configured anew are no link that was seen.
    assert_eq!(course.reach(600, Reach::Untold), Reach::Untold);
    let last = 499 + LINK_MS;
    assert_eq!(course.reach(last, Reach::Unplugged), Reach::NoAddress);
    assert_eq!(course.reach(last + 1, Reach::Unplugged), Reach::Unplugged);
    assert_eq!(course.deadline(), None);
    let mut course = Course::default();
    assert_eq!(course.reach(500, Reach::Unplugged), Reach::NoAddress);
    assert_eq!(course.reach(600, Reach::NoAddress), Reach::NoAddress);
    assert_eq!(course.reach(700, Reach::Up), Reach::Up);
    assert_eq!(course.deadline(), None);
    // Pulled out: that is seen at once.
    assert_eq!(course.reach(800, Reach::Unplugged), Reach::Unplugged);
}
