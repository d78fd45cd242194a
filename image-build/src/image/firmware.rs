//! Firmware on the disk: what goes where, and that nothing lies over anything else.
//!
//! Where the pieces come from is not asked here; their bytes are written as they are.

use super::gpt::{self, Partition};
use super::{ImagePlan, scratch::Scratch};
use crate::files;
use anyhow::{Context, Result, bail};
use kedge_board_support::boards::Firmware;
use kedge_board_support::boards::firmware::{Place, TABLE_END};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A part of the disk that somebody uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Whose it is, for messages.
    pub name: String,
    /// Where it begins, bytes.
    pub offset: u64,
    /// Its length, bytes.
    pub size: u64,
}

impl Extent {
    const fn end(&self) -> u64 {
        self.offset.saturating_add(self.size)
    }
}

/// Whether no two of these share a byte.
///
/// # Errors
/// The first two in order that do, with their offsets.
pub fn check(extents: &[Extent]) -> Result<()> {
    let mut sorted: Vec<&Extent> = extents.iter().filter(|extent| extent.size > 0).collect();
    sorted.sort_by_key(|extent| (extent.offset, extent.end()));
    for pair in sorted.windows(2) {
        if let [one, two] = pair
            && one.end() > two.offset
        {
            bail!(
                "{} (bytes {} to {}) lies over {} (bytes {} to {})\nhelp: move one of them in the board's file, or raise partitions.first",
                one.name,
                one.offset,
                one.end(),
                two.name,
                two.offset,
                two.end()
            );
        }
    }
    Ok(())
}

/// The board's pieces with their files.
fn pieces<'a>(
    plan: &ImagePlan<'a>,
) -> Result<impl Iterator<Item = (&'a Firmware, &'a PathBuf)> + use<'a>> {
    let (wanted, found) = (&plan.board.firmware, plan.firmware);
    if wanted.len() != found.len() {
        bail!(
            "the platform has {} pieces of firmware, and the board {2} {1}\nhelp: make it anew, in the clone of Kedge: cargo xtask image {2}",
            found.len(),
            wanted.len(),
            plan.board.name
        );
    }
    Ok(wanted.iter().zip(found))
}

/// Writes what stands outside of file systems: at an offset, or in a partition of its own.
///
/// # Errors
/// A piece is larger than its place, or lies over something; nothing is written then.
pub(super) fn write(plan: &ImagePlan<'_>, disk: &File, partitions: &[Partition]) -> Result<()> {
    let mut writes = Vec::new();
    let mut extents = vec![Extent {
        name: "the partition table".to_owned(),
        offset: 0,
        size: TABLE_END,
    }];
    extents.extend(partitions.iter().map(|partition| Extent {
        name: format!("the partition {}", partition.name),
        offset: partition.offset,
        size: partition.size,
    }));
    for (piece, path) in pieces(plan)? {
        let bytes = files::read(path)?;
        let size = u64::try_from(bytes.len()).context("a piece of firmware is too large")?;
        if size == 0 {
            bail!("the firmware {} is empty", named(path));
        }
        let offset = match &piece.place {
            Place::Boot(_) | Place::Slot(_) => continue,
            Place::Offset(offset) => {
                extents.push(Extent {
                    name: format!("the firmware {}", named(path)),
                    offset: *offset,
                    size,
                });
                *offset
            }
            Place::Partition(wanted) => {
                let partition = gpt::find(partitions, wanted.name.as_str())?;
                if size > partition.size {
                    bail!(
                        "the firmware {} has {size} bytes, and its partition {} {}\nhelp: raise the size in [[firmware]]",
                        named(path),
                        partition.name,
                        partition.size
                    );
                }
                partition.offset
            }
        };
        writes.push((offset, bytes));
    }
    check(&extents)?;
    for (offset, bytes) in writes {
        disk.write_all_at(&bytes, offset)
            .with_context(|| format!("cannot write firmware at {offset}"))?;
    }
    Ok(())
}

/// Copies what belongs on the partition `boot` under its names into a folder.
///
/// # Errors
/// A file cannot be read or written.
pub(super) fn boot_files(plan: &ImagePlan<'_>, scratch: &Scratch) -> Result<Vec<PathBuf>> {
    let folder = scratch.folder("firmware")?;
    let mut copies = Vec::new();
    for (piece, path) in pieces(plan)? {
        if let Place::Boot(name) = &piece.place {
            let copy = folder.join(name.as_str());
            files::copy(path, &copy)?;
            copies.push(copy);
        }
    }
    Ok(copies)
}

/// The file's name without the number that a platform gives it.
fn named(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let plain = name
        .split_once('-')
        .filter(|(number, _)| number.parse::<u8>().is_ok());
    plain.map_or_else(|| name.to_string(), |(_, rest)| rest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(name: &str, offset: u64, size: u64) -> Extent {
        Extent {
            name: name.to_owned(),
            offset,
            size,
        }
    }

    /// All ways that two can lie to each other.
    #[test]
    fn two_that_share_a_byte_are_named_with_their_offsets() {
        for (offset, size, good) in [
            (0, 100, true),
            (0, 101, false),
            (99, 1, true),
            (100, 1, false),
            (150, 10, false),
            (199, 1, false),
            (199, 100, false),
            (200, 100, true),
            (50, 500, false),
            (100, 100, false),
            // Nothing lies over nothing.
            (150, 0, true),
        ] {
            let both = [extent("one", 100, 100), extent("two", offset, size)];
            let reversed = [both[1].clone(), both[0].clone()];
            for list in [both, reversed] {
                let found = check(&list);
                assert_eq!(found.is_ok(), good, "{offset} {size}");
                if let Err(error) = found {
                    let text = error.to_string();
                    let said = [
                        "one",
                        "two",
                        "100 to 200",
                        &format!("{offset} to {}", offset + size),
                    ];
                    assert!(said.iter().all(|part| text.contains(part)), "{text}");
                }
            }
        }
    }

    #[test]
    fn a_file_is_called_as_in_its_package() {
        assert_eq!(named(Path::new("/x/3-u-boot.bin")), "u-boot.bin");
        assert_eq!(named(Path::new("/x/u-boot.bin")), "u-boot.bin");
    }
}
