//! What a container may, and may not.

use crate::bench::Device;
use serde_json::json;

#[test]
fn root_of_a_container_is_nobody_outside() {
    let device = Device::new();
    let script = "id -u; id -g; hostname; echo $$; cat /proc/self/uid_map; pwd; umask";
    let ended = device.run(script, &json!({}));
    let words: Vec<_> = ended.output().split_whitespace().collect();
    assert_eq!(
        words,
        [
            "0",
            "0",
            "test",
            "1",
            "0",
            "2000000000",
            "65536",
            "/",
            "0022"
        ]
    );
}

#[test]
fn a_program_starts_confined() {
    let device = Device::new();
    let script = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups|SigBlk)' /proc/self/status";
    let ended = device.run(
        script,
        &json!({"capabilities": ["CHOWN", "NET_BIND_SERVICE"]}),
    );
    let lines: Vec<_> = ended
        .output()
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .collect();
    let zero = "0000000000000000";
    let set = "0000000000000401";
    assert_eq!(
        lines,
        [
            vec!["Groups:"],
            vec!["SigBlk:", zero],
            vec!["CapInh:", zero],
            vec!["CapPrm:", set],
            vec!["CapEff:", set],
            vec!["CapBnd:", set],
            vec!["CapAmb:", zero],
            vec!["NoNewPrivs:", "1"],
            vec!["Seccomp:", "2"],
        ]
    );
}

#[test]
fn another_user_has_no_capabilities() {
    let device = Device::new();
    let script = "id -u; id -g; id -G; grep Cap[PE] /proc/self/status; echo again > /dev/stdout";
    let user = json!({"process": {"user": {"uid": 33, "gid": 34, "groups": [4, 20]}}, "capabilities": ["CHOWN"]});
    let ended = device.run(script, &user);
    let zero = "0000000000000000";
    let words: Vec<_> = ended.output().split_whitespace().collect();
    assert_eq!(
        words,
        [
            "33", "34", "34", "4", "20", "CapPrm:", zero, "CapEff:", zero, "again"
        ]
    );
}

#[test]
fn nothing_of_the_device_is_inherited() {
    let device = Device::new();
    let leak = std::fs::File::open("/").unwrap();
    let kept = kedge_sys::rustix::io::FdFlags::empty();
    kedge_sys::rustix::io::fcntl_setfd(&leak, kept).unwrap();
    // The descriptor of the listing itself is 3.
    let ended = device.run(
        "ls /proc/self/fd; cat /proc/mounts | grep -c kedge; ls /run",
        &json!({}),
    );
    drop(leak);
    assert_eq!(
        ended.stdout.split_whitespace().collect::<Vec<_>>()[..5],
        ["0", "1", "2", "3", "0"]
    );
    let ended = device.run("env; readlink /proc/self/fd/0", &json!({}));
    assert!(ended.output().ends_with("/dev/null\n"), "{ended:?}");
}

#[test]
fn the_machine_is_out_of_reach() {
    let device = Device::new();
    for script in [
        "touch /new",
        "echo 1 > /proc/sys/kernel/panic",
        "echo b > /proc/sysrq-trigger",
        "mount -t tmpfs none /mnt",
        "umount /proc/sys",
        "unshare -U true",
        "unshare -m true",
        "chroot / true",
        "hostname other",
        "mknod /dev/shm/disk b 254 0",
        "echo x > /dev/new",
        "touch /sys/kernel/x",
        "dmesg",
        "nsenter -t 1 -m true",
        "echo 1 > /proc/self/oom_score_adj && echo -1000 > /proc/self/oom_score_adj",
    ] {
        let ended = device.run(script, &json!({}));
        assert!(!ended.status.success(), "{script}: {ended:?}");
    }
    let none = "wc -c < /proc/keys; wc -c < /proc/timer_list; ls /sys/firmware | wc -l";
    assert_eq!(device.run(none, &json!({})).output(), "0\n0\n0\n");
}

#[test]
fn devices_are_the_usual_six() {
    let device = Device::new();
    let script = "cd /dev; for f in *; do test -L $f || test -d $f || echo $f; done; \
        head -c 3 /dev/zero | wc -c; echo x > /dev/null; test -L ptmx && test -w shm && ls pts";
    let ended = device.run(script, &json!({}));
    let words: Vec<_> = ended.output().split_whitespace().collect();
    assert_eq!(
        words,
        [
            "full", "null", "random", "tty", "urandom", "zero", "3", "ptmx"
        ]
    );
}

/// The kernel has a number of them for all containers together.
#[test]
fn terminals_have_a_bound() {
    let device = Device::new();
    let script = "grep -o ' devpts .*' /proc/mounts | grep -o 'max=[0-9]*'";
    assert_eq!(device.run(script, &json!({})).output(), "max=256\n");
}

#[test]
fn its_own_network_has_loopback_only() {
    let device = Device::new();
    let script =
        "tail -n +3 /proc/net/dev | cut -d: -f1; ls /sys/class/net; cat /sys/class/net/lo/flags";
    let words: Vec<_> = device
        .run(script, &json!({}))
        .output()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    assert_eq!(words, ["lo", "lo", "0x9"]);
}

#[test]
fn with_the_devices_network_its_interfaces_are_seen() {
    let device = Device::new();
    let script =
        "ls /sys/class/net; touch /sys/x 2>/dev/null || echo read-only; readlink /proc/self/ns/net";
    let ended = device.run(script, &json!({"network": "host"}));
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert!(
        ended
            .output()
            .ends_with(&format!("read-only\n{}\n", own.display())),
        "{ended:?}"
    );
}

#[test]
fn a_capability_widens_the_filter_inside_only() {
    let device = Device::new();
    let admin = json!({"capabilities": ["SYS_ADMIN"]});
    let ended = device.run(
        "hostname other && hostname && mount -t tmpfs none /mnt && echo mounted",
        &admin,
    );
    assert_eq!(ended.output(), "other\nmounted\n");
    let ended = device.run("echo 1 > /proc/sys/kernel/panic", &admin);
    assert!(!ended.status.success());
}
