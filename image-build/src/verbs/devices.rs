//! `kedge devices`, `kedge claim`, `kedge tag`, `kedge parameters`: the fleet as a hub knows it.

use super::Scene;
use super::device::{self, phase_words};
use super::hub::{HubArgument, ago, pair, parameter, table, value_in};
use crate::hub::escaped;
use crate::terminal::clean;
use anyhow::{Result, ensure};
use clap::Args;
use kedge_api::operator::{Claim, Device, ParameterValues, ParametersSet, Waiting};
use kedge_revision::{Name, sealed};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// List the devices of a hub.
///
/// A query joins terms with `and`, `or`, `not` and parentheses: all, online, revoked, id=…, name=…, product=…, board=…,
/// phase=…, version=…, revision=… (what a device runs), assigned=… (what it should run), tag:NAME=…, seen<5m.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge devices
  kedge devices --query 'tag:site=berlin and not online'
  kedge devices --waiting")]
pub(super) struct Devices {
    /// Only those of a query, as 'tag:site=berlin and seen<5m'.
    #[arg(long, short, value_name = "QUERY")]
    query: Option<String>,
    /// Those that wait to be claimed.
    #[arg(long, conflicts_with = "query")]
    waiting: bool,
    #[command(flatten)]
    hub: HubArgument,
}

/// Take in a device that shows three words on its console.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  kedge claim amber-fox-river --tag name=hall-3 --tag site=berlin")]
pub(super) struct ClaimVerb {
    /// The words, as amber-fox-river or as three arguments.
    #[arg(required = true, num_args = 1..=3)]
    words: Vec<String>,
    /// Tag it, as site=berlin. May be given again; the tag `name` is what it is called.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    tag: Vec<(String, String)>,
    #[command(flatten)]
    hub: HubArgument,
}

/// Change a device's tags: those that are not named keep their values.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge tag 4f2c0a11 name=hall-3 site=berlin
  kedge tag hall-3 --remove site")]
pub(super) struct Tag {
    /// The device: its id, at least its first eight digits, or its name.
    device: String,
    /// Tags, as site=berlin.
    #[arg(value_name = "NAME=VALUE", value_parser = pair, required_unless_present = "remove")]
    tags: Vec<(String, String)>,
    /// Take a tag away. May be given again.
    #[arg(long, value_name = "NAME")]
    remove: Vec<String>,
    #[command(flatten)]
    hub: HubArgument,
}

/// Give a device values for its parameters: those that are not named keep theirs.
///
/// They are checked against what its revision declares, tried, and rolled back with it. Secrets come from files, since
/// arguments can be seen by others and stay in the shell's history.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge parameters hall-3 site-name=berlin port=8080
  kedge parameters hall-3 --secret-file mqtt-password=password.txt
  kedge parameters hall-3 --remove site-name")]
pub(super) struct Parameters {
    /// The device: its id, at least its first eight digits, or its name.
    device: String,
    /// Values, as site-name=berlin.
    #[arg(value_name = "NAME=VALUE", value_parser = pair)]
    values: Vec<(String, String)>,
    /// Take a value from a file, without the line break at its end, and seal it: only the device can read it. This is how
    /// secrets are given. May be given again.
    #[arg(long, value_name = "NAME=FILE", value_parser = pair)]
    secret_file: Vec<(String, String)>,
    /// Take a value away, so that the default holds. May be given again.
    #[arg(long, value_name = "NAME")]
    remove: Vec<Name>,
    #[command(flatten)]
    hub: HubArgument,
}

impl Devices {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let client = self.hub.client()?;
        if self.waiting {
            let waiting: Vec<Waiting> = client.list("/v1/claims", "")?;
            let text = waiting_words(&waiting);
            scene
                .output
                .result(text, &serde_json::json!({ "waiting": waiting }))?;
            return Ok(());
        }
        let query = self.query.as_deref().map(escaped);
        let query = query.map(|query| format!("query={query}"));
        let devices: Vec<Device> = client.list("/v1/devices", &query.unwrap_or_default())?;
        scene
            .output
            .result(words(&devices), &serde_json::json!({ "devices": devices }))
    }
}

