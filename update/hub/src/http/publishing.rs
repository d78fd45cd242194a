//! Products, revisions, and the upload of objects.

use super::device::{id, parameter};
use super::{answer, body, lists};
use crate::error::{Error, Refusal};
use crate::hub::{Hub, stopped};
use crate::objects::Upload;
use crate::tokens::Operator;
use crate::{publish, roots};
use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use http_body_util::BodyExt;
use kedge_api::Signed;
use kedge_api::operator::{Done, Offer, Page};
use kedge_revision::bundle::Head;
use kedge_revision::{Name, Root};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

type Answer = Result<Response, Refusal>;

/// An upload of which nothing came for so long has ended.
const SILENCE: Duration = Duration::from_secs(30);
/// Pieces of an upload on their way to the disk.
const PIECES: usize = 8;

/// `POST /v1/products?product=NAME`
pub(super) async fn product(
    _: Operator,
    State(hub): State<Arc<Hub>>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Answer {
    let name = parameter(query.as_deref(), "product").ok_or_else(|| {
        Refusal::bad(
            "product",
            "a root does not say whose it is: name the product, as /v1/products?product=gateway",
        )
    })?;
    let name = named(&name)?;
    let document: Signed = body::strict(body).await?;
    if document.document.len() > Root::CAP {
        return Err(Refusal::too_large(Root::CAP));
    }
    roots::register(&hub, name, document).await?;
    Ok(answer::none(StatusCode::CREATED))
}

/// A product as somebody typed it.
fn named(name: &str) -> Result<Name, Refusal> {
    name.parse()
        .map_err(|error: kedge_revision::Error| Refusal::bad("product", error.to_string()))
}

/// `POST /v1/revisions`
pub(super) async fn offer(_: Operator, State(hub): State<Arc<Hub>>, body: Body) -> Answer {
    let bytes = body::read(body, Head::CAP).await?;
    let (verified, head) = publish::judge(&hub, &bytes)?;
    // What is counted as there now must be there when the revision is kept.
    let _nothing_goes = hub.offers.read().await;
    let asked = Arc::clone(&hub);
    let looking = tokio::task::spawn_blocking(move || {
        let missing = asked.objects.missing(verified.envelope());
        (verified, missing)
    });
    let (verified, missing) = looking.await.map_err(|_| Error::Stopping)?;
    let missing = missing?;
    publish::keep(&hub, &verified, head, missing.is_empty()).await?;
    let offer = Offer {
        revision: verified.id(),
        missing,
    };
    answer::json(StatusCode::OK, &offer)
}

/// `GET /v1/revisions`
pub(super) async fn list(
    _: Operator,
    State(hub): State<Arc<Hub>>,
    RawQuery(query): RawQuery,
) -> Answer {
    let query = query.as_deref();
    let limit = lists::limit(query)?;
    let cursor = parameter(query, "cursor");
    let product: Option<Name> = match parameter(query, "product") {
        None => None,
        Some(name) => Some(named(&name)?),
    };
    let mut revisions: Vec<_> = hub
        .fleet
        .revisions()
        .into_iter()
        .filter(|revision| {
            product
                .as_ref()
                .is_none_or(|name| revision.product == *name)
                && cursor
                    .as_deref()
                    .is_none_or(|after| revision.id.hex().as_str() > after)
        })
        .take(limit + 1)
        .collect();
    let more = revisions.len() > limit;
    revisions.truncate(limit);
    let last = revisions.last().map(|revision| revision.id.hex());
    let items = revisions
        .iter()
        .map(|revision| publish::shown(&hub.objects, revision))
        .collect();
    let page = Page {
        items,
        cursor: last.filter(|_| more),
    };
    answer::json(StatusCode::OK, &page)
}

/// `POST /v1/revisions/HEX/objects/HEX?offset=N`
pub(super) async fn upload(
    _: Operator,
    State(hub): State<Arc<Hub>>,
    Path((revision, object)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Answer {
    let revision = hub
        .fleet
        .revision(id(&revision)?)
        .ok_or_else(|| Refusal::not_found("publish the revision first: POST /v1/revisions"))?;
    let id = id(&object)?;
    let listed = revision.objects.get(&id).copied();
    let object = listed.ok_or_else(|| Refusal::not_found("the revision names no such object"))?;
    let offset = match parameter(query.as_deref(), "offset") {
        None => 0,
        Some(text) => text
            .parse()
            .ok()
            .filter(|offset| *offset <= object.size)
            .ok_or_else(|| Refusal::bad("offset", "offset is no place in the object"))?,
    };
    let begun = Arc::clone(&hub);
    let begin = move || begun.objects.begin(id, object, offset);
    let begun = tokio::task::spawn_blocking(begin).await;
    let upload = begun.map_err(|_| Error::Stopping)??;
    let done = receive(&hub, upload, body).await?;
    if done.complete {
        let (looked, asked) = (Arc::clone(&hub), Arc::clone(&revision));
        let all = tokio::task::spawn_blocking(move || looked.objects.has_all(&asked.objects));
        if all.await.map_err(|_| Error::Stopping)? {
            publish::complete(&hub, &revision).await?;
        }
    }
    answer::json(StatusCode::OK, &done)
}

/// Passes a body on to the thread that judges and writes it; what was judged good stays, however it ends.
async fn receive(hub: &Hub, upload: Upload, mut body: Body) -> Result<Done, Refusal> {
    let mut left = upload.length();
    let is_there = upload.is_there();
    let (pieces, queue) = mpsc::channel::<Bytes>(PIECES);
    let writing = tokio::task::spawn_blocking(move || write(upload, queue));
    let mut stopping = hub.stopping.subscribe();
    loop {
        let frame = tokio::select! {
            frame = tokio::time::timeout(SILENCE, body.frame()) => frame,
            () = stopped(&mut stopping) => break,
        };
        // Silence and a torn connection end an upload; it is gone on with from what is kept.
        let Ok(Some(Ok(frame))) = frame else { break };
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        hub.metrics.bytes_taken.add(length);
        if is_there {
            continue;
        }
        // One byte more than there should be is passed on, so that it is refused as such.
        let over = length > left;
        left = left.saturating_sub(length);
        if pieces.send(piece).await.is_err() || over {
            break;
        }
    }
    drop(pieces);
    writing.await.map_err(|_| Error::Stopping)?
}

fn write(mut upload: Upload, mut queue: mpsc::Receiver<Bytes>) -> Result<Done, Refusal> {
    while let Some(piece) = queue.blocking_recv() {
        upload.write(&piece)?;
    }
    upload.end()
}
