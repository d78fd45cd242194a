//! How much an image may make us hold, write and follow, and the running totals against it.
//!
//! Every limit is checked before the memory or the disk is used, so a hostile image fails by name and number and never by
//! exhaustion. What is not here: limits of the revision that the image ends up in; `kedge-revision` holds those.

use std::fmt;

use crate::error::Error;

/// Limits for one image. `Default` fits every ordinary image with room; sizes are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Entries of all layers together.
    pub entries: u64,
    /// Components of a path.
    pub depth: usize,
    /// Length of a path (Linux `PATH_MAX` counts the final NUL, so 4096 is one more than any program can open).
    pub path: usize,
    /// Length of one component (Linux `NAME_MAX`).
    pub name: usize,
    /// Length of a symbolic link's target.
    pub link: usize,
    /// Size of one file, holes included: a layer has none.
    pub file: u64,
    /// Contents of all files of all layers, holes included.
    pub unpacked: u64,
    /// Names, link targets and extended attributes of all entries: what is held in memory.
    pub metadata: u64,
    /// One extended attribute's value (Linux `XATTR_SIZE_MAX`).
    pub xattr_value: usize,
    /// All extended attributes of one entry, names and values.
    pub xattrs: usize,
    /// One PAX extended header.
    pub pax: u64,
    /// Bytes out for each byte in, after `ratio_slack` bytes. gzip cannot exceed 1032.
    pub ratio: u64,
    /// Bytes out that are free of the `ratio`, so that a disk image full of zeros passes.
    pub ratio_slack: u64,
    /// Layers of one image (overlayfs takes 500; Docker stops at 127).
    pub layers: usize,
    /// One JSON document of an image.
    pub document: u64,
    /// Members of a docker or OCI archive.
    pub members: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            entries: 1_000_000,
            depth: 64,
            path: 4096,
            name: 255,
            link: 4096,
            file: 8 << 30,
            unpacked: 8 << 30,
            metadata: 256 << 20,
            xattr_value: 64 << 10,
            xattrs: 64 << 10,
            pax: 1 << 20,
            ratio: 500,
            ratio_slack: 256 << 20,
            layers: 128,
            document: 4 << 20,
            members: 10_000,
        }
    }
}

impl Bounds {
    /// Longest decompressed stream that can still hold `unpacked` bytes of files: headers and padding take the rest.
    pub(crate) fn stream(&self) -> u64 {
        self.unpacked
            .saturating_add(self.entries.saturating_mul(2048))
            .saturating_add(self.metadata)
    }
}

/// The limit that was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// [`Bounds::entries`]
    Entries,
    /// [`Bounds::depth`]
    Depth,
    /// [`Bounds::path`]
    Path,
    /// [`Bounds::name`]
    Name,
    /// [`Bounds::link`]
    Link,
    /// [`Bounds::file`]
    File,
    /// [`Bounds::unpacked`]
    Unpacked,
    /// [`Bounds::metadata`]
    Metadata,
    /// [`Bounds::xattr_value`]
    XattrValue,
    /// [`Bounds::xattrs`]
    Xattrs,
    /// [`Bounds::pax`]
    Pax,
    /// [`Bounds::ratio`]
    Ratio,
    /// The decompressed stream as a whole.
    Stream,
    /// [`Bounds::layers`]
    Layers,
    /// [`Bounds::document`]
    Document,
    /// [`Bounds::members`]
    Members,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Entries => "entries in the image",
            Self::Depth => "components in a path",
            Self::Path => "bytes in a path",
            Self::Name => "bytes in a name",
            Self::Link => "bytes in a link target",
            Self::File => "bytes in one file",
            Self::Unpacked => "bytes of files in the image",
            Self::Metadata => "bytes of names and attributes in the image",
            Self::XattrValue => "bytes in an extended attribute",
            Self::Xattrs => "bytes of extended attributes on one entry",
            Self::Pax => "bytes in a PAX header",
            Self::Ratio => "bytes out for each compressed byte",
            Self::Stream => "bytes in a decompressed layer",
            Self::Layers => "layers",
            Self::Document => "bytes in a JSON document",
            Self::Members => "members in an archive",
        })
    }
}

/// A limit that a reader deep inside a decoder met; travels in an `io::Error` and is taken out by [`Error`]'s constructors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exceeded {
    pub(crate) limit: Limit,
    pub(crate) max: u64,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {} {}", self.max, self.limit)
    }
}

impl std::error::Error for Exceeded {}

/// Totals of the image so far.
#[derive(Debug, Default)]
pub(crate) struct Used {
    entries: u64,
    unpacked: u64,
    metadata: u64,
}

impl Used {
    /// Counts one entry with `metadata` bytes to be held and `size` bytes of content.
    pub(crate) fn take(
        &mut self,
        bounds: &Bounds,
        metadata: u64,
        size: u64,
        at: &str,
    ) -> Result<(), Error> {
        self.entries = self.entries.saturating_add(1);
        self.unpacked = self.unpacked.saturating_add(size);
        self.metadata = self.metadata.saturating_add(metadata);
        check(self.entries, bounds.entries, Limit::Entries, at)?;
        check(size, bounds.file, Limit::File, at)?;
        check(self.unpacked, bounds.unpacked, Limit::Unpacked, at)?;
        check(self.metadata, bounds.metadata, Limit::Metadata, at)
    }

    /// Counts bytes to be held beside an entry already counted.
    pub(crate) fn hold(&mut self, bounds: &Bounds, metadata: u64, at: &str) -> Result<(), Error> {
        self.metadata = self.metadata.saturating_add(metadata);
        check(self.metadata, bounds.metadata, Limit::Metadata, at)
    }

    /// Counts content that an entry already counted repeats from a lower layer.
    pub(crate) fn copy(&mut self, bounds: &Bounds, size: u64, at: &str) -> Result<(), Error> {
        self.unpacked = self.unpacked.saturating_add(size);
        check(self.unpacked, bounds.unpacked, Limit::Unpacked, at)
    }
}

/// `Err` when `value` exceeds `max`.
pub(crate) fn check(value: u64, max: u64, limit: Limit, at: &str) -> Result<(), Error> {
    if value > max {
        return Err(Error::Bound {
            at: at.to_owned(),
            limit,
            max,
        });
    }
    Ok(())
}

/// A length as the limits count it.
pub(crate) fn len(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
