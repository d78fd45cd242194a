//! The data partition takes the rest of the disk, in the first boot from a card that is larger than its image. What is written,
//! and why in that order, is in [`kedge_board_support::growth`]; its file system grows later ([`crate::helpers`]).

use crate::boot::{files, partitions};
use crate::error::Error;
use kedge_board_support::growth::{Growth, Table, growth, is_grown};
use kedge_board_support::loading::gpt::{Header, SECTOR};
use kedge_sys::Errno;
use kedge_sys::block;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The kernel's argument for which it takes the second copy of a table where the first one is torn
/// (`Documentation/admin-guide/kernel-parameters.txt`).
const BOTH_COPIES: &str = "gpt";

/// Whether a power cut while the table is written leaves a kernel that finds its disk: by the arguments of this one, which what
/// is committed has been started with.
pub(crate) fn is_safe(cmdline: &str) -> bool {
    cmdline
        .split_ascii_whitespace()
        .any(|word| word == BOTH_COPIES)
}

/// Sees to it that the partition `data` ends where its disk does. It must not be mounted.
///
/// # Errors
/// [`Error::File`]: the disk takes no writes, does not give back what was written, or the kernel takes no other size; the partition
/// stays as it is then, and the next boot begins anew.
pub(crate) fn take_the_rest(class: &Path, devices: &Path, data: &Path) -> Result<(), Error> {
    let Some(disk) = partitions::disk_of(class, data) else {
        return Ok(());
    };
    let path = devices.join(disk.replace('!', "/"));
    let file = File::open(&path).map_err(Error::io("open", &path))?;
    let size = files::read(&class.join(&disk).join("size"), 64)?;
    let sectors = std::str::from_utf8(&size)
        .ok()
        .and_then(|text| text.trim_end().parse().ok());
    let Some(sectors) = sectors else {
        return Ok(());
    };
    if first_copy(&file).is_some_and(|(header, entries)| is_grown(&header, &entries, sectors)) {
        return Ok(());
    }
    let copies = [1, sectors.saturating_sub(1)];
    let table = copies.into_iter().find_map(|here| table(&file, here));
    match table.and_then(|table| growth(&table, sectors)) {
        Some(growth) => perform(&path, &growth),
        None => Ok(()),
    }
}

/// Header and entries as they lie there, if the header is whole.
fn first_copy(file: &File) -> Option<([u8; SECTOR], Vec<u8>)> {
    let header: [u8; SECTOR] = sectors(file, 1, SECTOR)?.try_into().ok()?;
    let parsed = Header::parse(&header, 1)?;
    let entries = sectors(file, parsed.entries, parsed.length)?;
    Some((header, entries))
}

fn table(file: &File, here: u64) -> Option<Table> {
    Table::read(here, |at, length| sectors(file, at, length))
}

/// So many bytes from a sector on.
fn sectors(file: &File, at: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    let place = at.checked_mul(u64::try_from(SECTOR).ok()?)?;
    file.read_exact_at(&mut bytes, place).ok()?;
    Some(bytes)
}

fn perform(disk: &Path, growth: &Growth) -> Result<(), Error> {
    let file = File::options().read(true).write(true).open(disk);
    let file = file.map_err(Error::io("open", disk))?;
    let bytes = |sectors: u64| {
        let sector = u64::try_from(SECTOR).ok()?;
        sectors.checked_mul(sector)
    };
    let large = || Error::file("resize", disk)(Errno::OVERFLOW);
    let write = |(at, content): &(u64, Vec<u8>)| {
        let place = bytes(*at).ok_or_else(large)?;
        let written = file
            .write_all_at(content, place)
            .and_then(|()| file.sync_data());
        written.map_err(Error::io("write", disk))
    };
    growth.second.iter().try_for_each(write)?;
    // Some cards claim to be larger than they are, and take every write.
    let forgotten = block::flush_buffers(&file);
    forgotten.map_err(|error| Error::file("read anew", disk)(error.errno))?;
    for (at, content) in &growth.second {
        if sectors(&file, *at, content.len()).as_ref() != Some(content) {
            return Err(Error::file("read back the end of", disk)(Errno::IO));
        }
    }
    write(&growth.first_copy)?;
    let first = bytes(growth.first).ok_or_else(large)?;
    let length = bytes(growth.sectors).ok_or_else(large)?;
    let resized = block::resize_partition(&file, growth.number, first, length);
    resized.map_err(|error| Error::file("resize", disk)(error.errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_is_a_word_of_its_own() {
        assert!(is_safe("console=ttyS0 gpt kedge.slot=a\n"));
        assert!(is_safe("panic=1 gpt\n"));
        assert!(!is_safe("console=ttyS0 gpt=1 nogpt kedge.slot=a\n"));
        assert!(!is_safe(""));
    }
}
