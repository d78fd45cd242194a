//! `kedge add`: an OCI image becomes layers and a container's file.

mod network;

use super::Scene;
use super::registry::{self, RegistryArguments};
use crate::layers::{self, Imported, Named};
use crate::project::container::DEFAULT_PATH;
use crate::project::source::Source;
use crate::project::template::{self, NewContainer};
use crate::project::units::{Signal, Size, Span, UserText, human};
use crate::project::{Project, container::ContainerText};
use crate::registry::reference::Reference;
use crate::{compose, files};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use clap::builder::PossibleValuesParser;
use kedge_revision::container::{Goal, Process, RootWrites};
use kedge_revision::pool::Published;
use kedge_revision::{Name, ObjectId};
use kedge_rootfs::{Healthcheck, ImageProcess, ImportOptions, Progress};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::PathBuf;

/// Add an image as a container: its layers go to build/objects, its definition to containers/NAME.toml.
///
/// IMAGE is a path: an OCI layout, an archive of `docker save` or `podman save`, a root file system as folder or tar. Its
/// kind is found out, or stands in front: oci:, oci-archive:, docker-archive:, dir:, tar:. Or it is in a registry:
/// docker://HOST[:PORT]/REPOSITORY[:TAG][@sha256:…], where docker:// may be left away if HOST has a dot or a port and there is no
/// such file. The image for the board is pulled, and what the tag came to is written down, so that the same layers are made again
/// later. Everything that the image leaves to its runtime is written down with its default, so that you see, and can take away,
/// what the container gets.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge add ../web.tar --name web
  kedge add docker://registry.example/shop/web:1.2 --name web --health-http 8080/health
  kedge add docker://registry.example/shop/web:1.3 --name web --update
  kedge add ../web.tar --name web --pool front --publish 8080:80
  kedge add docker://10.0.0.2:5000/web:1 --name web --username ci --password-file ~/ci.password --ca-file ca.pem")]
pub(super) struct Add {
    /// The image.
    image: String,
    /// The container's name.
    #[arg(long)]
    name: Name,
    /// Its group, one of kedge.toml; the last one if absent.
    #[arg(long)]
    group: Option<Name>,
    /// What it must reach for its revision to hold; ready if it has a health check, else started.
    #[arg(long, value_parser = PossibleValuesParser::new(["started", "ready", "finished"]))]
    goal: Option<String>,
    /// The network it sees; host if the image exposes ports, else none.
    #[arg(long, value_parser = PossibleValuesParser::new(["none", "host"]))]
    network: Option<String>,
    /// A network of its own, with an address in this pool of kedge.toml.
    #[arg(long, value_name = "NAME", conflicts_with = "network")]
    pool: Option<Name>,
    /// A port of the device behind which it listens: [ADDRESS:]PORT:PORT-OF-CONTAINER, or with /udp. May be given again.
    #[arg(long, value_name = "PORT:PORT", requires = "pool")]
    publish: Vec<Published>,
    /// Where writes to its root file system go.
    #[arg(long, default_value = "revision", value_parser = PossibleValuesParser::new(["refused", "revision", "boot"]))]
    root: String,
    /// User or user:group, by number or by the image's own names.
    #[arg(long)]
    user: Option<UserText>,
    /// A volume that outlives revisions: NAME=/path. May be given again.
    #[arg(long, value_name = "NAME=PATH")]
    volume: Vec<String>,
    /// An environment variable: NAME=value. May be given again.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Health check: a GET on this port and path answers, as in 8080/health.
    #[arg(long, value_name = "PORT/PATH", conflicts_with = "health_tcp")]
    health_http: Option<String>,
    /// Health check: this TCP port opens.
    #[arg(long, value_name = "PORT")]
    health_tcp: Option<u16>,
    /// Most memory, as in 64MiB.
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// Which image of several in an archive or layout.
    #[arg(long)]
    reference: Option<String>,
    /// Put new layers into an existing definition; nothing else in it changes.
    #[arg(long, conflicts_with_all = DEFINES)]
    update: bool,
    /// Write an existing definition anew.
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    registry: RegistryArguments,
    /// What to run in place of the image's entrypoint and command; takes all that follows.
    #[arg(long, value_name = "PROGRAM", num_args = 1.., allow_hyphen_values = true)]
    command: Option<Vec<String>>,
}

/// What a new definition is made with, and an update leaves as it stands in the file.
const DEFINES: [&str; 14] = [
    "group",
    "goal",
    "network",
    "pool",
    "publish",
    "root",
    "user",
    "volume",
    "env",
    "health_http",
    "health_tcp",
    "memory",
    "command",
    "replace",
];

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Added {
    name: Name,
    updated: bool,
    /// As the project keeps it; of a registry with its digest.
    image: String,
    path: PathBuf,
    layers: Vec<ObjectId>,
    size: u64,
    notes: Vec<String>,
}

