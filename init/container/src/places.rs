//! Places for mounts that a read-only root lacks: which they are, and a layer that has them.
//!
//! Judged is the root as its program will see it, never a layer by itself: a link may lead into another layer, and a higher
//! layer may delete what a lower one has. Links are followed within that root, as the kernel follows them once it is `/`. What
//! cannot be made, behind a file or a loop of links, is left alone: the mount there fails, and its error names the place.
//! Nothing here mounts anything.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use kedge_sys::Errno;
use kedge_sys::rustix::fs::{
    Gid, Mode, OFlags, Uid, XattrFlags, fchmod, fchown, fgetxattr, fsetxattr, fstat, mkdirat,
    openat, readlinkat,
};

use crate::plan::{IDS, Plan};

/// Directories that every root must have, as mounts go onto them.
const PLACES: [&CStr; 3] = [c"/proc", c"/dev", c"/sys"];
/// Files that the root of a container in a pool must have: images leave them to the runtime.
pub(crate) const FILES: [&CStr; 2] = [c"/etc/resolv.conf", c"/etc/hosts"];

/// As many links as Linux follows (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;
/// Names on the way to a place, those of its links among them. Links can say millions, and it is PID 1 that goes there.
const MAX_STEPS: usize = 1024;
/// Bytes of a name that a directory can have.
const MAX_NAME: usize = 255;

/// A directory of a root, to read or to make something in; a link to one is none.
const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Where something will be mounted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The path without a link in it; empty for the root.
    path: Vec<u8>,
    is_missing: bool,
    is_file: bool,
}

/// The places that `root` lacks, in the order in which they are mounted on.
pub(crate) fn missing(root: &OwnedFd, plan: &Plan) -> Vec<Place> {
    let directories = PLACES.into_iter().map(|place| (place, false));
    let files = plan.hosts.iter().flat_map(|_| FILES);
    let volumes = plan.volumes.iter().map(|volume| volume.target.as_c_str());
    let files = files.map(|place| (place, true));
    let all = directories.chain(files).chain(volumes.map(|v| (v, false)));
    let mut places: Vec<Place> = Vec::new();
    for (place, is_file) in all {
        // What lies in a former mount is not seen in the root.
        let is_covered = |path: &[u8]| places.iter().any(|former| former.path == path);
        if let Some((path, is_missing)) = walk(root, place.to_bytes(), is_covered) {
            places.push(Place {
                path,
                is_missing,
                is_file,
            });
        }
    }
    places.retain(|place| place.is_missing);
    places
}

/// Where `place` is in `root`, without links, and whether it is missing; `None` where nothing is to be made. No `openat2(2)`:
/// it does not say where a way ends that leads nowhere.
fn walk(
    root: &OwnedFd,
    place: &[u8],
    is_covered: impl Fn(&[u8]) -> bool,
) -> Option<(Vec<u8>, bool)> {
    let (mut path, mut is_missing) = (Vec::new(), false);
    // The directory at `path`, as long as there is one; none is the root.
    let mut directory: Option<OwnedFd> = None;
    // The next name is the last.
    let mut rest = Vec::new();
    put(&mut rest, place)?;
    let mut links = 0..MAX_LINKS;
    for _ in 0..MAX_STEPS {
        let Some(name) = rest.pop() else {
            return Some((path, is_missing));
        };
        let here = directory.as_ref().unwrap_or(root);
        if name == b".." {
            if is_missing {
                // It would have to be made for nothing but this way through it.
                return None;
            }
            // Above the root is the root. Below it, the kernel's own `..` stays within, since no link led here.
            if let Some(end) = path.iter().rposition(|byte| *byte == b'/') {
                directory =
                    Some(openat(here, c"..", OFlags::PATH | DIRECTORY, Mode::empty()).ok()?);
                path.truncate(end);
            }
            continue;
        }
        let link = if is_missing {
            Err(Errno::NOENT)
        } else {
            readlinkat(here, name.as_slice(), Vec::new())
        };
        match link {
            Ok(target) => {
                links.next()?;
                if target.to_bytes().starts_with(b"/") {
                    path.clear();
                    directory = None;
                }
                put(&mut rest, target.to_bytes())?;
                continue;
            }
            // It is there, and no link.
            Err(Errno::INVAL) => {}
            Err(Errno::NOENT) => is_missing = true,
            Err(_) => return None,
        }
        path.push(b'/');
        path.extend_from_slice(&name);
        if is_covered(&path) {
            return None;
        }
        if !is_missing && !rest.is_empty() {
            let flags = OFlags::PATH | DIRECTORY;
            directory = Some(openat(here, name.as_slice(), flags, Mode::empty()).ok()?);
        }
    }
    None
}

