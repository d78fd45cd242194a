//! Firmware that an image must bring along: what it is, and where the processor's first code looks for it.
//!
//! ```toml
//! [[firmware]]
//! package = "u-boot-sunxi"
//! suite = "trixie"
//! file = "usr/lib/u-boot/orangepi_zero/u-boot-sunxi-with-spl.bin"
//! offset = 131_072
//! ```
//! What: a `file` of a Debian `package` in a `suite`, a `device-tree` of the kernel's package, or a `text`. Where: an `offset` in
//! bytes on the disk, a `partition` of its own, a file name on the partition `boot`, or one in the `slot`, which changes with
//! the revision. One of each, or the file is refused.

use super::check::{Problem, demand, is_word};
use super::{Backend, Board};
use kedge_revision::FileName;
use kedge_revision::revision::MAX_BOOT_FILES;
use serde::Deserialize;
use std::collections::BTreeSet;

/// Bytes of a sector.
const SECTOR: u64 = 512;
/// The protective MBR, the table's header and its entries: nothing else may stand there (UEFI Specification 2.10, 5.3).
pub const TABLE_END: u64 = 34 * SECTOR;
/// Most pieces: a Raspberry Pi has about ten.
const MOST: usize = 32;
/// Longest text, bytes.
const LONGEST_TEXT: usize = 4096;

/// A piece of firmware.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Firmware {
    /// What it is.
    pub source: Source,
    /// Where it goes.
    pub place: Place,
}

/// What a piece of firmware is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file of a package.
    Package {
        /// Debian's name of the package.
        package: String,
        /// The Debian suite.
        suite: String,
        /// The part of the suite that it is in: `main`, or `non-free-firmware`.
        component: String,
        /// The file's path in it.
        file: String,
    },
    /// A device tree of the kernel's package, by its path as in [`super::Boot::device_trees`].
    DeviceTree(String),
    /// These words, for settings that a firmware reads.
    Text(String),
}

/// Where a piece of firmware goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// This many bytes from the disk's beginning, outside of every partition.
    Offset(u64),
    /// A partition of its own, before all others, in the order of the file.
    Partition(Partition),
    /// A file of the partition `boot`.
    Boot(FileName),
    /// A file of the slot: it comes with a revision, and goes back with it.
    Slot(FileName),
}

/// A partition that holds one piece of firmware, without a file system.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Partition {
    /// Its name.
    pub name: kedge_revision::Name,
    /// Its type, which the boot ROM may look for.
    #[serde(rename = "type")]
    pub kind: Guid,
    /// Its size, MiB.
    pub size: u32,
}

/// A GUID, written as in `2E54B353-1271-4842-806F-E436D6AF6985`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Guid([u8; 16]);

impl Guid {
    /// In the order of bytes on a disk: the first three groups are little-endian (UEFI Specification 2.10, appendix A).
    #[must_use]
    pub const fn on_disk(self) -> [u8; 16] {
        self.0
    }
}

impl TryFrom<String> for Guid {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bad = || format!("{text:?} is no GUID such as 2E54B353-1271-4842-806F-E436D6AF6985");
        let mut bytes = Vec::new();
        let lengths = [8, 4, 4, 4, 12];
        let groups: Vec<&str> = text.split('-').collect();
        if groups.len() != lengths.len() {
            return Err(bad());
        }
        for (number, (group, length)) in groups.into_iter().zip(lengths).enumerate() {
            let digits = group.bytes().all(|byte| byte.is_ascii_hexdigit());
            if group.len() != length || !digits {
                return Err(bad());
            }
            let value = u64::from_str_radix(group, 16).map_err(|_| bad())?;
            let big = value.to_be_bytes();
            let mut used: Vec<u8> = big.into_iter().rev().take(length / 2).collect();
            if number > 2 {
                used.reverse();
            }
            bytes.extend(used);
        }
        bytes.try_into().map(Self).map_err(|_| bad())
    }
}

