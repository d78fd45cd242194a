//! Images and processes that want out.

use std::os::unix::fs::symlink;

use crate::bench::{Bundle, eventually};
use serde_json::json;

/// A folder beside the bundle that nobody may reach, with a file.
fn treasure(bundle: &Bundle) -> std::path::PathBuf {
    let folder = bundle.path("treasure");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("gold"), "gold").unwrap();
    folder
}

#[test]
fn targets_of_mounts_that_are_links_stay_inside() {
    let bundle = Bundle::new("mount | grep -c /elsewhere")
        .set("root/readonly", json!(false))
        .add("mounts", json!({"destination": "/data/x", "type": "tmpfs"}));
    let outside = treasure(&bundle);
    std::fs::remove_dir(bundle.root().join("data")).unwrap();
    std::fs::create_dir(bundle.root().join("elsewhere")).unwrap();
    // To a place that is there on the machine, and in the image another one.
    symlink(&outside, bundle.root().join("data")).unwrap();
    let text = bundle.bad(&["run", &bundle.id()]);
    assert!(text.contains("leads nowhere"), "{text}");
    std::fs::remove_file(bundle.root().join("data")).unwrap();
    symlink("../../../../../../elsewhere", bundle.root().join("data")).unwrap();
    assert_eq!(bundle.run(), "1\n");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn an_image_cannot_have_its_proc_elsewhere() {
    let bundle = Bundle::new("true");
    std::fs::remove_dir(bundle.root().join("proc")).unwrap();
    symlink("/tmp", bundle.root().join("proc")).unwrap();
    let text = bundle.bad(&["run", &bundle.id()]);
    assert!(
        text.contains("mount /proc") && text.contains("a link leads there"),
        "{text}"
    );
}

#[test]
fn an_image_cannot_hide_nothing_with_its_own_null_device() {
    // Without a /dev of the document's the image's own would be used.
    let bundle =
        Bundle::new("true").set("mounts", json!([{"destination": "/proc", "type": "proc"}]));
    std::fs::write(bundle.root().join("dev/null"), "mine").unwrap();
    let text = bundle.bad(&["run", &bundle.id()]);
    assert!(text.contains("/dev/null is not the null device"), "{text}");
}

#[test]
fn a_working_directory_cannot_lead_out_by_a_descriptor() {
    // CVE-2024-21626: a folder of the machine that the runtime has open.
    for number in 3..12 {
        let bundle = Bundle::new("cat ../../../../etc/hostname; pwd")
            .set("process/cwd", json!(format!("/proc/self/fd/{number}")));
        let output = bundle.kedge(&["run", &bundle.id()]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && output.stdout.is_empty(),
            "{number}: {output:?}"
        );
        assert!(text.contains("process.cwd"), "{number}: {text}");
    }
}

#[test]
fn a_program_cannot_be_one_of_the_machine_by_a_descriptor() {
    // The same by the program, a link to it, and the first line of a script.
    for number in 3..20 {
        let path = format!("/proc/self/fd/{number}/../../../../../../../usr/bin/apt-get");
        let bundle = Bundle::new("true").set("process/args", json!([path]));
        symlink(&path, bundle.root().join("bin/link")).unwrap();
        std::fs::write(bundle.root().join("bin/script"), format!("#!{path}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(bundle.root().join("bin/script"), mode).unwrap();
        bundle.bad(&["run", &bundle.id()]);
        for program in ["link", "script"] {
            let bundle = Bundle::new("true").set("process/args", json!([program]));
            symlink(&path, bundle.root().join("bin/link")).unwrap();
            std::fs::write(bundle.root().join("bin/script"), format!("#!{path}\n")).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(bundle.root().join("bin/script"), mode).unwrap();
            bundle.bad(&["run", &bundle.id()]);
        }
    }
}

#[test]
fn settings_are_not_written_to_what_a_volume_has_in_place_of_proc() {
    for (destination, word) in [
        ("/proc", "only the kernel's own"),
        ("/proc/sys", "inside of /proc"),
    ] {
        let bundle = Bundle::new("true").add(
            "mounts",
            json!({"destination": destination, "type": "bind", "source": "rootfs", "options": ["bind"]}),
        );
        let text = bundle.bad(&["run", &bundle.id()]);
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn the_runtime_cannot_be_overwritten_through_proc() {
    // CVE-2019-5736: the image's program is a script whose interpreter is the runtime itself, and something in the
    // container opens it for writing through /proc.
    let own = std::fs::read(env!("CARGO_BIN_EXE_kedge-oci")).unwrap();
    let bundle = Bundle::new(
        "echo up; while :; do for p in /proc/[0-9]*; do echo pwned 2>/dev/null > $p/exe; done; done",
    );
    bundle.start();
    eventually(|| bundle.output().contains("up"));
    let script = bundle.root().join("bin/again");
    std::fs::write(&script, "#!/proc/self/exe\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for _ in 0..10 {
        // It runs this command inside, which then fails for want of arguments that it knows.
        bundle.kedge(&["exec", &bundle.id(), "/bin/again"]);
        bundle.kedge(&["exec", &bundle.id(), "/proc/self/exe", "features"]);
    }
    assert!(
        std::fs::read(env!("CARGO_BIN_EXE_kedge-oci")).unwrap() == own,
        "it was overwritten"
    );
}

#[test]
fn processes_of_a_container_see_none_that_is_executed_as_the_machines() {
    // A process that joins may not be traced, nor its descriptors be taken, before it is the program.
    let script = "echo up; while :; do for p in /proc/[0-9]*; do ls -l $p/fd $p/cwd/ 2>/dev/null | grep -E 'state|treasure' && echo leaked; done; done";
    let bundle = Bundle::new(script);
    treasure(&bundle);
    bundle.start();
    eventually(|| bundle.output().contains("up"));
    for _ in 0..20 {
        bundle.kedge(&["exec", &bundle.id(), "true"]);
    }
    assert!(!bundle.output().contains("leaked"), "{}", bundle.output());
}

#[test]
fn a_user_file_that_never_ends_holds_nobody_up() {
    let bundle = Bundle::new("echo fine");
    let made = std::process::Command::new("mkfifo")
        .arg(bundle.root().join("etc/passwd"))
        .status()
        .unwrap();
    assert!(made.success());
    assert_eq!(bundle.run(), "fine\n");
}

#[test]
fn documents_that_are_none_are_refused() {
    let bundle = Bundle::new("true");
    let id = bundle.id();
    let command = |text: &[u8]| {
        let mut command = bundle.command(&["create", &id]);
        std::fs::write(bundle.path("config.json"), text).unwrap();
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(command(b"{").contains("config.json"));
    assert!(command(b"[]").contains("config.json"));
    // Nested without an end, in a member that nobody reads.
    assert!(command(&[&b"{\"a\":"[..], &b"[".repeat(1 << 20)].concat()).contains("config.json"));
    assert!(command(&b" ".repeat(5 << 20)).contains("longer than"));
    assert!(command(br#"{"ociVersion": "1.0.0", "process": {"args": "sh"}}"#).contains("line 1"));
}
