//! A Pantavisor state (`pantavisor-service-system@1`) to containers.
//!
//! The state is one flat JSON object: a path leads to a document that stands there itself (`run.json`), or to the SHA-256 of a
//! file among the objects. Pure as [`super::compose`] is: files come through a closure.

mod lxc;

use super::draft::{Draft, Layers, Left, Volume, name};
use crate::project::units::Span;
use anyhow::{Context, Result, bail, ensure};
use kedge_revision::Name;
use kedge_revision::container::{Lifetime, RestartPolicy, RootWrites};
use kedge_revision::content::Change;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Largest state, bytes.
pub const CAP: usize = 4 * 1024 * 1024;
/// The format that is read.
const SPEC: &str = "pantavisor-service-system@1";
/// Groups of a state that has none of its own, as Pantavisor itself has them.
const GROUPS: [(&str, Change); 4] = [
    ("data", Change::Reboot),
    ("root", Change::Reboot),
    ("platform", Change::Reboot),
    ("app", Change::Restart),
];

/// What became of a state.
#[derive(Debug)]
pub struct State {
    /// Its containers, by name.
    pub drafts: Vec<Draft>,
    /// The SHA-256 of each container's root file system, a squashfs.
    pub roots: BTreeMap<Name, String>,
    /// Its groups that containers are in, in their order.
    pub groups: Vec<(Name, Change)>,
    /// What does not carry over.
    pub left: Vec<Left>,
}

fn left(path: impl Into<String>, why: impl Into<String>, instead: impl Into<String>) -> Left {
    Left {
        path: path.into(),
        line: None,
        why: why.into(),
        instead: instead.into(),
    }
}

/// Reads a state; `file` gives the text of an object, by its path in the state and its SHA-256.
///
/// # Errors
/// It is no state of this format, or names what is not there; the message names the path.
pub fn parse(
    json: &[u8],
    source: &str,
    file: &dyn Fn(&str, &str) -> Result<String>,
) -> Result<State> {
    ensure!(
        json.len() <= CAP,
        "it has {} bytes; at most {CAP} are read",
        json.len()
    );
    let state: Map<String, Value> = serde_json::from_slice(json).context("it is no JSON object")?;
    match state.get("#spec").and_then(Value::as_str) {
        Some(SPEC) => {}
        Some(other) => bail!("#spec: `{other}` is not known; {SPEC} is read"),
        None => bail!("#spec is missing: it is no state of Pantavisor"),
    }
    let mut lefts = Vec::new();
    let groups = groups(&state, &mut lefts)?;
    let mut drafts: Vec<Draft> = Vec::new();
    let mut roots = BTreeMap::new();
    for (path, value) in &state {
        let Some(folder) = path
            .strip_suffix("/run.json")
            .filter(|folder| *folder != "bsp" && !folder.contains('/'))
        else {
            continue;
        };
        let run = value
            .as_object()
            .with_context(|| format!("{path} is no JSON object"))?;
        let name = name(folder)
            .with_context(|| format!("{path}: `{folder}` makes no name of a container"))?;
        ensure!(
            !roots.contains_key(&name),
            "{path}: `{name}` is also what another container is called"
        );
        let found = container(
            &state, folder, &name, run, &groups, source, file, &mut lefts,
        );
        if let Some((draft, root)) = found.with_context(|| path.clone())? {
            roots.insert(name, root);
            drafts.push(draft);
        }
    }
    rest(&state, &mut lefts);
    let used: Vec<(Name, Change)> = groups
        .into_iter()
        .filter(|(name, _)| drafts.iter().any(|draft| draft.group == *name))
        .collect();
    drafts.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(State {
        drafts,
        roots,
        groups: used,
        left: lefts,
    })
}

