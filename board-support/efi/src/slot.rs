//! What is in a slot: the files of its FAT, through the firmware's own driver, and whether they belong together.

use crate::disk::{Disk, shared};
use crate::{About, Error};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use kedge_loading::Slot;
use kedge_loading::statement::{self, Refusal, Statement};
use sha2::{Digest, Sha256};
use uefi::boot::LoadImageSource;
use uefi::proto::media::file::{Directory, File, FileAttribute, FileInfo, FileMode};
use uefi::proto::media::fs::SimpleFileSystem;
use uefi::{CStr16, Status, boot, cstr16};

/// Largest kernel or initramfs, bytes: a slot has 1 GiB at most.
const MOST: u64 = 1 << 30;
/// Longest arguments, bytes.
const MOST_ARGUMENTS: u64 = 4096;
/// Largest statement, bytes.
const STATEMENT: u64 = statement::MOST as u64;

/// A slot's files.
pub(crate) struct Files {
    /// The kernel, a program for UEFI.
    pub(crate) kernel: Vec<u8>,
    /// The initramfs.
    pub(crate) initramfs: Vec<u8>,
    /// The revision's kernel arguments.
    pub(crate) arguments: String,
}

/// Reads a slot's files. They are what its statement says: Secure Boot asks for one, and where it is off a statement that is
/// there tells damage, for which a FAT has no checksums.
pub(crate) fn read(disk: &Disk, slot: Slot, secure_boot: bool) -> Result<Files, Error> {
    let (first, _) = disk.partition(slot.partition())?;
    let mut folder = open(disk, first)?;
    let statement = optional(&mut folder, cstr16!("statement.efi"), STATEMENT)?;
    statement::needed(secure_boot, statement.is_some())?;
    let line = file(&mut folder, cstr16!("cmdline.txt"), MOST_ARGUMENTS)?;
    let kernel = file(&mut folder, cstr16!("kernel"), MOST)?;
    let initramfs = file(&mut folder, cstr16!("initramfs"), MOST)?;
    if let Some(program) = statement {
        if secure_boot {
            verified(&program)?;
        }
        let hashes = [&kernel, &initramfs, &line].map(|bytes| Sha256::digest(bytes).into());
        Statement::of(&program)?.judge(hashes)?;
    }
    let arguments = String::from_utf8(line)
        .ok()
        .filter(|text| text.trim().bytes().all(|byte| (0x20..0x7f).contains(&byte)))
        .ok_or_else(|| Error("cmdline.txt is no line of ASCII".into()))?;
    Ok(Files {
        kernel,
        initramfs,
        arguments: arguments.trim().into(),
    })
}

/// Has the firmware judge by whom a program was signed, which is not started.
fn verified(program: &[u8]) -> Result<(), Error> {
    let source = LoadImageSource::FromBuffer {
        buffer: program,
        file_path: None,
    };
    let loaded = boot::load_image(boot::image_handle(), source);
    let image = loaded.about("its statement.efi is refused")?;
    boot::unload_image(image).about("its statement.efi does not go")
}

impl From<Refusal> for Error {
    fn from(why: Refusal) -> Self {
        Self(format!("{why}"))
    }
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
    optional(folder, name, most)?.ok_or_else(|| Error::new(name, Status::NOT_FOUND))
}

/// A file's bytes; nothing if there is no such file.
fn optional(folder: &mut Directory, name: &CStr16, most: u64) -> Result<Option<Vec<u8>>, Error> {
    let opened = folder.open(name, FileMode::Read, FileAttribute::empty());
    if opened
        .as_ref()
        .is_err_and(|error| error.status() == Status::NOT_FOUND)
    {
        return Ok(None);
    }
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
    Ok(Some(bytes))
}
