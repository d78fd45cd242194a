//! The bundle: a revision with everything that it needs, as one file (`.kedge`).
//!
//! ```text
//! bundle  = magic section…
//! magic   = "kedge.bundle/1\n"                               15 bytes
//! section = kind u8, seven zero bytes, length u64 LE, then `length` bytes
//! ```
//!
//! Sections stand in this order and in no other:
//!
//! | kind | bytes | how often |
//! |---|---|---|
//! | 1 | the revision, at most 256 KiB | once |
//! | 2 | its signatures, at most 4 KiB | once |
//! | 3 | parameters, at most 64 KiB | once or not at all |
//! | 4 | digest of an object (32 bytes), then its Merkle tree as [`crate::verity`] has it | once an object |
//! | 5 | digest of the same object, then its bytes | once an object, behind its tree |
//! | 6 | none: the end | once, and nothing behind it |
//!
//! Objects are exactly those that the revision lists, in ascending order of their ids. An object of
//! at most one block has no tree: its section 4 holds the digest alone. The **head** of a bundle is
//! magic and sections 1 to 3: what a device is offered before it says which objects it lacks.
//!
//! Nothing is trusted for standing in a bundle. The parser holds it to its form; signatures, trees
//! and blocks are judged by whoever reads it. Lengths are known from the revision before a byte of
//! an object is taken, so a bundle cannot make its reader keep more than a head.

mod parser;

pub use parser::{Event, Parser};

use crate::error::Error;
use crate::id::ObjectId;
use crate::parameters::Parameters;
use crate::revision;
use crate::signing::SignatureSet;
use core::fmt;

/// The first bytes of every bundle.
pub const MAGIC: [u8; 15] = *b"kedge.bundle/1\n";
/// Bytes before those of a section.
pub const HEADER: usize = 16;
/// Bytes of a digest before those of a tree and of an object.
pub const DIGEST: usize = 32;

/// The last section.
pub const END: [u8; HEADER] = Section {
    kind: Kind::End,
    length: 0,
}
.encode();

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The revision's document.
    Revision = 1,
    /// Its signatures.
    Signatures = 2,
    /// Parameters for the device.
    Parameters = 3,
    /// An object's digest and Merkle tree.
    Tree = 4,
    /// An object's digest and bytes.
    Object = 5,
    /// Nothing: the bundle is complete.
    End = 6,
}

impl Kind {
    /// The word in errors.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Revision => "revision",
            Self::Signatures => "signatures",
            Self::Parameters => "parameters",
            Self::Tree => "tree",
            Self::Object => "object",
            Self::End => "end",
        }
    }

    const fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Revision,
            2 => Self::Signatures,
            3 => Self::Parameters,
            4 => Self::Tree,
            5 => Self::Object,
            6 => Self::End,
            _ => return None,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// How a bundle differs from its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does not begin with [`MAGIC`].
    Magic,
    /// A section is of a kind that this software does not know.
    UnknownKind(u8),
    /// The bytes between a section's kind and its length are not zero.
    Padding(Kind),
    /// A section stands where it must not.
    Order {
        /// The one before it; absent at the beginning.
        after: Option<Kind>,
        /// The section.
        found: Kind,
    },
    /// A document is over its cap.
    OverCap {
        /// Which.
        kind: Kind,
        /// Its length, bytes.
        length: u64,
        /// The cap, bytes.
        cap: u64,
    },
    /// A section's length is not the one that the revision implies.
    Length {
        /// Which.
        kind: Kind,
        /// Its length, bytes.
        found: u64,
        /// What it must be.
        expected: u64,
    },
    /// Another object's section stands here.
    Object {
        /// Tree or object.
        kind: Kind,
        /// Whose turn it is.
        expected: ObjectId,
        /// Whose it is.
        found: ObjectId,
    },
    /// Something follows the end.
    Trailing,
    /// It ends too early: inside of what.
    Truncated(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("it does not begin with kedge.bundle/1"),
            Self::UnknownKind(kind) => write!(f, "section of unknown kind {kind}"),
            Self::Padding(kind) => write!(f, "padding in the header of {kind} is not zero"),
            Self::Order { after: None, found } => write!(f, "it begins with {found}"),
            Self::Order {
                after: Some(after),
                found,
            } => write!(f, "{found} must not follow {after}"),
            Self::OverCap { kind, length, cap } => {
                write!(f, "{kind} of {length} bytes is over the cap of {cap}")
            }
            Self::Length {
                kind,
                found,
                expected,
            } => write!(f, "section {kind} has {found} bytes, not {expected}"),
            Self::Object {
                kind,
                expected,
                found,
            } => write!(f, "{kind} of {found} stands in the place of {expected}"),
            Self::Trailing => f.write_str("something follows the end"),
            Self::Truncated(inside) => write!(f, "it ends inside of {inside}"),
        }
    }
}

