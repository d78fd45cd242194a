//! Roots, layers, overlays, volumes: what is seen inside, and whose it is outside.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::bench::{Device, definition};
use kedge_container::Stage;
use kedge_sys::Errno;
use serde_json::json;

// Here, so that whoever has this file has that, too.
#[path = "places.rs"]
mod places;

const ROOT: &str = "/";

#[test]
fn writes_to_the_overlay_stay_and_keep_their_ids() {
    let device = Device::new();
    let overlay = json!({"root": "revision", "capabilities": ["CHOWN", "DAC_OVERRIDE", "FOWNER"]});
    let script = "echo one >> /kept; chown 33:34 /kept; rm /etc/hostname; touch /etc/passwd; cat /kept; \
        stat -c %u:%g / /kept /etc/passwd";
    assert_eq!(
        device.run(script, &overlay).output(),
        "one\n0:0\n33:34\n0:0\n"
    );
    let again = device.run("cat /kept; test -e /etc/hostname || echo gone", &overlay);
    assert_eq!(again.output(), "one\ngone\n");
    let kept = fs::metadata(device.path("test-overlay/upper/kept")).unwrap();
    assert_eq!((kept.uid(), kept.gid()), (33, 34));
    assert!(Path::new("/etc/hostname").exists());
}

#[test]
fn an_overlay_in_memory_outlives_a_restart() {
    let device = Device::new();
    let overlay = json!({"root": "boot"});
    assert_eq!(
        device
            .run("echo one >> /kept; cat /kept", &overlay)
            .output(),
        "one\n"
    );
    assert_eq!(
        device
            .run("echo one >> /kept; cat /kept", &overlay)
            .output(),
        "one\none\n"
    );
    let free = device.run("df -k / | tail -1 | tr -s ' ' | cut -d' ' -f2", &overlay);
    assert_eq!(free.output(), "65536\n");
    let files = device.run("df -i / | tail -1 | tr -s ' ' | cut -d' ' -f2", &overlay);
    assert_eq!(files.output(), "4096\n");
}

/// Empty files take no bytes of a volume, and memory of the kernel all the same.
#[test]
fn what_is_in_memory_has_a_bound_of_files() {
    let device = Device::new();
    let members = |size: u64| json!({"volumes": {"memory": {"path": "/opt", "lifetime": "boot", "size": size}}});
    let script = "for d in /opt /dev/shm; do df -i $d | tail -1 | tr -s ' ' | cut -d' ' -f2; done";
    let (small, large) = (members(1 << 20), members(64 << 20));
    assert_eq!(device.run(script, &small).output(), "1024\n4096\n");
    // Of one that is there already, too.
    assert_eq!(device.run(script, &large).output(), "4096\n4096\n");
    let fill = "i=0; while true > /opt/$i; do i=$((i + 1)); done 2>/dev/null; echo $i";
    let made: u64 = device.run(fill, &small).output().trim().parse().unwrap();
    assert!((1000..1024).contains(&made), "{made} files");
}

#[test]
fn a_volume_in_memory_is_made_once_whatever_its_container_makes_of_it() {
    let device = Device::new();
    let members =
        json!({"volumes": {"memory": {"path": "/opt", "lifetime": "boot", "size": 1048576}}});
    // The mode of a directory that is not ready.
    let script = "cd /opt; echo x >> file; wc -l < file; chmod 1000 .";
    assert_eq!(device.run(script, &members).output(), "1\n");
    // On a second file system over the first one, the file would not be there.
    assert_eq!(device.run(script, &members).output(), "2\n");
}

#[test]
fn higher_layers_cover_lower_ones() {
    let device = Device::new();
    // Not on the file system of the lowest layer, of which they must be no part.
    let (middle, top) = (Path::new("/run/middle"), Path::new("/run/top"));
    for (layer, text) in [(middle, "middle"), (top, "top")] {
        fs::create_dir_all(layer.join("srv")).unwrap();
        fs::write(layer.join("srv/which"), text).unwrap();
        fs::write(layer.join("srv").join(text), text).unwrap();
    }
    for members in [json!({}), json!({"root": "revision"})] {
        let definition = definition("cat /srv/which; echo; ls /srv", &members);
        let plan = device.plan("layers", &definition, &[Path::new(ROOT), middle, top]);
        assert_eq!(device.run_plan(&plan).output(), "top\nmiddle\ntop\nwhich\n");
    }
}

#[test]
fn volumes_keep_the_containers_ids_on_disk() {
    let device = Device::new();
    let members = json!({
        "process": {"user": {"uid": 33, "gid": 34}},
        "volumes": {
            "data": {"path": "/srv/deep/data", "lifetime": "permanent"},
            "memory": {"path": "/srv/deep/data/memory", "lifetime": "boot", "size": 1048576},
            "other": {"path": "/opt", "lifetime": "revision", "owner": {"uid": 5, "gid": 6}},
        },
    });
    let script = "cd /srv/deep/data; echo kept >> file; cat file; echo x >> memory/x; wc -c < memory/x; \
        stat -c %u:%g /srv/deep/data memory /opt file; df -k memory | tail -1 | tr -s ' ' | cut -d' ' -f2";
    fs::create_dir_all(device.path("test/data/memory")).unwrap();
    std::os::unix::fs::chown(device.path("test/data"), Some(33), Some(34)).unwrap();
    let ended = device.run(script, &members);
    assert_eq!(ended.output(), "kept\n2\n33:34\n33:34\n5:6\n33:34\n1024\n");
    let ended = device.run(script, &members);
    assert!(ended.output().starts_with("kept\nkept\n4\n"), "{ended:?}");
    let file = fs::metadata(device.path("test/data/file")).unwrap();
    assert_eq!((file.uid(), file.gid()), (33, 34));
}

