//! Objects for devices: their bytes, trees and frames, whole or in ranges.

use super::access::Known;
use super::body::FileBody;
use super::device::id;
use crate::error::{Error, Refusal};
use crate::fleet::Device;
use crate::hub::Hub;
use crate::objects::Beside;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use kedge_revision::ObjectId;
use kedge_revision::revision::Object;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

type Answer = Result<Response, Refusal>;

/// `GET /v1/objects/HEX`
pub(super) async fn object(
    Known(device): Known,
    State(hub): State<Arc<Hub>>,
    Path(object): Path<String>,
    headers: HeaderMap,
) -> Answer {
    let (id, _) = assigned(&hub, &device, &object)?;
    file(&hub, hub.objects.path(id), id, &headers).await
}

/// `GET /v1/objects/HEX/tree`
pub(super) async fn tree(
    Known(device): Known,
    State(hub): State<Arc<Hub>>,
    Path(object): Path<String>,
    headers: HeaderMap,
) -> Answer {
    beside(&hub, &device, &object, Beside::Tree, &headers).await
}

/// `GET /v1/objects/HEX/frames`
pub(super) async fn frames(
    Known(device): Known,
    State(hub): State<Arc<Hub>>,
    Path(object): Path<String>,
    headers: HeaderMap,
) -> Answer {
    beside(&hub, &device, &object, Beside::Frames, &headers).await
}

/// `GET /v1/objects/HEX/index`
pub(super) async fn index(
    Known(device): Known,
    State(hub): State<Arc<Hub>>,
    Path(object): Path<String>,
    headers: HeaderMap,
) -> Answer {
    beside(&hub, &device, &object, Beside::Index, &headers).await
}

async fn beside(
    hub: &Hub,
    device: &Device,
    object: &str,
    what: Beside,
    headers: &HeaderMap,
) -> Answer {
    let (id, object) = assigned(hub, device, object)?;
    if what == Beside::Tree {
        let objects = hub.objects.clone();
        let made = tokio::task::spawn_blocking(move || objects.complete_tree(id, object.size));
        made.await.map_err(|_| Error::Stopping)??;
    }
    file(hub, hub.objects.path_beside(id, what), id, headers).await
}

/// An object, if a revision that the device was assigned names it.
fn assigned(hub: &Hub, device: &Device, object: &str) -> Result<(ObjectId, Object), Refusal> {
    let id = id(object)?;
    let row = device.row();
    let named = row.assigned.iter().find_map(|revision| {
        let revision = hub.fleet.revision(*revision)?;
        revision.objects.get(&id).copied()
    });
    let object = named.ok_or_else(|| {
        Refusal::forbidden(
            "not-assigned",
            "no revision that the device was assigned names this object",
        )
    })?;
    Ok((id, object))
}

async fn file(hub: &Hub, path: PathBuf, id: ObjectId, headers: &HeaderMap) -> Answer {
    let opened = tokio::task::spawn_blocking(move || {
        let file = File::open(&path)?;
        let length = file.metadata()?.len();
        Ok::<_, std::io::Error>((file, length))
    });
    let opened = opened.await.map_err(|_| Error::Stopping)?;
    let (file, size) = opened.map_err(|error| {
        log::warn!("{id} cannot be served: {error}");
        Refusal::not_found("the hub does not have this; the object itself may be there")
    })?;
    let range = headers.get(RANGE).and_then(|value| value.to_str().ok());
    let (status, from, length) = match range.map(|range| Wanted::read(range, size)) {
        None | Some(Wanted::Whole) => (StatusCode::OK, 0, size),
        Some(Wanted::Part(from, length)) => (StatusCode::PARTIAL_CONTENT, from, length),
        Some(Wanted::Nothing) => return Ok(beyond(size)),
    };
    hub.metrics.bytes_served.add(length);
    let mut response = Response::new(Body::new(FileBody::new(file, from, length)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(CONTENT_TYPE, octets);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, length.into());
    // What is named by its digest never changes.
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", id.hex())) {
        headers.insert(ETAG, tag);
    }
    if status == StatusCode::PARTIAL_CONTENT {
        let last = from + length - 1;
        if let Ok(value) = HeaderValue::from_str(&format!("bytes {from}-{last}/{size}")) {
            headers.insert(CONTENT_RANGE, value);
        }
    }
    Ok(response)
}

fn beyond(size: u64) -> Response {
    use axum::response::IntoResponse;
    let refusal = Refusal::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        "range",
        format!("there are {size} bytes"),
    );
    let mut response = refusal.into_response();
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
    response
}

/// What a `Range` asks for (RFC 9110, section 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// All: it names several ranges, or is not understood, and may be passed over.
    Whole,
    /// From where, and how many bytes: at least one.
    Part(u64, u64),
    /// What is not there.
    Nothing,
}

impl Wanted {
    fn read(range: &str, size: u64) -> Self {
        let parts = range
            .strip_prefix("bytes=")
            .filter(|range| !range.contains(','))
            .and_then(|range| range.trim().split_once('-'));
        let Some((first, last)) = parts else {
            return Self::Whole;
        };
        let number = |text: &str| text.parse::<u64>().ok();
        let (from, to) = match (first, last) {
            ("", last) => match number(last) {
                Some(count) => (size.saturating_sub(count), size),
                None => return Self::Whole,
            },
            (first, "") => match number(first) {
                Some(first) => (first, size),
                None => return Self::Whole,
            },
            (first, last) => match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => {
                    (first, last.saturating_add(1).min(size))
                }
                _ => return Self::Whole,
            },
        };
        if from < to {
            Self::Part(from, to - from)
        } else {
            Self::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_standard() {
        for (range, expected) in [
            ("bytes=0-0", Wanted::Part(0, 1)),
            ("bytes=5-", Wanted::Part(5, 5)),
            ("bytes=5-100", Wanted::Part(5, 5)),
            ("bytes=-3", Wanted::Part(7, 3)),
            ("bytes=-30", Wanted::Part(0, 10)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=7-6", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
        ] {
            assert_eq!(Wanted::read(range, 10), expected, "{range}");
        }
        assert_eq!(Wanted::read("bytes=0-", 0), Wanted::Nothing);
    }
}
