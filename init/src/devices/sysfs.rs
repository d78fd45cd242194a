//! A look at sysfs: every device of some subsystems that has a node.
//!
//! Sources: Linux `Documentation/ABI/testing/sysfs-devices`, `Documentation/admin-guide/sysfs-rules.rst`. A folder of
//! `/sys/class` lists the devices of a class; whole USB devices are listed by their bus.

use super::{Found, MOST_FOUND, serial};
use crate::boot::files;
use std::path::{Path, PathBuf};

/// Most bytes of an attribute that is read: a page, as the kernel has it.
const PAGE: usize = 4096;
/// Most entries of a folder that are looked at.
const MOST_ENTRIES: usize = 4096;

/// Looks below `sys`. `system` is the partition of the device's own data, by the name of its node.
#[must_use]
pub fn look(sys: &Path, subsystems: &[String], system: &str) -> Vec<Found> {
    let Ok(sys) = std::fs::canonicalize(sys) else {
        return Vec::new();
    };
    let active = text(&sys.join("class/tty/console/active")).unwrap_or_default();
    let consoles: Vec<&str> = active.split_ascii_whitespace().collect();
    // By a whole USB device a disk is reached past its driver; so it is by the hubs on the way.
    let disks = if subsystems.iter().any(|one| one == "usb") {
        own_disks(&sys, system)
    } else {
        Vec::new()
    };
    let mut found = Vec::new();
    for subsystem in subsystems {
        let folder = match subsystem.as_str() {
            "usb" => sys.join("bus/usb/devices"),
            class => sys.join("class").join(class),
        };
        for place in places(&folder) {
            // What has gone meanwhile is none.
            let Some(mut one) = read(&sys, &place, subsystem) else {
                continue;
            };
            one.own = match subsystem.as_str() {
                "block" => disk_of(&place).is_some_and(|disk| holds(disk, system)),
                "usb" => disks.iter().any(|disk| disk.starts_with(&place)),
                "tty" => consoles.contains(&one.node.as_str()),
                _ => false,
            };
            if found.len() < MOST_FOUND {
                found.push(one);
            }
        }
    }
    found
}

/// Where the devices of a folder are, which has links to them.
fn places(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let entries = entries.take(MOST_ENTRIES);
    let places = entries.filter_map(|entry| std::fs::canonicalize(entry.path()).ok());
    places.collect()
}

/// Disks that Kedge runs from, or that could be taken for it.
fn own_disks(sys: &Path, system: &str) -> Vec<PathBuf> {
    let mut disks = places(&sys.join("class/block"));
    disks.retain(|place| !place.join("partition").exists() && holds(place, system));
    disks
}

/// The disk that a block device is, or is of.
fn disk_of(place: &Path) -> Option<&Path> {
    if place.join("partition").exists() {
        place.parent()
    } else {
        Some(place)
    }
}

/// One device.
fn read(sys: &Path, place: &Path, subsystem: &str) -> Option<Found> {
    let numbers = text(&place.join("dev"))?;
    let (major, minor) = numbers.trim_end().split_once(':')?;
    let number = (major.parse().ok()?, minor.parse().ok()?);
    let node = match subsystem {
        // Its `uevent` waits for whoever holds the device (drivers/base/core.c); its node is named by its place on the bus.
        "usb" => {
            let place = |name: &str| text(&place.join(name))?.trim_end().parse::<u16>().ok();
            format!("bus/usb/{:03}/{:03}", place("busnum")?, place("devnum")?)
        }
        _ => {
            let uevent = text(&place.join("uevent"))?;
            let mut lines = uevent.lines();
            lines
                .find_map(|line| line.strip_prefix("DEVNAME="))?
                .to_owned()
        }
    };
    let path = place.strip_prefix(sys).ok()?.to_str()?;
    let (ids, serial) = ids(sys, place);
    Some(Found {
        subsystem: subsystem.to_owned(),
        node,
        number,
        path: format!("/{path}"),
        ids,
        serial,
        own: false,
    })
}

/// Ids and serial number of the USB or PCI device that a device belongs to, the nearest.
fn ids(sys: &Path, place: &Path) -> ([String; 2], String) {
    let devices = sys.join("devices");
    for above in place.ancestors().take_while(|above| **above != devices) {
        let id = |name: &str| {
            let text = text(&above.join(name))?;
            let id = text.trim_end();
            let id = id.strip_prefix("0x").unwrap_or(id).to_ascii_lowercase();
            (id.len() == 4 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
        };
        if let (Some(vendor), Some(product)) = (id("idVendor"), id("idProduct")) {
            let number = text(&above.join("serial")).unwrap_or_default();
            return ([vendor, product], serial(&number).to_owned());
        }
        // Other buses have attributes of these names, too, for ids of their own.
        let bus = std::fs::read_link(above.join("subsystem")).unwrap_or_default();
        if bus.file_name().is_some_and(|name| name == "pci")
            && let (Some(vendor), Some(product)) = (id("vendor"), id("device"))
        {
            return ([vendor, product], String::new());
        }
    }
    Default::default()
}

/// Whether a disk is the one that Kedge runs from, or could be taken for it: a copy has the same partitions.
fn holds(disk: &Path, system: &str) -> bool {
    if disk.file_name().is_some_and(|name| name == system) {
        return true;
    }
    let entries = std::fs::read_dir(disk).into_iter().flatten().flatten();
    entries.take(MOST_ENTRIES).any(|entry| {
        let place = entry.path();
        place.join("partition").exists()
            && (entry.file_name() == system
                || text(&place.join("uevent"))
                    .is_some_and(|uevent| uevent.lines().any(|line| line == "PARTNAME=bootenv")))
    })
}

fn text(path: &Path) -> Option<String> {
    String::from_utf8(files::read(path, PAGE).ok()?).ok()
}
