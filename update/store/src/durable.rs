//! The only module that renames or syncs: contents, sync, name, sync of the directory.
//!
//! After a power cut at any point a name shows either the old contents or the new, never a part
//! (ext4 with its default `data=ordered`; POSIX rename(2)). Temporary names end in `.new`;
//! [`sweep`] removes what a cut left.

use crate::error::Error;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Ending of temporary names.
const TEMPORARY: &str = ".new";

/// Writes `bytes` under `path`, replacing what is there, with access for its owner alone.
///
/// # Errors
/// [`Error::File`]; the old contents stay.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = temporary(path);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(Error::file("create", &temporary))?;
    let written = file
        .write_all(bytes)
        .map_err(Error::file("write", &temporary))
        .and_then(|()| sync(&file, &temporary));
    if let Err(error) = written {
        // The error that counts is the first one; what is left is swept at the next start.
        drop(std::fs::remove_file(&temporary));
        return Err(error);
    }
    rename(&temporary, path)
}

/// Gives a synced file its name, and syncs the directories concerned.
///
/// # Errors
/// [`Error::File`].
#[allow(
    clippy::disallowed_methods,
    reason = "this is the module that the ban points to"
)]
pub fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::rename(from, to).map_err(Error::file("rename to", to))?;
    sync_parent(to)?;
    if from.parent() == to.parent() {
        Ok(())
    } else {
        sync_parent(from)
    }
}

/// Writes a file's contents and size to the disk.
///
/// # Errors
/// [`Error::File`]. After a failed sync the contents are unknown and must not be trusted
/// (fsync(2), "EIO"): the caller drops the file.
pub fn sync(file: &File, path: &Path) -> Result<(), Error> {
    file.sync_all().map_err(Error::file("sync", path))
}

/// Writes a file's contents and size to the disk, or removes it: after a failed sync, what is read of it comes from memory,
/// and says nothing of the disk.
///
/// # Errors
/// [`Error::File`]; the file is gone.
pub fn sync_or_drop(file: &File, path: &Path) -> Result<(), Error> {
    sync(file, path).inspect_err(|_| {
        // The error that counts is the first one.
        drop(std::fs::remove_file(path));
    })
}

/// Makes a directory with its parents, each of them synced into its own parent.
///
/// # Errors
/// [`Error::File`].
pub fn make_directory(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    match std::fs::create_dir(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::file("make directory", path)(error)),
    }
}

/// Removes a file; one that is not there will do. Durable once the directory is synced, for which
/// nobody waits: a removed file that shows again after a cut is removed again.
///
/// # Errors
/// [`Error::File`].
pub fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::file("remove", path)(error)),
    }
}

/// Removes a directory with everything in it, and follows no symbolic link; one that is not there will do.
/// As durable as [`remove`]: what half of is left after a cut must have lost its name before.
///
/// # Errors
/// [`Error::File`].
pub fn remove_tree(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::file("remove", path)(error)),
    }
}

/// Writes everything of the file system that `path` is on to the disk: for many files at once.
///
/// # Errors
/// [`Error::File`].
pub fn sync_all(path: &Path) -> Result<(), Error> {
    let directory = File::open(path).map_err(Error::file("open", path))?;
    kedge_sys::rustix::fs::syncfs(&directory)
        .map_err(|errno| Error::file("sync the file system of", path)(errno.into()))
}

/// Removes temporary files that a power cut left in `directory`, and tells how many.
///
/// # Errors
/// [`Error::File`].
pub fn sweep(directory: &Path) -> Result<usize, Error> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(Error::file("list", directory)(error)),
    };
    let mut count = 0;
    for entry in entries {
        let path = entry.map_err(Error::file("list", directory))?.path();
        if path.to_string_lossy().ends_with(TEMPORARY) {
            remove(&path)?;
            count += 1;
        }
    }
    Ok(count)
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY);
    PathBuf::from(name)
}

fn sync_parent(path: &Path) -> Result<(), Error> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let directory = File::open(parent).map_err(Error::file("open", parent))?;
    sync(&directory, parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/file");
        make_directory(path.parent().unwrap()).unwrap();
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1
        );
    }

    #[test]
    fn a_failed_write_keeps_the_old_contents() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write(&path, b"old").unwrap();
        // A directory stands where the temporary file would.
        std::fs::create_dir(temporary(&path)).unwrap();
        write(&path, b"new").unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn what_could_not_be_synced_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("part");
        let file = File::create(&path).unwrap();
        sync_or_drop(&file, &path).unwrap();
        assert!(path.exists());
        // A pipe cannot be synced (fsync(2), EINVAL), as a disk that fails cannot.
        let (_reader, writer) = std::io::pipe().unwrap();
        let fails = File::from(std::os::fd::OwnedFd::from(writer));
        sync_or_drop(&fails, &path).unwrap_err();
        assert!(!path.exists());
    }

    #[test]
    fn sweeping_takes_only_temporary_files() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["keep", "torn.new"] {
            File::create(directory.path().join(name)).unwrap();
        }
        assert_eq!(sweep(directory.path()).unwrap(), 1);
        assert!(directory.path().join("keep").exists());
        assert_eq!(sweep(&directory.path().join("absent")).unwrap(), 0);
    }
}
