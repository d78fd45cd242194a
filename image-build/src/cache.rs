//! The cache outside the clone: `$KEDGE_CACHE`, else `$XDG_CACHE_HOME/kedge`, else `~/.cache/kedge`.
//!
//! An entry is a folder named by what it was made from. It is made under a temporary name and renamed when it is
//! complete, so that whatever has its final name is whole; a lock keeps two processes from making the same entry
//! twice. Everything in the cache can be deleted at any time and is made again. Nothing is ever evicted.

use crate::files;
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The folder that all entries live in.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The user's cache, made if it is not there.
    ///
    /// # Errors
    /// No home is known, or the folder cannot be made.
    pub fn open() -> Result<Self> {
        let root = location(|name| std::env::var_os(name))
            .context("no place for the cache: set KEDGE_CACHE to a folder with 5 GB of room")?;
        Self::at(&root)
    }

    /// A cache in a given folder.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn at(root: &Path) -> Result<Self> {
        files::make_folder(root)?;
        let root = root
            .canonicalize()
            .with_context(|| format!("cannot resolve {}", root.display()))?;
        Ok(Self { root })
    }

    /// The cache's own folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A folder below the cache, made if it is not there; `name` may have slashes.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        files::make_folder(&path)?;
        Ok(path)
    }

    /// The entry `kind/key`: returned when it exists, else made by `make` in the temporary folder it is given.
    ///
    /// # Errors
    /// What `make` returns (the temporary folder is removed), or the cache cannot be written.
    pub fn entry(
        &self,
        kind: &str,
        key: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let path = self.root.join(kind).join(key);
        if path.exists() {
            return Ok(path);
        }
        let _lock = self.lock(&format!("{kind}/{key}"))?;
        if path.exists() {
            return Ok(path);
        }
        files::make_folder(&self.root.join(kind))?;
        let new = files::temporary(&path);
        files::remove_folder(&new)?;
        files::make_folder(&new)?;
        match make(&new) {
            Ok(()) => files::publish(&new, &path)?,
            Err(error) => {
                // The error of `make` is the one to report; what is left over is removed by the next run.
                files::remove_folder(&new).ok();
                return Err(error);
            }
        }
        Ok(path)
    }

    /// Waits until no other process holds the lock of that name, and holds it until the result is dropped.
    ///
    /// # Errors
    /// The lock file cannot be made.
    pub fn lock(&self, name: &str) -> Result<Lock> {
        let path = self.folder("locks")?.join(name.replace('/', "-"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open the lock {}", path.display()))?;
        if file.try_lock().is_err() {
            crate::progress::say(format_args!(
                "… waiting for another process that makes {name}"
            ));
            file.lock()
                .with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(Lock { _file: file })
    }
}

/// A held lock; dropping it lets the next process go on.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The name of an entry made from `parts`: 16 hex digits of a SHA-256 over all of them, lengths included.
pub fn key<Part: AsRef<[u8]>>(parts: impl IntoIterator<Item = Part>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        let part = part.as_ref();
        hash.update(part.len().to_string());
        hash.update(b":");
        hash.update(part);
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn location(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("KEDGE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("kedge")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/kedge")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_particular_variable_wins() {
        let home = |name: &str| (name == "HOME").then(|| OsString::from("/home/x"));
        assert_eq!(location(home), Some(PathBuf::from("/home/x/.cache/kedge")));
        assert_eq!(
            location(|_| Some(OsString::from("/all"))),
            Some(PathBuf::from("/all"))
        );
        assert_eq!(location(|_| Some(OsString::new())), None);
    }

    #[test]
    fn an_entry_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path()).unwrap();
        let path = cache
            .entry("kind", "key", |new| files::write(&new.join("file"), "x"))
            .unwrap();
        assert_eq!(files::read_text(&path.join("file")).unwrap(), "x");
        cache
            .entry("kind", "key", |_| panic!("made a second time"))
            .unwrap();
    }

    #[test]
    fn a_failed_entry_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path()).unwrap();
        cache
            .entry("kind", "key", |new| {
                files::write(&new.join("half"), "x")?;
                anyhow::bail!("interrupted")
            })
            .unwrap_err();
        assert!(files::list(&folder.path().join("kind")).unwrap().is_empty());
    }

    #[test]
    fn keys_depend_on_where_a_part_ends() {
        assert_ne!(key(["ab", "c"]), key(["a", "bc"]));
        assert_eq!(key(["a"]).len(), 16);
    }
}
