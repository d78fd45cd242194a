//! What happens from time to time, whoever asks.

use crate::collect::Scope;
use crate::error::{Chain, Refusal};
use crate::events::By;
use crate::fleet::Presence;
use crate::hub::Hub;
use crate::identity::SERVER_RENEWED;
use crate::{backup, clock, collect, events, tls};
use kedge_revision::KeyId;
use std::sync::Arc;
use std::time::Duration;
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
    beside_objects(&hub).await;
    let mut collected = Instant::now();
    let mut minute = tokio::time::interval(FLUSH);
    let mut flushed = clock::unix();
    let mut renewed = Instant::now();
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
        if renewed.elapsed() >= SERVER_RENEWED {
            let made = hub.identity.server(&names);
            match made.and_then(|new| current.replace(new)) {
                Ok(()) => renewed = Instant::now(),
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
async fn beside_objects(hub: &Arc<Hub>) {
    for revision in hub.fleet.revisions() {
        for (id, object) in revision.objects.clone() {
            let asked = Arc::clone(hub);
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
