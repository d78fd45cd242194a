//! An image is whole, sealed, and the same twice. These tests need `mke2fs` and mtools, as every build does.

use super::*;
use crate::{process, tools};
use ed25519_dalek::SigningKey;
use kedge_board_support::boards;
use kedge_board_support::boards::firmware::{Source, tree_name};
use kedge_board_support::boards::{Budgets, Firmware};
use kedge_revision::content::{Change, Commit, Group, HubGoal};
use kedge_revision::revision::{Boot, Draft, Object};
use kedge_revision::root::Roles;
use kedge_revision::signing::Kind as Signed;
use kedge_revision::{
    Configuration, Content, Floor, Mode, Policy, Product, PublicKey, Role, Root, SignatureSet,
    Timestamp, verity,
};
use std::process::Command;

/// Sizes around every boundary of the layout: empty tree, tree of one block, two levels, end on 64 KiB.
const LAYERS: [usize; 6] = [1, 4096, 4097, 65536, 600_001, 3 << 20];

/// Bytes of a piece of firmware: over some sectors, to no boundary.
const PIECE: usize = 150_001;

/// A document's bytes, and its signatures'.
type Document = (Vec<u8>, Vec<u8>);

pub(crate) struct Sample {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) board: Board,
    verified: Verified,
    document: Vec<u8>,
    signatures: Vec<u8>,
    root: Document,
    pub(crate) objects: BTreeMap<ObjectId, PathBuf>,
    loader: Option<PathBuf>,
    firmware: Vec<PathBuf>,
}

impl Sample {
    pub(crate) fn new() -> Self {
        Self::of("qemu-x86-64")
    }

    /// For this board.
    pub(crate) fn of(board: &str) -> Self {
        Self::made(boards::find(board).unwrap())
    }

    /// The same with a board of the test's own; its device trees and firmware are noise.
    fn made(board: Board) -> Self {
        let is_uefi = board.boot.backend == Backend::Uefi;
        let kernel = if is_uefi {
            efi::tests::program(70_000)
        } else {
            kernel()
        };
        let initramfs = noise(50_000, 2);
        let folder = tempfile::tempdir().unwrap();
        let loader = is_uefi.then(|| folder.path().join("loader.efi"));
        if let Some(loader) = &loader {
            files::write(loader, efi::tests::program(1024)).unwrap();
        }
        let mut objects = BTreeMap::new();
        let mut listed = BTreeMap::new();
        let mut add = |name: &str, bytes: &[u8], kind| {
            let path = folder.path().join(name);
            files::write(&path, bytes).unwrap();
            let id = verity::digest(bytes);
            objects.insert(id, path);
            listed.insert(
                id,
                Object {
                    size: bytes.len() as u64,
                    kind,
                },
            );
            id
        };
        let kernel = add("vmlinuz", &kernel, ObjectKind::Kernel);
        let initramfs = add("initrd", &initramfs, ObjectKind::Initramfs);
        for (seed, size) in LAYERS.into_iter().enumerate() {
            add(
                &format!("layer{seed}"),
                &noise(size, seed as u64 + 3),
                ObjectKind::Layer,
            );
        }
        let mut slot = BTreeMap::new();
        for (number, path) in (90_u64..).zip(&board.boot.device_trees) {
            let name = tree_name(path).unwrap();
            let id = add(name.as_str(), &noise(30_000, number), ObjectKind::BootFile);
            slot.insert(name, id);
        }
        let mut firmware = Vec::new();
        for (number, _) in (0_u32..).zip(&board.firmware) {
            let path = folder.path().join(format!("{number}-firmware"));
            files::write(&path, noise(PIECE, u64::from(number) + 70)).unwrap();
            firmware.push(path);
        }
        let boot = Boot {
            kernel,
            initramfs,
            files: slot,
            statement: None,
            arguments: "quiet".into(),
        };
        let (verified, document, signatures, root) =
            signed(draft(board.name.as_str(), listed, boot));
        Self {
            folder,
            board,
            verified,
            document,
            signatures,
            root,
            objects,
            loader,
            firmware,
        }
    }

    pub(crate) fn build(&self, name: &str) -> Result<(PathBuf, ImageReport)> {
        let path = self.folder.path().join(name);
        let report = self.with_plan(|plan| build(plan, &path, &mut |_| {}))?;
        Ok((path, report))
    }

