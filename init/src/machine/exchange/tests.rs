//! Retirements and exchanges by hand.

use crate::machine::fixture::{Rig, container, content, name};
use crate::machine::{
    Action, Command, Ending, Event, Exchanged, Halt, Id, KILL_WAIT, Missed, Refused,
    SHUTDOWN_GRACE, SHUTDOWN_LIMIT, State,
};
use kedge_revision::container::{Container, Goal, RestartPolicy};
use kedge_revision::{Content, Name};
use kedge_sys::process::ExitStatus;

const GOOD: ExitStatus = ExitStatus::Exited(0);
const BAD: ExitStatus = ExitStatus::Exited(3);

fn started(group: &str) -> Container {
    container(group, Goal::Started)
}

fn after(group: &str, other: &str) -> Container {
    let mut made = started(group);
    made.after = vec![name(other)];
    made
}

impl Rig {
    fn retire(&mut self, names: &[&str]) -> Vec<Action> {
        let ids: Vec<Id> = names.iter().map(|text| self.id(text)).collect();
        let mut actions = Vec::new();
        self.machine.retire(self.now, &ids, &mut actions);
        actions.retain(|action| !matches!(action, Action::Changed(_)));
        actions
    }

    fn exchange(&mut self, content: &Content) -> Result<(Exchanged, Vec<Action>), Refused> {
        let mut actions = Vec::new();
        let exchanged = self.machine.exchange(self.now, content, &mut actions)?;
        Ok((exchanged, actions))
    }

    /// Its process ends, and its cgroup is empty.
    fn end(&mut self, id: Id) -> Vec<Action> {
        self.step(Event::Exited { id, status: GOOD });
        self.step(Event::CgroupEmpty(id))
    }
}

fn signal(id: Id) -> Action {
    Action::Signal { id, signal: 15 }
}

/// All run.
fn running(content: &Content) -> Rig {
    let (mut rig, _) = Rig::begin(content);
    let names: Vec<Name> = content.containers.keys().cloned().collect();
    for group in &content.groups {
        for name in &names {
            if content.containers[name].group == group.name {
                let id = rig.id(name.as_str());
                rig.run(id);
            }
        }
    }
    assert!(rig.machine.goals_met());
    rig
}

#[test]
fn ids_stay_with_names_and_free_ones_are_used_again() {
    let [b, c, d] = ["b", "c", "d"].map(|text| (text, started("main")));
    let old = content(&["main"], vec![b.clone(), c.clone(), d.clone()]);
    let mut rig = running(&old);
    let before = ["b", "c", "d"].map(|text| rig.id(text));
    assert_eq!(before, [Id(0), Id(1), Id(2)]);
    let [id_b, id_c, id_d] = before;
    // b goes, c changes, d stays; two come, of which one sorts before all others.
    let new = [("a", started("main")), c, d, ("e", started("main"))];
    let new = content(&["main"], new.to_vec());
    assert_eq!(rig.retire(&["b", "c"]), [signal(id_b), signal(id_c)]);
    assert!(!rig.machine.retired());
    rig.end(id_b);
    rig.end(id_c);
    assert!(rig.machine.retired());
    let (exchanged, actions) = rig.exchange(&new).unwrap();
    assert_eq!(
        ["a", "c", "d", "e"].map(|text| rig.id(text)),
        [id_b, id_c, id_d, Id(3)]
    );
    assert!(
        rig.machine
            .status()
            .map(|status| status.name)
            .eq(new.containers.keys())
    );
    let started = [(id_b, "a"), (id_c, "c"), (Id(3), "e")].map(|(id, text)| (id, name(text)));
    assert_eq!(exchanged.started, started);
    assert_eq!(exchanged.removed, [], "its id is used again");
    let spawns = actions
        .iter()
        .filter(|action| matches!(action, Action::Spawn(_)));
    assert_eq!(spawns.count(), 3);
    // The other way round, ids become free.
    rig.run(id_b);
    rig.run(id_c);
    rig.run(Id(3));
    rig.retire(&["a", "e", "c"]);
    for id in [id_b, id_c, Id(3)] {
        rig.end(id);
    }
    let only = content(&["main"], vec![("d", container("main", Goal::Started))]);
    let (exchanged, actions) = rig.exchange(&only).unwrap();
    assert_eq!(exchanged.removed, [id_b, id_c, Id(3)]);
    assert_eq!((exchanged.started, actions), (vec![], vec![]));
    assert_eq!(rig.id("d"), id_d);
    assert_eq!(rig.machine.find("a"), None);
}

