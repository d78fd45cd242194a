//! What the tests of this tier share: a device of their own, made of namespaces and a tmpfs.
//!
//! Each test runs in a mount namespace of its own thread, so that tests neither see nor disturb one
//! another nor the machine. The layer is the machine's own root file system.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kedge_container::{Config, Context, Engine, Plan, Report, SpawnError, Spawned};
use kedge_revision::{Container, Name};
use kedge_sys::clone::Namespaces;
use kedge_sys::process::{ExitStatus, Signal, send_signal, unshare, wait_pidfd};
use kedge_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use kedge_sys::rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

/// First id of the containers here.
pub(crate) const BASE: u32 = 2_000_000_000;

/// A device for one test.
pub(crate) struct Device {
    pub(crate) engine: Engine,
    /// A directory on disk, in place of `/data`.
    pub(crate) data: tempfile::TempDir,
    pub(crate) parameters: BTreeMap<Name, String>,
    pub(crate) sockets: Option<PathBuf>,
    pub(crate) resolv_conf: Option<PathBuf>,
    pub(crate) hosts: Option<PathBuf>,
}

/// A definition, as a program with a shell's script, changed by JSON members that replace its own.
pub(crate) fn definition(script: &str, members: &serde_json::Value) -> Container {
    let mut value = serde_json::json!({
        "group": "app",
        "layers": [format!("v1:{}", "0a".repeat(32))],
        "process": {
            "arguments": ["sh", "-c", script],
            "environment": ["PATH=/usr/bin:/bin"],
            "user": {"uid": 0, "gid": 0},
            "working-directory": "/",
            "stop-signal": 15,
            "stop-grace-ms": 1000,
        },
        "goal": "started",
        "restart": {"policy": "no", "delay-ms": 1, "max-delay-ms": 1, "reset-after-ms": 1, "then": "leave"},
    });
    for (key, member) in members.as_object().expect("an object") {
        let old = &mut value[key];
        match (old.as_object_mut(), member.as_object()) {
            (Some(old), Some(new)) => old.extend(new.clone()),
            _ => *old = member.clone(),
        }
    }
    let definition: Container = serde_json::from_value(value).expect("a definition");
    definition.check("container").expect("a good definition");
    definition
}

impl Device {
    pub(crate) fn new() -> Self {
        Self::with_cgroup(None)
    }

    pub(crate) fn with_cgroup(cgroup: Option<&Path>) -> Self {
        assert!(
            kedge_sys::rustix::process::geteuid().is_root(),
            "these tests make namespaces and mounts: run them as root"
        );
        unshare(Namespaces::MOUNT).expect("a mount namespace");
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).expect("private mounts");
        let none: Option<&std::ffi::CStr> = None;
        mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), none).expect("a tmpfs");
        let config = Config {
            run: Path::new("/run/kedge"),
            cgroup,
        };
        Self {
            engine: Engine::new(&config).expect("an engine"),
            data: tempfile::tempdir().expect("a directory"),
            parameters: BTreeMap::new(),
            sockets: None,
            resolv_conf: None,
            hosts: None,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.data.path().join(name)
    }

    /// A plan with these layers; volumes, overlay and sockets are below `data`.
    pub(crate) fn plan(&self, name: &str, definition: &Container, layers: &[&Path]) -> Plan {
        let id: Name = name.parse().expect("a name");
        let mut definition = definition.clone();
        let layer = definition.layers[0];
        definition.layers = vec![layer; layers.len()];
        let paths: Vec<_> = definition
            .volumes
            .keys()
            .map(|volume| (volume.clone(), self.path(&format!("{name}/{volume}"))))
            .collect();
        let volumes = paths
            .iter()
            .map(|(volume, path)| (volume.clone(), path.as_path()));
        let volumes = volumes.collect();
        let overlay = self.path(&format!("{name}-overlay"));
        let context = Context {
            id_base: BASE,
            host_name: name,
            parameters: &self.parameters,
            layers,
            volumes: &volumes,
            overlay: Some(&overlay),
            sockets: self.sockets.as_deref(),
            resolv_conf: self.resolv_conf.as_deref(),
            hosts: self.hosts.as_deref(),
            disk: None,
        };
        Plan::new(&id, &definition, &context).expect("a plan")
    }

    /// Runs a definition on the machine's own root to its end.
    pub(crate) fn run(&self, script: &str, members: &serde_json::Value) -> Ended {
        let plan = self.plan("test", &definition(script, members), &[Path::new("/")]);
        self.run_plan(&plan)
    }

    pub(crate) fn run_plan(&self, plan: &Plan) -> Ended {
        end(self.engine.spawn(plan).expect("a start"))
    }
}

/// What became of a process.
#[derive(Debug)]
#[allow(dead_code, reason = "what a failed assertion shows is read by people")]
pub(crate) struct Ended {
    pub(crate) report: Report,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Its output, if it succeeded.
    #[track_caller]
    pub(crate) fn output(&self) -> &str {
        let good = self.status.success() && self.report == Report::Executed;
        assert!(good, "{self:#?}");
        &self.stdout
    }

    /// Why it was not executed.
    #[track_caller]
    pub(crate) fn failure(&self) -> &SpawnError {
        match &self.report {
            Report::Failed(error) => error,
            Report::Executed => panic!("{self:#?}"),
        }
    }
}

/// Waits for a process to end; kills it after ten seconds.
pub(crate) fn end(spawned: Spawned) -> Ended {
    let report = wait_report(&spawned.report);
    if !readable(&spawned.pidfd, Duration::from_secs(10)) {
        send_signal(spawned.pidfd.as_fd(), Signal::KILL).expect("a kill");
    }
    let status = wait_pidfd(spawned.pidfd.as_fd()).expect("a status");
    Ended {
        report,
        status,
        stdout: drain(spawned.stdout),
        stderr: drain(spawned.stderr),
    }
}

pub(crate) fn wait_report(socket: &OwnedFd) -> Report {
    assert!(readable(socket, Duration::from_secs(10)), "no report");
    Report::receive(socket).expect("a report").expect("ready")
}

pub(crate) fn kill(spawned: Spawned) -> Ended {
    send_signal(spawned.pidfd.as_fd(), Signal::KILL).expect("a kill");
    end(spawned)
}

pub(crate) fn readable(fd: &OwnedFd, within: Duration) -> bool {
    let mut list = [PollFd::new(fd, PollFlags::IN)];
    let timeout = Timespec::try_from(within).expect("a time");
    poll(&mut list, Some(&timeout)).expect("poll") == 1
}

fn drain(pipe: OwnedFd) -> String {
    let mut text = String::new();
    std::fs::File::from(pipe)
        .read_to_string(&mut text)
        .expect("output");
    text
}

/// Tries until it holds, for ten seconds.
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "never held");
        std::thread::sleep(Duration::from_millis(20));
    }
}
