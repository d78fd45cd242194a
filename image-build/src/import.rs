//! Importers: what others describe their containers with becomes files of a project.
//!
//! A reader ([`compose`]) is pure: text in, [`Draft`]s out, and a list of everything that does not carry over ([`Left`]).
//! [`place`] then imports images, judges the whole as `kedge build` will, and only then writes.

pub mod compose;
pub mod draft;
pub mod interpolate;
pub mod objects;
pub mod pantavisor;
pub mod yaml;

use crate::files;
use crate::layers::{self, Named};
use crate::project::Project;
use crate::project::container::ContainerText;
use crate::project::source::Source;
use crate::registry::reference::Reference;
use anyhow::{Context, Result, bail, ensure};
use draft::{Draft, Layers, Left};
use kedge_revision::container::Goal;
use kedge_revision::content::Change;
use kedge_revision::{Name, ObjectId};
use kedge_rootfs::ImportOptions;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One container that was written.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Written {
    /// Its name.
    pub name: Name,
    /// Its file.
    pub path: PathBuf,
    /// The image that is still to be given, as the source names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_image: Option<String>,
}

/// Pulls a registry's image, and returns its name with the digest that it came to.
pub type Puller<'a> = dyn Fn(&Reference) -> Result<Reference> + 'a;

/// Where things are put.
pub struct Place<'a> {
    /// The project.
    pub project: &'a Project,
    /// Images by container: paths as `kedge add` takes them, relative to `here`.
    pub images: BTreeMap<Name, String>,
    /// What relative paths start from.
    pub here: &'a Path,
    /// Whether containers that exist are written anew.
    pub replace: bool,
    /// For images that are in a registry.
    pub pull: &'a Puller<'a>,
}

impl std::fmt::Debug for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place")
            .field("images", &self.images)
            .field("replace", &self.replace)
            .finish_non_exhaustive()
    }
}

/// What `kedge.toml` must have for the containers.
#[derive(Debug, Default)]
pub struct Declares {
    /// Secret parameters.
    pub secrets: Vec<Name>,
    /// Groups in their order; those of `kedge.toml` if there are none.
    pub groups: Vec<(Name, Change)>,
}

/// Imports the images, judges, and writes the containers' files and what `kedge.toml` lacks.
///
/// # Errors
/// A container exists, an image cannot be used, or what would be written is nothing that can be built; then nothing of it
/// is written.
pub fn place(
    place: &Place<'_>,
    mut drafts: Vec<Draft>,
    declares: &Declares,
    lefts: &mut Vec<Left>,
) -> Result<Vec<Written>> {
    for draft in &drafts {
        let path = place.project.container_path(&draft.name);
        ensure!(
            place.replace || !path.exists(),
            "{} exists: --replace writes it anew",
            path.display()
        );
    }
    for draft in &mut drafts {
        if let Some(image) = place.images.get(&draft.name) {
            import(place, draft, image)?;
        }
        draft.settle(lefts);
    }
    let manifest = with_secrets(place.project, &declares.secrets)?;
    let manifest = with_groups(place.project, &manifest, &declares.groups, lefts)?;
    judge(place.project, &manifest, &drafts)?;
    let mut written = Vec::new();
    for draft in drafts {
        let path = place.project.container_path(&draft.name);
        files::write(&path, draft.text())?;
        written.push(Written {
            missing_image: match draft.layers {
                Layers::Missing(reference) => Some(reference),
                Layers::Imported { .. } => None,
            },
            name: draft.name,
            path,
        });
    }
    let path = place.project.source().path();
    if files::read_text(path)? != manifest {
        files::write(path, manifest)?;
    }
    Ok(written)
}

/// The image's layers go to `build/objects`; what the source leaves to the image is taken from it.
fn import(place: &Place<'_>, draft: &mut Draft, image: &str) -> Result<()> {
    let project = place.project;
    let architecture = layers::architecture(project)?;
    let kept = match layers::named(project, place.here, image)? {
        Named::File(name) => name,
        Named::Registry(reference) => (place.pull)(&reference)
            .with_context(|| format!("the image of {}", draft.name))?
            .to_string(),
    };
    let options = |command| ImportOptions {
        architecture: Some(architecture.to_owned()),
        command,
        ..ImportOptions::default()
    };
    let take = |command| {
        layers::import(
            project,
            project.folder(),
            &kept,
            &options(command),
            &mut |_| (),
        )
    };
    let step = format!("importing {image} for {}", draft.name);
    let imported = crate::progress::step(step, || {
        if draft.entrypoint.is_some() {
            return take(Some(draft.arguments()));
        }
        let whole = take(None);
        match (&whole, draft.command.clone()) {
            // A bare root file system: it says of no program, the source does.
            (Err(_), Some(command)) if !command.is_empty() => {
                let taken = take(Some(command));
                if taken.is_ok() {
                    draft.entrypoint = Some(Vec::new());
                    return taken;
                }
                whole
            }
            _ => whole,
        }
    })
    .with_context(|| format!("the image of {}", draft.name))?;
    draft.fill(&imported.image.process);
    draft.layers = Layers::Imported {
        image: kept,
        layers: imported.layers,
    };
    Ok(())
}

