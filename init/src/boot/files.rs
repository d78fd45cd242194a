//! Small reads and writes of files that the kernel or the image provides, with a bound on each.

use crate::error::Error;
use kedge_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// [`Error::File`]; `EFBIG` for a larger one, of which no more than `most` + 1 bytes were read.
pub(crate) fn read(path: &Path, most: usize) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    if bytes.len() > most {
        return Err(Error::file("read", path)(kedge_sys::Errno::FBIG));
    }
    Ok(bytes)
}

/// Reads a file that may be absent.
///
/// # Errors
/// As [`read`], but for absence.
pub(crate) fn read_if_there(path: &Path, most: usize) -> Result<Option<Vec<u8>>, Error> {
    match read(path, most) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::File {
            errno: kedge_sys::Errno::NOENT,
            ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a setting of the kernel's, in one call as its files ask for.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn set(path: &Path, value: &[u8]) -> Result<(), Error> {
    let file = openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::file("open", path))?;
    File::from(file)
        .write_all(value)
        .map_err(Error::io("write", path))
}