/// The header of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// What it holds.
    pub kind: Kind,
    /// Bytes that follow the header.
    pub length: u64,
}

impl Section {
    /// Reads a header.
    ///
    /// # Errors
    /// [`Fault::UnknownKind`], [`Fault::Padding`].
    pub fn parse(bytes: &[u8; HEADER]) -> Result<Self, Error> {
        let [kind, padding @ .., a, b, c, d, e, f, g, h] = *bytes;
        let kind = Kind::of(kind).ok_or(Error::Bundle(Fault::UnknownKind(kind)))?;
        if padding != [0; 7] {
            return Err(Error::Bundle(Fault::Padding(kind)));
        }
        let length = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        Ok(Self { kind, length })
    }

    /// The header's bytes.
    #[must_use]
    pub const fn encode(self) -> [u8; HEADER] {
        let [a, b, c, d, e, f, g, h] = self.length.to_le_bytes();
        [self.kind as u8, 0, 0, 0, 0, 0, 0, 0, a, b, c, d, e, f, g, h]
    }

    /// Header and digest of a tree or an object whose own bytes are `length`.
    #[must_use]
    pub fn of_object(kind: Kind, id: ObjectId, length: u64) -> Vec<u8> {
        let length = length.saturating_add(as_u64(DIGEST));
        let mut bytes = Self { kind, length }.encode().to_vec();
        bytes.extend_from_slice(id.digest());
        bytes
    }
}

/// The documents of a bundle, as bytes: nothing of them is judged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// The revision.
    pub revision: Vec<u8>,
    /// Its signatures.
    pub signatures: Vec<u8>,
    /// Parameters for the device.
    pub parameters: Option<Vec<u8>>,
}

impl Head {
    /// Longest head, bytes.
    pub const CAP: usize =
        MAGIC.len() + 3 * HEADER + revision::CAP + SignatureSet::CAP + Parameters::CAP;

    /// Reads a head that stands alone.
    ///
    /// # Errors
    /// [`Error::Bundle`]; [`Fault::Trailing`] if a section follows that is none of a head.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        parser::head(bytes)
    }

    /// The bytes: what a device is offered, and the beginning of a bundle.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let parameters = self.parameters.as_ref();
        let documents = [
            (Kind::Revision, Some(&self.revision)),
            (Kind::Signatures, Some(&self.signatures)),
            (Kind::Parameters, parameters),
        ];
        for (kind, document) in documents {
            if let Some(document) = document {
                let length = as_u64(document.len());
                bytes.extend_from_slice(&Section { kind, length }.encode());
                bytes.extend_from_slice(document);
            }
        }
        bytes
    }

    fn document(&mut self, kind: Kind) -> &mut Vec<u8> {
        match kind {
            Kind::Revision => &mut self.revision,
            Kind::Signatures => &mut self.signatures,
            Kind::Parameters | Kind::Tree | Kind::Object | Kind::End => {
                self.parameters.get_or_insert_default()
            }
        }
    }
}

fn as_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
