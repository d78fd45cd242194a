//! Logs: from devices, for operators.

use super::access::Known;
use super::device::parameter;
use super::events::Pages;
use super::{answer, body, devices};
use crate::error::{Error, Refusal};
use crate::hub::{Hub, stopped};
use crate::logs::{self, Place};
use crate::tokens::Operator;
use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use kedge_revision::KeyId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};

type Answer = Result<Response, Refusal>;

/// Pages on their way to a reader.
const QUEUE: usize = 2;
/// A silent connection is told that it lives, by an empty line.
const ALIVE: Duration = Duration::from_secs(20);

/// `POST /v1/device/logs`
pub(super) async fn take(Known(device): Known, State(hub): State<Arc<Hub>>, body: Body) -> Answer {
    let bytes = body::read(body, logs::REQUEST).await?;
    let id = device.id();
    let writing = tokio::task::spawn_blocking(move || {
        hub.logs.append(id, &bytes)?;
        // One that was removed meanwhile leaves none.
        if device.is_gone() {
            hub.logs.remove(id)?;
        }
        Ok::<(), Refusal>(())
    });
    writing.await.map_err(|_| Error::Stopping)??;
    Ok(answer::none(StatusCode::NO_CONTENT))
}

/// `GET /v1/devices/ID/logs?container=&follow=1`
pub(super) async fn show(
    _: Operator,
    State(hub): State<Arc<Hub>>,
    Path(device): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    let device = devices::find(&hub, &device)?;
    let query = query.as_deref();
    let container = parameter(query, "container").filter(|name| !name.is_empty());
    let follow = parameter(query, "follow").is_some_and(|value| value != "0");
    let (pages, queue) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let id = device.id();
        // The device is asked to send for as long as somebody reads.
        let _watching = follow.then(|| device.watch());
        // It ends when its reader is gone, when the hub stops, or with what is there.
        drop(tell(&hub, id, container.as_deref(), follow, &pages).await);
    });
    let kind = HeaderValue::from_static("application/jsonl");
    Ok(answer::bytes(
        StatusCode::OK,
        kind,
        Body::new(Pages::new(queue)),
    ))
}

/// The reader is gone, or the disk.
struct Gone;

async fn tell(
    hub: &Arc<Hub>,
    device: KeyId,
    container: Option<&str>,
    follow: bool,
    pages: &mpsc::Sender<Bytes>,
) -> Result<(), Gone> {
    let mut stopping = hub.stopping.subscribe();
    let mut news = hub.logs.follow();
    let mut place = Place::default();
    loop {
        loop {
            let (asked, from) = (Arc::clone(hub), place);
            let reading = tokio::task::spawn_blocking(move || asked.logs.read(device, from));
            let page = reading.await.map_err(|_| Gone)?.map_err(|_| Gone)?;
            let Some((lines, next)) = page else { break };
            place = next;
            let lines = match container {
                Some(container) => logs::of_source(&lines, container),
                None => lines,
            };
            if !lines.is_empty() {
                pages.send(lines.into()).await.map_err(|_| Gone)?;
            }
        }
        if !follow {
            return Ok(());
        }
        tokio::select! {
            () = grown(&mut news, device) => {}
            () = pages.closed() => return Ok(()),
            () = tokio::time::sleep(ALIVE) => {
                pages.send(Bytes::from_static(b"\n")).await.map_err(|_| Gone)?;
            }
            () = stopped(&mut stopping) => return Ok(()),
        }
    }
}

/// Returns once a device's logs may have grown.
async fn grown(news: &mut broadcast::Receiver<KeyId>, device: KeyId) {
    loop {
        match news.recv().await {
            Ok(grown) if grown != device => {}
            // Also whoever was too slow to hear of it.
            Ok(_) | Err(_) => return,
        }
    }
}
