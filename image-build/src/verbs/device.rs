//! `kedge device`: one device as a hub knows it, and what it is asked to do.

mod logs;
mod usage;

use super::Scene;
use super::devices::seen;
use super::hub::{HubArgument, table};
use crate::hub::{Client, escaped};
use crate::project::units::human;
use crate::terminal::{self, clean};
use anyhow::Result;
use clap::{Args, Subcommand};
use kedge_api::device::{Phase, Target, Wait};
use kedge_api::operator::{ActionRequest, Device, OperatorAction, Why};
use kedge_revision::Name;
use serde_json::{Value, json};

/// Look at one device, and ask it for something.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kedge device show hall-3
  kedge device why hall-3
  kedge device logs hall-3 -f
  kedge device reboot 4f2c0a11
  kedge device remove 4f2c0a11

A device that was stolen is revoked, and one that was scrapped is removed. The hub remembers whom it has revoked; one that
it has removed may enrol anew, by a join token or a claim, and is another device then.")]
pub(super) struct DeviceVerb {
    #[command(flatten)]
    hub: HubArgument,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// What it runs and should run, its containers and what they use, its last failure.
    Show(One),
    /// Why it does not run what it should.
    Why(One),
    /// What its containers, kernel and system said, as far as the hub was sent it, with the time and the boot. With --json, one
    /// object a line.
    Logs(Logs),
    /// Shut down in order and boot again.
    Reboot(One),
    /// Show itself: a line on its console, a light where there is one.
    Identify(One),
    /// Send the hub the logs that it has.
    CollectLogs(One),
    /// Try what it is assigned again, though it failed.
    Retry(One),
    /// Go back to what it had committed before.
    FallBack(One),
    /// Apply what it was to download only, or what waits for its window.
    Apply(One),
    /// End its certificate for good: the hub neither talks to it nor lets it enrol again, whatever token it has. Only `remove`
    /// ends that: the device may then enrol anew, as another device.
    Revoke(Final),
    /// Remove it with its data, logs and values from the hub, which does not know its certificate then. Its events stay.
    Remove(Final),
}

#[derive(Debug, Args)]
struct Final {
    #[command(flatten)]
    one: One,
    /// Ask nothing.
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Args)]
struct One {
    /// The device: its id, at least its first eight digits, or its name.
    device: String,
}

#[derive(Debug, Args)]
struct Logs {
    #[command(flatten)]
    one: One,
    /// Only this container, or `kernel`, or `kedge`.
    container: Option<Name>,
    /// Go on with what comes.
    #[arg(long, short)]
    follow: bool,
}

impl DeviceVerb {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let client = self.hub.client()?;
        let ask = |one: &One, what| ask(scene, &client, &one.device, what);
        match &self.action {
            Action::Show(one) => {
                let device: Device = client.get(&path(&one.device))?;
                scene.output.result(words(&device), &device)?;
                Ok(())
            }
            Action::Why(one) => why(scene, &client, &one.device),
            Action::Logs(verb) => logs(scene, &client, verb),
            Action::Reboot(one) => ask(one, OperatorAction::Reboot),
            Action::Identify(one) => ask(one, OperatorAction::Identify),
            Action::CollectLogs(one) => ask(one, OperatorAction::CollectLogs),
            Action::Retry(one) => ask(one, OperatorAction::Retry),
            Action::FallBack(one) => ask(one, OperatorAction::FallBack),
            Action::Apply(one) => ask(one, OperatorAction::Apply),
            Action::Revoke(Final { one, yes }) => {
                let question = format!(
                    "Shut {} out for good? Only `kedge device remove` lets it come back, as another device.",
                    named(&client, &one.device)?
                );
                terminal::sure(*yes, &question)?;
                client.command("POST", &format!("{}/revoke", path(&one.device)))?;
                let text = format!("The hub does not talk to {} any more.", clean(&one.device));
                scene
                    .output
                    .result(text, &json!({ "revoked": one.device }))?;
                Ok(())
            }
            Action::Remove(Final { one, yes }) => {
                let question = format!(
                    "Remove {} with its tags, values and logs? It is told nothing from then on.",
                    named(&client, &one.device)?
                );
                terminal::sure(*yes, &question)?;
                client.command("DELETE", &path(&one.device))?;
                let text = format!("The hub knows no device {} any more.", clean(&one.device));
                scene
                    .output
                    .result(text, &json!({ "removed": one.device }))?;
                Ok(())
            }
        }
    }
}

/// What a device is called, and its id: who is asked whether it is meant must see which one it is.
fn named(client: &Client, device: &str) -> Result<String> {
    let device: Device = client.get(&path(device))?;
    let id = short(&device.id.to_string());
    Ok(format!("{} ({id}, {})", clean(&device.name), seen(&device)))
}

/// A device's place at the hub, by id or name.
pub(super) fn path(device: &str) -> String {
    format!("/v1/devices/{}", escaped(device))
}

fn ask(scene: &Scene, client: &Client, device: &str, what: OperatorAction) -> Result<()> {
    let request = ActionRequest { what };
    client.tell("POST", &format!("{}/actions", path(device)), &request)?;
    let text = format!(
        "The hub asks {} for it, once it is online; `kedge device show` tells how it stands.",
        clean(device)
    );
    let object = json!({ "asked": what, "device": device });
    scene.output.result(text, &object)
}

