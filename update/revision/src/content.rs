//! A revision's content: what the init that runs it judges, and then does.

use crate::configuration::Configuration;
use crate::container::{Check, Container};
use crate::error::Error;
use crate::id::Name;
use crate::json;
use crate::parameters::{Parameter, ParameterType};
use crate::pool;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What a revision brings up, all bounds checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Content {
    /// Words for what the kernel and the board must have ([`Content::FEATURES`]), sorted.
    pub requires: Vec<String>,
    /// Values that differ between devices.
    pub parameters: BTreeMap<Name, Parameter>,
    /// Groups in the order in which they start.
    pub groups: Vec<Group>,
    /// Containers by name.
    pub containers: BTreeMap<Name, Container>,
    /// The device's own configuration.
    pub configuration: Configuration,
    /// How a trial of this revision is judged.
    pub commit: Commit,
}

/// An ordered set of containers: the next group starts when this one's goals are met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Group {
    /// Its name.
    pub name: Name,
    /// What a changed container of this group costs.
    pub change: Change,
}

/// What a changed container costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// A reboot.
    Reboot,
    /// Its own restart.
    Restart,
}

/// How a trial is judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Commit {
    /// Seconds for which all goals must hold, 5 to 3600.
    pub window_s: u32,
    /// Whether the hub must answer.
    pub hub: HubGoal,
    /// Seconds after which it has not, from the trial's beginning, at least one and a half windows; 900 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub_wait_s: Option<u32>,
}

/// Whether the hub must answer for a trial to be good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HubGoal {
    /// If it answered before the update.
    IfReachableBefore,
    /// No.
    Never,
}

