//! Many devices at once, each with a key, a certificate and a connection of its own, on the threads of one tokio runtime.
//!
//! They come from several addresses of 127.0.0.0/8, as a fleet does: an address may ask only so much before it says who
//! it is, and has only so many ports.

use crate::client::{Answer, Credentials, receive_head, tls};
use crate::world::{Server, unhex};
use ed25519_dalek::SigningKey;
use kedge_api::Signed;
use kedge_api::device::Enrolled;
use kedge_revision::enrolment::Enrolment;
use kedge_revision::fresh::Nonce;
use kedge_revision::signing::Kind;
use kedge_revision::{KeyId, PublicKey, SignatureSet};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Devices of one address.
const SITE: u32 = 250;
/// Longest wait for bytes: beyond a poll's longest hold, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(600);

/// A hub as devices see it; the same one over restarts, if it comes back where it was.
#[derive(Clone)]
pub(crate) struct Place {
    address: SocketAddr,
    provider: Arc<CryptoProvider>,
    judge: Arc<WebPkiServerVerifier>,
}

impl Place {
    pub(crate) fn of(server: &Server) -> Self {
        let provider = Arc::new(default_provider());
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from(server.authority.clone());
        roots.add(authority).unwrap();
        let judge =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        Self {
            address: server.address,
            provider,
            judge: judge.build().unwrap(),
        }
    }

    /// Judges the hub; every connection is a whole handshake.
    fn tls(&self, credentials: Option<&Credentials>) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.judge) as _);
        let mut config = match credentials {
            Some(credentials) => builder
                .with_client_auth_cert(credentials.chain(), credentials.key())
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }

    async fn connect(&self, tls: &Arc<ClientConfig>, from: Ipv4Addr) -> io::Result<Line> {
        let socket = TcpSocket::new_v4()?;
        // Ports of connections that have just ended are free at once.
        socket.set_reuseaddr(true)?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let connector = TlsConnector::from(Arc::clone(tls));
        let stream = connector.connect(name, stream).await?;
        Ok(Line {
            stream,
            buffer: Vec::new(),
        })
    }

    /// Takes in devices of these numbers, each by its own signed request; an address a connection, eight at a time.
    pub(crate) async fn enrol(&self, numbers: std::ops::Range<u32>, token: &str) -> Vec<Member> {
        let tls = tls(None, None);
        let places = Arc::new(tokio::sync::Semaphore::new(8));
        let sites: Vec<_> = numbers
            .clone()
            .step_by(usize::try_from(SITE).unwrap())
            .map(|first| {
                let numbers = first..(first + SITE).min(numbers.end);
                let (place, tls, token) = (self.clone(), Arc::clone(&tls), token.to_owned());
                let places = Arc::clone(&places);
                tokio::spawn(async move {
                    let _place = places.acquire_owned().await.unwrap();
                    let mut line = place.connect(&tls, address(first)).await.unwrap();
                    let mut members = Vec::new();
                    for number in numbers {
                        members.push(place.member(&mut line, number, &token).await);
                    }
                    members
                })
            })
            .collect();
        let mut members = Vec::new();
        for site in sites {
            members.extend(site.await.unwrap());
        }
        members
    }

    async fn member(&self, line: &mut Line, number: u32, token: &str) -> Member {
        let seed = seed(number);
        let key = SigningKey::from_bytes(&seed);
        let public = PublicKey::from_bytes(key.verifying_key().to_bytes());
        let names = ("gateway".parse().unwrap(), "qemu-x86-64".parse().unwrap());
        let nonce = Nonce::from_bytes(seed);
        let enrolment = Enrolment::new(public, names, 1, nonce, Some(token.to_owned()));
        let document = enrolment.encode().unwrap();
        let mut signatures = SignatureSet::default();
        signatures.sign(Kind::Enrolment, &document, &key);
        let body = serde_json::to_vec(&Signed::new(&document, &signatures)).unwrap();
        let asked = line.ask("POST", "/v1/enroll", "", &body).await;
        let answer = asked.unwrap().is(200);
        let Enrolled::Accepted { certificate, .. } = answer.json() else {
            panic!("{}", answer.text());
        };
        let credentials = Credentials {
            certificate: unhex(&certificate),
            seed,
        };
        Member {
            id: public.id(),
            from: address(number),
            tls: self.tls(Some(&credentials)),
            place: self.clone(),
        }
    }
}

/// The secret half of a device's key.
fn seed(number: u32) -> [u8; 32] {
    let mut seed = [0x5a; 32];
    seed[..4].copy_from_slice(&number.to_le_bytes());
    seed
}

/// Where a device comes from.
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + number / SITE)
}

/// A device that was taken in.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) id: KeyId,
    from: Ipv4Addr,
    tls: Arc<ClientConfig>,
    place: Place,
}

impl Member {
    pub(crate) async fn connect(&self) -> io::Result<Line> {
        self.place.connect(&self.tls, self.from).await
    }

    /// Connects, however long it takes: with pauses, as one does of whom the hub has heard enough. Tells how often it
    /// did not succeed.
    pub(crate) async fn connect_at_last(&self) -> (Line, u32) {
        let mut failures = 0;
        loop {
            match self.connect().await {
                Ok(line) => return (line, failures),
                Err(_) => failures += 1,
            }
            let pause = 500_u64 << failures.min(4);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }
}

/// A connection.
pub(crate) struct Line {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

impl Line {
    /// Asks, and reads the answer. `headers` end in a line break each.
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> io::Result<Answer> {
        let length = body.len();
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: hub\r\ncontent-length: {length}\r\n{headers}\r\n"
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.stream.write_all(&request).await?;
        self.stream.flush().await?;
        tokio::time::timeout(PATIENCE, self.receive()).await?
    }

    /// A poll that holds for so many seconds, of a device that has this answer.
    pub(crate) async fn poll(&mut self, tag: Option<&str>, hold_s: u32) -> io::Result<Answer> {
        let headers = tag.map_or_else(String::new, |tag| {
            format!("if-none-match: {tag}\r\nprefer: wait={hold_s}\r\n")
        });
        self.ask("GET", "/v1/device/state", &headers, &[]).await
    }

    async fn receive(&mut self) -> io::Result<Answer> {
        self.buffer.clear();
        let body = loop {
            let end = self.buffer.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
            self.more().await?;
        };
        let mut answer = receive_head(&mut &self.buffer[..body])?;
        let length = answer.headers.get("content-length");
        let end = body + length.map_or(0, |length| length.parse::<usize>().unwrap());
        while self.buffer.len() < end {
            self.more().await?;
        }
        answer.body = self.buffer[body..end].to_vec();
        Ok(answer)
    }

    async fn more(&mut self) -> io::Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}
