//! The network of a container that is added: what was asked for, and whether a build would take it.

use super::{Add, parse_word};
use crate::project::Project;
use crate::project::container::ContainerText;
use crate::project::units::UserText;
use anyhow::{Context, Result, bail};
use kedge_revision::Name;
use kedge_revision::container::{Container, Network, User};
use kedge_revision::pool::Place;
use kedge_rootfs::ImageProcess;
use std::collections::BTreeMap;

impl Add {
    /// What the arguments say, else the device's own network for an image that exposes ports, and none for others.
    pub(super) fn network(
        &self,
        project: &Project,
        image: &ImageProcess,
        notes: &mut Vec<String>,
    ) -> Result<Network> {
        let exposed = image.exposed_ports.join(", ");
        if let Some(pool) = &self.pool {
            declared(project, pool)?;
            let mut ports = self.publish.clone();
            ports.sort_unstable();
            ports.dedup();
            if ports.is_empty() && !exposed.is_empty() {
                notes.push(format!(
                    "it exposes {exposed}: containers of {pool} reach it, the outside does not; --publish 8080:80 would publish one"
                ));
            }
            return Ok(Network::Pool(Place::without_address(pool.clone(), ports)));
        }
        match &self.network {
            Some(word) => parse_word(word),
            None if exposed.is_empty() => Ok(Network::None),
            None => {
                notes.push(format!(
                    "it exposes {exposed}: network = \"host\", the device's own; --pool NAME --publish 8080:80 gives it one of its own"
                ));
                Ok(Network::Host)
            }
        }
    }
}

fn declared(project: &Project, pool: &Name) -> Result<()> {
    let pools = &project.manifest().configuration.networks;
    if pools.contains_key(pool) {
        return Ok(());
    }
    if pools.is_empty() {
        bail!(
            "kedge.toml declares no pool {pool}\nhelp: write it there, for instance:\n  [configuration.networks.{pool}]\n  prefix = \"10.88.0.0/24\""
        );
    }
    let names: Vec<&str> = pools.keys().map(Name::as_str).collect();
    bail!(
        "kedge.toml declares no pool {pool}; it has: {}",
        names.join(", ")
    )
}

/// Refuses a container in a pool that does not go with those that are there: a port that is published twice, a pool that is
/// full. What is wrong without it is for the build to say.
pub(super) fn goes_with_others(
    project: &Project,
    name: &Name,
    container: &Container,
) -> Result<()> {
    if container.network.place().is_none() {
        return Ok(());
    }
    // Users are resolved by their images, and count for nothing here.
    let anybody = |_: &UserText| {
        Ok(User {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
        })
    };
    let compiled = |text: &ContainerText| text.container(&anybody).ok();
    let mut others: BTreeMap<Name, Container> = project
        .containers()?
        .iter()
        .filter(|other| other.name != *name)
        .filter_map(|other| Some((other.name.clone(), compiled(&other.text)?)))
        .collect();
    let check = |containers| project.manifest().content(containers).check();
    if check(others.clone()).is_err() {
        return Ok(());
    }
    others.insert(name.clone(), container.clone());
    check(others).context("it does not go with the project's other containers")
}
