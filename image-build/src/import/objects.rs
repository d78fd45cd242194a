//! The files of a Pantavisor state: a checkout of `pvr`, a folder or an archive of its export.
//!
//! ```text
//! json                the state; .pvr/json in a checkout
//! objects/<sha256>    its files; .pvr/objects/ in a checkout
//! ```

use super::pantavisor;
use crate::{files, tools};
use anyhow::{Context, Result, bail, ensure};
use flate2::read::MultiGzDecoder;
use kedge_revision::id;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Largest object, bytes: a root file system.
const MOST_OBJECT: u64 = 4 << 30;
/// Largest archive of a root file system, bytes.
const MOST_ARCHIVE: u64 = 8 << 30;
/// All of an archive together, unpacked.
const MOST_TOTAL: u64 = 16 << 30;
/// Most entries of an archive.
const MOST_ENTRIES: usize = 20_000;
/// Largest text, bytes: a configuration has a few kilobytes.
const MOST_TEXT: u64 = 1024 * 1024;

/// An opened state.
#[derive(Debug)]
pub struct Objects {
    json: PathBuf,
    objects: PathBuf,
    /// Where an archive was unpacked; goes with it.
    _unpacked: Option<tempfile::TempDir>,
}

impl Objects {
    /// Opens a folder, or unpacks the state and the objects of an archive into a folder below `scratch`.
    ///
    /// # Errors
    /// There is no state in it, or it is beyond a bound.
    pub fn open(path: &Path, scratch: &Path) -> Result<Self> {
        if path.is_dir() {
            return Self::at(path, None);
        }
        files::make_folder(scratch)?;
        let folder = tempfile::tempdir_in(scratch).context("cannot make a folder")?;
        unpack(path, folder.path()).with_context(|| format!("cannot read {}", path.display()))?;
        let place = folder.path().to_owned();
        Self::at(&place, Some(folder))
    }

    fn at(folder: &Path, unpacked: Option<tempfile::TempDir>) -> Result<Self> {
        for place in [folder.to_owned(), folder.join(".pvr")] {
            let json = place.join("json");
            if json.is_file() {
                return Ok(Self {
                    json,
                    objects: place.join("objects"),
                    _unpacked: unpacked,
                });
            }
        }
        bail!(
            "{} holds no state: neither json nor .pvr/json",
            folder.display()
        )
    }

    /// The state's bytes.
    ///
    /// # Errors
    /// They cannot be read, or are too many.
    pub fn state(&self) -> Result<Vec<u8>> {
        let most = u64::try_from(pantavisor::CAP).unwrap_or(u64::MAX);
        bounded(&self.json, most)
    }

    /// The text of an object.
    ///
    /// # Errors
    /// It is not there, not what its name says, too long, or no UTF-8.
    pub fn text(&self, path: &str, hash: &str) -> Result<String> {
        let bytes = bounded(&self.place(path, hash)?, MOST_TEXT)?;
        ensure!(
            id::hex(&Sha256::digest(&bytes)) == hash,
            "{path}: the object {hash} has another SHA-256"
        );
        String::from_utf8(bytes).with_context(|| format!("{path} is not UTF-8"))
    }

    /// Writes a root file system as a tar, with the owners and modes that the squashfs has.
    ///
    /// # Errors
    /// The object is not there, not what its name says, or no squashfs.
    pub fn root(&self, path: &str, hash: &str, tar: &Path) -> Result<()> {
        let place = self.place(path, hash)?;
        let mut file =
            File::open(&place).with_context(|| format!("cannot read {}", place.display()))?;
        ensure!(
            file.metadata()?.len() <= MOST_OBJECT,
            "{path} has over {MOST_OBJECT} bytes"
        );
        let mut sum = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = file.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            sum.update(bytes);
        }
        ensure!(
            id::hex(&sum.finalize()) == hash,
            "{path}: the object {hash} has another SHA-256"
        );
        if let Some(folder) = tar.parent() {
            files::make_folder(folder)?;
        }
        let new = files::temporary(tar);
        let out = File::create(&new).with_context(|| format!("cannot write {}", new.display()))?;
        let tool = tools::sqfs2tar()?;
        let mut command = tool.command();
        let made = archived(command.arg(&place), out)
            .with_context(|| format!("{path} is no squashfs that can be read"));
        if made.is_err() {
            // The error that counts is the first one.
            std::fs::remove_file(&new).ok();
        }
        made?;
        files::publish(&new, tar)
    }

    fn place(&self, path: &str, hash: &str) -> Result<PathBuf> {
        ensure!(is_hash(hash), "{path}: `{hash}` is no SHA-256");
        let place = self.objects.join(hash);
        ensure!(place.is_file(), "{path}: the object {hash} is not there");
        Ok(place)
    }
}

/// Runs what writes an archive to its standard output, as long as that stays below [`MOST_ARCHIVE`]: a squashfs of zeros
/// grows a thousandfold.
fn archived(command: &mut Command, mut out: File) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let from = child.stdout.take().context("no output")?;
    let copied = std::io::copy(&mut from.take(MOST_ARCHIVE + 1), &mut out);
    if !matches!(copied, Ok(bytes) if bytes <= MOST_ARCHIVE) {
        child.kill()?;
    }
    let status = child.wait()?;
    ensure!(
        copied? <= MOST_ARCHIVE,
        "it unpacks to over {MOST_ARCHIVE} bytes"
    );
    ensure!(status.success(), "sqfs2tar: {status}");
    Ok(())
}

fn is_hash(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn bounded(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    ensure!(
        u64::try_from(bytes.len()).is_ok_and(|length| length <= most),
        "{} has over {most} bytes",
        path.display()
    );
    Ok(bytes)
}

/// The state and the objects of an archive; nothing else of it is unpacked, and no name of its own choice.
fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    let mut file = File::open(archive)?;
    let mut magic = [0; 2];
    let length = file.read(&mut magic)?;
    let whole = magic.get(..length).unwrap_or_default().chain(file);
    let reader: Box<dyn Read> = if magic == [0x1f, 0x8b] {
        Box::new(MultiGzDecoder::new(whole))
    } else {
        Box::new(whole)
    };
    files::make_folder(&folder.join("objects"))?;
    let mut total = 0_u64;
    let mut tar = tar::Archive::new(reader.take(MOST_TOTAL));
    for (number, entry) in tar.entries()?.enumerate() {
        ensure!(number < MOST_ENTRIES, "it has over {MOST_ENTRIES} entries");
        // Without the crate's own words, which show what the file holds.
        let entry = entry.ok();
        let mut entry = entry.context("it is no tar archive, or a damaged one")?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let path = path.trim_start_matches("./");
        let path = path.strip_prefix(".pvr/").unwrap_or(path);
        let hash = path.strip_prefix("objects/").filter(|name| is_hash(name));
        if !entry.header().entry_type().is_file() || (hash.is_none() && path != "json") {
            continue;
        }
        total = total.saturating_add(entry.size());
        ensure!(
            entry.size() <= MOST_OBJECT && total <= MOST_TOTAL,
            "{path} is too large"
        );
        let place = folder.join(path);
        let mut out =
            File::create(&place).with_context(|| format!("cannot write {}", place.display()))?;
        std::io::copy(&mut entry, &mut out).with_context(|| format!("cannot unpack {path}"))?;
        out.flush()?;
    }
    Ok(())
}
