//! From create to delete, and that nothing is left.

use crate::bench::{Bundle, eventually};
use serde_json::json;

#[test]
fn a_container_is_created_started_and_deleted() {
    let bundle = Bundle::new("echo started; exec sleep 1000");
    let id = bundle.id();
    let output = std::fs::File::create(bundle.path("out")).unwrap();
    let pid_file = bundle.path("pid");
    let mut create = bundle.command(&["create", "--pid-file", pid_file.to_str().unwrap(), &id]);
    assert!(create.stdout(output).status().unwrap().success());
    assert_eq!(bundle.status(), "created");
    assert_eq!(
        std::fs::read_to_string(&pid_file).unwrap(),
        bundle.pid().to_string()
    );
    assert_eq!(bundle.output(), "");
    assert!(bundle.bad(&["create", &id]).contains("already exists"));
    bundle.good(&["start", &id]);
    assert_eq!(bundle.status(), "running");
    eventually(|| bundle.output() == "started\n");
    assert!(bundle.bad(&["start", &id]).contains("it is running"));
    assert!(bundle.bad(&["delete", &id]).contains("it is running"));
    let list = bundle.good(&["list"]);
    assert!(list.contains(&id) && list.contains("running"), "{list}");
    bundle.good(&["kill", &id, "KILL"]);
    eventually(|| bundle.status() == "stopped");
    assert!(bundle.bad(&["kill", &id]).contains("not running"));
    bundle.good(&["delete", &id]);
    assert!(bundle.bad(&["state", &id]).contains("does not exist"));
    bundle.good(&["delete", "--force", &id]);
}

#[test]
fn a_start_that_is_killed_has_begun() {
    let script = "echo > /data/began; exec sleep 1000";
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}]);
    let bundle = Bundle::new("true")
        .set("root/readonly", json!(false))
        .set("hooks/startContainer", hook);
    let id = bundle.id();
    bundle.good(&["create", &id]);
    let mut start = bundle.command(&["start", &id]).spawn().unwrap();
    eventually(|| bundle.root().join("data/began").exists());
    start.kill().unwrap();
    start.wait().unwrap();
    assert_eq!(bundle.status(), "running");
    assert!(bundle.bad(&["delete", &id]).contains("it is running"));
}

#[test]
fn run_ends_as_its_process_does() {
    let status = |script: &str| {
        let bundle = Bundle::new(script);
        let output = bundle.kedge(&["run", &bundle.id()]);
        assert!(
            !bundle.path("state").join(bundle.id()).exists(),
            "{output:?}"
        );
        output.status.code()
    };
    assert_eq!(status("exit 0"), Some(0));
    assert_eq!(status("exit 7"), Some(7));
    assert_eq!(
        status("kill -9 $$; sleep 9"),
        Some(0),
        "the first process of a namespace cannot kill itself"
    );
}

