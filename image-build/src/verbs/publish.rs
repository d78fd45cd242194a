//! `kedge publish`: the project's revision, or a bundle, to a hub.

use super::Scene;
use super::assign;
use super::composing::Composing;
use super::hub::HubArgument;
use crate::hub::publish::{self, News, Outcome};
use crate::output::Output;
use crate::payload::Payload;
use crate::progress;
use crate::project::units::human;
use crate::project::{Project, TrustRoot};
use anyhow::{Context, Result};
use clap::Args;
use indicatif::ProgressBar;
use kedge_api::Signed;
use kedge_api::operator::{Assign, Assigned};
use kedge_revision::SignatureSet;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// Publish the project, or a bundle, at a hub; devices run it once it is assigned to them.
///
/// Without a bundle the project is composed and signed as `kedge build` does. The hub is told of the product's trust
/// root if it does not know it, and only objects that it lacks are sent, each from where an earlier publish was cut off.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge publish
  kedge publish --assign all
  kedge publish --assign 'tag:ring=canary'")]
pub(super) struct Publish {
    /// A bundle made with `kedge bundle`; the project itself if absent.
    #[arg(conflicts_with_all = ["platform", "kernel"])]
    bundle: Option<PathBuf>,
    /// Assign it to the devices of a query, as `all` or `tag:site=berlin`.
    #[arg(long, value_name = "QUERY")]
    assign: Option<String>,
    #[command(flatten)]
    hub: HubArgument,
    #[command(flatten)]
    composing: Composing,
}

#[derive(Serialize)]
struct Published {
    #[serde(flatten)]
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    assigned: Option<Assigned>,
}

impl Publish {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        // Before minutes go into composing.
        let client = self.hub.client()?;
        let (payload, roots) = self.payload(scene)?;
        let start = Instant::now();
        let mut screen = Screen {
            output: scene.output,
            bar: None,
        };
        let outcome = publish::publish(&client, &payload, &roots, &mut |news| screen.show(&news));
        screen.clear();
        let outcome = outcome?;
        let mut text = words(&outcome, start);
        let mut assigned = None;
        if let Some(query) = &self.assign {
            let request = Assign {
                query: query.clone(),
                revision: outcome.revision,
                download_only: false,
                dry_run: false,
                window: None,
                rate: None,
            };
            let answer: Assigned = client
                .send("POST", "/v1/assignments", &request)
                .context("it is published, but not assigned")?;
            text.push('\n');
            text.push_str(&assign::words(&answer, &request));
            assigned = Some(answer);
        } else {
            text.push_str("\nNext: kedge assign QUERY latest");
        }
        scene.output.result(text, &Published { outcome, assigned });
        Ok(())
    }

    /// What is published, and the product's roots as far as they are at hand.
    fn payload(&self, scene: &Scene) -> Result<(Payload, Vec<Signed>)> {
        if let Some(path) = &self.bundle {
            let payload = Payload::open(path)?;
            let project = scene.project().ok();
            let same =
                project.filter(|project| project.manifest().product == payload.envelope().product);
            let roots = same.as_ref().map(roots).transpose()?;
            return Ok((payload, roots.unwrap_or_default()));
        }
        let composed = self.composing.compose(scene)?;
        Ok((
            Payload::of(&composed.composition),
            roots(&composed.project)?,
        ))
    }
}

/// The project's roots, the first one first.
fn roots(project: &Project) -> Result<Vec<Signed>> {
    let TrustRoot {
        document,
        signatures,
        older,
        ..
    } = project.trust_root()?;
    let all = older.into_iter().chain([(document, signatures)]);
    all.map(|(document, signatures)| {
        let set = SignatureSet::parse(&signatures).context("a root's signatures are spoilt")?;
        Signed::new(&document, &set).context("a root is no text")
    })
    .collect()
}

struct Screen {
    output: Output,
    bar: Option<ProgressBar>,
}

impl Screen {
    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn say(&mut self, line: &str) {
        self.clear();
        self.output.say(line);
    }

    fn show(&mut self, news: &News<'_>) {
        match news {
            News::Registering(product) => {
                self.say(&format!("telling the hub of the root of {product}"));
            }
            News::Offered(offer) if offer.missing.is_empty() => {}
            News::Offered(offer) => {
                let left = offer.missing.iter().map(|m| m.size.saturating_sub(m.have));
                let left = left.fold(0, u64::saturating_add);
                let count = offer.missing.len();
                self.say(&format!("the hub lacks {count} objects, {}", human(left)));
                self.bar = Some(self.output.bytes("sending", left));
            }
            News::Object(missing) => {
                if let Some(bar) = &self.bar {
                    let short: String = missing.id.hex().chars().take(12).collect();
                    bar.set_message(format!("sending {short}"));
                }
            }
            News::Bytes(count) => {
                if let Some(bar) = &self.bar {
                    bar.inc(*count);
                }
            }
            News::Interrupted(error, pause) => self.say(&format!(
                "cut off: {error:#}; going on in {}",
                progress::seconds(*pause)
            )),
        }
    }
}

fn words(outcome: &Outcome, start: Instant) -> String {
    format!(
        "Published revision {} version {} of {} at {}\n  {}\nSent {} of {} ({} objects) in {}.",
        outcome.counter,
        outcome.version,
        outcome.product,
        outcome.hub,
        outcome.revision,
        human(outcome.bytes_sent),
        human(outcome.size),
        outcome.objects_sent,
        progress::seconds(start.elapsed())
    )
}
