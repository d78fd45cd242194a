//! What a process may, and who it is.

use crate::bench::Bundle;
use serde_json::json;

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_whitespace().nth(1))
        .unwrap_or_else(|| panic!("{name} in {status}"))
}

#[test]
fn a_new_network_has_a_loopback_that_is_up() {
    let bundle = Bundle::new("cat /sys/class/net/lo/flags; ls /sys/class/net");
    assert_eq!(bundle.run(), "0x9\nlo\n");
    let users = Bundle::new("cat /sys/class/net/lo/flags").with_users(1_900_000_000);
    assert_eq!(users.run(), "0x9\n");
}

#[test]
fn a_process_is_who_the_document_says() {
    let bundle = Bundle::new(
        "id; umask; pwd; hostname; env; cat /proc/self/oom_score_adj /proc/self/limits",
    )
    .set(
        "process/user",
        json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o27}),
    )
    .set("process/cwd", json!("/tmp"))
    .set("process/oomScoreAdj", json!(500))
    .set(
        "process/rlimits",
        json!([{"type": "RLIMIT_NOFILE", "hard": 77, "soft": 66}]),
    )
    .set("domainname", json!("domain"))
    .set("hostname", json!("myself"));
    let output = bundle.run();
    for word in [
        "uid=1000 gid=1001",
        "groups=5,6",
        "0027",
        "/tmp",
        "myself",
        "HOME=/",
        "500",
    ] {
        assert!(output.contains(word), "{word}: {output}");
    }
    let files = output
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    assert_eq!(
        files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(),
        ["66", "77"]
    );
}

#[test]
fn a_process_may_have_more_groups_than_a_device_takes() {
    let groups: Vec<_> = (1000..1200).collect();
    let bundle = Bundle::new("grep Groups: /proc/self/status").set(
        "process/user",
        json!({"uid": 0, "gid": 0, "additionalGids": groups}),
    );
    assert_eq!(bundle.run().split_whitespace().count(), 201);
}

#[test]
fn capabilities_are_those_that_are_named() {
    let sets = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL"],
    });
    let bundle = Bundle::new("cat /proc/self/status")
        .set("process/capabilities", sets)
        .set("process/user", json!({"uid": 1, "gid": 1}));
    let status = bundle.run();
    // For a user that is not root only what is ambient outlives the exec.
    assert_eq!(field(&status, "CapBnd"), "0000000000002021");
    assert_eq!(field(&status, "CapEff"), "0000000000000020");
    assert_eq!(field(&status, "CapPrm"), "0000000000000020");
    assert_eq!(field(&status, "CapAmb"), "0000000000000020");
    assert_eq!(field(&status, "NoNewPrivs"), "1");
}

#[test]
fn a_filter_refuses_what_it_names() {
    let filter = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    });
    for privileges in [true, false] {
        let bundle = Bundle::new("mkdir /tmp/x 2>&1; cat /proc/self/status")
            .set("linux/seccomp", filter.clone())
            .set("process/noNewPrivileges", json!(privileges))
            .set("root/readonly", json!(false));
        let output = bundle.run();
        assert!(output.contains("No space left on device"), "{output}");
        assert_eq!(field(&output, "Seccomp:"), "2");
        assert_eq!(
            field(&output, "NoNewPrivs"),
            if privileges { "1" } else { "0" }
        );
    }
}

#[test]
fn what_is_hidden_and_protected_is() {
    let script = "cat /proc/keys /proc/timer_list; ls /sys/firmware; echo x > /proc/sys/kernel/domainname; touch /x; \
                  touch /dev/x && echo dev";
    let bundle = Bundle::new(&format!("{{ {script}; }} 2>&1"));
    let output = bundle.run();
    assert_eq!(
        output.matches("Read-only file system").count(),
        2,
        "{output}"
    );
    assert!(output.ends_with("dev\n"), "{output}");
    assert_eq!(output.lines().count(), 3, "{output}");
}

