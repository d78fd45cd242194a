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

/// Longest detail, bytes. A parser's may repeat what it was given, and a frame has a bound.
const MOST_DETAIL: usize = 1024;

impl Refused {
    pub(super) fn new(status: u16, detail: impl Display) -> Self {
        let mut detail = detail.to_string();
        detail.truncate(detail.floor_char_boundary(MOST_DETAIL));
        Self { status, detail }
    }

    /// With what is behind it. Not by `Error::source`, which takes every error's `Debug` along, 3 kB of code.
    fn because(status: u16, error: &dyn Display, source: &dyn Display) -> Self {
        Self::new(status, format_args!("{error}: {source}"))
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
        kedge_revision::json::bytes(&problem)
    }
}

impl From<kedge_revision::Error> for Refused {
    #[cold]
    #[inline(never)]
    fn from(error: kedge_revision::Error) -> Self {
        if let kedge_revision::Error::Json { source, .. } = &error {
            Self::because(409, &error, source)
        } else {
            Self::conflict(error)
        }
    }
}

impl From<crate::helpers::Error> for Refused {
    #[cold]
    #[inline(never)]
    fn from(error: crate::helpers::Error) -> Self {
        use crate::helpers::Error;
        if let Error::File { source, .. } = &error {
            Self::because(500, &error, source)
        } else if let Error::Slot(source) = &error {
            Self::because(500, &error, source)
        } else {
            Self::new(500, error)
        }
    }
}

impl From<kedge_store::Error> for Refused {
    #[cold]
    #[inline(never)]
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
    fn a_detail_has_a_bound() {
        let refused = Refused::new(409, "ö".repeat(5000));
        assert_eq!(refused.detail, "ö".repeat(512));
        assert_eq!(Refused::new(409, "short").detail, "short");
    }

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
