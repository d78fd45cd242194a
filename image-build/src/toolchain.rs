//! The device binary: one static executable, its standard library compiled for size.
//!
//! Debian's Rust 1.96 is used by path, because it comes with the sources of the standard library; the machine's own
//! `cargo` and `rustc` are for host programs and stay out of it. Zig, from PyPI into the cache, is linker, C
//! compiler and C library for every architecture. Nothing is compiled differently on another machine.

mod flags;
mod loader;
pub mod map;

pub use loader::build_loader;

use crate::cache::{self, Cache};
use crate::{debian, files, process, progress, python};
use anyhow::{Context, Result, bail};
use flags::{FLAGS, MIPS_FLAGS, OUTLINER};
use kedge_board_support::boards::Board;
use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Rust and the sources of its standard library, and what makes Python's virtual environments. 1.85, which
/// the lists of a fresh machine may name, does not know `-Cpanic=immediate-abort`.
const PACKAGES: [&str; 6] = [
    "rustc-web>=1.96",
    "cargo-web>=1.96",
    "libstd-rust-web-dev>=1.96",
    "rust-web-src>=1.96",
    "python3-venv",
    // `nm`, for the order of functions.
    "binutils",
];
/// Another version makes other bytes.
const ZIG: &str = "0.17.1";

/// What of Zig's C library does not work on MIPS.
const MIPS: &str = include_str!("toolchain/mips.c");

/// A target by Rust's name for it, and Zig's; and what is compiled differently for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target<'a> {
    rust: &'a str,
    zig: &'static str,
    /// Which of [`FLAGS`] it does not take, and what it takes beside them.
    without: &'static [&'static str],
    and: &'static [&'static str],
    /// Whether the crate `libc` must be told that the time has 64 bits, as musl has had it since 1.2: it takes 32 else,
    /// which end in 2038.
    narrow_time: bool,
    /// C that stands in for functions of Zig's C library.
    instead: Option<&'static str>,
}

impl<'a> Target<'a> {
    fn of(board: &'a Board) -> Result<Self> {
        let rust = board.rust_target.as_str();
        let usual = |zig, narrow_time| Self {
            rust,
            zig,
            without: &[],
            and: &[],
            narrow_time,
            instead: None,
        };
        Ok(match rust {
            "x86_64-unknown-linux-musl" => usual("x86_64-linux-musl", false),
            "aarch64-unknown-linux-musl" => usual("aarch64-linux-musl", false),
            "armv7-unknown-linux-musleabihf" => usual("arm-linux-musleabihf", true),
            "riscv64gc-unknown-linux-musl" => usual("riscv64-linux-musl", false),
            "mipsel-unknown-linux-musl" => Self {
                without: &[OUTLINER],
                and: &MIPS_FLAGS,
                instead: Some(MIPS),
                ..usual("mipsel-linux-musleabi", true)
            },
            _ => bail!("the device binary is not built for {rust} yet"),
        })
    }

    /// All flags of the compiler's that do not name a folder.
    fn flags(&self) -> Vec<String> {
        let all = FLAGS.iter().filter(|flag| !self.without.contains(flag));
        all.chain(self.and).map(|flag| (*flag).to_owned()).collect()
    }
}

/// A program for the device: a package of this workspace and its binary.
#[derive(Debug, Clone, Copy)]
struct Program<'a> {
    target: Target<'a>,
    package: &'a str,
    binary: &'a str,
    features: &'a [&'a str],
    /// What a person reads while it is built.
    title: &'a str,
}

/// Builds the device binary of a board and returns its path. `features` are those of the package `kedge-init`.
///
/// # Errors
/// The board's target is not known here, the toolchain cannot be installed, or the build fails: then with the compiler's messages.
pub fn build_device(board: &Board, features: &[&str]) -> Result<PathBuf> {
    let program = Program {
        target: Target::of(board)?,
        package: "kedge-init",
        binary: "init",
        features,
        title: "the device binary",
    };
    compile(&Cache::open()?, &program)
}

