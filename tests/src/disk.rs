//! Faults on a disk image: a copy is made, and what nature or an enemy may do is done to it.

use anyhow::{Context, Result, bail, ensure};
use kedge_board_support::bootenv::layout::Part;
use kedge_board_support::bootenv::{Bootenv, Found, Side};
use kedge_board_support::loading::gpt::{Guid, Header, SECTOR};
use kedge_board_support::record::{Loader, Slot, State};
use kedge_image_build::image::fat;
use kedge_image_build::image::gpt::{self, Partition};
use kedge_image_build::{files, process, tools};
use kedge_revision::{Floor, ObjectId};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where an ext4 file system's incompatible features are, bytes from its beginning (Linux `fs/ext4/ext4.h`, `s_feature_incompat`).
const INCOMPATIBLE: u64 = 1024 + 0x60;
/// `EXT4_FEATURE_INCOMPAT_RECOVER`.
const NEEDS_RECOVERY: u32 = 4;

/// `EXT4_VERITY_FL` of an inode.
const VERITY: u32 = 0x10_0000;

/// A disk that may be harmed.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    /// Removed with the disk.
    folder: tempfile::TempDir,
}

/// The copies of a record in their order.
const SIDES: [Side; 2] = [Side::First, Side::Second];

fn flip_bit(file: &File, at: u64) -> Result<()> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    let [value] = byte;
    file.write_all_at(&[value ^ 0x10], at)
        .context("cannot flip a bit")
}

impl Disk {
    /// A copy of an image; what is a hole stays one.
    ///
    /// # Errors
    /// There is no room.
    pub fn copy_of(image: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("kedge-vm-")
            .tempdir()
            .context("no folder for a disk")?;
        let path = folder.path().join("disk");
        process::run(
            Command::new("cp")
                .args(["--sparse=always", "--reflink=auto"])
                .arg(image)
                .arg(&path),
        )?;
        Ok(Self { path, folder })
    }

