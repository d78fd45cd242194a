//! What the services of a file mean for each other: ports, order, volumes.

use super::service::{Service, left};
use super::values::Port;
use crate::import::draft::Left;
use crate::import::yaml::Node;
use anyhow::{Result, bail, ensure};
use kedge_revision::Name;
use kedge_revision::container::{Goal, RestartPolicy};
use std::collections::{BTreeMap, BTreeSet};

/// All containers share the device's network, so that a port has one owner.
pub(super) fn ports(services: &[Service], lefts: &mut Vec<Left>) -> Result<()> {
    let mut published: BTreeMap<(String, u16), &str> = BTreeMap::new();
    let mut listened: BTreeMap<(String, u16), &str> = BTreeMap::new();
    for service in services {
        let path = format!("services.{}.ports", service.key);
        for (port, line) in &service.ports {
            let Port {
                address,
                published: outer,
                target,
                protocol,
            } = port;
            if let Some(outer) = outer {
                let before = published.insert((protocol.clone(), *outer), &service.key);
                if let Some(other) = before {
                    bail!(
                        "line {line}: {path}: port {outer}/{protocol} is published twice, by services.{other} too"
                    );
                }
            }
            if let Some(other) = listened.insert((protocol.clone(), *target), &service.key)
                && other != service.key
            {
                let why = format!(
                    "services.{other} listens to port {target}/{protocol}, too, and both have the device's network"
                );
                lefts.push(left(
                    &path,
                    *line,
                    why,
                    "let one of the programs listen to another port",
                ));
            }
            if outer.is_some_and(|outer| outer != *target) {
                let why = format!(
                    "ports are not mapped: the program's own port {target} is what is open on the device"
                );
                let instead = format!("let it listen to {}", outer.unwrap_or_default());
                lefts.push(left(&path, *line, why, instead));
            }
            if !address.is_empty() && address != "0.0.0.0" {
                let why = format!(
                    "nothing binds the port to {address}: the program decides what it listens to"
                );
                lefts.push(left(
                    &path,
                    *line,
                    why,
                    "set the address in the program's own configuration",
                ));
            }
        }
    }
    Ok(())
}

pub(super) fn depends(
    services: &mut [Service],
    names: &BTreeMap<String, Name>,
    lefts: &mut Vec<Left>,
) -> Result<()> {
    let mut wanted: BTreeMap<String, (Goal, String)> = BTreeMap::new();
    for service in &mut *services {
        let path = format!("services.{}.depends_on", service.key);
        for (other, goal, line) in &service.depends {
            let Some(name) = names.get(other) else {
                bail!(
                    "line {line}: {path}: there is no service `{other}`, or its profile was not asked for"
                );
            };
            service.draft.after.push(name.clone());
            service.draft.host_network |= !service.no_network;
            let before = wanted.insert(other.clone(), (*goal, path.clone()));
            let Some((before, _)) = before else { continue };
            if before != *goal {
                // The stricter one serves both: ready containers have started, finished ones are another matter.
                ensure!(
                    before != Goal::Finished && *goal != Goal::Finished,
                    "line {line}: {path}: `{other}` is to end for one service, and to run for another"
                );
                wanted.insert(other.clone(), (Goal::Ready, path.clone()));
            }
        }
        service.draft.after.sort();
        service.draft.after.dedup();
    }
    for service in services {
        let Some((goal, _)) = wanted.get(&service.key) else {
            continue;
        };
        service.draft.host_network |= !service.no_network;
        match goal {
            Goal::Started => {}
            Goal::Ready => service.draft.wants_ready = true,
            Goal::Finished => {
                service.draft.goal = Goal::Finished;
                if service.draft.restart == RestartPolicy::Always {
                    let why = "it is to end once, and to be restarted always".to_owned();
                    lefts.push(left(
                        &format!("services.{}.restart", service.key),
                        service.line,
                        why,
                        "it is restarted on failure",
                    ));
                    service.draft.restart = RestartPolicy::OnFailure;
                }
            }
        }
    }
    Ok(())
}

/// Refuses dependencies that go round, and says how.
pub(super) fn cycle(services: &[Service]) -> Result<()> {
    let after: BTreeMap<&str, Vec<&str>> = services
        .iter()
        .map(|service| {
            let others = service.depends.iter().map(|(other, ..)| other.as_str());
            (service.key.as_str(), others.collect())
        })
        .collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    loop {
        let free = after.iter().find(|(key, others)| {
            !done.contains(*key) && others.iter().all(|other| done.contains(other))
        });
        let Some((key, _)) = free else { break };
        done.insert(key);
    }
    let Some(first) = after.keys().find(|key| !done.contains(*key)) else {
        return Ok(());
    };
    let mut way = vec![*first];
    let mut here = *first;
    while let Some(next) = after
        .get(here)
        .and_then(|others| others.iter().find(|other| !done.contains(*other)))
    {
        if let Some(start) = way.iter().position(|one| one == next) {
            let round: Vec<&str> = way.into_iter().skip(start).chain([*next]).collect();
            let line = services
                .iter()
                .find(|service| service.key == *next)
                .map_or(0, |service| service.line);
            bail!("line {line}: depends_on goes round: {}", round.join(" → "));
        }
        way.push(next);
        here = next;
    }
    bail!("depends_on goes round at `{first}`")
}

/// Named volumes: declared, and of one service.
pub(super) fn shared(services: &[Service], root: &Node, lefts: &mut Vec<Left>) -> Result<()> {
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for service in services {
        for (volume, line) in &service.named {
            let path = format!("services.{}.volumes", service.key);
            let declared = root
                .get("volumes")
                .and_then(|all| all.get(volume))
                .is_some();
            ensure!(
                declared,
                "line {line}: {path}: there is no volume `{volume}` under `volumes`"
            );
            let owner = owners.entry(volume).or_insert(&service.key);
            if *owner != service.key {
                let why = format!(
                    "the volume `{volume}` is that of services.{owner}, too; containers do not share volumes, so that each has its own"
                );
                lefts.push(left(
                    &path,
                    *line,
                    why,
                    "let one container own the data and serve it to the other",
                ));
            }
        }
    }
    Ok(())
}
