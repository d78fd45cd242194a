//! A disk image packed with zstd, and its block map beside it: what travels, and what bmaptool copies.
//!
//! The same image gives the same bytes: one thread, one level, and a library that `Cargo.lock` names.

use super::needed;
use crate::files;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// Of zstd's 19 levels: layers are compressed already, and what is left is zeros.
const LEVEL: i32 = 9;

/// What was made of an image.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Packed {
    /// The packed image.
    pub path: PathBuf,
    /// Its size, bytes.
    pub size: u64,
    /// The block map.
    pub map: PathBuf,
    /// What has to come onto a medium, bytes.
    pub mapped: u64,
}

/// `IMAGE.zst`.
#[must_use]
pub fn path(image: &Path) -> PathBuf {
    with(image, ".zst")
}

/// Where an image's map is, packed or not: `IMAGE.bmap`, which bmaptool finds by itself.
#[must_use]
pub fn map_path(image: &Path) -> PathBuf {
    match image.extension() {
        Some(kind) if kind == "zst" => with(&image.with_extension(""), ".bmap"),
        Some(_) | None => with(image, ".bmap"),
    }
}

fn with(path: &Path, end: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(end);
    path.into()
}

/// Packs a disk image and makes its map. What was there is replaced only when the new one is whole.
///
/// # Errors
/// It is no disk image of ours, or the files cannot be written.
pub fn pack(image: &Path) -> Result<Packed> {
    let map = needed::map(image)
        .with_context(|| format!("cannot make the block map of {}", image.display()))?;
    let (path, map_path) = (path(image), map_path(image));
    let new = files::temporary(&path);
    let packed = squeeze(image, &new, map.size()).and_then(|()| files::publish(&new, &path));
    if packed.is_err() {
        // It may not have come so far as to be there.
        std::fs::remove_file(&new).ok();
    }
    packed.with_context(|| format!("cannot make {}", path.display()))?;
    files::write(&map_path, map.encode())?;
    let size = path.metadata().map(|data| data.len());
    Ok(Packed {
        size: size.with_context(|| format!("cannot look at {}", path.display()))?,
        path,
        mapped: map.mapped(),
        map: map_path,
    })
}

fn squeeze(image: &Path, to: &Path, size: u64) -> Result<()> {
    let source = File::open(image).with_context(|| format!("cannot open {}", image.display()))?;
    let target = File::create(to).context("cannot make a file there")?;
    let mut encoder = zstd::Encoder::new(&target, LEVEL).context("cannot begin")?;
    // The size goes into the head, so that whoever writes it knows early that it does not fit.
    encoder
        .set_pledged_src_size(Some(size))
        .and_then(|()| encoder.include_contentsize(true))
        .and_then(|()| encoder.include_checksum(true))
        .context("cannot begin")?;
    std::io::copy(&mut BufReader::with_capacity(1 << 20, source), &mut encoder)
        .and_then(|_| encoder.finish())
        .context("cannot pack it")?;
    target.sync_all().context("cannot keep it")
}

#[cfg(test)]
mod tests;
