//! Each rule by hand, with a real supervisor. The window is 60 s; trials begin at 1 s.

mod network;
use super::*;
use crate::machine::fixture::{Rig, container, content, health, name};
use crate::machine::{Action, Command, Event};
use kedge_revision::container::{Check, Container, Goal, RestartPolicy, Then};

const WINDOW: u32 = 60;
const GOOD: ExitStatus = ExitStatus::Exited(0);
const BAD: ExitStatus = ExitStatus::Exited(3);
const KILLED: ExitStatus = ExitStatus::Signaled {
    signal: 9,
    core: false,
};

/// A supervisor, its judge, and a store that answers when it is told to.
struct Court {
    rig: Rig,
    judge: Judge,
    /// Test writes that were asked for and not answered.
    asked: u32,
}

impl Court {
    /// The trial begins with the supervisor; nothing runs yet.
    fn new(groups: &[&str], containers: Vec<(&str, Container)>) -> Self {
        let (rig, _) = Rig::begin(&content(groups, containers));
        let judge = Judge::trial(WINDOW, rig.now, &rig.machine, HubRule::Free);
        let mut court = Self {
            rig,
            judge,
            asked: 0,
        };
        assert_eq!(court.look(), Verdict::Pending(Some(11_000)));
        assert_eq!(court.asked, 1, "the store is asked at once");
        court
    }

    /// One container `web` of this definition, not yet run, and a store that took its first test write.
    fn one(definition: Container) -> Self {
        let mut court = Self::new(&["main"], vec![("web", definition)]);
        assert_eq!(court.store(Probe::Passed), Verdict::Pending(Some(31_000)));
        court
    }

    fn input(&mut self, input: Input) -> Verdict {
        let judged = self.judge.step(self.rig.now, input, &self.rig.machine);
        self.asked += u32::from(judged.probe);
        judged.verdict
    }

    fn look(&mut self) -> Verdict {
        self.input(Input::Look)
    }

    fn store(&mut self, probe: Probe) -> Verdict {
        assert_eq!(self.asked, 1);
        self.asked = 0;
        self.input(Input::Probe(probe))
    }

    fn at(&mut self, now: u64) -> Verdict {
        let passed = now - self.rig.now;
        self.rig.pass(passed);
        self.look()
    }

    fn run(&mut self, text: &str) -> Verdict {
        let id = self.rig.id(text);
        self.rig.run(id);
        self.look()
    }

    /// Its process ends.
    fn end(&mut self, text: &str, status: ExitStatus) -> Verdict {
        let id = self.rig.id(text);
        self.rig.step(Event::Exited { id, status });
        self.rig.step(Event::CgroupEmpty(id));
        self.look()
    }

    /// It ends, and is started again after its back-off, whatever that is.
    fn crash(&mut self, text: &str, status: ExitStatus) -> Verdict {
        assert!(matches!(self.end(text, status), Verdict::Pending(_)));
        let at = self.rig.machine.next_deadline().unwrap();
        self.at(at)
    }

    /// The kernel kills it for want of memory.
    fn starve(&mut self, text: &str) {
        let id = self.rig.id(text);
        self.rig.step(Event::Oom(id));
    }
}

fn started() -> Container {
    container("main", Goal::Started)
}

/// Told ready by a message, in 24 minutes at most.
fn ready() -> Container {
    let mut made = container("main", Goal::Ready);
    let mut watch = health(Check::Notify);
    watch.start_period_ms = 1_440_000;
    made.health = Some(watch);
    made
}

fn missed(text: &str, goal: Goal, exit: i32) -> Verdict {
    Verdict::Bad(Reason::GoalMissed {
        container: name(text),
        goal,
        exit,
    })
}

fn starved(text: &str) -> Verdict {
    Verdict::Bad(Reason::OutOfMemory {
        container: Some(name(text)),
    })
}

const STORAGE: Verdict = Verdict::Bad(Reason::Storage);

#[test]
fn goals_that_hold_and_a_store_that_takes_a_write_are_good() {
    let mut court = Court::one(started());
    court.run("web");
    assert_eq!(court.at(30_999), Verdict::Pending(Some(31_000)));
    assert_eq!(court.asked, 0);
    assert_eq!(court.at(31_000), Verdict::Pending(Some(41_000)));
    assert_eq!(court.store(Probe::Passed), Verdict::Pending(Some(61_000)));
    assert_eq!(court.at(60_999), Verdict::Pending(Some(61_000)));
    assert_eq!(court.at(61_000), Verdict::Good);
    // It is final.
    court.rig.now += 1;
    court.end("web", BAD);
    assert_eq!(court.input(Input::Operator), Verdict::Good);
    assert_eq!(court.asked, 0);
}

