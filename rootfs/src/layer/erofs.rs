//! A normalised tree into an EROFS image, by mkfs.erofs (1.8.6; 1.5 cannot read a tar).
//!
//! The tar goes through a pipe, so that it exists nowhere. What makes the image reproducible: a fixed UUID, `SOURCE_DATE_EPOCH`
//! behind the latest file (earlier, mkfs clamps all times to it), the tree's order. `--aufs` turns whiteouts and opaque marks
//! into overlayfs's own.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kedge_revision::ObjectId;
use kedge_revision::verity;

use super::emit;
use super::spool::Spool;
use super::tree::Tree;
use crate::bounds::len;
use crate::error::Error;

/// Layers have no identity but their digest.
const UUID: &str = "6b656467-6500-4c61-8965-720000000000";

/// Runs mkfs.erofs for a tree.
pub(crate) fn make(
    mkfs: &[OsString],
    tree: &Tree,
    spool: &Spool,
    image: &Path,
) -> Result<(), Error> {
    let command = mkfs
        .iter()
        .map(|a| a.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ");
    let failed = |why: String| Error::Mkfs {
        command: command.clone(),
        why,
    };
    let (program, arguments) = mkfs
        .split_first()
        .ok_or_else(|| failed("no command was given".to_owned()))?;
    let directory = image
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut messages = tempfile::tempfile_in(directory)
        .map_err(Error::io("create a temporary file in", directory))?;
    let stderr = messages
        .try_clone()
        .map_err(Error::io("open a temporary file in", directory))?;
    let mut child = Command::new(program)
        .args(arguments)
        .args(["--quiet", "--tar=f", "--aufs", "-b4096", "-U", UUID].map(OsStr::new))
        .arg(image)
        .env("SOURCE_DATE_EPOCH", emit::latest(tree).to_string())
        .env("LC_ALL", "C")
        .env("TMPDIR", directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let written = feed(&mut child, tree, spool);
    let status = child.wait().map_err(|e| failed(e.to_string()))?;
    if !status.success() {
        return Err(failed(format!("{status}: {}", last_words(&mut messages))));
    }
    written.map_err(|e| failed(format!("its input: {e}")))
}

/// Writes the tar and closes the pipe. That mkfs closed it first shows in its status.
fn feed(child: &mut Child, tree: &Tree, spool: &Spool) -> io::Result<()> {
    let stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut sink = BufWriter::with_capacity(256 << 10, stdin);
    emit::write(tree, spool, &mut sink)?;
    sink.flush()
}

fn last_words(messages: &mut File) -> String {
    const ENOUGH: u64 = 2000;
    let mut text = Vec::new();
    let start = messages
        .stream_position()
        .map_or(0, |end| end.saturating_sub(ENOUGH));
    let read = messages
        .seek(io::SeekFrom::Start(start))
        .and_then(|_| messages.take(ENOUGH).read_to_end(&mut text));
    match read {
        Ok(_) => String::from_utf8_lossy(&text).trim().to_owned(),
        Err(e) => format!("(its messages cannot be read: {e})"),
    }
}

/// Size and fs-verity digest of a file.
pub(crate) fn measure(path: &Path) -> Result<(u64, ObjectId), Error> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut builder = verity::Builder::new();
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        let read = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if read == 0 {
            return Ok((size, builder.finish().id));
        }
        builder.update(buffer.get(..read).unwrap_or_default());
        size += len(read);
    }
}
