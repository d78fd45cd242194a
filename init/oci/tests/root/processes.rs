//! Commands on a container that runs: exec, ps, kill, pause, resume; terminals; namespaces that are shared.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use crate::bench::{Bundle, eventually};
use kedge_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use kedge_sys::sock;
use serde_json::{Value, json};

fn sleeper() -> Bundle {
    let bundle = Bundle::new("echo up; exec sleep 1000");
    bundle.start();
    eventually(|| bundle.output() == "up\n");
    bundle
}

#[test]
fn another_program_is_executed_in_it() {
    let bundle = sleeper();
    let id = bundle.id();
    let script = "echo $A; id -u; pwd; hostname; readlink /proc/self/ns/pid; exit 5";
    let words = [
        "exec", "-e", "A=b", "--cwd", "/tmp", "-u", "7:8", &id, "sh", "-c", script,
    ];
    let output = bundle.kedge(&words);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let theirs = std::fs::read_link(format!("/proc/{}/ns/pid", bundle.pid())).unwrap();
    assert_eq!(text, format!("b\n7\n/tmp\nkedge\n{}\n", theirs.display()));
    assert!(
        bundle
            .bad(&["exec", &id, "nowhere"])
            .contains("executable file not found in $PATH")
    );
    let status = bundle.good(&["exec", &id, "cat", "/proc/self/status"]);
    assert!(status.contains("CapEff:\t0000000020000420"), "{status}");
    let described = bundle.path("process.json");
    let process = json!({"args": ["echo", "described"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
    std::fs::write(&described, process.to_string()).unwrap();
    let pid_file = bundle.path("exec-pid");
    let words = [
        "exec",
        "--process",
        described.to_str().unwrap(),
        "--pid-file",
        pid_file.to_str().unwrap(),
        &id,
    ];
    assert_eq!(bundle.good(&words), "described\n");
    assert!(
        std::fs::read_to_string(pid_file)
            .unwrap()
            .parse::<u32>()
            .unwrap()
            > 1
    );
}

#[test]
fn all_its_processes_are_listed_stopped_and_killed() {
    let bundle = Bundle::new("sleep 1000 & sleep 1000 & while :; do echo tick; sleep 0.02; done");
    bundle.start();
    let id = bundle.id();
    eventually(|| bundle.output().contains("tick"));
    let all: Vec<i32> =
        serde_json::from_str(&bundle.good(&["ps", "--format", "json", &id])).unwrap();
    assert!(all.len() >= 3 && all.contains(&bundle.pid()), "{all:?}");
    let table = bundle.good(&["ps", &id]);
    assert!(
        table.lines().count() >= 4 && table.contains("sleep 1000"),
        "{table}"
    );
    bundle.good(&["pause", &id]);
    assert_eq!(bundle.status(), "paused");
    let refused = bundle.bad(&["exec", &id, "true"]);
    let why = format!("container {id} is paused: nothing can be executed in it");
    assert!(refused.contains(&why), "{refused}");
    assert_eq!(bundle.status(), "paused");
    let before = bundle.output().len();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(bundle.output().len(), before, "it goes on");
    assert!(bundle.bad(&["pause", &id]).contains("it is paused"));
    bundle.good(&["resume", &id]);
    eventually(|| bundle.output().len() > before);
    bundle.good(&["kill", "--all", &id, "KILL"]);
    eventually(|| bundle.status() == "stopped");
    bundle.good(&["delete", &id]);
}

#[test]
fn a_described_process_has_no_more_than_the_containers() {
    let bundle = sleeper();
    let described = bundle.path("process.json");
    let process = json!({"args": ["cat", "/proc/self/status"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
    std::fs::write(&described, process.to_string()).unwrap();
    let words = [
        "exec",
        "--process",
        described.to_str().unwrap(),
        &bundle.id(),
    ];
    let status = bundle.good(&words);
    for line in [
        "CapBnd:\t0000000020000420",
        "CapEff:\t0000000020000420",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    // 1024 is what the bundle's document has.
    let process =
        json!({"args": ["sh", "-c", "ulimit -n; ulimit -Hn"], "cwd": "/", "env": ["PATH=/bin"]});
    std::fs::write(&described, process.to_string()).unwrap();
    assert_eq!(bundle.good(&words), "1024\n1024\n");
}

#[test]
fn a_process_that_is_executed_has_the_containers_personality() {
    let bundle = Bundle::new("busybox uname -m; exec sleep 1000")
        .set("linux/personality", json!({"domain": "LINUX32"}));
    bundle.start();
    eventually(|| bundle.output().ends_with('\n'));
    let executed = bundle.good(&["exec", &bundle.id(), "busybox", "uname", "-m"]);
    assert_eq!(executed, bundle.output());
    let machine = kedge_sys::rustix::system::uname();
    assert_ne!(executed.trim(), machine.machine().to_str().unwrap());
}

#[test]
fn rules_for_devices_are_not_changed_without_a_word() {
    let bundle = sleeper();
    let file = bundle.path("resources.json");
    let words = [
        "update",
        "--resources",
        file.to_str().unwrap(),
        &bundle.id(),
    ];
    // What the bundle's document has.
    let same = json!({"devices": [{"allow": false, "access": "rwm"}]});
    std::fs::write(&file, same.to_string()).unwrap();
    bundle.good(&words);
    let more = json!({"devices": [{"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rwm"}]});
    std::fs::write(&file, more.to_string()).unwrap();
    let text = bundle.bad(&words);
    assert!(
        text.contains("resources.devices cannot be changed"),
        "{text}"
    );
}

#[test]
fn a_group_of_somebody_else_is_not_taken() {
    let first = sleeper();
    let group = format!("kedge-oci/{}", first.id());
    let second = Bundle::new("true").set("linux/cgroupsPath", json!(group));
    let text = second.bad(&["run", &second.id()]);
    assert!(text.contains("processes of somebody else"), "{text}");
    assert_eq!(first.status(), "running");
}

#[test]
fn a_container_in_the_foreground_can_be_stopped_by_others() {
    let bundle = Bundle::new("echo up; exec sleep 1000");
    let mut command = bundle.command(&["run", &bundle.id()]);
    let output = std::fs::File::create(bundle.path("out")).unwrap();
    let mut child = command.stdout(output).spawn().unwrap();
    eventually(|| bundle.output() == "up\n");
    bundle.good(&["pause", &bundle.id()]);
    bundle.good(&["resume", &bundle.id()]);
    bundle.good(&["kill", &bundle.id(), "9"]);
    assert_eq!(child.wait().unwrap().code(), Some(137));
}

#[test]
fn a_paused_container_can_be_deleted_by_force() {
    let bundle = sleeper();
    bundle.good(&["pause", &bundle.id()]);
    let process = format!("/proc/{}", bundle.pid());
    bundle.good(&["delete", "--force", &bundle.id()]);
    // Somebody else's child has to be reaped yet.
    eventually(|| !std::path::Path::new(&process).exists());
    assert!(!bundle.path("state").join(bundle.id()).exists());
}

/// Where the control group of a container is, and the controllers that its hierarchy has.
fn group(bundle: &Bundle) -> (std::path::PathBuf, String) {
    let all = std::fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap();
    let path = all.lines().find_map(|line| line.strip_prefix("0::/"));
    let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(std::path::Path::new);
    let hierarchy = places
        .into_iter()
        .find(|place| place.join("cgroup.controllers").exists());
    let hierarchy = hierarchy.expect("control groups of version 2");
    let controllers = std::fs::read_to_string(hierarchy.join("cgroup.controllers")).unwrap();
    (hierarchy.join(path.expect("a group")), controllers)
}

/// On a device's kernel, which has every controller: `vm_limits_of_an_oci_container_are_changed`.
#[test]
fn limits_are_changed_where_the_machine_has_them_and_named_where_not() {
    let bundle = sleeper();
    let (group, controllers) = group(&bundle);
    let pages = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]});
    let described = bundle.path("resources.json");
    std::fs::write(&described, pages.to_string()).unwrap();
    let id = bundle.id();
    let memory = ["update", "--memory", "100000000", &id];
    let pages = ["update", "--resources", described.to_str().unwrap(), &id];
    // A limit of memory is one of whole pages.
    for (controller, words, file, asked, kept) in [
        ("memory", &memory, "memory.max", "100000000", "99999744"),
        ("hugetlb", &pages, "hugetlb.2MB.max", "4194304", "4194304"),
    ] {
        let is_there = controllers.split_whitespace().any(|one| one == controller);
        if is_there {
            bundle.good(words);
            let found = std::fs::read_to_string(group.join(file)).unwrap();
            assert_eq!(found.trim(), kept, "{file}");
        } else {
            let text = bundle.bad(words);
            let expected = format!("{file} = {asked}: {} has no such file", group.display());
            assert!(text.contains(&expected), "{text}");
            assert!(!group.join(file).exists());
        }
    }
    let text = bundle.bad(&["update", "--memory", "-7", &id]);
    assert!(text.contains("memory.limit"), "{text}");
}

#[test]
fn containers_share_namespaces_by_their_files() {
    let first = sleeper();
    let files = format!("/proc/{}/ns", first.pid());
    let shared = |kind: &str, file: &str| json!({"type": kind, "path": format!("{files}/{file}")});
    let second = Bundle::new(
        "for n in net uts ipc cgroup; do readlink /proc/self/ns/$n; done; hostname; ps | grep -c '[s]leep 1000'
         cat /sys/fs/cgroup/cgroup.procs; grep ^0:: /proc/self/cgroup",
    )
    .set(
        "linux/namespaces",
        json!([{"type": "mount"}, shared("network", "net"), shared("uts", "uts"), shared("ipc", "ipc"), shared("pid", "pid"), shared("cgroup", "cgroup")]),
    );
    let second = second.set("hostname", json!(null));
    let mut expected = String::new();
    for file in ["net", "uts", "ipc", "cgroup"] {
        expected.push_str(&format!(
            "{}\n",
            std::fs::read_link(format!("{files}/{file}"))
                .unwrap()
                .display()
        ));
    }
    let output = second.run();
    // The first one's process is in sight, and its control group, which is the namespace's root.
    let group = format!("0::/../{}", second.id());
    assert_eq!(output, format!("{expected}kedge\n1\n1\n{group}\n"));
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert!(!expected.contains(own.to_str().unwrap()));
}

#[test]
fn namespaces_that_cannot_be_joined_are_refused_by_name() {
    for (kind, file) in [("user", "user"), ("mount", "mnt")] {
        let path = format!("/proc/self/ns/{file}");
        let namespaces = json!([{"type": "uts"}, {"type": kind, "path": path}]);
        let bundle = Bundle::new("true").set("linux/namespaces", namespaces);
        let text = bundle.bad(&["create", &bundle.id()]);
        let why = format!("a {kind} namespace that is there already ({path}) is not supported");
        assert!(text.contains(&why), "{text}");
    }
}

/// Takes the terminal that arrives at a socket.
fn terminal(listener: &std::os::fd::OwnedFd) -> std::fs::File {
    let mut list = [PollFd::new(listener, PollFlags::IN)];
    let timeout = Timespec::try_from(Duration::from_secs(20)).unwrap();
    assert_eq!(poll(&mut list, Some(&timeout)).unwrap(), 1, "nobody came");
    let connection = sock::accept(listener).unwrap().unwrap();
    let mut list = [PollFd::new(&connection, PollFlags::IN)];
    assert_eq!(
        poll(&mut list, Some(&timeout)).unwrap(),
        1,
        "nothing was sent"
    );
    let mut buffer = [0; 64];
    let received = sock::receive(connection.as_fd(), &mut buffer).unwrap();
    received
        .descriptors
        .into_iter()
        .next()
        .expect("a terminal")
        .into()
}

#[test]
fn a_terminal_is_given_to_whoever_listens() {
    let bundle =
        Bundle::new("tty; stty size; read line; echo got $line; ls -l /dev/console | cut -c1")
            .set("process/terminal", json!(true))
            .set("process/consoleSize", json!({"height": 33, "width": 99}));
    let id = bundle.id();
    assert!(bundle.bad(&["create", &id]).contains("--console-socket"));
    let socket = bundle.path("console");
    let listener = sock::bind(&socket, sock::Kind::Stream, 0o600).unwrap();
    bundle.good(&["create", "--console-socket", socket.to_str().unwrap(), &id]);
    let mut master = terminal(&listener);
    bundle.good(&["start", &id]);
    master.write_all(b"typed\n").unwrap();
    let mut all = Vec::new();
    // Its end: nobody has the other side open any more (EIO).
    master.read_to_end(&mut all).ok();
    let text = String::from_utf8_lossy(&all).replace('\r', "");
    for word in ["/dev/pts/0", "33 99", "got typed", "\nc\n"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn a_terminal_in_the_foreground_is_passed_through() {
    let bundle = Bundle::new("tty; read line; echo got $line").set("process/terminal", json!(true));
    let mut command = bundle.command(&["run", &bundle.id()]);
    let mut child = command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(b"typed\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && text.contains("/dev/pts/0") && text.contains("got typed"),
        "{output:?}"
    );
    let bundle = sleeper();
    let mut command = bundle.command(&["exec", "--tty", &bundle.id(), "tty"]);
    let output = command.output().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("/dev/pts/0"),
        "{output:?}"
    );
}

#[test]
fn calls_can_be_answered_by_a_listener() {
    let filter = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": "LISTENER",
        "listenerMetadata": "meta",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
    });
    let mut bundle = Bundle::new("mkdir /tmp/x; echo after");
    let socket = bundle.path("listener");
    bundle = bundle
        .set("linux/seccomp", filter)
        .set("linux/seccomp/listenerPath", json!(socket));
    assert!(bundle.bad(&["run", &bundle.id()]).contains("listenerPath"));
    let listener = sock::bind(&socket, sock::Kind::Stream, 0o600).unwrap();
    bundle.start();
    let connection = sock::accept(&listener).unwrap().expect("a connection");
    let mut buffer = [0; 8192];
    let received = sock::receive(connection.as_fd(), &mut buffer).unwrap();
    let told: Value = serde_json::from_slice(&buffer[..received.bytes]).unwrap();
    assert_eq!(
        (told["metadata"].as_str(), told["fds"][0].as_str()),
        (Some("meta"), Some("seccompFd"))
    );
    assert_eq!(told["state"]["id"], json!(bundle.id()));
    assert_eq!(told["pid"].as_i64(), Some(bundle.pid().into()));
    let notify = received.descriptors.into_iter().next().unwrap();
    let mut list = [PollFd::new(&notify, PollFlags::IN)];
    let timeout = Timespec::try_from(Duration::from_secs(20)).unwrap();
    assert_eq!(poll(&mut list, Some(&timeout)).unwrap(), 1, "no call came");
    assert_eq!(bundle.output(), "", "it did not wait");
    // Whoever waits for an answer gets ENOSYS when nobody is left to give one.
    drop(notify);
    eventually(|| bundle.output().ends_with("after\n"));
}

#[test]
fn features_are_told_as_the_specification_has_them() {
    let bundle = Bundle::new("true");
    let told: Value = serde_json::from_str(&bundle.good(&["features"])).unwrap();
    assert!(
        told["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .contains(&json!("time"))
    );
    assert!(
        told["mountOptions"]
            .as_array()
            .unwrap()
            .contains(&json!("rro"))
    );
    assert_eq!(told["linux"]["cgroup"]["v2"], json!(true));
    assert!(bundle.good(&["--version"]).contains("spec: 1.2.0"));
    assert!(bundle.good(&["--help"]).contains("A container's life"));
}
