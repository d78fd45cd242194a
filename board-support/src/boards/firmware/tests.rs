//! Every rule, by a board file that breaks it.

use super::super::{Error, parse};
use super::*;

const U_BOOT: &str = include_str!("../../../boards/qemu-arm64.toml");

const SUNXI: &str =
    "[[firmware]]\npackage = \"u-boot-sunxi\"\nsuite = \"trixie\"\nfile = \"usr/lib/u-boot.bin\"\n";

/// A board that U-Boot starts, without QEMU, with this at its end.
fn text(more: &str) -> String {
    let (head, rest) = U_BOOT.split_once("[qemu]").unwrap();
    let (_, tail) = rest.split_once("# What must not be exceeded").unwrap();
    format!("{head}# What{tail}\n{more}")
}

fn board(more: &str) -> Result<Board, Error> {
    parse("my.toml", &text(more))
}

fn refused(more: &str) -> String {
    board(more).unwrap_err().to_string()
}

#[test]
fn a_piece_is_one_thing_at_one_place() {
    let good = board(&format!("{SUNXI}offset = 131_072\n")).unwrap();
    assert_eq!(good.firmware[0].place, Place::Offset(131_072));
    let text = board("[[firmware]]\ntext = \"a=1\"\nboot = \"config.txt\"\n").unwrap();
    assert_eq!(text.firmware[0].source, Source::Text("a=1".into()));
    for (more, says) in [
        (SUNXI.to_owned(), "exactly one of offset"),
        (
            format!("{SUNXI}offset = 131072\nboot = \"a\"\n"),
            "exactly one of offset",
        ),
        (
            "[[firmware]]\noffset = 131072\n".to_owned(),
            "exactly one of package",
        ),
        (
            format!("{SUNXI}text = \"\"\nboot = \"a\"\n"),
            "exactly one of package",
        ),
        (
            "[[firmware]]\npackage = \"a\"\noffset = 131072\n".to_owned(),
            "all of package, suite and file",
        ),
        (format!("{SUNXI}size = 3\n"), "size"),
    ] {
        let error = refused(&more);
        assert!(error.contains(says), "{more}: {error}");
    }
}

#[test]
fn what_cannot_work_is_refused_by_key_and_offset() {
    let at = |offset: u64| format!("{SUNXI}offset = {offset}\n");
    for (more, says) in [
        (
            at(8192),
            "offset of 8192 lies in the partition table, which ends at 17408",
        ),
        (
            at(1 << 20),
            "offset of 1048576 lies in the partitions, which begin at 1048576",
        ),
        (at(20_001), "firmware.offset is not a multiple of 512"),
        (
            SUNXI.replace("u-boot-sunxi", "-o") + "offset = 131072\n",
            "firmware.package",
        ),
        (
            SUNXI.replace("trixie", "a b") + "offset = 131072\n",
            "firmware.suite",
        ),
        (
            SUNXI.replace("usr/lib", "../lib") + "offset = 131072\n",
            "firmware.file",
        ),
        (
            SUNXI.replace("usr/lib", "/usr") + "offset = 131072\n",
            "firmware.file",
        ),
        (SUNXI.to_owned() + "boot = \"a/b\"\n", "a file's name"),
        (
            SUNXI.to_owned() + "boot = \"boot.scr\"\n",
            "boot.scr is there twice",
        ),
        (SUNXI.to_owned() + "slot = \"kernel\"\n", "a file's name"),
        (
            format!("{SUNXI}slot = \"a\"\n{SUNXI}slot = \"a\"\n"),
            "firmware.slot a is there twice",
        ),
        (
            SUNXI.to_owned()
                + "partition = { name = \"data\", type = \"2E54B353-1271-4842-806F-E436D6AF6985\", size = 1 }\n",
            "firmware.partition data is there twice",
        ),
        (
            SUNXI.to_owned()
                + "partition = { name = \"spl\", type = \"2E54B353-1271-4842-806F-E436D6AF6985\", size = 0 }\n",
            "firmware.partition",
        ),
        (
            SUNXI.to_owned() + "partition = { name = \"spl\", type = \"2E54B353\", size = 1 }\n",
            "no GUID",
        ),
        (
            "[[firmware]]\ndevice-tree = \"a.dtb\"\nboot = \"a.dtb\"\n".to_owned(),
            "none of boot.device-trees",
        ),
        (
            format!(
                "[[firmware]]\ntext = \"{}\"\nboot = \"a\"\n",
                "x".repeat(4097)
            ),
            "firmware.text",
        ),
    ] {
        let error = refused(&more);
        assert!(error.contains(says), "{more}: {error}");
    }
}

