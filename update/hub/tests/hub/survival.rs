//! What was acknowledged is there after a kill; what must not be opened is not; backups come back.

use crate::client::{Client, Credentials};
use crate::world::{
    Device, HUB, Made, Plan, Server, World, device_key, report, request, sample, unhex,
};
use kedge_api::device::{Phase, Reports, State};
use kedge_api::operator::{Device as Shown, Done, Offer, Page, ParametersSet, Revision};
use kedge_revision::{KeyId, PublicKey};
use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair, date_time_ymd};
use serde_json::json;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Kills in CI; `KEDGE_SEEDS` for more.
const SEEDS: u64 = 20;

/// How often a test kills: as the variable `KEDGE_SEEDS` says, else `usual`.
pub(crate) fn kills(usual: u64) -> u64 {
    count(std::env::var_os("KEDGE_SEEDS"), usual)
}

fn count(said: Option<OsString>, usual: u64) -> u64 {
    let Some(said) = said else {
        return usual;
    };
    let number = said.to_str().and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| panic!("KEDGE_SEEDS is how often to kill, and no number: {said:?}"))
}

#[test]
fn how_often_to_kill_is_a_number() {
    assert_eq!(count(None, 20), 20);
    assert_eq!(count(Some("200".into()), 20), 200);
}

#[test]
#[should_panic(expected = "KEDGE_SEEDS is how often to kill, and no number: \"0-49\"")]
fn what_is_no_number_is_not_passed_over() {
    count(Some("0-49".into()), 20);
}

fn hub(arguments: &[&str]) -> Output {
    Command::new(HUB).args(arguments).output().unwrap()
}

/// What clients of a hub that is killed were told.
struct Told {
    report: u64,
    enrolled: Vec<u8>,
    uploaded: u64,
    /// Lines of the log.
    logged: u64,
}

/// Sends lines of a log, one a request, behind line `line`; the last one that the hub has acknowledged.
fn send_logs(client: Client, over: &Arc<AtomicBool>, mut line: u64) -> JoinHandle<u64> {
    let over = Arc::clone(over);
    std::thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            let text = format!("{{\"source\":\"web\",\"text\":\"line {}\"}}\n", line + 1);
            let body = zstd::bulk::compress(text.as_bytes(), 1).unwrap();
            match client.ask("POST", "/v1/device/logs", &[], &body) {
                Ok(answer) if answer.status == 204 => line += 1,
                _ => break,
            }
        }
        line
    })
}

/// Takes devices in behind number `number`; those that the hub has acknowledged.
fn send_enrolments(world: &World, over: &Arc<AtomicBool>, mut number: u8) -> JoinHandle<Vec<u8>> {
    let (client, token, over) = (
        world.server.client(),
        world.join_token(200),
        Arc::clone(over),
    );
    std::thread::spawn(move || {
        let mut told = Vec::new();
        while !over.load(Ordering::Relaxed) && number < 250 {
            number += 1;
            let body = serde_json::to_vec(&request(number, "gateway", Some(&token))).unwrap();
            match client.ask("POST", "/v1/enroll", &[], &body) {
                Ok(answer) if answer.status == 200 => told.push(number),
                _ => break,
            }
        }
        told
    })
}

