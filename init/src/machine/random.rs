//! What the properties draw: definitions, revisions, and what happens.

use super::fixture::{container, content, health, name};
use super::{Command, Halt};
use kedge_revision::container::{Check, Container, Goal, RestartPolicy, Then};
use kedge_revision::{Content, Name};
use proptest::prelude::*;

/// A container's definition, the place of its group, and which earlier ones of its group it comes after.
pub(crate) type Draft = (Container, usize, u8);

pub(crate) const NAMES: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];
pub(crate) const GROUPS: [&str; 3] = ["g0", "g1", "g2"];

#[derive(Debug, Clone, Copy)]
pub(crate) enum Op {
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
    /// Those of the set bits are retired.
    Retire(u8),
    /// What is retired is removed or replaced, and others may be added; each byte decides of one name.
    Exchange(u64),
}

/// Names of the same group before this one, by the bits of `after`.
pub(crate) fn befores(index: usize, after: u8, names: &[&str], places: &[usize]) -> Vec<Name> {
    (0..index)
        .filter(|before| places[*before] == places[index] && after >> before & 1 == 1)
        .map(|before| name(names[before]))
        .collect()
}

fn definition() -> impl Strategy<Value = Draft> {
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

pub(crate) fn definitions() -> impl Strategy<Value = Content> {
    proptest::collection::vec(definition(), 1..7).prop_map(|list| {
        let places: Vec<usize> = list.iter().map(|(_, group, _)| *group).collect();
        let containers = list.into_iter().enumerate();
        let containers = containers.map(|(index, (mut made, group, after))| {
            made.group = name(GROUPS[group]);
            made.after = befores(index, after, &NAMES, &places);
            (NAMES[index], made)
        });
        content(&GROUPS, containers.collect())
    })
}

/// What containers of later revisions are like.
pub(crate) fn pool() -> impl Strategy<Value = Vec<Draft>> {
    proptest::collection::vec(definition(), 3)
}

pub(crate) fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        Just(Command::Start),
        Just(Command::Stop),
        Just(Command::Restart)
    ]
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        60 => (0_usize..6, 0_u8..16).prop_map(|(who, how)| Op::World { who, how }),
        20 => (0_usize..6, any::<u8>()).prop_map(|(who, what)| Op::Talk { who, what }),
        6 => (0_usize..6, command()).prop_map(|(who, command)| Op::Order { who, command }),
        20 => Just(Op::Tick),
        10 => (0_u64..3000).prop_map(Op::Wait),
        1 => Just(Op::Shutdown(Halt::Reboot)),
        3 => any::<u8>().prop_map(Op::Retire),
        6 => any::<u64>().prop_map(Op::Exchange),
    ]
}
