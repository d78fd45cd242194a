//! Who asks: a device by its certificate, an operator by a token, anybody within bounds.

use crate::certificate::Certificate;
use crate::clock;
use crate::enrol::revoked;
use crate::error::Refusal;
use crate::fleet::Device;
use crate::hub::Hub;
use crate::limits::BURST;
use crate::tokens::{self, Look, Operator};
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// The other side of a connection. TLS has judged the certificate, but neither its time nor its device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    pub(crate) certificate: Option<Certificate>,
}

/// What a request costs that says who it is and is wrong: guessing is not for free.
const WRONG: f64 = BURST / 60.0;

fn peer(parts: &Parts) -> Result<Peer, Refusal> {
    let peer = parts.extensions.get::<Peer>().copied();
    peer.ok_or_else(|| {
        unauthorized(
            "certificate-needed",
            "the connection says nothing of itself",
        )
    })
}

fn unauthorized(kind: &'static str, detail: &'static str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, kind, detail)
}

fn limited(hub: &Hub, peer: Peer, cost: f64) -> Result<(), Refusal> {
    if hub.limits.take(peer.address, cost, Instant::now()) {
        Ok(())
    } else {
        Err(Refusal::busy(
            10,
            "too many requests of this address that do not say who asks",
        ))
    }
}

/// Whether a certificate is that of a device of the fleet, in time and not revoked: whatever else the authority has ever
/// issued says no more of who asks than none.
pub(crate) fn holds(hub: &Hub, certificate: &Certificate) -> bool {
    let device = certificate.device().and_then(|id| hub.fleet.device(id));
    device.is_some_and(|device| !device.row().revoked) && certificate.is_in_time(clock::unix())
}

/// Anybody, as often as one address may ask; and which one that is.
#[derive(Debug)]
pub(super) struct Anybody(pub(super) IpAddr);

impl FromRequestParts<Arc<Hub>> for Anybody {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, hub: &Arc<Hub>) -> Result<Self, Refusal> {
        let peer = peer(parts)?;
        // A device of the fleet is no stranger.
        if !peer.certificate.is_some_and(|shown| holds(hub, &shown)) {
            limited(hub, peer, 1.0)?;
        }
        Ok(Self(peer.address))
    }
}

pub(super) fn unknown() -> Refusal {
    Refusal::forbidden(
        "device-unknown",
        "the hub does not know this device (any more): it has to enrol",
    )
}

/// The device of a certificate, whatever its time.
fn known(parts: &Parts, hub: &Hub) -> Result<(Certificate, Arc<Device>), Refusal> {
    let certificate = peer(parts)?.certificate.ok_or_else(|| {
        unauthorized(
            "certificate-needed",
            "devices ask this with the certificate that their enrolment gave them",
        )
    })?;
    let device = certificate.device().and_then(|id| hub.fleet.device(id));
    let device = device.ok_or_else(unknown)?;
    let row = device.row();
    if row.revoked {
        return Err(revoked(&row));
    }
    device.hear(clock::unix());
    Ok((certificate, device))
}

/// A device whose certificate holds.
#[derive(Debug)]
pub(super) struct Known(pub(super) Arc<Device>);

impl FromRequestParts<Arc<Hub>> for Known {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, hub: &Arc<Hub>) -> Result<Self, Refusal> {
        let (certificate, device) = known(parts, hub)?;
        if !certificate.is_in_time(clock::unix()) {
            return Err(unauthorized(
                "certificate-expired",
                "the certificate's time is over, or has not begun: POST /v1/device/certificate renews it",
            ));
        }
        Ok(Self(device))
    }
}

/// A device whose certificate may have expired: it may do nothing but renew it.
#[derive(Debug)]
pub(super) struct MayRenew(pub(super) Arc<Device>);

impl FromRequestParts<Arc<Hub>> for MayRenew {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, hub: &Arc<Hub>) -> Result<Self, Refusal> {
        known(parts, hub).map(|(_, device)| Self(device))
    }
}

impl FromRequestParts<Arc<Hub>> for Operator {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, hub: &Arc<Hub>) -> Result<Self, Refusal> {
        let peer = peer(parts)?;
        let token = parts
            .headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .and_then(|token| token.trim().split_once('.'));
        let Some((id, secret)) = token else {
            limited(hub, peer, 1.0)?;
            return Err(unauthorized(
                "token-needed",
                "operators ask this with a token: Authorization: Bearer …; `kedge-hub token new` makes one",
            ));
        };
        let judged = match hub.tokens.look(id, secret, clock::unix()) {
            Look::Good(operator) => still_there(hub, operator).await?,
            Look::Bad => None,
            Look::Unknown => {
                limited(hub, peer, WRONG)?;
                judge(hub, id.to_owned(), secret.to_owned()).await?
            }
        };
        judged.ok_or_else(|| {
            // Known by now to be wrong; the bucket only makes the next guess wait.
            hub.limits.take(peer.address, WRONG, Instant::now());
            unauthorized(
                "token-refused",
                "the hub does not know this token, or its time is over",
            )
        })
    }
}

/// A token that is known to be good may have been ended since, by `kedge-hub token delete`: the database knows. Operators ask
/// rarely enough for that.
async fn still_there(hub: &Hub, operator: Operator) -> Result<Option<Operator>, Refusal> {
    let id = operator.id.clone();
    let there = hub
        .readers
        .read(move |database| tokens::is_there(database, &id));
    if there.await? {
        return Ok(Some(operator));
    }
    hub.tokens.forget(&operator.id);
    Ok(None)
}

/// Judges a token that was not used since the start: the slow way, one at a time.
async fn judge(hub: &Arc<Hub>, id: String, secret: String) -> Result<Option<Operator>, Refusal> {
    let _one_at_a_time = hub.tokens.hashing.lock().await;
    match hub.tokens.look(&id, &secret, clock::unix()) {
        Look::Good(operator) => return Ok(Some(operator)),
        Look::Bad => return Ok(None),
        Look::Unknown => {}
    }
    let asked = Arc::clone(hub);
    let judged = hub.readers.read(move |database| {
        let Some(kept) = tokens::find(database, &id)? else {
            return Ok(None);
        };
        asked.tokens.judge(&id, &secret, kept, clock::unix())
    });
    Ok(judged.await?)
}
