//! Tests of what is read to be flashed: raw, packed, with and without a block map.

use super::*;
use crate::bmap::Range;
use crate::files;

const BLOCK: usize = 4096;

/// An image of sixteen blocks, packed; blocks 1 and 2, 9, and 15 are mapped, 0 and 10 to 14 are not and have something all the
/// same, and the rest is zeros.
struct Sample {
    folder: tempfile::TempDir,
    bytes: Vec<u8>,
}

/// Bytes that repeat, but not with the blocks.
fn rubbish(size: usize) -> Vec<u8> {
    (0..=250).cycle().take(size).collect()
}

impl Sample {
    fn new() -> Self {
        let mut bytes = rubbish(16 * BLOCK);
        bytes[3 * BLOCK..10 * BLOCK].fill(0);
        let sample = Self {
            folder: tempfile::tempdir().unwrap(),
            bytes,
        };
        sample.pack(&sample.bytes);
        sample.put_map(&sample.map().encode());
        sample
    }

    fn map(&self) -> Map {
        let range = |first: usize, last: usize| {
            let bytes = &self.bytes[first * BLOCK..(last + 1) * BLOCK];
            Range {
                first: first as u64,
                last: last as u64,
                sum: Sha256::digest(bytes).into(),
            }
        };
        let ranges = vec![range(1, 2), range(9, 9), range(15, 15)];
        Map::new(self.bytes.len() as u64, BLOCK as u64, ranges).unwrap()
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk.img.zst")
    }

    fn pack(&self, bytes: &[u8]) {
        files::write(&self.path(), zstd::encode_all(bytes, 1).unwrap()).unwrap();
    }

    fn put_map(&self, text: &str) {
        files::write(&self.folder.path().join("disk.img.bmap"), text).unwrap();
    }

    /// What is handed on, and how it ends.
    fn read(&self) -> (Vec<(u64, u64, u8)>, Result<()>) {
        let mut pieces = Vec::new();
        let read = Image::open(&self.path()).and_then(|image| {
            image.read(&mut |offset, piece| {
                let kind = match piece {
                    Piece::Bytes(bytes) => {
                        let from = usize::try_from(offset).unwrap();
                        assert_eq!(bytes, &self.bytes[from..from + bytes.len()]);
                        b'b'
                    }
                    Piece::Zeros(_) => b'z',
                    Piece::Left(_) => b'l',
                };
                pieces.push((offset / 4096, piece.length() / 4096, kind));
                Ok(())
            })
        });
        (pieces, read)
    }

    fn refused(&self) -> String {
        format!("{:#}", self.read().1.unwrap_err())
    }
}

#[test]
fn what_a_map_lists_is_handed_on() {
    let sample = Sample::new();
    let (pieces, read) = sample.read();
    read.unwrap();
    let expected = [
        (0, 1, b'b'),
        (1, 2, b'b'),
        (3, 6, b'l'),
        (9, 1, b'z'),
        (10, 5, b'b'),
        (15, 1, b'b'),
    ];
    assert_eq!(pieces, expected);
    std::fs::remove_file(sample.folder.path().join("disk.img.bmap")).unwrap();
    let (pieces, read) = sample.read();
    read.unwrap();
    assert_eq!(pieces, [(0, 16, b'b')]);
}

#[test]
fn a_map_that_lists_nothing_leaves_no_data_out() {
    let sample = Sample::new();
    let map = Map::new(sample.bytes.len() as u64, BLOCK as u64, Vec::new()).unwrap();
    sample.put_map(&map.encode());
    let (pieces, read) = sample.read();
    read.unwrap();
    // One piece of the image has something, and is handed on as a whole.
    assert_eq!(pieces, [(0, 16, b'b')]);
}

