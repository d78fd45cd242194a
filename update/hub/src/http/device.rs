//! What devices ask, but for objects.

use super::access::{Anybody, Known, MayRenew};
use super::{access, answer, body};
use crate::error::Refusal;
use crate::fleet::{Change, Device, Revision};
use crate::hub::Hub;
use crate::rows::{self, signed};
use crate::{assign, clock, enrol, reports, state, usage};
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use kedge_api::device::{Acknowledged, Ask, Enrolled, Reports, State as Told};
use kedge_revision::authority::Authority;
use kedge_revision::fresh::{Assignment, Fresh};
use kedge_revision::parameters::Parameters;
use kedge_revision::signing::Kind;
use kedge_revision::{KeyId, ObjectId};
use rusqlite::OptionalExtension;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

type Answer = Result<Response, Refusal>;

/// Longest message of a device but for reports and logs, bytes.
const MESSAGE: usize = 16 * 1024;
/// Longest time for which a poll is held, whatever it wishes, seconds.
const LONGEST_HOLD: u64 = 300;
/// A signed answer holds for a day: devices ask for one every six hours.
const HOLDS_S: u32 = 86_400;

/// `POST /v1/time`
pub(super) async fn time(_: Anybody, State(hub): State<Arc<Hub>>, body: Body) -> Answer {
    let ask: Ask = body::lenient(body, MESSAGE).await?;
    fresh(&hub, ask, None)
}

fn fresh(hub: &Hub, ask: Ask, assignment: Option<Assignment>) -> Answer {
    let fresh = Fresh::new(ask.device, ask.nonce, clock::now(), assignment, HOLDS_S);
    answer::signed(hub, Kind::Fresh, &fresh.encode()?)
}

/// `GET /v1/authority`
pub(super) async fn authority(_: Anybody, State(hub): State<Arc<Hub>>) -> Answer {
    let document = Authority::new([hub.identity.authority()]).encode()?;
    answer::signed(&hub, Kind::Authority, &document)
}

/// `POST /v1/enroll`
pub(super) async fn enrol(
    Anybody(from): Anybody,
    State(hub): State<Arc<Hub>>,
    body: Body,
) -> Answer {
    let request = body::lenient(body, MESSAGE).await?;
    enrolled(&enrol::enrol(&hub, request, from).await?)
}

fn enrolled(enrolled: &Enrolled) -> Answer {
    let status = match enrolled {
        Enrolled::Accepted { .. } => StatusCode::OK,
        Enrolled::Waiting { .. } => StatusCode::ACCEPTED,
    };
    answer::json(status, enrolled)
}

/// `POST /v1/device/certificate`
pub(super) async fn certificate(MayRenew(device): MayRenew, State(hub): State<Arc<Hub>>) -> Answer {
    enrolled(&enrol::renew(&hub, &device.row())?)
}

/// `GET /v1/device/state`: from memory alone.
pub(super) async fn state(
    Known(device): Known,
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
) -> Answer {
    hub.metrics.polls.add(1);
    let has = headers.get(IF_NONE_MATCH).and_then(|tag| tag.to_str().ok());
    let has = has.map(str::to_owned);
    let deadline = Instant::now() + Duration::from_secs(wait(&headers));
    // They lie in the connection's buffer; hyper would take another one of 8 KiB for as long as they live.
    drop(headers);
    let mut stopping = hub.stopping.subscribe();
    loop {
        // Listened for before anything is looked at, so that no change falls in between.
        let changed = device.changed();
        let (row, tag) = device.row_and_tag();
        if device.is_gone() {
            return Err(access::unknown());
        }
        if row.revoked {
            return Err(enrol::revoked(&row));
        }
        let (root, now) = (hub.fleet.serving_root(&row.product), clock::unix());
        let logs = device.is_watched();
        let etag = state::etag(&row, &tag, root, now, logs);
        let unchanged = has.as_deref() == Some(etag.as_str());
        let over = *stopping.borrow_and_update() || Instant::now() >= deadline;
        if !unchanged || over {
            let state = (!unchanged).then(|| state::state(&row, root, now, logs));
            return told(&hub, state.as_ref(), &etag);
        }
        let _held = device.hold();
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep_until(deadline) => {}
            _ = stopping.changed() => {}
        }
        device.hear(clock::unix());
    }
}

