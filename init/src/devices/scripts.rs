//! Whole looks, from the event to what containers have, as the driver takes them: with devices that hang, and that leave.

use super::pace::{CALM_MS, Due, Pace};
use super::tests::{HUB, machine, names, rules};
use super::*;

/// What a container has when a look has come so far, and whether it may not be started.
fn given(text: &str, seen: &seen::Seen, has: &[Given]) -> Chosen {
    choose(&rules(text), &seen.known(has), has)
}

#[test]
fn a_device_that_hangs_keeps_nothing_from_those_who_ask_for_no_number() {
    let sys = machine();
    let (any, one) = (r#"["tty vendor=0403"]"#, r#"["tty required serial=B2"]"#);
    let mut pace = Pace::default();
    pace.ask(CALM_MS);
    assert_eq!(pace.due(CALM_MS, false), Due::Look);
    // All is listed, and the first serial number never comes.
    let mut seen = sys.say(&["tty"], 5);
    assert!(seen.listed && !seen.whole);
    let has = given(any, &seen, &[]);
    assert_eq!(names(&has).len(), 2);
    assert!(given(one, &seen, &[]).lacks);
    // Who has the one that is asked for by its number keeps it.
    let before = choose(&rules(one), &sys.look(&["tty"]), &[]).given;
    let kept = given(one, &seen, &before);
    assert_eq!((&kept.given, kept.lacks), (&before, false));
    // An adapter is pulled out meanwhile, and what was said of it counts no more.
    let gone = format!("{HUB}/1-1.2/1-1.2:1.0/ttyUSB0/tty/ttyUSB0");
    let left = without(&has.given, &gone);
    assert_eq!(left.len(), 1);
    assert!(seen.remove(&gone));
    pace.ask(1000 + CALM_MS);
    let late = pace.deadline().unwrap();
    assert_eq!(pace.due(late, false), Due::GiveUp);
    assert!(pace.ended(late, seen.whole));
    let has = given(any, &seen, &left);
    assert_eq!(names(&has), [("ttyUSB1", "ttyUSB1")]);
    // The next one waits for the child that hangs; then it finds all, and tells of nobody anew.
    assert_eq!(pace.due(late, true), Due::Nothing);
    assert_eq!(pace.due(late + 1, false), Due::Look);
    std::fs::remove_file(sys.path("class/tty/ttyUSB0")).unwrap();
    let seen = sys.say(&["tty"], usize::MAX);
    assert!(!pace.ended(late + 2, seen.whole));
    let whole = given(any, &seen, &has.given);
    assert_eq!(names(&whole), names(&has));
    assert!(whole.given[0].found.is(&has.given[0].found));
    assert_eq!(whole.given[0].found.serial, "B2");
    assert!(!given(one, &seen, &before).lacks);
}

#[test]
fn a_look_that_does_not_come_to_the_end_of_the_list_takes_nothing_away() {
    let sys = machine();
    let text = r#"["tty vendor=0403"]"#;
    let has = choose(&rules(text), &sys.look(&["tty"]), &[]).given;
    for most in 0..5 {
        let seen = sys.say(&["tty"], most);
        let kept = given(text, &seen, &has);
        assert_eq!(kept.given, has, "{most}");
    }
    // At its end, what is not listed is not there.
    std::fs::remove_file(sys.path("class/tty/ttyUSB1")).unwrap();
    let seen = sys.say(&["tty"], 4);
    assert!(seen.listed);
    assert_eq!(names(&given(text, &seen, &has)), [("ttyUSB0", "ttyUSB0")]);
}
