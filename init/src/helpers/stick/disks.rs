//! Which partitions are looked at: those of disks that are made to be taken out, and never one of the system's own disk.
//!
//! The kernel says in `removable` whether a medium can be taken out of its drive (`Documentation/ABI/stable/sysfs-block`).
//! What can be taken out together with its drive, as a disk on USB, is there by its path.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// A disk or a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    name: String,
    /// The disk that it is, or is of.
    disk: PathBuf,
    is_partition: bool,
    is_removable: bool,
}

/// The partitions of removable disks, and such disks that have none, by name. `system` is a partition of the system's disk:
/// if it is not there, nothing is.
pub(super) fn removable(class: &Path, system: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(class) else {
        return Vec::new();
    };
    let blocks: Vec<Block> = entries
        .flatten()
        .filter_map(|entry| read(&entry.path()))
        .collect();
    let mut names = choose(&blocks, system);
    names.sort_unstable();
    names
}

/// What sysfs tells of one; none: it went away, or has no medium.
fn read(link: &Path) -> Option<Block> {
    let place = std::fs::canonicalize(link).ok()?;
    let text = |path: &Path| std::fs::read_to_string(path).ok();
    if text(&place.join("size"))?.trim_end() == "0" {
        return None;
    }
    let is_partition = place.join("partition").exists();
    let disk = if is_partition {
        place.parent()?.to_owned()
    } else {
        place.clone()
    };
    let says = text(&disk.join("removable"))?.trim_end() == "1";
    let on_usb = |part: &OsStr| part.to_str().is_some_and(|part| part.starts_with("usb"));
    Some(Block {
        name: place.file_name()?.to_str()?.to_owned(),
        is_partition,
        is_removable: says || disk.iter().any(on_usb),
        disk,
    })
}

fn choose(blocks: &[Block], system: &str) -> Vec<String> {
    let Some(own) = blocks.iter().find(|block| block.name == system) else {
        return Vec::new();
    };
    let divided = |disk: &Path| {
        let mut partitions = blocks.iter().filter(|block| block.is_partition);
        partitions.any(|block| block.disk == disk)
    };
    blocks
        .iter()
        .filter(|block| block.is_removable && block.disk != own.disk)
        .filter(|block| block.is_partition || !divided(&block.disk))
        .map(|block| block.name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A disk with so many partitions, as sysfs shows it.
    fn disk(root: &Path, path: &str, removable: &str, size: &str, partitions: u8) {
        let place = root.join("devices").join(path);
        let name = path.rsplit('/').next().unwrap();
        let class = root.join("class");
        let write = |path: PathBuf, text: &str| {
            let mut file = std::fs::File::create(path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        let mut made = vec![(name.to_owned(), place.clone())];
        for number in 1..=partitions {
            let name = format!("{name}{number}");
            made.push((name.clone(), place.join(name)));
        }
        for (name, place) in made {
            std::fs::create_dir_all(&place).unwrap();
            std::fs::create_dir_all(&class).unwrap();
            write(place.join("size"), size);
            std::os::unix::fs::symlink(&place, class.join(name)).unwrap();
        }
        write(place.join("removable"), removable);
        for number in 1..=partitions {
            write(place.join(format!("{name}{number}/partition")), "1\n");
        }
    }

    #[test]
    fn what_can_be_taken_out_is_looked_at_and_the_systems_disk_never() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let class = root.join("class");
        assert_eq!(removable(&class, "vda4"), [""; 0]);
        disk(root, "pci0/virtio0/block/vda", "0\n", "100\n", 4);
        assert_eq!(removable(&class, "vda4"), [""; 0]);
        disk(root, "pci0/usb1/1-1/host0/block/sda", "1\n", "100\n", 2);
        disk(root, "pci0/virtio1/host1/block/sdb", "1\n", "100\n", 0);
        disk(root, "pci0/virtio1/host1/block/sdc", "0\n", "100\n", 1);
        disk(root, "pci0/usb1/1-2/host2/block/sdd", "0\n", "100\n", 1);
        // A reader without a card.
        disk(root, "pci0/usb1/1-3/host3/block/sde", "1\n", "0\n", 0);
        assert_eq!(removable(&class, "vda4"), ["sda1", "sda2", "sdb", "sdd1"]);
        // A device that was started from a stick.
        assert_eq!(removable(&class, "sda2"), ["sdb", "sdd1"]);
        assert_eq!(removable(&class, "sdb"), ["sda1", "sda2", "sdd1"]);
        // Nobody knows what the system is on.
        assert_eq!(removable(&class, "gone"), [""; 0]);
        assert_eq!(removable(&class, ""), [""; 0]);
    }
}