#[test]
fn nothing_of_the_machine_is_inherited() {
    let bundle =
        Bundle::new("ls /proc/self/fd; cat /proc/1/cgroup | grep 0::; readlink /proc/1/exe");
    let mut command = bundle.command(&["run", &bundle.id()]);
    // A descriptor that somebody forgot to close.
    let file = std::fs::File::open("/").unwrap();
    let kept = kedge_sys::rustix::io::fcntl_dupfd_cloexec(&file, 17).unwrap();
    kedge_sys::rustix::io::fcntl_setfd(&kept, kedge_sys::rustix::io::FdFlags::empty()).unwrap();
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // Standard streams, and the folder that ls reads.
    assert!(text.starts_with("0\n1\n2\n3\n"), "{text}");
    assert!(!text.contains("17"), "{text}");
    assert!(
        text.contains("0::/\n") && text.ends_with("/bin/busybox\n"),
        "{text}"
    );
}

#[test]
fn descriptors_that_are_preserved_arrive() {
    let bundle = Bundle::new("cat <&3");
    let file = std::fs::File::create(bundle.path("given")).unwrap();
    std::fs::write(bundle.path("given"), "given").unwrap();
    drop(file);
    let mut shell = std::process::Command::new("sh");
    let run = format!(
        "exec {} --root {} run --preserve-fds 1 {} 3<given",
        env!("CARGO_BIN_EXE_kedge-oci"),
        bundle.path("state").display(),
        bundle.id()
    );
    bundle.command(&[]);
    let output = shell
        .args(["-c", &run])
        .current_dir(bundle.path(""))
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "given",
        "{output:?}"
    );
}

#[test]
fn descriptors_that_are_to_be_kept_must_be_there() {
    // CVE-2024-21626 by a number that is too large: the container would get what this command opens itself.
    let bundle = Bundle::new("ls -l /proc/self/fd >&2; exec sleep 1000");
    let id = bundle.id();
    let many = ["--preserve-fds", "100"];
    for words in [&["run", "--detach"][..], &["create"]] {
        let words: Vec<_> = words
            .iter()
            .chain(&many)
            .chain([&id.as_str()])
            .copied()
            .collect();
        let text = bundle.bad(&words);
        assert!(text.contains("there is no descriptor"), "{text}");
    }
    bundle.start();
    let text = bundle.bad(&["exec", "--preserve-fds", "100", &id, "true"]);
    assert!(text.contains("there is no descriptor"), "{text}");
}

#[test]
fn settings_are_those_of_its_own_namespaces() {
    let bundle = Bundle::new("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni").set(
        "linux/sysctl",
        json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "77"}),
    );
    assert_eq!(bundle.run(), "1\n77\n");
    let bundle = Bundle::new("true")
        .set(
            "linux/namespaces",
            json!([{"type": "mount"}, {"type": "pid"}]),
        )
        .set("hostname", json!(null))
        .set("linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    assert!(
        bundle
            .bad(&["run", &bundle.id()])
            .contains("net.ipv4.ip_forward would change the machine")
    );
}

