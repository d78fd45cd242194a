//! Pseudo file systems, and PID 1's own root over the initramfs.
//!
//! `pivot_root` is refused while the root is the initramfs itself, so a tmpfs is moved over it
//! (pivot_root(2), "BUGS"); from then on containers can pivot. Everything is mounted straight into
//! the new root, so that nothing has to be moved but the root itself. The table stays small:
//! each container's `CLONE_NEWNS` copies all of it.

use crate::error::Error;
use kedge_sys::Errno;
use kedge_sys::rustix::fs::{CWD, Mode, mkdirat};
use kedge_sys::rustix::mount::{MountFlags, mount, mount_move};
use kedge_sys::rustix::process::{chdir, chroot};
use std::ffi::CStr;

/// Where the new root is built, inside the initramfs.
const NEW_ROOT: &CStr = c"/root";

/// Directories of the new root.
const DIRECTORIES: [(&CStr, u32); 6] = [
    (c"/root/proc", 0o555),
    (c"/root/sys", 0o555),
    (c"/root/dev", 0o755),
    (c"/root/data", 0o700),
    (c"/root/run", 0o755),
    (c"/root/run/kedge", 0o755),
];

/// Makes a directory; one that is there already will do.
pub(crate) fn make_directory(path: &CStr, mode: u32) -> Result<(), Error> {
    match mkdirat(CWD, path, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(Error::file("make directory", lossy(path))(errno)),
    }
}

/// A path for a message.
pub(crate) fn lossy(path: &CStr) -> String {
    path.to_string_lossy().into_owned()
}

fn mount_one(kind: &CStr, target: &CStr, flags: MountFlags, options: &CStr) -> Result<(), Error> {
    mount(kind, target, kind, flags, options).map_err(Error::file("mount", lossy(target)))
}

/// Mounts what everything else needs, under `/root`.
pub(crate) fn mount_all() -> Result<(), Error> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    make_directory(NEW_ROOT, 0o755)?;
    // No execution from the root's tmpfs: all programs come from layers. Mount points are all it holds.
    mount_one(
        c"tmpfs",
        NEW_ROOT,
        plain,
        c"mode=0755,size=1m,nr_inodes=4096",
    )?;
    for (path, mode) in DIRECTORIES {
        make_directory(path, mode)?;
    }
    mount_one(c"proc", c"/root/proc", plain, c"")?;
    mount_one(c"sysfs", c"/root/sys", plain, c"")?;
    let dev = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_one(c"devtmpfs", c"/root/dev", dev, c"mode=0755")?;
    // Without `memory_recursiveprot`: what a container with `memory-min` leaves of it would be kept for those that asked for none.
    mount_one(c"cgroup2", c"/root/sys/fs/cgroup", plain, c"")
}

/// Makes the new root the root. What is left in the initramfs costs memory for ever: the caller has removed it.
pub(crate) fn switch_root() -> Result<(), Error> {
    let at = || lossy(NEW_ROOT);
    chdir(NEW_ROOT).map_err(Error::file("enter", at()))?;
    mount_move(c".", c"/").map_err(Error::file("move", at()))?;
    chroot(c".").map_err(Error::file("change root to", at()))?;
    chdir(c"/").map_err(Error::file("enter", "/"))
}
