//! A device that runs from memory: its disk is a file in the initramfs, attached to a loop device.
//!
//! The file has a partition table, a boot record and a data partition, made as those of a disk are
//! (`image-build/src/image/ram.rs`). So everything after this judges it as it judges a disk: the revision is verified from
//! its bytes, objects are sealed by fs-verity, and an update that needs no reboot is tried and committed. What a reboot
//! would be needed for is refused (`driver/update.rs`), since nothing outlives one.
//!
//! No other disk of the machine is looked at.

use super::files;
use crate::error::Error;
use kedge_sys::loopback;
use kedge_sys::rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use std::os::fd::OwnedFd;
use std::path::Path;

/// The disk's size in decimal; only the initramfs of such a device has it. It is unpacked before the disk is.
const SIZE: &str = "/etc/kedge/ram.size";
/// The disk.
const DISK: &str = "/ram.img";
/// An empty file behind it in the archive. The kernel gives a file its whole length before it unpacks what is in it, and goes
/// on with what it has when an archive is cut off or damaged: without this file the disk may be zeros from somewhere on.
const WHOLE: &str = "/ram.whole";
/// Where device nodes are before the change of root.
const DEVICES: &str = "/root/dev";

/// The size of the disk that came along, bytes; none on a device with a disk of its own.
///
/// # Errors
/// [`Error::File`].
pub(super) fn disk_size() -> Result<Option<u64>, Error> {
    let Some(text) = files::read_if_there(Path::new(SIZE), 32)? else {
        return Ok(None);
    };
    let size = std::str::from_utf8(&text).ok();
    let size = size.and_then(|text| text.trim_end().parse().ok());
    size.map(Some)
        .ok_or_else(|| Error::file("read", SIZE)(kedge_sys::Errno::INVAL))
}

/// Attaches the disk, and returns the kernel's name for it. Its partitions are there then.
///
/// # Errors
/// [`Error::Memory`] where it was not unpacked as a whole, [`Error::File`], [`Error::Sys`]: the kernel has no loop devices.
pub(super) fn attach(size: u64) -> Result<String, Error> {
    let disk = open(Path::new(DISK))?;
    let found = fstat(&disk).map_err(Error::file("look at", DISK))?.st_size;
    let found = u64::try_from(found).unwrap_or(0);
    if found != size || files::read_if_there(Path::new(WHOLE), 1)?.is_none() {
        return Err(Error::Memory { size });
    }
    let devices = Path::new(DEVICES);
    let number = loopback::free(open(&devices.join("loop-control"))?)?;
    let name = format!("loop{number}");
    loopback::attach(open(&devices.join(&name))?, disk, loopback::PARTITIONS)?;
    Ok(name)
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(Error::file("open", path))
}
