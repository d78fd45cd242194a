//! A pair of kernel and initramfs that boots without a disk: from a network (PXE), over USB, or by QEMU.
//!
//! The initramfs is the revision's own, byte for byte, with an archive behind it that has the disk as a file: a partition
//! table, the boot record and a data partition that is as large as its layers ask for. PID 1 attaches it to a loop device
//! (`init/src/boot/memory.rs`) and judges it as any disk.
//!
//! | file | what |
//! |---|---|
//! | `kernel` | the revision's kernel |
//! | `initramfs` | both archives |
//! | `cmdline.txt` | the kernel's arguments, the board's first |
//! | others | what a slot of the board has beside: device trees, a firmware's files |

use super::gpt::Kind;
use super::scratch::Scratch;
use super::{
    ImagePlan, check_inputs, copy_into, ext4, gpt, layout, object_path, write_boot_record,
};
use crate::files;
use anyhow::{Context, Result, bail, ensure};
use kedge_board_support::bootenv;
use kedge_revision::revision::ObjectKind;
use kedge_revision::{FileName, ObjectId, verity};
use kedge_rootfs::Initramfs;
use serde::Serialize;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Names in the folder of a pair.
pub const KERNEL: &str = "kernel";
/// See [`KERNEL`].
pub const INITRAMFS: &str = "initramfs";
/// See [`KERNEL`].
pub const ARGUMENTS: &str = "cmdline.txt";

/// The module without which a kernel of a distribution has no loop devices.
const MODULE: &str = "loop";
/// The largest disk, bytes. It is held in memory when it is made, too.
const MOST: u64 = 1 << 30;
/// What a device takes beside the disk, at the least: kernel, PID 1 and a container.
const SYSTEM: u64 = 64 << 20;
const MIB: u64 = gpt::MIB;

/// What was made.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RamReport {
    /// The folder with the files.
    pub path: PathBuf,
    /// The disk's size: what it takes of the memory for as long as the device runs, bytes.
    pub disk: u64,
    /// Size of the initramfs, bytes.
    pub initramfs: u64,
    /// What lies beside kernel, initramfs and arguments: device trees, a firmware's files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileName>,
    /// The memory that a device must have at the least, bytes.
    pub memory: u64,
}

/// Makes the pair in the folder `out`; `say` is told what goes on. Our own kernels have loop devices built in, whatever the
/// board's file says of those of a distribution.
///
/// # Errors
/// As [`super::build`]; or the board's kernel has no loop devices, or the layers are too large for a disk in memory.
pub fn build(
    plan: &ImagePlan<'_>,
    has_own_kernel: bool,
    out: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<RamReport> {
    let name = &plan.board.name;
    ensure!(
        has_own_kernel
            || plan
                .board
                .kernel
                .modules
                .iter()
                .any(|module| module == MODULE),
        "the kernel of the board {name} may have no loop devices, which a disk in memory is attached to\nhelp: add \"{MODULE}\" to kernel.modules of the board, or take our own kernel (--kernel own)"
    );
    let mut board = plan.board.clone();
    board.partitions.data = data_size(plan)?;
    let plan = &ImagePlan {
        board: &board,
        ..*plan
    };
    check_inputs(plan)?;
    let boot = &plan.revision.envelope().boot;
    let kernel = object(plan, boot.kernel)?;
    let mut initramfs = object(plan, boot.initramfs)?;

    say("making the disk");
    let scratch = Scratch::beside(out)?;
    let disk = disk(plan, &scratch)?;
    let size = u64::try_from(disk.len())?;
    ensure!(
        size <= MOST,
        "the disk takes {size} bytes of memory, and at most {MOST} are taken"
    );
    say("packing the disk");
    let mut archive = Initramfs::new();
    // In this order by name: the size is there before the disk, and the last file only when the disk is whole.
    archive.file("etc/kedge/ram.size", 0o444, format!("{size}\n").into())?;
    archive.file("ram.img", 0o600, disk)?;
    archive.file("ram.whole", 0o400, Vec::new())?;
    initramfs.extend(archive.compressed()?);

    let arguments = format!("{} {}", plan.board.arguments(), boot.arguments);
    files::write(&out.join(KERNEL), kernel)?;
    files::write(&out.join(INITRAMFS), &initramfs)?;
    files::write(&out.join(ARGUMENTS), format!("{}\n", arguments.trim()))?;
    // A loader needs those by their names in a slot; none of them is one of the three above.
    for (name, id) in &boot.files {
        files::write(&out.join(name.as_str()), object(plan, *id)?)?;
    }
    let packed = u64::try_from(initramfs.len())?;
    Ok(RamReport {
        path: out.to_owned(),
        disk: size,
        initramfs: packed,
        files: boot.files.keys().cloned().collect(),
        // The file system that the kernel unpacks into takes half of the memory at the most (tmpfs(5)), and what came is
        // beside it until it is unpacked.
        memory: size
            .saturating_mul(2)
            .saturating_add(packed)
            .saturating_add(SYSTEM),
    })
}

/// MiB of a data partition that has room for the layers, and what is left of [`ext4::OVERHEAD`] for volumes and logs.
fn data_size(plan: &ImagePlan<'_>) -> Result<u32> {
    let objects = plan.revision.envelope().objects.values();
    let layers = objects.filter(|object| object.kind == ObjectKind::Layer);
    let sizes = layers.map(|object| ext4::sealed_size(object.size));
    let needed = sizes.fold(ext4::OVERHEAD, u64::saturating_add);
    if needed > MOST {
        bail!("the layers take {needed} bytes, and a disk in memory has at most {MOST}");
    }
    // A tenth is kept for the system.
    let size = needed.saturating_add(needed / 9).div_ceil(MIB);
    u32::try_from(size).context("the layers are too large")
}

/// An object that is what the revision says.
fn object(plan: &ImagePlan<'_>, id: ObjectId) -> Result<Vec<u8>> {
    let path = object_path(plan, id)?;
    let bytes = files::read(path)?;
    let found = verity::digest(&bytes);
    ensure!(
        found == id,
        "{} is object {found}, not {id}: it was damaged or changed",
        path.display()
    );
    Ok(bytes)
}

fn disk(plan: &ImagePlan<'_>, scratch: &Scratch) -> Result<Vec<u8>> {
    let path = scratch.path("disk");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    let mut layout = layout(plan);
    layout
        .partitions
        .retain(|wanted| matches!(wanted.name, "bootenv" | "data"));
    // It lies in memory, whatever the board's own lies on.
    for wanted in &mut layout.partitions {
        if let Kind::BootEnvironment(record) = &mut wanted.kind {
            *record = bootenv::Layout::Sectors;
        }
    }
    layout.hybrid.clear();
    let partitions = gpt::write(&file, &layout)?;
    write_boot_record(plan, &file, &partitions)?;
    let data = gpt::find(&partitions, "data")?;
    let image = scratch.path("data.ext4");
    ext4::make(plan, scratch, &image, data.size)?;
    ext4::check(&image)?;
    copy_into(&image, &file, data)?;
    files::read(&path)
}

#[cfg(test)]
mod tests;