    /// The disk.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder that lives as long as the disk, with a short path: for sockets.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self) -> Result<File> {
        let file = File::options().read(true).write(true).open(&self.path);
        file.context("cannot open the disk")
    }

    /// A partition.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn partition(&self, name: &str) -> Result<Partition> {
        gpt::find(&gpt::read(&self.file()?)?, name).cloned()
    }

    /// Flips one bit of the first place in the data partition where `marker` stands; its offset on the disk.
    ///
    /// # Errors
    /// The marker is nowhere.
    pub fn flip_bit_at(&self, marker: &[u8]) -> Result<u64> {
        let file = self.file()?;
        let data = self.partition("data")?;
        let mut block = vec![0; 4096];
        for index in 0..data.size / 4096 {
            let offset = data.offset.saturating_add(index.saturating_mul(4096));
            file.read_exact_at(&mut block, offset)?;
            if block.starts_with(marker)
                && let Some(byte) = block.get_mut(100)
            {
                *byte ^= 1;
                file.write_all_at(&block, offset)?;
                return Ok(offset);
            }
        }
        bail!("the marker is nowhere in the data partition")
    }

    /// Flips one bit of the first place in the data partition where these bytes stand, wherever in a block.
    ///
    /// # Errors
    /// They are nowhere.
    pub fn flip_bit_in(&self, bytes: &[u8]) -> Result<()> {
        let file = self.file()?;
        let data = self.partition("data")?;
        let mut block = vec![0; 4096];
        for index in 0..data.size / 4096 {
            let offset = data.offset.saturating_add(index.saturating_mul(4096));
            file.read_exact_at(&mut block, offset)?;
            let found = block
                .windows(bytes.len())
                .position(|window| window == bytes);
            if let Some(byte) = found.and_then(|at| block.get_mut(at)) {
                *byte ^= 1;
                return file
                    .write_all_at(&block, offset)
                    .context("cannot flip a bit");
            }
        }
        bail!("the bytes are nowhere in the data partition")
    }

    /// Flips a bit in these copies of the state record: 0, 1 or both.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn damage_state(&self, copies: &[usize]) -> Result<()> {
        self.damage(Part::State, copies)
    }

    fn damage(&self, part: impl Fn(Side) -> Part, copies: &[usize]) -> Result<()> {
        let (file, env) = (self.file()?, self.partition("bootenv")?);
        for copy in copies {
            let side = SIDES.get(*copy).context("there are two copies")?;
            let at = env.offset.saturating_add(env.record.offset(part(*side)));
            flip_bit(&file, at.saturating_add(40))?;
        }
        Ok(())
    }

    /// The boot record and its writer.
    fn record(&self) -> Result<(Bootenv<File>, Found)> {
        let env = self.partition("bootenv")?;
        Ok(Bootenv::open_at(self.file()?, env.offset, env.record)?)
    }

    /// Both records in both copies.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn boot_record(&self) -> Result<Found> {
        Ok(self.record()?.1)
    }

    /// Writes the loader record, both copies.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn set_loader(&self, record: &Loader) -> Result<()> {
        Ok(self.record()?.0.write_loader(record)?)
    }

    /// Flips a bit in these copies of the loader record: 0, 1 or both.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn damage_loader(&self, copies: &[usize]) -> Result<()> {
        self.damage(Part::Loader, copies)
    }

    /// Copies slot a over slot b, with other arguments for the kernel.
    ///
    /// # Errors
    /// The disk cannot be written, or mtools is absent.
    pub fn fill_slot_b(&self, arguments: &str) -> Result<()> {
        let [from, to] = [Slot::A, Slot::B].map(|slot| self.partition(slot.partition()));
        let (from, to) = (from?, to?);
        let file = self.file()?;
        let mut block = vec![0; 1 << 20];
        for index in 0..from.size >> 20 {
            let at = index << 20;
            file.read_exact_at(&mut block, from.offset.saturating_add(at))?;
            if at == 0 || block.iter().any(|byte| *byte != 0) {
                file.write_all_at(&block, to.offset.saturating_add(at))?;
            }
        }
        self.write_to_slot(Slot::B, "cmdline.txt", format!("{arguments}\n").as_bytes())
    }

    /// Puts a file into a slot, in place of what is there.
    ///
    /// # Errors
    /// The disk cannot be written, or mtools is absent.
    pub fn write_to_slot(&self, slot: Slot, name: &str, bytes: &[u8]) -> Result<()> {
        self.write_to_fat(slot.partition(), name, bytes)
    }

    /// Takes a file of a slot away.
    ///
    /// # Errors
    /// It is not there, or mtools is absent.
    pub fn remove_from_slot(&self, slot: Slot, name: &str) -> Result<()> {
        let offset = self.partition(slot.partition())?.offset;
        process::run(
            Command::new("mdel")
                .arg("-i")
                .arg(format!("{}@@{offset}", self.path.display()))
                .arg(format!("::/{name}")),
        )
    }

    /// Puts a file into a partition with a FAT, in place of what is there; `path` has no `/` at its front.
    ///
    /// # Errors
    /// As [`Disk::write_to_slot`].
    pub fn write_to_fat(&self, partition: &str, path: &str, bytes: &[u8]) -> Result<()> {
        let offset = self.partition(partition)?.offset;
        let source = self.folder.path().join("file");
        files::write(&source, bytes)?;
        process::run(
            Command::new("mcopy")
                .args(["-o", "-i"])
                .arg(format!("{}@@{offset}", self.path.display()))
                .arg(&source)
                .arg(format!("::/{path}")),
        )
    }

    /// A file of a partition with a FAT; `path` has no `/` at its front.
    ///
    /// # Errors
    /// It is not there, or mtools is absent.
    pub fn read_from_fat(&self, partition: &str, path: &str) -> Result<Vec<u8>> {
        let copy = self.folder.path().join("copy");
        fat::extract(&self.path, self.partition(partition)?.offset, path, &copy)?;
        files::read(&copy)
    }

    /// Writes over the beginning of a partition what is no file system.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn spoil(&self, partition: &str) -> Result<()> {
        let offset = self.partition(partition)?.offset;
        let garbage: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
        self.file()?
            .write_all_at(&garbage, offset)
            .context("cannot spoil a partition")
    }

    /// Makes a revision the committed one of the boot record, as if the device had done so.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn commit(&self, revision: ObjectId) -> Result<()> {
        let (mut record, _) = self.record()?;
        let floor = Floor {
            root: 1,
            counter: 0,
        };
        record.write_state_both(&State::born(revision, floor, 1))?;
        Ok(())
    }

    /// As after so many boots in a row that did not hold their goals.
    ///
    /// # Errors
    /// The disk cannot be read or written.
    pub fn set_unsettled(&self, boots: u32) -> Result<()> {
        self.change_state(|state| state.unsettled = boots)
    }

    /// Raises the floor to this counter of the first root, as if the device had committed a revision that says so.
    ///
    /// # Errors
    /// The disk cannot be read or written.
    pub fn set_floor(&self, counter: u64) -> Result<()> {
        self.change_state(|state| state.floor = Floor { root: 1, counter })
    }

    fn change_state(&self, change: impl FnOnce(&mut State)) -> Result<()> {
        let (mut record, found) = self.record()?;
        let mut state = found.state().cloned().context("the state record is lost")?;
        change(&mut state);
        record.write_state_both(&state)?;
        Ok(())
    }

    /// How many copies of the state record are whole.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn valid_states(&self) -> Result<usize> {
        let found = self.boot_record()?;
        Ok(found.state.iter().filter(|copy| copy.is_ok()).count())
    }

    /// What its partition table calls it.
    ///
    /// # Errors
    /// The disk cannot be read, or has no table.
    pub fn guid(&self) -> Result<Guid> {
        let mut sector = [0; SECTOR];
        self.file()?
            .read_exact_at(&mut sector, u64::try_from(SECTOR)?)?;
        let header = Header::parse(&sector, 1).context("the disk has no partition table")?;
        Ok(header.disk)
    }

    /// Calls it otherwise, as another disk with the same partitions would be called.
    ///
    /// # Errors
    /// sgdisk is absent or fails.
    pub fn set_guid(&self, guid: &str) -> Result<()> {
        kedge_image_build::debian::require(&["gdisk"], "call a disk otherwise")?;
        process::run(
            Command::new("sgdisk")
                .arg(format!("--disk-guid={guid}"))
                .arg(&self.path),
        )
    }

    /// Takes a partition out of the table.
    ///
    /// # Errors
    /// sgdisk is absent or fails.
    pub fn remove_partition(&self, number: u32) -> Result<()> {
        kedge_image_build::debian::require(&["gdisk"], "remove a partition")?;
        process::run(
            Command::new("sgdisk")
                .arg(format!("--delete={number}"))
                .arg(&self.path),
        )
    }

    /// Runs debugfs commands on the data partition and returns their output.
    ///
    /// # Errors
    /// debugfs is absent, or says that something failed.
    pub fn debugfs(&self, commands: &str) -> Result<String> {
        let script = self.folder.path().join("script");
        files::write(&script, commands)?;
        let data = self.partition("data")?;
        let place = format!("{}?offset={}", self.path.display(), data.offset);
        let mut command = tools::debugfs()?.command();
        command.args(["-w", "-f"]).arg(&script).arg(place);
        let done = command.output().context("cannot start debugfs")?;
        let complaints = String::from_utf8_lossy(&done.stderr);
        let complaint = complaints
            .lines()
            .find(|line| !line.starts_with("debugfs ") && !line.trim().is_empty());
        if let Some(complaint) = complaint {
            bail!("debugfs: {complaint}");
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// The path of the object that holds these bytes at the beginning of a block.
    ///
    /// # Errors
    /// No object does, or as [`Disk::debugfs`].
    pub fn object_with(&self, marker: &[u8]) -> Result<String> {
        for folder in self.list("/objects/v1")? {
            let folder = format!("/objects/v1/{folder}");
            for name in self.list(&folder)? {
                let path = format!("{folder}/{name}");
                let bytes = self.read(&path)?;
                if bytes.chunks(4096).any(|block| block.starts_with(marker)) {
                    return Ok(path);
                }
            }
        }
        bail!("no object holds the marker")
    }

    /// Takes the fs-verity flag of a file away; its bytes stay as they are.
    ///
    /// # Errors
    /// As [`Disk::debugfs`], or the file has none.
    pub fn clear_verity(&self, path: &str) -> Result<()> {
        let inode = self.debugfs(&format!("stat {path}\n"))?;
        let flags = inode
            .split_once("Flags: 0x")
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .context("the inode has no flags")?;
        let flags = u32::from_str_radix(flags, 16)?;
        ensure!(flags & VERITY != 0, "{path} is not sealed");
        let flags = flags & !VERITY;
        self.debugfs(&format!("set_inode_field {path} flags {flags:#x}\n"))
            .map(drop)
    }

    /// Puts a file into the data partition in place of what is there.
    ///
    /// # Errors
    /// As [`Disk::debugfs`].
    pub fn replace(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.replay()?;
        self.debugfs(&format!("rm {path}\n"))?;
        self.write(path, bytes)
    }

    /// Replays the data partition's journal, if there is something in it: what is changed before that, the next mount would
    /// undo. On a copy, and back: e2fsck opens a file system again after a replay, and forgets at which offset it is.
    fn replay(&self) -> Result<()> {
        let data = self.partition("data")?;
        let mut flags = [0; 4];
        let file = self.file()?;
        file.read_exact_at(&mut flags, data.offset.saturating_add(INCOMPATIBLE))?;
        if u32::from_le_bytes(flags) & NEEDS_RECOVERY == 0 {
            return Ok(());
        }
        let copy = self.replayed()?;
        process::run(
            Command::new("dd")
                .arg(format!("if={}", copy.display()))
                .arg(format!("of={}", self.path.display()))
                .args(["bs=1M", "conv=notrunc", "status=none"])
                .arg(format!("seek={}", data.offset >> 20)),
        )
    }

    /// A copy of the data partition whose journal was replayed, as a mount does.
    fn replayed(&self) -> Result<PathBuf> {
        let data = self.partition("data")?;
        let copy = self.folder.path().join("data.ext4");
        process::run(
            Command::new("dd")
                .arg(format!("if={}", self.path.display()))
                .arg(format!("of={}", copy.display()))
                .args(["bs=1M", "conv=sparse", "status=none"])
                .arg(format!("skip={}", data.offset >> 20))
                .arg(format!("count={}", data.size >> 20)),
        )?;
        let mut command = tools::e2fsck()?.command();
        let replay = command.args(["-p", "-E", "journal_only"]).arg(&copy);
        ensure!(
            replay.status().context("cannot start e2fsck")?.code() <= Some(1),
            "the journal cannot be replayed"
        );
        Ok(copy)
    }

    /// Puts a file into the data partition where there is none.
    ///
    /// # Errors
    /// As [`Disk::debugfs`].
    pub fn write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let source = self.folder.path().join("content");
        files::write(&source, bytes)?;
        self.debugfs(&format!("write {} {path}\n", source.display()))
            .map(drop)
    }

    /// A file of the data partition.
    ///
    /// # Errors
    /// As [`Disk::debugfs`], or it is not there.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let to = self.folder.path().join("out");
        std::fs::remove_file(&to).ok();
        self.debugfs(&format!("dump {path} {}\n", to.display()))?;
        files::read(&to)
    }

    /// The names in a folder of the data partition.
    ///
    /// # Errors
    /// As [`Disk::debugfs`].
    pub fn list(&self, folder: &str) -> Result<Vec<String>> {
        let listing = self.debugfs(&format!("ls -p {folder}\n"))?;
        // `/inode/mode/uid/gid/name/size/`
        let names = listing.lines().filter_map(|line| line.split('/').nth(5));
        let real = names.filter(|name| !name.is_empty() && *name != "." && *name != "..");
        Ok(real.map(str::to_owned).collect())
    }

    /// Takes all but `left` of the free blocks of the data partition.
    ///
    /// # Errors
    /// As [`Disk::debugfs`].
    pub fn fill(&self, left: u64) -> Result<()> {
        let stats = self.debugfs("show_super_stats -h\n")?;
        let free = stats
            .lines()
            .find_map(|line| line.strip_prefix("Free blocks:"))
            .and_then(|text| text.trim().parse::<u64>().ok())
            .context("debugfs does not say how many blocks are free")?;
        let blocks = free.saturating_sub(left);
        self.write("/filler", b"x")?;
        let commands = format!("fallocate /filler 1 {}\n", blocks.saturating_sub(1));
        self.debugfs(&commands).map(drop)
    }

    /// The folder of the only revision in the store.
    ///
    /// # Errors
    /// There are none or several.
    pub fn revision_folder(&self) -> Result<String> {
        let mut names = self.list("/revisions")?;
        names.retain(|name| name.len() == 64);
        ensure!(names.len() == 1, "revisions: {names:?}");
        Ok(format!("/revisions/{}", names.join("")))
    }

    /// Whether the data partition's file system is whole; with e2fsck's words if it is not. The journal may hold work.
    ///
    /// # Errors
    /// It is damaged.
    pub fn check_data(&self) -> Result<()> {
        // Replaying the journal is what a mount does; everything else must be clean then.
        let copy = self.replayed()?;
        process::run(tools::e2fsck()?.command().args(["-f", "-n"]).arg(&copy))
    }
}
