//! Each transition by hand.

use super::fixture::{Rig, container, content, health, name};
use super::{
    Action, After, Checked, Command, Ending, Event, Halt, Id, KILL_WAIT, Missed, SHUTDOWN_GRACE,
    SHUTDOWN_LIMIT, STUCK_AFTER, State, WaitsFor,
};
use kedge_revision::Container;
use kedge_revision::container::{Check, Goal, RestartPolicy, Then};
use kedge_sys::process::ExitStatus;

const GOOD: ExitStatus = ExitStatus::Exited(0);
const BAD: ExitStatus = ExitStatus::Exited(3);
const KILLED: ExitStatus = ExitStatus::Signaled {
    signal: 9,
    core: false,
};

/// One container `app`, running since 1000 ms.
fn running(container: Container) -> (Rig, Id) {
    let (mut rig, actions) = Rig::begin(&content(&["main"], vec![("app", container)]));
    let id = rig.id("app");
    assert_eq!(actions, [Action::Spawn(id)]);
    rig.run(id);
    (rig, id)
}

fn exit(rig: &mut Rig, id: Id, status: ExitStatus) -> Vec<Action> {
    assert_eq!(
        rig.step(Event::Exited { id, status }),
        [Action::KillCgroup(id)]
    );
    rig.step(Event::CgroupEmpty(id))
}

#[test]
fn a_started_container_settles_and_a_crash_unsettles() {
    let (mut rig, id) = running(container("main", Goal::Started));
    assert!(rig.machine.goals_met());
    assert_eq!(rig.machine.settled_since(), Some(1000));
    rig.now = 1500;
    assert_eq!(exit(&mut rig, id, BAD), []);
    assert_eq!(rig.machine.settled_since(), None);
    assert_eq!(
        rig.state(id),
        State::BackingOff {
            until: 1600,
            attempt: 1
        }
    );
    let missed = rig.machine.missing().next().unwrap();
    assert_eq!(missed.reason, Missed::BackingOff { attempt: 1 });
    assert_eq!(missed.last_exit, Some(Ending::Exit(BAD)));
    assert_eq!(rig.machine.next_deadline(), Some(1600));
    assert_eq!(rig.pass(99), []);
    assert_eq!(rig.pass(1), [Action::Spawn(id)]);
    rig.run(id);
    assert_eq!(rig.machine.settled_since(), Some(1600));
    assert_eq!(rig.machine.status_of(id).unwrap().restarts, 1);
}

#[test]
fn delays_double_up_to_the_cap_and_a_long_run_resets_them() {
    let (mut rig, id) = running(container("main", Goal::Started));
    for delay in [100, 200, 400, 800, 1000, 1000] {
        exit(&mut rig, id, BAD);
        assert_eq!(rig.machine.next_deadline(), Some(rig.now + delay));
        assert_eq!(rig.pass(delay), [Action::Spawn(id)]);
        rig.run(id);
    }
    rig.now += 5000;
    exit(&mut rig, id, BAD);
    assert_eq!(rig.machine.next_deadline(), Some(rig.now + 100));
}