#[test]
fn a_link_of_the_image_leads_nowhere_outside() {
    let device = Device::new();
    let image = device.path("image");
    let outside = device.path("outside");
    fs::create_dir_all(&outside).unwrap();
    for name in ["proc", "sys", "dev"] {
        fs::create_dir_all(image.join(name)).unwrap();
    }
    symlink(&outside, image.join("volume")).unwrap();
    let definition = definition(
        "true",
        &json!({"volumes": {"data": {"path": "/volume", "lifetime": "permanent"}}}),
    );
    let plan = device.plan("links", &definition, &[&image]);
    let ended = device.run_plan(&plan);
    let failure = ended.failure();
    // Its place was made where the link leads within the image, which has no shell.
    assert_eq!(
        (failure.stage, failure.path.as_str()),
        (Stage::Execute, "sh")
    );
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

/// As CVE-2024-21626, before the start: a link of the image names an open folder of the device's by its number, where
/// everybody may write. A volume's place is made in what such a link leads to.
#[test]
fn a_link_of_the_image_to_an_open_folder_of_the_device_leads_nowhere() {
    let device = Device::new();
    let outside = device.path("outside");
    fs::create_dir_all(&outside).unwrap();
    for folder in [device.data.path(), &outside] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    }
    // A number that none of the container's own mounts has on its way.
    let open = fs::File::open(&outside).unwrap();
    let open = kedge_sys::rustix::io::fcntl_dupfd_cloexec(open, 500).unwrap();
    let image = device.path("image");
    for name in ["proc", "sys", "dev"] {
        fs::create_dir_all(image.join(name)).unwrap();
    }
    let link = format!("/proc/self/fd/{}", open.as_raw_fd());
    symlink(&link, image.join("volume")).unwrap();
    for (path, members) in [
        ("/volume/made", json!({})),
        ("/volume/made", json!({"root": "revision"})),
        ("/volume", json!({})),
    ] {
        let mut members = members;
        members["volumes"] = json!({"data": {"path": path, "lifetime": "permanent"}});
        let plan = device.plan("links", &definition("true", &members), &[&image]);
        let ended = device.run_plan(&plan);
        let made = fs::read_dir(&outside).unwrap().count();
        assert_eq!(made, 0, "{path} was made on the device");
        // The link leads nowhere; were its folder found, the kernel would refuse a mount there (`EINVAL`).
        let failure = ended.failure();
        assert_eq!(failure.stage, Stage::VolumeTarget, "{failure}");
        assert_eq!(failure.errno, Errno::NOENT, "{failure}");
    }
    drop(open);
}

/// A link to `/` put the kernel's files where no path of a mask led to: each mask was passed over as missing.
#[test]
fn an_image_with_a_link_in_the_place_of_the_kernels_files_does_not_start() {
    let device = Device::new();
    for (place, stage) in [
        ("proc", Stage::Proc),
        ("sys", Stage::Sysfs),
        ("dev", Stage::Devices),
    ] {
        for target in ["/", "/etc", "other", "/nowhere"] {
            let image = device.path(&format!("{place}-{}", target.replace('/', "_")));
            for name in ["proc", "sys", "dev", "etc", "other"] {
                if name != place {
                    fs::create_dir_all(image.join(name)).unwrap();
                }
            }
            symlink(target, image.join(place)).unwrap();
            for members in [json!({}), json!({"root": "boot"})] {
                let plan = device.plan("links", &definition("true", &members), &[&image]);
                let failure = device.run_plan(&plan).failure().clone();
                let found = (failure.stage, failure.errno);
                assert_eq!(found, (stage, Errno::LOOP), "/{place} -> {target}");
                assert_eq!(failure.path, format!("/{place}"));
            }
        }
    }
    assert!(!Path::new("/etc/self").exists());
}

#[test]
fn an_image_without_any_place_for_mounts_starts() {
    let device = Device::new();
    let image = device.path("image");
    fs::create_dir_all(&image).unwrap();
    fs::set_permissions(&image, fs::Permissions::from_mode(0o755)).unwrap();
    for members in [
        json!({}),
        json!({"root": "revision"}),
        json!({"root": "boot"}),
    ] {
        let plan = device.plan("bare", &definition("true", &members), &[&image]);
        let failure = device.run_plan(&plan).failure().clone();
        // All mounts are done; there just is no shell.
        assert_eq!(
            (failure.stage, failure.errno),
            (Stage::Execute, Errno::NOENT),
            "{members}"
        );
        assert_eq!(failure.path, "sh");
    }
}

