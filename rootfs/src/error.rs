//! What can go wrong with an image, a variant for each operation, each with its place.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::bounds::{Exceeded, Limit};

/// Why an image could not be imported, or an output not be written.
#[derive(Debug)]
pub enum Error {
    /// A file of the host could not be read, created or written.
    Io {
        /// What was being done, as a verb: `open`, `read`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The path is neither a known kind of image nor named as one.
    UnknownSource {
        /// As it was given.
        path: PathBuf,
        /// What was looked for and not found.
        why: &'static str,
    },
    /// A JSON document of the image is not what it must be.
    Document {
        /// Name within the image.
        name: String,
        /// The parser's or the checker's words.
        why: String,
    },
    /// A blob or member that the image names is not there.
    Missing {
        /// Name within the image.
        name: String,
        /// Who names it.
        wanted_by: String,
    },
    /// A blob's size is not the one that its descriptor states.
    Size {
        /// Name within the image.
        name: String,
        /// Bytes that the descriptor states.
        stated: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// A blob's digest, or a layer's `diff_id`, is not the stated one.
    Digest {
        /// Name within the image.
        name: String,
        /// `sha256:…` as stated.
        stated: String,
        /// `sha256:…` of what is there.
        found: String,
    },
    /// A digest algorithm other than SHA-256.
    DigestAlgorithm {
        /// As the image states it.
        digest: String,
    },
    /// Layers and `diff_ids` do not pair up.
    LayerCount {
        /// Layers in the manifest.
        layers: usize,
        /// `diff_ids` in the configuration.
        diff_ids: usize,
    },
    /// A layer of a kind that cannot be unpacked: encrypted, or unknown.
    MediaType {
        /// Name within the image.
        name: String,
        /// As stated.
        media_type: String,
    },
    /// The image is for another machine.
    Architecture {
        /// What the board needs, as OCI names it.
        wanted: String,
        /// What the image has.
        found: Vec<String>,
    },
    /// None of its programs is for this machine.
    Foreign {
        /// What the board needs, as OCI names it.
        wanted: String,
        /// One of them, and what that is for; in words.
        found: String,
    },
    /// Several images fit, and none was asked for by name.
    Ambiguous {
        /// Their reference names or digests.
        choices: Vec<String>,
    },
    /// The reference name that was asked for is not in the image.
    Reference {
        /// As asked for.
        wanted: String,
        /// The names that are there.
        found: Vec<String>,
    },
    /// The image does not say what to run.
    NoEntrypoint,
    /// The configuration has a value that cannot be run.
    Process {
        /// Field name as in the OCI configuration.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A limit of [`crate::Bounds`] was exceeded.
    Bound {
        /// Layer and entry, or the document.
        at: String,
        /// Which one.
        limit: Limit,
        /// The number allowed.
        max: u64,
    },
    /// A layer or an archive is not a well-formed tar.
    Tar {
        /// Layer or archive.
        at: String,
        /// Offset of the header in the decompressed stream.
        offset: u64,
        /// What is wrong there.
        fault: TarFault,
    },
    /// A layer's stream could not be decompressed.
    Decompress {
        /// Layer or archive.
        at: String,
        /// The decoder's reason.
        source: io::Error,
    },
    /// An entry of a layer is refused.
    Entry {
        /// Layer, counted from zero.
        layer: usize,
        /// Its name, with bytes that are not text replaced.
        path: String,
        /// Why.
        fault: EntryFault,
    },
    /// `mkfs.erofs` could not be run or failed.
    Mkfs {
        /// The command.
        command: String,
        /// Last lines of its error output, or why it did not start.
        why: String,
    },
    /// The path cannot be put into an initramfs.
    Initramfs {
        /// As given.
        path: String,
        /// Why.
        why: &'static str,
    },
}

/// What is wrong with a tar header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TarFault {
    /// The stream ends inside a member, or before the end-of-archive mark.
    Truncated,
    /// The header's checksum does not hold.
    Checksum,
    /// A number is not octal, binary or decimal as its field wants it.
    Number,
    /// A PAX record is malformed.
    PaxRecord,
    /// A sparse map is malformed, or of a kind that is not read (PAX 0.0 and 0.1).
    SparseMap,
    /// A member type that no layer may have.
    MemberType(u8),
    /// Long-name or PAX headers with no member after them, or two of one kind before one member.
    Extension,
}

/// Why an entry is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryFault {
    /// No name is left.
    EmptyName,
    /// The name starts with `/`.
    AbsolutePath,
    /// The name has a `..` component.
    DotDot,
    /// A name or target holds a NUL byte.
    NulByte,
    /// A component above it is a symbolic link of the same layer.
    SymlinkParent(String),
    /// A component above it is no directory.
    FileParent(String),
    /// Symbolic links of lower layers above it do not end.
    SymlinkLoop,
    /// The root of the layer is no directory.
    Root,
    /// A symbolic link without target.
    EmptyTarget,
    /// The target of a hard link leaves the image.
    HardLinkOutside(String),
    /// The target of a hard link is neither in this layer nor below.
    HardLinkAbsent(String),
    /// The target of a hard link is a directory.
    HardLinkDirectory(String),
    /// A device node, and devices were not allowed.
    Device,
    /// A user or group id that the container's user namespace (0–65535) does not have.
    Id(u64),
    /// A whiteout of nothing, of `.` or of `..`.
    Whiteout,
    /// The name of a whiteout in a source that has no layers.
    ReservedName,
    /// An extended attribute without name, or with a NUL in it.
    Xattr(String),
}

impl Error {
    /// An I/O error with its path; for `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// An error out of a stream that may carry a met limit.
    pub(crate) fn stream(at: &str, source: io::Error) -> Self {
        match source.get_ref().and_then(|e| e.downcast_ref::<Exceeded>()) {
            Some(e) => Self::Bound {
                at: at.to_owned(),
                limit: e.limit,
                max: e.max,
            },
            None => Self::Decompress {
                at: at.to_owned(),
                source,
            },
        }
    }
}

impl fmt::Display for TarFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the archive is cut off"),
            Self::Checksum => f.write_str("the header's checksum is wrong"),
            Self::Number => f.write_str("a number in the header is malformed"),
            Self::PaxRecord => f.write_str("a PAX record is malformed"),
            Self::SparseMap => f.write_str("the sparse map is malformed or of an old kind"),
            Self::MemberType(t) => write!(f, "member type {:?} is unknown", char::from(*t)),
            Self::Extension => f.write_str("extension headers without their member"),
        }
    }
}

