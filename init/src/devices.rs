//! Devices for containers: which are there, and which container has which.
//!
//! ```text
//! uevents ─▶ a look at sysfs, by a child ─▶ what is there ─▶ choose(rules) ─▶ nodes of each container
//!        └─▶ what has left ─▶ without(place) ─────────────────────────────┘
//! ```
//! | module | does |
//! |---|---|
//! | [`uevent`] | what the kernel's event says, bounded |
//! | [`pace`] | when it is looked |
//! | [`sysfs`] | looks: every device of a subsystem, and the ids of what it belongs to |
//! | [`seen`] | what a look has said so far |
//!
//! An event that something has left takes it away at once, since its number may be another's soon. Any other says only that it
//! is time to look again. So nothing is lost by one that is: what counts is what is there.
//! Attributes of devices are read by a child, as some of them wait for the device's driver (Linux
//! `drivers/usb/core/sysfs.c`), which PID 1 never does.

pub mod pace;
pub mod seen;
pub mod sysfs;
pub mod uevent;

use kedge_container::DeviceNode;
use kedge_revision::device::{Access as Allowed, DeviceRule, TAKEN, is_serial, refusal};
use kedge_sys::bpf::device::{Access, Kind};
use std::ffi::CString;
use std::fmt::Write as _;

/// Most devices of a container: a rule for a whole subsystem may fit hundreds.
pub const MOST_NODES: usize = 32;
/// Most devices of a look.
pub const MOST_FOUND: usize = 1024;
/// The serial number of a device whose own is not read yet: none that a rule can name.
pub const UNREAD: &str = "\x7f";

/// A device that has a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The kernel's subsystem.
    pub subsystem: String,
    /// Its node below `/dev`, as the kernel calls it.
    pub node: String,
    /// Its numbers.
    pub number: (u32, u32),
    /// Its place in sysfs, without `/sys`.
    pub path: String,
    /// Vendor and product of the USB or PCI device that it belongs to; empty: unknown.
    pub ids: [String; 2],
    /// Serial number likewise.
    pub serial: String,
    /// Whether Kedge itself runs from it, or speaks on it.
    pub own: bool,
    /// Whether it is a block device of which the look before has said something else: its partitions may not be read yet. No
    /// part of its line.
    pub fresh: bool,
}

/// A device that a container has, and by which rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The index of the rule.
    pub rule: usize,
    /// What it is called below the container's `/dev`.
    pub name: String,
    /// The device.
    pub found: Found,
}

/// What a container is to have.
#[derive(Debug, Default)]
pub struct Chosen {
    /// Its devices, by rule and place.
    pub given: Vec<Given>,
    /// Devices that fit a rule and are not given: node, and why.
    pub refused: Vec<(String, &'static str)>,
    /// Whether a rule that requires a device has none, or one that fits is not known well enough yet.
    pub lacks: bool,
}

impl Found {
    /// As one line, without its end. Its place comes first, so that lines are sorted as places are.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = String::new();
        let (major, minor) = self.number;
        let own = u8::from(self.own);
        let [vendor, product] = &self.ids;
        // Into memory: it cannot fail.
        write!(
            line,
            "{}\t{}\t{}\t{major}\t{minor}\t{vendor}\t{product}\t{}\t{own}",
            self.path, self.subsystem, self.node, self.serial
        )
        .ok();
        line
    }

    /// From a line; none: it is none of ours, or its node is no plain path.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let mut next = || fields.next();
        let (path, subsystem, node) = (next()?, next()?, next()?);
        let number = (next()?.parse().ok()?, next()?.parse().ok()?);
        let (vendor, product, serial, own) = (next()?, next()?, next()?, next()?);
        (next().is_none() && is_plain(node)).then(|| Self {
            subsystem: subsystem.to_owned(),
            node: node.to_owned(),
            number,
            path: path.to_owned(),
            ids: [vendor.to_owned(), product.to_owned()],
            serial: serial.to_owned(),
            own: own == "1",
            fresh: false,
        })
    }

    /// Whether it is the same device, whatever is known of it.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.path == other.path
            && self.subsystem == other.subsystem
            && self.number == other.number
            && self.node == other.node
    }

    /// Whether it is at this place, or hangs on what is.
    #[must_use]
    pub fn is_below(&self, place: &str) -> bool {
        let rest = self.path.strip_prefix(place);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Of which kind its node is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        if self.subsystem == "block" {
            Kind::Block
        } else {
            Kind::Character
        }
    }

    fn refusal(&self) -> Option<&'static str> {
        let own = match self.subsystem.as_str() {
            "usb" => "leads to a disk, which a rule for block is for, or to a console",
            "block" => "is of the disk that Kedge runs from, or of another one with its partitions",
            _ => "is a console of the device itself",
        };
        refusal(&self.subsystem, &self.node, &self.path).or(self.own.then_some(own))
    }
}

/// Whether a node can be made at this path below a container's `/dev`.
fn is_plain(node: &str) -> bool {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.');
    let letter = |byte: u8| (b'!'..=b'~').contains(&byte);
    node.len() <= 128
        && node.bytes().all(letter)
        && node.split('/').all(part)
        && node.split('/').count() <= 8
}

/// Whether a device is one that the rule names.
fn fits(rule: &DeviceRule, found: &Found) -> bool {
    let is = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is);
    let [vendor, product] = &found.ids;
    rule.subsystem == found.subsystem
        && is(&rule.vendor, vendor)
        && is(&rule.product, product)
        && is(&rule.serial, &found.serial)
        && (rule.path.as_ref()).is_none_or(|path| found.is_below(path))
}