/// Sends reports, enrolments, pieces of an object and logs until the hub is gone.
fn send(
    world: &World,
    device: &Device,
    made: &Made,
    first: (u64, u8, u64, u64),
) -> impl FnOnce() -> Told + use<> {
    let over = Arc::new(AtomicBool::new(false));
    let (mut seq, number, mut offset, line) = first;
    let reports = {
        let (client, over) = (device.client.clone(), Arc::clone(&over));
        std::thread::spawn(move || {
            let mut told = seq;
            while !over.load(Ordering::Relaxed) {
                seq += 1;
                let body = Reports {
                    reports: vec![report(seq, Phase::Idle, None)],
                    usage: None,
                };
                let body = serde_json::to_vec(&body).unwrap();
                match client.ask("PUT", "/v1/device/report", &[], &body) {
                    Ok(answer) if answer.status == 200 => told = seq,
                    _ => break,
                }
            }
            told
        })
    };
    let enrolments = send_enrolments(world, &over, number);
    let uploads = {
        let (client, over) = (world.operator.clone(), Arc::clone(&over));
        let (id, (sealed, bytes)) = largest(made);
        let (head, tree, bytes) = (made.id, sealed.tree.clone(), bytes.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let from = usize::try_from(offset).unwrap();
                let mut body = tree.clone();
                body.extend_from_slice(&bytes[from..bytes.len().min(from + 65_536)]);
                let path = format!(
                    "/v1/revisions/{}/objects/{}?offset={offset}",
                    head.hex(),
                    id.hex()
                );
                match client.ask("POST", &path, &[], &body) {
                    Ok(answer) if answer.status == 200 => offset = answer.json::<Done>().done,
                    _ => break,
                }
            }
            offset
        })
    };
    let logs = send_logs(device.client.clone(), &over, line);
    move || {
        over.store(true, Ordering::Relaxed);
        Told {
            report: reports.join().unwrap(),
            enrolled: enrolments.join().unwrap(),
            uploaded: uploads.join().unwrap(),
            logged: logs.join().unwrap(),
        }
    }
}

fn largest(
    made: &Made,
) -> (
    kedge_revision::ObjectId,
    &(kedge_revision::verity::Sealed, Vec<u8>),
) {
    let largest = made
        .objects
        .iter()
        .max_by_key(|(_, (sealed, _))| sealed.size);
    let (id, object) = largest.unwrap();
    (*id, object)
}

fn id_of(number: u8) -> KeyId {
    PublicKey::from_bytes(device_key(number).verifying_key().to_bytes()).id()
}

#[test]
fn what_was_acknowledged_outlives_a_kill_at_any_moment() {
    let mut world = World::new();
    let mut device = world.device(1);
    let made = Plan {
        layer: sample(4_000_000),
        ..Plan::default()
    };
    let made = made.make(&world.keys);
    world.offer(&made.head).is(200);
    let id = largest(&made).0;
    let (mut seq, mut offset, mut line) = (0, 0, 0);
    for seed in 0..kills(SEEDS) {
        let begun = Instant::now();
        let ended = send(&world, &device, &made, (seq, 1, offset, line));
        // Between nothing and a fifth of a second, in no order.
        let moment = Duration::from_millis(seed * 7919 % 200);
        std::thread::sleep(moment.saturating_sub(begun.elapsed()));
        world = world.restarted(Server::kill);
        let told = ended();
        device.reconnect(&world.server);
        let shown: Shown = world
            .operator
            .get(&format!("/v1/devices/{}", device.id))
            .is(200)
            .json();
        assert!(
            shown.report >= told.report,
            "seed {seed}: report {}",
            told.report
        );
        seq = shown.report;
        for number in &told.enrolled {
            let path = format!("/v1/devices/{}", id_of(*number));
            assert_eq!(
                world.operator.get(&path).status,
                200,
                "seed {seed}: device {number}"
            );
        }
        let offer: Offer = world.offer(&made.head).is(200).json();
        let missing = offer.missing.iter().find(|missing| missing.id == id);
        let have = missing.map_or(4_000_000, |missing| missing.have);
        assert!(
            have >= told.uploaded,
            "seed {seed}: {have} of {}",
            told.uploaded
        );
        offset = have;
        let path = format!("/v1/devices/{}/logs", device.id);
        let kept = world.operator.get(&path).is(200).text();
        for number in line + 1..=told.logged {
            let wanted = format!("\"text\":\"line {number}\"");
            assert!(kept.contains(&wanted), "seed {seed}: no line {number}");
        }
        line = told.logged;
    }
}

