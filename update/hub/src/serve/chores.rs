//! What happens from time to time, whoever asks.

use crate::collect::Scope;
use crate::error::{Chain, Refusal};
use crate::events::By;
use crate::fleet::Presence;
use crate::hub::Hub;
use crate::identity::server_is_due;
use crate::{backup, clock, collect, events, tls};
use kedge_revision::KeyId;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How often it is written down when devices were last heard of: what a crash may forget.
const FLUSH: Duration = Duration::from_secs(60);
/// How often uploads that nobody goes on with are looked for; a start does so, too.
const COLLECT: Duration = Duration::from_secs(3600);
/// A device that was not heard of for so long has fallen silent, seconds: some polls were missed.
const SILENT: u64 = 300;
/// From so many on that come or go at once, their number is told instead of each.
const CROWD: usize = 100;

/// Runs until it is aborted.
pub(super) async fn run(hub: Arc<Hub>, current: Arc<tls::Current>, names: Vec<String>) {
    collect(&hub).await;
    // Beside all else: after a restore it takes as long as everything takes to be packed. It ends with this.
    let mut beside = JoinSet::new();
    beside.spawn(beside_objects(Arc::clone(&hub)));
    let mut collected = Instant::now();
    let mut minute = tokio::time::interval(FLUSH);
    let mut flushed = clock::unix();
    let mut renewed = clock::unix();
    loop {
        minute.tick().await;
        let now = clock::unix();
        match hub.flush_seen(flushed).await {
            // The second that is not over yet is looked at again.
            Ok(_) => flushed = now,
            Err(refusal) => log::warn!("{}", refusal.detail),
        }
        if let Err(refusal) = presence(&hub, now).await {
            log::warn!("{}", refusal.detail);
        }
        let pruned = hub
            .writer
            .run(|step| Ok(events::prune(step.database)?))
            .await;
        if let Err(refusal) = pruned {
            log::warn!("{}", refusal.detail);
        }
        if collected.elapsed() >= COLLECT {
            collected = Instant::now();
            collect(&hub).await;
            if let Err(error) = backup::sweep(&hub.data) {
                log::warn!("{}", Chain(&error));
            }
        }
        if server_is_due(renewed, now) {
            let made = hub.identity.server(&names);
            match made.and_then(|new| current.replace(new)) {
                Ok(()) => renewed = now,
                Err(error) => log::error!("{}", Chain(&error)),
            }
        }
    }
}

/// Gives up uploads that nobody goes on with, and removes what a crash left. Complete revisions are an operator's to
/// remove.
async fn collect(hub: &Arc<Hub>) {
    if let Err(refusal) = collect::run(hub, Scope::Unfinished, None).await {
        log::warn!("{}", refusal.detail);
    }
}

/// Makes trees and frames that are missing, as after a restored backup or a full disk.
async fn beside_objects(hub: Arc<Hub>) {
    for revision in hub.fleet.revisions() {
        for (id, object) in revision.objects.clone() {
            let asked = Arc::clone(&hub);
            let making = tokio::task::spawn_blocking(move || {
                if asked.objects.has_all([(&id, &object)]) {
                    asked.objects.complete(id, object.size)
                } else {
                    Ok(())
                }
            });
            if let Ok(Err(error)) = making.await {
                log::warn!("{id}: {}", Chain(&error));
            }
        }
    }
}

/// Tells of devices that came or went.
async fn presence(hub: &Hub, now: u64) -> Result<(), Refusal> {
    let (mut came, mut went) = (Vec::new(), Vec::new());
    for device in hub.fleet.devices() {
        match device.look(now, SILENT) {
            Some(Presence::Online) => came.push(device.id()),
            Some(Presence::Silent) => went.push(device.id()),
            None => {}
        }
    }
    tell(hub, came, "online", "is heard of again").await?;
    tell(hub, went, "offline", "was not heard of for five minutes").await
}

async fn tell(
    hub: &Hub,
    devices: Vec<KeyId>,
    what: &'static str,
    text: &'static str,
) -> Result<(), Refusal> {
    if devices.is_empty() {
        return Ok(());
    }
    hub.writer
        .run(move |step| {
            if devices.len() >= CROWD {
                let text = format!("{} devices at once: each {text}", devices.len());
                return events::add_by(step, By::Device, None, what, text);
            }
            devices.into_iter().try_for_each(|device| {
                events::add_by(step, By::Device, Some(device), what, text.to_owned())
            })
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Change, Revision, Row};
    use crate::hub::Opened;
    use crate::rows;
    use kedge_revision::bundle::Head;
    use kedge_revision::{Envelope, Mode, ObjectId, PublicKey, Timestamp};
    use std::time::Duration;

    /// A revision whose one object is there, and what lies beside it is not.
    fn revision(hub: &Hub) -> Revision {
        let id = ObjectId::from_digest([7; 32]);
        let path = hub.objects.path(id);
        kedge_store::durable::make_directory(path.parent().unwrap()).unwrap();
        kedge_store::durable::write(&path, b"kernel").unwrap();
        let text = format!(
            r#"{{"spec":"x","product":"gateway","board":"b","root":1,"counter":1,"floor":1,"tries":1,
            "created":"2026-01-01T00:00:00Z","version":"1","requires-updater":[],
            "objects":{{"{id}":{{"size":6,"kind":"kernel"}}}},
            "boot":{{"kernel":"{id}","initramfs":"{id}","arguments":""}},"content":{{}}}}"#
        );
        let envelope: Envelope = serde_json::from_str(&text).unwrap();
        let head = Head {
            revision: Vec::new(),
            signatures: Vec::new(),
            parameters: None,
        };
        Revision::new(id, &envelope, head, Timestamp::from_unix(0), true)
    }

    /// After a restore everything is packed anew, which takes long: devices that were heard of were not written down, and
    /// nobody was told who had come or gone, until that was over.
    #[test]
    fn the_minutes_chores_do_not_wait_for_what_lies_beside_objects() {
        let data = tempfile::tempdir().unwrap();
        let Opened { hub, .. } = Hub::open(data.path(), Mode::Development).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let key = PublicKey::from_bytes([3; 32]);
        let (product, board) = ("gateway".parse().unwrap(), "b".parse().unwrap());
        let row = Row::new(key, product, board, clock::now());
        let id = row.id;
        let made = revision(&hub);
        let written = runtime.block_on(hub.writer.run(move |step| {
            rows::save(step.database, &row)?;
            step.change(Change::Device(Box::new(row)));
            step.change(Change::Revision(Arc::new(made)));
            Ok(())
        }));
        written.unwrap();
        hub.fleet.device(id).unwrap().hear(clock::unix());
        let names = vec!["hub.test".to_owned()];
        let current = tls::Current::new(hub.identity.server(&names).unwrap()).unwrap();
        let objects = hub.objects.clone();
        let held = objects.hold_frames();
        let running = runtime.spawn(run(Arc::clone(&hub), Arc::new(current), names));
        let seen = || {
            let seen = hub.readers.read_here(|database| {
                let seen = "SELECT seen IS NOT NULL FROM devices";
                Ok(database.query_row(seen, [], |row| row.get::<_, bool>(0))?)
            });
            seen.unwrap()
        };
        let begun = std::time::Instant::now();
        while !seen() {
            assert!(begun.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(held);
        running.abort();
        runtime.shutdown_timeout(Duration::from_secs(10));
    }
}
