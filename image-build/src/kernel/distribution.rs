//! Debian's kernel, taken out of its package with the modules that a board names.
//!
//! The device loads modules by name in a fixed order and knows nothing of dependencies, so the order is made here,
//! from the kernel's own `modules.dep` and what `modules.softdep` wants loaded before. What the kernel has built in is left out.
//!
//! Debian's signatures are taken off the modules: they stand in the initramfs, which the revision names by its hash,
//! and to verify them again costs the kernel a hundred million instructions each. The kernel says once that it is
//! tainted. A kernel that Secure Boot has locked down loads signed modules only, so that boards with UEFI keep them until
//! it is known what for ([`without_signature`]).

use super::{Kernel, Record, load};
use crate::cache::{self, Cache};
use crate::debian::{self, Archive, Package, Status};
use crate::{files, process, progress};
use anyhow::{Context, Result, bail};
use kedge_board_support::boards::{Backend, Board, POOL_MODULES};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Changes when what is taken from the package changes.
const RECIPE: [&str; 2] = ["4, unsigned", "4, signed"];
/// The same for device trees.
const TREES: &str = "1";
/// What ends a signed module; before it stand a signature and its description (Linux
/// `include/linux/module_signature.h`).
const SIGNED: &[u8] = b"~Module signature appended~\n";
/// Bytes of the description: five of kinds and lengths, three of padding, and the signature's length, big-endian.
const DESCRIPTION: usize = 12;

/// Debian's kernel with the modules that the board names, downloaded and unpacked if the cache has none.
///
/// # Errors
/// The board has none of Debian's, it cannot be fetched, or it has a module neither as a file nor built in.
pub fn distribution(cache: &Cache, board: &Board) -> Result<Kernel> {
    let modules = board.modules();
    debian::require(&["kmod", "xz-utils"], "order and unpack kernel modules")?;
    let (archive, package) = image_package(cache, board)?;
    let signed = board.boot.backend == Backend::Uefi;
    let [unsigned_recipe, signed_recipe] = RECIPE;
    let recipe = if signed {
        signed_recipe
    } else {
        unsigned_recipe
    };
    let key = format!(
        "{}-{}",
        package.name,
        cache::key([
            recipe,
            &package.version,
            &modules.join(" "),
            &POOL_MODULES.join(" ")
        ])
    );
    let entry = cache.entry("kernels", &key, |folder| {
        let debs = archive.download(std::slice::from_ref(&package))?;
        progress::step(format_args!("unpacking {}", package.name), || {
            let tree = folder.join("unpacked");
            files::make_folder(&tree)?;
            Archive::unpack(&debs, &tree)?;
            take(&tree, folder, &modules, signed)?;
            files::remove_folder(&tree)
        })
    })?;
    load(&entry)
}

/// The package that holds the kernel, which the board's package depends on.
fn image_package(cache: &Cache, board: &Board) -> Result<(Archive, Package)> {
    let wanted = &board.kernel;
    let meta = wanted.package.as_deref().with_context(|| {
        format!(
            "no kernel of Debian's serves {0}: take our own (`cargo xtask image {0} --kernel own`)",
            board.name
        )
    })?;
    let archive = Archive::open_for(cache, &wanted.suite, board.architecture.debian())?;
    let flavour = meta.trim_start_matches("linux-image-");
    let closure = archive.closure(&[meta], Status::Empty)?;
    let is_image =
        |name: &str| name != meta && name.starts_with("linux-image-") && name.ends_with(flavour);
    let package = closure
        .into_iter()
        .find(|package| is_image(&package.name))
        .with_context(|| format!("{meta} depends on no kernel image"))?;
    Ok((archive, package))
}

/// The board's device trees, in its order, out of the same package. They tell of the hardware and not of the kernel's
/// configuration, so that our own kernel of that version takes them, too.
///
/// # Errors
/// The package cannot be fetched, or it has no such tree.
pub fn device_trees(cache: &Cache, board: &Board) -> Result<Vec<PathBuf>> {
    let trees = &board.boot.device_trees;
    if trees.is_empty() {
        return Ok(Vec::new());
    }
    let (archive, package) = image_package(cache, board)?;
    let parts = [TREES, &package.version].into_iter();
    let key = cache::key(parts.chain(trees.iter().map(String::as_str)));
    let key = format!("{}-{key}", package.name);
    let entry = cache.entry("device-trees", &key, |folder| {
        let debs = archive.download(std::slice::from_ref(&package))?;
        let what = format_args!("unpacking the device trees of {}", package.name);
        progress::step(what, || {
            let unpacked = folder.join("unpacked");
            files::make_folder(&unpacked)?;
            Archive::unpack(&debs, &unpacked)?;
            for tree in trees {
                let path = format!("usr/lib/{}/{tree}", package.name);
                let from = unpacked.join(&path);
                if !from.is_file() {
                    bail!(
                        "the package {} {} has no file {path}\nhelp: name another one under boot.device-trees of the board {}",
                        package.name,
                        package.version,
                        board.name
                    );
                }
                files::copy(&from, &folder.join(tree))?;
            }
            files::remove_folder(&unpacked)
        })
    })?;
    Ok(trees.iter().map(|tree| entry.join(tree)).collect())
}

