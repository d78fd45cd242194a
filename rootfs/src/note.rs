//! What an importer should know although it is no error.

use std::fmt;

/// Something that was changed, dropped or is worth a look. Paths have bytes that are not text replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A program that runs as its owner or group; kept. It acts inside the container's user namespace only.
    SetId {
        /// Layer, counted from zero.
        layer: usize,
        /// The file.
        path: String,
        /// Its mode, with 0o4000 or 0o2000.
        mode: u16,
    },
    /// The same bits, taken off as asked.
    SetIdStripped {
        /// Layer, counted from zero.
        layer: usize,
        /// The file.
        path: String,
    },
    /// A program with file capabilities; kept.
    Capability {
        /// Layer, counted from zero.
        layer: usize,
        /// The file.
        path: String,
    },
    /// An extended attribute that an image may not bring; dropped.
    XattrDropped {
        /// Layer, counted from zero.
        layer: usize,
        /// The entry.
        path: String,
        /// The attribute.
        name: String,
    },
    /// A hard link to a file of a lower layer; its content was copied into this layer.
    HardLinkCopied {
        /// Layer, counted from zero.
        layer: usize,
        /// The new name.
        path: String,
        /// The file below.
        target: String,
    },
    /// Something that has no meaning in a layer (a socket, AUFS's own files); left out.
    LeftOut {
        /// Layer, counted from zero.
        layer: usize,
        /// The entry.
        path: String,
    },
    /// More notes than are kept.
    More(
        /// How many were not kept.
        u64,
    ),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetId { layer, path, mode } => {
                write!(f, "layer {layer}: {path} runs as its owner (mode {mode:o})")
            }
            Self::SetIdStripped { layer, path } => {
                write!(f, "layer {layer}: {path} no longer runs as its owner")
            }
            Self::Capability { layer, path } => {
                write!(f, "layer {layer}: {path} has file capabilities")
            }
            Self::XattrDropped { layer, path, name } => {
                write!(f, "layer {layer}: {path}: attribute {name} dropped")
            }
            Self::HardLinkCopied {
                layer,
                path,
                target,
            } => {
                write!(
                    f,
                    "layer {layer}: {path} is a copy of {target} of a lower layer"
                )
            }
            Self::LeftOut { layer, path } => write!(f, "layer {layer}: {path} left out"),
            Self::More(n) => write!(f, "and {n} more notes"),
        }
    }
}

/// Keeps the first notes and counts the rest.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    kept: Vec<Note>,
    more: u64,
}

/// More than anybody reads.
const MAX_NOTES: usize = 1000;

impl Notes {
    pub(crate) fn add(&mut self, note: Note) {
        if self.kept.len() < MAX_NOTES {
            self.kept.push(note);
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    pub(crate) fn into_vec(mut self) -> Vec<Note> {
        if self.more > 0 {
            self.kept.push(Note::More(self.more));
        }
        self.kept
    }
}
