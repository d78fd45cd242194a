//! `kedge ctl`: the control interface of a device that `kedge run` started.

mod earlier;
mod exec;
mod history;
mod status;
mod usage;

pub(super) use exec::Ended;

use super::Scene;
use super::push;
use crate::http::{self, Lines, Request};
use crate::payload::Payload;
use crate::push::Verdict;
use crate::terminal::clean;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use kedge_revision::Name;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Ask the running device: its state, logs and history, starting and stopping, updates. For development products in QEMU.
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
    /// What runs, what is on trial, and what is missing.
    Status,
    /// What the device has tried, kept and given up, the oldest first. With --json, one object a line.
    History,
    /// What containers, kernel and system said. With --json, one object a line.
    Logs {
        /// Only this container, or `kernel`, or `kedge`.
        container: Option<Name>,
        /// Go on with what comes.
        #[arg(long, short)]
        follow: bool,
        /// From then on: 10m is ten minutes ago, 2026-11-30T16:50:00Z is a time.
        #[arg(long, value_name = "WHEN")]
        since: Option<String>,
        /// Only the last so many lines.
        #[arg(long, short = 'n', value_name = "N")]
        limit: Option<u32>,
        /// Of the boot before this one (-1), or before that (-2), from the device's disk.
        #[arg(long, value_name = "-B", allow_hyphen_values = true, value_parser = earlier::back,
              conflicts_with_all = ["follow", "since"])]
        boot: Option<u32>,
    },
    /// What a container is: its definition, its process, its state.
    Inspect {
        /// Its name.
        container: Name,
    },
    /// What containers use, every second. With --json what the kernel has counted, once.
    Top {
        /// One table.
        #[arg(long)]
        once: bool,
    },
    /// Run a command in a container. The exit status is the command's; 126 and 127: it cannot be run, is not found; 125: refused.
    Exec(exec::Exec),
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
    /// Send a bundle that `kedge bundle` made and let its trial begin; `kedge push` also waits for the verdict.
    Apply {
        /// The bundle.
        bundle: PathBuf,
    },
    /// End the trial that is running; the device goes back to what it has committed.
    Rollback,
    /// Shut down in order and boot again.
    Reboot,
    /// Shut down in order.
    Poweroff,
}

impl Ctl {
    pub(super) fn run(&self, scene: &Scene) -> Result<()> {
        let socket = socket(scene, self.socket.as_ref())?;
        match &self.action {
            Action::Status => status(scene, &socket),
            Action::Logs {
                container,
                limit,
                boot: Some(back),
                ..
            } => earlier::logs(scene, &socket, *back, container.as_ref(), *limit),
            Action::Logs {
                container,
                follow,
                since,
                limit,
                boot: None,
            } => {
                let mut query = vec![format!("follow={}", u8::from(*follow))];
                query.extend(container.as_ref().map(|name| format!("container={name}")));
                query.extend(since.as_ref().map(|since| format!("since={since}")));
                query.extend(limit.map(|limit| format!("limit={limit}")));
                logs(scene, &socket, &query.join("&"), *follow)
            }
            Action::Inspect { container } => usage::inspect(scene, &socket, container),
            Action::Top { once } => usage::top(scene, &socket, *once),
            Action::Exec(verb) => verb.run(scene, &socket),
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
            Action::History => history::run(scene, &socket),
            Action::Apply { bundle } => apply(scene, &socket, bundle),
            Action::Rollback => command(scene, &socket, "/v1/update/rollback"),
            Action::Reboot => command(scene, &socket, "/v1/reboot"),
            Action::Poweroff => command(scene, &socket, "/v1/poweroff"),
        }
    }
}

/// The control socket that is named, or the one of the project's `kedge run`.
pub(super) fn socket(scene: &Scene, named: Option<&PathBuf>) -> Result<PathBuf> {
    match named {
        Some(socket) => Ok(socket.clone()),
        None => {
            let project = scene
                .project()
                .context("name a socket with --socket, or be in a project")?;
            Ok(run_folder(&project)?.join("control"))
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

fn status(scene: &Scene, socket: &Path) -> Result<()> {
    let body = http::ask(socket, Request::new("GET", "/v1/status"))?;
    let status: Value = serde_json::from_slice(&body).context("the device's status is no JSON")?;
    scene.output.result(status::words(&status), &status)
}

fn command(scene: &Scene, socket: &Path, target: &str) -> Result<()> {
    http::ask(socket, Request::new("POST", target))?;
    scene
        .output
        .result("done", &serde_json::json!({ "done": true }))
}

/// The bundle on trial; nobody waits for its verdict.
fn apply(scene: &Scene, socket: &Path, bundle: &Path) -> Result<()> {
    let payload = Payload::open(bundle)?;
    let outcome = push::push(scene.output, socket, &payload, true)?;
    let text = if outcome.verdict == Verdict::Nothing {
        "the device runs it already"
    } else {
        "the trial has begun; `kedge ctl status` tells how it stands"
    };
    scene.output.result(text, &outcome)
}

fn logs(scene: &Scene, socket: &Path, query: &str, follow: bool) -> Result<()> {
    let target = format!("/v1/logs?{query}");
    let mut lines = Lines::default();
    let mut request = Request::new("GET", &target);
    request.endless = follow;
    let status = http::exchange(socket, request, &mut |piece| {
        lines.take(piece, &mut |line| show(scene, line))?;
        Ok(true)
    })?;
    Ok(http::check(status, lines.rest())?)
}

fn show(scene: &Scene, line: &[u8]) -> Result<()> {
    let Ok(entry) = serde_json::from_slice::<Value>(line) else {
        scene.output.say(String::from_utf8_lossy(line).trim_end());
        return Ok(());
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
    scene.output.result(text, &entry)
}

fn word(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::String(text)) => clean(text),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}
