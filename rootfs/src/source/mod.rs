//! Where an image comes from: what kind of thing a path is, and which layers and configuration it has for a board.
//!
//! Kinds are told by content, or named: `oci:`, `oci-archive:`, `docker-archive:`, `dir:`, `tar:`. Archives may be compressed.
//! Nothing is unpacked to disk; an archive that is compressed is decompressed once into an unnamed temporary file.

mod docker;
mod layout;
mod store;
pub(crate) mod walk;

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) use store::Store;

use crate::bounds::Bounds;
use crate::error::Error;
use crate::options::ImportOptions;

/// An opened image. Its content is judged by [`crate::import`] only.
#[derive(Debug)]
pub struct Source {
    kind: SourceKind,
}

#[derive(Debug)]
pub(crate) enum SourceKind {
    /// OCI image layout, as a directory or in a tar.
    Layout(Store),
    /// `docker save`.
    Docker(Store),
    /// A root file system as a directory.
    Directory(PathBuf),
    /// A root file system as a tar: one layer without configuration.
    Tar(PathBuf),
}

/// One layer to unpack.
#[derive(Debug, Clone)]
pub(crate) struct LayerRef {
    /// Name of the blob in the store.
    pub(crate) name: String,
    /// Digest and size that the manifest states; docker archives state none.
    pub(crate) stated: Option<(String, u64)>,
    /// Digest of the uncompressed layer.
    pub(crate) diff_id: String,
}

/// What the manifest for the board says.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) layers: Vec<LayerRef>,
    /// The OCI image configuration's bytes.
    pub(crate) config: Vec<u8>,
}

impl Source {
    /// Opens an image by path, with or without its kind in front (`oci:./image`). Reads an archive once to find its members.
    ///
    /// # Errors
    /// [`Error::UnknownSource`] if there is nothing, or not what was named; [`Error::Tar`], [`Error::Bound`] and
    /// [`Error::Decompress`] for a damaged archive.
    pub fn open(name: &str, bounds: &Bounds) -> Result<Self, Error> {
        let kind = match name.split_once(':') {
            Some(("oci", path)) => SourceKind::Layout(Store::folder(Path::new(path))?),
            Some(("oci-archive", path)) => {
                SourceKind::Layout(Store::archive(Path::new(path), bounds)?)
            }
            Some(("docker-archive", path)) => {
                SourceKind::Docker(Store::archive(Path::new(path), bounds)?)
            }
            Some(("dir", path)) => SourceKind::Directory(directory(Path::new(path))?),
            Some(("tar", path)) => SourceKind::Tar(file(Path::new(path))?),
            _ => detect(Path::new(name), bounds)?,
        };
        let source = Self { kind };
        source.check(name)?;
        Ok(source)
    }

    pub(crate) fn kind(&self) -> &SourceKind {
        &self.kind
    }

    /// Finds the image for the board. `None` for a root file system, which says nothing about itself.
    pub(crate) fn resolve(&self, options: &ImportOptions) -> Result<Option<Resolved>, Error> {
        match &self.kind {
            SourceKind::Layout(store) => layout::resolve(store, options).map(Some),
            SourceKind::Docker(store) => docker::resolve(store, options).map(Some),
            SourceKind::Directory(_) | SourceKind::Tar(_) => Ok(None),
        }
    }

    fn check(&self, name: &str) -> Result<(), Error> {
        let (store, wanted, why) = match &self.kind {
            SourceKind::Layout(store) => (
                store,
                "index.json",
                "it has no index.json of an OCI image layout",
            ),
            SourceKind::Docker(store) => (
                store,
                "manifest.json",
                "it has no manifest.json of `docker save`",
            ),
            SourceKind::Directory(_) | SourceKind::Tar(_) => return Ok(()),
        };
        if store.has(wanted) {
            return Ok(());
        }
        Err(Error::UnknownSource {
            path: PathBuf::from(name),
            why,
        })
    }
}

fn detect(path: &Path, bounds: &Bounds) -> Result<SourceKind, Error> {
    let metadata = fs::metadata(path).map_err(Error::io("open", path))?;
    if metadata.is_dir() {
        let layout = path.join("oci-layout").is_file() || path.join("index.json").is_file();
        return Ok(if layout {
            SourceKind::Layout(Store::folder(path)?)
        } else {
            SourceKind::Directory(path.to_path_buf())
        });
    }
    if !metadata.is_file() {
        return Err(Error::UnknownSource {
            path: path.to_path_buf(),
            why: "it is neither a file nor a directory",
        });
    }
    if !store::looks_like_image_archive(path, bounds)? {
        return Ok(SourceKind::Tar(path.to_path_buf()));
    }
    let store = Store::archive(path, bounds)?;
    // Docker since 25 writes both; the layout states sizes and digests.
    Ok(if store.has("oci-layout") && store.has("index.json") {
        SourceKind::Layout(store)
    } else if store.has("manifest.json") {
        SourceKind::Docker(store)
    } else {
        SourceKind::Tar(path.to_path_buf())
    })
}

fn directory(path: &Path) -> Result<PathBuf, Error> {
    if fs::metadata(path)
        .map_err(Error::io("open", path))?
        .is_dir()
    {
        return Ok(path.to_path_buf());
    }
    Err(Error::UnknownSource {
        path: path.to_path_buf(),
        why: "it is no directory",
    })
}

fn file(path: &Path) -> Result<PathBuf, Error> {
    if fs::metadata(path)
        .map_err(Error::io("open", path))?
        .is_file()
    {
        return Ok(path.to_path_buf());
    }
    Err(Error::UnknownSource {
        path: path.to_path_buf(),
        why: "it is no file",
    })
}