fn why(scene: &Scene, client: &Client, device: &str) -> Result<()> {
    let why: Why = client.get(&format!("{}/why", path(device)))?;
    let mut lines = vec![clean(&why.summary)];
    lines.extend(why.steps.iter().map(|step| format!("  {}", clean(step))));
    scene.output.result(lines.join("\n"), &why)
}

fn logs(scene: &Scene, client: &Client, verb: &Logs) -> Result<()> {
    let mut query = vec![format!("follow={}", u8::from(verb.follow))];
    query.extend(
        verb.container
            .iter()
            .map(|name| format!("container={name}")),
    );
    let target = format!("{}/logs?{}", path(&verb.one.device), query.join("&"));
    let mut told = logs::Logs::default();
    client.lines(&target, verb.follow, &mut |line| {
        if line.is_empty() {
            return Ok(());
        }
        match serde_json::from_slice::<Value>(line) {
            Ok(entry) => {
                if let Some((text, entry)) = told.take(entry) {
                    scene.output.result(text, &entry)?;
                }
            }
            Err(_) => scene.output.say(clean(&String::from_utf8_lossy(line))),
        }
        Ok(())
    })
}

/// The first digits of an id: enough to name it.
pub(super) fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

/// A revision with its parameters, in few letters.
pub(super) fn target_words(target: Option<&Target>) -> String {
    let Some(target) = target else {
        return "-".to_owned();
    };
    let what = if target.version.is_empty() {
        short(&target.revision.hex())
    } else {
        clean(&target.version)
    };
    match target.parameters {
        0 => what,
        counter => format!("{what} (parameters {counter})"),
    }
}

/// Where an update stands, in few words.
pub(super) fn phase_words(phase: &Phase) -> String {
    match phase {
        Phase::Idle => "idle".to_owned(),
        Phase::Checking => "checking".to_owned(),
        Phase::Refused { reason } => format!("refused: {}", clean(reason)),
        Phase::Downloading { done, total } => {
            format!("downloading {} of {}", human(*done), human(*total))
        }
        Phase::Staged => "staged".to_owned(),
        Phase::Waiting { for_what } => {
            let what = match for_what {
                Wait::Window => "its window",
                Wait::Lock => "a container's lock",
                Wait::Apply => "kedge device apply",
                Wait::Reboot => "a boot",
            };
            format!("waiting for {what}")
        }
        Phase::Trying => "trying".to_owned(),
        Phase::Judging => "judging".to_owned(),
        Phase::Committed => "committed".to_owned(),
        Phase::RolledBack { reason } => format!("rolled back: {}", clean(reason)),
        Phase::Repair { reason: None } => "waiting for repair".to_owned(),
        Phase::Repair {
            reason: Some(reason),
        } => format!("waiting for repair: {}", clean(reason)),
        Phase::Unknown => "unknown to this kedge".to_owned(),
    }
}

/// Everything about one device.
pub(super) fn words(device: &Device) -> String {
    let target = |target: Option<&Target>| match target {
        Some(known) => format!("{}  {}", target_words(target), known.revision),
        None => "nothing known".to_owned(),
    };
    let tags: Vec<String> = device
        .tags
        .iter()
        .map(|(name, value)| format!("{name}={}", clean(value)))
        .collect();
    let mut rows = vec![
        ("device", format!("{}  {}", clean(&device.name), device.id)),
        (
            "product",
            format!(
                "{} on {}, enrolled {}",
                device.product, device.board, device.enrolled
            ),
        ),
        ("seen", seen(device)),
        ("runs", target(device.running.as_ref())),
        ("committed", target(device.committed.as_ref())),
        ("should run", target(device.desired.as_ref())),
        (
            "state",
            device
                .phase
                .as_ref()
                .map_or_else(|| "nothing reported yet".to_owned(), phase_words),
        ),
    ];
    if !tags.is_empty() {
        rows.push(("tags", tags.join(", ")));
    }
    if let Some(failed) = &device.failed {
        rows.push((
            "failed",
            format!("{}: {}", failed.revision, clean(&failed.reason)),
        ));
    }
    rows.extend(usage::summary(device).map(|words| ("used", words)));
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect();
    let mut text = table(&rows);
    text.push_str(&usage::containers(device));
    if let Some(log) = &device.container_log {
        text.push_str(&tail(
            &format!("last words of {}", clean(&log.container)),
            &log.text,
        ));
    }
    if let Some(console) = &device.console {
        text.push_str(&tail("end of the console", console));
    }
    text
}

fn tail(title: &str, text: &str) -> String {
    let lines = text.lines().map(|line| format!("\n  | {}", clean(line)));
    format!("\n{title}:{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_words_cannot_move_the_cursor() {
        let phase = Phase::RolledBack {
            reason: "exit(web)\u{1b}[2J".to_owned(),
        };
        assert_eq!(phase_words(&phase), "rolled back: exit(web)\u{fffd}[2J");
        let phase = Phase::Repair {
            reason: Some("trust: no\u{1b}root".to_owned()),
        };
        assert_eq!(
            phase_words(&phase),
            "waiting for repair: trust: no\u{fffd}root"
        );
        assert_eq!(tail("t", "a\rb"), "\nt:\n  | a\u{fffd}b");
    }

    #[test]
    fn names_are_escaped_in_addresses() {
        assert_eq!(path("hall 3/x"), "/v1/devices/hall%203%2Fx");
    }
}
