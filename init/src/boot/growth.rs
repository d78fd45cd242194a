//! The data partition takes the rest of the disk, in the first boot from a card that is larger than its image. What is written,
//! and why in that order, is in [`kedge_board_support::growth`]; its file system grows later ([`crate::helpers`]).

use crate::boot::{files, partitions};
use crate::error::Error;
use kedge_board_support::growth::{Growth, Table, growth, is_grown};
use kedge_board_support::loading::gpt::SECTOR;
use kedge_sys::Errno;
use kedge_sys::block;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Sees to it that the partition `data` ends where its disk does. It must not be mounted.
///
/// # Errors
/// [`Error::File`]: the disk takes no writes, or the kernel no other size; the partition stays as it is then, and the next boot
/// begins anew.
pub(crate) fn take_the_rest(class: &Path, devices: &Path, data: &Path) -> Result<(), Error> {
    let Some(disk) = partitions::disk_of(class, data) else {
        return Ok(());
    };
    let path = devices.join(&disk);
    let file = File::open(&path).map_err(Error::io("open", &path))?;
    let size = files::read(&class.join(&disk).join("size"), 64)?;
    let sectors = std::str::from_utf8(&size)
        .ok()
        .and_then(|text| text.trim_end().parse().ok());
    let Some(sectors) = sectors else {
        return Ok(());
    };
    let read = |at: u64, length: usize| {
        let mut bytes = vec![0; length];
        let place = at.checked_mul(u64::try_from(SECTOR).ok()?)?;
        file.read_exact_at(&mut bytes, place).ok()?;
        Some(bytes)
    };
    let first: Option<[u8; SECTOR]> = read(1, SECTOR).and_then(|bytes| bytes.try_into().ok());
    if first.is_some_and(|header| is_grown(&header, sectors)) {
        return Ok(());
    }
    let copies = [1, sectors.saturating_sub(1)];
    let table = copies.into_iter().find_map(|here| Table::read(here, read));
    match table.and_then(|table| growth(&table, sectors)) {
        Some(growth) => perform(&path, &growth),
        None => Ok(()),
    }
}

fn perform(disk: &Path, growth: &Growth) -> Result<(), Error> {
    let file = File::options().read(true).write(true).open(disk);
    let file = file.map_err(Error::io("open", disk))?;
    let bytes = |sectors: u64| {
        let sector = u64::try_from(SECTOR).ok()?;
        sectors.checked_mul(sector)
    };
    let large = || Error::file("resize", disk)(Errno::OVERFLOW);
    for (at, content) in &growth.writes {
        let place = bytes(*at).ok_or_else(large)?;
        let written = file
            .write_all_at(content, place)
            .and_then(|()| file.sync_data());
        written.map_err(Error::io("write", disk))?;
    }
    let first = bytes(growth.first).ok_or_else(large)?;
    let length = bytes(growth.sectors).ok_or_else(large)?;
    let resized = block::resize_partition(&file, growth.number, first, length);
    resized.map_err(|error| Error::file("resize", disk)(error.errno))
}
