//! What operators remove, and what goes by itself: whole, and never more.

use crate::client::Answer;
use crate::survival::kills;
use crate::world::{
    Device, Made, Plan, Server, World, report, request, request_with, sample, upload_path,
};
use kedge_api::device::{Phase, Reports};
use kedge_api::operator::{Collected, Device as Shown, Offer, Page, Revision};
use kedge_revision::ObjectId;
use rusqlite::Connection;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Kills in CI; `KEDGE_SEEDS` for more.
const SEEDS: u64 = 15;

fn plan(counter: u64) -> Plan {
    let mut layer = sample(100_000);
    layer.extend_from_slice(format!("layer of revision {counter}").as_bytes());
    Plan {
        counter,
        layer,
        ..Plan::default()
    }
}

/// Revisions with these counters, all published.
fn published(world: &World, counters: std::ops::RangeInclusive<u64>) -> Vec<Made> {
    counters
        .map(|counter| world.publish(&plan(counter)))
        .collect()
}

fn collect(world: &World, keep: u32, dry_run: bool) -> Collected {
    let request = json!({"keep": keep, "dry-run": dry_run});
    world.operator.post("/v1/collect", &request).is(200).json()
}

fn listed(world: &World) -> Vec<Revision> {
    let page: Page<Revision> = world.operator.get("/v1/revisions").is(200).json();
    page.items
}

fn ids(revisions: &[Revision]) -> BTreeSet<ObjectId> {
    revisions.iter().map(|revision| revision.id).collect()
}

/// Names of everything in the directories of objects and uploads.
fn on_disk(world: &World) -> BTreeSet<String> {
    let data = world.directory.path();
    let mut directories = vec![data.join("staging")];
    let prefixes = std::fs::read_dir(data.join("objects/v1")).unwrap();
    directories.extend(prefixes.map(|prefix| prefix.unwrap().path()));
    let names = directories.into_iter().flat_map(|directory| {
        let entries = std::fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap())
    });
    names.collect()
}

/// Digits of the objects that revisions name.
fn named<'a>(made: impl IntoIterator<Item = &'a Made>) -> BTreeSet<String> {
    let ids = made.into_iter().flat_map(|made| made.objects.keys());
    ids.map(ObjectId::hex).collect()
}

/// Digits of the objects of which anything is on the disk.
fn stems(world: &World) -> BTreeSet<String> {
    let names = on_disk(world).into_iter();
    names
        .map(|name| name.split('.').next().unwrap().to_owned())
        .collect()
}