/// As it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Raw {
    package: Option<String>,
    suite: Option<String>,
    component: Option<String>,
    file: Option<String>,
    device_tree: Option<String>,
    text: Option<String>,
    offset: Option<u64>,
    partition: Option<Partition>,
    boot: Option<FileName>,
    slot: Option<FileName>,
}

impl TryFrom<Raw> for Firmware {
    type Error = &'static str;

    fn try_from(raw: Raw) -> Result<Self, &'static str> {
        let package = match (raw.package, raw.suite, raw.file) {
            (None, None, None) if raw.component.is_none() => None,
            (Some(package), Some(suite), Some(file)) => Some(Source::Package {
                package,
                suite,
                component: raw.component.unwrap_or_else(|| "main".to_owned()),
                file,
            }),
            _ => return Err("firmware has not all of package, suite and file"),
        };
        let sources = [
            package,
            raw.device_tree.map(Source::DeviceTree),
            raw.text.map(Source::Text),
        ];
        let places = [
            raw.offset.map(Place::Offset),
            raw.partition.map(Place::Partition),
            raw.boot.map(Place::Boot),
            raw.slot.map(Place::Slot),
        ];
        Ok(Self {
            source: one(sources)
                .ok_or("firmware is not exactly one of package, device-tree and text")?,
            place: one(places)
                .ok_or("firmware goes not to exactly one of offset, partition, boot and slot")?,
        })
    }
}

fn one<T>(all: impl IntoIterator<Item = Option<T>>) -> Option<T> {
    let mut all = all.into_iter().flatten();
    let first = all.next();
    all.next().map_or(first, |_| None)
}

/// A path in a package: relative, of plain words, which none of `..` is.
fn is_path(path: &str) -> bool {
    path.len() <= 256 && path.split('/').all(is_word)
}

/// The name of a device tree in a slot: the last part of its path.
#[must_use]
pub fn tree_name(path: &str) -> Option<FileName> {
    path.rsplit('/').next()?.parse().ok()
}

pub(super) fn check(board: &Board) -> Result<(), Problem> {
    trees(board)?;
    load(board)?;
    demand(
        board.firmware.len() <= MOST,
        "firmware",
        "has more than 32 pieces",
    )?;
    for (nth, piece) in board.firmware.iter().enumerate() {
        source(board, &piece.source)
            .and_then(|()| place(board, &piece.place))
            .map_err(|problem| problem.of(nth))?;
    }
    names(board)
}

fn trees(board: &Board) -> Result<(), Problem> {
    const KEY: &str = "boot.device-trees";
    let trees = &board.boot.device_trees;
    demand(
        trees.is_empty() || matches!(board.boot.backend, Backend::UBoot | Backend::Tryboot),
        KEY,
        "have no use: nothing but U-Boot's script and a Raspberry Pi's firmware load one",
    )?;
    demand(
        trees.is_empty() || board.kernel.package.is_some(),
        KEY,
        "need kernel.package: they are taken out of it",
    )?;
    trees.iter().try_for_each(|path| {
        demand(
            is_path(path) && path.ends_with(".dtb") && tree_name(path).is_some(),
            KEY,
            "has what is no path of a device tree in the kernel's package",
        )
    })
}

/// Addresses that leave room for what is loaded.
fn load(board: &Board) -> Result<(), Problem> {
    const KEY: &str = "boot.load";
    /// What arm64 and RISC-V kernels want to begin on (Linux `Documentation/arch/arm64/booting.rst`).
    const ALIGNMENT: u32 = 2 << 20;
    /// More than any device tree has.
    const TREE: u32 = 256 << 10;
    let Some(load) = board.boot.load else {
        return Ok(());
    };
    demand(
        board.boot.backend == Backend::UBoot,
        KEY,
        "has no use: nothing but U-Boot's script loads there",
    )?;
    demand(
        load.kernel.is_multiple_of(ALIGNMENT),
        KEY,
        "has a kernel that is not on a multiple of 2 MiB",
    )?;
    let after = u64::from(load.kernel).saturating_add(board.budgets.kernel);
    demand(
        after <= u64::from(load.device_tree),
        KEY,
        "has less room for the kernel than its budget",
    )?;
    demand(
        load.device_tree.saturating_add(TREE) <= load.initramfs,
        KEY,
        "has less than 256 KiB for the device tree",
    )
}

