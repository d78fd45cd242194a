//! Files on the host, written so that an interrupted run leaves either the old or the new, never a half.
//!
//! What takes a file's place is a file: a device, a FIFO or a socket is never replaced by one, and where a symbolic link stands,
//! what it leads to is written. What fails leaves nothing beside it; of what a signal cut off, the next run removes the rest.
//!
//! This is the one module of the host side that may rename. It does not sync: what it writes can be made again,
//! unlike the device's data (`kedge_store::durable`).

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::{Pid, test_kill_process};
use std::fs::{self, FileType};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How the names begin of what a verb has for itself alone in `build/`; the process's id follows. This one: an import's layers.
pub const IMPORT: &str = ".import-";
/// The disk of a device that `kedge run` runs.
pub const RUN: &str = ".run-";
/// A copy of an image with a provisioning, and therefore a secret.
pub const FLASH: &str = ".flash-";
/// Most symbolic links that one leads through, as in the kernel (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// The file that `path` means: what symbolic links lead to, whether it is there or not. A verb that takes long asks before it begins.
///
/// # Errors
/// There is something that is no file, and that a file must not take the place of, or a folder.
pub fn target(path: &Path) -> Result<PathBuf> {
    ensure!(
        path != Path::new("-"),
        "`-` is no file\nhelp: a file of that name is ./-"
    );
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Ok(next) = fs::read_link(&path) else {
            ensure!(
                !path.is_dir(),
                "{} is a folder\nhelp: name a file in it",
                path.display()
            );
            return replaceable(&path).map(|()| path);
        };
        path = path.parent().unwrap_or(Path::new("")).join(next);
    }
    bail!("{} is a symbolic link that leads nowhere", path.display())
}

/// Whether what is at `path` may be replaced as a whole: a file, a folder, nothing.
fn replaceable(path: &Path) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let kind = kind(metadata.file_type());
    let help = if metadata.file_type().is_block_device() {
        "\nhelp: `kedge flash` writes an image onto a disk"
    } else {
        ""
    };
    ensure!(
        kind.is_empty(),
        "{} is {kind}, no file: it is not replaced{help}",
        path.display()
    );
    Ok(())
}

/// What is neither a file nor a folder nor a link to one, in words.
fn kind(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_block_device() => "a block device",
        kind if kind.is_char_device() => "a character device",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "",
    }
}

/// Writes a file under a temporary name beside `path` and renames it over it. Missing folders are made.
///
/// # Errors
/// The folder cannot be made or written, or [`target`] refuses it.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    put(path, bytes.as_ref(), 0o666, false)
}

/// As [`write`], with mode 0600: the file is never open to others, not even for the moment before a change of mode.
///
/// # Errors
/// As [`write`].
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    put(path, bytes, 0o600, true)
}

/// [`write`], on the disk with its name when it returns: for what cannot be made again.
///
/// # Errors
/// As [`write`].
pub fn write_lasting(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    put(path, bytes.as_ref(), 0o666, true)
}

fn put(path: &Path, bytes: &[u8], mode: u32, lasting: bool) -> Result<()> {
    replace(path, |new| {
        let write = || -> std::io::Result<()> {
            let mut file = fs::File::options()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(new)?;
            file.write_all(bytes)?;
            if mode == EXECUTABLE {
                // Whatever the umask: a layer's hash depends on it.
                file.set_permissions(fs::Permissions::from_mode(mode))?;
            }
            if lasting { file.sync_all() } else { Ok(()) }
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    })?;
    if lasting {
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        let folder = folder.unwrap_or(Path::new("."));
        let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
        synced.with_context(|| format!("cannot sync {}", folder.display()))?;
    }
    Ok(())
}

/// Puts what `make` makes under another name in the place of `path`, or leaves nothing of it.
///
/// # Errors
/// What `make` says, or as [`write`].
pub fn replace(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let path = &target(path)?;
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    let new = temporary(path);
    // In a container ids come again: a run that was killed may have had ours.
    fs::remove_file(&new).ok();
    let made = make(&new).and_then(|()| publish(&new, path));
    if made.is_err() {
        // The first error counts; it may not have come so far as to be there.
        fs::remove_file(&new).ok();
    }
    made
}

const EXECUTABLE: u32 = 0o755;

/// As [`write`], with mode 0755: whoever finds the file under its name can run it.
///
/// # Errors
/// As [`write`].
pub fn write_executable(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    put(path, bytes.as_ref(), EXECUTABLE, false)
}

/// Renames a finished file or folder to its final name. A file is replaced; a folder's name must be free.
///
/// # Errors
/// The rename fails, for instance across file systems, or what is there is neither.
#[allow(
    clippy::disallowed_methods,
    reason = "the module that replaces files as a whole"
)]
pub fn publish(new: &Path, path: &Path) -> Result<()> {
    replaceable(path)?;
    fs::rename(new, path)
        .with_context(|| format!("cannot rename {} to {}", new.display(), path.display()))
}

