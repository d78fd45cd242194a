//! What a pair is made of, and that it is the same twice.

use super::*;
use crate::image::tests::Sample;
use std::io::Read;

fn make(sample: &Sample, name: &str) -> Result<RamReport> {
    sample.with_plan(|plan| build(plan, false, &sample.folder.path().join(name), &mut |_| {}))
}

#[test]
fn a_pair_is_the_revisions_own_and_a_disk_behind() {
    let sample = Sample::new();
    let report = make(&sample, "ram").unwrap();
    let read = |name: &str| files::read(&report.path.join(name)).unwrap();
    let own = |name: &str| files::read(&sample.folder.path().join(name)).unwrap();
    assert_eq!(read(KERNEL), own("vmlinuz"));
    let arguments = String::from_utf8(read(ARGUMENTS)).unwrap();
    assert!(
        arguments.starts_with("console=ttyS0 panic=1"),
        "{arguments}"
    );
    assert!(arguments.ends_with(" quiet\n"), "{arguments}");

    let initramfs = read(INITRAMFS);
    let behind = initramfs.strip_prefix(own("initrd").as_slice()).unwrap();
    let mut cpio = Vec::new();
    zstd::Decoder::new(behind)
        .unwrap()
        .read_to_end(&mut cpio)
        .unwrap();
    let at = |text: &[u8]| cpio.windows(text.len()).position(|part| part == text);
    let size = at(format!("{}\n", report.disk).as_bytes()).unwrap();
    assert!(size < at(b"ram.img").unwrap());
    assert!(at(b"ram.img") < at(b"EFI PART") && at(b"EFI PART") < at(b"slot_ok="));
    assert!(
        report.memory > 2 * report.disk && report.disk < 64 << 20,
        "{report:?}"
    );

    let again = make(&sample, "again").unwrap();
    assert_eq!(files::read(&again.path.join(INITRAMFS)).unwrap(), initramfs);
    // Nothing else is left.
    assert_eq!(files::list(&again.path).unwrap().len(), 3);
}

/// A loader of such a board needs its device tree from where the kernel comes from.
#[test]
fn what_a_slot_has_beside_lies_beside() {
    let sample = Sample::of("orange-pi-zero");
    let out = sample.folder.path().join("ram");
    let report = sample.with_plan(|plan| build(plan, true, &out, &mut |_| {}));
    let report = report.unwrap();
    let in_slot = sample.with_plan(|plan| plan.revision.envelope().boot.files.clone());
    assert!(!in_slot.is_empty() && report.files.iter().eq(in_slot.keys()));
    for (name, id) in &in_slot {
        let written = files::read(&out.join(name.as_str())).unwrap();
        assert_eq!(verity::digest(&written), *id, "{name}");
    }
    assert_eq!(files::list(&out).unwrap().len(), 3 + report.files.len());
}

#[test]
fn a_disk_in_memory_is_no_flash() {
    let mut sample = Sample::new();
    let usual = make(&sample, "usual").unwrap();
    sample.board.bootenv.erase_block = Some(65536);
    let other = make(&sample, "other").unwrap();
    let [usual, other] = [usual, other].map(|report| files::read(&report.path.join(INITRAMFS)));
    assert_eq!(usual.unwrap(), other.unwrap());
}

#[test]
fn what_cannot_be_is_refused() {
    let mut sample = Sample::new();
    sample
        .board
        .kernel
        .modules
        .retain(|module| module != MODULE);
    let said = make(&sample, "ram").unwrap_err().to_string();
    assert!(said.contains("may have no loop devices"), "{said}");
    // That is the distribution's; our own have them.
    let own = sample.folder.path().join("own");
    sample
        .with_plan(|plan| build(plan, true, &own, &mut |_| {}))
        .unwrap();
    let mut sample = Sample::new();
    files::write(&sample.folder.path().join("initrd"), b"another").unwrap();
    sample.board.budgets.initramfs = 1 << 30;
    let said = format!("{:#}", make(&sample, "ram").unwrap_err());
    assert!(said.contains("initrd has 7 bytes"), "{said}");
}
