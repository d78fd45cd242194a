//! A compose file (the compose specification) to containers.
//!
//! Pure: it takes texts and gives drafts, with a list of everything that does not carry over. Nothing is dropped
//! without being in that list but extensions (`x-…`), which compose itself does not look at.

pub mod keys;
mod running;
mod service;
mod storage;
mod together;
pub mod values;

use super::draft::{Draft, Left, name};
use super::interpolate::Variables;
use super::yaml::{self, Node, Value};
use anyhow::{Context, Result, bail, ensure};
use kedge_revision::Name;
use service::{Service, left};
use std::collections::{BTreeMap, BTreeSet};
use together::{cycle, depends, ports, shared};

/// Most services: a device has tens of containers.
const MOST_SERVICES: usize = 128;
/// Most text after variables were filled in.
const MOST_FILLED: usize = 4 * yaml::CAP;

/// What a file is read with.
pub struct Options<'a> {
    /// Values of `${NAME}`.
    pub variables: BTreeMap<String, String>,
    /// Services of these profiles are taken, too.
    pub profiles: Vec<String>,
    /// The group of all containers.
    pub group: Name,
    /// What the file is called, for the containers' files.
    pub source: String,
    /// Reads an `env_file`, by its path in the file; none if it is not there.
    pub read: &'a dyn Fn(&str) -> Result<Option<String>>,
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values of variables may be secret.
        f.debug_struct("Options")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// What became of a file.
#[derive(Debug)]
pub struct Compose {
    /// Its containers, by name.
    pub drafts: Vec<Draft>,
    /// Its secrets: parameters that the project must declare.
    pub secrets: Vec<Name>,
    /// What does not carry over.
    pub left: Vec<Left>,
    /// The service of each container.
    pub services: BTreeMap<Name, String>,
}

/// Reads a compose file.
///
/// # Errors
/// It is no compose file, or contradicts itself; the message names the line or the path.
pub fn parse(text: &str, options: Options<'_>) -> Result<Compose> {
    let mut root = yaml::parse(text)?;
    ensure!(
        matches!(root.value, Value::Map(_)),
        "line {}: a compose file is a mapping with `services`",
        root.line
    );
    let mut variables = Variables {
        values: options.variables,
        ..Variables::default()
    };
    let mut budget = MOST_FILLED;
    fill(&mut root, &mut variables, &mut budget)?;
    let mut lefts = Vec::new();
    for missing in &variables.missing {
        lefts.push(Left {
            path: format!("${{{missing}}}"),
            line: None,
            why: "the variable has no value; an empty text stands in its place".to_owned(),
            instead: format!("give it with --env {missing}=… or in an .env file beside the file"),
        });
    }
    top(&root, &mut lefts)?;
    let services = root.get("services").with_context(|| {
        format!(
            "line {}: there is no `services`: files from before version 2 are not read",
            root.line
        )
    })?;
    ensure!(
        services.entries().len() <= MOST_SERVICES,
        "line {}: more than {MOST_SERVICES} services",
        services.line
    );
    let mut read = Vec::new();
    for entry in services.entries() {
        let path = format!("services.{}", entry.key);
        let profiles = texts(entry.node.get("profiles"));
        if !profiles.is_empty() && !profiles.iter().any(|one| options.profiles.contains(one)) {
            lefts.push(left(
                &path,
                entry.line,
                format!(
                    "it is of the profiles {}, which were not asked for",
                    profiles.join(", ")
                ),
                format!("--profile {} takes it", profiles.join(" or --profile ")),
            ));
            continue;
        }
        let mut service = Service::new(&entry.key, entry.line, &options.group, &options.source)?;
        service.read(&entry.node, options.read, &mut lefts)?;
        read.push(service);
    }
    together(read, &root, lefts)
}

/// Fills the variables of all values in.
fn fill(node: &mut Node, variables: &mut Variables, budget: &mut usize) -> Result<()> {
    match &mut node.value {
        Value::Null => {}
        Value::Text(text) => {
            if text.contains('$') {
                *text = variables
                    .fill(text)
                    .with_context(|| format!("line {}", node.line))?;
            }
            let rest = budget.checked_sub(text.len());
            *budget =
                rest.with_context(|| format!("line {}: too long with its variables", node.line))?;
        }
        Value::List(items) => {
            for item in items {
                fill(item, variables, budget)?;
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                fill(&mut entry.node, variables, budget)?;
            }
        }
    }
    Ok(())
}

