//! What can go wrong in the agent.

use core::fmt;
use std::io;
use std::path::PathBuf;

/// Whom the agent talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A hub.
    Hub,
    /// Whoever answers before TLS is judged.
    Stranger,
    /// PID 1.
    Init,
}

/// See the module. None of them ends the agent but [`Error::Socket`]: the next question comes after a while.
#[derive(Debug)]
pub enum Error {
    /// The socket to PID 1.
    Socket(kedge_sys::Error),
    /// PID 1's control interface.
    Control {
        /// What was asked.
        doing: &'static str,
        /// Why there is no answer.
        source: io::Error,
    },
    /// A hub cannot be reached.
    Connect {
        /// Its host and port.
        hub: String,
        /// Why.
        source: io::Error,
    },
    /// The connection to a hub broke, or was too slow.
    Connection {
        /// What was asked.
        doing: &'static str,
        /// How.
        source: io::Error,
    },
    /// An address of a hub is none.
    Address {
        /// As it was given.
        url: String,
    },
    /// TLS could not be set up.
    Tls(rustls::Error),
    /// An answer is not HTTP, or over its bounds.
    Protocol {
        /// What was asked.
        doing: &'static str,
        /// What of the answer.
        what: &'static str,
    },
    /// A hub or PID 1 refused.
    Refused {
        /// Who.
        by: Peer,
        /// What was asked.
        doing: &'static str,
        /// The status.
        status: u16,
        /// The kind of problem, a word; may be empty.
        kind: String,
        /// In words.
        detail: String,
        /// When to ask again, seconds, if it said so.
        retry_after: Option<u32>,
    },
    /// A document of the hub's was not believed.
    Document {
        /// Which.
        what: &'static str,
        /// Why.
        source: kedge_revision::Error,
    },
    /// A message of the hub's is not what it should be.
    Message {
        /// Which.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// A file that is kept.
    Kept {
        /// What was done.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is kept cannot be written.
    Store(kedge_store::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(source) => write!(f, "socket to PID 1: {source}"),
            Self::Control { doing, source } => write!(f, "PID 1: {doing}: {source}"),
            Self::Connect { hub, source } => write!(f, "cannot reach {hub}: {source}"),
            Self::Connection { doing, source } => write!(f, "{doing}: {source}"),
            Self::Address { url } => write!(f, "{url} is no address of a hub"),
            Self::Tls(source) => write!(f, "TLS: {source}"),
            Self::Protocol { doing, what } => write!(f, "{doing}: malformed answer: {what}"),
            Self::Refused {
                doing,
                status,
                detail,
                ..
            } => write!(f, "{doing}: {detail} ({status})"),
            Self::Document { what, source } => write!(f, "{what} is not believed: {source}"),
            Self::Message { what, source } => write!(f, "{what} is malformed: {source}"),
            Self::Kept {
                doing,
                path,
                source,
            } => write!(f, "cannot {doing} {}: {source}", path.display()),
            Self::Store(source) => source.fmt(f),
        }
    }
}

impl core::error::Error for Error {}

impl Error {
    /// Whether the hub itself has spoken, which shows that it is reached: any answer over mutual TLS does.
    #[must_use]
    pub const fn is_answer(&self) -> bool {
        matches!(self, Self::Refused { by: Peer::Hub, .. })
    }

    /// Whether it is trouble of the device's own, which no other hub would mend.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        matches!(
            self,
            Self::Control { .. }
                | Self::Kept { .. }
                | Self::Store(_)
                | Self::Refused { by: Peer::Init, .. }
        )
    }

    /// The status of a refusal.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        if let Self::Refused { status, .. } = self {
            Some(*status)
        } else {
            None
        }
    }

    /// When to ask again, if a hub or PID 1 told it. A stranger's word is worth nothing: anybody on the way could
    /// silence a device for a day.
    #[must_use]
    pub const fn retry_after(&self) -> Option<u32> {
        if let Self::Refused {
            by: Peer::Hub | Peer::Init,
            retry_after,
            ..
        } = self
        {
            *retry_after
        } else {
            None
        }
    }
}
