//! The data partition: an ext4 file system whose objects carry fs-verity from birth.
//!
//! Turning fs-verity on hashes every byte, so that a first boot would wait for seconds. What the kernel writes when
//! it does so can be written beforehand: behind an object's bytes, past its end of file, stand its Merkle tree on the
//! next 64 KiB boundary, the descriptor on the next block, and the descriptor's size in the last four bytes of the
//! last block; the inode's size is the object's, and `EXT4_VERITY_FL` is set. So files are staged with their tails,
//! `mke2fs -d` copies them in, and debugfs sets size and flags. Source: Linux `fs/ext4/verity.c`.

use super::{ImagePlan, Scratch, chunks, created, identity, object_path, scratch};
use crate::{files, tools};
use anyhow::{Context, Result, bail};
use kedge_revision::ObjectId;
use kedge_revision::id::hex;
use kedge_revision::revision::ObjectKind;
use kedge_revision::verity::{self, Builder};
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The file system's label, by which the device finds it.
pub const LABEL: &str = "kedge-data";
/// What the file system itself needs beside its files: journal, inode tables, documents.
pub const OVERHEAD: u64 = 40 << 20;

/// Percent of the file system that only the device itself may fill (root, and the agent by the mount option `resgid`):
/// containers leave as much as updates, logs and records need, twice the reserve of `kedge_store::space`. A little over ten, since
/// a kernel that grows the file system keeps whole percents, rounded down. The kernel holds it for writable roots, too:
/// overlayfs writes without `CAP_SYS_RESOURCE` and with the ids that it was mounted with (Linux `fs/overlayfs/super.c`).
const RESERVED: &str = "10.1";

const BLOCK: u64 = 4096;
/// Where the tree begins: a multiple of this, the largest page size, whatever the machine's is.
const TREE_ALIGNMENT: u64 = 65536;
const EXTENTS_FLAG: u32 = 0x8_0000;
const VERITY_FLAG: u32 = 0x10_0000;

/// Folders of a store with their modes. Only PID 1 and its helpers look into the data partition; what holds keys,
/// unverified bytes or output of containers is closed to everyone but root even so.
const FOLDERS: [(&str, u32); 9] = [
    ("objects", 0o755),
    ("objects/v1", 0o755),
    ("revisions", 0o755),
    ("roots", 0o755),
    ("volumes", 0o700),
    ("device", 0o700),
    ("logs", 0o700),
    ("staging", 0o700),
    ("revisions/factory", 0o755),
];

/// Bytes that a sealed object of `size` bytes takes, tail included.
#[must_use]
pub fn sealed_size(size: u64) -> u64 {
    let blocks = size
        .next_multiple_of(BLOCK)
        .saturating_add(verity::tree_size(size))
        .saturating_add(BLOCK);
    // The gap before the tree is a hole.
    blocks.saturating_add(BLOCK)
}

/// Makes the file system; returns the number of sealed objects.
pub(super) fn make(
    plan: &ImagePlan<'_>,
    scratch: &Scratch,
    image: &Path,
    size: u64,
) -> Result<usize> {
    let root = scratch.folder("data")?;
    let mut edits = String::new();
    let sealed = stage(plan, scratch, &root, &mut edits)?;
    mke2fs(plan, &root, image, size)?;
    for path in tree(&root)? {
        // An ordinary user's staging folder has that user's ids.
        for field in ["uid", "gid"] {
            writeln!(edits, "set_inode_field {path} {field} 0")?;
        }
    }
    debugfs(plan, scratch, image, &edits)?;
    count_quota(plan, image)?;
    Ok(sealed)
}

