//! Revisions: what is published, and how it is judged.

use crate::error::{Error, Refusal};
use crate::fleet::{Change, Fleet, Known, Revision, serves};
use crate::hub::Hub;
use crate::objects::Objects;
use crate::rows::{signed, text, unsigned};
use crate::{clock, events};
use axum::http::StatusCode;
use kedge_api::{Signed, operator};
use kedge_revision::bundle::Head;
use kedge_revision::revision::Policy;
use kedge_revision::{
    Envelope, Floor, KeyId, ObjectId, Root, SignatureSet, Timestamp, Verified, json,
};
use rusqlite::{Connection, OptionalExtension, params};
use std::sync::Arc;

/// How much later than now a revision may have been made, seconds: clocks of two machines differ.
const CLOCKS_APART: u64 = 300;

/// Takes roots and revisions into memory, at the start. They were judged before they were written. A revision whose
/// objects are gone, as after a backup without them was restored, is not complete any more.
pub(crate) fn load(
    database: &Connection,
    fleet: &Fleet,
    objects: &Objects,
    hub: KeyId,
) -> Result<(), Error> {
    let mut changes = Vec::new();
    let mut statement = database
        .prepare("SELECT product, document, signatures FROM roots ORDER BY product, version")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (document, signatures): (Vec<u8>, Vec<u8>) = (row.get(1)?, row.get(2)?);
        let root = Root::parse(&document)?;
        let signatures = SignatureSet::parse(&signatures)?;
        if let Some(signed) = Signed::new(&document, &signatures) {
            let serves = serves(&root, hub);
            let known = Known {
                root,
                signed,
                serves,
            };
            changes.push(Change::Root(text(row, 0)?, known));
        }
    }
    let mut statement =
        database.prepare("SELECT id, document, signatures, published, complete FROM revisions")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let head = Head {
            revision: row.get(1)?,
            signatures: row.get(2)?,
            parameters: None,
        };
        let cap = kedge_revision::revision::CAP;
        let envelope: Envelope = json::parse("revision", cap, &head.revision)?;
        let id = ObjectId::from_digest(row.get(0)?);
        let published = Timestamp::from_unix(unsigned(row.get(3)?));
        let complete = row.get::<_, bool>(4)? && objects.has_all(&envelope.objects);
        let revision = Revision::new(id, &envelope, head, published, complete);
        changes.push(Change::Revision(Arc::new(revision)));
    }
    fleet.apply(changes);
    for revision in fleet.revisions() {
        database.execute(
            "UPDATE revisions SET complete = ?2 WHERE id = ?1 AND complete != ?2",
            params![revision.id.digest(), revision.is_complete()],
        )?;
    }
    Ok(())
}

/// A revision as people see it.
pub(crate) fn shown(all: &Objects, revision: &Revision) -> operator::Revision {
    let objects = revision.objects.iter();
    let compressed = objects.map(|(id, object)| all.compressed(*id, *object));
    operator::Revision {
        id: revision.id,
        product: revision.product.clone(),
        board: revision.board.clone(),
        version: revision.version.clone(),
        order: revision.order.to_string(),
        floor: revision.floor.counter,
        published: revision.published,
        complete: revision.is_complete(),
        size: revision.objects.values().map(|object| object.size).sum(),
        compressed: compressed.sum(),
    }
}

/// Judges the head of a bundle as a device would, by the root that the product is served by.
pub(crate) fn judge(hub: &Hub, bytes: &[u8]) -> Result<(Verified, Head), Refusal> {
    let refused = |error: kedge_revision::Error| Refusal::bad("revision", error.to_string());
    let mut head = Head::parse(bytes).map_err(refused)?;
    // Parameters are given to devices one by one, not to a revision.
    head.parameters = None;
    let signatures = SignatureSet::parse(&head.signatures).map_err(refused)?;
    // Parsed before it is judged, to find out whose it says that it is; all is judged below.
    let cap = kedge_revision::revision::CAP;
    let claimed: Envelope = json::parse("revision", cap, &head.revision).map_err(refused)?;
    let root = hub
        .fleet
        .product(&claimed.product, |product| product.serving().cloned())
        .flatten();
    let Some(root) = root else {
        return Err(Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "product-unknown",
            format!(
                "the hub does not serve product {}: register its root first",
                claimed.product
            ),
        ));
    };
    let product = kedge_revision::Product::new(claimed.product, claimed.board, root.mode);
    let policy = Policy {
        product: &product,
        floor: Floor::default(),
    };
    let verified =
        Verified::verify(&head.revision, &signatures, &root, &policy).map_err(refused)?;
    made_before(verified.envelope().created, clock::now())?;
    Ok((verified, head))
}

