//! `lxc.container.conf`: what of it a container can express.

use super::left;
use crate::import::compose::values::{size, words};
use crate::import::draft::{Draft, Left, Volume};
use anyhow::{Context, Result, ensure};
use kedge_revision::container::{Capability, Lifetime};

/// Most lines of a file.
const MOST_LINES: usize = 2000;
/// Keys of what every container is given here, in Kedge's own way.
const OWN_WAY: [&str; 14] = [
    "lxc.autodev",
    "lxc.cgroup.devices.allow",
    "lxc.cgroup.devices.deny",
    "lxc.console.buffer.size",
    "lxc.console.path",
    "lxc.log.file",
    "lxc.log.level",
    "lxc.mount.auto",
    "lxc.pts",
    "lxc.pty.max",
    "lxc.rootfs",
    "lxc.rootfs.path",
    "lxc.tty.max",
    "lxc.uts.name",
];

/// What lines leave for the end.
#[derive(Default)]
struct Rights {
    keep: Vec<Capability>,
    drop: Vec<Capability>,
    /// Whether any line says what is kept: then nothing else is.
    keeps: bool,
    uid: Option<String>,
    gid: Option<String>,
}

/// Reads the file into the container.
pub(super) fn read(
    text: &str,
    folder: &str,
    draft: &mut Draft,
    lefts: &mut Vec<Left>,
) -> Result<()> {
    ensure!(
        text.lines().count() <= MOST_LINES,
        "{folder}: over {MOST_LINES} lines of LXC's configuration"
    );
    let mut rights = Rights::default();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = number.saturating_add(1);
        let at = || format!("{folder}/lxc.container.conf line {number}");
        let (key, value) = line
            .split_once('=')
            .with_context(|| format!("{}: it is not KEY = VALUE", at()))?;
        let (key, value) = (key.trim(), value.trim());
        let mut say = |why: &str, instead: &str| {
            let path = format!("{folder}/lxc.container.conf {key}");
            let mut entry = left(path, why, instead);
            entry.line = Some(number);
            lefts.push(entry);
        };
        if key == "lxc.mount.entry" {
            mount(value, folder, draft, &mut say);
            continue;
        }
        let read = process(key, value, draft, &mut say).with_context(at)?
            || given(key, value, draft, &mut rights, &mut say).with_context(at)?;
        if !read && !OWN_WAY.contains(&key) {
            say(
                "there is no such setting",
                "containers/NAME.toml shows those that there are",
            );
        }
    }
    // As LXC has it.
    draft
        .entrypoint
        .get_or_insert_with(|| vec!["/sbin/init".to_owned()]);
    if rights.keeps {
        draft.capabilities = rights.keep;
    }
    let drop = rights.drop;
    draft.capabilities.retain(|one| !drop.contains(one));
    draft.capabilities.sort();
    draft.capabilities.dedup();
    if rights.uid.is_some() || rights.gid.is_some() {
        let zero = || "0".to_owned();
        let (uid, gid) = (
            rights.uid.unwrap_or_else(zero),
            rights.gid.unwrap_or_else(zero),
        );
        draft.user = Some(format!("{uid}:{gid}"));
    }
    lefts.push(left(
        format!("{folder}/lxc.container.conf"),
        "root, terminals, devices, /proc, /sys and namespaces are set up in Kedge's own way: a user namespace of its own, a system call filter, no devices",
        "capabilities, network and volumes in containers/NAME.toml are what is widened",
    ));
    Ok(())
}

/// What runs; false: the key is another one.
fn process(
    key: &str,
    value: &str,
    draft: &mut Draft,
    say: &mut dyn FnMut(&str, &str),
) -> Result<bool> {
    match key {
        "lxc.init.cmd" | "lxc.execute.cmd" => draft.entrypoint = Some(words(value)?),
        "lxc.init.cwd" => draft.working_directory = Some(value.to_owned()),
        "lxc.environment" => match value.split_once('=') {
            Some((name, value)) => draft.environment.push((name.to_owned(), value.to_owned())),
            None => say(
                "its value is that of whoever starts it",
                "write NAME=value in process.environment",
            ),
        },
        "lxc.signal.halt" => match value.parse() {
            Ok(signal) => draft.stop_signal = Some(signal),
            Err(_) => say("the signal is not known", "process.stop-signal"),
        },
        _ => return Ok(false),
    }
    Ok(true)
}

/// What it may do and use; false: the key is another one.
fn given(
    key: &str,
    value: &str,
    draft: &mut Draft,
    rights: &mut Rights,
    say: &mut dyn FnMut(&str, &str),
) -> Result<bool> {
    let number = || {
        value
            .parse::<u32>()
            .with_context(|| format!("`{value}` is no number"))
    };
    match key {
        "lxc.init.uid" => rights.uid = Some(value.to_owned()),
        "lxc.init.gid" => rights.gid = Some(value.to_owned()),
        "lxc.cap.keep" | "lxc.cap.drop" => {
            let keeps = key == "lxc.cap.keep";
            rights.keeps |= keeps;
            let list = if keeps {
                &mut rights.keep
            } else {
                &mut rights.drop
            };
            for word in value.split_whitespace() {
                match serde_json::from_value(word.to_uppercase().into()) {
                    Ok(capability) => list.push(capability),
                    Err(_) => say(
                        "the capability is not known",
                        "capabilities(7) has the names",
                    ),
                }
            }
        }
        "lxc.cgroup2.memory.max" | "lxc.cgroup.memory.limit_in_bytes" => {
            draft.memory_max = Some(size(value)?);
        }
        "lxc.cgroup2.pids.max" | "lxc.cgroup.pids.max" => draft.pids_max = Some(number()?),
        "lxc.cgroup2.cpu.weight" => draft.cpu_weight = Some(number()?),
        "lxc.namespace.keep" => {
            draft.host_network |= value.split_whitespace().any(|word| word == "net");
        }
        "lxc.net.0.type" => match value {
            "none" => draft.host_network = true,
            "empty" => {}
            _ => say(
                "a container is imported with the device's own network, or none",
                "network = \"host\"",
            ),
        },
        _ => return Ok(false),
    }
    Ok(true)
}

fn mount(value: &str, folder: &str, draft: &mut Draft, say: &mut dyn FnMut(&str, &str)) {
    let mut fields = value.split_whitespace();
    let (source, target, kind) = (
        fields.next().unwrap_or_default(),
        fields.next().unwrap_or_default(),
        fields.next().unwrap_or_default(),
    );
    let target = format!("/{}", target.trim_matches('/'));
    if let Some(volume) = source.strip_prefix(&format!("/volumes/{folder}/"))
        && let Some(known) = draft.volumes.iter_mut().find(|known| known.path == volume)
    {
        known.path = target;
    } else if kind == "tmpfs" {
        if let Some(name) =
            crate::import::draft::name(&format!("tmpfs{}", target.replace('/', "-")))
        {
            draft.volumes.push(Volume {
                name,
                path: target,
                lifetime: Lifetime::Boot,
                size: None,
            });
        }
    } else if source != "/etc/resolv.conf" {
        say(
            &format!("{target} is of the device, {source}"),
            "containers see nothing of the device but their volumes",
        );
    }
}
