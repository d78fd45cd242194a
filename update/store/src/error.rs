//! What can go wrong in the store; callers choose "retry" or "give up" by variant.

use kedge_revision::ObjectId;
use kedge_sys::verity::VerityError;
use std::fmt;
use std::path::{Path, PathBuf};

/// An error of the store.
#[derive(Debug)]
pub enum Error {
    /// An operation on a file or directory failed.
    File {
        /// What was done, as `open` or `sync`.
        doing: &'static str,
        /// To which path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no room. Nothing was changed.
    NoSpace {
        /// What is needed, bytes, with the file system's own overhead.
        needed: u64,
        /// What is free for it, bytes, after the reserve.
        free: u64,
    },
    /// Bytes that arrived are not the object's. They were not kept.
    Damaged {
        /// Why.
        source: kedge_revision::Error,
    },
    /// More bytes arrived than the object has.
    TooLong {
        /// The object.
        id: ObjectId,
        /// Its size, bytes.
        size: u64,
    },
    /// Bytes come from another place on than where the object goes on.
    Offset {
        /// The object.
        id: ObjectId,
        /// Where they come from, bytes.
        offset: u64,
        /// Where it goes on, bytes.
        done: u64,
    },
    /// The object is not complete yet.
    Incomplete {
        /// The object.
        id: ObjectId,
        /// Bytes that are still missing.
        missing: u64,
    },
    /// The kernel would not seal the object's file, or sealed it with another digest.
    Seal {
        /// The object.
        id: ObjectId,
        /// What the kernel said; absent if the digests differ.
        source: Option<VerityError>,
    },
}

impl Error {
    /// For `map_err` on I/O.
    pub(crate) fn file<'a>(
        doing: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(std::io::Error) -> Self + 'a {
        move |source| Self::of_file(doing, path, source)
    }

    /// Not inlined: there are many callers, and each would carry the copy of the path.
    #[cold]
    #[inline(never)]
    fn of_file(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::File {
            doing,
            path: path.to_path_buf(),
            source,
        }
    }

    /// Bytes by which the disk is too small, for the variants that say so.
    #[must_use]
    pub const fn missing_bytes(&self) -> Option<u64> {
        match self {
            Self::NoSpace { needed, free } => Some(needed.saturating_sub(*free)),
            Self::File { .. }
            | Self::Damaged { .. }
            | Self::TooLong { .. }
            | Self::Offset { .. }
            | Self::Incomplete { .. }
            | Self::Seal { .. } => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File {
                doing,
                path,
                source,
            } => write!(f, "{doing} {}: {source}", path.display()),
            Self::NoSpace { needed, free } => write!(
                f,
                "needs {needed} bytes and {free} are free: {} are missing",
                needed.saturating_sub(*free)
            ),
            Self::Damaged { source } => source.fmt(f),
            Self::TooLong { id, size } => {
                write!(f, "more than the {size} bytes of object {id} arrived")
            }
            Self::Offset { id, offset, done } => {
                write!(f, "object {id} goes on at byte {done}, not {offset}")
            }
            Self::Incomplete { id, missing } => {
                write!(f, "object {id} still lacks {missing} bytes")
            }
            Self::Seal {
                id,
                source: Some(source),
            } => write!(f, "sealing object {id}: {source}"),
            Self::Seal { id, source: None } => {
                write!(f, "object {id} was sealed with another digest")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source),
            Self::Damaged { source } => Some(source),
            Self::Seal {
                source: Some(source),
                ..
            } => Some(source),
            Self::NoSpace { .. }
            | Self::TooLong { .. }
            | Self::Offset { .. }
            | Self::Incomplete { .. }
            | Self::Seal { source: None, .. } => None,
        }
    }
}
