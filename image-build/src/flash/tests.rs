//! Tests of flashing: what is written, refused and said.

use super::*;

const MIB: u64 = 1 << 20;

/// Data at its beginning and in its middle, and holes.
fn image(folder: &Path) -> PathBuf {
    let path = folder.join("image");
    let file = File::create(&path).unwrap();
    file.set_len(20 * MIB).unwrap();
    file.write_all_at(&[1; 5000], 0).unwrap();
    file.write_all_at(&vec![2; 6 << 20], 9 * MIB).unwrap();
    path
}

fn open(path: &Path) -> Image {
    Image::open(path).unwrap()
}

fn used(folder: &Path, size: u64) -> PathBuf {
    let path = folder.join("card");
    crate::files::write(&path, vec![0xaa; usize::try_from(size).unwrap()]).unwrap();
    path
}

#[test]
fn a_used_card_becomes_the_image_and_what_is_behind_it_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (image, card) = (image(folder.path()), used(folder.path(), 21 * MIB));
    let (mut written, mut compared) = (0, 0);
    let target = Target::open(&card).unwrap();
    assert_eq!(target.size(), 21 * MIB);
    let flashed = target.flash(&open(&image), &mut |stage, bytes| match stage {
        Stage::Writing => written += bytes,
        Stage::Comparing => compared += bytes,
    });
    let flashed = flashed.unwrap();
    assert_eq!((written, compared), (20 * MIB, 20 * MIB));
    assert_eq!(flashed.size, 20 * MIB);
    assert!(
        flashed.data >= 6 * MIB && flashed.data < 8 * MIB,
        "{flashed:?}"
    );
    let card = std::fs::read(card).unwrap();
    let (first, behind) = card.split_at(usize::try_from(20 * MIB).unwrap());
    assert_eq!(first, std::fs::read(image).unwrap());
    assert!(behind.iter().all(|byte| *byte == 0xaa));
}

#[test]
fn what_does_not_fit_is_refused_before_a_byte_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (image, card) = (image(folder.path()), used(folder.path(), 19 * MIB));
    let refused = Target::open(&card)
        .unwrap()
        .flash(&open(&image), &mut |_, _| {});
    let said = format!("{:#}", refused.unwrap_err());
    assert!(
        said.contains("20971520 bytes") && said.contains("19922944"),
        "{said}"
    );
    assert!(
        std::fs::read(card)
            .unwrap()
            .iter()
            .all(|byte| *byte == 0xaa)
    );
}

#[test]
fn a_medium_that_fails_is_named_with_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path());
    // A file that ends where writes are refused, as a pulled card does: its handle reads only.
    let card = used(folder.path(), 21 * MIB);
    let target = Target {
        file: File::open(&card).unwrap(),
        path: card,
        size: 21 * MIB,
        is_device: false,
    };
    let said = format!(
        "{:#}",
        target.flash(&open(&image), &mut |_, _| {}).unwrap_err()
    );
    assert!(said.contains("bytes 0 to"), "{said}");
    let said = target.compare(Piece::Bytes(&[1; 5000]), 0).unwrap_err();
    let said = said.to_string();
    assert!(said.contains("byte 0 came back"), "{said}");
}

#[test]
fn what_became_of_a_medium_is_told() {
    for (is_device, now, said) in [
        (true, None, "it is gone: was it pulled out?"),
        (true, Some(0), "it is gone: was it pulled out?"),
        (true, Some(99), "it has 99 bytes by now"),
        (
            true,
            Some(100),
            "it is still there: it is worn out, or its connection is bad",
        ),
        (false, None, "it is gone"),
        (
            false,
            Some(0),
            "the file is still there: is its own disk full?",
        ),
    ] {
        assert_eq!(state(is_device, now, 100), said);
    }
}

#[test]
fn what_was_begun_is_called_incomplete() {
    let folder = tempfile::tempdir().unwrap();
    let (image, card) = (image(folder.path()), used(folder.path(), 21 * MIB));
    let target = Target::open(&card).unwrap();
    let packed = crate::image::packed::path(&image);
    // Cut off in the middle, without a map; the head still says the size.
    let whole = zstd::encode_all(File::open(&image).unwrap(), 1).unwrap();
    crate::files::write(&packed, &whole[..whole.len() - 5]).unwrap();
    let said = target.flash(&open(&packed), &mut |_, _| {}).unwrap_err();
    let said = format!("{said:#}");
    assert!(said.contains("has a part of the image"), "{said}");
    assert!(said.contains("cannot be unpacked at byte"), "{said}");
}

#[test]
fn what_says_no_size_and_does_not_fit_is_told_with_what_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let packed = folder.path().join("image.zst");
    // A stream says no size: whoever packs it does not know it yet.
    let mut encoder = zstd::Encoder::new(File::create(&packed).unwrap(), 1).unwrap();
    for _ in 0..20 {
        std::io::Write::write_all(&mut encoder, &[7; 1 << 20]).unwrap();
    }
    encoder.finish().unwrap();
    let image = open(&packed);
    assert_eq!(image.size(), None);
    let card = used(folder.path(), 19 * MIB);
    let target = Target::open(&card).unwrap();
    target.check(&image).unwrap();
    let said = format!("{:#}", target.flash(&image, &mut |_, _| {}).unwrap_err());
    let expected = format!(
        "{} takes 20971520 bytes or more, and {} has 19922944",
        packed.display(),
        card.display()
    );
    assert!(said.contains(&expected), "{said}");
    assert!(said.contains("its first 16777216 bytes at most"), "{said}");
    let copy = tempfile::tempfile().unwrap();
    let said = image.unpack(&copy, 19 * MIB).unwrap_err().to_string();
    assert!(said.contains("20971520 bytes or more"), "{said}");
}

#[test]
fn a_disk_that_takes_root_says_how() {
    let disk = Path::new("/dev/sdb");
    let said = |is_device, errno: Errno| {
        let error = std::io::Error::from_raw_os_error(errno.raw_os_error());
        closed(disk, is_device, error).to_string()
    };
    for errno in [Errno::ACCESS, Errno::PERM] {
        let text = said(true, errno);
        assert!(text.contains("kedge flash /dev/sdb"), "{text}");
        assert!(!said(false, errno).contains("help"));
    }
    assert!(said(true, Errno::BUSY).contains("lsblk /dev/sdb"));
    assert!(!said(true, Errno::IO).contains("help"));
}
