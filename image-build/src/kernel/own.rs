//! Our own kernel: Debian's source, `allnoconfig`, and the fragments in `board-support/kernel`.
//!
//! A build is kept under a key of everything that its bytes depend on: source version, wanted symbols, compiler and
//! linker. Time, user, host and build number are fixed, and the source is compiled by relative names, so that two
//! builds of one key are the same bytes wherever the cache is. An interrupted build goes on where it stopped.

use super::{Fragment, Kernel, Record, SUITE, load};
use crate::cache::{self, Cache};
use crate::debian::{self, Archive, Package};
use crate::{files, process, progress};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SOURCE: &str = "linux-source-6.12";
/// Changes when the way of building changes the bytes.
const RECIPE: &str = "kedge-kernel 1";
const COMMON: &str = include_str!("../../../board-support/kernel/common.config");
/// What a build needs on the machine beside the compiler; measured on a bare Debian 12.
const PACKAGES: [&str; 9] = [
    "gcc",
    "make",
    "bc",
    "bison",
    "flex",
    "libelf-dev",
    "libssl-dev",
    "xz-utils",
    "zstd",
];
/// The same for everybody, or two machines build two kernels; it is also the oldest time the kernel's clock can
/// be set from, so it may not lie in the future.
const STAMP: &str = "2026-01-01T00:00:00Z";

/// How Linux names an architecture and where its image comes out.
#[derive(Debug, Clone, Copy)]
pub struct Architecture {
    /// Kedge's name for it, as in board files.
    pub name: &'static str,
    /// `ARCH=` of the kernel's makefiles.
    make: &'static str,
    /// The target to build.
    target: &'static str,
    /// The image, relative to the output folder.
    image: &'static str,
    /// The fragment over the common one.
    fragment: &'static str,
}

impl Architecture {
    /// 64-bit PCs, QEMU's among them.
    pub const X86_64: Self = Self {
        name: "x86_64",
        make: "x86_64",
        target: "bzImage",
        image: "arch/x86/boot/bzImage",
        fragment: include_str!("../../../board-support/kernel/x86_64.config"),
    };

    /// Everything that is wanted of this architecture's kernel.
    ///
    /// # Errors
    /// A fragment has a wrong line.
    pub fn wanted(&self) -> Result<Fragment> {
        let common = Fragment::parse("common.config", COMMON)?;
        Ok(common.with(Fragment::parse(
            &format!("{}.config", self.name),
            self.fragment,
        )?))
    }
}

/// Our own kernel for an architecture, built if the cache has none: about 12 CPU minutes and 2 GB of room.
///
/// # Errors
/// The source cannot be fetched, a wanted symbol is not granted (all of them are named), or the build fails.
pub fn own(cache: &Cache, architecture: &Architecture) -> Result<Kernel> {
    debian::require(&PACKAGES, "build a kernel")?;
    let plan = Plan::new(cache, architecture)?;
    let entry = cache.entry("kernels", &plan.key, |folder| {
        progress::step(
            format_args!(
                "building Linux {} for {} (kernels/{})",
                plan.source.version, architecture.name, plan.key
            ),
            || plan.build(folder),
        )
    })?;
    load(&entry)
}

/// Our own kernel if it was built before: for those who would rather take Debian's than wait.
///
/// # Errors
/// The lists of the suite cannot be read, or the cache entry is damaged.
pub fn own_if_cached(cache: &Cache, architecture: &Architecture) -> Result<Option<Kernel>> {
    if process::find("gcc").is_none() || !cache.root().join("kernels").exists() {
        return Ok(None);
    }
    let entry = cache
        .root()
        .join("kernels")
        .join(Plan::new(cache, architecture)?.key);
    if entry.exists() {
        load(&entry).map(Some)
    } else {
        Ok(None)
    }
}

struct Plan<'a> {
    architecture: &'a Architecture,
    archive: Archive,
    source: Package,
    wanted: Fragment,
    key: String,
    work: PathBuf,
}

impl<'a> Plan<'a> {
    fn new(cache: &Cache, architecture: &'a Architecture) -> Result<Self> {
        let wanted = architecture.wanted()?;
        let archive = Archive::open(cache, SUITE)?;
        let source = archive.package(SOURCE)?;
        let first_line = |program: &str| -> Result<String> {
            let text = process::text(Command::new(program).arg("--version").env("LC_ALL", "C"))?;
            Ok(text.lines().next().unwrap_or_default().to_owned())
        };
        let parts = [
            RECIPE.to_owned(),
            source.version.clone(),
            architecture.name.to_owned(),
            first_line("gcc")?,
            first_line("ld")?,
            wanted.text(),
        ];
        let key = cache::key(parts);
        let work = cache.root().join("kernels").join(format!("work-{key}"));
        Ok(Self {
            architecture,
            archive,
            source,
            wanted,
            key,
            work,
        })
    }

