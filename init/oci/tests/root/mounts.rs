//! Mounts with all their options.

use crate::bench::Bundle;
use serde_json::{Value, json};

fn bind(source: &std::path::Path, destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

#[test]
fn folders_and_files_are_bound() {
    let mut bundle = Bundle::new(
        "cat /data/in /etc/one; echo new > /data/out; { echo x > /etc/one; echo x > /data/sub/x; } 2>&1; ls /made/here",
    );
    let outside = bundle.path("outside");
    std::fs::create_dir_all(outside.join("sub")).unwrap();
    std::fs::write(outside.join("in"), "in\n").unwrap();
    std::fs::write(bundle.path("one"), "one\n").unwrap();
    let one = bundle.path("one");
    bundle = bundle
        .set("root/readonly", json!(false))
        .add("mounts", bind(&outside, "/data", &["rbind", "rw"]))
        .add("mounts", bind(&one, "/etc/one", &["bind", "ro"]))
        .add(
            "mounts",
            bind(&outside.join("sub"), "/data/sub", &["bind", "ro"]),
        )
        .add("mounts", bind(&outside, "/made/here", &["bind"]));
    let output = bundle.run();
    assert!(output.starts_with("in\none\n"), "{output}");
    assert_eq!(
        output.matches("Read-only file system").count(),
        2,
        "{output}"
    );
    assert!(output.ends_with("in\nout\nsub\n"), "{output}");
    assert_eq!(
        std::fs::read_to_string(outside.join("out")).unwrap(),
        "new\n"
    );
}

#[test]
fn sources_are_taken_from_the_bundle() {
    let bundle = Bundle::new("cat /data/x").add(
        "mounts",
        json!({"destination": "/data", "source": "beside", "options": ["bind"]}),
    );
    std::fs::create_dir(bundle.path("beside")).unwrap();
    std::fs::write(bundle.path("beside/x"), "beside\n").unwrap();
    assert_eq!(bundle.run(), "beside\n");
}

#[test]
fn attributes_of_all_mounts_below_change_with_r_words() {
    let tmpfs = json!({"destination": "/data", "type": "tmpfs", "options": ["mode=700", "size=4096", "noexec"]});
    let bundle = Bundle::new("mount; true").add("mounts", tmpfs).add(
        "mounts",
        json!({"destination": "/tmp", "source": "rootfs/bin", "options": ["rbind", "rro", "nosuid", "noatime"]}),
    );
    let output = bundle.run();
    let line = |place: &str| {
        output
            .lines()
            .find(|line| line.contains(place))
            .unwrap_or_else(|| panic!("{place}: {output}"))
    };
    assert!(
        line(" /data ").contains("noexec") && line(" /data ").contains("mode=700"),
        "{output}"
    );
    for word in ["ro", "nosuid", "noatime"] {
        assert!(line(" /tmp ").contains(word), "{word}: {output}");
    }
}

#[test]
fn a_file_system_in_memory_can_begin_with_what_was_there() {
    let tmpfs = json!({"destination": "/etc", "type": "tmpfs", "options": ["tmpcopyup", "ro"]});
    let bundle = Bundle::new("cat /etc/d/f; { echo x > /etc/x; } 2>&1; true").add("mounts", tmpfs);
    std::fs::create_dir(bundle.root().join("etc/d")).unwrap();
    std::fs::write(bundle.root().join("etc/d/f"), "copied\n").unwrap();
    let output = bundle.run();
    assert!(
        output.starts_with("copied\n") && output.contains("Read-only"),
        "{output}"
    );
}

#[test]
fn ids_of_a_bind_are_mapped() {
    let own = json!([{"containerID": 0, "hostID": 4242, "size": 10}]);
    let bundle = Bundle::new("ls -ln /data").add(
        "mounts",
        json!({"destination": "/data", "source": "beside", "options": ["bind", "idmap"], "uidMappings": own, "gidMappings": own}),
    );
    std::fs::create_dir(bundle.path("beside")).unwrap();
    std::fs::write(bundle.path("beside/x"), "").unwrap();
    let output = bundle.run();
    // As a mount that is mapped shows them: what is 0 on disk is 4242 there, and none of the process's.
    assert!(output.contains("4242"), "{output}");
    let users = Bundle::new("touch /data/made; ls -ln /data")
        .with_users(1_900_000_000)
        .add(
            "mounts",
            json!({"destination": "/data", "source": "beside", "options": ["bind", "idmap"]}),
        );
    std::fs::create_dir(users.path("beside")).unwrap();
    users.run();
    let made = std::fs::metadata(users.path("beside/made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 0);
}

/// Whether what the machine mounts below a folder that is shared comes to a container that has the folder by these options:
/// what the container says, once the folder has been mounted over.
fn spread(options: &[&str], users: Option<u32>) -> String {
    let script = "echo up; while [ ! -e /data/inner/x ] && [ ! -e /tmp/over ]; do sleep 0.05; done; \
        ls /data/inner";
    let mut bundle = Bundle::new(script)
        .add(
            "mounts",
            json!({"destination": "/data", "source": "shared", "options": options}),
        )
        .add(
            "mounts",
            json!({"destination": "/tmp", "source": "told", "options": ["bind"]}),
        );
    if let Some(first) = users {
        bundle = bundle.with_users(first);
    }
    let shared = bundle.path("shared");
    std::fs::create_dir_all(shared.join("inner")).unwrap();
    std::fs::create_dir(bundle.path("told")).unwrap();
    let sh = |script: &str| {
        let status = std::process::Command::new("sh")
            .args(["-c", script])
            .current_dir(&shared)
            .status();
        assert!(status.unwrap().success(), "{script}");
    };
    sh("mount --bind . . && mount --make-shared .");
    bundle.start();
    crate::bench::eventually(|| bundle.output() == "up\n");
    sh(&format!(
        "mount -t tmpfs none {0}/inner && touch {0}/inner/x",
        shared.display()
    ));
    // What spreads is there as soon as it is mounted.
    std::thread::sleep(std::time::Duration::from_millis(300));
    std::fs::write(bundle.path("told/over"), "").unwrap();
    crate::bench::eventually(|| bundle.status() == "stopped");
    sh(&format!("umount --lazy {0}/inner {0}", shared.display()));
    bundle.output()
}

#[test]
fn mounts_of_the_machine_spread_only_as_the_document_wants() {
    for (options, users, expected) in [
        (&["rbind", "rslave"][..], None, "up\nx\n"),
        (&["rbind", "rshared"], None, "up\nx\n"),
        (&["rbind", "rprivate"], None, "up\n"),
        // The parent makes these, since the process is root of its own user namespace alone.
        (&["rbind", "rslave"], Some(1_900_000_000), "up\nx\n"),
        (&["rbind", "rshared"], Some(1_900_000_000), "up\nx\n"),
        (&["rbind", "rprivate"], Some(1_900_000_000), "up\n"),
        (&["rbind"], Some(1_900_000_000), "up\n"),
    ] {
        assert_eq!(
            spread(options, users),
            expected,
            "{options:?}, ids {users:?}"
        );
    }
}

#[test]
fn a_whole_file_system_is_not_needed_for_a_root() {
    // What the document mounts is made where the image has nothing.
    let bundle = Bundle::new("ls /proc/self/status && ls -d /a/b/c")
        .set("root/readonly", json!(false))
        .add("mounts", json!({"destination": "a/b/c", "type": "tmpfs"}));
    std::fs::remove_dir(bundle.root().join("proc")).unwrap();
    assert_eq!(bundle.run(), "/proc/self/status\n/a/b/c\n");
}

#[test]
fn a_root_that_is_shared_leaves_the_machines_mounts_where_they_are() {
    for (words, propagation) in [
        (&["run"][..], "rshared"),
        (&["run"], "shared"),
        (&["run", "--no-pivot"], "rshared"),
    ] {
        let bundle =
            Bundle::new("echo up").set("linux/rootfsPropagation", serde_json::json!(propagation));
        let id = bundle.id();
        let words: Vec<_> = words.iter().copied().chain([id.as_str()]).collect();
        let command = bundle.command(&words);
        // The machine is a namespace of the test's, whose mounts are shared with nobody else's: nothing that goes wrong
        // here reaches the real one. A mount below one that is shared; and a bundle on a mount that is not `/`.
        let script = "set -e; mount --make-rshared /; mount --bind . .; cd \"$PWD\"; mkdir machine
            mount -t tmpfs none machine; mkdir machine/below; mount -t tmpfs none machine/below
            cat /proc/self/mountinfo > before; \"$@\"; cat /proc/self/mountinfo > after";
        let output = std::process::Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                script,
                "sh",
            ])
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(bundle.path(""))
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        assert_eq!(output.stdout, b"up\n");
        let read = |name: &str| std::fs::read_to_string(bundle.path(name)).unwrap();
        let before = read("before");
        assert!(before.contains("/machine/below "), "{before}");
        assert_eq!(read("after"), before, "{propagation} {words:?}");
    }
}

#[test]
fn an_overlay_may_have_more_lower_folders_than_an_option_has_bytes_for() {
    let bundle = Bundle::new("cat /data/0 /data/5");
    let folders = (0..6).map(|number| {
        let folder = bundle.path(&format!("{number}{}", "x".repeat(60)));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(number.to_string()), format!("{number}\n")).unwrap();
        folder.to_str().unwrap().to_owned()
    });
    let lower = format!("lowerdir={}", folders.collect::<Vec<_>>().join(":"));
    let mount = json!({"destination": "/data", "type": "overlay", "options": [lower]});
    assert_eq!(bundle.add("mounts", mount).run(), "0\n5\n");
}
