//! The copy of the tree in which faults are planted. What is the same stays as it is, so that cargo compiles only what
//! has changed since the last time.

use super::faults::Fault;
use super::inside;
use anyhow::{Context, Result};
use kedge_image_build::{files, process};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The copy.
#[derive(Debug)]
pub(super) struct Tree {
    top: PathBuf,
    digest: String,
}

impl Tree {
    /// Makes the copy what the clone is, as git lists it: with what is not committed, without what is built.
    ///
    /// # Errors
    /// Git or the disk.
    pub(super) fn copy(clone: &Path, top: &Path) -> Result<Self> {
        let mut command = Command::new("git");
        command.current_dir(clone).args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]);
        let listing = String::from_utf8(process::output(&mut command)?)
            .context("a path of the tree is not UTF-8")?;
        let mut here = BTreeSet::new();
        let mut digest = Sha256::new();
        for path in listing.split('\0').filter(|path| !path.is_empty()) {
            let (from, to) = (clone.join(path), inside(top, path)?);
            // What is listed and gone was deleted and not yet committed.
            if !from.is_file() {
                continue;
            }
            here.insert(to.clone());
            let bytes = files::read(&from)?;
            // What a test compiles or reads may be anything but prose, of which it reads only what has to be there.
            if from.extension().is_none_or(|extension| extension != "md") {
                digest.update(path);
                digest.update(Sha256::digest(&bytes));
            }
            if std::fs::read(&to).ok().as_ref() != Some(&bytes) {
                if let Some(folder) = to.parent() {
                    files::make_folder(folder)?;
                }
                files::write(&to, bytes)?;
            }
        }
        prune(top, &here)?;
        Ok(Self {
            top: top.to_owned(),
            digest: digest
                .finalize()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        })
    }

    /// Where it is.
    pub(super) fn top(&self) -> &Path {
        &self.top
    }

    /// What the code in it is, in hex: what was found out about it holds as long as this is the same.
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    /// Plants a fault, for as long as what is returned lives.
    ///
    /// # Errors
    /// The disk, or what is to be replaced is not there once.
    pub(super) fn plant(&self, fault: &Fault) -> Result<Planted> {
        let path = inside(&self.top, &fault.file)?;
        let before = files::read_text(&path)?;
        files::write(&path, fault.applied_to(&before)?)?;
        Ok(Planted { path, before })
    }
}

/// Removes what the clone has no more.
fn prune(folder: &Path, here: &BTreeSet<PathBuf>) -> Result<()> {
    for path in files::list(folder)? {
        if path.is_dir() {
            prune(&path, here)?;
        } else if !here.contains(&path) {
            std::fs::remove_file(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// A planted fault; taken away when it is dropped. If that fails, the next copy does it.
#[derive(Debug)]
pub(super) struct Planted {
    path: PathBuf,
    before: String,
}

impl Drop for Planted {
    fn drop(&mut self) {
        files::write(&self.path, &self.before).ok();
    }
}