#[test]
fn people_and_containers_may_end_a_trial() {
    let mut court = Court::one(started());
    assert_eq!(court.input(Input::Operator), Verdict::Bad(Reason::Operator));
    let mut proud = started();
    proud.restart.policy = RestartPolicy::No;
    proud.restart.then = Then::RollBack;
    for (status, oom) in [(BAD, false), (KILLED, true)] {
        let mut court = Court::one(proud.clone());
        court.run("web");
        if oom {
            court.starve("web");
        }
        let id = court.rig.id("web");
        court.rig.step(Event::Exited { id, status });
        let actions = court.rig.step(Event::CgroupEmpty(id));
        let [Action::RollBack { id, ending }] = actions[..] else {
            panic!("{actions:?}");
        };
        let verdict = court.input(Input::RollBack { id, ending });
        let goal = Goal::Started;
        let expected = if oom {
            starved("web")
        } else {
            missed("web", goal, 0x300)
        };
        assert_eq!(verdict, expected);
        assert_eq!(court.look(), expected, "it is final");
    }
}

#[test]
fn a_container_that_is_down_for_good_is_bad_at_once() {
    let once = |goal| {
        let mut made = if goal == Goal::Ready {
            ready()
        } else {
            started()
        };
        made.goal = goal;
        made.restart.policy = RestartPolicy::No;
        made
    };
    let core = ExitStatus::Signaled {
        signal: 11,
        core: true,
    };
    let table = [
        (Goal::Started, BAD, missed("web", Goal::Started, 0x300)),
        (Goal::Finished, BAD, missed("web", Goal::Finished, 0x300)),
        (Goal::Finished, core, missed("web", Goal::Finished, 0x8b)),
        (Goal::Ready, GOOD, missed("web", Goal::Ready, 0)),
        (Goal::Ready, KILLED, missed("web", Goal::Ready, 9)),
    ];
    for (goal, status, expected) in table {
        let mut court = Court::one(once(goal));
        court.run("web");
        assert_eq!(court.end("web", status), expected);
    }
    // What ends well and may is not bad.
    for goal in [Goal::Started, Goal::Finished] {
        let mut court = Court::one(once(goal));
        court.run("web");
        assert_eq!(court.end("web", GOOD), Verdict::Pending(Some(31_000)));
    }
    let mut court = Court::one(once(Goal::Started));
    court.run("web");
    court.starve("web");
    assert_eq!(court.end("web", KILLED), starved("web"));
    // No program at all.
    let mut court = Court::one(once(Goal::Started));
    let id = court.rig.id("web");
    court.rig.step(Event::SpawnFailed { id, errno: 2 });
    assert_eq!(court.look(), missed("web", Goal::Started, 0x7f00));
}

#[test]
fn retries_that_are_left_are_used() {
    let mut job = container("main", Goal::Finished);
    job.restart.max_retries = Some(1);
    let mut court = Court::one(job);
    court.run("web");
    assert!(matches!(court.crash("web", BAD), Verdict::Pending(_)));
    court.run("web");
    assert_eq!(court.end("web", BAD), missed("web", Goal::Finished, 0x300));
}

#[test]
fn three_restarts_are_a_crash_loop() {
    // A restart by a person, and those before the trial, do not count.
    for (oom, earlier) in [(false, false), (true, false), (false, true)] {
        let mut court = Court::one(started());
        court.run("web");
        if earlier {
            court.crash("web", BAD);
            court.run("web");
            court.judge = Judge::trial(WINDOW, court.rig.now, &court.rig.machine, HubRule::Free);
            court.look();
        }
        let id = court.rig.id("web");
        let command = Command::Restart;
        court.rig.step(Event::Command { id, command });
        court.end("web", GOOD);
        court.run("web");
        for _ in 0..2 {
            assert!(matches!(court.crash("web", BAD), Verdict::Pending(_)));
            court.run("web");
        }
        if oom {
            court.starve("web");
        }
        let verdict = court.crash("web", KILLED);
        let container = name("web");
        let crashes = Verdict::Bad(Reason::CrashLoop { container, exit: 9 });
        assert_eq!(verdict, if oom { starved("web") } else { crashes });
    }
}

