//! Who gets which device, by what a made-up sysfs says.

use super::*;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A tree that looks like `/sys`.
struct Sys(tempfile::TempDir);

impl Sys {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = std::fs::File::create(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn link(&self, from: &str, to: &str) {
        let from = self.path(from);
        std::fs::create_dir_all(from.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(self.path(to), from).unwrap();
    }

    /// A device with a node, in its class.
    fn device(&self, path: &str, class: &str, number: &str, node: &str) {
        self.write(&format!("{path}/dev"), &format!("{number}\n"));
        self.write(
            &format!("{path}/uevent"),
            &format!("MAJOR=1\nMINOR=2\nDEVNAME={node}\n"),
        );
        let name = path.rsplit('/').next().unwrap();
        self.link(&format!("class/{class}/{name}"), path);
    }

    /// A USB device, and the PCI device that its bus is of.
    fn usb(&self, path: &str, ids: [&str; 2], serial: &str) {
        self.write(&format!("{path}/idVendor"), &format!("{}\n", ids[0]));
        self.write(&format!("{path}/idProduct"), &format!("{}\n", ids[1]));
        if !serial.is_empty() {
            self.write(&format!("{path}/serial"), &format!("{serial}\n"));
        }
    }

    fn pci(&self, path: &str, ids: [&str; 2]) {
        self.write(&format!("{path}/vendor"), &format!("0x{}\n", ids[0]));
        self.write(&format!("{path}/device"), &format!("0x{}\n", ids[1]));
        self.link(&format!("{path}/subsystem"), "bus/pci");
    }

    fn look(&self, subsystems: &[&str]) -> Vec<Found> {
        let subsystems: Vec<String> = subsystems.iter().map(ToString::to_string).collect();
        let found = sysfs::look(self.0.path(), &subsystems, "vda3");
        let mut said: Vec<String> = found.iter().map(Found::line).collect();
        said.sort_unstable();
        let read = read(said.join("\n").as_bytes());
        assert_eq!(read.len(), found.len());
        assert!(found.iter().all(|one| read.contains(one)));
        read
    }
}

const HUB: &str = "/devices/pci0000:00/0000:00:14.0/usb1/1-1";

/// A machine with two serial adapters, a port of its own, a disk of Kedge's and a stick.
fn machine() -> Sys {
    let sys = Sys::new();
    sys.pci("/devices/pci0000:00/0000:00:14.0", ["8086", "a36d"]);
    for (port, number, serial) in [("1-1.2", 0, "A10KZP45"), ("1-1.4", 1, "B2")] {
        let adapter = format!("{HUB}/{port}");
        sys.usb(&adapter, ["0403", "6001"], serial);
        let place = format!("{adapter}/{port}:1.0/ttyUSB{number}/tty/ttyUSB{number}");
        sys.device(
            &place,
            "tty",
            &format!("188:{number}"),
            &format!("ttyUSB{number}"),
        );
    }
    // Whole devices: the hub, two adapters, two sticks.
    for (number, port) in ["", ".2", ".4", ".3", ".5"].into_iter().enumerate() {
        let whole = match port {
            "" => HUB.to_owned(),
            port => format!("{HUB}/1-1{port}"),
        };
        sys.write(&format!("{whole}/dev"), &format!("189:{number}\n"));
        sys.write(&format!("{whole}/busnum"), "1\n");
        sys.write(&format!("{whole}/devnum"), &format!("{}\n", number + 4));
        sys.link(&format!("bus/usb/devices/1-1{port}"), &whole);
    }
    sys.device(
        "/devices/platform/serial8250/tty/ttyS0",
        "tty",
        "4:64",
        "ttyS0",
    );
    sys.device("/devices/virtual/tty/tty0", "tty", "4:0", "tty0");
    sys.write("/class/tty/console/active", "tty0 ttyS0\n");
    let disk = "/devices/pci0000:00/0000:00:04.0/virtio1/block/vda";
    sys.pci("/devices/pci0000:00/0000:00:04.0", ["1af4", "1001"]);
    // The virtio bus has ids of its own.
    sys.write(
        "/devices/pci0000:00/0000:00:04.0/virtio1/vendor",
        "0x1af4\n",
    );
    sys.write(
        "/devices/pci0000:00/0000:00:04.0/virtio1/device",
        "0x0002\n",
    );
    sys.device(disk, "block", "254:0", "vda");
    sys.device(&format!("{disk}/vda3"), "block", "254:3", "vda3");
    sys.write(&format!("{disk}/vda3/partition"), "3\n");
    for (name, port, partition) in [
        ("sda", "1-1.3", "PARTNAME=photos"),
        ("sdb", "1-1.5", "PARTNAME=bootenv"),
    ] {
        let disk = format!("{HUB}/{port}/host0/{name}/block/{name}");
        sys.device(&disk, "block", "8:0", name);
        let one = format!("{disk}/{name}1");
        sys.device(&one, "block", "8:1", &format!("{name}1"));
        sys.write(&format!("{one}/partition"), "1\n");
        sys.write(
            &format!("{one}/uevent"),
            &format!("DEVNAME={name}1\n{partition}\n"),
        );
    }
    sys.device(
        "/devices/virtual/sound/card0/pcmC0D0p",
        "sound",
        "116:2",
        "snd/pcmC0D0p",
    );
    sys
}

fn rules(text: &str) -> Vec<DeviceRule> {
    serde_json::from_str(text).unwrap()
}

fn names(chosen: &Chosen) -> Vec<(&str, &str)> {
    let given = chosen.given.iter();
    given
        .map(|given| (given.name.as_str(), given.found.node.as_str()))
        .collect()
}

fn chosen(found: &[Found], text: &str) -> Chosen {
    choose(&rules(text), found, &[])
}

#[test]
fn a_look_finds_devices_with_the_ids_of_what_they_belong_to() {
    let found = machine().look(&["block", "nothing", "sound", "tty", "usb"]);
    let find = |node: &str| found.iter().find(|found| found.node == node).unwrap();
    let adapter = Found {
        subsystem: "tty".to_owned(),
        node: "ttyUSB0".to_owned(),
        number: (188, 0),
        path: format!("{HUB}/1-1.2/1-1.2:1.0/ttyUSB0/tty/ttyUSB0"),
        ids: ["0403".to_owned(), "6001".to_owned()],
        serial: "A10KZP45".to_owned(),
        own: false,
    };
    assert_eq!(*find("ttyUSB0"), adapter);
    assert_eq!(find("bus/usb/001/006").serial, "B2");
    assert_eq!(find("bus/usb/001/006").number, (189, 2));
    assert_eq!(find("snd/pcmC0D0p").ids, [String::new(), String::new()]);
    assert_eq!(find("vda3").ids, ["1af4".to_owned(), "1001".to_owned()]);
    assert_eq!(find("sda1").ids, ["8086".to_owned(), "a36d".to_owned()]);
    let own: Vec<&str> = found
        .iter()
        .filter(|found| found.own)
        .map(|found| found.node.as_str())
        .collect();
    assert_eq!(
        own,
        [
            "vda",
            "vda3",
            "bus/usb/001/004",
            "bus/usb/001/008",
            "sdb",
            "sdb1",
            "ttyS0",
            "tty0"
        ]
    );
    assert_eq!(Sys::new().look(&["tty"]), []);
    assert_eq!(sysfs::look(Path::new("/none"), &[], ""), []);
}

#[test]
fn a_container_has_what_its_rules_name_and_nothing_else() {
    let found = machine().look(&["block", "sound", "tty", "usb"]);
    for (rules, given) in [
        ("[]", vec![]),
        (
            r#"["tty"]"#,
            vec![("ttyUSB0", "ttyUSB0"), ("ttyUSB1", "ttyUSB1")],
        ),
        (
            r#"["tty name=modem serial=B2"]"#,
            vec![("modem", "ttyUSB1")],
        ),
        (
            r#"["tty vendor=0403 name=modem"]"#,
            vec![("modem", "ttyUSB0")],
        ),
        (r#"["tty vendor=0403 product=6002"]"#, vec![]),
        (
            r#"["usb product=6001 serial=B2"]"#,
            vec![("bus/usb/001/006", "bus/usb/001/006")],
        ),
        (
            r#"["usb"]"#,
            vec![
                ("bus/usb/001/005", "bus/usb/001/005"),
                ("bus/usb/001/007", "bus/usb/001/007"),
                ("bus/usb/001/006", "bus/usb/001/006"),
            ],
        ),
        (r#"["sound"]"#, vec![("snd/pcmC0D0p", "snd/pcmC0D0p")]),
        (
            r#"["tty path=/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1.2"]"#,
            vec![("ttyUSB0", "ttyUSB0")],
        ),
        // Of a path, whole names count.
        (
            r#"["tty path=/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1."]"#,
            vec![],
        ),
        (r#"["block"]"#, vec![("sda", "sda"), ("sda1", "sda1")]),
        (r#"["input"]"#, vec![]),
    ] {
        assert_eq!(names(&chosen(&found, rules)), given, "{rules}");
    }
    let wide = chosen(&found, r#"["block","tty"]"#);
    let refused: Vec<&str> = wide.refused.iter().map(|(node, _)| node.as_str()).collect();
    assert_eq!(refused, ["vda", "vda3", "sdb", "sdb1", "ttyS0", "tty0"]);
    // A rule that names a device of Kedge's own is none the better for it.
    let own = chosen(&found, r#"["block vendor=1af4 required"]"#);
    assert!(own.given.is_empty() && own.lacks);
}

#[test]
fn what_a_rule_requires_is_missed_until_it_is_there() {
    let found = machine().look(&["tty"]);
    let rule = r#"["tty required serial=B2"]"#;
    assert!(chosen(&[], rule).lacks);
    assert!(!chosen(&found, rule).lacks);
    assert!(!chosen(&[], r#"["tty serial=B2"]"#).lacks);
}

#[test]
fn a_name_stays_with_its_device() {
    let found = machine().look(&["tty"]);
    let rule = rules(r#"["tty vendor=0403 name=modem"]"#);
    let [first, second] = ["ttyUSB0", "ttyUSB1"].map(|node| {
        found
            .iter()
            .find(|found| found.node == node)
            .unwrap()
            .clone()
    });
    let had = choose(&rule, std::slice::from_ref(&second), &[]).given;
    assert_eq!(names(&choose(&rule, &found, &had)), [("modem", "ttyUSB1")]);
    // It left, and another one takes its place.
    assert_eq!(
        names(&choose(&rule, &[first], &had)),
        [("modem", "ttyUSB0")]
    );
}

#[test]
fn names_and_numbers_of_devices_are_bounded() {
    let mut found = machine().look(&["tty"]);
    let two = r#"["tty name=ttyUSB1 serial=A10KZP45","tty serial=B2"]"#;
    let chosen = chosen(&found, two);
    assert_eq!(names(&chosen), [("ttyUSB1", "ttyUSB0")]);
    assert!(
        chosen
            .refused
            .iter()
            .any(|(node, why)| node == "ttyUSB1" && why.contains("the name of another"))
    );
    // One device by two rules is one node.
    let both = super::tests::chosen(&found, r#"["tty serial=B2","tty vendor=0403"]"#);
    assert_eq!(names(&both).len(), 3);
    found.truncate(1);
    let one = found[0].clone();
    let many: Vec<Found> = (0..40)
        .map(|number| Found {
            node: format!("ttyUSB{number}"),
            number: (188, number),
            ..one.clone()
        })
        .collect();
    let many = super::tests::chosen(&many, r#"["tty"]"#);
    assert_eq!((many.given.len(), many.refused.len()), (MOST_NODES, 8));
}

#[test]
fn a_line_that_is_none_of_ours_is_no_device() {
    let line = machine().look(&["tty"])[0].line();
    assert!(Found::parse(&line).is_some());
    for bad in [
        String::new(),
        line.replace("ttyUSB0\t", "../ttyUSB0\t"),
        line.replace("ttyUSB0\t", "/ttyUSB0\t"),
        line.replace("\t188\t", "\t-1\t"),
        format!("{line}\tmore"),
        line.replace('\t', " "),
    ] {
        assert_eq!(Found::parse(&bad), None, "{bad}");
    }
}
