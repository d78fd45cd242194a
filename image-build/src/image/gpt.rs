//! The partition table: written and read, so that nothing else needs a tool or root for it.
//!
//! Sectors of 512 bytes; partitions begin on MiB boundaries, in order, without gaps; the last MiB belongs to the
//! backup table. Source: UEFI Specification 2.10, chapter 5.
//!
//! The MBR is a protective one. For boot ROMs that read nothing else it is a hybrid one, which no specification knows: the
//! partitions of the firmware come first in it, since such a ROM looks at the first alone (`raspberrypi/documentation`, issue
//! 1291), and what protects the table behind them, from sector 1 on, where U-Boot (`disk/part_efi.c`, `pmbr_part_valid`) and Linux
//! (`block/partitions/efi.c`, `is_pmbr_valid`) look for it to believe in a GPT.

use anyhow::{Context, Result, bail};
use kedge_board_support::bootenv::{EraseBlock, Layout as RecordLayout};
use kedge_board_support::loading::gpt::{self, Guid};
use kedge_board_support::record::crc32;
use serde::Serialize;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// Bytes of a mebibyte.
pub const MIB: u64 = 1 << 20;
pub(super) const SECTOR: u64 = 512;
/// Entries of a table, and bytes of each: what every tool expects.
const ENTRIES: u32 = 128;
const ENTRY: u32 = 128;
/// Sectors of the entries.
const ENTRIES_SECTORS: u64 = 32;
const HEADER_SIZE: u32 = 92;
/// The first of an entry's attributes that its type defines.
const TYPE_BITS: u32 = 48;

/// What a partition is for, as other systems understand it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// U-Boot's environment, in which the boot record lies like this.
    BootEnvironment(RecordLayout),
    /// A FAT file system.
    Fat,
    /// A FAT file system that a firmware boots from.
    Boot,
    /// The same for UEFI: an EFI system partition.
    Efi,
    /// A Linux file system.
    Linux,
    /// Something that a firmware looks for by this type, its GUID in the order of bytes on disk.
    Firmware([u8; 16]),
}

impl Kind {
    /// The type's GUID in the order of bytes on disk.
    const fn guid(self) -> [u8; 16] {
        match self {
            // 3DE21764-95BD-54BD-A5C3-4ABE786F38A8
            Self::BootEnvironment(_) => {
                *b"\x64\x17\xe2\x3d\xbd\x95\xbd\x54\xa5\xc3\x4a\xbe\x78\x6f\x38\xa8"
            }
            // EBD0A0A2-B9E5-4433-87C0-68B6B72699C7
            Self::Fat | Self::Boot => {
                *b"\xa2\xa0\xd0\xeb\xe5\xb9\x33\x44\x87\xc0\x68\xb6\xb7\x26\x99\xc7"
            }
            // C12A7328-F81F-11D2-BA4B-00A0C93EC93B
            Self::Efi => *b"\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b",
            // 0FC63DAF-8483-4772-8E79-3D69D8477DE4
            Self::Linux => *b"\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4",
            Self::Firmware(guid) => guid,
        }
    }

    /// The entry's attributes. Bit 2 is "legacy BIOS bootable": what U-Boot's distro boot looks for, before all others. Bits 48
    /// to 63 are for each type to use; of U-Boot's environment nobody does, and whoever looks into an image has no board's
    /// file: there stands the exponent of the erase block's size, or 0.
    fn attributes(self) -> u64 {
        match self {
            Self::BootEnvironment(RecordLayout::EraseBlocks(block)) => {
                u64::from(block.bytes().trailing_zeros()) << TYPE_BITS
            }
            Self::BootEnvironment(RecordLayout::Sectors)
            | Self::Fat
            | Self::Efi
            | Self::Linux
            | Self::Firmware(_) => 0,
            Self::Boot => 1 << 2,
        }
    }
}

/// A disk to be made.
#[derive(Debug, Clone)]
pub struct Layout<'a> {
    /// The disk's own identity; any 16 bytes, made a UUID of version 8 here.
    pub guid: [u8; 16],
    /// Where the first partition begins, bytes, a multiple of 1 MiB.
    pub first: u64,
    /// The partitions that the MBR has, too, in this order: FAT16, three at most.
    pub hybrid: Vec<&'a str>,
    /// Its partitions in order.
    pub partitions: Vec<Wanted<'a>>,
}

/// A partition to be made.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// Name, ASCII, at most 36 characters.
    pub name: &'a str,
    /// Its type.
    pub kind: Kind,
    /// Its identity; any 16 bytes.
    pub guid: [u8; 16],
    /// Size, bytes, a multiple of 1 MiB.
    pub size: u64,
}