/// What a container with these rules is to have of what is there, which is sorted by place. `before` is what it has: of a
/// rule with a name the device stays the same as long as it is there, and what it has comes first where there is too much.
#[must_use]
pub fn choose(rules: &[DeviceRule], found: &[Found], before: &[Given]) -> Chosen {
    let mut chosen = Chosen::default();
    let mut candidates: Vec<(usize, &Found, bool)> = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let mut named: Option<(usize, &Found, bool)> = None;
        for one in found.iter().filter(|found| fits(rule, found)) {
            let had = before
                .iter()
                .any(|given| given.rule == index && given.found.is(one));
            if let Some(why) = one.refusal() {
                chosen.refused.push((one.node.clone(), why));
            } else if one.fresh && !had {
                chosen.lacks = true;
            } else if rule.name.is_none() {
                candidates.push((index, one, had));
            } else if had || named.is_none() {
                named = Some((index, one, had));
            }
        }
        candidates.extend(named);
    }
    for wave in [true, false] {
        for (index, one, had) in &candidates {
            if let Some(rule) = rules.get(*index).filter(|_| *had == wave) {
                chosen.add(*index, rule, one);
            }
        }
    }
    chosen.lacks |= lacks(rules, &chosen.given);
    chosen
}

impl Chosen {
    /// Gives a device, unless its name is taken or there is too much already.
    fn add(&mut self, rule: usize, by: &DeviceRule, found: &Found) {
        let name = by.name.as_ref().unwrap_or(&found.node);
        let is_folder = |of: &str, name: &str| {
            let rest = name.strip_prefix(of);
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let taken = TAKEN.contains(&name.split('/').next().unwrap_or_default())
            || self.given.iter().any(|given| {
                (given.name == *name && !given.found.is(found))
                    || is_folder(&given.name, name)
                    || is_folder(name, &given.name)
            });
        if taken {
            let why = "has the name of another one, or of its folder";
            return self.refused.push((found.node.clone(), why));
        }
        if self.given.len() >= MOST_NODES {
            let why = "is one too many: a container has at most 32";
            return self.refused.push((found.node.clone(), why));
        }
        let mut found = found.clone();
        if found.serial == UNREAD {
            found.serial.clear();
        }
        // By rule and place, in whatever order they come. So few that sorting would weigh more in the binary.
        let later =
            |given: &Given| (given.rule, given.found.path.as_str()) > (rule, found.path.as_str());
        let given = self.given.iter();
        let at = given.take_while(|given| !later(given)).count();
        let name = name.clone();
        self.given.insert(at, Given { rule, name, found });
    }
}

/// Whether a rule that requires a device has none of these.
#[must_use]
pub fn lacks(rules: &[DeviceRule], given: &[Given]) -> bool {
    let mut rules = rules.iter().enumerate();
    rules.any(|(index, rule)| rule.required && !given.iter().any(|given| given.rule == index))
}

/// What is left of what a container has, when that at this place has gone with all that hangs on it.
#[must_use]
pub fn without(given: &[Given], place: &str) -> Vec<Given> {
    let mut left = given.to_vec();
    left.retain(|given| !given.found.is_below(place));
    left
}

/// Whether an event of this subsystem is worth a look for those that rules are for.
#[must_use]
pub fn matters(wanted: &[String], subsystem: &str) -> bool {
    let is_wanted = |subsystem: &str| wanted.iter().any(|wanted| wanted == subsystem);
    // What a whole USB device leads to comes later than itself.
    is_wanted(subsystem) || (["block", "tty"].contains(&subsystem) && is_wanted("usb"))
}

/// Marks block devices whose disk, with all its partitions, is not what the look before has found: partitions are added one
/// after the other, and only then it is known what the disk is. Whether there is one that somebody could be given.
pub fn mark_fresh(found: &mut [Found], before: &[Found]) -> bool {
    fn disk<'f>(all: &'f [Found], one: &Found) -> Option<&'f Found> {
        // The first above it: they are sorted by place.
        let mut blocks = all.iter().filter(|found| found.kind() == Kind::Block);
        blocks.find(|found| one.is_below(&found.path))
    }
    fn parts<'f>(all: &'f [Found], disk: &'f Found) -> impl Iterator<Item = (&'f str, (u32, u32))> {
        let parts = all.iter().filter(|found| found.kind() == Kind::Block);
        let parts = parts.filter(|found| found.is_below(&disk.path));
        parts.map(|found| (found.path.as_str(), found.number))
    }
    let fresh: Vec<bool> = found
        .iter()
        .map(|one| {
            let disk = disk(found, one).filter(|_| one.kind() == Kind::Block);
            disk.is_some_and(|disk| !one.own && !parts(found, disk).eq(parts(before, disk)))
        })
        .collect();
    for (one, fresh) in found.iter_mut().zip(&fresh) {
        one.fresh = *fresh;
    }
    fresh.contains(&true)
}

/// The nodes of what a container has.
#[must_use]
pub fn nodes(rules: &[DeviceRule], given: &[Given]) -> Vec<DeviceNode> {
    let node = |given: &Given| {
        let (major, minor) = given.found.number;
        Some(DeviceNode {
            path: CString::new(given.name.as_str()).ok()?,
            kind: given.found.kind(),
            major,
            minor,
            access: match rules.get(given.rule)?.access {
                Allowed::Read => Access::READ,
                Allowed::Write => Access::WRITE,
                Allowed::Both => Access::READ_WRITE,
            },
        })
    };
    given.iter().filter_map(node).collect()
}

/// A serial number as a rule can name it; otherwise none.
fn serial(text: &str) -> &str {
    let text = text.trim_end_matches('\n');
    if is_serial(text) { text } else { "" }
}

#[cfg(test)]
mod scripts;
#[cfg(test)]
mod tests;