    fn build(&self, folder: &Path) -> Result<()> {
        files::make_folder(&self.work)?;
        let tree = self.tree()?;
        self.configure(&tree)?;
        self.compile(&tree)?;
        let out = self.work.join("out");
        files::copy(&out.join(self.architecture.image), &folder.join("vmlinuz"))?;
        files::copy(&out.join(".config"), &folder.join("config"))?;
        let version = files::read_text(&out.join("include/config/kernel.release"))?
            .trim()
            .to_owned();
        Record {
            version,
            image: "vmlinuz".to_owned(),
            modules: Vec::new(),
        }
        .write(folder)?;
        files::remove_folder(&self.work)
    }

    /// The unpacked source; unpacking again is skipped when an interrupted build left it.
    fn tree(&self) -> Result<PathBuf> {
        let tree = self.work.join("source");
        if tree.exists() {
            return Ok(tree);
        }
        let debs = self.archive.download(std::slice::from_ref(&self.source))?;
        progress::step("unpacking the kernel's source", || {
            let new = files::temporary(&tree);
            files::remove_folder(&new)?;
            files::make_folder(&new)?;
            Archive::unpack(&debs, &new)?;
            let archive = new.join("usr/src").join(format!("{SOURCE}.tar.xz"));
            process::run(
                Command::new("tar")
                    .arg("-xf")
                    .arg(&archive)
                    .arg("-C")
                    .arg(&new),
            )?;
            files::publish(&new.join(SOURCE), &tree)?;
            files::remove_folder(&new)
        })?;
        Ok(tree)
    }

    fn configure(&self, tree: &Path) -> Result<()> {
        let wanted = self.work.join("wanted.config");
        files::write(&wanted, self.wanted.text())?;
        let mut option = OsString::from("KCONFIG_ALLCONFIG=");
        option.push(&wanted);
        process::run(self.make(tree).arg(option).arg("allnoconfig"))?;
        let unmet = self
            .wanted
            .unmet(&files::read_text(&self.work.join("out/.config"))?);
        if unmet.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = unmet.iter().map(|symbol| format!("  {symbol}")).collect();
        bail!(
            "Linux {} for {} does not grant what board-support/kernel asks for:\n{}\n\
             a symbol is dropped when one that it depends on is not wanted too (its `depends on` in Kconfig), or when \
             this version has no such symbol",
            self.source.version,
            self.architecture.name,
            lines.join("\n")
        )
    }

    fn compile(&self, tree: &Path) -> Result<()> {
        let jobs = std::thread::available_parallelism().map_or(2, usize::from);
        let log = self.work.join("log");
        let mut command = self.make(tree);
        command
            .arg(format!("-j{jobs}"))
            .arg(self.architecture.target);
        process::run_watched(&mut command, &log, Duration::from_secs(30), |time| {
            let text = std::fs::read(&log).unwrap_or_default();
            let done = text
                .split(|byte| *byte == b'\n')
                .filter(|line| line.starts_with(b"  CC "))
                .count();
            progress::say(format_args!(
                "  {done} of about 1800 files compiled after {}",
                progress::seconds(time)
            ));
        })
        .with_context(|| {
            format!(
                "the unfinished build stays in {}; running again goes on there",
                self.work.display()
            )
        })
    }

    /// A niced make: the build takes minutes, and the machine is somebody's desk.
    fn make(&self, tree: &Path) -> Command {
        let mut command = Command::new("nice");
        command.args(["-n", "5", "make", "-C"]).arg(tree);
        let mut out = OsString::from("O=");
        out.push(self.work.join("out"));
        command
            .arg(out)
            .arg(format!("ARCH={}", self.architecture.make));
        for (variable, value) in [
            ("KBUILD_BUILD_TIMESTAMP", STAMP),
            ("KBUILD_BUILD_USER", "kedge"),
            ("KBUILD_BUILD_HOST", "kedge"),
            ("KBUILD_BUILD_VERSION", "1"),
            ("LC_ALL", "C"),
            ("TZ", "UTC"),
        ] {
            command.env(variable, value);
        }
        // Flags of an outer make or of the user's own kernels would change the bytes behind the key's back.
        for variable in [
            "MAKEFLAGS",
            "MFLAGS",
            "KCFLAGS",
            "KAFLAGS",
            "LOCALVERSION",
            "CROSS_COMPILE",
            "LLVM",
        ] {
            command.env_remove(variable);
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fragments_are_well_formed() {
        let text = Architecture::X86_64.wanted().unwrap().text();
        assert!(
            text.contains("CONFIG_EROFS_FS_BACKED_BY_FILE=y\n"),
            "{text}"
        );
        assert!(text.contains("CONFIG_X86_64=y\n"), "{text}");
        for (name, fragment) in [
            (
                "arm64",
                include_str!("../../../board-support/kernel/arm64.config"),
            ),
            (
                "armv7",
                include_str!("../../../board-support/kernel/armv7.config"),
            ),
            (
                "riscv64",
                include_str!("../../../board-support/kernel/riscv64.config"),
            ),
            (
                "mipsel-malta",
                include_str!("../../../board-support/kernel/mipsel-malta.config"),
            ),
        ] {
            Fragment::parse(name, fragment).unwrap();
        }
    }
}