/// Lays out the store below `root`, and collects what debugfs is to change afterwards.
fn stage(
    plan: &ImagePlan<'_>,
    scratch: &Scratch,
    root: &Path,
    edits: &mut String,
) -> Result<usize> {
    let factory = format!("revisions/{}", plan.revision.id().hex());
    for (name, mode) in FOLDERS {
        let path = root.join(if name == "revisions/factory" {
            factory.as_str()
        } else {
            name
        });
        files::make_folder(&path)?;
        scratch::set_mode(&path, mode)?;
    }
    scratch::set_mode(root, 0o755)?;
    let put = |name: String, bytes: &[u8]| {
        let path = root.join(name);
        files::write(&path, bytes)?;
        scratch::set_mode(&path, 0o644)
    };
    put(format!("{factory}/revision.json"), plan.document)?;
    put(format!("{factory}/revision.sig"), plan.signatures)?;
    put(format!("{factory}/origin"), b"factory\n")?;
    put(format!("{factory}/committed"), b"")?;
    for document in plan.roots {
        put(
            format!("roots/{}.json", document.version),
            document.document,
        )?;
        put(
            format!("roots/{}.sig", document.version),
            document.signatures,
        )?;
    }
    let layers = plan
        .revision
        .envelope()
        .objects
        .iter()
        .filter(|(_, object)| object.kind == ObjectKind::Layer);
    let mut sealed = 0_usize;
    for (id, object) in layers {
        let name = id.hex();
        let folder = format!("objects/v1/{}", name.get(..2).unwrap_or_default());
        files::make_folder(&root.join(&folder))?;
        scratch::set_mode(&root.join(&folder), 0o755)?;
        let path = root.join(&folder).join(&name);
        seal(object_path(plan, *id)?, *id, &scratch.create(&path)?)?;
        scratch::set_mode(&path, 0o444)?;
        writeln!(
            edits,
            "set_inode_field /{folder}/{name} size {}",
            object.size
        )?;
        writeln!(
            edits,
            "set_inode_field /{folder}/{name} flags {:#x}",
            EXTENTS_FLAG | VERITY_FLAG
        )?;
        sealed = sealed.saturating_add(1);
    }
    Ok(sealed)
}

/// Copies an object with its tail, and refuses bytes that are not the object's.
fn seal(from: &Path, id: ObjectId, to: &File) -> Result<()> {
    let mut file = File::open(from).with_context(|| format!("cannot open {}", from.display()))?;
    let mut builder = Builder::new();
    let mut end = 0_u64;
    chunks(&mut file, from, &mut |chunk| {
        builder.update(chunk);
        to.write_all_at(chunk, end)?;
        end = end.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        Ok(())
    })?;
    let sealed = builder.finish();
    if sealed.id != id {
        bail!(
            "{} is object {}, not {id}: it was damaged or changed",
            from.display(),
            sealed.id
        );
    }
    let tree = end.next_multiple_of(TREE_ALIGNMENT);
    let descriptor = tree.saturating_add(u64::try_from(sealed.tree.len())?);
    let mut last = vec![0; usize::try_from(BLOCK)?];
    last.get_mut(..verity::DESCRIPTOR)
        .unwrap_or_default()
        .copy_from_slice(&sealed.descriptor);
    let size = u32::try_from(verity::DESCRIPTOR)?.to_le_bytes();
    last.last_chunk_mut()
        .map_or(&mut [0; 4], |end| end)
        .copy_from_slice(&size);
    to.write_all_at(&sealed.tree, tree)
        .and_then(|()| to.write_all_at(&last, descriptor))
        .context("cannot write a Merkle tree")
}