    pub(crate) fn with_plan<T>(&self, make: impl FnOnce(&ImagePlan<'_>) -> T) -> T {
        let roots = [RootDocument {
            version: 1,
            document: &self.root.0,
            signatures: &self.root.1,
        }];
        let plan = ImagePlan {
            board: &self.board,
            revision: &self.verified,
            document: &self.document,
            signatures: &self.signatures,
            roots: &roots,
            objects: &self.objects,
            loader: self.loader.as_deref(),
            firmware: &self.firmware,
            signer: None,
        };
        make(&plan)
    }
}

/// Noise with the marks of kernels for ARM, of 64 and of 32 bits.
fn kernel() -> Vec<u8> {
    let mut bytes = noise(70_000, 1);
    bytes[56..60].copy_from_slice(b"ARM\x64");
    bytes[36..40].copy_from_slice(b"\x18\x28\x6f\x01");
    bytes
}

/// A revision signed under a root of one key: verified, its bytes, its signatures', and the root with its own.
fn signed(draft: Draft) -> (Verified, Vec<u8>, Vec<u8>, Document) {
    let key = SigningKey::from_bytes(&[7; 32]);
    let public = PublicKey::from_bytes(key.verifying_key().to_bytes());
    let role = || Role {
        keys: vec![public.id()],
        threshold: 1,
    };
    let none = Role {
        keys: vec![],
        threshold: 0,
    };
    let root = Root::new(
        1,
        Mode::Development,
        &[public],
        Roles {
            root: role(),
            release: role(),
            hub: none,
        },
    )
    .unwrap();
    let sign = |kind, document: &[u8]| {
        let mut set = SignatureSet::default();
        set.sign(kind, document, &key);
        set
    };
    let board = draft.board.clone();
    let (_, document) = draft.encode().unwrap();
    let signatures = sign(Signed::Revision, &document);
    let product = Product::new("gateway".parse().unwrap(), board, Mode::Development);
    let policy = Policy {
        product: &product,
        floor: Floor::default(),
    };
    let verified = Verified::verify(&document, &signatures, &root, &policy).unwrap();
    let root = root.encode().unwrap();
    let root = (root.clone(), sign(Signed::Root, &root).encode().unwrap());
    (verified, document, signatures.encode().unwrap(), root)
}

/// Bytes without a pattern, the same on every run.
fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..size).map(|_| next()).collect()
}

fn draft(board: &str, objects: BTreeMap<ObjectId, Object>, boot: Boot) -> Draft {
    let group = Group {
        name: "app".parse().unwrap(),
        change: Change::Restart,
    };
    let content = Content {
        requires: vec![],
        parameters: BTreeMap::new(),
        groups: vec![group],
        containers: BTreeMap::new(),
        configuration: Configuration::default(),
        commit: Commit {
            window_s: 60,
            hub: HubGoal::Never,
            hub_wait_s: None,
        },
    };
    Draft {
        product: "gateway".parse().unwrap(),
        board: board.parse().unwrap(),
        root: 1,
        counter: 5,
        floor: 4,
        tries: 3,
        created: Timestamp::from_unix(1_790_000_000),
        version: "1".into(),
        objects,
        boot,
        content,
    }
}

fn debugfs(image: &Path, request: &str) -> String {
    process::text(
        tools::debugfs()
            .unwrap()
            .command()
            .args(["-R", request])
            .arg(image),
    )
    .unwrap()
}

/// A partition as a file of its own.
fn partition(disk: &Path, partition: &Partition, to: &Path) {
    let from = File::open(disk).unwrap();
    let mut bytes = vec![0; usize::try_from(partition.size).unwrap()];
    from.read_exact_at(&mut bytes, partition.offset).unwrap();
    files::write(to, bytes).unwrap();
}