/// Puts the names of `path` before the others; none: a way of so many names comes to no end here, or one has a name that none can
/// have.
fn put(rest: &mut Vec<Vec<u8>>, path: &[u8]) -> Option<()> {
    let names = path.rsplit(|byte| *byte == b'/');
    for name in names.filter(|name| !name.is_empty() && *name != b".") {
        if rest.len() >= MAX_STEPS || name.len() > MAX_NAME {
            return None;
        }
        rest.push(name.to_vec());
    }
    Some(())
}

/// Makes `places` in `layer`, which is empty and will lie over `root`. An overlay shows a directory as its highest layer has
/// it, so those of `root` keep their owner and mode; what is new is root's. Owners in `root` are seen from `id_base` on, those
/// in `layer` will be.
pub(crate) fn make(
    layer: &OwnedFd,
    root: &OwnedFd,
    places: &[Place],
    id_base: u32,
) -> Result<(), Errno> {
    let open = |from: &OwnedFd, name: &[u8]| openat(from, name, DIRECTORY, Mode::empty());
    let (layer, root) = (open(layer, b".")?, open(root, b".")?);
    imitate(&root, &layer, id_base)?;
    for place in places {
        let (mut here, mut there) = (open(&layer, b".")?, Some(open(&root, b".")?));
        let mut names = place.path.split(|byte| *byte == b'/').skip(1).peekable();
        while let Some(name) = names.next() {
            if place.is_file && names.peek().is_none() {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                let file = openat(&here, name, flags, Mode::empty())?;
                own(&file, (0, 0), 0o644)?;
                continue;
            }
            let made = mkdirat(&here, name, Mode::empty());
            here = match made {
                Ok(()) | Err(Errno::EXIST) => open(&here, name)?,
                Err(errno) => return Err(errno),
            };
            there = match there.map(|above| open(&above, name)) {
                None | Some(Err(Errno::NOENT)) => None,
                Some(other) => Some(other?),
            };
            match (made, &there) {
                (Err(_), _) => {}
                (Ok(()), Some(there)) => imitate(there, &here, id_base)?,
                (Ok(()), None) => own(&here, (0, 0), 0o755)?,
            }
        }
    }
    Ok(())
}

/// Gives the directory `to` owner, mode and access control list of `from`.
fn imitate(from: &OwnedFd, to: &OwnedFd, id_base: u32) -> Result<(), Errno> {
    // An id that the container has not is another one that it has not.
    let id = |seen: u32| seen.checked_sub(id_base).unwrap_or(IDS);
    let like = fstat(from)?;
    own(
        to,
        (id(like.st_uid), id(like.st_gid)),
        like.st_mode & 0o7777,
    )?;
    // Beside a list, the mode's bits of the group are not the group's, but the most that the list may give.
    let name = c"system.posix_acl_access";
    let mut list = [0_u8; 4096];
    let length = match fgetxattr(from, name, &mut list) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(()),
        other => other?,
    };
    let list = list.get_mut(..length).ok_or(Errno::RANGE)?;
    // A version, then entries of tag, permissions and id (`linux/posix_acl_xattr.h`), of which users and groups by name have one.
    for entry in list.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
        if let [2 | 8, 0, _, _, a, b, c, d] = entry {
            [*a, *b, *c, *d] = id(u32::from_le_bytes([*a, *b, *c, *d])).to_le_bytes();
        }
    }
    fsetxattr(to, name, list, XattrFlags::empty())
}

