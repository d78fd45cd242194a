//! Sticks: images of removable disks with bundles on them, and what befalls bundles on their way.

use anyhow::{Context, Result, ensure};
use kedge_image_build::image::fat;
use kedge_image_build::{files, process};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::guest::Guest;

/// Bytes before the partition of a divided disk: 2048 sectors, as everybody has it.
const BEFORE: u64 = 1 << 20;
/// Bytes of a file system.
const SIZE: u64 = 256 << 20;

/// Makes a FAT with these files over the whole disk.
///
/// # Errors
/// The tools cannot be had, or the files do not fit.
pub fn make(image: &Path, files: &[PathBuf]) -> Result<()> {
    fat::make(image, SIZE, [7; 16], files, 1_795_341_600)
}

/// Makes a disk with a partition table in which the first partition is such a FAT, as sticks are sold.
///
/// # Errors
/// As [`make`].
pub fn make_divided(image: &Path, files: &[PathBuf]) -> Result<()> {
    let whole = image.with_extension("part");
    make(&whole, files)?;
    let mut sector = vec![0; 512];
    let entry = |sector: &mut Vec<u8>, at: usize, bytes: &[u8]| -> Result<()> {
        let place = sector.get_mut(at..at.saturating_add(bytes.len()));
        place
            .context("a table of 512 bytes")?
            .copy_from_slice(bytes);
        Ok(())
    };
    // One entry of type 0x0c, FAT by logical addresses: first sector, sectors; and the signature.
    entry(&mut sector, 446 + 4, &[0x0c])?;
    let sectors = |bytes: u64| u32::try_from(bytes / 512).map(u32::to_le_bytes);
    entry(&mut sector, 446 + 8, &sectors(BEFORE)?)?;
    entry(&mut sector, 446 + 12, &sectors(SIZE)?)?;
    entry(&mut sector, 510, &[0x55, 0xaa])?;
    files::write(image, sector)?;
    process::run(
        Command::new("dd")
            .arg(format!("if={}", whole.display()))
            .arg(format!("of={}", image.display()))
            .args(["bs=1M", "seek=1", "conv=sparse,notrunc", "status=none"]),
    )?;
    let file = std::fs::File::options().write(true).open(image)?;
    file.set_len(BEFORE + SIZE).context("cannot size a stick")
}

/// Plugs a disk into a machine that has a bus for such. No two may have one name.
///
/// # Errors
/// The machine does not run.
pub fn plug(guest: &Guest, name: &str, image: &Path) -> Result<()> {
    let file = json!({ "driver": "file", "filename": image, "read-only": true });
    let node = json!({ "driver": "raw", "node-name": name, "read-only": true, "file": file });
    guest.monitor("blockdev-add", &node)?;
    let device = json!({
        "driver": "scsi-hd", "bus": "sticks.0", "drive": name, "id": format!("{name}-disk"), "removable": true,
    });
    guest.monitor("device_add", &device)
}

/// Pulls a disk out.
///
/// # Errors
/// The machine does not run.
pub fn pull(guest: &Guest, name: &str) -> Result<()> {
    guest.monitor("device_del", &json!({ "id": format!("{name}-disk") }))
}

/// A bundle in which the first of these words is another of the same length.
///
/// # Errors
/// The word is not there.
pub fn tampered(bundle: &Path, word: &[u8], other: &[u8]) -> Result<Vec<u8>> {
    ensure!(word.len() == other.len(), "another length");
    let mut bytes = files::read(bundle)?;
    let at = bytes.windows(word.len()).position(|part| part == word);
    let end = at
        .context("the word is not in the bundle")?
        .saturating_add(word.len());
    let place = bytes.get_mut(end.saturating_sub(word.len())..end);
    place
        .context("a place that was found")?
        .copy_from_slice(other);
    Ok(bytes)
}
