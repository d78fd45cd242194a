//! Block maps of disk images, as bmaptool reads and makes them (Yocto's bmaptool, `bmaptool-create(1)`; format 2.0): which
//! blocks have to come onto a medium, and the SHA-256 of each stretch of them.
//!
//! ```text
//! <bmap version="2.0">
//!     <ImageSize> 8192 </ImageSize>  <BlockSize> 4096 </BlockSize>
//!     <BlocksCount> 2 </BlocksCount>  <MappedBlocksCount> 1 </MappedBlocksCount>
//!     <ChecksumType> sha256 </ChecksumType>  <BmapFileChecksum> (of this file, with zeros in its place) </BmapFileChecksum>
//!     <BlockMap> <Range chksum="…"> 0 </Range> </BlockMap>
//! </bmap>
//! ```
//!
//! A map travels beside its image and is nobody's word: it is read as far as the elements above go. What else XML has,
//! document types and entities above all, is refused; so is a map that does not add up. Without input and output.

use anyhow::{Context, Result, bail, ensure};
use kedge_revision::id::hex;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// Bytes of the largest map that is read: some 80,000 ranges.
pub const CAP: usize = 8 << 20;
/// Bytes of a block in maps that we make: that of the image's file systems.
pub const BLOCK: u64 = 4096;
/// Blocks of other makers' maps, bytes; a power of two.
const BLOCKS: std::ops::RangeInclusive<u64> = 512..=1 << 20;

/// A SHA-256.
pub type Sum = [u8; 32];

/// Blocks one after another that have to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first block.
    pub first: u64,
    /// The last block; it belongs to the range.
    pub last: u64,
    /// Of their bytes; the image's last block may be a part of one.
    pub sum: Sum,
}

/// Which blocks of an image have to be written. Its ranges are in order, do not overlap, and lie in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    size: u64,
    block: u64,
    ranges: Vec<Range>,
}

impl Map {
    /// A map of an image of `size` bytes in blocks of `block` bytes.
    ///
    /// # Errors
    /// The blocks are of no size that there is, or a range is empty, overlaps the one before it, or lies outside the image;
    /// with its number, from 1.
    pub fn new(size: u64, block: u64, ranges: Vec<Range>) -> Result<Self> {
        ensure!(
            block.is_power_of_two() && BLOCKS.contains(&block),
            "blocks of {block} bytes: a power of two from {} to {} is taken",
            BLOCKS.start(),
            BLOCKS.end()
        );
        ensure!(size > 0, "an image of no bytes");
        let count = size.div_ceil(block);
        let mut free = 0;
        for (number, range) in (1_usize..).zip(&ranges) {
            let Range { first, last, .. } = *range;
            ensure!(first <= last, "range {number}, {first}-{last}, is empty");
            ensure!(
                first >= free,
                "range {number}, {first}-{last}, begins before block {free}, where the one before it ends"
            );
            ensure!(
                last < count,
                "range {number}, {first}-{last}, is outside the image of {count} blocks"
            );
            free = last.saturating_add(1);
        }
        Ok(Self {
            size,
            block,
            ranges,
        })
    }

    /// The image's size, bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The ranges.
    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// Where a range begins and ends, bytes.
    #[must_use]
    pub fn bytes(&self, range: &Range) -> std::ops::Range<u64> {
        let end = range.last.saturating_add(1).saturating_mul(self.block);
        range.first.saturating_mul(self.block)..end.min(self.size)
    }

    /// Bytes that have to be written.
    #[must_use]
    pub fn mapped(&self) -> u64 {
        let sizes = self.ranges.iter().map(|range| {
            let bytes = self.bytes(range);
            bytes.end.saturating_sub(bytes.start)
        });
        sizes.fold(0, u64::saturating_add)
    }

    fn mapped_blocks(&self) -> u64 {
        let count = |range: &Range| range.last.saturating_sub(range.first).saturating_add(1);
        let counts = self.ranges.iter().map(count);
        counts.fold(0, u64::saturating_add)
    }

