//! A look at sysfs: every device of some subsystems that has a node.
//!
//! Sources: Linux `Documentation/ABI/testing/sysfs-devices`, `Documentation/admin-guide/sysfs-rules.rst`. A folder of
//! `/sys/class` lists the devices of a class, one of `/sys/bus` those of a bus: whole USB devices, and some that no class is
//! for (`gpio`, `iio`, `media`).

use super::seen::{END, LISTED, SERIAL};
use super::{Found, MOST_FOUND, UNREAD, serial};
use crate::boot::files;
use std::io;
use std::path::{Path, PathBuf};

/// Most bytes of an attribute that is read: a page, as the kernel has it.
const PAGE: usize = 4096;
/// Most entries of a folder that are looked at.
const MOST_ENTRIES: usize = 4096;
/// Mass storage, as an interface of a USB device says what it is (USB-IF, "Defined Class Codes").
const STORAGE: &str = "08\n";
/// Where it says so; to read it, nothing is waited for.
const CLASS: &str = "bInterfaceClass";

/// Looks below `sys`, and says each line as it is known ([`super::seen`]). `system` is the partition of the device's own
/// data, by the name of its node.
///
/// # Errors
/// Those of `say`; what there is none of `sys`.
pub fn look(
    sys: &Path,
    subsystems: &[String],
    system: &str,
    say: &mut dyn FnMut(&str) -> io::Result<()>,
) -> io::Result<()> {
    let sys = std::fs::canonicalize(sys)?;
    let active = text(&sys.join("class/tty/console/active")).unwrap_or_default();
    let consoles: Vec<&str> = active.split_ascii_whitespace().collect();
    let usb = Usb::look(&sys, subsystems, system, &consoles);
    let mut unread: Vec<(String, PathBuf)> = Vec::new();
    let mut room = MOST_FOUND;
    for subsystem in subsystems {
        let mut all = places(&sys.join("class").join(subsystem));
        all.extend(places(&sys.join("bus").join(subsystem).join("devices")));
        for place in all {
            // What has gone meanwhile is none.
            let Some((mut one, number)) = read(&sys, &place, subsystem) else {
                continue;
            };
            one.own = match subsystem.as_str() {
                "block" => disk_of(&place).is_some_and(|disk| holds(disk, system)),
                "usb" if !usb.is_set_up(&place) => continue,
                "usb" => usb.leads(&place),
                "tty" => consoles.contains(&one.node.as_str()),
                _ => false,
            };
            let line = one.line();
            // What a line cannot carry is no device that a container could have.
            if room == 0 || Found::parse(&line).is_none_or(|read| read != one) {
                continue;
            }
            room = room.saturating_sub(1);
            say(&line)?;
            unread.extend(number.map(|number| (one.path, number)));
        }
    }
    say(LISTED)?;
    for (path, number) in unread {
        let number = text(&number).unwrap_or_default();
        say(&format!("{SERIAL}{path}\t{}", serial(&number)))?;
    }
    say(END)
}

/// What whole USB devices are, and lead to: by one of them a disk is reached past its driver, as a console is. So it is by the
/// hubs on the way.
#[derive(Default)]
struct Usb {
    /// Interfaces of all of them.
    interfaces: Vec<PathBuf>,
    /// What no container is to reach.
    kept: Vec<PathBuf>,
}

impl Usb {
    fn look(sys: &Path, subsystems: &[String], system: &str, consoles: &[&str]) -> Self {
        if !subsystems.iter().any(|one| one == "usb") {
            return Self::default();
        }
        let mut interfaces = places(&sys.join("bus/usb/devices"));
        interfaces.retain(|place| place.join(CLASS).exists());
        let mut kept = own_disks(sys, system);
        let terminals = sys.join("class/tty");
        let consoles = consoles.iter();
        kept.extend(consoles.filter_map(|name| std::fs::canonicalize(terminals.join(name)).ok()));
        // A disk may be put into a reader, or be seen, only when the device was given long ago.
        let storage = interfaces.iter();
        let storage = storage.filter(|place| text(&place.join(CLASS)).as_deref() == Some(STORAGE));
        kept.extend(storage.cloned());
        Self { interfaces, kept }
    }

    /// Whether it is known what the device is: before the kernel has set it up, it has no interfaces.
    fn is_set_up(&self, place: &Path) -> bool {
        let mut interfaces = self.interfaces.iter();
        interfaces.any(|interface| interface.parent() == Some(place))
    }

    fn leads(&self, place: &Path) -> bool {
        self.kept.iter().any(|kept| kept.starts_with(place))
    }
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

/// One device, and where its serial number is to be read: that waits for whoever holds the device (drivers/usb/core/sysfs.c).
fn read(sys: &Path, place: &Path, subsystem: &str) -> Option<(Found, Option<PathBuf>)> {
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
    let unread = serial.as_ref().map(|_| UNREAD);
    let found = Found {
        subsystem: subsystem.to_owned(),
        node,
        number,
        path: format!("/{path}"),
        ids,
        serial: unread.unwrap_or_default().to_owned(),
        own: false,
        fresh: false,
    };
    Some((found, serial))
}

/// Ids of the USB or PCI device that a device belongs to, the nearest, and where the serial number of that is.
fn ids(sys: &Path, place: &Path) -> ([String; 2], Option<PathBuf>) {
    let devices = sys.join("devices");
    for above in place.ancestors().take_while(|above| **above != devices) {
        let id = |name: &str| {
            let text = text(&above.join(name))?;
            let id = text.trim_end();
            let id = id.strip_prefix("0x").unwrap_or(id).to_ascii_lowercase();
            (id.len() == 4 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
        };
        if let (Some(vendor), Some(product)) = (id("idVendor"), id("idProduct")) {
            let number = above.join("serial");
            return ([vendor, product], Some(number).filter(|file| file.exists()));
        }
        // Other buses have attributes of these names, too, for ids of their own.
        let bus = std::fs::read_link(above.join("subsystem")).unwrap_or_default();
        if bus.file_name().is_some_and(|name| name == "pci")
            && let (Some(vendor), Some(product)) = (id("vendor"), id("device"))
        {
            return ([vendor, product], None);
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
