//! Backups: all that a hub is, in one file, taken while it runs.
//!
//! A tar (POSIX.1-1988, ustar) of `hub.db`, then `keys/…`, then the objects as they are named in the data directory; trees
//! and frames are made anew. It holds the hub's keys and devices' secrets, and is for its owner's eyes alone. Restoring
//! goes into an empty directory, takes nothing but these names, judges every object by its name, and refuses the database
//! of a newer hub.

use crate::error::{Chain, Error};
use crate::rows::signed;
use crate::{clock, database};
use kedge_revision::ObjectId;
use kedge_store::{Store, durable, staging};
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

/// Files of the directory `keys`.
const KEYS: [&str; 3] = ["hub.key", "authority.key", "authority.der"];

/// Is there while a restore is under way.
const HALF: &str = "restoring";

/// What a backup holds beside the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Keys and objects.
    Everything,
    /// Keys; objects are uploaded again.
    WithoutObjects,
    /// Nothing.
    DatabaseAlone,
}

/// Writes a backup of the hub in `data`, whole or not at all. The hub may run meanwhile.
///
/// # Errors
/// [`Error::File`], [`Error::Database`].
pub fn backup(data: &Path, file: &Path, contents: Contents) -> Result<(), Error> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let written = write(data, &new, contents).and_then(|()| Ok(durable::rename(&new, file)?));
    if written.is_err() {
        // The error that counts is the first one.
        drop(std::fs::remove_file(&new));
    }
    written
}

