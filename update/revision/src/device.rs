//! Rules for devices: which of the kernel's device nodes a container has in its `/dev`, and what it may do with them.
//!
//! A rule names a subsystem and as much more as its author knows: ids of the USB or PCI device that a node belongs to, its
//! serial number, its place among the kernel's devices. All that it names must fit. A rule without a name lets every
//! device in that fits, each under the kernel's own name; one with a name is for one device, the first that fits.
//!
//! Some devices lead past all that keeps containers apart, whatever a rule says: [`refusal`] has them, with reasons. What
//! only the device itself knows (its own disk, its console) is added there.

use crate::error::Error;
use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Most rules of a container.
pub const MAX_RULES: usize = 16;
/// Most bytes of a serial number.
const MAX_SERIAL: usize = 128;
/// Most bytes of a path: the kernel's event with it has at most 2048.
const MAX_PATH: usize = 1024;
/// Most bytes of a name or of a subsystem.
const MAX_NAME: usize = 32;

/// What stands in every container's `/dev`: no device may take its place.
pub const TAKEN: [&str; 16] = [
    "null", "zero", "full", "random", "urandom", "tty", "fd", "stdin", "stdout", "stderr", "ptmx",
    "pts", "shm", "mqueue", "kedge", "console",
];

/// One entry of a container's `devices`. The order of fields is that of sorting: what is compared before what follows.
///
/// In a document it is text: the subsystem, then `key=value` with one space before each, in this order, without what is absent
/// or the default: `vendor`, `product`, `path`, `name`, `access` (`r`, `w`), the word `required`, and last `serial`, which may have
/// spaces. Documents have it so since reading and writing a table of eight fields weighs more in the device's binary.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceRule {
    /// The kernel's subsystem: a folder of `/sys/class`, or `usb` for whole USB devices.
    pub subsystem: String,
    /// Vendor of the USB or PCI device that it belongs to: four hexadecimal digits.
    pub vendor: Option<String>,
    /// Product likewise (PCI: device).
    pub product: Option<String>,
    /// Serial number of the USB device that it belongs to.
    pub serial: Option<String>,
    /// Its place in sysfs, without `/sys`, or that of one that it hangs on: `/devices/…`.
    pub path: Option<String>,
    /// What it is called in the container's `/dev`; absent: as the kernel calls it.
    pub name: Option<String>,
    /// What may be done with it.
    pub access: Access,
    /// Whether the container is not started before one is there.
    pub required: bool,
}

/// What may be done with a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// It may be opened for reading.
    Read,
    /// It may be opened for writing.
    Write,
    /// Both.
    #[default]
    Both,
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.subsystem)?;
        let access = match self.access {
            Access::Read => Some("r"),
            Access::Write => Some("w"),
            Access::Both => None,
        };
        for (key, value) in [
            ("vendor", self.vendor.as_deref()),
            ("product", self.product.as_deref()),
            ("path", self.path.as_deref()),
            ("name", self.name.as_deref()),
            ("access", access),
        ] {
            if let Some(value) = value {
                write!(f, " {key}={value}")?;
            }
        }
        if self.required {
            f.write_str(" required")?;
        }
        match &self.serial {
            Some(serial) => write!(f, " serial={serial}"),
            None => Ok(()),
        }
    }
}

impl FromStr for DeviceRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::invalid("device", "is no rule for devices");
        let (words, serial) = match text.split_once(" serial=") {
            Some((words, serial)) => (words, Some(serial.to_owned())),
            None => (text, None),
        };
        let mut words = words.split(' ');
        let mut rule = Self {
            subsystem: words.next().unwrap_or_default().to_owned(),
            vendor: None,
            product: None,
            serial,
            path: None,
            name: None,
            access: Access::Both,
            required: false,
        };
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let field = match key {
                "vendor" => &mut rule.vendor,
                "product" => &mut rule.product,
                "path" => &mut rule.path,
                "name" => &mut rule.name,
                "access" => {
                    rule.access = if value == "r" {
                        Access::Read
                    } else {
                        Access::Write
                    };
                    continue;
                }
                "required" => {
                    rule.required = true;
                    continue;
                }
                _ => return Err(bad()),
            };
            *field = Some(value.to_owned());
        }
        // The comparison refuses all other spellings.
        if rule.to_string() == text {
            Ok(rule)
        } else {
            Err(bad())
        }
    }
}
crate::id::serde_as_text!(
    DeviceRule,
    "a rule for devices, as tty vendor=0403 product=6001 name=modem",
    "^[A-Za-z0-9_.-]+( .*)?$"
);

impl DeviceRule {
    /// Whether it fits whatever is of its subsystem.
    #[must_use]
    pub const fn is_wide(&self) -> bool {
        self.vendor.is_none()
            && self.product.is_none()
            && self.serial.is_none()
            && self.path.is_none()
    }

    /// All that chooses a device.
    fn choice(&self) -> [Option<&str>; 5] {
        let subsystem = Some(self.subsystem.as_str());
        let others = [&self.vendor, &self.product, &self.serial, &self.path];
        let [vendor, product, serial, path] = others.map(Option::as_deref);
        [subsystem, vendor, product, serial, path]
    }