#[test]
fn a_map_that_does_not_match_is_refused_with_the_range() {
    let mut sample = Sample::new();
    let map = sample.map();
    sample.bytes[9 * BLOCK + 7] = 1;
    sample.pack(&sample.bytes);
    let (pieces, read) = sample.read();
    let said = format!("{:#}", read.unwrap_err());
    assert!(
        said.contains("blocks 9-9, bytes 36864 to 40960, are not"),
        "{said}"
    );
    // Nothing of it was handed on.
    assert_eq!(pieces.last(), Some(&(3, 6, b'l')));

    for (bytes, expected) in [
        (15 * BLOCK, "unpacks to 61440 bytes, not to the 65536 bytes"),
        (17 * BLOCK, "unpacks more than the 65536 bytes"),
    ] {
        sample.bytes = rubbish(bytes);
        sample.bytes[3 * BLOCK..10 * BLOCK].fill(0);
        sample.pack(&sample.bytes);
        sample.put_map(&map.encode());
        let said = sample.refused();
        assert!(said.contains(expected), "{said}");
    }
    sample.put_map("<bmap");
    let said = sample.refused();
    assert!(said.contains("disk.img.bmap is no block map"), "{said}");
    sample.put_map(&" ".repeat(bmap::CAP + 1));
    let said = sample.refused();
    assert!(said.contains("at most 8388608 are read"), "{said}");
}

#[test]
fn a_damaged_stream_is_told_with_the_byte() {
    let sample = Sample::new();
    let whole = files::read(&sample.path()).unwrap();
    files::write(&sample.path(), &whole[..whole.len() - 1]).unwrap();
    let said = sample.refused();
    assert!(
        said.contains("disk.img.zst cannot be unpacked at byte 0 of the image"),
        "{said}"
    );
    // A window that would take all memory: 2 to the power of 30 (RFC 8878, 3.1.1.1.2).
    let bomb = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa0, 0x01, 0x00, 0x00];
    files::write(&sample.path(), bomb).unwrap();
    let said = sample.refused();
    assert!(
        said.contains("cannot be unpacked") && said.contains("emory"),
        "{said}"
    );
}

#[test]
fn the_size_is_known_before_it_is_unpacked() {
    let sample = Sample::new();
    let image = Image::open(&sample.path()).unwrap();
    assert!(image.is_packed());
    let said = image.check().unwrap_err().to_string();
    assert!(said.ends_with("is no disk image"), "{said}");
    assert_eq!(image.size(), Some(65_536));
    let to = tempfile::tempfile().unwrap();
    let said = format!("{:#}", image.unpack(&to, 65_535).unwrap_err());
    assert!(
        said.contains("disk.img.zst takes 65536 bytes, and the disk has 65535"),
        "{said}"
    );
    assert_eq!(to.metadata().unwrap().len(), 0, "it was begun");
    let to = tempfile::tempfile().unwrap();
    image.unpack(&to, 65_536).unwrap();
    let mut back = vec![9; sample.bytes.len()];
    to.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(back[BLOCK..3 * BLOCK], sample.bytes[BLOCK..3 * BLOCK]);
    assert_eq!(back[..BLOCK], sample.bytes[..BLOCK]);
    assert!(back[3 * BLOCK..9 * BLOCK].iter().all(|byte| *byte == 0));
}

#[test]
fn pieces_cover_a_part() {
    let part = Part {
        offset: 3,
        length: 2 * PIECE + 1,
        is_data: true,
    };
    let pieces: Vec<(u64, usize)> = part.pieces().collect();
    let piece = usize::try_from(PIECE).unwrap();
    assert_eq!(pieces, [(3, piece), (3 + PIECE, piece), (3 + 2 * PIECE, 1)]);
}

#[test]
fn an_image_whose_end_is_missing_is_told_with_both_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    let mut disk = vec![0; 100 * 512];
    disk[512..520].copy_from_slice(b"EFI PART");
    disk[544..552].copy_from_slice(&99_u64.to_le_bytes());
    files::write(&path, &disk).unwrap();
    Image::open(&path).unwrap().check().unwrap();
    // What is longer, as the dump of a larger card, has all of it.
    disk.extend([0; 512]);
    files::write(&path, &disk).unwrap();
    Image::open(&path).unwrap().check().unwrap();
    disk.truncate(100 * 512 - 1);
    files::write(&path, &disk).unwrap();
    let said = Image::open(&path).unwrap().check().unwrap_err().to_string();
    assert!(
        said.contains("has 51199 bytes") && said.contains("a disk of 51200"),
        "{said}"
    );
    // A table that claims more than there can be.
    disk[544..552].fill(0xff);
    files::write(&path, &disk).unwrap();
    Image::open(&path).unwrap().check().unwrap_err();
}
