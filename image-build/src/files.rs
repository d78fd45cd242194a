//! Files on the host, written so that an interrupted run leaves either the old or the new, never a half.
//!
//! This is the one module of the host side that may rename. It does not sync: what it writes can be made again,
//! unlike the device's data (`kedge_store::durable`).

use anyhow::{Context, Result};
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Writes a file under a temporary name beside `path` and renames it over it. Missing folders are made.
///
/// # Errors
/// The folder cannot be made or written.
#[allow(
    clippy::disallowed_methods,
    reason = "the module that replaces files as a whole"
)]
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    let new = temporary(path);
    fs::write(&new, bytes).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("cannot put {} in its place", path.display()))
}

/// As [`write`], with mode 0600: the file is never open to others, not even for the moment before a change of mode.
///
/// # Errors
/// As [`write`].
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    let new = temporary(path);
    let put = || -> std::io::Result<()> {
        let mut file = fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    put().with_context(|| format!("cannot write {}", new.display()))?;
    publish(&new, path)
}

/// [`write`], then mode 0755.
///
/// # Errors
/// As [`write`].
pub fn write_executable(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    write(path, bytes)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", path.display()))
}

/// Renames a finished file or folder to its final name. A file is replaced; a folder's name must be free.
///
/// # Errors
/// The rename fails, for instance across file systems.
#[allow(
    clippy::disallowed_methods,
    reason = "the module that replaces files as a whole"
)]
pub fn publish(new: &Path, path: &Path) -> Result<()> {
    fs::rename(new, path)
        .with_context(|| format!("cannot rename {} to {}", new.display(), path.display()))
}

/// Copies a file as a whole, as [`write`] does; the mode comes along.
///
/// # Errors
/// `from` cannot be read, or the folder of `to` cannot be written.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        make_folder(folder)?;
    }
    let new = temporary(to);
    fs::copy(from, &new)
        .with_context(|| format!("cannot copy {} to {}", from.display(), new.display()))?;
    publish(&new, to)
}

/// Reads a whole file.
///
/// # Errors
/// It cannot be read; the error has its path.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Reads a whole file as text.
///
/// # Errors
/// It cannot be read or is not UTF-8; the error has its path.
pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Makes a folder and its parents; one that exists is fine.
///
/// # Errors
/// It cannot be made.
pub fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Removes a folder with all it holds; one that does not exist is fine.
///
/// # Errors
/// Something in it cannot be removed.
pub fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the folder {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The entries of a folder, sorted by name: the order of a directory differs between machines.
///
/// # Errors
/// The folder cannot be read.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(
            entry
                .with_context(|| format!("cannot list {}", folder.display()))?
                .path(),
        );
    }
    paths.sort();
    Ok(paths)
}

/// A name beside `path` that no other process uses.
#[must_use]
pub fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new-{}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_replaces_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        write(&path, "one").unwrap();
        write_executable(&path, "two").unwrap();
        assert_eq!(read_text(&path).unwrap(), "two");
        assert_eq!(list(path.parent().unwrap()).unwrap().len(), 1);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o755
        );
    }

    #[test]
    fn removing_what_is_not_there_is_fine() {
        let folder = tempfile::tempdir().unwrap();
        remove_folder(&folder.path().join("absent")).unwrap();
    }
}