/// Waits until the files of these objects and of no other are there: what a start removes, it removes while it serves.
fn settles(world: &World, expected: &BTreeSet<String>) {
    let begun = Instant::now();
    while stems(world) != *expected {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{:?}",
            on_disk(world)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn runs(device: &Device, seq: u64, revision: ObjectId) {
    let reports = Reports {
        reports: vec![report(seq, Phase::Committed, Some(revision))],
        usage: None,
    };
    device.client.put("/v1/device/report", &reports).is(200);
}

#[test]
fn revisions_that_a_device_needs_stay_and_the_newest_of_each_board() {
    let world = World::new();
    let made = published(&world, 1..=8);
    let other = world.publish(&Plan {
        board: "rpi5",
        ..plan(1)
    });
    let (one, two) = (world.device(1), world.device(2));
    // One had committed 2, runs 3 and should run 5; two runs 1.
    world.assign("all", made[1].id);
    runs(&one, 1, made[1].id);
    runs(&one, 2, made[2].id);
    runs(&two, 1, made[0].id);
    let query = format!("id={}", &one.id.to_string()[..12]);
    world.assign(&query, made[4].id);

    let gone = BTreeSet::from([made[3].id, made[5].id]);
    let stay = || made.iter().filter(|made| !gone.contains(&made.id));
    let would = collect(&world, 2, true);
    assert_eq!(ids(&would.revisions), gone);
    assert_eq!(listed(&world).len(), 9);
    let did = collect(&world, 2, false);
    assert_eq!(did, would);
    // A kernel, an initramfs and a layer each.
    assert_eq!(did.objects, 6);
    let left = ids(&listed(&world));
    assert_eq!(left, stay().map(|made| made.id).chain([other.id]).collect());
    assert_eq!(stems(&world), named(stay().chain([&other])));
    // What is needed is served; what is gone is told of.
    for id in made[4].objects.keys() {
        one.client.get(&format!("/v1/objects/{}", id.hex())).is(200);
    }
    let assign = json!({"query": "all", "revision": made[3].id});
    world
        .operator
        .post("/v1/assignments", &assign)
        .refused(404, "not-found");
    let events = world.operator.get("/v1/events?since=0").text();
    assert!(events.contains("removed 2 revisions"), "{events}");
    assert_eq!(collect(&world, 2, false).revisions, []);
    // It may come again.
    world.publish(&plan(4));
    assert_eq!(listed(&world).len(), 8);
    let refused = world.operator.post("/v1/collect", &json!({"keep": 0}));
    refused.refused(400, "keep");
}

#[test]
fn a_crash_while_revisions_go_leaves_nothing_that_the_next_run_does_not_remove() {
    let mut world = World::new();
    let mut newest = published(&world, 1..=1).remove(0);
    for seed in 0..kills(SEEDS) {
        let first = 2 + seed * 6;
        let made = published(&world, first..=first + 5);
        let (client, moment) = (world.operator.clone(), seed * 7919 % 25);
        let asking = std::thread::spawn(move || {
            let body = br#"{"keep": 1}"#;
            client
                .ask("POST", "/v1/collect", &[], body)
                .map(|answer: Answer| answer.is(200).json::<Collected>())
        });
        std::thread::sleep(Duration::from_millis(moment));
        world = world.restarted(Server::kill);
        let told = asking.join().unwrap();
        let left = listed(&world);
        let all: Vec<&Made> = made.iter().chain([&newest]).collect();
        let kept = all.iter().filter(|made| ids(&left).contains(&made.id));
        let kept: Vec<&Made> = kept.copied().collect();
        // All of them or but the newest: one commit. And whole: no row without its files.
        assert!(
            kept.len() == all.len() || kept.len() == 1,
            "{seed}: {left:?}"
        );
        assert!(left.iter().all(|revision| revision.complete), "{seed}");
        assert!(ids(&left).contains(&made[5].id), "{seed}");
        if told.is_ok() {
            assert_eq!(kept.len(), 1, "{seed}: acknowledged");
        }
        settles(&world, &named(kept));
        newest = made.into_iter().next_back().unwrap();
        collect(&world, 1, false);
        assert_eq!(stems(&world), named([&newest]), "{seed}");
    }
}

/// As a crash between the commit and the files leaves it.
#[test]
fn files_that_no_row_names_go_at_the_next_start() {
    let mut world = World::new();
    let made = published(&world, 1..=2);
    let path = world.directory.path().join("hub.db");
    world = world.restarted(|server| {
        assert!(server.stop());
        let database = Connection::open(path).unwrap();
        let deleted =
            database.execute("DELETE FROM revisions WHERE id = ?1", [made[0].id.digest()]);
        assert_eq!(deleted.unwrap(), 1);
    });
    settles(&world, &named([&made[1]]));
    assert!(listed(&world)[0].complete);
}

#[test]
fn uploads_that_nobody_goes_on_with_are_given_up_and_others_are_not() {
    let mut world = World::new();
    let (old, new) = (plan(1).make(&world.keys), plan(2).make(&world.keys));
    let largest = |made: &Made| {
        let largest = made
            .objects
            .iter()
            .max_by_key(|(_, (_, bytes))| bytes.len());
        *largest.unwrap().0
    };
    for made in [&old, &new] {
        world.offer(&made.head).is(200);
        let (sealed, bytes) = &made.objects[&largest(made)];
        let mut body = sealed.tree.clone();
        body.extend_from_slice(&bytes[..8192]);
        let path = upload_path(made, largest(made), 0);
        world
            .operator
            .ask("POST", &path, &[], &body)
            .unwrap()
            .is(200);
    }
    let (path, data) = (
        world.directory.path().join("hub.db"),
        world.directory.path().to_owned(),
    );
    let week = Duration::from_secs(8 * 86_400);
    let aged: Vec<PathBuf> = [&old, &new]
        .map(|made| data.join(format!("staging/{}.part", largest(made).hex())))
        .into();
    world = world.restarted(|server| {
        assert!(server.stop());
        let database = Connection::open(path).unwrap();
        let seconds = i64::try_from(week.as_secs()).unwrap();
        database
            .execute("UPDATE revisions SET published = published - ?1", [seconds])
            .unwrap();
        // Both were offered long ago, but of one a piece has just come.
        let file = std::fs::File::options().write(true).open(&aged[0]).unwrap();
        let then = std::time::SystemTime::now() - week;
        file.set_modified(then).unwrap();
    });
    let begun = Instant::now();
    while listed(&world).len() > 1 {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(50));
    }
    settles(&world, &BTreeSet::from([largest(&new).hex()]));
    let offer: Offer = world.offer(&new.head).is(200).json();
    let missing = offer
        .missing
        .iter()
        .find(|missing| missing.id == largest(&new));
    assert_eq!(missing.unwrap().have, 8192);
}

/// Gives a device values, an action and logs; where those are.
fn fill(world: &World, device: &Device) -> PathBuf {
    let path = format!("/v1/devices/{}", device.id);
    let sealed = format!("sealed:v1:{}", "5a".repeat(32 + 16 + 7));
    let parameters = json!({"values": {"password": sealed}});
    world
        .operator
        .put(&format!("{path}/parameters"), &parameters)
        .is(200);
    world
        .operator
        .post(&format!("{path}/actions"), &json!({"what": "identify"}))
        .is(202);
    let lines = zstd::bulk::compress(b"{\"text\":\"x\"}\n", 1).unwrap();
    let sent = device.client.ask("POST", "/v1/device/logs", &[], &lines);
    sent.unwrap().is(204);
    let logs = world
        .directory
        .path()
        .join("logs")
        .join(device.id.to_string());
    assert!(logs.is_dir());
    logs
}

#[test]
fn a_removed_device_is_nobody_and_only_its_events_stay() {
    let world = World::new();
    let made = world.publish(&Plan::default());
    let (device, other) = (world.device(1), world.device(2));
    world.assign("all", made.id);
    runs(&device, 1, made.id);
    let path = format!("/v1/devices/{}", device.id);
    let logs = fill(&world, &device);

    // A poll that is held ends.
    let tag = device.client.get("/v1/device/state").is(200).headers["etag"].clone();
    let held = [("if-none-match", tag.as_str()), ("prefer", "wait=100")];
    let client = device.client.clone();
    let mut stream = client.connect().unwrap();
    client
        .send(stream.get_mut(), "GET", "/v1/device/state", &held, &[])
        .unwrap();
    while !world.operator.get(&path).json::<Shown>().online {}
    world.operator.delete(&path).is(204);
    crate::client::receive(&mut stream)
        .unwrap()
        .refused(403, "device-unknown");
    device
        .client
        .get("/v1/device/state")
        .refused(403, "device-unknown");
    let renewal = device.client.post("/v1/device/certificate", &json!({}));
    renewal.refused(403, "device-unknown");
    world.operator.get(&path).refused(404, "not-found");
    world.operator.delete(&path).refused(404, "not-found");
    assert!(!logs.exists());
    let events = world.operator.get("/v1/events?since=0").text();
    assert!(events.contains("first removed") && events.contains("\"enrolled\""));
    other.client.get("/v1/device/state").is(200);

    // Nor after a restart; and nothing of its values is left where they were.
    let data = world.directory.path().to_owned();
    let world = world.restarted(|server| assert!(server.stop()));
    world.operator.get(&path).refused(404, "not-found");
    let database = Connection::open(data.join("hub.db")).unwrap();
    for table in ["parameters", "actions"] {
        let count: i64 = database
            .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(count, 0, "{table}");
    }
    // It may come again as a new device, by a request of now.
    let token = world.join_token(1);
    let mut again = request(1, "gateway", Some(&token));
    world
        .server
        .client()
        .post("/v1/enroll", &again)
        .refused(409, "enrolment-repeated");
    again = request_with(1, "gateway", Some(&token), 77);
    world.server.client().post("/v1/enroll", &again).is(200);
    let shown: Shown = world.operator.get(&path).is(200).json();
    assert!(shown.desired.is_none() && shown.report == 0);
}

#[test]
fn logs_of_a_device_that_was_removed_go_at_the_next_start() {
    let mut world = World::new();
    let device = world.device(1);
    let logs = world.directory.path().join("logs");
    let gone = logs.join("ab".repeat(32));
    let lines = zstd::bulk::compress(b"{\"text\":\"x\"}\n", 1).unwrap();
    let sent = device.client.ask("POST", "/v1/device/logs", &[], &lines);
    sent.unwrap().is(204);
    world = world.restarted(|server| {
        server.kill();
        std::fs::create_dir(&gone).unwrap();
        std::fs::File::create(gone.join("1")).unwrap();
    });
    assert!(!gone.exists());
    assert!(logs.join(device.id.to_string()).is_dir());
    drop(world);
}
