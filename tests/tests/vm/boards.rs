//! Boards with firmware on their disk: their images, looked at with tools that share no code with what made them.
//!
//! They are in this tier since the device binary of each architecture is built for it anyway. What starts such an image is
//! hardware, which no test here has: `docs/guides/integrator.md` says what to look at on it.

use crate::built_for;
use anyhow::{Context, Result, ensure};
use kedge_board_support::boards::firmware::{Place, tree_name};
use kedge_board_support::boards::{self, Backend, Board, Script};
use kedge_image_build::platform::Platform;
use kedge_image_build::{debian, files, process};
use kedge_tests::disk::Disk;
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// First bytes of a flattened device tree (Devicetree Specification 0.4, 5.2).
const TREE: [u8; 4] = [0xd0, 0x0d, 0xfe, 0xed];
const SECTOR: u64 = 512;

#[test]
fn vm_real_boards_have_images_with_all_that_starts_them() -> Result<()> {
    debian::require(&["fdisk"], "read partition tables")?;
    let all = boards::all()?;
    let real = all.iter().filter(|board| !board.firmware.is_empty());
    let real: Vec<&Board> = real.collect();
    ensure!(real.len() >= 6, "there are no boards but QEMU's");
    for board in real {
        image(board).with_context(|| format!("the image of {}", board.name))?;
    }
    Ok(())
}

fn image(board: &Board) -> Result<()> {
    let product = built_for(board.name.as_str())?;
    let platform = Platform::load(&product.platform)?;
    let part = |name: &String| files::read(&product.platform.join(name));
    let disk = Disk::copy_of(&product.image)?;
    process::run(Command::new("sfdisk").arg("--verify").arg(disk.path()))?;
    let table = Table::read(disk.path())?;
    ensure!(
        platform.firmware.len() == board.firmware.len(),
        "the platform lacks firmware"
    );
    let mut number = 0;
    for (piece, file) in board.firmware.iter().zip(&platform.firmware) {
        let bytes = part(file)?;
        ensure!(!bytes.is_empty(), "{file} is empty");
        match &piece.place {
            Place::Offset(offset) => {
                holds(disk.path(), *offset, &bytes)?;
                let end = offset.saturating_add(bytes.len() as u64);
                ensure!(
                    *offset >= 34 * SECTOR && end <= table.first()?,
                    "{file} lies over the table or a partition"
                );
            }
            Place::Partition(wanted) => {
                // A boot ROM or an SPL may count them.
                let found = table.0.get(number).context("a partition is missing")?;
                number += 1;
                ensure!(found.name == wanted.name.as_str(), "{}", found.name);
                let type_on_disk = found.kind.to_lowercase().replace('-', "");
                let expected = text(&wanted.kind.on_disk());
                ensure!(type_on_disk == expected, "{type_on_disk}, not {expected}");
                ensure!(bytes.len() as u64 <= found.size, "{file} is cut");
                holds(disk.path(), found.offset, &bytes)?;
            }
            Place::Boot(name) => {
                let found = disk.read_from_fat("boot", name.as_str())?;
                ensure!(found == bytes, "{name} on boot is not {file}");
            }
            Place::Slot(name) => {
                let found = disk.read_from_fat("slot-a", name.as_str())?;
                ensure!(found == bytes, "{name} in the slot is not {file}");
            }
        }
    }
    loader(board, &disk)?;
    let pieces: Result<Vec<Vec<u8>>> = platform.firmware.iter().map(part).collect();
    takes_the_script(board, &pieces?)?;
    let kernel = disk.read_from_fat("slot-a", "kernel")?;
    ensure!(kernel == part(&platform.kernel)?, "another kernel");
    for (path, file) in board.boot.device_trees.iter().zip(&platform.device_trees) {
        let name = tree_name(path).context("a device tree has no name")?;
        let found = disk.read_from_fat("slot-a", name.as_str())?;
        ensure!(found.starts_with(&TREE), "{name} is no device tree");
        ensure!(found == part(file)?, "{name} is another device tree");
    }
    mbr(board, disk.path(), &table)?;
    product
        .kedge
        .ask(&["verify", &product.image.to_string_lossy()])?;
    Ok(())
}