fn write(data: &Path, path: &Path, contents: Contents) -> Result<(), Error> {
    // Left by one that was cut off, or a link of somebody else's to where it should not be written.
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(Error::file("replace", path)(error));
    }
    let file = File::options()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::file("create", path))?;
    let mut tar = tar::Builder::new(BufWriter::with_capacity(256 * 1024, file));
    tar.mode(tar::HeaderMode::Deterministic);
    let mut add = |from: &Path, name: &str| {
        tar.append_path_with_name(from, name)
            .map_err(Error::file("back up", from))
    };
    let snapshot = snapshot(data)?;
    let added = add(&snapshot, "hub.db");
    durable::remove(&snapshot)?;
    added?;
    if contents != Contents::DatabaseAlone {
        for name in KEYS {
            add(&data.join("keys").join(name), &format!("keys/{name}"))?;
        }
    }
    if contents == Contents::Everything {
        let store = Store::at(data);
        for id in store.objects()? {
            match add(&store.object_path(id), &object_name(id)) {
                // It was removed meanwhile: nobody needs it.
                Err(Error::File { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                added => added?,
            }
        }
    }
    let buffer = tar.into_inner().map_err(Error::file("write", path))?;
    let file = buffer
        .into_inner()
        .map_err(|error| Error::file("write", path)(error.into_error()))?;
    durable::sync(&file, path)?;
    Ok(())
}

/// A copy of the database at one moment, beside it; the caller removes it.
fn snapshot(data: &Path) -> Result<PathBuf, Error> {
    let digits = crate::random::digits::<8>()?;
    let path = data.join(format!("backup-{digits}.db"));
    copy(data, &path).inspect_err(|_| {
        // Of a disk that is full, say, it would hold the rest; the error that counts is the first one.
        drop(std::fs::remove_file(&path));
    })?;
    Ok(path)
}

fn copy(data: &Path, path: &Path) -> Result<(), Error> {
    // For the owner alone from its first byte on; SQLite takes an empty file for none.
    durable::write(path, b"")?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = Connection::open_with_flags(database::path(data), flags)?;
    database.busy_timeout(std::time::Duration::from_secs(30))?;
    database.execute("VACUUM INTO ?1", [path.to_string_lossy()])?;
    Ok(())
}

/// Removes snapshots that a crash left; those of the last hour may be somebody's who is at it.
pub(crate) fn sweep(data: &Path) -> Result<(), Error> {
    for name in kedge_store::names(data)? {
        let path = data.join(&name);
        let changed = std::fs::metadata(&path).and_then(|file| file.modified());
        let old =
            changed.is_ok_and(|time| time.elapsed().is_ok_and(|elapsed| elapsed.as_secs() > 3600));
        if name.starts_with("backup-") && old {
            durable::remove(&path)?;
        }
    }
    Ok(())
}

fn object_name(id: ObjectId) -> String {
    let hex = id.hex();
    format!("objects/v1/{}/{hex}", hex.get(..2).unwrap_or_default())
}

/// Makes the hub of a backup in `data`, which must be empty or absent.
///
/// # Errors
/// [`Error::File`]; [`Error::Spoilt`] for what is no backup or is damaged; [`Error::NewerDatabase`].
pub fn restore(file: &Path, data: &Path) -> Result<(), Error> {
    if data.exists() && !kedge_store::names(data)?.is_empty() {
        return Err(Error::Spoilt {
            path: data.to_path_buf(),
            why: "is not empty: a backup is restored into a new directory",
        });
    }
    durable::make_directory(data)?;
    let _lock = crate::hub::lock(data)?;
    let marked = durable::write(&data.join(HALF), b"").map_err(Error::from);
    let unpacked = marked.and_then(|()| unpack(file, data));
    match unpacked.and_then(|()| restored(data)) {
        Ok(()) => Ok(durable::remove(&data.join(HALF))?),
        Err(error) => {
            // The error that counts is the first one. What cannot be removed stays marked, so that no hub starts in it.
            if let Err(left) = clear(data) {
                let left = Chain(&left);
                log::error!(
                    "what was restored until then is left in {}: {left}",
                    data.display()
                );
            }
            Err(error)
        }
    }
}

/// Removes all that a restore has made, so that another one may begin: what it has unpacked, then its mark, its lock at last.
fn clear(data: &Path) -> Result<(), Error> {
    for name in ["keys", "objects"] {
        durable::remove_tree(&data.join(name))?;
    }
    let database = ["hub.db", "hub.db.new", "hub.db-wal", "hub.db-shm"];
    for name in database.into_iter().chain([HALF, "lock"]) {
        durable::remove(&data.join(name))?;
    }
    Ok(())
}

/// Refuses what a restore that was broken off has left: it would start as a new hub, with other keys.
pub(crate) fn refuse_half(data: &Path) -> Result<(), Error> {
    if data.join(HALF).exists() {
        return Err(Error::Spoilt {
            path: data.to_path_buf(),
            why: "holds half a hub, whose restore was broken off: remove it, and restore again",
        });
    }
    Ok(())
}

/// Devices know numbers that were given after the backup was made: those that are given from now on are above them. No hub
/// gives one a second for long.
fn restored(data: &Path) -> Result<(), Error> {
    let database = database::open(data)?;
    let now = signed(clock::unix());
    database.execute("INSERT INTO restored (time) VALUES (?1)", [now])?;
    Ok(())
}

fn unpack(file: &Path, data: &Path) -> Result<(), Error> {
    let spoilt = |why| Error::Spoilt {
        path: file.to_path_buf(),
        why,
    };
    let source = File::open(file).map_err(Error::file("open", file))?;
    let mut archive = tar::Archive::new(std::io::BufReader::with_capacity(256 * 1024, source));
    let entries = archive.entries().map_err(Error::file("read", file))?;
    for entry in entries {
        let mut entry = entry.map_err(Error::file("read", file))?;
        let path = entry.path().map_err(Error::file("read", file))?;
        let (name, id) = known(&path).ok_or_else(|| spoilt("holds what no backup does"))?;
        if !entry.header().entry_type().is_file() {
            return Err(spoilt("holds something that is no file"));
        }
        let target = data.join(&name);
        place(&mut entry, &target)?;
        if let Some(id) = id
            && staging::measure_file(&target)?.id != id
        {
            return Err(spoilt("holds an object that is damaged"));
        }
    }
    for name in KEYS.map(|name| format!("keys/{name}")) {
        if !data.join(name).is_file() {
            return Err(spoilt(
                "has no keys: without them devices would not know the hub; `kedge-hub backup` writes them",
            ));
        }
    }
    let path = database::path(data);
    if !path.is_file() {
        return Err(spoilt("has no database"));
    }
    let database = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    database::refuse_newer(&database)?;
    Ok(())
}

/// A name that a backup may hold, and the object that it names.
fn known(path: &Path) -> Option<(String, Option<ObjectId>)> {
    let mut parts = Vec::new();
    for part in path.components() {
        let Component::Normal(part) = part else {
            return None;
        };
        parts.push(part.to_str()?);
    }
    let name = parts.join("/");
    match parts.as_slice() {
        ["hub.db"] => Some((name, None)),
        ["keys", key] if KEYS.contains(key) => Some((name, None)),
        ["objects", "v1", _, hex] => {
            let id = format!("v1:{hex}").parse().ok()?;
            (object_name(id) == name).then_some((name, Some(id)))
        }
        _ => None,
    }
}

fn place(from: &mut impl Read, target: &Path) -> Result<(), Error> {
    if let Some(directory) = target.parent() {
        durable::make_directory(directory)?;
    }
    let mut new = target.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)
        .map_err(Error::file("create", &new))?;
    std::io::copy(from, &mut file).map_err(Error::file("write", &new))?;
    file.flush().map_err(Error::file("write", &new))?;
    durable::sync(&file, &new)?;
    durable::rename(&new, target)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_that_fails_leaves_no_copy_behind() {
        let data = tempfile::tempdir().unwrap();
        let file = data.path().join("backup.tar");
        // There is nothing to copy, as on a disk without room there is no place for it.
        backup(data.path(), &file, Contents::DatabaseAlone).unwrap_err();
        assert!(kedge_store::names(data.path()).unwrap().is_empty());
    }

    #[test]
    fn a_restore_that_fails_may_be_done_again_or_is_marked() {
        let place = tempfile::tempdir().unwrap();
        let (data, file) = (place.path().join("data"), place.path().join("backup.tar"));
        durable::write(&file, b"no backup").unwrap();
        for _ in 0..2 {
            let Err(Error::File { path, .. }) = restore(&file, &data) else {
                panic!("it was restored");
            };
            assert_eq!(path, file);
            assert!(kedge_store::names(&data).unwrap().is_empty());
        }
        // As where the disk does not let it go.
        std::fs::create_dir_all(data.join("hub.db")).unwrap();
        durable::write(&data.join(HALF), b"").unwrap();
        clear(&data).unwrap_err();
        assert!(refuse_half(&data).is_err());
    }

    #[test]
    fn half_a_hub_is_not_opened() {
        let data = tempfile::tempdir().unwrap();
        durable::write(&data.path().join(HALF), b"").unwrap();
        let opened = crate::hub::Hub::open(data.path(), kedge_revision::Mode::Development);
        assert!(matches!(opened, Err(Error::Spoilt { .. })));
        assert!(!data.path().join("keys").exists());
    }

    #[test]
    fn nothing_is_unpacked_but_what_a_backup_holds() {
        let hex = "ab".repeat(32);
        let object = format!("objects/v1/ab/{hex}");
        for good in ["hub.db", "keys/hub.key", object.as_str()] {
            assert!(known(Path::new(good)).is_some(), "{good}");
        }
        for bad in [
            "../hub.db",
            "/etc/passwd",
            "keys/../hub.db",
            "keys/other",
            "objects/v1/cd/abab",
            &format!("objects/v1/cd/{hex}"),
            "lock",
        ] {
            assert!(known(Path::new(bad)).is_none(), "{bad}");
        }
    }
}
