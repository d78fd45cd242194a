//! The loader for UEFI, `board-support/efi`: built like the device binary, from the sources of Rust's library, for firmware
//! in place of Linux. Zig's `lld-link` links it.

use super::{PACKAGES, Rust, ZIG, apart, paths, run_cargo, workspace, zig};
use crate::cache::{self, Cache};
use crate::{debian, files};
use anyhow::{Result, bail};
use kedge_board_support::boards::{Architecture, Board};
use std::path::PathBuf;
use std::process::Command;

/// By its name rustc knows what arguments it takes.
const LINKER: &str = "lld-link";
/// `/Brepro`: no time in the file, so that the same sources give the same bytes.
const FLAGS: [&str; 2] = ["-Clink-arg=/Brepro", "-Clink-arg=/debug:none"];

/// Builds the loader for a board's firmware and returns its path.
///
/// # Errors
/// There is none for its architecture, the toolchain cannot be installed, or the build fails.
pub fn build_loader(board: &Board) -> Result<PathBuf> {
    let name = match board.architecture {
        Architecture::X86_64 => "x86_64-unknown-uefi",
        Architecture::Arm64
        | Architecture::Armv7
        | Architecture::Riscv64
        | Architecture::Mipsel => {
            bail!(
                "the loader for UEFI is not built for {} yet",
                board.architecture.debian()
            )
        }
    };
    debian::require(&PACKAGES, "build the loader for UEFI")?;
    let cache = Cache::open()?;
    let rust = Rust::installed()?;
    let zig = zig(&cache)?;
    let key = cache::key([rust.version.as_str(), ZIG, &FLAGS.join(" ")]);
    let target = cache.folder(&format!("cargo-target/efi-{key}"))?;
    let _lock = cache.lock("efi-loader")?;
    let linker = target.join(LINKER);
    // rustc speaks to a linker of several kinds, and says first which one it means.
    let script = format!(
        "#!/bin/sh\n[ \"$1\" != -flavor ] || shift 2\nexec '{}' lld-link \"$@\"\n",
        zig.display()
    );
    files::write_executable(&linker, script)?;
    let mut command = Command::new(&rust.cargo);
    command
        .current_dir(workspace()?.join("board-support/efi"))
        .args(["build", "--locked", "--release", "--target", name])
        .args(["-Z", "build-std=core,alloc,compiler_builtins"])
        // The firmware has no C library to copy memory with.
        .args(["-Z", "build-std-features=compiler-builtins-mem"])
        .args(["-Z", "checksum-freshness"]);
    apart(&mut command);
    let mut flags: Vec<String> = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
    flags.extend(paths()?);
    command
        .env("RUSTC", &rust.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_TARGET_X86_64_UNKNOWN_UEFI_LINKER", &linker);
    let title = format_args!("building the loader for {name}");
    run_cargo(title, &mut command, &target)?;
    Ok(target.join(name).join("release/kedge-efi.efi"))
}
