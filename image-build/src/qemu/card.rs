//! The card of a machine that has a slot of its own for one, and what is taken from it where QEMU lacks a part of the hardware.
//!
//! QEMU takes cards of a power of two alone, so that the file becomes as large: the device finds a card that is larger than its
//! image, as most are.
//!
//! **Allwinner's boot ROM** looks for the SPL at 8 KiB, where a GPT has its entries, and since the H3 at 128 KiB, too, where our
//! images have it. QEMU's model looks at the first place alone (QEMU issue 3229). So the first code's 32 KiB are copied there, and
//! say of themselves, as hardware's ROM would, that they were taken from the second place: from there on everything is read where
//! the image has it. The table's entries move behind them; its header names their place. A device that grows its table puts the
//! entries back, so that this is done at each start of the machine, and not at its resets, which QEMU serves from memory.
//!
//! **A Raspberry Pi's firmware** loads what it starts from the first partition. QEMU has none, so that the host takes the same files.

use crate::image::{fat, gpt};
use anyhow::{Context, Result, ensure};
use kedge_board_support::boards::firmware::Place;
use kedge_board_support::boards::{Board, OnBoot};
use kedge_board_support::record::crc32;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SECTOR: u64 = 512;
/// What QEMU's ROM takes, and how far behind the SPL the loader stands that it starts (QEMU `hw/arm/allwinner-h3.c`,
/// `allwinner_h3_bootrom_setup`; U-Boot `doc/board/allwinner/sunxi.rst`).
const FIRST_CODE: u64 = 32 * 1024;
/// How it begins, behind a branch instruction.
const MAGIC: (std::ops::Range<usize>, &[u8]) = (4..12, b"eGON.BT0");
/// Where the ROM writes what it took it from, and its word for 128 KiB of the first card slot (U-Boot
/// `arch/arm/include/asm/arch-sunxi/spl.h`, `boot_media`, `SUNXI_BOOTED_FROM_MMC0_HIGH`).
const TAKEN_FROM: (usize, u8) = (0x28, 0x10);
/// Bytes of a table's entries, and of what its header's checksum is over.
const ENTRIES: u64 = 16 * 1024;
const HEADER: usize = 92;

/// Makes the disk a card that the board's machine in QEMU starts from.
///
/// # Errors
/// The disk cannot be written, or has no first code where the board's file says.
pub(super) fn prepare(board: &Board, disk: &Path) -> Result<()> {
    let Some(qemu) = board.qemu.as_ref().filter(|qemu| qemu.disk.is_none()) else {
        return Ok(());
    };
    let named = || format!("cannot make {} a card for QEMU", disk.display());
    let file = File::options().read(true).write(true).open(disk);
    let file = file.with_context(named)?;
    let size = file.metadata().with_context(named)?.len();
    if !size.is_power_of_two() {
        file.set_len(size.next_power_of_two()).with_context(named)?;
    }
    let mut offsets = board.firmware.iter().filter_map(|piece| match piece.place {
        Place::Offset(offset) => Some(offset),
        Place::Partition(_) | Place::Boot(_) | Place::Slot(_) => None,
    });
    match (qemu.boot_rom, offsets.next()) {
        (Some(rom), Some(from)) => first_code(&file, from, rom).with_context(named),
        (_, _) => Ok(()),
    }
}

