//! Why a body is refused, as HTTP tells it.

use crate::control::Problem;
use core::fmt::Display;
use std::io::ErrorKind;

/// A refusal: its status, and what exactly is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: u16,
    pub(super) detail: String,
}

impl Refused {
    pub(super) fn new(status: u16, detail: impl Display) -> Self {
        Self {
            status,
            detail: detail.to_string(),
        }
    }

    /// It contradicts what the device is, or has.
    pub(super) fn conflict(detail: impl Display) -> Self {
        Self::new(409, detail)
    }

    /// As JSON (RFC 9457).
    pub(super) fn json(&self) -> Vec<u8> {
        let title = match self.status {
            400 => "Bad Request",
            409 => "Conflict",
            413 => "Content Too Large",
            503 => "Service Unavailable",
            507 => "Insufficient Storage",
            _ => "Internal Server Error",
        };
        let problem = Problem {
            status: self.status,
            title: title.into(),
            detail: self.detail.as_str().into(),
        };
        serde_json::to_vec(&problem).unwrap_or_default()
    }
}

impl From<kedge_revision::Error> for Refused {
    fn from(error: kedge_revision::Error) -> Self {
        let detail = match core::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        Self::conflict(detail)
    }
}

impl From<kedge_store::Error> for Refused {
    fn from(error: kedge_store::Error) -> Self {
        use kedge_store::Error;
        let status = match &error {
            Error::NoSpace { .. } => 507,
            Error::File { source, .. } if source.kind() == ErrorKind::StorageFull => 507,
            Error::File { .. } | Error::Seal { .. } => 500,
            Error::Damaged { .. }
            | Error::TooLong { .. }
            | Error::Offset { .. }
            | Error::Incomplete { .. } => 409,
        };
        Self::new(status, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_has_a_status_of_its_own() {
        let full = kedge_store::Error::NoSpace {
            needed: 10,
            free: 3,
        };
        let refused = Refused::from(full);
        assert_eq!(refused.status, 507);
        assert_eq!(
            String::from_utf8(refused.json()).unwrap(),
            r#"{"status":507,"title":"Insufficient Storage","detail":"needs 10 bytes and 3 are free: 7 are missing"}"#
        );
        let full = |kind: ErrorKind| {
            Refused::from(kedge_store::Error::File {
                doing: "write",
                path: "x".into(),
                source: kind.into(),
            })
        };
        assert_eq!(full(ErrorKind::StorageFull).status, 507);
        assert_eq!(full(ErrorKind::PermissionDenied).status, 500);
    }
}
