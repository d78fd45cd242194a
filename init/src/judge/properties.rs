//! Random revisions, events and stores: what must hold of every verdict.

use super::*;
use crate::machine::Event;
use crate::machine::random::{Op, definitions, op, pool};
use crate::machine::world::World;
use kedge_revision::container::Goal;
use proptest::prelude::*;

/// How the store answers test writes.
#[derive(Debug, Clone, Copy)]
enum Disk {
    Good,
    /// So many milliseconds after it was asked.
    Slow(u64),
    Broken,
    Silent,
}

/// A world, its judge, and what the test knows by itself.
struct Court {
    world: World,
    judge: Judge,
    begun: u64,
    window: u64,
    disk: Disk,
    /// When a test write was asked for, while it is not answered.
    asked: Option<u64>,
    /// One was asked for in the second half, and passed.
    took: bool,
    failed: bool,
    /// A person asked for a roll back.
    operator: bool,
    /// The newest time at which a goal was missed.
    broken: Option<u64>,
    verdict: Verdict,
}

impl Court {
    fn new(world: World, window_s: u32, disk: Disk) -> Self {
        let begun = world.now;
        let mut court = Self {
            judge: Judge::trial(window_s, begun, &world.machine, HubRule::Free),
            world,
            begun,
            window: u64::from(window_s) * 1000,
            disk,
            asked: None,
            took: false,
            failed: false,
            operator: false,
            broken: None,
            verdict: Verdict::Pending(None),
        };
        court.input(Input::Look);
        court
    }

    fn decided(&self) -> bool {
        !matches!(self.verdict, Verdict::Pending(_))
    }

    fn input(&mut self, input: Input) {
        let now = self.world.now;
        let before = self.verdict.clone();
        let decided = self.decided();
        let judged = self.judge.step(now, input, &self.world.machine);
        self.verdict = judged.verdict;
        if !self.world.machine.goals_met() {
            self.broken = Some(now);
        }
        if decided {
            assert_eq!(self.verdict, before, "a verdict is final");
            assert!(!judged.probe);
            return;
        }
        if judged.probe {
            assert_eq!(self.asked, None, "two test writes");
            self.asked = Some(now);
        }
        match &self.verdict {
            Verdict::Pending(next) => {
                assert!(next.is_some_and(|at| at > now), "{next:?} at {now}");
            }
            Verdict::Good => self.check_good(),
            Verdict::Bad(reason) => self.check_bad(reason),
        }
    }

    fn check_good(&self) {
        let now = self.world.now;
        assert!(self.world.machine.goals_met() && self.took && !self.failed && !self.operator);
        assert!(now >= self.begun + self.window);
        assert!(self.broken.is_none_or(|at| at + self.window / 2 <= now));
    }

    fn check_bad(&self, reason: &Reason) {
        let now = self.world.now;
        match reason {
            Reason::Operator => assert!(self.operator),
            Reason::Storage => {
                let waited = self.asked.map(|at| now - at);
                let most = PROBE_LIMIT.min(self.window * 3 / 2);
                assert!(self.failed || waited.is_some_and(|ms| ms >= most));
            }
            Reason::GoalMissed {
                container, goal, ..
            } => {
                assert_eq!(self.world.content.containers[container].goal, *goal);
                self.check_lost();
            }
            Reason::OutOfMemory { container } => {
                assert!(
                    self.world
                        .content
                        .containers
                        .contains_key(container.as_ref().unwrap())
                );
                self.check_lost();
            }
            Reason::CrashLoop { container, .. } => {
                let id = self.world.machine.find(container.as_str()).unwrap();
                assert!(self.world.machine.status_of(id).unwrap().restarts >= 3);
            }
            Reason::HubLost
            | Reason::NetworkLost
            | Reason::Watchdog
            | Reason::KernelPanic
            | Reason::PowerCut
            | Reason::TriesExhausted
            | Reason::NeverBooted
            | Reason::Refused => panic!("{reason:?} is not for the judge to say"),
        }
    }

    /// The goals have not held for half a window.
    fn check_lost(&self) {
        let since = self.world.machine.settled_since();
        assert!(since.is_none_or(|at| at + self.window / 2 > self.world.now));
    }