fn groups(state: &Map<String, Value>, lefts: &mut Vec<Left>) -> Result<Vec<(Name, Change)>> {
    let device = state
        .get("device.json")
        .and_then(|device| device.get("groups"));
    let (path, list) = match (device, state.get("groups.json")) {
        (Some(list), _) => ("device.json", list),
        (None, Some(list)) => ("groups.json", list),
        (None, None) => {
            let own = GROUPS.map(|(name, change)| Ok((name.parse()?, change)));
            return own.into_iter().collect();
        }
    };
    let list = list
        .as_array()
        .with_context(|| format!("{path}: the groups are no list"))?;
    let mut groups: Vec<(Name, Change)> = Vec::new();
    for group in list {
        let text = group
            .get("name")
            .and_then(Value::as_str)
            .with_context(|| format!("{path}: a group has no name"))?;
        let name =
            name(text).with_context(|| format!("{path}: `{text}` makes no name of a group"))?;
        ensure!(
            !groups.iter().any(|(other, _)| *other == name),
            "{path}: the group `{name}` is there twice"
        );
        let change =
            change(group.get("restart_policy")).with_context(|| format!("{path}: {text}"))?;
        groups.push((name, change.unwrap_or(Change::Restart)));
        if group.get("timeout").is_some() {
            lefts.push(left(
                format!("{path} {text}.timeout"),
                "a group has no time of its own",
                "commit.window in kedge.toml is for the whole trial",
            ));
        }
    }
    Ok(groups)
}

fn change(value: Option<&Value>) -> Result<Option<Change>> {
    match value.map(|value| value.as_str().unwrap_or_default()) {
        None => Ok(None),
        Some("system") => Ok(Some(Change::Reboot)),
        Some("container") => Ok(Some(Change::Restart)),
        Some(other) => bail!("the restart policy `{other}` is neither system nor container"),
    }
}

/// A container and the SHA-256 of its root; none if it cannot be one.
#[allow(
    clippy::too_many_arguments,
    reason = "one caller, and each is another kind of thing"
)]
fn container(
    state: &Map<String, Value>,
    folder: &str,
    name: &Name,
    run: &Map<String, Value>,
    groups: &[(Name, Change)],
    source: &str,
    file: &dyn Fn(&str, &str) -> Result<String>,
    lefts: &mut Vec<Left>,
) -> Result<Option<(Draft, String)>> {
    let text = |key: &str| run.get(key).and_then(Value::as_str);
    let at = |key: &str| format!("{folder}/run.json {key}");
    if text("type") != Some("lxc") || text("status_goal") == Some("MOUNTED") {
        let why = "it runs nothing: its volumes are mounted for others";
        lefts.push(left(
            at("type"),
            why,
            "put its files into the images that read them",
        ));
        return Ok(None);
    }
    let object = |path: &str| {
        let found = state
            .get(&format!("{folder}/{path}"))
            .and_then(Value::as_str);
        found.with_context(|| format!("the state has no file {folder}/{path}"))
    };
    let volume = text("root-volume").context("there is no root-volume")?;
    // `dm:` has it checked by dm-verity; every layer is checked by fs-verity here.
    let root = object(volume.rsplit(':').next().unwrap_or_default())?.to_owned();
    let wanted = text("group")
        .or_else(|| text("runlevel"))
        .unwrap_or("platform");
    let group = groups
        .iter()
        .find(|(known, _)| super::draft::name(wanted).as_ref() == Some(known));
    let (group, costs) = group.with_context(|| format!("there is no group `{wanted}`"))?;
    let mut draft = Draft::new(
        name.clone(),
        group.clone(),
        source,
        Layers::Missing(root.clone()),
    );
    if let Some(own) = change(run.get("restart_policy"))?.filter(|own| own != costs) {
        let word = if own == Change::Reboot {
            "reboot"
        } else {
            "restart"
        };
        lefts.push(left(
            at("restart_policy"),
            format!("what a change costs is its group's matter, and {group} has the other"),
            format!("move it to a group with change = \"{word}\""),
        ));
    }
    storage(&mut draft, run, &at, lefts)?;
    recovery(&mut draft, run, &at, lefts)?;
    if let Some(config) = text("config") {
        let conf = file(&format!("{folder}/{config}"), object(config)?)?;
        lxc::read(&conf, folder, &mut draft, lefts)?;
    }
    places(&mut draft, &at, lefts);
    unread(run, &at, lefts);
    Ok(Some((draft, root)))
}

