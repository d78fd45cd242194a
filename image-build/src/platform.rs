//! A board's platform: kernel, its modules and the device binary, which belong to no integrator's project.
//!
//! `<cache>/platform/<board>` (`<board>-own` with our own kernel) holds the files and `platform.json`, which names
//! them: `{"board", "kernel", "init", "modules" (in load order), "kernel-version"}` and, of some, "pool-modules", "loader",
//! "device-trees" and "firmware" (in the order of the board's file), paths relative to the folder.
//! It is made by the developers of the system, read by `kedge build`.

use crate::cache::{self, Cache};
use crate::kernel::{self, Kernel};
use crate::toolchain::{self, Crate};
use crate::{compose, files, firmware, image};
use anyhow::{Context, Result, bail, ensure};
use kedge_board_support::boards::{self, Backend, Board};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Which kernel a platform has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelSource {
    /// Built from our fragments: small, without modules; what the promises are measured on.
    Own,
    /// Debian's: minutes to have.
    Debian,
}

impl KernelSource {
    /// What a board is given unasked: Debian's, or our own where none of Debian's serves.
    #[must_use]
    pub const fn usual(board: &Board) -> Self {
        match board.kernel.package {
            Some(_) => Self::Debian,
            None => Self::Own,
        }
    }

    /// This one for a board, or what serves it where this does not.
    #[must_use]
    pub const fn or_usual(self, board: &Board) -> Self {
        match self {
            Self::Own => Self::Own,
            Self::Debian => Self::usual(board),
        }
    }
}

impl FromStr for KernelSource {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "own" => Ok(Self::Own),
            "debian" => Ok(Self::Debian),
            other => bail!("no kernel is called {other}; there are own and debian"),
        }
    }
}

impl fmt::Display for KernelSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Own => "own",
            Self::Debian => "debian",
        })
    }
}

/// What a platform is told by.
const DESCRIPTION: &str = "platform.json";
/// The loader's name in a platform.
const LOADER: &str = "loader.efi";

/// The file `platform.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Platform {
    /// The board's name.
    pub board: String,
    /// The kernel's image, relative to the folder like all paths here.
    pub kernel: String,
    /// The device binary.
    pub init: String,
    /// Modules in load order.
    pub modules: Vec<String>,
    /// Those that revisions with networks of containers' own need beside them, to be loaded after them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pool_modules: Vec<String>,
    /// The loader, of boards whose firmware starts one of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loader: Option<String>,
    /// The device trees that a slot holds, in the order of the board's file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_trees: Vec<String>,
    /// The firmware that an image brings along, in the order of the board's file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub firmware: Vec<String>,
    /// What the board's file said of both when they were fetched ([`named_by`]); empty where it names none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub named_by: String,
    /// What `uname -r` says on the device.
    pub kernel_version: String,
    /// What the device binary was compiled from, for bills of materials.
    #[serde(default)]
    pub crates: Vec<Crate>,
}

impl Platform {
    /// Whether its kernel is our own: Debian's have modules, ours none.
    #[must_use]
    pub const fn has_own_kernel(&self) -> bool {
        self.modules.is_empty()
    }

    /// Reads the platform of a board, in a folder.
    ///
    /// # Errors
    /// There is none, with the command that makes it, or it is not one.
    pub fn of(folder: &Path, board: &Board) -> Result<Self> {
        let own = folder.ends_with(folder_name(board.name.as_str(), KernelSource::Own));
        // What is made unasked is Debian's, where there is one.
        let own = own && KernelSource::usual(board) != KernelSource::Own;
        ensure!(
            folder.join(DESCRIPTION).exists(),
            "there is no platform for the board {0} ({1})\nhelp: in the clone of Kedge: cargo xtask image {0}{2}",
            board.name,
            folder.display(),
            if own { " --kernel own" } else { "" }
        );
        Self::load(folder)
    }

    /// Reads the platform in a folder, of whatever board.
    ///
    /// # Errors
    /// It is not one.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(DESCRIPTION);
        serde_json::from_slice(&files::read(&path)?)
            .with_context(|| format!("cannot parse {}", path.display()))
    }

    /// Whether it was made from the board as it is now, as far as files are concerned that the board names.
    ///
    /// # Errors
    /// It has other device trees or other firmware.
    pub fn check(&self, board: &Board) -> Result<()> {
        if self.named_by != named_by(board) {
            bail!(
                "the platform has other device trees or other firmware than the board {0} names\nhelp: make it anew, in the clone of Kedge: cargo xtask image {0}",
                board.name
            );
        }
        Ok(())
    }
}

/// Changes with everything that a board's file says of device trees and firmware, their order too; empty where it names none.
fn named_by(board: &Board) -> String {
    let (trees, firmware) = (&board.boot.device_trees, &board.firmware);
    if trees.is_empty() && firmware.is_empty() {
        return String::new();
    }
    cache::key([format!("{trees:?} {firmware:?}")])
}

