//! The image tools, in one version for every machine: EROFS and ext4 from Debian trixie.
//!
//! The bytes of a layer depend on the version of `mkfs.erofs` (1.5 of Debian 12 cannot read a tar at all), and
//! `mke2fs -d` writes the same bytes twice only from 1.47.1 on. So the programs are taken out of their packages
//! together with every library they need, and run through their own dynamic loader: nothing is installed, and the
//! machine's own versions do not matter. What was unpacked once stays, whatever the mirror has later.

use crate::cache::Cache;
use crate::debian::{Archive, Status};
use crate::{files, progress};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// The suite that the tools come from.
const SUITE: &str = "trixie";
/// The packages and the upstream version that each must have: another one makes other bytes.
const PINNED: [(&str, &str); 2] = [("erofs-utils", "1.8.6-"), ("e2fsprogs", "1.47.2-")];
/// The package with `sqfs2tar` and `tar2sqfs`. Its version does not matter: what it unpacks is made into a layer by the tools above.
const SQUASHFS: &str = "squashfs-tools-ng";
const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// A program with everything that goes before its own arguments.
#[derive(Debug, Clone)]
pub struct Tool {
    /// The loader with its options, then the program.
    pub argv: Vec<OsString>,
    /// Where `mke2fs` finds its defaults: in its own package, since the machine's would change the bytes.
    configuration: PathBuf,
}

impl Tool {
    /// A command to which the program's arguments are added. Its environment has no library path of the caller.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut words = self.argv.iter();
        let mut command =
            Command::new(words.next().map_or_else(|| "false".into(), OsString::clone));
        command
            .args(words)
            .env_remove("LD_LIBRARY_PATH")
            .env_remove("LD_PRELOAD");
        command.env("MKE2FS_CONFIG", &self.configuration);
        command
    }
}

/// `mkfs.erofs` 1.8.6.
///
/// # Errors
/// The tools are not in the cache and cannot be downloaded.
pub fn mkfs_erofs() -> Result<Tool> {
    tool("usr/bin/mkfs.erofs")
}

/// `fsck.erofs` 1.8.6; `--extract` unpacks an image without mounting it.
///
/// # Errors
/// As [`mkfs_erofs`].
pub fn fsck_erofs() -> Result<Tool> {
    tool("usr/bin/fsck.erofs")
}

/// `dump.erofs` 1.8.6.
///
/// # Errors
/// As [`mkfs_erofs`].
pub fn dump_erofs() -> Result<Tool> {
    tool("usr/bin/dump.erofs")
}

/// `mke2fs` 1.47.2. It reads `mke2fs.conf` from its own package, not from the machine.
///
/// # Errors
/// As [`mkfs_erofs`].
pub fn mke2fs() -> Result<Tool> {
    tool("usr/sbin/mke2fs")
}

/// `debugfs` 1.47.2: reads and edits an ext4 image without mounting it.
///
/// # Errors
/// As [`mkfs_erofs`].
pub fn debugfs() -> Result<Tool> {
    tool("usr/sbin/debugfs")
}

/// `e2fsck` 1.47.2.
///
/// # Errors
/// As [`mkfs_erofs`].
pub fn e2fsck() -> Result<Tool> {
    tool("usr/sbin/e2fsck")
}

/// `sqfs2tar`: a squashfs as a tar on standard output, with owners and modes, without unpacking it onto the file system.
///
/// # Errors
/// As [`mkfs_erofs`].
pub fn sqfs2tar() -> Result<Tool> {
    tool_in(&squashfs()?, "usr/bin/sqfs2tar")
}

/// `tar2sqfs`: the way back.
///
/// # Errors
/// As [`mkfs_erofs`].
pub fn tar2sqfs() -> Result<Tool> {
    tool_in(&squashfs()?, "usr/bin/tar2sqfs")
}