impl Content {
    /// Words that `requires` may hold. An init refuses a word it does not know.
    pub const FEATURES: [&'static str; 3] = ["cgroup-v2", "fs-verity", "user-namespaces"];
    /// Most containers.
    pub const MAX_CONTAINERS: usize = 64;
    /// Most groups.
    pub const MAX_GROUPS: usize = 16;
    /// Most parameters.
    pub const MAX_PARAMETERS: usize = 256;

    /// Parses and checks the content of a revision.
    ///
    /// # Errors
    /// As [`json::parse`]; [`Error::Invalid`], [`Error::Feature`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let content: Self = json::parse("content", crate::revision::CAP, bytes)?;
        content.check()?;
        Ok(content)
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the path of the field, [`Error::Feature`].
    pub fn check(&self) -> Result<(), Error> {
        if !self.requires.is_sorted_by(|a, b| a < b) {
            return Err(Error::invalid(
                "requires",
                "is not sorted, or holds a word twice",
            ));
        }
        if let Some(word) = self
            .requires
            .iter()
            .find(|w| !Self::FEATURES.contains(&w.as_str()))
        {
            return Err(Error::Feature { word: word.clone() });
        }
        if self.parameters.len() > Self::MAX_PARAMETERS {
            return Err(Error::invalid("parameters", "are over 256"));
        }
        for (name, parameter) in &self.parameters {
            parameter.check(&format!("parameters.{name}"))?;
        }
        self.check_groups()?;
        if self.containers.len() > Self::MAX_CONTAINERS {
            return Err(Error::invalid("containers", "are over 64"));
        }
        for (name, container) in &self.containers {
            let field = format!("containers.{name}");
            container.check(&field)?;
            self.check_references(name, container, &field)?;
        }
        self.check_cycles()?;
        self.configuration.check()?;
        if self
            .commit
            .hub_wait_s
            .is_some_and(|wait| !(5..=86_400).contains(&wait))
        {
            return Err(Error::invalid(
                "commit.hub-wait-s",
                "is not 5 to 86400 seconds",
            ));
        }
        self.check_interfaces()?;
        pool::check(self)?;
        if !(5..=3600).contains(&self.commit.window_s) {
            return Err(Error::invalid(
                "commit.window-s",
                "is not 5 to 3600 seconds",
            ));
        }
        Ok(())
    }

    /// Checks what a revision that is made now must hold to, beside the bounds: [`Container::check_new`].
    ///
    /// # Errors
    /// [`Error::Invalid`] with the path of the field.
    pub fn check_new(&self) -> Result<(), Error> {
        self.containers
            .iter()
            .try_for_each(|(name, container)| container.check_new(&format!("containers.{name}")))
    }

    fn check_groups(&self) -> Result<(), Error> {
        if self.groups.len() > Self::MAX_GROUPS {
            return Err(Error::invalid("groups", "are over 16"));
        }
        let mut names = BTreeSet::new();
        match self.groups.iter().find(|group| !names.insert(&group.name)) {
            None => Ok(()),
            Some(group) => Err(Error::invalid_one(
                "groups",
                group.name.as_str(),
                "is there twice",
            )),
        }
    }

    /// The parameters of interfaces are declared, with their types, and are no secrets: addresses stand in logs.
    fn check_interfaces(&self) -> Result<(), Error> {
        for (name, interface) in &self.configuration.network.interfaces {
            for (field, parameter, kind) in [
                (
                    "address-parameter",
                    &interface.address_parameter,
                    ParameterType::Ipv4Prefix,
                ),
                (
                    "gateway-parameter",
                    &interface.gateway_parameter,
                    ParameterType::Ipv4,
                ),
            ] {
                let Some(parameter) = parameter else {
                    continue;
                };
                let fits = |p: &Parameter| p.kind == kind && !p.secret;
                if !self.parameters.get(parameter).is_some_and(fits) {
                    return Err(Error::invalid(
                        format!("configuration.network.interfaces.{name}.{field}"),
                        "names a parameter that is not declared, of another type, or secret",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Everything a container names must exist, and be of a kind that it may name.
    fn check_references(
        &self,
        name: &Name,
        container: &Container,
        field: &str,
    ) -> Result<(), Error> {
        if !self
            .groups
            .iter()
            .any(|group| group.name == container.group)
        {
            return Err(Error::invalid_one(
                format!("{field}.group"),
                container.group.as_str(),
                "is not among groups",
            ));
        }
        for after in &container.after {
            let same_group = self
                .containers
                .get(after)
                .is_some_and(|other| other.group == container.group);
            let why = match (after == name, same_group) {
                (true, _) => "is the container itself",
                (false, true) => continue,
                (false, false) => "is no container of its group",
            };
            return Err(Error::invalid_one(
                format!("{field}.after"),
                after.as_str(),
                why,
            ));
        }
        for parameter in container.process.parameters.values() {
            let usable = self.parameters.get(parameter).is_some_and(|p| !p.secret);
            if !usable {
                return Err(Error::invalid_one(
                    format!("{field}.process.parameters"),
                    parameter.as_str(),
                    "is no parameter that is declared, or is secret",
                ));
            }
        }
        for secret in &container.process.secrets {
            if !self.parameters.get(secret).is_some_and(|p| p.secret) {
                return Err(Error::invalid_one(
                    format!("{field}.process.secrets"),
                    secret.as_str(),
                    "is no parameter that is declared, or is no secret",
                ));
            }
        }
        let mut paths = BTreeSet::new();
        let mut volumes = container.volumes.values();
        match volumes.find(|volume| !paths.insert(volume.path.as_str())) {
            None => Ok(()),
            Some(volume) => Err(Error::invalid_one(
                format!("{field}.volumes"),
                &volume.path,
                "is the path of two",
            )),
        }
    }

    /// `after` must not go round in a circle: take away what depends on nothing left, until nothing is left.
    fn check_cycles(&self) -> Result<(), Error> {
        let mut left: BTreeSet<&Name> = self.containers.keys().collect();
        loop {
            let free: Vec<_> = left
                .iter()
                .copied()
                .filter(|name| {
                    self.containers
                        .get(*name)
                        .is_some_and(|c| !c.after.iter().any(|after| left.contains(after)))
                })
                .collect();
            if free.is_empty() {
                break;
            }
            for name in free {
                left.remove(name);
            }
        }
        match left.first() {
            None => Ok(()),
            Some(name) => Err(Error::invalid(
                format!("containers.{name}.after"),
                "waits for itself in a circle",
            )),
        }
    }

    /// Whether any container asks for `READY=1` over a notify socket.
    #[must_use]
    pub fn uses_notify(&self) -> bool {
        self.containers
            .values()
            .any(|c| c.health.as_ref().is_some_and(|h| h.check == Check::Notify))
    }
}
