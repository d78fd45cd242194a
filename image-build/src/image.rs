//! Disk images: a GPT disk with the boot record, two slots and a data partition whose store is *born sealed*.
//!
//! Made by an ordinary user without loop devices, from a revision that was verified as a device would verify it.
//! The same inputs give the same bytes: all names, times and numbers come from the revision.
//!
//! | partition | content |
//! |---|---|
//! | before and outside | what the processor's first code looks for, on boards that have no flash of their own: [`firmware`] |
//! | `bootenv` | both records in both copies: slot a is the default, the revision is committed, its floor holds |
//! | `boot` | FAT, only where the firmware needs it: [`boot_script`], [`efi`], [`autoboot`](kedge_board_support::autoboot) |
//! | `boot-copy` | the same once more, where the firmware is UEFI: [`efi`] |
//! | `slot-a` | FAT: `/kernel`, `/initramfs`, `/cmdline.txt`, `/statement.efi` for Secure Boot, and the revision's `boot.files` |
//! | `slot-b` | FAT, empty |
//! | `data` | ext4 with the layers under fs-verity, the revision, the roots, and empty folders for the rest |
//!
//! It signs nothing; it knows no project, only what [`ImagePlan`] names. [`packed`] compresses what is whole.

pub mod boot_script;
pub mod efi;
pub mod ext4;
pub mod fat;
pub mod firmware;
mod fit;
pub mod gpt;
pub mod needed;
pub mod packed;
pub mod ram;
mod scratch;

use crate::files;
use crate::secure_boot::{Signer, authenticode};
use anyhow::{Context, Result, bail};
use gpt::{Kind, Layout, MIB, Partition};
use kedge_board_support::autoboot::Autoboot;
use kedge_board_support::boards::firmware::Place;
use kedge_board_support::boards::{Backend, Board};
use kedge_board_support::bootenv::Bootenv;
use kedge_board_support::control::Write;
use kedge_board_support::record::{Loader, Slot, State};
use kedge_board_support::slot::{self, Teller};
use kedge_board_support::statement;
use kedge_revision::revision::ObjectKind;
use kedge_revision::{ObjectId, Verified};
use scratch::Scratch;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A trust root as the store keeps it.
#[derive(Debug, Clone, Copy)]
pub struct RootDocument<'a> {
    /// Its version.
    pub version: u32,
    /// Its bytes.
    pub document: &'a [u8],
    /// Its signatures' bytes.
    pub signatures: &'a [u8],
}

/// Everything that an image is made from.
#[derive(Debug, Clone, Copy)]
pub struct ImagePlan<'a> {
    /// The kind of machine.
    pub board: &'a Board,
    /// The factory revision, verified.
    pub revision: &'a Verified,
    /// Its bytes.
    pub document: &'a [u8],
    /// Its signatures' bytes.
    pub signatures: &'a [u8],
    /// Every root from the first to the newest.
    pub roots: &'a [RootDocument<'a>],
    /// Where each object's bytes are.
    pub objects: &'a BTreeMap<ObjectId, PathBuf>,
    /// The loader of the board's platform, if it has one of ours.
    pub loader: Option<&'a Path>,
    /// The files of the board's firmware, in its order.
    pub firmware: &'a [PathBuf],
    /// Who signs it, if the firmware is to verify it.
    pub signer: Option<&'a Signer>,
}

/// What was made.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageReport {
    /// The image.
    pub path: PathBuf,
    /// The factory revision.
    pub revision: ObjectId,
    /// The disk's size, bytes.
    pub size: u64,
    /// What the image occupies on the host, bytes: it has holes.
    pub allocated: u64,
    /// What of that is not the containers' layers, bytes: kernel, initramfs, firmware, the file systems themselves.
    pub base: u64,
    /// Objects sealed in the store.
    pub sealed: usize,
    /// Where each partition is.
    pub partitions: Vec<Partition>,
}

