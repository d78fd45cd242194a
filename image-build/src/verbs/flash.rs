//! `kedge flash`: a disk image onto a card, a stick or a disk.

use super::Scene;
use super::disk::Disk as Parts;
use super::hub::table;
use super::join_token::provisioning;
use crate::flash::disks::{self, Disk};
use crate::flash::{Flashed, Image, Stage, Target};
use crate::project::units::human;
use crate::{files, process, progress, terminal};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tempfile::NamedTempFile;

/// Write the disk image onto a card, a stick or a disk, and read it back.
///
/// Without a disk it lists those of this machine, with what speaks against each. A disk that is in use is refused, and one
/// that is built in, unless --fixed says that it is meant. Everything on the disk is lost. What is written is compared byte
/// by byte afterwards.
///
/// An image that is packed with zstd (kedge build --output raw.zst) is unpacked on its way. With the block map IMAGE.bmap
/// beside it, zeros that the map does not list are not written, and each range must have the checksum that the map gives it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge flash                        # which disks are there
  kedge flash /dev/sdb
  kedge flash /dev/mmcblk0 --provision provision.json --yes
  kedge flash /dev/sdb --image gateway-qemu-x86-64.img.zst           # and gateway-qemu-x86-64.img.bmap, if it is there
  kedge flash card.img --image build/gateway-qemu-x86-64.img    # a file that is there stands for a card")]
pub(super) struct Flash {
    /// The disk, as in /dev/sdb; or a file.
    target: Option<PathBuf>,
    /// The disk image; the one that `kedge build` made if absent.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Give the device this provisioning, as `kedge join-token new --out` writes it: it joins the hub at its first start.
    #[arg(long, value_name = "FILE")]
    provision: Option<PathBuf>,
    /// Write onto a disk that is built in.
    #[arg(long)]
    fixed: bool,
    /// Ask nothing.
    #[arg(long, short)]
    yes: bool,
}

#[derive(Serialize)]
struct List {
    disks: Vec<Disk>,
}

#[derive(Serialize)]
struct Done {
    target: PathBuf,
    image: PathBuf,
    size: u64,
    data: u64,
    left: u64,
    compared: bool,
    provisioned: bool,
}

impl Flash {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let Some(target) = &self.target else {
            return list(scene);
        };
        let image = match &self.image {
            Some(image) => image.clone(),
            None => scene.project()?.image_path(),
        };
        ensure!(
            image.exists(),
            "there is no disk image {}; make it with `kedge build`",
            image.display()
        );
        let source = Image::open(&image)?;
        source.check()?;
        let provision = self.provision.as_deref().map(provisioning).transpose()?;
        let what = self.judge(target)?;
        // Held from here on: what the question is about is what is written.
        let open = Target::open(target)?;
        open.check(&source)?;
        if !self.yes {
            let size = source.size().map_or("an image".to_owned(), human);
            let question = format!("Write {size} over what is on {what}? All of it is lost.");
            let answer = terminal::confirm(&question)
                .context("nobody can be asked whether it is the right disk: use --yes")?;
            ensure!(answer, "nothing was written");
        }
        let start = Instant::now();
        let copy = provision
            .as_deref()
            .map(|bytes| provisioned(&source, open.size(), bytes));
        let copy = copy.transpose()?;
        let copied = copy.as_ref().map(|copy| Image::open(copy.path()));
        let copied = copied.transpose()?;
        let flashed = write(scene, &open, copied.as_ref().unwrap_or(&source))?;
        let took = progress::seconds(start.elapsed());
        let text = words(&flashed, target, &took, provision.is_some());
        let done = Done {
            target: target.clone(),
            image,
            size: flashed.size,
            data: flashed.data,
            left: flashed.left,
            compared: true,
            provisioned: provision.is_some(),
        };
        scene.output.result(text, &done)
    }

    /// Whether it may be written; what it is, for the question.
    fn judge(&self, target: &Path) -> Result<String> {
        let metadata = target
            .metadata()
            .with_context(|| format!("cannot open {}", target.display()))?;
        if !metadata.file_type().is_block_device() {
            return Ok(format!("the file {}", target.display()));
        }
        let Some(disk) = disks::find(target)? else {
            bail!(
                "{} is no whole disk\nhelp: an image has partitions of its own; `kedge flash` lists the disks",
                target.display()
            );
        };
        let serious = |objection: &&String| !(self.fixed && objection.as_str() == disks::BUILT_IN);
        let objections: Vec<String> = disk.objections.iter().filter(serious).cloned().collect();
        ensure!(
            objections.is_empty(),
            "{} is not written: {}{}",
            target.display(),
            objections.join("; "),
            if objections == [disks::BUILT_IN] {
                "\nhelp: if it is meant all the same, say --fixed"
            } else {
                ""
            }
        );
        let size = human(disk.size);
        Ok(format!("{} ({}, {size})", target.display(), disk.model))
    }
}