/// Puts the folder `new` in the place of `path`, so that whoever reads there at that moment finds the files of before or the
/// new ones, and never none. What is the same already stays.
///
/// # Errors
/// A folder cannot be renamed or removed.
pub fn publish_folder(new: &Path, path: &Path) -> Result<()> {
    if is_same(new, path).unwrap_or(false) {
        return remove_folder(new);
    }
    if renameat_with(CWD, new, CWD, path, RenameFlags::EXCHANGE).is_ok() {
        return remove_folder(new);
    }
    // There is none yet, or a file system that cannot exchange.
    remove_folder(path)?;
    publish(new, path)
}

/// Whether two folders hold files of the same names, modes and bytes.
fn is_same(one: &Path, other: &Path) -> Result<bool> {
    let (these, those) = (list(one)?, list(other)?);
    if these.len() != those.len() {
        return Ok(false);
    }
    for (this, that) in these.iter().zip(&those) {
        let (is, was) = (fs::symlink_metadata(this)?, fs::symlink_metadata(that)?);
        let same = this.file_name() == that.file_name()
            && is.mode() == was.mode()
            && if is.is_dir() {
                is_same(this, that)?
            } else {
                is.len() == was.len() && read(this)? == read(that)?
            };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Copies a file as a whole, as [`write`] does; the mode comes along.
///
/// # Errors
/// `from` cannot be read, or the folder of `to` cannot be written.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    replace(to, |new| {
        fs::copy(from, new)
            .map(drop)
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
    })
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

/// A temporary folder for large files, beside a file that is as large, where that can be written: `/tmp` may be memory. Beside a
/// disk there is none, since `/dev` is memory, too.
///
/// # Errors
/// Those of the file system.
pub fn temporary_beside(path: &Path) -> Result<tempfile::TempDir> {
    let folder = path
        .parent()
        .filter(|folder| folder.components().next().is_some());
    let beside = if path.is_file() {
        tempfile::tempdir_in(folder.unwrap_or(Path::new(".")))
    } else {
        // A disk: `/dev` is memory, too.
        tempfile::tempdir()
    };
    beside
        .or_else(|_| tempfile::tempdir())
        .context("cannot make a temporary folder")
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

/// A name beside `path` that no other process uses, and no other thread of this one. What killed runs left under such a name
/// is removed.
#[must_use]
pub fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let start = format!(".{name}.new-");
    remove_leftovers(path.parent().unwrap_or(Path::new("")), &start);
    let (process, thread) = (std::process::id(), THREAD.with(|thread| *thread));
    path.with_file_name(format!("{start}{process}-{thread}"))
}

static THREADS: AtomicU64 = AtomicU64::new(0);
thread_local! {
    /// The how manyth thread this is of those that have asked.
    static THREAD: u64 = THREADS.fetch_add(1, Ordering::Relaxed);
}

/// Removes what killed runs left in a folder: what is named `start`, then the id of a process that is no more, then anything.
pub fn remove_leftovers(folder: &Path, start: &str) {
    let folder = if folder == Path::new("") {
        Path::new(".")
    } else {
        folder
    };
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(start)) else {
            continue;
        };
        let end = rest.find(|c: char| !c.is_ascii_digit());
        let number = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        if number.parse().is_ok_and(is_gone) {
            // What cannot be removed harms nobody; the next run tries again.
            let path = entry.path();
            fs::remove_dir_all(&path)
                .or_else(|_| fs::remove_file(&path))
                .ok();
        }
    }
}

