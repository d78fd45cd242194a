//! Our own kernel: Debian's source, `allnoconfig`, and the fragments in `board-support/kernel`.
//!
//! A build is kept under a key of everything that its bytes depend on: source version, wanted symbols, compiler, linker and
//! packer. Time, user, host and build number are fixed, nothing of the environment but the path of programs reaches it, and names of
//! folders are cut off, so that two builds of one key are the same bytes wherever the cache is: a test builds two
//! (`cargo xtask test host --long --filter kernel`). An interrupted build goes on where it stopped.

use super::{Fragment, Kernel, Record, load};
use crate::cache::{self, Cache};
use crate::debian::{self, Archive, Package};
use crate::{files, process, progress};
use anyhow::{Context, Result, bail};
use kedge_board_support::boards::{Architecture, Board, FRAGMENTS};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SOURCE: &str = "linux-source-6.12";
/// Changes when the way of building changes the bytes.
const RECIPE: &str = "kedge-kernel 2";
/// The kernel's configuration, which is in the kernel, names the versions of programs that are found, and that nothing of ours is
/// built with.
const NO_PROGRAM: [&str; 2] = ["RUSTC=no-rustc", "PAHOLE=no-pahole"];
/// What a build needs on the machine beside the compiler; measured on a bare Debian 12.
const PACKAGES: [&str; 8] = [
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

/// How Linux names an architecture, what compiles for it and where its image comes out.
struct Names {
    /// `ARCH=` of the kernel's makefiles.
    architecture: &'static str,
    /// Debian's package of the compiler. `gcc` is the machine's own: it compiles for the architecture that Debian's host
    /// tools have here.
    compiler: &'static str,
    /// What stands before the names of compiler and linker.
    prefix: &'static str,
    /// The target to build.
    target: &'static str,
    /// The image, relative to the output folder.
    image: &'static str,
}

const fn names(architecture: Architecture) -> Names {
    match architecture {
        Architecture::X86_64 => Names {
            architecture: "x86_64",
            compiler: "gcc",
            prefix: "",
            target: "bzImage",
            image: "arch/x86/boot/bzImage",
        },
        // Not compressed: U-Boot's `booti` takes it as it is.
        Architecture::Arm64 => Names {
            architecture: "arm64",
            compiler: "gcc-aarch64-linux-gnu",
            prefix: "aarch64-linux-gnu-",
            target: "Image",
            image: "arch/arm64/boot/Image",
        },
        // It unpacks itself: U-Boot's `bootz`.
        Architecture::Armv7 => Names {
            architecture: "arm",
            compiler: "gcc-arm-linux-gnueabihf",
            prefix: "arm-linux-gnueabihf-",
            target: "zImage",
            image: "arch/arm/boot/zImage",
        },
        // As on arm64.
        Architecture::Riscv64 => Names {
            architecture: "riscv",
            compiler: "gcc-riscv64-linux-gnu",
            prefix: "riscv64-linux-gnu-",
            target: "Image",
            image: "arch/riscv/boot/Image",
        },
        // It unpacks itself; an ELF file even so, which is what QEMU and U-Boot's `bootelf` take.
        Architecture::Mipsel => Names {
            architecture: "mips",
            compiler: "gcc-mipsel-linux-gnu",
            prefix: "mipsel-linux-gnu-",
            target: "vmlinuz",
            image: "vmlinuz",
        },
    }
}

/// Everything that is wanted of a board's kernel: its fragments, later ones over earlier ones.
fn wanted(files: &[String]) -> Result<Fragment> {
    let mut all = Fragment::default();
    for file in files {
        let (_, text) = FRAGMENTS
            .iter()
            .find(|(name, _)| name == file)
            .with_context(|| format!("there is no fragment {file} in board-support/kernel"))?;
        all = all.with(Fragment::parse(file, text)?);
    }
    Ok(all)
}

/// Our own kernel for a board, built if the cache has none: about 12 CPU minutes and 2 GB of room.
///
/// # Errors
/// The source cannot be fetched, a wanted symbol is not granted (all of them are named), or the build fails.
pub fn own(cache: &Cache, board: &Board) -> Result<Kernel> {
    if board.kernel.fragments.is_empty() {
        bail!(
            "there is no kernel of our own for {0} yet: take Debian's (`cargo xtask image {0}`)\nhelp: its drivers belong into a fragment in board-support/kernel, which kernel.fragments of the board names",
            board.name
        );
    }
    let compiler = names(board.architecture).compiler;
    let packages: Vec<&str> = PACKAGES.into_iter().chain([compiler]).collect();
    debian::require(&packages, "build a kernel")?;
    let plan = Plan::new(cache, board)?;
    let entry = cache.entry("kernels", &plan.key, |folder| {
        progress::step(
            format_args!(
                "building Linux {} for {} (kernels/{})",
                plan.source.version, board.name, plan.key
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
pub fn own_if_cached(cache: &Cache, board: &Board) -> Result<Option<Kernel>> {
    let prefix = names(board.architecture).prefix;
    let programs = [format!("{prefix}gcc"), format!("{prefix}ld"), "zstd".into()];
    if board.kernel.fragments.is_empty()
        || programs
            .iter()
            .any(|program| process::find(program).is_none())
        || !cache.root().join("kernels").exists()
    {
        return Ok(None);
    }
    let entry = cache
        .root()
        .join("kernels")
        .join(Plan::new(cache, board)?.key);
    if entry.exists() {
        load(&entry).map(Some)
    } else {
        Ok(None)
    }
}

struct Plan {
    names: Names,
    archive: Archive,
    source: Package,
    wanted: Fragment,
    key: String,
    work: PathBuf,
}

impl Plan {
    fn new(cache: &Cache, board: &Board) -> Result<Self> {
        let names = names(board.architecture);
        let wanted = wanted(&board.kernel.fragments)?;
        let archive = Archive::open(cache, &board.kernel.suite)?;
        let source = archive.package(SOURCE)?;
        let first_line = |program: &str| -> Result<String> {
            let text = process::text(Command::new(program).arg("--version").env("LC_ALL", "C"))?;
            Ok(text.lines().next().unwrap_or_default().to_owned())
        };
        let parts = [
            RECIPE.to_owned(),
            source.version.clone(),
            names.architecture.to_owned(),
            first_line(&format!("{}gcc", names.prefix))?,
            first_line(&format!("{}ld", names.prefix))?,
            first_line("zstd")?,
            wanted.text(),
        ];
        let key = cache::key(parts);
        let work = cache.root().join("kernels").join(format!("work-{key}"));
        Ok(Self {
            names,
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
        files::copy(&out.join(self.names.image), &folder.join("vmlinuz"))?;
        files::copy(&out.join(".config"), &folder.join("config"))?;
        let version = files::read_text(&out.join("include/config/kernel.release"))?
            .trim()
            .to_owned();
        Record {
            version,
            image: "vmlinuz".to_owned(),
            modules: Vec::new(),
            pool_modules: Vec::new(),
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
            self.names.architecture,
            lines.join("\n")
        )
    }

    fn compile(&self, tree: &Path) -> Result<()> {
        let jobs = std::thread::available_parallelism().map_or(2, usize::from);
        let log = self.work.join("log");
        let mut command = self.make(tree);
        command.arg(format!("-j{jobs}")).arg(self.names.target);
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

    fn make(&self, tree: &Path) -> Command {
        make(&self.names, tree, &self.work.join("out"))
    }
}

/// A niced make: the build takes minutes, and the machine is somebody's desk.
fn make(names: &Names, tree: &Path, out: &Path) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "5", "make", "-C"]).arg(tree);
    // Flags of an outer make or of the user's own kernels would change the bytes behind the key's back.
    command.env_clear();
    for variable in ["PATH", "TMPDIR"] {
        if let Some(value) = std::env::var_os(variable) {
            command.env(variable, value);
        }
    }
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
    let mut output = OsString::from("O=");
    output.push(out);
    command
        .arg(output)
        .arg(format!("ARCH={}", names.architecture))
        .arg(format!("CROSS_COMPILE={}", names.prefix))
        .args(NO_PROGRAM);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kconfig drops what cannot be had without a word.
    #[test]
    fn a_symbol_that_kconfig_drops_is_told_with_the_kernels_version() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let (tree, work) = (path.join("tree"), path.join("work"));
        for folder in [&tree, &work, &path.join("mirror")] {
            files::make_folder(folder).unwrap();
        }
        let makefile = "allnoconfig:\n\tmkdir -p $(O)\n\tgrep -v CONFIG_B= $(KCONFIG_ALLCONFIG) >$(O)/.config\n";
        files::write(&tree.join("Makefile"), makefile).unwrap();
        files::write(&path.join("mirror/Packages"), "").unwrap();
        let source = format!("deb [trusted=yes] file:{}/mirror ./", path.display());
        let plan = |wanted: &str| Plan {
            names: names(Architecture::X86_64),
            archive: Archive::open_source(&Cache::at(&path.join("cache")).unwrap(), &source)
                .unwrap(),
            source: Package {
                name: SOURCE.to_owned(),
                version: "6.12.7-1".to_owned(),
                architecture: "all".to_owned(),
            },
            wanted: Fragment::parse("my.config", wanted).unwrap(),
            key: String::new(),
            work: work.clone(),
        };
        let granted = plan("CONFIG_A=y\n# CONFIG_C is not set\n");
        granted.configure(&tree).unwrap();
        let dropped = plan("CONFIG_A=y\nCONFIG_B=y\n");
        let said = dropped.configure(&tree).unwrap_err().to_string();
        let expected = "Linux 6.12.7-1 for x86_64 does not grant what board-support/kernel asks for:\n  CONFIG_B: wanted y, got not set\n";
        assert!(said.starts_with(expected), "{said}");
        assert!(!said.contains("CONFIG_A"), "{said}");
    }

    #[test]
    fn the_fragments_are_well_formed() {
        for (name, _) in FRAGMENTS {
            wanted(&[(*name).to_owned()]).unwrap();
        }
        let error = wanted(&["toaster.config".to_owned()])
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "there is no fragment toaster.config in board-support/kernel"
        );
    }

    #[test]
    fn nothing_of_the_environment_reaches_a_build() {
        let names = names(Architecture::Arm64);
        let made = make(&names, Path::new("/tree"), Path::new("/out"));
        let known: Vec<_> = made.get_envs().map(|(name, _)| name).collect();
        assert!(known.contains(&"KBUILD_BUILD_TIMESTAMP".as_ref()));
        // What is taken away by name is listed, too: all of it is, so nothing need be.
        for name in known {
            let name = name.to_string_lossy();
            assert!(
                name.starts_with("KBUILD_BUILD_")
                    || ["PATH", "TMPDIR", "LC_ALL", "TZ"].contains(&&*name),
                "{name}"
            );
        }
        let words: Vec<_> = made.get_args().collect();
        for wanted in [
            "ARCH=arm64",
            "CROSS_COMPILE=aarch64-linux-gnu-",
            "O=/out",
            "RUSTC=no-rustc",
            "PAHOLE=no-pahole",
        ] {
            assert!(words.contains(&wanted.as_ref()), "{wanted}");
        }
    }

    /// PID 1 shows the state by it.
    #[test]
    fn a_kernel_of_a_board_with_a_led_lets_it_blink() {
        let boards = kedge_board_support::boards::all().unwrap().into_iter();
        let with_led = boards.filter(|board| board.led.is_some());
        for board in with_led.filter(|board| !board.kernel.fragments.is_empty()) {
            let wanted = wanted(&board.kernel.fragments).unwrap().text();
            for symbol in ["LEDS_GPIO", "LEDS_TRIGGER_TIMER"] {
                let line = format!("CONFIG_{symbol}=y\n");
                assert!(wanted.contains(&line), "{}: {symbol}", board.name);
            }
        }
    }

    /// Without them, calls of musl's and of older C libraries that have a time among their arguments do not exist.
    #[test]
    fn a_kernel_of_32_bits_has_the_calls_with_32_bits_of_time() {
        let mut seen = 0;
        for board in kedge_board_support::boards::all().unwrap() {
            let narrow = matches!(
                board.architecture,
                Architecture::Armv7 | Architecture::Mipsel
            );
            if narrow && !board.kernel.fragments.is_empty() {
                let wanted = wanted(&board.kernel.fragments).unwrap().text();
                assert!(
                    wanted.contains("CONFIG_COMPAT_32BIT_TIME=y\n"),
                    "{}",
                    board.name
                );
                seen += 1;
            }
        }
        assert!(seen >= 2, "{seen}");
    }

    /// What Linux has by default and asks about, and a kernel that is asked for nothing else has not: programs of distributions
    /// do not start without it, and nor does the kernel itself on some of these processors.
    #[test]
    fn kernels_have_what_their_processors_and_programs_take_for_granted() {
        let mut seen = 0;
        for board in kedge_board_support::boards::all().unwrap() {
            if board.kernel.fragments.is_empty() {
                continue;
            }
            let wanted = wanted(&board.kernel.fragments).unwrap().text();
            let mut needs = match board.architecture {
                Architecture::Armv7 => vec!["ARM_THUMB", "KUSER_HELPERS"],
                Architecture::Riscv64 => vec!["RISCV_ISA_FALLBACK"],
                Architecture::X86_64 | Architecture::Arm64 | Architecture::Mipsel => Vec::new(),
            };
            if wanted.contains("CONFIG_SOC_AM33XX=y\n") {
                needs.push("SMP_ON_UP");
            }
            for symbol in needs {
                let line = format!("CONFIG_{symbol}=y\n");
                assert!(wanted.contains(&line), "{}: {symbol}", board.name);
                seen += 1;
            }
        }
        assert!(seen >= 9, "{seen}");
    }
}
