//! Running containers: commands, probes, ends, and that nothing is left.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::bench::{Device, definition, end, eventually, kill, readable, wait_report};
use kedge_container::{Command, Input, Outcome, Plan, Probe, Report, Spawned, Stage};
use kedge_sys::process::{ExitStatus, Signal, send_signal, wait_pidfd};
use serde_json::json;

fn start(device: &Device, script: &str, members: &serde_json::Value) -> (Plan, Spawned) {
    let plan = device.plan("server", &definition(script, members), &[Path::new("/")]);
    let spawned = device.engine.spawn(&plan).expect("a start");
    assert_eq!(wait_report(&spawned.report), Report::Executed);
    (plan, spawned)
}

fn text(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn a_command_is_where_its_container_is_and_as_confined() {
    let device = Device::new();
    let members = json!({"process": {"user": {"uid": 33, "gid": 34}}, "root": "boot"});
    let (plan, server) = start(&device, "exec sleep 60", &members);
    let script = "for n in user mnt pid ipc uts net cgroup; do \
        test $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) || echo $n; done; \
        id -u; cat /proc/1/comm; ls /proc/self/fd | wc -l; grep -E '^(CapBnd|NoNew|Seccomp:)' /proc/self/status; exit 7";
    let command = device.engine.exec(
        &plan,
        server.pidfd.as_fd(),
        &Command::new(&text(&["sh", "-c", script])),
    );
    let ended = end(command.expect("a command"));
    assert_eq!(ended.status, ExitStatus::Exited(7), "{ended:?}");
    let words: Vec<_> = ended.stdout.split_whitespace().collect();
    let wanted = [
        "33",
        "sleep",
        "4",
        "CapBnd:",
        "0000000000000000",
        "NoNewPrivs:",
        "1",
        "Seccomp:",
        "2",
    ];
    assert_eq!(words, wanted);
    let missing = device.engine.exec(
        &plan,
        server.pidfd.as_fd(),
        &Command::new(&text(&["missing"])),
    );
    assert_eq!(
        end(missing.expect("a start")).failure().stage,
        Stage::Execute
    );
    // The parent is where it was: its next child is no process of that container.
    let other = device.run("echo $$", &json!({}));
    assert_eq!(other.output(), "1\n");
    kill(server);
    let none = device
        .engine
        .exec(&plan, other_pidfd(&device).as_fd(), &Command::new(&[]));
    assert_eq!(none.unwrap_err().stage, Stage::Execute);
}

fn other_pidfd(device: &Device) -> std::os::fd::OwnedFd {
    let (_, other) = start(device, "exec sleep 60", &json!({}));
    let copy = other.pidfd.try_clone().unwrap();
    kill(other);
    copy
}

#[test]
fn a_command_may_be_another_user_elsewhere_and_reads_a_pipe() {
    let device = Device::new();
    let (plan, server) = start(&device, "exec sleep 60", &json!({}));
    let arguments = text(&["sh", "-c", "id -u; id -g; pwd; echo $COLOUR; cat"]);
    let user = kedge_revision::container::User {
        uid: 33,
        gid: 34,
        groups: Vec::new(),
    };
    let command = Command {
        environment: &text(&["COLOUR=red"]),
        user: Some(&user),
        working_directory: Some("/usr"),
        input: Input::Pipe,
        ..Command::new(&arguments)
    };
    let pidfd = server.pidfd.as_fd();
    let mut spawned = device.engine.exec(&plan, pidfd, &command).expect("a start");
    let stdin = spawned.stdin.take().expect("a pipe");
    kedge_sys::rustix::io::write(&stdin, b"typed\n").unwrap();
    drop(stdin);
    let ended = end(spawned);
    assert_eq!(ended.output(), "33\n34\n/usr\nred\ntyped\n");
    kill(server);
}

#[test]
fn a_command_has_a_terminal_of_its_container() {
    let device = Device::new();
    let (plan, server) = start(&device, "exec sleep 60", &json!({}));
    let arguments = text(&["sh", "-c", "tty; stty size; read line; stty size; cat"]);
    let input = Input::Terminal {
        rows: 24,
        columns: 80,
    };
    let command = Command {
        input,
        ..Command::new(&arguments)
    };
    let pidfd = server.pidfd.as_fd();
    let spawned = device.engine.exec(&plan, pidfd, &command).expect("a start");
    let mut terminal = None;
    eventually(|| {
        Report::receive_with(&spawned.report, &mut terminal) == Ok(Some(Report::Executed))
    });
    let terminal = terminal.expect("its other side");
    let mut got = String::new();
    let mut until = |wanted: &str| {
        while !got.contains(wanted) {
            let mut buffer = [0; 256];
            let count = kedge_sys::rustix::io::read(&terminal, &mut buffer).expect("output");
            got.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    until("/dev/pts/0\r\n24 80\r\n");
    kedge_sys::terminal::set_size(&terminal, 50, 132).unwrap();
    kedge_sys::rustix::io::write(&terminal, b"go on\n").unwrap();
    until("50 132\r\n");
    // Once the terminal has echoed it and `cat` has, too: a shell that is about to become that program loses a signal.
    kedge_sys::rustix::io::write(&terminal, b"there\n").unwrap();
    until("there\r\nthere\r\n");
    // Control-C.
    kedge_sys::rustix::io::write(&terminal, &[3]).unwrap();
    let status = wait_pidfd(spawned.pidfd.as_fd()).unwrap();
    assert!(
        matches!(status, ExitStatus::Signaled { signal: 2, .. }),
        "{status:?}"
    );
    kill(server);
}

/// Bytes that this thread has read, by the kernel's count: before this look, and with it.
fn bytes_read() -> (u64, u64) {
    let text = fs::read_to_string("/proc/thread-self/io").expect("the kernel's counts");
    let counted = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    let counted: u64 = counted.expect("a count").parse().expect("a number");
    (counted, counted + u64::try_from(text.len()).unwrap())
}

/// A restart has the plan, and nothing else: the document is gone, and whoever starts the container reads no byte of
/// anything, nor does the process on its way but for the program itself.
#[test]
fn a_restart_reads_nothing_and_so_parses_nothing() {
    let device = Device::new();
    let document = device.path("revision.json");
    let written = definition(
        "",
        &json!({"process": {"arguments": ["cat", "/proc/self/io"]}}),
    );
    let mut text = serde_json::to_string(&written).unwrap();
    // Whoever reads it once more reads more than any program's head.
    text.push_str(&" ".repeat(1 << 20));
    fs::write(&document, text).unwrap();
    let parsed: kedge_revision::Container =
        serde_json::from_slice(&fs::read(&document).unwrap()).unwrap();
    let plan = device.plan("server", &parsed, &[Path::new("/")]);
    drop(parsed);
    fs::remove_file(&document).unwrap();
    for _ in 0..3 {
        let (_, before) = bytes_read();
        let spawned = device.engine.spawn(&plan).expect("a start");
        let (after, _) = bytes_read();
        assert_eq!(after - before, 0, "bytes that its parent has read");
        let ended = end(spawned);
        let line = ended
            .output()
            .lines()
            .find_map(|line| line.strip_prefix("rchar: "));
        let child: u64 = line.expect("a count").parse().unwrap();
        assert!(
            child <= 16 << 10,
            "the process read {child} bytes until its program ran"
        );
    }
}

/// Nobody reads what a health command writes: neither a full pipe keeps it from its end, nor a closed one kills it.
#[test]
fn a_health_command_may_write_without_end() {
    let device = Device::new();
    let (plan, server) = start(&device, "exec sleep 60", &json!({"root": "boot"}));
    let script = "head -c 300000 /dev/zero && head -c 300000 /dev/zero >&2 && echo again > /dev/stdout && \
        readlink /proc/self/fd/[012] > /tmp/streams && exit 6";
    let arguments = text(&["sh", "-c", script]);
    let command = Command::health(&plan, &arguments);
    let pidfd = server.pidfd.as_fd();
    let ended = end(device.engine.exec(&plan, pidfd, &command).expect("a start"));
    assert_eq!(ended.status, ExitStatus::Exited(6), "{ended:?}");
    assert_eq!((ended.stdout, ended.stderr), (String::new(), String::new()));
    let arguments = text(&["cat", "/tmp/streams"]);
    let streams = device
        .engine
        .exec(&plan, server.pidfd.as_fd(), &Command::new(&arguments));
    let streams = end(streams.expect("a start"));
    assert_eq!(
        streams.output().lines().next(),
        Some("/dev/null"),
        "{streams:?}"
    );
    kill(server);
}

/// CVE-2024-21626: an open folder of the device's is a way out of a container, up to the moment of the exec.
#[test]
fn no_open_folder_of_the_device_is_a_working_directory() {
    let device = Device::new();
    let _open: Vec<_> = (0..8).map(|_| fs::File::open("/").unwrap()).collect();
    let (plan, server) = start(&device, "exec sleep 60", &json!({}));
    let mut denied = 0;
    for number in 3..64 {
        let path = format!("/proc/self/fd/{number}");
        let arguments = text(&["true"]);
        let command = Command {
            working_directory: Some(&path),
            ..Command::new(&arguments)
        };
        let pidfd = server.pidfd.as_fd();
        let ended = end(device.engine.exec(&plan, pidfd, &command).expect("a start"));
        assert_eq!(ended.failure().stage, Stage::WorkingDirectory, "{path}");
        let members = json!({"process": {"working-directory": path}});
        let own = device.run("true", &members);
        assert_eq!(own.failure().stage, Stage::WorkingDirectory, "{path}");
        denied += 1;
    }
    assert_eq!(denied, 61);
    kill(server);
}

/// Looks for four seconds into all that comes and goes; what it sees, once each.
const SNOOP: &str = "
import os, time
seen, end = set(), time.monotonic() + 4
while time.monotonic() < end:
    for pid in os.listdir('/proc'):
        if not pid.isdigit() or int(pid) == os.getpid(): continue
        try: seen.add(os.path.basename(os.readlink('/proc/' + pid + '/exe')))
        except OSError: pass
        try: open('/proc/' + pid + '/exe', 'r+b'); seen.add('written')
        except OSError: pass
print(*sorted(seen))";

/// What joins a container is a copy of PID 1 up to its exec: nobody there may look into it (`ptrace(2)`), or write to its
/// program (CVE-2019-5736). Who tries is a command, which no fence keeps from it, and may trace what is in its namespace.
#[test]
fn a_command_on_its_way_shows_nothing_of_the_device() {
    let device = Device::new();
    let members = json!({"capabilities": ["DAC_OVERRIDE", "SYS_PTRACE"]});
    let (plan, server) = start(&device, "exec sleep 60", &members);
    let execute = |words: &[&str]| {
        let arguments = text(words);
        let command = Command::new(&arguments);
        let pidfd = server.pidfd.as_fd();
        device.engine.exec(&plan, pidfd, &command).expect("a start")
    };
    let snoop = execute(&["python3", "-c", SNOOP]);
    while !readable(&snoop.pidfd, Duration::from_millis(1)) {
        assert!(end(execute(&["env", "true"])).status.success());
    }
    let snooped = end(snoop);
    let seen: Vec<_> = snooped.output().split_whitespace().collect();
    assert!(seen.contains(&"sleep"), "{seen:?}");
    let ours = std::env::current_exe().unwrap();
    let ours = ours.file_name().unwrap().to_str().unwrap();
    let strange: Vec<_> = seen
        .iter()
        .filter(|name| **name == ours || **name == "written")
        .collect();
    assert!(strange.is_empty(), "{strange:?} of {seen:?}");
    kill(server);
}

#[test]
fn the_end_of_its_process_ends_a_container() {
    let device = Device::new();
    let (plan, server) = start(&device, "sleep 60 & sleep 60 & exec sleep 60", &json!({}));
    let command = device.engine.exec(
        &plan,
        server.pidfd.as_fd(),
        &Command::new(&text(&["sleep", "60"])),
    );
    let command = command.expect("a command");
    assert_eq!(wait_report(&command.report), Report::Executed);
    let begin = Instant::now();
    send_signal(server.pidfd.as_fd(), Signal::KILL).expect("a kill");
    // The command first: a pid namespace ends when all that was born in it is reaped.
    for ended in [end(command), end(server)] {
        assert!(matches!(
            ended.status,
            ExitStatus::Signaled { signal: 9, .. }
        ));
    }
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn probes_see_the_containers_network() {
    let device = Device::new();
    let script = "cd /usr/share && exec python3 -m http.server --bind 127.0.0.1 8080";
    let (plan, server) = start(&device, script, &json!({}));
    let probe = |probe: Probe<'_>, milliseconds| {
        let timeout = Duration::from_millis(milliseconds);
        let child = device
            .engine
            .probe(&plan, server.pidfd.as_fd(), probe, timeout);
        Outcome::of(wait_pidfd(child.expect("a probe").pidfd.as_fd()).expect("an end"))
    };
    eventually(|| probe(Probe::Tcp { port: 8080 }, 1000) == Outcome::Healthy);
    let get = |path| Probe::Http { port: 8080, path };
    assert_eq!(probe(get("/"), 5000), Outcome::Healthy);
    assert_eq!(probe(get("/missing"), 5000), Outcome::BadAnswer);
    assert_eq!(probe(Probe::Tcp { port: 8081 }, 1000), Outcome::Refused);
    kill(server);
}

#[test]
fn a_silent_server_times_out() {
    let device = Device::new();
    let script = "exec python3 -c 'import socket,time; s=socket.create_server((\"127.0.0.1\",80)); time.sleep(60)'";
    let (plan, server) = start(
        &device,
        script,
        &json!({"capabilities": ["NET_BIND_SERVICE"]}),
    );
    let probe = |probe: Probe<'_>| {
        let timeout = Duration::from_millis(300);
        let child = device
            .engine
            .probe(&plan, server.pidfd.as_fd(), probe, timeout);
        Outcome::of(wait_pidfd(child.expect("a probe").pidfd.as_fd()).expect("an end"))
    };
    eventually(|| probe(Probe::Tcp { port: 80 }) == Outcome::Healthy);
    let begin = Instant::now();
    assert_eq!(
        probe(Probe::Http {
            port: 80,
            path: "/"
        }),
        Outcome::TimedOut
    );
    assert!(begin.elapsed() < Duration::from_secs(2));
    kill(server);
}

#[test]
fn a_hundred_starts_leave_nothing() {
    let device = Device::new();
    let count = |what: &str| fs::read_dir(what).unwrap().count();
    let mounts = || fs::read_to_string("/proc/thread-self/mounts").unwrap();
    let plan = device.plan(
        "many",
        &definition("true", &json!({"root": "boot"})),
        &[Path::new("/")],
    );
    device.run_plan(&plan).output();
    let before = (mounts(), count("/proc/thread-self/fd"));
    let begin = Instant::now();
    for _ in 0..100 {
        device.run_plan(&plan).output();
    }
    println!("100 starts in {:?}", begin.elapsed());
    let missing = device.plan(
        "missing",
        &definition("true", &json!({})),
        &[Path::new("/missing")],
    );
    device.engine.spawn(&missing).unwrap_err();
    assert_eq!(mounts(), before.0);
    eventually(|| count("/proc/thread-self/fd") <= before.1 + 8);
}

#[test]
fn a_container_has_its_cgroup() {
    let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let unified = unified
        .into_iter()
        .find(|path| Path::new(path).join("cgroup.procs").exists());
    let unified = Path::new(unified.expect("a mount of cgroup v2"));
    let parent = unified.join(format!("kedge-test-{}", std::process::id()));
    let device = Device::with_cgroup(Some(&parent));
    let (plan, server) = start(
        &device,
        "sleep 60 & cat /proc/self/cgroup; exec sleep 60",
        &json!({}),
    );
    let name = "server".parse().unwrap();
    assert!(device.engine.populated(&name).unwrap());
    let script = "grep 0:: /proc/1/cgroup; ls -d /sys/fs/cgroup/cgroup.procs; touch /sys/fs/cgroup/x || exit 3";
    let command = device.engine.exec(
        &plan,
        server.pidfd.as_fd(),
        &Command::new(&text(&["sh", "-c", script])),
    );
    let ended = end(command.expect("a command"));
    assert_eq!(ended.status, ExitStatus::Exited(3), "{ended:?}");
    assert_eq!(ended.stdout, "0::/\n/sys/fs/cgroup/cgroup.procs\n");
    device.engine.kill(&name).unwrap();
    let ended = end(server);
    assert!(matches!(
        ended.status,
        ExitStatus::Signaled { signal: 9, .. }
    ));
    eventually(|| !device.engine.populated(&name).unwrap());
    device.engine.remove(&name).unwrap();
    device.engine.remove(&name).unwrap();
    fs::remove_dir(&parent).unwrap();
}