/// Builds another program of this workspace as the device binary is built, static and small: what the containers of
/// tests run.
///
/// # Errors
/// As [`build_device`].
pub fn build_program(board: &Board, package: &str, binary: &str) -> Result<PathBuf> {
    let program = Program {
        target: Target::of(board)?,
        package,
        binary,
        features: &[],
        title: binary,
    };
    compile(&Cache::open()?, &program)
}

fn compile(cache: &Cache, program: &Program<'_>) -> Result<PathBuf> {
    debian::require(&PACKAGES, "build the device binary")?;
    let rust = Rust::installed()?;
    let name = program.target.rust;
    let linker = linker(cache, &program.target)?;
    // One folder for each toolchain: cargo would otherwise compile everything again at every change of compiler.
    let flags = program.target.flags().join(" ");
    let parts = [rust.version.as_str(), ZIG, &flags, ORDER, LINK];
    let key = cache::key(parts.into_iter().chain(program.target.instead));
    let target = cache.folder(&format!("cargo-target/device-{key}"))?;
    let _lock = cache.lock("device-binary")?;
    let mut command = Command::new(&rust.cargo);
    command
        .current_dir(workspace()?)
        .args([
            "build",
            "--locked",
            "--package",
            program.package,
            "--profile",
            "device",
            "--target",
            name,
        ])
        .args([
            "-Z",
            "build-std=std,panic_abort",
            "-Z",
            "build-std-features=optimize_for_size",
            // The folder serves every clone, and cargo names a crate alike in all of them: times of files of another
            // clone say nothing of this one's, contents do.
            "-Z",
            "checksum-freshness",
        ]);
    let features = program.features;
    if !features.is_empty() {
        command.arg("--features").arg(features.join(","));
    }
    environment(&mut command, &rust, &program.target, &linker, &target)?;
    let title = format!(
        "building {} for {name} ({})",
        program.title,
        label(features)
    );
    run_cargo(title, &mut command, &target)?;
    // Cargo's path is the same whatever the features are; a copy named by them lets both kinds stand.
    let made = target.join(name);
    let kept = made.join(format!("{}-{}", program.binary, label(features)));
    let built = made.join("device").join(program.binary);
    files::copy(&built, &kept)?;
    files::copy(&map_of(&built)?, &kept.with_extension("map"))?;
    Ok(kept)
}

/// The map that the linker has left beside a program: cargo shows the program under a second name, and that is the one
/// which the linker knew.
fn map_of(program: &Path) -> Result<PathBuf> {
    let metadata = |path: &Path| {
        std::fs::metadata(path).with_context(|| format!("cannot see {}", path.display()))
    };
    let inode = metadata(program)?.ino();
    for path in files::list(&program.with_file_name("deps"))? {
        if path.extension().is_none() && metadata(&path)?.ino() == inode {
            return Ok(path.with_extension("map"));
        }
    }
    bail!("no map of {} was kept by its linker", program.display())
}

/// What the bytes of a board's device binary with these features are spent on.
///
/// # Errors
/// As [`build_device`].
pub fn map_of_device(board: &Board, features: &[&str]) -> Result<Vec<map::Piece>> {
    let binary = build_device(board, features)?;
    Ok(map::pieces(&files::read_text(
        &binary.with_extension("map"),
    )?))
}

/// A crate that a program was compiled from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence as it states it itself, an expression of SPDX; empty if it states none.
    pub licence: String,
}

/// The crates of a board's device binary with these features, the standard library among them; sorted.
///
/// # Errors
/// As [`build_device`], which must have been called before: what it needs of the network is then here.
pub fn crates_of_device(board: &Board, features: &[&str]) -> Result<Vec<Crate>> {
    let rust = Rust::installed()?;
    let mut command = Command::new(&rust.cargo);
    command
        .current_dir(workspace()?)
        .args(["tree", "--locked", "--offline", "--package", "kedge-init"])
        .args(["--target", &board.rust_target, "--edges", "normal"])
        .args(["--prefix", "none", "--format", "{p}|{l}"])
        .args(["--features", &features.join(",")])
        .env("RUSTC", &rust.rustc);
    let mut crates = crates(&process::text(&mut command)?)?;
    let version = rust.version.split(' ').nth(1).unwrap_or_default();
    crates.push(Crate {
        name: "std".to_owned(),
        version: version.to_owned(),
        licence: "MIT OR Apache-2.0".to_owned(),
    });
    crates.sort();
    crates.dedup();
    Ok(crates)
}

