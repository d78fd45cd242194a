//! Random definitions and random events: what must hold whatever happens.
//!
//! The world here keeps the driver's promises and nothing else: processes start, fail, hang, die,
//! leave children behind and talk in any order and at any pace.

use super::fixture::{container, content, health, name};
use super::{Action, Command, Event, Halt, Id, KILL_WAIT, Machine, SHUTDOWN_LIMIT, State};
use kedge_revision::Content;
use kedge_revision::container::{Check, Container, Goal, RestartPolicy, Then};
use kedge_sys::process::ExitStatus;
use proptest::prelude::*;

const KILLED: ExitStatus = ExitStatus::Signaled {
    signal: 9,
    core: false,
};

/// What the world knows of one container, independently of the machine.
#[derive(Debug, Default, Clone)]
struct Body {
    /// A spawn is asked for and not answered.
    spawning: bool,
    alive: bool,
    executed: bool,
    /// A process may be in its cgroup.
    populated: bool,
    killed: bool,
    /// A kill is not answered yet.
    owes_empty: bool,
    /// It was asked to end: by when it must be killed.
    kill_by: Option<u64>,
    check: Option<u32>,
    /// Its back-off ends then.
    not_before: Option<u64>,
    /// The operator's newest word was stop.
    stopped: bool,
    began: bool,
    ever_met: bool,
}

#[derive(Debug, Clone, Copy)]
enum Op {
    /// The world moves on with one container.
    World {
        who: usize,
        how: u8,
    },
    /// A container talks.
    Talk {
        who: usize,
        what: u8,
    },
    Order {
        who: usize,
        command: Command,
    },
    /// Time goes on to the next deadline.
    Tick,
    Wait(u64),
    Shutdown(Halt),
}

struct World {
    content: Content,
    machine: Machine,
    now: u64,
    bodies: Vec<Body>,
    halted: Option<u64>,
    all_down: Option<u64>,
}

impl World {
    fn new(content: Content) -> Self {
        let bodies = vec![Body::default(); content.containers.len()];
        let machine = Machine::new(&content);
        let mut world = Self {
            content,
            machine,
            now: 0,
            bodies,
            halted: None,
            all_down: None,
        };
        world.step(Event::Begin);
        world
    }

    fn ids(&self) -> Vec<Id> {
        self.machine.status().map(|status| status.id).collect()
    }

    fn definition(&self, id: Id) -> &Container {
        self.content.containers.values().nth(id.index()).unwrap()
    }

