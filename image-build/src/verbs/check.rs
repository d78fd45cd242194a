//! `kedge check`: whether the project's files would build.

use super::Scene;
use crate::compose;
use anyhow::Result;
use clap::Args;
use kedge_revision::Name;
use serde::Serialize;

/// Check the project's files: kedge.toml, the containers, the trust root.
///
/// They are judged as `kedge build` judges them, but without a platform, a key or a counter: nothing is signed, and nothing of the
/// project changes. Layers that build/ lacks are imported again. What only a build can tell is whether the board's budgets of size
/// hold.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge check
  kedge check --json      # of a mistake: error.path, error.line, error.column")]
pub(super) struct Check {}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Checked {
    product: Name,
    board: Name,
    version: String,
    containers: Vec<Name>,
}

impl Check {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let project = scene.project()?;
        let content = compose::check(&project)?;
        let manifest = project.manifest();
        let checked = Checked {
            product: manifest.product.clone(),
            board: manifest.board.clone(),
            version: manifest.version.clone(),
            containers: content.containers.into_keys().collect(),
        };
        let text = format!(
            "{} version {} for {}: nothing is wrong with it, nor with its {} containers",
            checked.product,
            checked.version,
            checked.board,
            checked.containers.len()
        );
        scene.output.result(text, &checked)
    }
}
