//! What a new revision means for the one that runs: which containers change, and what that costs.
//!
//! Pure: it compares definitions and values and does nothing. It does not say whether the new revision may run at
//! all; that is verified before. PID 1 acts on it, and `kedge diff` tells it beforehand: both have this one answer.
//!
//! | differs | costs |
//! |---|---|
//! | kernel, initramfs, any other file of the slot, arguments | the other slot |
//! | `requires`, groups, host name, logs, hubs, a container of a group with `change = "reboot"` | a reboot |
//! | anything else | the restart of the containers that differ, which may be none |
//!
//! The network but for the host name is not looked at: the `net` helper goes from any configuration to any other as it runs. So it
//! is with networks of containers' own, whose containers have their addresses in their definitions. Nor is
//! what becomes of sticks, which PID 1 looks up at each.
//!
//! A container differs if its definition does, or the value of a parameter that it uses. Its data of `revision`
//! lifetime stays as long as its definition does, so that it can go on through revisions that leave it alone.

use crate::configuration::{Configuration, Logs};
use crate::content::Change as Cost;
use crate::revision::Boot;
use crate::{Container, Content, Name, ObjectId};
use core::fmt;
use std::collections::BTreeMap;

/// A revision with its parameters, as it runs or would run.
#[derive(Debug, Clone, Copy)]
pub struct Running<'a> {
    /// The revision's id.
    pub revision: ObjectId,
    /// What its slot holds.
    pub boot: &'a Boot,
    /// What it brings up.
    pub content: &'a Content,
    /// The value of every parameter that has one: given, or the default.
    pub parameters: &'a BTreeMap<Name, String>,
}

/// What going from one revision to another costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is the same revision with the same values.
    Nothing,
    /// Containers are exchanged while the device runs.
    Restart(Exchange),
    /// The device boots again in the same slot.
    Reboot(Why),
    /// The other slot is written and booted.
    Slot,
}

/// What an exchange does to each container; all names are sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exchange {
    /// Go on as they are.
    pub kept: Vec<Name>,
    /// Are stopped: they are gone from the new revision, or differ in it.
    pub stopped: Vec<Name>,
    /// Are started: they are new, or differ.
    pub started: Vec<Name>,
}

/// Why a change needs a reboot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// `requires` differs.
    Requires,
    /// The groups, their order or what a change in them costs differs.
    Groups,
    /// The device's own configuration differs.
    Configuration,
    /// A container differs, and its group says that this takes a reboot.
    Container {
        /// The first such container.
        container: Name,
        /// The group that says so.
        group: Name,
    },
}

impl Change {
    /// One word for it, as the control interface has it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Restart(_) => "restart",
            Self::Reboot(_) => "reboot",
            Self::Slot => "slot",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requires => f.write_str("what the revision requires of the device differs"),
            Self::Groups => f.write_str("the groups differ"),
            Self::Configuration => f.write_str("the device's configuration differs"),
            Self::Container { container, group } => {
                write!(
                    f,
                    "container {container} differs, and group {group} changes by a reboot"
                )
            }
        }
    }
}

/// What it takes to go from `old`, which runs, to `new`.
#[must_use]
pub fn change(old: &Running<'_>, new: &Running<'_>) -> Change {
    if old.boot != new.boot {
        return Change::Slot;
    }
    if old.content.requires != new.content.requires {
        return Change::Reboot(Why::Requires);
    }
    if old.content.groups != new.content.groups {
        return Change::Reboot(Why::Groups);
    }
    if fixed(old.content) != fixed(new.content) {
        return Change::Reboot(Why::Configuration);
    }
    if old.revision == new.revision && old.parameters == new.parameters {
        return Change::Nothing;
    }
    let exchange = exchange(old, new);
    match reboot(old, new, &exchange) {
        Some(why) => Change::Reboot(why),
        None => Change::Restart(exchange),
    }
}

/// What of the configuration holds from the boot on.
fn fixed(content: &Content) -> (Option<&Name>, &Logs, &[String]) {
    let Configuration {
        network,
        networks: _,
        logs,
        hubs,
        sticks: _,
    } = &content.configuration;
    (network.hostname.as_ref(), logs, hubs)
}

fn exchange(old: &Running<'_>, new: &Running<'_>) -> Exchange {
    let mut exchange = Exchange::default();
    for (name, container) in &old.content.containers {
        let other = new.content.containers.get(name);
        if other.is_some_and(|other| same(container, other, old, new)) {
            exchange.kept.push(name.clone());
        } else {
            exchange.stopped.push(name.clone());
        }
    }
    let starts = |name: &&Name| exchange.kept.binary_search(name).is_err();
    exchange.started = new
        .content
        .containers
        .keys()
        .filter(starts)
        .cloned()
        .collect();
    exchange
}

/// Whether a container may go on as it is.
fn same(container: &Container, other: &Container, old: &Running<'_>, new: &Running<'_>) -> bool {
    let process = &container.process;
    let mut used = process.parameters.values().chain(&process.secrets);
    container == other && used.all(|name| old.parameters.get(name) == new.parameters.get(name))
}

/// The first container, by name, whose group does not let it change without a reboot.
fn reboot(old: &Running<'_>, new: &Running<'_>, exchange: &Exchange) -> Option<Why> {
    let leaves = exchange.stopped.iter().map(|name| (name, old.content));
    let comes = exchange.started.iter().map(|name| (name, new.content));
    leaves
        .chain(comes)
        .filter_map(|(name, content)| {
            let group = &content.containers.get(name)?.group;
            let costs = |other: &&crate::content::Group| {
                other.name == *group && other.change == Cost::Reboot
            };
            content.groups.iter().find(costs)?;
            Some((name, group))
        })
        .min()
        .map(|(container, group)| Why::Container {
            container: container.clone(),
            group: group.clone(),
        })
}

#[cfg(test)]
mod tests;