    /// The map as a file.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = format!(
            "<?xml version=\"1.0\" ?>
<!-- Which blocks of a disk image have to be written, for `bmaptool copy` and `kedge flash`. The others may keep what they have. -->
<bmap version=\"2.0\">
    <ImageSize> {} </ImageSize>
    <BlockSize> {} </BlockSize>
    <BlocksCount> {} </BlocksCount>
    <MappedBlocksCount> {} </MappedBlocksCount>
    <ChecksumType> sha256 </ChecksumType>
    <BmapFileChecksum> {ZEROS} </BmapFileChecksum>
    <BlockMap>
",
            self.size,
            self.block,
            self.size.div_ceil(self.block),
            self.mapped_blocks(),
        );
        for Range { first, last, sum } in &self.ranges {
            let blocks = if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            };
            // Writing to a string does not fail.
            writeln!(
                text,
                "        <Range chksum=\"{}\"> {blocks} </Range>",
                hex(sum)
            )
            .ok();
        }
        text.push_str("    </BlockMap>\n</bmap>\n");
        let own = hex(&Sha256::digest(text.as_bytes()));
        text.replacen(ZEROS, &own, 1)
    }

    /// Reads a map.
    ///
    /// # Errors
    /// It is too large, of another version, says something that is not understood, is damaged, or does not add up.
    pub fn parse(text: &str) -> Result<Self> {
        ensure!(
            text.len() <= CAP,
            "it has {} bytes, and at most {CAP} are read",
            text.len()
        );
        let mut fields = Fields::read(&mut Reader { rest: text })?;
        let kind = fields.of("ChecksumType")?;
        ensure!(
            kind == "sha256",
            "its checksums are of the type {}, and sha256 is taken alone",
            kind.escape_debug()
        );
        let own = sum(fields.of("BmapFileChecksum")?).context("its own checksum is none")?;
        let zeroed = text.replacen(fields.of("BmapFileChecksum")?, ZEROS, 1);
        ensure!(
            Sha256::digest(zeroed.as_bytes()).as_slice() == own,
            "it is damaged: its bytes do not have the checksum that it says of itself"
        );
        let map = Self::new(
            fields.number("ImageSize")?,
            fields.number("BlockSize")?,
            std::mem::take(&mut fields.ranges),
        )?;
        let says = |name, found: u64, said: u64| {
            ensure!(
                found == said,
                "{name} is {said}, and the rest of it says {found}"
            );
            Ok(())
        };
        let count = map.size.div_ceil(map.block);
        says("BlocksCount", count, fields.number("BlocksCount")?)?;
        let mapped = fields.number("MappedBlocksCount")?;
        says("MappedBlocksCount", map.mapped_blocks(), mapped)?;
        Ok(map)
    }
}

/// What stands in the place of the file's own checksum while it is taken.
const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn sum(text: &str) -> Option<Sum> {
    let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16)?).ok();
    let mut sum = Sum::default();
    for (byte, pair) in sum.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = (digit(*high)? << 4) | digit(*low)?;
    }
    Some(sum)
}

/// The elements with one text each.
const NAMES: [&str; 6] = [
    "ImageSize",
    "BlockSize",
    "BlocksCount",
    "MappedBlocksCount",
    "ChecksumType",
    "BmapFileChecksum",
];

/// What the elements say, before it is judged.
struct Fields<'a> {
    texts: [Option<&'a str>; NAMES.len()],
    ranges: Vec<Range>,
}

impl<'a> Fields<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self> {
        let mut fields = Self {
            texts: [None; NAMES.len()],
            ranges: Vec::new(),
        };
        reader.prologue();
        let attributes = reader.open("bmap")?;
        let version = attribute(attributes, "version").context("<bmap> says no version")?;
        ensure!(
            version.starts_with("2."),
            "it is of version {}, and 2.0 is read",
            version.escape_debug()
        );
        let mut has_ranges = false;
        loop {
            match reader.tag()? {
                Tag::Close("bmap") => break,
                Tag::Open("BlockMap", "") => {
                    ensure!(!has_ranges, unexpected("BlockMap"));
                    has_ranges = true;
                    fields.read_ranges(reader)?;
                }
                Tag::Open(name, "") => {
                    let text = reader.text_of(name)?;
                    let known = NAMES.iter().zip(&mut fields.texts);
                    let place = known.into_iter().find(|(known, _)| **known == name);
                    let place = place.map(|(_, place)| place).filter(|at| at.is_none());
                    *place.with_context(|| unexpected(name))? = Some(text);
                }
                Tag::Open(name, _) | Tag::Close(name) => bail!(unexpected(name)),
            }
        }
        ensure!(has_ranges, "it has no <BlockMap>");
        reader.skip()?;
        ensure!(reader.rest.is_empty(), "something stands behind </bmap>");
        Ok(fields)
    }

    fn read_ranges(&mut self, reader: &mut Reader<'a>) -> Result<()> {
        loop {
            let number = self.ranges.len().saturating_add(1);
            match reader.tag()? {
                Tag::Close("BlockMap") => return Ok(()),
                Tag::Open("Range", attributes) => {
                    let text = reader.text_of("Range")?;
                    let (first, last) = text.split_once('-').unwrap_or((text, text));
                    let block = |text: &str| {
                        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
                        text.parse::<u64>().ok().filter(|_| is_number)
                    };
                    let (first, last) = block(first)
                        .zip(block(last))
                        .with_context(|| format!("range {number} is no blocks: {}", short(text)))?;
                    let sum = attribute(attributes, "chksum")
                        .and_then(sum)
                        .with_context(|| {
                            format!("range {number}, {first}-{last}, has no SHA-256")
                        })?;
                    self.ranges.push(Range { first, last, sum });
                }
                Tag::Open(name, _) | Tag::Close(name) => bail!(unexpected(name)),
            }
        }
    }

    fn of(&self, name: &str) -> Result<&'a str> {
        let mut found = NAMES.iter().zip(self.texts);
        let found = found.find_map(|(known, text)| text.filter(|_| *known == name));
        found.with_context(|| format!("it has no <{name}>"))
    }

    fn number(&self, name: &str) -> Result<u64> {
        let text = self.of(name)?;
        text.parse()
            .with_context(|| format!("<{name}> is no number: {}", short(text)))
    }
}

