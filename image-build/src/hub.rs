//! The client of a hub: what an operator's verbs ask, over HTTPS.
//!
//! A hub has its own certificate authority, which `kedge login` pins: connections are judged by it alone, never by the
//! machine's list of authorities. Only the very first question, what the hub is, is asked of whoever answers, and asked
//! again under the pin. No HTTP crate: one request a connection is all that a command needs, and `crate::http` reads
//! answers already. TLS is rustls with ring.

mod address;
mod connection;
pub mod publish;
pub mod settings;
pub mod tls;

pub use address::Address;
pub use connection::{Body, Ended, Refused};
pub use settings::{Known, Settings};

use crate::http::{Lines, keep};
use anyhow::{Context, Result};
use connection::Question;
use kedge_api::operator::{Hub, Page};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Write;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Largest answer that is kept: a hundred thousand devices that an assignment refuses, each with its reason, have some 20 MB.
const LARGEST: usize = 64 * 1024 * 1024;
/// Items of a page: as many as a hub gives at most.
const PAGE: u32 = 1000;
/// Most pages of a list: a list that never ends is a hub's mistake.
const PAGES: u32 = 10_000;

/// A hub that can be asked.
#[derive(Clone)]
pub struct Client {
    address: Address,
    tls: Arc<rustls::ClientConfig>,
    token: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.address)
    }
}

impl Client {
    /// A client that takes whoever answers: for the first question alone, since it sends no token.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn unjudged(address: Address) -> Result<Self> {
        Ok(Self {
            address,
            tls: tls::unjudged()?,
            token: None,
        })
    }

    /// A client that talks to the holder of this authority and to nobody else.
    ///
    /// # Errors
    /// The authority is no certificate.
    pub fn judged(
        address: Address,
        authority: &[u8],
        token: Option<Zeroizing<String>>,
    ) -> Result<Self> {
        Ok(Self {
            address,
            tls: tls::judged(authority)?,
            token,
        })
    }

    /// The client of a hub that `kedge login` made known.
    ///
    /// # Errors
    /// What is kept of it is spoilt.
    pub fn of(known: &Known) -> Result<Self> {
        let token = Some(known.token.clone());
        Self::judged(known.url.parse()?, &known.authority()?, token)
    }

    /// Where the hub is.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// What the hub says of itself.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn hub(&self) -> Result<Hub> {
        self.get("/v1/hub")
    }

    /// One object.
    ///
    /// # Errors
    /// Nobody answers, or not as a hub does; [`Refused`].
    pub fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T> {
        parsed(&self.whole(Question::new("GET", target))?)
    }

    /// A whole list, page by page. `query` is what stands behind `?`, already escaped.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn list<T: DeserializeOwned>(&self, path: &str, query: &str) -> Result<Vec<T>> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES {
            let mut target = format!("{path}?limit={PAGE}");
            if !query.is_empty() {
                target.push('&');
                target.push_str(query);
            }
            if let Some(cursor) = &cursor {
                target.push_str("&cursor=");
                target.push_str(&escaped(cursor));
            }
            let page: Page<T> = self.get(&target)?;
            items.extend(page.items);
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(items);
            }
        }
        anyhow::bail!("the hub's list has no end")
    }

    /// Sends an object, and reads one.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn send<T: DeserializeOwned>(
        &self,
        method: &str,
        target: &str,
        object: &impl Serialize,
    ) -> Result<T> {
        parsed(&self.change(method, target, object)?)
    }

    /// Sends an object; what comes back says nothing.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn tell(&self, method: &str, target: &str, object: &impl Serialize) -> Result<()> {
        self.change(method, target, object).map(drop)
    }

    /// A request that changes something and has no body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn command(&self, method: &str, target: &str) -> Result<()> {
        self.whole(Question::new(method, target)).map(drop)
    }

    /// Sends bytes that are kept in memory, and reads an object.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn send_bytes<T: DeserializeOwned>(&self, target: &str, bytes: &[u8]) -> Result<T> {
        let length = u64::try_from(bytes.len()).context("a body is too large")?;
        let mut reader = bytes;
        self.upload(target, length, &mut reader, &mut |_| {})
    }

    /// Sends `length` bytes of a reader, and reads an object. `progress` is told of bytes that were handed to the system.
    ///
    /// # Errors
    /// As [`Client::get`]; or the body cannot be read.
    pub fn upload<T: DeserializeOwned>(
        &self,
        target: &str,
        length: u64,
        reader: &mut dyn std::io::Read,
        progress: &mut dyn FnMut(u64),
    ) -> Result<T> {
        let mut question = Question::new("POST", target);
        question.body = Some(Body {
            kind: "application/octet-stream",
            length,
            reader,
            progress,
        });
        parsed(&self.whole(question)?)
    }

    /// The lines of an answer, as they come. With `endless`, the hub may keep silent for ever between two.
    ///
    /// # Errors
    /// As [`Client::get`]; or whatever `take` says. [`Ended`]: the answer was `endless`, and the hub ended it.
    pub fn lines(
        &self,
        target: &str,
        endless: bool,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut question = Question::new("GET", target);
        question.endless = endless;
        let mut lines = Lines::default();
        self.exchange(question, &mut |piece| {
            lines.take(piece, take)?;
            Ok(true)
        })?;
        match lines.rest() {
            [] => Ok(()),
            rest => take(rest),
        }
    }

    fn change(&self, method: &str, target: &str, object: &impl Serialize) -> Result<Vec<u8>> {
        // The bytes may hold values of parameters.
        let bytes = Zeroizing::new(serde_json::to_vec(object).context("cannot write the request")?);
        let length = u64::try_from(bytes.len()).context("the request is too large")?;
        let mut question = Question::new(method, target);
        let (mut reader, mut nobody) = (bytes.as_slice(), |_| {});
        question.body = Some(Body {
            kind: "application/json",
            length,
            reader: &mut reader,
            progress: &mut nobody,
        });
        self.whole(question)
    }

    fn whole(&self, question: Question<'_>) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.exchange(question, &mut keep(&mut bytes, LARGEST))?;
        Ok(bytes)
    }

    fn exchange(&self, question: Question<'_>, take: &mut crate::http::Take<'_>) -> Result<()> {
        connection::exchange(
            &self.address,
            &self.tls,
            self.token.as_deref(),
            question,
            take,
        )
    }
}

fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .context("the hub's answer is not understood: it may be of another version than this kedge")
}

/// A text as a part of a path or query (RFC 3986, section 2.3: what is unreserved stays).
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else {
            // A String takes everything.
            write!(escaped, "%{byte:02X}").ok();
        }
    }
    escaped
}

/// Bytes of a hexadecimal text.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| {
            let digits = std::str::from_utf8(pair).ok()?;
            let good = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            u8::from_str_radix(digits, 16).ok().filter(|_| good)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped_and_hexadecimal_is_strict() {
        assert_eq!(
            escaped("tag:site=berlin and x"),
            "tag%3Asite%3Dberlin%20and%20x"
        );
        assert_eq!(unhex("00ff"), Some(vec![0, 255]));
        for bad in ["0", "0g", "+1", "0 "] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }
}
