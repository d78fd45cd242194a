//! Devices for containers: which are there, and which container has which.
//!
//! ```text
//! uevents ─▶ a look at sysfs, by a child ─▶ what is there ─▶ choose(rules) ─▶ nodes of each container
//! ```
//! | module | does |
//! |---|---|
//! | [`uevent`] | what the kernel's event says, bounded |
//! | [`sysfs`] | looks: every device of a subsystem, and the ids of what it belongs to |
//!
//! An event says only that it is time to look again. So nothing is lost by one that is: what counts is what is there.
//! Attributes of devices are read by a child, as some of them wait for the device's driver (Linux
//! `drivers/usb/core/sysfs.c`), which PID 1 never does.

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
/// Most bytes that a look says.
pub const MOST_SAID: usize = 256 * 1024;

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
    /// Whether a rule that requires a device has none.
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
        })
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
            "usb" => {
                "leads to the disk that Kedge runs from, or to another one with its partitions"
            }
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
    let below = |path: &String| {
        let rest = found.path.strip_prefix(path.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    rule.subsystem == found.subsystem
        && is(&rule.vendor, vendor)
        && is(&rule.product, product)
        && is(&rule.serial, &found.serial)
        && rule.path.as_ref().is_none_or(below)
}

/// What a container with these rules is to have of what is there, which is sorted by place. `before` is what it has: of a
/// rule with a name the device stays the same as long as it is there.
#[must_use]
pub fn choose(rules: &[DeviceRule], found: &[Found], before: &[Given]) -> Chosen {
    let mut chosen = Chosen::default();
    for (index, rule) in rules.iter().enumerate() {
        let (mut fitting, refused): (Vec<&Found>, Vec<&Found>) = found
            .iter()
            .filter(|found| fits(rule, found))
            .partition(|found| found.refusal().is_none());
        let refused = refused
            .iter()
            .filter_map(|found| Some((found.node.clone(), found.refusal()?)));
        chosen.refused.extend(refused);
        if rule.name.is_some() {
            let had = before.iter().find(|given| given.rule == index);
            let stays = |found: &&&Found| had.is_some_and(|had| had.found == ***found);
            let one = fitting
                .iter()
                .find(stays)
                .or_else(|| fitting.first())
                .copied();
            fitting = one.into_iter().collect();
        }
        let count = chosen.given.len();
        for found in fitting {
            let name = rule.name.as_ref().unwrap_or(&found.node);
            let taken = TAKEN.contains(&name.split('/').next().unwrap_or_default())
                || chosen
                    .given
                    .iter()
                    .any(|given| given.name == *name && given.found != *found);
            if taken {
                chosen
                    .refused
                    .push((found.node.clone(), "has the name of another one"));
            } else if chosen.given.len() >= MOST_NODES {
                chosen.refused.push((
                    found.node.clone(),
                    "is one too many: a container has at most 32",
                ));
            } else {
                chosen.given.push(Given {
                    rule: index,
                    name: name.clone(),
                    found: found.clone(),
                });
            }
        }
        chosen.lacks |= rule.required && chosen.given.len() == count;
    }
    chosen
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

/// All that a look has said, in its order; lines that are none are left out.
#[must_use]
pub fn read(said: &[u8]) -> Vec<Found> {
    let said = String::from_utf8_lossy(said);
    let found = said.lines().filter_map(Found::parse);
    found.take(MOST_FOUND).collect()
}

/// A serial number as a rule can name it; otherwise none.
fn serial(text: &str) -> &str {
    let text = text.trim_end_matches('\n');
    if is_serial(text) { text } else { "" }
}

#[cfg(test)]
mod tests;
