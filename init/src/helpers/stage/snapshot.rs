//! Volumes as they were before a trial.
//!
//! ```text
//! snapshots/<revision>/<container>/<volume>          its copy
//! snapshots/<revision>/<container>/<volume>.absent   there was none
//! snapshots/<revision>/<container>/<volume>.links    files with several names, while it is copied
//! snapshots/<revision>/<container>/<volume>.bounded0 an empty folder that would have had somebody else's limit
//! snapshots/<revision>/<container>/<volume>.old      what the trial left of it, while it is brought back
//! snapshots/<revision>/.complete                     everything above is on the disk
//! snapshots/<revision>.done                          of no use any more, and on its way to be removed
//! ```
//! Names of containers and volumes hold no dot, so none of these is one. A snapshot counts once it is complete, and
//! loses its name before any of it goes. Bringing back is two renames a volume, and a cut between any two is made
//! good by bringing back again: what has no copy any more is back already.
//!
//! Whoever may write into the volumes has been stopped before.

use super::copy::copy;
use super::file_error;
use super::refused::Refused;
use kedge_container::quota;
use kedge_revision::{Name, ObjectId};
use kedge_store::space::Space;
use kedge_store::{Store, durable, names};
use kedge_sys::Errno;
use kedge_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Marks copies that are all on the disk.
pub const COMPLETE: &str = ".complete";
const ABSENT: &str = ".absent";
const LINKS: &str = ".links";
const OLD: &str = ".old";
const DONE: &str = ".done";
/// Directories that are made for a copy until one has no limit: as many volumes may have come to an end one after another.
const MOST_ATTEMPTS: u32 = 64;

/// Keeps copies of these volumes for the trial of `revision`, instead of older ones. `bound` tells how many bytes
/// one may take; beside that, and without it, what is free is the bound.
///
/// # Errors
/// What could not be copied; then nothing is kept.
pub(super) fn take(
    store: &Store,
    revision: ObjectId,
    volumes: &[(Name, Name)],
    bound: impl Fn(&Name, &Name) -> Option<u64>,
) -> Result<(), Refused> {
    discard(store)?;
    let all = directory(store);
    durable::make_directory(&all)?;
    std::fs::set_permissions(&all, Permissions::from_mode(0o700))
        .map_err(|source| file_error("close", &all, source))?;
    let top = all.join(revision.hex());
    durable::make_directory(&top)?;
    let copied = volumes.iter().try_for_each(|(container, volume)| {
        let from = volume_path(store, container, volume);
        let free = Space::of(&all)?.usable();
        let most = bound(container, volume).map_or(free, |most| most.min(free));
        keep(&from, &top.join(container.as_str()), volume, most)
    });
    let complete = copied.and_then(|()| {
        durable::sync_all(&all)?;
        Ok(durable::write(&top.join(COMPLETE), b"")?)
    });
    if complete.is_err() {
        // The error that counts is the first one; what is left is not complete, and goes with the next.
        drop(retire(&top));
    }
    complete
}

/// Copies one volume into the directory of its container.
fn keep(from: &Path, container: &Path, volume: &Name, most: u64) -> Result<(), Refused> {
    durable::make_directory(container)?;
    let to = container.join(volume.as_str());
    let source = match open(from) {
        Ok(source) => source,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(durable::make_directory(&with(&to, ABSENT))?);
        }
        Err(error) => return Err(file_error("open", from, error).into()),
    };
    let links = with(&to, LINKS);
    durable::make_directory(&links)?;
    let target = make_project(&to, container)?;
    let by_number = open(&links).map_err(|source| file_error("open", &links, source))?;
    copy(&source, &target, &by_number, from, most)?;
    Ok(durable::remove_tree(&links)?)
}

/// A new directory that is a project of its own before anything is in it, since as a volume it has a limit. One whose inode
/// number had a limit in a former life is of no use for a copy, and waits beside it: so the next one has another number.
fn make_project(to: &Path, parent: &Path) -> Result<OwnedFd, Refused> {
    let whole = open(parent).map_err(|source| file_error("open", parent, source))?;
    for attempt in 0..MOST_ATTEMPTS {
        durable::make_directory(to)?;
        let target = open(to).map_err(|source| file_error("open", to, source))?;
        let bounded = quota::adopt(&target).and_then(|()| quota::is_bounded(&target, &whole));
        if !bounded.map_err(|errno| file_error("make a project of", to, errno.into()))? {
            return Ok(target);
        }
        durable::rename(to, &with(to, &format!(".bounded{attempt}")))?;
    }
    let errno = Errno::DQUOT;
    Err(file_error("find a folder without a limit for", to, errno.into()).into())
}

/// Brings the volumes back to what they were before the trial of `revision`; tells what is worth telling.
///
/// # Errors
/// 409 where a snapshot was begun and never complete; what could not be moved. It can be tried again.
pub(super) fn restore(store: &Store, revision: ObjectId) -> Result<&'static str, Refused> {
    let top = directory(store).join(revision.hex());
    if !top.exists() {
        return Ok("nothing was kept");
    }
    if !top.join(COMPLETE).exists() {
        return Err(Refused::conflict(format_args!(
            "the snapshot for {revision} is not complete"
        )));
    }
    for container in names(&top)? {
        let Ok(container) = container.parse::<Name>() else {
            continue;
        };
        let kept = top.join(container.as_str());
        for entry in names(&kept)? {
            let (name, absent) = match entry.strip_suffix(ABSENT) {
                Some(name) => (name, true),
                None => (entry.as_str(), false),
            };
            // What the trial left, set aside by an earlier attempt, is no name.
            let Ok(volume) = name.parse::<Name>() else {
                continue;
            };
            let place = volume_path(store, &container, &volume);
            if place.exists() {
                let old = with(&kept.join(volume.as_str()), OLD);
                durable::remove_tree(&old)?;
                durable::rename(&place, &old)?;
            }
            if !absent {
                if let Some(parent) = place.parent() {
                    durable::make_directory(parent)?;
                }
                durable::rename(&kept.join(volume.as_str()), &place)?;
            }
        }
    }
    retire(&top)?;
    Ok("")
}

/// Drops every snapshot.
///
/// # Errors
/// What could not be removed.
pub(super) fn discard(store: &Store) -> Result<(), Refused> {
    let all = directory(store);
    if !all.exists() {
        return Ok(());
    }
    for name in names(&all)? {
        retire(&all.join(name))?;
    }
    Ok(())
}

/// Takes a snapshot its name, and then removes it: half of one is none.
fn retire(top: &Path) -> Result<(), Refused> {
    let is_done = top.to_string_lossy().ends_with(DONE);
    let done = if is_done {
        top.to_owned()
    } else {
        with(top, DONE)
    };
    if !is_done {
        durable::remove_tree(&done)?;
        durable::rename(top, &done)?;
    }
    Ok(durable::remove_tree(&done)?)
}

fn directory(store: &Store) -> PathBuf {
    store.data().join("snapshots")
}

fn volume_path(store: &Store, container: &Name, volume: &Name) -> PathBuf {
    let volumes = store.data().join("volumes");
    volumes.join(container.as_str()).join(volume.as_str())
}

/// The path with an ending.
fn with(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

fn open(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
