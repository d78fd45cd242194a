//! Contents of all files of an image, in one unnamed temporary file.
//!
//! The file has holes where sparse files have them. It vanishes with the process, however that ends.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::stream::Stretch;

/// Where a file's content lies in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    directory: PathBuf,
    end: u64,
}

impl Spool {
    /// A new spool on the file system of `directory`: `/tmp` may be memory.
    pub(crate) fn new(directory: &Path) -> Result<Self, Error> {
        let file = tempfile::tempfile_in(directory)
            .map_err(Error::io("create a temporary file in", directory))?;
        Ok(Self {
            file,
            directory: directory.to_path_buf(),
            end: 0,
        })
    }

    /// Room for a file of `size` bytes, all zeros.
    pub(crate) fn reserve(&mut self, size: u64) -> Result<Content, Error> {
        let content = Content {
            offset: self.end,
            size,
        };
        self.end = self.end.saturating_add(size);
        self.file
            .set_len(self.end)
            .map_err(Error::io("grow a temporary file in", &self.directory))?;
        Ok(content)
    }

    /// Writes a piece of a reserved file.
    pub(crate) fn write(&self, content: Content, at: u64, bytes: &[u8]) -> Result<(), Error> {
        self.file
            .write_all_at(bytes, content.offset.saturating_add(at))
            .map_err(Error::io("write a temporary file in", &self.directory))
    }

    /// Reads a file from its start.
    pub(crate) fn reader(&self, content: Content) -> Stretch<'_> {
        Stretch::new(&self.file, content.offset, content.size)
    }
}
