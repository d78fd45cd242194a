//! Random definitions and random events: what must hold whatever happens.

use super::random::{Op, command, definitions, op, pool};
use super::world::{KILLED, World};
use super::{Action, Checked, Event, Halt, Id, KILL_WAIT, Machine, Refused, SHUTDOWN_LIMIT};
use kedge_revision::container::Goal;
use kedge_sys::process::ExitStatus;
use proptest::prelude::*;

/// Every container that may start does so, and does what it is there for.
fn settle(world: &mut World) {
    for _ in 0..200 {
        for (who, id) in world.ids().into_iter().enumerate() {
            let goal = world.definition(id).goal;
            let body = world.bodies[id.index()].clone();
            match goal {
                _ if !body.alive || !body.executed => world.world(who, 5),
                Goal::Finished => world.world(who, 5),
                Goal::Ready | Goal::Started => world.step(Event::NotifyReady(id)),
            }
        }
    }
}

/// Those of `ids` that are asked to end do so, in no time.
fn obey(world: &mut World, ids: &[Id]) {
    for _ in 0..40 {
        for (who, id) in world.ids().into_iter().enumerate() {
            let body = &world.bodies[id.index()];
            if ids.contains(&id) && (body.kill_by.is_some() || !body.alive) {
                world.world(who, 5);
            }
        }
    }
}

fn checked() -> impl Strategy<Value = Checked> {
    prop_oneof![
        Just(Checked::Passed),
        Just(Checked::Failed),
        Just(Checked::Unknown)
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
            (0_u32..3, checked()).prop_map(move |(token, checked)| Event::CheckDone {
                id,
                token,
                checked
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
        pool in pool(),
        ops in proptest::collection::vec(op(), 0..300),
    ) {
        let mut world = World::new(content, pool);
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
        let mut world = World::new(content, Vec::new());
        settle(&mut world);
        prop_assert!(world.machine.goals_met(), "{:?}", world.machine.missing().collect::<Vec<_>>());
        world.apply(Op::Shutdown(Halt::Reboot));
        let all = world.ids();
        obey(&mut world, &all);
        prop_assert_eq!(world.all_down, Some(0), "no time is needed");
    }

    #[test]
    fn a_good_world_settles_again_after_an_exchange(
        content in definitions(),
        pool in pool(),
        mask: u8,
        seed: u64,
    ) {
        let mut world = World::new(content, pool);
        settle(&mut world);
        world.apply(Op::Retire(mask));
        let retired = |id: &Id| world.bodies[id.index()].retired;
        let gone: Vec<Id> = world.ids().into_iter().filter(retired).collect();
        obey(&mut world, &gone);
        prop_assert!(world.machine.retired(), "no time is needed");
        world.exchange(seed);
        prop_assert!(!world.bodies.iter().any(|body| body.retired), "refused");
        settle(&mut world);
        prop_assert!(world.machine.goals_met(), "{:?}", world.machine.missing().collect::<Vec<_>>());
    }

    #[test]
    fn what_does_not_go_by_itself_is_killed_by_the_limit(
        content in definitions(),
        pool in pool(),
        ops in proptest::collection::vec(op(), 0..60),
        mask: u8,
    ) {
        let mut world = World::new(content, pool);
        for op in ops {
            if !matches!(op, Op::Shutdown(_)) {
                world.apply(op);
            }
        }
        let begun = world.now;
        world.apply(Op::Retire(mask));
        while !world.machine.retired() {
            // What is killed goes at once, in three steps at most: it is made, ends, leaves an empty cgroup.
            for _ in 0..3 {
                for (who, id) in world.ids().into_iter().enumerate() {
                    let body = &world.bodies[id.index()];
                    if body.spawning || body.killed && (body.alive || body.owes_empty) {
                        world.world(who, 15);
                    }
                }
            }
            if !world.machine.retired() {
                prop_assert!(world.machine.next_deadline().is_some());
                world.apply(Op::Tick);
            }
            prop_assert!(world.now <= begun + SHUTDOWN_LIMIT);
        }
    }

    #[test]
    fn any_event_in_any_state_is_taken(
        content in definitions(),
        events in proptest::collection::vec((event(), 0_u64..2000, any::<[u8; 3]>()), 0..300),
    ) {
        let mut machine = Machine::new(&content);
        let mut now = 0;
        let mut halted = false;
        let mut clear = [true; 6];
        let mut dead = [true; 6];
        for (event, ms, [kind, gone, new]) in events {
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
            let chosen = |bits: u8, place: usize| bits >> place & 1 == 1;
            if kind < 16 {
                let ids: Vec<Id> = (0..8).filter(|id| chosen(gone, usize::from(*id))).map(Id).collect();
                machine.retire(now, &ids, &mut actions);
            } else if kind < 64 {
                let mut next = content.clone();
                let mut place = 0..;
                next.containers.retain(|_, _| !chosen(new, place.next().unwrap()));
                let exchanged = machine.exchange(now, &next, &mut actions);
                prop_assert!(!halted || exchanged == Err(Refused::Halting));
                for (id, _) in exchanged.into_iter().flat_map(|exchanged| exchanged.started) {
                    prop_assert!(clear[id.index()], "a process is there");
                }
            }
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
