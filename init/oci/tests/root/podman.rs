//! Debian's podman with this command as its runtime.
//!
//! It runs in a mount namespace in which version 2 of the control groups is all there is: podman's own monitor and this command
//! then see the same. Limits that this machine cannot give are switched off, by podman's own words.

use std::path::Path;
use std::process::{Command, Output};

use crate::bench::{Bundle, eventually, require};

struct Podman {
    folder: tempfile::TempDir,
    group: String,
}

/// Gives this thread, and all that it starts, mounts of its own, with control groups of version 2 alone.
fn own_groups() {
    use kedge_sys::rustix::mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
    };
    kedge_sys::process::unshare(kedge_sys::clone::Namespaces::MOUNT).unwrap();
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).unwrap();
    unmount("/sys/fs/cgroup", UnmountFlags::DETACH).unwrap();
    let none: Option<&std::ffi::CStr> = None;
    mount(
        "none",
        "/sys/fs/cgroup",
        "cgroup2",
        MountFlags::empty(),
        none,
    )
    .unwrap();
}

impl Podman {
    fn new() -> Self {
        require(&[
            ("/usr/bin/podman", "podman"),
            ("/usr/bin/conmon", "conmon"),
            ("/usr/bin/catatonit", "catatonit"),
        ]);
        own_groups();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let conf = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1000:1000\"]\npids_limit = 0\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"kedge-oci\"\n\
             tmp_dir = \"{path}/tmp\"\n[engine.runtimes]\nkedge-oci = [\"{}\"]\n",
            env!("CARGO_BIN_EXE_kedge-oci")
        );
        std::fs::write(folder.path().join("containers.conf"), conf).unwrap();
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\nrunroot = \"{path}/run\"\ngraphroot = \"{path}/graph\"\n"
        );
        std::fs::write(folder.path().join("storage.conf"), storage).unwrap();
        let group = format!("/kedge-podman-{}", std::process::id());
        Self { folder, group }
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new("podman");
        command.args(words);
        command.env(
            "CONTAINERS_CONF",
            self.folder.path().join("containers.conf"),
        );
        command.env(
            "CONTAINERS_STORAGE_CONF",
            self.folder.path().join("storage.conf"),
        );
        command.output().unwrap()
    }

    #[track_caller]
    fn good(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A container of the local image, without a network of podman's own making.
    #[track_caller]
    fn start(&self, words: &[&str]) -> String {
        let parent = format!("--cgroup-parent={}", self.group);
        let mut all = vec!["run", "--network=none", &parent];
        all.extend(words);
        self.good(&all)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.run(&["rm", "--all", "--force", "--time=0"]);
        self.run(&["pod", "rm", "--all", "--force", "--time=0"]);
    }
}

#[test]
fn podman_runs_containers_and_pods_with_it() {
    let podman = Podman::new();
    let bundle = Bundle::new("true");
    let build = podman.folder.path().join("build");
    std::fs::create_dir(&build).unwrap();
    let tar = build.join("root.tar");
    let packed = Command::new("tar")
        .arg("-C")
        .arg(bundle.root())
        .arg("-cf")
        .arg(&tar)
        .arg(".")
        .status();
    assert!(packed.unwrap().success());
    std::fs::write(
        build.join("Containerfile"),
        "FROM scratch\nADD root.tar /\nENV A=b\nCMD [\"sh\", \"-c\", \"echo default\"]\n",
    )
    .unwrap();
    podman.good(&[
        "build",
        "--isolation=chroot",
        "-t",
        "local",
        build.to_str().unwrap(),
    ]);

    assert_eq!(podman.start(&["--rm", "local"]), "default\n");
    assert_eq!(
        podman.start(&["--rm", "--env=C=d", "local", "sh", "-c", "echo $A $C"]),
        "b d\n"
    );
    let missing = podman.run(&["run", "--rm", "--network=none", "local", "/nowhere"]);
    assert_eq!(missing.status.code(), Some(127), "{missing:?}");
    let status = podman.run(&[
        "run",
        "--rm",
        "--network=none",
        "local",
        "sh",
        "-c",
        "exit 9",
    ]);
    assert_eq!(status.status.code(), Some(9), "{status:?}");
    let terminal = podman.start(&["--rm", "--tty", "local", "tty"]);
    assert!(terminal.contains("/dev/pts/0"), "{terminal}");
    volumes(&podman);
    service(&podman);
    pod(&podman);
}

fn volumes(podman: &Podman) {
    let shared = podman.folder.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let volume = format!("{}:/data", shared.display());
    let words = [
        "--rm",
        "--read-only",
        "--tmpfs=/tmp",
        "-v",
        &volume,
        "local",
        "sh",
        "-c",
        "echo kept > /data/x; echo x > /tmp/y && cat /data/x",
    ];
    assert_eq!(podman.start(&words), "kept\n");
    assert_eq!(std::fs::read_to_string(shared.join("x")).unwrap(), "kept\n");
    let users = [
        "--rm",
        "--uidmap=0:100000:65536",
        "--gidmap=0:100000:65536",
        "local",
        "sh",
        "-c",
        "id -u; cat /proc/self/uid_map",
    ];
    let text = podman.start(&users);
    assert!(text.starts_with("0\n") && text.contains("100000"), "{text}");
}

