//! `Idempotency-Key`: a changing request that is sent again is answered again, and changes nothing.

use super::body;
use crate::answers::{Digest, Given, LONGEST, Told};
use crate::clock;
use crate::error::{Error, Refusal};
use crate::hub::Hub;
use crate::tokens::Operator;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// Longest key, bytes.
const KEY: usize = 128;

/// Answers a request that carries a key once.
pub(super) async fn once(
    State(hub): State<Arc<Hub>>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let key = request.headers().get("idempotency-key").cloned();
    let Some(key) = key.filter(|_| request.method() != Method::GET) else {
        return Ok(next.run(request).await);
    };
    if key.is_empty() || key.len() > KEY {
        return Err(Refusal::bad("idempotency-key", "a key is 1 to 128 bytes"));
    }
    let (mut parts, body) = request.into_parts();
    // Strangers fill no places, and what an ended token was told is not told again.
    Operator::from_request_parts(&mut parts, &hub).await?;
    let body = body::read(body, body::REQUEST).await?;
    let token = parts.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let key = digest(&[token.unwrap_or_default(), key.as_bytes()]);
    let (method, address) = (parts.method.as_str(), parts.uri.to_string());
    let asked = digest(&[method.as_bytes(), address.as_bytes(), &body]);
    match hub.answers.begin(key, asked, clock::unix()) {
        Told::Again(given) => return Ok(again(given)),
        Told::Running => {
            let mut refusal = Refusal::conflict("in-progress", "the request is being answered");
            refusal.retry_after_s = Some(1);
            return Err(refusal);
        }
        Told::Reused => {
            return Err(Refusal::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "key-reused",
                "the key belongs to another request",
            ));
        }
        Told::Full => return Err(Refusal::busy(1, "too many requests are being answered")),
        Told::New => {}
    }
    // To its end, also when whoever asked is gone meanwhile: what it changes is changed then, and a repeat must know.
    let answering = tokio::spawn(answered(
        hub,
        key,
        next,
        Request::from_parts(parts, body.into()),
    ));
    answering.await.map_err(|_| Error::Stopping)?
}

async fn answered(
    hub: Arc<Hub>,
    key: Digest,
    next: Next,
    request: Request,
) -> Result<Response, Refusal> {
    let taken = Taken { hub: &hub, key };
    let answer = next.run(request).await;
    let (parts, body) = answer.into_parts();
    // Answers of these requests are short, and made before they are sent.
    let body = body
        .collect()
        .await
        .map_or_else(|_| Bytes::new(), |body| body.to_bytes());
    // What says only that it was not looked at, or not yet, is no answer to keep.
    let unheard = matches!(
        parts.status,
        StatusCode::UNAUTHORIZED | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
    );
    let keep = !parts.status.is_server_error() && !unheard && body.len() <= LONGEST;
    let given = keep.then(|| Given {
        status: parts.status,
        kind: parts.headers.get(CONTENT_TYPE).cloned(),
        body: body.clone(),
    });
    taken.end(given);
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// A key that is free again if its request is given up.
struct Taken<'a> {
    hub: &'a Hub,
    key: Digest,
}

impl Taken<'_> {
    fn end(self, given: Option<Given>) {
        self.hub.answers.keep(self.key, given);
        std::mem::forget(self);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.hub.answers.keep(self.key, None);
    }
}

fn again(given: Given) -> Response {
    let mut response = Response::new(Body::from(given.body));
    *response.status_mut() = given.status;
    let headers = response.headers_mut();
    if let Some(kind) = given.kind {
        headers.insert(CONTENT_TYPE, kind);
    }
    headers.insert("idempotent-replay", HeaderValue::from_static("true"));
    response
}

fn digest(parts: &[&[u8]]) -> Digest {
    let mut hasher = Sha256::new();
    for part in parts {
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
        hasher.update(length.to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}