/// A partition of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Its name.
    pub name: String,
    /// Where it begins, bytes.
    pub offset: u64,
    /// Its size, bytes.
    pub size: u64,
    /// How the boot record lies in it, if it holds that.
    #[serde(skip)]
    pub record: RecordLayout,
}

/// Makes 16 bytes a UUID of version 8 (RFC 9562), in the order of bytes of a GUID on disk.
const fn guid([a, b, c, d, e, f, g, h, i, rest @ ..]: [u8; 16]) -> [u8; 16] {
    let [j, k, l, m, n, o, p] = rest;
    // On disk the third group is little-endian: its high byte, which carries the version, comes second.
    [
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        (h & 0x0f) | 0x80,
        (i & 0x3f) | 0x80,
        j,
        k,
        l,
        m,
        n,
        o,
        p,
    ]
}

/// Sizes the file and writes both tables and the protective MBR.
///
/// # Errors
/// The file cannot be written.
pub fn write(disk: &File, layout: &Layout<'_>) -> Result<Vec<Partition>> {
    let mut entries = Vec::new();
    let mut partitions = Vec::new();
    let mut offset = layout.first;
    for wanted in &layout.partitions {
        let end = offset
            .checked_add(wanted.size)
            .context("the partitions are too large")?;
        entries.extend(wanted.kind.guid());
        entries.extend(guid(wanted.guid));
        entries.extend((offset / SECTOR).to_le_bytes());
        entries.extend((end / SECTOR).saturating_sub(1).to_le_bytes());
        entries.extend(wanted.kind.attributes().to_le_bytes());
        let mut name: Vec<u8> = wanted
            .name
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        name.resize(72, 0);
        entries.extend(name);
        partitions.push(Partition {
            name: wanted.name.to_owned(),
            offset,
            size: wanted.size,
            record: record(wanted.kind.attributes()),
        });
        offset = end;
    }
    entries.resize(usize::try_from(ENTRIES_SECTORS * SECTOR)?, 0);
    let size = offset
        .checked_add(MIB)
        .context("the partitions are too large")?;
    let last = (size / SECTOR).saturating_sub(1);
    let backup_entries = last.saturating_sub(ENTRIES_SECTORS);
    let entries_crc = crc32(&entries);
    let header = |here, other, table| {
        header(
            guid(layout.guid),
            here,
            other,
            table,
            backup_entries.saturating_sub(1),
            entries_crc,
        )
    };
    disk.set_len(size)?;
    let hybrid = layout.hybrid.iter().map(|name| find(&partitions, name));
    let hybrid = hybrid.collect::<Result<Vec<_>>>()?;
    let mbr = match &hybrid[..] {
        [] => protective_mbr(last),
        some => hybrid_mbr(some)?,
    };
    disk.write_all_at(&mbr, 0)?;
    disk.write_all_at(&header(1, last, 2), SECTOR)?;
    disk.write_all_at(&entries, 2 * SECTOR)?;
    disk.write_all_at(&entries, backup_entries.saturating_mul(SECTOR))?;
    disk.write_all_at(
        &header(last, 1, backup_entries),
        last.saturating_mul(SECTOR),
    )?;
    Ok(partitions)
}

/// What the first header of a disk calls it.
///
/// # Errors
/// It cannot be read, or has none that is whole.
pub fn disk_guid(disk: &File) -> Result<Guid> {
    let mut sector = [0; gpt::SECTOR];
    disk.read_exact_at(&mut sector, SECTOR)
        .context("cannot read the partition table")?;
    let header = gpt::Header::parse(&sector, 1).context("the disk has no partition table")?;
    Ok(header.disk)
}

/// One partition of type 0xEE over the whole disk, so that old tools leave it alone.
fn protective_mbr(last: u64) -> Vec<u8> {
    mbr(&[entry(
        0xee,
        [0x00, 0x02, 0x00],
        1,
        u32::try_from(last).unwrap_or(u32::MAX),
    )])
}

/// The firmware's partitions, and behind them one of type 0xEE over everything before the first.
fn hybrid_mbr(partitions: &[&Partition]) -> Result<Vec<u8>> {
    /// FAT16, addressed by sectors; where cylinders would stand is the largest that can.
    const FAT16: u8 = 0x0e;
    const NO_CYLINDER: [u8; 3] = [0xfe, 0xff, 0xff];
    /// The table has four entries.
    const MOST: usize = 3;
    if partitions.len() > MOST {
        bail!(
            "the MBR has no room for {} partitions and a GPT",
            partitions.len()
        );
    }
    let sectors = |bytes: u64| {
        u32::try_from(bytes / SECTOR)
            .context("the partition for the MBR is too far from its beginning")
    };
    let mut entries = Vec::new();
    let mut before = u32::MAX;
    for partition in partitions {
        let (first, count) = (sectors(partition.offset)?, sectors(partition.size)?);
        before = before.min(first.saturating_sub(1));
        entries.push(entry(FAT16, NO_CYLINDER, first, count));
    }
    entries.push(entry(0xee, [0x00, 0x02, 0x00], 1, before));
    Ok(mbr(&entries))
}

