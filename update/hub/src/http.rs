//! HTTP: which request is answered by whom, and how a refusal looks.
//!
//! Nothing is decided here: requests are read, whoever asks is judged (`access`), and what they mean is done elsewhere.

mod access;
mod answer;
mod body;
mod device;
mod devices;
mod download;
mod events;
mod idempotency;
mod lists;
mod logs;
mod people;
mod publishing;
mod removal;
mod service;

pub(crate) use access::{Peer, holds};
pub(crate) use body::drain;

use crate::error::Refusal;
use crate::hub::Hub;
use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{any, delete, get, post, put};
use std::sync::Arc;

/// Everything that can be asked.
pub(crate) fn router(hub: Arc<Hub>) -> Router {
    Router::new()
        .merge(device_routes())
        .merge(operator_routes(&hub))
        .route("/v1/hub", get(service::hub))
        .route("/healthz", get(service::health))
        .route("/metrics", get(service::metrics))
        .route("/openapi.json", get(service::openapi))
        .fallback(any(absent))
        .method_not_allowed_fallback(wrong_method)
        .with_state(hub)
}

fn device_routes() -> Router<Arc<Hub>> {
    Router::new()
        .route("/v1/time", post(device::time))
        .route("/v1/authority", get(device::authority))
        .route("/v1/enroll", post(device::enrol))
        .route("/v1/device/certificate", post(device::certificate))
        .route("/v1/device/state", get(device::state))
        .route("/v1/device/assignment", post(device::assignment))
        .route("/v1/device/report", put(device::report))
        .route("/v1/device/logs", post(logs::take))
        .route("/v1/roots/{version}", get(device::root))
        .route("/v1/revisions/{revision}/head", get(device::head))
        .route("/v1/objects/{object}", get(download::object))
        .route("/v1/objects/{object}/tree", get(download::tree))
        .route("/v1/objects/{object}/frames", get(download::frames))
        .route("/v1/objects/{object}/index", get(download::index))
}

fn operator_routes(hub: &Arc<Hub>) -> Router<Arc<Hub>> {
    let once = from_fn_with_state(Arc::clone(hub), idempotency::once);
    Router::new()
        .route("/v1/devices", get(devices::list))
        .route(
            "/v1/devices/{device}",
            get(devices::one).delete(removal::device),
        )
        .route("/v1/devices/{device}/logs", get(logs::show))
        .route("/v1/devices/{device}/why", get(devices::why))
        .route("/v1/devices/{device}/actions", post(devices::action))
        .route("/v1/devices/{device}/tags", put(devices::tags))
        .route("/v1/devices/{device}/parameters", put(devices::parameters))
        .route("/v1/devices/{device}/revoke", post(devices::revoke))
        .route("/v1/assignments", post(devices::assign))
        .route("/v1/claims", get(people::claims).post(people::claim))
        .route(
            "/v1/join-tokens",
            get(people::join_tokens).post(people::new_join_token),
        )
        .route("/v1/join-tokens/{token}", delete(people::end_join_token))
        .route("/v1/tokens", get(people::tokens).post(people::new_token))
        .route("/v1/tokens/{token}", delete(people::end_token))
        .route("/v1/products", post(publishing::product))
        .route("/v1/collect", post(removal::collect))
        // What stands below is answered once by itself, or is no change.
        .route_layer(once)
        .route(
            "/v1/revisions",
            get(publishing::list).post(publishing::offer),
        )
        .route(
            "/v1/revisions/{revision}/objects/{object}",
            post(publishing::upload),
        )
        .route("/v1/events", get(events::events))
        .route("/v1/backup", post(service::backup))
}

async fn absent() -> Refusal {
    Refusal::not_found("the hub has nothing under this address; /openapi.json lists what it has")
}

async fn wrong_method() -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "this address takes other methods; /openapi.json lists them",
    )
}
