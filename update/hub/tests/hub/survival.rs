//! What was acknowledged is there after a power cut.

use crate::world::{Plan, World, report};
use kedge_api::device::{Phase, Reports};
use kedge_api::operator::Device as Shown;

#[test]
fn what_was_acknowledged_outlives_a_kill() {
    let world = World::new();
    let made = world.publish(&Plan::default());
    let device = world.device(1);
    world.assign("all", made.id);
    let reports = Reports {
        reports: vec![report(5, Phase::Committed, Some(made.id))],
    };
    device.client.put("/v1/device/report", &reports).is(200);
    let world = world.restarted(crate::world::Server::kill);
    let path = format!("/v1/devices/{}", device.id);
    let shown: Shown = world.operator.get(&path).is(200).json();
    assert_eq!(
        (shown.report, shown.desired.unwrap().revision),
        (5, made.id)
    );
}
