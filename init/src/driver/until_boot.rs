//! What containers keep in memory until the next boot: each writable root and each volume is a tmpfs of its own.
//!
//! ```text
//! /run/kedge/boot/<container>/root/<digest>      what is written to the root, under the digest of the definition
//! /run/kedge/boot/<container>/volumes/<volume>
//! ```
//! A root ends with its definition: over other layers its files would hide what an update brings. A volume goes on for as long as
//! the definitions that follow one another have it. What ended gives its memory back.

use kedge_revision::container::{Lifetime, RootWrites};
use kedge_revision::{Container, Name, definition};
use kedge_sys::mount::unmount_detach;
use kedge_sys::rustix::fs::rmdir;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const SOCKETS: &str = "/run/kedge/sockets";
const PLACE: &str = "/run/kedge/boot";
const ROOT: &str = "root";
const VOLUMES: &str = "volumes";

/// Where the root of a definition with this digest is written to.
pub(crate) fn root(container: &Name, digest: &str) -> PathBuf {
    [PLACE, container.as_str(), ROOT, digest].iter().collect()
}

/// Where a volume is.
pub(crate) fn volume(container: &Name, volume: &Name) -> PathBuf {
    let names = [PLACE, container.as_str(), VOLUMES, volume.as_str()];
    names.iter().collect()
}

/// Ends what the container has no more under its next definition; all of it without one. Nothing of it runs.
///
/// Its sockets and secrets end in either case: the next one's are made when it starts.
pub(crate) fn end(container: &Name, next: Option<&Container>) {
    end_in(&Path::new(PLACE).join(container.as_str()), next);
    // What stays is gone with the boot.
    std::fs::remove_dir_all(sockets(container)).ok();
}

/// Where a container's sockets lie, and in `secrets/` the secrets that its process reads.
pub(crate) fn sockets(container: &Name) -> PathBuf {
    [SOCKETS, container.as_str()].iter().collect()
}

fn end_in(folder: &Path, next: Option<&Container>) {
    let digest = next.filter(|next| next.root == RootWrites::Boot);
    let digest = digest.and_then(|next| definition::digest(next).ok());
    let has_volume = |name: &str| {
        let mut volumes = next.into_iter().flat_map(|next| &next.volumes);
        volumes.any(|(own, volume)| own.as_str() == name && volume.lifetime == Lifetime::Boot)
    };
    let (roots, volumes) = (folder.join(ROOT), folder.join(VOLUMES));
    end_all_but(&roots, |name| digest.as_deref() == Some(name));
    end_all_but(&volumes, has_volume);
    for folder in [&roots, &volumes, folder] {
        // What is left stays, and so does a folder with something in it.
        rmdir(folder).ok();
    }
}

fn end_all_but(folder: &Path, stays: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(&stays) {
            continue;
        }
        let path = entry.path();
        if let Ok(text) = CString::new(path.as_os_str().as_bytes()) {
            // One that stays mounted costs its memory until the next boot, and nothing else.
            unmount_detach(&text).ok();
        }
        rmdir(&path).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fixture;
    use kedge_revision::container::{Goal, Snapshot, Volume};

    fn listing(folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(inside) = folders.pop() {
            let entries: Vec<_> = std::fs::read_dir(&inside).into_iter().flatten().collect();
            if entries.is_empty() && inside.exists() {
                let name = inside.strip_prefix(folder).unwrap();
                found.push(name.display().to_string());
            }
            folders.extend(entries.into_iter().map(|entry| entry.unwrap().path()));
        }
        found.sort();
        found
    }

    /// With a root until the boot, a volume of each lifetime, and this argument.
    fn container(argument: &str) -> Container {
        let mut container = fixture::container("app", Goal::Started);
        container.root = RootWrites::Boot;
        container.process.arguments.push(argument.to_owned());
        for (name, lifetime) in [("cache", Lifetime::Boot), ("disk", Lifetime::Permanent)] {
            let volume = Volume {
                path: format!("/{name}"),
                lifetime,
                size: None,
                snapshot: Snapshot::Never,
                snapshot_max: None,
                owner: None,
            };
            container.volumes.insert(fixture::name(name), volume);
        }
        container
    }

    #[test]
    fn a_root_ends_with_its_definition_and_a_volume_does_not() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("app");
        let (old, new) = (container("old"), container("new"));
        let digests = [&old, &new].map(|one| definition::digest(one).unwrap());
        let [old_root, new_root] = digests.map(|digest| format!("root/{digest}"));
        for name in [&old_root, "volumes/cache", "volumes/root", "volumes/disk"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        end_in(&folder, Some(&old));
        assert_eq!(listing(&folder), [&old_root, "volumes/cache"]);
        end_in(&folder, Some(&new));
        assert_eq!(listing(&folder), ["volumes/cache"]);
        std::fs::create_dir_all(folder.join(&new_root)).unwrap();
        end_in(&folder, Some(&new));
        assert_eq!(listing(&folder), [&new_root, "volumes/cache"]);
        end_in(&folder, None);
        assert!(!folder.exists());
        end_in(&folder, None);
    }

    #[test]
    fn a_volume_of_any_name_lies_apart_from_the_root() {
        let name = fixture::name;
        let path = volume(&name("app"), &name("root"));
        assert_eq!(path, Path::new("/run/kedge/boot/app/volumes/root"));
        assert_eq!(
            root(&name("app"), "d"),
            Path::new("/run/kedge/boot/app/root/d")
        );
    }
}