impl fmt::Display for EntryFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyName => f.write_str("it has no name"),
            Self::AbsolutePath => f.write_str("its name is absolute"),
            Self::DotDot => f.write_str("its name contains `..`"),
            Self::NulByte => f.write_str("its name or target contains a NUL byte"),
            Self::SymlinkParent(p) => {
                write!(f, "it goes through the symbolic link {p} of the same layer")
            }
            Self::FileParent(p) => write!(f, "it lies below {p}, which is no directory"),
            Self::SymlinkLoop => f.write_str("the symbolic links above it do not end"),
            Self::Root => f.write_str("the root of a layer must be a directory"),
            Self::EmptyTarget => f.write_str("it is a symbolic link to nothing"),
            Self::HardLinkOutside(t) => write!(f, "it is a hard link to {t}, outside of the image"),
            Self::HardLinkAbsent(t) => {
                write!(f, "it is a hard link to {t}, which is not in the image")
            }
            Self::HardLinkDirectory(t) => write!(f, "it is a hard link to the directory {t}"),
            Self::Device => {
                f.write_str("it is a device node; containers get their devices from the revision")
            }
            Self::Id(id) => write!(
                f,
                "its owner {id} is above 65535, the last id that a container has"
            ),
            Self::Whiteout => f.write_str("it is a whiteout of nothing"),
            Self::ReservedName => {
                f.write_str("names that start with `.wh.` mean whiteouts and cannot be files")
            }
            Self::Xattr(n) => write!(f, "its extended attribute {n:?} has no proper name"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { action, path, .. } => write!(f, "cannot {action} {}", path.display()),
            Self::UnknownSource { path, why } => write!(
                f,
                "{}: {why}; name its kind with oci:, oci-archive:, docker-archive:, dir: or tar:",
                path.display()
            ),
            Self::Document { name, why } => write!(f, "{name} is not valid: {why}"),
            Self::Missing { name, wanted_by } => {
                write!(f, "{name} is missing; {wanted_by} names it")
            }
            Self::Size {
                name,
                stated,
                found,
            } => {
                write!(
                    f,
                    "{name} has {found} bytes, its descriptor states {stated}"
                )
            }
            Self::Digest {
                name,
                stated,
                found,
            } => write!(f, "{name} is damaged: {found} instead of {stated}"),
            Self::DigestAlgorithm { digest } => {
                write!(f, "the digest {digest} is not supported, only sha256 is")
            }
            Self::LayerCount { layers, diff_ids } => {
                write!(
                    f,
                    "the manifest has {layers} layers, the configuration {diff_ids} diff_ids"
                )
            }
            Self::MediaType { name, media_type } => {
                write!(f, "{name} has the unsupported media type {media_type}")
            }
            Self::Architecture { wanted, found } => write!(
                f,
                "the board needs an image for {wanted}, this one is for {}",
                found.join(", ")
            ),
            Self::Foreign { wanted, found } => write!(
                f,
                "the board needs programs for {wanted}, and those of the image are for others: {found}"
            ),
            Self::Ambiguous { choices } => {
                write!(
                    f,
                    "several images fit, name one with --reference: {}",
                    choices.join(", ")
                )
            }
            Self::Reference { wanted, found } => {
                write!(f, "no image is named {wanted}, but {}", found.join(", "))
            }
            Self::NoEntrypoint => f.write_str(
                "the image has neither entrypoint nor command; say what to run with --command",
            ),
            Self::Process { field, why } => write!(f, "the image's {field} cannot be used: {why}"),
            Self::Bound { at, limit, max } => write!(f, "{at}: more than {max} {limit}"),
            Self::Tar { at, offset, fault } => write!(f, "{at}: {fault} (at byte {offset})"),
            Self::Decompress { at, .. } => write!(f, "{at}: cannot be read or decompressed"),
            Self::Entry { layer, path, fault } => write!(f, "layer {layer}, entry {path}: {fault}"),
            Self::Mkfs { command, why } => write!(f, "{command} failed: {why}"),
            Self::Initramfs { path, why } => write!(f, "initramfs entry {path}: {why}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Self::Io { source, .. } | Self::Decompress { source, .. } = self {
            Some(source)
        } else {
            None
        }
    }
}
