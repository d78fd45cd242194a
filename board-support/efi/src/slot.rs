//! What is in a slot: three files of its FAT, through the firmware's own driver.

use crate::disk::{Disk, shared};
use crate::{About, Error};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use kedge_loading::Slot;
use uefi::proto::media::file::{Directory, File, FileAttribute, FileInfo, FileMode};
use uefi::proto::media::fs::SimpleFileSystem;
use uefi::{CStr16, Status, boot, cstr16};

/// Largest kernel or initramfs, bytes: a slot has 1 GiB at most.
const MOST: u64 = 1 << 30;
/// Longest arguments, bytes.
const MOST_ARGUMENTS: u64 = 4096;

/// A slot's files.
pub(crate) struct Files {
    /// The kernel, a program for UEFI.
    pub(crate) kernel: Vec<u8>,
    /// The initramfs.
    pub(crate) initramfs: Vec<u8>,
    /// The revision's kernel arguments.
    pub(crate) arguments: String,
}

/// Reads a slot's files.
pub(crate) fn read(disk: &Disk, slot: Slot) -> Result<Files, Error> {
    let (first, _) = disk.partition(slot.partition())?;
    let mut folder = open(disk, first)?;
    let arguments = file(&mut folder, cstr16!("cmdline.txt"), MOST_ARGUMENTS)?;
    let arguments = String::from_utf8(arguments)
        .ok()
        .filter(|text| text.trim().bytes().all(|byte| (0x20..0x7f).contains(&byte)))
        .ok_or_else(|| Error("cmdline.txt is no line of ASCII".into()))?;
    Ok(Files {
        kernel: file(&mut folder, cstr16!("kernel"), MOST)?,
        initramfs: file(&mut folder, cstr16!("initramfs"), MOST)?,
        arguments: arguments.trim().into(),
    })
}

/// The root folder of the partition that begins at a sector.
fn open(disk: &Disk, first: u64) -> Result<Directory, Error> {
    // A firmware that is in a hurry connects no driver to what it does not boot from.
    for handle in boot::find_handles::<uefi::proto::media::block::BlockIO>().unwrap_or_default() {
        if disk.is_partition(handle, first) {
            boot::connect_controller(handle, &[], None, true).ok();
        }
    }
    let handles = boot::find_handles::<SimpleFileSystem>().about("its file system is none")?;
    let handle = handles
        .into_iter()
        .find(|handle| disk.is_partition(*handle, first))
        .ok_or_else(|| Error("its file system is none".into()))?;
    let mut system = shared::<SimpleFileSystem>(handle).about("its file system")?;
    system.open_volume().about("its file system")
}

fn file(folder: &mut Directory, name: &CStr16, most: u64) -> Result<Vec<u8>, Error> {
    let opened = folder.open(name, FileMode::Read, FileAttribute::empty());
    let mut file = opened
        .about(name)?
        .into_regular_file()
        .ok_or_else(|| Error(format!("{name} is no file")))?;
    let size = file.get_boxed_info::<FileInfo>().about(name)?.file_size();
    if size > most {
        return Err(Error(format!("{name} has {size} bytes, over {most}")));
    }
    let size = usize::try_from(size).map_err(|_| Error::new(name, Status::BAD_BUFFER_SIZE))?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).map_err(|_| {
        Error::new(
            format_args!("{name}, {size} bytes"),
            Status::OUT_OF_RESOURCES,
        )
    })?;
    bytes.resize(size, 0);
    let mut rest = bytes.as_mut_slice();
    while !rest.is_empty() {
        let count = file.read(rest).about(name)?;
        if count == 0 {
            return Err(Error(format!("{name} ends {} bytes too early", rest.len())));
        }
        rest = rest.get_mut(count..).unwrap_or_default();
    }
    Ok(bytes)
}
