//! A small fleet all at once: nothing is lost, by nobody, over a kill of the hub; and polls write nothing.

use crate::crowd::{Line, Member, Place};
use crate::world::{Plan, Server, World, report};
use kedge_api::device::{Acknowledged, Phase, Reports, State};
use kedge_api::operator::{Device as Shown, JoinToken, Page};
use kedge_revision::{KeyId, ObjectId};
use rusqlite::{Connection, OpenFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Devices.
const FLEET: u32 = 500;
/// Longest wait for anything, on a machine that does other things, too.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a device learned.
type News = (Member, Option<ObjectId>);

/// Holds polls for ever: tells each answer that assigns something new, and takes itself to the hub again.
async fn hold(member: Member, news: mpsc::UnboundedSender<News>, polls: Arc<AtomicU64>) {
    let (mut tag, mut last) = (None, None);
    loop {
        let (mut line, _) = member.connect_at_last().await;
        while let Ok(answer) = line.poll(tag.as_deref(), 300).await {
            polls.fetch_add(1, Ordering::Relaxed);
            if answer.status == 304 {
                continue;
            }
            let answer = answer.is(200);
            tag = Some(answer.headers["etag"].clone());
            let now = answer.json::<State>().assignment.map(|to| to.revision);
            if now != last {
                last = now;
                news.send((member.clone(), now)).unwrap();
            }
        }
    }
}

/// Waits until the hub holds the polls of all.
fn all_held(world: &World) {
    let begun = Instant::now();
    loop {
        let metrics = world.operator.get("/metrics").is(200).text();
        let online = format!("kedge_devices_online {FLEET}\n");
        if metrics.contains(&online) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{metrics}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until every device was told of a revision, once each.
async fn all_told(news: &mut mpsc::UnboundedReceiver<News>, revision: ObjectId) {
    let mut told = BTreeSet::new();
    while told.len() < usize::try_from(FLEET).unwrap() {
        let next = tokio::time::timeout(PATIENCE, news.recv()).await;
        let (member, now) = next.expect("some device was not told").unwrap();
        assert_eq!(now, Some(revision));
        assert!(told.insert(member.id), "{} was told twice", member.id);
    }
}

/// Commits that others make: `data_version` is another one after each (SQLite's pragma). Looked at all the time.
fn count_commits(world: &World) -> impl FnOnce() -> u64 + use<> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let path = world.directory.path().join("hub.db");
    let database = Connection::open_with_flags(path, flags).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let counting = {
        let over = Arc::clone(&over);
        std::thread::spawn(move || {
            let version = || {
                let pragma = "PRAGMA data_version";
                database.query_row(pragma, [], |row| row.get::<_, i64>(0))
            };
            let (mut count, mut last) = (0, version().unwrap());
            while !over.load(Ordering::Relaxed) {
                let now = version().unwrap();
                count += u64::from(now != last);
                last = now;
                std::thread::sleep(Duration::from_millis(2));
            }
            count
        })
    };
    move || {
        over.store(true, Ordering::Relaxed);
        counting.join().unwrap()
    }
}

#[test]
fn a_fleet_is_told_what_it_is_assigned_and_loses_nothing_when_the_hub_is_killed() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut world = World::at("127.77.0.1:0");
    let first = world.publish(&Plan::default());
    let token = world.join_token(FLEET);
    let place = Place::of(&world.server);
    let members = runtime.block_on(place.enrol(0..FLEET, &token));
    // A use each, and none twice.
    let tokens: Page<JoinToken> = world.operator.get("/v1/join-tokens").is(200).json();
    assert!(tokens.items.iter().all(|token| token.left == 0));

    let (sender, mut news) = mpsc::unbounded_channel();
    let polls = Arc::new(AtomicU64::new(0));
    for member in members.clone() {
        runtime.spawn(hold(member, sender.clone(), Arc::clone(&polls)));
    }
    all_held(&world);
    world.assign("all", first.id);
    runtime.block_on(all_told(&mut news, first.id));
    all_held(&world);

    let over = Arc::new(AtomicBool::new(false));
    let reporting: Vec<_> = members
        .iter()
        .map(|member| runtime.spawn(tell(member.clone(), Arc::clone(&over))))
        .collect();
    // In the middle of it, whatever that is on this machine.
    std::thread::sleep(Duration::from_millis(500));
    world = world.restarted_in_place(Server::kill);
    over.store(true, Ordering::Relaxed);
    let acknowledged = runtime.block_on(ended(reporting));
    assert!(acknowledged.values().any(|seq| *seq > 0));

    // Everybody is back, remembers, and is told of what is new alone.
    all_held(&world);
    let second = world.publish(&Plan {
        counter: 2,
        ..Plan::default()
    });
    world.assign("all", second.id);
    runtime.block_on(all_told(&mut news, second.id));
    let shown: Page<Shown> = world.operator.get("/v1/devices?limit=1000").is(200).json();
    assert_eq!(shown.items.len(), members.len());
    for device in shown.items {
        let told = acknowledged[&device.id];
        assert!(device.report >= told, "{}: {told}", device.id);
    }
}

/// Reports one after the other until the hub is gone, or it is over: the last number that was acknowledged.
async fn tell(member: Member, over: Arc<AtomicBool>) -> (KeyId, u64) {
    let mut told = 0;
    let Ok(mut line) = member.connect().await else {
        return (member.id, told);
    };
    while !over.load(Ordering::Relaxed) {
        let Ok(seq) = send(&mut line, told + 1).await else {
            break;
        };
        told = seq;
    }
    (member.id, told)
}

async fn send(line: &mut Line, seq: u64) -> std::io::Result<u64> {
    let reports = Reports {
        reports: vec![report(seq, Phase::Idle, None)],
        usage: None,
    };
    let body = serde_json::to_vec(&reports).unwrap();
    let answer = line.ask("PUT", "/v1/device/report", "", &body).await?;
    Ok(answer.is(200).json::<Acknowledged>().seq)
}

async fn ended(reporting: Vec<JoinHandle<(KeyId, u64)>>) -> BTreeMap<KeyId, u64> {
    let mut told = BTreeMap::new();
    for one in reporting {
        told.extend([one.await.unwrap()]);
    }
    told
}

#[test]
fn polls_of_a_fleet_write_no_more_than_the_minutes_work() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = World::at("127.77.0.2:0");
    let token = world.join_token(100);
    let place = Place::of(&world.server);
    let members = runtime.block_on(place.enrol(0..100, &token));
    let begun = Instant::now();
    let commits = count_commits(&world);
    let polling: Vec<_> = members
        .into_iter()
        .map(|member| {
            runtime.spawn(async move {
                let mut line = member.connect().await.unwrap();
                let tag = line.poll(None, 0).await.unwrap().is(200).headers["etag"].clone();
                for _ in 0..30 {
                    line.poll(Some(&tag), 0).await.unwrap().is(304);
                }
            })
        })
        .collect();
    for one in polling {
        runtime.block_on(one).unwrap();
    }
    // When devices were heard of, who came or went, events that are dropped: a minute, and the start's.
    let minutes = begun.elapsed().as_secs() / 60 + 2;
    let commits = commits();
    assert!(commits <= 3 * minutes, "{commits} commits of 3000 polls");
}
