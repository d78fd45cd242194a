//! Mounts: what rustix has (re-exported) and `mount_setattr(2)`, `pivot_root(2)`, lazy unmounts.
//!
//! The new mount API is descriptor-based: `fsopen` → `fsconfig_*` → `fsmount` → [`set_attributes`] →
//! `move_mount`. Nothing here knows a path by itself.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{Mode, OFlags};
pub use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountFlags, MountPropagationFlags,
    MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_create_exclusive,
    fsconfig_reconfigure, fsconfig_set_binary, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_path, fsconfig_set_string, fsmount, fsopen, fspick, mount, mount_bind,
    mount_bind_recursive, mount_change, mount_move, mount_remount, move_mount, open_tree, unmount,
};

use crate::syscall::{MOUNT_SETATTR, checked};
use crate::{During, Result};

/// Whether a change reaches the mounts below as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Only the mount that is named.
    One,
    /// All mounts of the tree (`AT_RECURSIVE`): all of them change, or none.
    Tree,
}

/// How mount events spread (`mount_namespaces(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Nothing in, nothing out.
    Private,
    /// In from the master, nothing out.
    Slave,
    /// Both ways, within the peer group.
    Shared,
    /// Private, and cannot be bind mounted.
    Unbindable,
}

impl Propagation {
    /// `MS_PRIVATE` and so on of `linux/mount.h`; libc's have another width on each architecture.
    const fn bits(self) -> u64 {
        match self {
            Self::Private => 1 << 18,
            Self::Slave => 1 << 19,
            Self::Shared => 1 << 20,
            Self::Unbindable => 1 << 17,
        }
    }
}

/// `struct mount_attr`, version 0 (Linux 5.12).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct RawAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
const MOUNT_ATTR_ATIME: u64 = 0x70;

/// A change of a mount's attributes, built up and then given to [`set_attributes`].
///
/// It borrows the user namespace's descriptor until then.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes<'fd> {
    raw: RawAttributes,
    user_namespace: Option<BorrowedFd<'fd>>,
}

impl<'fd> Attributes<'fd> {
    /// No change.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `flags`: read-only, nosuid, nodev, noexec, nosymfollow, an access time rule.
    #[must_use]
    pub fn set(mut self, flags: MountAttrFlags) -> Self {
        let bits = u64::from(flags.bits());
        self.raw.set |= bits;
        // The access time is a number in a field: the kernel wants it cleared before it is set.
        if bits & MOUNT_ATTR_ATIME != 0 {
            self.raw.clear |= MOUNT_ATTR_ATIME;
        }
        self
    }

    /// Clears `flags`. In a user namespace that did not set them, the kernel refuses (`EPERM`).
    #[must_use]
    pub fn clear(mut self, flags: MountAttrFlags) -> Self {
        self.raw.clear |= u64::from(flags.bits());
        self
    }

    /// Changes how mount events spread.
    #[must_use]
    pub fn propagation(mut self, propagation: Propagation) -> Self {
        self.raw.propagation = propagation.bits();
        self
    }

    /// Maps ids as in the user namespace `namespace` (an open `/proc/PID/ns/user`). Once only for
    /// each mount, and only for one that is not attached yet (`open_tree` with `CLONE`, `fsmount`).
    #[must_use]
    pub fn id_map(mut self, namespace: BorrowedFd<'fd>) -> Self {
        self.raw.set |= MOUNT_ATTR_IDMAP;
        self.raw.userns_fd = u64::from(namespace.as_raw_fd().unsigned_abs());
        self.user_namespace = Some(namespace);
        self
    }
}

