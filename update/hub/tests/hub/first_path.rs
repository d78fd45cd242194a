//! From a new hub to a device that has reported that it runs what it was assigned.

use crate::world::{Plan, World, report};
use kedge_api::Signed;
use kedge_api::device::{Acknowledged, Phase, Reports, State};
use kedge_api::operator::{Device as Shown, Why};
use kedge_revision::authority::Authority;
use kedge_revision::bundle::Head;
use kedge_revision::fresh::{Fresh, Nonce};
use kedge_revision::{Root, verity};
use serde_json::json;

#[test]
fn a_device_enrols_fetches_what_it_was_assigned_and_reports() {
    let world = World::new();
    let made = world.publish(&Plan::default());
    let device = world.device(1);
    let client = &device.client;

    let answer = client.get("/v1/device/state").is(200);
    let state: State = answer.json();
    assert_eq!((state.assignment, state.root), (None, 1));
    let tag = answer.headers["etag"].clone();
    let again = client.ask("GET", "/v1/device/state", &[("if-none-match", &tag)], &[]);
    again.unwrap().is(304);

    let assigned = world.assign("tag:site=berlin", made.id);
    assert_eq!(assigned.devices, [device.id]);
    let answer = client.ask("GET", "/v1/device/state", &[("if-none-match", &tag)], &[]);
    let state: State = answer.unwrap().is(200).json();
    assert_eq!(state.assignment.unwrap().revision, made.id);

    // The root, and with it all that the hub signs.
    let signed: Signed = client.get("/v1/roots/1").is(200).json();
    let root = Root::parse(signed.document.as_bytes()).unwrap();
    root.verify_self(signed.document.as_bytes(), &signed.signatures().unwrap())
        .unwrap();
    let authority: Signed = world.server.client().get("/v1/authority").is(200).json();
    let signatures = authority.signatures().unwrap();
    let authority = Authority::verify(authority.document.as_bytes(), &signatures, &root).unwrap();
    assert_eq!(
        authority.certificates(),
        std::slice::from_ref(&world.server.authority)
    );
    let nonce = Nonce::from_bytes([9; 32]);
    let ask = json!({"device": device.id, "nonce": nonce});
    for (path, assigned) in [("/v1/time", None), ("/v1/device/assignment", Some(made.id))] {
        let signed: Signed = client.post(path, &ask).is(200).json();
        let signatures = signed.signatures().unwrap();
        let fresh = Fresh::verify(
            signed.document.as_bytes(),
            &signatures,
            &root,
            device.id,
            nonce,
        );
        let revision = fresh
            .unwrap()
            .assignment
            .map(|assignment| assignment.revision);
        assert_eq!(revision, assigned);
    }

    let head = client.get(&format!("/v1/revisions/{}/head", made.id.hex()));
    let head = Head::parse(&head.is(200).body).unwrap();
    assert_eq!(verity::digest(&head.revision), made.id);
    for (id, (sealed, bytes)) in &made.objects {
        let path = format!("/v1/objects/{}", id.hex());
        assert_eq!(
            &client.get(&format!("{path}/tree")).is(200).body,
            &sealed.tree
        );
        assert_eq!(&client.get(&path).is(200).body, bytes);
    }

    let reports = Reports {
        reports: vec![report(1, Phase::Committed, Some(made.id))],
        usage: None,
    };
    let done: Acknowledged = client.put("/v1/device/report", &reports).is(200).json();
    assert_eq!(done.seq, 1);
    let path = format!("/v1/devices/{}", device.id);
    let shown: Shown = world.operator.get(&path).is(200).json();
    assert_eq!(shown.running.unwrap().revision, made.id);
    assert_eq!(shown.phase, Some(Phase::Committed));
    let why: Why = world.operator.get(&format!("{path}/why")).is(200).json();
    assert!(why.up_to_date, "{why:?}");
}
