//! Frames of zstd (RFC 8878) of at most 1 MiB, as hubs pack objects: unpacked as they come, in bounds that nothing of
//! their contents moves.
//!
//! Written for this, since what there is does not bound what a block may grow to: a hostile hub's 128 KiB would become
//! gigabytes before anybody looked. Here a frame is unpacked into the bytes that it must have, and those are the window:
//! it ends at its first byte too many. Everything else is smaller than a block. What comes out is judged by whoever
//! takes it, against the object's tree; so checksums are passed over.
//!
//! What it does not do: dictionaries, frames that do not tell their size, frames to be skipped.

mod bits;
mod fse;
mod literals;
mod sequences;

use core::fmt;
use literals::Code;
use sequences::Sequences;

/// Largest block, bytes (RFC 8878, section 3.1.1.2.3).
const BLOCK: usize = 128 * 1024;
const MAGIC: u32 = 0xfd2f_b528;

/// A frame is none, or not the one that was wanted: how so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged(pub &'static str);

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl core::error::Error for Damaged {}

/// What comes next of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Its header.
    Header,
    /// A block's header, or the checksum after the last one.
    Block { last: bool },
    /// A block's contents.
    Contents { kind: u32, size: usize, last: bool },
    /// Nothing.
    Nothing,
}

/// A frame that comes in pieces.
#[derive(Debug)]
pub struct Frame {
    next: Next,
    /// What it must become, bytes.
    size: usize,
    checksum: bool,
    /// Packed bytes that are not whole yet.
    pending: Vec<u8>,
    literals: Vec<u8>,
    code: Code,
    sequences: Sequences,
    out: Vec<u8>,
}

impl Frame {
    /// Largest frame, bytes.
    pub const MOST: usize = 1 << 20;

    /// A frame of so many bytes, at most [`Frame::MOST`].
    #[must_use]
    pub fn new(size: usize) -> Self {
        let size = size.min(Self::MOST);
        Self {
            next: Next::Header,
            size,
            checksum: false,
            pending: Vec::new(),
            literals: Vec::new(),
            code: Code::default(),
            sequences: Sequences::default(),
            out: Vec::with_capacity(size),
        }
    }

    /// The next frame, in the same memory.
    pub fn again(&mut self, size: usize) {
        self.next = Next::Header;
        self.size = size.min(Self::MOST);
        self.pending.clear();
        self.code = Code::default();
        self.sequences = Sequences::default();
        self.out.clear();
    }

    /// What is unpacked of it.
    #[must_use]
    pub fn out(&self) -> &[u8] {
        &self.out
    }

    /// Whether it is whole.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.next == Next::Nothing
    }

    /// Takes the next of its bytes; those that are not its own any more.
    ///
    /// # Errors
    /// [`Damaged`].
    pub fn take<'a>(&mut self, mut piece: &'a [u8]) -> Result<&'a [u8], Damaged> {
        loop {
            let wanted = self.wanted()?;
            let lacks = wanted.saturating_sub(self.pending.len());
            let (now, rest) = piece.split_at(lacks.min(piece.len()));
            self.pending.extend_from_slice(now);
            piece = rest;
            if self.pending.len() < wanted {
                return Ok(piece);
            }
            if self.next == Next::Nothing {
                return Ok(piece);
            }
            let part = core::mem::take(&mut self.pending);
            let done = self.part(&part);
            self.pending = part;
            // A header may only have told how long it is.
            if done? {
                self.pending.clear();
            }
        }
    }

    /// How many bytes the next part has, as far as that is known.
    fn wanted(&self) -> Result<usize, Damaged> {
        Ok(match self.next {
            Next::Header => match self.pending.get(4) {
                None => 5,
                Some(descriptor) => 5 + header(*descriptor)?,
            },
            Next::Block { last: false } => 3,
            Next::Block { last: true } if self.checksum => 4,
            Next::Contents { kind: 1, .. } => 1,
            Next::Contents { size, .. } => size,
            Next::Block { last: true } | Next::Nothing => 0,
        })
    }

    /// Takes one part; false: it is longer than it seemed.
    fn part(&mut self, part: &[u8]) -> Result<bool, Damaged> {
        match self.next {
            Next::Header => return self.header(part),
            Next::Block { last: false } => {
                let head = part
                    .iter()
                    .rev()
                    .fold(0, |sum, byte| sum << 8 | u32::from(*byte));
                let size = usize::try_from(head >> 3).unwrap_or(usize::MAX);
                if size > BLOCK.max(self.size) || size > BLOCK && head >> 1 & 3 != 1 {
                    return Err(Damaged("a block that is too large"));
                }
                self.next = Next::Contents {
                    kind: head >> 1 & 3,
                    size,
                    last: head & 1 == 1,
                };
            }
            Next::Block { last: true } => {
                if self.out.len() != self.size {
                    return Err(Damaged("less than its frame has"));
                }
                self.next = Next::Nothing;
            }
            Next::Contents { kind, size, last } => {
                self.contents(kind, size, part)?;
                self.next = Next::Block { last };
            }
            Next::Nothing => {}
        }
        Ok(true)
    }

    fn header(&mut self, part: &[u8]) -> Result<bool, Damaged> {
        let (Some(magic), Some(descriptor)) = (part.first_chunk::<4>(), part.get(4)) else {
            return Ok(false);
        };
        if u32::from_le_bytes(*magic) != MAGIC {
            return Err(Damaged("no frame of zstd"));
        }
        let length = header(*descriptor)?;
        if part.len() < 5 + length {
            return Ok(false);
        }
        let window = usize::from(descriptor & 0x20 == 0);
        let size = part.get(5 + window..).unwrap_or_default();
        let more = if size.len() == 2 { 256 } else { 0 };
        let bytes = size.iter().rev();
        let size = bytes.fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)) + more;
        if usize::try_from(size) != Ok(self.size) {
            return Err(Damaged("a frame of another size"));
        }
        self.checksum = descriptor & 4 != 0;
        self.next = Next::Block { last: false };
        Ok(true)
    }

    fn contents(&mut self, kind: u32, size: usize, part: &[u8]) -> Result<(), Damaged> {
        let room = self.size.saturating_sub(self.out.len());
        match (kind, part) {
            (0 | 1, _) if size > room => Err(Damaged("more than its frame has")),
            (0, part) => {
                self.out.extend_from_slice(part);
                Ok(())
            }
            (1, [byte]) => {
                let end = self.out.len().saturating_add(size);
                self.out.resize(end, *byte);
                Ok(())
            }
            (2, part) => {
                let section = literals::read(part, &mut self.code, &mut self.literals)?;
                self.sequences
                    .run(section, &self.literals, &mut self.out, self.size)
            }
            _ => Err(Damaged("a block of no kind")),
        }
    }
}

/// Bytes of a frame's header behind its descriptor.
fn header(descriptor: u8) -> Result<usize, Damaged> {
    let single = descriptor & 0x20 != 0;
    if descriptor & 8 != 0 {
        return Err(Damaged("a frame of a newer kind"));
    }
    if descriptor & 3 != 0 {
        return Err(Damaged("a frame with a dictionary"));
    }
    let size = match descriptor >> 6 {
        0 if single => 1,
        0 => return Err(Damaged("a frame that does not tell its size")),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    Ok(size + usize::from(!single))
}

#[cfg(test)]
mod tests;
