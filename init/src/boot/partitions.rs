//! Finding partitions by their name in the partition table.
//!
//! The kernel tells the name in each block device's `uevent` file (`PARTNAME=`, block/genhd.c).
//! Disks may appear late; then the wait is for the kernel's event and never a poll.

use crate::boot::files;
use std::path::{Path, PathBuf};

/// The partitions that PID 1 uses, both of one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partitions {
    /// The raw boot record.
    pub(crate) bootenv: PathBuf,
    /// The file system of the store.
    pub(crate) data: PathBuf,
}

/// One line of `key=value` lines.
fn value<'a>(uevent: &'a str, key: &str) -> Option<&'a str> {
    uevent
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

/// What a partition's `uevent` says: name in the table, device node, disk.
fn describe(name: &str, uevent: &str) -> Option<(String, PathBuf, String)> {
    let part = value(uevent, "PARTNAME")?;
    let node = value(uevent, "DEVNAME")?;
    let number = value(uevent, "PARTN")?;
    // `vda4` is of `vda`, `mmcblk0p2` of `mmcblk0`.
    let disk = name.strip_suffix(number)?;
    let disk = disk
        .strip_suffix('p')
        .filter(|disk| disk.ends_with(|c: char| c.is_ascii_digit()))
        .unwrap_or(disk);
    Some((
        part.to_owned(),
        Path::new("/root/dev").join(node),
        disk.to_owned(),
    ))
}

/// Every named partition by the kernel's name: its own name, device node and disk.
fn list(class: &Path) -> Vec<(String, PathBuf, String)> {
    let mut names: Vec<String> = std::fs::read_dir(class)
        .map(|entries| {
            entries
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect()
        })
        .unwrap_or_default();
    names.sort_unstable();
    let read = |name: &String| {
        let bytes = files::read(&class.join(name).join("uevent"), 4096).ok()?;
        describe(name, std::str::from_utf8(&bytes).ok()?)
    };
    names.iter().filter_map(read).collect()
}

/// The partition of this name on the disk of the partition `of`, under the changed root.
pub(crate) fn sibling(class: &Path, of: &Path, name: &str) -> Option<PathBuf> {
    let node = |path: &Path| path.file_name().map(std::ffi::OsStr::to_owned);
    let partitions = list(class);
    let (_, _, disk) = partitions
        .iter()
        .find(|(_, other, _)| node(other) == node(of))?;
    let (_, found, _) = partitions
        .iter()
        .find(|(part, _, other)| part == name && other == disk)?;
    Some(Path::new("/dev").join(node(found)?))
}

/// Looks once. Where several disks carry both partitions, the first by name wins: a stick that
/// imitates the device's own disk must not be taken because it was faster.
pub(crate) fn find(class: &Path) -> Result<Partitions, &'static str> {
    let (mut bootenv, mut data) = (Vec::new(), Vec::new());
    for (part, node, disk) in list(class) {
        match part.as_str() {
            "bootenv" => bootenv.push((node, disk)),
            "data" => data.push((node, disk)),
            _ => {}
        }
    }
    for (bootenv, disk) in &bootenv {
        if let Some((data, _)) = data.iter().find(|(_, other)| other == disk) {
            return Ok(Partitions {
                bootenv: bootenv.clone(),
                data: data.clone(),
            });
        }
    }
    Err(if bootenv.is_empty() {
        "bootenv"
    } else {
        "data"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_of_one_disk_are_taken_together() {
        let class = tempfile::tempdir().unwrap();
        let add = |name: &str, uevent: &str| {
            let directory = class.path().join(name);
            std::fs::create_dir(&directory).unwrap();
            std::io::Write::write_all(
                &mut std::fs::File::create(directory.join("uevent")).unwrap(),
                uevent.as_bytes(),
            )
            .unwrap();
        };
        add("sda1", "DEVNAME=sda1\nPARTN=1\nPARTNAME=data\n");
        add("mmcblk0", "DEVNAME=mmcblk0\nDEVTYPE=disk\n");
        assert_eq!(find(class.path()), Err("bootenv"));
        add(
            "mmcblk0p1",
            "DEVNAME=mmcblk0p1\nPARTN=1\nPARTNAME=bootenv\n",
        );
        assert_eq!(find(class.path()), Err("data"));
        add("mmcblk0p4", "DEVNAME=mmcblk0p4\nPARTN=4\nPARTNAME=data\n");
        let found = find(class.path()).unwrap();
        assert_eq!(found.data, Path::new("/root/dev/mmcblk0p4"));
        assert_eq!(found.bootenv, Path::new("/root/dev/mmcblk0p1"));
        add("sdb2", "DEVNAME=sdb2\nPARTN=2\nPARTNAME=slot-b\n");
        let data = Path::new("/dev/mmcblk0p4");
        assert_eq!(sibling(class.path(), data, "slot-b"), None);
        add("mmcblk0p3", "DEVNAME=mmcblk0p3\nPARTN=3\nPARTNAME=slot-b\n");
        let expected = Some(PathBuf::from("/dev/mmcblk0p3"));
        assert_eq!(sibling(class.path(), data, "slot-b"), expected);
    }
}
