//! Who gets which device, by what a made-up sysfs says.

use super::seen::Seen;
use super::*;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A tree that looks like `/sys`.
pub(super) struct Sys(tempfile::TempDir);

impl Sys {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
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

    /// An interface of a whole USB device.
    fn interface(&self, path: &str, class: &str) {
        let name = format!("{}:1.0", path.rsplit('/').next().unwrap());
        self.write(
            &format!("{path}/{name}/bInterfaceClass"),
            &format!("{class}\n"),
        );
        self.link(
            &format!("bus/usb/devices/{name}"),
            &format!("{path}/{name}"),
        );
    }

    fn pci(&self, path: &str, ids: [&str; 2]) {
        self.write(&format!("{path}/vendor"), &format!("0x{}\n", ids[0]));
        self.write(&format!("{path}/device"), &format!("0x{}\n", ids[1]));
        self.link(&format!("{path}/subsystem"), "bus/pci");
    }

    pub(super) fn look(&self, subsystems: &[&str]) -> Vec<Found> {
        let seen = self.say(subsystems, usize::MAX);
        assert!(seen.listed && seen.whole);
        assert!(seen.found.is_sorted_by(|one, other| one.path < other.path));
        seen.found
    }

    /// What a look has said that ends, or gets stuck, after so many lines.
    pub(super) fn say(&self, subsystems: &[&str], most: usize) -> Seen {
        let subsystems: Vec<String> = subsystems.iter().map(ToString::to_string).collect();
        let mut seen = Seen::default();
        let mut left = most;
        let said = sysfs::look(self.0.path(), &subsystems, "vda3", &mut |line| {
            left = left.checked_sub(1).ok_or(std::io::ErrorKind::TimedOut)?;
            seen.take(line.as_bytes());
            seen.take(b"\n");
            Ok(())
        });
        assert_eq!(said.is_ok(), seen.whole);
        seen
    }
}

pub(super) const HUB: &str = "/devices/pci0000:00/0000:00:14.0/usb1/1-1";

