//! Places for mounts that a read-only root lacks, whatever its layers made of them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bench::{BASE, Device, definition, eventually, kill, readable, wait_report};
use kedge_container::{Report, Stage};
use kedge_sys::Errno;
use kedge_sys::rustix::fs::{CWD, FileType, Mode, XattrFlags, getxattr, mknodat, setxattr};
use serde_json::{Value, json};

const ROOT: &str = "/";

/// A layer with these directories, in memory: not on the file system of the lowest one, of which it must be no part.
fn layer(name: &str, directories: &[&str]) -> PathBuf {
    let layer = Path::new("/run").join(name);
    for directory in directories {
        fs::create_dir_all(layer.join(directory)).unwrap();
    }
    layer
}

/// Deletes a name of lower layers, as overlayfs has it.
fn whiteout(path: &Path) {
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

fn volumes(places: &[&str]) -> Value {
    let named = places.iter().enumerate().map(|(number, path)| {
        let volume = json!({"path": path, "lifetime": "permanent"});
        (format!("v{number}"), volume)
    });
    json!({"volumes": named.collect::<serde_json::Map<_, _>>()})
}

/// `/var/run -> /run` is in most images, and a read-only root had the place beside the link, which hid it.
#[test]
fn a_volume_below_a_link_of_a_read_only_image_is_where_the_link_leads() {
    let device = Device::new();
    let lower = layer("lower", &["srv/there"]);
    let upper = layer("upper", &["srv"]);
    for (link, target) in [
        ("absolute", "/srv/there"),
        ("relative", "../srv/./there"),
        ("above", "../../../../srv/there"),
        ("nowhere", "/srv/none/below"),
        ("twice", "relative"),
    ] {
        symlink(target, upper.join("srv").join(link)).unwrap();
    }
    let places = [
        "absolute/a",
        "relative/b",
        "above/c",
        "nowhere",
        "twice/d/e",
    ];
    let paths = places.map(|place| format!("/srv/{place}"));
    let members = volumes(&paths.each_ref().map(String::as_str));
    let script = "cd /srv; for v in absolute/a relative/b above/c nowhere twice/d/e; do echo $v > $v/file; done; \
        cat there/a/file there/b/file there/c/file none/below/file there/d/e/file; \
        for d in / /srv there there/d none; do touch $d/new 2>/dev/null && echo $d; done; true";
    let definition = definition(script, &members);
    let plan = device.plan("links", &definition, &[Path::new(ROOT), &lower, &upper]);
    let said = format!("{}\n", places.join("\n"));
    assert_eq!(device.run_plan(&plan).output(), said);
    // Again: nothing is left of the first time.
    assert_eq!(device.run_plan(&plan).output(), said);

    let image = device.path("image");
    for name in ["proc", "sys", "dev", "run", "var"] {
        fs::create_dir_all(image.join(name)).unwrap();
    }
    fs::set_permissions(&image, fs::Permissions::from_mode(0o755)).unwrap();
    symlink("/run", image.join("var/run")).unwrap();
    let definition = crate::bench::definition("true", &volumes(&["/var/run/app"]));
    let plan = device.plan("debian", &definition, &[&image]);
    let failure = device.run_plan(&plan).failure().clone();
    // All mounts are done; there just is no shell.
    assert_eq!(
        (failure.stage, failure.errno),
        (Stage::Execute, Errno::NOENT)
    );
}

/// What any layer had counted as present, so that the mount met a read-only root without its place.
#[test]
fn a_place_that_a_higher_layer_deletes_is_made_without_what_was_in_it() {
    let device = Device::new();
    let lower = layer(
        "lower",
        &["srv/data/old", "srv/opaque/data/old", "srv/opaque/other"],
    );
    layer(
        "lower",
        &["srv/tree/deep/old", "srv/tree/other", "srv/hidden/old"],
    );
    fs::write(lower.join("srv/file"), "").unwrap();
    let upper = layer("upper", &["srv/opaque"]);
    for name in ["data", "tree", "file", "hidden"] {
        whiteout(&upper.join("srv").join(name));
    }
    let opaque = upper.join("srv/opaque");
    setxattr(&opaque, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    let members = volumes(&[
        "/srv/data",
        "/srv/opaque/data",
        "/srv/tree/deep",
        "/srv/file/x",
    ]);
    let script = "cd /srv; for v in data opaque/data tree/deep file/x; do echo $v > $v/new; done; find . | sort";
    let plan = device.plan(
        "deleted",
        &definition(script, &members),
        &[Path::new(ROOT), &lower, &upper],
    );
    let ended = device.run_plan(&plan);
    let mut all: Vec<_> = ["data", "opaque/data", "tree/deep", "file/x"]
        .iter()
        .flat_map(|v| [format!("./{v}"), format!("./{v}/new")])
        .chain([".", "./opaque", "./tree", "./file"].map(str::to_owned))
        .collect();
    all.extend(own_names("/srv"));
    all.sort();
    let mut seen: Vec<_> = ended.output().lines().collect();
    seen.sort_unstable();
    assert_eq!(seen, all);
}

/// What the lowest layer, this machine's, has there itself.
fn own_names(folder: &str) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let names = names.map(|name| name.unwrap().file_name().into_string().unwrap());
    names.map(|name| format!("./{name}")).collect()
}

/// A container in a pool started without names, and nobody was told. Seen before it has its interface, which nobody brings.
#[test]
fn a_container_in_a_pool_has_names_whatever_its_image_did_with_their_files() {
    let mut device = Device::new();
    for (file, text) in [
        ("hosts", "192.0.2.1 api\n"),
        ("resolv.conf", "nameserver 192.0.2.2\n"),
    ] {
        fs::write(Path::new("/run").join(file), text).unwrap();
    }
    device.hosts = Some("/run/hosts".into());
    device.resolv_conf = Some("/run/resolv.conf".into());
    let lower = layer("lower", &["etc"]);
    fs::write(lower.join("etc/hosts"), "").unwrap();
    fs::write(lower.join("etc/resolv.conf"), "").unwrap();
    let deleted = layer("deleted", &["etc"]);
    whiteout(&deleted.join("etc/hosts"));
    whiteout(&deleted.join("etc/resolv.conf"));
    let linked = layer("linked", &["etc"]);
    symlink(
        "../run/systemd/resolve/stub.conf",
        linked.join("etc/resolv.conf"),
    )
    .unwrap();
    let without = layer("without", &[""]);
    whiteout(&without.join("etc"));
    let members = json!({"network": {"pool": {"name": "front", "address": "10.88.0.2/24"}}});
    let definition = definition("true", &members);
    for (name, upper) in [
        ("deleted", &deleted),
        ("linked", &linked),
        ("without", &without),
    ] {
        let plan = device.plan(name, &definition, &[Path::new(ROOT), &lower, upper]);
        let spawned = device.engine.spawn(&plan).unwrap();
        let root = PathBuf::from(format!("/proc/{}/root", spawned.pid.as_raw_nonzero()));
        let says =
            |path: &str, text: &str| fs::read_to_string(root.join(path)).is_ok_and(|t| t == text);
        // A link in there would lead out of it, as seen from here.
        let resolv_conf = if name == "linked" {
            "run/systemd/resolve/stub.conf"
        } else {
            "etc/resolv.conf"
        };
        eventually(|| {
            says(resolv_conf, "nameserver 192.0.2.2\n") && says("etc/hosts", "192.0.2.1 api\n")
        });
        kill(spawned);
    }
}

#[test]
fn directories_above_a_place_look_as_in_the_image() {
    let device = Device::new();
    let upper = layer("upper", &["srv/kept/below"]);
    let kept = upper.join("srv/kept");
    let own = |path: &Path, user, group, mode| {
        std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    own(&upper, 7, 8, 0o751);
    own(&kept.join("below"), 65535, 34, 0o1705);
    // The group may read, but the one user more.
    let list = |user: u32| {
        let entries: [(u8, u8, u32); 5] = [
            (1, 7, !0),
            (2, 7, user),
            (4, 5, !0),
            (16, 7, !0),
            (32, 1, !0),
        ];
        let entries =
            entries.map(|(tag, may, id)| [&[tag, 0, may, 0][..], &id.to_le_bytes()].concat());
        [&2_u32.to_le_bytes()[..], &entries.concat()].concat()
    };
    own(&kept, 33, 34, 0o2750);
    let name = "system.posix_acl_access";
    setxattr(&kept, name, &list(55), XattrFlags::empty()).unwrap();
    let script = "stat -c %u:%g:%a / /srv /srv/kept /srv/kept/below /srv/kept/below/new; while :; do sleep 1; done";
    let definition = definition(script, &volumes(&["/srv/kept/below/new/data"]));
    let plan = device.plan("look", &definition, &[Path::new(ROOT), &upper]);
    let spawned = device.engine.spawn(&plan).unwrap();
    assert_eq!(wait_report(&spawned.report), Report::Executed);
    let seen = format!("/proc/{}/root/srv/kept", spawned.pid.as_raw_nonzero());
    let mut found = [0_u8; 256];
    let length = getxattr(&seen, name, &mut found).unwrap();
    assert_eq!(found[..length], list(BASE + 55));
    assert!(readable(&spawned.stdout, Duration::from_secs(10)));
    std::thread::sleep(Duration::from_millis(200));
    let said = kill(spawned).stdout;
    assert_eq!(
        said,
        "7:8:751\n0:0:755\n33:34:2771\n65535:34:1705\n0:0:755\n"
    );
}

#[test]
fn a_root_that_lacks_nothing_has_no_layer_more() {
    let device = Device::new();
    let upper = layer("upper", &["srv/data"]);
    let script = "grep ' / / ' /proc/self/mountinfo | sed 's/.* - //'";
    let root = |places: &[&str], layers: &[&Path]| {
        let plan = device.plan("root", &definition(script, &volumes(places)), layers);
        device.run_plan(&plan).output().to_owned()
    };
    // A place in another volume is made there, by its container.
    for places in [&["/opt"][..], &["/opt", "/opt/deep/in/it"]] {
        let one = root(places, &[Path::new(ROOT)]);
        assert!(!one.starts_with("overlay"), "{places:?}: {one}");
    }
    let two = root(&["/srv/data"], &[Path::new(ROOT), &upper]);
    assert_eq!(two.matches("lowerdir").count(), 2, "{two}");
    let three = root(&["/srv/new"], &[Path::new(ROOT), &upper]);
    assert_eq!(three.matches("lowerdir").count(), 3, "{three}");
    let two = root(&["/srv/new"], &[Path::new(ROOT)]);
    assert_eq!(two.matches("lowerdir").count(), 2, "{two}");
    // Nothing stays attached or made on the device.
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    assert!(!mounts.contains("/run/kedge/m/"), "{mounts}");
}

#[test]
fn a_place_that_cannot_be_made_is_named() {
    let device = Device::new();
    let upper = layer("upper", &["srv"]);
    let link = |target: &str, name: &str| symlink(target, upper.join("srv").join(name)).unwrap();
    fs::write(upper.join("srv/file"), "").unwrap();
    link("loop", "loop");
    link("b/x", "a");
    link("/srv/a", "b");
    for number in 0..200 {
        link(&format!("l{}", number + 1), &format!("l{number}"));
    }
    for (place, errno) in [
        ("/srv/loop/x", Errno::LOOP),
        ("/srv/a", Errno::LOOP),
        ("/srv/l0", Errno::LOOP),
        ("/srv/file/x", Errno::NOTDIR),
        // A directory onto a file.
        ("/srv/file", Errno::INVAL),
    ] {
        let definition = definition("true", &volumes(&[place]));
        let plan = device.plan("bad", &definition, &[Path::new(ROOT), &upper]);
        let failure = device.run_plan(&plan).failure().clone();
        assert_eq!(
            (failure.stage, failure.errno),
            (Stage::VolumeTarget, errno),
            "{place}"
        );
        assert_eq!(failure.path, place);
    }
}
