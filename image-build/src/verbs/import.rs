//! `kedge import`: what others describe their containers with becomes files of the project.

use super::{Scene, Told, registry};
use crate::files;
use crate::import::draft::{Draft, Layers, Left};
use crate::import::objects::Objects;
use crate::import::{self, Declares, Place, Written, compose, pantavisor};
use crate::project::Project;
use crate::registry::Access;
use crate::registry::reference::Reference;
use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use kedge_revision::Name;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Largest file that an importer reads beside its own.
const MOST_BESIDE: u64 = 1024 * 1024;

/// Turn what others describe their containers with into files of the project, containers/NAME.toml, and list all that does
/// not carry over, with what to do instead.
#[derive(Debug, Args)]
pub(super) struct Import {
    #[command(subcommand)]
    from: From,
}

#[derive(Debug, Subcommand)]
enum From {
    Compose(Compose),
    Pantavisor(Pantavisor),
}

/// Import the containers of a Pantavisor state.
///
/// SOURCE is a checkout of `pvr`, or a folder or archive (tar, tar.gz) of its export: `json` with `objects/` beside it. Each
/// root file system, a squashfs, becomes images/NAME.tar of the project, with its owners and modes, and from there layers.
/// The groups become those of kedge.toml.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge import pantavisor ~/device-checkout
  kedge import pantavisor export.tgz --into gateway --strict   # exit status 1 if anything is listed")]
struct Pantavisor {
    /// The state.
    source: PathBuf,
    /// The project's folder that the containers go to; the one of --project if absent.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Write containers anew that exist.
    #[arg(long)]
    replace: bool,
    /// End with status 1 if anything does not carry over.
    #[arg(long)]
    strict: bool,
}

/// Import the services of a compose file.
///
/// Images are named by the file and brought by you: --image SERVICE=PATH takes what `kedge add` takes, and --pull takes the others
/// from their registries, with the logins of docker, podman and skopeo. A service without
/// one is written all the same, and listed; run again with --image and --replace. Variables come from --env and from an
/// .env file beside the compose file, never from your own environment.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge import compose ../shop/compose.yaml --image web=oci:web --image db=db.tar
  kedge import compose compose.yaml --pull
  kedge import compose compose.yaml --profile debug --env TAG=1.2 --strict   # exit status 1 if anything is listed
  kedge import compose compose.yaml --json | jq .left")]
struct Compose {
    /// The compose file.
    file: PathBuf,
    /// The project's folder that the containers go to; the one of --project if absent.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// The image of a service, as `kedge add` takes it. May be given again.
    #[arg(long, value_name = "SERVICE=PATH")]
    image: Vec<String>,
    /// Pull the images of the services that --image does not name from the registries that the file names.
    #[arg(long)]
    pull: bool,
    /// The group of the containers, one of kedge.toml; the last one if absent.
    #[arg(long)]
    group: Option<Name>,
    /// Take services of this profile, too. May be given again.
    #[arg(long, value_name = "NAME")]
    profile: Vec<String>,
    /// The value of a variable of the file. May be given again.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Write containers anew that exist.
    #[arg(long)]
    replace: bool,
    /// End with status 1 if anything does not carry over.
    #[arg(long)]
    strict: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Imported {
    containers: Vec<Written>,
    left: Vec<Left>,
}

impl Import {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        match &self.from {
            From::Compose(compose) => compose.run(scene),
            From::Pantavisor(state) => state.run(scene),
        }
    }
}

impl Compose {
    fn run(&self, scene: &Scene) -> Result<()> {
        let project = Project::open(self.into.as_deref().unwrap_or(&scene.project))?;
        let here = std::env::current_dir().context("cannot tell the current folder")?;
        let folder = self.file.parent().unwrap_or(Path::new("")).to_owned();
        let beside = |name: &str| beside(&folder.join(name));
        let options = compose::Options {
            variables: self.variables(&beside)?,
            profiles: self.profile.clone(),
            group: group(&project, self.group.as_ref())?,
            source: self.file.display().to_string(),
            read: &beside,
        };
        let text = files::read_text(&self.file)?;
        let compose::Compose {
            drafts,
            secrets,
            mut left,
            services,
        } = compose::parse(&text, options).with_context(|| self.file.display().to_string())?;
        let mut images = self.images(&services)?;
        if self.pull {
            images.extend(pulled(&drafts, &images));
        }
        let place = Place {
            project: &project,
            images,
            here: &here,
            replace: self.replace,
            pull: &|reference| registry::pull(scene, &project, reference, &Access::default()),
        };
        let declares = Declares {
            secrets,
            groups: Vec::new(),
        };
        let containers = import::place(&place, drafts, &declares, &mut left)?;
        tell(scene, &Imported { containers, left }, self.strict)
    }

    fn variables(
        &self,
        read: &dyn Fn(&str) -> Result<Option<String>>,
    ) -> Result<BTreeMap<String, String>> {
        let file = read(".env")?.unwrap_or_default();
        let mut variables: BTreeMap<String, String> = compose::values::env_file(&file)
            .context("the .env file beside it")?
            .into_iter()
            .collect();
        for entry in &self.env {
            let (name, value) = entry
                .split_once('=')
                .with_context(|| format!("--env {entry}: write NAME=value"))?;
            variables.insert(name.to_owned(), value.to_owned());
        }
        Ok(variables)
    }