/// The answer to a poll; without a state: what the device has is right.
fn told(hub: &Hub, state: Option<&Told>, etag: &str) -> Answer {
    let mut response = if let Some(state) = state {
        answer::json(StatusCode::OK, state)?
    } else {
        hub.metrics.polls_unchanged.add(1);
        answer::none(StatusCode::NOT_MODIFIED)
    };
    if let Ok(value) = HeaderValue::from_str(etag) {
        response.headers_mut().insert(ETAG, value);
    }
    Ok(response)
}

/// Seconds of `Prefer: wait=N` (RFC 7240).
fn wait(headers: &HeaderMap) -> u64 {
    let prefer = headers.get("prefer").and_then(|value| value.to_str().ok());
    let wait = prefer.and_then(|value| {
        let mut preferences = value.split([',', ';']).map(str::trim);
        let wait = preferences.find_map(|preference| preference.strip_prefix("wait="))?;
        wait.parse::<u64>().ok()
    });
    wait.unwrap_or(0).min(LONGEST_HOLD)
}

/// `POST /v1/device/assignment`
pub(super) async fn assignment(
    Known(device): Known,
    State(hub): State<Arc<Hub>>,
    body: Body,
) -> Answer {
    let ask: Ask = body::lenient(body, MESSAGE).await?;
    if ask.device != device.id() {
        return Err(Refusal::forbidden(
            "another-device",
            "a device asks for its own assignment alone",
        ));
    }
    let row = device.row();
    let assignment = row.wanted.as_ref().map(|wanted| Assignment {
        revision: wanted.revision,
        parameters: row.parameters,
    });
    fresh(&hub, ask, assignment)
}

/// `GET /v1/roots/N`, of the device's product, or of `?product=NAME`: a device may have to learn of a root before it can
/// believe the hub. Roots are no secrets, each image has some.
pub(super) async fn root(
    _: Anybody,
    known: Result<Known, Refusal>,
    State(hub): State<Arc<Hub>>,
    Path(version): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    let product = match (parameter(query.as_deref(), "product"), known) {
        (Some(name), _) => name
            .parse()
            .map_err(|_| Refusal::bad("product", "product is no name"))?,
        (None, Ok(Known(device))) => device.row().product.clone(),
        (None, Err(refusal)) => return Err(refusal),
    };
    let signed = version.parse().ok().and_then(|version| {
        hub.fleet
            .product(&product, |product| {
                product.root(version).map(|known| known.signed.clone())
            })
            .flatten()
    });
    let signed = signed.ok_or_else(|| {
        Refusal::not_found(format!("there is no root {version} of product {product}"))
    })?;
    answer::json(StatusCode::OK, &signed)
}

/// An object's or a revision's id in an address: its digits, with or without `v1:`.
pub(super) fn id(text: &str) -> Result<ObjectId, Refusal> {
    let digits = text.strip_prefix("v1:").unwrap_or(text);
    format!("v1:{digits}")
        .parse()
        .map_err(|_| Refusal::not_found("an id is 64 hexadecimal digits"))
}

/// The value of a parameter of an address.
pub(super) fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| decoded(value))
    })
}

