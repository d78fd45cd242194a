//! What volumes and roots may take on disk: project quotas.
//!
//! A directory that a container writes to is a project of its own, and whatever is made in it belongs to that project.
//! The project's number is made of the directory's inode, of which there is no other, so that nobody keeps a list; a
//! copy that takes a volume's place is another project. Inside the container `df` shows the limit as the disk's size.
//!
//! The number is given to an empty directory only: in a directory that hands a project down, a file of another one
//! cannot be renamed (`EXDEV`). A container cannot change it: that takes the first user namespace.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use kedge_sys::Errno;
use kedge_sys::ext4::{self, Quota};
use kedge_sys::rustix::fs::{CWD, Dir, Mode, OFlags, fstat, fstatvfs, openat};

use crate::plan::{Medium, Plan};
use crate::stage::{At, SpawnError, Stage};

/// Where numbers of these projects begin; those below are the device's own.
const FIRST: u32 = 1 << 31;
/// Bytes for each file that may be made: as many files as the disk as a whole has for as many bytes (`mke2fs`,
/// `inode_ratio`), so that small files of one container leave room for those of others.
const BYTES_PER_FILE: u64 = 16 * 1024;
/// The largest limit that quotas take, less than its last KiB (Linux `fs/quota/quota_v2.c`).
const MOST_BYTES: u64 = (1 << 62) - 1024;
/// Files that any volume may have.
const LEAST_FILES: u64 = 1024;

/// Files that one directory without a limit may have, of so many on the whole disk. No bytes are reserved for it: it only
/// must not use up all files with empty ones, which an update needs as well.
fn share(whole: u64) -> u64 {
    (whole / 4).saturating_mul(3).max(LEAST_FILES)
}

/// What a directory takes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes that it may take; absent without a limit.
    pub most: Option<u64>,
    /// Files and directories.
    pub files: u64,
}

/// The number of the project that `directory` is on its own.
fn number(directory: &OwnedFd) -> Result<u32, Errno> {
    let inode = fstat(directory)?.st_ino;
    let inode = u32::try_from(inode).ok().filter(|inode| *inode < FIRST);
    inode.map(|inode| FIRST | inode).ok_or(Errno::OVERFLOW)
}

/// Makes `directory` a project, if it is none and is empty: before anything is in it. Without projects on its file
/// system nothing happens.
///
/// # Errors
/// Those of the file system.
pub fn adopt(directory: &OwnedFd) -> Result<(), Errno> {
    match project(directory) {
        Err(errno) if is_lacking(errno) => Ok(()),
        other => other.map(drop),
    }
}

