//! Every way, every cut, and what must hold on all of them.

use super::*;
use proptest::prelude::*;

const fn id(number: u8) -> ObjectId {
    ObjectId::from_digest([number; 32])
}

const fn target(number: u8) -> Target {
    Target {
        revision: id(number),
        parameters: 3,
    }
}

fn desired(number: u8) -> Desired {
    Desired {
        now: false,
        revision: id(number),
        parameters: 3,
        retry: 0,
        download_only: false,
        apply_in_s: None,
        apply_within_s: None,
        rate: None,
    }
}

/// A device with its agent, in small.
#[derive(Debug, Clone, Default)]
struct World {
    device: Device,
    desired: Option<Desired>,
    confirmed: Option<Target>,
    staged: Option<Target>,
    refused: Option<Target>,
    memory: Memory,
    /// What the memory had of the time that agents ran, when this one began.
    ran_before: u64,
    window: (Option<u64>, Option<u64>),
    now: u64,
}

impl World {
    fn new() -> Self {
        Self {
            device: Device {
                committed: Some(target(1)),
                ..Device::default()
            },
            desired: Some(desired(2)),
            ..Self::default()
        }
    }

    fn step(&self) -> Step {
        decide(&View {
            device: &self.device,
            desired: self.desired.as_ref(),
            confirmed: self.confirmed,
            staged: self.staged,
            refused: self.refused.map(|target| (target, "below-floor")),
            memory: &self.memory,
            trials_until: self.memory.trials_since + TRIAL_S - self.ran_before,
            window: self.window,
            now: self.now,
        })
    }

    /// Does what was decided, as the agent does.
    fn act(&mut self) -> Step {
        count_trials(&mut self.memory, self.ran_before + self.now);
        let step = self.step();
        match &step {
            Step::Rest(..) => {}
            Step::Confirm => {
                self.confirmed = self.desired.as_ref().map(|desired| Target {
                    revision: desired.revision,
                    parameters: desired.parameters,
                });
            }
            Step::Fetch(target) => self.staged = Some(*target),
            Step::Apply(target) => {
                self.memory.trying = Some(Failed {
                    revision: target.revision,
                    parameters: target.parameters,
                    retry: self.desired.as_ref().map_or(0, |desired| desired.retry),
                });
                self.memory.trials += 1;
                self.memory.ran = self.ran_before + self.now;
                self.device.trial = Some(Trial::Runs);
            }
            Step::GiveUp => {
                let Some(Trial::Waits(given_up)) = self.device.trial.take() else {
                    panic!("nothing waits: {self:?}");
                };
                self.device.failed = Some((given_up, "operator".to_owned()));
            }
            Step::Settle(phase, failed) => {
                let tried = self.memory.trying.take();
                if let (Phase::Committed, Some(tried)) = (phase, tried) {
                    self.memory.forget(tried);
                }
                if let Some(failed) = failed {
                    self.memory.fail(*failed);
                }
            }
        }
        step
    }

    /// The trial is judged.
    fn judge(&mut self, good: bool) {
        let tried = self.memory.trying.unwrap();
        let tried = Target {
            revision: tried.revision,
            parameters: tried.parameters,
        };
        self.device.trial = None;
        if good {
            self.device.committed = Some(tried);
        } else {
            self.device.failed = Some((tried, "crash-loop(web)".to_owned()));
        }
    }

    /// The agent is killed: only what is kept is left.
    fn kill(&mut self) {
        self.confirmed = None;
        self.staged = None;
        self.refused = None;
        // Its clock begins anew.
        self.now = 0;
        self.ran_before = self.memory.ran;
    }
}

#[test]
fn the_way_of_a_good_revision() {
    let mut world = World::new();
    assert_eq!(world.act(), Step::Confirm);
    assert_eq!(world.act(), Step::Fetch(target(2)));
    assert_eq!(world.act(), Step::Apply(target(2)));
    assert_eq!(world.act(), Step::Rest(Phase::Judging, None));
    world.device.trial = Some(Trial::Waits(target(2)));
    assert_eq!(world.act(), Step::Rest(Phase::Trying, None));
    world.judge(true);
    assert_eq!(world.act(), Step::Settle(Phase::Committed, None));
    assert_eq!(world.act(), Step::Rest(Phase::Idle, None));
}