#[test]
fn signals_reach_a_container_in_the_foreground() {
    let bundle =
        Bundle::new("trap 'echo asked; exit 3' TERM; echo up; while :; do sleep 0.05; done");
    let mut command = bundle.command(&["run", &bundle.id()]);
    let output = std::fs::File::create(bundle.path("out")).unwrap();
    let mut child = command.stdout(output).spawn().unwrap();
    eventually(|| bundle.output() == "up\n");
    let pid = kedge_sys::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kedge_sys::rustix::process::kill_process(pid, kedge_sys::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(bundle.output(), "up\nasked\n");
}

#[test]
fn what_cannot_be_is_told_before_the_start() {
    for (path, value, word) in [
        (
            "process/args",
            json!(["/nowhere"]),
            "exec: \"/nowhere\": no such file or directory",
        ),
        (
            "process/args",
            json!(["nowhere"]),
            "executable file not found in $PATH",
        ),
        ("process/args", json!(["/etc"]), "exec: \"/etc\""),
        ("process/args", json!([]), "process.args is empty"),
        ("process/cwd", json!("bin"), "process.cwd"),
        (
            "process/user/uid",
            json!(4_294_967_295_u32),
            "process.user.uid",
        ),
        (
            "hooks/poststop",
            json!([{"path": "/bin/true", "timeout": 0}]),
            "timeout must be over 0",
        ),
        (
            "process/rlimits",
            json!([
                {"type": "RLIMIT_CORE", "hard": 0, "soft": 0}, {"type": "RLIMIT_NOFILE", "hard": 9, "soft": 9},
                {"type": "RLIMIT_CORE", "hard": 1, "soft": 0},
            ]),
            "RLIMIT_CORE stands there twice",
        ),
        ("process/apparmorProfile", json!("x"), "AppArmor"),
        ("root/path", json!("nowhere"), "root.path"),
        ("mounts/0/type", json!("nofs"), "/proc"),
        (
            "linux/namespaces",
            json!([{"type": "uts"}]),
            "mount namespace",
        ),
        (
            "linux/namespaces",
            json!([{"type": "mount"}]),
            "hostname needs a uts namespace",
        ),
        (
            "linux/sysctl",
            json!({"vm.swappiness": "1"}),
            "vm.swappiness",
        ),
        ("linux/cgroupsPath", json!("a.slice:b:c"), "cgroupfs"),
        (
            "linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x"}),
            "SCMP_ACT_NOTIFY",
        ),
        ("ociVersion", json!("2.0.0"), "2.0.0"),
    ] {
        refused(path, value, word);
    }
}

#[track_caller]
fn refused(path: &str, value: serde_json::Value, word: &str) {
    let bundle = Bundle::new("true").set(path, value);
    let text = bundle.bad(&["create", &bundle.id()]);
    assert!(
        text.starts_with("error: ") && text.contains(word),
        "{path}: {text}"
    );
    assert!(!bundle.path("state").join(bundle.id()).exists(), "{path}");
}

#[test]
fn a_limit_that_is_not_kept_is_refused_and_what_is_none_is_not() {
    for (path, value, word) in [
        (
            "linux/resources/memory/swappiness",
            json!(60),
            "memory.swappiness",
        ),
        (
            "linux/resources/memory/disableOOMKiller",
            json!(true),
            "memory.disableOOMKiller",
        ),
        (
            "linux/resources/cpu/realtimeRuntime",
            json!(95_000),
            "cpu.realtimeRuntime",
        ),
        (
            "linux/resources/blockIO/leafWeight",
            json!(10),
            "blockIO.leafWeight",
        ),
        (
            "linux/resources/network",
            json!({"classID": 1}),
            "resources.network",
        ),
        (
            "linux/resources/rdma",
            json!({"mlx5_1": {"hcaHandles": 3}}),
            "resources.rdma",
        ),
        (
            "linux/netDevices",
            json!({"eth0": {"name": "eth1"}}),
            "linux.netDevices",
        ),
        (
            "linux/memoryPolicy",
            json!({"mode": "MPOL_BIND", "nodes": "0"}),
            "linux.memoryPolicy",
        ),
        (
            "process/execCPUAffinity",
            json!({"initial": "0"}),
            "execCPUAffinity",
        ),
    ] {
        refused(path, value, word);
    }
    let none = json!({"disableOOMKiller": false, "kernel": -1});
    let bundle = Bundle::new("true").set("linux/resources/memory", none);
    bundle.run();
}

