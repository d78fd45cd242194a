//! What was in a folder, copied onto the file system in memory that covers it (`tmpcopyup`). Every step is taken from an open folder,
//! and no link is followed: whoever shares the folder may exchange its entries meanwhile.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use kedge_sys::rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchmod, fstat, mkdirat, openat,
    readlinkat, statat, symlinkat,
};

/// The most entries: an image has no more in the folders that this is meant for (`/run`, `/tmp`, `/var/lib/…`).
const MOST: usize = 100_000;

/// Copies all of `from` into `to`: files, folders, links, with owners and permissions.
///
/// # Errors
/// The entry.
pub(crate) fn folder(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    // A new description: `from` was opened as a mere place.
    let readable = |fd: BorrowedFd<'_>| open(fd, c".", OFlags::RDONLY | OFlags::DIRECTORY);
    let mut count = 0;
    copy(&readable(from)?, &readable(to)?, &mut count)
}

fn open(folder: impl AsFd, name: &CStr, flags: OFlags) -> Result<OwnedFd> {
    let always = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    Ok(openat(folder, name, flags | always, Mode::empty())?)
}

fn copy(from: &OwnedFd, to: &OwnedFd, count: &mut usize) -> Result<()> {
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        *count = count.saturating_add(1);
        ensure!(*count <= MOST, "over {MOST} entries");
        one(from, to, name, count).with_context(|| format!("copy {}", name.to_string_lossy()))?;
    }
    Ok(())
}

fn one(from: &OwnedFd, to: &OwnedFd, name: &CStr, count: &mut usize) -> Result<()> {
    let kind = |found: &Stat| FileType::from_raw_mode(found.st_mode);
    let found = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match kind(&found) {
        FileType::Symlink => {
            symlinkat(&*readlinkat(from, name, Vec::new())?, to, name)?;
            own(to, name, &found)
        }
        FileType::Directory => {
            let old = open(from, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let found = fstat(&old)?;
            mkdirat(to, name, Mode::RWXU)?;
            let new = open(to, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            copy(&old, &new, count)?;
            own(to, name, &found)?;
            Ok(fchmod(&new, mode(&found))?)
        }
        FileType::RegularFile => {
            let old = open(from, name, OFlags::RDONLY)?;
            let found = fstat(&old)?;
            ensure!(
                kind(&found) == FileType::RegularFile,
                "it was exchanged meanwhile"
            );
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let mut new = std::fs::File::from(openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
            std::io::copy(&mut std::fs::File::from(old), &mut new)?;
            own(to, name, &found)?;
            Ok(fchmod(&new, mode(&found))?)
        }
        // Sockets and pipes are made by whoever listens at them.
        FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Ok(()),
    }
}

fn mode(found: &Stat) -> Mode {
    Mode::from_raw_mode(found.st_mode & 0o7777)
}

fn own(folder: &OwnedFd, name: &CStr, found: &Stat) -> Result<()> {
    let (user, group) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
    Ok(chownat(
        folder,
        name,
        Some(user),
        Some(group),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn files_folders_and_links_are_copied() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (one.path(), other.path());
        std::fs::create_dir(from.join("d")).unwrap();
        let text = "text";
        std::io::Write::write_all(
            &mut File::create(from.join("d/f")).unwrap(),
            text.as_bytes(),
        )
        .unwrap();
        std::fs::set_permissions(from.join("d/f"), Permissions::from_mode(0o4711)).unwrap();
        std::os::unix::fs::symlink("d/f", from.join("l")).unwrap();
        // What a link leads to is not what is copied.
        std::os::unix::fs::symlink("/etc", from.join("out")).unwrap();
        let (one, other) = (File::open(from).unwrap(), File::open(to).unwrap());
        folder(one.as_fd(), other.as_fd()).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("l")).unwrap(), text);
        let mode = std::fs::metadata(to.join("d/f")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o4711);
        assert!(
            std::fs::symlink_metadata(to.join("out"))
                .unwrap()
                .is_symlink()
        );
    }
}
