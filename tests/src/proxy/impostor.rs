//! Somebody who is believed to be the hub: ends TLS, asks the real one, and answers as it likes.

use super::{Listener, lock};
use crate::releases::Fleet;
use anyhow::{Context, Result, ensure};
use kedge_agent::http::{Head, parse_head};
use kedge_agent::kept::{Certificate, Kept};
use kedge_agent::tls::{self, Clock, Stream};
use kedge_revision::PublicKey;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, Issuer, KeyPair, PKCS_ED25519, date_time_ymd,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// An answer as it goes over the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// With the empty line.
    pub head: Vec<u8>,
    /// As it is framed.
    pub body: Vec<u8>,
}

impl Answer {
    /// An answer of JSON.
    #[must_use]
    pub fn json(status: u16, fields: &str, body: &str) -> Self {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} x\r\n{fields}content-length: {length}\r\n\r\n");
        Self {
            head: head.into_bytes(),
            body: body.as_bytes().to_vec(),
        }
    }

    /// A refusal of this kind.
    #[must_use]
    pub fn refusal(status: u16, fields: &str, kind: &str) -> Self {
        let body = format!(
            r#"{{"status":{status},"type":"{kind}","title":"no","detail":"an impostor says so"}}"#
        );
        Self::json(status, fields, &body)
    }
}

/// What becomes of an answer.
#[derive(Clone)]
pub enum Fault {
    /// None: the hub's own answer.
    None,
    /// This one comes instead, and the hub is not asked.
    Instead(Answer),
    /// It is changed; then the connection ends.
    Changed(Arc<dyn Fn(Answer) -> Answer + Send + Sync>),
    /// These bytes come, then these over and over.
    Endless(Vec<u8>, Vec<u8>),
    /// It comes byte by byte, with a pause.
    Drip(Answer, Duration),
    /// The first answer to such a request comes again.
    Earlier,
    /// The answer to this request comes instead.
    Other(&'static str),
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Instead(_) => "instead",
            Self::Changed(_) => "changed",
            Self::Endless(..) => "endless",
            Self::Drip(..) => "drip",
            Self::Earlier => "earlier",
            Self::Other(_) => "other",
        })
    }
}

impl Fault {
    /// It is changed.
    pub fn changed(change: impl Fn(Answer) -> Answer + Send + Sync + 'static) -> Self {
        Self::Changed(Arc::new(change))
    }
}

#[derive(Debug)]
struct Rule {
    /// What stands in method and target.
    words: &'static str,
    times: usize,
    fault: Fault,
}

