//! One service, key by key.

use super::keys::WITHOUT_COUNTERPART;
use super::texts;
use super::values::{self, Port, percent, size, span};
use crate::import::draft::{self, Draft, Layers, Left};
use crate::import::yaml::{Entry, Node, Value};
use crate::project::units::UserText;
use anyhow::{Context, Result, bail, ensure};
use kedge_revision::Name;
use kedge_revision::container::{Capability, Goal, RootWrites};

/// A service with what concerns others.
pub(super) struct Service {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) draft: Draft,
    /// What it comes after, what that must reach, and the line.
    pub(super) depends: Vec<(String, Goal, usize)>,
    pub(super) ports: Vec<(Port, usize)>,
    pub(super) named: Vec<(String, usize)>,
    pub(super) secrets: Vec<(String, usize)>,
    pub(super) no_network: bool,
    added: Vec<Capability>,
    dropped: Vec<Capability>,
    drops_all: bool,
}

type Read<'a> = &'a dyn Fn(&str) -> Result<Option<String>>;

pub(super) fn left(
    path: &str,
    line: usize,
    why: impl Into<String>,
    instead: impl Into<String>,
) -> Left {
    Left {
        path: path.to_owned(),
        line: Some(line),
        why: why.into(),
        instead: instead.into(),
    }
}

impl Service {
    pub(super) fn new(key: &str, line: usize, group: &Name, source: &str) -> Result<Self> {
        let name = draft::name(key).with_context(|| {
            format!("line {line}: services.{key}: that makes no name of a container")
        })?;
        Ok(Self {
            key: key.to_owned(),
            line,
            draft: Draft::new(name, group.clone(), source, Layers::Missing(String::new())),
            depends: Vec::new(),
            ports: Vec::new(),
            named: Vec::new(),
            secrets: Vec::new(),
            no_network: false,
            added: Vec::new(),
            dropped: Vec::new(),
            drops_all: false,
        })
    }

    pub(super) fn read(
        &mut self,
        node: &Node,
        files: Read<'_>,
        lefts: &mut Vec<Left>,
    ) -> Result<()> {
        ensure!(
            matches!(node.value, Value::Map(_)),
            "line {}: services.{} is no mapping",
            self.line,
            self.key
        );
        for entry in node.entries() {
            let path = format!("services.{}.{}", self.key, entry.key);
            self.entry(entry, &path, files, lefts)
                .with_context(|| format!("line {}: {path}", entry.line))?;
        }
        let reference = node.get("image").and_then(Node::text).unwrap_or_default();
        ensure!(
            !reference.is_empty() || node.get("build").is_some(),
            "line {}: services.{} has neither `image` nor `build`",
            self.line,
            self.key
        );
        let reference = if reference.is_empty() {
            "what `build` makes"
        } else {
            reference
        };
        self.draft.layers = Layers::Missing(reference.to_owned());
        if self.drops_all {
            self.draft.capabilities.clear();
        }
        let dropped = &self.dropped;
        self.draft.capabilities.retain(|one| !dropped.contains(one));
        self.draft.capabilities.append(&mut self.added);
        self.draft.capabilities.sort();
        self.draft.capabilities.dedup();
        // Variables of `environment` come over those of files, wherever they stand.
        let mut seen = std::collections::BTreeSet::new();
        let mut environment = std::mem::take(&mut self.draft.environment);
        environment.reverse();
        environment.retain(|(name, _)| seen.insert(name.clone()));
        environment.reverse();
        self.draft.environment = environment;
        Ok(())
    }

