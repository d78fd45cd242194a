//! Who is taken in, who is not, and who is thrown out.

use crate::client::{Client, tls};
use crate::world::{Device, HUB, World, device_key, request, request_with};
use kedge_api::device::Enrolled;
use kedge_api::operator::{Device as Shown, JoinToken, Page, Waiting};
use kedge_revision::PublicKey;
use kedge_revision::product::Mode;
use serde_json::json;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

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
    let mut device = world.device(1);
    device.client.get("/v1/device/state").is(200);
    let path = format!("/v1/devices/{}/revoke", device.id);
    world.operator.post(&path, &json!({})).is(204);
    // Its connections ended with that.
    device.reconnect(&world.server);
    let shut_out = |world: &World, device: &Device| {
        device
            .client
            .get("/v1/device/state")
            .refused(403, "revoked");
        let renewal = device.client.post("/v1/device/certificate", &json!({}));
        renewal.refused(403, "revoked");
        let again = request(1, "gateway", Some(&world.join_token(1)));
        let stranger = world.server.client();
        let problem = stranger.post("/v1/enroll", &again).refused(403, "revoked");
        // Which device it is, and what helps.
        let remedy = format!("kedge device remove {}", device.id);
        assert!(problem.detail.contains(&remedy), "{problem:?}");
    };
    shut_out(&world, &device);
    let world = world.restarted(|server| assert!(server.stop()));
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

/// What a start of the hub says on its two outputs, from the first word to the last.
fn said(data: &std::path::Path) -> [String; 2] {
    let mut child = Command::new(HUB)
        .args(["serve", "--name", "127.0.0.1", "--listen", "127.0.0.1:0"])
        .arg("--data")
        .arg(data)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("authority") {
        assert_ne!(out.read_line(&mut text).unwrap(), 0, "{text}");
    }
    let address = text.lines().next().unwrap().strip_prefix("listening on ");
    let address = address.unwrap().parse().unwrap();
    if let Some(token) = text
        .lines()
        .find_map(|line| line.strip_prefix("first token: "))
    {
        let mut operator = Client::new(address, tls(None, None));
        operator.token = Some(token.to_owned());
        operator.get("/v1/devices").is(200);
        operator.token = Some(format!("{token}0"));
        operator.get("/v1/devices").refused(401, "token-refused");
    }
    crate::world::terminate(child.id());
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success());
    out.read_to_string(&mut text).unwrap();
    [text, String::from_utf8(ended.stderr).unwrap()]
}

/// Whether any file below a directory holds these bytes.
fn holds(directory: &std::path::Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, bytes);
        }
        let contents = std::fs::read(&path).unwrap();
        contents.windows(bytes.len()).any(|window| window == bytes)
    })
}

#[test]
fn the_first_token_is_told_once_on_standard_output_and_is_nowhere_else() {
    let data = tempfile::tempdir().unwrap();
    // A first start that cannot listen takes no token along.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let failed = Command::new(HUB)
        .args(["serve", "--name", "127.0.0.1", "--listen", &address])
        .arg("--data")
        .arg(data.path())
        .output()
        .unwrap();
    assert!(!failed.status.success() && failed.stdout.is_empty());
    let [out, log] = said(data.path());
    let told: Vec<&str> = out
        .lines()
        .filter_map(|line| line.strip_prefix("first token: "))
        .collect();
    let [token] = told[..] else {
        panic!("{out}");
    };
    let secret = token.split_once('.').unwrap().1;
    assert_eq!(secret.len(), 64);
    assert!(!log.contains(secret), "{log}");
    assert!(!holds(data.path(), secret.as_bytes()));
    let [again, log] = said(data.path());
    assert!(
        !again.contains("token") && !log.contains(secret),
        "{again}{log}"
    );
}

#[test]
fn the_authority_is_told_at_each_start_as_a_login_shows_it() {
    use sha2::{Digest, Sha256};
    let world = World::new();
    let digest = Sha256::digest(&world.server.authority);
    let expected = kedge_revision::id::hex(&digest);
    assert_eq!(world.server.fingerprint, expected);
    let world = world.restarted(|server| assert!(server.stop()));
    assert_eq!(world.server.fingerprint, expected);
}