#[test]
fn restarts_of_different_containers_are_no_loop() {
    let list = vec![("api", started()), ("web", started())];
    let mut court = Court::new(&["main"], list);
    court.store(Probe::Passed);
    court.run("api");
    court.run("web");
    for text in ["api", "web", "web", "api"] {
        assert!(matches!(court.crash(text, BAD), Verdict::Pending(_)));
        court.run(text);
    }
}

#[test]
fn a_store_that_fails_or_stays_silent_is_bad_at_once() {
    let court = || Court::new(&["main"], vec![("web", started())]);
    assert_eq!(court().store(Probe::Failed), STORAGE);
    let mut silent = court();
    assert_eq!(silent.at(10_999), Verdict::Pending(Some(11_000)));
    assert_eq!(silent.at(11_000), STORAGE);
    for answer in [Some(Probe::Failed), None] {
        let mut second = Court::one(started());
        second.run("web");
        second.at(31_000);
        match answer {
            Some(probe) => assert_eq!(second.store(probe), STORAGE),
            None => assert_eq!(second.at(41_000), STORAGE),
        }
    }
    // An answer that nobody asked for is none.
    let mut court = Court::one(started());
    assert_eq!(
        court.input(Input::Probe(Probe::Failed)),
        Verdict::Pending(Some(31_000))
    );
}

#[test]
fn a_store_that_took_a_write_only_in_the_first_half_does_not_do() {
    let mut court = Court::new(&["main"], vec![("web", started())]);
    court.run("web");
    // Asked at 1 s, answered just in time; the one of the second half is asked late, and still due at the end.
    court.at(10_999);
    assert_eq!(court.store(Probe::Passed), Verdict::Pending(Some(31_000)));
    assert_eq!(court.at(55_000), Verdict::Pending(Some(61_000)));
    assert_eq!(court.asked, 1);
    assert_eq!(court.at(61_000), Verdict::Pending(Some(65_000)));
    assert_eq!(court.store(Probe::Passed), Verdict::Good);
}

#[test]
fn a_short_window_does_not_outlive_a_slow_store() {
    let (rig, _) = Rig::begin(&content(&["main"], vec![("web", started())]));
    let judge = Judge::trial(5, rig.now, &rig.machine, HubRule::Free);
    let mut court = Court {
        rig,
        judge,
        asked: 0,
    };
    court.look();
    court.run("web");
    assert_eq!(court.at(6000), Verdict::Pending(Some(8500)));
    assert_eq!(court.at(8500), STORAGE);
}

#[test]
fn a_goal_that_is_missed_at_the_end_is_bad() {
    let mut court = Court::one(ready());
    court.run("web");
    court.at(31_000);
    court.store(Probe::Passed);
    assert_eq!(court.at(60_999), Verdict::Pending(Some(61_000)));
    assert_eq!(court.at(61_000), missed("web", Goal::Ready, 0));
    // It tells how an earlier run ended.
    for (oom, expected) in [
        (false, missed("web", Goal::Ready, 9)),
        (true, starved("web")),
    ] {
        let mut court = Court::one(ready());
        court.run("web");
        if oom {
            court.starve("web");
        }
        court.crash("web", KILLED);
        court.run("web");
        court.at(31_000);
        court.store(Probe::Passed);
        assert_eq!(court.at(61_000), expected);
    }
    // One that a person stopped has missed its goal as well, but not before the end.
    let mut court = Court::one(started());
    court.run("web");
    let id = court.rig.id("web");
    let command = Command::Stop;
    court.rig.step(Event::Command { id, command });
    court.end("web", GOOD);
    court.at(31_000);
    court.store(Probe::Passed);
    assert_eq!(court.at(61_000), missed("web", Goal::Started, 0));
}

