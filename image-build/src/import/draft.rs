//! A container as an importer knows it, and its file: `containers/NAME.toml`.

use crate::project::container::DEFAULT_PATH;
use crate::project::template::{list, quote};
use crate::project::units::{Signal, Size, Span};
use kedge_revision::container::{Capability, Goal, Lifetime, RestartPolicy, RootWrites};
use kedge_revision::{Name, ObjectId};
use kedge_rootfs::ImageProcess;
use serde::Serialize;

/// Something of the source that does not carry over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Left {
    /// Where it stands, as in `services.web.devices`.
    pub path: String,
    /// Its line, where lines mean something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Why it does not carry over.
    pub why: String,
    /// What to do instead.
    pub instead: String,
}

/// Where a container's layers come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layers {
    /// Imported; the image as the project keeps its name, and its layers.
    Imported {
        /// As in `image = …`.
        image: String,
        /// The lowest first.
        layers: Vec<ObjectId>,
    },
    /// Not here yet: the reference by which the source names the image.
    Missing(String),
}

/// Writable data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: Name,
    /// Absolute path in the container.
    pub path: String,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// Most data, bytes.
    pub size: Option<u64>,
}

/// A health check, as TOML has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Between two checks.
    pub interval: Span,
    /// For one.
    pub timeout: Span,
    /// Failures in a row.
    pub retries: u32,
    /// Failures do not count so long.
    pub start_period: Span,
}

/// A container that is to be written. What is `None` or empty is left to the image, where there is one.
#[derive(Debug, Clone)]
#[allow(
    missing_docs,
    reason = "the fields are those of the file, described in the example"
)]
pub struct Draft {
    pub name: Name,
    pub source: String,
    pub layers: Layers,
    pub group: Name,
    pub goal: Goal,
    pub root: RootWrites,
    pub host_network: bool,
    pub capabilities: Vec<Capability>,
    pub after: Vec<Name>,
    pub entrypoint: Option<Vec<String>>,
    pub command: Option<Vec<String>>,
    pub environment: Vec<(String, String)>,
    pub user: Option<String>,
    pub groups: Vec<u16>,
    pub working_directory: Option<String>,
    pub stop_signal: Option<Signal>,
    pub stop_grace: Span,
    pub secrets: Vec<Name>,
    pub health: Option<Health>,
    /// The source says that the image's own check is not to be made.
    pub no_health: bool,
    /// Others wait for it to be healthy: its goal is `ready` if it has a health check.
    pub wants_ready: bool,
    pub restart: RestartPolicy,
    pub max_retries: Option<u32>,
    pub restart_delay: Option<Span>,
    pub reset_after: Option<Span>,
    pub volumes: Vec<Volume>,
    pub cpu_weight: Option<u32>,
    pub cpu_max_percent: Option<u32>,
    pub memory_max: Option<u64>,
    pub memory_min: Option<u64>,
    pub pids_max: Option<u32>,
}

impl Draft {
    /// One that confines, with nothing said.
    #[must_use]
    pub fn new(name: Name, group: Name, source: &str, layers: Layers) -> Self {
        Self {
            name,
            source: source.to_owned(),
            layers,
            group,
            goal: Goal::Started,
            root: RootWrites::Revision,
            host_network: false,
            capabilities: crate::project::template::CAPABILITIES.to_vec(),
            after: Vec::new(),
            entrypoint: None,
            command: None,
            environment: Vec::new(),
            user: None,
            groups: Vec::new(),
            working_directory: None,
            stop_signal: None,
            stop_grace: Span::s(10),
            secrets: Vec::new(),
            health: None,
            no_health: false,
            wants_ready: false,
            restart: RestartPolicy::No,
            max_retries: None,
            restart_delay: None,
            reset_after: None,
            volumes: Vec::new(),
            cpu_weight: None,
            cpu_max_percent: None,
            memory_max: None,
            memory_min: None,
            pids_max: None,
        }
    }