#[test]
fn an_enrolment_that_is_sent_again_changes_nothing_back() {
    let world = World::new();
    let token = world.join_token(5);
    let client = world.server.client();
    let path = format!(
        "/v1/devices/{}",
        Device::enrol(&world.server, 1, Some(&token)).id
    );
    let first = request(1, "gateway", Some(&token));
    // As it is, it is answered again, and spends nothing.
    client.post("/v1/enroll", &first).is(200);
    let tokens: Page<JoinToken> = world.operator.get("/v1/join-tokens").is(200).json();
    assert_eq!(tokens.items[0].left, 4);
    // The device becomes another product; its old request does not make it what it was.
    let root = world.keys.root(1, Mode::Development, world.server.key);
    world
        .operator
        .post("/v1/products?product=router", &root)
        .is(201);
    client
        .post("/v1/enroll", &request_with(1, "router", None, 199))
        .refused(403, "other-product");
    client
        .post("/v1/enroll", &request_with(1, "router", Some(&token), 198))
        .refused(403, "token-of-another-product");
    let new = json!({"product": "router", "uses": 1, "lasts-s": 3600});
    let other: JoinToken = world.operator.post("/v1/join-tokens", &new).is(201).json();
    let changed = request_with(1, "router", other.token.as_deref(), 200);
    client.post("/v1/enroll", &changed).is(200);
    client
        .post("/v1/enroll", &first)
        .refused(409, "enrolment-repeated");
    let shown: Shown = world.operator.get(&path).is(200).json();
    assert_eq!(shown.product.as_str(), "router");
    // Nor does it bring back one that was removed, whether by its token or by a claim.
    world.operator.delete(&path).is(204);
    for repeated in [&first, &changed] {
        client
            .post("/v1/enroll", repeated)
            .refused(409, "enrolment-repeated");
    }
    let tokens: Page<JoinToken> = world.operator.get("/v1/join-tokens").is(200).json();
    let left: Vec<u32> = tokens.items.iter().map(|token| token.left).collect();
    assert!(left.contains(&4) && !left.contains(&5), "{left:?}");
    let waits = request_with(2, "gateway", None, 201);
    let Enrolled::Waiting { claim, .. } = client.post("/v1/enroll", &waits).is(202).json() else {
        panic!("a device without a token waits");
    };
    let typed = json!({"code": claim});
    let taken: Shown = world.operator.post("/v1/claims", &typed).is(200).json();
    world
        .operator
        .delete(&format!("/v1/devices/{}", taken.id))
        .is(204);
    let Enrolled::Waiting { claim, .. } = client.post("/v1/enroll", &waits).is(202).json() else {
        panic!("a device without a token waits");
    };
    world
        .operator
        .post("/v1/claims", &json!({"code": claim}))
        .refused(409, "enrolment-repeated");
}

/// What `kedge-hub token …` prints, and whether it succeeded.
fn token(data: &std::path::Path, words: &[&str]) -> (bool, String) {
    let output = Command::new(HUB)
        .arg("token")
        .args(words)
        .arg("--data")
        .arg(data)
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.success(), text.trim_end().to_owned())
}

#[test]
fn a_token_is_made_listed_and_ended_on_the_machine_while_the_hub_runs() {
    let world = World::new();
    let data = world.directory.path();
    let (made, whole) = token(data, &["new", "anna"]);
    assert!(made, "{whole}");
    let (made, short) = token(data, &["new", "bert", "--for", "30d"]);
    assert!(made, "{short}");
    let id = |token: &str| token.split_once('.').unwrap().0.to_owned();
    let (anna, bert) = (world.server.operator(&whole), world.server.operator(&short));
    anna.get("/v1/devices").is(200);
    bert.get("/v1/devices").is(200);
    let (_, listed) = token(data, &["list"]);
    let line = |id: &str| listed.lines().find(|line| line.starts_with(id)).unwrap();
    assert!(
        line(&id(&whole)).ends_with("until it is deleted   anna"),
        "{listed}"
    );
    assert!(line(&id(&short)).ends_with("Z  bert"), "{listed}");
    for secret in [&whole, &short] {
        assert!(!listed.contains(secret.split_once('.').unwrap().1));
    }
    // The hub knows it by now, and has to learn that it is no more.
    let (ended, said) = token(data, &["delete", &id(&whole)]);
    assert!(ended && said.ends_with("of anna"), "{said}");
    anna.get("/v1/devices").refused(401, "token-refused");
    anna.get("/v1/devices").refused(401, "token-refused");
    bert.get("/v1/devices").is(200);
    let (again, said) = token(data, &["delete", &id(&whole)]);
    assert!(!again && said.contains("no token"), "{said}");
    let events = world.operator.get("/v1/events").is(200);
    let text = String::from_utf8_lossy(&events.body).into_owned();
    assert!(
        text.contains("of anna was ended on the hub's machine"),
        "{text}"
    );
    for wrong in ["0d", "30", "1y", "99999999d"] {
        assert!(!token(data, &["new", "carl", "--for", wrong]).0, "{wrong}");
    }
}