fn unexpected(name: &str) -> String {
    format!("<{}> has no place here, or stands twice", short(name))
}

/// The beginning of what somebody wrote, fit to be shown.
fn short(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

/// The value of `name="value"`, where that is all that a tag has.
fn attribute<'a>(attributes: &'a str, name: &str) -> Option<&'a str> {
    let value = attributes.strip_prefix(name)?.strip_prefix('=')?;
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let value = value.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(value).filter(|value| !value.contains(quote))
}

/// The part of XML that maps are written in: tags, texts and comments.
struct Reader<'a> {
    rest: &'a str,
}

enum Tag<'a> {
    /// Its name, and what follows it.
    Open(&'a str, &'a str),
    Close(&'a str),
}

impl<'a> Reader<'a> {
    /// `<?xml …?>`.
    fn prologue(&mut self) {
        let end = self
            .rest
            .strip_prefix("<?xml ")
            .and_then(|rest| rest.split_once("?>"));
        if let Some((_, rest)) = end {
            self.rest = rest;
        }
    }

    /// Passes over spaces and comments.
    fn skip(&mut self) -> Result<()> {
        loop {
            self.rest = self.rest.trim_start();
            let Some(comment) = self.rest.strip_prefix("<!--") else {
                return Ok(());
            };
            let (_, rest) = comment
                .split_once("-->")
                .context("a comment does not end")?;
            self.rest = rest;
        }
    }

    fn tag(&mut self) -> Result<Tag<'a>> {
        self.skip()?;
        let inner = self.rest.strip_prefix('<');
        let inner = inner.with_context(|| match self.rest {
            "" => "it ends in the middle".to_owned(),
            rest => format!("a tag is missing at: {}", short(rest)),
        })?;
        ensure!(
            !inner.starts_with(['!', '?']),
            "it declares something, which no block map does: <{}",
            short(inner)
        );
        let (inner, rest) = inner.split_once('>').context("a tag does not end")?;
        self.rest = rest;
        if let Some(name) = inner.strip_prefix('/') {
            return Ok(Tag::Close(name.trim_end()));
        }
        let (name, attributes) = inner
            .split_once(|c: char| c.is_ascii_whitespace())
            .unwrap_or((inner, ""));
        Ok(Tag::Open(name, attributes.trim()))
    }

    fn open(&mut self, wanted: &str) -> Result<&'a str> {
        match self.tag()? {
            Tag::Open(name, attributes) if name == wanted => Ok(attributes),
            Tag::Open(name, _) | Tag::Close(name) => {
                bail!("it is no block map: it begins with <{}>", short(name))
            }
        }
    }

    /// The text of an element that was opened, without the spaces around it, and its end.
    fn text_of(&mut self, name: &str) -> Result<&'a str> {
        let (text, rest) = self.rest.split_once('<').context("it ends in the middle")?;
        ensure!(
            !text.contains('&'),
            "<{}> has an entity, which no block map needs",
            short(name)
        );
        let end = rest.strip_prefix('/').and_then(|rest| rest.split_once('>'));
        let (closed, rest) = end.with_context(|| format!("<{}> holds a tag", short(name)))?;
        ensure!(closed.trim_end() == name, "<{}> does not end", short(name));
        self.rest = rest;
        Ok(text.trim())
    }
}

#[cfg(test)]
mod tests;
