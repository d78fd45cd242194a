//! The headers of a program for UEFI, as this machine reads them; the loader on the device has a reader of its own, which needs
//! no more than one section (`kedge_board_support::statement`).
//!
//! Source: Microsoft, "PE Format".

use anyhow::{Context, Result};
use std::ops::Range;

/// The machine of a PE file: x86-64.
pub(crate) const X86_64: u16 = 0x8664;
/// Bytes of a section's header.
const SECTION: usize = 40;

/// What the headers say.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) machine: u16,
    /// Where the optional header is in the file.
    pub(crate) optional: Range<usize>,
    /// In the order of their headers.
    pub(crate) sections: Vec<Section>,
}

/// A section of a program.
#[derive(Debug)]
pub(crate) struct Section {
    /// Filled up with zeros.
    pub(crate) name: [u8; 8],
    /// Bytes in memory.
    pub(crate) memory: usize,
    /// Where it is in the file.
    pub(crate) file: Range<usize>,
}

impl Program {
    /// Reads the headers of a program, of which no more than they has to be there.
    ///
    /// # Errors
    /// It is none, or they are cut off.
    pub(crate) fn of(bytes: &[u8]) -> Result<Self> {
        let header = header(bytes).context("it is no program for UEFI")?;
        let fields = || {
            let field = |at| u16_at(bytes, header.checked_add(at)?);
            let start = header.checked_add(24)?;
            let end = start.checked_add(usize::from(field(20)?))?;
            Some((field(4)?, usize::from(field(6)?), start..end))
        };
        let (machine, count, optional) = fields().context("its headers are cut off")?;
        let table = count.checked_mul(SECTION).and_then(|size| {
            let end = optional.end.checked_add(size)?;
            bytes.get(optional.end..end)
        });
        let table = table.context("its table of sections is cut off")?;
        let sections = table.chunks_exact(SECTION).map(section);
        let sections = sections.collect::<Option<_>>();
        Ok(Self {
            machine,
            optional,
            sections: sections.context("a section has no place in a file")?,
        })
    }
}

fn header(bytes: &[u8]) -> Option<usize> {
    let at = usize::try_from(u32_at(bytes, 60)?).ok()?;
    let is_one = bytes.starts_with(b"MZ") && bytes.get(at..)?.starts_with(b"PE\0\0");
    is_one.then_some(at)
}

fn section(header: &[u8]) -> Option<Section> {
    let field = |at| usize::try_from(u32_at(header, at)?).ok();
    let start = field(20)?;
    Some(Section {
        name: *header.first_chunk()?,
        memory: field(8)?,
        file: start..start.checked_add(field(16)?)?,
    })
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..)?.first_chunk();
    field.map(|field| u16::from_le_bytes(*field))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..)?.first_chunk();
    field.map(|field| u32::from_le_bytes(*field))
}
