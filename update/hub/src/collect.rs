//! What nobody needs any more: revisions, their objects, and uploads that nobody goes on with.
//!
//! ```text
//! one commit: rows of revisions ──▶ memory ──▶ file by file: what no row names
//! ```
//! Rows go first. A crash behind them leaves files that no row names, and the next run removes those, whoever left them;
//! the next start makes one. What is decided and what is deleted is one transaction, so a revision that was just assigned
//! is not among them. While a file goes, no revision is offered ([`Hub::offers`]): an offer counts what is there.
//!
//! A revision is kept if a device is assigned it, runs it, has committed it, or had committed it before (where a fall-back
//! goes), and if it is among the newest of its product and board.

use crate::error::{Error, Refusal};
use crate::fleet::{Change, Fleet, Revision};
use crate::hub::Hub;
use crate::objects::Objects;
use crate::writer::Step;
use crate::{events, publish};
use kedge_api::operator::Collected;
use kedge_revision::{Name, ObjectId};
use rusqlite::{Connection, params};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// An upload of which nothing came for so long is given up: a week.
const UNFINISHED: Duration = Duration::from_secs(7 * 86_400);
/// Revisions that an event names; it counts the others.
const NAMED: usize = 10;

/// How much goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Uploads that nobody goes on with, and files that no row names.
    Unfinished,
    /// And complete revisions beyond the newest of each product and board.
    Unneeded {
        /// How many of those stay.
        keep: usize,
    },
}

/// Tells what would go.
pub(crate) async fn look(hub: &Arc<Hub>, scope: Scope) -> Result<Collected, Refusal> {
    let asked = Arc::clone(hub);
    let looked = hub.readers.read(move |database| {
        let revisions = unneeded(database, &asked.fleet, &asked.objects, scope)?;
        let gone: BTreeSet<_> = revisions.iter().map(|revision| revision.id).collect();
        let mut collected = told(&asked.objects, &revisions);
        for files in asked.objects.files()? {
            if !is_needed(&asked.fleet, &asked.objects, files.id, &gone) {
                collected.objects += 1;
                collected.bytes += files.bytes();
            }
        }
        Ok(collected)
    });
    Ok(looked.await?)
}

/// Removes it; `who` asked for it, if somebody did.
pub(crate) async fn run(
    hub: &Arc<Hub>,
    scope: Scope,
    who: Option<String>,
) -> Result<Collected, Refusal> {
    let asked = Arc::clone(hub);
    let removed = hub
        .writer
        .run(move |step| remove(step, &asked, scope, who))
        .await;
    let (asked, removed) = (Arc::clone(hub), removed?);
    let sweeping = tokio::task::spawn_blocking(move || {
        // Before the files go, by which sizes are told.
        let mut collected = told(&asked.objects, &removed);
        (collected.objects, collected.bytes) = sweep(&asked)?;
        Ok::<_, Error>(collected)
    });
    Ok(sweeping.await.map_err(|_| Error::Stopping)??)
}

fn told(objects: &Objects, revisions: &[Arc<Revision>]) -> Collected {
    let shown = revisions.iter();
    Collected {
        revisions: shown
            .map(|revision| publish::shown(objects, revision))
            .collect(),
        objects: 0,
        bytes: 0,
    }
}

fn remove(
    step: &mut Step<'_>,
    hub: &Hub,
    scope: Scope,
    who: Option<String>,
) -> Result<Vec<Arc<Revision>>, Refusal> {
    let mut removed = unneeded(step.database, &hub.fleet, &hub.objects, scope)?;
    let mut failed = None;
    removed.retain(|revision| {
        // One that was just completed is another one than was looked at.
        let deleted = step.database.execute(
            "DELETE FROM revisions WHERE id = ?1 AND complete = ?2",
            params![revision.id.digest(), revision.is_complete()],
        );
        let count = deleted.unwrap_or_else(|error| {
            failed = Some(error);
            0
        });
        count > 0
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    for revision in &removed {
        step.change(Change::Collected(revision.id));
    }
    if !removed.is_empty() {
        events::add(step, None, "collected", words(&removed, who))?;
    }
    Ok(removed)
}

fn words(removed: &[Arc<Revision>], who: Option<String>) -> String {
    let mut named: Vec<String> = removed
        .iter()
        .take(NAMED)
        .map(|revision| {
            format!(
                "{} {} ({})",
                revision.product, revision.version, revision.id
            )
        })
        .collect();
    let more = removed.len().saturating_sub(NAMED);
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    let who = who.unwrap_or_else(|| "the hub".to_owned());
    let count = removed.len();
    format!("{who} removed {count} revisions: {}", named.join(", "))
}

/// Revisions that go.
fn unneeded(
    database: &Connection,
    fleet: &Fleet,
    objects: &Objects,
    scope: Scope,
) -> Result<Vec<Arc<Revision>>, Error> {
    let needed = needed(database)?;
    let mut going = Vec::new();
    let mut complete: BTreeMap<(Name, Name), Vec<Arc<Revision>>> = BTreeMap::new();
    for revision in fleet.revisions() {
        if revision.is_complete() {
            let key = (revision.product.clone(), revision.board.clone());
            complete.entry(key).or_default().push(revision);
        } else if !objects.is_coming(&revision, UNFINISHED) {
            going.push(revision);
        }
    }
    if let Scope::Unneeded { keep } = scope {
        for mut revisions in complete.into_values() {
            revisions.sort_unstable_by_key(|revision| std::cmp::Reverse(revision.order));
            going.extend(revisions.into_iter().skip(keep));
        }
    }
    going.retain(|revision| !needed.contains(&revision.id));
    Ok(going)
}

/// What devices run, are assigned, or could fall back to.
fn needed(database: &Connection) -> Result<BTreeSet<ObjectId>, Error> {
    let mut statement = database.prepare(
        "SELECT previous, desired ->> '$.revision', report ->> '$.running.revision', \
         report ->> '$.committed.revision' FROM devices",
    )?;
    let mut rows = statement.query([])?;
    let mut needed = BTreeSet::new();
    while let Some(row) = rows.next()? {
        let previous: Option<[u8; 32]> = row.get(0)?;
        needed.extend(previous.map(ObjectId::from_digest));
        for column in 1..4 {
            let id: Option<String> = row.get(column)?;
            needed.extend(id.and_then(|id| id.parse::<ObjectId>().ok()));
        }
    }
    Ok(needed)
}

/// Whether a file of this object has to stay: some revision beyond those that go names the object.
fn is_needed(fleet: &Fleet, objects: &Objects, id: ObjectId, gone: &BTreeSet<ObjectId>) -> bool {
    objects.is_busy(id)
        || fleet
            .revisions()
            .iter()
            .any(|revision| !gone.contains(&revision.id) && revision.objects.contains_key(&id))
}

/// Removes files that no revision names: how many objects those were, and their bytes.
fn sweep(hub: &Hub) -> Result<(u64, u64), Error> {
    let (mut objects, mut bytes) = (0, 0);
    for files in hub.objects.files()? {
        // For each anew, so that offers wait for one at most.
        let _no_offers = hub.offers.blocking_write();
        if !is_needed(&hub.fleet, &hub.objects, files.id, &BTreeSet::new()) {
            hub.objects.remove(&files)?;
            objects += 1;
            bytes += files.bytes();
        }
    }
    Ok((objects, bytes))
}
