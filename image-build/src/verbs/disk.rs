//! A disk image read without being mounted: its partitions, boot record and the documents and objects of its store.

use crate::image::gpt::{self, Partition};
use crate::{files, process, tools};
use anyhow::{Context, Result, ensure};
use kedge_board_support::bootenv::{Bootenv, Found};
use kedge_revision::ObjectId;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// An opened disk image.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    file: File,
    pub(super) partitions: Vec<Partition>,
}

impl Disk {
    /// The disk image at a path, `None` if the file is something else.
    pub(super) fn open(path: &Path) -> Result<Option<Self>> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut magic = [0; 8];
        if file.read_exact_at(&mut magic, 512).is_err() || &magic != b"EFI PART" {
            return Ok(None);
        }
        let partitions = gpt::read(&file)
            .with_context(|| format!("cannot use the disk image {}", path.display()))?;
        Ok(Some(Self {
            path: path.to_owned(),
            file,
            partitions,
        }))
    }

    /// Both records in both copies.
    pub(super) fn boot_record(&self) -> Result<Found> {
        let env = gpt::find(&self.partitions, "bootenv")?;
        let (_, found) = Bootenv::open_at(&self.file, env.offset, env.record)
            .context("cannot read the boot record")?;
        Ok(found)
    }

    /// A file of the data partition; empty if it is not there.
    pub(super) fn read(&self, path: &str) -> Result<Vec<u8>> {
        self.ask(&format!("cat {path}"))
    }

    /// A document of the data partition.
    pub(super) fn document(&self, path: &str) -> Result<Vec<u8>> {
        let bytes = self.read(path)?;
        ensure!(
            !bytes.is_empty(),
            "the data partition of {} has no {path}",
            self.path.display()
        );
        Ok(bytes)
    }

    /// Copies an object out to a file.
    pub(super) fn copy_object(&self, id: ObjectId, to: &Path) -> Result<()> {
        let hex = id.hex();
        let shard: String = hex.chars().take(2).collect();
        // In quotation marks, since debugfs takes a blank for the end of a word; one of those within is written twice.
        let to_quoted = to.display().to_string().replace('"', "\"\"");
        self.ask(&format!("dump /objects/v1/{shard}/{hex} \"{to_quoted}\""))?;
        ensure!(
            to.exists(),
            "object {id} is missing in {}",
            self.path.display()
        );
        Ok(())
    }

    /// The ids of the revisions in the store.
    pub(super) fn revisions(&self) -> Result<Vec<String>> {
        let listing =
            String::from_utf8(self.ask("ls -p /revisions")?).context("the listing is not UTF-8")?;
        // `/inode/mode/uid/gid/name/size/`
        let names = listing.lines().filter_map(|line| line.split('/').nth(5));
        let id = |name: &&str| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        Ok(names.filter(id).map(str::to_owned).collect())
    }

    /// Writes a file that its owner root alone may read, and makes sure that it is there. Its folder must be.
    pub(super) fn put_private(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let from = folder.path().join("file");
        files::write_private(&from, bytes)?;
        let data = gpt::find(&self.partitions, "data")?;
        let place = format!("{}?offset={}", self.path.display(), data.offset);
        let commands = folder.path().join("commands");
        let text = format!(
            "rm {path}\nwrite {} {path}\nset_inode_field {path} mode 0100600\nset_inode_field {path} uid 0\nset_inode_field {path} gid 0\n",
            from.display()
        );
        files::write(&commands, text)?;
        let mut command = tools::debugfs()?.command();
        command.arg("-w").arg("-f").arg(&commands).arg(&place);
        process::output(&mut command).with_context(|| {
            format!(
                "cannot write to the data partition of {}",
                self.path.display()
            )
        })?;
        // debugfs does not count for quotas; e2fsck counts anew.
        let mut command = tools::e2fsck()?.command();
        let checked = command.args(["-f", "-p"]).arg(&place).output();
        let checked = checked.context("cannot start e2fsck")?;
        ensure!(
            matches!(checked.status.code(), Some(0 | 1)),
            "the file system on {} is damaged: {}",
            self.path.display(),
            String::from_utf8_lossy(&checked.stdout)
        );
        ensure!(
            self.read(path)? == bytes,
            "the data partition of {} did not take {path}",
            self.path.display()
        );
        Ok(())
    }

    fn ask(&self, request: &str) -> Result<Vec<u8>> {
        let data = gpt::find(&self.partitions, "data")?;
        let place = format!("{}?offset={}", self.path.display(), data.offset);
        process::output(tools::debugfs()?.command().args(["-R", request]).arg(place))
            .with_context(|| format!("cannot read the data partition of {}", self.path.display()))
    }
}
