//! The data partition: mounted with its journal replayed, and its directories.
//!
//! The image carries the file system; the device has no mkfs. Growing it to the partition is the
//! disk helper's work, after the first containers run.

use crate::boot::mounts::make_directory;
use crate::error::Error;
use crate::helpers::agent::USER as AGENT;
use kedge_sys::rustix::mount::{MountFlags, mount};
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Directories that a volume or log may need before anything was written; the image has them, a
/// damaged one may not.
const DIRECTORIES: [(&CStr, u32); 6] = [
    (c"/root/data/objects", 0o700),
    (c"/root/data/revisions", 0o700),
    (c"/root/data/staging", 0o700),
    (c"/root/data/volumes", 0o700),
    (c"/root/data/logs", 0o700),
    (c"/root/data/device", 0o700),
];

/// Mounts the data partition on `/root/data`.
///
/// Errors of the file system turn it read-only instead of stopping the kernel: what runs goes on
/// running, and the verdict and the status tell.
///
/// # Errors
/// [`Error::File`] with what the kernel says of the file system.
pub(crate) fn mount_data(device: &Path) -> Result<(), Error> {
    let source = CString::new(device.as_os_str().as_bytes())
        .map_err(|_| Error::file("mount", device)(kedge_sys::Errno::INVAL))?;
    // Of what the file system keeps from containers, the agent may take what it must not forget, too.
    let options = format!("errors=remount-ro,prjquota,resgid={AGENT}");
    let options =
        CString::new(options).map_err(|_| Error::file("mount", device)(kedge_sys::Errno::INVAL))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    let target = c"/root/data";
    mount(
        source.as_c_str(),
        target,
        c"ext4",
        flags,
        options.as_c_str(),
    )
    .map_err(Error::file("mount", device))?;
    DIRECTORIES
        .iter()
        .try_for_each(|(path, mode)| make_directory(path, *mode))
}