#[test]
fn errors_are_written_where_the_caller_looks() {
    let bundle = Bundle::new("true");
    let log = bundle.path("log");
    let words = [
        "--log",
        log.to_str().unwrap(),
        "--log-format",
        "json",
        "state",
        "nobody",
    ];
    bundle.bad(&words);
    let line: serde_json::Value = serde_json::from_slice(&std::fs::read(&log).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(
        line["msg"].as_str().unwrap().contains("does not exist"),
        "{line}"
    );
}

#[test]
fn hooks_run_at_their_turns_with_the_state() {
    let mut bundle = Bundle::new("echo process >> /data/turns").set("root/readonly", json!(false));
    let log = bundle.root().join("data/turns");
    let outside = format!("read state; echo $1 $state >> {}", log.display());
    for (name, inside) in [
        ("prestart", false),
        ("createRuntime", false),
        ("createContainer", false),
        ("startContainer", true),
        ("poststart", false),
        ("poststop", false),
    ] {
        let script = if inside {
            "read state; echo $1 $state >> /data/turns"
        } else {
            &outside
        };
        let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script, "sh", name], "env": ["PATH=/bin"], "timeout": 20});
        bundle = bundle.set(&format!("hooks/{name}"), json!([hook]));
    }
    let id = bundle.id();
    bundle.good(&["create", &id]);
    bundle.good(&["start", &id]);
    eventually(|| bundle.status() == "stopped");
    bundle.good(&["delete", &id]);
    let turns = std::fs::read_to_string(&log).unwrap();
    let names: Vec<_> = turns
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let begin = [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
    ];
    assert_eq!(names[..4], begin, "{turns}");
    // The process and whoever waits for its exec go on at the same time.
    let mut middle = names[4..6].to_vec();
    middle.sort_unstable();
    assert_eq!(middle, ["poststart", "process"], "{turns}");
    assert_eq!(names[6], "poststop");
    for line in turns.lines().filter(|line| line.contains('{')) {
        let (_, state) = line.split_once(' ').unwrap();
        let state: serde_json::Value = serde_json::from_str(state).unwrap();
        // After its end it has none.
        assert_eq!(
            state["pid"].as_i64() == Some(0),
            line.starts_with("poststop"),
            "{line}"
        );
    }
    let state: serde_json::Value =
        serde_json::from_str(turns.lines().nth(1).unwrap().split_once(' ').unwrap().1).unwrap();
    assert_eq!(
        (state["id"].as_str(), state["status"].as_str()),
        (Some(id.as_str()), Some("created"))
    );
    assert!(state["pid"].as_i64().unwrap() > 0, "{state}");
}

#[test]
fn a_hook_that_fails_or_hangs_ends_the_creation() {
    for (script, word) in [
        ("echo no room >&2; exit 4", "no room"),
        ("sleep 1000", "longer than 1 s"),
    ] {
        let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1}]);
        let bundle = Bundle::new("true").set("hooks/createRuntime", hook);
        let text = bundle.bad(&["create", &bundle.id()]);
        assert!(
            text.contains("hook createRuntime /bin/sh") && text.contains(word),
            "{text}"
        );
        assert!(!bundle.path("state").join(bundle.id()).exists());
    }
}

#[test]
fn what_hooks_have_begun_is_cleaned_up_when_the_creation_fails() {
    let groups = || {
        let all = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(std::path::Path::new);
        all.map(|hierarchy| hierarchy.join("kedge-oci"))
    };
    // A process of a hook's in the container's group, which ends with nobody's pid namespace.
    let leaves = "sleep 1000 > /dev/null 2>&1 & exit 4";
    for (turn, script) in [
        ("createRuntime", "exit 4"),
        ("createContainer", leaves),
        ("prestart", "true"),
    ] {
        let hook = |script: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]);
        let mut bundle = Bundle::new("true")
            .set(
                "linux/namespaces",
                json!([{"type": "mount"}, {"type": "uts"}]),
            )
            .set("linux/readonlyPaths", json!([]))
            .set("linux/maskedPaths", json!([]))
            .set("mounts", json!([]))
            .set(&format!("hooks/{turn}"), hook(script));
        let said = bundle.path("said");
        let tells = format!("read state; echo $state >> {}", said.display());
        bundle = bundle.set("hooks/poststop", hook(&tells));
        if turn == "prestart" {
            // What fails is what comes after the hooks.
            bundle = bundle.set("process/args", json!(["/nowhere"]));
        }
        let start = std::time::Instant::now();
        bundle.bad(&["create", &bundle.id()]);
        assert!(start.elapsed().as_secs() < 8, "{turn}: it waited");
        let state: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&said).unwrap()).unwrap();
        assert_eq!(state["status"], "stopped", "{turn}");
        for group in groups() {
            assert!(!group.join(bundle.id()).exists(), "{turn}: a group is left");
        }
    }
    // Before any hook has run there is nothing for them to clean up.
    let bundle = Bundle::new("true").set("root/path", json!("nowhere"));
    let said = bundle.path("said");
    let tells = format!("echo said > {}", said.display());
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", tells]}]);
    let bundle = bundle
        .set("hooks/poststop", hook.clone())
        .set("hooks/prestart", hook);
    bundle.bad(&["create", &bundle.id()]);
    assert!(!said.exists());
}

