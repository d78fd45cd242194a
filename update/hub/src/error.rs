//! What can go wrong in the hub itself, and how a request is refused.

use axum::http::StatusCode;
use std::borrow::Cow;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// An error of the hub, not of whoever asked it.
#[derive(Debug)]
pub enum Error {
    /// An operation on a file failed.
    File {
        /// What was done.
        doing: &'static str,
        /// To which path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that the hub keeps is not what it was.
    Spoilt {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// Another hub runs on the same data.
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// SQLite refused.
    Database(rusqlite::Error),
    /// The database was written by a newer hub.
    NewerDatabase {
        /// Version of its schema.
        found: u32,
        /// Newest that this hub knows.
        known: u32,
    },
    /// The database was written by an older hub, which may run.
    OlderDatabase {
        /// Version of its schema.
        found: u32,
        /// The one that this program knows.
        known: u32,
    },
    /// A certificate could not be made.
    Certificate(rcgen::Error),
    /// TLS could not be set up.
    Tls(rustls::Error),
    /// A document could not be made or read.
    Document(kedge_revision::Error),
    /// A row holds JSON that is none.
    Row(serde_json::Error),
    /// The store refused.
    Store(kedge_store::Error),
    /// The kernel gave no random bytes.
    Random(getrandom::Error),
    /// A token could not be hashed.
    Hash(argon2::Error),
    /// The address could not be listened on.
    Listen {
        /// Which.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The first operator's token could not be kept.
    FirstToken {
        /// Why, as a request would be told.
        why: String,
    },
    /// The hub is stopping.
    Stopping,
}

impl Error {
    /// For `map_err` on I/O.
    pub(crate) fn file<'a>(
        doing: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(std::io::Error) -> Self + 'a {
        move |source| Self::File {
            doing,
            path: path.to_path_buf(),
            source,
        }
    }

    /// Whether it says that the disk is full.
    fn is_disk_full(&self) -> bool {
        match self {
            Self::File { source, .. } => full(source),
            Self::Database(error) => {
                error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            Self::Store(kedge_store::Error::File { source, .. }) => full(source),
            Self::Store(kedge_store::Error::NoSpace { .. }) => true,
            Self::Store(_)
            | Self::Spoilt { .. }
            | Self::InUse { .. }
            | Self::NewerDatabase { .. }
            | Self::OlderDatabase { .. }
            | Self::Certificate(_)
            | Self::Tls(_)
            | Self::Document(_)
            | Self::Row(_)
            | Self::Random(_)
            | Self::Hash(_)
            | Self::Listen { .. }
            | Self::FirstToken { .. }
            | Self::Stopping => false,
        }
    }
}

fn full(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { doing, path, .. } => write!(f, "cannot {doing} {}", path.display()),
            Self::Spoilt { path, why } => write!(f, "{} {why}", path.display()),
            Self::InUse { path } => {
                write!(f, "another hub runs on {}", path.display())
            }
            Self::Database(_) => f.write_str("the database refused"),
            Self::NewerDatabase { found, known } => write!(
                f,
                "the database has version {found}, and this hub knows versions up to {known}: it was written by a \
                 newer hub; run that one, or restore a backup that this one wrote"
            ),
            Self::OlderDatabase { found, known } => write!(
                f,
                "the database has version {found}, and this program works on version {known}: use the `kedge-hub` that \
                 serves it, or let this one serve it first"
            ),
            Self::Certificate(_) => f.write_str("cannot make a certificate"),
            Self::Tls(_) => f.write_str("cannot set up TLS"),
            Self::Document(error) => error.fmt(f),
            Self::Row(_) => f.write_str("a row of the database is not what it was"),
            Self::Store(error) => error.fmt(f),
            Self::Random(_) => f.write_str("the kernel gives no random bytes"),
            Self::Hash(_) => f.write_str("cannot hash a token"),
            Self::Listen { address, .. } => write!(f, "cannot listen on {address}"),
            Self::FirstToken { why } => write!(f, "cannot keep the first operator's token: {why}"),
            Self::Stopping => f.write_str("the hub is stopping"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { source, .. } | Self::Listen { source, .. } => Some(source),
            Self::Database(source) => Some(source),
            Self::Certificate(source) => Some(source),
            Self::Tls(source) => Some(source),
            Self::Row(source) => Some(source),
            // Their own texts are told instead.
            Self::Document(_)
            | Self::Store(_)
            | Self::Random(_)
            | Self::Hash(_)
            | Self::Spoilt { .. }
            | Self::InUse { .. }
            | Self::NewerDatabase { .. }
            | Self::OlderDatabase { .. }
            | Self::FirstToken { .. }
            | Self::Stopping => None,
        }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<kedge_store::Error> for Error {
    fn from(error: kedge_store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<kedge_revision::Error> for Error {
    fn from(error: kedge_revision::Error) -> Self {
        Self::Document(error)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Row(error)
    }
}

/// A request that is not fulfilled: becomes a [`kedge_api::Problem`].
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) kind: &'static str,
    pub(crate) detail: Cow<'static, str>,
    /// When to ask again, seconds.
    pub(crate) retry_after_s: Option<u32>,
}

impl Refusal {
    pub(crate) fn new(
        status: StatusCode,
        kind: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            kind,
            detail: detail.into(),
            retry_after_s: None,
        }
    }

    pub(crate) fn bad(kind: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, kind, detail)
    }

    pub(crate) fn forbidden(kind: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, kind, detail)
    }

    pub(crate) fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", detail)
    }

    pub(crate) fn conflict(kind: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, kind, detail)
    }

    pub(crate) fn too_large(cap: usize) -> Self {
        let detail = format!("the body is over {cap} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
    }

    pub(crate) fn busy(retry_after_s: u32, detail: &'static str) -> Self {
        let mut refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-requests", detail);
        refusal.retry_after_s = Some(retry_after_s);
        refusal
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        if error.is_disk_full() {
            log::error!("{error}: the disk is full");
            let detail =
                "the hub's disk is full; what it had acknowledged is kept. Make room and ask again";
            return Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk-full", detail);
        }
        if matches!(error, Error::Stopping) {
            let mut refusal = Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "stopping",
                "the hub is stopping; ask again",
            );
            refusal.retry_after_s = Some(2);
            return refusal;
        }
        // What is in it is the operator's own business, not the asker's.
        log::error!("{}", Chain(&error));
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the hub failed; its log says why",
        )
    }
}

impl From<kedge_store::Error> for Refusal {
    fn from(error: kedge_store::Error) -> Self {
        Error::Store(error).into()
    }
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Error::Database(error).into()
    }
}

impl From<serde_json::Error> for Refusal {
    fn from(error: serde_json::Error) -> Self {
        Error::Row(error).into()
    }
}

/// An error with everything that caused it, on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_as_such_and_nothing_else_of_it_is() {
        let error = Error::file("write", Path::new("/secret/place"))(ErrorKind::StorageFull.into());
        let refusal = Refusal::from(error);
        assert_eq!(refusal.status, StatusCode::INSUFFICIENT_STORAGE);
        let error = Error::file("write", Path::new("/secret/place"))(ErrorKind::NotFound.into());
        let refusal = Refusal::from(error);
        assert_eq!(refusal.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!refusal.detail.contains("secret"));
    }
}
