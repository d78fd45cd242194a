//! What is refused of a container that is made now, beside what [`Container::check`] refuses of every one.
//!
//! Devices hold revisions that were signed before these rules: they run them as they ever did. So only the host asks this,
//! before it signs ([`crate::revision::Draft::encode`]).

use super::{Container, Lifetime, Volume};
use crate::error::Error;

/// Folders that the engine mounts, whole.
const MOUNTED: [&str; 3] = ["/proc", "/sys", "/dev"];
/// The one place in them for a volume: of lifetime `boot` and a size it is shared memory of more than 64 MiB.
const SHARED_MEMORY: &str = "/dev/shm";

impl Container {
    /// Checks what a new definition must hold to, beside the bounds of [`Container::check`]; `field` is as there.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the path of the field.
    pub fn check_new(&self, field: &str) -> Result<(), Error> {
        self.volumes
            .iter()
            .try_for_each(|(name, volume)| volume.check_new(&format!("{field}.volumes.{name}")))
    }
}

impl Volume {
    fn check_new(&self, field: &str) -> Result<(), Error> {
        let bad = |name: &str, why| Err(Error::invalid(format!("{field}.{name}"), why));
        let path = self.path.as_str();
        if path == "/" {
            return bad(
                "path",
                "is the container's root: `root` says where writes to it go",
            );
        }
        // Two spellings of one path would be two volumes there, one of which nobody sees.
        if path.split('/').skip(1).any(str::is_empty) {
            return bad("path", "ends with a slash, or has two in a row");
        }
        let within = |folder: &&str| {
            let rest = path.strip_prefix(*folder);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if path != SHARED_MEMORY && MOUNTED.iter().any(within) {
            return bad(
                "path",
                "is in /proc, /sys or /dev, which are the device's to fill but for /dev/shm",
            );
        }
        // tmpfs(5): a size of 0 is none.
        if self.lifetime == Lifetime::Boot && self.size == Some(0) {
            return bad("size", "is 0, which in memory is no limit");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Snapshot;

    fn refused(path: &str, size: Option<u64>) -> String {
        let volume = Volume {
            path: path.to_owned(),
            lifetime: Lifetime::Boot,
            owner: None,
            size,
            snapshot: Snapshot::Never,
            snapshot_max: None,
        };
        volume.check("v").unwrap();
        volume
            .check_new("v")
            .map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn a_new_volume_is_at_a_place_of_its_own() {
        for path in [
            "/",
            "//",
            "/data/",
            "/a//b",
            "/proc",
            "/proc/x",
            "/sys/fs",
            "/dev",
            "/dev/kedge",
            "/dev/shm/x",
        ] {
            assert!(refused(path, None).starts_with("v.path: "), "{path}");
        }
        for path in [
            "/data",
            "/dev/shm",
            "/processes",
            "/srv/dev",
            "/system/proc",
        ] {
            assert_eq!(refused(path, None), "", "{path}");
        }
    }

    #[test]
    fn no_bytes_in_memory_are_no_limit_and_are_refused() {
        assert!(refused("/data", Some(0)).contains("v.size: is 0"));
        assert_eq!(refused("/data", Some(1)), "");
    }
}
