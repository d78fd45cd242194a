//! Growing the mounted ext4 to the size of its device.

use super::super::Error;
use kedge_sys::{block, ext4};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where the superblock is in every ext4, and how much of it is looked at.
const SUPERBLOCK: u64 = 1024;
const LENGTH: usize = 1024;
/// `INCOMPAT_64BIT`: the upper half of the number of blocks is valid.
const WIDE: u32 = 0x80;

/// Grows the file system that `directory` is on, and that `device` holds, to as many blocks as fit; `begins` is called
/// if there is something to grow. Returns the blocks before and after, the same where there is nothing.
pub(super) fn grow(
    directory: &Path,
    device: &Path,
    begins: impl FnOnce() -> Result<(), Error>,
) -> Result<(u64, u64), Error> {
    let file = |doing, path: &Path, source| Error::File {
        doing,
        path: path.to_owned(),
        source,
    };
    let opened = File::open(device).map_err(|source| file("open", device, source))?;
    let mut superblock = [0; LENGTH];
    opened
        .read_exact_at(&mut superblock, SUPERBLOCK)
        .map_err(|source| file("read", device, source))?;
    let (before, block_size) = blocks(&superblock).ok_or_else(|| Error::NotExt4 {
        path: device.to_owned(),
    })?;
    let size = block::size(&opened).map_err(Error::Grow)?;
    // The block size is a power of two, so never 0.
    let after = size.checked_div(block_size).unwrap_or(before);
    if after <= before {
        return Ok((before, before));
    }
    let mount = File::open(directory).map_err(|source| file("open", directory, source))?;
    begins()?;
    ext4::grow(&mount, after).map_err(Error::Grow)?;
    Ok((before, after))
}

/// Number of blocks and their size in bytes (Linux `Documentation/filesystems/ext4/super.rst`).
fn blocks(superblock: &[u8; LENGTH]) -> Option<(u64, u64)> {
    let word = |at: usize| -> Option<u32> {
        let bytes = superblock.get(at..at.checked_add(4)?)?;
        bytes.try_into().ok().map(u32::from_le_bytes)
    };
    if superblock.get(0x38..0x3a) != Some(&[0x53, 0xef]) {
        return None;
    }
    let low = u64::from(word(0x4)?);
    let high = if word(0x60)? & WIDE == 0 {
        0
    } else {
        u64::from(word(0x150)?) << 32
    };
    let shift = word(0x18)?;
    // 1 KiB to 64 KiB.
    (shift <= 6).then(|| (high | low, 1024 << shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superblock_tells_its_blocks() {
        let mut superblock = [0; LENGTH];
        assert_eq!(blocks(&superblock), None);
        superblock[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        superblock[0x4..0x8].copy_from_slice(&25_600_u32.to_le_bytes());
        superblock[0x18] = 2;
        superblock[0x150] = 1;
        assert_eq!(blocks(&superblock), Some((25_600, 4096)));
        superblock[0x60] = 0x80;
        assert_eq!(blocks(&superblock), Some((25_600 + (1 << 32), 4096)));
        superblock[0x18] = 7;
        assert_eq!(blocks(&superblock), None);
    }
}