#[test]
fn those_that_stay_keep_everything_and_those_that_come_begin_anew() {
    let old = [("api", started("main")), ("web", started("main"))];
    let old = content(&["main"], old.to_vec());
    let mut rig = running(&old);
    let [api, web] = ["api", "web"].map(|text| rig.id(text));
    for id in [api, web] {
        rig.step(Event::Exited { id, status: BAD });
        rig.step(Event::CgroupEmpty(id));
    }
    rig.pass(100);
    rig.run(api);
    rig.run(web);
    rig.now += 100;
    let before = format!("{:?}", rig.machine.status_of(web));
    rig.retire(&["api"]);
    rig.end(api);
    rig.exchange(&old).unwrap();
    assert_eq!(format!("{:?}", rig.machine.status_of(web)), before);
    let status = rig.machine.status_of(api).unwrap();
    assert_eq!(
        (status.restarts, status.last_exit, status.pid),
        (0, None, None)
    );
    assert_eq!(*status.state, State::Starting { ready: false });
    assert_eq!(rig.machine.settled_since(), None);
    rig.run(api);
    assert_eq!(rig.machine.settled_since(), Some(rig.now));
    // Its back-off begins anew, too.
    rig.step(Event::Exited {
        id: api,
        status: BAD,
    });
    rig.step(Event::CgroupEmpty(api));
    assert_eq!(rig.machine.next_deadline(), Some(rig.now + 100));
}

#[test]
fn an_exchange_of_nothing_is_no_break() {
    let old = content(&["main"], vec![("web", started("main"))]);
    let mut rig = running(&old);
    rig.now += 500;
    assert_eq!(rig.retire(&[]), []);
    assert_eq!(rig.exchange(&old), Ok((Exchanged::default(), vec![])));
    assert_eq!(rig.machine.settled_since(), Some(1000));
}

#[test]
fn a_retirement_goes_backwards_and_past_those_that_stay() {
    let list = vec![
        ("a", started("first")),
        ("b", after("first", "a")),
        ("c", started("last")),
        ("d", after("last", "c")),
        ("e", after("first", "b")),
    ];
    let mut rig = running(&content(&["first", "last"], list));
    let [a, b, c, _, e] = ["a", "b", "c", "d", "e"].map(|text| rig.id(text));
    // d and e stay, though they came after c and b.
    assert_eq!(rig.retire(&["a", "b", "c"]), [signal(c)]);
    assert_eq!(rig.end(c), [signal(b)]);
    assert_eq!(rig.end(b), [signal(a)]);
    assert_eq!(rig.machine.settled_since(), None);
    assert_eq!(rig.end(a), []);
    assert!(rig.machine.retired());
    assert!(matches!(rig.state(e), State::Running(_)));
    assert_eq!(rig.machine.next_deadline(), None);
}