/// `kedge.toml` with the secrets declared that it lacks.
fn with_secrets(project: &Project, secrets: &[Name]) -> Result<String> {
    let mut text = files::read_text(project.source().path())?;
    for name in secrets {
        match project.manifest().parameters.get(name) {
            Some(parameter) if parameter.secret => {}
            Some(_) => bail!("kedge.toml declares the parameter {name}, and not as a secret"),
            None => text.push_str(&format!(
                "\n[parameters.{name}]\ntype = \"string\"\nsecret = true\n"
            )),
        }
    }
    Ok(text)
}

/// `kedge.toml` with these groups: in their place while it has no containers, else after those that it has.
fn with_groups(
    project: &Project,
    text: &str,
    groups: &[(Name, Change)],
    lefts: &mut Vec<Left>,
) -> Result<String> {
    let own = &project.manifest().groups;
    let mut all: Vec<(Name, Change)> = Vec::new();
    if !project.containers()?.is_empty() {
        all.extend(own.iter().map(|group| (group.name.clone(), group.change)));
    }
    for (name, change) in groups {
        match all.iter().find(|(other, _)| other == name) {
            Some((_, other)) if other == change => {}
            Some(_) => lefts.push(Left {
                path: format!("group {name}"),
                line: None,
                why: "kedge.toml has it already, and a change in it costs something else there"
                    .to_owned(),
                instead: "set its `change` in kedge.toml".to_owned(),
            }),
            None => all.push((name.clone(), *change)),
        }
    }
    let same = all.len() == own.len()
        && all
            .iter()
            .zip(own)
            .all(|(one, other)| one.0 == other.name && one.1 == other.change);
    if groups.is_empty() || same {
        return Ok(text.to_owned());
    }
    let mut blocks = String::new();
    for (name, change) in &all {
        let word = match change {
            Change::Reboot => "reboot",
            Change::Restart => "restart",
        };
        blocks.push_str(&format!(
            "[[groups]]\nname = \"{name}\"\nchange = \"{word}\"\n\n"
        ));
    }
    let (mut out, mut inside, mut done) = (String::new(), false, false);
    for line in text.split_inclusive('\n') {
        let plain = line.trim();
        if plain == "[[groups]]" {
            inside = true;
            if !done {
                out.push_str(&blocks);
                done = true;
            }
            continue;
        }
        inside &= !plain.starts_with('[');
        if !inside || plain.starts_with('#') {
            out.push_str(line);
        }
    }
    ensure!(done, "kedge.toml has no [[groups]]");
    Ok(out)
}

/// What is written must be what `kedge build` takes, apart from images that are not here yet.
fn judge(project: &Project, manifest: &str, drafts: &[Draft]) -> Result<()> {
    let manifest = Source::new(project.source().path(), manifest.to_owned());
    let manifest: crate::project::manifest::Manifest = manifest.parse()?;
    let mut containers = BTreeMap::new();
    for draft in drafts {
        let path = project.container_path(&draft.name);
        let source = Source::new(&path, draft.text());
        let mut text: ContainerText = source.parse()?;
        let missing = matches!(draft.layers, Layers::Missing(_));
        if missing {
            text.layers.push(ObjectId::from_digest([0; 32]));
            if text.process.arguments.is_empty() {
                text.process.arguments.push("/".to_owned());
            }
        }
        // Names of users are the image's: `kedge build` resolves them.
        let resolve = |user: &_| Ok(crate::project::users::numeric(user).unwrap_or_default());
        let container = text
            .container(&resolve)
            .map_err(|wrong| anyhow::anyhow!("{}: {}", draft.name, wrong.message))?;
        containers.insert(draft.name.clone(), container);
    }
    let content = manifest.content(containers);
    content
        .check()
        .with_context(|| "what was read cannot become containers as it is".to_owned())
}

impl Draft {
    /// The goal, once it is known whether there is a health check.
    fn settle(&mut self, lefts: &mut Vec<Left>) {
        if !self.wants_ready {
            return;
        }
        if self.health.is_some() {
            self.goal = Goal::Ready;
            return;
        }
        lefts.push(Left {
            path: format!("services.{}.healthcheck", self.name),
            line: None,
            why: "others wait for it to be healthy, and neither file nor image says how to tell"
                .to_owned(),
            instead: "with a [health] section, set its goal to \"ready\"".to_owned(),
        });
    }
}
