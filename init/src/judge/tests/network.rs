//! Trials that changed the network.

use super::*;

/// Everything is good at the end of the window, but for what is asked of the network.
fn but_for_the_network(stands: Option<bool>) -> (Court, Verdict) {
    let mut court = Court::one(started());
    court.input(Input::Network { stands });
    court.run("web");
    court.at(31_000);
    court.store(Probe::Passed);
    let verdict = court.at(61_000);
    (court, verdict)
}

#[test]
fn a_network_that_was_changed_is_waited_for_and_missed() {
    assert_eq!(but_for_the_network(Some(true)).1, Verdict::Good);
    // Nothing is plugged in: it is no fault of the trial.
    assert_eq!(but_for_the_network(None).1, Verdict::Good);
    let (mut court, verdict) = but_for_the_network(Some(false));
    assert_eq!(verdict, Verdict::Pending(Some(91_000)));
    assert_eq!(court.at(90_999), Verdict::Pending(Some(91_000)));
    assert_eq!(court.at(91_000), Verdict::Bad(Reason::NetworkLost));
    let (mut court, _) = but_for_the_network(Some(false));
    court.at(80_000);
    let stands = Some(true);
    assert_eq!(court.input(Input::Network { stands }), Verdict::Good);
}

#[test]
fn a_network_that_goes_again_does_not_count() {
    let mut court = Court::one(started());
    for stands in [true, false] {
        let stands = Some(stands);
        court.input(Input::Network { stands });
    }
    court.run("web");
    court.at(31_000);
    court.store(Probe::Passed);
    assert_eq!(court.at(61_000), Verdict::Pending(Some(91_000)));
    assert_eq!(court.at(91_000), Verdict::Bad(Reason::NetworkLost));
}
