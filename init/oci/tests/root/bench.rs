//! What the tests share: bundles with busybox as their image, and the command.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Programs of busybox that the tests run.
const PROGRAMS: [&str; 24] = [
    "cat", "chmod", "cut", "dd", "echo", "env", "grep", "hostname", "id", "kill", "ln", "ls",
    "mkdir", "mount", "nice", "ps", "pwd", "readlink", "sh", "sleep", "stty", "touch", "true",
    "tty",
];

/// A bundle, with a state folder of its own.
pub(crate) struct Bundle {
    folder: tempfile::TempDir,
    document: Value,
}

/// Demands programs of the machine.
#[track_caller]
pub(crate) fn require(programs: &[(&str, &str)]) {
    for (program, package) in programs {
        assert!(
            Path::new(program).exists(),
            "{program} is missing: apt-get install {package} (`cargo xtask test root` does it)"
        );
    }
}

impl Bundle {
    /// A bundle whose process is a shell with this script.
    pub(crate) fn new(script: &str) -> Self {
        require(&[("/bin/busybox", "busybox-static")]);
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("rootfs");
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp", "data"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for name in PROGRAMS {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        for path in [folder.path(), &root] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let written = Command::new(env!("CARGO_BIN_EXE_kedge-oci"))
            .args(["spec", "--bundle"])
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(written.success());
        let text = std::fs::read(folder.path().join("config.json")).unwrap();
        let mut document: Value = serde_json::from_slice(&text).unwrap();
        document["process"]["terminal"] = json!(false);
        document["process"]["args"] = json!(["sh", "-c", script]);
        Self { folder, document }
    }

    /// Changes a member, by its path with slashes.
    pub(crate) fn set(mut self, path: &str, value: Value) -> Self {
        let mut place = &mut self.document;
        for part in path.split('/') {
            place = if place.is_array() {
                &mut place[part.parse::<usize>().unwrap()]
            } else {
                &mut place[part]
            };
        }
        *place = value;
        self
    }

    /// Adds to a list.
    pub(crate) fn add(mut self, path: &str, value: Value) -> Self {
        let place = path
            .split('/')
            .fold(&mut self.document, |place, part| &mut place[part]);
        if let Some(list) = place.as_array_mut() {
            list.push(value);
        } else {
            *place = json!([value]);
        }
        self
    }

    /// With a user namespace, whose ids begin at this one.
    pub(crate) fn with_users(self, first: u32) -> Self {
        let map = json!([{"containerID": 0, "hostID": first, "size": 65536}]);
        self.add("linux/namespaces", json!({"type": "user"}))
            .set("linux/uidMappings", map.clone())
            .set("linux/gidMappings", map)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path("rootfs")
    }

    /// The command, with its bundle written.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        std::fs::write(self.path("config.json"), self.document.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kedge-oci"));
        command.arg("--root").arg(self.path("state")).args(words);
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// Runs the command.
    pub(crate) fn kedge(&self, words: &[&str]) -> Output {
        // Files, since a process that was created has the streams still when the command has ended.
        let file = |name: &str| {
            let mut options = std::fs::OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(true);
            options.open(self.path(name)).unwrap()
        };
        let mut command = self.command(words);
        command.stdout(file("stdout")).stderr(file("stderr"));
        let status = command.status().unwrap();
        let read = |name: &str| std::fs::read(self.path(name)).unwrap();
        Output {
            status,
            stdout: read("stdout"),
            stderr: read("stderr"),
        }
    }

    /// Runs the command, which must succeed, and returns its output.
    #[track_caller]
    pub(crate) fn good(&self, words: &[&str]) -> String {
        let output = self.kedge(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the command, which must fail, and returns what it says.
    #[track_caller]
    pub(crate) fn bad(&self, words: &[&str]) -> String {
        let output = self.kedge(words);
        assert!(!output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Runs the container to its end, and returns its output.
    #[track_caller]
    pub(crate) fn run(&self) -> String {
        self.good(&["run", &self.id()])
    }

    /// Starts a container whose output goes to the file `out`.
    #[track_caller]
    pub(crate) fn start(&self) {
        let output = std::fs::File::create(self.path("out")).unwrap();
        let mut command = self.command(&["run", "--detach", &self.id()]);
        let errors = output.try_clone().unwrap();
        let status = command.stdout(output).stderr(errors).status().unwrap();
        assert!(status.success(), "{}", self.output());
    }

    /// What a started container has written.
    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(self.path("out")).unwrap_or_default()
    }

    /// An id that no other test has: control groups are the machine's.
    pub(crate) fn id(&self) -> String {
        let name = self.folder.path().file_name().unwrap().to_str().unwrap();
        format!("test{}", name.replace('.', "-"))
    }

    /// `state`'s word.
    pub(crate) fn status(&self) -> String {
        let state: Value = serde_json::from_str(&self.good(&["state", &self.id()])).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }

    /// `state`'s number of the process.
    pub(crate) fn pid(&self) -> i32 {
        let state: Value = serde_json::from_str(&self.good(&["state", &self.id()])).unwrap();
        state["pid"].as_i64().unwrap().try_into().unwrap()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let state = self.path("state");
        let id = self.id();
        if state.join(&id).exists() {
            self.kedge(&["delete", "--force", &id]);
        }
    }
}

/// Tries until it holds, for twenty seconds.
#[track_caller]
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "never held");
        std::thread::sleep(Duration::from_millis(20));
    }
}
