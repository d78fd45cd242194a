//! The probe of the store: a write that reaches the disk, and a read that comes from it.

use super::super::Error;
use kedge_sys::rustix::fs::{Advice, fadvise};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// One block.
const LENGTH: usize = 4096;

/// Overwrites the file `probe` in place, brings it to the disk, and reads it back from there: the
/// pages are given up in between, or the read would only test memory.
pub(super) fn probe(directory: &Path, token: u32) -> Result<(), Error> {
    let path = directory.join("probe");
    let failed = |doing, source| Error::File {
        doing,
        path: path.clone(),
        source,
    };
    let file = open(&path).map_err(|source| failed("open", source))?;
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

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
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