fn take(tree: &Path, folder: &Path, wanted: &[impl AsRef<str>], signed: bool) -> Result<()> {
    let modules = files::list(&tree.join("usr/lib/modules"))?;
    let [modules] = modules.as_slice() else {
        bail!(
            "{} holds {} kernels, not one",
            tree.display(),
            modules.len()
        )
    };
    let version = modules
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    process::run(
        Command::new("depmod")
            .arg("-b")
            .arg(tree.join("usr"))
            .arg(&version),
    )?;
    let [dependencies, builtin, soft] = ["dep", "builtin", "softdep"]
        .map(|name| files::read_text(&modules.join(format!("modules.{name}"))));
    let (dependencies, builtin, soft) = (dependencies?, builtin?, soft?);
    let index = Index::new(&dependencies, &builtin, &soft);
    let order = index.load_order(wanted)?;
    let mut pools = index.load_order(&POOL_MODULES)?;
    pools.retain(|path| !order.contains(path));
    let take = |path: &String| {
        let file = path.rsplit('/').next().unwrap_or_default();
        let name = format!("modules/{}", file.trim_end_matches(".xz"));
        let source = modules.join(path);
        let module = if file.ends_with(".xz") {
            process::output(Command::new("xz").arg("-dc").arg(&source))?
        } else {
            files::read(&source)?
        };
        let module = if signed {
            module
        } else {
            without_signature(module)
        };
        files::write(&folder.join(&name), module)?;
        Ok(name)
    };
    let names: Vec<String> = order.iter().map(take).collect::<Result<_>>()?;
    let pool_names: Vec<String> = pools.iter().map(take).collect::<Result<_>>()?;
    let boot = tree.join("boot");
    // Debian's name for an image that is not compressed, as RISC-V's is, has an x.
    let image = ["vmlinuz", "vmlinux"].map(|name| boot.join(format!("{name}-{version}")));
    let image = image
        .iter()
        .find(|path| path.exists())
        .with_context(|| format!("{} holds no kernel", boot.display()))?;
    files::copy(image, &folder.join("vmlinuz"))?;
    files::copy(
        &boot.join(format!("config-{version}")),
        &folder.join("config"),
    )?;
    Record {
        version,
        image: "vmlinuz".to_owned(),
        modules: names,
        pool_modules: pool_names,
    }
    .write(folder)
}

/// Whether a module ends in a signature; whose it is, the kernel judges.
#[must_use]
pub fn is_signed(module: &[u8]) -> bool {
    module.ends_with(SIGNED)
}

/// A module without the signature that it may end with.
#[must_use]
pub fn without_signature(mut module: Vec<u8>) -> Vec<u8> {
    let body = module.strip_suffix(SIGNED).and_then(|rest| {
        let (rest, length) = rest.split_last_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let before = DESCRIPTION.checked_sub(size_of::<u32>())?;
        rest.len().checked_sub(before)?.checked_sub(length)
    });
    if let Some(body) = body {
        module.truncate(body);
    }
    module
}

/// What depmod(8) says of a kernel's modules.
struct Index<'a> {
    builtin: BTreeSet<String>,
    /// By name: its path, and the paths that it needs.
    modules: BTreeMap<String, (&'a str, &'a str)>,
    /// By name: the names that are to be loaded before it, if they are there.
    before: BTreeMap<String, Vec<String>>,
}

impl<'a> Index<'a> {
    /// `dependencies` is `modules.dep`: `path: path path`, where a module's own dependencies stand right to left in the
    /// order in which they must be loaded. `soft` is `modules.softdep`: `softdep name pre: name name post: name`
    /// (modprobe.d(5)).
    fn new(dependencies: &'a str, builtin: &str, soft: &str) -> Self {
        let needs = dependencies.lines().filter_map(|line| {
            let (path, needs) = line.split_once(':')?;
            Some((module_name(path), (path, needs)))
        });
        let before = soft.lines().filter_map(|line| {
            let (name, rest) = line.strip_prefix("softdep ")?.split_once(" pre:")?;
            let names = rest.split("post:").next().unwrap_or_default();
            let names = names.split_whitespace().map(module_name).collect();
            Some((module_name(name), names))
        });
        Self {
            builtin: builtin.lines().map(module_name).collect(),
            modules: needs.collect(),
            before: before.collect(),
        }
    }

