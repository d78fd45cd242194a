//! Slots: FAT file systems with a handful of files in the root folder, made and read by mtools without mounting.

use crate::{debian, process};
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// Makes a FAT of `size` bytes with these files; `id` gives its serial number, `time` every time in it, and to the files
/// themselves.
///
/// # Errors
/// The tools cannot be had, or the files do not fit.
pub fn make(image: &Path, size: u64, id: [u8; 16], files: &[PathBuf], time: u64) -> Result<()> {
    for path in files {
        date(path, time)?;
    }
    make_of(image, size, id, files, time)
}

/// The same with each file's own time, of somebody else's files.
///
/// # Errors
/// As [`make`].
pub fn make_of(image: &Path, size: u64, id: [u8; 16], files: &[PathBuf], time: u64) -> Result<()> {
    format(image, size, id, "16", time)?;
    files
        .iter()
        .try_for_each(|path| put(image, path, "::/", time))
}

/// An empty FAT whose entries have so many bits.
fn format(image: &Path, size: u64, id: [u8; 16], bits: &str, time: u64) -> Result<()> {
    tools()?;
    let file =
        File::create_new(image).with_context(|| format!("cannot make {}", image.display()))?;
    file.set_len(size)
        .with_context(|| format!("cannot size {}", image.display()))?;
    let [a, b, c, d, ..] = id;
    let serial = format!("{a:02x}{b:02x}{c:02x}{d:02x}");
    process::run(deterministic(
        Command::new("mkfs.vfat")
            .args(["--invariant", "-F", bits, "-i", &serial])
            .arg(image),
        time,
    ))
}

/// Sets the time of a file.
fn date(path: &Path, time: u64) -> Result<()> {
    let when = SystemTime::UNIX_EPOCH + Duration::from_secs(time);
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.set_modified(when)
        .with_context(|| format!("cannot set the time of {}", path.display()))
}

/// Copies a file into a folder of a FAT.
fn put(image: &Path, path: &Path, folder: &str, time: u64) -> Result<()> {
    process::run(deterministic(
        Command::new("mcopy")
            .arg("-m")
            .arg("-i")
            .arg(image)
            .arg(path)
            .arg(folder),
        time,
    ))
}

/// Makes a FAT32 of `size` bytes with one program in the folder where UEFI looks for it, `/EFI/BOOT`.
///
/// # Errors
/// As [`make`].
pub fn make_efi(image: &Path, size: u64, id: [u8; 16], program: &Path, time: u64) -> Result<()> {
    format(image, size, id, "32", time)?;
    let mut folders = Command::new("mmd");
    folders.arg("-i").arg(image).args(["::/EFI", "::/EFI/BOOT"]);
    process::run(deterministic(&mut folders, time))?;
    date(program, time)?;
    put(image, program, "::/EFI/BOOT/", time)
}

/// Copies the file `name` of the FAT that begins at byte `offset` of `disk` to `to`.
///
/// # Errors
/// There is no such file, or the tools cannot be had.
pub fn extract(disk: &Path, offset: u64, name: &str, to: &Path) -> Result<()> {
    tools()?;
    let mut place = OsString::from(disk);
    place.push(format!("@@{offset}"));
    process::run(
        Command::new("mcopy")
            .args(["-n", "-i"])
            .arg(place)
            .arg(format!("::/{name}"))
            .arg(to),
    )
    .with_context(|| {
        format!(
            "cannot read /{name} of the slot at {offset} of {}",
            disk.display()
        )
    })
}

fn deterministic(command: &mut Command, time: u64) -> &mut Command {
    command
        .env("TZ", "UTC")
        .env("SOURCE_DATE_EPOCH", time.to_string())
        .env_remove("MTOOLSRC")
}

fn tools() -> Result<()> {
    // Asking dpkg takes longer than looking: a disk is started far more often than a machine is set up.
    if ["mkfs.vfat", "mcopy"]
        .iter()
        .all(|tool| process::find(tool).is_some())
    {
        return Ok(());
    }
    debian::require(&["dosfstools", "mtools"], "make the slots of an image")
}
