//! `kedge ctl`: the control interface of a device that `kedge run` started.

use super::{Scene, http};
use crate::project::units::human;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use kedge_revision::Name;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Ask the running device: its state, its logs, starting and stopping. For development products in QEMU.
#[derive(Debug, Args)]
pub(super) struct Ctl {
    /// The control socket; the one of this project's `kedge run` if absent.
    #[arg(long, value_name = "SOCKET")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// What runs, and what is missing.
    Status,
    /// What containers, kernel and system said. With --json, one object a line.
    Logs {
        /// Only this container, or `kernel`, or `kedge`.
        container: Option<Name>,
        /// Go on with what comes.
        #[arg(long, short)]
        follow: bool,
        /// Only the last so many lines.
        #[arg(long, short = 'n', value_name = "N")]
        limit: Option<u32>,
    },
    /// Start a container.
    Start {
        /// Its name.
        container: Name,
    },
    /// Stop a container.
    Stop {
        /// Its name.
        container: Name,
    },
    /// Restart a container.
    Restart {
        /// Its name.
        container: Name,
    },
    /// Shut down in order and boot again.
    Reboot,
    /// Shut down in order.
    Poweroff,
}

impl Ctl {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let socket = match &self.socket {
            Some(socket) => socket.clone(),
            None => run_folder(
                &scene
                    .project()
                    .context("name a socket with --socket, or be in a project")?,
            )?
            .join("control"),
        };
        match &self.action {
            Action::Status => status(scene, &socket),
            Action::Logs {
                container,
                follow,
                limit,
            } => logs(scene, &socket, container.as_ref(), *follow, *limit),
            Action::Start { container } => {
                command(scene, &socket, &format!("/v1/containers/{container}/start"))
            }
            Action::Stop { container } => {
                command(scene, &socket, &format!("/v1/containers/{container}/stop"))
            }
            Action::Restart { container } => command(
                scene,
                &socket,
                &format!("/v1/containers/{container}/restart"),
            ),
            Action::Reboot => command(scene, &socket, "/v1/reboot"),
            Action::Poweroff => command(scene, &socket, "/v1/poweroff"),
        }
    }
}

/// Where `kedge run` of a project has its sockets: short, since a socket's path has at most 107 bytes (unix(7)), and
/// the same for both verbs, since it follows from the project's folder.
pub(super) fn run_folder(project: &crate::project::Project) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let own = rustix::process::getuid().as_raw();
    let base = match std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| Path::new(folder).is_dir())
    {
        Some(folder) => PathBuf::from(folder).join("kedge"),
        None => std::env::temp_dir().join(format!("kedge-{own}")),
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&base)
        .with_context(|| format!("cannot make the folder {}", base.display()))?;
    // In a shared /tmp somebody else may have made it first.
    let metadata = base
        .symlink_metadata()
        .with_context(|| format!("cannot look at {}", base.display()))?;
    if !metadata.is_dir() || metadata.uid() != own {
        bail!(
            "{} belongs to somebody else: set XDG_RUNTIME_DIR",
            base.display()
        );
    }
    let key = crate::cache::key([project.folder().as_os_str().as_bytes()]);
    Ok(base.join(key))
}

/// A request whose whole answer is kept.
fn ask(socket: &Path, method: &str, target: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let status = http::exchange(socket, method, target, false, &mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(true)
    })?;
    check(status, &bytes)?;
    Ok(bytes)
}

/// An error of the interface (RFC 9457) as words.
fn check(status: u16, body: &[u8]) -> Result<()> {
    if (200..300).contains(&status) {
        return Ok(());
    }
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let word = |name: &str| {
        problem
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    bail!(
        "the device refuses ({status} {}): {}",
        word("title"),
        word("detail")
    )
}

fn status(scene: &Scene, socket: &Path) -> Result<()> {
    let body = ask(socket, "GET", "/v1/status")?;
    let status: Value = serde_json::from_slice(&body).context("the device's status is no JSON")?;
    scene.output.result(status_words(&status), &status);
    Ok(())
}

fn command(scene: &Scene, socket: &Path, target: &str) -> Result<()> {
    ask(socket, "POST", target)?;
    scene
        .output
        .result("done", &serde_json::json!({ "done": true }));
    Ok(())
}

fn logs(
    scene: &Scene,
    socket: &Path,
    container: Option<&Name>,
    follow: bool,
    limit: Option<u32>,
) -> Result<()> {
    let mut query = vec![format!("follow={}", u8::from(follow))];
    query.extend(container.map(|name| format!("container={name}")));
    query.extend(limit.map(|limit| format!("limit={limit}")));
    let target = format!("/v1/logs?{}", query.join("&"));
    let mut rest: Vec<u8> = Vec::new();
    let status = http::exchange(socket, "GET", &target, follow, &mut |piece| {
        rest.extend_from_slice(piece);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            show(scene, &line);
        }
        Ok(true)
    })?;
    check(status, &rest)
}

fn show(scene: &Scene, line: &[u8]) {
    let Ok(entry) = serde_json::from_slice::<Value>(line) else {
        scene.output.say(String::from_utf8_lossy(line).trim_end());
        return;
    };
    let time = entry
        .get("time-ms")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    let text = format!(
        "{:>5}.{:03} {:<12} {}",
        time / 1000,
        time % 1000,
        word(&entry, "source"),
        word(&entry, "text")
    );
    scene.output.result(text, &entry);
}

fn word(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

fn status_words(status: &Value) -> String {
    let revision = status.get("revision").cloned().unwrap_or_default();
    let memory = status.get("memory").cloned().unwrap_or_default();
    let bytes = |name: &str| human(memory.get(name).and_then(Value::as_u64).unwrap_or_default());
    let uptime = status
        .get("uptime-ms")
        .and_then(Value::as_u64)
        .unwrap_or_default()
        / 1000;
    let mut lines = vec![
        format!(
            "{} on {}, {} ({})",
            word(status, "product"),
            word(status, "board"),
            word(status, "phase"),
            word(status, "mode")
        ),
        format!(
            "revision {} {}, slot {}, {}",
            word(&revision, "version"),
            word(&revision, "id"),
            word(status, "slot"),
            word(status, "trial")
        ),
        format!(
            "up {uptime} s, memory {} free of {}",
            bytes("available"),
            bytes("total")
        ),
    ];
    for container in status
        .get("containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let ready = if container.get("ready") == Some(&Value::Bool(true)) {
            "ready"
        } else {
            "not ready"
        };
        lines.push(format!(
            "  {:<16} {:<10} {ready:<10} restarts {} pid {}",
            word(container, "name"),
            word(container, "state"),
            word(container, "restarts"),
            word(container, "pid")
        ));
    }
    for missing in status
        .get("goals-missing")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        lines.push(format!(
            "  {} has not reached {}: {}",
            word(missing, "container"),
            word(missing, "goal"),
            word(missing, "reason")
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_shows_the_devices_words() {
        let body = br#"{"status":404,"title":"not found","detail":"no container db"}"#;
        let error = check(404, body).unwrap_err().to_string();
        assert!(error.contains("no container db"), "{error}");
        check(204, b"").unwrap();
    }

    #[test]
    fn a_status_is_shown_even_if_fields_are_missing() {
        let status: Value = serde_json::from_str(r#"{"product":"gateway","containers":[{"name":"web","state":"running","ready":true,"restarts":0}]}"#).unwrap();
        let text = status_words(&status);
        assert!(text.contains("web") && text.contains("ready"), "{text}");
    }
}