    /// Takes from the image what the source leaves to it.
    pub fn fill(&mut self, image: &ImageProcess) {
        if self.entrypoint.is_none() {
            self.entrypoint = Some(image.entrypoint.clone());
            // An entrypoint of the source's own drops the image's command.
            if self.command.is_none() {
                self.command = Some(image.cmd.clone());
            }
        }
        let mut environment: Vec<(String, String)> = image
            .env
            .iter()
            .filter_map(|entry| entry.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        environment.retain(|(name, _)| !self.environment.iter().any(|(own, _)| own == name));
        environment.append(&mut self.environment);
        self.environment = environment;
        self.user = self.user.take().or_else(|| image.user.clone());
        let folder = image.working_dir.clone();
        self.working_directory = self.working_directory.take().or(folder);
        if self.stop_signal.is_none() {
            let signal = image.stop_signal.as_deref();
            self.stop_signal = signal.and_then(|signal| signal.parse().ok());
        }
        if self.health.is_none()
            && !self.no_health
            && let Some(check) = &image.healthcheck
        {
            self.health = image_health(check);
        }
    }

    /// Program and arguments as far as they are known.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let parts = self.entrypoint.iter().chain(&self.command);
        parts.flatten().cloned().collect()
    }

    /// The text of `containers/NAME.toml`.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = vec![format!(
            "# Written by `kedge import` from {}; yours to change. What is deleted here is taken from the container.",
            self.source.replace(char::is_control, " ")
        )];
        self.head(&mut lines);
        self.process(&mut lines);
        if let Some(health) = &self.health {
            lines.push(format!(
                "\n[health]\ncommand = {}\ninterval = \"{}\"\ntimeout = \"{}\"\nretries = {}\nstart-period = \"{}\"",
                list(&health.command),
                health.interval,
                health.timeout,
                health.retries,
                health.start_period
            ));
        }
        lines.push(format!("\n[restart]\npolicy = {}", word(&self.restart)));
        if let Some(retries) = self.max_retries {
            lines.push(format!("max-retries = {retries}"));
        }
        for (key, span) in [
            ("delay", self.restart_delay),
            ("reset-after", self.reset_after),
        ] {
            if let Some(span) = span {
                lines.push(format!("{key} = \"{span}\""));
            }
        }
        for volume in &self.volumes {
            lines.push(format!(
                "\n[volumes.{}]\npath = {}\nlifetime = {}",
                volume.name,
                quote(&volume.path),
                word(&volume.lifetime)
            ));
            if let Some(bytes) = volume.size {
                lines.push(format!("size = \"{}\"", Size { bytes }));
            }
        }
        self.limits(&mut lines);
        lines.push(String::new());
        lines.join("\n")
    }

    fn head(&self, lines: &mut Vec<String>) {
        match &self.layers {
            Layers::Imported { image, layers } => {
                lines.push(format!("image = {}", quote(image)));
                lines.push("layers = [".to_owned());
                lines.extend(layers.iter().map(|layer| format!("    \"{layer}\",")));
                lines.push("]".to_owned());
            }
            Layers::Missing(reference) => {
                lines.push(format!(
                    "# Its image is {}. Give it to `kedge import` with --image and --replace, or to\n# `kedge add IMAGE --name {} --update`: until then there is nothing to run.",
                    reference.replace(char::is_control, " "),
                    self.name
                ));
                lines.push("layers = []".to_owned());
            }
        }
        let names: Vec<String> = self.capabilities.iter().map(word).collect();
        let after: Vec<String> = self.after.iter().map(Name::to_string).collect();
        lines.push(format!("group = \"{}\"", self.group));
        lines.push(format!("goal = {}", word(&self.goal)));
        lines.push(format!("root = {}", word(&self.root)));
        let network = if self.host_network { "host" } else { "none" };
        lines.push(format!("network = \"{network}\""));
        lines.push(format!("capabilities = [{}]", names.join(", ")));
        lines.push("roles = []".to_owned());
        lines.push(format!("after = {}", list(&after)));
    }

    fn process(&self, lines: &mut Vec<String>) {
        lines.push("\n[process]".to_owned());
        lines.push(format!("arguments = {}", list(&self.arguments())));
        lines.push("environment = [".to_owned());
        if !self.environment.iter().any(|(name, _)| name == "PATH") {
            lines.push(format!("    {},", quote(DEFAULT_PATH)));
        }
        for (name, value) in &self.environment {
            lines.push(format!("    {},", quote(&format!("{name}={value}"))));
        }
        lines.push("]".to_owned());
        let user = self.user.as_deref().unwrap_or("0:0");
        lines.push(format!("user = {}", quote(user)));
        if !self.groups.is_empty() {
            let groups: Vec<String> = self.groups.iter().map(u16::to_string).collect();
            lines.push(format!("groups = [{}]", groups.join(", ")));
        }
        let folder = self.working_directory.as_deref().unwrap_or("/");
        lines.push(format!("working-directory = {}", quote(folder)));
        let signal = self.stop_signal.unwrap_or(Signal { number: 15 });
        lines.push(format!("stop-signal = \"{signal}\""));
        lines.push(format!("stop-grace = \"{}\"", self.stop_grace));
        if !self.secrets.is_empty() {
            let secrets: Vec<String> = self.secrets.iter().map(Name::to_string).collect();
            lines.push(format!("secrets = {}", list(&secrets)));
        }
    }

    fn limits(&self, lines: &mut Vec<String>) {
        lines.push("\n[limits]".to_owned());
        let mut number = |key: &str, value: Option<u32>| {
            if let Some(value) = value {
                lines.push(format!("{key} = {value}"));
            }
        };
        number("pids-max", Some(self.pids_max.unwrap_or(512)));
        number("cpu-weight", self.cpu_weight);
        number("cpu-max-percent", self.cpu_max_percent);
        for (key, bytes) in [
            ("memory-max", self.memory_max),
            ("memory-min", self.memory_min),
        ] {
            if let Some(bytes) = bytes {
                lines.push(format!("{key} = \"{}\"", Size { bytes }));
            }
        }
    }
}