/// The file's own keys.
fn top(root: &Node, lefts: &mut Vec<Left>) -> Result<()> {
    for entry in root.entries() {
        let (key, line) = (entry.key.as_str(), entry.line);
        match key {
            // Read with the services.
            "services" | "volumes" | "secrets" => {}
            "version" => {
                let text = entry.node.text().unwrap_or_default();
                let major = text.split('.').next().unwrap_or_default();
                ensure!(
                    matches!(major, "2" | "3"),
                    "line {line}: version `{text}` is not known: files of versions 2 and 3, and of the compose specification, which has none, are read"
                );
            }
            "include" => bail!(
                "line {line}: `include` is not followed\nhelp: `docker compose config` makes one file of all"
            ),
            _ if key.starts_with("x-") => {}
            "name" => lefts.push(left(
                key,
                line,
                "a Kedge project is named by kedge.toml",
                "`product` there",
            )),
            "networks" => lefts.push(left(
                key,
                line,
                "containers are imported with the device's own network, or none",
                "programs reach each other at 127.0.0.1, or by name in a pool (docs/network.md)",
            )),
            "configs" => lefts.push(left(
                key,
                line,
                "files are not put into containers from outside",
                "put the file into the image, or its values into parameters",
            )),
            _ => lefts.push(left(
                key,
                line,
                "the key is not known",
                "look up what it does, and whether kedge.toml has it",
            )),
        }
    }
    for (kind, why, instead) in [
        (
            "volumes",
            "volumes lie on the device's data partition, and no driver or foreign place is taken",
            "the volume is made empty, as the container's own",
        ),
        (
            "secrets",
            "a secret's value is in no revision",
            "give it by the provisioning, `kedge push --parameters` or the hub",
        ),
    ] {
        for entry in root.get(kind).map(Node::entries).unwrap_or_default() {
            for inner in entry.node.entries() {
                let path = format!("{kind}.{}.{}", entry.key, inner.key);
                lefts.push(left(&path, inner.line, why, instead));
            }
        }
    }
    Ok(())
}

/// What the services mean for each other.
fn together(mut services: Vec<Service>, root: &Node, mut lefts: Vec<Left>) -> Result<Compose> {
    let mut names: BTreeMap<String, Name> = BTreeMap::new();
    for service in &services {
        let name = &service.draft.name;
        if let Some((other, _)) = names.iter().find(|(_, other)| *other == name) {
            bail!(
                "line {}: services.{}: `{name}` is also what services.{other} is called",
                service.line,
                service.key
            );
        }
        names.insert(service.key.clone(), name.clone());
    }
    ports(&services, &mut lefts)?;
    depends(&mut services, &names, &mut lefts)?;
    cycle(&services)?;
    shared(&services, root, &mut lefts)?;
    let mut secrets = BTreeSet::new();
    for service in &mut services {
        for (text, line) in &service.secrets {
            let declared = root.get("secrets").and_then(|all| all.get(text)).is_some();
            ensure!(
                declared,
                "line {line}: services.{}.secrets: there is no secret `{text}`",
                service.key
            );
            let name = name(text)
                .with_context(|| format!("line {line}: `{text}` makes no name of a parameter"))?;
            service.draft.secrets.push(name.clone());
            secrets.insert(name);
        }
        service.draft.secrets.sort();
        service.draft.secrets.dedup();
    }
    let by_container = names.into_iter().map(|(key, name)| (name, key)).collect();
    let mut drafts: Vec<Draft> = services.into_iter().map(|service| service.draft).collect();
    drafts.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Compose {
        drafts,
        secrets: secrets.into_iter().collect(),
        left: lefts,
        services: by_container,
    })
}

/// A text, or the texts of a list.
fn texts(node: Option<&Node>) -> Vec<String> {
    match node.map(|node| &node.value) {
        Some(Value::Text(text)) => vec![text.clone()],
        Some(Value::List(items)) => items
            .iter()
            .filter_map(Node::text)
            .map(str::to_owned)
            .collect(),
        Some(Value::Null | Value::Map(_)) | None => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
