//! How a device comes in: by a join token, by its claim code, or because it is known already.
//!
//! A request that was recorded could be sent again, by whoever saw it: the hub, or who broke its TLS. What that may do:
//!
//! - A request that changes nothing is answered again. A known device gets a certificate, which serves its key alone; one
//!   that waits goes on waiting, and the words are shown by the device itself. So a device may repeat itself at no cost,
//!   and nothing is written.
//! - A request that takes a device in, or makes it another product or board, is taken once: its nonce is kept with the
//!   change ([`once`]), and a repeat of it changes nothing back. It is refused where it would: a device that an operator has
//!   removed does not come again by an old request, and one that has become another board stays that.

use crate::claims::ASK_AGAIN_S;
use crate::error::{Error, Refusal};
use crate::events::By;
use crate::fleet::{Change, Row};
use crate::hub::Hub;
use crate::rows::signed;
use crate::writer::Step;
use crate::{clock, events, rows, tokens};
use axum::http::StatusCode;
use kedge_api::Signed;
use kedge_api::device::Enrolled;
use kedge_api::operator::Claim;
use kedge_revision::enrolment::Enrolment;
use kedge_revision::fresh::Nonce;
use kedge_revision::id::hex;
use kedge_revision::{KeyId, Name, PublicKey};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Nonces that are kept of each device.
const NONCES: u32 = 32;

/// A device asks to be taken in.
pub(crate) async fn enrol(hub: &Hub, request: Signed, from: IpAddr) -> Result<Enrolled, Refusal> {
    let request = judged(&request)?;
    served(hub, &request.product)?;
    let id = request.key.id();
    if let Some(device) = hub.fleet.device(id) {
        let row = device.row();
        if row.revoked {
            return Err(revoked(&row));
        }
        if row.product != request.product || row.board != request.board {
            let (product, board, nonce) = (request.product, request.board, request.nonce);
            let token = request.token;
            hub.change_device(id, move |step, row| {
                once(step, id, nonce)?;
                if row.product != product {
                    admitted(step, row, token.as_deref(), &product)?;
                }
                row.product = product;
                row.board = board;
                Ok(())
            })
            .await?;
        }
        return accepted(hub, &request.key);
    }
    let Some(token) = request.token.clone() else {
        let code = hub.claims.wait(&request, from, clock::unix())?;
        return match code {
            Some(claim) => Ok(Enrolled::Waiting {
                claim,
                retry_after_s: ASK_AGAIN_S,
            }),
            None => Err(Refusal::busy(
                60,
                "too many devices wait to be claimed, of all or from this address",
            )),
        };
    };
    let (key, product, board) = (request.key, request.product, request.board);
    let nonce = request.nonce;
    hub.writer
        .run(move |step| {
            // A request that was sent twice must not spend two uses.
            if rows::device(step.database, id)?.is_some() {
                return Ok(());
            }
            once(step, id, nonce)?;
            let tags = tokens::spend(step, &token, &product)?;
            let row = Row::new(key, product, board, clock::now());
            take_in(step, By::Device, row, tags)
        })
        .await?;
    hub.claims.remove(id);
    accepted(hub, &request.key)
}

/// A device that was taken in for one product is no device of another by its own word: a token for that one says so.
fn admitted(
    step: &Step<'_>,
    row: &mut Row,
    token: Option<&str>,
    product: &Name,
) -> Result<(), Refusal> {
    let Some(token) = token else {
        return Err(Refusal::forbidden(
            "other-product",
            format!(
                "it was taken in as a device of {}: it needs a join token for {product}, or is removed first",
                row.product
            ),
        ));
    };
    row.tags.extend(tokens::spend(step, token, product)?);
    Ok(())
}

