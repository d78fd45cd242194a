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
use crate::terminal;
use anyhow::{Context, Result};
use clap::Args;
use indicatif::ProgressBar;
use kedge_api::Signed;
use kedge_api::operator::{Assign, Assigned, Window};
use kedge_revision::{ObjectId, SignatureSet};
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
  kedge publish --assign 'tag:ring=canary'
  kedge publish --assign 'tag:site=berlin' --window 02:00+2h --rate 200KiB")]
pub(super) struct Publish {
    /// A bundle made with `kedge bundle`; the project itself if absent.
    #[arg(conflicts_with_all = ["platform", "kernel"])]
    bundle: Option<PathBuf>,
    /// Assign it to the devices of a query, as `all` or `tag:site=berlin`.
    #[arg(long, value_name = "QUERY")]
    assign: Option<String>,
    /// Let those devices fetch it and wait; `kedge device apply` or another assignment lets them run it.
    #[arg(long, requires = "assign")]
    download_only: bool,
    /// Let them apply it only within a daily window in UTC, as in 02:00+2h.
    #[arg(long, value_name = "HH:MM+SPAN", value_parser = assign::window, requires = "assign")]
    window: Option<Window>,
    /// Most bytes a second for each of them, as in 200KiB.
    #[arg(long, value_name = "SIZE", value_parser = assign::rate, requires = "assign")]
    rate: Option<u64>,
    /// Publish it, tell which devices it would be assigned to, and assign nothing.
    #[arg(long, requires = "assign")]
    dry_run: bool,
    /// Assign to `all` without asking whether all are meant.
    #[arg(long, short, requires = "assign")]
    yes: bool,
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
        if self.assign.as_deref().is_some_and(assign::is_all) && !self.dry_run {
            let question = "Assign it to all devices of the hub that it is for?";
            terminal::sure(self.yes, question)?;
        }
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
            let request = self.request(query, outcome.revision);
            let answer: Assigned = client
                .send("POST", "/v1/assignments", &request)
                .context("it is published, but not assigned")?;
            text.push('\n');
            text.push_str(&assign::words(&answer, &request));
            assigned = Some(answer);
        } else {
            text.push_str("\nNext: kedge assign QUERY latest");
        }
        scene.output.result(text, &Published { outcome, assigned })
    }

    fn request(&self, query: &str, revision: ObjectId) -> Assign {
        Assign {
            query: query.to_owned(),
            revision,
            download_only: self.download_only,
            dry_run: self.dry_run,
            window: self.window,
            rate: self.rate,
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        verb: Publish,
    }

    #[test]
    fn what_is_assigned_at_once_is_assigned_as_it_was_said() {
        let words = "publish --assign all --download-only --window 02:00+2h --rate 200KiB --yes";
        let Line { verb } = Line::try_parse_from(words.split(' ')).unwrap();
        let request = verb.request("all", ObjectId::from_digest([7; 32]));
        let window = request.window.unwrap();
        assert_eq!((window.opens_s, window.lasts_s), (7200, 7200));
        assert_eq!(request.rate, Some(200 * 1024));
        assert!(request.download_only && !request.dry_run && verb.yes);
        Line::try_parse_from(["publish", "--rate", "200KiB"]).unwrap_err();
    }
}
