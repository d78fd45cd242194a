//! Starts of containers, on this machine's kernel or in QEMU on a device's ([`guest`]): the engine as PID 1 calls it, `kedge-oci`, and Debian's crun and runc, in
//! turns, so that whatever else the machine does meets all of them.
//!
//! Each container runs busybox' `true` in namespaces of its own (pid, network, ipc, uts, mount, cgroup), with the mounts, masked and
//! read-only paths that the specification names. The commands get the same `config.json`. The engine starts with its defaults, which are
//! more: a user namespace, no capability, a filter of system calls. crun is told to leave control groups alone, since it refuses those of many a
//! machine; the engine and `kedge-oci` make one a container. `bare` is the program without a container.
//!
//! Times on this machine are wall clock, medians over all rounds: compare them within a run alone, as the figures in percent do.

mod guest;

use super::{Figure, median, note};
use crate::cargo::cargo;
use anyhow::{Context, Result, ensure};
use kedge_image_build::{debian, files, process, progress, toolchain};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The machine's own, by name: flags for its programs are not for procedural macros then.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const ROUNDS: &str = "5";
const COUNT: &str = "20";

/// What is started, and what starts it.
struct Built {
    oci: PathBuf,
    starts: PathBuf,
}

/// On this machine's kernel.
pub(super) fn measure() -> Result<Vec<Figure>> {
    let built = build(&["busybox-static", "crun", "runc"])?;
    let folder = tempfile::tempdir().context("a folder for bundles")?;
    let root = folder.path().join("rootfs");
    bundles(folder.path(), &root, &built.oci)?;
    root_of(&root)?;
    let mut command = Command::new(&built.starts);
    command.arg(&root).arg(folder.path()).args([ROUNDS, COUNT]);
    command.arg(format!("kedge-oci={}", built.oci.display()));
    command.args(["crun=crun --cgroup-manager=disabled", "runc=runc"]);
    let text = progress::step("starting containers in turns", || {
        process::text(&mut command)
    })?;
    figures("containers", &text)
}

/// On the kernel of a platform, in QEMU.
pub(super) fn measure_in_guest(platform: &Path) -> Result<Vec<Figure>> {
    let built = build(&["busybox-static", "crun"])?;
    let folder = tempfile::tempdir().context("a folder for the machine")?;
    let text = guest::starts(&built, platform, folder.path())?;
    figures("containers.guest", &text)
}

/// Builds what is ours, and sees to it that these packages of others are there.
fn build(packages: &[&str]) -> Result<Built> {
    debian::require(
        packages,
        "start containers with what others start them with",
    )?;
    let workspace = toolchain::workspace()?;
    let build = |words: &[&str]| {
        let mut command = cargo()?;
        command
            .current_dir(&workspace)
            .args(["build", "--quiet", "--locked", "--release", "--target"])
            .arg(TARGET)
            // Without a dynamic linker, which would go through its libraries at each start (`docs/oci.md`).
            .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
            .args(words);
        process::run(&mut command)
    };
    progress::step("building the engine and kedge-oci, optimised", || {
        build(&["--package", "kedge-oci", "--bin", "kedge-oci"])?;
        build(&["--package", "kedge-container", "--example", "starts"])
    })?;
    let version = process::text(Command::new("crun").arg("--version"))?;
    note(version.lines().next().unwrap_or("crun").trim());
    let release = target(&workspace).join(TARGET).join("release");
    Ok(Built {
        oci: release.join("kedge-oci"),
        starts: release.join("examples/starts"),
    })
}

fn target(workspace: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from)
}

/// The root of the containers.
fn root_of(root: &Path) -> Result<()> {
    for name in ["bin", "dev", "proc", "sys"] {
        files::make_folder(&root.join(name))?;
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).context("busybox")?;
    for name in ["true", "sleep"] {
        let link = root.join("bin").join(name);
        std::os::unix::fs::symlink("busybox", &link)
            .with_context(|| format!("cannot link {}", link.display()))?;
    }
    Ok(())
}

/// A bundle whose process ends at once, and in `sleeper` one whose process goes on.
fn bundles(folder: &Path, root: &Path, oci: &Path) -> Result<()> {
    let sleeper = folder.join("sleeper");
    files::make_folder(&sleeper)?;
    process::run(Command::new(oci).args(["spec", "--bundle"]).arg(&sleeper))?;
    let path = sleeper.join("config.json");
    let mut document: Value = serde_json::from_slice(&files::read(&path)?)?;
    // The version is one that crun of Debian 12 knows.
    put(&mut document, "/ociVersion", json!("1.0.0"))?;
    put(&mut document, "/process/terminal", json!(false))?;
    put(&mut document, "/root/path", json!(root))?;
    put(
        &mut document,
        "/process/args",
        json!(["/bin/sleep", "1000"]),
    )?;
    files::write(&path, document.to_string())?;
    put(&mut document, "/process/args", json!(["/bin/true"]))?;
    files::write(&folder.join("config.json"), document.to_string())
}

fn place<'d>(document: &'d mut Value, pointer: &str) -> Result<&'d mut Value> {
    let place = document.pointer_mut(pointer);
    place.with_context(|| format!("kedge-oci spec writes no {pointer}"))
}

fn put(document: &mut Value, pointer: &str, value: Value) -> Result<()> {
    *place(document, pointer)? = value;
    Ok(())
}

fn figures(prefix: &str, text: &str) -> Result<Vec<Figure>> {
    let mut times: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for line in text.lines() {
        let (name, time) = line.split_once(' ').context("a line without a time")?;
        times.entry(name).or_default().push(time.parse()?);
    }
    let medians: BTreeMap<_, _> = times
        .into_iter()
        .filter_map(|(name, times)| Some((name, median(times)?)))
        .collect();
    let mut figures: Vec<_> = medians
        .iter()
        .map(|(name, time)| Figure::time(&format!("{prefix}.{name}"), *time, None))
        .collect();
    for (name, other, goal) in [
        ("engine", "crun", 50),
        ("kedge-oci", "crun", 67),
        ("engine-at-once", "crun-at-once", 50),
    ] {
        let of = |name| {
            medians
                .get(name)
                .copied()
                .with_context(|| format!("{name} was not started"))
        };
        let (own, theirs) = (of(name)?, of(other)?);
        ensure!(theirs > 0, "{other} took no time");
        let percent = own.saturating_mul(100) / theirs;
        let title = format!("{prefix}.{name}-of-{other}");
        figures.push(Figure {
            unit: "%",
            ..Figure::bytes(&title, percent, Some(goal))
        });
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_compared() {
        let text = "engine 10\nengine 30\nengine 20\ncrun 40\nkedge-oci 30\nengine-at-once 5\ncrun-at-once 50\n";
        let figures = figures("containers", text).unwrap();
        let value = |name: &str| {
            let figure = figures.iter().find(|figure| figure.name == name);
            figure.map(|figure| (figure.value, figure.holds()))
        };
        let count = super::super::Value::Count;
        assert_eq!(
            value("containers.engine-of-crun"),
            Some((count(50), Some(true)))
        );
        assert_eq!(
            value("containers.kedge-oci-of-crun"),
            Some((count(75), Some(false)))
        );
        assert!(super::figures("containers", "engine 1\n").is_err());
    }
}
