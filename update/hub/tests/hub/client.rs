//! A small HTTP client over rustls: what a device or an operator's tool does, and nothing that hides what comes back.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SignatureScheme, StreamOwned};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Accepts any server, as a device does before it knows its hub's authority.
#[derive(Debug)]
struct Unjudged;

impl ServerCertVerifier for Unjudged {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A certificate and the ed25519 seed of its key.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) certificate: Vec<u8>,
    pub(crate) seed: [u8; 32],
}

impl Credentials {
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from(self.certificate.clone())]
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        // RFC 8410, section 7: version 0, id-Ed25519, the seed in two octet strings.
        let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
        der.extend_from_slice(&self.seed);
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der))
    }
}

/// How a client speaks TLS.
pub(crate) fn tls(
    authority: Option<&[u8]>,
    credentials: Option<&Credentials>,
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    let builder = match authority {
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from(authority.to_vec())).unwrap();
            builder.with_root_certificates(roots)
        }
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unjudged)),
    };
    Arc::new(match credentials {
        Some(credentials) => builder
            .with_client_auth_cert(credentials.chain(), credentials.key())
            .unwrap(),
        None => builder.with_no_client_auth(),
    })
}

/// Keeps one connection, and makes another when that one ended.
#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    pub(crate) token: Option<String>,
    stream: Arc<std::sync::Mutex<Option<BufReader<Stream>>>>,
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Asserts a status.
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// Asserts a refusal of this kind, and that it is a problem of RFC 9457.
    pub(crate) fn refused(self, status: u16, kind: &str) -> kedge_api::Problem {
        let answer = self.is(status);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        let problem: kedge_api::Problem = answer.json();
        assert_eq!(
            (problem.status, problem.kind.as_str()),
            (status, kind),
            "{problem:?}"
        );
        problem
    }
}

impl Client {
    pub(crate) fn new(address: SocketAddr, tls: Arc<ClientConfig>) -> Self {
        Self {
            address,
            tls,
            token: None,
            stream: Arc::default(),
        }
    }

    /// A connection of its own.
    pub(crate) fn connect(&self) -> io::Result<BufReader<Stream>> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let connection =
            ClientConnection::new(Arc::clone(&self.tls), name).map_err(io::Error::other)?;
        Ok(BufReader::new(StreamOwned::new(connection, stream)))
    }

    /// Asks, and reads the answer.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let mut kept = self.stream.lock().unwrap();
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        self.send(stream.get_mut(), method, path, headers, body)?;
        let answer = receive(&mut stream)?;
        if answer.headers.get("connection").map(String::as_str) != Some("close") {
            *kept = Some(stream);
        }
        Ok(answer)
    }

    /// Writes a request.
    pub(crate) fn send(
        &self,
        to: &mut impl Write,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<()> {
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nhost: hub\r\ncontent-length: {}\r\n",
            body.len()
        );
        if let Some(token) = &self.token {
            head.push_str(&format!("authorization: Bearer {token}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        to.write_all(head.as_bytes())?;
        to.write_all(body)?;
        to.flush()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], &[]).unwrap()
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, &[], &[]).unwrap()
    }

    pub(crate) fn post(&self, path: &str, body: &impl Serialize) -> Answer {
        self.ask("POST", path, &[], &serde_json::to_vec(body).unwrap())
            .unwrap()
    }

    pub(crate) fn put(&self, path: &str, body: &impl Serialize) -> Answer {
        self.ask("PUT", path, &[], &serde_json::to_vec(body).unwrap())
            .unwrap()
    }
}

/// Reads the head of an answer.
pub(crate) fn receive_head(stream: &mut impl BufRead) -> io::Result<Answer> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == "\r\n" {
            break;
        }
        lines.push(line);
    }
    let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines[1..]
        .iter()
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        })
        .collect();
    Ok(Answer {
        status,
        headers,
        body: Vec::new(),
    })
}

/// Reads an answer whole.
pub(crate) fn receive(stream: &mut impl BufRead) -> io::Result<Answer> {
    let mut answer = receive_head(stream)?;
    if let Some(length) = answer.headers.get("content-length") {
        answer.body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut answer.body)?;
    } else if answer.headers.contains_key("transfer-encoding") {
        while let Some(chunk) = receive_chunk(stream)? {
            answer.body.extend_from_slice(&chunk);
        }
    }
    Ok(answer)
}

/// Reads a chunk of an answer; none at its end.
pub(crate) fn receive_chunk(stream: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
    let mut chunk = vec![0; length + 2];
    stream.read_exact(&mut chunk)?;
    chunk.truncate(length);
    Ok((length > 0).then_some(chunk))
}
