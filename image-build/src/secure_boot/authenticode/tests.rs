//! Programs that are signed, and what is refused of them. Debian's `sbverify` judges signatures in the tier `host`.

use super::*;
use crate::keys::Passphrase;
use crate::secure_boot::{keys, statement};
use std::sync::LazyLock;

/// Where things are in what [`program`] makes: its optional header, and behind it the headers of two sections.
const OPTIONAL: usize = 88;
const SECTIONS: usize = OPTIONAL + 240;

static SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    keys::make(folder.path(), "gateway", None).unwrap();
    let path = |name| folder.path().join(name);
    Signer::open(&path("db.key"), &path("db.pem"), &Passphrase::Never).unwrap()
});

fn program() -> Vec<u8> {
    statement::make(b"kernel", b"initramfs", b"quiet\n").unwrap()
}

fn signed(program: Vec<u8>) -> Vec<u8> {
    sign(program, &SIGNER).unwrap()
}

fn refusal(program: Vec<u8>) -> String {
    format!("{:#}", sign(program, &SIGNER).unwrap_err())
}

fn digest(program: &[u8]) -> [u8; 32] {
    hash(program, &fields(program).unwrap()).unwrap()
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn any_length_is_filled_up_before_it_is_signed() {
    for more in 0..=8 {
        let mut long = program();
        long.extend(vec![7; more]);
        let made = signed(long.clone());
        let table = fields(&made).unwrap().table;
        assert_eq!(table, long.len().next_multiple_of(8)..made.len());
        assert_eq!(made.len() % 8, 0);
        // The signature is of what is there now, the filling included.
        long.resize(table.start, 0);
        assert_eq!(digest(&made), digest(&long), "{more}");
        assert!(holds(&made[table], &digest(&long)), "{more}");
    }
}

#[test]
fn a_second_signature_keeps_the_first_and_is_of_the_same() {
    let first = signed(program());
    let second = signed(first.clone());
    let [one, both] = [&first, &second].map(|made| fields(made).unwrap().table);
    assert_eq!(both.start, one.start);
    assert_eq!(second[one.clone()], first[one.clone()]);
    // The same key signs the same bytes.
    assert_eq!(second[one.end..], first[one]);
    assert_eq!(digest(&second), digest(&program()));
}

#[test]
fn certificates_elsewhere_are_refused() {
    let mut trailing = signed(program());
    trailing.push(0);
    let error = refusal(trailing);
    assert!(error.contains("its certificates end at byte"), "{error}");
    let mut cut = signed(program());
    cut.truncate(cut.len() - 8);
    let error = refusal(cut);
    assert!(error.contains("its certificates end at byte"), "{error}");
    let made = signed(program());
    let Fields { entry, table, .. } = fields(&made).unwrap();
    let mut unaligned = made[..table.start].to_vec();
    unaligned.extend([0; 4]);
    unaligned.extend(&made[table.clone()]);
    let start = u32::try_from(table.start + 4).unwrap().to_le_bytes();
    put(&mut unaligned, &entry, &start);
    let error = refusal(unaligned);
    assert!(error.contains("no multiple of eight"), "{error}");
}

#[test]
fn sections_are_hashed_by_their_place_and_a_gap_is_not() {
    let whole = program();
    let mut unsorted = whole.clone();
    let (first, second) = unsorted[SECTIONS..SECTIONS + 80].split_at_mut(40);
    first.swap_with_slice(second);
    let checksum = OPTIONAL + 64..OPTIONAL + 68;
    let entry = OPTIONAL + 144..OPTIONAL + 152;
    let expected = |bytes: &[u8], gap: usize| -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(&bytes[..checksum.start]);
        hash.update(&bytes[checksum.end..entry.start]);
        hash.update(&bytes[entry.end..0x400]);
        hash.update(&bytes[0x400 + gap..]);
        // Behind the sections as their sizes add up: the gap's length, once more.
        hash.update(&bytes[bytes.len() - gap..]);
        hash.finalize().into()
    };
    assert_eq!(digest(&unsorted), expected(&unsorted, 0));
    assert_ne!(digest(&unsorted), digest(&whole));
    let mut gap = whole.clone();
    gap.splice(0x400..0x400, [9; 16]);
    let start = u32::try_from(0x410).unwrap().to_le_bytes();
    let at = SECTIONS + 40 + 20;
    put(&mut gap, &(at..at + 4), &start);
    assert_eq!(digest(&gap), expected(&gap, 16));
    signed(gap);
}

#[test]
fn what_has_no_place_for_a_signature_is_refused() {
    for (at, field, why) in [
        (OPTIONAL, [0x0b, 1, 0, 0], "no program for a 64-bit machine"),
        (OPTIONAL + 108, [4, 0, 0, 0], "no directory"),
        (OPTIONAL - 4, [151, 0, 0x22, 0], "no directory"),
        (70, [0xff, 0xff, 0, 0], "its table of sections is cut off"),
        (SECTIONS + 16, [0, 0, 0, 1], "beyond its end"),
        (60, [0xff; 4], "it is no program for UEFI"),
    ] {
        let mut other = program();
        put(&mut other, &(at..at + 4), &field);
        let error = refusal(other);
        assert!(error.contains(why), "{error}");
    }
    let whole = program();
    for length in 0..whole.len() {
        sign(whole[..length].to_vec(), &SIGNER).unwrap_err();
    }
}

#[test]
fn the_checksum_is_that_of_the_specification() {
    // Words 0x0201 and 0x0003, and three bytes.
    assert_eq!(checksum(&[1, 2, 3]), 0x0204 + 3);
    // A carry comes back in.
    assert_eq!(checksum(&[0xff, 0xff, 2, 0]), 2 + 4);
    let made = signed(program());
    let place = fields(&made).unwrap().checksum;
    let mut without = made.clone();
    put(&mut without, &place, &[0; 4]);
    assert_eq!(u32_at(&made, place.start), Some(checksum(&without)));
}
