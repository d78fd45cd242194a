//! Devices that a container asked for: in its `/dev` while it runs, and judged by its cgroup's program.
//!
//! The device here is `/dev/fuse`, which every kernel with these tests has: what is judged is its number.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::bench::{Device, definition, end, eventually, kill, wait_report};
use kedge_container::{Command, DeviceNode, Plan, Report, Spawned, Stage, Unchanged};
use kedge_sys::Errno;
use kedge_sys::bpf::device::{Access, Kind};
use kedge_sys::process::ExitStatus;
use kedge_sys::rustix::fs::{CWD, FileType, Mode, chmod, makedev, mknodat};
use serde_json::json;

/// Where a test's cgroups are: version 2, which needs no controllers for this.
fn cgroup(name: &str) -> PathBuf {
    let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let mut unified = unified.into_iter().map(Path::new);
    let found = unified.find(|path| path.join("cgroup.procs").exists());
    let found = found.expect("a mount of cgroup v2");
    found.join(format!("kedge-{name}-{}", std::process::id()))
}

/// `/dev/fuse` under another name.
fn fuse(path: &std::ffi::CStr, access: Access) -> DeviceNode {
    DeviceNode {
        path: path.to_owned(),
        kind: Kind::Character,
        major: 10,
        minor: 229,
        access,
    }
}

struct Bench {
    device: Device,
    plan: Plan,
    server: Option<Spawned>,
}

impl Bench {
    fn new(name: &str, nodes: Vec<DeviceNode>) -> Self {
        let device = Device::with_cgroup(Some(&cgroup(name)));
        // As on a device, a user that is none of root's.
        let members = json!({"devices": ["misc"], "process": {"user": {"uid": 33, "gid": 34}}});
        let definition = definition("exec sleep 60", &members);
        let mut plan = device.plan("server", &definition, &[Path::new("/")]);
        plan.set_devices(nodes);
        let server = device.engine.spawn(&plan).expect("a start");
        assert_eq!(wait_report(&server.report), Report::Executed);
        Self {
            device,
            plan,
            server: Some(server),
        }
    }

    /// Runs a script in the container: what it says on both streams, and whether it succeeded.
    fn run(&self, script: &str) -> (bool, String) {
        let words = ["sh", "-c", script].map(ToOwned::to_owned);
        let server = self.server.as_ref().unwrap();
        let command =
            self.device
                .engine
                .exec(&self.plan, server.pidfd.as_fd(), &Command::new(&words));
        let ended = end(command.expect("a command"));
        (
            ended.status == ExitStatus::Exited(0),
            ended.stdout + &ended.stderr,
        )
    }

    #[track_caller]
    fn can(&self, script: &str) {
        let (good, said) = self.run(script);
        assert!(good, "{script}: {said}");
    }

    #[track_caller]
    fn cannot(&self, script: &str, why: &str) {
        let (good, said) = self.run(script);
        assert!(!good && said.contains(why), "{script}: {good} {said}");
    }

    fn give(&mut self, nodes: Vec<DeviceNode>) {
        self.device
            .engine
            .change_devices(&mut self.plan, nodes)
            .expect("a change");
    }

    fn stop(&mut self) {
        kill(self.server.take().unwrap());
        let name = "server".parse().unwrap();
        eventually(|| !self.device.engine.populated(&name).unwrap());
        self.device.engine.remove(&name).unwrap();
    }
}

#[test]
fn a_device_comes_into_a_container_that_runs_and_leaves_it() {
    let mut bench = Bench::new("comes", Vec::new());
    bench.cannot(": </dev/bus/fuse", "No such file");
    bench.can(": </dev/urandom; : >/dev/null; test -c /dev/tty");
    bench.give(vec![fuse(c"bus/fuse", Access::READ_WRITE)]);
    bench.can(": <>/dev/bus/fuse");
    bench.can("test \"$(stat -c %u:%g:%a /dev/bus/fuse)\" = 33:34:660");
    bench.cannot("rm /dev/bus/fuse", "Read-only");
    // Another access to the same device.
    bench.give(vec![fuse(c"bus/fuse", Access::READ)]);
    bench.can(": </dev/bus/fuse");
    bench.cannot(": <>/dev/bus/fuse", "not permitted");
    bench.give(Vec::new());
    bench.cannot(": </dev/bus/fuse", "No such file");
    bench.cannot("ls -d /dev/bus", "No such file");
    bench.stop();
}