/// Copies the first code to where the ROM looks, and moves the table's entries behind it.
fn first_code(file: &File, from: u64, rom: u64) -> Result<()> {
    let behind = rom.saturating_add(FIRST_CODE);
    let end = behind.saturating_add(ENTRIES);
    ensure!(
        end <= from,
        "the first code at {from} leaves no room before it"
    );
    let mut code = vec![0; usize::try_from(FIRST_CODE)?];
    file.read_exact_at(&mut code, from)?;
    let (place, magic) = MAGIC;
    ensure!(
        code.get(place) == Some(magic),
        "what stands at {from} is no first code of Allwinner's"
    );
    let (place, word) = TAKEN_FROM;
    *code.get_mut(place).context("a short code")? = word;

    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, SECTOR)?;
    ensure!(header.starts_with(b"EFI PART"), "the disk has no GPT");
    let table = header.get(72..).and_then(<[u8]>::first_chunk);
    let table = table.map_or(0, |field| u64::from_le_bytes(*field));
    let mut entries = vec![0; usize::try_from(ENTRIES)?];
    file.read_exact_at(&mut entries, table.saturating_mul(SECTOR))?;
    file.write_all_at(&entries, behind)?;
    // UEFI Specification 2.10, table 5.5: the first sector for partitions, that of the entries, the checksum over the header.
    let mut put = |at: usize, field: &[u8]| {
        let place = header.get_mut(at..at.saturating_add(field.len()));
        place.map(|place| place.copy_from_slice(field))
    };
    put(40, &(end / SECTOR).to_le_bytes()).context("a short header")?;
    put(72, &(behind / SECTOR).to_le_bytes()).context("a short header")?;
    put(16, &[0; 4]).context("a short header")?;
    let sum = crc32(&header).to_le_bytes();
    let place = header.get_mut(16..20).context("a short header")?;
    place.copy_from_slice(&sum);
    file.write_all_at(&header, SECTOR)?;
    file.write_all_at(&code, rom)
        .context("cannot write the first code")
}

/// Takes the loader and its device tree from the partition `boot`, into `folder`.
///
/// # Errors
/// The disk has no such partition, or that has no such files.
pub(super) fn loader(disk: &Path, names: &OnBoot, folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let file = File::open(disk).with_context(|| format!("cannot open {}", disk.display()))?;
    let offset = gpt::find(&gpt::read(&file)?, "boot")?.offset;
    let take = |name: &str| {
        let path = folder.join(name);
        fat::extract(disk, offset, name, &path)?;
        Ok::<_, anyhow::Error>(path)
    };
    Ok((
        take(names.file.as_str())?,
        take(names.device_tree.as_str())?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;
    use crate::image::gpt::{Kind, Layout, Wanted};
    use kedge_board_support::boards;

    const MIB: u64 = 1 << 20;
    const HARDWARES: u64 = 128 * 1024;
    const QEMUS: u64 = 8 * 1024;

    fn board() -> Board {
        boards::find("orange-pi-pc-plus").unwrap()
    }

    /// A card whose first code is `code`.
    fn card(code: &[u8]) -> (tempfile::TempDir, PathBuf, Vec<gpt::Partition>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        files::write(&path, b"").unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let layout = Layout {
            guid: [1; 16],
            first: MIB,
            hybrid: vec![],
            partitions: vec![Wanted {
                name: "data",
                kind: Kind::Linux,
                guid: [2; 16],
                size: 3 * MIB,
            }],
        };
        let partitions = gpt::write(&file, &layout).unwrap();
        file.write_all_at(code, HARDWARES).unwrap();
        (folder, path, partitions)
    }

    fn code() -> Vec<u8> {
        let mut code: Vec<u8> = (0..20_000_u32).flat_map(u32::to_le_bytes).collect();
        code[4..12].copy_from_slice(b"eGON.BT0");
        code[0x28] = 0;
        code
    }

    #[test]
    fn the_first_code_is_where_qemu_looks_and_says_that_it_is_from_the_other_place() {
        let (_folder, path, partitions) = card(&code());
        // Twice, as at the second start of the machine.
        for _ in 0..2 {
            prepare(&board(), &path).unwrap();
            let bytes = files::read(&path).unwrap();
            assert_eq!(bytes.len(), 8 << 20);
            let at =
                |place: u64, length: usize| &bytes[usize::try_from(place).unwrap()..][..length];
            let mut expected = code()[..32 * 1024].to_vec();
            expected[0x28] = 0x10;
            assert!(at(QEMUS, 32 * 1024) == expected, "the copy is another");
            assert!(at(HARDWARES, 80_000) == code(), "the original is another");
            let file = File::open(&path).unwrap();
            assert_eq!(gpt::read_copy(&file, 1).unwrap(), partitions);
        }
    }

    #[test]
    fn what_is_no_first_code_is_refused_and_a_disk_that_is_no_card_left_alone() {
        let (_folder, path, _) = card(b"another loader");
        let error = format!("{:#}", prepare(&board(), &path).unwrap_err());
        assert!(error.ends_with("no first code of Allwinner's"), "{error}");
        let before = files::read(&path).unwrap();
        prepare(&boards::find("qemu-arm64").unwrap(), &path).unwrap();
        assert!(files::read(&path).unwrap() == before);
    }
}
