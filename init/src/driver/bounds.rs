//! Limits of a container beside what this machine has.

use crate::boot::{DATA, files};
use crate::error::Error;
use kedge_container::quota;
use kedge_revision::container::{Lifetime, Limits};
use kedge_revision::{Container, Content, Name};
use kedge_sys::Errno;
use kedge_sys::rustix::fs::{major, minor};
use kedge_sys::rustix::thread::sched_getaffinity;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whole disks and their partitions by number (Linux `Documentation/admin-guide/sysfs-rules.rst`).
const BLOCK_DEVICES: &str = "/sys/dev/block";
/// What all containers together may take.
const MEMORY: &str = "/sys/fs/cgroup/containers/memory.max";

/// What all containers together are spared, whatever the device needs.
const KEPT: &str = "/sys/fs/cgroup/containers/memory.min";

/// Has the kernel keep for all containers together what it is to keep for each: of a group in another one it keeps no more
/// than for that (Linux `Documentation/admin-guide/cgroup-v2.rst`, "memory.min").
///
/// # Errors
/// The kernel's file.
pub(super) fn keep(content: &Content) -> Result<(), Error> {
    let all = content.containers.values();
    let sum = sum(all.map(|container| &container.limits));
    match files::set(Path::new(KEPT), sum.to_string().as_bytes()) {
        // Without such a controller a container that asks for it is refused.
        Err(Error::File {
            errno: Errno::NOENT,
            ..
        }) => Ok(()),
        other => other,
    }
}

fn sum<'a>(all: impl Iterator<Item = &'a Limits>) -> u64 {
    let kept = all.filter_map(|limits| limits.memory_min);
    kept.fold(0, u64::saturating_add)
}

/// What the machine has to give.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Machine {
    /// Bytes of memory for all containers; absent where nothing bounds them.
    memory: Option<u64>,
    /// Bytes that are to be kept for all of them together, see [`keep`].
    kept: u64,
    /// Processors.
    processors: u32,
}

impl Machine {
    pub(super) fn look() -> Self {
        let number = |path| {
            let text = std::fs::read_to_string(path).ok()?;
            text.trim().parse().ok()
        };
        let processors = sched_getaffinity(None);
        Self {
            memory: number(MEMORY),
            kept: number(KEPT).unwrap_or(0),
            processors: processors.map_or(1, |set| set.count()),
        }
    }

    /// Judges a container's limits; tells those that bound nothing here.
    ///
    /// # Errors
    /// What is to be kept for it and cannot be, in words.
    pub(super) fn judge(self, limits: &Limits) -> Result<Vec<String>, String> {
        let mut notes = Vec::new();
        if let Some(memory) = self.memory {
            if let Some(least) = limits.memory_min.filter(|least| *least > memory) {
                return Err(format!(
                    "limits.memory-min: {least} bytes cannot be kept for it: containers have {memory} on this device"
                ));
            }
            if limits.memory_min.is_some() && self.kept > memory {
                // They may never run at once, as a job before what needs it.
                notes.push(format!(
                    "limits.memory-min: {} bytes are to be kept for all containers together, which have {memory} on this device: each is kept a part",
                    self.kept
                ));
            }
            for (key, most) in [
                ("memory-max", limits.memory_max),
                ("memory-high", limits.memory_high),
            ] {
                if let Some(most) = most.filter(|most| *most > memory) {
                    notes.push(format!(
                        "limits.{key}: {most} bytes bound nothing: containers have {memory} on this device"
                    ));
                }
            }
        }
        let all = self.processors.saturating_mul(100);
        if let Some(percent) = limits.cpu_max_percent.filter(|percent| *percent > all) {
            notes.push(format!(
                "limits.cpu-max-percent: {percent} bounds nothing: this device has {all}"
            ));
        }
        Ok(notes)
    }
}

/// Major and minor number of the whole disk that data is on.
pub(super) fn disk() -> Option<(u32, u32)> {
    let device = std::fs::metadata(DATA).ok()?.dev();
    let numbers = (major(device), minor(device));
    let own = Path::new(BLOCK_DEVICES).join(format!("{}:{}", numbers.0, numbers.1));
    if !own.join("partition").exists() {
        return own.exists().then_some(numbers);
    }
    // The kernel follows the link before it goes up: to the disk.
    let text = std::fs::read_to_string(own.join("../dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Volumes with a size whose directories were filled before sizes were held: what is in them stays usable, and nobody
/// counts it.
pub(super) fn unbounded(definition: &Container, volumes: &BTreeMap<Name, &Path>) -> Vec<String> {
    let sized = definition.volumes.iter().filter(|(_, volume)| {
        volume.size.is_some() && matches!(volume.lifetime, Lifetime::Permanent | Lifetime::Revision)
    });
    sized
        .filter_map(|(name, _)| {
            let path = volumes.get(name)?;
            let is_uncounted = quota::is_uncounted(path)?;
            is_uncounted.then(|| {
                format!("volume {name}: its size is not held: it was filled before sizes were")
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_each_is_kept_for_all() {
        let of = |memory_min| Limits {
            memory_min,
            ..Limits::default()
        };
        let all = [of(Some(3)), of(None), of(Some(4))];
        assert_eq!(sum(all.iter()), 7);
        assert_eq!(sum([of(Some(u64::MAX)), of(Some(1))].iter()), u64::MAX);
        assert_eq!(sum([].iter()), 0);
    }

    #[test]
    fn limits_beyond_the_machine_are_told_and_what_cannot_be_kept_is_refused() {
        let machine = Machine {
            memory: Some(64 << 20),
            kept: 64 << 20,
            processors: 2,
        };
        let limits = Limits {
            memory_max: Some(64 << 20),
            memory_high: Some(1 << 20),
            memory_min: Some(64 << 20),
            cpu_max_percent: Some(200),
            ..Limits::default()
        };
        assert_eq!(machine.judge(&limits), Ok(Vec::new()));
        let large = Limits {
            memory_max: Some((64 << 20) + 1),
            cpu_max_percent: Some(201),
            ..limits.clone()
        };
        let notes = machine.judge(&large).unwrap();
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[0].starts_with("limits.memory-max: 67108865 bytes"));
        assert!(notes[1].starts_with("limits.cpu-max-percent: 201"));
        let kept = Limits {
            memory_min: Some((64 << 20) + 1),
            ..limits.clone()
        };
        assert!(
            machine
                .judge(&kept)
                .unwrap_err()
                .contains("limits.memory-min")
        );
        let together = Machine {
            kept: (64 << 20) + 1,
            ..machine
        };
        let notes = together.judge(&limits).unwrap();
        assert!(notes[0].contains("together"), "{notes:?}");
        let none = Limits {
            memory_min: None,
            ..limits.clone()
        };
        assert_eq!(together.judge(&none), Ok(Vec::new()));
        let unbounded = Machine {
            memory: None,
            kept: 0,
            processors: 4,
        };
        assert_eq!(unbounded.judge(&kept), Ok(Vec::new()));
    }
}