#[test]
fn a_volume_cut_off_before_it_had_its_owner_gets_it() {
    let device = Device::new();
    let members = json!({
        "process": {"user": {"uid": 33, "gid": 34}},
        "volumes": {"data": {"path": "/srv/data", "lifetime": "permanent"}},
    });
    let first = device.run(
        "echo kept > /srv/data/file; stat -c %u:%g:%a /srv/data",
        &members,
    );
    assert_eq!(first.output(), "33:34:755\n");
    // What a power cut between its making and its owner leaves, as the disk shows it.
    let directory = device.path("test/data");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o1000)).unwrap();
    std::os::unix::fs::chown(&directory, Some(0), Some(0)).unwrap();
    let again = device.run("cat /srv/data/file; stat -c %u:%g:%a /srv/data", &members);
    assert_eq!(again.output(), "kept\n33:34:755\n");
}

#[test]
fn what_fails_is_named() {
    let device = Device::new();
    let failure = |members| device.run("true", &members).failure().to_string();
    let directory = json!({"process": {"working-directory": "/missing"}});
    assert!(failure(directory).starts_with("working directory: /missing: "));
    let program = json!({"process": {"arguments": ["missing"]}});
    assert!(failure(program).starts_with("execute: missing: "));
    let missing = device.plan(
        "missing",
        &definition("true", &json!({})),
        &[Path::new("/missing")],
    );
    let error = device.engine.spawn(&missing).unwrap_err();
    assert_eq!(
        (error.stage, error.errno, error.path.as_str()),
        (Stage::Layer, Errno::NOENT, "/missing")
    );
}

#[test]
fn sockets_and_name_servers_are_seen_and_cannot_be_changed() {
    let mut device = Device::new();
    let sockets = Path::new("/run/sockets");
    fs::create_dir(sockets).unwrap();
    let address = sockets.join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&address).unwrap();
    fs::set_permissions(&address, fs::Permissions::from_mode(0o666)).unwrap();
    fs::write("/run/resolv.conf", "nameserver 192.0.2.1\n").unwrap();
    device.sockets = Some(sockets.to_owned());
    device.resolv_conf = Some("/run/resolv.conf".into());
    let image = Path::new("/run/image");
    fs::create_dir_all(image.join("etc")).unwrap();
    fs::write(image.join("etc/resolv.conf"), "").unwrap();
    let health = json!({"check": "notify", "interval-ms": 0, "timeout-ms": 1, "retries": 1, "start-period-ms": 0});
    let members =
        json!({"network": "host", "health": health, "capabilities": ["DAC_OVERRIDE", "FOWNER"]});
    let script = "cat /etc/resolv.conf; test -S $NOTIFY_SOCKET && echo socket; \
        for f in /etc/resolv.conf /dev/kedge/new /dev/null2; do touch $f 2>/dev/null && echo $f; done; \
        rm -f $NOTIFY_SOCKET 2>/dev/null && echo removed; true";
    let plan = device.plan(
        "talk",
        &definition(script, &members),
        &[Path::new(ROOT), image],
    );
    let ended = device.run_plan(&plan);
    assert_eq!(ended.output(), "nameserver 192.0.2.1\nsocket\n");
    drop(socket);
    assert!(address.exists());
}

/// `layer.erofs` holds the file `/srv/layer`; made by `mkfs.erofs -T0 --all-root -U <nil>`.
#[test]
fn an_object_is_a_layer_without_a_loop_device() {
    let device = Device::new();
    let copy = device.path("object");
    fs::write(&copy, include_bytes!("layer.erofs")).unwrap();
    let place = Path::new("/run/kedge/l/0");
    kedge_container::attach_layer(&copy, place).unwrap();
    let plan = device.plan(
        "layer",
        &definition("cat /srv/layer; stat -c %u /srv/layer", &json!({})),
        &[Path::new(ROOT), place],
    );
    assert_eq!(device.run_plan(&plan).output(), "from a layer\n0\n");
    kedge_container::detach_layer(place).unwrap();
    let error = kedge_container::detach_layer(place).unwrap_err();
    assert_eq!((error.stage, error.errno), (Stage::Layer, Errno::NOENT));
}

/// Places are on a file system with few inodes: each update and each attempt to start would take one for ever.
#[test]
fn a_layer_leaves_no_place_behind() {
    let device = Device::new();
    let places = Path::new("/run/kedge/l");
    let good = device.path("object");
    fs::write(&good, include_bytes!("layer.erofs")).unwrap();
    kedge_container::attach_layer(&good, &places.join("0")).unwrap();
    let bad = device.path("bad");
    fs::write(&bad, [0; 8192]).unwrap();
    let error = kedge_container::attach_layer(&bad, &places.join("1")).unwrap_err();
    assert_eq!(error.stage, Stage::Layer);
    let names = || {
        fs::read_dir(places)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
    };
    assert_eq!(names().collect::<Vec<_>>(), ["0"]);
    kedge_container::detach_layer(&places.join("0")).unwrap();
    assert_eq!(names().count(), 0);
}
