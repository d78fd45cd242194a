//! The demonstration's updates: a good one, and one that does not hold.

use super::{BOOT, SOON, Scene};
use crate::device::{Device, container, fetch, list};
use anyhow::{Context, Result, bail, ensure};
use kedge_image_build::project::units::human;
use kedge_image_build::sample::{self, Edition};
use serde_json::Value;

/// How long the demonstration's trials are judged; a product's default is a minute.
pub(super) const WINDOW: &str = "10s";

/// The containers that an update of `web` leaves alone, with their processes.
type Processes = Vec<(String, u64)>;

impl Scene<'_> {
    /// Version 2 comes and stays, version 3 comes and goes.
    pub(super) fn update_it(&self, device: &mut Device) -> Result<()> {
        let before = others(&device.status()?)?;
        self.prepare(Edition::Number(2))?;
        let (good, outcome) = self.push(device)?;
        ensure!(good, "version 2 was not committed: {outcome}");
        self.tell_bytes("version 2", &outcome)?;
        let (_, page) = fetch(self.port, "GET", "/")?;
        ensure!(page.contains("edition 2"), "the page is the old one");
        let after = others(&device.status()?)?;
        ensure!(
            before == after,
            "{after:?} run, and {before:?} did: what did not change was restarted"
        );
        self.timeline.event(format_args!(
            "committed: the new page is served, and {} kept their processes",
            names(&before)
        ));

        self.prepare(Edition::Broken)?;
        let (good, outcome) = self.push(device)?;
        ensure!(!good, "version 3 was committed: {outcome}");
        let reason = outcome.get("reason").and_then(Value::as_str);
        self.timeline.event(format_args!(
            "version 3 is broken, and was rolled back by the device: {}",
            reason.context("a roll back without a reason")?
        ));
        let port = self.port;
        device.until("the page of version 2 is back", SOON, |_| {
            let (code, page) = fetch(port, "GET", "/")?;
            ensure!(
                code == 200 && page.contains("edition 2"),
                "GET / gives {code}"
            );
            Ok(())
        })?;
        device.until_goals(BOOT)?;
        let after = others(&device.status()?)?;
        ensure!(
            before == after,
            "a roll back restarted what had not changed"
        );
        self.timeline
            .event("back on version 2 without a reboot; the history (kedge ctl history):");
        for event in device.ctl(&["history"])?.iter().rev().take(4).rev() {
            self.timeline.more(said(event));
        }
        Ok(())
    }

    /// Puts another edition of the web server into the project.
    fn prepare(&self, edition: Edition) -> Result<()> {
        let image = sample::web(self.built.architecture(), edition)?;
        let place = format!("oci:{}", image.layout.display());
        let words = ["add", &place, "--name", image.name, "--update"];
        self.built.kedge.ask(&words).map(drop)
    }

    /// Whether it was committed, and the verb's answer.
    fn push(&self, device: &Device) -> Result<(bool, Value)> {
        let platform = self.built.platform.to_string_lossy();
        let socket = device.socket().to_string_lossy();
        let (_, outcome) =
            self.built
                .kedge
                .outcome(&["push", "--socket", &socket, "--platform", &platform])?;
        match outcome.get("verdict").and_then(Value::as_str) {
            Some("committed") => Ok((true, outcome)),
            Some("rolled-back") => Ok((false, outcome)),
            _ => bail!("kedge push answers {outcome}"),
        }
    }

    fn tell_bytes(&self, what: &str, outcome: &Value) -> Result<()> {
        let sent = outcome.get("bytes-sent").and_then(Value::as_u64);
        let all = self.built.size("layers")?;
        self.timeline.event(format_args!(
            "{what} pushed: {} travelled, its layers have {} in all",
            human(sent.context("kedge push does not tell what it sent")?),
            human(all)
        ));
        Ok(())
    }
}

/// All containers but the web server, with their process ids.
fn others(status: &Value) -> Result<Processes> {
    let names = list(status, "containers")
        .filter_map(|entry| entry.get("name").and_then(Value::as_str))
        .filter(|name| *name != "web");
    names
        .map(|name| {
            let pid = container(status, name).and_then(|entry| entry.get("pid"));
            let pid = pid.and_then(Value::as_u64);
            Ok((
                name.to_owned(),
                pid.with_context(|| format!("{name} does not run"))?,
            ))
        })
        .collect()
}

fn names(processes: &Processes) -> String {
    let names: Vec<&str> = processes.iter().map(|(name, _)| name.as_str()).collect();
    names.join(" and ")
}

/// An event of the history in a few words.
fn said(event: &Value) -> String {
    let word = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    let reason = word("reason");
    let comma = if reason.is_empty() { "" } else { ": " };
    let id = word("revision").get(..15).unwrap_or_default();
    format!("{} {id}{comma}{reason}", word("event"))
}
