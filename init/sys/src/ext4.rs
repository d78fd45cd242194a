//! ext4: growing it while mounted, and project quotas.
//!
//! A project is a number on files; what is made in a directory that hands it down has the same one.
//! The limit counts what a project's files take on disk. The file system must have been made with
//! `-O quota,project`; limits hold where it is mounted with `prjquota`.

use std::os::fd::{AsFd, AsRawFd};

use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

use crate::syscall::{QUOTACTL_FD, checked};
use crate::{During, Result};

/// Grows the file system that `mount` (any file or directory on it) belongs to, to `blocks` blocks
/// of its own block size. Takes long on a large one: this is no work for PID 1.
///
/// # Errors
/// `EINVAL` where the device is smaller than that, `EPERM`, `ENOTTY` on another file system.
pub fn grow<Fd: AsFd>(mount: Fd, blocks: u64) -> Result<()> {
    rustix::fs::ext4_ioc_resize_fs(mount, blocks).during("EXT4_IOC_RESIZE_FS")
}

/// `struct fsxattr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ExtendedFlags {
    xflags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

const FS_IOC_FSGETXATTR: Opcode = opcode::read::<ExtendedFlags>(b'X', 31);
const FS_IOC_FSSETXATTR: Opcode = opcode::write::<ExtendedFlags>(b'X', 32);
/// What is made in the directory belongs to its project.
const FS_XFLAG_PROJINHERIT: u32 = 0x200;

fn flags<Fd: AsFd>(file: Fd) -> Result<ExtendedFlags> {
    // SAFETY: the opcode is FS_IOC_FSGETXATTR, and what it writes is an fsxattr.
    let get = unsafe { Getter::<FS_IOC_FSGETXATTR, ExtendedFlags>::new() };
    // SAFETY: the kernel fills the whole structure when it answers without an error.
    unsafe { ioctl(file, get) }.during("FS_IOC_FSGETXATTR")
}

/// The project that `directory` hands down to what is made in it; 0 is none.
///
/// # Errors
/// `ENOTTY`, `EOPNOTSUPP` where the file system has no projects.
pub fn project<Fd: AsFd>(directory: Fd) -> Result<u32> {
    let flags = flags(directory)?;
    Ok(if flags.xflags & FS_XFLAG_PROJINHERIT == 0 {
        0
    } else {
        flags.project
    })
}

/// Puts `directory` into `project`, and with it whatever is made in it from now on.
///
/// # Errors
/// `EOPNOTSUPP` where the file system has no projects, `EPERM`, `EINVAL` in a user namespace.
pub fn set_project<Fd: AsFd>(directory: Fd, project: u32) -> Result<()> {
    let directory = directory.as_fd();
    let flags = flags(directory)?;
    let changed = ExtendedFlags {
        xflags: flags.xflags | FS_XFLAG_PROJINHERIT,
        project,
        ..flags
    };
    // SAFETY: the opcode is FS_IOC_FSSETXATTR, and what it reads is an fsxattr.
    let set = unsafe { Setter::<FS_IOC_FSSETXATTR, ExtendedFlags>::new(changed) };
    // SAFETY: the kernel reads the structure during the call only.
    unsafe { ioctl(directory, set) }.during("FS_IOC_FSSETXATTR")
}

/// `struct if_dqblk`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct RawQuota {
    block_hard: u64,
    block_soft: u64,
    space: u64,
    inode_hard: u64,
    inode_soft: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// Limits and use of a project; a limit of 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes on disk that the project may take, a multiple of 1024.
    pub bytes: u64,
    /// Files and directories that it may have.
    pub inodes: u64,
    /// Bytes that it takes now (not written by [`set_quota`]).
    pub bytes_used: u64,
    /// Files and directories that it has now (not written by [`set_quota`]).
    pub inodes_used: u64,
}

/// The unit of block limits, whatever the file system's blocks are.
const QUOTA_BLOCK: u64 = 1024;
/// `QIF_BLIMITS | QIF_ILIMITS`: only the limits are meant.
const LIMITS_VALID: u32 = 1 | 4;
const Q_GETQUOTA: u32 = 0x80_0007;
const Q_SETQUOTA: u32 = 0x80_0008;

/// `QCMD(command, PRJQUOTA)`.
const fn project_command(command: u32) -> u32 {
    (command << 8) | 2
}

/// Limits what `project` may take on the file system of `mount` (any file or directory on it).
/// Bytes are rounded up to 1024.
///
/// # Errors
/// `ESRCH` where quotas are off, `ENOSYS` before Linux 5.14, `EPERM`.
pub fn set_quota<Fd: AsFd>(mount: Fd, project: u32, bytes: u64, inodes: u64) -> Result<()> {
    let blocks = bytes.div_ceil(QUOTA_BLOCK);
    let mut quota = RawQuota {
        block_hard: blocks,
        block_soft: blocks,
        inode_hard: inodes,
        inode_soft: inodes,
        valid: LIMITS_VALID,
        ..RawQuota::default()
    };
    quotactl(mount, Q_SETQUOTA, project, &mut quota)
}

/// The limits and the use of `project` on the file system of `mount`.
///
/// # Errors
/// As [`set_quota`].
pub fn quota<Fd: AsFd>(mount: Fd, project: u32) -> Result<Quota> {
    let mut quota = RawQuota::default();
    quotactl(mount, Q_GETQUOTA, project, &mut quota)?;
    Ok(Quota::from(quota))
}

impl From<RawQuota> for Quota {
    fn from(raw: RawQuota) -> Self {
        Self {
            bytes: raw.block_hard.saturating_mul(QUOTA_BLOCK),
            inodes: raw.inode_hard,
            bytes_used: raw.space,
            inodes_used: raw.inodes,
        }
    }
}

fn quotactl<Fd: AsFd>(mount: Fd, command: u32, project: u32, quota: &mut RawQuota) -> Result<()> {
    // SAFETY: both commands take an if_dqblk, which `quota` is; it is borrowed for the call, and the
    // kernel does not keep the pointer.
    let answer = unsafe {
        libc::syscall(
            QUOTACTL_FD,
            mount.as_fd().as_raw_fd(),
            project_command(command),
            project,
            std::ptr::from_mut(quota),
        )
    };
    checked("quotactl_fd", answer).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!(std::mem::size_of::<ExtendedFlags>(), 28);
        assert_eq!(std::mem::size_of::<RawQuota>(), 72);
    }

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[test]
    fn opcodes_are_those_of_the_header() {
        assert_eq!(FS_IOC_FSGETXATTR, 0x801c_581f);
        assert_eq!(FS_IOC_FSSETXATTR, 0x401c_5820);
        assert_eq!(project_command(Q_SETQUOTA), 0x8000_0802);
    }

    #[test]
    fn another_file_system_cannot_grow() {
        let file = std::fs::File::open("/proc/self/status").expect("/proc");
        assert!(grow(&file, 1).is_err());
        assert!(set_project(&file, 1).is_err());
        assert!(quota(&file, 1).is_err());
    }
}
