//! Reading members of a tar stream within limits.

use std::io::{self, Read};

use super::BLOCK;
use super::pax::{Pax, SparseVersion};
use super::sparse::{self, SparseMap};
use crate::bounds::{Bounds, Limit, check, len};
use crate::error::{Error, TarFault};

/// Modification time. A negative one is 1970, one after 2242 (what a tar header holds) is 2242.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mtime {
    pub(crate) seconds: u64,
    pub(crate) nanoseconds: u32,
}

impl Mtime {
    pub(crate) fn new(seconds: u64, nanoseconds: u32) -> Self {
        const LAST: u64 = 0o77_777_777_777;
        Self {
            seconds: seconds.min(LAST),
            nanoseconds: nanoseconds.min(999_999_999),
        }
    }
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Regular,
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// One member as the archive states it; nothing of it is trusted yet.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: Mtime,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Size of the content, holes included.
    pub(crate) size: u64,
    /// Where the content starts in the stream; of a sparse file, its first piece.
    pub(crate) offset: u64,
    sparse: Option<SparseMap>,
}

impl Member {
    /// A member that comes from somewhere else than an archive; `owner` is (user, group).
    pub(crate) fn new(
        path: Vec<u8>,
        mode: u32,
        owner: (u64, u64),
        mtime: Mtime,
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
        size: u64,
        kind: Kind,
    ) -> Self {
        Self {
            path,
            kind,
            mode,
            uid: owner.0,
            gid: owner.1,
            mtime,
            xattrs,
            size,
            offset: 0,
            sparse: None,
        }
    }
}

/// Extension headers that came before a member.
#[derive(Default)]
struct Pending {
    pax: Option<Pax>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

/// Takes a file's content piece by piece: an offset in the file and bytes there.
pub(crate) type Sink<'s> = dyn FnMut(u64, &[u8]) -> Result<(), Error> + 's;

/// Reads one tar stream, member by member.
pub(crate) struct TarReader<'a, R> {
    stream: R,
    bounds: Bounds,
    /// Names the stream in errors.
    at: &'a str,
    position: u64,
    header: u64,
    /// Stored bytes of the current member not read yet, and the padding after them.
    remaining: u64,
    padding: u64,
}

impl<'a, R: Read> TarReader<'a, R> {
    pub(crate) fn new(stream: R, bounds: Bounds, at: &'a str) -> Self {
        Self {
            stream,
            bounds,
            at,
            position: 0,
            header: 0,
            remaining: 0,
            padding: 0,
        }
    }

    /// The stream, to read what follows the archive.
    pub(crate) fn into_inner(self) -> R {
        self.stream
    }