#[test]
fn clocks_of_a_time_namespace_are_ahead() {
    let bundle = Bundle::new("cut -d. -f1 /proc/uptime; cat /proc/self/timens_offsets")
        .add("linux/namespaces", json!({"type": "time"}))
        .set(
            "linux/timeOffsets",
            json!({"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 5, "nanosecs": 7}}),
        );
    let output = bundle.run();
    let uptime: u64 = output.lines().next().unwrap().parse().unwrap();
    assert!(uptime >= 1_000_000, "{output}");
    let line = output.lines().find(|line| line.starts_with("boottime"));
    let words: Vec<_> = line.unwrap().split_whitespace().collect();
    assert_eq!(words, ["boottime", "1000000", "0"]);
}

#[test]
fn a_namespace_of_a_file_that_is_the_machines_is_not_changed() {
    // What is asked for is what is so already: were it written, nothing would be harmed.
    let read = |path: &str| std::fs::read_to_string(path).unwrap().trim().to_owned();
    let ttl = read("/proc/sys/net/ipv4/ip_default_ttl");
    let name = read("/proc/sys/kernel/hostname");
    for process in ["self".to_owned(), std::process::id().to_string()] {
        let joined = |kind: &str, file: &str| json!([{"type": "mount"}, {"type": kind, "path": format!("/proc/{process}/ns/{file}")}]);
        let bundle = Bundle::new("true")
            .set("linux/namespaces", joined("network", "net"))
            .set("hostname", json!(null))
            .set("linux/sysctl", json!({"net.ipv4.ip_default_ttl": ttl}));
        let text = bundle.bad(&["create", &bundle.id()]);
        let why = "net.ipv4.ip_default_ttl would change the machine";
        assert!(text.contains(why), "{text}");
        for (member, other) in [("hostname", "domainname"), ("domainname", "hostname")] {
            let bundle = Bundle::new("true")
                .set("linux/namespaces", joined("uts", "uts"))
                .set(other, json!(null))
                .set(member, json!(name));
            let text = bundle.bad(&["create", &bundle.id()]);
            let why = format!("{member} would change the machine");
            assert!(text.contains(&why), "{text}");
        }
    }
    // Merely to be in it is fine.
    let bundle = Bundle::new("echo in")
        .set(
            "linux/namespaces",
            json!([{"type": "mount"}, {"type": "uts", "path": "/proc/self/ns/uts"}]),
        )
        .set("linux/readonlyPaths", json!([]))
        .set("linux/maskedPaths", json!([]))
        .set("hostname", json!(null))
        .set("mounts", json!([]));
    assert_eq!(bundle.run(), "in\n");
}

#[test]
fn hooks_have_the_clocks_of_the_machine() {
    let bundle = Bundle::new("true");
    let said = bundle.path("said");
    let tells = format!("readlink /proc/self/ns/time >> {}", said.display());
    let hook =
        json!([{"path": "/bin/sh", "args": ["sh", "-c", tells], "env": ["PATH=/bin:/usr/bin"]}]);
    let bundle = bundle
        .add("linux/namespaces", json!({"type": "time"}))
        .set(
            "linux/timeOffsets",
            json!({"boottime": {"secs": 1_000_000}}),
        )
        .set("hooks/prestart", hook.clone())
        .set("hooks/createRuntime", hook.clone())
        .set("hooks/poststart", hook.clone())
        .set("hooks/poststop", hook);
    bundle.run();
    let machine = std::fs::read_link("/proc/self/ns/time").unwrap();
    let text = std::fs::read_to_string(&said).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines, [machine.to_str().unwrap(); 4]);
}

#[test]
fn devices_are_the_usual_and_those_that_are_named() {
    let device = json!({"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4});
    let bundle = Bundle::new(
        "ls -ln /dev; dd if=/dev/mine bs=1 count=1 2>/dev/null | cat; echo x > /dev/null",
    )
    .set("linux/devices", json!([device]));
    let output = bundle.run();
    let mine = output.lines().find(|line| line.ends_with("mine")).unwrap();
    assert!(
        mine.starts_with("crw-r-----") && mine.contains(" 3 ") && mine.contains("1,   5"),
        "{mine}"
    );
    for name in ["full", "null", "random", "tty", "urandom", "zero"] {
        assert!(
            output
                .lines()
                .any(|line| line.starts_with("crw-rw-rw-") && line.ends_with(name)),
            "{output}"
        );
    }
}

#[test]
fn devices_are_made_whatever_is_mounted_for_them() {
    let device = json!({"path": "/dev/mine", "type": "c", "major": 1, "minor": 5});
    let script =
        "dd if=/dev/mine bs=1 count=2 2>/dev/null | cat -v; echo x > /dev/null && echo fine";
    let proc = json!({"destination": "/proc", "type": "proc"});
    let slash = json!({"destination": "/dev/", "type": "tmpfs"});
    for users in [false, true] {
        for mounts in [json!([proc]), json!([proc, slash])] {
            let mut bundle = Bundle::new(script)
                .set("mounts", mounts.clone())
                .set("linux/devices", json!([device]));
            if users {
                bundle = bundle
                    .set("linux/devices/0/path", json!("/dev/zero"))
                    .set("process/args/2", json!(script.replace("mine", "zero")))
                    .with_users(1_900_000_000);
                let dev = bundle.root().join("dev");
                std::os::unix::fs::chown(dev, Some(1_900_000_000), Some(1_900_000_000)).unwrap();
            }
            // Twice: what the first leaves in the image is not what the second is content with.
            for _ in 0..2 {
                assert_eq!(bundle.run(), "^@^@fine\n", "{mounts} {users}");
            }
        }
    }
    // Whoever brings a /dev is left with it.
    let dev = json!({"destination": "/dev", "source": "/dev", "options": ["rbind"]});
    let bundle = Bundle::new("[ ! -e /dev/mine ] && echo none")
        .set("mounts", json!([proc, dev]))
        .set("linux/devices", json!([device]));
    assert_eq!(bundle.run(), "none\n");
}

#[test]
fn a_device_whose_place_is_taken_is_refused() {
    let device = json!({"path": "/dev/mine", "type": "c", "major": 1, "minor": 5});
    let bundle = Bundle::new("true")
        .set("mounts", json!([{"destination": "/proc", "type": "proc"}]))
        .set("linux/devices", json!([device]));
    std::fs::write(bundle.root().join("dev/mine"), "another").unwrap();
    let text = bundle.bad(&["run", &bundle.id()]);
    assert!(
        text.contains("/dev/mine: something else is there already"),
        "{text}"
    );
}

#[test]
fn a_device_that_is_not_allowed_cannot_be_opened() {
    // A node that the image brings, or that a process with the capability makes.
    let bundle = Bundle::new("cat /dev/kmsg > /dev/null")
        .set("linux/devices", json!([{"path": "/dev/loop-control", "type": "c", "major": 10, "minor": 237}]))
        .set("linux/resources/devices", json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}]))
        .set("process/args", json!(["sh", "-c", "cat /tmp/kmsg"]));
    let made = std::process::Command::new("mknod")
        .arg(bundle.root().join("tmp/kmsg"))
        .args(["c", "1", "11"])
        .status();
    assert!(made.unwrap().success());
    let text = bundle.bad(&["run", &bundle.id()]);
    assert!(text.contains("Operation not permitted"), "{text}");
}