/// Crates as `cargo tree` tells them with the format `{p}|{l}`: `serde v1.0.228|MIT OR Apache-2.0`, behind the version maybe
/// where it comes from, and ` (*)` behind one that was told before.
fn crates(text: &str) -> Result<Vec<Crate>> {
    let found = text.lines().filter(|line| !line.is_empty()).map(|line| {
        let (package, licence) = line.split_once('|').unwrap_or((line, ""));
        let mut words = package.split(' ');
        let name = words.next().unwrap_or_default();
        let version = words.next().and_then(|word| word.strip_prefix('v'));
        let version = version.with_context(|| format!("`cargo tree` says `{line}`"))?;
        Ok(Crate {
            name: name.to_owned(),
            version: version.to_owned(),
            licence: licence.trim_end_matches(" (*)").to_owned(),
        })
    });
    found.collect()
}

fn label(features: &[&str]) -> String {
    if features.is_empty() {
        "plain".to_owned()
    } else {
        features.join("-")
    }
}

/// Debian's Rust, by path: what stands first in `PATH` is rustup's, of another version.
struct Rust {
    cargo: PathBuf,
    rustc: PathBuf,
    version: String,
}

impl Rust {
    fn installed() -> Result<Self> {
        let rustc = file_of("rustc-web", "/bin/rustc")?;
        let sysroot = PathBuf::from(process::text(
            Command::new(&rustc).args(["--print", "sysroot"]),
        )?);
        let sources = file_of("rust-web-src", "/library/std/Cargo.toml")?;
        let expected = sysroot.join("lib/rustlib/src/rust/library/std/Cargo.toml");
        if !expected.exists() {
            bail!(
                "{} does not lead to {}: reinstall rust-web-src",
                expected.display(),
                sources.display()
            );
        }
        let version = process::text(Command::new(&rustc).arg("--version"))?;
        Ok(Self {
            cargo: file_of("cargo-web", "/bin/cargo")?,
            rustc,
            version,
        })
    }
}

/// Runs cargo, with its words in a log beside what it makes, and says now and then that it still does.
fn run_cargo(title: impl std::fmt::Display, command: &mut Command, target: &Path) -> Result<()> {
    let log = target.join("log");
    progress::step(title, || {
        process::run_watched(command, &log, Duration::from_secs(30), |time| {
            progress::say(format_args!(
                "  still compiling after {}",
                progress::seconds(time)
            ));
        })
    })
}

/// The file of an installed package whose path ends so.
fn file_of(package: &str, end: &str) -> Result<PathBuf> {
    let text = process::text(Command::new("dpkg").args(["-L", package]))?;
    // The shortest path: `/usr/bin/cargo` before `/usr/share/cargo/bin/cargo`.
    let path = text
        .lines()
        .filter(|path| path.ends_with(end))
        .min_by_key(|path| path.len());
    path.map(PathBuf::from)
        .with_context(|| format!("the package {package} has no file that ends in {end}"))
}

/// The C compiler that links a board's device binary, for the small programs that measurements need on a device.
///
/// # Errors
/// The board's target is not known here, or the toolchain cannot be installed.
pub fn c_compiler(board: &Board) -> Result<PathBuf> {
    Ok(linker(&Cache::open()?, &Target::of(board)?)?.join("cc"))
}

/// The program `zig`.
fn zig(cache: &Cache) -> Result<PathBuf> {
    let modules = python::modules(
        cache,
        "toolchain",
        &format!("ziglang-{ZIG}"),
        &[&format!("ziglang=={ZIG}")],
        format_args!("fetching Zig {ZIG} from PyPI: linker, C compiler and C library"),
    )?;
    Ok(modules.join("ziglang/zig"))
}

