//! Writing bundles (`kedge_revision::bundle` is the format; [`Payload::open`] reads them).
//!
//! Every block is judged on its way into the file, so that a bundle is never worse than what it was made from. The same
//! revision and parameters give the same bytes.

use crate::files;
use crate::payload::Payload;
use anyhow::{Context, Result};
use kedge_revision::bundle::{END, Kind, MAGIC, Section};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes written at a time.
const PIECE: usize = 256 * 1024;

/// Whether a file begins as a bundle does.
///
/// # Errors
/// It cannot be read.
pub fn is_bundle(path: &Path) -> Result<bool> {
    let cannot = || format!("cannot read {}", path.display());
    let mut first = Vec::new();
    File::open(path)
        .with_context(cannot)?
        .take(u64::try_from(MAGIC.len()).unwrap_or(u64::MAX))
        .read_to_end(&mut first)
        .with_context(cannot)?;
    Ok(first == MAGIC)
}

/// Writes a bundle, whole or not at all; `progress` is told of bytes as they are written. Returns its size.
///
/// One with parameters is for its owner's eyes alone: they may be secrets.
///
/// # Errors
/// An object is damaged or cannot be read, or the file cannot be written.
pub fn write(payload: &Payload, out: &Path, progress: &mut dyn FnMut(u64)) -> Result<u64> {
    if let Some(folder) = out.parent() {
        files::make_folder(folder)?;
    }
    let mode = if payload.head().parameters.is_some() {
        0o600
    } else {
        0o644
    };
    let new = files::temporary(out);
    // In a container ids come again: a run that was killed may have had ours.
    std::fs::remove_file(&new).ok();
    let written = write_to(payload, &new, mode, progress)
        .with_context(|| format!("cannot write {}", out.display()))
        .and_then(|()| files::publish(&new, out));
    if written.is_err() {
        // The first error counts.
        std::fs::remove_file(&new).ok();
    }
    written.map(|()| payload.bundle_size())
}

fn write_to(
    payload: &Payload,
    path: &Path,
    mode: u32,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .context("cannot make the file")?;
    let mut out = BufWriter::with_capacity(PIECE, file);
    let mut put = |bytes: &[u8]| {
        progress(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        out.write_all(bytes).context("cannot write")
    };
    put(&payload.head().encode())?;
    for (id, object) in &payload.envelope().objects {
        let tree = payload.tree(*id)?;
        let length = u64::try_from(tree.len()).context("a tree is too large")?;
        put(&Section::of_object(Kind::Tree, *id, length))?;
        put(&tree)?;
        put(&Section::of_object(Kind::Object, *id, object.size))?;
        payload.blocks(*id, &tree, &mut put)?;
    }
    put(&END)?;
    out.flush().context("cannot write")
}