/// `mount_setattr(2)` on the mount at `path` below `directory`; the empty path is `directory`
/// itself, which then is what `fsmount` or `open_tree` returned.
///
/// # Errors
/// `EINVAL` where `path` is no mount or its file system takes no id map, `EPERM`, `EBUSY` when it is
/// made read-only while written to, `ENOSYS` before Linux 5.12.
pub fn set_attributes<Fd: AsFd>(
    directory: Fd,
    path: &CStr,
    depth: Depth,
    attributes: &Attributes<'_>,
) -> Result<()> {
    let mut flags = libc::AT_SYMLINK_NOFOLLOW;
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH;
    }
    if depth == Depth::Tree {
        flags |= AT_RECURSIVE;
    }
    // SAFETY: `path` is NUL-terminated and alive, `attributes.raw` is a mount_attr of the size that
    // is passed, and `attributes` borrows the descriptor whose number it carries. The kernel only
    // reads them, and keeps none.
    let answer = unsafe {
        libc::syscall(
            MOUNT_SETATTR,
            directory.as_fd().as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attributes.raw,
            std::mem::size_of::<RawAttributes>(),
        )
    };
    checked("mount_setattr", answer).map(drop)
}

/// From `linux/fcntl.h`; libc lacks it on some targets.
const AT_RECURSIVE: libc::c_int = 0x8000;

/// Unmounts what is at `target` as soon as nobody uses it (`MNT_DETACH`), without following a link.
///
/// # Errors
/// `EINVAL` where nothing is mounted at `target`, `ENOENT`, `EPERM`.
pub fn unmount_detach(target: &CStr) -> Result<()> {
    unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).during("umount2")
}

/// `pivot_root(2)` with the old root put under the new one and then detached: afterwards the mount
/// at the working directory is `/`, and the old root is gone from this mount namespace, and from no other.
///
/// The working directory must be a mount point (`fchdir` to it first), and must not be the initramfs
/// itself.
///
/// # Errors
/// `EINVAL` where the working directory is no mount, its parent is shared, or the root is the
/// initramfs; `EPERM`.
pub fn pivot_here() -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = rustix::fs::open(c"/", flags, Mode::empty()).during("open")?;
    // `.` over `.` stacks the old root on the new one, so that no directory is needed for it
    // (pivot_root(2), "pivot_root(".", ".")").
    rustix::process::pivot_root(c".", c".").during("pivot_root")?;
    rustix::process::fchdir(&old).during("fchdir")?;
    // Mounts that are shared with another namespace, the machine's say, would be unmounted there, too.
    mount_change(
        c".",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .during("mount")?;
    unmount(c".", UnmountFlags::DETACH).during("umount2")?;
    rustix::process::chdir(c"/").during("chdir")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Errno;

    #[test]
    fn attributes_have_the_size_of_version_zero() {
        assert_eq!(std::mem::size_of::<RawAttributes>(), 32);
    }

    #[test]
    fn propagation_is_the_kernels_flags() {
        use rustix::mount::MountPropagationFlags as Flags;
        for (ours, theirs) in [
            (Propagation::Private, Flags::PRIVATE),
            (Propagation::Slave, Flags::DOWNSTREAM),
            (Propagation::Shared, Flags::SHARED),
            (Propagation::Unbindable, Flags::UNBINDABLE),
        ] {
            assert_eq!(ours.bits(), u64::from(theirs.bits()), "{ours:?}");
        }
    }

    #[test]
    fn an_access_time_rule_clears_the_field_first() {
        let attributes = Attributes::new()
            .set(MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOATIME);
        assert_eq!(attributes.raw.set, 0x11);
        assert_eq!(attributes.raw.clear, 0x70);
    }

    #[test]
    fn an_id_map_carries_the_descriptor() {
        let null = std::fs::File::open("/dev/null").expect("/dev/null");
        let attributes = Attributes::new().id_map(null.as_fd());
        assert_eq!(attributes.raw.set, 0x10_0000);
        let number = u64::from(null.as_raw_fd().unsigned_abs());
        assert_eq!(attributes.raw.userns_fd, number);
    }

    #[test]
    fn what_is_no_mount_is_refused() {
        let directory = std::fs::File::open("/usr/bin").expect("/usr/bin");
        let change = Attributes::new().set(MountAttrFlags::MOUNT_ATTR_RDONLY);
        let error = set_attributes(&directory, c"no-such-entry", Depth::One, &change);
        let errno = error.expect_err("no such path").errno;
        assert!(
            [Errno::NOENT, Errno::PERM, Errno::NOSYS].contains(&errno),
            "{errno}"
        );
    }
}