    /// Paths of the wanted modules and of all they need, in the order of loading, each once.
    fn load_order(&self, wanted: &[impl AsRef<str>]) -> Result<Vec<String>> {
        let mut order = Vec::new();
        for name in wanted {
            let name = name.as_ref().replace('-', "_");
            if self.builtin.contains(&name) {
                continue;
            }
            let (path, _) = self
                .modules
                .get(&name)
                .with_context(|| format!("the kernel has no module {name}"))?;
            self.load(path, &mut order, &mut Vec::new());
        }
        Ok(order)
    }

    /// Nothing here loads for a module what it asks for only once it runs: r8169 has no network without realtek, and names it
    /// in no other place than among what is to be loaded before. Such a name may be an alias or built in: it is passed over.
    ///
    /// `open` is what is being looked at: two that want each other before them (modprobe(8) warns of such) end there.
    fn load(&self, path: &'a str, order: &mut Vec<String>, open: &mut Vec<&'a str>) {
        if open.contains(&path) || order.iter().any(|listed| listed == path) {
            return;
        }
        open.push(path);
        let name = module_name(path);
        let soft = self.before.get(&name).into_iter().flatten();
        for (path, _) in soft.filter_map(|name| self.modules.get(name)) {
            self.load(path, order, open);
        }
        let needs = self.modules.get(&name).map_or("", |(_, needs)| needs);
        for path in needs.split_whitespace().rev() {
            self.load(path, order, open);
        }
        open.pop();
        order.push(path.to_owned());
    }
}

/// `kernel/drivers/char/hw_random/virtio-rng.ko.xz` is the module `virtio_rng`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "kernel/a/virtio_net.ko.xz: kernel/b/net_failover.ko.xz kernel/c/failover.ko.xz\n\
                                kernel/b/net_failover.ko.xz: kernel/c/failover.ko.xz\n\
                                kernel/c/failover.ko.xz:\nkernel/d/virtio-rng.ko.xz:\n";

    #[test]
    fn dependencies_come_first_and_once() {
        let index = Index::new(DEPENDENCIES, "", "");
        assert_eq!(
            names(&index, &["virtio_net", "net_failover", "virtio_rng"]),
            ["failover", "net_failover", "virtio_net", "virtio_rng"]
        );
    }

    fn names(index: &Index<'_>, wanted: &[&str]) -> Vec<String> {
        let order = index.load_order(wanted).unwrap();
        order.iter().map(|path| module_name(path)).collect()
    }

    #[test]
    fn what_is_to_be_loaded_before_is_and_rings_end() {
        const SOFT: &str = "# Soft dependencies.\nsoftdep virtio_net pre: virtio-rng crypto-crc32c post: failover\n\
                            softdep virtio_rng pre: net_failover\nsoftdep net_failover pre: virtio_rng\n";
        let index = Index::new(DEPENDENCIES, "", SOFT);
        assert_eq!(
            names(&index, &["virtio_net"]),
            ["failover", "net_failover", "virtio_rng", "virtio_net"]
        );
        assert_eq!(
            names(&index, &["net_failover"]),
            ["virtio_rng", "failover", "net_failover"]
        );
    }

    #[test]
    fn a_signature_is_taken_off_and_nothing_else() {
        let signed = [
            b"module".as_slice(),
            b"signature",
            &[0, 0, 2, 0, 0, 0, 0, 0],
            &9_u32.to_be_bytes(),
            SIGNED,
        ]
        .concat();
        let module = signed.clone();
        assert!(is_signed(&module));
        let module = without_signature(module);
        assert_eq!(module, b"module");
        assert!(!is_signed(&module));
        let module = without_signature(module);
        assert_eq!(module, b"module");
        // A length that the file does not have.
        let short = signed[signed.len() - SIGNED.len() - DESCRIPTION..].to_vec();
        let before = short.clone();
        let short = without_signature(short);
        assert_eq!(short, before);
    }

    #[test]
    fn what_is_built_in_is_left_out_and_what_is_unknown_is_named() {
        let index = Index::new(DEPENDENCIES, "kernel/drivers/virtio/virtio_pci.ko\n", "");
        assert!(names(&index, &["virtio-pci"]).is_empty());
        let error = index.load_order(&["nothing"]).unwrap_err().to_string();
        assert_eq!(error, "the kernel has no module nothing");
    }
}