/// Builds the image `out`; `say` is told what goes on. What was there is replaced only when the new one is whole.
///
/// # Errors
/// An object is missing or not what its id says, a budget or the data partition is too small, a tool fails, or the
/// finished file system is not clean.
pub fn build(plan: &ImagePlan<'_>, out: &Path, say: &mut dyn FnMut(&str)) -> Result<ImageReport> {
    let layers = check_inputs(plan)?;
    let scratch = Scratch::beside(out)?;
    let layout = layout(plan);
    let disk = scratch.path("disk");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&disk);
    let file = file.with_context(|| format!("cannot make {}", disk.display()))?;
    let partitions =
        gpt::write(&file, &layout).with_context(|| format!("cannot write {}", disk.display()))?;

    firmware::write(plan, &file, &partitions)?;
    write_boot_record(plan, &file, &partitions)?;
    write_boot(plan, &scratch, &file, &partitions, say)?;
    for slot in [Slot::A, Slot::B] {
        say(&format!("writing {}", slot.partition()));
        let contents = slot_files(plan, slot, &file, &scratch)?;
        write_fat(
            plan,
            slot.partition(),
            &contents,
            &scratch,
            &file,
            &partitions,
        )?;
    }
    say("writing the data partition");
    let data = gpt::find(&partitions, "data")?;
    let image = scratch.path("data.ext4");
    let sealed = ext4::make(plan, &scratch, &image, data.size)?;
    say("checking the data partition");
    ext4::check(&image)?;
    copy_into(&image, &file, data)?;

    let metadata = file
        .metadata()
        .with_context(|| format!("cannot stat {}", disk.display()))?;
    let allocated = metadata.blocks().saturating_mul(512);
    let base = allocated.saturating_sub(layers);
    budget(
        "the image on disk, its layers aside,",
        base,
        plan.board.budgets.image,
    )?;
    files::publish(&disk, out)?;
    Ok(ImageReport {
        path: out.to_owned(),
        revision: plan.revision.id(),
        size: metadata.len(),
        allocated,
        base,
        sealed,
        partitions,
    })
}

/// What the firmware itself reads.
fn write_boot(
    plan: &ImagePlan<'_>,
    scratch: &Scratch,
    disk: &File,
    partitions: &[Partition],
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    match plan.board.boot.backend {
        Backend::Direct => Ok(()),
        Backend::Tryboot => {
            say("writing boot");
            write_autoboot(disk, partitions)
        }
        Backend::UBoot => {
            say("writing boot");
            let script = scratch.folder("boot")?.join(boot_script::FILE);
            let record = gpt::find(partitions, "bootenv")?.offset;
            files::write(
                &script,
                boot_script::make(plan.board, record, gpt::disk_guid(disk)?, created(plan)),
            )?;
            let mut contents = vec![script];
            contents.extend(firmware::boot_files(plan, scratch)?);
            write_fat(plan, "boot", &contents, scratch, disk, partitions)
        }
        Backend::Uefi => {
            let folder = scratch.folder("boot")?;
            let program = folder.join(efi::FILE);
            let loader = plan.loader.with_context(|| {
                format!(
                    "the platform has no loader for UEFI, which the board {0} needs\nhelp: make it anew, in the clone of Kedge: cargo xtask image {0}",
                    plan.board.name
                )
            })?;
            let made = efi::make(plan.board, files::read(loader)?)
                .and_then(|made| match plan.signer {
                    Some(signer) => authenticode::sign(made, signer),
                    None => Ok(made),
                })
                .with_context(|| format!("cannot use the loader {}", loader.display()))?;
            files::write(&program, made)?;
            for name in efi::PARTITIONS {
                say(&format!("writing {name}"));
                let partition = gpt::find(partitions, name)?;
                let image = scratch.path(&format!("{name}.fat"));
                let label = identity(plan, name);
                fat::make_efi(&image, partition.size, label, &program, created(plan))?;
                copy_into(&image, disk, partition)?;
            }
            Ok(())
        }
    }
}