    /// The next member, or `None` at the end-of-archive mark. A stream that ends without the mark is cut off.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, Error> {
        let mut pending = Pending::default();
        loop {
            self.skip_content()?;
            self.header = self.position;
            let mut block = [0; BLOCK];
            self.fill(&mut block)?;
            if block.iter().all(|b| *b == 0) {
                let none =
                    pending.pax.is_none() && pending.name.is_none() && pending.link.is_none();
                return if none {
                    Ok(None)
                } else {
                    Err(self.fault(TarFault::Extension))
                };
            }
            let header = tar::Header::from_byte_slice(&block);
            self.check_sum(header)?;
            let size = header
                .entry_size()
                .map_err(|_| self.fault(TarFault::Number))?;
            match header.entry_type().as_byte() {
                b'x' | b'X' => {
                    let bytes =
                        self.extension(size, self.bounds.pax, Limit::Pax, pending.pax.is_some())?;
                    pending.pax = Some(Pax::parse(&bytes).map_err(|f| self.fault(f))?);
                }
                b'g' => {
                    self.extension(size, self.bounds.pax, Limit::Pax, false)?;
                }
                b'L' => {
                    pending.name = Some(self.long_name(
                        size,
                        Limit::Path,
                        self.bounds.path,
                        pending.name.is_some(),
                    )?);
                }
                b'K' => {
                    pending.link = Some(self.long_name(
                        size,
                        Limit::Link,
                        self.bounds.link,
                        pending.link.is_some(),
                    )?);
                }
                _ => return self.member(header, pending).map(Some),
            }
        }
    }

    /// Hands the current member's content to `sink`, piece by piece: an offset in the file and bytes there. What is not handed over is zeros.
    pub(crate) fn content(&mut self, member: &Member, sink: &mut Sink<'_>) -> Result<(), Error> {
        let whole = [(0, member.size)];
        let pieces = member.sparse.as_ref().map_or(&whole[..], SparseMap::pieces);
        let mut buffer = vec![0; 128 << 10];
        for (offset, length) in pieces {
            let mut done = 0;
            while done < *length {
                let want =
                    usize::try_from(length - done).map_or(buffer.len(), |l| l.min(buffer.len()));
                let part = buffer.get_mut(..want).unwrap_or_default();
                self.fill(part)?;
                self.remaining = self.remaining.saturating_sub(len(want));
                sink(offset + done, part)?;
                done += len(want);
            }
        }
        Ok(())
    }

    fn fault(&self, fault: TarFault) -> Error {
        Error::Tar {
            at: self.at.to_owned(),
            offset: self.header,
            fault,
        }
    }

    /// Reads exactly `buffer.len()` bytes; an early end means that the archive is cut off.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        self.stream.read_exact(buffer).map_err(|e| {
            if e.kind() == io::ErrorKind::UnexpectedEof {
                self.fault(TarFault::Truncated)
            } else {
                Error::stream(self.at, e)
            }
        })?;
        self.position = self.position.saturating_add(len(buffer.len()));
        Ok(())
    }

    fn skip_content(&mut self) -> Result<(), Error> {
        let mut buffer = [0; 32 << 10];
        let mut left = self.remaining.saturating_add(self.padding);
        while left > 0 {
            let want = usize::try_from(left).map_or(buffer.len(), |l| l.min(buffer.len()));
            self.fill(buffer.get_mut(..want).unwrap_or_default())?;
            left -= len(want);
        }
        (self.remaining, self.padding) = (0, 0);
        Ok(())
    }

    fn check_sum(&self, header: &tar::Header) -> Result<(), Error> {
        let bytes = header.as_bytes();
        // The checksum field itself counts as blanks.
        let sum = bytes.iter().enumerate().fold(0_u32, |sum, (i, b)| {
            sum + if (148..156).contains(&i) {
                32
            } else {
                u32::from(*b)
            }
        });
        match header.cksum() {
            Ok(stated) if stated == sum => Ok(()),
            _ => Err(self.fault(TarFault::Checksum)),
        }
    }

    fn extension(
        &mut self,
        size: u64,
        max: u64,
        limit: Limit,
        twice: bool,
    ) -> Result<Vec<u8>, Error> {
        if twice {
            return Err(self.fault(TarFault::Extension));
        }
        check(size, max, limit, self.at)?;
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| self.fault(TarFault::Number))?];
        self.fill(&mut bytes)?;
        self.padding = padding(size);
        Ok(bytes)
    }

    fn long_name(
        &mut self,
        size: u64,
        limit: Limit,
        max: usize,
        twice: bool,
    ) -> Result<Vec<u8>, Error> {
        // GNU tar writes the final NUL.
        let mut name = self.extension(size, len(max).saturating_add(1), limit, twice)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn member(&mut self, header: &tar::Header, pending: Pending) -> Result<Member, Error> {
        let number = |_| self.fault(TarFault::Number);
        let pax = pending.pax.unwrap_or_default();
        let stored = match pax.size {
            Some(size) => size,
            None => header.entry_size().map_err(number)?,
        };
        let path = pax
            .path
            .clone()
            .or(pending.name)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = pax.link.clone().or(pending.link);
        let link =
            link.unwrap_or_else(|| header.link_name_bytes().map(Into::into).unwrap_or_default());
        let device = || {
            let major = header.device_major().ok().flatten();
            let minor = header.device_minor().ok().flatten();
            major.zip(minor).ok_or_else(|| self.fault(TarFault::Number))
        };
        let kind = match header.entry_type().as_byte() {
            // Before ustar a directory was a file whose name ends so.
            0 | b'0' | b'7' if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::Regular,
            b'1' => Kind::HardLink(link),
            b'2' => Kind::Symlink(link),
            b'3' => device().map(|(major, minor)| Kind::Character(major, minor))?,
            b'4' => device().map(|(major, minor)| Kind::Block(major, minor))?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(self.fault(TarFault::MemberType(other))),
        };
        let old = header.as_old();
        let mut member = Member {
            mode: header.mode().map_err(number)?,
            uid: pax
                .uid
                .map_or_else(|| unless_blank(&old.uid, header.uid()).map_err(number), Ok)?,
            gid: pax
                .gid
                .map_or_else(|| unless_blank(&old.gid, header.gid()).map_err(number), Ok)?,
            mtime: pax
                .mtime
                .map_or_else(|| mtime(header).map_err(number), Ok)?,
            xattrs: pax.xattrs.clone(),
            size: if kind == Kind::Regular { stored } else { 0 },
            offset: self.position,
            sparse: None,
            path,
            kind,
        };
        // Only files have content, but pax(1) may write some behind hard links: it is skipped.
        self.remaining = stored;
        self.padding = padding(stored);
        if header.entry_type().as_byte() == b'S' {
            self.sparse_header(header, &mut member)?;
        } else if pax.sparse.is_some() && member.kind == Kind::Regular {
            self.sparse_pax(&pax, &mut member)?;
        }
        Ok(member)
    }

    fn sparse_header(&mut self, header: &tar::Header, member: &mut Member) -> Result<(), Error> {
        let number = |_| self.fault(TarFault::Number);
        let gnu = header
            .as_gnu()
            .ok_or_else(|| self.fault(TarFault::SparseMap))?;
        let mut pieces = Vec::new();
        for piece in gnu.sparse.iter().filter(|p| !p.is_empty()) {
            let (offset, length) = (
                piece.offset().map_err(number)?,
                piece.length().map_err(number)?,
            );
            sparse::push(&mut pieces, offset, length).map_err(|f| self.fault(f))?;
        }
        let size = gnu.real_size().map_err(number)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = tar::GnuExtSparseHeader::new();
            self.fill(block.as_mut_bytes())?;
            for piece in block.sparse().iter().filter(|p| !p.is_empty()) {
                let number = |_| self.fault(TarFault::Number);
                let (offset, length) = (
                    piece.offset().map_err(number)?,
                    piece.length().map_err(number)?,
                );
                sparse::push(&mut pieces, offset, length).map_err(|f| self.fault(f))?;
            }
            more = block.is_extended();
        }
        member.sparse =
            Some(SparseMap::checked(pieces, size, self.remaining).map_err(|f| self.fault(f))?);
        member.size = size;
        member.offset = self.position;
        Ok(())
    }

    fn sparse_pax(&mut self, pax: &Pax, member: &mut Member) -> Result<(), Error> {
        let (Some(SparseVersion::V1), Some(size)) = (pax.sparse, pax.sparse_size) else {
            return Err(self.fault(TarFault::SparseMap));
        };
        let mut text = Vec::new();
        let pieces = loop {
            let mut block = [0; BLOCK];
            if self.remaining < len(BLOCK) {
                return Err(self.fault(TarFault::SparseMap));
            }
            self.fill(&mut block)?;
            self.remaining -= len(BLOCK);
            text.extend_from_slice(&block);
            check(len(text.len()), self.bounds.pax, Limit::Pax, self.at)?;
            if let Some(pieces) = sparse::parse_v1(&text).map_err(|f| self.fault(f))? {
                break pieces;
            }
        };
        member.sparse =
            Some(SparseMap::checked(pieces, size, self.remaining).map_err(|f| self.fault(f))?);
        member.size = size;
        member.offset = self.position;
        if let Some(name) = &pax.sparse_name {
            member.path.clone_from(name);
        }
        Ok(())
    }
}

fn mtime(header: &tar::Header) -> io::Result<Mtime> {
    // A binary number with its sign bit set is a time before 1970.
    if header.as_old().mtime.first() == Some(&0xff) {
        return Ok(Mtime::default());
    }
    unless_blank(&header.as_old().mtime, header.mtime()).map(|seconds| Mtime::new(seconds, 0))
}

/// A field of NULs or blanks is a zero, as GNU tar and Go read it: writers leave out what they do not know.
fn unless_blank(field: &[u8], value: io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(0);
    }
    value
}

fn padding(size: u64) -> u64 {
    let block = len(BLOCK);
    (block - size % block) % block
}