#[test]
fn the_culprit_is_the_first_by_group_and_name_that_does_not_wait() {
    let group = |mut made: Container, group: &str| {
        made.group = name(group);
        made
    };
    let mut dependent = group(started(), "first");
    dependent.after = vec![name("n")];
    let mut further = group(started(), "first");
    further.after = vec![name("b")];
    let list = vec![
        // It waits for b, and b for n.
        ("a", further),
        ("b", dependent),
        ("c", group(started(), "last")),
        ("m", group(ready(), "first")),
        ("n", group(ready(), "first")),
    ];
    let mut court = Court::new(&["first", "last"], list);
    court.store(Probe::Passed);
    court.run("m");
    court.run("n");
    court.at(31_000);
    court.store(Probe::Passed);
    assert_eq!(court.at(61_000), missed("n", Goal::Ready, 0));
    // A later group's container is not first, whatever its name; and it waits for the first group.
    let list = vec![
        ("a", group(started(), "last")),
        ("z", group(ready(), "first")),
    ];
    let mut court = Court::new(&["first", "last"], list);
    court.store(Probe::Passed);
    court.run("z");
    court.at(31_000);
    court.store(Probe::Passed);
    assert_eq!(court.at(61_000), missed("z", Goal::Ready, 0));
    // Both run and miss their goals: the earlier group's.
    let list = vec![
        ("a", group(ready(), "last")),
        ("z", group(ready(), "first")),
    ];
    let mut court = Court::new(&["first", "last"], list);
    court.store(Probe::Passed);
    for text in ["z", "a"] {
        court.run(text);
        let id = court.rig.id(text);
        court.rig.step(Event::NotifyReady(id));
    }
    for text in ["a", "z"] {
        court.crash(text, BAD);
        court.run(text);
    }
    let mut now = 31_000;
    court.at(now);
    court.store(Probe::Passed);
    while now < 61_000 {
        now += 1000;
        court.at(now);
    }
    assert_eq!(court.look(), missed("z", Goal::Ready, 0x300));
}

#[test]
fn goals_must_have_held_for_half_the_window() {
    let mut court = Court::one(ready());
    court.run("web");
    court.at(31_000);
    court.store(Probe::Passed);
    court.at(50_000);
    let id = court.rig.id("web");
    court.rig.step(Event::NotifyReady(id));
    let alive = |court: &mut Court, now| {
        court.rig.step(Event::NotifyWatchdog(id));
        court.at(now)
    };
    for now in (52_000..61_000).step_by(2000) {
        alive(&mut court, now);
    }
    // Held since 50 s, so good at 80 s.
    assert_eq!(alive(&mut court, 61_000), Verdict::Pending(Some(80_000)));
    for now in (62_000..80_000).step_by(2000) {
        assert_eq!(alive(&mut court, now), Verdict::Pending(Some(80_000)));
    }
    assert_eq!(alive(&mut court, 80_000), Verdict::Good);
}

#[test]
fn a_break_after_the_window_is_bad_at_once() {
    let mut court = Court::one(started());
    court.at(31_000);
    court.store(Probe::Passed);
    // Its third of a minute of start is over: the supervisor has tried again since.
    let id = court.rig.id("web");
    court.rig.step(Event::Started { id, pid: 5 });
    court.end("web", KILLED);
    let at = court.rig.machine.next_deadline().unwrap();
    court.at(at);
    court.at(40_000);
    court.run("web");
    assert_eq!(court.at(61_000), Verdict::Pending(Some(70_000)));
    assert_eq!(court.at(65_000), Verdict::Pending(Some(70_000)));
    assert_eq!(court.end("web", BAD), missed("web", Goal::Started, 0x300));
}

#[test]
fn a_break_that_nobody_saw_is_found_at_the_latest_time() {
    let list = vec![("api", started()), ("web", started())];
    let mut court = Court::new(&["main"], list);
    court.store(Probe::Passed);
    court.run("api");
    court.run("web");
    court.at(31_000);
    court.store(Probe::Passed);
    court.rig.pass(60_000 - court.rig.now + 1000);
    // Down and up again between two looks.
    let id = court.rig.id("api");
    court.rig.pass(20_000);
    court.rig.step(Event::Exited { id, status: BAD });
    court.rig.step(Event::CgroupEmpty(id));
    court.rig.pass(100);
    court.rig.run(id);
    let since = court.rig.now;
    assert!(since > 61_000);
    assert_eq!(court.look(), Verdict::Pending(Some(91_000)));
    assert_eq!(court.at(91_000), missed("api", Goal::Started, 0x300));
}

#[test]
fn what_was_down_before_a_live_trial_counts() {
    let mut once = started();
    once.restart.policy = RestartPolicy::No;
    let (mut rig, _) = Rig::begin(&content(&["main"], vec![("web", once)]));
    let id = rig.id("web");
    rig.run(id);
    rig.step(Event::Exited { id, status: BAD });
    rig.step(Event::CgroupEmpty(id));
    let mut judge = Judge::trial(WINDOW, rig.now, &rig.machine, HubRule::Free);
    let judged = judge.step(rig.now, Input::Look, &rig.machine);
    assert_eq!(judged.verdict, missed("web", Goal::Started, 0x300));
    assert!(!judged.probe, "it would prove nothing");
}

