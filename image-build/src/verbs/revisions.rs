//! `kedge revisions` and `kedge collect`: what a hub has, and what of it nobody needs.

use super::Scene;
use super::hub::{HubArgument, table};
use crate::project::units::human;
use crate::terminal::clean;
use anyhow::Result;
use clap::Args;
use kedge_api::operator::{Collect, Collected, Revision};
use kedge_revision::Name;

/// List the revisions that a hub has.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge revisions
  kedge revisions --product gateway --json

Next: `kedge assign all latest` assigns one; `kedge collect --dry-run` tells which nobody needs.")]
pub(super) struct Revisions {
    /// Only those of this product.
    #[arg(long, value_name = "NAME")]
    product: Option<Name>,
    #[command(flatten)]
    hub: HubArgument,
}

/// Remove revisions that no device needs from a hub, and their objects.
///
/// A revision stays if a device is assigned it, runs it, has committed it or had committed it before, where
/// `kedge device fall-back` goes; and if it is among the newest of its product and board. What was removed can be published
/// again. Uploads that nobody went on with for a week go by themselves.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge collect --dry-run
  kedge collect --keep 10")]
pub(super) struct CollectVerb {
    /// Of each product and board, keep so many of the newest revisions even if no device needs them.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    keep: u32,
    /// Tell what would go, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    hub: HubArgument,
}

impl Revisions {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let query = self.product.as_ref();
        let query = query.map(|product| format!("product={product}"));
        let client = self.hub.client()?;
        let revisions: Vec<Revision> = client.list("/v1/revisions", &query.unwrap_or_default())?;
        let text = if revisions.is_empty() {
            "The hub has no revisions: `kedge publish` publishes one.".to_owned()
        } else {
            rows(&revisions)
        };
        scene
            .output
            .result(text, &serde_json::json!({ "revisions": revisions }))
    }
}

impl CollectVerb {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let request = Collect {
            keep: self.keep,
            dry_run: self.dry_run,
        };
        let collected: Collected = self.hub.client()?.send("POST", "/v1/collect", &request)?;
        scene
            .output
            .result(words(&collected, self.dry_run), &collected)
    }
}

/// A line a revision, the newest of each product and board first.
fn rows(revisions: &[Revision]) -> String {
    let mut rows = vec![
        [
            "PRODUCT",
            "BOARD",
            "VERSION",
            "PLACE",
            "PUBLISHED",
            "SIZE",
            "ID",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let mut sorted: Vec<&Revision> = revisions.iter().collect();
    sorted.sort_by_key(|revision| std::cmp::Reverse(place(&revision.order)));
    sorted.sort_by_key(|revision| (&revision.product, &revision.board));
    rows.extend(sorted.into_iter().map(|revision| {
        let size = if revision.complete {
            human(revision.size)
        } else {
            "incomplete".to_owned()
        };
        vec![
            revision.product.to_string(),
            revision.board.to_string(),
            clean(&revision.version),
            clean(&revision.order),
            revision.published.to_string(),
            size,
            revision.id.to_string(),
        ]
    }));
    table(&rows)
}

/// `root.counter` as numbers, so that 1.10 is after 1.9.
fn place(order: &str) -> Vec<u64> {
    let numbers = order.split('.').map(|number| number.parse().unwrap_or(0));
    numbers.collect()
}

fn words(collected: &Collected, dry_run: bool) -> String {
    let Collected {
        revisions,
        objects,
        bytes,
    } = collected;
    if revisions.is_empty() && *objects == 0 {
        return "Every revision is needed, or among the newest of its board.".to_owned();
    }
    let count = match revisions.len() {
        1 => "1 revision".to_owned(),
        count => format!("{count} revisions"),
    };
    let (verb, next) = if dry_run {
        ("Would remove", "\nNext: the same without --dry-run")
    } else {
        ("Removed", "")
    };
    let freed = human(*bytes);
    let mut text = format!("{verb} {count} and {objects} objects: {freed}.");
    if !revisions.is_empty() {
        text = format!("{}\n{text}", rows(revisions));
    }
    text + next
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_revision::{ObjectId, Timestamp};

    fn revision(order: &str, complete: bool) -> Revision {
        Revision {
            id: ObjectId::from_digest([7; 32]),
            product: "gateway".parse().unwrap(),
            board: "qemu-x86-64".parse().unwrap(),
            version: format!("v{order}\u{1b}"),
            order: order.to_owned(),
            floor: 1,
            published: Timestamp::from_unix(1_795_341_600),
            complete,
            size: 2_000_000,
            compressed: 1_000_000,
        }
    }

    #[test]
    fn the_newest_comes_first_by_number() {
        let all = [revision("1.9", true), revision("1.10", false)];
        let text = rows(&all);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("v1.10\u{fffd}") && lines[1].contains("incomplete"));
        assert!(lines[2].contains("v1.9\u{fffd}") && lines[2].contains("2.0 MB"));
    }

    #[test]
    fn what_would_go_is_not_said_to_be_gone() {
        let mut collected = Collected {
            revisions: vec![revision("1.9", true)],
            objects: 3,
            bytes: 2_500_000,
        };
        let text = words(&collected, true);
        assert!(text.contains("Would remove 1 revision and 3 objects: 2.5 MB."));
        assert!(words(&collected, false).contains("Removed 1 revision"));
        (collected.revisions, collected.objects) = (Vec::new(), 0);
        assert!(words(&collected, true).starts_with("Every revision is needed"));
    }
}
