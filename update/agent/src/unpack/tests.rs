//! Against the reference: what it packs is unpacked, and what is changed on the way is refused or is something else, in
//! the same bounds.

use super::*;
use proptest::prelude::*;

fn unpack(packed: &[u8], size: usize, piece: usize) -> Result<Vec<u8>, Damaged> {
    let mut frame = Frame::new(size);
    for piece in packed.chunks(piece) {
        let rest = frame.take(piece)?;
        assert!(frame.out().len() <= size && frame.pending.len() <= BLOCK);
        assert!(rest.is_empty() || frame.is_done());
    }
    if !frame.is_done() {
        return Err(Damaged("cut short"));
    }
    Ok(frame.out().to_vec())
}

/// Bytes of several kinds: what repeats near and far, text, chance, zeros.
fn sample(size: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut chance = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize
    };
    let mut bytes = Vec::new();
    while bytes.len() < size {
        match chance() % 5 {
            0 => bytes.extend((0..chance() % 3000).map(|_| chance().to_le_bytes()[0])),
            1 => bytes.extend((0..chance() % 4000).map(|_| b"etaoin shrdlu"[chance() % 13])),
            2 => bytes.resize(bytes.len() + chance() % 9000, 0),
            3 if bytes.len() > 100 => {
                let from = chance() % (bytes.len() - 50);
                let to = (from + chance() % 70_000).min(bytes.len());
                bytes.extend_from_within(from..to);
            }
            _ => bytes.extend(format!("line {} of a log\n", chance() % 1000).bytes()),
        }
    }
    bytes.truncate(size);
    bytes
}

#[test]
fn what_the_reference_packs_is_unpacked() {
    for size in [
        0,
        1,
        2,
        255,
        256,
        257,
        5000,
        65_791,
        65_792,
        131_073,
        500_000,
        1 << 20,
    ] {
        let bytes = sample(size);
        for level in [-5, 1, 3, 6, 12, 19, 22] {
            let packed = zstd::bulk::compress(&bytes, level).unwrap();
            for piece in [packed.len().max(1), 4096, 777] {
                let unpacked = unpack(&packed, size, piece);
                assert!(unpacked.as_deref() == Ok(&bytes[..]), "{size} at {level}");
            }
        }
    }
}

#[test]
fn real_files_are_unpacked() {
    // The largest thing at hand with code, text and tables in it: this test itself.
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    for (number, bytes) in program.chunks(Frame::MOST).take(24).enumerate() {
        for level in [1, 6, 19] {
            let packed = zstd::bulk::compress(bytes, level).unwrap();
            let unpacked = unpack(&packed, bytes.len(), 16 * 1024);
            assert!(unpacked.as_deref() == Ok(bytes), "{number} at {level}");
        }
    }
}

#[test]
fn a_checksum_and_a_window_are_passed_over() {
    use std::io::Write;
    let bytes = sample(300_000);
    let mut encoder = zstd::Encoder::new(Vec::new(), 6).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.window_log(17).unwrap();
    encoder.set_pledged_src_size(Some(300_000)).unwrap();
    encoder.write_all(&bytes).unwrap();
    let mut packed = encoder.finish().unwrap();
    packed.extend(b"next");
    let mut frame = Frame::new(bytes.len());
    assert_eq!(frame.take(&packed), Ok(&b"next"[..]));
    assert!(frame.is_done() && frame.out() == bytes);
    frame.again(5);
    let packed = zstd::bulk::compress(b"hello", 6).unwrap();
    assert_eq!(frame.take(&packed), Ok(&b""[..]));
    assert!(frame.is_done() && frame.out() == b"hello");
}

#[test]
fn frames_of_another_size_or_kind_are_refused() {
    let packed = zstd::bulk::compress(&sample(5000), 6).unwrap();
    for size in [0, 4999, 5001, Frame::MOST] {
        assert_eq!(
            unpack(&packed, size, 100),
            Err(Damaged("a frame of another size"))
        );
    }
    let unsized_frame = zstd::encode_all(&sample(5000)[..], 6).unwrap();
    assert_eq!(
        unpack(&unsized_frame, 5000, 100),
        Err(Damaged("a frame that does not tell its size"))
    );
    for length in 0..packed.len() {
        assert!(
            unpack(&packed[..length], 5000, 100).is_err(),
            "cut at {length}"
        );
    }
    assert_eq!(
        unpack(b"PK\x03\x04....", 5000, 100),
        Err(Damaged("no frame of zstd"))
    );
}

/// One block of 60 kB whose 30,000 sequences would repeat the byte before them 131,074 times each: 4 GB.
#[test]
fn a_bomb_ends_at_its_frame() {
    let mut packed = MAGIC.to_le_bytes().to_vec();
    packed.extend([0xa0, 0, 0, 0x10, 0]);
    // 30,000 literals, all the same; as many sequences, whose three codes are always 1, 0 and 52.
    let mut block = (30_000_u32 << 4 | 0b1101).to_le_bytes()[..3].to_vec();
    block.extend([b'x', 0xf5, 0x30, 0b0101_0100, 1, 0, 52]);
    // 16 bits of each match's length.
    block.extend([0xff; 60_000]);
    block.push(1);
    let head = u32::try_from(block.len()).unwrap() << 3 | 2 << 1 | 1;
    packed.extend(&head.to_le_bytes()[..3]);
    packed.extend(block);
    let mut frame = Frame::new(Frame::MOST);
    let refused = Err(Damaged("more than its frame has"));
    assert_eq!(frame.take(&packed), refused);
    assert!(frame.out().len() > 900_000 && frame.out.capacity() <= Frame::MOST);
}

proptest! {
    #[test]
    fn damage_neither_panics_nor_grows(
        size in 0_usize..200_000, level in 1_i32..20,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut packed = zstd::bulk::compress(&sample(size), level).unwrap();
        for (place, byte) in changes {
            let place = place.index(packed.len());
            packed[place] ^= byte;
        }
        let ours = unpack(&packed, size, 5000);
        // Most damage nobody can see: there is no checksum. Then both take it for the same.
        let theirs = zstd::bulk::decompress(&packed, size);
        if let (Ok(ours), Ok(theirs)) = (&ours, &theirs) {
            prop_assert!(ours == theirs);
        }
    }

    #[test]
    fn anything_at_all_ends(bytes in prop::collection::vec(any::<u8>(), 0..3000), size in 0_usize..300_000) {
        let mut packed = MAGIC.to_le_bytes().to_vec();
        packed.push(0xa0);
        packed.extend(&u32::try_from(size).unwrap().to_le_bytes());
        packed.extend(bytes);
        unpack(&packed, size, 1000).ok();
    }
}