/// Gives volumes that nothing mounts the place that their names tell of.
fn places(draft: &mut Draft, at: &dyn Fn(&str) -> String, lefts: &mut Vec<Left>) {
    for volume in &mut draft.volumes {
        if !volume.path.starts_with('/') {
            let from_name = volume.path.strip_prefix("docker-").map_or_else(
                || format!("/{}", volume.path.trim_matches('/')),
                |rest| rest.replace('-', "/"),
            );
            lefts.push(left(
                at(&format!("storage.{}", volume.path)),
                "nothing mounts it: its place is guessed from its name",
                format!("look at volumes.{}: {from_name}", volume.name),
            ));
            volume.path = from_name;
        }
    }
}

/// Lists the keys that nothing here reads.
fn unread(run: &Map<String, Value>, at: &dyn Fn(&str) -> String, lefts: &mut Vec<Left>) {
    if run.get("status_goal").and_then(Value::as_str) == Some("READY") {
        lefts.push(left(
            at("status_goal"),
            "READY is said over pv-ctrl",
            "give it a [health] section (notify = true is sd_notify) and the goal \"ready\"",
        ));
    }
    for key in run.keys() {
        let (why, instead) = match key.as_str() {
            "#spec" | "name" | "type" | "config" | "root-volume" | "group" | "runlevel"
            | "restart_policy" | "status_goal" | "storage" | "auto_recovery" => continue,
            _ if empty(run.get(key)) => continue,
            "volumes" => (
                "further file systems are not mounted",
                "put their files into the image",
            ),
            "drivers" => (
                "drivers are the kernel's",
                "compile them in, or have the board's file name the modules",
            ),
            "logs" => (
                "what a container prints is its log",
                "let the program log to its standard output",
            ),
            "roles" => (
                "roles are other ones",
                "roles = [\"observe\"], \"lock\" or \"operate\" over Kedge's control socket",
            ),
            "exports" => (
                "containers share no files",
                "let one container serve the data",
            ),
            "services" => (
                "there is no xconnect",
                "programs reach each other at 127.0.0.1 of the device's network",
            ),
            "conditions" => ("there are no conditions", "`after`, or groups"),
            _ => (
                "the key is not known",
                "look up what it does, and whether containers/NAME.toml has it",
            ),
        };
        lefts.push(left(at(key), why, instead));
    }
}

fn empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(fields)) => fields.values().all(|value| empty(Some(value))),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_)) => false,
    }
}

fn storage(
    draft: &mut Draft,
    run: &Map<String, Value>,
    at: &dyn Fn(&str) -> String,
    lefts: &mut Vec<Left>,
) -> Result<()> {
    draft.root = RootWrites::Refused;
    let storage = run.get("storage").and_then(Value::as_object);
    for (key, value) in storage.into_iter().flatten() {
        let path = at(&format!("storage.{key}"));
        let lifetime = match value.get("persistence").and_then(Value::as_str) {
            Some("permanent") => Lifetime::Permanent,
            Some("revision") => Lifetime::Revision,
            Some("boot") | None => Lifetime::Boot,
            Some(other) => bail!("storage.{key}: the persistence `{other}` is not known"),
        };
        if let Some(disk) = value.get("disk").and_then(Value::as_str) {
            lefts.push(left(
                format!("{path}.disk"),
                format!("there is one data partition, and no disk {disk}"),
                "the volume lies there, unencrypted",
            ));
        }
        if key == "lxc-overlay" {
            draft.root = if lifetime == Lifetime::Boot {
                RootWrites::Boot
            } else {
                RootWrites::Revision
            };
            if lifetime == Lifetime::Permanent {
                lefts.push(left(
                    path,
                    "writes to the root live as long as the container's definition",
                    "name a volume for what must outlive an update",
                ));
            }
            continue;
        }
        let label = key.trim_start_matches("docker-").trim_matches('-');
        let stem = name(label)
            .or_else(|| name(&format!("data-{label}")))
            .with_context(|| format!("storage.{key}: that makes no name of a volume"))?;
        ensure!(
            !draft.volumes.iter().any(|volume| volume.name == stem),
            "storage.{key}: `{stem}` is also what another volume is called"
        );
        draft.volumes.push(Volume {
            name: stem,
            path: key.clone(),
            lifetime,
            size: None,
        });
    }
    Ok(())
}