    fn step(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.machine.step(self.now, event, &mut actions);
        for action in actions {
            self.perform(action);
        }
        self.check();
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn(id) => {
                self.may_start(id);
                let body = &mut self.bodies[id.index()];
                body.spawning = true;
                body.executed = false;
                body.kill_by = None;
                body.not_before = None;
                body.began = true;
            }
            Action::Signal { id, signal } => {
                let grace = u64::from(self.definition(id).process.stop_grace_ms).max(1);
                let body = &mut self.bodies[id.index()];
                assert!(body.alive && signal == 15);
                body.kill_by = Some(self.now + grace);
            }
            Action::KillCgroup(id) => {
                let body = &mut self.bodies[id.index()];
                body.killed = true;
                body.owes_empty = true;
            }
            Action::RunCheck { id, token, .. } => {
                assert!(self.halted.is_none());
                let body = &mut self.bodies[id.index()];
                assert!(body.alive && body.check.is_none());
                body.check = Some(token);
            }
            Action::KillCheck { id, token } => {
                assert_eq!(self.bodies[id.index()].check.take(), Some(token));
            }
            Action::AllDown(_) => {
                assert!(self.halted.is_some() && self.all_down.is_none());
                self.all_down = Some(self.now);
            }
            Action::Changed(_) | Action::RollBack { .. } | Action::Reboot { .. } => {}
        }
    }

    /// Everything that must hold when a start is asked for.
    fn may_start(&self, id: Id) {
        let body = &self.bodies[id.index()];
        assert!(self.halted.is_none(), "a start after the shutdown");
        assert!(!body.spawning && !body.alive, "a second process");
        assert!(!body.populated, "something is left over");
        assert!(!body.stopped, "the operator stopped it");
        assert!(body.not_before.is_none_or(|at| at <= self.now), "too soon");
        if body.began {
            return;
        }
        let group = |id: Id| {
            let name = &self.definition(id).group;
            self.content.groups.iter().position(|g| g.name == *name)
        };
        for status in self.machine.status() {
            if group(status.id) < group(id) {
                let met = status.goal_met || self.bodies[status.id.index()].ever_met;
                assert!(met, "groups overtake");
            }
            if self.definition(id).after.contains(status.name) {
                assert!(status.goal_met, "after overtaken");
            }
        }
    }

    /// Everything that must hold after each step.
    fn check(&mut self) {
        for status in self.machine.status() {
            let definition = self.content.containers.values().nth(status.id.index());
            let restart = &definition.unwrap().restart;
            let body = &mut self.bodies[status.id.index()];
            body.ever_met |= status.goal_met;
            if let State::BackingOff { until, .. } = *status.state {
                let delay = until - status.since;
                assert!(delay >= u64::from(restart.delay_ms));
                assert!(delay <= u64::from(restart.max_delay_ms));
                body.not_before = Some(until);
            }
            if self.all_down.is_none() {
                let known = status.pid.is_some();
                let stuck = matches!(status.state, State::Failed(super::Ending::Stuck));
                assert!(known == body.alive || stuck, "{status:?}");
            }
        }
        let met = self.machine.goals_met();
        assert_eq!(met, self.machine.missing().count() == 0);
        if self.halted.is_none() {
            assert_eq!(met, self.machine.settled_since().is_some());
        }
    }

    fn tick(&mut self) {
        self.step(Event::Tick);
        let next = self.machine.next_deadline();
        assert!(next.is_none_or(|at| at > self.now), "{next:?}");
        for body in &self.bodies {
            let overdue =
                body.alive && !body.killed && body.kill_by.is_some_and(|at| at <= self.now);
            assert!(!overdue, "a stop without its kill");
        }
    }

    fn world(&mut self, who: usize, how: u8) {
        let ids = self.ids();
        let id = ids[who % ids.len()];
        let body = &mut self.bodies[id.index()];
        let event = if body.spawning {
            body.spawning = false;
            if how == 0 {
                Event::SpawnFailed { id, errno: 11 }
            } else {
                // A kill that came before is no kill of this process.
                (body.alive, body.populated, body.killed) = (true, true, false);
                Event::Started { id, pid: 7 }
            }
        } else if body.alive && !body.killed && !body.executed && how > 1 {
            body.executed = true;
            Event::Executed(id)
        } else if body.alive && !body.executed && how == 1 {
            body.executed = true;
            let (stage, errno) = ("mount", 2);
            Event::ExecFailed { id, stage, errno }
        } else if body.alive {
            body.alive = false;
            let status = match how {
                _ if body.killed => KILLED,
                0..6 => ExitStatus::Exited(0),
                6..11 => ExitStatus::Exited(3),
                _ => KILLED,
            };
            Event::Exited { id, status }
        } else if body.owes_empty && body.killed {
            (body.owes_empty, body.populated, body.killed) = (false, false, false);
            Event::CgroupEmpty(id)
        } else {
            return;
        };
        self.step(event);
    }

    fn talk(&mut self, who: usize, what: u8) {
        let ids = self.ids();
        let id = ids[who % ids.len()];
        let body = &mut self.bodies[id.index()];
        let event = match (what % 6, body.check) {
            (0, _) => Event::NotifyReady(id),
            (1, _) => Event::NotifyWatchdog(id),
            (2, _) if what > 200 => Event::NotifyStopping(id),
            (3, _) => Event::Oom(id),
            (_, Some(token)) => {
                body.check = None;
                let passed = what % 6 == 4;
                Event::CheckDone { id, token, passed }
            }
            (_, None) => return,
        };
        self.step(event);
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::World { who, how } => self.world(who, how),
            Op::Talk { who, what } => self.talk(who, what),
            Op::Order { who, command } => {
                let ids = self.ids();
                let id = ids[who % ids.len()];
                let body = &mut self.bodies[id.index()];
                if self.halted.is_none() {
                    body.stopped = command == Command::Stop;
                    // A person need not wait for the back-off.
                    body.not_before = None;
                }
                self.step(Event::Command { id, command });
            }
            Op::Tick => {
                self.now = self
                    .machine
                    .next_deadline()
                    .unwrap_or(self.now)
                    .max(self.now);
                self.tick();
            }
            Op::Wait(ms) => {
                self.now += ms;
                self.tick();
            }
            Op::Shutdown(halt) => {
                self.halted.get_or_insert(self.now);
                self.step(Event::Shutdown(halt));
            }
        }
    }
}

