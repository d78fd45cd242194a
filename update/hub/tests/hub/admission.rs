//! Who is taken in, who is not, and who is thrown out.

use crate::world::{Device, World, device_key, request};
use kedge_api::device::Enrolled;
use kedge_api::operator::{Device as Shown, JoinToken, Page, Waiting};
use kedge_revision::PublicKey;
use serde_json::json;

#[test]
fn a_join_token_is_used_as_often_as_it_may_be_and_a_repeat_spends_nothing() {
    let world = World::new();
    let token = world.join_token(2);
    let client = world.server.client();
    Device::enrol(&world.server, 1, Some(&token));
    for _ in 0..3 {
        // Known by now: with the token, with another one, without any.
        Device::enrol(&world.server, 1, Some(&token));
        Device::enrol(&world.server, 1, Some("nonsense"));
        Device::enrol(&world.server, 1, None);
    }
    Device::enrol(&world.server, 2, Some(&token));
    let third = request(3, "gateway", Some(&token));
    client
        .post("/v1/enroll", &third)
        .refused(403, "token-spent");
    let listed: Page<JoinToken> = world.operator.get("/v1/join-tokens").is(200).json();
    assert_eq!((listed.items[0].left, &listed.items[0].token), (0, &None));
    let path = format!("/v1/join-tokens/{}", listed.items[0].id);
    world.operator.delete(&path).is(204);
    client
        .post("/v1/enroll", &third)
        .refused(403, "token-unknown");
    for wrong in ["x", "x.y", token.split_at(token.len() - 1).0] {
        let wrong = request(4, "gateway", Some(wrong));
        client
            .post("/v1/enroll", &wrong)
            .refused(403, "token-unknown");
    }
}

#[test]
fn a_product_that_is_not_served_is_told_so() {
    let world = World::new();
    let token = world.join_token(1);
    let wrong = request(1, "toaster", Some(&token));
    let client = world.server.client();
    client
        .post("/v1/enroll", &wrong)
        .refused(403, "product-unknown");
}

#[test]
fn a_claim_code_is_shown_typed_and_good_once() {
    let world = World::new();
    let client = world.server.client();
    let ask = request(7, "gateway", None);
    let Enrolled::Waiting { claim, .. } = client.post("/v1/enroll", &ask).is(202).json() else {
        panic!("a device without a token waits");
    };
    let waiting: Page<Waiting> = world.operator.get("/v1/claims").is(200).json();
    assert_eq!(waiting.items.len(), 1);
    let id = PublicKey::from_bytes(device_key(7).verifying_key().to_bytes()).id();
    assert_eq!(waiting.items[0].id, id);
    let typed = json!({"code": claim.to_uppercase().replace('-', " "), "tags": {"name": "north"}});
    let shown: Shown = world.operator.post("/v1/claims", &typed).is(200).json();
    assert_eq!((shown.id, shown.name.as_str()), (id, "north"));
    world
        .operator
        .post("/v1/claims", &typed)
        .refused(404, "claim-unknown");
    client.post("/v1/enroll", &ask).is(200);
}

#[test]
fn a_revoked_device_is_shut_out_at_once_and_for_good() {
    let world = World::new();
    let device = world.device(1);
    device.client.get("/v1/device/state").is(200);
    let path = format!("/v1/devices/{}/revoke", device.id);
    world.operator.post(&path, &json!({})).is(204);
    let shut_out = |world: &World, device: &Device| {
        device
            .client
            .get("/v1/device/state")
            .refused(403, "revoked");
        let renewal = device.client.post("/v1/device/certificate", &json!({}));
        renewal.refused(403, "revoked");
        let again = request(1, "gateway", Some(&world.join_token(1)));
        world
            .server
            .client()
            .post("/v1/enroll", &again)
            .refused(403, "revoked");
    };
    shut_out(&world, &device);
    let world = world.restarted(|server| assert!(server.stop()));
    let mut device = device;
    device.reconnect(&world.server);
    shut_out(&world, &device);
}

#[test]
fn a_device_renews_its_certificate() {
    let world = World::new();
    let device = world.device(1);
    let answer = device.client.post("/v1/device/certificate", &json!({}));
    let renewed = Device::accepted(&world.server, 1, &answer.is(200));
    assert_ne!(
        renewed.credentials.certificate,
        device.credentials.certificate
    );
    renewed.client.get("/v1/device/state").is(200);
}

#[test]
fn nobody_gets_in_without_saying_who_they_are() {
    let world = World::new();
    let stranger = world.server.client();
    for path in ["/v1/device/state", "/v1/roots/1", "/v1/device/assignment"] {
        let method = if path.ends_with("assignment") {
            "POST"
        } else {
            "GET"
        };
        let answer = stranger.ask(method, path, &[], b"{}").unwrap();
        answer.refused(401, "certificate-needed");
    }
    stranger.get("/v1/devices").refused(401, "token-needed");
    let id = world.token.split_once('.').unwrap().0;
    for wrong in ["x.y".to_owned(), format!("{id}.{}", "0".repeat(64))] {
        world
            .server
            .operator(&wrong)
            .get("/v1/devices")
            .refused(401, "token-refused");
    }
    world.operator.get("/v1/devices").is(200);
}