/// A machine with two serial adapters, a port of its own, a disk of Kedge's and a stick.
pub(super) fn machine() -> Sys {
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
    // Whole devices: the hub, two adapters, two disks behind drivers of their makers'.
    for (number, port) in ["", ".2", ".4", ".3", ".5"].into_iter().enumerate() {
        let whole = match port {
            "" => HUB.to_owned(),
            port => format!("{HUB}/1-1{port}"),
        };
        sys.write(&format!("{whole}/dev"), &format!("189:{number}\n"));
        sys.write(&format!("{whole}/busnum"), "1\n");
        sys.write(&format!("{whole}/devnum"), &format!("{}\n", number + 4));
        sys.link(&format!("bus/usb/devices/1-1{port}"), &whole);
        sys.interface(&whole, "ff");
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

pub(super) fn rules(text: &str) -> Vec<DeviceRule> {
    serde_json::from_str(text).unwrap()
}

pub(super) fn names(chosen: &Chosen) -> Vec<(&str, &str)> {
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
        fresh: false,
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
    sysfs::look(Path::new("/none"), &[], "", &mut |_| Ok(())).unwrap_err();
}

#[test]
fn a_look_that_gets_stuck_has_said_the_rest() {
    let sys = machine();
    // Four terminals, the end of the list, two serial numbers, the end.
    for most in 0..8 {
        let seen = sys.say(&["tty"], most);
        assert_eq!(seen.found.len(), most.min(4));
        assert_eq!((seen.listed, seen.whole), (most > 4, most > 7));
        let unread = seen.found.iter().filter(|found| found.serial == UNREAD);
        assert!(most < 4 || unread.count() == 7_usize.saturating_sub(most).min(2));
    }
    assert!(sys.say(&["tty"], 8).whole);
    // By a number that is not read nothing is chosen; nor is it told.
    let listed = sys.say(&["tty"], 5).found;
    assert!(chosen(&listed, r#"["tty serial=B2"]"#).given.is_empty());
    let given = chosen(&listed, r#"["tty vendor=0403"]"#).given;
    assert_eq!(given.len(), 2);
    assert!(given.iter().all(|given| given.found.serial.is_empty()));
}

#[test]
fn a_whole_usb_device_that_leads_to_a_disk_or_a_console_is_kept() {
    let ports = |sys: &Sys| {
        let found = sys.look(&["usb"]);
        let given = chosen(&found, r#"["usb"]"#).given;
        let ports = given.iter().map(|given| given.found.number.1);
        ports.collect::<Vec<_>>()
    };
    // By number: not the hub (0), and not the disk with a record (4).
    let sys = machine();
    assert_eq!(ports(&sys), [1, 3, 2]);
    // A stick has no disk yet; it is a stick by what it says of itself.
    sys.write(&format!("{HUB}/1-1.3/1-1.3:1.0/bInterfaceClass"), "08\n");
    assert_eq!(ports(&sys), [1, 2]);
    // The kernel speaks by the first adapter.
    sys.write("/class/tty/console/active", "tty0 ttyUSB0\n");
    assert_eq!(ports(&sys), [2]);
    // One that is not set up may be anything.
    std::fs::remove_dir_all(sys.path(&format!("{HUB}/1-1.4/1-1.4:1.0"))).unwrap();
    assert_eq!(ports(&sys), [0_u32; 0]);
}

#[test]
fn devices_of_a_bus_without_a_class_are_found() {
    let sys = machine();
    let place = "/devices/platform/soc/3f200000.gpio/gpiochip0";
    sys.write(&format!("{place}/dev"), "254:0\n");
    sys.write(&format!("{place}/uevent"), "DEVNAME=gpiochip0\n");
    sys.link("bus/gpio/devices/gpiochip0", place);
    // Of a class of the same name, with and without a node.
    sys.device("/devices/x/gpio/gpio9", "gpio", "254:9", "gpio9");
    sys.write("/devices/x/gpio/gpiochip512/label", "x\n");
    sys.link("class/gpio/gpiochip512", "/devices/x/gpio/gpiochip512");
    sys.link("class/gpio/gpiochip0", place);
    let found = sys.look(&["gpio"]);
    assert_eq!(
        names(&chosen(&found, r#"["gpio"]"#)),
        [("gpiochip0", "gpiochip0"), ("gpio9", "gpio9")]
    );
    assert!(found.iter().all(|found| found.kind() == Kind::Character));
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
fn what_a_container_has_comes_first_where_there_is_too_much() {
    let one = machine().look(&["tty"]).remove(0);
    let many: Vec<Found> = (0..40)
        .map(|number| Found {
            node: format!("ttyX{number}"),
            number: (188, number),
            path: format!("/devices/{number:02}"),
            subsystem: if number < 20 { "tty" } else { "usbmisc" }.to_owned(),
            ..one.clone()
        })
        .collect();
    let text = r#"["tty","usbmisc"]"#;
    let numbers = |given: &[Given]| {
        let given = given.iter();
        given
            .map(|given| given.found.number.1)
            .collect::<Vec<u32>>()
    };
    // It had all of the second rule, and some of the first.
    let had = chosen(&many[15..], text).given;
    assert_eq!(numbers(&had), (15..40).collect::<Vec<_>>());
    let all = choose(&rules(text), &many, &had);
    let wanted: Vec<u32> = (0..7).chain(15..40).collect();
    assert_eq!(numbers(&all.given), wanted);
    assert_eq!(all.refused.len(), 8);
    // And so it stays.
    assert_eq!(choose(&rules(text), &many, &all.given).given, all.given);
}

#[test]
fn no_name_is_the_folder_of_another() {
    let sys = machine();
    let found = sys.look(&["sound", "tty"]);
    for (text, given, refused) in [
        (
            r#"["sound","tty name=snd serial=B2"]"#,
            ("snd/pcmC0D0p", "snd/pcmC0D0p"),
            "ttyUSB1",
        ),
        (
            r#"["tty name=snd serial=B2","sound"]"#,
            ("snd", "ttyUSB1"),
            "snd/pcmC0D0p",
        ),
    ] {
        let chosen = chosen(&found, text);
        assert_eq!(names(&chosen), [given]);
        let [(node, why)] = chosen.refused.as_slice() else {
            panic!("{:?}", chosen.refused);
        };
        assert!(node == refused && why.contains("folder"), "{node}: {why}");
    }
    // Who has its name keeps it, whatever the order of rules.
    let text = rules(r#"["tty name=snd serial=B2","sound"]"#);
    let sound = choose(&text, &sys.look(&["sound"]), &[]).given;
    let both = choose(&text, &found, &sound);
    assert_eq!(names(&both), [("snd/pcmC0D0p", "snd/pcmC0D0p")]);
    // A name that only begins alike is another one.
    let other = chosen(&found, r#"["sound","tty name=sn serial=B2"]"#);
    assert_eq!(other.given.len(), 2);
}

#[test]
fn what_has_gone_is_taken_with_all_that_hung_on_it() {
    let found = machine().look(&["sound", "tty"]);
    let text = rules(r#"["tty vendor=0403 required","sound required"]"#);
    let all = choose(&text, &found, &[]).given;
    let left = |place: &str| {
        let left = without(&all, place);
        let nodes: Vec<String> = left.iter().map(|given| given.found.node.clone()).collect();
        (nodes.join(" "), lacks(&text, &left))
    };
    let adapter = format!("{HUB}/1-1.2");
    let terminal = format!("{adapter}/1-1.2:1.0/ttyUSB0/tty/ttyUSB0");
    for place in [terminal, adapter.clone()] {
        assert_eq!(left(&place), ("ttyUSB1 snd/pcmC0D0p".to_owned(), false));
    }
    assert_eq!(left(HUB), ("snd/pcmC0D0p".to_owned(), true));
    assert_eq!(
        left("/devices/virtual"),
        ("ttyUSB0 ttyUSB1".to_owned(), true)
    );
    for nothing in ["/devices/none", &adapter[..adapter.len() - 1], ""] {
        assert_eq!(
            without(&all, nothing).len(),
            if nothing.is_empty() { 0 } else { 3 }
        );
    }
}

#[test]
fn a_disk_is_given_when_two_looks_say_the_same_of_it() {
    let sys = machine();
    let text = rules(r#"["block vendor=8086"]"#);
    let nodes = |chosen: &Chosen| {
        let given = chosen.given.iter();
        given
            .map(|given| given.name.clone())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut first = sys.look(&["block", "tty"]);
    assert!(mark_fresh(&mut first, &[]));
    let chosen = choose(&text, &first, &[]);
    assert!(chosen.given.is_empty() && chosen.lacks);
    // Kedge's own wait for nothing, and are given to nobody; what is no disk is not asked about.
    assert!(
        first
            .iter()
            .all(|one| one.fresh != (one.own || one.subsystem == "tty"))
    );
    let mut second = first.clone();
    assert!(!mark_fresh(&mut second, &first));
    let both = choose(&text, &second, &[]);
    assert_eq!((nodes(&both).as_str(), both.lacks), ("sda sda1", false));
    // Another partition is seen, as they are read: not the one that was there before either, but for who has it.
    let disk = format!("{HUB}/1-1.3/host0/sda/block/sda");
    sys.device(&format!("{disk}/sda2"), "block", "8:2", "sda2");
    sys.write(&format!("{disk}/sda2/partition"), "2\n");
    let mut third = sys.look(&["block"]);
    assert!(mark_fresh(&mut third, &second));
    assert_eq!(nodes(&choose(&text, &third, &[])), "");
    assert_eq!(nodes(&choose(&text, &third, &both.given)), "sda sda1");
    // What it is shows by its record.
    sys.write(
        &format!("{disk}/sda2/uevent"),
        "DEVNAME=sda2\nPARTNAME=bootenv\n",
    );
    let mut last = sys.look(&["block"]);
    assert!(!mark_fresh(&mut last, &third));
    let none = choose(&text, &last, &both.given);
    assert_eq!((nodes(&none).as_str(), none.lacks), ("", false));
}

#[test]
fn events_matter_for_what_a_usb_device_leads_to() {
    let wanted = |text: &str| vec![text.to_owned(), "sound".to_owned()];
    for (subsystem, usb, tty) in [
        ("usb", true, false),
        ("block", true, false),
        ("tty", true, true),
        ("sound", true, true),
        ("input", false, false),
    ] {
        assert_eq!(matters(&wanted("usb"), subsystem), usb, "{subsystem}");
        assert_eq!(matters(&wanted("tty"), subsystem), tty, "{subsystem}");
    }
    assert!(!matters(&[], "block"));
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