#[test]
fn a_node_that_it_was_not_given_opens_nothing() {
    let bench = Bench::new("planted", vec![fuse(c"fuse", Access::READ_WRITE)]);
    bench.can(": </dev/fuse");
    // It makes none itself, in no place that it can write to.
    bench.cannot("mknod /dev/shm/x c 10 237", "not permitted");
    // And one that lies there, by whatever accident, with a mode that lets by everyone.
    let place = Path::new("/run/kedge/d/server/planted");
    let kind = FileType::CharacterDevice;
    mknodat(
        CWD,
        place,
        kind,
        Mode::from_raw_mode(0o666),
        makedev(10, 237),
    )
    .unwrap();
    chmod(place, Mode::from_raw_mode(0o666)).unwrap();
    bench.can("test -c /dev/planted");
    bench.cannot(": </dev/planted", "not permitted");
    let mut bench = bench;
    bench.stop();
}

#[test]
fn a_restart_has_what_is_there_then() {
    let mut bench = Bench::new("restart", vec![fuse(c"fuse", Access::READ_WRITE)]);
    bench.can(": <>/dev/fuse");
    bench.stop();
    // It does not run: what it has is known at its next start.
    bench.give(vec![fuse(c"other", Access::READ_WRITE)]);
    let server = bench.device.engine.spawn(&bench.plan).expect("a start");
    assert_eq!(wait_report(&server.report), Report::Executed);
    bench.server = Some(server);
    bench.can(": <>/dev/other");
    bench.cannot(": </dev/fuse", "No such file");
    bench.stop();
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    assert!(!mounts.contains("/run/kedge/d/"), "{mounts}");
}

#[test]
fn a_node_that_cannot_be_made_costs_no_other_and_ends_nobody() {
    let mut bench = Bench::new("clash", vec![fuse(c"snd", Access::READ_WRITE)]);
    let nodes = vec![
        fuse(c"snd", Access::READ_WRITE),
        fuse(c"snd/pcmC0D0p", Access::READ_WRITE),
        fuse(c"other", Access::READ_WRITE),
    ];
    let changed = bench.device.engine.change_devices(&mut bench.plan, nodes);
    assert!(matches!(changed, Err(Unchanged::Nodes(_))), "{changed:?}");
    bench.can(": <>/dev/snd && : <>/dev/other");
    // By two rules one node: it stays while one of them gives it.
    bench.give(vec![
        fuse(c"snd", Access::READ),
        fuse(c"snd", Access::READ_WRITE),
    ]);
    bench.give(vec![fuse(c"snd", Access::READ)]);
    bench.can(": </dev/snd");
    bench.cannot(": <>/dev/snd", "not permitted");
    bench.cannot(": </dev/other", "No such file");
    bench.stop();
}

#[test]
fn what_nobody_judges_is_not_taken_for_given() {
    // A folder that is no cgroup takes no program.
    let folder = tempfile::tempdir().unwrap();
    let device = Device::with_cgroup(Some(folder.path()));
    let members = json!({"devices": ["misc"]});
    let mut plan = device.plan("server", &definition("true", &members), &[Path::new("/")]);
    let nodes = || vec![fuse(c"fuse", Access::READ)];
    // It does not run, so there is nothing to judge yet.
    device.engine.change_devices(&mut plan, nodes()).unwrap();
    std::fs::create_dir(folder.path().join("server")).unwrap();
    for _ in 0..2 {
        let changed = device.engine.change_devices(&mut plan, Vec::new());
        assert!(matches!(changed, Err(Unchanged::Judge(_))), "{changed:?}");
    }
    // What it has is what it had.
    device.engine.change_devices(&mut plan, nodes()).unwrap();
}

#[test]
fn a_start_that_fails_leaves_no_mount() {
    let mut device = Device::with_cgroup(Some(&cgroup("fails")));
    device.sockets = Some(PathBuf::from("/run/none"));
    let members = json!({"devices": ["misc"]});
    let plan = device.plan("server", &definition("true", &members), &[Path::new("/")]);
    let error = device.engine.spawn(&plan).unwrap_err();
    // Its devices are there by then.
    assert!(
        error.stage == Stage::Bind && error.path == "/run/none",
        "{error}"
    );
    assert!(Path::new("/run/kedge/d/server").exists());
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    assert!(!mounts.contains("/run/kedge/d/"), "{mounts}");
}

#[test]
fn without_a_cgroup_that_judges_none_is_started() {
    let device = Device::new();
    let members = json!({"devices": ["misc"]});
    let plan = device.plan("server", &definition("true", &members), &[Path::new("/")]);
    let error = device.engine.spawn(&plan).unwrap_err();
    assert_eq!((error.stage, error.errno), (Stage::Devices, Errno::NOSYS));
    assert!(error.path.contains("CONFIG_CGROUP_BPF"), "{error}");
}
