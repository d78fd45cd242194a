//! What is measured: images with a tiny static program as their only containers, and the logs of their boots.
//!
//! The program (`first.c`, upon `call.h`) has no C library and reads the clock before anything else, so that nothing of a container's
//! own is in the figure: pages read through fs-verity cost 63 instructions a byte, and a program of 700 kB would add 49 ms.

use crate::kedge::Kedge;
use crate::project::{self, Built};
use anyhow::{Context, Result};
use kedge_board_support::boards::Board;
use kedge_board_support::record::Slot;
use kedge_image_build::cache::{self, Cache};
use kedge_image_build::image::{fat, gpt};
use kedge_image_build::{files, process, sample, toolchain};
use kedge_rootfs::Initramfs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const FIRST: &str = concat!(include_str!("call.h"), "\n", include_str!("first.c"));
const SERVE: &str = include_str!("trial/serve.c");
const FLAGS: [&str; 11] = [
    "-Os",
    "-static",
    "-nostdlib",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-sanitize=all",
    "-fno-pic",
    "-no-pie",
    "-Wall",
    "-s",
    "-o",
];

/// The programs of `first.c`, and the one of `trial/serve.c`, which is written for x86-64 alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    /// A container's only process.
    First,
    /// What runs before `/init` and leaves the time of its exec.
    Stamp,
    /// The least that a kernel can run in place of `/init`.
    Bare,
    /// An HTTP server on the port of its only argument.
    Serve,
}

/// The program for a board's processor, from the cache when it was compiled before.
///
/// # Errors
/// The compiler cannot be had.
pub(super) fn program(which: Program, board: &Board) -> Result<PathBuf> {
    let (text, define) = match which {
        Program::First => (FIRST, "-DFIRST"),
        Program::Stamp => (FIRST, "-DSTAMP"),
        Program::Bare => (FIRST, "-DBARE"),
        Program::Serve => (SERVE, "-DSERVE"),
    };
    let compiler = toolchain::c_compiler(board)?;
    let key = cache::key([text, define, &FLAGS.join(" "), &compiler.to_string_lossy()]);
    let folder = Cache::open()?.entry("measure", &key, |folder| {
        let source = folder.join("program.c");
        files::write(&source, text)?;
        process::run(
            Command::new(&compiler)
                .arg(define)
                .args(FLAGS)
                .arg(folder.join("program"))
                .arg(&source),
        )
    })?;
    Ok(folder.join("program"))
}

/// A folder for disks that are only timed: in memory if there is such a file system.
///
/// # Errors
/// It cannot be made.
pub(super) fn fast_folder() -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("kedge-measure-");
    match builder.tempdir_in(memory) {
        Ok(folder) => Ok(folder),
        Err(_) => builder.tempdir().context("cannot make a temporary folder"),
    }
}

/// A product of `count` containers of the tiny program, with the default confinement and no network.
///
/// # Errors
/// A verb fails.
pub(super) fn build(folder: &Path, platform: &Path, count: u32) -> Result<Built> {
    let kedge = tiny(folder, platform, count)?;
    project::build(project::board(platform)?, kedge, platform)
}

/// The project of such a product, for the board of a platform.
///
/// # Errors
/// A verb fails.
pub(super) fn tiny(folder: &Path, platform: &Path, count: u32) -> Result<Kedge> {
    let board = project::board(platform)?;
    let place = folder.join(format!("measure-{count}"));
    let kedge = Kedge::new_project(&place, board.name.as_str())?;
    let place = image(folder, Program::First, &board)?;
    for number in 1..=count {
        let name = format!("tiny-{number}");
        kedge.ask(&["add", &place, "--name", &name, "--root", "refused"])?;
    }
    Ok(kedge)
}

/// An image of nothing but `/program`, as `kedge add` takes it.
///
/// # Errors
/// It cannot be compiled or written.
pub(super) fn image(folder: &Path, which: Program, board: &Board) -> Result<String> {
    let layout = folder.join(format!("image-{which:?}"));
    if !layout.exists() {
        sample::one_program(&program(which, board)?, &layout, board.architecture)?;
    }
    Ok(format!("oci:{}", layout.display()))
}

/// Makes the kernel of a slot start another program than `/init`, by the name that it has in an archive of its own; `before`
/// makes of the slot's archive what stands before that one.
///
/// # Errors
/// The slot cannot be read or written.
pub(super) fn instead_of_init(
    disk: &Path,
    slot: Slot,
    folder: &Path,
    (name, program): (&str, &Path),
    before: impl FnOnce(Vec<u8>) -> Vec<u8>,
) -> Result<()> {
    let image = File::open(disk).with_context(|| format!("cannot open {}", disk.display()))?;
    let offset = gpt::find(&gpt::read(&image)?, slot.partition())?.offset;
    let work = folder.join(name);
    files::remove_folder(&work)?;
    files::make_folder(&work)?;
    let path = work.join("initramfs");
    fat::extract(disk, offset, "initramfs", &path)?;
    let line = work.join("cmdline.txt");
    fat::extract(disk, offset, "cmdline.txt", &line)?;
    let text = files::read_text(&line)?;
    files::write(&line, format!("{} rdinit=/{name}\n", text.trim()))?;
    let mut archive = before(files::read(&path)?);
    let mut own = Initramfs::new();
    own.file(name, 0o755, files::read(program)?)?;
    own.character_device("kmsg", 0o600, 1, 11)?;
    archive.extend(own.cpio());
    files::write(&path, archive)?;
    let mut place = disk.as_os_str().to_owned();
    place.push(format!("@@{offset}"));
    process::run(
        Command::new("mcopy")
            .args(["-D", "o", "-i"])
            .arg(place)
            .args([&path, &line])
            .arg("::/"),
    )
}

/// Words for a failure: the end of the console of the machine in a folder.
pub(super) fn console(folder: &Path) -> String {
    let tail = crate::device::console_tail(&folder.join("vm"));
    format!("a measured device failed; the end of its console:\n{tail}")
}

/// The number in the first text that has `before` and, after it, digits.
pub(super) fn number_after(texts: &[String], before: &str) -> Option<u64> {
    texts.iter().find_map(|text| {
        let (_, rest) = text.split_once(before)?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_logs() {
        let texts = [
            "other".to_owned(),
            "measure: exec of /init at 2034567890 ns".to_owned(),
        ];
        assert_eq!(
            number_after(&texts, "exec of /init at "),
            Some(2_034_567_890)
        );
        assert_eq!(number_after(&texts, "first instruction at "), None);
    }
}
