//! A kernel as a program for UEFI: what goes where in memory, and where it begins.
//!
//! For a kernel that a slot's statement vouches for. The firmware's own way to load a program asks for a signature, and a
//! kernel with one could be started by everything that the firmware starts, with anybody's arguments and initramfs. So the
//! kernel has none, and the loader does what little there is to do for it: Linux needs no relocation.
//!
//! Source: Microsoft, "PE Format"; Linux `arch/x86/boot/header.S`.

use crate::fields::{u16_at, u32_at};
use core::fmt;
use core::ops::Range;

/// The machine of a PE file: x86-64.
const X86_64: u16 = 0x8664;
/// The magic number of an optional header with 64-bit addresses.
const PE32_PLUS: u16 = 0x20b;
/// Which of the directories is that of relocations.
const RELOCATIONS: usize = 5;
/// Bytes of a page.
const PAGE: usize = 4096;
/// Most bytes of a program in memory.
const MOST: usize = 1 << 30;

/// A program's place in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program<'a> {
    /// Pages that it takes.
    pub pages: usize,
    /// Where it begins, bytes from the first of them.
    pub entry: usize,
    headers: &'a [u8],
    sections: &'a [u8],
    file: &'a [u8],
}

/// Why a file cannot be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It is no program for UEFI on x86-64.
    NoProgram,
    /// It wants to be relocated, which Linux does not.
    Relocations,
    /// Something of it lies beyond its end, in the file or in memory.
    Beyond,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoProgram => "it is no program for UEFI on x86-64",
            Self::Relocations => "it asks for relocations",
            Self::Beyond => "a part of it lies beyond its end",
        })
    }
}

/// A part of a program: what of the file goes where in memory; the rest is zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<'a> {
    /// Bytes from the first page.
    pub place: Range<usize>,
    /// As many bytes.
    pub bytes: &'a [u8],
}

impl<'a> Program<'a> {
    /// Reads a program's headers.
    ///
    /// # Errors
    /// [`Unfit`]. Nothing of what it gives lies outside of `file` or of its own pages.
    pub fn parse(file: &'a [u8]) -> Result<Self, Unfit> {
        let program = Self::read(file).ok_or(Unfit::NoProgram)?;
        if program.relocations().ok_or(Unfit::NoProgram)? > 0 {
            return Err(Unfit::Relocations);
        }
        let size = program.pages.saturating_mul(PAGE);
        let whole = program.pages > 0 && size <= MOST && program.entry < size;
        if !whole || program.parts().any(|part| part.is_none()) {
            return Err(Unfit::Beyond);
        }
        Ok(program)
    }

    fn read(file: &'a [u8]) -> Option<Self> {
        let header = usize::try_from(u32_at(file, 60)?).ok()?;
        let optional = header.checked_add(24)?;
        let is_program = file.starts_with(b"MZ")
            && file.get(header..)?.starts_with(b"PE\0\0")
            && u16_at(file, header.checked_add(4)?)? == X86_64
            && u16_at(file, optional)? == PE32_PLUS;
        let field = |offset: usize| {
            let value = u32_at(file, optional.checked_add(offset)?)?;
            usize::try_from(value).ok()
        };
        let count = usize::from(u16_at(file, header.checked_add(6)?)?);
        let size = usize::from(u16_at(file, header.checked_add(20)?)?);
        let table = optional.checked_add(size)?;
        let end = table.checked_add(count.checked_mul(40)?)?;
        let program = Self {
            pages: field(56)?.div_ceil(PAGE),
            entry: field(16)?,
            headers: file.get(..field(60)?)?,
            sections: file.get(table..end)?,
            file,
        };
        is_program.then_some(program)
    }

    /// Bytes of relocations.
    fn relocations(&self) -> Option<u32> {
        let header = usize::try_from(u32_at(self.file, 60)?).ok()?;
        let optional = header.checked_add(24)?;
        let count = usize::try_from(u32_at(self.file, optional.checked_add(108)?)?).ok()?;
        if count <= RELOCATIONS {
            return Some(0);
        }
        let entry = RELOCATIONS.checked_mul(8)?.checked_add(116)?;
        u32_at(self.file, optional.checked_add(entry)?)
    }

