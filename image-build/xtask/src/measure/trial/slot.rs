//! A trial of the other slot, of which only the kernel's arguments are new: how long it takes, and what its boot costs.
//!
//! The device tries one such revision and commits it: `trial.slot-seconds`, by its own history. Then it begins another
//! one, and loses its power in the loader's first try. From both disks, the one before that trial and the one in it,
//! boots are counted as in `measure boot`: the same device, with the same objects and a like revision, once plainly
//! and once on trial.

use super::super::boot::{machine, stamp, times};
use super::super::{Figure, median, note, subject};
use super::{PATIENCE, edit, ensure_change, push, shorten_window, verdict};
use crate::device::Device;
use crate::project::{self, Built, copy_disk};
use anyhow::{Context, Result, ensure};
use kedge_board_support::record::Slot;
use kedge_image_build::progress;
use serde_json::Value;
use std::path::Path;

pub(super) fn measure(folder: &Path, platform: &Path, runs: u32) -> Result<Vec<Figure>> {
    let kedge = subject::tiny(folder, platform, 1)?;
    shorten_window(&kedge)?;
    let built = project::build(project::board(platform)?, kedge, platform)?;
    let disk = folder.join("disk");
    copy_disk(&built.image, &disk)?;
    let took = progress::step("a trial of the other slot", || {
        whole(&built, platform, &disk)
    })?;
    note(format_args!("{took} ms beside the window"));
    let plain = folder.join("plain");
    copy_disk(&disk, &plain)?;
    progress::step("another one, whose boot is cut off", || {
        begun(&built, platform, &disk)
    })?;
    stamp(&built, &plain, Slot::B, folder)?;
    stamp(&built, &disk, Slot::A, folder)?;
    let (mut tries, mut plains) = (Vec::new(), Vec::new());
    for number in 1..=runs {
        let title = format_args!("boot {number} of {runs}, both ways");
        let (on_trial, without) = progress::step(title, || -> Result<_> {
            let on_trial = counted(&built, &disk, folder, true)?;
            Ok((on_trial, counted(&built, &plain, folder, false)?))
        })?;
        note(format_args!(
            "on trial {} us, plain {} us",
            on_trial / 1000,
            without / 1000
        ));
        tries.push(on_trial);
        plains.push(without);
    }
    let middle = |times| median(times).context("nothing was measured");
    Ok(figures(middle(tries)?, middle(plains)?, took))
}

fn figures(on_trial: u64, plain: u64, took: i64) -> Vec<Figure> {
    vec![
        Figure::difference("trial.boot-instructions", on_trial, plain),
        Figure::time("trial.boot-instructions-try", on_trial, None),
        Figure::time("trial.boot-instructions-plain", plain, None),
        Figure::seconds("trial.slot-seconds", took),
    ]
}

/// Tries a revision in slot b until it is committed; milliseconds without the window.
fn whole(built: &Built, platform: &Path, disk: &Path) -> Result<i64> {
    let mut device = Device::start(&built.kedge, built.machine_with(disk), false)?;
    device.until_goals(PATIENCE)?;
    edit(&built.kedge, "arguments", "\"measure.round=1\"")?;
    let pushed = push(&device, &built.kedge, platform, &[])?;
    ensure_change(&pushed, "slot")?;
    ensure_slot(&device.status()?, "b")?;
    let took = verdict(&device.ctl(&["history"])?)?;
    device.ctl(&["poweroff"])?;
    device.until_ended(PATIENCE)?;
    Ok(took)
}

/// Begins to try a revision in slot a; the disk is as in the moment after the loader has started it.
fn begun(built: &Built, platform: &Path, disk: &Path) -> Result<()> {
    let mut device = Device::start(&built.kedge, built.machine_with(disk), false)?;
    device.until_goals(PATIENCE)?;
    edit(&built.kedge, "arguments", "\"measure.round=2\"")?;
    let pushed = push(&device, &built.kedge, platform, &["--detach"])?;
    ensure_change(&pushed, "slot")?;
    device.until("the trial boots", PATIENCE, |device| {
        ensure!(device.boots() > 1, "the slot is being written");
        Ok(())
    })?;
    device.cut_power()
}

fn ensure_slot(status: &Value, slot: &str) -> Result<()> {
    let found = status.get("slot").and_then(Value::as_str);
    ensure!(found == Some(slot), "the device runs from slot {found:?}");
    Ok(())
}

/// Nanoseconds from exec to container of one boot of a copy of a disk.
fn counted(built: &Built, disk: &Path, folder: &Path, on_trial: bool) -> Result<u64> {
    let copy = folder.join("counted");
    copy_disk(disk, &copy)?;
    let mut device = Device::start(&built.kedge, machine(built, &copy)?, false)?;
    let times = times(&mut device)?;
    let status = device.status()?;
    ensure_slot(&status, if on_trial { "a" } else { "b" })?;
    let tried = status.pointer("/update/trial").is_some();
    ensure!(tried == on_trial, "the boot is not of the kind: {status}");
    device.cut_power()?;
    Ok(times.total())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_on_trial_is_told_with_what_it_is_compared_to() {
        let figures = figures(9_500_000, 9_000_000, 2_000);
        let words: Vec<_> = figures.iter().map(Figure::words).collect();
        assert_eq!(
            figures[0],
            Figure::difference("trial.boot-instructions", 500_000, 0)
        );
        assert!(words[1].contains("9.500 ms") && words[2].contains("9.000 ms"));
        assert!(words[3].contains("2.000 s"));
    }
}
