//! The project's files judged without a build: what stands for kernel and initramfs is of no size and no contents.

use super::{Objects, containers, located, slot};
use crate::project::Project;
use crate::project::lock::{self, Lock};
use anyhow::Result;
use kedge_revision::revision::{Boot, Draft, Object, ObjectKind};
use kedge_revision::{Content, verity};
use std::collections::BTreeMap;

/// Judges the project's files as [`super::compose`] does, as far as that takes no platform, no key and no counter.
///
/// # Errors
/// A mistake in the project's files, shown with its place; a trust root that is none; a layer that is not there and cannot be
/// imported.
pub fn check(project: &Project) -> Result<Content> {
    let manifest = project.manifest();
    let board = project.board()?;
    let root = project.trust_root()?;
    let definitions = project.containers()?;
    let containers = containers(project, &definitions)?;
    let mut objects = Objects::of(project, &containers)?.kinds;
    let mut stand_in = |kind, words: &[u8]| {
        let id = verity::digest(words);
        objects.insert(id, Object { size: 1, kind });
        id
    };
    let boot = Boot {
        kernel: stand_in(ObjectKind::Kernel, b"a kernel"),
        initramfs: stand_in(ObjectKind::Initramfs, b"an initramfs"),
        files: BTreeMap::new(),
        statement: None,
        arguments: slot::arguments(&board, &manifest.boot.arguments)?,
    };
    let last = Lock::read(project.folder())?;
    let counter = manifest.revision.counter;
    let next = Lock::next(last.as_ref(), String::new(), counter, lock::now()?)?;
    let draft = Draft {
        counter: next.counter,
        ..super::draft(project, &root, objects, boot, containers)?
    };
    let content = draft.content.clone();
    let encoded = draft.encode();
    encoded.map_err(|error| located(project, &definitions, error))?;
    Ok(content)
}