impl Add {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let project = scene.project()?;
        let path = project.container_path(&self.name);
        self.check_place(&path)?;
        let here = std::env::current_dir().context("cannot tell the current folder")?;
        let image = self.kept(scene, &project, &here)?;
        let bar = scene.output.spinner(&format!("importing {}", self.image));
        let imported = layers::import(
            &project,
            project.folder(),
            &image,
            &self.options(&project)?,
            &mut |progress| {
                bar.set_message(match progress {
                    Progress::Reading { index, count } => {
                        format!("reading layer {} of {count}", index.saturating_add(1))
                    }
                    Progress::Writing { index, count } => {
                        format!("writing layer {} of {count}", index.saturating_add(1))
                    }
                });
            },
        );
        bar.finish_and_clear();
        let imported = imported?;
        let mut notes: Vec<String> = imported
            .image
            .notes
            .iter()
            .map(ToString::to_string)
            .collect();
        if !Reference::is_marked(&image) && lies_outside(&image) {
            notes.push(format!(
                "{image} lies outside the project: whoever builds it elsewhere needs it there, too"
            ));
        }
        let text = if self.update {
            self.updated(&Source::read(&path)?, &image, &imported)?
        } else {
            self.definition(&project, image.clone(), &imported, &mut notes)?
        };
        files::write(&path, text)?;
        let added = Added {
            name: self.name.clone(),
            updated: self.update,
            image,
            path,
            layers: imported.layers.clone(),
            size: imported.size,
            notes,
        };
        scene.output.result(words(&added), &added)
    }

    /// The image as the project keeps its name; one of a registry is in the cache then.
    fn kept(&self, scene: &Scene, project: &Project, here: &std::path::Path) -> Result<String> {
        let reference = match layers::named(project, here, &self.image)? {
            Named::Registry(reference) => reference,
            Named::File(name) => {
                ensure!(
                    !self.registry.is_given(),
                    "{name} is a file: --username, --ca-file and --insecure are for images of registries"
                );
                return Ok(name);
            }
        };
        ensure!(
            self.reference.is_none(),
            "--reference is for archives and layouts: write the tag behind the image, as in {reference}"
        );
        let pulled = registry::pull(scene, project, &reference, &self.registry.access()?)?;
        Ok(pulled.to_string())
    }

    fn check_place(&self, path: &std::path::Path) -> Result<()> {
        if self.update {
            ensure!(
                path.exists(),
                "there is no {} to update; leave --update away to make it",
                path.display()
            );
        } else if path.exists() && !self.replace {
            bail!(
                "{} exists: put new layers into it with --update, or write it anew with --replace",
                path.display()
            );
        }
        Ok(())
    }

    fn options(&self, project: &Project) -> Result<ImportOptions> {
        // An update keeps what the definition runs, whatever the image says.
        let anything = self.update.then(|| vec!["-".to_owned()]);
        Ok(ImportOptions {
            architecture: Some(layers::architecture(project)?.to_owned()),
            reference: self.reference.clone(),
            command: self.command.clone().or(anything),
            ..ImportOptions::default()
        })
    }

    /// A definition with the layers of a new image, and what tells it among others.
    fn updated(&self, source: &Source, image: &str, imported: &Imported) -> Result<String> {
        let layers = imported.layers.iter();
        let layers: String = layers.map(|id| format!("    \"{id}\",\n")).collect();
        let mut values = vec![
            ("image", template::quote(image)),
            ("layers", format!("[\n{layers}]")),
        ];
        if let Some(reference) = &self.reference {
            values.push(("reference", template::quote(reference)));
        }
        Ok(source.with_values(&values)?)
    }

    /// The text of a new definition, parsed and judged before it is written.
    fn definition(
        &self,
        project: &Project,
        image: String,
        imported: &Imported,
        notes: &mut Vec<String>,
    ) -> Result<String> {
        let process = &imported.image.process;
        let places: Vec<PathBuf> = imported
            .layers
            .iter()
            .map(|id| project.object_path(*id))
            .collect();
        let named = self
            .user
            .as_ref()
            .map(ToString::to_string)
            .or_else(|| process.user.clone())
            .unwrap_or_default();
        let user: UserText = if named.is_empty() {
            "0:0".to_owned()
        } else {
            named.clone()
        }
        .parse()
        .map_err(anyhow::Error::msg)?;
        let user = compose::resolve_user(&user, &places)
            .map_err(|why| anyhow::anyhow!("{why}\nhelp: name the user by number with --user"))?;
        let health = self.health(process, notes)?;
        let network = self.network(project, process, notes)?;
        let goal = match &self.goal {
            Some(word) => parse_word(word)?,
            None if health.is_empty() => Goal::Started,
            None => Goal::Ready,
        };
        ensure!(
            goal != Goal::Ready || !health.is_empty(),
            "the goal ready needs a health check: --health-tcp or --health-http"
        );
        let new = NewContainer {
            image,
            reference: self.reference.clone(),
            layers: imported.layers.clone(),
            group: self.group(project)?,
            goal,
            network,
            root: parse_word::<RootWrites>(&self.root)?,
            process: self.process(process, user)?,
            user_name: if named.chars().all(|c| c.is_ascii_digit() || c == ':') {
                String::new()
            } else {
                named
            },
            health,
            volumes: self.volumes(process)?,
            memory: self.memory,
        };
        let text = template::container(&new);
        judge(project, &self.name, &text)?;
        Ok(text)
    }

    fn group(&self, project: &Project) -> Result<Name> {
        let groups = &project.manifest().groups;
        let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
        match &self.group {
            Some(group) if names.contains(&group.as_str()) => Ok(group.clone()),
            Some(group) => bail!(
                "kedge.toml has no group {group}; it has: {}",
                names.join(", ")
            ),
            None => groups
                .last()
                .map(|group| group.name.clone())
                .context("kedge.toml has no group; add one under [[groups]]"),
        }
    }

    fn process(
        &self,
        image: &ImageProcess,
        user: kedge_revision::container::User,
    ) -> Result<Process> {
        let mut environment = image.env.clone();
        if !environment.iter().any(|entry| entry.starts_with("PATH=")) {
            environment.insert(0, DEFAULT_PATH.to_owned());
        }
        for entry in &self.env {
            let (name, _) = entry
                .split_once('=')
                .with_context(|| format!("--env {entry}: write NAME=value"))?;
            environment
                .retain(|other| other.split_once('=').is_none_or(|(other, _)| other != name));
            environment.push(entry.clone());
        }
        let stop = image.stop_signal.as_deref().unwrap_or("SIGTERM");
        let stop: Signal = stop
            .parse()
            .map_err(|why| anyhow::anyhow!("the image's stop signal: {why}"))?;
        Ok(Process {
            arguments: image.entrypoint.iter().chain(&image.cmd).cloned().collect(),
            environment,
            user,
            working_directory: image.working_dir.clone().unwrap_or_else(|| "/".to_owned()),
            stop_signal: stop.number,
            stop_grace_ms: 10_000,
            parameters: std::collections::BTreeMap::new(),
            secrets: Vec::new(),
        })
    }

    fn volumes(&self, image: &ImageProcess) -> Result<Vec<(Name, String)>> {
        let mut volumes: Vec<(Name, String)> = Vec::new();
        for volume in &self.volume {
            let (name, path) = volume
                .split_once('=')
                .with_context(|| format!("--volume {volume}: write NAME=/path"))?;
            volumes.push((
                name.parse().with_context(|| format!("--volume {volume}"))?,
                path.to_owned(),
            ));
        }
        for path in &image.volumes {
            let path = path.trim_end_matches('/');
            if !path.is_empty() && !volumes.iter().any(|(_, other)| other == path) {
                volumes.push((volume_name(path, &volumes)?, path.to_owned()));
            }
        }
        Ok(volumes)
    }

    /// The `[health]` section: from the arguments, else from the image.
    fn health(&self, image: &ImageProcess, notes: &mut Vec<String>) -> Result<String> {
        if let Some(port) = self.health_tcp {
            return Ok(health_section(
                &format!("tcp = {port}"),
                &Healthcheck::default(),
            ));
        }
        if let Some(text) = &self.health_http {
            let (port, path) = text.split_once('/').unwrap_or((text, ""));
            let port: u16 = port.parse().with_context(|| {
                format!("--health-http {text}: write PORT/PATH, as in 8080/health")
            })?;
            let check = format!(
                "http = {{ port = {port}, path = {} }}",
                template::quote(&format!("/{path}"))
            );
            return Ok(health_section(&check, &Healthcheck::default()));
        }
        let Some(check) = &image.healthcheck else {
            return Ok(String::new());
        };
        let command = match check.test.split_first() {
            Some((kind, rest)) if kind == "CMD" => rest.to_vec(),
            Some((kind, rest)) if kind == "CMD-SHELL" => {
                [&["/bin/sh".to_owned(), "-c".to_owned()], rest].concat()
            }
            Some((kind, _)) if kind == "NONE" => return Ok(String::new()),
            Some(_) | None => {
                notes.push("its health check is of no known kind and was left out".to_owned());
                return Ok(String::new());
            }
        };
        Ok(health_section(
            &format!("command = {}", template::list(&command)),
            check,
        ))
    }
}