#[test]
fn a_bad_revision_is_tried_again_only_when_retry_is_raised() {
    let mut world = World::new();
    while world.device.trial.is_none() {
        world.act();
    }
    world.judge(false);
    let reason = "crash-loop(web)".to_owned();
    assert!(
        matches!(world.act(), Step::Settle(Phase::RolledBack { reason: why }, Some(_)) if why == reason)
    );
    assert_eq!(world.act(), Step::Rest(Phase::RolledBack { reason }, None));
    world.kill();
    assert!(matches!(
        world.act(),
        Step::Rest(Phase::RolledBack { .. }, None)
    ));
    if let Some(desired) = &mut world.desired {
        desired.retry = 1;
    }
    assert_eq!(world.act(), Step::Confirm);
}

/// What is committed never settles, so that the trial is never tried again, and nothing else would ever be taken.
#[test]
fn a_trial_that_waits_gives_way_to_what_is_wanted_now() {
    let waiting = || {
        let mut world = World::new();
        while world.device.trial.is_none() {
            world.act();
        }
        world.device.trial = Some(Trial::Waits(target(2)));
        assert_eq!(world.act(), Step::Rest(Phase::Trying, None));
        world
    };
    for (killed, repair) in [(false, None), (true, None), (true, Some(String::new()))] {
        let mut world = waiting();
        world.device.repair = repair;
        if killed {
            world.kill();
        }
        world.desired = Some(desired(3));
        // A hub's answer that is not signed and fresh ends nothing.
        assert_eq!(world.act(), Step::Confirm);
        assert_eq!(world.act(), Step::GiveUp);
        assert!(matches!(
            world.act(),
            Step::Settle(Phase::RolledBack { .. }, Some(_))
        ));
        while world.device.trial.is_none() {
            world.act();
        }
        world.judge(true);
        world.act();
        assert_eq!(world.device.committed, Some(target(3)));
    }
    // Back to what is committed: the operator wants no trial any more.
    let mut world = waiting();
    world.desired = Some(desired(1));
    assert_eq!(world.act(), Step::Confirm);
    assert_eq!(world.act(), Step::GiveUp);
    world.act();
    assert_eq!(world.act(), Step::Rest(Phase::Idle, None));
    // Somebody's with a stick, who knows why.
    let mut world = World::new();
    world.desired = Some(desired(1));
    world.device.trial = Some(Trial::Waits(target(2)));
    assert_eq!(world.act(), Step::Rest(Phase::Trying, None));
    // What is only to be kept is not to be tried; and what is written is left to its end.
    for busy in [false, true] {
        let mut world = waiting();
        world.device.busy = busy;
        let mut other = desired(3);
        other.download_only = !busy;
        world.desired = Some(other);
        assert_eq!(world.act(), Step::Rest(Phase::Trying, None));
    }
}

#[test]
fn an_old_failure_with_other_values_is_no_word_on_what_was_never_begun() {
    let mut world = World::new();
    world.device.failed = Some((
        Target {
            parameters: 1,
            ..target(2)
        },
        "crash-loop(web)".to_owned(),
    ));
    if let Some(desired) = &mut world.desired {
        desired.parameters = 2;
    }
    while world.device.trial.is_none() {
        world.act();
    }
    // The power was cut while the slot was written.
    world.device.trial = None;
    assert_eq!(world.act(), Step::Settle(Phase::Idle, None));
    assert!(matches!(world.act(), Step::Confirm | Step::Apply(_)));
    // Without values of its own the hub takes the device's, and its word on them.
    let tried = Failed {
        revision: target(2).revision,
        parameters: 0,
        retry: 0,
    };
    world.memory.trying = Some(tried);
    world.device.trial = None;
    assert!(matches!(
        world.step(),
        Step::Settle(Phase::RolledBack { .. }, Some(_))
    ));
}