#[test]
fn policies_decide_by_how_it_ended() {
    let backing_off = |state| matches!(state, State::BackingOff { .. });
    let finished = |state| state == State::Finished;
    let failed = |state| state == State::Failed(Ending::Exit(BAD));
    type Is<'a> = &'a dyn Fn(State) -> bool;
    let table: [(RestartPolicy, ExitStatus, Is<'_>); 6] = [
        (RestartPolicy::No, GOOD, &finished),
        (RestartPolicy::No, BAD, &failed),
        (RestartPolicy::OnFailure, GOOD, &finished),
        (RestartPolicy::OnFailure, BAD, &backing_off),
        (RestartPolicy::Always, GOOD, &backing_off),
        (RestartPolicy::Always, BAD, &backing_off),
    ];
    for (policy, status, expected) in table {
        let mut definition = container("main", Goal::Started);
        definition.restart.policy = policy;
        let (mut rig, id) = running(definition);
        exit(&mut rig, id, status);
        assert!(expected(rig.state(id)), "{policy:?} {status:?}");
    }
}

#[test]
fn used_up_retries_leave_roll_back_or_reboot() {
    for then in [Then::Leave, Then::RollBack, Then::Reboot] {
        let mut definition = container("main", Goal::Started);
        definition.restart.max_retries = Some(1);
        definition.restart.then = then;
        let (mut rig, id) = running(definition);
        assert_eq!(exit(&mut rig, id, BAD), []);
        rig.pass(100);
        rig.run(id);
        let ending = Ending::Exit(BAD);
        let expected = match then {
            Then::Leave => vec![],
            Then::RollBack => vec![Action::RollBack { id, ending }],
            Then::Reboot => vec![Action::Reboot { id, ending }],
        };
        assert_eq!(exit(&mut rig, id, BAD), expected);
        assert_eq!(rig.state(id), State::Failed(ending));
        assert_eq!(rig.machine.next_deadline(), None);
    }
}

#[test]
fn failures_before_the_program_runs_count() {
    let (mut rig, _) = Rig::begin(&content(
        &["main"],
        vec![("app", container("main", Goal::Started))],
    ));
    let id = rig.id("app");
    assert_eq!(rig.step(Event::SpawnFailed { id, errno: 11 }), []);
    let status = rig.machine.status_of(id).unwrap();
    assert_eq!(status.last_exit, Some(Ending::SpawnFailed { errno: 11 }));
    assert_eq!(rig.pass(100), [Action::Spawn(id)]);
    rig.step(Event::Started { id, pid: 7 });
    let (stage, errno) = ("mount", 2);
    let ending = Ending::ExecFailed { stage, errno };
    assert_eq!(
        rig.step(Event::ExecFailed { id, stage, errno }),
        [Action::KillCgroup(id)]
    );
    exit(&mut rig, id, ExitStatus::Exited(127));
    assert_eq!(
        rig.machine.status_of(id).unwrap().last_exit,
        Some(ending),
        "the exit of a child that could not exec says nothing"
    );
    assert_eq!(rig.pass(200), [Action::Spawn(id)]);
    rig.step(Event::Started { id, pid: 8 });
    assert_eq!(rig.pass(30_000), [Action::KillCgroup(id)]);
    exit(&mut rig, id, KILLED);
    let last = rig.machine.status_of(id).unwrap().last_exit;
    assert_eq!(last, Some(Ending::StartTimeout));
}

#[test]
fn an_exec_error_that_comes_after_the_exit_explains_it() {
    let (mut rig, _) = Rig::begin(&content(
        &["main"],
        vec![("app", container("main", Goal::Started))],
    ));
    let id = rig.id("app");
    rig.step(Event::Started { id, pid: 7 });
    rig.step(Event::Exited { id, status: BAD });
    let (stage, errno) = ("exec", 8);
    rig.step(Event::ExecFailed { id, stage, errno });
    let then = After::Ended(Ending::ExecFailed { stage, errno });
    assert_eq!(rig.state(id), State::Clearing { then });
}

#[test]
fn out_of_memory_explains_a_kill_before_and_after_it() {
    for before in [true, false] {
        let (mut rig, id) = running(container("main", Goal::Started));
        if before {
            rig.step(Event::Oom(id));
        }
        rig.step(Event::Exited { id, status: KILLED });
        if !before {
            rig.step(Event::Oom(id));
        }
        rig.step(Event::CgroupEmpty(id));
        let last = rig.machine.status_of(id).unwrap().last_exit;
        assert_eq!(last, Some(Ending::OutOfMemory));
    }
}

#[test]
fn a_job_finishes_even_if_its_exit_comes_before_its_exec_was_seen() {
    let (mut rig, _) = Rig::begin(&content(
        &["main"],
        vec![("job", container("main", Goal::Finished))],
    ));
    let id = rig.id("job");
    rig.step(Event::Started { id, pid: 7 });
    exit(&mut rig, id, GOOD);
    assert_eq!(rig.state(id), State::Finished);
    assert!(rig.machine.goals_met());
}

#[test]
fn an_end_is_no_readiness() {
    let mut definition = container("main", Goal::Ready);
    definition.health = Some(health(Check::Notify));
    let (mut rig, id) = running(definition);
    rig.step(Event::NotifyReady(id));
    exit(&mut rig, id, GOOD);
    let reason = rig.machine.missing().next().unwrap().reason;
    assert_eq!(reason, Missed::Ended);
}

#[test]
fn checks_come_fast_until_ready_and_then_at_the_interval() {
    let mut definition = container("main", Goal::Ready);
    definition.health = Some(health(Check::Tcp { port: 80 }));
    let (mut rig, id) = running(definition);
    let mut token = 0;
    for pause in [100, 150, 225, 337] {
        token += 1;
        assert_eq!(rig.machine.next_deadline(), Some(rig.now + pause));
        let timeout = 500;
        assert_eq!(rig.pass(pause), [Action::RunCheck { id, token, timeout }]);
        rig.step(Event::CheckDone {
            id,
            token,
            checked: Checked::Failed,
        });
    }
    let at = rig.machine.next_deadline().unwrap();
    rig.pass(at - rig.now);
    assert!(!rig.machine.goals_met());
    let checked = Checked::Passed;
    rig.step(Event::CheckDone { id, token, checked });
    assert!(!rig.machine.goals_met(), "an answer to an older check");
    token += 1;
    rig.step(Event::CheckDone { id, token, checked });
    assert!(rig.machine.goals_met());
    assert_eq!(rig.machine.next_deadline(), Some(rig.now + 1000));
}

#[test]
fn checks_that_could_not_be_made_change_nothing_and_go_on() {
    let mut definition = container("main", Goal::Ready);
    definition.health = Some(health(Check::Tcp { port: 80 }));
    let (mut rig, id) = running(definition);
    rig.pass(100);
    for token in 1..=10 {
        // Between them two that failed: no more in a row than before.
        let checked = match token {
            1 => Checked::Passed,
            4 | 7 => Checked::Failed,
            _ => Checked::Unknown,
        };
        rig.step(Event::CheckDone { id, token, checked });
        assert!(rig.machine.goals_met(), "after {token}");
        rig.pass(1000);
    }
}

#[test]
fn failed_checks_in_a_row_make_a_ready_container_ill() {
    let mut definition = container("main", Goal::Ready);
    definition.health = Some(health(Check::Command(vec!["/check".to_owned()])));
    let (mut rig, id) = running(definition);
    rig.pass(100);
    let checked = Checked::Passed;
    rig.step(Event::CheckDone {
        id,
        token: 1,
        checked,
    });
    for token in 2..=4 {
        assert!(rig.machine.goals_met());
        rig.pass(1000);
        let actions = rig.pass(500);
        assert_eq!(actions.first(), Some(&Action::KillCheck { id, token }));
    }
    assert!(matches!(
        rig.state(id),
        State::Stopping {
            then: Some(After::Ended(Ending::Ill)),
            ..
        }
    ));
    exit(&mut rig, id, GOOD);
    assert!(matches!(rig.state(id), State::BackingOff { .. }));
}

#[test]
fn a_container_that_is_never_ready_is_ill_in_the_end() {
    for check in [Check::Notify, Check::Tcp { port: 80 }] {
        let mut definition = container("main", Goal::Ready);
        definition.health = Some(health(check));
        let (mut rig, id) = running(definition);
        // Start period and three slow checks.
        let last = rig.now + 2000 + 3 * 1500;
        while let Some(at) = rig.machine.next_deadline().filter(|at| *at < last) {
            rig.pass(at - rig.now);
            assert!(matches!(rig.state(id), State::Running(_)));
        }
        rig.now = last;
        let actions = rig.step(Event::Tick);
        assert_eq!(actions.last(), Some(&Action::Signal { id, signal: 15 }));
    }
}

#[test]
fn a_watchdog_message_that_stays_away_makes_ill() {
    let mut definition = container("main", Goal::Ready);
    definition.health = Some(health(Check::Notify));
    let (mut rig, id) = running(definition);
    rig.step(Event::NotifyReady(id));
    assert_eq!(rig.machine.next_deadline(), Some(rig.now + 3000));
    rig.pass(2999);
    rig.step(Event::NotifyWatchdog(id));
    assert_eq!(rig.pass(2999), []);
    assert_eq!(rig.pass(1), [Action::Signal { id, signal: 15 }]);
}

#[test]
fn readiness_before_the_exec_was_seen_is_kept() {
    let mut definition = container("main", Goal::Ready);
    definition.health = Some(health(Check::Notify));
    let (mut rig, _) = Rig::begin(&content(&["main"], vec![("app", definition)]));
    let id = rig.id("app");
    rig.step(Event::NotifyReady(id));
    rig.run(id);
    assert!(rig.machine.goals_met());
}

#[test]
fn a_container_that_says_it_stops_gets_its_grace_and_its_policy() {
    let (mut rig, id) = running(container("main", Goal::Started));
    assert_eq!(rig.step(Event::NotifyStopping(id)), []);
    assert!(!rig.machine.goals_met());
    assert_eq!(rig.pass(2000), [Action::KillCgroup(id)]);
    exit(&mut rig, id, KILLED);
    assert!(matches!(rig.state(id), State::BackingOff { .. }));
}

#[test]
fn an_operators_stop_sticks_until_a_start() {
    let (mut rig, id) = running(container("main", Goal::Started));
    let command = Command::Stop;
    assert_eq!(
        rig.step(Event::Command { id, command }),
        [Action::Signal { id, signal: 15 }]
    );
    assert_eq!(rig.pass(1999), []);
    assert_eq!(rig.pass(1), [Action::KillCgroup(id)]);
    assert_eq!(exit(&mut rig, id, KILLED), []);
    assert_eq!(rig.state(id), State::Stopped);
    assert_eq!(rig.pass(1_000_000), []);
    let command = Command::Start;
    assert_eq!(
        rig.step(Event::Command { id, command }),
        [Action::Spawn(id)]
    );
}

#[test]
fn a_restart_waits_for_the_empty_cgroup() {
    let (mut rig, id) = running(container("main", Goal::Started));
    let command = Command::Restart;
    rig.step(Event::Command { id, command });
    assert_eq!(
        rig.step(Event::CgroupEmpty(id)),
        [],
        "not yet: its main process is there"
    );
    assert_eq!(exit(&mut rig, id, GOOD), [Action::Spawn(id)]);
}

#[test]
fn what_even_a_kill_does_not_end_is_seen_outside_of_a_shutdown() {
    let (mut rig, id) = running(container("main", Goal::Started));
    let stuck = |rig: &Rig| rig.machine.status_of(id).unwrap().is_stuck(rig.now);
    let command = Command::Restart;
    rig.step(Event::Command { id, command });
    assert_eq!(rig.pass(2000), [Action::KillCgroup(id)]);
    rig.now += STUCK_AFTER - 1;
    assert!(!stuck(&rig));
    rig.now += 1;
    assert!(stuck(&rig));
    // Its main process goes at last, and something else of its cgroup stays.
    rig.step(Event::Exited { id, status: KILLED });
    assert!(!stuck(&rig));
    rig.now += STUCK_AFTER;
    assert!(stuck(&rig));
    rig.step(Event::CgroupEmpty(id));
    assert!(!stuck(&rig) && matches!(rig.state(id), State::Starting { .. }));
}

#[test]
fn a_stop_while_the_spawn_is_under_way_kills_what_it_makes() {
    let (mut rig, _) = Rig::begin(&content(
        &["main"],
        vec![("app", container("main", Goal::Started))],
    ));
    let id = rig.id("app");
    let command = Command::Stop;
    let kill = [Action::KillCgroup(id)];
    assert_eq!(rig.step(Event::Command { id, command }), kill);
    assert_eq!(rig.step(Event::Started { id, pid: 7 }), kill);
    exit(&mut rig, id, KILLED);
    assert_eq!(rig.state(id), State::Stopped);
}

#[test]
fn groups_and_after_hold_containers_back_and_say_so() {
    let mut second = container("first", Goal::Started);
    second.after = vec![name("a")];
    let (mut rig, actions) = Rig::begin(&content(
        &["first", "empty", "last"],
        vec![
            ("a", container("first", Goal::Finished)),
            ("b", second),
            ("c", container("last", Goal::Started)),
        ],
    ));
    let [a, b, c] = ["a", "b", "c"].map(|text| rig.id(text));
    assert_eq!(actions, [Action::Spawn(a)]);
    let (container, group) = (&name("a"), &name("first"));
    let waits = |rig: &Rig, id| format!("{:?}", rig.machine.status_of(id).unwrap().waiting_for);
    let after = WaitsFor::After { container };
    assert_eq!(waits(&rig, b), format!("{:?}", Some(after)));
    let earlier = WaitsFor::Group { group, container };
    assert_eq!(waits(&rig, c), format!("{:?}", Some(earlier)));
    rig.run(a);
    assert_eq!(exit(&mut rig, a, GOOD), [Action::Spawn(b)]);
    rig.step(Event::Started { id: b, pid: 5 });
    assert_eq!(rig.step(Event::Executed(b)), [Action::Spawn(c)]);
}

/// A container whose rules for devices say nothing here: what is there is the driver's to tell.
fn with_devices() -> kedge_revision::Container {
    let mut container = container("main", Goal::Started);
    container.devices = serde_json::from_str(r#"["tty required"]"#).unwrap();
    container.restart.policy = RestartPolicy::Always;
    container
}

#[test]
fn a_container_waits_for_a_device_that_it_requires() {
    let mut second = container("main", Goal::Started);
    second.after = vec![name("app")];
    let (mut rig, actions) = Rig::begin(&content(
        &["main"],
        vec![("app", with_devices()), ("second", second)],
    ));
    let [app, second] = ["app", "second"].map(|text| rig.id(text));
    assert_eq!(actions, []);
    let status = |rig: &Rig, id| {
        let status = rig.machine.status_of(id).unwrap();
        format!("{:?}", status.waiting_for)
    };
    assert_eq!(status(&rig, app), format!("{:?}", Some(WaitsFor::Device)));
    let missed = rig
        .machine
        .missing()
        .find(|missed| missed.id == app)
        .unwrap();
    assert_eq!(missed.reason, Missed::NoDevice);
    assert_eq!(missed.reason.to_string(), "waiting for a device");
    let lacks = |lacks| Event::Devices { id: app, lacks };
    assert_eq!(rig.step(lacks(true)), []);
    assert_eq!(rig.step(lacks(false)), [Action::Spawn(app)]);
    rig.step(Event::Started { id: app, pid: 3 });
    assert_eq!(rig.step(Event::Executed(app)), [Action::Spawn(second)]);
    rig.run(second);
    // It leaves: what runs goes on, and waits before its next start, whatever brings that about.
    assert_eq!(rig.step(lacks(true)), []);
    assert!(matches!(rig.state(app), State::Running(_)));
    exit(&mut rig, app, BAD);
    rig.now += 120_000;
    assert_eq!(rig.step(Event::Tick), []);
    assert_eq!(rig.state(app), State::Waiting);
    assert_eq!(status(&rig, app), format!("{:?}", Some(WaitsFor::Device)));
    let command = Command::Start;
    assert_eq!(rig.step(Event::Command { id: app, command }), []);
    assert_eq!(rig.step(lacks(false)), [Action::Spawn(app)]);
}

#[test]
fn a_container_that_waits_for_a_device_can_be_stopped() {
    let (mut rig, _) = Rig::begin(&content(&["main"], vec![("app", with_devices())]));
    let app = rig.id("app");
    let command = Command::Stop;
    rig.step(Event::Command { id: app, command });
    assert_eq!(rig.state(app), State::Stopped);
    assert_eq!(
        rig.step(Event::Devices {
            id: app,
            lacks: false
        }),
        []
    );
    let command = Command::Start;
    assert_eq!(
        rig.step(Event::Command { id: app, command }),
        [Action::Spawn(app)]
    );
}

#[test]
fn nothing_starts_before_the_boot_is_through() {
    let content = content(&["main"], vec![("app", container("main", Goal::Started))]);
    let mut rig = Rig {
        machine: super::Machine::new(&content),
        now: 5,
    };
    assert_eq!(rig.step(Event::Tick), []);
    let status = rig.machine.status().next().unwrap();
    assert_eq!(status.waiting_for, Some(WaitsFor::Boot));
    assert_eq!(rig.machine.settled_since(), None);
}

#[test]
fn a_shutdown_goes_backwards_through_groups_and_after() {
    let mut second = container("first", Goal::Started);
    second.after = vec![name("a")];
    let (mut rig, _) = Rig::begin(&content(
        &["first", "last"],
        vec![
            ("a", container("first", Goal::Started)),
            ("b", second),
            ("c", container("last", Goal::Started)),
        ],
    ));
    let ids = ["a", "b", "c"].map(|text| rig.id(text));
    for id in ids {
        rig.run(id);
    }
    let signal = |id| Action::Signal { id, signal: 15 };
    let [a, b, c] = ids;
    assert_eq!(rig.step(Event::Shutdown(Halt::Reboot)), [signal(c)]);
    assert_eq!(
        rig.step(Event::Shutdown(Halt::PowerOff)),
        [],
        "the first counts"
    );
    assert_eq!(exit(&mut rig, c, GOOD), [signal(b)]);
    assert_eq!(exit(&mut rig, b, BAD), [signal(a)]);
    let command = Command::Start;
    assert_eq!(rig.step(Event::Command { id: c, command }), []);
    assert_eq!(exit(&mut rig, a, GOOD), [Action::AllDown(Halt::Reboot)]);
    assert_eq!(rig.machine.next_deadline(), None);
}

#[test]
fn a_shutdown_does_not_wait_for_ever() {
    let mut stubborn = container("main", Goal::Started);
    stubborn.process.stop_grace_ms = 3_600_000;
    let (mut rig, id) = running(stubborn);
    rig.step(Event::Shutdown(Halt::PowerOff));
    assert_eq!(rig.pass(SHUTDOWN_GRACE), [Action::KillCgroup(id)]);
    assert_eq!(rig.pass(KILL_WAIT), [Action::AllDown(Halt::PowerOff)]);
    assert_eq!(rig.state(id), State::Failed(Ending::Stuck));
}

#[test]
fn a_shutdowns_limit_kills_all_that_is_left() {
    let names = ["a", "b", "c", "d", "e"];
    let chain: Vec<_> = names
        .iter()
        .zip(0_usize..)
        .map(|(text, index)| {
            let mut link = container("main", Goal::Started);
            link.process.stop_grace_ms = 30_000;
            link.after = names[index.saturating_sub(1)..index]
                .iter()
                .map(|before| name(before))
                .collect();
            (*text, link)
        })
        .collect();
    let (mut rig, _) = Rig::begin(&content(&["main"], chain));
    for text in names {
        let id = rig.id(text);
        rig.run(id);
    }
    let begun = rig.now;
    let mut actions = rig.step(Event::Shutdown(Halt::Reboot));
    while let Some(at) = rig.machine.next_deadline() {
        actions.extend(rig.pass(at - rig.now));
    }
    assert_eq!(rig.now, begun + SHUTDOWN_LIMIT + KILL_WAIT);
    assert_eq!(actions.last(), Some(&Action::AllDown(Halt::Reboot)));
}

#[test]
fn an_empty_revision_settles_and_shuts_down() {
    let (mut rig, actions) = Rig::begin(&content(&[], vec![]));
    assert_eq!(actions, []);
    assert_eq!(rig.machine.settled_since(), Some(1000));
    assert_eq!(
        rig.step(Event::Shutdown(Halt::Reboot)),
        [Action::AllDown(Halt::Reboot)]
    );
}
