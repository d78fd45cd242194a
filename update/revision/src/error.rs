//! The one error type of this crate: a variant for each thing that can be wrong with a document.

use crate::bundle;
use crate::id::{KeyId, ObjectId};
use crate::order::{Floor, Order};
use core::fmt;
use std::borrow::Cow;

/// Most letters that are shown of what is wrong.
const MOST_SHOWN: usize = 64;

/// Why bytes were refused. Each variant names the thing, so that a report can name it too.
#[derive(Debug)]
pub enum Error {
    /// The document is larger than its kind may be.
    TooLarge {
        /// The kind of document: `root`, `revision`, `fresh`, …
        kind: &'static str,
        /// Its size, bytes.
        size: usize,
        /// The cap, bytes.
        cap: usize,
    },
    /// The document is no JSON of its kind (unknown field, wrong type, float, cut short).
    Json {
        /// The kind of document.
        kind: &'static str,
        /// What the parser says, with line and column.
        source: serde_json::Error,
    },
    /// The bytes parse but are not in canonical form (white space, field order, a repeated key, a null).
    NotCanonical {
        /// The kind of document.
        kind: &'static str,
        /// Offset of the first byte that differs.
        offset: usize,
    },
    /// The `spec` field names another format or version.
    Spec {
        /// What this code reads.
        expected: &'static str,
        /// What the document says.
        found: String,
    },
    /// A value is out of its bounds.
    Invalid {
        /// Path of the field, as in `containers.web.limits.memory-max`.
        field: String,
        /// What is wrong with it.
        why: Cow<'static, str>,
    },
    /// Fewer distinct, known keys signed than the role asks for.
    Threshold {
        /// The role: `root`, `release` or `hub`.
        role: &'static str,
        /// How many valid signatures of the role's keys there were.
        valid: u32,
        /// How many are needed.
        threshold: u32,
    },
    /// A key that the role knows made a signature that does not verify.
    BadSignature {
        /// The key.
        key: KeyId,
    },
    /// A public key is not a valid ed25519 point, or is weak, or its id is not its digest.
    BadKey {
        /// The id under which it stands.
        key: String,
    },
    /// A root document does not follow the one that is trusted.
    RootVersion {
        /// The version that would be accepted.
        expected: u32,
        /// The version found.
        found: u32,
    },
    /// The revision is made for another product.
    Product {
        /// This device's product.
        expected: String,
        /// The revision's.
        found: String,
    },
    /// The revision is made for another board.
    Board {
        /// This device's board.
        expected: String,
        /// The revision's.
        found: String,
    },
    /// The revision is below the device's floor and will never run again.
    BelowFloor {
        /// The device's floor.
        floor: Floor,
        /// The revision's place.
        found: Order,
    },
    /// The running software lacks something that the revision needs.
    Feature {
        /// The word from `requires` or `requires-updater`.
        word: String,
    },
    /// Among a revision's kernel arguments is a word that only a loader, or a slot, may say.
    LoadersWord {
        /// The word.
        word: String,
    },
    /// An object that a container, the boot entry or a revision names is not listed in `objects`.
    UnlistedObject {
        /// Where it is named.
        field: String,
        /// The object.
        id: ObjectId,
    },
    /// Bytes do not have the digest by which they are named.
    Digest {
        /// The id asked for.
        expected: ObjectId,
        /// What the bytes have.
        found: ObjectId,
    },
    /// A Merkle tree does not belong to the object's id and size.
    Tree {
        /// The object.
        id: ObjectId,
    },
    /// A block of an object is not what its tree says.
    Block {
        /// The object.
        id: ObjectId,
        /// Number of the 4 KiB block.
        block: u64,
    },
    /// A bundle differs from its form: how.
    Bundle(bundle::Fault),
}

impl Error {
    /// Shorthand for [`Error::Invalid`].
    pub(crate) fn invalid(field: impl Into<String>, why: &'static str) -> Self {
        Self::Invalid {
            field: field.into(),
            why: Cow::Borrowed(why),
        }
    }

    /// As [`Error::invalid`], where one thing of several is wrong: the words begin with it, in quotes, and cut short.
    pub(crate) fn invalid_one(field: impl Into<String>, which: &str, why: &str) -> Self {
        let shown: String = which.escape_debug().take(MOST_SHOWN).collect();
        Self::Invalid {
            field: field.into(),
            why: Cow::Owned(format!("`{shown}` {why}")),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { kind, size, cap } => {
                write!(f, "{kind} of {size} bytes is over the cap of {cap}")
            }
            Self::Json { kind, .. } => write!(f, "{kind} is not a valid document"),
            Self::NotCanonical { kind, offset } => {
                write!(f, "{kind} is not in canonical form from byte {offset} on")
            }
            Self::Spec { expected, found } => {
                write!(f, "spec is {found:?}, this software reads {expected:?}")
            }
            Self::Invalid { field, why } => write!(f, "{field}: {why}"),
            Self::Threshold {
                role,
                valid,
                threshold,
            } => write!(
                f,
                "{valid} valid signatures of {role} keys, {threshold} are needed"
            ),
            Self::BadSignature { key } => write!(f, "signature of key {key} does not verify"),
            Self::BadKey { key } => write!(f, "key {key} is not a usable ed25519 key"),
            Self::RootVersion { expected, found } => {
                write!(
                    f,
                    "root version {found} does not follow, expected {expected}"
                )
            }
            Self::Product { expected, found } => {
                write!(f, "made for product {found:?}, this device is {expected:?}")
            }
            Self::Board { expected, found } => {
                write!(f, "made for board {found:?}, this device is {expected:?}")
            }
            Self::BelowFloor { floor, found } => {
                write!(f, "revision {found} is below the device's floor {floor}")
            }
            Self::Feature { word } => write!(f, "needs {word:?}, which this software lacks"),
            Self::LoadersWord { word } => {
                write!(f, "boot.arguments: {word:?} is for loaders to say")
            }
            Self::UnlistedObject { field, id } => {
                write!(f, "{field} names {id}, which objects does not list")
            }
            Self::Digest { expected, found } => {
                write!(f, "digest is {found}, expected {expected}")
            }
            Self::Tree { id } => write!(f, "Merkle tree does not belong to {id}"),
            Self::Block { id, block } => write!(f, "block {block} of {id} is damaged"),
            Self::Bundle(fault) => write!(f, "malformed bundle: {fault}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Self::Json { source, .. } = self {
            Some(source)
        } else {
            None
        }
    }
}
