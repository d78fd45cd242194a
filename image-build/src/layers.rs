//! Layers of a project's containers: imported from images into `build/objects`, looked for again when they are gone, and
//! read without being mounted.

use crate::project::{Definition, Project};
use crate::registry::manifest::Platform;
use crate::registry::reference::Reference;
use crate::registry::{self, Access, Pulled};
use crate::{files, process, tools};
use anyhow::{Context, Result, bail};
use kedge_revision::ObjectId;
use kedge_rootfs::{Bounds, Image, ImportOptions, Progress, Source};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// Kinds of images that may stand before a path.
const KINDS: [&str; 5] = ["oci", "oci-archive", "docker-archive", "dir", "tar"];
/// Largest text that is read out of a layer: a passwd file has a few kilobytes.
const MOST_TEXT: usize = 1024 * 1024;

/// An imported image whose layers are objects of the project.
#[derive(Debug)]
pub struct Imported {
    /// Its layers, the lowest first.
    pub layers: Vec<ObjectId>,
    /// Their bytes together.
    pub size: u64,
    /// What the image says of itself, with the layers at their first place (they were moved from there).
    pub image: Image,
}

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// In files: its name as the project keeps it.
    File(String),
    /// In a registry.
    Registry(Reference),
}

/// Imports an image; `name` may have its kind in front (`oci:images/web`), a relative path is taken from `base`. What of a
/// registry's image is not in the cache is pulled, as whoever the user's own files say.
///
/// # Errors
/// What `kedge-rootfs` refuses, or the objects cannot be written.
pub fn import(
    project: &Project,
    base: &Path,
    name: &str,
    options: &ImportOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Imported> {
    let mkfs = tools::mkfs_erofs()?;
    let place = if Reference::is_marked(name) {
        let pulled = pull(
            project,
            &name.parse()?,
            &Access::default(),
            &mut registry::tell,
        )?;
        format!("oci:{}", pulled.layout.display())
    } else {
        at(base, name)
    };
    let source = Source::open(&place, &options.bounds)
        .with_context(|| format!("cannot use the image {name}"))?;
    let build = project.build_folder();
    files::make_folder(&build)?;
    files::remove_leftovers(&build, files::IMPORT);
    let folder = build.join(format!("{}{}", files::IMPORT, std::process::id()));
    files::remove_folder(&folder)?;
    files::make_folder(&folder)?;
    let imported = take(project, &source, options, &mkfs.argv, &folder, progress);
    let removed = files::remove_folder(&folder);
    let imported = imported.with_context(|| format!("cannot import {name}"))?;
    removed.map(|()| imported)
}

fn take(
    project: &Project,
    source: &Source,
    options: &ImportOptions,
    mkfs: &[std::ffi::OsString],
    folder: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Imported> {
    let image = kedge_rootfs::import(source, options, mkfs, folder, progress)?;
    let mut layers = Vec::new();
    let mut size = 0_u64;
    for layer in &image.layers {
        let path = project.object_path(layer.id);
        if let Some(shard) = path.parent() {
            files::make_folder(shard)?;
        }
        files::publish(&layer.path, &path)?;
        layers.push(layer.id);
        size = size.saturating_add(layer.size);
    }
    Ok(Imported {
        layers,
        size,
        image,
    })
}

/// Makes sure that a container's layers are in `build/objects`: `build/` may be deleted, the image makes them again.
///
/// # Errors
/// A layer is missing and its image is gone, or gives other layers now.
pub fn ensure_present(project: &Project, definition: &Definition) -> Result<()> {
    let text = &definition.text;
    let missing = |layers: &[ObjectId]| {
        layers
            .iter()
            .find(|id| !project.object_path(**id).exists())
            .copied()
    };
    let Some(first) = missing(&text.layers) else {
        return Ok(());
    };
    let wrong = |message: String| {
        let help = format!(
            "add the image again: kedge add IMAGE --name {} --update",
            definition.name
        );
        definition.source.mistake(&["layers"], message, Some(help))
    };
    let Some(name) = &text.image else {
        return Err(wrong(format!(
            "layer {first} is not in build/objects, and the file names no image"
        ))
        .into());
    };
    let options = ImportOptions {
        reference: text.reference.clone(),
        command: Some(text.process.arguments.clone()),
        ..ImportOptions::default()
    };
    let step = format!("importing {name} again for {}", definition.name);
    let imported = crate::progress::step(step, || {
        import(project, project.folder(), name, &options, &mut |_| ())
    })
    .map_err(|error| error.context(wrong(format!("layer {first} is not in build/objects"))))?;
    if imported.layers != text.layers {
        return Err(wrong(format!(
            "the image {name} has changed since it was added: it gives other layers"
        ))
        .into());
    }
    Ok(())
}

/// A text file of a container's root file system, from its topmost layer that has it; empty if none has.
///
/// # Errors
/// A layer cannot be read, or the text is over a megabyte or not UTF-8.
pub fn read_text(layers: &[PathBuf], path: &str) -> Result<String> {
    read_text_up_to(layers, path, MOST_TEXT)
}

/// As [`read_text`], with another bound.
///
/// # Errors
/// As [`read_text`].
pub fn read_text_up_to(layers: &[PathBuf], path: &str, most: usize) -> Result<String> {
    for layer in layers.iter().rev() {
        let dump = tools::dump_erofs()?;
        // dump.erofs answers with success for a path that is not there; its words go to standard error.
        let mut command = dump.command();
        command
            .arg("--cat")
            .arg(format!("--path={path}"))
            .arg(layer);
        let Ok(bytes) = process::output_up_to(&mut command, most) else {
            continue;
        };
        let Some(bytes) = bytes else {
            bail!("{path} has more than {most} bytes in {}", layer.display());
        };
        if bytes.is_empty() {
            continue;
        }
        return String::from_utf8(bytes)
            .with_context(|| format!("{path} is not UTF-8 in {}", layer.display()));
    }
    Ok(String::new())
}

/// The names in a directory of a container's root file system, as its layers leave it; empty if none has it.
///
/// # Errors
/// A layer cannot be read, or the directory has over [`MOST_TEXT`] bytes of names.
pub fn list(layers: &[PathBuf], path: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for layer in layers {
        let dump = tools::dump_erofs()?;
        let mut command = dump.command();
        command.arg("--ls").arg(format!("--path={path}")).arg(layer);
        // As above: a path that is not there gives no list.
        let Ok(bytes) = process::output_up_to(&mut command, MOST_TEXT) else {
            continue;
        };
        let Some(bytes) = bytes else {
            bail!("{path} has too many names in {}", layer.display());
        };
        listed(&String::from_utf8_lossy(&bytes), &mut names);
    }
    Ok(names)
}

/// Takes a list of dump.erofs: number, type and name a line. A whiteout (a character device) takes a name away.
fn listed(text: &str, names: &mut BTreeSet<String>) {
    const CHARACTER_DEVICE: &str = "3";
    let mut lines = text.lines();
    if !lines.any(|line| line.trim_end().ends_with("TYPE  FILENAME")) {
        return;
    }
    for line in lines {
        let entry = line.trim_start().split_once(' ');
        let Some((kind, name)) = entry.and_then(|(_, rest)| rest.trim_start().split_once("  "))
        else {
            continue;
        };
        if kind == CHARACTER_DEVICE {
            names.remove(name);
        } else if name != "." && name != ".." {
            names.insert(name.to_owned());
        }
    }
}

/// The architecture of the project's board, as OCI images name it.
///
/// # Errors
/// There is no such board.
pub fn architecture(project: &Project) -> Result<&'static str> {
    Ok(project.board()?.architecture.oci())
}

/// Pulls a registry's image for the project's board.
///
/// # Errors
/// As [`registry::pull`].
pub fn pull(
    project: &Project,
    reference: &Reference,
    access: &Access,
    news: &mut dyn FnMut(registry::News<'_>),
) -> Result<Pulled> {
    let platform = Platform::linux(architecture(project)?);
    registry::pull(reference, access, &platform, &Bounds::default(), news)
}

/// The image's name with its path made absolute.
fn at(base: &Path, name: &str) -> String {
    let (kind, path) = split(name);
    let path = base.join(path);
    match kind {
        Some(kind) => format!("{kind}:{}", path.display()),
        None => path.display().to_string(),
    }
}

/// Finds out whether a name is a file's or a registry's: what has `docker://` in front is a registry's, a path that
/// exists is a file's, and what begins with what can only be a registry, as `host.example/web:1`, is one's again.
///
/// # Errors
/// There is nothing at the path, or the name is none that a registry could have.
pub fn named(project: &Project, base: &Path, name: &str) -> Result<Named> {
    let (kind, path) = split(name);
    let is_plain = kind.is_none() && !base.join(path).exists() && Reference::names_registry(name);
    if Reference::is_marked(name) || is_plain {
        return Ok(Named::Registry(name.parse()?));
    }
    kept_name(project, base, name).map(Named::File)
}

/// The path in the name of an image that is a file.
pub(crate) fn path_of(name: &str) -> &str {
    split(name).1
}

/// The image's name as the project keeps it: relative to its folder if it lies in it or was named by a relative path, which others
/// may have likewise; else absolute.
fn kept_name(project: &Project, base: &Path, name: &str) -> Result<String> {
    let (kind, path) = split(name);
    let is_relative = Path::new(path).is_relative();
    let path = base.join(path);
    let path = path.canonicalize().map_err(|error| {
        anyhow::anyhow!(
            "there is no image at {}: {error}\nhelp: give a file (an OCI layout, an archive of `docker save` or `podman save`, a root file system), or an image of a registry as docker://HOST/REPOSITORY:TAG",
            path.display()
        )
    })?;
    let path = match path.strip_prefix(project.folder()) {
        Ok(within) => within.to_owned(),
        Err(_) if is_relative => upwards(project.folder(), &path),
        Err(_) => path,
    };
    let path = path.display().to_string();
    Ok(match kind {
        Some(kind) => format!("{kind}:{path}"),
        None => path,
    })
}

/// The way from a folder to what lies outside of it; both without links.
fn upwards(from: &Path, to: &Path) -> PathBuf {
    let shared = from.components().zip(to.components());
    let shared = shared.take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(to.components().skip(shared)).collect()
}

fn split(name: &str) -> (Option<&str>, &str) {
    match name.split_once(':') {
        Some((kind, path)) if KINDS.contains(&kind) => (Some(kind), path),
        Some(_) | None => (None, name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_outside_is_found_from_the_project() {
        let up = |to: &str| upwards(Path::new("/home/a/gateway"), Path::new(to));
        assert_eq!(up("/home/a/hello"), Path::new("../hello"));
        assert_eq!(up("/srv/x.tar"), Path::new("../../../srv/x.tar"));
    }

    #[test]
    fn a_kind_stays_in_front_and_other_colons_belong_to_the_path() {
        assert_eq!(at(Path::new("/p"), "oci:images/web"), "oci:/p/images/web");
        assert_eq!(at(Path::new("/p"), "web:1.tar"), "/p/web:1.tar");
        assert_eq!(at(Path::new("/p"), "tar:/abs.tar"), "tar:/abs.tar");
    }
}
