//! What operators desire of a device that has a past: it has failed, was told to apply, was removed, or claims anything.

use crate::world::{Device, Plan, World, report, request_with};
use kedge_api::device::{Desired, Phase, Report, Reports, State};
use kedge_api::operator::ParametersSet;
use kedge_revision::parameters::ParameterType;
use serde_json::{Value, json};

fn act(world: &World, device: &Device, what: &str) -> crate::client::Answer {
    let path = format!("/v1/devices/{}/actions", device.id);
    world.operator.post(&path, &json!({"what": what}))
}

fn state(device: &Device) -> State {
    device.client.get("/v1/device/state").is(200).json()
}

fn desired(device: &Device) -> Desired {
    state(device).assignment.unwrap()
}

fn tell(device: &Device, report: Report) {
    let reports = Reports {
        reports: vec![report],
        usage: None,
    };
    device.client.put("/v1/device/report", &reports).is(200);
}

fn set(world: &World, device: &Device, values: &Value) -> crate::client::Answer {
    let path = format!("/v1/devices/{}/parameters", device.id);
    world.operator.put(&path, &json!({"values": values}))
}

fn plan(counter: u64) -> Plan {
    Plan {
        counter,
        ..Plan::default()
    }
}

/// A device remembers that a revision failed, with the `retry` of then: whoever goes back to it, or assigns it again after
/// another one, must not be told that it failed before.
#[test]
fn what_failed_once_and_was_let_try_again_may_be_gone_back_to() {
    let world = World::new();
    let (first, second) = (world.publish(&plan(1)), world.publish(&plan(2)));
    let device = world.device(1);
    world.assign("all", first.id);
    act(&world, &device, "retry").is(202);
    assert_eq!(desired(&device).retry, 1);
    tell(&device, report(1, Phase::Committed, Some(first.id)));
    world.assign("all", second.id);
    assert_eq!(desired(&device).retry, 1);
    tell(&device, report(2, Phase::Committed, Some(second.id)));
    world.assign("all", first.id);
    assert_eq!(desired(&device).retry, 1);
    world.assign("all", second.id);
    act(&world, &device, "fall-back").is(202);
    let back = desired(&device);
    assert_eq!((back.revision, back.retry), (first.id, 2));
}

#[test]
fn values_that_do_not_fit_what_is_gone_back_to_are_told_at_once() {
    let world = World::new();
    let first = world.publish(&plan(1));
    let second = world.publish(&Plan {
        speed: ParameterType::String,
        ..plan(2)
    });
    let device = world.device(1);
    world.assign("all", first.id);
    tell(&device, report(1, Phase::Committed, Some(first.id)));
    world.assign("all", second.id);
    tell(&device, report(2, Phase::Committed, Some(second.id)));
    set(&world, &device, &json!({"speed": "fast"})).is(200);
    let refused = act(&world, &device, "fall-back").refused(409, "cannot-run");
    assert!(refused.detail.contains("speed"), "{refused:?}");
    assert_eq!(desired(&device).revision, second.id);
    set(&world, &device, &json!({"speed": "9"})).is(200);
    act(&world, &device, "fall-back").is(202);
    assert_eq!(desired(&device).revision, first.id);
}

#[test]
fn apply_is_for_what_is_there_and_not_for_later_values() {
    let world = World::new();
    let made = world.publish(&plan(1));
    let device = world.device(1);
    // It never opens while this runs: it has just closed.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let opens_s = (now.unwrap().as_secs() + 86_400 - 7200) % 86_400;
    let assign =
        json!({"query": "all", "revision": made.id, "window": {"opens-s": opens_s, "lasts-s": 60}});
    world.operator.post("/v1/assignments", &assign).is(200);
    let waits = |desired: &Desired| desired.apply_in_s.is_some_and(|seconds| seconds > 0);
    assert!(waits(&desired(&device)));
    act(&world, &device, "apply").is(202);
    let applied = desired(&device);
    assert!(applied.now && applied.apply_in_s.is_none(), "{applied:?}");
    set(&world, &device, &json!({"site": "berlin"})).is(200);
    let later = desired(&device);
    assert!(!later.now && waits(&later), "{later:?}");
}

#[test]
fn numbers_go_on_when_a_device_was_removed_and_comes_again() {
    let world = World::new();
    let made = world.publish(&plan(1));
    let device = world.device(1);
    world.assign("all", made.id);
    for _ in 0..3 {
        act(&world, &device, "identify").is(202);
        act(&world, &device, "retry").is(202);
        set(&world, &device, &json!({"site": "berlin"})).is(200);
    }
    world
        .operator
        .delete(&format!("/v1/devices/{}", device.id))
        .is(204);
    let token = world.join_token(1);
    let again = request_with(1, "gateway", Some(&token), 77);
    let answer = world.server.client().post("/v1/enroll", &again).is(200);
    let device = Device::accepted(&world.server, 1, &answer);
    world.assign("all", made.id);
    // Without values of the hub's it goes on with those that it has.
    assert_eq!(desired(&device).parameters, 0);
    assert_eq!(desired(&device).retry, 3);
    act(&world, &device, "identify").is(202);
    let ids: Vec<u64> = state(&device).actions.iter().map(|a| a.id).collect();
    assert_eq!(ids, [4]);
    let counted: ParametersSet = set(&world, &device, &json!({"site": "paris"}))
        .is(200)
        .json();
    assert_eq!(counted.counter, 4);
}

#[test]
fn values_can_be_set_whatever_counter_a_device_claims() {
    let world = World::new();
    let made = world.publish(&plan(1));
    let device = world.device(1);
    world.assign("all", made.id);
    let mut told = report(1, Phase::Committed, Some(made.id));
    told.running.as_mut().unwrap().parameters = u64::MAX;
    tell(&device, told);
    let count = |value: &str| {
        let set = set(&world, &device, &json!({"site": value})).is(200);
        set.json::<ParametersSet>().counter
    };
    let first = count("berlin");
    assert_eq!(count("paris"), first + 1);
}
