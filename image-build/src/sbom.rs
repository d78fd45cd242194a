//! A bill of materials of a built revision: what its containers were made of, by their own package databases.
//!
//! Nothing is run and nothing is mounted: databases are read out of the layers. A container whose layers have none is told by
//! its layers. The same revision gives the same bytes: its id and its time stand in place of a random number and a clock.

pub mod cyclonedx;
mod packages;
pub mod spdx;

pub use packages::{Ecosystem, Package, apk, dpkg, dpkg_files, wheel};

use crate::project::Project;
use crate::toolchain::Crate;
use crate::{files, layers};
use anyhow::{Context, Result};
use kedge_revision::revision::ObjectKind;
use kedge_revision::{Envelope, Name, ObjectId};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// In a project's `build` folder.
const PARTS: &str = "parts.json";
/// Where distroless images have a file for each package.
const DPKG_FILES: &str = "/var/lib/dpkg/status.d";
/// Where Python's packages are: Debian's, pip's, and those of the usual virtual environments.
const PYTHON: [&str; 6] = [
    "/usr/lib",
    "/usr/local/lib",
    "/opt/venv/lib",
    "/venv/lib",
    "/app/.venv/lib",
    "/app/venv/lib",
];
/// Largest package database, bytes.
const MOST_DATABASE: usize = 32 * 1024 * 1024;

/// What a revision is made of.
#[derive(Debug)]
pub struct Bill {
    /// The revision.
    pub revision: ObjectId,
    /// Product and board.
    pub name: String,
    /// Its author's name for it.
    pub version: String,
    /// When it was made, as in `2026-11-25T20:49:38Z`.
    pub created: String,
    /// Its containers, by name.
    pub containers: Vec<Part>,
    /// Kernel, initramfs, and what else the slot holds.
    pub boot: Vec<Piece>,
}

/// A part of what boots.
#[derive(Debug)]
pub struct Piece {
    /// What it is: `kernel`, `initramfs`, `boot-file`, `statement`.
    pub kind: &'static str,
    /// The object.
    pub id: ObjectId,
    /// What it was made of, as far as that is known.
    pub packages: Vec<Package>,
}

/// What a project's kernel and initramfs were made of: `build/parts.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Parts {
    /// The initramfs that this tells of; of any other it tells nothing.
    pub initramfs: ObjectId,
    /// What `uname -r` says on the device.
    pub kernel_version: String,
    /// What the device binary was compiled from.
    pub crates: Vec<Crate>,
}

impl Parts {
    /// Keeps it with the build.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, project: &Project) -> Result<()> {
        let text = serde_json::to_string(self).context("cannot write the parts as JSON")?;
        files::write(&project.build_folder().join(PARTS), text)
    }

    /// That of the last build; none: it was made by an older version, or the file is gone.
    fn read(project: &Project) -> Result<Option<Self>> {
        let path = project.build_folder().join(PARTS);
        if !path.exists() {
            return Ok(None);
        }
        let parts = serde_json::from_slice(&files::read(&path)?);
        parts
            .map(Some)
            .with_context(|| format!("{} is damaged: kedge build makes it again", path.display()))
    }

    /// What an object was made of.
    fn of(&self, kind: ObjectKind) -> Vec<Package> {
        match kind {
            ObjectKind::Kernel => vec![Package {
                ecosystem: Ecosystem::Linux,
                name: "linux".to_owned(),
                version: self.kernel_version.clone(),
                architecture: String::new(),
                licence: Some("GPL-2.0-only".to_owned()),
            }],
            ObjectKind::Initramfs => self.crates.iter().map(of_crate).collect(),
            ObjectKind::Layer | ObjectKind::BootFile | ObjectKind::Statement => Vec::new(),
        }
    }
}

fn of_crate(one: &Crate) -> Package {
    Package {
        ecosystem: Ecosystem::Cargo,
        name: one.name.clone(),
        version: one.version.clone(),
        architecture: String::new(),
        licence: Some(one.licence.clone()).filter(|licence| !licence.is_empty()),
    }
}

/// One container.
#[derive(Debug)]
pub struct Part {
    /// Its name.
    pub name: Name,
    /// Its layers, the lowest first.
    pub layers: Vec<ObjectId>,
    /// What its package databases list, sorted.
    pub packages: Vec<Package>,
}

/// The bill of a project's last build.
///
/// # Errors
/// A layer is not in `build/objects`, or a package database is damaged.
pub fn bill(project: &Project, revision: ObjectId, envelope: &Envelope) -> Result<Bill> {
    let content = envelope
        .content()
        .context("its content is not understood")?;
    let mut containers = Vec::new();
    for (name, container) in &content.containers {
        let places: Vec<PathBuf> = container
            .layers
            .iter()
            .map(|id| project.object_path(*id))
            .collect();
        for place in &places {
            anyhow::ensure!(
                place.is_file(),
                "{} is not there: kedge build makes it again",
                place.display()
            );
        }
        containers.push(Part {
            name: name.clone(),
            layers: container.layers.clone(),
            packages: installed(&places)?,
        });
    }
    let kind = |kind| match kind {
        ObjectKind::Layer => None,
        ObjectKind::Kernel => Some("kernel"),
        ObjectKind::Initramfs => Some("initramfs"),
        ObjectKind::BootFile => Some("boot-file"),
        ObjectKind::Statement => Some("statement"),
    };
    let initramfs = envelope.boot.initramfs;
    let parts = Parts::read(project)?.filter(|parts| parts.initramfs == initramfs);
    let boot = envelope.objects.iter().filter_map(|(id, object)| {
        Some(Piece {
            kind: kind(object.kind)?,
            id: *id,
            packages: parts
                .as_ref()
                .map_or_else(Vec::new, |parts| parts.of(object.kind)),
        })
    });
    Ok(Bill {
        revision,
        name: format!("{}-{}", envelope.product, envelope.board),
        version: envelope.version.clone(),
        created: envelope.created.to_string(),
        containers,
        boot: boot.collect(),
    })
}

/// What the package databases of a container list, sorted.
fn installed(layers: &[PathBuf]) -> Result<Vec<Package>> {
    let read = |path: &str| layers::read_text_up_to(layers, path, MOST_DATABASE);
    let mut packages = dpkg(&read("/var/lib/dpkg/status")?);
    // Images without a shell have a file for each package, and no state in it.
    for name in layers::list(layers, DPKG_FILES)? {
        if !name.ends_with(".md5sums") {
            packages.extend(dpkg_files(&read(&format!("{DPKG_FILES}/{name}"))?));
        }
    }
    packages.extend(apk(&read("/lib/apk/db/installed")?));
    packages.extend(apk(&read("/usr/lib/apk/db/installed")?));
    for root in PYTHON {
        for version in layers::list(layers, root)? {
            if !version.starts_with("python3") {
                continue;
            }
            for kind in ["site-packages", "dist-packages"] {
                let folder = format!("{root}/{version}/{kind}");
                for name in layers::list(layers, &folder)? {
                    if name.ends_with(".dist-info") {
                        packages.extend(wheel(&read(&format!("{folder}/{name}/METADATA"))?));
                    }
                }
            }
        }
    }
    packages.sort();
    packages.dedup();
    Ok(packages)
}

#[cfg(test)]
mod tests;