/// Makes the partition of `autoboot.txt`, as a device would if it were lost.
fn write_autoboot(disk: &File, partitions: &[Partition]) -> Result<()> {
    let number = |slot: Slot| {
        let place = partitions
            .iter()
            .position(|part| part.name == slot.partition());
        let number = place.and_then(|place| u32::try_from(place.checked_add(1)?).ok());
        number.with_context(|| format!("the disk has no partition {}", slot.partition()))
    };
    let boot = gpt::find(partitions, "boot")?;
    let env = gpt::find(partitions, "bootenv")?;
    let slots = [number(Slot::A)?, number(Slot::B)?];
    let write = || -> Result<(), kedge_board_support::Error> {
        let autoboot = Autoboot::new(boot.size, slots)?;
        let (record, _) = Bootenv::open_at(disk, env.offset, env.record)?;
        // Nothing is there yet, as after a loss.
        let (mut record, _) = record.with_autoboot(Some((disk, boot.offset, autoboot)));
        record.perform(&Write::Loader(Loader::born()))
    };
    write().context("cannot write autoboot.txt")
}

/// Makes the FAT of a partition.
fn write_fat(
    plan: &ImagePlan<'_>,
    name: &str,
    contents: &[PathBuf],
    scratch: &Scratch,
    disk: &File,
    partitions: &[Partition],
) -> Result<()> {
    let partition = gpt::find(partitions, name)?;
    let image = scratch.path(&format!("{name}.fat"));
    let label = identity(plan, name);
    fat::make(&image, partition.size, label, contents, created(plan))?;
    copy_into(&image, disk, partition)
}

/// Seconds since 1970 that every time in the image is set to: when the revision was made.
fn created(plan: &ImagePlan<'_>) -> u64 {
    plan.revision.envelope().created.unix()
}

/// Sixteen bytes that depend on the revision and on what they are for.
fn identity(plan: &ImagePlan<'_>, purpose: &str) -> [u8; 16] {
    derive(&["revision", &plan.revision.id().hex(), purpose])
}

fn derive(parts: &[&str]) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(b"kedge image identity v1\n");
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let mut bytes = [0; 16];
    bytes
        .iter_mut()
        .zip(hash.finalize())
        .for_each(|(to, from)| *to = from);
    bytes
}

fn layout<'a>(plan: &ImagePlan<'a>) -> Layout<'a> {
    // Product and board, not the revision: a disk keeps its identity when another image of the product is written.
    let envelope = plan.revision.envelope();
    let guid = |purpose| {
        derive(&[
            "disk",
            envelope.product.as_str(),
            envelope.board.as_str(),
            purpose,
        ])
    };
    let sizes = plan.board.partitions;
    let firmware = plan.board.firmware.iter();
    let firmware = firmware.filter_map(|piece| match &piece.place {
        Place::Partition(one) => Some((
            one.name.as_str(),
            Kind::Firmware(one.kind.on_disk()),
            Some(one.size),
        )),
        Place::Offset(_) | Place::Boot(_) | Place::Slot(_) => None,
    });
    // A boot ROM may count them: its own first. The data last: the device grows it over the rest of its disk.
    let is_efi = plan.board.boot.backend == Backend::Uefi;
    let boot = if is_efi { Kind::Efi } else { Kind::Boot };
    let [first, second] = efi::PARTITIONS;
    // This firmware counts partitions, looks at the first FAT, and wants the others right behind it.
    let is_tryboot = plan.board.boot.backend == Backend::Tryboot;
    let record = |wanted: bool| {
        let size = Some(sizes.bootenv).filter(|_| wanted);
        let kind = Kind::BootEnvironment(plan.board.bootenv.layout());
        ("bootenv", kind, size)
    };
    let partitions = [
        record(!is_tryboot),
        (first, boot, sizes.boot),
        (second, boot, sizes.boot.filter(|_| is_efi)),
        ("slot-a", Kind::Fat, Some(sizes.slot_a)),
        ("slot-b", Kind::Fat, Some(sizes.slot_b)),
        record(is_tryboot),
        ("data", Kind::Linux, Some(sizes.data)),
    ];
    let slots = [Slot::A, Slot::B].map(Slot::partition);
    // Whoever loads from a slot looks for it where it looks for the first.
    let loads = slots.into_iter().filter(|_| is_tryboot);
    let mut hybrid: Vec<&str> = [first].into_iter().chain(loads).collect();
    if !plan.board.boot.hybrid_mbr {
        hybrid.clear();
    }
    let wanted = firmware
        .chain(partitions)
        .filter_map(|(name, kind, size)| Some((name, kind, size?)));
    Layout {
        guid: guid("disk"),
        first: sizes.first_bytes(),
        hybrid,
        partitions: wanted
            .map(|(name, kind, mebibytes)| gpt::Wanted {
                name,
                kind,
                guid: guid(name),
                size: u64::from(mebibytes).saturating_mul(MIB),
            })
            .collect(),
    }
}