/// What the firmware finds on `boot`, and what a slot says of the board where no loader does.
fn loader(board: &Board, disk: &Disk) -> Result<()> {
    if board.boot.backend != Backend::Tryboot {
        ensure!(disk.read_from_fat("boot", "boot.scr")?.len() > 1000);
        return Ok(());
    }
    let file = String::from_utf8(disk.read_from_fat("boot", "autoboot.txt")?)?;
    let lines: Vec<&str> = file.lines().filter(|line| !line.is_empty()).collect();
    let expected = [
        "[all]",
        "tryboot_a_b=1",
        "boot_partition=2",
        "[tryboot]",
        "boot_partition=3",
    ];
    ensure!(lines == expected, "{file}");
    let line = String::from_utf8(disk.read_from_fat("slot-a", "cmdline.txt")?)?;
    let words = format!("kedge.written-to=a kedge.disk={} ", disk.guid()?);
    let own = line.strip_prefix(&words);
    ensure!(
        own.is_some_and(|rest| rest.starts_with(&board.arguments())),
        "{line}"
    );
    // By their numbers, which that file names.
    let table = Table::read(disk.path())?;
    let names: Vec<&str> = table.0.iter().map(|entry| &entry.name[..]).collect();
    ensure!(
        names.starts_with(&["boot", "slot-a", "slot-b"]),
        "{names:?}"
    );
    Ok(())
}

/// A U-Boot that takes the script in the wrapping that it has, by what it would say of one that is damaged (U-Boot
/// `boot/image-board.c`, `image_locate_script`).
fn takes_the_script(board: &Board, pieces: &[Vec<u8>]) -> Result<()> {
    let words: &[u8] = match (board.boot.backend, board.boot.script) {
        (Backend::UBoot, Script::Legacy) => b"Empty Script",
        (Backend::UBoot, Script::Fit) => b"Could not find config",
        (Backend::Direct | Backend::Uefi | Backend::Tryboot, _) => return Ok(()),
    };
    let has = |piece: &Vec<u8>| piece.windows(words.len()).any(|at| at == words);
    ensure!(
        pieces.iter().any(has),
        "no U-Boot of it takes a script as {:?}",
        board.boot.script
    );
    Ok(())
}

/// A GUID's bytes on disk in the order in which people write it.
fn text(on_disk: &[u8; 16]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let bytes = order.iter().filter_map(|place| on_disk.get(*place));
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

fn holds(disk: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
    let mut found = vec![0; bytes.len()];
    File::open(disk)?.read_exact_at(&mut found, offset)?;
    ensure!(found == bytes, "other bytes stand at {offset}");
    Ok(())
}

/// What a boot ROM sees that reads the first entry of the MBR and no GPT.
fn mbr(board: &Board, disk: &Path, table: &Table) -> Result<()> {
    let mut sector = [0; 512];
    File::open(disk)?.read_exact_at(&mut sector, 0)?;
    let entries = sector.get(446..510).unwrap_or_default();
    let mut kinds = entries.chunks(16).map(|entry| entry.get(4).copied());
    let first = kinds.next().flatten();
    if !board.boot.hybrid_mbr {
        ensure!(first == Some(0xee), "the MBR protects nothing");
        return Ok(());
    }
    ensure!(
        first == Some(0x0e),
        "the first partition of the MBR is no FAT"
    );
    let begin = entries.get(8..12).and_then(|field| field.first_chunk());
    let begin = begin.map(|field| u64::from(u32::from_le_bytes(*field)) * SECTOR);
    let boot = table.0.iter().find(|partition| partition.name == "boot");
    ensure!(begin.is_some() && begin == boot.map(|boot| boot.offset));
    Ok(())
}

/// The partition table, as sfdisk reads it.
struct Table(Vec<Entry>);

struct Entry {
    name: String,
    kind: String,
    offset: u64,
    size: u64,
}

impl Table {
    fn read(disk: &Path) -> Result<Self> {
        let json = process::output(Command::new("sfdisk").arg("--json").arg(disk))?;
        let document: Value = serde_json::from_slice(&json).context("sfdisk gives no JSON")?;
        let list = document.pointer("/partitiontable/partitions");
        let list = list.and_then(Value::as_array).context("no partitions")?;
        let entry = |value: &Value| -> Option<Entry> {
            let number = |key| Some(value.get(key)?.as_u64()?.saturating_mul(SECTOR));
            let word = |key| Some(value.get(key)?.as_str()?.to_owned());
            Some(Entry {
                name: word("name")?,
                kind: word("type")?,
                offset: number("start")?,
                size: number("size")?,
            })
        };
        let entries: Option<Vec<Entry>> = list.iter().map(entry).collect();
        entries.map(Self).context("sfdisk left something out")
    }

    fn first(&self) -> Result<u64> {
        let begins = self.0.iter().map(|entry| entry.offset);
        begins.min().context("there is no partition")
    }
}