#[test]
fn an_image_is_whole_and_its_store_is_sealed() {
    let sample = Sample::new();
    let (disk, report) = sample.build("disk").unwrap();
    crate::debian::require(&["fdisk"], "check a partition table").unwrap();
    process::run(Command::new("sfdisk").arg("--verify").arg(&disk)).unwrap();
    let file = File::open(&disk).unwrap();
    let partitions = gpt::read(&file).unwrap();
    assert_eq!(partitions, report.partitions);
    let names: Vec<&str> = partitions
        .iter()
        .map(|partition| partition.name.as_str())
        .collect();
    assert_eq!(names, ["bootenv", "slot-a", "slot-b", "data"]);

    let (_, found) = Bootenv::open_at(&file, partitions[0].offset, partitions[0].record).unwrap();
    assert!(found.loader_is_mirrored() && found.state.iter().all(Result::is_ok));
    assert_eq!(found.loader(), Some(Loader::born()));
    let born = State::born(
        sample.verified.id(),
        Floor {
            root: 1,
            counter: 4,
        },
        1,
    );
    assert_eq!(found.state(), Some(&born));

    let kernel = sample.folder.path().join("kernel-back");
    fat::extract(&disk, partitions[1].offset, "kernel", &kernel).unwrap();
    assert_eq!(files::read(&kernel).unwrap(), self::kernel());
    fat::extract(&disk, partitions[2].offset, "kernel", &kernel).unwrap_err();

    let data = sample.folder.path().join("data.ext4");
    partition(&disk, &partitions[3], &data);
    ext4::check(&data).unwrap();
    for (seed, size) in LAYERS.into_iter().enumerate() {
        let bytes = noise(size, seed as u64 + 3);
        let hex = verity::digest(&bytes).hex();
        let path = format!("/objects/v1/{}/{hex}", &hex[..2]);
        let stat = debugfs(&data, &format!("stat {path}"));
        assert!(
            stat.contains("Flags: 0x180000") && stat.contains(&format!("Size: {size}\n")),
            "{stat}"
        );
        assert!(
            stat.contains("Mode:  0444") && stat.contains("User:     0   Group:     0"),
            "{stat}"
        );
        let back = sample.folder.path().join("back");
        debugfs(&data, &format!("dump {path} {}", back.display()));
        assert_eq!(files::read(&back).unwrap(), bytes);
    }
    let factory = format!("/revisions/{}/", sample.verified.id().hex());
    assert_eq!(debugfs(&data, &format!("cat {factory}origin")), "factory");
    let committed = debugfs(&data, &format!("stat {factory}committed"));
    assert!(committed.contains("Size: 0\n"), "{committed}");
    assert_eq!(
        debugfs(&data, &format!("cat {factory}revision.json")).as_bytes(),
        sample.document
    );
    assert!(debugfs(&data, "stat /device").contains("Mode:  0700"));
    let stats = debugfs(&data, "show_super_stats -h");
    let number = |name: &str| -> u64 {
        let found = stats.lines().find_map(|line| line.strip_prefix(name));
        found.unwrap().trim().parse().unwrap()
    };
    let (kept, all) = (number("Reserved block count:"), number("Block count:"));
    // A kernel that grows the file system keeps the whole percents.
    assert_eq!(kept * 100 / all, 10, "{kept} blocks of {all}");
    assert!(
        report.allocated < 64 << 20,
        "{} bytes are no sparse image",
        report.allocated
    );
}

#[test]
fn two_builds_give_the_same_bytes() {
    let sample = Sample::new();
    let (one, _) = sample.build("one").unwrap();
    // FAT counts two seconds, ext4 one: a clock that leaks shows.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let (two, _) = sample.build("two").unwrap();
    process::run(Command::new("cmp").arg(one).arg(two)).unwrap();
}

/// What U-Boot looks for: a bootable partition with `boot.scr`, and the record and the slots by name.
#[test]
fn an_image_for_u_boot_has_its_script_where_it_looks_for_it() {
    let sample = Sample::of("qemu-arm64");
    let (disk, report) = sample.build("disk").unwrap();
    let names: Vec<&str> = report
        .partitions
        .iter()
        .map(|partition| partition.name.as_str())
        .collect();
    assert_eq!(names, ["bootenv", "boot", "slot-a", "slot-b", "data"]);
    // Bytes 48 to 55 of an entry of the table, which begins at sector 2.
    let table = File::open(&disk).unwrap();
    let bootable: Vec<u64> = (0..5)
        .map(|entry| {
            let mut attributes = [0; 8];
            table
                .read_exact_at(&mut attributes, 1024 + entry * 128 + 48)
                .unwrap();
            u64::from_le_bytes(attributes)
        })
        .collect();
    assert_eq!(bootable, [0, 4, 0, 0, 0]);
    let script = sample.folder.path().join("script-back");
    let boot = gpt::find(&report.partitions, "boot").unwrap();
    fat::extract(&disk, boot.offset, "boot.scr", &script).unwrap();
    assert_eq!(files::read(&script).unwrap(), {
        let record = gpt::find(&report.partitions, "bootenv").unwrap().offset;
        let own = gpt::disk_guid(&std::fs::File::open(&disk).unwrap()).unwrap();
        boot_script::make(&sample.board, record, own, 1_790_000_000)
    });
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let (again, _) = sample.build("again").unwrap();
    process::run(Command::new("cmp").arg(disk).arg(again)).unwrap();
}