    /// The headers and each section; nothing for one that lies outside.
    fn parts(&self) -> impl Iterator<Item = Option<Part<'a>>> {
        let size = self.pages.saturating_mul(PAGE);
        let file = self.file;
        let part = move |at: usize, bytes: &'a [u8]| {
            let place = at..at.checked_add(bytes.len())?;
            (place.end <= size).then_some(Part { place, bytes })
        };
        let section = move |entry: &[u8]| {
            let field = |at| usize::try_from(u32_at(entry, at)?).ok();
            let (virtual_size, at) = (field(8)?, field(12)?);
            let (raw, from) = (field(16)?, field(20)?);
            // What is larger on disk than in memory is padding.
            let length = if virtual_size == 0 {
                raw
            } else {
                raw.min(virtual_size)
            };
            let bytes = file.get(from..from.checked_add(length)?)?;
            part(at, bytes).filter(|_| at.checked_add(virtual_size).is_some_and(|end| end <= size))
        };
        let headers = core::iter::once(part(0, self.headers));
        headers.chain(self.sections.chunks_exact(40).map(section))
    }

    /// What to copy, in this order, into pages of zeros.
    pub fn contents(&self) -> impl Iterator<Item = Part<'a>> {
        self.parts().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    /// Two sections: 16 bytes at 0x1000, and 8 of the file with zeros behind them at 0x2000.
    fn program() -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        let fields: [(usize, &[u8]); 16] = [
            (0, b"MZ"),
            (60, &64_u32.to_le_bytes()),
            (64, b"PE\0\0"),
            (68, &X86_64.to_le_bytes()),
            (70, &2_u16.to_le_bytes()),
            (84, &240_u16.to_le_bytes()),
            (88, &PE32_PLUS.to_le_bytes()),
            (104, &0x1004_u32.to_le_bytes()),
            (144, &0x2800_u32.to_le_bytes()),
            (148, &0x200_u32.to_le_bytes()),
            (196, &16_u32.to_le_bytes()),
            // Size in memory, address, size and place in the file.
            (336, &16_u32.to_le_bytes()),
            (340, &0x1000_u32.to_le_bytes()),
            (344, &0x100_u32.to_le_bytes()),
            (348, &0x200_u32.to_le_bytes()),
            (0x200, b"sixteen letters!"),
        ];
        for (at, field) in fields {
            bytes[at..at + field.len()].copy_from_slice(field);
        }
        let second = [0x700_u32, 0x2000, 8, 0x300].map(u32::to_le_bytes).concat();
        bytes[376..392].copy_from_slice(&second);
        bytes[0x300..0x308].copy_from_slice(b"the data");
        bytes
    }

    fn with(at: usize, value: u32) -> Result<usize, Unfit> {
        with_all(&[(at, value)])
    }

    fn with_all(fields: &[(usize, u32)]) -> Result<usize, Unfit> {
        let mut bytes = program();
        for (at, value) in fields {
            bytes[*at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        Program::parse(&bytes).map(|program| program.pages)
    }

    #[test]
    fn parts_go_where_the_headers_say() {
        let bytes = program();
        let program = Program::parse(&bytes).unwrap();
        assert_eq!((program.pages, program.entry), (3, 0x1004));
        let parts: Vec<_> = program.contents().collect();
        assert_eq!(parts[0].bytes, &bytes[..0x200]);
        assert_eq!(
            (parts[1].place.clone(), parts[1].bytes),
            (0x1000..0x1010, &b"sixteen letters!"[..])
        );
        assert_eq!(
            (parts[2].place.clone(), parts[2].bytes),
            (0x2000..0x2008, &b"the data"[..])
        );
        assert_eq!(parts.len(), 3);
    }

    #[test]
    fn nothing_lies_outside() {
        assert_eq!(with(0, 0), Err(Unfit::NoProgram));
        assert_eq!(with(68, 0xaa64), Err(Unfit::NoProgram));
        assert_eq!(
            with(84, 0xffff),
            Err(Unfit::NoProgram),
            "a table beyond the end"
        );
        assert_eq!(
            with(148, 0x500),
            Err(Unfit::NoProgram),
            "headers beyond the end"
        );
        assert_eq!(with(244, 12), Err(Unfit::Relocations));
        for (at, value) in [
            (104, 0x3000),
            (144, 0),
            (144, 0x1800),
            (144, u32::MAX),
            (336, u32::MAX),
            (340, 0x2ff1),
            (348, 0x3f1),
        ] {
            assert_eq!(with(at, value), Err(Unfit::Beyond), "{at}: {value:#x}");
        }
        assert_eq!((with(340, 0x2ff0), with(348, 0x3f0)), (Ok(3), Ok(3)));
        // Without a size in memory, that in the file counts: 0x100 bytes.
        assert_eq!(with_all(&[(336, 0), (340, 0x2f00)]), Ok(3));
        assert_eq!(with_all(&[(336, 0), (340, 0x2f01)]), Err(Unfit::Beyond));
        let whole = program();
        for length in 0..0x308 {
            Program::parse(&whole[..length]).unwrap_err();
        }
    }
}