fn entry(kind: u8, begin: [u8; 3], first: u32, count: u32) -> Vec<u8> {
    let [head, sector, cylinder] = begin;
    let mut entry = vec![0x00, head, sector, cylinder, kind, 0xff, 0xff, 0xff];
    entry.extend(first.to_le_bytes());
    entry.extend(count.to_le_bytes());
    entry
}

fn mbr(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut sector = vec![0; 446];
    sector.extend(entries.concat());
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

fn header(
    disk: [u8; 16],
    here: u64,
    other: u64,
    table: u64,
    last_usable: u64,
    entries_crc: u32,
) -> Vec<u8> {
    let first_usable = 2_u64.saturating_add(ENTRIES_SECTORS);
    let fields = |crc: u32| {
        let mut bytes = b"EFI PART\0\0\x01\0".to_vec();
        bytes.extend(HEADER_SIZE.to_le_bytes());
        bytes.extend(crc.to_le_bytes());
        bytes.extend([0; 4]);
        for sector in [here, other, first_usable, last_usable] {
            bytes.extend(sector.to_le_bytes());
        }
        bytes.extend(disk);
        bytes.extend(table.to_le_bytes());
        bytes.extend(ENTRIES.to_le_bytes());
        bytes.extend(ENTRY.to_le_bytes());
        bytes.extend(entries_crc.to_le_bytes());
        bytes
    };
    let mut sector = fields(crc32(&fields(0)));
    sector.resize(512, 0);
    sector
}

/// Reads the partitions of a disk by the first copy of its table that is whole, as every loader does.
///
/// # Errors
/// It has no table, or one whose checksums are wrong: that of the first copy is told. The one that is whole has partitions
/// that lie over each other: the other copy is not looked at then, since a loader would not.
pub fn read(disk: &File) -> Result<Vec<Partition>> {
    let found = copy(disk, 1).or_else(|error| {
        let mut end = disk;
        let size = end.seek(SeekFrom::End(0)).unwrap_or_default();
        let last = (size / SECTOR).saturating_sub(1);
        copy(disk, last).map_err(|_| error)
    })?;
    apart(found)
}

/// Reads the partitions by the copy whose header is in the sector `here`: 1, or the disk's last.
///
/// # Errors
/// As [`read`], of this copy alone.
pub fn read_copy(disk: &File, here: u64) -> Result<Vec<Partition>> {
    copy(disk, here).and_then(apart)
}

/// Refuses partitions that lie over each other: a checksum is no word on what it is of, and what is written to the one would be
/// read from the other.
fn apart(partitions: Vec<Partition>) -> Result<Vec<Partition>> {
    let mut sorted: Vec<&Partition> = partitions.iter().collect();
    sorted.sort_by_key(|partition| partition.offset);
    let end = |partition: &Partition| partition.offset.saturating_add(partition.size);
    for (before, after) in sorted.iter().zip(sorted.iter().skip(1)) {
        if end(before) > after.offset {
            bail!(
                "the partitions {:?} (bytes {} to {}) and {:?} (bytes {} to {}) lie over each other",
                before.name,
                before.offset,
                end(before),
                after.name,
                after.offset,
                end(after)
            );
        }
    }
    Ok(partitions)
}

fn copy(disk: &File, here: u64) -> Result<Vec<Partition>> {
    let mut header = [0; 512];
    disk.read_exact_at(&mut header, here.saturating_mul(SECTOR))
        .context("cannot read the partition table")?;
    if !header.starts_with(b"EFI PART") {
        bail!("the disk has no GPT");
    }
    let mut fields = header.get(..92).unwrap_or_default().to_vec();
    fields.get_mut(16..20).unwrap_or_default().fill(0);
    if crc32(&fields) != u32_at(&header, 16)
        || u64_at(&header, 24) != here
        || u32_at(&header, 80) != ENTRIES
        || u32_at(&header, 84) != ENTRY
    {
        bail!("the partition table's header is damaged");
    }
    let mut entries = vec![0; usize::try_from(ENTRIES_SECTORS * SECTOR)?];
    let table = u64_at(&header, 72).saturating_mul(SECTOR);
    disk.read_exact_at(&mut entries, table)
        .context("cannot read the partition table's entries")?;
    if crc32(&entries) != u32_at(&header, 88) {
        bail!("the partition table's entries are damaged");
    }
    let used = entries
        .chunks_exact(128)
        .filter(|entry| entry.iter().take(16).any(|byte| *byte != 0));
    Ok(used.map(partition).collect())
}

fn partition(entry: &[u8]) -> Partition {
    let first = u64_at(entry, 32);
    let sectors = u64_at(entry, 40).saturating_add(1).saturating_sub(first);
    let units = entry
        .get(56..)
        .unwrap_or_default()
        .chunks_exact(2)
        .map(|pair| match pair {
            [low, high] => u16::from_le_bytes([*low, *high]),
            _ => 0,
        });
    let name = char::decode_utf16(units.take_while(|unit| *unit != 0))
        .map(|unit| unit.unwrap_or('\u{fffd}'))
        .collect();
    Partition {
        name,
        offset: first.saturating_mul(SECTOR),
        size: sectors.saturating_mul(SECTOR),
        record: record(u64_at(entry, 48)),
    }
}

/// What an entry's attributes say of a boot record.
fn record(attributes: u64) -> RecordLayout {
    let exponent = u32::try_from(attributes >> TYPE_BITS).unwrap_or_default();
    let block = 1_u32.checked_shl(exponent).and_then(EraseBlock::new);
    block.map_or(RecordLayout::Sectors, RecordLayout::EraseBlocks)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |field| u32::from_le_bytes(*field))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |field| u64::from_le_bytes(*field))
}