/// Keeps the nonce of a request that changes something; refuses one that has done so before.
fn once(step: &Step<'_>, device: KeyId, nonce: Nonce) -> Result<(), Refusal> {
    let (device, nonce) = (device.digest(), nonce.to_string());
    let is_new = step
        .database
        .prepare_cached(
            "INSERT INTO enrolments (device, nonce, time) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        )?
        .execute((device, &nonce, signed(clock::unix())))?;
    if is_new == 0 {
        return Err(Refusal::conflict(
            "enrolment-repeated",
            "this very request was taken before; a device signs a new one each time",
        ));
    }
    // One that changes all the time does so at its own cost.
    step.database
        .prepare_cached(
            "DELETE FROM enrolments WHERE device = ?1 AND nonce != ?2 AND nonce NOT IN \
             (SELECT nonce FROM enrolments WHERE device = ?1 ORDER BY time DESC LIMIT ?3)",
        )?
        .execute((device, &nonce, NONCES))?;
    Ok(())
}

fn judged(signed: &Signed) -> Result<Enrolment, Refusal> {
    let refused = |error: kedge_revision::Error| Refusal::bad("enrolment", error.to_string());
    let signatures = signed.signatures().map_err(refused)?;
    Enrolment::verify(signed.document.as_bytes(), &signatures).map_err(refused)
}

/// Refuses a product of which the hub has no root.
pub(crate) fn served(hub: &Hub, product: &Name) -> Result<(), Refusal> {
    if hub.fleet.serving_root(product) > 0 {
        return Ok(());
    }
    Err(Refusal::forbidden(
        "product-unknown",
        format!("the hub does not serve product {product}: an operator registers its root first"),
    ))
}

/// Whoever reads it stands before the device, or before its log: it says which device, and the one way back.
pub(crate) fn revoked(row: &Row) -> Refusal {
    Refusal::forbidden(
        "revoked",
        format!(
            "the device {} was revoked, and is not taken in again: an operator's `kedge device remove {}` lets it enrol \
             anew, as another device",
            row.id, row.id
        ),
    )
}

fn take_in(
    step: &mut Step<'_>,
    by: By,
    mut row: Row,
    tags: BTreeMap<String, String>,
) -> Result<(), Refusal> {
    row.tags = tags;
    rows::save(step.database, &row)?;
    let text = format!("a device of product {} on {}", row.product, row.board);
    events::add_by(step, by, Some(row.id), "enrolled", text)?;
    step.change(Change::Device(Box::new(row)));
    Ok(())
}

/// A certificate for a device that is known.
pub(crate) fn accepted(hub: &Hub, key: &PublicKey) -> Result<Enrolled, Refusal> {
    let issued = hub.identity.issue(key)?;
    Ok(Enrolled::Accepted {
        certificate: hex(&issued.der),
        renew_after: issued.renew_after,
    })
}

/// An operator types the words that a device shows.
pub(crate) async fn claim(hub: &Hub, claim: Claim) -> Result<KeyId, Refusal> {
    let unknown = || {
        Refusal::new(
            StatusCode::NOT_FOUND,
            "claim-unknown",
            "no device that waits shows these words; it shows new ones after the hub was restarted, or when it was \
             silent for ten minutes",
        )
    };
    let candidate = hub
        .claims
        .find(&claim.code, clock::unix())
        .ok_or_else(unknown)?;
    served(hub, &candidate.product)?;
    let id = candidate.key.id();
    hub.writer
        .run(move |step| {
            if rows::device(step.database, id)?.is_some() {
                return Err(unknown());
            }
            once(step, id, candidate.nonce)?;
            let row = Row::new(
                candidate.key,
                candidate.product,
                candidate.board,
                clock::now(),
            );
            take_in(step, By::People, row, claim.tags)
        })
        .await?;
    hub.claims.remove(id);
    Ok(id)
}

/// A device that knows its certificate has it renewed, unless it was revoked.
pub(crate) fn renew(hub: &Hub, row: &Row) -> Result<Enrolled, Refusal> {
    if row.revoked {
        return Err(revoked(row));
    }
    accepted(hub, &row.key)
}

impl From<kedge_revision::Error> for Refusal {
    fn from(error: kedge_revision::Error) -> Self {
        Error::Document(error).into()
    }
}