    fn entry(
        &mut self,
        entry: &Entry,
        path: &str,
        files: Read<'_>,
        lefts: &mut Vec<Left>,
    ) -> Result<()> {
        let (node, line) = (&entry.node, entry.line);
        match entry.key.as_str() {
            // Read elsewhere.
            "image" | "profiles" => {}
            "command" => self.draft.command = program(node)?,
            "entrypoint" => self.draft.entrypoint = program(node)?,
            "environment" => self.environment(node, path, lefts)?,
            "env_file" => self.env_file(node, files)?,
            "user" => {
                let user: UserText = text(node)?.parse().map_err(anyhow::Error::msg)?;
                self.draft.user = Some(user.to_string());
            }
            "group_add" => self.groups(node, path, lefts),
            "working_dir" => self.draft.working_directory = Some(text(node)?.to_owned()),
            "volumes" => self.volumes(node, path, lefts)?,
            "tmpfs" => {
                for text in texts(Some(node)) {
                    self.tmpfs(&text, path, line, lefts)?;
                }
            }
            "ports" => self.ports(node, path, lefts)?,
            "expose" => self.draft.host_network |= !self.no_network,
            "depends_on" => self.depends_on(node, path, lefts)?,
            "restart" => self.restart(text(node)?)?,
            "healthcheck" => self.health(node, path, lefts)?,
            "cap_add" | "cap_drop" => self.capabilities(entry, path, lefts)?,
            "read_only" => {
                if truth(node)? {
                    self.draft.root = RootWrites::Refused;
                }
            }
            "network_mode" => self.network(text(node)?, path, line, lefts),
            "stop_signal" => {
                self.draft.stop_signal = Some(text(node)?.parse().map_err(anyhow::Error::msg)?);
            }
            "stop_grace_period" => self.draft.stop_grace = span(text(node)?)?,
            "secrets" => self.secrets(node, path, lefts)?,
            "tty" | "stdin_open" => {
                if truth(node)? {
                    lefts.push(left(
                        path,
                        line,
                        "a container has neither terminal nor input",
                        "let the program do without",
                    ));
                }
            }
            "extends" => bail!(
                "`extends` is not followed\nhelp: `docker compose config` writes a file without it"
            ),
            "deploy" => self.deploy(node, path, lefts)?,
            key if self.limit(key, node)? => {}
            key if key.starts_with("x-") => {}
            key => {
                let known = WITHOUT_COUNTERPART.iter().find(|(known, ..)| *known == key);
                let (why, instead) = known.map_or(
                    (
                        "the key is not known",
                        "look up what it does, and whether kedge.toml has it",
                    ),
                    |(_, why, instead)| (*why, *instead),
                );
                lefts.push(left(path, line, why, instead));
            }
        }
        Ok(())
    }