#[test]
fn a_kill_or_a_power_cut_at_any_step_ends_well() {
    for cut in 0..6 {
        for lost_apply in [false, true] {
            let mut world = World::new();
            for _ in 0..cut {
                world.act();
            }
            world.kill();
            if lost_apply && world.device.trial.is_some() {
                // PID 1 had not yet written down that it tries.
                world.device.trial = None;
            }
            for _ in 0..8 {
                world.act();
                if world.device.trial.is_some() {
                    world.judge(true);
                }
            }
            assert_eq!(world.device.committed, Some(target(2)), "cut after {cut}");
            assert_eq!(world.step(), Step::Rest(Phase::Idle, None));
            assert_eq!(world.memory.trying, None);
        }
    }
}

#[test]
fn what_is_being_written_is_not_yet_judged() {
    let mut world = World::new();
    while world.device.trial.is_none() {
        world.act();
    }
    world.device.trial = None;
    world.device.busy = true;
    assert_eq!(world.act(), Step::Rest(Phase::Trying, None));
    assert!(world.memory.trying.is_some());
}

#[test]
fn what_waits_says_for_what() {
    let staged = || {
        let mut world = World::new();
        world.act();
        world.act();
        world
    };
    let rests = |world: &World| {
        if let Step::Rest(Phase::Waiting { for_what }, until) = world.step() {
            Some((for_what, until))
        } else {
            None
        }
    };
    let mut world = staged();
    world.window = (Some(100), Some(200));
    assert_eq!(rests(&world), Some((Wait::Window, Some(100))));
    world.now = 100;
    assert_eq!(world.step(), Step::Apply(target(2)));
    world.now = 200;
    assert_eq!(rests(&world), Some((Wait::Window, None)));
    let mut world = staged();
    if let Some(desired) = &mut world.desired {
        desired.download_only = true;
    }
    assert_eq!(rests(&world), Some((Wait::Apply, None)));
    let mut world = staged();
    world.device.locked = true;
    assert_eq!(rests(&world), Some((Wait::Lock, None)));
    world.window = (Some(0), Some(200));
    assert_eq!(rests(&world), Some((Wait::Lock, Some(200))));
    world.now = 200;
    assert_eq!(rests(&world), Some((Wait::Window, None)));
    world.window = (None, None);
    world.device.locked = false;
    assert_eq!(world.step(), Step::Apply(target(2)));
    // An operator's word.
    world.device.locked = true;
    if let Some(desired) = &mut world.desired {
        desired.now = true;
    }
    assert_eq!(world.step(), Step::Apply(target(2)));
    let mut world = staged();
    world.staged = None;
    world.device.busy = true;
    assert_eq!(world.step(), Step::Rest(Phase::Checking, None));
    let mut world = World::new();
    world.refused = Some(target(2));
    assert!(matches!(world.step(), Step::Rest(Phase::Refused { .. }, _)));
}

#[test]
fn nothing_desired_or_what_runs_is_rest() {
    let mut world = World::new();
    world.desired = None;
    assert_eq!(world.step(), Step::Rest(Phase::Idle, None));
    for (text, reason) in [
        ("", None),
        ("trust: no root", Some("trust: no root".to_owned())),
    ] {
        world.device.repair = Some(text.to_owned());
        assert_eq!(world.step(), Step::Rest(Phase::Repair { reason }, None));
    }
    world.device.repair = None;
    world.desired = Some(desired(1));
    assert_eq!(world.step(), Step::Rest(Phase::Idle, None));
    // Without values of the hub's the device's own stay; with others it is another target.
    for (parameters, rests) in [(0, true), (3, true), (4, false)] {
        if let Some(desired) = &mut world.desired {
            desired.parameters = parameters;
        }
        assert_eq!(world.step() == Step::Rest(Phase::Idle, None), rests);
    }
}

/// What a stolen hub key could order: a retry as soon as a trial failed, or another revision as soon as one was good, and
/// restarts of the device in between. How many trials begin in `seconds`.
fn trials_in(seconds: u64, good: bool, restart_after: Option<u64>) -> u32 {
    let mut world = World::new();
    let mut began = 0;
    for second in 0..seconds {
        world.now += 1;
        if restart_after.is_some_and(|after| second % after == after - 1) {
            world.kill();
        }
        for _ in 0..6 {
            began += u32::from(matches!(world.act(), Step::Apply(_)));
            if world.device.trial.is_some() {
                world.judge(good);
            }
        }
        let wanted = world.desired.as_mut().unwrap();
        if good && world.device.committed.map(|target| target.revision) == Some(wanted.revision) {
            *wanted = desired(if wanted.revision == id(2) { 3 } else { 2 });
            world.confirmed = None;
        } else if !good {
            wanted.retry += 1;
        }
    }
    began
}