/// Docker's defaults where the image does not say: every 30 s, 30 s long, three in a row.
fn health_section(check: &str, image: &Healthcheck) -> String {
    let span = |nanoseconds: u64, default: u32| match u32::try_from(nanoseconds / 1_000_000) {
        Ok(0) => Span::s(default),
        Ok(ms) => Span::ms(ms),
        Err(_) => Span::ms(u32::MAX),
    };
    let retries = if image.retries == 0 { 3 } else { image.retries };
    format!(
        "\n[health]\n{check}\ninterval = \"{}\"         # while starting, checks come faster\ntimeout = \"{}\"\nretries = {retries}\nstart-period = \"{}\"      # failures do not count yet\n",
        span(image.interval, 30),
        span(image.timeout, 5),
        span(image.start_period, 0),
    )
}

/// A name from a path's last part that no other volume has.
fn volume_name(path: &str, others: &[(Name, String)]) -> Result<Name> {
    let last = path.rsplit('/').next().unwrap_or_default().to_lowercase();
    let plain: String = last
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(24)
        .collect();
    let plain = plain
        .trim_matches(|c: char| !c.is_ascii_alphabetic())
        .trim_end_matches('-');
    let stem = if plain.is_empty() { "data" } else { plain };
    for number in 1_u32.. {
        let text = if number == 1 {
            stem.to_owned()
        } else {
            format!("{stem}-{number}")
        };
        if !others.iter().any(|(other, _)| other.as_str() == text) {
            return text
                .parse()
                .with_context(|| format!("cannot name the volume {path}"));
        }
    }
    bail!("cannot name the volume {path}")
}

