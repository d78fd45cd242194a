//! `lint`: format, clippy without a warning, the rules for dependencies, and the budgets of the board that everybody starts with.

use crate::cargo::cargo;
use anyhow::{Result, bail};
use clap::Args;
use kedge_image_build::cache::Cache;
use kedge_image_build::{files, platform, process, progress, toolchain};
use std::process::Command;

/// The version whose verdict counts, so that a new one cannot break a build overnight.
const DENY: &str = "0.20.2";

/// The board whose budgets are held.
const BOARD: &str = "qemu-x86-64";

/// The workspace of the loader for UEFI.
const EFI: &str = "board-support/efi/Cargo.toml";

/// Check format, lints, dependencies and budgets; fails on what is broken.
#[derive(Debug, Args)]
#[command(
    after_help = "To mend the format: `cargo fmt --all`. What dependencies may be is in deny.toml."
)]
pub(crate) struct Arguments {}

pub(crate) fn run(_: &Arguments) -> Result<()> {
    let mut broken = Vec::new();
    let mut check = |name: &'static str, command: &mut Command| {
        let title = format!("{name}: {}", process::line(command));
        if let Err(error) = progress::step(title, || process::run_visibly(command)) {
            progress::say(format_args!("  {error:#}"));
            broken.push(name);
        }
    };
    check("format", cargo()?.args(["fmt", "--all", "--check"]));
    let clippy = [
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ];
    check("lints", cargo()?.args(clippy));
    // The workspace builds PID 1 without its agent, which the device has.
    let agent = ["--package", "kedge-init", "--features", "agent"];
    let [verb, quiet, _, rest @ ..] = clippy;
    check(
        "lints of the device",
        cargo()?.args([verb, quiet]).args(agent).args(rest),
    );
    // The loader for UEFI is a workspace of its own; checked for this machine, where its code is the same.
    let efi = ["--manifest-path", EFI];
    check(
        "format of the loader",
        cargo()?.arg("fmt").args(efi).arg("--check"),
    );
    check(
        "lints of the loader",
        cargo()?
            .args(["clippy", "--quiet", "--locked"])
            .args(efi)
            .args(["--", "-D", "warnings"]),
    );
    // One file of rules for two trees: what only the other one has is not worth a word.
    let rules = [
        "--config",
        "deny.toml",
        "check",
        "--hide-inclusion-graph",
        "--allow=license-exception-not-encountered",
        "--allow=unused-wrapper",
        "--allow=unmatched-skip",
        "bans",
        "licenses",
        "sources",
    ];
    check("dependencies", cargo_deny()?.args(rules));
    check(
        "dependencies of the loader",
        cargo_deny()?.args(efi).args(rules),
    );
    // Where a tool or a test is about to be run, the platform is wanted anyway.
    let held = platform::cheapest(BOARD).and_then(|kernel| platform::make(BOARD, kernel));
    if let Err(error) = held {
        progress::say(format_args!("  {error:#}"));
        broken.push("budgets");
    }
    if broken.is_empty() {
        progress::say("lint: all good");
        return Ok(());
    }
    bail!("lint: broken: {}", broken.join(", "))
}

/// cargo-deny from the cache, compiled there once.
fn cargo_deny() -> Result<Command> {
    let cache = Cache::open()?;
    let entry = cache.entry("cargo-tools", &format!("cargo-deny-{DENY}"), |folder| {
        progress::step(
            format_args!("compiling cargo-deny {DENY}, once: two to four minutes"),
            || {
                let mut install = cargo()?;
                install
                    .args([
                        "install",
                        "--quiet",
                        // It runs for seconds: what the optimiser takes is longer than what it saves.
                        "--debug",
                        "--locked",
                        "--version",
                        DENY,
                        "--root",
                    ])
                    .arg(folder);
                // Its build leaves 800 MB that nobody needs again.
                let build = folder.join("build");
                process::run(install.arg("cargo-deny").env("CARGO_TARGET_DIR", &build))?;
                files::remove_folder(&build)
            },
        )
    })?;
    let mut command = Command::new(entry.join("bin/cargo-deny"));
    command.current_dir(toolchain::workspace()?);
    Ok(command)
}
