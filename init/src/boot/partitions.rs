//! Finding partitions by their name in the partition table.
//!
//! The kernel tells the name in each block device's `uevent` file (`PARTNAME=`, block/genhd.c).
//! Disks may appear late; then the wait is for the kernel's event and never a poll.

use crate::boot::files;
use kedge_board_support::loading::gpt::{Guid, Header, SECTOR};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
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

/// What the kernel calls the disk of a partition.
pub(crate) fn disk_of(class: &Path, of: &Path) -> Option<String> {
    let partitions = list(class).into_iter();
    let mut disks = partitions.filter(|(_, other, _)| other.file_name() == of.file_name());
    disks.next().map(|(_, _, disk)| disk)
}

/// The partition of this name on the disk of the partition `of`, under the changed root.
pub(crate) fn sibling(class: &Path, of: &Path, name: &str) -> Option<PathBuf> {
    let node = |path: &Path| path.file_name().map(std::ffi::OsStr::to_owned);
    let disk = &disk_of(class, of)?;
    let partitions = list(class);
    let (_, found, _) = partitions
        .iter()
        .find(|(part, _, other)| part == name && other == disk)?;
    Some(Path::new("/dev").join(node(found)?))
}

/// The partition of this name on the disk of the partition `of`: the name of its node, its number in the table, its bytes.
pub(crate) fn numbered(class: &Path, of: &Path, name: &str) -> Option<(OsString, u32, u64)> {
    let node = sibling(class, of, name)?.file_name()?.to_owned();
    let folder = class.join(&node);
    let text = |file| String::from_utf8(files::read(&folder.join(file), 4096).ok()?).ok();
    let number = value(&text("uevent")?, "PARTN")?.parse().ok()?;
    let sectors: u64 = text("size")?.trim_end().parse().ok()?;
    Some((node, number, sectors.checked_mul(512)?))
}

/// The GUID in the partition table of a disk, by its first header that is whole; the second is at the disk's end.
/// Sectors have 512 bytes, as for every loader of ours.
pub(crate) fn guid(class: &Path, devices: &Path, disk: &str) -> Option<Guid> {
    // Of a name with a slash the kernel's has an exclamation mark (drivers/base/core.c).
    let file = File::open(devices.join(disk.replace('!', "/"))).ok()?;
    let size = files::read(&class.join(disk).join("size"), 64).ok()?;
    let sectors: u64 = std::str::from_utf8(&size).ok()?.trim_end().parse().ok()?;
    [1, sectors.checked_sub(1)?].into_iter().find_map(|at| {
        let mut sector = [0; SECTOR];
        let place = at.checked_mul(u64::try_from(SECTOR).ok()?)?;
        file.read_exact_at(&mut sector, place).ok()?;
        Some(Header::parse(&sector, at)?.disk)
    })
}

/// Looks once, at disks that are the device's own as far as `is_own` can tell. Where several of them carry both
/// partitions, the first by name wins: a stick that imitates the device's own disk must not be taken because it was
/// faster.
pub(crate) fn find(
    class: &Path,
    is_own: impl Fn(&str) -> bool,
) -> Result<Partitions, &'static str> {
    let (mut bootenv, mut data) = (Vec::new(), Vec::new());
    let partitions = list(class).into_iter();
    for (part, node, disk) in partitions.filter(|(_, _, disk)| is_own(disk)) {
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
        assert_eq!(find(class.path(), |_| true), Err("bootenv"));
        add(
            "mmcblk0p1",
            "DEVNAME=mmcblk0p1\nPARTN=1\nPARTNAME=bootenv\n",
        );
        assert_eq!(find(class.path(), |_| true), Err("data"));
        add("mmcblk0p4", "DEVNAME=mmcblk0p4\nPARTN=4\nPARTNAME=data\n");
        let found = find(class.path(), |_| true).unwrap();
        assert_eq!(found.data, Path::new("/root/dev/mmcblk0p4"));
        assert_eq!(found.bootenv, Path::new("/root/dev/mmcblk0p1"));
        add("sdb2", "DEVNAME=sdb2\nPARTN=2\nPARTNAME=slot-b\n");
        let data = Path::new("/dev/mmcblk0p4");
        assert_eq!(sibling(class.path(), data, "slot-b"), None);
        add("mmcblk0p3", "DEVNAME=mmcblk0p3\nPARTN=3\nPARTNAME=slot-b\n");
        let expected = Some(PathBuf::from("/dev/mmcblk0p3"));
        assert_eq!(sibling(class.path(), data, "slot-b"), expected);
    }

    #[test]
    fn of_two_disks_with_the_same_partitions_the_loaders_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let (class, devices) = (folder.path().join("class"), folder.path().join("dev"));
        make_folders(&[&class, &devices]);
        let put = |path: PathBuf, bytes: &[u8]| {
            std::io::Write::write_all(&mut File::create(path).unwrap(), bytes).unwrap();
        };
        // The stick sorts first. Of the device's own disk the first header is damaged.
        for (disk, id, at) in [("sda", 7, 1), ("vda", 9, 63)] {
            let mut image = vec![0; 64 * SECTOR];
            image[at * SECTOR..(at + 1) * SECTOR].copy_from_slice(&header(at as u64, id));
            put(devices.join(disk), &image);
            for (number, part) in [(0, None), (1, Some("bootenv")), (4, Some("data"))] {
                let name = part.map_or(disk.to_owned(), |_| format!("{disk}{number}"));
                make_folders(&[&class.join(&name)]);
                put(class.join(&name).join("size"), b"64\n");
                let part = part.map_or(String::new(), |part| format!("PARTNAME={part}\n"));
                let uevent = format!("DEVNAME={name}\nPARTN={number}\n{part}");
                put(class.join(&name).join("uevent"), uevent.as_bytes());
            }
        }
        let wanted = |id: u8| {
            let wanted = Header::parse(&header(1, id), 1).unwrap().disk;
            find(&class, |disk| guid(&class, &devices, disk) == Some(wanted))
        };
        assert_eq!(wanted(9).unwrap().data, Path::new("/root/dev/vda4"));
        assert_eq!(wanted(7).unwrap().data, Path::new("/root/dev/sda4"));
        assert_eq!(wanted(8), Err("bootenv"));
        let any = find(&class, |_| true).unwrap();
        assert_eq!(any.bootenv, Path::new("/root/dev/sda1"));
        assert_eq!(guid(&class, &devices, "sdb"), None);
    }

    fn make_folders(paths: &[&Path]) {
        for path in paths {
            std::fs::create_dir_all(path).unwrap();
        }
    }

    /// A header at this sector of a disk whose GUID has these bytes.
    fn header(at: u64, id: u8) -> [u8; SECTOR] {
        let mut sector = [0; SECTOR];
        sector[..12].copy_from_slice(b"EFI PART\0\0\x01\0");
        sector[12] = 92;
        sector[24..32].copy_from_slice(&at.to_le_bytes());
        sector[56..72].fill(id);
        sector[80] = 128;
        sector[84] = 128;
        let sum = kedge_board_support::record::crc32(&sector[..92]);
        sector[16..20].copy_from_slice(&sum.to_le_bytes());
        sector
    }
}