fn definition() -> impl Strategy<Value = (Container, usize, u8)> {
    let goal = prop_oneof![Just(Goal::Started), Just(Goal::Ready), Just(Goal::Finished)];
    let policy = prop_oneof![
        Just(RestartPolicy::No),
        Just(RestartPolicy::OnFailure),
        Just(RestartPolicy::Always)
    ];
    let then = prop_oneof![Just(Then::Leave), Just(Then::RollBack), Just(Then::Reboot)];
    let times = (0_u32..40_000, 1_u32..500, 0_u32..3, 0_u32..3000);
    let watched = (0_u32..3000, 1_u32..1500, 1_u32..4, 0_u32..3000, 0_u8..3);
    (
        (0_usize..3, any::<u8>()),
        goal,
        policy,
        proptest::option::of(0_u32..3),
        then,
        times,
        watched,
    )
        .prop_map(
            |((group, after), goal, policy, most, then, times, watched)| {
                let mut made = container("g0", goal);
                let (grace, delay, growth, reset) = times;
                made.process.stop_grace_ms = grace;
                made.restart.delay_ms = delay;
                made.restart.max_delay_ms = delay << growth;
                made.restart.reset_after_ms = reset;
                made.restart.max_retries = most;
                made.restart.then = then;
                made.restart.policy = match (goal, policy) {
                    (Goal::Finished, RestartPolicy::Always) => RestartPolicy::OnFailure,
                    _ => policy,
                };
                let (interval, timeout, retries, start, kind) = watched;
                let mut watch = health(match kind {
                    0 => Check::Notify,
                    _ => Check::Tcp { port: 80 },
                });
                watch.interval_ms = interval;
                watch.timeout_ms = timeout;
                watch.retries = retries;
                watch.start_period_ms = start;
                made.health = (goal == Goal::Ready || kind == 1).then_some(watch);
                (made, group, after)
            },
        )
}

fn definitions() -> impl Strategy<Value = Content> {
    proptest::collection::vec(definition(), 1..7).prop_map(|list| {
        let names = ["a", "b", "c", "d", "e", "f"];
        let groups = ["g0", "g1", "g2"];
        let places: Vec<usize> = list.iter().map(|(_, group, _)| *group).collect();
        let containers = list
            .into_iter()
            .enumerate()
            .map(|(index, (mut made, group, after))| {
                made.group = name(groups[group]);
                made.after = (0..index)
                    .filter(|before| places[*before] == group && after >> before & 1 == 1)
                    .map(|before| name(names[before]))
                    .collect();
                (names[index], made)
            });
        content(&groups, containers.collect())
    })
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        Just(Command::Start),
        Just(Command::Stop),
        Just(Command::Restart)
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        60 => (0_usize..6, 0_u8..16).prop_map(|(who, how)| Op::World { who, how }),
        20 => (0_usize..6, any::<u8>()).prop_map(|(who, what)| Op::Talk { who, what }),
        6 => (0_usize..6, command()).prop_map(|(who, command)| Op::Order { who, command }),
        20 => Just(Op::Tick),
        10 => (0_u64..3000).prop_map(Op::Wait),
        1 => Just(Op::Shutdown(Halt::Reboot)),
    ]
}