fn source(board: &Board, source: &Source) -> Result<(), Problem> {
    match source {
        Source::Package {
            package,
            suite,
            component,
            file,
        } => {
            demand(
                is_word(component),
                "firmware.component",
                "is no part of a suite",
            )?;
            demand(is_word(package), "firmware.package", "is no package's name")?;
            demand(is_word(suite), "firmware.suite", "is no suite's name")?;
            demand(is_path(file), "firmware.file", "is no path in a package")
        }
        Source::DeviceTree(path) => demand(
            board.boot.device_trees.contains(path),
            "firmware.device-tree",
            "is none of boot.device-trees",
        ),
        Source::Text(text) => demand(
            text.len() <= LONGEST_TEXT && text.is_ascii(),
            "firmware.text",
            "is over 4096 bytes or not ASCII",
        ),
    }
}

fn place(board: &Board, place: &Place) -> Result<(), Problem> {
    match place {
        Place::Offset(offset) => {
            demand(
                offset % SECTOR == 0,
                "firmware.offset",
                "is not a multiple of 512",
            )?;
            let first = board.partitions.first_bytes();
            if *offset < TABLE_END {
                let problem =
                    format!("of {offset} lies in the partition table, which ends at {TABLE_END}");
                return Err(Problem::new("firmware.offset", problem));
            }
            if *offset >= first {
                let problem = format!(
                    "of {offset} lies in the partitions, which begin at {first}: raise partitions.first"
                );
                return Err(Problem::new("firmware.offset", problem));
            }
            Ok(())
        }
        Place::Partition(partition) => {
            demand(
                board.boot.backend != Backend::Tryboot,
                "firmware.partition",
                "would come before the partition of autoboot.txt, which has to be the first",
            )?;
            demand(
                (1..=64).contains(&partition.size),
                "firmware.partition",
                "is not of 1 to 64 MiB",
            )
        }
        Place::Boot(_) => demand(
            board.boot.backend == Backend::UBoot,
            "firmware.boot",
            "has no use: the partition is another loader's",
        ),
        Place::Slot(_) => Ok(()),
    }
}

/// No two files or partitions have one name.
fn names(board: &Board) -> Result<(), Problem> {
    /// Names of partitions that every board may have, and of the script on `boot`.
    const PARTITIONS: [&str; 6] = ["bootenv", "boot", "boot-copy", "slot-a", "slot-b", "data"];
    const SCRIPT: &str = "boot.scr";
    let (mut boot, mut slot, mut partitions) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    boot.insert(SCRIPT.to_owned());
    partitions.extend(PARTITIONS.map(str::to_owned));
    for path in &board.boot.device_trees {
        let name = tree_name(path).map(|name| name.to_string());
        demand(
            slot.insert(name.unwrap_or_default()),
            "boot.device-trees",
            "has two of one name",
        )?;
    }
    for (nth, piece) in board.firmware.iter().enumerate() {
        let (taken, key, name) = match &piece.place {
            Place::Offset(_) => continue,
            Place::Partition(one) => (&mut partitions, "firmware.partition", one.name.to_string()),
            Place::Boot(name) => (&mut boot, "firmware.boot", name.to_string()),
            Place::Slot(name) => (&mut slot, "firmware.slot", name.to_string()),
        };
        if !taken.insert(name.clone()) {
            return Err(Problem::new(key, format!("{name} is there twice")).of(nth));
        }
    }
    demand(
        slot.len() <= MAX_BOOT_FILES,
        "firmware.slot",
        "makes more than 24 files with the device trees",
    )
}

#[cfg(test)]
mod tests;