/// Everything that can be known before anything is written; what the layers take in the store, bytes.
fn check_inputs(plan: &ImagePlan<'_>) -> Result<u64> {
    let envelope = plan.revision.envelope();
    if envelope.board != plan.board.name {
        bail!(
            "the revision is for board {}, the image for {}",
            envelope.board,
            plan.board.name
        );
    }
    // A content that is of no interest here is judged where it is.
    let has_pools = envelope
        .content()
        .is_ok_and(|content| !content.configuration.networks.is_empty());
    let budgets = plan.board.budgets.boot_of(false, has_pools);
    let mut layers = 0_u64;
    for (id, object) in &envelope.objects {
        let path = object_path(plan, *id)?;
        let size = path
            .metadata()
            .with_context(|| format!("cannot open the object {}", path.display()))?
            .len();
        if size != object.size {
            bail!(
                "{} has {size} bytes, but the revision says that object {id} has {}",
                path.display(),
                object.size
            );
        }
        match object.kind {
            ObjectKind::Kernel => {
                budget("the kernel", size, budgets.kernel)?;
                check_kernel(plan, path)?;
            }
            ObjectKind::Initramfs => budget("the initramfs", size, budgets.initramfs)?,
            ObjectKind::Layer => layers = layers.saturating_add(ext4::sealed_size(size)),
            ObjectKind::BootFile | ObjectKind::Statement => {}
        }
    }
    let room = u64::from(plan.board.partitions.data).saturating_mul(MIB);
    let needed = layers
        .saturating_add(room / 10)
        .saturating_add(ext4::OVERHEAD);
    if needed > room {
        bail!(
            "the layers need {} more bytes than the data partition of board {} has\nhelp: raise partitions.data there",
            needed.saturating_sub(room),
            plan.board.name
        );
    }
    Ok(layers)
}

/// What the loader would find out on the device.
fn check_kernel(plan: &ImagePlan<'_>, path: &Path) -> Result<()> {
    let beginning = || -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(4096).read_to_end(&mut bytes))
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(bytes)
    };
    match plan.board.boot.backend {
        Backend::Direct => Ok(()),
        // Either takes a kernel that is not compressed.
        Backend::UBoot | Backend::Tryboot => boot_script::check_kernel(plan.board, &beginning()?),
        Backend::Uefi => efi::check_kernel(&beginning()?),
    }
}

/// Holds a size to its budget, bytes.
///
/// # Errors
/// It is over it.
pub fn budget(what: &str, size: u64, limit: u64) -> Result<()> {
    if size > limit {
        bail!(
            "{what} has {size} bytes, over the board's budget of {limit}\nhelp: make it smaller, or raise it under [budgets]"
        );
    }
    Ok(())
}

