//! The loader: what boots a board whose boot backend is `direct`.
//!
//! It does what a real loader's script does: the first valid copy of the loader record decides; a try is taken off
//! and both copies are written *before* a trial's slot is started; without any valid copy slot a is started; a slot
//! that cannot be read gives way to the other one. Where the record lies on flash, it says so to PID 1, too.

use super::{ResetCause, Stub};
use crate::files;
use crate::image::{fat, gpt, ram};
use anyhow::{Context, Result, bail, ensure};
use kedge_board_support::boards::Board;
use kedge_board_support::bootenv::{Bootenv, Layout};
use kedge_board_support::record::loader::Armed;
use kedge_board_support::record::{Loader, Slot};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What a machine is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The slot it comes from.
    pub slot: Slot,
    /// The kernel, a file of its own.
    pub kernel: PathBuf,
    /// The initramfs, a file of its own.
    pub initramfs: PathBuf,
    /// The kernel's arguments.
    pub arguments: String,
    /// What runs before the kernel.
    pub stub: Option<Stub>,
}

impl Loaded {
    /// With more arguments, after all others.
    pub(super) fn with(mut self, arguments: &str) -> Self {
        if !arguments.is_empty() {
            self.arguments.push(' ');
            self.arguments.push_str(arguments);
        }
        self
    }

    /// With what a loader tells of the reset that came before, in front of everything else: of an argument given twice
    /// the device believes the first. A real loader asks its reset controller; a reset that the guest asked for and a
    /// power-on are told apart by nobody.
    pub(super) fn after(mut self, reset: Option<ResetCause>) -> Self {
        match reset {
            Some(ResetCause::Watchdog) => {
                self.arguments.insert_str(0, "kedge.reset=watchdog ");
            }
            Some(ResetCause::Guest | ResetCause::Host) | None => {}
        }
        self
    }
}

/// What is loaded where there is no disk, as a network's loader does: out of the folder of a pair.
///
/// # Errors
/// A file is missing.
pub(super) fn without_disk(folder: &Path) -> Result<Loaded> {
    let [kernel, initramfs] = [ram::KERNEL, ram::INITRAMFS].map(|name| folder.join(name));
    for path in [&kernel, &initramfs] {
        let there = path.is_file();
        ensure!(there, "there is no {}", path.display());
    }
    let arguments = files::read_text(&folder.join(ram::ARGUMENTS))?;
    Ok(Loaded {
        slot: Slot::A,
        kernel,
        initramfs,
        arguments: arguments.trim().to_owned(),
        stub: None,
    })
}

/// Decides as a loader, and puts the slot's files into `folder`.
///
/// # Errors
/// The disk has no partitions, or neither slot can be read.
pub fn load(board: &Board, disk: &Path, folder: &Path) -> Result<Loaded> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(disk)
        .with_context(|| format!("cannot open the disk {}", disk.display()))?;
    let partitions =
        gpt::read(&file).with_context(|| format!("cannot use the disk {}", disk.display()))?;
    let env = gpt::find(&partitions, "bootenv")?;
    let (mut bootenv, found) =
        Bootenv::open_at(&file, env.offset, env.record).context("cannot read the boot record")?;
    let lies = match env.record {
        Layout::Sectors => String::new(),
        Layout::EraseBlocks(block) => format!(" kedge.erase-block={}", block.bytes()),
    };
    let record = found.loader().unwrap_or(Loader::born());
    let (slot, next) = record.boot();
    let mut word = match (record.trial, next.and_then(|next| next.trial)) {
        (_, Some(Armed { left, .. })) => format!(" kedge.try={left}"),
        (Some(Armed { slot, .. }), None) => format!(" kedge.failed={slot}"),
        (None, None) => String::new(),
    };
    if let Some(next) = next {
        bootenv
            .write_loader(&next)
            .context("cannot take a try off the loader record")?;
    }
    let mut order = vec![slot];
    order.extend(
        [record.default, record.default.other()]
            .into_iter()
            .filter(|other| *other != slot),
    );
    order.dedup();
    let mut failures = String::new();
    for slot in order {
        let offset = gpt::find(&partitions, slot.partition())?.offset;
        match extract(disk, offset, folder) {
            Ok((kernel, initramfs, own)) => {
                let arguments = format!(
                    "{} kedge.slot={slot}{lies}{word} {}",
                    board.arguments(),
                    own.trim()
                );
                return Ok(Loaded {
                    slot,
                    kernel,
                    initramfs,
                    arguments: arguments.trim_end().to_owned(),
                    stub: None,
                });
            }
            Err(error) => failures.push_str(&format!("\nslot {slot}: {error:#}")),
        }
        // Another slot than the one that was tried is started: the try is no longer what runs.
        word.clear();
    }
    bail!("{} has nothing to boot{failures}", disk.display())
}

fn extract(disk: &Path, offset: u64, folder: &Path) -> Result<(PathBuf, PathBuf, String)> {
    let [kernel, initramfs, arguments] =
        ["kernel", "initramfs", "cmdline.txt"].map(|name| (name, folder.join(name)));
    for (name, path) in [&kernel, &initramfs, &arguments] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot replace {}", path.display()));
            }
            Ok(()) | Err(_) => {}
        }
        fat::extract(disk, offset, name, path)?;
    }
    let text = files::read_text(&arguments.1)?;
    Ok((kernel.1, initramfs.1, text))
}
