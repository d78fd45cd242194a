//! What the hub says of itself.

use super::access::Anybody;
use super::answer;
use super::body::FileBody;
use crate::backup::{self, Contents};
use crate::error::{Error, Refusal};
use crate::hub::Hub;
use crate::rows::signed;
use crate::tokens::Operator;
use crate::{clock, events, openapi, random, usage};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use kedge_api::operator;
use kedge_revision::id::hex;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

type Answer = Result<Response, Refusal>;

/// `GET /v1/hub`
pub(super) async fn hub(_: Anybody, State(hub): State<Arc<Hub>>) -> Answer {
    let told = operator::Hub {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        key: hub.identity.public(),
        authority: hex(hub.identity.authority()),
        mode: hub.mode,
    };
    answer::json(StatusCode::OK, &told)
}

/// `GET /healthz`: good as long as writes are answered.
pub(super) async fn health(_: Anybody, State(hub): State<Arc<Hub>>) -> Answer {
    let time = signed(clock::unix());
    hub.writer
        .run(move |step| {
            step.database.execute(
                "INSERT INTO health (id, time) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET time = ?1",
                [time],
            )?;
            Ok(())
        })
        .await?;
    Ok(answer::text("ok\n".to_owned()))
}

/// `GET /metrics`: Prometheus' text format. Counts alone, nothing of any device.
pub(super) async fn metrics(_: Anybody, State(hub): State<Arc<Hub>>) -> Answer {
    let devices = hub.fleet.devices();
    let online = devices.iter().filter(|device| device.is_online()).count();
    let all = devices.len();
    let known = &hub.metrics;
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let counters = [
        ("kedge_devices", "gauge", count(all)),
        ("kedge_devices_online", "gauge", count(online)),
        (
            "kedge_connections_open",
            "gauge",
            known.connections_open.get(),
        ),
        (
            "kedge_connections_total",
            "counter",
            known.connections.get(),
        ),
        (
            "kedge_connections_refused_total",
            "counter",
            known.connections_refused.get(),
        ),
        (
            "kedge_handshakes_failed_total",
            "counter",
            known.handshakes_failed.get(),
        ),
        ("kedge_requests_total", "counter", known.requests.get()),
        (
            "kedge_requests_refused_total",
            "counter",
            known.refusals.get(),
        ),
        ("kedge_polls_total", "counter", known.polls.get()),
        (
            "kedge_polls_unchanged_total",
            "counter",
            known.polls_unchanged.get(),
        ),
        ("kedge_reports_total", "counter", known.reports.get()),
        (
            "kedge_bytes_served_total",
            "counter",
            known.bytes_served.get(),
        ),
        (
            "kedge_bytes_taken_total",
            "counter",
            known.bytes_taken.get(),
        ),
    ];
    let usage = usage::gauges(&devices, clock::unix());
    let usage = usage.map(|(name, value)| (name, "gauge", value));
    let mut text = String::new();
    for (name, kind, value) in counters.into_iter().chain(usage) {
        text.push_str(&format!("# TYPE {name} {kind}\n{name} {value}\n"));
    }
    Ok(answer::text(text))
}

/// `GET /openapi.json`
pub(super) async fn openapi(_: Anybody) -> Answer {
    answer::json(StatusCode::OK, &openapi::document())
}

/// `POST /v1/backup`: the database without the hub's keys: whoever has a token does not get those over the network.
pub(super) async fn backup(operator: Operator, State(hub): State<Arc<Hub>>) -> Answer {
    let name = operator.name;
    hub.writer
        .run(move |step| events::add(step, None, "backup", format!("{name} took a backup")))
        .await?;
    let data = hub.data.clone();
    let made = tokio::task::spawn_blocking(move || snapshot(&data)).await;
    let (file, length) = made.map_err(|_| Error::Stopping)??;
    let kind = HeaderValue::from_static("application/x-tar");
    let body = Body::new(FileBody::new(file, 0, length));
    Ok(answer::bytes(StatusCode::OK, kind, body))
}

/// A backup in a file that has no name any more: it is gone once it was sent.
fn snapshot(data: &Path) -> Result<(File, u64), Error> {
    let path = data.join(format!("backup-{}.tar", random::digits::<8>()?));
    backup::backup(data, &path, Contents::DatabaseAlone)?;
    let opened = File::open(&path).map_err(Error::file("open", &path));
    kedge_store::durable::remove(&path)?;
    let file = opened?;
    let length = file
        .metadata()
        .map_err(Error::file("look at", &path))?
        .len();
    Ok((file, length))
}