/// The folder with `cc` and `ar` for a target, both of Zig.
fn linker(cache: &Cache, target: &Target<'_>) -> Result<PathBuf> {
    let zig_target = target.zig;
    let zig = zig(cache)?;
    let caches = cache.folder("toolchain/zig-cache")?;
    let folder = cache.folder(&format!("toolchain/{zig_target}-{ZIG}"))?;
    let script = |verb: &str| {
        format!(
            "#!/bin/sh\nexport ZIG_GLOBAL_CACHE_DIR='{0}' ZIG_LOCAL_CACHE_DIR='{0}'\n{FILTER}exec '{1}' {verb} \"$@\"\n",
            caches.display(),
            zig.display()
        )
    };
    // Rewritten each time: the cache may have been moved, and cargo does not look at a linker's time.
    files::write_executable(
        &folder.join("cc"),
        script(&format!("cc -target {zig_target}")),
    )?;
    files::write_executable(&folder.join("ar"), script("ar"))?;
    files::write(&folder.join("order.awk"), ORDER)?;
    files::write_executable(&folder.join(LINKER), LINK)?;
    let stands_in = format!("{UNWIND}{}", target.instead.unwrap_or_default());
    files::write(&folder.join("unwind.c"), stands_in)?;
    // As a whole, too: another run may be linking with it.
    files::replace(&folder.join(UNWIND_OBJECT), |object| {
        let mut compile = Command::new(folder.join("cc"));
        compile.arg("-Os").arg("-c").arg(folder.join("unwind.c"));
        process::run(compile.arg("-o").arg(object))
    })?;
    Ok(folder)
}

/// Takes out of a compiler's arguments what would bring in a second C library: rustc's own name of the target (also
/// from the `cc` crate, which breaks ring's build), Rust's self-contained objects, and the unwinder.
const FILTER: &str = r#"count=$#
while [ "$count" -gt 0 ]; do
    word=$1
    shift
    count=$((count - 1))
    case $word in
        --target=* | */self-contained/* | */libunwind*.a | -lunwind | -lgcc_eh) ;;
        *) set -- "$@" "$word" ;;
    esac
done
"#;

/// Which functions stand beside which; what it is for stands in it.
const ORDER: &str = include_str!("toolchain/order.awk");

/// rustc tells by the end of a linker's name what arguments it takes.
const LINKER: &str = "ordered-cc";

