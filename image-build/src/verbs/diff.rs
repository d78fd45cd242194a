//! `kedge diff`: what an update from one revision to another changes, in words.

use super::disk::Disk;
use super::{Scene, Told};
use crate::diff::{self, Costs, Difference, Travel};
use crate::payload::Payload;
use crate::project::units::human;
use crate::{bundle, files};
use anyhow::{Context, Result};
use clap::Args;
use kedge_revision::{Envelope, Name, ObjectId, json, revision, verity};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Show what an update from one revision to another changes: how many bytes must travel, what it costs on a device that
/// runs the old one (containers that restart, a reboot, the other slot), what containers may do more than before, and
/// every other field that differs. Nothing is verified; `kedge verify` does that.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge diff released.kedge build/revision.json
  kedge diff old.img new.img --json
  kedge diff released.kedge new.kedge --fail-if-widened    # for continuous integration: exit status 1")]
pub(super) struct Diff {
    /// The revision that devices run: a bundle, a revision as in build/revision.json, a disk image.
    old: PathBuf,
    /// The revision that they are to run.
    new: PathBuf,
    /// End with status 1 if anything is widened.
    #[arg(long)]
    fail_if_widened: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Differs {
    old: Side,
    new: Side,
    travels: Travel,
    /// Absent where no device goes from one to the other, or where this version does not know their content.
    #[serde(skip_serializing_if = "Option::is_none")]
    costs: Option<Costs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    costs_unknown: Option<String>,
    differences: Vec<Difference>,
}

#[derive(Serialize)]
struct Side {
    revision: ObjectId,
    product: Name,
    board: Name,
    version: String,
    counter: u64,
}

impl Diff {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let (old, new) = (read(&self.old)?, read(&self.new)?);
        let goes = old.1.product == new.1.product && old.1.board == new.1.board;
        let costs = goes.then(|| diff::costs((old.0, &old.1), (new.0, &new.1)));
        let (costs, costs_unknown) = match costs {
            Some(Ok(costs)) => (Some(costs), None),
            Some(Err(error)) => (None, Some(format!("{error:#}"))),
            None => (None, None),
        };
        let differs = Differs {
            costs,
            costs_unknown,
            travels: diff::travel(&old.1, &new.1),
            differences: diff::differences(&old.1, &new.1)?,
            old: side(old),
            new: side(new),
        };
        scene.output.result(words(&differs), &differs)?;
        let widened = differs.differences.iter().any(|one| one.widened.is_some());
        if widened && self.fail_if_widened {
            return Err(Told.into());
        }
        Ok(())
    }
}

fn side((revision, envelope): (ObjectId, Envelope)) -> Side {
    Side {
        revision,
        product: envelope.product,
        board: envelope.board,
        version: envelope.version,
        counter: envelope.counter,
    }
}

/// The revision in a file; of a disk image the one that it is made with.
fn read(path: &Path) -> Result<(ObjectId, Envelope)> {
    let document = if let Some(disk) = Disk::open(path)? {
        let found = disk.boot_record()?;
        let state = found.state().context("the boot record names no revision")?;
        let target = state.committed;
        disk.document(&format!(
            "/revisions/{}/revision.json",
            target.revision.hex()
        ))?
    } else if bundle::is_bundle(path)? {
        Payload::open(path)?.head().revision.clone()
    } else {
        files::read(path)?
    };
    let envelope = json::parse("revision", revision::CAP, &document)
        .with_context(|| format!("{} holds no revision", path.display()))?;
    Ok((verity::digest(&document), envelope))
}

fn words(differs: &Differs) -> String {
    let Differs {
        old,
        new,
        travels,
        costs,
        costs_unknown,
        differences,
    } = differs;
    let name = |side: &Side| format!("{} (counter {})", side.version, side.counter);
    let mut lines = vec![format!("{} → {}", name(old), name(new))];
    for (what, before, after) in [
        ("product", &old.product, &new.product),
        ("board", &old.board, &new.board),
    ] {
        if before != after {
            lines.push(format!(
                "they are of two {what}s: {before} and {after}; no device goes from one to the other"
            ));
        }
    }
    lines.push(format!(
        "{} of {} must travel, before compression ({} of {} objects)",
        human(travels.bytes),
        human(travels.of_bytes),
        travels.objects,
        travels.of_objects
    ));
    if let Some(costs) = costs {
        lines.push(format!("it costs on a device: {}", costs.words()));
    }
    if let Some(why) = costs_unknown {
        lines.push(format!("what it costs on a device cannot be told: {why}"));
    }
    if new.counter < old.counter {
        lines.push("the new one is older: its counter is lower".to_owned());
    }
    if differences.is_empty() {
        lines.push("nothing that a device acts on differs".to_owned());
    }
    for difference in differences {
        let line = difference.words();
        lines.push(match &difference.widened {
            Some(widened) => format!("WIDENED  {widened}\n         {line}"),
            None => format!("         {line}"),
        });
    }
    lines.join("\n")
}