fn recovery(
    draft: &mut Draft,
    run: &Map<String, Value>,
    at: &dyn Fn(&str) -> String,
    lefts: &mut Vec<Left>,
) -> Result<()> {
    let Some(recovery) = run.get("auto_recovery").and_then(Value::as_object) else {
        return Ok(());
    };
    let seconds = |value: &Value| -> Result<Span> {
        let seconds = value
            .as_u64()
            .and_then(|seconds| u32::try_from(seconds).ok());
        seconds
            .map(Span::s)
            .context("auto_recovery: a span is no whole number of seconds")
    };
    for (key, value) in recovery {
        match key.as_str() {
            "type" => {
                draft.restart = match value.as_str().unwrap_or_default() {
                    "no" => RestartPolicy::No,
                    "on-failure" => RestartPolicy::OnFailure,
                    "always" | "unless-stopped" => RestartPolicy::Always,
                    other => bail!("auto_recovery: the type `{other}` is not known"),
                }
            }
            "maximum_retry_count" => {
                draft.max_retries = value.as_u64().and_then(|count| u32::try_from(count).ok());
            }
            "retry_delay" => draft.restart_delay = Some(seconds(value)?).filter(|span| span.ms > 0),
            "reset_window" => draft.reset_after = Some(seconds(value)?),
            "backoff_factor" if value.as_f64() == Some(2.0) => {}
            _ => lefts.push(left(
                at(&format!("auto_recovery.{key}")),
                "restarts are spaced by a delay that doubles",
                "delay, max-delay and reset-after in [restart]",
            )),
        }
    }
    Ok(())
}

/// What of the state belongs to no container.
fn rest(state: &Map<String, Value>, lefts: &mut Vec<Left>) {
    let mut said: Vec<&str> = Vec::new();
    for path in state.keys() {
        let (head, tail) = path.split_once('/').unwrap_or((path, ""));
        let (what, why, instead) = match (head, tail) {
            ("#spec" | "groups.json", _)
            | ("device.json", "")
            | (_, "run.json" | "lxc.container.conf")
                if head != "bsp" =>
            {
                continue;
            }
            ("bsp", _) => (
                "bsp/",
                "kernel, firmware and modules are the board's",
                "`cargo xtask image BOARD`; kernel arguments in [boot]",
            ),
            ("_sigs", _) => (
                "_sigs/",
                "signatures are made anew",
                "`kedge build` signs with the project's keys",
            ),
            ("disks.json", _) => (
                "disks.json",
                "there is one data partition",
                "size it in the board's file",
            ),
            ("_config", _) => (
                path.as_str(),
                "files are not laid over a root",
                "put the file into the image",
            ),
            (_, "src.json") => (
                path.as_str(),
                "it says where the image came from",
                "`kedge add IMAGE --name NAME --update` renews it",
            ),
            (_, tail)
                if tail.ends_with(".squashfs")
                    && state.get(&format!("{head}/run.json")).is_some() =>
            {
                continue;
            }
            _ => (
                path.as_str(),
                "nothing reads the file",
                "put it into the image if the program does",
            ),
        };
        if !said.contains(&what) {
            said.push(what);
            lefts.push(left(what, why, instead));
        }
    }
    for key in ["disks", "volumes"] {
        if state
            .get("device.json")
            .is_some_and(|device| !empty(device.get(key)))
        {
            lefts.push(left(
                format!("device.json {key}"),
                "there is one data partition",
                "size it in the board's file",
            ));
        }
    }
}

#[cfg(test)]
mod tests;
