//! Rules as they are written and as they are refused.

use super::*;

fn rule(text: &str) -> DeviceRule {
    text.parse().unwrap()
}

fn refused(text: &str) -> String {
    check(&[rule(text)], "devices").unwrap_err().to_string()
}

#[test]
fn a_rule_names_what_can_be_there() {
    for good in [
        "tty",
        "usb vendor=0403",
        "tty vendor=0403 product=6001 name=modem access=r required serial=A1 x",
        "video4linux path=/devices/platform/soc/3f980000.usb/usb1/1-1/1-1.3",
    ] {
        let rule = rule(good);
        check(std::slice::from_ref(&rule), "devices").unwrap();
        assert_eq!(rule.to_string(), good);
        let written = serde_json::to_string(&rule).unwrap();
        assert_eq!(written, format!("{good:?}"));
        assert_eq!(serde_json::from_str::<DeviceRule>(&written).unwrap(), rule);
    }
    assert!(rule("tty name=x").is_wide());
    assert!(!rule("tty serial=x").is_wide());
    for (bad, why) in [
        ("../block", "devices[0].subsystem"),
        ("", "devices[0].subsystem"),
        ("tty vendor=0x403", "devices[0].vendor"),
        ("tty product=600A", "devices[0].product"),
        ("tty serial=", "devices[0].serial"),
        ("tty serial=a\n", "devices[0].serial"),
        ("tty path=/sys/devices/x", "devices[0].path"),
        ("tty path=/devices/../x", "devices[0].path"),
        ("tty path=/devices/x/", "devices[0].path"),
        ("tty name=a/b", "devices[0].name"),
        ("tty name=..", "devices[0].name"),
        ("tty name=null", "devices[0].name"),
    ] {
        let told = refused(bad);
        assert!(told.contains(why), "{bad}: {told}");
    }
    // What is no rule, or is spelled in another way.
    for unknown in [
        "tty class=x",
        "tty access=rwm",
        "tty access=rw",
        "tty required=true",
        "tty  vendor=0403",
        "tty ",
        "tty product=6001 vendor=0403",
        "tty name=a name=b",
        "tty serial=A vendor=0403 serial=B",
    ] {
        let read = unknown.parse::<DeviceRule>();
        // What follows a serial number is of it.
        assert!(read.is_err() || read.unwrap().serial.is_some(), "{unknown}");
    }
}

#[test]
fn no_two_rules_choose_the_same_or_give_the_same_name() {
    let rules = |texts: &[&str]| {
        let rules: Vec<DeviceRule> = texts.iter().map(|text| rule(text)).collect();
        check(&rules, "devices").map_err(|error| error.to_string())
    };
    rules(&["input", "tty"]).unwrap();
    for bad in [
        ["tty", "input"],
        ["tty", "tty access=r"],
        ["input name=a", "tty name=a"],
    ] {
        rules(&bad).unwrap_err();
    }
    let many: Vec<String> = (0..17)
        .map(|number| format!("tty vendor={number:04x}"))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    rules(&many[..16]).unwrap();
    assert!(rules(&many).unwrap_err().contains("over 16"));
}

#[test]
fn what_leads_past_confinement_is_refused_with_its_reason() {
    for subsystem in [
        "mem",
        "watchdog",
        "mtd",
        "bsg",
        "scsi_generic",
        "nvme",
        "virtio-ports",
        "vfio",
        "vfio-dev",
        "cxl",
        "vc",
    ] {
        let why = refused_subsystem(subsystem).unwrap();
        assert!(refused(subsystem).contains(why));
        assert_eq!(refusal(subsystem, "x", "/devices/pci0/x"), Some(why));
    }
    for (subsystem, node, path) in [
        ("tty", "tty0", "/devices/virtual/tty/tty0"),
        ("tty", "console", "/devices/virtual/tty/console"),
        ("block", "dm-0", "/devices/virtual/block/dm-0"),
        ("block", "loop0", "/devices/virtual/block/loop0"),
        ("block", "zram0", "/devices/virtual/block/zram0"),
        (
            "block",
            "mmcblk0boot1",
            "/devices/platform/x/mmc_host/mmc0/mmc0:1/block/mmcblk0/mmcblk0boot1",
        ),
        (
            "block",
            "mtdblock0",
            "/devices/platform/x/mtd/mtd0/mtdblock0",
        ),
    ] {
        assert!(refusal(subsystem, node, path).is_some(), "{node}");
    }
    for (subsystem, node, path) in [
        (
            "tty",
            "ttyUSB0",
            "/devices/pci0/usb1/1-1/1-1:1.0/ttyUSB0/tty/ttyUSB0",
        ),
        (
            "block",
            "sda",
            "/devices/pci0/usb1/1-1/1-1:1.0/host0/target0/0:0:0:0/block/sda",
        ),
        (
            "block",
            "mmcblk0p2",
            "/devices/platform/x/mmc_host/mmc0/mmc0:1/block/mmcblk0/mmcblk0p2",
        ),
    ] {
        assert_eq!(refusal(subsystem, node, path), None, "{node}");
    }
}

#[test]
fn kinds_of_misc_are_refused_by_their_whole_names() {
    let why = |node: &str| refusal("misc", node, "/devices/virtual/misc/x");
    for node in [
        "watchdog",
        "snapshot",
        "nvram",
        "mcelog",
        "userfaultfd",
        "vfio/vfio",
        "iommu",
        "ubi_ctrl",
        "uinput",
        "uhid",
        "loop-control",
        "mapper/control",
        "btrfs-control",
        "autofs",
        "cachefiles",
        "nvme-fabrics",
        "cuse",
        "cpu/microcode",
        "efi_capsule_loader",
    ] {
        assert!(why(node).is_some(), "{node}");
        for other in [format!("{node}x"), format!("x{node}"), format!("{node}/x")] {
            assert_eq!(why(&other), None, "{other}");
        }
    }
    assert_eq!(why("watchdog"), refused_subsystem("watchdog"));
    for node in ["hwrng", "net/tun", "fuse", "rfkill"] {
        assert_eq!(why(node), None, "{node}");
    }
}
