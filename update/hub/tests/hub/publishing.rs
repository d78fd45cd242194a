//! What may be published, how uploads go on, and who may fetch.

use crate::client::Answer;
use crate::world::{Keys, Plan, Server, World, sample, upload_path};
use ed25519_dalek::SigningKey;
use kedge_api::device::State;
use kedge_api::operator::{Done, Offer, Page, Revision};
use kedge_revision::PublicKey;
use kedge_revision::bundle::Head;
use kedge_revision::product::Mode;

#[test]
fn a_root_must_be_this_hubs_and_of_its_mode() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start_with(directory.path(), &["--mode", "production"]);
    let operator = server.operator(server.token.as_ref().unwrap());
    let keys = Keys::default();
    let path = "/v1/products?product=gateway";
    let development = keys.root(1, Mode::Development, server.key);
    operator
        .post(path, &development)
        .refused(403, "development-root");
    let stranger = SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes();
    let stranger = kedge_revision::PublicKey::from_bytes(stranger);
    let foreign = keys.root(1, Mode::Production, stranger);
    let problem = operator.post(path, &foreign).refused(422, "hub-not-named");
    assert!(problem.detail.contains(&server.key.to_string()));
    let mut torn = keys.root(1, Mode::Production, server.key);
    torn.document.push(' ');
    operator.post(path, &torn).refused(400, "root");
    operator
        .post("/v1/products", &foreign)
        .refused(400, "product");

    let first = keys.root(1, Mode::Production, server.key);
    operator.post(path, &first).is(201);
    operator.post(path, &first).is(201);
    operator
        .post(path, &keys.root(3, Mode::Production, server.key))
        .refused(400, "root");
    operator
        .post(path, &keys.root(2, Mode::Production, server.key))
        .is(201);
}

fn named_by_nobody_here() -> PublicKey {
    PublicKey::from_bytes(SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes())
}

#[test]
fn a_product_that_went_to_another_hub_comes_back_without_a_gap() {
    let world = World::new();
    let device = world.device(1);
    let path = "/v1/products?product=gateway";
    let root = |version, hub| world.keys.root(version, Mode::Development, hub);
    let newest = || -> u32 {
        let state: State = device.client.get("/v1/device/state").is(200).json();
        state.root
    };
    let (own, other) = (world.server.key, named_by_nobody_here());
    for _ in 0..2 {
        let away = world.operator.post(path, &root(2, other));
        away.refused(422, "hub-not-named");
    }
    // Served by what names this hub; whoever follows the chain finds the next one.
    assert_eq!(newest(), 1);
    let found = world.server.client().get("/v1/roots/2?product=gateway");
    found.is(200);
    world.publish(&Plan::default());
    world.operator.post(path, &root(3, own)).is(201);
    assert_eq!(newest(), 3);
    let world = world.restarted(Server::kill);
    for version in 1..=3 {
        let path = format!("/v1/roots/{version}?product=gateway");
        world.server.client().get(&path).is(200);
    }
}

#[test]
fn a_hub_that_is_named_late_takes_earlier_roots_afterwards() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let operator = server.operator(server.token.as_ref().unwrap());
    let keys = Keys::default();
    let path = "/v1/products?product=gateway";
    let root = |version, hub| keys.root(version, Mode::Development, hub);
    let other = named_by_nobody_here();
    operator
        .post(path, &root(1, other))
        .refused(422, "hub-not-named");
    operator.post(path, &root(3, server.key)).is(201);
    // Only the one right before: that it is followed is what vouches for it.
    operator.post(path, &root(1, other)).refused(400, "root");
    let strangers = Keys {
        root: SigningKey::from_bytes(&[1; 32]),
        release: SigningKey::from_bytes(&[2; 32]),
    };
    let foreign = strangers.root(2, Mode::Development, other);
    operator.post(path, &foreign).refused(400, "root");
    operator.post(path, &root(2, other)).is(201);
    operator.post(path, &root(1, other)).is(201);
    for version in 1..=3 {
        let path = format!("/v1/roots/{version}?product=gateway");
        server.client().get(&path).is(200);
    }
}

#[test]
fn a_head_is_judged_as_a_device_would() {
    let world = World::new();
    let foreign = Keys {
        root: SigningKey::from_bytes(&[1; 32]),
        release: SigningKey::from_bytes(&[2; 32]),
    };
    let unsigned = Plan::default().make(&foreign);
    world.offer(&unsigned.head).refused(400, "revision");
    world.offer(b"no bundle").refused(400, "revision");
    let toaster = Plan {
        product: "toaster",
        ..Plan::default()
    };
    let toaster = toaster.make(&world.keys);
    world.offer(&toaster.head).refused(422, "product-unknown");
    // The same place with other contents: devices would refuse one of them.
    world.publish(&Plan::default());
    let twin = Plan {
        layer: sample(5000),
        ..Plan::default()
    };
    world
        .offer(&twin.make(&world.keys).head)
        .refused(409, "order-taken");
    let mut torn = Head::parse(&unsigned.head).unwrap();
    torn.revision.pop();
    world.offer(&torn.encode()).refused(400, "revision");
}

