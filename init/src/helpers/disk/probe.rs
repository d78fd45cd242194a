//! The probe of the store: a write that reaches the disk, and a read that comes from it.
//!
//! It must hang where the disk hangs, and nowhere else. So it writes one block in place: what changes neither size nor blocks is
//! brought to the disk without committing the file system's transaction, in which others' data may stand. The file's time of change does
//! join the one that is under way, so a probe waits while that is locked, which is short unless the disk hangs.

use super::super::Error;
use kedge_sys::rustix::fs::{Advice, fadvise};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The file's name.
const NAME: &str = "probe";
/// One block.
const LENGTH: usize = 4096;

/// Overwrites the file `probe` in place, brings it to the disk, and reads it back from there: the
/// pages are given up in between, or the read would only test memory.
///
/// # Errors
/// [`Error::File`]; [`Error::ReadBack`] if something else comes back.
pub fn probe(directory: &Path, token: u32) -> Result<(), Error> {
    let path = directory.join(NAME);
    let failed = |doing, source| Error::File {
        doing,
        path: path.clone(),
        source,
    };
    let file = open(directory).map_err(|source| failed("open", source))?;
    let mut written = [0; LENGTH];
    for (to, from) in written
        .iter_mut()
        .zip(token.to_le_bytes().into_iter().cycle())
    {
        *to = from;
    }
    file.write_all_at(&written, 0)
        .map_err(|source| failed("write", source))?;
    file.sync_data().map_err(|source| failed("sync", source))?;
    fadvise(&file, 0, None, Advice::DontNeed)
        .map_err(|errno| failed("drop pages of", errno.into()))?;
    let mut read = [0; LENGTH];
    file.read_exact_at(&mut read, 0)
        .map_err(|source| failed("read", source))?;
    if read == written {
        Ok(())
    } else {
        Err(Error::ReadBack { path })
    }
}

/// Opens the file, which is made if it is absent. To be held for as long as it is probed: of a file that had left the kernel's
/// memory nothing is known of its last change, and the next probe would wait for the transaction of all that is under way
/// (Linux `fs/ext4/inode.c`, `i_datasync_tid` in `ext4_iget`).
///
/// # Errors
/// Those of open(2).
pub fn open(directory: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(directory.join(NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_writes_in_place_and_fails_where_it_cannot() {
        let directory = tempfile::tempdir().unwrap();
        probe(directory.path(), 0x0102_0304).unwrap();
        probe(directory.path(), 0x0506_0708).unwrap();
        let bytes = std::fs::read(directory.path().join("probe")).unwrap();
        assert_eq!(bytes.len(), LENGTH);
        assert_eq!(bytes[..5], [8, 7, 6, 5, 8]);
        let error = probe(&directory.path().join("absent"), 1).unwrap_err();
        assert_eq!(error.errno(), kedge_sys::Errno::NOENT);
    }
}
