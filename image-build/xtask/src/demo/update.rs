//! What the demonstration changes in its project, and what must not change on the device.

use super::Scene;
use crate::device::{container, list};
use crate::project::Built;
use anyhow::{Context, Result};
use kedge_image_build::project::units::human;
use kedge_image_build::sample::{self, Edition};
use serde_json::Value;

/// How long the demonstration's trials are judged; a product's default is a minute.
pub(super) const WINDOW: &str = "10s";

/// The containers that an update of `web` leaves alone, with their processes.
pub(super) type Processes = Vec<(String, u64)>;

impl Scene<'_> {
    /// Puts another edition of the web server into the project.
    pub(super) fn prepare(&self, edition: Edition) -> Result<()> {
        let image = sample::web(self.built.architecture(), edition)?;
        let place = format!("oci:{}", image.layout.display());
        let words = ["add", &place, "--name", image.name, "--update"];
        self.built.kedge.ask(&words).map(drop)
    }
}

/// Publishes what the image holds, so that later revisions send what changed alone; how large it is, in words.
pub(super) fn publish_first(built: &Built) -> Result<String> {
    let platform = built.platform.to_string_lossy();
    let published = built.kedge.ask(&["publish", "--platform", &platform])?;
    let size = published.get("size").and_then(Value::as_u64);
    Ok(human(size.context("kedge publish tells no size")?))
}

/// All containers but the web server, with their process ids.
pub(super) fn others(status: &Value) -> Result<Processes> {
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

pub(super) fn names(processes: &Processes) -> String {
    let names: Vec<&str> = processes.iter().map(|(name, _)| name.as_str()).collect();
    names.join(" and ")
}

/// An event of the history in a few words.
pub(super) fn said(event: &Value) -> String {
    let word = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    let reason = word("reason");
    let comma = if reason.is_empty() { "" } else { ": " };
    let id = word("revision").get(..15).unwrap_or_default();
    format!("{} {id}{comma}{reason}", word("event"))
}