    /// Checks it by itself; `field` is its path for messages.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the path of the field.
    pub fn check(&self, field: &str) -> Result<(), Error> {
        let bad = |name: &str, why| Err(Error::invalid(format!("{field}.{name}"), why));
        if !is_word(&self.subsystem) {
            return bad("subsystem", "is no name of a folder in /sys/class");
        }
        if let Some(why) = refused_subsystem(&self.subsystem) {
            return bad("subsystem", why);
        }
        for (name, id) in [("vendor", &self.vendor), ("product", &self.product)] {
            if id.as_deref().is_some_and(|id| !is_id(id)) {
                return bad(name, "is not four hexadecimal digits in lower case");
            }
        }
        if self.serial.as_deref().is_some_and(|text| !is_serial(text)) {
            return bad("serial", "is not 1 to 128 printable characters of ASCII");
        }
        if self.path.as_deref().is_some_and(|text| !is_path(text)) {
            return bad("path", "is not /devices/… without /sys, . and ..");
        }
        if self
            .name
            .as_deref()
            .is_some_and(|name| !is_word(name) || TAKEN.contains(&name))
        {
            return bad(
                "name",
                "is no name of a file in /dev, or is one of those that are in every /dev",
            );
        }
        Ok(())
    }
}

/// Checks a container's rules.
pub(crate) fn check(rules: &[DeviceRule], field: &str) -> Result<(), Error> {
    if rules.len() > MAX_RULES {
        return Err(Error::invalid(field, "are over 16"));
    }
    for (index, rule) in rules.iter().enumerate() {
        rule.check(&format!("{field}[{index}]"))?;
    }
    // One spelling for one meaning; and of two rules that choose the same only one could count.
    if !rules.is_sorted_by(|one, other| one.choice() < other.choice()) {
        return Err(Error::invalid(
            field,
            "are not sorted, or two choose the same",
        ));
    }
    // So few that each is compared with each: sorting would weigh more in the device's binary.
    let names = || rules.iter().filter_map(|rule| rule.name.as_deref());
    if names().any(|name| names().filter(|other| *other == name).count() > 1) {
        return Err(Error::invalid(field, "have two of one name"));
    }
    Ok(())
}

/// Letters, digits, `-`, `_` and `.`, which is not the first.
fn is_word(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    text.len() <= MAX_NAME && !text.starts_with('.') && !text.is_empty() && text.bytes().all(letter)
}

fn is_id(text: &str) -> bool {
    text.len() == 4
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Whether this may be a serial number in a rule; of a device whose number is none it cannot be asked for.
#[must_use]
pub fn is_serial(text: &str) -> bool {
    (1..=MAX_SERIAL).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

fn is_path(text: &str) -> bool {
    text.len() <= MAX_PATH
        && text.starts_with("/devices/")
        && text.bytes().all(|byte| (b'!'..=b'~').contains(&byte))
        && text
            .split('/')
            .skip(1)
            .all(|part| !["", ".", ".."].contains(&part))
}

/// Why no device of this subsystem is ever given to a container.
#[must_use]
pub fn refused_subsystem(subsystem: &str) -> Option<&'static str> {
    Some(match subsystem {
        "mem" | "dax" | "nd" | "cxl" => "is the machine's memory, or its kernel's log",
        "watchdog" => "is the watchdog, which is fed by PID 1 alone",
        "mtd" | "ubi" => "is flash memory, which the loader and its record may be in",
        "mmc_rpmb" => "is protected memory, which the loader may keep its counters in",
        "msr" | "cpuid" => "is registers of the processor",
        "bsg" | "scsi_generic" | "nvme" | "nvme-generic" => {
            "takes commands for a disk, past what it is divided into: use block"
        }
        "virtio-ports" => "is a channel between PID 1 and who runs the virtual machine",
        "usbmon" => "hears all that is said on its bus",
        "vc" => "is what stands on the device's own screens",
        "vfio" | "vfio-dev" | "uio" => "lets hardware write into the machine's memory",
        _ => return None,
    })
}

/// Why a device is never given to a container, though its subsystem as such may be. `node` is its node's path below `/dev`,
/// `path` its place in sysfs.
#[must_use]
pub fn refusal(subsystem: &str, node: &str, path: &str) -> Option<&'static str> {
    if let Some(why) = refused_subsystem(subsystem) {
        return Some(why);
    }
    let starts = |word: &str| node.starts_with(word);
    match subsystem {
        "misc" => refused_misc(node),
        "tty" if path.starts_with("/devices/virtual/") => {
            Some("is no hardware, but a console of the device itself")
        }
        "block" if path.starts_with("/devices/virtual/") => {
            Some("is no hardware, but made of other disks or of memory")
        }
        "block" if starts("mmcblk") && (node.contains("boot") || node.contains("rpmb")) => {
            Some("is where the loader is")
        }
        "block" if starts("mtdblock") => refused_subsystem("mtd"),
        _ => None,
    }
}

/// Why a device of `misc` is never given, which everything is of that no other subsystem is for: by its whole name.
fn refused_misc(node: &str) -> Option<&'static str> {
    match node {
        "watchdog" => refused_subsystem("watchdog"),
        "snapshot" | "nvram" | "mcelog" | "userfaultfd" => Some("is the machine's memory"),
        "vfio/vfio" | "iommu" => refused_subsystem("vfio"),
        "ubi_ctrl" => refused_subsystem("ubi"),
        "uinput" | "uhid" => Some("makes keyboards, which the kernel takes orders from (sysrq)"),
        "loop-control" | "mapper/control" | "btrfs-control" | "autofs" | "cachefiles"
        | "nvme-fabrics" | "cuse" => Some("makes disks, mounts or devices of others"),
        "cpu/microcode" | "efi_capsule_loader" => Some("is what the machine starts from"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
