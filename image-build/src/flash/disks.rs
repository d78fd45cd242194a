//! The disks of this machine, and whether an image may be written onto one (Linux `Documentation/ABI`, sysfs-block).

use anyhow::{Context, Result};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// What speaks against a disk that is not made to be taken out.
pub const BUILT_IN: &str = "it is built in";

/// A whole disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Disk {
    /// Its device.
    pub path: PathBuf,
    /// Its size, bytes.
    pub size: u64,
    /// Who made it and what it is, as it says itself.
    pub model: String,
    /// It is a card or a stick: made to be taken out.
    pub removable: bool,
    /// What speaks against it; nothing: it may be written.
    pub objections: Vec<String>,
}

/// All disks with something in them, those that may be written first.
///
/// # Errors
/// `/sys` cannot be read.
pub fn all() -> Result<Vec<Disk>> {
    let places = Places::of_this_machine();
    let mut disks = Vec::new();
    let entries = fs::read_dir(&places.block)
        .with_context(|| format!("cannot read {}", places.block.display()))?;
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        disks.extend(places.disk(&name));
    }
    disks.sort_by(|one, other| {
        let key = |disk: &Disk| (!disk.objections.is_empty(), disk.path.clone());
        key(one).cmp(&key(other))
    });
    Ok(disks)
}

