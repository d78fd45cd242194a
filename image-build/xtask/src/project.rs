//! Projects that verbs make for themselves: with `kedge`, as a user would.

use crate::image::Kernel;
use crate::kedge::Kedge;
use anyhow::{Context, Result, ensure};
use kedge_board_support::boards::{self, Architecture, Backend, Board};
use kedge_image_build::platform::{self, KernelSource, Platform};
use kedge_image_build::qemu::VmConfig;
use kedge_image_build::sample;
use kedge_image_build::{files, process, progress, qemu};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The board of the quick start.
pub(crate) const BOARD: &str = "qemu-x86-64";

/// The kernel that was asked for; else our own if having it costs nothing, else Debian's.
///
/// # Errors
/// The board is unknown, or the cache is damaged.
pub(crate) fn kernel(board: &str, asked: Option<Kernel>) -> Result<KernelSource> {
    match asked {
        Some(kernel) => Ok(kernel.into()),
        None => platform::cheapest(board),
    }
}

/// The platform of a board, and QEMU to boot it, if that can.
///
/// # Errors
/// The board is unknown, or something cannot be built or installed.
pub(crate) fn platform(board: &str, kernel: KernelSource) -> Result<PathBuf> {
    let found = boards::find(board)?;
    if found.qemu.is_some() {
        qemu::require(&found)?;
    }
    platform::make(board, kernel)
}

/// The board of a platform.
///
/// # Errors
/// There is none in that folder, or its board is unknown.
pub(crate) fn board(platform: &Path) -> Result<Board> {
    Ok(boards::find(&Platform::load(platform)?.board)?)
}

/// A project that was built.
#[derive(Debug)]
pub(crate) struct Built {
    board: Board,
    /// The platform that it was built with.
    pub(crate) platform: PathBuf,
    pub(crate) kedge: Kedge,
    /// The answer of `kedge build`.
    pub(crate) answer: Value,
    pub(crate) image: PathBuf,
    pub(crate) image_bytes: u64,
}

/// Makes a project with the sample's images in it; `window` is for how long a trial is judged.
///
/// # Errors
/// An image cannot be made, or a verb fails.
pub(crate) fn sample(board: &str, kedge: Kedge, platform: &Path, window: &str) -> Result<Built> {
    let found = boards::find(board)?;
    let images = sample::images(found.architecture)?;
    for image in &images {
        let place = format!("oci:{}", image.layout.display());
        let mut words = vec!["add", &place, "--name", image.name];
        words.extend(image.arguments);
        progress::step(format_args!("kedge add {}", image.name), || {
            kedge.ask(&words)
        })?;
    }
    edit(&kedge, "window", &format!("\"{window}\""))?;
    build(found, kedge, platform)
}

/// Sets a value of `kedge.toml` whose name stands there once.
pub(crate) fn edit(kedge: &Kedge, name: &str, value: &str) -> Result<()> {
    let path = kedge.project().join("kedge.toml");
    files::write(&path, with_value(&files::read_text(&path)?, name, value)?)
}

fn with_value(text: &str, name: &str, value: &str) -> Result<String> {
    let begin = format!("{name} = ");
    let count = text.lines().filter(|line| line.starts_with(&begin)).count();
    ensure!(count == 1, "kedge.toml has {count} lines `{name} = …`");
    let lines = text.lines().map(|line| match line.strip_prefix(&begin) {
        Some(_) => format!("{begin}{value}\n"),
        None => format!("{line}\n"),
    });
    Ok(lines.collect())
}

/// Signs the revision and makes the image of a project for this board.
///
/// # Errors
/// The verb fails.
pub(crate) fn build(board: Board, kedge: Kedge, platform: &Path) -> Result<Built> {
    let text = platform.to_string_lossy();
    let answer = progress::step("kedge build", || kedge.ask(&["build", "--platform", &text]))?;
    let image = answer
        .pointer("/image/path")
        .and_then(Value::as_str)
        .context("kedge build names no image")?;
    // As the verb was run with our working folder, so is its path.
    let image = PathBuf::from(image);
    let image_bytes = answer
        .pointer("/image/allocated")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    Ok(Built {
        board,
        platform: platform.to_owned(),
        kedge,
        image,
        image_bytes,
        answer,
    })
}

impl Built {
    /// Its board.
    pub(crate) const fn board(&self) -> &Board {
        &self.board
    }

    /// The board's machine; its disk is the image itself, which is made for nothing else.
    pub(crate) fn machine(&self) -> VmConfig {
        self.machine_with(&self.image)
    }

    /// The board's machine with another disk.
    pub(crate) fn machine_with(&self, disk: &Path) -> VmConfig {
        let folder = disk.parent().unwrap_or(Path::new(".")).join("vm");
        VmConfig::new(self.board.clone(), disk, &folder)
    }

    /// The same, but that the host plays the loader, whatever starts the board otherwise.
    pub(crate) fn machine_without_firmware(&self, disk: &Path) -> VmConfig {
        let mut config = self.machine_with(disk);
        config.board.boot.backend = Backend::Direct;
        if let Some(qemu) = &mut config.board.qemu {
            qemu.firmware = None;
            qemu.variables = None;
        }
        config
    }

    /// The processor of its board.
    pub(crate) const fn architecture(&self) -> Architecture {
        self.board.architecture
    }

    /// A few digits of the revision's id.
    pub(crate) fn short_revision(&self) -> String {
        let id = self
            .answer
            .get("revision")
            .and_then(Value::as_str)
            .unwrap_or_default();
        id.chars().take(15).collect()
    }

    /// A size that `kedge build` tells, bytes.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn size(&self, name: &str) -> Result<u64> {
        let size = self.answer.pointer(&format!("/sizes/{name}"));
        size.and_then(Value::as_u64)
            .with_context(|| format!("kedge build does not tell the size of {name}"))
    }
}

/// Copies a disk image; holes stay holes.
///
/// # Errors
/// There is no room.
pub(crate) fn copy_disk(from: &Path, to: &Path) -> Result<()> {
    process::copy_with_holes(from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_of_a_manifest_is_another() {
        let text = "version = \"1\"\n[commit]\nwindow = \"60s\"  # all goals\nhub = \"never\"\n";
        assert_eq!(
            with_value(text, "window", "\"5s\"").unwrap(),
            "version = \"1\"\n[commit]\nwindow = \"5s\"\nhub = \"never\"\n"
        );
        with_value(text, "arguments", "\"x\"").unwrap_err();
        with_value("a = 1\na = 2\n", "a", "3").unwrap_err();
    }
}