/// A board with a Raspberry Pi's firmware reads the same partitions from either table, and `autoboot.txt` as it is documented.
#[test]
fn a_raspberry_pis_disk_has_autoboot_txt_and_the_slots_right_behind_it_in_both_tables() {
    let mut board = boards::find("qemu-arm64").unwrap();
    board.boot.backend = Backend::Tryboot;
    board.boot.hybrid_mbr = true;
    board.partitions.boot = Some(4);
    let sample = Sample::made(board);
    let (path, report) = sample.build("disk").unwrap();
    let names: Vec<&str> = report
        .partitions
        .iter()
        .map(|part| &part.name[..])
        .collect();
    assert_eq!(names, ["boot", "slot-a", "slot-b", "bootenv", "data"]);
    let disk = File::open(&path).unwrap();
    let mut mbr = [0; 512];
    disk.read_exact_at(&mut mbr, 0).unwrap();
    let word = |at: usize| u32::from_le_bytes(mbr[at..at + 4].try_into().unwrap());
    for (number, part) in report.partitions.iter().take(3).enumerate() {
        let entry = 446 + number * 16;
        assert_eq!(mbr[entry + 4], 0x0e);
        assert_eq!(u64::from(word(entry + 8)) * 512, part.offset);
        assert_eq!(u64::from(word(entry + 12)) * 512, part.size);
    }
    assert_eq!((mbr[446 + 48 + 4], word(446 + 48 + 8)), (0xee, 1));
    let back = sample.folder.path().join("autoboot-back");
    let boot = gpt::find(&report.partitions, "boot").unwrap();
    fat::extract(&path, boot.offset, "autoboot.txt", &back).unwrap();
    let text = String::from_utf8(files::read(&back).unwrap()).unwrap();
    let expected = "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n";
    assert_eq!(text.trim_end(), expected.trim_end());
    let slot = gpt::find(&report.partitions, "slot-a").unwrap();
    let line = sample.folder.path().join("line");
    fat::extract(&path, slot.offset, "cmdline.txt", &line).unwrap();
    let text = files::read(&line).unwrap();
    let own = gpt::disk_guid(&disk).unwrap();
    let words = format!("kedge.written-to=a kedge.disk={own} quiet");
    assert!(text.starts_with(words.as_bytes()));
    // What a device makes of it.
    let record = gpt::find(&report.partitions, "bootenv").unwrap();
    let (env, _) = Bootenv::open_at(&disk, record.offset, record.record).unwrap();
    let autoboot = Autoboot::new(boot.size, [2, 3]).unwrap();
    let (_, found) = env.with_autoboot(Some((&disk, boot.offset, autoboot)));
    assert_eq!(found, Ok(Loader::born()));
}

/// `qemu-arm64` with firmware at each kind of place.
fn board_with_firmware() -> Board {
    let mut board = boards::find("qemu-arm64").unwrap();
    let spl = boards::find("visionfive-2")
        .unwrap()
        .firmware
        .remove(0)
        .place;
    board.partitions.first = 2;
    board.boot.hybrid_mbr = true;
    board.boot.device_trees = vec!["vendor/board-with-a-long-name.dtb".into(), "b.dtb".into()];
    board.firmware = [
        Place::Offset(131_072),
        spl,
        Place::Boot("u-boot.bin".parse().unwrap()),
        Place::Offset((2 << 20) - 151_040),
    ]
    .map(|place| Firmware {
        source: Source::Text(String::new()),
        place,
    })
    .to_vec();
    board
}

