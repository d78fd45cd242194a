//! The memory of a machine: what a reset leaves alone and a power cut takes.
//!
//! QEMU ends at each reset. A real machine's memory does not: a kernel that panicked left its last words there for
//! the next one. So the memory is a file that the machine's owner holds, and each QEMU maps it. The file has no name
//! and lies in no file system that writes it to a disk (memfd_create(2)): it takes what the guest has touched, and
//! goes with its owner, whatever ends that.

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, memfd_create};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

/// See the module.
#[derive(Debug)]
pub(super) struct Memory(OwnedFd);

impl Memory {
    /// As after power-on: nothing is in it. QEMU gives it its size.
    pub(super) fn new() -> Result<Self> {
        memfd_create("guest memory", MemfdFlags::CLOEXEC)
            .map(Self)
            .context("cannot make the memory of a machine")
    }

    /// Where a process of the same user can open it while this one lives.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.0.as_raw_fd()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_opens_it_finds_what_the_last_one_left() {
        let memory = Memory::new().unwrap();
        crate::files::read(&memory.path())
            .map(|bytes| assert_eq!(bytes, b""))
            .unwrap();
        let file = std::fs::File::options()
            .write(true)
            .open(memory.path())
            .unwrap();
        std::io::Write::write_all(&mut &file, b"last words").unwrap();
        drop(file);
        assert_eq!(crate::files::read(&memory.path()).unwrap(), b"last words");
        let path = memory.path();
        drop(memory);
        assert!(!path.exists());
    }
}