fn squashfs() -> Result<PathBuf> {
    let cache = Cache::open()?;
    let key = crate::cache::key([SUITE, SQUASHFS].map(str::to_owned));
    cache.entry("tools", &key, |folder| {
        progress::step(format!("unpacking {SQUASHFS}"), || {
            let archive = Archive::open(&cache, SUITE)?;
            let packages = archive.closure(&[SQUASHFS], Status::Empty)?;
            Archive::unpack(&archive.download(&packages)?, folder)
        })
    })
}

/// The folder that one package is unpacked in, without what it depends on and without being installed. What was unpacked once
/// stays, whatever the mirror has later.
///
/// # Errors
/// It is not in the cache and cannot be downloaded.
pub fn package(name: &str) -> Result<PathBuf> {
    let cache = Cache::open()?;
    let key = crate::cache::key([SUITE, name, "alone"].map(str::to_owned));
    cache.entry("tools", &key, |folder| {
        progress::step(format!("unpacking {name}"), || {
            let archive = Archive::open(&cache, SUITE)?;
            let package = archive.package(name)?;
            Archive::unpack(&archive.download(&[package])?, folder)
        })
    })
}

/// The exact version of each package that the tools were taken from, libraries included; recorded when they were
/// unpacked, so that an image can say what made it.
///
/// # Errors
/// As [`mkfs_erofs`].
pub fn versions() -> Result<BTreeMap<String, String>> {
    let path = unpacked()?.join("versions.json");
    let record: Versions = serde_json::from_slice(&files::read(&path)?)
        .with_context(|| format!("cannot parse {}", path.display()))?;
    Ok(record.packages)
}

/// The file `versions.json` beside the unpacked packages.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Versions {
    packages: BTreeMap<String, String>,
}

fn tool(program: &str) -> Result<Tool> {
    tool_in(&unpacked()?, program)
}

fn tool_in(root: &Path, program: &str) -> Result<Tool> {
    let program = root.join(program);
    if !program.is_file() {
        bail!(
            "{} is missing: remove {} and run again",
            program.display(),
            root.display()
        );
    }
    let argv = vec![
        root.join(LOADER).into(),
        "--library-path".into(),
        root.join(LIBRARIES).into(),
        program.into(),
    ];
    Ok(Tool {
        argv,
        configuration: root.join("etc/mke2fs.conf"),
    })
}

/// The folder that the packages are unpacked in. Callers come from many threads; only the first one looks.
fn unpacked() -> Result<PathBuf> {
    static FOLDER: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut folder = FOLDER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = folder.as_ref() {
        return Ok(path.clone());
    }
    let path = unpack(&Cache::open()?)?;
    *folder = Some(path.clone());
    Ok(path)
}

fn unpack(cache: &Cache) -> Result<PathBuf> {
    let pins: Vec<String> = PINNED
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    let key = crate::cache::key(std::iter::once(SUITE.to_owned()).chain(pins));
    cache.entry("tools", &key, |folder| {
        progress::step("unpacking the image tools (erofs-utils, e2fsprogs)", || {
            let archive = Archive::open(cache, SUITE)?;
            let names = PINNED.map(|(name, _)| name);
            let packages = archive.closure(&names, Status::Empty)?;
            let record = Versions {
                packages: packages
                    .iter()
                    .map(|package| (package.name.clone(), package.version.clone()))
                    .collect(),
            };
            for (name, pinned) in PINNED {
                let found = record.packages.get(name).map_or("nothing", String::as_str);
                if !found.starts_with(pinned) {
                    bail!("Debian {SUITE} has {name} {found}, but images are pinned to {pinned}*");
                }
            }
            Archive::unpack(&archive.download(&packages)?, folder)?;
            let text = serde_json::to_string_pretty(&record)
                .context("cannot write the versions as JSON")?;
            files::write(&folder.join("versions.json"), text)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_run_through_its_own_loader() {
        let argv = vec![
            "loader".into(),
            "--library-path".into(),
            "lib".into(),
            "mkfs".into(),
        ];
        let tool = Tool {
            argv,
            configuration: PathBuf::new(),
        };
        let command = tool.command();
        assert_eq!(command.get_program(), "loader");
        assert_eq!(command.get_args().count(), 3);
    }
}
