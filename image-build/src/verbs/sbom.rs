//! `kedge sbom`: what a built revision is made of.

use super::Scene;
use crate::{files, sbom};
use anyhow::{Context, Result};
use clap::Args;
use clap::builder::PossibleValuesParser;
use kedge_revision::{json, revision, verity};
use serde::Serialize;
use std::path::PathBuf;

/// Write a bill of materials of the project's last build: each container with its layers and the packages that are listed in it
/// (by dpkg, apk and Python's metadata), the kernel with its version, and the crates of the device binary. Nothing is run; the
/// same revision gives the same bytes.
///
/// Not in it: packages of other languages in containers, and what rpm installed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge build && kedge sbom > sbom.spdx.json
  kedge sbom --format cyclonedx --output sbom.cdx.json")]
pub(super) struct Sbom {
    /// The form: SPDX 2.3 or CycloneDX 1.6, both as JSON.
    #[arg(long, default_value = "spdx", value_parser = PossibleValuesParser::new(["spdx", "cyclonedx"]))]
    format: String,
    /// Write it to a file.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Written {
    path: PathBuf,
    containers: usize,
    packages: usize,
}

impl Sbom {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let output = self.output.as_deref().map(files::target).transpose()?;
        let project = scene.project()?;
        let path = project.build_folder().join("revision.json");
        let document = files::read(&path).context("kedge build makes the revision")?;
        let envelope = json::parse("revision", revision::CAP, &document)
            .with_context(|| format!("{} holds no revision", path.display()))?;
        let bill = sbom::bill(&project, verity::digest(&document), &envelope)?;
        let value = if self.format == "spdx" {
            sbom::spdx::document(&bill)
        } else {
            sbom::cyclonedx::document(&bill)
        };
        let text = serde_json::to_string_pretty(&value).context("cannot write it as JSON")?;
        let Some(output) = output else {
            return scene.output.result(text, &value);
        };
        files::write(&output, text + "\n")?;
        let written = Written {
            path: output,
            containers: bill.containers.len(),
            packages: bill.containers.iter().map(|one| one.packages.len()).sum(),
        };
        let words = format!(
            "{}: {} packages in {} containers",
            written.path.display(),
            written.packages,
            written.containers
        );
        scene.output.result(words, &written)
    }
}