/// A word of the format, as the signed form spells it.
fn parse_word<T: DeserializeOwned>(word: &str) -> Result<T> {
    serde_json::from_value(serde_json::Value::String(word.to_owned()))
        .with_context(|| format!("`{word}` is not known"))
}

/// What is written must be what `kedge build` takes.
fn judge(project: &Project, name: &Name, text: &str) -> Result<()> {
    let source = Source::new(&project.container_path(name), text.to_owned());
    let parsed: ContainerText = source.parse()?;
    let resolve = |user: &UserText| {
        crate::project::users::numeric(user).ok_or_else(|| format!("`{user}` is no number"))
    };
    let container = parsed
        .container(&resolve)
        .map_err(|wrong| anyhow::anyhow!(wrong.message))?;
    let field = format!("containers.{name}");
    container
        .check(&field)
        .and_then(|()| container.check_new(&field))
        .context("the image cannot become a container as it is")?;
    network::goes_with_others(project, name, &container)
}

/// Whether an image, as the project keeps its name, is not among the project's files.
fn lies_outside(image: &str) -> bool {
    let path = std::path::Path::new(layers::path_of(image));
    path.is_absolute() || path.starts_with("..")
}

fn words(added: &Added) -> String {
    const MOST_NOTES: usize = 8;
    let mut lines = vec![format!(
        "{} {}: {} layers, {}. Its definition: {}",
        if added.updated { "Updated" } else { "Added" },
        added.name,
        added.layers.len(),
        human(added.size),
        added.path.display()
    )];
    if Reference::is_marked(&added.image) {
        lines.push(format!("  pulled {}", added.image));
    }
    lines.extend(
        added
            .notes
            .iter()
            .take(MOST_NOTES)
            .map(|note| format!("  note: {note}")),
    );
    if added.notes.len() > MOST_NOTES {
        lines.push(format!(
            "  and {} more notes (--json shows all)",
            added.notes.len().saturating_sub(MOST_NOTES)
        ));
    }
    lines.push("Next: look it over, then kedge build".to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_get_names_from_their_paths() {
        let name =
            |path: &str, taken: &[(Name, String)]| volume_name(path, taken).unwrap().to_string();
        assert_eq!(name("/var/lib/redis", &[]), "redis");
        assert_eq!(
            name("/data", &[("data".parse().unwrap(), "/x".into())]),
            "data-2"
        );
        assert_eq!(name("/srv/_.", &[]), "data");
        assert_eq!(name("/srv/My_Data", &[]), "my-data");
    }

    #[test]
    fn a_health_section_parses() {
        let check = Healthcheck {
            interval: 1_500_000_000,
            ..Healthcheck::default()
        };
        let text = health_section("tcp = 80", &check);
        let table: toml::Table = toml::from_str(&text).unwrap();
        let health: crate::project::container::HealthText =
            table["health"].clone().try_into().unwrap();
        assert_eq!(
            (health.interval.ms, health.timeout.ms, health.retries),
            (1500, 5000, 3)
        );
    }
}