#[test]
fn firmware_is_where_the_board_says_byte_for_byte() {
    let sample = Sample::made(board_with_firmware());
    let (disk, report) = sample.build("disk").unwrap();
    crate::debian::require(&["fdisk"], "check a partition table").unwrap();
    process::run(Command::new("sfdisk").arg("--verify").arg(&disk)).unwrap();
    let names: Vec<&str> = report
        .partitions
        .iter()
        .map(|partition| partition.name.as_str())
        .collect();
    assert_eq!(
        names,
        ["spl", "bootenv", "boot", "slot-a", "slot-b", "data"]
    );
    let (spl, boot) = (&report.partitions[0], &report.partitions[2]);
    assert_eq!((spl.offset, spl.size), (2 << 20, 2 << 20));
    let file = File::open(&disk).unwrap();
    let piece = |number: u64| noise(PIECE, number + 70);
    for (offset, number) in [(131_072, 0), (spl.offset, 1), ((2 << 20) - 151_040, 3)] {
        let mut bytes = vec![0; PIECE];
        file.read_exact_at(&mut bytes, offset).unwrap();
        assert!(bytes == piece(number), "{number} at {offset}");
    }
    let back = sample.folder.path().join("back");
    for (partition, name, expected) in [
        ("boot", "u-boot.bin", piece(2)),
        ("slot-a", "board-with-a-long-name.dtb", noise(30_000, 90)),
        ("slot-a", "b.dtb", noise(30_000, 91)),
    ] {
        let partition = gpt::find(&report.partitions, partition).unwrap();
        fat::extract(&disk, partition.offset, name, &back).unwrap();
        assert!(files::read(&back).unwrap() == expected, "{name}");
        std::fs::remove_file(&back).unwrap();
    }
    // The hybrid MBR: the partition boot first, then what protects the table before it.
    let mut mbr = [0; 512];
    file.read_exact_at(&mut mbr, 0).unwrap();
    let entry = |number: usize| {
        let entry = &mbr[446 + number * 16..][..16];
        let word = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
        (entry[4], u64::from(word(8)), u64::from(word(12)))
    };
    let first = boot.offset / 512;
    assert_eq!(entry(0), (0x0e, first, boot.size / 512));
    assert_eq!(entry(1), (0xee, 1, first - 1));
    assert_eq!((entry(2), entry(3)), ((0, 0, 0), (0, 0, 0)));
}

#[test]
fn firmware_over_anything_else_is_refused_by_name_and_offset() {
    let refused = |edit: fn(&mut Board)| {
        let mut board = board_with_firmware();
        edit(&mut board);
        Sample::made(board).build("disk").unwrap_err().to_string()
    };
    // One byte too far, as the last sector of a piece is not whole.
    let error = refused(|board| board.firmware[3].place = Place::Offset((2 << 20) - 150_000));
    for part in [
        "the firmware firmware",
        "the partition spl",
        "1947152 to 2097153",
        "2097152 to 4194304",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let error = refused(|board| board.firmware[3].place = Place::Offset(131_072 + 512));
    assert!(
        error.contains("131072 to 281073") && error.contains("131584 to 281585"),
        "{error}"
    );
    let error = refused(|board| {
        if let Place::Partition(one) = &mut board.firmware[1].place {
            one.size = 0;
        }
    });
    assert!(error.contains("spl 0"), "{error}");
    let mut sample = Sample::made(board_with_firmware());
    sample.firmware.pop();
    let error = sample.build("disk").unwrap_err().to_string();
    assert!(error.contains("make it anew"), "{error}");
}

#[test]
fn an_object_that_was_changed_is_refused_and_nothing_is_left() {
    let sample = Sample::new();
    let path = sample.folder.path().join("layer4");
    let mut bytes = files::read(&path).unwrap();
    bytes[1000] ^= 1;
    files::write(&path, bytes).unwrap();
    let error = format!("{:#}", sample.build("disk").unwrap_err());
    assert!(error.contains("layer4 is object v1:"), "{error}");
    let left: Vec<_> = files::list(sample.folder.path()).unwrap();
    assert_eq!(left.len(), LAYERS.len() + 2, "{left:?}");
}

#[test]
fn what_exceeds_a_budget_is_refused_by_its_name_and_leaves_nothing() {
    type Lower = fn(&mut Budgets);
    let cases: [(Lower, &str, u64); 3] = [
        (
            |budgets| budgets.kernel = 69_999,
            "the kernel has 70000 bytes",
            69_999,
        ),
        (|budgets| budgets.initramfs = 999, "the initramfs has ", 999),
        (
            |budgets| budgets.image = 300_000,
            "the image on disk, its layers aside, has ",
            300_000,
        ),
    ];
    for (lower, beginning, most) in cases {
        let mut sample = Sample::new();
        let before = files::list(sample.folder.path()).unwrap();
        lower(&mut sample.board.budgets);
        let error = sample.build("disk").unwrap_err().to_string();
        assert!(error.starts_with(beginning), "{error}");
        let over = format!(" bytes, over the board's budget of {most}\nhelp: ");
        assert!(error.contains(&over), "{error}");
        assert_eq!(files::list(sample.folder.path()).unwrap(), before);
    }
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let mut sample = Sample::new();
    sample.board = boards::find("qemu-x86-64").unwrap();
    sample.board.partitions.data = 40;
    let error = sample.build("disk").unwrap_err().to_string();
    assert!(
        error.contains("more bytes than the data partition"),
        "{error}"
    );
    sample.objects.pop_first();
    assert!(
        sample
            .build("disk")
            .unwrap_err()
            .to_string()
            .starts_with("nobody said where object")
    );
}