#[test]
fn what_is_retired_ends_stopped_from_every_state() {
    let mut once = container("main", Goal::Finished);
    once.restart.policy = RestartPolicy::No;
    let list = vec![
        ("backing", started("main")),
        ("done", once.clone()),
        ("failed", once),
        ("starting", started("main")),
        ("stopping", started("main")),
        ("waiting", after("main", "starting")),
    ];
    let all: Vec<&str> = list.iter().map(|(text, _)| *text).collect();
    let (mut rig, _) = Rig::begin(&content(&["main"], list));
    for (text, status) in [("done", GOOD), ("failed", BAD), ("backing", BAD)] {
        let id = rig.id(text);
        rig.run(id);
        rig.step(Event::Exited { id, status });
        rig.step(Event::CgroupEmpty(id));
    }
    let [id, starting] = ["stopping", "starting"].map(|text| rig.id(text));
    rig.run(id);
    let command = Command::Restart;
    rig.step(Event::Command { id, command });
    let words = rig.machine.status().map(|status| status.state.word());
    assert!(words.eq([
        "backing-off",
        "finished",
        "failed",
        "starting",
        "stopping",
        "waiting"
    ]));
    // The program of one has not begun; the restart that another was to make is none any more.
    assert_eq!(rig.retire(&all), [Action::KillCgroup(starting)]);
    let (refused, errno) = (starting, 11);
    assert_eq!(rig.step(Event::SpawnFailed { id: refused, errno }), []);
    assert_eq!(rig.end(id), []);
    assert!(rig.machine.retired());
    for text in all {
        let id = rig.id(text);
        let command = Command::Start;
        assert_eq!(rig.step(Event::Command { id, command }), []);
        assert_eq!(rig.state(id), State::Stopped, "{text}");
    }
    assert_eq!(rig.pass(1_000_000), []);
}

#[test]
fn an_end_of_its_own_is_not_judged_any_more() {
    let mut web = started("main");
    web.restart.max_retries = Some(0);
    web.restart.then = kedge_revision::container::Then::RollBack;
    let mut rig = running(&content(&["main"], vec![("web", web)]));
    let id = rig.id("web");
    rig.step(Event::Exited { id, status: BAD });
    assert_eq!(rig.retire(&["web"]), []);
    assert_eq!(rig.step(Event::CgroupEmpty(id)), [], "no roll back");
    assert_eq!(rig.state(id), State::Stopped);
}

#[test]
fn grace_and_limit_bound_a_retirement() {
    let mut slow = started("main");
    slow.process.stop_grace_ms = 3_600_000;
    let list = vec![("a", slow.clone()), ("b", slow.clone())];
    let mut rig = running(&content(&["main"], list));
    let [a, b] = ["a", "b"].map(|text| rig.id(text));
    // b was asked to end before, with all the grace it has.
    let command = Command::Stop;
    rig.step(Event::Command { id: b, command });
    assert_eq!(rig.retire(&["a", "b"]), [signal(a)]);
    assert_eq!(rig.pass(SHUTDOWN_GRACE - 1), []);
    let kills = [Action::KillCgroup(a), Action::KillCgroup(b)];
    assert_eq!(rig.pass(1), kills);
    // Killed and still there: a shutdown would give up, a second run must not begin.
    rig.pass(SHUTDOWN_LIMIT + KILL_WAIT);
    assert!(!rig.machine.retired());
    assert_eq!(rig.machine.next_deadline(), None);
}

#[test]
fn the_limit_kills_those_whose_turn_did_not_come() {
    let names = ["a", "b", "c", "d", "e"];
    let link = |(place, text): (usize, &&'static str)| {
        let mut link = started("main");
        link.process.stop_grace_ms = 30_000;
        link.after = names[place.saturating_sub(1)..place]
            .iter()
            .map(|n| name(n))
            .collect();
        (*text, link)
    };
    let mut rig = running(&content(
        &["main"],
        names.iter().enumerate().map(link).collect(),
    ));
    let begun = rig.now;
    rig.retire(&names);
    while let Some(at) = rig.machine.next_deadline() {
        // Who is killed goes; nobody goes by itself.
        for action in rig.pass(at - rig.now) {
            if let Action::KillCgroup(id) = action {
                rig.end(id);
            }
        }
    }
    assert!(rig.machine.retired());
    assert_eq!(rig.now, begun + SHUTDOWN_LIMIT);
}