/// The disk behind a path; none if it is no whole disk: a partition, or a file.
///
/// # Errors
/// The path cannot be followed.
pub fn find(path: &Path) -> Result<Option<Disk>> {
    let path = path
        .canonicalize()
        .with_context(|| format!("cannot open {}", path.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(Places::of_this_machine().disk(&name))
}

/// Where the kernel tells of disks; a test has its own.
#[derive(Debug)]
struct Places {
    block: PathBuf,
    mounts: String,
    swaps: String,
}

impl Places {
    fn of_this_machine() -> Self {
        // A machine that does not tell has no disk that may be written: the device is opened for oneself alone anyway.
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            block: "/sys/block".into(),
            mounts: text("/proc/self/mountinfo"),
            swaps: text("/proc/swaps"),
        }
    }

    fn disk(&self, name: &str) -> Option<Disk> {
        // Memory, loops, and what is made of other disks.
        let virtual_ones = [
            "loop", "ram", "zram", "dm-", "md", "nbd", "sr", "fd", "mtdblock",
        ];
        if name.is_empty() || virtual_ones.iter().any(|begin| name.starts_with(begin)) {
            return None;
        }
        let folder = self.block.join(name);
        let read = |file: &str| {
            let text = fs::read_to_string(folder.join(file)).ok();
            text.map(|text| text.trim().to_owned())
        };
        let sectors: u64 = read("size")?.parse().ok()?;
        if sectors == 0 {
            return None;
        }
        // The link tells the bus that it is on.
        let link = fs::read_link(&folder).unwrap_or_default();
        let on_usb = link
            .components()
            .any(|part| part.as_os_str().to_string_lossy().starts_with("usb"));
        let is_card = read("device/type").as_deref() == Some("SD");
        let removable = read("removable").as_deref() == Some("1") || on_usb || is_card;
        let words = [
            read("device/vendor"),
            read("device/model"),
            read("device/name"),
        ];
        let words: Vec<String> = words
            .into_iter()
            .flatten()
            .filter(|w| !w.is_empty())
            .collect();
        let mut objections = Vec::new();
        if !removable {
            objections.push(BUILT_IN.to_owned());
        }
        if read("ro").as_deref() == Some("1") {
            objections.push("it cannot be written: is its lock pushed?".to_owned());
        }
        // An image's partition table counts blocks of 512 bytes: firmware would look for it elsewhere.
        let block = read("queue/logical_block_size").filter(|size| size != "512");
        objections.extend(
            block.map(|size| format!("its blocks have {size} bytes: images are for disks of 512")),
        );
        objections.extend(self.uses(name, &folder));
        Some(Disk {
            path: Path::new("/dev").join(name),
            size: sectors.saturating_mul(512),
            model: words.join(" "),
            removable,
            objections,
        })
    }

    /// Who uses the disk or a partition of it.
    fn uses(&self, name: &str, folder: &Path) -> Vec<String> {
        let mut parts = vec![(name.to_owned(), folder.to_owned())];
        let entries = fs::read_dir(folder).into_iter().flatten();
        for entry in entries.filter_map(Result::ok) {
            if entry.path().join("partition").exists() {
                let part = entry.file_name().to_string_lossy().into_owned();
                parts.push((part, entry.path()));
            }
        }
        let mut uses = Vec::new();
        for (part, folder) in parts {
            let number = fs::read_to_string(folder.join("dev")).unwrap_or_default();
            for place in mounted_at(&self.mounts, number.trim()) {
                uses.push(format!("{part} is mounted at {place}"));
            }
            let device = format!("/dev/{part}");
            if self
                .swaps
                .lines()
                .any(|line| line.split_whitespace().next() == Some(&device))
            {
                uses.push(format!("{part} is swap"));
            }
            let holders = fs::read_dir(folder.join("holders")).into_iter().flatten();
            for holder in holders.filter_map(Result::ok) {
                let holder = holder.file_name();
                uses.push(format!("{part} is part of {}", holder.to_string_lossy()));
            }
        }
        uses
    }
}

/// Where a device is mounted: the third field is its number, the fifth the place (proc_pid_mountinfo(5)).
fn mounted_at<'a>(mounts: &'a str, number: &'a str) -> impl Iterator<Item = &'a str> {
    mounts.lines().filter_map(move |line| {
        let mut fields = line.split(' ');
        let is_it = fields.nth(2) == Some(number) && !number.is_empty();
        fields.nth(1).filter(|_| is_it)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        crate::files::write(path, text).unwrap();
    }

    fn machine(folder: &Path) -> Places {
        for (name, size, removable) in [
            ("sda", "1000000", "0"),
            ("sdb", "62333952", "1"),
            ("sdc", "0", "1"),
        ] {
            let disk = folder.join(name);
            write(&disk.join("size"), &format!("{size}\n"));
            write(&disk.join("removable"), &format!("{removable}\n"));
            write(&disk.join("ro"), "0\n");
            write(&disk.join("queue/logical_block_size"), "512\n");
            write(&disk.join("dev"), "8:0\n");
            write(&disk.join("device/vendor"), "Maker   \n");
            write(&disk.join("device/model"), "Stick\n");
        }
        write(&folder.join("sdb/dev"), "8:16\n");
        write(&folder.join("sdb/sdb1/partition"), "1\n");
        write(&folder.join("sdb/sdb1/dev"), "8:17\n");
        Places {
            block: folder.to_owned(),
            mounts: "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n".to_owned(),
            swaps: "Filename Type Size Used Priority\n".to_owned(),
        }
    }

    #[test]
    fn a_stick_that_nobody_uses_may_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut places = machine(folder.path());
        let stick = places.disk("sdb").unwrap();
        assert_eq!(stick.model, "Maker Stick");
        assert_eq!(stick.size, 62_333_952 * 512);
        assert!(stick.removable && stick.objections.is_empty(), "{stick:?}");
        assert_eq!(places.disk("sdc"), None);
        assert_eq!(places.disk("loop0"), None);
        assert_eq!(places.disk("sdb1"), None);
        places
            .mounts
            .push_str("30 1 8:17 / /media/stick rw - vfat /dev/sdb1 rw\n");
        places.swaps.push_str("/dev/sdb partition 1 0 -2\n");
        write(&folder.path().join("sdb/sdb1/holders/dm-0/x"), "");
        write(&folder.path().join("sdb/ro"), "1\n");
        let blocks = folder.path().join("sdb/queue/logical_block_size");
        write(&blocks, "4096\n");
        let objections = places.disk("sdb").unwrap().objections;
        assert_eq!(objections.len(), 5, "{objections:?}");
        assert!(
            objections
                .iter()
                .any(|said| said.starts_with("its blocks have 4096 bytes")),
            "{objections:?}"
        );
        assert!(objections.contains(&"sdb1 is mounted at /media/stick".to_owned()));
    }

    #[test]
    fn what_is_built_in_is_not_written_by_chance() {
        let folder = tempfile::tempdir().unwrap();
        let disk = machine(folder.path()).disk("sda").unwrap();
        assert!(!disk.removable);
        assert_eq!(disk.objections, [BUILT_IN]);
    }
}