/// One that goes on, with what is done to it.
fn service(podman: &Podman) {
    let script = "trap 'echo ended; exit 0' TERM; echo up; while :; do sleep 0.1; done";
    podman.start(&["--detach", "--name=service", "local", "sh", "-c", script]);
    eventually(|| podman.good(&["logs", "service"]) == "up\n");
    let inside = podman.good(&[
        "exec",
        "service",
        "sh",
        "-c",
        "echo $A; cat /proc/1/cmdline",
    ]);
    assert!(
        inside.starts_with("b\n") && inside.contains("trap"),
        "{inside}"
    );
    assert_eq!(
        podman
            .run(&["exec", "service", "sh", "-c", "exit 4"])
            .status
            .code(),
        Some(4)
    );
    let shown = podman.good(&["ps", "--format", "{{.Names}} {{.Status}}"]);
    assert!(shown.contains("service Up"), "{shown}");
    podman.good(&["pause", "service"]);
    assert_eq!(
        podman.good(&["inspect", "--format", "{{.State.Status}}", "service"]),
        "paused\n"
    );
    podman.good(&["unpause", "service"]);
    podman.good(&["stop", "--time=20", "service"]);
    assert_eq!(
        podman.good(&["inspect", "--format", "{{.State.ExitCode}}", "service"]),
        "0\n"
    );
    assert_eq!(podman.good(&["logs", "service"]), "up\nended\n");
    podman.good(&["start", "service"]);
    podman.good(&["rm", "--force", "--time=0", "service"]);
}

/// What a container says of the one that listens: by the loopback of both.
const ASK: [&str; 6] = ["/bin/busybox", "nc", "-w", "5", "127.0.0.1", "7000"];
/// By which namespaces a process is known.
const SPACES: [&str; 3] = [
    "sh",
    "-c",
    "for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done; hostname; ls /dev/shm",
];

/// Containers that share network, ipc and uts namespaces, and nothing else.
fn pod(podman: &Podman) {
    let parent = format!("--cgroup-parent={}", podman.group);
    podman.good(&[
        "pod",
        "create",
        "--network=none",
        "--name=pod",
        "--hostname=together",
        &parent,
    ]);
    // Its first process forwards signals. Nothing here opens a device: podman 4.3 lets nobody in a pod's control group.
    let script = "echo $$ > /dev/shm/met; echo up; exec /bin/busybox nc -ll -p 7000 -e echo heard";
    let server = [
        "run",
        "--detach",
        "--init",
        "--pod=pod",
        "--name=server",
        "local",
        "sh",
        "-c",
        script,
    ];
    podman.good(&server);
    eventually(|| podman.good(&["logs", "server"]) == "up\n");
    let within =
        |words: &[&str]| podman.run(&[&["run", "--rm", "--pod=pod", "local"], words].concat());
    // One listens, the other connects.
    eventually(|| within(&ASK).stdout == b"heard\n");
    let other = within(&SPACES);
    let other = String::from_utf8(other.stdout).unwrap();
    let own = podman.good(&[&["exec", "server"], &SPACES[..]].concat());
    let (own, other): (Vec<_>, Vec<_>) = (own.lines().collect(), other.lines().collect());
    assert_eq!(own[..3], other[..3], "network, ipc, uts");
    assert_eq!(own[5..], ["together", "met"], "{own:?}");
    assert_eq!(other[5..], ["together", "met"], "{other:?}");
    for (what, index) in [("processes", 3), ("mounts", 4)] {
        assert_ne!(own[index], other[index], "{what}");
    }
    // A command of the server's is there, too; who is not of the pod is not.
    assert_eq!(
        podman.good(&[&["exec", "server"], &ASK[..]].concat()),
        "heard\n"
    );
    let outside = podman.run(&[&["run", "--rm", "--network=none", "local"], &ASK[..]].concat());
    let why = String::from_utf8_lossy(&outside.stderr).into_owned();
    assert!(
        !outside.status.success() && why.contains("refused"),
        "{outside:?}"
    );
    podman.good(&["stop", "--time=20", "server"]);
    assert_eq!(podman.good(&["logs", "server"]), "up\n");
    let stopped = podman.good(&[
        "inspect",
        "--format",
        "{{.State.Status}} {{.State.ExitCode}}",
        "server",
    ]);
    // SIGTERM is 15.
    assert_eq!(stopped, "exited 143\n");
    // The pod goes on without the one that listened.
    let alone = within(&ASK);
    let why = String::from_utf8_lossy(&alone.stderr).into_owned();
    assert!(
        !alone.status.success() && why.contains("refused"),
        "{alone:?}"
    );
    podman.good(&["pod", "rm", "--force", "--time=0", "pod"]);
    assert!(
        !Path::new("/run/kedge-oci").exists()
            || std::fs::read_dir("/run/kedge-oci")
                .unwrap()
                .next()
                .is_none()
    );
}
