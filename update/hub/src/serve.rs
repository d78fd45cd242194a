//! The hub as a server: connections, their limits, what happens from time to time, and the end.

mod chores;
mod connection;
mod lent;
mod watched;

use crate::error::Error;
use crate::hub::{Hub, Opened, stopped};
use crate::{http, tls};
use kedge_revision::product::Mode;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// How the hub runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Everything that it keeps.
    pub data: PathBuf,
    /// Where it listens, as `0.0.0.0:8443`.
    pub listen: String,
    /// Names and addresses under which it is asked; they stand in its certificate.
    pub names: Vec<String>,
    /// A production hub refuses development roots.
    pub mode: Mode,
    /// Most connections at a time.
    pub connections: usize,
}

/// Connections get so long to end by themselves.
const FAREWELL: Duration = Duration::from_secs(10);

/// A hub that has begun to listen.
#[derive(Debug)]
pub struct Ready {
    /// Where.
    pub address: SocketAddr,
    /// SHA-256 of its authority's certificate, hexadecimal: what `kedge login` shows.
    pub fingerprint: String,
    /// The first operator's token, at the first start. It is nowhere else.
    pub first_token: Option<String>,
}

/// Runs a hub until it is told to stop. `ready` is called once it listens.
///
/// # Errors
/// It cannot be opened, or cannot listen.
pub fn run(settings: &Settings, ready: impl FnOnce(Ready)) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::File {
            doing: "start the threads of",
            path: "the hub".into(),
            source,
        })?;
    raise_descriptors();
    let opened = Hub::open(&settings.data, settings.mode)?;
    let Opened { hub, writer, lock } = opened;
    let served = runtime.block_on(serve(settings, &hub, ready));
    // Requests that still run are cut off here; what they had acknowledged is on the disk.
    runtime.shutdown_timeout(Duration::from_secs(5));
    drop(hub);
    if writer.join().is_err() {
        log::error!("the writer's thread ended with a panic");
    }
    drop(lock);
    served
}

async fn serve(
    settings: &Settings,
    hub: &Arc<Hub>,
    ready: impl FnOnce(Ready),
) -> Result<(), Error> {
    let listening = |source| Error::Listen {
        address: settings.listen.clone(),
        source,
    };
    let current = Arc::new(tls::Current::new(hub.identity.server(&settings.names)?)?);
    let config = tls::config(&hub.identity, Arc::clone(&current))?;
    let listener = TcpListener::bind(&settings.listen)
        .await
        .map_err(listening)?;
    let address = listener.local_addr().map_err(listening)?;
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate()).map_err(listening)?,
        signal(SignalKind::interrupt()).map_err(listening)?,
    );
    let fingerprint = hub.identity.fingerprint();
    let key = hub.identity.public();
    let told = format!("key {key}, authority {fingerprint} (SHA-256), listens on {address}");
    // Not before it listens: a first start that fails would take the token along.
    ready(Ready {
        address,
        fingerprint,
        first_token: hub.first_token().await?,
    });
    // Behind the token: who reads the log and then looks for that finds it.
    log::info!("{told}");
    let accepting = tokio::spawn(accept(
        Arc::clone(hub),
        listener,
        TlsAcceptor::from(Arc::new(config)),
        settings.connections,
    ));
    let chores = tokio::spawn(chores::run(
        Arc::clone(hub),
        current,
        settings.names.clone(),
    ));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    log::info!("stopping");
    hub.stopping.send_replace(true);
    // Those that wait for nothing but their peer are cut off after a while.
    let ended = tokio::time::timeout(FAREWELL, accepting).await;
    if ended.is_err() {
        log::info!("some connections did not end by themselves");
    }
    chores.abort();
    if let Err(refusal) = hub.flush_seen(0).await {
        log::error!(
            "when devices were last heard of was not written: {}",
            refusal.detail
        );
    }
    Ok(())
}

/// Accepts until the hub stops, then waits for all connections to end.
async fn accept(hub: Arc<Hub>, listener: TcpListener, acceptor: TlsAcceptor, most: usize) {
    let router = http::router(Arc::clone(&hub));
    let places = Arc::new(Semaphore::new(most));
    let mut stopping = hub.stopping.subscribe();
    loop {
        // A place first: whoever comes when there is none waits in the kernel's queue.
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = stopped(&mut stopping) => break,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stopping) => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let (hub, acceptor) = (Arc::clone(&hub), acceptor.clone());
                let router = router.clone();
                let free = places.available_permits();
                tokio::spawn(async move {
                    connection::serve(&hub, &acceptor, router, stream, address, free).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: some will end.
                log::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let all = u32::try_from(most).unwrap_or(u32::MAX);
    drop(places.acquire_many(all).await);
}

/// Each connection takes a descriptor; most systems give a program 1024 unless it asks for more.
fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log::warn!("the number of connections stays as limited as it was: {error}");
    }
}