/// Any event at all, fitting or not, also about a container that does not exist.
fn event() -> impl Strategy<Value = Event> {
    (0_u16..4).prop_map(Id).prop_flat_map(|id| {
        prop_oneof![
            Just(Event::Begin),
            Just(Event::Tick),
            Just(Event::Started { id, pid: 7 }),
            Just(Event::SpawnFailed { id, errno: 11 }),
            Just(Event::Executed(id)),
            Just(Event::ExecFailed {
                id,
                stage: "mount",
                errno: 2
            }),
            Just(Event::Exited { id, status: KILLED }),
            Just(Event::Exited {
                id,
                status: ExitStatus::Exited(0)
            }),
            Just(Event::CgroupEmpty(id)),
            Just(Event::Oom(id)),
            Just(Event::NotifyReady(id)),
            Just(Event::NotifyWatchdog(id)),
            Just(Event::NotifyStopping(id)),
            (0_u32..3, any::<bool>()).prop_map(move |(token, passed)| Event::CheckDone {
                id,
                token,
                passed
            }),
            command().prop_map(move |command| Event::Command { id, command }),
            (0_u8..20).prop_map(|rare| if rare == 0 {
                Event::Shutdown(Halt::PowerOff)
            } else {
                Event::Tick
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_honest_world_never_breaks_a_rule(
        content in definitions(),
        ops in proptest::collection::vec(op(), 0..300),
    ) {
        let mut world = World::new(content);
        for op in ops {
            world.apply(op);
        }
        // From here on nobody answers any more: a shutdown must end all the same.
        world.apply(Op::Shutdown(Halt::PowerOff));
        while world.machine.next_deadline().is_some() {
            world.apply(Op::Tick);
        }
        let begun = world.halted.unwrap();
        let ended = world.all_down.expect("a shutdown that does not end");
        prop_assert!(ended <= begun + SHUTDOWN_LIMIT + 2 * KILL_WAIT);
    }

    #[test]
    fn a_good_world_settles_and_shuts_down_in_order(content in definitions()) {
        let mut world = World::new(content);
        for _ in 0..200 {
            for who in 0..world.bodies.len() {
                let id = world.ids()[who];
                let goal = world.definition(id).goal;
                let body = world.bodies[who].clone();
                match goal {
                    _ if !body.alive || !body.executed => world.world(who, 5),
                    Goal::Finished => world.world(who, 5),
                    Goal::Ready | Goal::Started => world.step(Event::NotifyReady(id)),
                }
            }
        }
        prop_assert!(world.machine.goals_met(), "{:?}", world.machine.missing().collect::<Vec<_>>());
        world.apply(Op::Shutdown(Halt::Reboot));
        for _ in 0..20 {
            for who in 0..world.bodies.len() {
                let body = &world.bodies[who];
                if body.kill_by.is_some() || !body.alive {
                    world.world(who, 5);
                }
            }
        }
        prop_assert_eq!(world.all_down, Some(0), "no time is needed");
    }

    #[test]
    fn any_event_in_any_state_is_taken(
        content in definitions(),
        events in proptest::collection::vec((event(), 0_u64..2000), 0..300),
    ) {
        let mut machine = Machine::new(&content);
        let mut now = 0;
        let mut halted = false;
        let mut clear = [true; 6];
        let mut dead = [true; 6];
        for (event, ms) in events {
            now += ms;
            if let Event::SpawnFailed { id, .. } = event {
                clear[id.index()] = true;
            } else if let Event::Exited { id, .. } = event {
                dead[id.index()] = true;
            } else if let Event::CgroupEmpty(id) = event {
                clear[id.index()] |= dead[id.index()];
            }
            halted |= matches!(event, Event::Shutdown(_));
            let mut actions = Vec::new();
            machine.step(now, event, &mut actions);
            for action in actions {
                if let Action::Spawn(id) = action {
                    prop_assert!(!halted && clear[id.index()]);
                    (clear[id.index()], dead[id.index()]) = (false, false);
                }
            }
            if event == Event::Tick {
                prop_assert!(machine.next_deadline().is_none_or(|at| at > now));
            }
        }
    }
}