/// Percent-decoded (RFC 3986); `+` is a space, as forms write it.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after
            .get(..2)
            .and_then(|two| core::str::from_utf8(two).ok());
        let byte = hex.and_then(|two| u8::from_str_radix(two, 16).ok());
        rest = after;
        bytes.push(match (first, byte) {
            (b'%', Some(byte)) => {
                rest = after.get(2..).unwrap_or_default();
                byte
            }
            (b'+', _) => b' ',
            (other, _) => *other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `GET /v1/revisions/HEX/head?parameters=N`
pub(super) async fn head(
    Known(device): Known,
    State(hub): State<Arc<Hub>>,
    Path(revision): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    let revision = assigned(&hub, &device, id(&revision)?)?;
    let counter = match parameter(query.as_deref(), "parameters") {
        None => 0,
        Some(text) => text
            .parse()
            .map_err(|_| Refusal::bad("parameters", "the counter of parameters is no number"))?,
    };
    let mut head = revision.head.clone();
    if counter > 0 {
        let document = parameters(&hub, device.id(), &revision, counter).await?;
        head.parameters = Some(document);
    }
    Ok(answer::binary(head.encode()))
}

/// A revision, if the device was assigned it.
fn assigned(hub: &Hub, device: &Device, id: ObjectId) -> Result<Arc<Revision>, Refusal> {
    let row = device.row();
    let revision = hub.fleet.revision(id);
    let assigned = revision.filter(|_| row.assigned.contains(&id));
    assigned.ok_or_else(|| {
        Refusal::forbidden("not-assigned", "the device was not assigned this revision")
    })
}

/// The values of a device under a counter, as far as the revision declares them.
async fn parameters(
    hub: &Hub,
    device: KeyId,
    revision: &Revision,
    counter: u64,
) -> Result<Vec<u8>, Refusal> {
    let values = hub.readers.read(move |database| {
        let mut statement = database.prepare_cached(
            "SELECT \"values\" FROM parameters WHERE device = ?1 AND counter = ?2",
        )?;
        let found: Option<String> = statement
            .query_row((device.digest(), signed(counter)), |row| row.get(0))
            .optional()?;
        Ok(found.map(|text| serde_json::from_str(&text)).transpose()?)
    });
    let values = values.await?.ok_or_else(|| {
        Refusal::not_found("the device has no parameters of this counter (any more)")
    })?;
    let fitting =
        assign::fitting(revision, &values).map_err(|why| Refusal::conflict("parameters", why))?;
    Ok(Parameters::new(counter, fitting).encode()?)
}

/// `PUT /v1/device/report`
pub(super) async fn report(
    Known(device): Known,
    State(hub): State<Arc<Hub>>,
    body: Body,
) -> Answer {
    let Reports { reports, usage } = body::lenient(body, Reports::CAP).await?;
    if reports.len() > Reports::MOST {
        return Err(Refusal::bad(
            "too-many-reports",
            "one request takes at most 64 reports",
        ));
    }
    hub.metrics.reports.add(1);
    let id = device.id();
    let taken = hub
        .writer
        .run(move |step| {
            let mut row = rows::device(step.database, id)?.ok_or_else(access::unknown)?;
            let before = row.report_seq;
            let taken = reports::take(step, &mut row, reports)?;
            let used = usage.is_some();
            if let Some(usage) = usage {
                usage::take(step, &mut row, usage, clock::now())?;
            }
            // They have written what they changed. A repeat of reports changes nothing.
            if taken != before || used {
                step.change(Change::Device(Box::new(row)));
            }
            Ok(taken)
        })
        .await?;
    answer::json(StatusCode::OK, &Acknowledged { seq: taken })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_decoded() {
        let query = Some("query=tag%3Asite%3Dbe+rlin&limit=7&x");
        assert_eq!(parameter(query, "query").unwrap(), "tag:site=be rlin");
        assert_eq!(parameter(query, "limit").unwrap(), "7");
        assert_eq!(parameter(query, "x").unwrap(), "");
        assert_eq!(parameter(query, "y"), None);
        assert_eq!(decoded("%zz%4"), "%zz%4");
    }

    #[test]
    fn a_wait_is_found_among_preferences() {
        let wait = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", HeaderValue::from_static(text));
            wait(&headers)
        };
        assert_eq!(wait("wait=50"), 50);
        assert_eq!(wait("respond-async, wait=7"), 7);
        assert_eq!(wait("wait=100000"), LONGEST_HOLD);
        assert_eq!(wait("wait=x"), 0);
    }
}
