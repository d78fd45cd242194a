//! Places in a root file system that somebody else has filled: every path is resolved as if that root were `/`, whatever
//! links are in it, and by the kernel in one step, so that nothing can be exchanged in between.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use kedge_sys::Errno;
use kedge_sys::mount::{MoveMountFlags, move_mount};
use kedge_sys::rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, Stat, fstat, mkdirat, openat, openat2, statat,
};

/// What a place is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    Folder,
    File,
}

/// What is at `path` below `root`.
///
/// # Errors
/// Those of `openat2(2)`.
pub(crate) fn find(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    resolve(
        root,
        path,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// As [`find`], for what must not be reached by a link: else an image could have `/proc` somewhere else.
///
/// # Errors
/// `ELOOP` for a link.
pub(crate) fn find_plain(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    resolve(
        root,
        path,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS,
    )
}

fn resolve(root: BorrowedFd<'_>, path: &CStr, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    loop {
        match openat2(
            root,
            path,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            how,
        ) {
            // A rename somewhere met a resolution: openat2(2), `EAGAIN`.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// The place at `path` below `root`, made with the folders above if it is not there.
///
/// # Errors
/// The path, and why it cannot be made.
pub(crate) fn make(root: BorrowedFd<'_>, path: &CStr, want: Want) -> Result<OwnedFd> {
    match find(root, path) {
        Err(Errno::NOENT) => {}
        other => return other.with_context(|| format!("{}", path.to_string_lossy())),
    }
    let parts = path.to_bytes().split(|byte| *byte == b'/');
    let parts: Vec<_> = parts
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    let mut place = CString::from(c".");
    for (at, part) in parts.iter().enumerate() {
        let above = find(root, &place).with_context(|| format!("{}", place.to_string_lossy()))?;
        let name = CString::new(*part).unwrap_or_default();
        let whole = [place.to_bytes(), b"/", part].concat();
        place = CString::new(whole).unwrap_or_default();
        if find(root, &place).is_ok() {
            continue;
        }
        let last = at.saturating_add(1) == parts.len();
        let made = if last && want == Want::File {
            let flags =
                OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
            openat(&above, &name, flags, Mode::from_raw_mode(0o644)).map(drop)
        } else {
            mkdirat(&above, &name, Mode::from_raw_mode(0o755))
        };
        match made {
            Ok(()) => {}
            // Somebody else made it meanwhile.
            Err(Errno::EXIST) if find(root, &place).is_ok() => {}
            Err(Errno::EXIST) => bail!(
                "{}: there is a link that leads nowhere",
                place.to_string_lossy()
            ),
            Err(errno) => {
                return Err(errno).with_context(|| format!("make {}", place.to_string_lossy()));
            }
        }
    }
    find(root, path).with_context(|| format!("{}", path.to_string_lossy()))
}

/// Puts a detached mount onto an open place.
///
/// # Errors
/// Those of `move_mount(2)`.
pub(crate) fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", place, c"", flags)
}

/// What it is.
///
/// # Errors
/// Those of `fstat(2)`.
pub(crate) fn stat(place: impl AsFd) -> Result<Stat, Errno> {
    fstat(place)
}

/// Whether it is a folder.
///
/// # Errors
/// Those of `fstat(2)`.
pub(crate) fn is_folder(place: impl AsFd) -> Result<bool, Errno> {
    let kind = kedge_sys::rustix::fs::FileType::from_raw_mode(stat(place)?.st_mode);
    Ok(kind == kedge_sys::rustix::fs::FileType::Directory)
}

/// Whether something of this name is in a folder, be it a link.
pub(crate) fn has(folder: BorrowedFd<'_>, name: &CStr) -> bool {
    statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn open(path: &std::path::Path) -> OwnedFd {
        std::fs::File::open(path).unwrap().into()
    }

    #[test]
    fn links_lead_nowhere_outside() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        symlink("/etc", root.join("out")).unwrap();
        symlink("../../..", root.join("up")).unwrap();
        let fd = open(&root);
        make(fd.as_fd(), c"/out/passwd.d/x", Want::File).unwrap();
        assert!(root.join("etc/passwd.d/x").is_file());
        make(fd.as_fd(), c"/up/made", Want::Folder).unwrap();
        assert!(root.join("made").is_dir());
        assert_eq!(find_plain(fd.as_fd(), c"/out").unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_named() {
        let folder = tempfile::tempdir().unwrap();
        symlink("/nowhere", folder.path().join("data")).unwrap();
        let error = make(open(folder.path()).as_fd(), c"/data/x", Want::Folder).unwrap_err();
        assert!(format!("{error:#}").contains("leads nowhere"), "{error:#}");
    }
}
