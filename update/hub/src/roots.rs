//! Products' trust roots: what is registered, and how it is judged.
//!
//! The first one comes on an operator's word, and names this hub. Those that follow do so by the rules of rotation, and are
//! kept whether they name it or not: a product that went to another hub and comes back has no gap that no device could
//! cross. Earlier ones are taken in afterwards, if the oldest that is known follows them. Served is a product by the newest
//! of its roots that names this hub.

use crate::error::Refusal;
use crate::fleet::{Change, Known, serves};
use crate::hub::Hub;
use crate::rows::signed;
use crate::{clock, events};
use axum::http::StatusCode;
use kedge_api::Signed;
use kedge_revision::product::Mode;
use kedge_revision::{Name, Root, SignatureSet};
use rusqlite::params;

/// Where a root goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    First,
    Behind,
    Before,
}

impl Place {
    /// Whether it is still there: a root was judged against what memory had, and another one may have come in between.
    fn is_free(self, version: u32, oldest: Option<u32>, newest: Option<u32>) -> bool {
        match self {
            Self::First => newest.is_none(),
            Self::Behind => newest.and_then(|newest| newest.checked_add(1)) == Some(version),
            Self::Before => version
                .checked_add(1)
                .is_some_and(|next| oldest == Some(next)),
        }
    }
}

/// Registers a product's root.
pub(crate) async fn register(hub: &Hub, product: Name, document: Signed) -> Result<(), Refusal> {
    let refused = |error: kedge_revision::Error| Refusal::bad("root", error.to_string());
    let signatures = document.signatures().map_err(refused)?;
    let bytes = document.document.as_bytes();
    let claimed = Root::parse(bytes).map_err(refused)?;
    let (known, ends) = hub
        .fleet
        .product(&product, |product| {
            let known = product.root(claimed.version);
            let known = known.filter(|known| known.signed.document == document.document);
            let ends = product.oldest().cloned().zip(product.newest().cloned());
            (known.cloned(), ends)
        })
        .unwrap_or_default();
    if let Some(known) = known {
        let newest = ends.map(|(_, newest)| newest.version);
        return told(hub, &product, &known.root, newest);
    }
    let (place, root) = match &ends {
        None => (Place::First, first(claimed, bytes, &signatures)),
        Some((oldest, _)) if claimed.version < oldest.root.version => {
            (Place::Before, earlier(claimed, bytes, &signatures, oldest))
        }
        Some((_, newest)) => (Place::Behind, newest.replace(bytes, &signatures)),
    };
    let root = root.map_err(refused)?;
    if hub.mode == Mode::Production && root.mode == Mode::Development {
        return Err(Refusal::forbidden(
            "development-root",
            "this is a production hub, and the root is a development one: make the product's keys for production, or \
             run a hub with --mode development",
        ));
    }
    let newest = (place != Place::Before).then_some(root.version);
    if place == Place::First {
        told(hub, &product, &root, newest)?;
    }
    keep(hub, product.clone(), root.clone(), document, place).await?;
    told(hub, &product, &root, newest)
}

/// What there is to say of a root that is the newest one: the product is not served by it if it does not name this hub.
fn told(hub: &Hub, product: &Name, root: &Root, newest: Option<u32>) -> Result<(), Refusal> {
    if newest != Some(root.version) || serves(root, hub.identity.public().id()) {
        return Ok(());
    }
    if !root.roles.hub.keys.contains(&hub.identity.public().id()) {
        return Err(Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "hub-not-named",
            hub.key_advice(product),
        ));
    }
    Err(Refusal::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "hub-threshold",
        "the root's hub role needs more than one signature, and a hub has one key: set its threshold to 1",
    ))
}

fn first(
    root: Root,
    bytes: &[u8],
    signatures: &SignatureSet,
) -> Result<Root, kedge_revision::Error> {
    root.verify_self(bytes, signatures)?;
    Ok(root)
}

/// A root before the oldest one that is known: that one must follow it.
fn earlier(
    root: Root,
    bytes: &[u8],
    signatures: &SignatureSet,
    oldest: &Known,
) -> Result<Root, kedge_revision::Error> {
    root.verify_self(bytes, signatures)?;
    let next = &oldest.signed;
    root.replace(next.document.as_bytes(), &next.signatures()?)?;
    Ok(root)
}

async fn keep(
    hub: &Hub,
    product: Name,
    root: Root,
    document: Signed,
    place: Place,
) -> Result<(), Refusal> {
    let version = root.version;
    let serves = serves(&root, hub.identity.public().id());
    hub.writer
        .run(move |step| {
            let ends = step.database.query_row(
                "SELECT min(version), max(version) FROM roots WHERE product = ?1",
                [product.as_str()],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            if !place.is_free(version, ends.0, ends.1) {
                return Err(Refusal::conflict("root-version", "another root came first"));
            }
            step.database.execute(
                "INSERT INTO roots (product, version, document, signatures, added) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    product.as_str(),
                    version,
                    document.document.as_bytes(),
                    document.signatures.as_bytes(),
                    signed(clock::unix())
                ],
            )?;
            let words = format!("root {version} of product {product}");
            events::add(step, None, "root", words)?;
            let known = Known {
                root,
                signed: document,
                serves,
            };
            step.change(Change::Root(product, known));
            Ok(())
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_roots_that_come_at_once_the_second_one_is_judged_again() {
        // Each was judged as the first one: as what nothing vouches for but itself.
        assert!(Place::First.is_free(2, None, None));
        assert!(!Place::First.is_free(2, Some(1), Some(1)));
        assert!(Place::Behind.is_free(2, Some(1), Some(1)));
        assert!(!Place::Behind.is_free(2, Some(1), Some(2)));
        assert!(Place::Before.is_free(2, Some(3), Some(4)));
        assert!(!Place::Before.is_free(2, Some(2), Some(4)));
    }
}