#[test]
fn a_new_container_waits_for_its_group_and_for_those_that_stay() {
    let list = |job| {
        content(
            &["first", "last"],
            vec![
                ("db", started("first")),
                ("job", job),
                ("web", started("last")),
            ],
        )
    };
    let old = list(started("first"));
    let mut rig = running(&old);
    let [db, job, web] = ["db", "job", "web"].map(|text| rig.id(text));
    rig.retire(&["job", "web"]);
    rig.end(web);
    rig.end(job);
    let (_, actions) = rig
        .exchange(&list(container("first", Goal::Finished)))
        .unwrap();
    assert_eq!(actions, [Action::Changed(job), Action::Spawn(job)]);
    assert_eq!(rig.state(web), State::Waiting, "its group was open before");
    // The goal of one that stays counts.
    rig.step(Event::Exited {
        id: db,
        status: BAD,
    });
    rig.step(Event::CgroupEmpty(db));
    rig.run(job);
    assert_eq!(rig.end(job), []);
    assert_eq!(rig.pass(100), [Action::Spawn(db)]);
    rig.step(Event::Started { id: db, pid: 9 });
    assert_eq!(rig.step(Event::Executed(db)), [Action::Spawn(web)]);
}

#[test]
fn an_exchange_is_refused_and_changes_nothing() {
    let [a, b] = ["a", "b"].map(|text| (text, started("main")));
    let both = content(&["main"], vec![a.clone(), b]);
    let one = content(&["main"], vec![a]);
    let mut rig = running(&both);
    let id = rig.id("b");
    let container = name("b");
    let refused = |rig: &mut Rig, content: &Content, refused: Refused| {
        let before = format!("{:?}", rig.machine);
        assert_eq!(rig.exchange(content), Err(refused));
        assert_eq!(format!("{:?}", rig.machine), before);
    };
    let not_retired = Refused::NotRetired {
        container: container.clone(),
    };
    refused(&mut rig, &one, not_retired);
    rig.retire(&["b"]);
    let not_down = Refused::NotDown { container };
    refused(&mut rig, &one, not_down.clone());
    rig.step(Event::Exited { id, status: GOOD });
    refused(&mut rig, &both, not_down);
    let mut halting = rig;
    halting.step(Event::Shutdown(Halt::Reboot));
    refused(&mut halting, &one, Refused::Halting);
    assert_eq!(Refused::Halting.to_string(), "the device goes down");
}

#[test]
fn a_shutdown_takes_a_retirement_with_it() {
    let list = vec![("a", started("main")), ("b", after("main", "a"))];
    let mut rig = running(&content(&["main"], list));
    let [a, b] = ["a", "b"].map(|text| rig.id(text));
    assert_eq!(rig.retire(&["a"]), [signal(a)]);
    rig.now += 10;
    assert_eq!(rig.step(Event::Shutdown(Halt::Reboot)), [signal(b)]);
    assert_eq!(rig.retire(&["b"]), [], "a shutdown stops it already");
    assert_eq!(rig.end(b), []);
    assert_eq!(rig.end(a), [Action::AllDown(Halt::Reboot)]);
    assert_eq!(rig.machine.next_deadline(), None);
}

#[test]
fn before_the_boot_is_through_nothing_runs_that_would_have_to_end() {
    let old = content(&["main"], vec![("a", started("main"))]);
    let new = content(&["main"], vec![("b", started("main"))]);
    let machine = crate::machine::Machine::new(&old);
    let mut rig = Rig { machine, now: 5 };
    assert_eq!(rig.retire(&["a"]), []);
    let (exchanged, actions) = rig.exchange(&new).unwrap();
    assert_eq!(exchanged.started, [(Id(0), name("b"))]);
    assert_eq!(actions, []);
    assert_eq!(rig.step(Event::Begin), [Action::Spawn(Id(0))]);
}

#[test]
fn a_failure_of_one_that_stays_is_still_a_failure() {
    let mut once = started("main");
    once.restart.policy = RestartPolicy::No;
    let old = content(&["main"], vec![("a", once), ("b", started("main"))]);
    let mut rig = running(&old);
    let [a, b] = ["a", "b"].map(|text| rig.id(text));
    rig.step(Event::Exited { id: a, status: BAD });
    rig.step(Event::CgroupEmpty(a));
    rig.retire(&["b"]);
    rig.end(b);
    rig.exchange(&old).unwrap();
    rig.run(b);
    let missed = rig.machine.missing().next().unwrap();
    assert_eq!(missed.id, a);
    assert_eq!(missed.reason, Missed::Failed(Ending::Exit(BAD)));
}