/// Whether there is no process of that id. A process of somebody else may not be signalled, and is there.
fn is_gone(id: i32) -> bool {
    let id = Pid::from_raw(id).filter(|_| id > 0);
    id.is_some_and(|id| test_kill_process(id) == Err(rustix::io::Errno::SRCH))
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
    fn a_folder_is_there_at_every_moment_of_its_exchange() {
        let folder = tempfile::tempdir().unwrap();
        let (path, new) = (folder.path().join("made"), folder.path().join("new"));
        let make = |text: &str| {
            write(&new.join("modules/a.ko"), "the same").unwrap();
            write(&new.join("init"), text).unwrap();
            publish_folder(&new, &path).unwrap();
            assert!(!new.exists());
            fs::metadata(&path).unwrap().ino()
        };
        let first = make("0");
        // What is the same stays what it is.
        assert_eq!(make("0"), first);
        assert_ne!(make("1"), first);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut last = String::new();
                while last != "300" {
                    last = read_text(&path.join("init")).unwrap();
                }
            });
            for number in 2..=300 {
                make(&number.to_string());
            }
            reader.join().unwrap();
        });
    }

    /// An id that no process has: the kernel gives none above 2^22.
    const NOBODY: i32 = 1 << 30;

    #[test]
    fn what_is_no_file_is_not_replaced_and_links_lead_on() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let fifo = at("fifo");
        crate::process::run(std::process::Command::new("mkfifo").arg(&fifo)).unwrap();
        for path in [&fifo, Path::new("/dev/null"), Path::new("-")] {
            let error = format!("{:#}", write(path, "x").unwrap_err());
            assert!(error.contains("no file"), "{error}");
            write_private(path, b"x").unwrap_err();
            copy(Path::new("/etc/passwd"), path).unwrap_err();
        }
        write(&at("made"), "x").unwrap();
        publish(&at("made"), &fifo).unwrap_err();
        assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
        std::os::unix::fs::symlink("sub/real", at("link")).unwrap();
        for text in ["new", "newer"] {
            write(&at("link"), text).unwrap();
            assert!(at("link").is_symlink());
            assert_eq!(read_text(&at("sub/real")).unwrap(), text);
        }
        std::os::unix::fs::symlink("circle", at("circle")).unwrap();
        write(&at("circle"), "x").unwrap_err();
    }

    #[test]
    fn a_failed_write_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("taken");
        make_folder(&taken).unwrap();
        write(&taken, "x").unwrap_err();
        write_private(&taken, b"x").unwrap_err();
        copy(Path::new("/etc/passwd"), &taken).unwrap_err();
        assert_eq!(list(folder.path()).unwrap(), [taken]);
    }

    #[test]
    fn what_killed_runs_left_is_removed_and_what_others_write_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let left = |id: &str| folder.path().join(format!(".image.new-{id}"));
        let (gone, init, others) = (left(&NOBODY.to_string()), left("1"), left("notes"));
        for path in [&gone, &init, &others] {
            make_folder(path).unwrap();
        }
        let half = folder.path().join(format!(".run-{NOBODY}.img"));
        write(&half, "x").unwrap();
        let ours = temporary(&folder.path().join("image"));
        std::os::unix::fs::symlink("nowhere", &ours).unwrap();
        write(&folder.path().join("image"), "x").unwrap();
        assert!(!ours.is_symlink());
        assert!(!gone.exists() && init.exists() && others.exists() && half.exists());
        remove_leftovers(folder.path(), ".run-");
        assert!(!half.exists());
    }

    #[test]
    fn threads_that_write_the_same_file_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tool");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        write(&path, "x").unwrap();
                    }
                });
            }
        });
        assert_eq!(list(folder.path()).unwrap(), [path]);
    }

    #[test]
    fn removing_what_is_not_there_is_fine() {
        let folder = tempfile::tempdir().unwrap();
        remove_folder(&folder.path().join("absent")).unwrap();
    }
}