/// The partition of that name.
///
/// # Errors
/// There is none.
pub fn find<'a>(partitions: &'a [Partition], name: &str) -> Result<&'a Partition> {
    partitions
        .iter()
        .find(|partition| partition.name == name)
        .with_context(|| format!("the disk has no partition {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_table_is_told() {
        let file = tempfile::tempfile().unwrap();
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
        let written = write(&file, &layout).unwrap();
        assert_eq!(read(&file).unwrap(), written);
        assert_eq!(find(&written, "data").unwrap().offset, MIB);
        assert!(find(&written, "slot-a").is_err());
        let flip = |offset: u64| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).unwrap();
            file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
        };
        // The second copy: its header is the last sector, its entries stand before it.
        let end = file.metadata().unwrap().len();
        let entries = end - 33 * 512;
        for (first, second) in [
            (512, end - 512),
            (512 + 20, end - 512 + 24),
            (512 + 88, end - 512 + 88),
            (1024 + 16, entries + 16),
            (1024 + 60, entries + 60),
        ] {
            flip(first);
            assert_eq!(read(&file).unwrap(), written, "{first}");
            flip(second);
            assert!(read(&file).is_err(), "{first} and {second}");
            flip(first);
            assert_eq!(read(&file).unwrap(), written, "{second}");
            flip(second);
        }
    }

    /// Another tool's table: its checksums are good, and the second copy is as it was.
    #[test]
    fn partitions_over_each_other_are_refused_with_both_names() {
        let file = tempfile::tempfile().unwrap();
        let wanted = |name, guid| Wanted {
            name,
            kind: Kind::Linux,
            guid: [guid; 16],
            size: 3 * MIB,
        };
        let layout = Layout {
            guid: [1; 16],
            first: MIB,
            hybrid: vec![],
            partitions: vec![wanted("slot-a", 2), wanted("data", 3)],
        };
        let written = write(&file, &layout).unwrap();
        let last = file.metadata().unwrap().len() / SECTOR - 1;
        let mut entries = vec![0; 128 * 128];
        file.read_exact_at(&mut entries, 2 * SECTOR).unwrap();
        let mut begin = |first: u64| {
            entries[128 + 32..128 + 40].copy_from_slice(&first.to_le_bytes());
            let header = header([1; 16], 1, last, 2, last - 33, crc32(&entries));
            file.write_all_at(&header, SECTOR).unwrap();
            file.write_all_at(&entries, 2 * SECTOR).unwrap();
        };
        // From 4 MiB on, behind the first, and one sector into it.
        begin(8192);
        assert_eq!(read(&file).unwrap(), written);
        begin(8191);
        let said = "the partitions \"slot-a\" (bytes 1048576 to 4194304) and \"data\" (bytes 4193792 to 7340032) lie over each other";
        for refused in [read(&file), read_copy(&file, 1)] {
            assert_eq!(refused.unwrap_err().to_string(), said);
        }
        assert_eq!(read_copy(&file, last).unwrap(), written);
    }
}
