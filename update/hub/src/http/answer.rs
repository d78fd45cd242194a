//! Answers: JSON, signed documents, problems.

use crate::error::Refusal;
use crate::hub::Hub;
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use kedge_api::{Problem, Signed};
use kedge_revision::signing::Kind;
use serde::Serialize;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// An answer of this status and type. Answers are for whoever asked, and for now.
pub(super) fn bytes(status: StatusCode, kind: HeaderValue, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// JSON.
pub(super) fn json<T: Serialize>(status: StatusCode, value: &T) -> Result<Response, Refusal> {
    Ok(bytes(status, JSON, serde_json::to_vec(value)?))
}

/// Text, as `/metrics` and `/healthz` have it.
pub(super) fn text(body: String) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    bytes(StatusCode::OK, kind, body)
}

/// Bytes without a type of their own.
pub(super) fn binary(body: Vec<u8>) -> Response {
    let kind = HeaderValue::from_static("application/octet-stream");
    bytes(StatusCode::OK, kind, body)
}

/// Nothing to say.
pub(super) fn none(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A document, signed by the hub's own key.
pub(super) fn signed(hub: &Hub, kind: Kind, document: &[u8]) -> Result<Response, Refusal> {
    let signatures = hub.identity.sign(kind, document);
    // Documents are JSON, so they are text.
    let signed = Signed::new(document, &signatures)
        .ok_or_else(|| Refusal::bad("document", "the document is no text"))?;
    json(StatusCode::OK, &signed)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let problem = Problem {
            status: self.status.as_u16(),
            kind: self.kind.to_owned(),
            title: self
                .status
                .canonical_reason()
                .unwrap_or("Refused")
                .to_owned(),
            detail: self.detail.into_owned(),
        };
        // A problem cannot fail to be written.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = bytes(self.status, PROBLEM, body);
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