fn waiting_words(waiting: &[Waiting]) -> String {
    if waiting.is_empty() {
        return "No device waits to be claimed.".to_owned();
    }
    let mut rows = vec![
        ["ID", "PRODUCT", "BOARD", "SINCE"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(waiting.iter().map(|device| {
        vec![
            device::short(&device.id.to_string()),
            device.product.to_string(),
            device.board.to_string(),
            device.since.to_string(),
        ]
    }));
    format!(
        "{}\nNext: kedge claim WORDS, as the device shows them",
        table(&rows)
    )
}

fn words(devices: &[Device]) -> String {
    if devices.is_empty() {
        return "There are no such devices. `kedge join-token new` or `kedge claim` lets some in."
            .to_owned();
    }
    let heading = [
        "NAME",
        "ID",
        "PRODUCT",
        "RUNS",
        "SHOULD RUN",
        "STATE",
        "SEEN",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(devices.iter().map(|device| {
        vec![
            clean(&device.name),
            device::short(&device.id.to_string()),
            device.product.to_string(),
            device::target_words(device.running.as_ref()),
            device::target_words(device.desired.as_ref()),
            device
                .phase
                .as_ref()
                .map_or_else(|| "-".to_owned(), phase_words),
            seen(device),
        ]
    }));
    table(&rows)
}

pub(super) fn seen(device: &Device) -> String {
    match (device.revoked, device.online, device.seen_s) {
        (true, ..) => "revoked".to_owned(),
        (false, true, _) => "online".to_owned(),
        (false, false, Some(seconds)) => format!("{} ago", ago(seconds)),
        (false, false, None) => "never".to_owned(),
    }
}

impl ClaimVerb {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let code = self.words.join("-").trim().to_lowercase().replace(' ', "-");
        let claim = Claim {
            code,
            tags: self.tag.iter().cloned().collect(),
        };
        let device: Device = self.hub.client()?.send("POST", "/v1/claims", &claim)?;
        let text = format!(
            "Took in {}\n{}\nNext: kedge assign id={} latest",
            device.id,
            device::words(&device),
            device::short(&device.id.to_string())
        );
        scene.output.result(text, &device)
    }
}

impl Tag {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let client = self.hub.client()?;
        let path = device::path(&self.device);
        let device: Device = client.get(&path)?;
        let mut tags: BTreeMap<String, String> = device.tags;
        tags.extend(self.tags.iter().cloned());
        tags.retain(|name, _| !self.remove.contains(name));
        // By its id: the name may be what changes.
        let target = format!("/v1/devices/{}/tags", device.id);
        client.tell("PUT", &target, &tags)?;
        let shown: Vec<String> = tags
            .iter()
            .map(|(name, value)| format!("{name}={}", clean(value)))
            .collect();
        let text = format!("{} has the tags {}", device.id, shown.join(", "));
        let object = serde_json::json!({ "id": device.id, "tags": tags });
        scene.output.result(text, &object)
    }
}

impl Parameters {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let client = self.hub.client()?;
        let mut values = self.all()?;
        self.seal(&mut values, || client.get(&device::path(&self.device)))?;
        let values = ParameterValues { values };
        ensure!(
            !values.values.is_empty(),
            "there is nothing to set\nhelp: kedge parameters DEVICE NAME=VALUE"
        );
        let target = format!("{}/parameters", device::path(&self.device));
        let set: ParametersSet = client.send("PUT", &target, &values)?;
        let names: Vec<&str> = values.values.keys().map(Name::as_str).collect();
        let text = format!(
            "{} gets parameters {}: {}",
            clean(&self.device),
            set.counter,
            names.join(", ")
        );
        scene.output.result(text, &set)
    }

    /// Seals what came from files for the device that gets it: the hub cannot read it.
    fn seal(
        &self,
        values: &mut BTreeMap<Name, Option<String>>,
        device: impl FnOnce() -> Result<Device>,
    ) -> Result<()> {
        if self.secret_file.is_empty() {
            return Ok(());
        }
        let device = device()?;
        ensure!(
            device.key.id() == device.id,
            "the hub tells a key of {} that is another's: its digest is not the device's id",
            device.id
        );
        for (name, _) in &self.secret_file {
            let name = parameter(name)?;
            if let Some(Some(value)) = values.get_mut(&name) {
                let value_was = Zeroizing::new(core::mem::take(value));
                let mut chance = [0; 32];
                getrandom::fill(&mut chance)
                    .map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
                *value = sealed::seal(device.key, &name, &value_was, chance)?;
            }
        }
        Ok(())
    }

    fn all(&self) -> Result<BTreeMap<Name, Option<String>>> {
        let mut all = BTreeMap::new();
        for (name, value) in &self.values {
            all.insert(parameter(name)?, Some(value.clone()));
        }
        for (name, path) in &self.secret_file {
            all.insert(parameter(name)?, Some(value_in(path)?));
        }
        all.extend(self.remove.iter().map(|name| (name.clone(), None)));
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;

    #[test]
    fn values_come_from_arguments_and_files_and_go_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        files::write(&path, "hunter2\n").unwrap();
        let text = |text: &str| text.to_owned();
        let verb = Parameters {
            device: text("hall-3"),
            values: vec![(text("site"), text("berlin"))],
            secret_file: vec![(text("password"), path.display().to_string())],
            remove: vec!["port".parse().unwrap()],
            hub: HubArgument::none(),
        };
        let all = verb.all().unwrap();
        let all: Vec<_> = all
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref()))
            .collect();
        let expected = [
            ("password", Some("hunter2")),
            ("port", None),
            ("site", Some("berlin")),
        ];
        assert_eq!(all, expected);
    }
}