#[test]
fn an_upload_goes_on_where_it_was_cut_and_a_bad_block_keeps_what_was_good() {
    let world = World::new();
    let made = Plan::default().make(&world.keys);
    let offer: Offer = world.offer(&made.head).is(200).json();
    assert_eq!(offer.missing.len(), 3);
    let largest = offer.missing.iter().max_by_key(|missing| missing.size);
    let id = largest.unwrap().id;
    let (sealed, bytes) = &made.objects[&id];
    let send = |offset: usize, bytes: &[u8]| -> Answer {
        let mut body = sealed.tree.clone();
        body.extend_from_slice(bytes);
        let path = upload_path(&made, id, offset);
        world.operator.ask("POST", &path, &[], &body).unwrap()
    };
    let done: Done = send(0, &bytes[..100_000]).is(200).json();
    assert_eq!((done.done, done.complete), (98_304, false));
    let mut bad = bytes[98_304..].to_vec();
    bad[9000] ^= 1;
    send(98_304, &bad).refused(422, "damaged");
    send(0, bytes).refused(409, "offset");
    let offer: Offer = world.offer(&made.head).is(200).json();
    let missing = offer.missing.iter().find(|missing| missing.id == id);
    let have = usize::try_from(missing.unwrap().have).unwrap();
    assert_eq!(have, 98_304 + 8192);
    let world = world.restarted(Server::kill);
    let done: Done = world.upload(&made, id, have).is(200).json();
    assert!(done.complete);
    // Once more: it is there, and nothing is taken.
    let done: Done = world.upload(&made, id, 0).is(200).json();
    assert!(done.complete);
    let listed: Page<Revision> = world.operator.get("/v1/revisions").is(200).json();
    assert!(!listed.items[0].complete);
    let assigned = world.assign("all", made.id);
    assert!(assigned.devices.is_empty());
}

#[test]
fn more_bytes_than_an_object_has_and_objects_of_nobody_are_refused() {
    let world = World::new();
    let made = Plan::default().make(&world.keys);
    world.offer(&made.head).is(200);
    let (id, (sealed, bytes)) = made.objects.iter().next().unwrap();
    let mut body = sealed.tree.clone();
    body.extend_from_slice(bytes);
    body.push(0);
    let answer = world
        .operator
        .ask("POST", &upload_path(&made, *id, 0), &[], &body);
    answer.unwrap().refused(422, "too-long");
    let stranger = kedge_revision::verity::digest(b"stranger");
    let answer = world
        .operator
        .ask("POST", &upload_path(&made, stranger, 0), &[], b"stranger");
    answer.unwrap().refused(404, "not-found");
}

#[test]
fn what_does_not_fit_on_the_disk_is_refused_before_a_byte_is_sent() {
    let world = World::new();
    let made = Plan::default().make(&world.keys);
    // A layer of a pebibyte, as far as the signed document says.
    let head = Head::parse(&made.head).unwrap();
    let text = String::from_utf8(head.revision).unwrap();
    let huge = text.replace("\"size\":300000", "\"size\":1125899906842624");
    assert_ne!(text, huge);
    let mut signatures = kedge_revision::SignatureSet::default();
    signatures.sign(
        kedge_revision::signing::Kind::Revision,
        huge.as_bytes(),
        &world.keys.release,
    );
    let head = Head {
        revision: huge.into_bytes(),
        signatures: signatures.encode().unwrap(),
        parameters: None,
    };
    world.offer(&head.encode()).refused(507, "disk-full");
    let listed: Page<Revision> = world.operator.get("/v1/revisions").is(200).json();
    assert!(listed.items.is_empty());
}

#[test]
fn objects_are_for_devices_that_were_assigned_them_whole_in_ranges_and_in_frames() {
    let world = World::new();
    let plan = Plan {
        layer: sample(2_500_000),
        ..Plan::default()
    };
    let made = world.publish(&plan);
    let other = world.publish(&Plan {
        counter: 2,
        layer: sample(9000),
        ..Plan::default()
    });
    let device = world.device(1);
    let largest = made
        .objects
        .iter()
        .max_by_key(|(_, (sealed, _))| sealed.size);
    let (id, (_, bytes)) = largest.unwrap();
    let path = format!("/v1/objects/{}", id.hex());
    device.client.get(&path).refused(403, "not-assigned");
    let head = format!("/v1/revisions/{}/head", made.id.hex());
    device.client.get(&head).refused(403, "not-assigned");
    world.assign("all", made.id);
    for id in other
        .objects
        .keys()
        .filter(|id| !made.objects.contains_key(id))
    {
        let path = format!("/v1/objects/{}/tree", id.hex());
        device.client.get(&path).refused(403, "not-assigned");
    }
    let range = |path: &str, range: &str| {
        device
            .client
            .ask("GET", path, &[("range", range)], &[])
            .unwrap()
    };
    let part = range(&path, "bytes=1000000-1000009").is(206);
    assert_eq!(
        part.headers["content-range"],
        "bytes 1000000-1000009/2500000"
    );
    assert_eq!(part.body, bytes[1_000_000..1_000_010]);
    range(&path, "bytes=2500000-").refused(416, "range");

    let index = device.client.get(&format!("{path}/index")).is(200).body;
    let ends: Vec<u64> = index
        .chunks_exact(8)
        .map(|end| u64::from_le_bytes(end.try_into().unwrap()))
        .collect();
    assert_eq!(ends.len(), 4);
    let mut all = Vec::new();
    for pair in ends.windows(2) {
        let wanted = format!("bytes={}-{}", pair[0], pair[1] - 1);
        let frame = range(&format!("{path}/frames"), &wanted).is(206).body;
        all.extend(zstd::bulk::decompress(&frame, 1 << 20).unwrap());
    }
    assert_eq!(&all, bytes);
    let listed: Page<Revision> = world
        .operator
        .get("/v1/revisions?product=gateway")
        .is(200)
        .json();
    let shown = listed
        .items
        .iter()
        .find(|revision| revision.id == made.id)
        .unwrap();
    assert!(shown.complete && shown.compressed < shown.size);
}
