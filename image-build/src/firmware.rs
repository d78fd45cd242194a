//! Firmware that a board's image brings along, fetched as its file says: taken out of Debian's packages, which are not installed.
//!
//! It knows no place on a disk: `image/firmware.rs` does.

use crate::cache::{self, Cache};
use crate::debian::Archive;
use crate::{files, progress};
use anyhow::{Context, Result, bail};
use kedge_board_support::boards::Board;
use kedge_board_support::boards::firmware::Source;
use std::path::{Path, PathBuf};

/// Changes when what is kept of a package changes.
const RECIPE: &str = "1";

/// The files of the board's firmware in its order; `trees` are its device trees.
///
/// # Errors
/// A package cannot be fetched or has no such file; both are named.
pub fn fetch(cache: &Cache, board: &Board, trees: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let pieces = board.firmware.iter();
    pieces
        .map(|piece| match &piece.source {
            Source::Package {
                package,
                suite,
                component,
                file,
            } => {
                let architecture = board.architecture.debian();
                let archive = Archive::open_part(cache, suite, architecture, component)?;
                let folder = unpacked(cache, &archive, package)?;
                let path = folder.join(file);
                if !is_within(&folder, &path) {
                    bail!(
                        "the package {package} of Debian {suite} for {architecture} has no file {file}\nhelp: name another one under [[firmware]] of the board {}",
                        board.name
                    );
                }
                Ok(path)
            }
            Source::DeviceTree(wanted) => {
                let all = board.boot.device_trees.iter().zip(trees);
                let mut found = all.filter(|(path, _)| *path == wanted);
                let found = found.next().map(|(_, file)| file.clone());
                found.with_context(|| format!("nobody fetched the device tree {wanted}"))
            }
            Source::Text(text) => {
                let key = cache::key([RECIPE, text]);
                let entry = cache.entry("firmware", &format!("text-{key}"), |folder| {
                    files::write(&folder.join("text"), text)
                })?;
                Ok(entry.join("text"))
            }
        })
        .collect()
}

/// A regular file of the package, and not what a link of it leads to elsewhere.
fn is_within(folder: &Path, path: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    let inside = real(folder).zip(real(path));
    inside.is_some_and(|(folder, file)| file.starts_with(folder) && file.is_file())
}

/// A package unpacked in the cache.
fn unpacked(cache: &Cache, archive: &Archive, name: &str) -> Result<PathBuf> {
    let package = archive.package(name)?;
    let parts = [RECIPE, &package.version, &package.architecture];
    let key = format!("{name}-{}", cache::key(parts));
    cache.entry("firmware", &key, |folder| {
        let debs = archive.download(std::slice::from_ref(&package))?;
        progress::step(format_args!("unpacking {name}"), || {
            Archive::unpack(&debs, folder)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_board_support::boards::{self, Firmware, firmware::Place};

    #[test]
    fn texts_and_device_trees_are_taken_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path()).unwrap();
        let mut board = boards::find("qemu-arm64").unwrap();
        board.boot.device_trees = vec!["a/one.dtb".into(), "b/two.dtb".into()];
        let place = || Place::Boot("config.txt".parse().unwrap());
        let (text, tree) = (
            Source::Text("a=1\n".into()),
            Source::DeviceTree("b/two.dtb".into()),
        );
        board.firmware = [text, tree]
            .map(|source| Firmware {
                source,
                place: place(),
            })
            .to_vec();
        let trees = ["/x/one.dtb", "/x/two.dtb"].map(PathBuf::from);
        let found = fetch(&cache, &board, &trees).unwrap();
        assert_eq!(files::read_text(&found[0]).unwrap(), "a=1\n");
        assert_eq!(found[1], trees[1]);
        assert!(fetch(&cache, &board, &[]).is_err());
    }

    #[test]
    fn a_link_out_of_a_package_is_no_file_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("package");
        files::make_folder(&package).unwrap();
        files::write(&folder.path().join("outside"), "x").unwrap();
        files::write(&package.join("inside"), "x").unwrap();
        std::os::unix::fs::symlink("../outside", package.join("out")).unwrap();
        std::os::unix::fs::symlink("inside", package.join("in")).unwrap();
        for (name, expected) in [
            ("inside", true),
            ("in", true),
            ("out", false),
            ("none", false),
        ] {
            assert_eq!(is_within(&package, &package.join(name)), expected, "{name}");
        }
    }
}
