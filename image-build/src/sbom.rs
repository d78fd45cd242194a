//! A bill of materials of a built revision: what its containers were made of, by their own package databases.
//!
//! Nothing is run and nothing is mounted: databases are read out of the layers. A container whose layers have none is told by
//! its layers. The same revision gives the same bytes: its id and its time stand in place of a random number and a clock.

pub mod cyclonedx;
mod packages;
pub mod spdx;

pub use packages::{Ecosystem, Package, apk, dpkg};

use crate::layers;
use crate::project::Project;
use anyhow::{Context, Result};
use kedge_revision::revision::ObjectKind;
use kedge_revision::{Envelope, Name, ObjectId};
use std::path::PathBuf;

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
    /// Kernel, initramfs and device trees.
    pub boot: Vec<(&'static str, ObjectId)>,
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
        let read = |path: &str| layers::read_text_up_to(&places, path, MOST_DATABASE);
        let mut packages = dpkg(&read("/var/lib/dpkg/status")?);
        packages.extend(apk(&read("/lib/apk/db/installed")?));
        packages.extend(apk(&read("/usr/lib/apk/db/installed")?));
        packages.sort();
        packages.dedup();
        containers.push(Part {
            name: name.clone(),
            layers: container.layers.clone(),
            packages,
        });
    }
    let kind = |kind| match kind {
        ObjectKind::Layer => None,
        ObjectKind::Kernel => Some("kernel"),
        ObjectKind::Initramfs => Some("initramfs"),
        ObjectKind::DeviceTree => Some("device-tree"),
    };
    let boot = envelope
        .objects
        .iter()
        .filter_map(|(id, object)| Some((kind(object.kind)?, *id)));
    Ok(Bill {
        revision,
        name: format!("{}-{}", envelope.product, envelope.board),
        version: envelope.version.clone(),
        created: envelope.created.to_string(),
        containers,
        boot: boot.collect(),
    })
}

#[cfg(test)]
mod tests;
