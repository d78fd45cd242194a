//! Events as they happen: server-sent (WHATWG HTML, section 9.2).

use super::device::parameter;
use super::devices::find;
use crate::error::Refusal;
use crate::events;
use crate::hub::{Hub, stopped};
use crate::tokens::Operator;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use http_body::Frame;
use kedge_api::operator::Event;
use kedge_revision::KeyId;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::mpsc;

/// Events that are read from the database at a time.
const PAGE: u32 = 500;
/// Pages on their way to a follower.
const QUEUE: usize = 4;
/// Most bytes that are sent at a time, each time as one chunk of HTTP: a page may be several megabytes, and clients take
/// what comes a chunk at a time.
const PIECE: usize = 256 * 1024;
/// A silent connection is told that it lives, so that proxies keep it.
const ALIVE: Duration = Duration::from_secs(20);

/// `GET /v1/events?since=N&last=N&device=D&follow=1`
pub(super) async fn events(
    _: Operator,
    State(hub): State<Arc<Hub>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let query = query.as_deref();
    let follow = parameter(query, "follow").is_some_and(|value| value != "0");
    // A browser that comes back says what it has seen.
    let seen = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let since = seen.or_else(|| parameter(query, "since"));
    let mut since = match since {
        None => 0,
        Some(text) => text
            .parse()
            .map_err(|_| Refusal::bad("since", "since is the number of an event"))?,
    };
    let of = match parameter(query, "device") {
        None => None,
        // Events of a device stay when it goes: its whole id needs no row.
        Some(text) => Some(match text.parse::<KeyId>() {
            Ok(id) => id,
            Err(_) => find(&hub, &text)?.id(),
        }),
    };
    if let Some(text) = parameter(query, "last") {
        let last: u32 = text
            .parse()
            .map_err(|_| Refusal::bad("last", "last is a number of events"))?;
        let read = move |database: &_| events::before_last(database, last, of);
        since = since.max(hub.readers.read(read).await?);
    }
    let (pages, queue) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        // It ends when its reader is gone, when the hub stops, or with what is there.
        drop(tell(&hub, (since, of), follow, &pages).await);
    });
    let kind = HeaderValue::from_static("text/event-stream");
    let body = Body::new(Pages::new(queue));
    Ok(super::answer::bytes(StatusCode::OK, kind, body))
}

/// The reader is gone, or the database.
struct Gone;

async fn tell(
    hub: &Hub,
    (mut since, of): (u64, Option<KeyId>),
    follow: bool,
    pages: &mpsc::Sender<Bytes>,
) -> Result<(), Gone> {
    let mut stopping = hub.stopping.subscribe();
    // Subscribed to before the database is read, so that nothing falls in between.
    let mut news = hub.fleet.follow();
    if follow {
        // Where it begins, without an event (HTML, "9.2.6 Interpreting an event stream"): whoever has seen nothing when the connection
        // breaks goes on from here.
        let begins = format!("id: {since}\n\n");
        pages.send(begins.into()).await.map_err(|_| Gone)?;
    }
    loop {
        loop {
            let read =
                move |database: &rusqlite::Connection| events::after(database, since, PAGE, of);
            let page = hub.readers.read(read).await.map_err(|_| Gone)?;
            let Some(last) = page.last() else { break };
            since = last.seq;
            send(pages, &page).await?;
        }
        if !follow {
            return Ok(());
        }
        tokio::select! {
            // Only that something came is looked at: whoever is slow reads the database and misses nothing.
            event = news.recv() => {
                drop(event);
                while news.try_recv().is_ok() {}
            }
            () = tokio::time::sleep(ALIVE) => {
                pages.send(Bytes::from_static(b":\n\n")).await.map_err(|_| Gone)?;
            }
            () = stopped(&mut stopping) => return Ok(()),
        }
    }
}

async fn send(pages: &mpsc::Sender<Bytes>, events: &[Event]) -> Result<(), Gone> {
    let mut text = String::new();
    for event in events {
        let json = serde_json::to_string(event).map_err(|_| Gone)?;
        let (seq, what) = (event.seq, &event.what);
        text.push_str(&format!("id: {seq}\nevent: {what}\ndata: {json}\n\n"));
    }
    pages.send(text.into()).await.map_err(|_| Gone)
}

/// What a task sends, as a body, at most [`PIECE`] at a time.
pub(super) struct Pages {
    queue: mpsc::Receiver<Bytes>,
    /// Of the page that was taken last, what is still to be sent.
    rest: Bytes,
}

impl Pages {
    pub(super) const fn new(queue: mpsc::Receiver<Bytes>) -> Self {
        let rest = Bytes::new();
        Self { queue, rest }
    }
}

impl http_body::Body for Pages {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        while self.rest.is_empty() {
            match ready!(self.queue.poll_recv(context)) {
                Some(page) => self.rest = page,
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }
}