/// Gives a file or directory its owner, and then its mode, whatever it has from the directory above and the umask.
fn own(file: &OwnedFd, (user, group): (u32, u32), mode: u32) -> Result<(), Errno> {
    fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
    fchmod(file, Mode::from_raw_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_sys::rustix::fs::CWD;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    /// What a walk says in a root with these links, and with `/run`, `/srv/deep` and the file `/file`.
    fn walked(links: &[(&str, &str)], place: &str) -> Option<(String, bool)> {
        let folder = tempfile::tempdir().unwrap();
        let below = |path: &str| folder.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(below("/run")).unwrap();
        fs::create_dir_all(below("/srv/deep")).unwrap();
        fs::File::create(below("/file")).unwrap();
        for (link, target) in links {
            symlink(target, below(link)).unwrap();
        }
        let flags = OFlags::PATH | DIRECTORY;
        let root = openat(CWD, folder.path(), flags, Mode::empty()).unwrap();
        let (path, is_missing) = walk(&root, place.as_bytes(), |path| path == b"/srv/covered")?;
        Some((String::from_utf8(path).unwrap(), is_missing))
    }

    #[track_caller]
    fn leads(links: &[(&str, &str)], place: &str, to: &str, is_missing: bool) {
        let expected = Some((to.to_owned(), is_missing));
        assert_eq!(walked(links, place), expected, "{place} with {links:?}");
    }

    #[test]
    fn a_place_is_found_where_its_links_lead() {
        for (link, target) in [
            ("/l", "/srv"),
            ("/l", "srv"),
            ("/l", "./srv//"),
            ("/l", "../../srv"),
            ("/l", "srv/deep/.."),
            ("/run/l", "../srv"),
            ("/run/l", "/run/../srv/deep/../../srv"),
        ] {
            let links = [(link, target)];
            leads(&links, link, "/srv", false);
            leads(&links, &format!("{link}/deep"), "/srv/deep", false);
            leads(&links, &format!("{link}/new"), "/srv/new", true);
            leads(&links, &format!("{link}/a/b"), "/srv/a/b", true);
        }
        leads(&[], "/", "", false);
        leads(&[("/l", "..")], "/l", "", false);
        leads(&[], "/srv/deep/", "/srv/deep", false);
        leads(&[], "/file", "/file", false);
        leads(&[], "/new", "/new", true);
        leads(&[("/l", "/new/deep")], "/l/place", "/new/deep/place", true);
        // A link into the machine that the root is on leads to nothing of it.
        assert!(Path::new("/usr/bin").exists());
        leads(&[("/l", "/usr/bin")], "/l/x", "/usr/bin/x", true);
        leads(&[("/l", "../../../../../usr")], "/l/x", "/usr/x", true);
    }

    #[test]
    fn what_cannot_be_made_or_need_not_be_is_left_alone() {
        for (links, place) in [
            (&[("/l", "l")][..], "/l"),
            (&[("/l", "/l/x")], "/l"),
            (&[("/a", "/b"), ("/b", "a")], "/a/x"),
            // The way leads through a file.
            (&[], "/file/x"),
            (&[("/l", "file")], "/l/x"),
            (&[("/l", "file/..")], "/l/x"),
            // Nothing is made for a way through it alone.
            (&[("/l", "new/../srv")], "/l/x"),
            // In the mount of a former place.
            (&[], "/srv/covered"),
            (&[], "/srv/covered/x"),
            (&[("/l", "srv/covered")], "/l/x"),
        ] {
            assert_eq!(walked(links, place), None, "{place} with {links:?}");
        }
    }

    #[test]
    fn links_are_followed_as_often_as_linux_does() {
        let names: Vec<_> = (0..=100).map(|number| format!("l{number}")).collect();
        let links = |count: usize| -> Vec<(&str, &str)> {
            let pairs = names.iter().zip(names.iter().skip(1)).take(count);
            pairs.map(|(a, b)| (a.as_str(), b.as_str())).collect()
        };
        leads(&links(MAX_LINKS), "/l0", "/l40", true);
        assert_eq!(walked(&links(MAX_LINKS + 1), "/l0"), None);
        assert_eq!(walked(&links(100), "/l0/x"), None);
        // Few links, with many names.
        let far = "deep/../".repeat(500);
        let deep = [("/srv/l", far.as_str()), ("/srv/m", "l/l/l")];
        leads(&deep, "/srv/l/x", "/srv/x", true);
        assert_eq!(walked(&deep, "/srv/m/x"), None);
    }
}
