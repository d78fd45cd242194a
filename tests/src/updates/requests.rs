//! Requests as a device reads them, and its answers.

use anyhow::{Context, Result};
use std::io::{BufRead, Write};
use std::os::unix::net::UnixStream;

/// A request without its body.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// The first line without the version.
    pub(super) line: String,
    pub(super) method: String,
    pub(super) path: String,
    query: String,
    id: String,
    /// Bytes of the body.
    pub(super) length: u64,
}

impl Asked {
    /// The next request; `None` once the client has gone.
    pub(super) fn read(reader: &mut impl BufRead) -> Result<Option<Self>> {
        let mut asked = Self::default();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end();
            if line.is_empty() && asked.line.is_empty() {
                continue;
            }
            if line.is_empty() {
                return Ok(Some(asked));
            }
            if asked.line.is_empty() {
                let line = line.strip_suffix(" HTTP/1.1").context("not HTTP/1.1")?;
                let (method, target) = line.split_once(' ').context("no target")?;
                let (path, query) = target.split_once('?').unwrap_or((target, ""));
                asked.line = line.to_owned();
                asked.method = method.to_owned();
                asked.path = path.to_owned();
                asked.query = query.to_owned();
            } else if let Some(id) = line.strip_prefix("x-request-id: ") {
                asked.id = id.to_owned();
            } else if let Some(length) = line.strip_prefix("content-length: ") {
                asked.length = length.parse().context("no length")?;
            }
        }
    }

    /// The value of a key of the query; empty if it is not there.
    pub(super) fn word(&self, key: &str) -> String {
        let mut pairs = self
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        let found = pairs.find(|(name, _)| *name == key);
        found.map_or_else(String::new, |(_, value)| value.to_owned())
    }

    /// The same as a number; what is none is far from any that is right.
    pub(super) fn number(&self, key: &str) -> u64 {
        self.word(key).parse().unwrap_or(u64::MAX)
    }

    /// Answers.
    pub(super) fn answer(&self, mut stream: &UnixStream, status: u16, body: &str) -> Result<()> {
        let body = if status == 204 { "" } else { body };
        write!(
            stream,
            "HTTP/1.1 {status} x\r\nx-request-id: {}\r\ncontent-length: {}\r\n\r\n{body}",
            self.id,
            body.len()
        )?;
        Ok(())
    }
}