/// The folder where the platform of a board is, whether or not it was made.
///
/// # Errors
/// There is no cache.
pub fn folder(board: &str, source: KernelSource) -> Result<PathBuf> {
    Ok(folder_in(&Cache::open()?, board, source))
}

fn folder_in(cache: &Cache, board: &str, source: KernelSource) -> PathBuf {
    let platforms = cache.root().join("platform");
    platforms.join(folder_name(board, source))
}

fn folder_name(board: &str, source: KernelSource) -> String {
    match source {
        KernelSource::Own => format!("{board}-own"),
        KernelSource::Debian => board.to_owned(),
    }
}

/// Makes the platform of a board, or brings it up to date, and returns its folder.
///
/// # Errors
/// The board is unknown, or one of its parts cannot be made.
pub fn make(board: &str, source: KernelSource) -> Result<PathBuf> {
    let cache = Cache::open()?;
    let found = boards::find(board)?;
    let kernel = match source {
        KernelSource::Own => kernel::own(&cache, &found)?,
        KernelSource::Debian => kernel::distribution(&cache, &found)?,
    };
    let init = toolchain::build_device(&found, &["agent"])?;
    budgets(&found, source, &kernel, &init)?;
    let crates = toolchain::crates_of_device(&found, &["agent"])?;
    let loader = match found.boot.backend {
        Backend::Uefi => Some(toolchain::build_loader(&found)?),
        Backend::Direct | Backend::UBoot | Backend::Tryboot => None,
    };
    let device_trees = kernel::device_trees(&cache, &found)?;
    let boot = BootParts {
        firmware: firmware::fetch(&cache, &found, &device_trees)?,
        device_trees,
        loader,
        named_by: named_by(&found),
    };
    let folder = folder_in(&cache, board, source);
    let _lock = cache.lock("platform")?;
    assemble(board, &kernel, (&init, crates), &boot, &folder)?;
    let most = found.budgets.boot(source == KernelSource::Own).initramfs;
    image::budget("the initramfs", compose::bare_initramfs(&folder)?, most)?;
    Ok(folder)
}

/// Holds kernel and device binary to the board's budgets.
fn budgets(board: &Board, source: KernelSource, kernel: &Kernel, init: &Path) -> Result<()> {
    let size = |path: &Path| -> Result<u64> {
        let metadata = path.metadata();
        Ok(metadata
            .with_context(|| format!("cannot see {}", path.display()))?
            .len())
    };
    let budgets = board.budgets;
    let boot = budgets.boot(source == KernelSource::Own);
    image::budget("the kernel", size(&kernel.image)?, boot.kernel)?;
    image::budget("the device binary", size(init)?, budgets.device_binary)
}

/// The kernel that nobody waits for: our own if it was built before, else Debian's. Where there is none of Debian's, our
/// own is waited for.
///
/// # Errors
/// The board is unknown or the cache is damaged.
pub fn cheapest(board: &str) -> Result<KernelSource> {
    let board = boards::find(board)?;
    let own = kernel::own_if_cached(&Cache::open()?, &board)?;
    Ok(own.map_or(KernelSource::usual(&board), |_| KernelSource::Own))
}

/// What a platform has beside kernel and device binary, of boards that need it.
#[derive(Debug, Default)]
struct BootParts {
    loader: Option<PathBuf>,
    device_trees: Vec<PathBuf>,
    firmware: Vec<PathBuf>,
    named_by: String,
}