    /// Lets time pass, stopping wherever somebody waits for it.
    fn pass(&mut self, until: u64) {
        loop {
            let answer = match (self.asked, self.disk) {
                (Some(at), Disk::Good | Disk::Broken) => Some(at),
                (Some(at), Disk::Slow(ms)) => Some(at + ms),
                (Some(_), Disk::Silent) | (None, _) => None,
            };
            let judge = match self.verdict {
                Verdict::Pending(at) => at,
                Verdict::Good | Verdict::Bad(_) => None,
            };
            let due = [answer, judge, self.world.machine.next_deadline()];
            let Some(at) = due.into_iter().flatten().min().filter(|at| *at <= until) else {
                break;
            };
            self.world.now = at.max(self.world.now);
            self.world.step(Event::Tick);
            let now = self.world.now;
            if let Some(at) = self.asked.filter(|_| answer.is_some_and(|at| at <= now)) {
                self.asked = None;
                self.failed |= matches!(self.disk, Disk::Broken);
                self.took |= !self.failed && at >= self.begun + self.window / 2;
                let probe = if self.failed {
                    Probe::Failed
                } else {
                    Probe::Passed
                };
                self.input(Input::Probe(probe));
            } else {
                self.input(Input::Look);
            }
        }
        self.world.now = until.max(self.world.now);
    }
}

fn disk() -> impl Strategy<Value = Disk> {
    prop_oneof![
        6 => Just(Disk::Good),
        3 => (0_u64..9999).prop_map(Disk::Slow),
        1 => Just(Disk::Broken),
        1 => Just(Disk::Silent),
    ]
}

/// Every container that may start does so, and does what it is there for.
fn work(world: &mut World) {
    for _ in 0..40 {
        for (who, id) in world.ids().into_iter().enumerate() {
            let goal = world.definition(id).goal;
            let body = world.bodies[id.index()].clone();
            if !body.alive || !body.executed || goal == Goal::Finished {
                world.world(who, 5);
            } else {
                world.step(Event::NotifyReady(id));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_trial_is_decided_in_time_and_for_a_reason(
        content in definitions(),
        pool in pool(),
        window_s in 5_u32..90,
        disk in disk(),
        ops in proptest::collection::vec((op(), 0_u64..4000, any::<u8>()), 0..60),
        works: bool,
    ) {
        let mut court = Court::new(World::new(content, pool), window_s, disk);
        for (op, ms, rare) in ops {
            if works && rare % 4 > 0 {
                work(&mut court.world);
            } else if !matches!(op, Op::Tick | Op::Wait(_) | Op::Shutdown(_) | Op::Retire(_) | Op::Exchange(_)) {
                court.world.apply(op);
            }
            court.input(Input::Look);
            if rare == 255 && !court.decided() {
                court.operator = true;
                court.input(Input::Operator);
            }
            court.pass(court.world.now + ms);
        }
        let latest = court.begun + court.window + court.window / 2 + PROBE_LIMIT;
        if works {
            work(&mut court.world);
            court.input(Input::Look);
        }
        court.pass(latest.max(court.world.now));
        prop_assert!(court.decided(), "{:?} {:?}", court.verdict, court.judge);
    }

    #[test]
    fn a_good_revision_on_a_good_disk_is_good_when_the_window_ends(
        content in definitions(),
        window_s in 5_u32..90,
    ) {
        let mut quiet = content;
        for container in quiet.containers.values_mut() {
            // Nothing that would have to say again that it lives.
            if let Some(health) = &mut container.health {
                health.check = kedge_revision::container::Check::Notify;
                health.interval_ms = 0;
                health.start_period_ms = 1000;
            }
        }
        let mut court = Court::new(World::new(quiet, Vec::new()), window_s, Disk::Good);
        work(&mut court.world);
        court.input(Input::Look);
        let end = court.begun + court.window;
        court.pass(end - 1);
        prop_assert!(!court.decided(), "{:?}", court.verdict);
        court.pass(end);
        prop_assert_eq!(court.verdict, Verdict::Good);
    }
}