#[test]
fn trials_without_end_are_not_begun() {
    for good in [false, true] {
        let hours = 5;
        let most = TRIALS + u32::try_from(hours * 3600 / TRIAL_S).unwrap();
        let began = trials_in(hours * 3600, good, None);
        assert!((most - 1..=most).contains(&began), "{began} of {most}");
        // A restart makes nothing forgotten: it takes a little longer until a trial counts no longer.
        for after in [60, 600, 899, 1000] {
            assert!(trials_in(hours * 3600, good, Some(after)) <= began);
        }
        // A device that never runs for long at once is held back no longer than others.
        let often = trials_in(hours * 3600, good, Some(600));
        assert!(often + 6 >= began, "{often} of {began}");
    }
}

#[test]
fn a_trial_that_is_held_back_is_told_and_begins_later() {
    let mut world = World::new();
    world.memory.trials = TRIALS;
    world.act();
    world.act();
    let reason = HELD_BACK.to_owned();
    assert_eq!(
        world.act(),
        Step::Rest(Phase::Refused { reason }, Some(TRIAL_S))
    );
    world.now = TRIAL_S;
    assert_eq!(world.act(), Step::Apply(target(2)));
    let is = |memory: &Memory| (memory.trials, memory.trials_since);
    assert_eq!(is(&world.memory), (TRIALS, TRIAL_S));
    // A time with no trial is not saved up.
    for (trials, since, ran, left) in [
        (0, 0, 99, (0, 99)),
        (2, 0, 10 * TRIAL_S, (0, 10 * TRIAL_S)),
        (3, 10, 20 + 2 * TRIAL_S, (1, 10 + 2 * TRIAL_S)),
    ] {
        let mut memory = Memory {
            trials,
            trials_since: since,
            ..Memory::default()
        };
        count_trials(&mut memory, ran);
        assert_eq!(is(&memory), left);
    }
}

#[derive(Debug, Clone, Copy)]
enum Happens {
    Act,
    Kill,
    Judge(bool),
    Assign(u8),
    Retry,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => Just(Happens::Act),
        1 => Just(Happens::Kill),
        2 => any::<bool>().prop_map(Happens::Judge),
        1 => (1_u8..4).prop_map(Happens::Assign),
        1 => Just(Happens::Retry),
    ]
}

proptest! {
    #[test]
    fn what_failed_is_never_tried_again_by_itself(steps in proptest::collection::vec(happens(), 0..60)) {
        let mut world = World::new();
        let mut failed: Vec<(Target, u32)> = Vec::new();
        for step in steps {
            match step {
                Happens::Act => {
                    if let Step::Apply(target) = world.act() {
                        let retry = world.desired.as_ref().map_or(0, |desired| desired.retry);
                        prop_assert!(
                            !failed.iter().any(|(other, raised)| *other == target && *raised >= retry),
                            "{target:?} failed and is tried again"
                        );
                        prop_assert_eq!(world.confirmed, Some(target), "nobody has assigned it");
                    }
                }
                Happens::Kill => world.kill(),
                Happens::Judge(good) if world.device.trial.is_some() => {
                    let tried = world.memory.trying.unwrap();
                    world.judge(good);
                    if !good {
                        failed.push((Target { revision: tried.revision, parameters: tried.parameters }, tried.retry));
                    }
                }
                Happens::Judge(_) => {}
                Happens::Assign(number) => {
                    let retry = world.desired.as_ref().map_or(0, |desired| desired.retry);
                    world.desired = Some(Desired { retry, ..desired(number) });
                    world.confirmed = None;
                }
                Happens::Retry => {
                    if let Some(desired) = &mut world.desired {
                        desired.retry += 1;
                    }
                }
            }
        }
    }
}
