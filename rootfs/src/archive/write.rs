//! Writing members so that the same members are always the same bytes.
//!
//! ustar headers without user names; what does not fit goes into a PAX header with sorted records. Contents are read from the spool.

use std::io::{self, Read, Write};

use super::{BLOCK, Kind, Mtime};
use crate::bounds::len;

/// Header fields of one member to write.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    pub(crate) path: &'a [u8],
    pub(crate) kind: &'a Kind,
    pub(crate) mode: u16,
    pub(crate) uid: u16,
    pub(crate) gid: u16,
    pub(crate) mtime: Mtime,
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
    pub(crate) size: u64,
}

/// Writes one tar stream.
pub(crate) struct TarWriter<W> {
    sink: W,
}

/// Largest size that eleven octal digits hold.
const MAX_OCTAL: u64 = 0o77_777_777_777;

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(sink: W) -> Self {
        Self { sink }
    }

    /// Writes a member; `content` must give exactly `fields.size` bytes.
    pub(crate) fn member(&mut self, fields: &Fields<'_>, content: &mut dyn Read) -> io::Result<()> {
        let records = pax_records(fields);
        if !records.is_empty() {
            let extension = header(b"PaxHeaders/0", b'x', len(records.len()), None);
            self.sink.write_all(&extension)?;
            self.sink.write_all(&records)?;
            self.pad(len(records.len()))?;
        }
        let kind = match fields.kind {
            Kind::Regular => b'0',
            Kind::HardLink(_) => b'1',
            Kind::Symlink(_) => b'2',
            Kind::Character(..) => b'3',
            Kind::Block(..) => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
        };
        let size = if fields.size > MAX_OCTAL {
            0
        } else {
            fields.size
        };
        self.sink
            .write_all(&header(fields.path, kind, size, Some(fields)))?;
        let copied = io::copy(&mut content.take(fields.size), &mut self.sink)?;
        if copied != fields.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.pad(fields.size)
    }

    /// Writes the end-of-archive mark and gives the sink back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.sink.write_all(&[0; 2 * BLOCK])?;
        self.sink.flush()?;
        Ok(self.sink)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = usize::try_from(size % len(BLOCK)).unwrap_or(0);
        if over > 0 {
            self.sink
                .write_all([0; BLOCK].get(over..).unwrap_or_default())?;
        }
        Ok(())
    }
}

fn target(kind: &Kind) -> &[u8] {
    if let Kind::HardLink(target) | Kind::Symlink(target) = kind {
        target
    } else {
        &[]
    }
}

fn pax_records(fields: &Fields<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields.xattrs {
        let mut key = b"SCHILY.xattr.".to_vec();
        key.extend_from_slice(name);
        record(&mut out, &key, value);
    }
    let target = target(fields.kind);
    if target.len() > 100 {
        record(&mut out, b"linkpath", target);
    }
    if fields.mtime.nanoseconds != 0 {
        let time = format!("{}.{:09}", fields.mtime.seconds, fields.mtime.nanoseconds);
        record(&mut out, b"mtime", time.as_bytes());
    }
    if fields.path.len() > 100 {
        record(&mut out, b"path", fields.path);
    }
    if fields.size > MAX_OCTAL {
        record(&mut out, b"size", fields.size.to_string().as_bytes());
    }
    out
}

/// Appends `length key=value\n`; the length counts its own digits.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn header(path: &[u8], kind: u8, size: u64, fields: Option<&Fields<'_>>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    put(
        &mut block,
        0,
        path.get(..path.len().min(100)).unwrap_or_default(),
    );
    let (mode, uid, gid, seconds) =
        fields.map_or((0, 0, 0, 0), |f| (f.mode, f.uid, f.gid, f.mtime.seconds));
    put(&mut block, 100, format!("{mode:07o}").as_bytes());
    put(&mut block, 108, format!("{uid:07o}").as_bytes());
    put(&mut block, 116, format!("{gid:07o}").as_bytes());
    put(&mut block, 124, format!("{size:011o}").as_bytes());
    put(&mut block, 136, format!("{seconds:011o}").as_bytes());
    put(&mut block, 148, b"        ");
    put(&mut block, 156, &[kind]);
    let target = fields.map_or(&[][..], |f| target(f.kind));
    put(
        &mut block,
        157,
        target.get(..target.len().min(100)).unwrap_or_default(),
    );
    put(&mut block, 257, b"ustar\x0000");
    if let Some(Kind::Character(major, minor) | Kind::Block(major, minor)) = fields.map(|f| f.kind)
    {
        put(&mut block, 329, format!("{major:07o}").as_bytes());
        put(&mut block, 337, format!("{minor:07o}").as_bytes());
    }
    let sum = block.iter().fold(0_u32, |sum, b| sum + u32::from(*b));
    put(&mut block, 148, format!("{sum:06o}\0 ").as_bytes());
    block
}

fn put(block: &mut [u8; BLOCK], at: usize, bytes: &[u8]) {
    for (to, from) in block.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}
