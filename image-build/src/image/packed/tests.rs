//! A packed image goes onto used cards, by bmaptool and by us, and is the same twice.

use super::*;
use crate::bmap::Map;
use crate::flash::{Image, Target};
use crate::image::tests::Sample;
use crate::image::{ext4, fat, gpt};
use crate::{debian, process};
use std::os::unix::fs::FileExt;
use std::process::Command;

/// An image that is small enough to be copied often.
fn sample() -> (Sample, PathBuf) {
    let mut sample = Sample::new();
    sample.board.partitions.slot_a = 20;
    sample.board.partitions.slot_b = 20;
    sample.board.partitions.data = 60;
    let (disk, _) = sample.build("disk.img").unwrap();
    (sample, disk)
}

/// A card that was used before: no byte of it is zero.
fn used(sample: &Sample, name: &str, size: u64) -> PathBuf {
    let path = sample.folder.path().join(name);
    files::write(&path, vec![0xaa; usize::try_from(size).unwrap()]).unwrap();
    path
}

/// What a device needs of a card: its tables, its slot, and a file system without a fault.
fn check(sample: &Sample, card: &Path, image: &Path, map: &Map) {
    let (found, wanted) = (File::open(card).unwrap(), File::open(image).unwrap());
    for range in map.ranges() {
        let bytes = map.bytes(range);
        let mut both = [&found, &wanted].map(|file| {
            let mut piece = vec![0; usize::try_from(bytes.end - bytes.start).unwrap()];
            file.read_exact_at(&mut piece, bytes.start).unwrap();
            piece
        });
        let [found, wanted] = &mut both;
        assert!(found == wanted, "blocks {}-{}", range.first, range.last);
    }
    let partitions = gpt::read(&found).unwrap();
    let slot = gpt::find(&partitions, "slot-a").unwrap().offset;
    let kernel = sample.folder.path().join("kernel-back");
    std::fs::remove_file(&kernel).ok();
    fat::extract(card, slot, "kernel", &kernel).unwrap();
    process::run(
        Command::new("cmp")
            .arg(kernel)
            .arg(sample.folder.path().join("vmlinuz")),
    )
    .unwrap();
    let data = gpt::find(&partitions, "data").unwrap();
    let mut bytes = vec![0; usize::try_from(data.size).unwrap()];
    found.read_exact_at(&mut bytes, data.offset).unwrap();
    let copy = sample.folder.path().join("data-back");
    files::write(&copy, bytes).unwrap();
    ext4::check(&copy).unwrap();
}

#[test]
fn bmaptool_copies_it_onto_a_used_card_and_so_do_we() {
    debian::require(&["bmap-tools", "zstd"], "copy an image by its block map").unwrap();
    let (sample, disk) = sample();
    let packed = pack(&disk).unwrap();
    let map = Map::parse(&files::read_text(&packed.map).unwrap()).unwrap();
    let size = disk.metadata().unwrap().len();
    assert_eq!((map.size(), map.mapped()), (size, packed.mapped));
    // Tables that have to be zero are mapped, what is free is not.
    assert!(
        packed.mapped > 10 << 20 && packed.mapped < size / 2,
        "{packed:?}"
    );

    let theirs = used(&sample, "theirs", size + 5000);
    let mut bmaptool = Command::new("bmaptool");
    process::run(bmaptool.arg("copy").arg(&packed.path).arg(&theirs)).unwrap();
    check(&sample, &theirs, &disk, &map);

    let ours = used(&sample, "ours", size + 5000);
    let image = Image::open(&packed.path).unwrap();
    image.check().unwrap();
    let target = Target::open(&ours).unwrap();
    let flashed = target.flash(&image, &mut |_, _| {}).unwrap();
    assert_eq!((flashed.size, flashed.left), (size, size - packed.mapped));
    check(&sample, &ours, &disk, &map);

    // Without its map it is the image, byte for byte, and what is behind it stays.
    std::fs::remove_file(&packed.map).unwrap();
    let image = Image::open(&packed.path).unwrap();
    let flashed = target.flash(&image, &mut |_, _| {}).unwrap();
    assert_eq!((flashed.size, flashed.left), (size, 0));
    let bytes = size.to_string();
    process::run(
        Command::new("cmp")
            .args(["-n", &bytes])
            .args([&ours, &disk]),
    )
    .unwrap();
    let mut behind = vec![0; 5000];
    let card = File::open(&ours).unwrap();
    card.read_exact_at(&mut behind, size).unwrap();
    assert!(behind.iter().all(|byte| *byte == 0xaa));
}

#[test]
fn it_is_packed_twice_to_the_same_bytes() {
    let (_sample, disk) = sample();
    let read = |packed: Packed| [packed.path, packed.map].map(|path| files::read(&path).unwrap());
    let first = read(pack(&disk).unwrap());
    assert!(first == read(pack(&disk).unwrap()));
}

#[test]
fn a_map_is_named_after_the_image() {
    for name in ["a/disk.img", "a/disk.img.zst"] {
        assert_eq!(map_path(Path::new(name)), Path::new("a/disk.img.bmap"));
    }
    assert_eq!(map_path(Path::new("disk")), Path::new("disk.bmap"));
    assert_eq!(path(Path::new("disk.img")), Path::new("disk.img.zst"));
}
