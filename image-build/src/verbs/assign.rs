//! `kedge assign`: which devices run which revision.

use super::Scene;
use super::hub::{HubArgument, span};
use crate::hub::Client;
use crate::project::units::Size;
use crate::terminal;
use anyhow::{Result, bail};
use clap::Args;
use kedge_api::operator::{Assign, Assigned, Revision, Window};
use kedge_revision::{Name, ObjectId};

/// Assign a published revision to the devices of a query.
///
/// A query joins terms with `and`, `or`, `not` and parentheses: all, online, revoked, id=…, name=…, product=…, board=…,
/// phase=…, version=…, revision=… (what a device runs), assigned=… (what it should run), tag:NAME=…, seen<5m. `!=` holds
/// for what is different.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge assign all latest --dry-run
  kedge assign 'tag:ring=canary and online' latest
  kedge assign 'tag:site=berlin' v1:4f2c… --window 02:00+2h --rate 200KiB
  kedge assign name=hall-3 latest --download-only")]
pub(super) struct AssignVerb {
    /// Which devices, as `all` or `tag:site=berlin`.
    query: String,
    /// The revision: its id or first digits, its version, or `latest`.
    revision: String,
    /// Let devices fetch it and wait; `kedge device apply` or another assignment lets them run it.
    #[arg(long)]
    download_only: bool,
    /// Apply it only within a daily window in UTC, as in 02:00+2h.
    #[arg(long, value_name = "HH:MM+SPAN", value_parser = window)]
    window: Option<Window>,
    /// Most bytes a second for each device, as in 200KiB.
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    rate: Option<u64>,
    /// Tell which devices it would be, and assign nothing.
    #[arg(long)]
    dry_run: bool,
    /// Assign to `all` without asking whether all are meant.
    #[arg(long, short)]
    yes: bool,
    /// Only revisions of this product; the project's if absent, where there is one.
    #[arg(long, value_name = "NAME")]
    product: Option<Name>,
    #[command(flatten)]
    hub: HubArgument,
}

impl AssignVerb {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let client = self.hub.client()?;
        let request = Assign {
            query: self.query.clone(),
            revision: self.revision(scene, &client)?,
            download_only: self.download_only,
            dry_run: self.dry_run,
            window: self.window,
            rate: self.rate,
        };
        if is_all(&request.query) && !request.dry_run && !self.yes {
            let dry = Assign {
                dry_run: true,
                ..request.clone()
            };
            let would: Assigned = client.send("POST", "/v1/assignments", &dry)?;
            let count = would.devices.len();
            let question = format!("Assign it to all devices of the hub that it is for, {count}?");
            terminal::sure(false, &question)?;
        }
        let assigned: Assigned = client.send("POST", "/v1/assignments", &request)?;
        scene.output.result(words(&assigned, &request), &assigned)
    }

    fn revision(&self, scene: &Scene, client: &Client) -> Result<ObjectId> {
        if let Ok(id) = self.revision.parse() {
            return Ok(id);
        }
        let product = self.product.clone().or_else(|| {
            let project = scene.project().ok();
            project.map(|project| project.manifest().product.clone())
        });
        let query = product
            .as_ref()
            .map(|product| format!("product={product}"))
            .unwrap_or_default();
        let all: Vec<Revision> = client.list("/v1/revisions", &query)?;
        let mine: Vec<Revision> = all
            .into_iter()
            .filter(|revision| revision.complete)
            .filter(|revision| {
                product
                    .as_ref()
                    .is_none_or(|name| *name == revision.product)
            })
            .collect();
        choose(&mine, &self.revision).map(|revision| revision.id)
    }
}

/// The one revision that a word means.
fn choose<'a>(all: &'a [Revision], word: &str) -> Result<&'a Revision> {
    let digits = word.strip_prefix("v1:").unwrap_or(word);
    let is_digits = digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let meant = latest(all.iter().filter(|revision| {
        word == "latest"
            || revision.version == word
            || (is_digits && revision.id.hex().starts_with(digits))
    }));
    match meant.as_slice() {
        [one] => Ok(one),
        [] => bail!(
            "the hub has no complete revision `{word}`\nhelp: `kedge publish` publishes one; name another product with --product"
        ),
        several => {
            let names: Vec<String> = several
                .iter()
                .map(|r| format!("{} for {} {}", r.id, r.product, r.board))
                .collect();
            bail!(
                "`{word}` is one of several products or boards:\n  {}\nhelp: name one by its id, or the product with --product",
                names.join("\n  ")
            )
        }
    }
}