#[test]
fn the_piece_that_is_wrong_is_the_one_whose_line_is_told() {
    const SLOT: &str = "[[firmware]] # one\ntext = \"\"\nslot = \"a\"\n";
    let good = format!("{SUNXI}offset = 131_072\n");
    for (second, key, says) in [
        (
            format!("{SUNXI}offset = 20_001\n"),
            "offset",
            "firmware.offset is not a multiple of 512",
        ),
        (
            format!("{SUNXI}offset = 8192 # low\n"),
            "offset",
            "firmware.offset of 8192 lies",
        ),
        (
            good.replace("u-boot-sunxi", "-o"),
            "package",
            "firmware.package is no package's name",
        ),
        (SLOT.repeat(2), "slot", "firmware.slot a is there twice"),
        (format!("{good}where = 1\n"), "where", "where"),
        (format!("{SUNXI}offset = \"a\"\n"), "offset", "invalid type"),
    ] {
        let text = text(&format!("{good}{second}"));
        let lines: Vec<&str> = text.lines().collect();
        // The last one: those of the good piece are before it.
        let line = lines.iter().rposition(|line| line.starts_with(key));
        let start = format!("my.toml:{}: ", line.unwrap() + 1);
        let error = parse("my.toml", &text).unwrap_err().to_string();
        assert!(
            error.starts_with(&start) && error.contains(says),
            "{start}{says}: {error}"
        );
    }
}

#[test]
fn a_guid_has_the_bytes_of_the_table() {
    let guid = |text: &str| Guid::try_from(text.to_owned());
    // As sgdisk writes the type of a Linux file system.
    assert_eq!(
        guid("0FC63DAF-8483-4772-8E79-3D69D8477DE4")
            .unwrap()
            .on_disk(),
        *b"\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4"
    );
    for bad in [
        "",
        "0FC63DAF84834772-8E79-3D69D8477DE4-1-2",
        "0FC63DAF-8483-4772-8E79-3D69D8477DE",
        "+FC63DAF-8483-4772-8E79-3D69D8477DE4",
        "0FC63DAF-8483-4772-8E79-3D69D8477DE4-",
    ] {
        assert!(guid(bad).is_err(), "{bad}");
    }
}

#[test]
fn device_trees_are_paths_with_names_of_their_own() {
    let with = |trees: &str| {
        let text = U_BOOT;
        let changed = text.replace("[boot]\n", &format!("[boot]\ndevice-trees = {trees}\n"));
        assert_ne!(text, changed);
        parse("my.toml", &changed)
    };
    with("[\"allwinner/a.dtb\", \"b.dtb\"]").unwrap();
    for bad in [
        "[\"/a.dtb\"]",
        "[\"../a.dtb\"]",
        "[\"a.dts\"]",
        "[\"A.dtb\"]",
        "[\"x/a.dtb\", \"y/a.dtb\"]",
    ] {
        let error = with(bad).unwrap_err().to_string();
        assert!(error.contains("boot.device-trees"), "{bad}: {error}");
    }
}

#[test]
fn what_is_loaded_does_not_lie_over_each_other() {
    let with = |load: &str| {
        let text = U_BOOT;
        let changed = text.replace("[boot]\n", &format!("[boot]\nload = {load}\n"));
        parse("my.toml", &changed)
    };
    let all = |kernel: u32, tree: u32, initramfs: u32| {
        with(&format!(
            "{{ kernel = {kernel:#x}, device-tree = {tree:#x}, initramfs = {initramfs:#x} }}"
        ))
    };
    all(0x20_0000, 0x440_0000, 0x450_0000).unwrap();
    for (kernel, tree, initramfs) in [
        (0x8_0000, 0x440_0000, 0x450_0000),
        (0x20_0000, 0x240_0000, 0x450_0000),
        (0x20_0000, 0x440_0000, 0x441_0000),
        (0x20_0000, 0x440_0000, 0x20_0000),
        (0x20_0000, 0x440_0000, 0),
    ] {
        let error = all(kernel, tree, initramfs).unwrap_err().to_string();
        assert!(error.contains("boot.load"), "{error}");
    }
}