/// The image's own check, with Docker's defaults where it does not say.
fn image_health(check: &kedge_rootfs::Healthcheck) -> Option<Health> {
    let command = test(&check.test)?;
    let span = |nanoseconds: u64, default: u32| match u32::try_from(nanoseconds / 1_000_000) {
        Ok(0) => Span::s(default),
        Ok(ms) => Span::ms(ms),
        Err(_) => Span::ms(u32::MAX),
    };
    Some(Health {
        command,
        interval: span(check.interval, 30),
        timeout: span(check.timeout, 30),
        retries: u32::try_from(check.retries)
            .ok()
            .filter(|n| *n > 0)
            .unwrap_or(3),
        start_period: span(check.start_period, 0),
    })
}

/// The command of `["CMD", …]` or `["CMD-SHELL", …]`; none for `["NONE"]` and what is unknown.
#[must_use]
pub fn test(words: &[String]) -> Option<Vec<String>> {
    let (kind, rest) = words.split_first()?;
    match kind.as_str() {
        "CMD" if !rest.is_empty() => Some(rest.to_vec()),
        "CMD-SHELL" if rest.len() == 1 => {
            Some([&["/bin/sh".to_owned(), "-c".to_owned()], rest].concat())
        }
        _ => None,
    }
}

/// A name that a container, group, volume or parameter can have, from whatever a stranger calls it.
#[must_use]
pub fn name(text: &str) -> Option<Name> {
    let plain: String = text
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let plain = plain.trim_start_matches(|c: char| !c.is_ascii_alphabetic());
    let plain: String = plain.chars().take(Name::MAX).collect();
    plain.trim_end_matches('-').parse().ok()
}

fn word<T: Serialize>(value: &T) -> String {
    toml::Value::try_from(value)
        .map(|value| value.to_string())
        .unwrap_or_default()
}
