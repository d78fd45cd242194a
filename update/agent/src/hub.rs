//! A hub, as a device asks it: one function a question.

use crate::error::{Error, Peer};
use crate::http::{Head, Http, Request};
use crate::kept::random;
use crate::tls::{self, Stream};
use kedge_api::Signed;
use kedge_api::device::{Acknowledged, Ask, Enrolled, Report, State};
use kedge_revision::authority::Authority;
use kedge_revision::fresh::{Fresh, Nonce};
use kedge_revision::{KeyId, Name, ObjectId, Root, json};
use rustls::client::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(15);
/// How long nothing may come or go while something is due.
const SILENCE: Duration = Duration::from_secs(30);
/// Largest message, bytes.
const MAX_MESSAGE: u64 = 64 * 1024;
/// Most of a log that is sent at once, bytes: a block of zstd has at most 128 KiB.
pub const MAX_LOG: usize = 128 * 1024;
/// Largest head of a bundle, bytes: a revision of 256 KiB, signatures, parameters.
const MAX_HEAD: u64 = 512 * 1024;

/// Where a hub is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl Address {
    /// From `https://host[:port]`; a path is none of ours.
    ///
    /// # Errors
    /// [`Error::Address`].
    pub fn parse(url: &str) -> Result<Self, Error> {
        let bad = || Error::Address {
            url: url.chars().take(100).collect(),
        };
        let rest = url.strip_prefix("https://").ok_or_else(bad)?;
        let rest = rest.trim_end_matches('/');
        let (host, port) = match rest.strip_prefix('[') {
            Some(inner) => {
                let (host, after) = inner.split_once(']').ok_or_else(bad)?;
                (host, after.strip_prefix(':'))
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let port = port.map_or(Ok(443), str::parse).map_err(|_| bad())?;
        if host.is_empty() || host.contains('/') {
            return Err(bad());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }

    fn name(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Connects. Resolving a name may block for as long as the C library takes for that.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Tls`].
    pub fn connect(&self, config: &Arc<ClientConfig>) -> Result<Connection, Error> {
        let failed = |source| Error::Connect {
            hub: self.name(),
            source,
        };
        let addresses = (self.host.as_str(), self.port).to_socket_addrs();
        let mut last = std::io::ErrorKind::NotFound.into();
        for address in addresses.map_err(failed)? {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(socket) => {
                    socket.set_read_timeout(Some(SILENCE)).map_err(failed)?;
                    socket.set_write_timeout(Some(SILENCE)).map_err(failed)?;
                    socket.set_nodelay(true).map_err(failed)?;
                    let stream = tls::connect(config, &self.host, socket)?;
                    let pace = stream.sock.pace();
                    let http = Http::new(Peer::Hub, stream, self.name());
                    return Ok(Connection {
                        http: http.paced(pace),
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(failed(last))
    }
}

/// As what an object travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Plain,
    /// In frames of zstd, each of a MiB.
    Frames,
}

/// A connection to a hub.
#[derive(Debug)]
pub struct Connection<S = Stream> {
    http: Http<S>,
}

/// A question of `method` about `target`.
const fn question<'a>(doing: &'static str, method: &'static str, target: &'a str) -> Request<'a> {
    Request {
        doing,
        method,
        target,
        fields: "",
        length: 0,
    }
}

impl Connection<Stream> {
    /// The same, whose TLS was not judged: what it refuses is a stranger's word.
    #[must_use]
    pub fn unjudged(mut self) -> Self {
        self.http.asks(Peer::Stranger);
        self
    }

    /// The socket, to wait for; and whether bytes of an answer are here already.
    pub fn wait_on(&mut self) -> &TcpStream {
        self.http.stream().sock.socket()
    }

    /// Takes what has come without waiting for more; whether something of an answer is there. Session tickets come
    /// unasked, and are no answer.
    ///
    /// # Errors
    /// [`Error::Connection`].
    pub fn has_answer(&mut self, doing: &'static str) -> Result<bool, Error> {
        let broken = |source| Error::Connection { doing, source };
        let stream = self.http.stream();
        // It was held, and not slow.
        stream.sock.pace().begin(0);
        let read = stream.conn.read_tls(&mut stream.sock).map_err(broken)?;
        let state = stream.conn.process_new_packets().map_err(Error::Tls)?;
        if state.plaintext_bytes_to_read() > 0 {
            return Ok(true);
        }
        if read == 0 || state.peer_has_closed() {
            return Err(broken(std::io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(false)
    }
}

impl<S: Read + Write> Connection<S> {
    /// Over a stream that is connected.
    pub const fn over(http: Http<S>) -> Self {
        Self { http }
    }

    /// Whether another question may be asked over it.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        self.http.is_usable()
    }

    fn message<T: DeserializeOwned>(
        &mut self,
        request: Request<'_>,
        what: &'static str,
        body: Option<&dyn erased::Json>,
    ) -> Result<T, Error> {
        let body = body.map_or_else(Vec::new, erased::Json::to_json);
        self.exchange(request, what, &body)
    }

    fn exchange<T: DeserializeOwned>(
        &mut self,
        request: Request<'_>,
        what: &'static str,
        body: &[u8],
    ) -> Result<T, Error> {
        let request = Request {
            fields: "content-type: application/json\r\n",
            length: u64::try_from(body.len()).unwrap_or(0),
            ..request
        };
        let (_, answer) = self.http.ask(&request, body, MAX_MESSAGE)?;
        json::read(&answer).map_err(|source| Error::Message { what, source })
    }

    /// Asks for a fresh answer and judges it.
    fn fresh(&mut self, request: Request<'_>, device: KeyId, root: &Root) -> Result<Fresh, Error> {
        let nonce = Nonce::from_bytes(random()?);
        let ask = Ask { device, nonce };
        let signed: Signed = self.message(request, "the fresh answer", Some(&ask))?;
        let judged = signed.signatures().and_then(|signatures| {
            Fresh::verify(signed.document.as_bytes(), &signatures, root, device, nonce)
        });
        judged.map_err(|source| Error::Document {
            what: "the fresh answer",
            source,
        })
    }

    /// The time, signed.
    ///
    /// # Errors
    /// [`Error::Document`] and whatever befalls a question.
    pub fn time(&mut self, device: KeyId, root: &Root) -> Result<Fresh, Error> {
        self.fresh(
            question("ask for the time", "POST", "/v1/time"),
            device,
            root,
        )
    }

    /// What the device should run, signed.
    ///
    /// # Errors
    /// As [`Connection::time`].
    pub fn assignment(&mut self, device: KeyId, root: &Root) -> Result<Fresh, Error> {
        let request = question("ask for the assignment", "POST", "/v1/device/assignment");
        self.fresh(request, device, root)
    }

    /// The hub's authority, judged, with the message that it came in.
    ///
    /// # Errors
    /// As [`Connection::time`].
    pub fn authority(&mut self, root: &Root) -> Result<(Authority, Signed), Error> {
        let request = question("ask for the authority", "GET", "/v1/authority");
        let signed: Signed = self.message(request, "the authority", None)?;
        Ok((judge_authority(&signed, root)?, signed))
    }

    /// A root of a product, for PID 1 to judge.
    ///
    /// # Errors
    /// Whatever befalls a question.
    pub fn root(&mut self, version: u32, product: &Name) -> Result<Signed, Error> {
        let target = format!("/v1/roots/{version}?product={product}");
        let request = question("fetch a root", "GET", &target);
        self.message(request, "the root", None)
    }

    /// Asks to be taken in, or for a new certificate.
    ///
    /// # Errors
    /// Whatever befalls a question.
    pub fn enrol(&mut self, request: &Signed, renews: bool) -> Result<Enrolled, Error> {
        let (doing, target) = if renews {
            ("renew the certificate", "/v1/device/certificate")
        } else {
            ("enrol", "/v1/enroll")
        };
        let question = question(doing, "POST", target);
        self.message(question, "the answer to the enrolment", Some(request))
    }

    /// Asks what is desired, and lets the hub hold the question for so long; [`Connection::state`] takes the answer.
    ///
    /// # Errors
    /// [`Error::Connection`].
    pub fn ask_state(&mut self, etag: Option<&str>, hold_s: u32) -> Result<(), Error> {
        let mut fields = String::new();
        if let Some(etag) = etag {
            fields.push_str(&format!("if-none-match: {etag}\r\n"));
        }
        if hold_s > 0 {
            fields.push_str(&format!("prefer: wait={hold_s}\r\n"));
        }
        let request = Request {
            fields: &fields,
            ..STATE
        };
        self.http.send(&request)
    }

    /// The answer, with its tag; none: nothing has changed.
    ///
    /// # Errors
    /// Whatever befalls a question.
    pub fn state(&mut self) -> Result<Option<(State, Option<String>)>, Error> {
        let head = self.http.head(&STATE)?;
        let mut body = Vec::new();
        self.http.body(&STATE, &head, MAX_MESSAGE, &mut |part| {
            body.extend_from_slice(part);
            Ok(())
        })?;
        if head.status == 304 {
            return Ok(None);
        }
        let state = json::read(&body).map_err(|source| Error::Message {
            what: "the state",
            source,
        })?;
        Ok(Some((state, head.etag)))
    }

    /// The head of a bundle, for PID 1 to judge.
    ///
    /// # Errors
    /// Whatever befalls a question.
    pub fn revision(&mut self, id: ObjectId, parameters: u64) -> Result<Vec<u8>, Error> {
        let target = format!("/v1/revisions/{}/head?parameters={parameters}", id.hex());
        let request = question("fetch the revision", "GET", &target);
        let (_, body) = self.http.ask(&request, &[], MAX_HEAD)?;
        Ok(body)
    }

    /// An object's tree.
    ///
    /// # Errors
    /// Whatever befalls a question.
    pub fn tree(&mut self, id: ObjectId, most: u64) -> Result<Vec<u8>, Error> {
        let target = format!("/v1/objects/{}/tree", id.hex());
        let request = question("fetch a tree", "GET", &target);
        let (_, body) = self.http.ask(&request, &[], most)?;
        Ok(body)
    }

    /// Where each of an object's frames begins and the last one ends; none: the hub has no frames of it.
    ///
    /// # Errors
    /// Whatever befalls a question.
    pub fn index(&mut self, id: ObjectId, frames: u64) -> Result<Option<Vec<u64>>, Error> {
        let target = format!("/v1/objects/{}/index", id.hex());
        let doing = "fetch an index";
        let length = frames.saturating_add(1).saturating_mul(8);
        let request = question(doing, "GET", &target);
        let bytes = match self.http.ask(&request, &[], length) {
            Ok((_, bytes)) => bytes,
            Err(Error::Refused { status: 404, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (places, rest) = bytes.as_chunks::<8>();
        let places: Vec<u64> = places
            .iter()
            .map(|place| u64::from_le_bytes(*place))
            .collect();
        let rises = places.is_sorted() && places.first() == Some(&0);
        if !rest.is_empty() || u64::try_from(bytes.len()) != Ok(length) || !rises {
            return Err(Error::Protocol {
                doing,
                what: "no index of the object",
            });
        }
        Ok(Some(places))
    }

    /// An object's bytes, or its frames', from one place to another, in pieces.
    ///
    /// # Errors
    /// Whatever befalls a question, and what `sink` says.
    pub fn object(
        &mut self,
        id: ObjectId,
        what: Form,
        (from, to): (u64, u64),
        sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let frames = match what {
            Form::Plain => "",
            Form::Frames => "/frames",
        };
        let target = format!("/v1/objects/{}{frames}", id.hex());
        let fields = format!("range: bytes={from}-\r\n");
        let doing = "fetch an object";
        let request = Request {
            fields: if from > 0 { &fields } else { "" },
            ..question(doing, "GET", &target)
        };
        self.http.send(&request)?;
        let head: Head = self.http.head(&request)?;
        let left = to.saturating_sub(from);
        let right = if from > 0 { 206 } else { 200 };
        if head.status != right || head.length != Some(left) {
            return Err(Error::Protocol {
                doing,
                what: "another part than was asked for",
            });
        }
        self.http.body(&request, &head, left, sink)
    }

    /// Sends reports; up to which number they are kept.
    ///
    /// # Errors
    /// Whatever befalls a question.
    pub fn report(
        &mut self,
        reports: &[Report],
        usage: Option<&[u8]>,
    ) -> Result<Acknowledged, Error> {
        let request = question("report", "PUT", "/v1/device/report");
        let body = reported(reports, usage);
        self.exchange(request, "the acknowledgement", &body)
    }

    /// Sends lines of a log, at most [`MAX_LOG`] bytes of them.
    ///
    /// # Errors
    /// Whatever befalls a question.
    pub fn logs(&mut self, lines: &[u8]) -> Result<(), Error> {
        let frame = framed(lines);
        let request = Request {
            fields: "content-type: application/zstd\r\n",
            length: u64::try_from(frame.len()).unwrap_or(0),
            ..question("send the log", "POST", "/v1/device/logs")
        };
        self.http.ask(&request, &frame, MAX_MESSAGE).map(drop)
    }
}

const STATE: Request<'static> = question("ask what to run", "GET", "/v1/device/state");

/// A message of reports ([`kedge_api::device::Reports`]), with what containers use in PID 1's words: to read them and to
/// write them again would weigh 5 kB, and a hub judges them anyway.
fn reported(reports: &[Report], usage: Option<&[u8]>) -> Vec<u8> {
    let mut body = b"{\"reports\":".to_vec();
    body.extend_from_slice(&json::bytes(reports));
    if let Some(usage) = usage {
        body.extend_from_slice(b",\"usage\":");
        body.extend_from_slice(usage);
    }
    body.push(b'}');
    body
}

/// Bytes as a zstd frame of one raw block (RFC 8878, 3.1.1): a hub takes zstd, and a compressor would weigh more than logs
/// that are sent on demand are worth. What is beyond [`MAX_LOG`] is left out.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let bytes = bytes.get(..MAX_LOG).unwrap_or(bytes);
    let size = u32::try_from(bytes.len()).unwrap_or(0);
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd];
    // One segment, whose size has four bytes.
    frame.push(0xa0);
    frame.extend_from_slice(&size.to_le_bytes());
    // The last block, raw; three bytes.
    let block = size << 3 | 1;
    frame.extend(block.to_le_bytes().into_iter().take(3));
    frame.extend_from_slice(bytes);
    frame
}

/// Judges a hub's authority, as it came or as it was kept.
///
/// # Errors
/// [`Error::Document`].
pub fn judge_authority(signed: &Signed, root: &Root) -> Result<Authority, Error> {
    let judged = signed
        .signatures()
        .and_then(|signatures| Authority::verify(signed.document.as_bytes(), &signatures, root));
    judged.map_err(|source| Error::Document {
        what: "the hub's authority",
        source,
    })
}

/// Messages of several types through one function: each instance of a generic one would weigh some kilobytes.
mod erased {
    use super::Serialize;

    pub(super) trait Json {
        fn to_json(&self) -> Vec<u8>;
    }

    impl<T: Serialize> Json for T {
        fn to_json(&self) -> Vec<u8> {
            // Plain data in memory.
            kedge_revision::json::bytes(self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_api::device::Reports;

    #[test]
    fn reports_are_the_message_that_hubs_read() {
        let report = r#"{"seq":3,"boot-id":"x","uptime-ms":5,"floor":"1.2","phase":{"name":"idle"},"stale":false,"containers":[],"action":0}"#;
        let made: Report = json::read(report.as_bytes()).unwrap();
        let usage = r#"{"uptime-ms":5,"containers":[{"name":"web","cpu-us":7}]}"#;
        let text = reported(&[made.clone(), made.clone()], Some(usage.as_bytes()));
        let expected = format!(r#"{{"reports":[{report},{report}],"usage":{usage}}}"#);
        assert_eq!(String::from_utf8(text.clone()).unwrap(), expected);
        let read: Reports = serde_json::from_slice(&text).unwrap();
        assert_eq!(read.reports, [made.clone(), made]);
        assert_eq!(read.usage.unwrap().containers[0].name, "web");
        let read: Reports = serde_json::from_slice(&reported(&[], None)).unwrap();
        assert!(read.reports.is_empty() && read.usage.is_none());
    }

    #[test]
    fn a_log_is_a_frame_of_zstd() {
        for length in [0, 1, 300, 70_000, MAX_LOG] {
            let bytes: Vec<u8> = (0..=250).cycle().take(length).collect();
            let read = zstd::decode_all(framed(&bytes).as_slice()).unwrap();
            assert_eq!(read, bytes, "{length} bytes");
        }
        let long = zstd::decode_all(framed(&vec![1; MAX_LOG + 1]).as_slice()).unwrap();
        assert_eq!(long.len(), MAX_LOG);
    }

    #[test]
    fn addresses() {
        let parsed = |url: &str| Address::parse(url).map(|a| (a.host, a.port)).ok();
        let is = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(parsed("https://hub.example"), is("hub.example", 443));
        assert_eq!(parsed("https://10.0.2.2:8443/"), is("10.0.2.2", 8443));
        assert_eq!(parsed("https://[fd00::1]:9"), is("fd00::1", 9));
        for bad in [
            "http://hub",
            "https://",
            "https://hub:x",
            "https://hub/path",
            "https://[::1",
        ] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