/// The one of the highest place for each product and board.
fn latest<'a>(all: impl Iterator<Item = &'a Revision>) -> Vec<&'a Revision> {
    let mut newest: Vec<&Revision> = Vec::new();
    for revision in all {
        let same = |other: &&mut &Revision| {
            other.product == revision.product && other.board == revision.board
        };
        match newest.iter_mut().find(same) {
            Some(other) if order(&revision.order) > order(&other.order) => *other = revision,
            Some(_) => {}
            None => newest.push(revision),
        }
    }
    newest
}

/// `root.counter` as numbers.
fn order(text: &str) -> Vec<u64> {
    let parts = text.split('.');
    parts.map(|part| part.parse().unwrap_or(0)).collect()
}

/// Whether a query is the one that means every device.
pub(super) fn is_all(query: &str) -> bool {
    query.trim() == "all"
}

pub(super) fn words(assigned: &Assigned, request: &Assign) -> String {
    let devices = match assigned.devices.len() {
        1 => "1 device".to_owned(),
        count => format!("{count} devices"),
    };
    let mut lines = vec![if request.dry_run {
        format!("It would be assigned to {devices} of `{}`.", request.query)
    } else {
        format!("Assigned to {devices} of `{}`.", request.query)
    }];
    if request.dry_run {
        lines.extend(assigned.devices.iter().map(|id| format!("  {id}")));
    }
    for (id, why) in &assigned.refused {
        lines.push(format!("  not {id}: {}", terminal::clean(why)));
    }
    if assigned.devices.is_empty() && assigned.refused.is_empty() {
        lines.push("No device is meant; `kedge devices` lists them.".to_owned());
    }
    lines.join("\n")
}

/// `02:00+2h`.
pub(super) fn window(text: &str) -> Result<Window, String> {
    let wrong = || "write HH:MM+SPAN in UTC, as in 02:00+2h".to_owned();
    let (opens, lasts) = text.split_once('+').ok_or_else(wrong)?;
    let (hour, minute) = opens.split_once(':').ok_or_else(wrong)?;
    let number = |text: &str, below: u32| {
        let number = text.parse::<u32>().ok().filter(|number| *number < below);
        number.filter(|_| text.len() == 2).ok_or_else(wrong)
    };
    let opens_s = number(hour, 24)? * 3600 + number(minute, 60)? * 60;
    let lasts_s = span(lasts)?;
    if !(60..=86_400).contains(&lasts_s) {
        return Err("a window is open for 1 minute to 1 day".to_owned());
    }
    Ok(Window { opens_s, lasts_s })
}

pub(super) fn rate(text: &str) -> Result<u64, String> {
    let size: Result<Size, _> = text.parse();
    size.map(|size| size.bytes)
        .map_err(|_| "write bytes a second, as in 200KiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(digit: u8, board: &str, order: &str, version: &str) -> Revision {
        Revision {
            id: ObjectId::from_digest([digit; 32]),
            product: "gateway".parse().unwrap(),
            board: board.parse().unwrap(),
            version: version.to_owned(),
            order: order.to_owned(),
            floor: 0,
            published: "2026-11-25T10:00:00Z".parse().unwrap(),
            complete: true,
            size: 1,
            compressed: 1,
        }
    }

    #[test]
    fn latest_is_the_highest_place_and_not_the_last_text() {
        let all = [
            revision(1, "qemu", "1.9", "a"),
            revision(2, "qemu", "1.10", "b"),
            revision(3, "qemu", "1.8", "b"),
        ];
        assert_eq!(choose(&all, "latest").unwrap().id, all[1].id);
        assert_eq!(choose(&all, "b").unwrap().id, all[1].id);
        assert_eq!(choose(&all, "01010101").unwrap().id, all[0].id);
        choose(&all, "c").unwrap_err();
        let other = [
            revision(1, "qemu", "1.9", "a"),
            revision(2, "pi", "1.9", "a"),
        ];
        let error = choose(&other, "latest").unwrap_err().to_string();
        assert!(error.contains("--product"), "{error}");
    }

    #[test]
    fn windows_are_utc_and_bounded() {
        let good = window("02:30+2h").unwrap();
        assert_eq!((good.opens_s, good.lasts_s), (9000, 7200));
        for bad in [
            "2:30+2h", "24:00+1h", "02:60+1h", "02:00", "02:00+2d", "02:00+1s",
        ] {
            window(bad).unwrap_err();
        }
    }
}
