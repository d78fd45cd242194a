//! What is laid out is read back by a reader that shares no code with it: from the boot sector to the files.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// The image of a partition in which something else stood before.
fn image(partition: u64, layout: &Layout, files: &[&[u8]]) -> Vec<u8> {
    let mut image = vec![0xa5; usize::try_from(partition).unwrap()];
    let mut put = |offset: u64, bytes: &[u8]| {
        let offset = usize::try_from(offset).unwrap();
        image[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    for piece in layout.pieces() {
        match piece {
            Piece::Bytes { offset, bytes } => put(offset, bytes),
            Piece::File { offset, number } => put(offset, files[number]),
        }
    }
    put(0, layout.boot_sector());
    image
}

/// Reads every file by its name.
fn read(image: &[u8]) -> BTreeMap<String, Vec<u8>> {
    assert_eq!(&image[510..512], &[0x55, 0xaa]);
    assert_eq!(&image[54..62], b"FAT16   ");
    assert_eq!(u16_at(image, 11), 512);
    let per_cluster = usize::from(image[13]);
    let (reserved, fats, entries) = (u16_at(image, 14), usize::from(image[16]), u16_at(image, 17));
    let total = u16_at(image, 19).max(u32_at(image, 32));
    assert!(u16_at(image, 19) == 0 || u32_at(image, 32) == 0);
    assert!(total * 512 <= image.len());
    let fat_sectors = u16_at(image, 22);
    let fat = |number: usize| {
        let at = (reserved + number * fat_sectors) * 512;
        &image[at..at + fat_sectors * 512]
    };
    assert_eq!(fats, 2);
    assert_eq!(fat(0), fat(1));
    let root = (reserved + 2 * fat_sectors) * 512;
    let data = root + entries * 32;
    assert_eq!(data % 4096, 0);
    let clusters = (total - data / 512) / per_cluster;
    assert!((4085..65525).contains(&clusters), "{clusters}");
    assert!(fat_sectors * 256 >= clusters + 2);

    let mut files = BTreeMap::new();
    let mut used = std::collections::BTreeSet::new();
    let mut long = String::new();
    for entry in image[root..data].chunks(32) {
        if entry[0] == 0 {
            assert!(entry.iter().all(|byte| *byte == 0));
            continue;
        }
        if entry[11] == 0x0f {
            let places = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
            let part: String = places
                .iter()
                .map(|at| u16_at(entry, *at))
                .take_while(|unit| *unit != 0)
                .map(|unit| char::from(u8::try_from(unit).unwrap()))
                .collect();
            long.insert_str(0, &part);
            continue;
        }
        let name = if long.is_empty() {
            short(entry)
        } else {
            std::mem::take(&mut long)
        };
        let (mut cluster, size) = (u16_at(entry, 26), u32_at(entry, 28));
        let mut bytes = Vec::new();
        while (2..0xfff8).contains(&cluster) {
            assert!(cluster < clusters + 2 && used.insert(cluster));
            let at = data + (cluster - 2) * per_cluster * 512;
            bytes.extend_from_slice(&image[at..at + per_cluster * 512]);
            cluster = u16_at(fat(0), cluster * 2);
        }
        assert_eq!(bytes.len(), size.next_multiple_of(per_cluster * 512));
        bytes.truncate(size);
        files.insert(name, bytes);
    }
    // Nothing is used that no file has.
    let marked = (2..clusters + 2).filter(|cluster| u16_at(fat(0), cluster * 2) != 0);
    assert_eq!(marked.count(), used.len());
    files
}

fn short(entry: &[u8]) -> String {
    let part = |bytes: &[u8], lower: bool| {
        let text = std::str::from_utf8(bytes).unwrap().trim_end().to_owned();
        if lower { text.to_lowercase() } else { text }
    };
    let base = part(&entry[..8], entry[12] & 0x08 != 0);
    let extension = part(&entry[8..11], entry[12] & 0x10 != 0);
    if extension.is_empty() {
        base
    } else {
        format!("{base}.{extension}")
    }
}

fn lay(partition: u64, files: &[(&str, &[u8])]) -> Result<Vec<u8>, Error> {
    let list: Vec<_> = files
        .iter()
        .map(|(name, bytes)| File {
            name,
            length: bytes.len() as u64,
        })
        .collect();
    let layout = Layout::new(partition, 0x1234_5678, &list)?;
    let bytes: Vec<_> = files.iter().map(|(_, bytes)| *bytes).collect();
    Ok(image(partition, &layout, &bytes))
}

#[test]
fn a_slot_is_read_back() {
    for partition in [3 << 20, 16 << 20, 64 << 20, 100 << 20, 600 << 20] {
        let (kernel, initramfs) = (vec![7; 1_500_000], vec![9; 700_001]);
        let files = [
            ("kernel", &kernel[..]),
            ("initramfs", &initramfs),
            ("cmdline.txt", b"quiet\n"),
            ("empty", b""),
        ];
        let image = lay(partition, &files).unwrap();
        let back = read(&image);
        assert_eq!(back.len(), 4);
        for (name, bytes) in files {
            assert!(back[name] == bytes, "{name}");
        }
    }
}

#[test]
fn short_names_of_files_are_distinct_and_belong_to_the_long_ones() {
    let files = [
        ("initramfs", &b"1"[..]),
        ("initramfs-2", b"2"),
        ("bcm2711-rpi-4-b.dtb", b"3"),
        ("a.b.c", b"4"),
        (
            "a-name-that-is-long-enough-for-more-than-one-entry-of-13.characters",
            b"5",
        ),
    ];
    let image = lay(8 << 20, &files[..4]).unwrap();
    let back = read(&image);
    for (name, bytes) in &files[..4] {
        assert_eq!(back[*name], *bytes);
    }
    assert_eq!(lay(8 << 20, &files), Err(Error::SlotFile { number: 4 }));
    let root = (u16_at(&image, 14) + 2 * u16_at(&image, 22)) * 512;
    let mut names = Vec::new();
    let mut checksum = None;
    for entry in image[root..root + 512].chunks(32) {
        if entry[11] == 0x0f {
            checksum = Some(entry[13]);
        } else if entry[0] != 0 {
            let sum = entry[..11]
                .iter()
                .fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
            assert_eq!(checksum.take(), Some(sum));
            names.push(entry[..11].to_vec());
        }
    }
    assert_eq!(
        names,
        [
            b"INITRA~1   ",
            b"INITRA~2   ",
            b"BCM271~3DTB",
            b"AB~4    C  ",
        ]
    );
}

/// The longest names, as many as there may be: their entries fit the root folder, and no two short names are one.
#[test]
fn the_most_files_with_the_longest_names_are_read_back() {
    let names: Vec<String> = (0..MOST_FILES)
        .map(|number| format!("{:x<60}.{number:03}", "same-beginning-"))
        .collect();
    let contents: Vec<Vec<u8>> = (0..MOST_FILES)
        .map(|number| vec![u8::try_from(number).unwrap(); 5000])
        .collect();
    let files: Vec<(&str, &[u8])> = names
        .iter()
        .zip(&contents)
        .map(|(name, bytes)| (&name[..], &bytes[..]))
        .collect();
    let image = lay(8 << 20, &files).unwrap();
    let back = read(&image);
    for (name, bytes) in &files {
        assert_eq!(back[*name], *bytes);
    }
    let root = (u16_at(&image, 14) + 2 * u16_at(&image, 22)) * 512;
    let shorts: std::collections::BTreeSet<&[u8]> = image[root..root + 512 * 32]
        .chunks(32)
        .filter(|entry| entry[0] != 0 && entry[11] != 0x0f)
        .map(|entry| &entry[..11])
        .collect();
    assert_eq!(shorts.len(), MOST_FILES);
    assert!(
        shorts.contains(&b"SAME-B~9008"[..]) && shorts.contains(&b"SAME-~10009"[..]),
        "{shorts:?}"
    );
}

#[test]
fn what_does_not_fit_is_told_with_the_bytes() {
    let file = |length| File {
        name: "kernel",
        length,
    };
    assert_eq!(
        Layout::new(1 << 20, 0, &[]),
        Err(Error::SlotSize { size: 1 << 20 })
    );
    let error = Layout::new(16 << 20, 0, &[file(16 << 20)]).unwrap_err();
    let Error::SlotFull { needed, free } = error else {
        panic!("{error:?}")
    };
    assert!(needed == 16 << 20 && free < needed);
    Layout::new(16 << 20, 0, &[file(free)]).unwrap();
    Layout::new(16 << 20, 0, &[file(free + 1)]).unwrap_err();
    // More than a FAT can address is left unused.
    let layout = Layout::new(64 << 30, 0, &[file(1 << 30)]).unwrap();
    assert!(u32_at(layout.boot_sector(), 32) < 4 << 20);
}

#[test]
fn names_that_fat_cannot_have_are_refused() {
    for name in [
        "",
        "Kernel",
        ".hidden",
        "end.",
        "a/b",
        "a b",
        "1st",
        &"x".repeat(65),
    ] {
        assert_eq!(
            lay(8 << 20, &[(name, b"")]),
            Err(Error::SlotFile { number: 0 }),
            "{name}"
        );
    }
    let many: Vec<(String, &[u8])> = (0..=MOST_FILES)
        .map(|n| (format!("f{n}"), &b""[..]))
        .collect();
    let many: Vec<_> = many
        .iter()
        .map(|(name, bytes)| (&name[..], *bytes))
        .collect();
    lay(8 << 20, &many[..MOST_FILES]).unwrap();
    let number = MOST_FILES;
    assert_eq!(lay(8 << 20, &many), Err(Error::SlotFile { number }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_is_laid_out_is_read_back(
        partition in (2_200_000_u64..12 << 20),
        sizes in prop::collection::vec(0_usize..400_000, 0..6),
    ) {
        let contents: Vec<(String, Vec<u8>)> = sizes
            .iter()
            .enumerate()
            .map(|(n, size)| (format!("f{}", "x".repeat(n * 3)), vec![u8::try_from(n).unwrap() + 1; *size]))
            .collect();
        let files: Vec<(&str, &[u8])> = contents.iter().map(|(n, b)| (&n[..], &b[..])).collect();
        let back = read(&lay(partition, &files).unwrap());
        let expected: BTreeMap<String, Vec<u8>> = contents.iter().cloned().collect();
        prop_assert!(back == expected);
    }
}

#[test]
fn a_slot_says_where_it_lies_where_nobody_else_does() {
    let disk = Guid::parse("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
    for (arguments, slot, teller, line) in [
        ("quiet", Slot::A, Teller::Loader, "quiet\n"),
        ("", Slot::B, Teller::Loader, "\n"),
        (
            "quiet",
            Slot::A,
            Teller::Slot(disk),
            "kedge.written-to=a kedge.disk=c12a7328-f81f-11d2-ba4b-00a0c93ec93b quiet\n",
        ),
        ("", Slot::B, Teller::Slot(None), "kedge.written-to=b\n"),
    ] {
        assert_eq!(super::line(arguments, slot, teller), line);
    }
}
