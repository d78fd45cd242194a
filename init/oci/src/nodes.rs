//! Device nodes and links of `/dev`.
//!
//! Source: runtime specification, `config-linux.md`, "Default Devices" and "Dev symbolic links". In a user namespace the kernel
//! lets nobody make a device: there the machine's own node is mounted onto an empty file.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, bail, ensure};
use kedge_sys::Errno;
use kedge_sys::mount::{OpenTreeFlags, open_tree};
use kedge_sys::process::umask;
use kedge_sys::rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Uid, chownat, makedev, mknodat, symlinkat,
};

use crate::inside::{self, Want};
use crate::plan::{DeviceKind, DevicePlan, Plan};

/// What every container has: name, major and minor number of a character device.
const USUAL: [(&CStr, u32, u32); 6] = [
    (c"/dev/null", 1, 3),
    (c"/dev/zero", 1, 5),
    (c"/dev/full", 1, 7),
    (c"/dev/random", 1, 8),
    (c"/dev/urandom", 1, 9),
    (c"/dev/tty", 5, 0),
];

const LINKS: [(&CStr, &CStr); 5] = [
    (c"fd", c"/proc/self/fd"),
    (c"stdin", c"/proc/self/fd/0"),
    (c"stdout", c"/proc/self/fd/1"),
    (c"stderr", c"/proc/self/fd/2"),
    (c"ptmx", c"pts/ptmx"),
];

/// Makes them in `root`, in whose `/dev` they are missing.
///
/// # Errors
/// The device.
pub(crate) fn make(plan: &Plan, root: BorrowedFd<'_>) -> Result<()> {
    // What the document mounts in the place of one counts, and so does what it says of one of the usual.
    let mounted = |path: &CString| plan.mounts.iter().any(|mount| mount.target.path == *path);
    for (path, major, minor) in USUAL {
        let usual = DevicePlan {
            path: path.to_owned(),
            kind: DeviceKind::Character,
            number: (major, minor),
            mode: 0o666,
            owner: (0, 0),
        };
        let named = plan.devices.iter().any(|device| device.path == usual.path);
        if !named && !mounted(&usual.path) {
            one(&usual, root, false)
                .with_context(|| format!("device {}", path.to_string_lossy()))?;
        }
    }
    for device in plan.devices.iter().filter(|device| !mounted(&device.path)) {
        one(device, root, true)
            .with_context(|| format!("linux.devices: {}", device.path.to_string_lossy()))?;
    }
    let folder = inside::find(root, c"/dev").context("/dev")?;
    for (name, target) in LINKS {
        match symlinkat(target, &folder, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => {
                return Err(errno).with_context(|| format!("link /dev/{}", name.to_string_lossy()));
            }
        }
    }
    Ok(())
}

/// What is there already: the image's, or a bind mount of the document's a folder above. Specification, "Devices": that another
/// thing is in the place of a device that is `named` is an error. An image's own null device is looked at where it is used.
fn present(device: &DevicePlan, root: BorrowedFd<'_>, named: bool) -> Result<()> {
    let found = inside::find(root, &device.path).and_then(inside::stat);
    let (major, minor) = device.number;
    match found.map(|found| (FileType::from_raw_mode(found.st_mode), found)) {
        Ok((kind, found))
            if kind == file_type(device.kind)
                && (kind == FileType::Fifo || found.st_rdev == makedev(major, minor)) =>
        {
            Ok(())
        }
        // As `borrow` makes it, in an image on a disk: it is there still the next time.
        Ok((FileType::RegularFile, found)) if found.st_size == 0 => borrow(device, root),
        _ if named => bail!("something else is there already"),
        _ => Ok(()),
    }
}

fn file_type(kind: DeviceKind) -> FileType {
    match kind {
        DeviceKind::Character => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Pipe => FileType::Fifo,
    }
}

fn one(device: &DevicePlan, root: BorrowedFd<'_>, named: bool) -> Result<()> {
    let (folder, name) = split(&device.path)?;
    let folder = inside::make(root, &folder, Want::Folder)?;
    if inside::has(folder.as_fd(), &name) {
        return present(device, root, named);
    }
    let kind = file_type(device.kind);
    let (major, minor) = device.number;
    let mode = Mode::from_raw_mode(device.mode);
    // Without a umask instead of by a chmod(2) after, which would follow a link: by then another container that has the image,
    // too, can have put one there.
    let before = umask(Mode::empty());
    let made = mknodat(&folder, &name, kind, mode, makedev(major, minor));
    umask(before);
    match made {
        Ok(()) => {}
        Err(Errno::PERM) => return borrow(device, root),
        Err(errno) => return Err(errno.into()),
    }
    let (user, group) = device.owner;
    if device.owner != (0, 0) {
        let owner = (Uid::from_raw(user), Gid::from_raw(group));
        chownat(
            &folder,
            &name,
            Some(owner.0),
            Some(owner.1),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
    }
    Ok(())
}

/// Mounts the machine's own node, which must be the same device.
fn borrow(device: &DevicePlan, root: BorrowedFd<'_>) -> Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree =
        open_tree(CWD, &device.path, flags).context("the machine has no such device to share")?;
    let found = inside::stat(&tree)?;
    let (major, minor) = device.number;
    ensure!(
        found.st_rdev == makedev(major, minor),
        "the machine has another device there"
    );
    let place = inside::make(root, &device.path, Want::File)?;
    Ok(inside::attach(tree.as_fd(), place.as_fd())?)
}

/// Folder and name of an absolute path.
fn split(path: &CStr) -> Result<(CString, CString)> {
    let bytes = path.to_bytes();
    let at = bytes.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    let (folder, name) = bytes.split_at_checked(at).context("no path")?;
    let name = name.strip_prefix(b"/").unwrap_or(name);
    ensure!(!name.is_empty(), "it has no name");
    let folder = if folder.is_empty() { b"/" } else { folder };
    Ok((CString::new(folder)?, CString::new(name)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_the_mode_that_is_said_whatever_the_umask() {
        let root = tempfile::tempdir().unwrap();
        let device = DevicePlan {
            path: c"/dev/pipe".to_owned(),
            kind: DeviceKind::Pipe,
            number: (0, 0),
            mode: 0o666,
            owner: (0, 0),
        };
        let folder = std::fs::File::open(root.path()).unwrap();
        one(&device, folder.as_fd(), true).unwrap();
        let made = inside::find(folder.as_fd(), &device.path).unwrap();
        let mode = inside::stat(&made).unwrap().st_mode;
        assert_eq!(mode & 0o7777, 0o666, "{mode:o}");
    }

    #[test]
    fn paths_have_a_folder_and_a_name() {
        let all = [
            (c"/dev/net/tun", c"/dev/net", c"tun"),
            (c"/fuse", c"/", c"fuse"),
        ];
        for (path, folder, name) in all {
            assert_eq!(split(path).unwrap(), (folder.to_owned(), name.to_owned()));
        }
        split(c"/dev/").unwrap_err();
    }
}