/// A device takes the moment when what it runs was made for past: by one of the future it would believe no hub's time, and so
/// no hub, until then.
fn made_before(created: Timestamp, now: Timestamp) -> Result<(), Refusal> {
    if created.unix() <= now.unix().saturating_add(CLOCKS_APART) {
        return Ok(());
    }
    let said = format!(
        "the revision says that it was made at {created}, and the hub's clock says {now}: put the wrong one right, and build it again"
    );
    Err(Refusal::bad("revision", said))
}

/// Keeps a judged revision; it is told to devices once all its objects are there.
pub(crate) async fn keep(
    hub: &Hub,
    verified: &Verified,
    head: Head,
    complete: bool,
) -> Result<(), Refusal> {
    let id = verified.id();
    let envelope = verified.envelope();
    let revision = Arc::new(Revision::new(id, envelope, head, clock::now(), complete));
    hub.writer
        .run(move |step| {
            let known = step
                .database
                .query_row(
                    "SELECT complete FROM revisions WHERE id = ?1",
                    [id.digest()],
                    |row| row.get::<_, bool>(0),
                )
                .optional()?;
            match known {
                // The same place must not be two revisions': devices would refuse one of them.
                None => refuse_twin(step.database, &revision)?,
                Some(true) => return Ok(()),
                Some(false) if !complete => return Ok(()),
                Some(false) => {}
            }
            step.database.execute(
                "INSERT INTO revisions (id, product, document, signatures, published, complete) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO UPDATE SET complete = ?6",
                params![
                    id.digest(),
                    revision.product.as_str(),
                    revision.head.revision,
                    revision.head.signatures,
                    signed(revision.published.unix()),
                    complete
                ],
            )?;
            if known.is_none() {
                step.change(Change::Revision(Arc::clone(&revision)));
            }
            if complete {
                step.change(Change::Complete(id));
                published(step, &revision)?;
            }
            Ok(())
        })
        .await
}

fn published(step: &mut crate::writer::Step<'_>, revision: &Revision) -> Result<(), Refusal> {
    let text = format!(
        "revision {} ({}) of product {} for {}",
        revision.version, revision.order, revision.product, revision.board
    );
    events::add(step, None, "published", text)
}

fn refuse_twin(database: &Connection, revision: &Revision) -> Result<(), Refusal> {
    let mut statement = database.prepare("SELECT document FROM revisions WHERE product = ?1")?;
    let mut rows = statement.query([revision.product.as_str()])?;
    while let Some(row) = rows.next()? {
        let document: Vec<u8> = row.get(0)?;
        let cap = kedge_revision::revision::CAP;
        let other: Envelope = json::parse("revision", cap, &document)?;
        if other.board == revision.board && other.order() == revision.order {
            return Err(Refusal::conflict(
                "order-taken",
                format!(
                    "another revision of product {} for {} has the place {}: raise the counter",
                    revision.product, revision.board, revision.order
                ),
            ));
        }
    }
    Ok(())
}

/// Refuses a revision that was removed since it was looked up.
pub(crate) fn still_there(
    step: &crate::writer::Step<'_>,
    revision: ObjectId,
) -> Result<(), Refusal> {
    let mut statement = step
        .database
        .prepare_cached("SELECT 1 FROM revisions WHERE id = ?1")?;
    if statement.exists([revision.digest()])? {
        return Ok(());
    }
    Err(Refusal::not_found(
        "the revision was just removed: publish it again",
    ))
}

/// Marks a revision as complete, once its last object has come.
pub(crate) async fn complete(hub: &Hub, revision: &Arc<Revision>) -> Result<(), Refusal> {
    if revision.is_complete() {
        return Ok(());
    }
    let revision = Arc::clone(revision);
    hub.writer
        .run(move |step| {
            let changed = step.database.execute(
                "UPDATE revisions SET complete = 1 WHERE id = ?1 AND complete = 0",
                [revision.id.digest()],
            )?;
            if changed > 0 {
                step.change(Change::Complete(revision.id));
                published(step, &revision)?;
            }
            Ok(())
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_of_the_future_is_refused_with_both_times() {
        let at = Timestamp::from_unix;
        let now = 1_800_000_000;
        assert!(made_before(at(0), at(now)).is_ok());
        assert!(made_before(at(now + CLOCKS_APART), at(now)).is_ok());
        let refusal = made_before(at(now + CLOCKS_APART + 1), at(now)).unwrap_err();
        assert!(
            refusal.detail.contains("2027-01-15T08:05:01Z")
                && refusal.detail.contains("2027-01-15T08:00:00Z"),
            "{}",
            refusal.detail
        );
    }
}
