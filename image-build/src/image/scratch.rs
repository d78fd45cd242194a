//! A folder for what an image is put together from: beside the image, so that the finished file is renamed and not
//! copied, and removed whatever happens.

use crate::files;
use anyhow::{Context, Result};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub(super) struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    pub(super) fn beside(out: &Path) -> Result<Self> {
        let folder = files::temporary(out);
        files::remove_folder(&folder)?;
        files::make_folder(&folder)?;
        Ok(Self { folder })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        files::make_folder(&path)?;
        Ok(path)
    }

    pub(super) fn create(&self, path: &Path) -> Result<File> {
        File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .with_context(|| format!("cannot make {}", path.display()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // An error here would hide the one that matters; what is left over is removed by the next build.
        files::remove_folder(&self.folder).ok();
    }
}

/// Sets a mode whatever the caller's umask is.
pub(super) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}
