//! How much may wait in memory to be written to disks.
//!
//! By itself the kernel lets a fifth of the memory wait, which a slow card takes minutes for, and an end of the device waits ten seconds
//! (`last_resort.rs`). Until a transaction of the file system is on the disk, so long does everybody wait who syncs.

use super::cgroups::total_memory;
use super::files;
use crate::error::Error;
use std::path::Path;

/// What a card of speed class 4 writes within ten seconds is 40 MB.
const MOST: u64 = 32 << 20;

/// Bytes from which on who writes is slowed down to the disk's pace: a sixteenth of the memory, as containers leave it to the device
/// (`cgroups.rs`), but no more than [`MOST`].
fn most(total: u64) -> u64 {
    (total / 16).min(MOST)
}

/// Sets that bound, and half of it for when the kernel begins to write by itself, which is its own proportion (Linux
/// `Documentation/admin-guide/sysctl/vm.rst`).
///
/// # Errors
/// [`Error::File`].
pub(crate) fn bound() -> Result<(), Error> {
    let meminfo = files::read(Path::new("/root/proc/meminfo"), 16 * 1024)?;
    let Some(total) = total_memory(&String::from_utf8_lossy(&meminfo)) else {
        return Ok(());
    };
    let most = most(total);
    let set = |name: &str, bytes: u64| {
        let path = format!("/root/proc/sys/vm/{name}");
        files::set(Path::new(&path), bytes.to_string().as_bytes())
    };
    set("dirty_bytes", most)?;
    set("dirty_background_bytes", most / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_follows_memory_up_to_what_a_slow_card_takes() {
        assert_eq!(most(32 << 20), 2 << 20);
        assert_eq!(most(256 << 20), 16 << 20);
        assert_eq!(most(64 << 30), 32 << 20);
    }
}