#[test]
fn a_certificate_whose_time_is_over_renews_itself_and_does_nothing_else() {
    let world = World::new();
    let device = world.device(1);
    let key = std::fs::read(world.directory.path().join("keys/authority.key")).unwrap();
    let mut authority = CertificateParams::default();
    authority.distinguished_name = DistinguishedName::new();
    let name = format!("Kedge hub {}", &world.server.key.id().to_string()[..16]);
    authority.distinguished_name.push(DnType::CommonName, name);
    let issuer = Issuer::new(authority, KeyPair::try_from(key).unwrap());
    let mut pkcs8 = unhex("302e020100300506032b657004220420");
    pkcs8.extend_from_slice(&[1; 32]);
    let own = KeyPair::try_from(pkcs8).unwrap();
    let expired = |not_before, not_after| {
        let mut params = CertificateParams::default();
        params.not_before = not_before;
        params.not_after = not_after;
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let credentials = Credentials {
            certificate: params.signed_by(&own, &issuer).unwrap().der().to_vec(),
            seed: [1; 32],
        };
        world.server.device(&credentials)
    };
    let client = expired(date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    client
        .get("/v1/device/state")
        .refused(401, "certificate-expired");
    let answer = client.post("/v1/device/certificate", &json!({})).is(200);
    let renewed = Device::accepted(&world.server, 1, &answer);
    renewed.client.get("/v1/device/state").is(200);
    // Issued while the hub's clock was ahead.
    let client = expired(date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1));
    client
        .get("/v1/device/state")
        .refused(401, "certificate-expired");
    client.post("/v1/device/certificate", &json!({})).is(200);
    world
        .operator
        .post(&format!("/v1/devices/{}/revoke", device.id), &json!({}))
        .is(204);
    let client = expired(date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    client
        .post("/v1/device/certificate", &json!({}))
        .refused(403, "revoked");
}

#[test]
fn a_certificate_of_another_authority_is_not_let_in() {
    let (world, other) = (World::new(), World::new());
    let foreign = other.device(1);
    let client = world.server.device(&foreign.credentials);
    assert!(client.ask("GET", "/v1/device/state", &[], &[]).is_err());
}

#[test]
fn a_database_of_a_newer_hub_is_refused_in_words() {
    let world = World::new();
    let World {
        directory, server, ..
    } = world;
    assert!(server.stop());
    let database = rusqlite::Connection::open(directory.path().join("hub.db")).unwrap();
    database.pragma_update(None, "user_version", 1000).unwrap();
    drop(database);
    let data = directory.path().to_str().unwrap();
    let output = hub(&[
        "serve",
        "--data",
        data,
        "--name",
        "hub",
        "--listen",
        "127.0.0.1:0",
    ]);
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("1000") && said.contains("newer hub"),
        "{said}"
    );
}

#[test]
fn two_hubs_do_not_share_a_directory() {
    let world = World::new();
    let data = world.directory.path().to_str().unwrap();
    let output = hub(&[
        "serve",
        "--data",
        data,
        "--name",
        "hub",
        "--listen",
        "127.0.0.1:0",
    ]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("another hub"),
        "{said}"
    );
}