/// The project of `directory`, which becomes one if it can. `None`: it was written to before it could.
fn project(directory: &OwnedFd) -> Result<Option<u32>, Errno> {
    let own = number(directory)?;
    if ext4::project(directory).map_err(|error| error.errno)? == own {
        return Ok(Some(own));
    }
    if is_filled(directory)? {
        return Ok(None);
    }
    match ext4::set_project(directory, own).map_err(|error| error.errno) {
        Ok(()) => Ok(Some(own)),
        Err(Errno::ROFS) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Whether the directory at `path` holds something and is no project, so that nobody counts what is in it. `None`: it is
/// not there, or does not say.
#[must_use]
pub fn is_uncounted(path: &Path) -> Option<bool> {
    let path = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
    let directory = open(&std::ffi::CString::new(path).ok()?).ok()?;
    let own = number(&directory).ok()?;
    let is_other = ext4::project(&directory).ok()? != own;
    Some(is_other && is_filled(&directory).ok()?)
}

fn is_filled(directory: &OwnedFd) -> Result<bool, Errno> {
    let mut entries = Dir::read_from(directory)?;
    Ok(entries.any(|entry| {
        entry.map_or(true, |entry| {
            !matches!(entry.file_name().to_bytes(), b"." | b"..")
        })
    }))
}

/// Whether an error says that this file system or kernel knows no projects or no quotas.
fn is_lacking(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::SRCH | Errno::OVERFLOW
    )
}

/// Files that may be in what may take so many bytes, on disk or in memory: empty ones cost the kernel memory, too.
pub(crate) fn files(bytes: u64) -> u64 {
    (bytes / BYTES_PER_FILE).max(LEAST_FILES)
}

/// Gives the directory at `path` its limit, or takes away one that it had and has no more: then it may have its share of the disk's files. Where the limit cannot
/// be held, that is an error; where there is none, it is not.
///
/// # Errors
/// `ESRCH`, `ENOTTY`, `EOPNOTSUPP` without quotas; those of the file system.
pub(crate) fn bound(path: &CStr, medium: Medium) -> Result<(), Errno> {
    let Medium::Disk(most) = medium else {
        return Ok(());
    };
    match limit(path, most) {
        Err(errno) if most.is_none() && is_lacking(errno) => Ok(()),
        other => other,
    }
}

impl Plan {
    /// Gives what has a share of the disk its share anew: the disk has grown.
    ///
    /// # Errors
    /// Stage `Quota`: the first that cannot be; the others are as they were.
    pub fn share_again(&self) -> Result<(), SpawnError> {
        let root = self.root.writes.iter();
        let root = root.map(|writes| (&writes.directory, writes.medium));
        let volumes = self.volumes.iter();
        let volumes = volumes.map(|volume| (&volume.source, volume.medium));
        for (path, medium) in root.chain(volumes) {
            if medium == Medium::Disk(None) {
                bound(path, medium).at(Stage::Quota, path)?;
            }
        }
        Ok(())
    }
}

fn limit(path: &CStr, most: Option<u64>) -> Result<(), Errno> {
    let directory = open(path)?;
    let Some(project) = project(&directory)? else {
        return Ok(());
    };
    // More than a file system can have is no limit, and the kernel refuses it.
    let bytes = most.unwrap_or(0).min(MOST_BYTES).div_ceil(1024) * 1024;
    let files = match most {
        Some(most) => files(most),
        None => share(fstatvfs(open_parent(&directory)?)?.f_files),
    };
    // Each writing is one of the journal, which a start needs no more than once.
    let now = match ext4::quota(&directory, project) {
        Ok(now) => now,
        // No file of it has been counted yet.
        Err(error) if error.errno == Errno::NOENT => Quota::default(),
        // After an error of the disk: what runs goes on, and nothing is written that could be too much.
        Err(error) if error.errno == Errno::ROFS => return Ok(()),
        Err(error) => return Err(error.errno),
    };
    if (now.bytes, now.inodes) == (bytes, files) {
        return Ok(());
    }
    ext4::set_quota(&directory, project, bytes, files).map_err(|error| error.errno)
}

/// What the directory at `path` takes; `None` where nobody counts: in memory, before its first start, in one that was
/// written to before it could become a project.
#[must_use]
pub fn taken(path: &Path) -> Option<Taken> {
    let path = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
    let directory = open(&std::ffi::CString::new(path).ok()?).ok()?;
    let project = ext4::project(&directory).ok()?;
    if project != number(&directory).ok()? {
        return None;
    }
    let quota = ext4::quota(&directory, project).ok()?;
    Some(Taken {
        bytes: quota.bytes_used,
        most: Some(quota.bytes).filter(|most| *most > 0),
        files: quota.inodes_used,
    })
}

/// Whether `directory` has a limit beyond that which all have: one of a former directory with its inode number, if it is new. `whole` is one on the
/// same file system without any. Asks with no privilege (Linux `fs/ext4/super.c`, `ext4_statfs_project`).
///
/// # Errors
/// Those of the file system.
pub fn is_bounded(directory: &OwnedFd, whole: &OwnedFd) -> Result<bool, Errno> {
    let (here, there) = (fstatvfs(directory)?, fstatvfs(whole)?);
    Ok(here.f_blocks < there.f_blocks || here.f_files < share(there.f_files))
}

/// What a directory is in, which is no project: of one with a limit, `statvfs` would tell that.
fn open_parent(directory: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(directory, "..", flags, Mode::empty())
}

fn open(path: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_all_files_and_everybody_has_some() {
        assert_eq!(share(65_536), 49_152);
        assert_eq!(share(4096), 3072);
        for whole in [0, 100, 1024] {
            assert_eq!(share(whole), LEAST_FILES);
        }
        assert!(share(u64::MAX) < u64::MAX);
    }
}
