//! What operators desire of a device that has a past: it has failed, was told to apply, was removed, or claims anything.

use crate::world::{Device, Plan, World, report};
use kedge_api::device::{Phase, Report, Reports};
use kedge_api::operator::ParametersSet;
use serde_json::{Value, json};

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