#[test]
fn a_lost_token_is_replaced_on_the_machine_itself() {
    let world = World::new();
    let data = world.directory.path().to_str().unwrap();
    let output = hub(&["token", "new", "--data", data, "rescue"]);
    assert!(output.status.success());
    let token = String::from_utf8(output.stdout).unwrap();
    world
        .server
        .operator(token.trim())
        .get("/v1/devices")
        .is(200);
    let output = hub(&["token", "new", "--data", "/nonexistent", "rescue"]);
    assert!(!output.status.success());
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_backup_of_a_running_hub_comes_back_as_the_same_hub() {
    let world = World::new();
    let made = world.publish(&Plan::default());
    let mut device = world.device(1);
    world.assign("all", made.id);
    for name in ["hub.db", "keys/hub.key", "keys/authority.key"] {
        assert_eq!(mode(&world.directory.path().join(name)), 0o600, "{name}");
    }
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("backup.tar");
    let (data, name) = (
        world.directory.path().to_str().unwrap(),
        file.to_str().unwrap(),
    );
    assert!(hub(&["backup", "--data", data, name]).status.success());
    assert_eq!(mode(&file), 0o600);
    let without = place.path().join("without.tar");
    assert!(
        hub(&[
            "backup",
            "--data",
            data,
            "--without-objects",
            without.to_str().unwrap()
        ])
        .status
        .success()
    );
    let remote = world
        .operator
        .ask("POST", "/v1/backup", &[], &[])
        .unwrap()
        .is(200);
    assert!(!remote.body.windows(8).any(|name| name == b"keys/hub"));
    let key = world.server.key;
    let new = place.path().join("new");
    assert!(!hub(&["restore", "--data", data, name]).status.success());
    let restored = hub(&["restore", "--data", new.to_str().unwrap(), name]);
    assert!(restored.status.success());
    let said = String::from_utf8(restored.stdout).unwrap();
    assert!(said.contains("assign again"), "{said}");
    std::fs::File::create(new.join("token-taken")).unwrap();
    let server = Server::start(&new);
    assert_eq!(server.key, key);
    device.reconnect(&server);
    numbers_are_new(&server.operator(&world.token), &device);
    for id in made.objects.keys() {
        let path = format!("/v1/objects/{}/tree", id.hex());
        device.client.get(&path).is(200);
    }
    // Without objects a revision has to be published again.
    let bare = place.path().join("bare");
    let restored = hub(&[
        "restore",
        "--data",
        bare.to_str().unwrap(),
        without.to_str().unwrap(),
    ]);
    assert!(restored.status.success());
    std::fs::File::create(bare.join("token-taken")).unwrap();
    let server = Server::start(&bare);
    let operator = server.operator(&world.token);
    let listed: Page<Revision> = operator.get("/v1/revisions").is(200).json();
    assert!(!listed.items[0].complete);
}

/// What a restored hub counts is above all that the lost one may have told the device since the backup.
fn numbers_are_new(operator: &Client, device: &Device) {
    let path = format!("/v1/devices/{}", device.id);
    let values = json!({"values": {"site": "berlin"}}).to_string();
    let parameters = format!("{path}/parameters");
    let set = operator.ask("PUT", &parameters, &[], values.as_bytes());
    let set: ParametersSet = set.unwrap().is(200).json();
    let action = json!({"what": "identify"});
    operator.post(&format!("{path}/actions"), &action).is(202);
    let state: State = device.client.get("/v1/device/state").is(200).json();
    let action = state.actions.first().unwrap().id;
    let restored = 1_700_000_000;
    assert!(
        set.counter > restored && action > restored,
        "{set:?}, {action}"
    );
}

#[test]
fn a_question_after_health_writes() {
    let world = World::new();
    world.server.client().get("/healthz").is(200);
    let database = rusqlite::Connection::open(world.directory.path().join("hub.db")).unwrap();
    let count = |table: &str| -> u32 {
        let count = format!("SELECT count(*) FROM {table}");
        database.query_row(&count, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(count("health"), 1);
    world.server.client().get("/healthz").is(200);
    assert_eq!(count("health"), 1);
}

#[test]
fn a_backup_that_is_damaged_makes_no_hub() {
    let world = World::new();
    world.publish(&Plan::default());
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("backup.tar");
    let (data, name) = (
        world.directory.path().to_str().unwrap(),
        file.to_str().unwrap(),
    );
    assert!(hub(&["backup", "--data", data, name]).status.success());
    let mut torn = std::fs::read(&file).unwrap();
    let length = torn.len();
    // In the bytes of an object, behind database and keys.
    torn[length - 200_000] ^= 1;
    std::fs::remove_file(&file).unwrap();
    std::io::Write::write_all(&mut std::fs::File::create(&file).unwrap(), &torn).unwrap();
    let third = place.path().join("third");
    let output = hub(&["restore", "--data", third.to_str().unwrap(), name]);
    assert!(!output.status.success());
    assert!(!third.join("hub.db").exists());
}
