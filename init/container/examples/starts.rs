//! Starts containers one after the other, with the engine in this process and with commands, in turns, and prints what each
//! took: `SUBJECT NANOSECONDS`, a line a start. `cargo xtask measure containers` makes figures of it. `SUBJECT-at-once` is from the
//! first of many starts to the moment in which all run, `SUBJECT-ends` what their ends took after that. `engine-with-host-network` starts
//! without a network namespace: what one costs is the difference.
//!
//! ```text
//! starts ROOTFS BUNDLE ROUNDS COUNT NAME=COMMAND…
//! ```
//! A command is an OCI runtime, to which `run ID` is added; it runs in the bundle's folder. All of them see control groups of
//! version 2 alone, as on a device: some refuse a machine that has both.
#![allow(
    clippy::print_stdout,
    reason = "a program whose output is what it is for"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kedge_container::{Config, Context, Engine, Plan, Report, Spawned};
use kedge_revision::{Container, Name};
use kedge_sys::clone::Namespaces;
use kedge_sys::process::{unshare, wait_pidfd};
use kedge_sys::rustix::event::{PollFd, PollFlags, poll};
use kedge_sys::rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};

type Done<T = ()> = Result<T, Box<dyn Error>>;

/// Containers that are started at once.
const AT_ONCE: usize = 50;
const GROUPS: &str = "/sys/fs/cgroup";

/// A runtime: its name, and what it is called by.
struct Runtime {
    name: String,
    words: Vec<String>,
}

fn main() -> Done {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [root, bundle, rounds, count, commands @ ..] = words.as_slice() else {
        return Err("starts ROOTFS BUNDLE ROUNDS COUNT NAME=COMMAND…".into());
    };
    let (root, bundle) = (PathBuf::from(root), PathBuf::from(bundle));
    let (rounds, count): (usize, usize) = (rounds.parse()?, count.parse()?);
    let runtimes: Vec<_> = commands.iter().filter_map(|text| runtime(text)).collect();
    own_mounts()?;
    let config = Config {
        run: Path::new("/run/kedge"),
        cgroup: Some(Path::new("/sys/fs/cgroup/kedge-measure")),
    };
    let engine = Engine::new(&config)?;
    let sequential = plan("measured", &root, "/bin/true", "none")?;
    let with_host = plan("measured", &root, "/bin/true", "host")?;
    for _ in 0..rounds {
        timed(count, "bare", |_| bare(&root))?;
        timed(count, "engine", |_| one(&engine, "measured", &sequential))?;
        timed(count, "engine-with-host-network", |_| {
            one(&engine, "measured", &with_host)
        })?;
        for runtime in &runtimes {
            timed(count, &runtime.name, |at| runtime.run(&bundle, at))?;
        }
        many("engine", at_once(&engine, &root)?);
        for runtime in &runtimes {
            many(&runtime.name, runtime.at_once(&bundle)?);
        }
    }
    std::fs::remove_dir("/sys/fs/cgroup/kedge-measure")?;
    Ok(())
}

fn runtime(text: &str) -> Option<Runtime> {
    let (name, command) = text.split_once('=')?;
    Some(Runtime {
        name: name.to_owned(),
        words: command.split(' ').map(str::to_owned).collect(),
    })
}

/// Mounts of this process's own, with control groups of version 2 alone.
fn own_mounts() -> Done {
    unshare(Namespaces::MOUNT)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private)?;
    let none: Option<&std::ffi::CStr> = None;
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), none)?;
    unmount(GROUPS, UnmountFlags::DETACH)?;
    Ok(mount("none", GROUPS, "cgroup2", MountFlags::empty(), none)?)
}

fn timed(count: usize, name: &str, mut start: impl FnMut(usize) -> Done) -> Done {
    for at in 0..count {
        let begin = Instant::now();
        start(at)?;
        println!("{name} {}", begin.elapsed().as_nanos());
    }
    Ok(())
}

/// How long many took until all ran, and then until all had ended.
fn many(name: &str, (started, ended): (Duration, Duration)) {
    println!("{name}-at-once {}", started.as_nanos());
    println!("{name}-ends {}", ended.as_nanos());
}