    /// The keys of limits; false: it is none.
    pub(super) fn limit(&mut self, key: &str, node: &Node) -> Result<bool> {
        let draft = &mut self.draft;
        match key {
            "mem_limit" => draft.memory_max = Some(size(text(node)?)?).filter(|bytes| *bytes > 0),
            "mem_reservation" => {
                draft.memory_min = Some(size(text(node)?)?).filter(|bytes| *bytes > 0);
            }
            "cpus" => draft.cpu_max_percent = Some(percent(text(node)?)?),
            "cpu_percent" => draft.cpu_max_percent = Some(number(node)?),
            "cpu_shares" => {
                // 1024 shares are everybody's, as 100 of weight are.
                let weight = number(node)?.saturating_mul(100).div_ceil(1024);
                draft.cpu_weight = Some(weight.clamp(1, 10_000));
            }
            "pids_limit" => {
                draft.pids_max = (text(node)? != "-1").then(|| number(node)).transpose()?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn environment(&mut self, node: &Node, path: &str, lefts: &mut Vec<Left>) -> Result<()> {
        let mut pairs = Vec::new();
        match &node.value {
            Value::Map(entries) => {
                for entry in entries {
                    let value = match &entry.node.value {
                        Value::Null => None,
                        Value::Text(text) => Some(text.clone()),
                        Value::List(_) | Value::Map(_) => {
                            bail!("line {}: the value of {} is no text", entry.line, entry.key)
                        }
                    };
                    pairs.push((entry.key.clone(), value, entry.line));
                }
            }
            Value::List(items) => {
                for item in items {
                    let text = text(item)?;
                    let (name, value) = text
                        .split_once('=')
                        .map_or((text, None), |(name, value)| (name, Some(value.to_owned())));
                    pairs.push((name.to_owned(), value, item.line));
                }
            }
            Value::Null => {}
            Value::Text(_) => bail!("it is neither a mapping nor a list"),
        }
        for (name, value, line) in pairs {
            if let Some(value) = value {
                self.draft.environment.push((name, value));
            } else {
                let instead = format!(
                    "write {name}=… in the file, or let a parameter fill it (process.parameters)"
                );
                lefts.push(left(
                    &format!("{path}.{name}"),
                    line,
                    "its value is that of whoever starts compose",
                    instead,
                ));
            }
        }
        Ok(())
    }

    fn env_file(&mut self, node: &Node, files: Read<'_>) -> Result<()> {
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            Value::Null | Value::Text(_) | Value::Map(_) => std::slice::from_ref(node),
        };
        let mut all = Vec::new();
        for item in items {
            let (name, required) = match item.get("path") {
                Some(path) => (
                    text(path)?,
                    item.get("required").map(truth).transpose()? != Some(false),
                ),
                None => (text(item)?, true),
            };
            match files(name).with_context(|| format!("cannot read {name}"))? {
                Some(text) => all.extend(values::env_file(&text).with_context(|| name.to_owned())?),
                None => ensure!(!required, "there is no {name}"),
            }
        }
        // Before what `environment` says.
        all.append(&mut self.draft.environment);
        self.draft.environment = all;
        Ok(())
    }

    fn groups(&mut self, node: &Node, path: &str, lefts: &mut Vec<Left>) {
        for text in texts(Some(node)) {
            match text.parse() {
                Ok(group) => self.draft.groups.push(group),
                Err(_) => lefts.push(left(
                    path,
                    node.line,
                    format!("further groups are numbers, and `{text}` is none from 0 to 65535"),
                    "write its number in process.groups",
                )),
            }
        }
        self.draft.groups.sort_unstable();
        self.draft.groups.dedup();
    }

    fn ports(&mut self, node: &Node, path: &str, lefts: &mut Vec<Left>) -> Result<()> {
        let Value::List(items) = &node.value else {
            bail!("it is no list");
        };
        for item in items {
            let line = item.line;
            if let Some(text) = item.text() {
                let ports = values::ports(text).with_context(|| format!("line {line}"))?;
                self.ports
                    .extend(ports.into_iter().map(|port| (port, line)));
                continue;
            }
            let field = |key| item.get(key).and_then(Node::text).unwrap_or_default();
            let short = format!(
                "{}:{}/{}",
                field("published"),
                field("target"),
                if field("protocol").is_empty() {
                    "tcp"
                } else {
                    field("protocol")
                }
            );
            for mut port in values::ports(short.trim_start_matches(':'))
                .with_context(|| format!("line {line}"))?
            {
                field("host_ip").clone_into(&mut port.address);
                self.ports.push((port, line));
            }
            for entry in item.entries() {
                if !matches!(
                    entry.key.as_str(),
                    "target" | "published" | "protocol" | "host_ip" | "name"
                ) {
                    lefts.push(left(
                        &format!("{path}.{}", entry.key),
                        entry.line,
                        "a port has no such setting",
                        "the program itself listens on the device's network",
                    ));
                }
            }
        }
        self.draft.host_network |= !self.no_network;
        Ok(())
    }

    fn depends_on(&mut self, node: &Node, path: &str, lefts: &mut Vec<Left>) -> Result<()> {
        for other in texts(Some(node)) {
            self.depends.push((other, Goal::Started, node.line));
        }
        for entry in node.entries() {
            let mut goal = Goal::Started;
            for inner in entry.node.entries() {
                let value = text(&inner.node)?;
                match (inner.key.as_str(), value) {
                    ("condition", "service_started")
                    | ("required", "true")
                    | ("restart", "false") => {}
                    ("condition", "service_healthy") => goal = Goal::Ready,
                    ("condition", "service_completed_successfully") => goal = Goal::Finished,
                    ("condition", other) => {
                        bail!("line {}: the condition `{other}` is not known", inner.line)
                    }
                    (key, _) => lefts.push(left(
                        &format!("{path}.{}.{key}", entry.key),
                        inner.line,
                        "an order has no such setting",
                        "`after` alone: all of a revision's containers belong to it",
                    )),
                }
            }
            self.depends.push((entry.key.clone(), goal, entry.line));
        }
        Ok(())
    }

    fn capabilities(&mut self, entry: &Entry, path: &str, lefts: &mut Vec<Left>) -> Result<()> {
        let adds = entry.key == "cap_add";
        for word in texts(Some(&entry.node)) {
            let upper = word.to_uppercase();
            let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if plain == "ALL" {
                if adds {
                    lefts.push(left(
                        path,
                        entry.line,
                        "no container has all rights",
                        "list what it needs in capabilities",
                    ));
                } else {
                    self.drops_all = true;
                }
                continue;
            }
            let capability: Capability = serde_json::from_value(plain.into())
                .with_context(|| format!("`{word}` is no capability"))?;
            let list = if adds {
                &mut self.added
            } else {
                &mut self.dropped
            };
            list.push(capability);
        }
        Ok(())
    }

    fn network(&mut self, mode: &str, path: &str, line: usize, lefts: &mut Vec<Left>) {
        match mode {
            "host" => self.draft.host_network = true,
            "none" => {
                self.no_network = true;
                self.draft.host_network = false;
            }
            other => lefts.push(left(
                path,
                line,
                format!(
                    "`{other}`: a container is imported with the device's own network, or none"
                ),
                "network = \"host\" or \"none\"",
            )),
        }
    }

    fn secrets(&mut self, node: &Node, path: &str, lefts: &mut Vec<Left>) -> Result<()> {
        let Value::List(items) = &node.value else {
            bail!("it is no list");
        };
        for item in items {
            let source = item.get("source").unwrap_or(item);
            let source = text(source)?;
            self.secrets.push((source.to_owned(), item.line));
            let target = item.get("target").and_then(Node::text).unwrap_or(source);
            let target = if target.starts_with('/') {
                target.to_owned()
            } else {
                format!("/run/secrets/{target}")
            };
            let name = draft::name(source).map_or_else(String::new, |name| name.to_string());
            lefts.push(left(
                path,
                item.line,
                format!("the file is not {target}"),
                format!(
                    "the program reads /dev/kedge/secrets/{name}, which its user alone can read"
                ),
            ));
            for entry in item.entries() {
                if matches!(entry.key.as_str(), "uid" | "gid" | "mode") {
                    lefts.push(left(
                        &format!("{path}.{}", entry.key),
                        entry.line,
                        "the file is readable for the process's user alone",
                        "nothing is needed",
                    ));
                }
            }
        }
        Ok(())
    }
}

pub(super) fn text(node: &Node) -> Result<&str> {
    node.text()
        .with_context(|| format!("line {}: a text is expected", node.line))
}

pub(super) fn number(node: &Node) -> Result<u32> {
    let text = text(node)?;
    text.parse()
        .with_context(|| format!("`{text}` is no number from 0 on"))
}

pub(super) fn truth(node: &Node) -> Result<bool> {
    match text(node)? {
        "true" | "yes" | "on" => Ok(true),
        "false" | "no" | "off" => Ok(false),
        other => bail!("`{other}` is neither true nor false"),
    }
}

/// A program: none leaves it to the image.
fn program(node: &Node) -> Result<Option<Vec<String>>> {
    match &node.value {
        Value::Null => Ok(None),
        Value::Text(text) => values::words(text).map(Some),
        Value::List(items) => items
            .iter()
            .map(|item| text(item).map(str::to_owned))
            .collect::<Result<_>>()
            .map(Some),
        Value::Map(_) => bail!("it is neither a text nor a list"),
    }
}