/// Links with [`ORDER`]: the script is made of the symbols of the objects that are linked, and put beside what comes out, as
/// is the map of what stands where ([`map`]).
const LINK: &str = r#"#!/bin/sh
set -e
here=${0%/*}
out=a.out
last=
for word; do
    [ "$last" != -o ] || out=$word
    last=$word
done
for word; do
    case $word in *.rcgu.o) nm --defined-only "$word" ;; esac
done | awk -f "$here/order.awk" >"$out.ld"
exec "$here/cc" "$@" "-Wl,-T,$out.ld" -Wl,--no-eh-frame-hdr -Wl,--print-map >"$out.map"
"#;

const UNWIND_OBJECT: &str = "unwind.o";
/// In place of an unwinder: the standard library calls one only to print a backtrace, which a stripped program
/// cannot name anyway. This one says that the stack ends here (`_URC_END_OF_STACK`); 33 kB less.
const UNWIND: &str = "\
int _Unwind_Backtrace(void *step, void *data) { (void)step; (void)data; return 5; }
unsigned long _Unwind_GetIP(void *frame) { (void)frame; return 0; }
unsigned long _Unwind_GetIPInfo(void *frame, int *before) { (void)frame; *before = 0; return 0; }
unsigned long _Unwind_GetCFA(void *frame) { (void)frame; return 0; }
void *_Unwind_FindEnclosingFunction(void *address) { return address; }
";

fn environment(
    command: &mut Command,
    rust: &Rust,
    target: &Target<'_>,
    linker: &Path,
    folder: &Path,
) -> Result<()> {
    apart(command);
    let mut flags = target.flags();
    flags.push(format!(
        "-Clink-arg={}",
        linker.join(UNWIND_OBJECT).display()
    ));
    flags.extend(paths()?);
    if target.narrow_time {
        command.env("RUST_LIBC_UNSTABLE_MUSL_V1_2_3", "1");
    }
    let name = target.rust.replace('-', "_");
    let cc = linker.join("cc");
    command
        .env("RUSTC", &rust.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", folder)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env(
            format!("CARGO_TARGET_{}_LINKER", name.to_uppercase()),
            linker.join(LINKER),
        )
        .env(format!("CC_{name}"), &cc)
        .env(format!("AR_{name}"), linker.join("ar"));
    Ok(())
}

/// Takes cargo's and rustup's variables of the outer build away: they speak of another toolchain.
fn apart(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let foreign =
            text.starts_with("CARGO") && text != "CARGO_HOME" && !text.starts_with("CARGO_NET");
        if foreign || text.starts_with("RUST") || matches!(text.as_ref(), "CC" | "AR" | "CFLAGS") {
            command.env_remove(&name);
        }
    }
}

/// Flags without which paths of this machine end up in panic messages: two users would build two binaries.
fn paths() -> Result<Vec<String>> {
    let mut flags = vec![format!("--remap-path-prefix={}=", workspace()?.display())];
    if let Some(home) = cargo_home() {
        flags.push(format!("--remap-path-prefix={}=cargo", home.display()));
    }
    Ok(flags)
}

fn cargo_home() -> Option<PathBuf> {
    let set = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    set.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
}

/// The clone that this program was compiled from: the device binary is built from the same one.
///
/// # Errors
/// The clone was moved or removed.
pub fn workspace() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default();
    if !folder.join("init/Cargo.toml").exists() {
        bail!(
            "the sources of the device binary were in {} and are gone: run from a clone of Kedge",
            folder.display()
        );
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_drops_what_belongs_to_another_library() {
        let script = format!("{FILTER}printf '%s\\n' \"$@\"");
        let words = [
            "--target=x86_64-unknown-linux-musl",
            "a b.o",
            "/x/self-contained/crt1.o",
            "-o",
            "out",
            "/l/libunwind-1.a",
        ];
        let kept =
            process::text(Command::new("sh").args(["-c", &script, "sh"]).args(words)).unwrap();
        assert_eq!(kept, "a b.o\n-o\nout");
    }

    #[test]
    fn every_shipped_board_has_a_target() {
        for board in kedge_board_support::boards::all().unwrap() {
            let target = Target::of(&board).unwrap();
            let name = target.rust.replace("-unknown", "");
            let name = name
                .replace("armv7-", "arm-")
                .replace("riscv64gc-", "riscv64-")
                // Soft float, which Rust's name says nothing of.
                .replace("mipsel-linux-musl", "mipsel-linux-musleabi");
            assert_eq!(name, target.zig);
        }
    }

    #[test]
    fn only_mips_is_compiled_without_the_outliner() {
        for board in kedge_board_support::boards::all().unwrap() {
            let target = Target::of(&board).unwrap();
            let left: Vec<_> = FLAGS
                .into_iter()
                .filter(|flag| !target.flags().iter().any(|has| has == flag))
                .collect();
            let mips = target.rust.starts_with("mips");
            assert_eq!(left, if mips { vec![OUTLINER] } else { Vec::new() });
        }
    }

    #[test]
    fn crates_are_read_with_version_and_licence() {
        let text = "kedge-init v0.1.0 (/a b/init)|Apache-2.0 OR MIT\nserde v1.0.228|MIT OR Apache-2.0\n\nserde v1.0.228|MIT OR Apache-2.0 (*)\nbare v2.0.0|\n";
        let found = crates(text).unwrap();
        let is: Vec<_> = found
            .iter()
            .map(|one| {
                (
                    one.name.as_str(),
                    one.version.as_str(),
                    one.licence.as_str(),
                )
            })
            .collect();
        let serde = ("serde", "1.0.228", "MIT OR Apache-2.0");
        let init = ("kedge-init", "0.1.0", "Apache-2.0 OR MIT");
        assert_eq!(is, [init, serde, serde, ("bare", "2.0.0", "")]);
        crates("error: no such thing").unwrap_err();
    }

    #[test]
    fn features_make_a_name() {
        assert_eq!(label(&[]), "plain");
        assert_eq!(label(&["tls", "hub"]), "tls-hub");
    }
}
