//! `kedge bundle`: the project's revision with everything that it needs, in one file.

use super::Scene;
use super::composing::{Composed, Composing, ParametersArguments};
use crate::payload::Payload;
use crate::project::Project;
use crate::project::units::human;
use crate::{bundle, files};
use anyhow::Result;
use clap::Args;
use kedge_revision::ObjectId;
use serde::Serialize;
use std::path::PathBuf;

/// Make one file that updates a device without a network: the signed revision with all its objects.
///
/// It is composed as `kedge build` does, and goes to build/PRODUCT-BOARD-VERSION-COUNTER.kedge; with parameters, the
/// name ends in -with-parameters.kedge and only its owner can read it. The same project gives the same bytes, as long
/// as parameters have a fixed counter. `kedge verify FILE` checks it, `kedge push FILE` and `ctl apply FILE` on the
/// device try it.
#[derive(Debug, Args)]
pub(super) struct Bundle {
    /// Where to put the bundle.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    parameters: ParametersArguments,
    #[command(flatten)]
    composing: Composing,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Bundled {
    path: PathBuf,
    size: u64,
    revision: ObjectId,
    counter: u64,
    version: String,
    objects: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<u64>,
}

impl Bundle {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        // Before anything takes a counter.
        let out = self.out.as_deref().map(files::target).transpose()?;
        let Composed {
            project,
            composition,
            ..
        } = self.composing.compose(scene)?;
        let mut payload = Payload::of(&composition);
        self.parameters.give_to(&mut payload)?;
        let path = out.unwrap_or_else(|| default_path(&project, &payload));
        let bar = scene.output.bytes("writing", payload.bundle_size());
        let size = bundle::write(&payload, &path, &mut |count| bar.inc(count));
        bar.finish_and_clear();
        let bundled = Bundled {
            path,
            size: size?,
            revision: composition.id,
            counter: composition.lock.counter,
            version: project.manifest().version.clone(),
            objects: composition.objects.len(),
            parameters: payload.parameters()?.map(|parameters| parameters.counter),
        };
        scene.output.result(words(&bundled), &bundled)
    }
}

fn default_path(project: &Project, payload: &Payload) -> PathBuf {
    let envelope = payload.envelope();
    let end = if payload.head().parameters.is_some() {
        "-with-parameters"
    } else {
        ""
    };
    let name = format!(
        "{}-{}-{}-{}{end}.kedge",
        envelope.product,
        envelope.board,
        file_name(&envelope.version),
        envelope.counter
    );
    project.build_folder().join(name)
}

/// A version may be any text; a file's name keeps of it what needs no quotes.
fn file_name(version: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '_' | '-');
    version
        .chars()
        .map(|c| if plain(c) { c } else { '-' })
        .collect()
}

fn words(bundled: &Bundled) -> String {
    let parameters = match bundled.parameters {
        Some(counter) => format!(", with parameters {counter}"),
        None => String::new(),
    };
    format!(
        "Revision {} version {}{parameters}\n  {}\nBundle: {}, {}, {} objects\nTry it: kedge push {}",
        bundled.counter,
        bundled.version,
        bundled.revision,
        bundled.path.display(),
        human(bundled.size),
        bundled.objects,
        bundled.path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_part_of_a_plain_name() {
        assert_eq!(file_name("2026.11.1+b2"), "2026.11.1+b2");
        assert_eq!(file_name("a/../b \"c\""), "a-..-b--c-");
    }
}