fn object_path<'a>(plan: &ImagePlan<'a>, id: ObjectId) -> Result<&'a Path> {
    plan.objects
        .get(&id)
        .map(PathBuf::as_path)
        .with_context(|| format!("nobody said where object {id} is"))
}

fn write_boot_record(plan: &ImagePlan<'_>, disk: &File, partitions: &[Partition]) -> Result<()> {
    let envelope = plan.revision.envelope();
    let newest = plan
        .roots
        .iter()
        .map(|root| root.version)
        .max()
        .unwrap_or(envelope.root);
    let state = State::born(plan.revision.id(), envelope.floor(), newest);
    let env = gpt::find(partitions, "bootenv")?;
    Bootenv::create_at(disk, env.offset, env.record, &Loader::born(), &state)
        .map(drop)
        .context("cannot write the boot record")
}

/// The files of a slot, copied to the scratch folder so that they can be given their times.
fn slot_files(
    plan: &ImagePlan<'_>,
    slot: Slot,
    disk: &File,
    scratch: &Scratch,
) -> Result<Vec<PathBuf>> {
    if slot == Slot::B {
        return Ok(Vec::new());
    }
    let boot = &plan.revision.envelope().boot;
    let folder = scratch.folder("slot")?;
    let mut objects = vec![("kernel", boot.kernel), ("initramfs", boot.initramfs)];
    objects.extend(boot.statement.map(|id| (statement::FILE, id)));
    objects.extend(boot.files.iter().map(|(name, id)| (name.as_str(), *id)));
    for (name, id) in &objects {
        let (name, id) = (*name, *id);
        let path = object_path(plan, id)?;
        let mut file =
            File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut builder = kedge_revision::verity::Builder::new();
        let copy = scratch.create(&folder.join(name))?;
        let mut end = 0_u64;
        chunks(&mut file, path, &mut |chunk| {
            builder.update(chunk);
            copy.write_all_at(chunk, end)?;
            end = end.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
            Ok(())
        })?;
        let found = builder.finish().id;
        if found != id {
            bail!("{} is object {found}, not {id}", path.display());
        }
    }
    let teller = match plan.board.boot.backend {
        Backend::Direct | Backend::UBoot | Backend::Uefi => Teller::Loader,
        Backend::Tryboot => Teller::Slot(Some(gpt::disk_guid(disk)?)),
    };
    let line = slot::line(&boot.arguments, slot, teller);
    files::write(&folder.join("cmdline.txt"), line)?;
    let names = objects.into_iter().map(|(name, _)| name);
    Ok(names
        .chain(["cmdline.txt"])
        .map(|name| folder.join(name))
        .collect())
}

/// Reads a file in pieces of at most 1 MiB.
fn chunks(
    file: &mut impl Read,
    path: &Path,
    take: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file
            .read(&mut buffer)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let Some(chunk) = buffer.get(..count).filter(|chunk| !chunk.is_empty()) else {
            return Ok(());
        };
        take(chunk).with_context(|| format!("cannot copy {}", path.display()))?;
    }
}

/// Copies a partition's image to its place; what is zero stays a hole.
fn copy_into(image: &Path, disk: &File, partition: &Partition) -> Result<()> {
    const BLOCK: usize = 4096;
    let mut file = File::open(image).with_context(|| format!("cannot open {}", image.display()))?;
    let mut offset = partition.offset;
    let end = partition.offset.saturating_add(partition.size);
    chunks(&mut file, image, &mut |chunk| {
        for block in chunk.chunks(BLOCK) {
            let next = offset.saturating_add(u64::try_from(block.len()).unwrap_or(u64::MAX));
            if next > end {
                return Err(std::io::Error::other("it is larger than its partition"));
            }
            if block.iter().any(|byte| *byte != 0) {
                disk.write_all_at(block, offset)?;
            }
            offset = next;
        }
        Ok(())
    })
}

#[cfg(test)]
pub(crate) mod tests;