/// A request of the device's.
struct Asked {
    line: String,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Shared {
    config: Mutex<Arc<ServerConfig>>,
    hub: Mutex<SocketAddr>,
    authority: Vec<u8>,
    device: PathBuf,
    rules: Mutex<Vec<Rule>>,
    asked: Mutex<Vec<(Instant, String)>>,
    answers: Mutex<Vec<(String, Answer)>>,
    sent: Mutex<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct Impostor {
    listener: Listener,
    shared: Arc<Shared>,
}

impl Impostor {
    /// Before the fleet's hub, with the keys of the device that keeps its own in `device`.
    ///
    /// # Errors
    /// The hub's authority cannot be used.
    pub fn new(fleet: &Fleet, device: &Path) -> Result<Self> {
        let config = server(&fleet.data(), SystemTime::now())?;
        let shared = Arc::new(Shared {
            config: Mutex::new(config),
            hub: Mutex::new(fleet.address()?),
            authority: fleet.authority().to_vec(),
            device: device.to_owned(),
            rules: Mutex::default(),
            asked: Mutex::default(),
            answers: Mutex::default(),
            sent: Mutex::default(),
        });
        let listener = Listener::start({
            let shared = Arc::clone(&shared);
            // What breaks off is what this is for.
            move |device| drop(shared.connect(device))
        });
        Ok(Self {
            listener: listener.context("no port")?,
            shared,
        })
    }

    /// Where devices find it.
    #[must_use]
    pub fn url(&self) -> String {
        self.listener.url()
    }

    /// From now on it has a certificate of the authority of the hub in `data`.
    ///
    /// # Errors
    /// The authority cannot be used.
    pub fn certified_by(&self, data: &Path) -> Result<()> {
        *lock(&self.shared.config) = server(data, SystemTime::now())?;
        Ok(())
    }

    /// So many answers to requests with `words` in method and target have this fault.
    pub fn plays(&self, words: &'static str, times: usize, fault: Fault) {
        let rule = Rule {
            words,
            times,
            fault,
        };
        lock(&self.shared.rules).push(rule);
    }

    /// So many answers to such requests are the hub's own, before what is played behind.
    pub fn passes(&self, words: &'static str, times: usize) {
        self.plays(words, times, Fault::None);
    }

    /// Is honest from now on.
    pub fn honest(&self) {
        lock(&self.shared.rules).clear();
    }

    /// Faults that have not been played.
    #[must_use]
    pub fn left(&self) -> usize {
        lock(&self.shared.rules).iter().map(|rule| rule.times).sum()
    }

    /// Requests since a moment with `words` in method and target.
    #[must_use]
    pub fn count(&self, words: &str, since: Instant) -> usize {
        let asked = lock(&self.shared.asked);
        let meant = |(at, line): &&(Instant, String)| *at >= since && line.contains(words);
        asked.iter().filter(meant).count()
    }

    /// Bytes that were sent to the device.
    #[must_use]
    pub fn sent(&self) -> u64 {
        *lock(&self.shared.sent)
    }
}

/// TLS with a certificate of the authority of the hub in `data`, as the hub itself has one.
fn server(data: &Path, now: SystemTime) -> Result<Arc<ServerConfig>> {
    let read = |name: &str| std::fs::read(data.join("keys").join(name)).context(name.to_owned());
    let seed: [u8; 32] = read("hub.key")?.as_slice().try_into()?;
    let key = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key();
    let id = PublicKey::from_bytes(key.to_bytes()).id().to_string();
    let mut authority = CertificateParams::default();
    authority.distinguished_name = DistinguishedName::new();
    let name = format!("Kedge hub {}", id.get(..16).unwrap_or_default());
    authority.distinguished_name.push(DnType::CommonName, name);
    let issuer = Issuer::new(authority, KeyPair::try_from(read("authority.key")?)?);
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
    let unix = now.duration_since(SystemTime::UNIX_EPOCH)?;
    let day = Duration::from_secs(86_400);
    params.not_before = date_time_ymd(1970, 1, 1) + unix.saturating_sub(day);
    params.not_after = date_time_ymd(1970, 1, 1) + unix + day * 90;
    let own = KeyPair::generate_for(&PKCS_ED25519)?;
    let certificate = params.signed_by(&own, &issuer)?.der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(Arc::new(config))
}

impl Shared {
    fn connect(&self, device: TcpStream) -> Result<()> {
        let config = Arc::clone(&lock(&self.config));
        let stream = StreamOwned::new(ServerConnection::new(config)?, device);
        let mut stream = BufReader::new(stream);
        let mut hub = None;
        while let Some(asked) = request(&mut stream)? {
            lock(&self.asked).push((Instant::now(), asked.line.clone()));
            let fault = self.fault(&asked.line);
            let out = stream.get_mut();
            match fault {
                None | Some(Fault::None) => {
                    let answer = self.ask(&mut hub, &asked)?;
                    self.send(out, &answer)?;
                }
                Some(Fault::Instead(answer)) => {
                    self.send(out, &answer)?;
                    return Ok(());
                }
                Some(Fault::Changed(change)) => {
                    let answer = change(self.ask(&mut hub, &asked)?);
                    self.send(out, &answer)?;
                    out.conn.send_close_notify();
                    out.flush()?;
                    return Ok(());
                }
                Some(Fault::Endless(first, piece)) => {
                    out.write_all(&first)?;
                    loop {
                        out.write_all(&piece)?;
                        *lock(&self.sent) += u64::try_from(piece.len())?;
                    }
                }
                Some(Fault::Drip(answer, pause)) => {
                    for byte in answer.head.iter().chain(&answer.body) {
                        out.write_all(&[*byte])?;
                        out.flush()?;
                        std::thread::sleep(pause);
                    }
                }
                Some(Fault::Earlier) => {
                    let found = lock(&self.answers)
                        .iter()
                        .find(|(line, _)| *line == asked.line)
                        .map(|(_, answer)| answer.clone());
                    self.send(out, &found.context("no earlier answer")?)?;
                }
                Some(Fault::Other(line)) => {
                    let bytes = format!("{line} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
                    let other = Asked {
                        line: line.to_owned(),
                        bytes: bytes.into_bytes(),
                    };
                    let answer = self.ask(&mut hub, &other)?;
                    self.send(out, &answer)?;
                }
            }
        }
        Ok(())
    }

    fn fault(&self, line: &str) -> Option<Fault> {
        let mut rules = lock(&self.rules);
        let meant = |rule: &&mut Rule| rule.times > 0 && line.contains(rule.words);
        let rule = rules.iter_mut().find(meant)?;
        rule.times -= 1;
        Some(rule.fault.clone())
    }

    fn send(&self, out: &mut impl Write, answer: &Answer) -> Result<()> {
        out.write_all(&answer.head)?;
        for piece in answer.body.chunks(64 * 1024) {
            out.write_all(piece)?;
            *lock(&self.sent) += u64::try_from(piece.len())?;
        }
        Ok(out.flush()?)
    }

    /// Asks the real hub as the device, and keeps the first answer of each kind.
    fn ask(&self, hub: &mut Option<BufReader<Stream>>, asked: &Asked) -> Result<Answer> {
        let mut stream = match hub.take() {
            Some(stream) => stream,
            None => self.dial()?,
        };
        stream.get_mut().write_all(&asked.bytes)?;
        stream.get_mut().flush()?;
        let answer = answer(&mut stream)?;
        *hub = Some(stream);
        let mut answers = lock(&self.answers);
        // Objects are many and large, and no answer to anything else.
        if answer.body.len() < 65_536 && !answers.iter().any(|(line, _)| *line == asked.line) {
            answers.push((asked.line.clone(), answer.clone()));
        }
        Ok(answer)
    }

    fn dial(&self) -> Result<BufReader<Stream>> {
        let clock = Arc::new(Clock::default());
        clock.set(
            SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)?
                .as_secs(),
        );
        let kept = Kept::new(&self.device);
        let certificate: Option<Certificate> = kept.get("certificate", &mut |_| {})?;
        let der = certificate.and_then(|kept| kedge_image_build::hub::unhex(&kept.certificate));
        let key = kept.key()?;
        let own = der.as_deref().map(|der| (&key, der));
        let config = tls::judged(&clock, std::slice::from_ref(&self.authority), own)?;
        let socket = TcpStream::connect(*lock(&self.hub))?;
        socket.set_read_timeout(Some(super::SILENCE))?;
        Ok(BufReader::new(tls::connect(&config, "127.0.0.1", socket)?))
    }
}

/// A head, up to its empty line; none: the connection has ended.
fn head(stream: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        if stream.read_until(b'\n', &mut head)? == 0 {
            ensure!(head.is_empty(), "half a head");
            return Ok(None);
        }
        if head.get(before..) == Some(b"\r\n") {
            return Ok(Some(head));
        }
    }
}

fn request(stream: &mut impl BufRead) -> Result<Option<Asked>> {
    let Some(mut bytes) = head(stream)? else {
        return Ok(None);
    };
    let text = String::from_utf8(bytes.clone())?;
    let line = text.lines().next().and_then(|line| line.rsplit_once(' '));
    let line = line.context("no request")?.0.to_owned();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length = length.map_or(Ok(0), str::parse::<usize>)?;
    let start = bytes.len();
    bytes.resize(start + length, 0);
    stream.read_exact(bytes.get_mut(start..).unwrap_or_default())?;
    Ok(Some(Asked { line, bytes }))
}

fn answer(stream: &mut impl BufRead) -> Result<Answer> {
    let bytes = head(stream)?.context("the hub has ended")?;
    let parsed = parse_head(&bytes).map_err(anyhow::Error::msg)?;
    let (Head { status, length, .. }, _) = parsed.context("half a head")?;
    let mut body = Vec::new();
    if matches!(status, 204 | 304) {
    } else if let Some(length) = length {
        body.resize(usize::try_from(length)?, 0);
        stream.read_exact(&mut body)?;
    } else {
        loop {
            let before = body.len();
            stream.read_until(b'\n', &mut body)?;
            let line = core::str::from_utf8(body.get(before..).unwrap_or_default())?;
            let size = usize::from_str_radix(line.trim(), 16)?;
            let start = body.len();
            body.resize(start + size + 2, 0);
            stream.read_exact(body.get_mut(start..).unwrap_or_default())?;
            if size == 0 {
                break;
            }
        }
    }
    Ok(Answer { head: bytes, body })
}