fn write(scene: &Scene, target: &Target, image: &Image) -> Result<Flashed> {
    let size = image.size().unwrap_or_default();
    let mut now: Option<(Stage, ProgressBar)> = None;
    let flashed = target.flash(image, &mut |stage, bytes| {
        if now.as_ref().is_none_or(|(before, _)| *before != stage) {
            if let Some((_, bar)) = now.take() {
                bar.finish_and_clear();
            }
            let word = match stage {
                Stage::Writing => "writing",
                Stage::Comparing => "comparing",
            };
            now = Some((stage, scene.output.bytes(word, size)));
        }
        if let Some((_, bar)) = &now {
            bar.inc(bytes);
        }
    });
    if let Some((_, bar)) = now {
        bar.finish_and_clear();
    }
    flashed
}

fn words(flashed: &Flashed, target: &Path, took: &str, provisioned: bool) -> String {
    let mut text = format!(
        "Wrote {} onto {} and read it back, {} of it data, in {took}.",
        human(flashed.size),
        target.display(),
        human(flashed.data),
    );
    if flashed.left > 0 {
        let left = human(flashed.left);
        text.push_str(&format!(
            "\nBy the image's block map {left} of it are nobody's, and stayed as they were."
        ));
    }
    if provisioned {
        text.push_str("\nIts device joins the hub at its first start.");
    }
    text
}

fn list(scene: &Scene) -> Result<()> {
    let disks = disks::all()?;
    let mut rows = vec![["DISK", "SIZE", "MODEL", ""].map(str::to_owned).to_vec()];
    for disk in &disks {
        let against = disk.objections.join("; ");
        let path = disk.path.display().to_string();
        rows.push(vec![path, human(disk.size), disk.model.clone(), against]);
    }
    let text = if disks.is_empty() {
        "There is no disk here.".to_owned()
    } else {
        table(&rows)
    };
    scene.output.result(text, &List { disks })
}

/// A copy of the image with the provisioning where the device looks for it at its first start; for its owner's eyes alone,
/// and gone with the value; of at most so many bytes, if it has to be unpacked. On the disk itself it would not be compared, and a desktop might have mounted it by then.
fn provisioned(image: &Image, most: u64, bytes: &[u8]) -> Result<NamedTempFile> {
    let folder = image.path().parent().unwrap_or(Path::new("."));
    let cannot = || format!("cannot make a copy of {}", image.path().display());
    files::remove_leftovers(folder, files::FLASH);
    let copy = tempfile::Builder::new()
        .prefix(&format!("{}{}-", files::FLASH, std::process::id()))
        .tempfile_in(folder)
        .with_context(cannot)?;
    if image.is_packed() {
        image.unpack(copy.as_file(), most).with_context(cannot)?;
    } else {
        process::copy_with_holes(image.path(), copy.path())?;
    }
    let disk = Parts::open(copy.path())?.context("the copy is no disk image")?;
    disk.put_private("/device/provision.json", bytes)?;
    Ok(copy)
}