/// A folder of that name is whole at every moment: others may read there now.
fn assemble(
    board: &str,
    kernel: &Kernel,
    (init, crates): (&Path, Vec<Crate>),
    boot: &BootParts,
    folder: &Path,
) -> Result<()> {
    let new = files::temporary(folder);
    files::remove_folder(&new)?;
    files::copy(&kernel.image, &new.join("vmlinuz"))?;
    files::copy(init, &new.join("init"))?;
    if let Some(loader) = &boot.loader {
        files::copy(loader, &new.join(LOADER))?;
    }
    let copy = |from: &Path, to: String| -> Result<String> {
        let file = from.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{to}{file}");
        files::copy(from, &new.join(&name))?;
        Ok(name)
    };
    let modules = kernel.modules.iter();
    let pool_modules = kernel.pool_modules.iter();
    let trees = boot.device_trees.iter();
    // Two packages may have files of one name.
    let numbered = boot.firmware.iter().enumerate();
    let platform = Platform {
        board: board.to_owned(),
        kernel: "vmlinuz".to_owned(),
        init: "init".to_owned(),
        modules: modules
            .map(|path| copy(path, "modules/".to_owned()))
            .collect::<Result<_>>()?,
        pool_modules: pool_modules
            .map(|path| copy(path, "modules/".to_owned()))
            .collect::<Result<_>>()?,
        loader: boot.loader.as_ref().map(|_| LOADER.to_owned()),
        device_trees: trees
            .map(|path| copy(path, "device-trees/".to_owned()))
            .collect::<Result<_>>()?,
        firmware: numbered
            .map(|(number, path)| copy(path, format!("firmware/{number}-")))
            .collect::<Result<_>>()?,
        named_by: boot.named_by.clone(),
        kernel_version: kernel.version.clone(),
        crates,
    };
    let text =
        serde_json::to_string_pretty(&platform).context("cannot write a platform as JSON")?;
    files::write(&new.join(DESCRIPTION), text)?;
    files::publish_folder(&new, folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_reads_back_and_replaces_an_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let part = |name: &str| {
            let path = folder.path().join(name);
            files::write(&path, name).unwrap();
            path
        };
        let kernel = Kernel {
            version: "6.12-x".into(),
            image: part("bzImage"),
            modules: vec![part("b.ko"), part("a.ko")],
            pool_modules: vec![part("veth.ko")],
        };
        let made = folder.path().join("platform/board");
        for _ in 0..2 {
            let crates = vec![Crate {
                name: "serde".to_owned(),
                version: "1.0.1".to_owned(),
                licence: "MIT OR Apache-2.0".to_owned(),
            }];
            let boot = BootParts {
                loader: Some(part("some.efi")),
                device_trees: vec![part("board.dtb")],
                firmware: vec![part("spl.bin"), part("spl.bin")],
                named_by: named_by(&boards::find("raspberry-pi-3").unwrap()),
            };
            let init = part("init-plain");
            assemble("board", &kernel, (&init, crates), &boot, &made).unwrap();
        }
        let read = Platform::load(&made).unwrap();
        assert_eq!(read.modules, ["modules/b.ko", "modules/a.ko"]);
        assert_eq!(read.pool_modules, ["modules/veth.ko"]);
        assert_eq!(read.crates.len(), 1);
        assert_eq!(read.device_trees, ["device-trees/board.dtb"]);
        assert_eq!(read.firmware, ["firmware/0-spl.bin", "firmware/1-spl.bin"]);
        assert!(read.check(&boards::find("qemu-arm64").unwrap()).is_err());
        let mut board = boards::find("raspberry-pi-3").unwrap();
        read.check(&board).unwrap();
        board.firmware.swap(0, 1);
        assert!(read.check(&board).is_err());
        let loader = made.join(read.loader.unwrap());
        assert_eq!(files::read_text(&loader).unwrap(), "some.efi");
        assert_eq!(
            files::read_text(&made.join(&read.init)).unwrap(),
            "init-plain"
        );
        assert_eq!(
            files::list(&folder.path().join("platform")).unwrap(),
            [made]
        );
    }

    #[test]
    fn a_kernel_and_a_device_binary_are_held_to_their_budgets() {
        let folder = tempfile::tempdir().unwrap();
        let sized = |name: &str, size: u64| {
            let path = folder.path().join(name);
            let file = std::fs::File::create(&path).unwrap();
            file.set_len(size).unwrap();
            path
        };
        let board = boards::find("qemu-x86-64").unwrap();
        let own = board.budgets.own.unwrap().kernel;
        let kernel = Kernel {
            version: "6.12-x".into(),
            image: sized("bzImage", own + 1),
            modules: Vec::new(),
            pool_modules: Vec::new(),
        };
        let most = sized("init", board.budgets.device_binary);
        let more = sized("more", board.budgets.device_binary + 1);
        // Ours is to be smaller than Debian's.
        assert!(budgets(&board, KernelSource::Debian, &kernel, &most).is_ok());
        let said = budgets(&board, KernelSource::Own, &kernel, &most).unwrap_err();
        assert!(said.to_string().starts_with("the kernel has "), "{said}");
        let said = budgets(&board, KernelSource::Debian, &kernel, &more).unwrap_err();
        let beginning = format!(
            "the device binary has {} bytes",
            board.budgets.device_binary + 1
        );
        assert!(said.to_string().starts_with(&beginning), "{said}");
    }

    #[test]
    fn a_missing_platform_says_how_to_make_it() {
        let said = |folder: &str, board: &str| {
            let board = boards::find(board).unwrap();
            let error = Platform::of(Path::new(folder), &board).unwrap_err();
            error.to_string()
        };
        assert_eq!(
            said("/cache/platform/pc-x86-64", "pc-x86-64"),
            "there is no platform for the board pc-x86-64 (/cache/platform/pc-x86-64)\nhelp: in the clone of Kedge: cargo xtask image pc-x86-64"
        );
        let own = said("/cache/platform/pc-x86-64-own", "pc-x86-64");
        assert!(own.ends_with("image pc-x86-64 --kernel own"), "{own}");
        // Of this one there is no other.
        let only = said("/cache/platform/qemu-mipsel-own", "qemu-mipsel");
        assert!(only.ends_with("image qemu-mipsel"), "{only}");
    }
}
