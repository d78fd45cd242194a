//! Why a request is refused, and how that is written (RFC 9457, problem details).

use core::fmt;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The request is malformed: what exactly.
    Malformed(&'static str),
    /// The peer's role does not allow it.
    Forbidden,
    /// Commands are run in development products, or for whoever has the role for it.
    Production,
    /// There is no such thing: what exactly.
    NotFound(&'static str),
    /// The resource takes another method.
    Method,
    /// It cannot be done in the present state: why.
    Conflict(&'static str),
    /// The body is over its bound.
    BodyTooLarge,
    /// The head is over its bound.
    HeadTooLarge,
    /// Not HTTP/1.1.
    Version,
    /// A container holds updates back.
    Locked,
    /// It cannot be done now: why.
    Unavailable(&'static str),
}

impl Refusal {
    /// The status code (RFC 9110; 423: RFC 4918, 431: RFC 6585).
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::Forbidden | Self::Production => 403,
            Self::NotFound(_) => 404,
            Self::Method => 405,
            Self::Conflict(_) => 409,
            Self::BodyTooLarge => 413,
            Self::Locked => 423,
            Self::HeadTooLarge => 431,
            Self::Unavailable(_) => 503,
            Self::Version => 505,
        }
    }

    /// The words for the status code.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Malformed(_) => "Bad Request",
            Self::Forbidden | Self::Production => "Forbidden",
            Self::NotFound(_) => "Not Found",
            Self::Method => "Method Not Allowed",
            Self::Conflict(_) => "Conflict",
            Self::BodyTooLarge => "Content Too Large",
            Self::Locked => "Locked",
            Self::HeadTooLarge => "Request Header Fields Too Large",
            Self::Unavailable(_) => "Service Unavailable",
            Self::Version => "HTTP Version Not Supported",
        }
    }

    /// What exactly is wrong.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::Malformed(detail)
            | Self::NotFound(detail)
            | Self::Conflict(detail)
            | Self::Unavailable(detail) => detail,
            Self::Forbidden => "the role of this socket does not allow it",
            Self::Production => {
                "a production device runs no commands but for a container with the role exec"
            }
            Self::Locked => "a container holds updates back",
            Self::Method => "this takes another method",
            Self::BodyTooLarge => "the body is over 4096 bytes",
            Self::HeadTooLarge => "the head is over 4096 bytes",
            Self::Version => "only HTTP/1.1 is spoken here",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail())
    }
}

impl core::error::Error for Refusal {}

/// A refusal as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem<'a> {
    /// The status code.
    pub status: u16,
    /// Its words.
    #[serde(borrow)]
    pub title: Cow<'a, str>,
    /// What exactly is wrong.
    #[serde(borrow)]
    pub detail: Cow<'a, str>,
}

impl From<Refusal> for Problem<'static> {
    fn from(refusal: Refusal) -> Self {
        Self {
            status: refusal.status(),
            title: refusal.title().into(),
            detail: refusal.detail().into(),
        }
    }
}