/// A definition as PID 1 has it, confined by its defaults: user namespace, no capability, filter, read-only root.
fn plan(name: &str, root: &Path, program: &str, network: &str) -> Done<Plan> {
    let definition: Container = serde_json::from_value(serde_json::json!({
        "group": "app",
        "layers": [format!("v1:{}", "0a".repeat(32))],
        "process": {
            "arguments": [program, "1000"],
            "environment": ["PATH=/usr/bin:/bin"],
            "user": {"uid": 0, "gid": 0},
            "working-directory": "/",
            "stop-signal": 15,
            "stop-grace-ms": 1000,
        },
        "goal": "started",
        "network": network,
        "restart": {"policy": "no", "delay-ms": 1, "max-delay-ms": 1, "reset-after-ms": 1, "then": "leave"},
    }))?;
    let context = Context {
        id_base: 2_000_000_000,
        host_name: name,
        parameters: &BTreeMap::new(),
        layers: &[root],
        volumes: &BTreeMap::new(),
        overlay: None,
        sockets: None,
        resolv_conf: None,
        hosts: None,
        disk: None,
    };
    Ok(Plan::new(&name.parse()?, &definition, &context)?)
}

/// The program alone, with no container around it.
fn bare(root: &Path) -> Done {
    quiet(Command::new(root.join("bin/busybox")).arg("true"))
}

fn quiet(command: &mut Command) -> Done {
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(())
}

/// One container from nothing to nothing.
fn one(engine: &Engine, name: &str, plan: &Plan) -> Done {
    let spawned = engine.spawn(plan)?;
    executed(&spawned.report)?;
    wait_pidfd(spawned.pidfd.as_fd())?;
    Ok(engine.remove(&name.parse::<Name>()?)?)
}

fn executed(report: &OwnedFd) -> Done {
    loop {
        poll(&mut [PollFd::new(report, PollFlags::IN)], None)?;
        match Report::receive(report)? {
            Some(Report::Executed) => return Ok(()),
            Some(Report::Failed(error)) => return Err(error.into()),
            None => {}
        }
    }
}

/// Many that go on, up to the moment in which all were executed; then their ends, by one write each.
fn at_once(engine: &Engine, root: &Path) -> Done<(Duration, Duration)> {
    let begin = Instant::now();
    let mut all: Vec<(Name, Spawned)> = Vec::new();
    for at in 0..AT_ONCE {
        let name = format!("measured-{at}");
        let plan = plan(&name, root, "/bin/sleep", "none")?;
        all.push((name.parse()?, engine.spawn(&plan)?));
    }
    for (_, spawned) in &all {
        executed(&spawned.report)?;
    }
    let started = begin.elapsed();
    for (name, spawned) in &all {
        engine.kill(name)?;
        wait_pidfd(spawned.pidfd.as_fd())?;
        engine.remove(name)?;
    }
    Ok((started, begin.elapsed().saturating_sub(started)))
}

impl Runtime {
    fn command(&self, bundle: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(self.words.first().map_or("", String::as_str));
        command
            .args(self.words.iter().skip(1))
            .args(words)
            .current_dir(bundle);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, bundle: &Path, at: usize) -> Done {
        quiet(&mut self.command(bundle, &["run", &format!("measured-{at}")]))
    }

    /// As a script would: all commands at once, up to the end of the last; then the containers are deleted one by one.
    fn at_once(&self, bundle: &Path) -> Done<(Duration, Duration)> {
        let bundle = bundle.join("sleeper");
        let ids: Vec<_> = (0..AT_ONCE).map(|at| format!("measured-{at}")).collect();
        let start = |id: &String| {
            let mut command = self.command(&bundle, &["run", "--detach", id]);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()
        };
        let begin = Instant::now();
        let started: Result<Vec<_>, _> = ids.iter().map(start).collect();
        for mut child in started? {
            if !child.wait()?.success() {
                return Err(format!("{} did not start all", self.name).into());
            }
        }
        let started = begin.elapsed();
        for id in &ids {
            quiet(&mut self.command(&bundle, &["delete", "--force", id]))?;
        }
        Ok((started, begin.elapsed().saturating_sub(started)))
    }
}