#[test]
fn a_revision_without_containers_is_good() {
    let mut court = Court::new(&[], vec![]);
    court.store(Probe::Passed);
    court.at(31_000);
    court.store(Probe::Passed);
    assert_eq!(court.at(61_000), Verdict::Good);
}

#[test]
fn outside_trials_goals_settle_and_nothing_is_bad() {
    let (mut rig, _) = Rig::begin(&content(&["main"], vec![("web", started())]));
    let mut judge = Judge::settling(WINDOW);
    let id = rig.id("web");
    let mut look = |rig: &Rig, input| {
        let judged = judge.step(rig.now, input, &rig.machine);
        assert!(!judged.probe);
        judged.verdict
    };
    assert_eq!(look(&rig, Input::Look), Verdict::Pending(None));
    assert_eq!(look(&rig, Input::Operator), Verdict::Pending(None));
    for _ in 0..5 {
        rig.run(id);
        let due = rig.now + 60_000;
        assert_eq!(look(&rig, Input::Look), Verdict::Pending(Some(due)));
        rig.step(Event::Exited { id, status: BAD });
        rig.step(Event::CgroupEmpty(id));
        assert_eq!(look(&rig, Input::Look), Verdict::Pending(None));
        rig.pass(1000);
    }
    rig.run(id);
    rig.pass(59_999);
    assert_eq!(look(&rig, Input::Look), Verdict::Pending(Some(rig.now + 1)));
    rig.pass(1);
    assert_eq!(look(&rig, Input::Look), Verdict::Good);
    rig.step(Event::Exited { id, status: BAD });
    assert_eq!(look(&rig, Input::Look), Verdict::Good);
}

/// Everything is good at the end of the window, but for what is asked of a hub.
fn but_for_the_hub(rule: HubRule) -> (Court, Verdict) {
    let mut court = Court::one(started());
    court.judge = Judge::trial(WINDOW, court.rig.now, &court.rig.machine, rule);
    court.look();
    court.store(Probe::Passed);
    court.run("web");
    court.at(31_000);
    court.store(Probe::Passed);
    let verdict = court.at(61_000);
    (court, verdict)
}

const WAITS_FOR_THE_HUB: Verdict = Verdict::Pending(Some(1000 + HUB_LIMIT));

#[test]
fn a_hub_that_had_answered_is_waited_for() {
    assert_eq!(but_for_the_hub(HubRule::Free).1, Verdict::Good);
    for rule in [HubRule::Waits, HubRule::Decides] {
        let (mut court, verdict) = but_for_the_hub(rule);
        assert_eq!(verdict, WAITS_FOR_THE_HUB);
        assert_eq!(court.at(500_000), WAITS_FOR_THE_HUB);
        assert_eq!(court.input(Input::Hub), Verdict::Good);
    }
    // For as long as the revision says, but never less than its window takes.
    let (rig, _) = Rig::begin(&content(&[], Vec::new()));
    for (wait, until) in [(7200, 7_200_000), (1, u64::from(WINDOW) * 1500)] {
        let judge = Judge::trial(WINDOW, 0, &rig.machine, HubRule::Decides);
        let judge = judge.waiting_for_hub(wait, 0);
        assert_eq!(judge.trial.unwrap().hub_until, until);
    }
}

#[test]
fn a_silent_hub_is_lost_only_by_what_could_have_cut_the_device_off() {
    let (mut court, _) = but_for_the_hub(HubRule::Decides);
    assert_eq!(court.at(HUB_LIMIT + 999), WAITS_FOR_THE_HUB);
    assert_eq!(court.at(HUB_LIMIT + 1000), Verdict::Bad(Reason::HubLost));
    let (mut court, _) = but_for_the_hub(HubRule::Waits);
    assert_eq!(court.at(HUB_LIMIT + 1000), Verdict::Good);
}

#[test]
fn an_answer_of_the_first_second_counts_and_goals_are_judged_while_a_hub_is_waited_for() {
    let mut court = Court::one(started());
    court.judge = Judge::trial(WINDOW, court.rig.now, &court.rig.machine, HubRule::Decides);
    court.look();
    court.input(Input::Hub);
    court.store(Probe::Passed);
    court.run("web");
    court.at(31_000);
    court.store(Probe::Passed);
    assert_eq!(court.at(61_000), Verdict::Good);

    let (mut court, _) = but_for_the_hub(HubRule::Waits);
    court.at(100_000);
    assert_eq!(court.end("web", BAD), missed("web", Goal::Started, 3 << 8));
}