#[test]
fn a_device_that_is_lent_for_reading_cannot_be_written() {
    // As engines write it for `--device /dev/mine:r`. Whether the machine has the driver does not matter: the group is asked first.
    let number = json!({"path": "/dev/mine", "type": "c", "major": 10, "minor": 237});
    let rule = json!({"allow": true, "type": "c", "major": 10, "minor": 237, "access": "r"});
    let script = "(: < /dev/mine) 2>&1 | grep 'not permitted' || echo read
        (: > /dev/mine) 2>&1 | grep -q 'not permitted' && echo kept";
    let bundle = Bundle::new(script)
        .set("linux/devices", json!([number]))
        .set(
            "linux/resources/devices",
            json!([{"allow": false, "access": "rwm"}, rule]),
        );
    assert_eq!(bundle.run(), "read\nkept\n");
}

#[test]
fn root_of_a_user_namespace_is_nobody_outside() {
    let bundle = Bundle::new("id -u; cat /proc/self/uid_map; touch /data/mine; ls -ln /dev/null; echo x > /dev/null && echo fine")
        .with_users(1_900_000_000)
        .set("root/readonly", json!(false));
    std::os::unix::fs::chown(
        bundle.root().join("data"),
        Some(1_900_000_000),
        Some(1_900_000_000),
    )
    .unwrap();
    let output = bundle.run();
    let mut lines = output.lines();
    assert_eq!(lines.next(), Some("0"));
    assert!(lines.next().unwrap().contains("1900000000"), "{output}");
    assert!(output.ends_with("fine\n"), "{output}");
    let made = std::fs::metadata(bundle.root().join("data/mine")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 1_900_000_000);
}
