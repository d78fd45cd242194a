//! The fuzz tier: one binary with all parsers, built with coverage instrumentation, fed a fixed number of inputs.
//!
//! The crate has the layout of `cargo fuzz`, which is for hours by hand (`cargo fuzz run --fuzz-dir tests/fuzz
//! parsers`). Here it is built with the flags that `cargo fuzz` passes, but without its installation and without a
//! sanitizer: the parsers have no unsafe code, so a panic or a failed assertion is all that there is to find.

use crate::cargo::cargo;
use anyhow::Result;
use kedge_image_build::cache::Cache;
use kedge_image_build::{debian, files, process, toolchain};
use std::process::Command;

/// Inputs of a run in continuous integration: some seconds.
pub(crate) const INPUTS: u32 = 200_000;

/// Longest input, bytes: above the largest block that any parser looks at as a whole.
const LONGEST: u32 = 8192;

const FLAGS: [&str; 8] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
];

/// Builds the binary and runs `inputs` inputs, starting from the documents' examples.
///
/// # Errors
/// It does not build, or an input made a parser panic: libFuzzer prints it and keeps it as `crash-…`.
pub(crate) fn run(inputs: u32) -> Result<()> {
    debian::require(&["g++"], "build the fuzzing engine")?;
    let workspace = toolchain::workspace()?;
    let folder = workspace.join("tests/fuzz");
    let target = Cache::open()?.folder("cargo-target/fuzz")?;
    let host = "x86_64-unknown-linux-gnu";
    process::run_visibly(
        cargo()?
            .current_dir(&folder)
            .args(["build", "--quiet", "--release", "--target", host])
            .env("CARGO_TARGET_DIR", &target)
            .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}")),
    )?;
    let corpus = target.join("corpus");
    files::make_folder(&corpus)?;
    process::run_visibly(
        Command::new(target.join(host).join("release/parsers"))
            .arg(&corpus)
            .arg(folder.join("corpus"))
            .arg(format!("-runs={inputs}"))
            .arg(format!("-max_len={LONGEST}"))
            .arg(format!("-artifact_prefix={}/", target.display()))
            .args([
                "-timeout=10",
                "-rss_limit_mb=512",
                "-verbosity=0",
                "-print_final_stats=1",
            ]),
    )
}
