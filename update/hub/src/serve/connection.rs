//! One connection: TLS, then HTTP/1 until it ends.

use super::lent::Lent;
use super::watched::{Activity, LOOK, Watched};
use crate::certificate::Certificate;
use crate::http::{Peer, drain, holds};
use crate::hub::{Hub, stopped};
use crate::limits::{OfDevice, Place};
use axum::Router;
use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CONNECTION, EXPECT};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A handshake must be done by then. When a whole fleet comes back at once, most of that is spent waiting for a processor: at
/// 0.3 ms each, 100,000 take half a minute of one.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// Longest head of a request, bytes.
const HEAD: usize = 16 * 1024;

/// A body of at most so many bytes is taken before the request is judged: a refusal then need not end the connection.
const SMALL: usize = 16 * 1024;
/// By then it must have come.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is left of a request's body once it was answered.
enum Rest {
    /// Nothing: it was taken before.
    None,
    /// Perhaps something, and a client that sends it whatever it is told.
    Coming(Lent),
    /// Something that is not to be waited for: it did not come in time, or its client waits to be told to send it.
    Unwanted,
}

/// A request with its body in memory, if that is small.
async fn gathered(request: hyper::Request<Incoming>) -> (hyper::Request<Body>, Rest) {
    let length = request.body().size_hint().exact();
    let most = u64::try_from(SMALL).unwrap_or(u64::MAX);
    if length.is_none_or(|length| length > most) {
        let waits = request.headers().contains_key(EXPECT);
        let (parts, body) = request.into_parts();
        let lent = Lent::new(body);
        let request = hyper::Request::from_parts(parts, Body::new(lent.clone()));
        let rest = if waits {
            Rest::Unwanted
        } else {
            Rest::Coming(lent)
        };
        return (request, rest);
    }
    let (parts, body) = request.into_parts();
    match tokio::time::timeout(PATIENCE, body.collect()).await {
        Ok(Ok(body)) => {
            let body = Body::from(body.to_bytes());
            (hyper::Request::from_parts(parts, body), Rest::None)
        }
        // It did not come: what is there is no request, and is refused as such.
        Ok(Err(_)) | Err(_) => (
            hyper::Request::from_parts(parts, Body::empty()),
            Rest::Unwanted,
        ),
    }
}

/// Whether a body that was refused came to its end. A client that sends it whole before it reads would lose the answer
/// with the connection.
async fn is_over(rest: Rest) -> bool {
    match rest {
        Rest::None => true,
        Rest::Coming(body) => drain(body).await,
        Rest::Unwanted => false,
    }
}

/// Counts a connection as open.
struct Open<'a>(&'a Hub);

impl<'a> Open<'a> {
    fn new(hub: &'a Hub) -> Self {
        hub.metrics.connections.add(1);
        hub.metrics.connections_open.up();
        Self(hub)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.metrics.connections_open.down();
    }
}

/// Serves a connection until it ends, or is over.
pub(super) async fn serve(
    hub: &Arc<Hub>,
    acceptor: &TlsAcceptor,
    router: Router,
    stream: TcpStream,
    address: SocketAddr,
    free: usize,
) {
    let Some(newcomer) = hub.limits.newcomer(address.ip(), free) else {
        hub.metrics.connections_refused.add(1);
        return;
    };
    let _open = Open::new(hub);
    // Answers are written whole; waiting for more would only make them late.
    if let Err(error) = stream.set_nodelay(true) {
        log::debug!("{address}: {error}");
    }
    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            hub.metrics.handshakes_failed.add(1);
            log::debug!("{address}: {error}");
            return;
        }
        Err(_) => {
            hub.metrics.handshakes_failed.add(1);
            return;
        }
    };
    // It is moved some times, and each place would be kept for it as long as the connection lives.
    let stream = Box::new(stream);
    let peer = Peer {
        address: address.ip(),
        certificate: certificate(&stream),
    };
    let shown = peer.certificate.filter(|shown| holds(hub, shown));
    let whose = match shown.and_then(|shown| shown.device()) {
        Some(device) => Whose::Device(hub.limits.device(device)),
        None => match hub.limits.guest(peer.address) {
            Some(guest) => Whose::Guest(guest),
            None => {
                hub.metrics.connections_refused.add(1);
                return;
            }
        },
    };
    drop(newcomer);
    talk(hub, router, stream, peer, whose).await;
}

/// For whom a connection is counted.
enum Whose<'a> {
    Device(OfDevice<'a>),
    /// Kept for its count alone.
    Guest(#[expect(dead_code, reason = "it counts until it is dropped")] Place<'a, IpAddr>),
}

impl Whose<'_> {
    /// Ready when the connection has to end for what others do.
    async fn over(&mut self) {
        match self {
            Self::Device(counted) => counted.over().await,
            Self::Guest(_) => std::future::pending().await,
        }
    }
}

fn certificate(stream: &TlsStream<TcpStream>) -> Option<Certificate> {
    let certificates = stream.get_ref().1.peer_certificates()?;
    Certificate::read(certificates.first()?)
}

async fn talk(
    hub: &Arc<Hub>,
    router: Router,
    stream: Box<TlsStream<TcpStream>>,
    peer: Peer,
    mut whose: Whose<'_>,
) {
    let activity = Arc::new(Activity::new());
    let service = {
        let (hub, activity) = (Arc::clone(hub), Arc::clone(&activity));
        service_fn(move |request: hyper::Request<Incoming>| {
            let (hub, activity) = (Arc::clone(&hub), Arc::clone(&activity));
            let mut router = router.clone();
            activity.begin();
            async move {
                let (mut request, rest) = gathered(request).await;
                request.extensions_mut().insert(peer);
                let mut answer = tower_service::Service::call(&mut router, request).await;
                if let Ok(answer) = &mut answer
                    && !answer.status().is_success()
                    && !is_over(rest).await
                {
                    // What was not read of the body would be taken for the next request.
                    let close = HeaderValue::from_static("close");
                    answer.headers_mut().insert(CONNECTION, close);
                }
                activity.end();
                hub.metrics.requests.add(1);
                if let Ok(answer) = &answer
                    && answer.status().is_client_error()
                {
                    hub.metrics.refusals.add(1);
                }
                answer
            }
        })
    };
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(HEAD)
        .serve_connection(io, service);
    tokio::pin!(connection);
    let mut stopping = hub.stopping.subscribe();
    let mut told = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    log::debug!("{}: {error}", peer.address);
                }
                return;
            }
            () = whose.over() => return,
            () = stopped(&mut stopping), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep(LOOK) => {
                if activity.is_over() {
                    return;
                }
            }
        }
    }
}