    fn images(&self, services: &BTreeMap<Name, String>) -> Result<BTreeMap<Name, String>> {
        let mut images = BTreeMap::new();
        for image in &self.image {
            let (service, path) = image
                .split_once('=')
                .with_context(|| format!("--image {image}: write SERVICE=PATH"))?;
            let found = services.iter().find(|(_, key)| *key == service);
            let (name, _) = found.with_context(|| {
                let known: Vec<&str> = services.values().map(String::as_str).collect();
                format!(
                    "--image {image}: there is no service {service}; there are: {}",
                    known.join(", ")
                )
            })?;
            images.insert(name.clone(), path.to_owned());
        }
        Ok(images)
    }
}

impl Pantavisor {
    fn run(&self, scene: &Scene) -> Result<()> {
        let project = Project::open(self.into.as_deref().unwrap_or(&scene.project))?;
        let name = self.source.display().to_string();
        let objects = Objects::open(&self.source, &project.build_folder())?;
        let file = |path: &str, hash: &str| objects.text(path, hash);
        let pantavisor::State {
            drafts,
            roots,
            groups,
            mut left,
        } = pantavisor::parse(&objects.state()?, &name, &file).context(name)?;
        let mut images = BTreeMap::new();
        for (name, hash) in &roots {
            let tar = format!("images/{name}.tar");
            let place = project.folder().join(&tar);
            ensure!(
                self.replace || !place.exists(),
                "{} exists: --replace writes it anew",
                place.display()
            );
            crate::progress::step(format!("unpacking the root of {name}"), || {
                objects.root(name.as_str(), hash, &place)
            })?;
            images.insert(name.clone(), format!("tar:{tar}"));
        }
        let place = Place {
            project: &project,
            images,
            here: project.folder(),
            replace: self.replace,
            pull: &|reference| registry::pull(scene, &project, reference, &Access::default()),
        };
        let declares = Declares {
            secrets: Vec::new(),
            groups,
        };
        let containers = import::place(&place, drafts, &declares, &mut left)?;
        tell(scene, &Imported { containers, left }, self.strict)
    }
}

/// The images of containers that have none yet, as a registry has them: that is what a compose file's names mean.
fn pulled(drafts: &[Draft], images: &BTreeMap<Name, String>) -> BTreeMap<Name, String> {
    let mut more = BTreeMap::new();
    for draft in drafts {
        let Layers::Missing(reference) = &draft.layers else {
            continue;
        };
        // What is built from sources has no name here, and stays to be given.
        if let Ok(reference) = reference.parse::<Reference>()
            && !images.contains_key(&draft.name)
        {
            more.insert(draft.name.clone(), reference.to_string());
        }
    }
    more
}

/// A small text beside the file; none if it is not there.
fn beside(path: &Path) -> Result<Option<String>> {
    if !path.exists() {
        return Ok(None);
    }
    let size = path
        .metadata()
        .with_context(|| format!("cannot read {}", path.display()))?
        .len();
    ensure!(
        path.is_file() && size <= MOST_BESIDE,
        "{} is no file of at most {MOST_BESIDE} bytes",
        path.display()
    );
    files::read_text(path).map(Some)
}

fn group(project: &Project, wanted: Option<&Name>) -> Result<Name> {
    let groups = &project.manifest().groups;
    let mut names = groups.iter().map(|group| &group.name);
    match wanted {
        Some(group) => {
            ensure!(
                names.any(|name| name == group),
                "kedge.toml has no group {group}"
            );
            Ok(group.clone())
        }
        None => names
            .next_back()
            .cloned()
            .context("kedge.toml has no group; add one under [[groups]]"),
    }
}

fn tell(scene: &Scene, imported: &Imported, strict: bool) -> Result<()> {
    scene.output.result(words(imported), imported)?;
    if strict && !imported.left.is_empty() {
        return Err(Told.into());
    }
    Ok(())
}

fn words(imported: &Imported) -> String {
    let Imported { containers, left } = imported;
    let mut lines = vec![format!("Imported {} containers:", containers.len())];
    for one in containers {
        lines.push(match &one.missing_image {
            Some(image) => format!("  {}  its image is still to be given: {image}", one.name),
            None => format!("  {}  {}", one.name, one.path.display()),
        });
    }
    if left.is_empty() {
        lines.push("Everything carries over.".to_owned());
    } else {
        lines.push(format!("Does not carry over ({}):", left.len()));
    }
    for one in left {
        let line = one
            .line
            .map_or_else(String::new, |line| format!(" (line {line})"));
        lines.push(format!(
            "  {}{line}: {}\n      instead: {}",
            one.path, one.why, one.instead
        ));
    }
    lines.push(
        if containers.iter().any(|one| one.missing_image.is_some()) {
            "Next: run it again with --pull, or --image SERVICE=PATH for those without an image, and --replace"
        } else {
            "Next: look the files over, then kedge build"
        }
        .to_owned(),
    );
    lines.join("\n")
}