fn mke2fs(plan: &ImagePlan<'_>, root: &Path, image: &Path, size: u64) -> Result<()> {
    let uuid = |purpose| {
        let digits = hex(&identity(plan, purpose));
        let part = |from, to| digits.get(from..to).unwrap_or_default().to_owned();
        [
            part(0, 8),
            part(8, 12),
            part(12, 16),
            part(16, 20),
            part(20, 32),
        ]
        .join("-")
    };
    // Only project quotas: the ids of volumes' files are the containers' own and mean nothing to us.
    let options = format!(
        "hash_seed={},root_owner=0:0,no_copy_xattrs,quotatype=prjquota,lazy_itable_init=0,lazy_journal_init=0",
        uuid("hash-seed")
    );
    let mut command = tools::mke2fs()?.command();
    // No configuration but the defaults built in: the machine's would change the bytes.
    command
        .env("MKE2FS_CONFIG", "/dev/null")
        .env("SOURCE_DATE_EPOCH", created(plan).to_string());
    command.args([
        "-q",
        "-F",
        "-t",
        "ext4",
        "-b",
        "4096",
        "-I",
        "256",
        "-m",
        RESERVED,
        "-e",
        "remount-ro",
        "-L",
        LABEL,
    ]);
    command.args([
        "-O",
        FEATURES,
        "-U",
        &uuid("file-system"),
        "-E",
        &options,
        "-J",
        "size=8",
        "-d",
    ]);
    command
        .arg(root)
        .arg(image)
        .arg(format!("{}k", size / 1024));
    crate::process::run(&mut command)
}

/// All features by name, since no configuration file names them: what Debian's kernels and ours know.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,metadata_csum,\
metadata_csum_seed,sparse_super,large_file,huge_file,dir_nlink,extra_isize,verity,quota,project";

/// Every path below `root` as the file system has it, the root included.
fn tree(root: &Path) -> Result<Vec<String>> {
    let mut paths = vec!["/".to_owned()];
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in files::list(&folder)? {
            let name = path.strip_prefix(root).unwrap_or(&path);
            paths.push(format!("/{}", name.display()));
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(paths)
}

/// Runs debugfs over the edits. It ends well whatever its commands do, but says on standard error what failed.
fn debugfs(plan: &ImagePlan<'_>, scratch: &Scratch, image: &Path, edits: &str) -> Result<()> {
    let script = scratch.path("edits");
    files::write(&script, edits)?;
    let mut command: Command = tools::debugfs()?.command();
    command.env("SOURCE_DATE_EPOCH", created(plan).to_string());
    command
        .arg("-w")
        .arg("-f")
        .arg(&script)
        .arg(image)
        .stdin(Stdio::null());
    let done = command.output().context("cannot start debugfs")?;
    let words = String::from_utf8_lossy(&done.stderr);
    let complaint = words
        .lines()
        .find(|line| !line.starts_with("debugfs 1.") && !line.trim().is_empty());
    if let Some(complaint) = complaint {
        bail!("debugfs could not seal the store: {complaint}");
    }
    if !done.status.success() {
        bail!("debugfs ended with {}", done.status);
    }
    Ok(())
}

/// `mke2fs -d` writes the quota file before the files: e2fsck counts them anew. It repairs what is safe, no more.
fn count_quota(plan: &ImagePlan<'_>, image: &Path) -> Result<()> {
    /// "File system errors corrected", as e2fsck(8) has it.
    const CORRECTED: i32 = 1;
    let time = created(plan).to_string();
    let mut command = tools::e2fsck()?.command();
    command
        .env("SOURCE_DATE_EPOCH", &time)
        .env("E2FSCK_TIME", &time)
        .stdin(Stdio::null());
    let done = command
        .args(["-f", "-p"])
        .arg(image)
        .output()
        .context("cannot start e2fsck")?;
    if !matches!(done.status.code(), Some(0 | CORRECTED)) {
        bail!(
            "e2fsck could not count the quota: {}",
            String::from_utf8_lossy(&done.stdout).trim()
        );
    }
    Ok(())
}

/// Refuses a file system that e2fsck finds anything wrong with.
///
/// # Errors
/// It is not clean; with what e2fsck says.
pub fn check(image: &Path) -> Result<()> {
    crate::process::run(tools::e2fsck()?.command().args(["-f", "-n"]).arg(image))
        .context("the new data partition is not clean")
}