#[test]
fn a_state_that_is_longer_than_a_pipe_is_whole_and_holds_nobody_up() {
    let long = "x".repeat(300_000);
    let bundle = |script: &str| {
        let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1, "env": ["PATH=/bin:/usr/bin"]}]);
        Bundle::new("true")
            .set("annotations", json!({"long": long}))
            .set("hooks/createRuntime", hook)
    };
    bundle("test $(wc -c) -gt 300000").run();
    let hangs = bundle("sleep 15");
    let text = hangs.bad(&["create", &hangs.id()]);
    assert!(text.contains("longer than 1 s"), "{text}");
}

#[test]
fn a_hook_that_complains_at_length_is_heard_and_one_that_hangs_takes_its_children_along() {
    // More than a pipe holds.
    let long = "echo the first word >&2; head -c 300000 /dev/zero >&2; exit 4";
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", long], "timeout": 20,
        "env": ["PATH=/bin:/usr/bin"]}]);
    let bundle = Bundle::new("true").set("hooks/createRuntime", hook);
    let text = bundle.bad(&["create", &bundle.id()]);
    assert!(text.contains("the first word"), "{text}");
    let bundle = Bundle::new("true");
    let number = bundle.path("child");
    let hangs = format!("sleep 1000 & echo $! > {}; wait", number.display());
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", hangs], "timeout": 1,
        "env": ["PATH=/bin:/usr/bin"]}]);
    let bundle = bundle.set("hooks/createRuntime", hook);
    bundle.bad(&["create", &bundle.id()]);
    let child = std::fs::read_to_string(&number).unwrap();
    let stat = format!("/proc/{}/stat", child.trim());
    let ended = || match std::fs::read_to_string(&stat) {
        Ok(text) => text.contains(") Z "),
        Err(_) => true,
    };
    let start = std::time::Instant::now();
    while !ended() {
        assert!(start.elapsed().as_secs() < 20, "the hook's child runs on");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn nothing_is_left_of_fifty_containers() {
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let bundle = Bundle::new("true");
    bundle.run();
    let before = mounts();
    for _ in 0..50 {
        bundle.run();
    }
    assert_eq!(mounts(), before);
    assert!(
        std::fs::read_dir(bundle.path("state"))
            .unwrap()
            .next()
            .is_none()
    );
    for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let group = std::path::Path::new(hierarchy)
            .join("kedge-oci")
            .join(bundle.id());
        assert!(!group.exists(), "{}", group.display());
    }
}

#[test]
fn a_call_that_nobody_knows_is_told_and_passed_over() {
    let rules = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["frobnicate", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    });
    let bundle = Bundle::new("true").set("linux/seccomp", rules);
    let output = bundle.kedge(&["run", &bundle.id()]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    let line =
        "warning: linux.seccomp.syscalls: \"frobnicate\" is no system call: it is passed over\n";
    assert_eq!(said, line);
    let log = bundle.path("log");
    let words = ["--log", log.to_str().unwrap(), "run", &bundle.id()];
    let output = bundle.kedge(&words);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    let text = std::fs::read_to_string(log).unwrap();
    assert!(
        text.contains("level=warning msg=\"linux.seccomp.syscalls: \\\"frobnicate"),
        "{text}"
    );
}
