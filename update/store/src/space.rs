//! Room on the data partition: the reserve, and whether a revision fits before a byte is fetched.
//!
//! The file system of a device keeps twice the reserve from containers, so that they leave room for an update.

use crate::error::Error;
use kedge_revision::verity::tree_size;
use kedge_sys::rustix::fs::statvfs;
use std::path::Path;

/// The reserve belongs to the system: boot records, logs, the next revision's document.
/// One twentieth of the partition, at least this many bytes.
const LEAST_RESERVE: u64 = 4 << 20;
/// Bytes of a file system block.
const BLOCK: u64 = 4096;
/// What a file costs beside its bytes: an inode and a share of a directory and of an extent tree.
const PER_FILE: u64 = 2 * BLOCK;

/// Room as the kernel tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Size of the file system, bytes.
    pub total: u64,
    /// Free for the system, bytes.
    pub free: u64,
    /// Free for everybody, bytes: without what the file system keeps for the system. Containers have no more.
    pub open: u64,
}

impl Space {
    /// Asks the kernel (statvfs(3)).
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn of(path: &Path) -> Result<Self, Error> {
        let stat = statvfs(path)
            .map_err(|errno| Error::file("ask for the space of", path)(errno.into()))?;
        Ok(Self {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bfree.saturating_mul(stat.f_frsize),
            open: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    /// Room for a program to which nothing is open that the file system keeps for the system.
    #[must_use]
    pub fn of_others(self) -> Self {
        Self {
            free: self.open,
            ..self
        }
    }

    /// Bytes that belong to the system.
    #[must_use]
    pub fn reserve(&self) -> u64 {
        (self.total / 20).max(LEAST_RESERVE)
    }

    /// Bytes that an update may take.
    #[must_use]
    pub fn usable(&self) -> u64 {
        self.free.saturating_sub(self.reserve())
    }

    /// Whether `needed` bytes fit.
    ///
    /// # Errors
    /// [`Error::NoSpace`] with what is missing.
    pub fn check(&self, needed: u64) -> Result<(), Error> {
        let free = self.usable();
        if needed <= free {
            Ok(())
        } else {
            Err(Error::NoSpace { needed, free })
        }
    }
}

/// What an object of `size` bytes takes once it is sealed: its bytes, and its tree from the next
/// 64 KiB boundary on (Linux `fs/ext4/verity.c`). While it is staged its tree stands beside it
/// once more, which the reserve covers.
#[must_use]
pub fn footprint(size: u64) -> u64 {
    let data = size.div_ceil(BLOCK).saturating_mul(BLOCK);
    data.saturating_add(tree_size(size))
        .saturating_add(BLOCK)
        .saturating_add(PER_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_bytes_are_told_exactly() {
        let space = Space {
            total: 100 << 20,
            free: 10 << 20,
            open: 0,
        };
        assert_eq!(space.reserve(), 5 << 20);
        space.check(5 << 20).unwrap();
        let error = space.check((5 << 20) + 7).unwrap_err();
        assert_eq!(error.missing_bytes(), Some(7));
        assert_eq!(space.of_others().usable(), 0);
    }

    #[test]
    fn a_small_partition_keeps_four_mebibytes() {
        let space = Space {
            total: 8 << 20,
            free: 3 << 20,
            open: 3 << 20,
        };
        assert_eq!(space.usable(), 0);
        assert_eq!(space.check(1).unwrap_err().missing_bytes(), Some(1));
    }

    #[test]
    fn a_footprint_holds_data_and_tree() {
        assert_eq!(footprint(0), 3 * BLOCK);
        assert_eq!(footprint(1), 4 * BLOCK);
        assert_eq!(footprint(4097), 2 * BLOCK + BLOCK + 3 * BLOCK);
    }
}
