//! What a Raspberry Pi's firmware says, and where its `autoboot.txt` is.
//!
//! That firmware says nothing on the kernel's command line: `cmdline.txt` of the slot is all of it. It tells the partition
//! that it started, and whether the restart had the word `tryboot`, in the device tree. A device whose command line has
//! `kedge.slot=` has another loader, whatever firmware started that.

use crate::boot::{files, partitions};
use crate::error::Error;
use kedge_board_support::autoboot::{Autoboot, Bootloader};
use kedge_board_support::bootenv::Bootenv;
use kedge_board_support::record::{Loader, Slot};
use kedge_sys::reboot::Ending;
use kedge_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use std::os::fd::OwnedFd;
use std::path::Path;

/// A restart to the slot on trial. The number is that of the partition, 0: as `autoboot.txt` says.
///
/// Source: Raspberry Pi documentation, "The `[tryboot]` filter"; the kernel's part is a driver that passes the word on
/// (`docs/raspberry-pi.md`).
pub(crate) const TO_TRY: Ending = Ending::RestartWith(c"0 tryboot");

/// Where the firmware says it.
const NODE: &str = "sys/firmware/devicetree/base/chosen/bootloader";
/// The partition of `autoboot.txt`.
const PARTITION: &str = "boot";

/// What the firmware says; none: it is another machine's, or too old to say it.
pub(super) fn said(root: &Path) -> Option<Bootloader> {
    let node = root.join(NODE);
    let property = |name| files::read(&node.join(name), 4).ok();
    Bootloader::parse(&property("tryboot")?, &property("partition")?)
}

/// A boot record whose loader record is `autoboot.txt`.
#[derive(Debug)]
pub(super) struct Firmware {
    pub(super) bootenv: Bootenv<OwnedFd>,
    /// The record in it; none if it is damaged.
    pub(super) record: Option<Loader>,
    autoboot: Autoboot,
}

/// Opens the partition of `autoboot.txt` on the disk that `bootenv` is on.
///
/// # Errors
/// [`Error::MissingPartition`], [`Error::File`], [`Error::Record`].
pub(super) fn open(
    class: &Path,
    devices: &Path,
    at: &Path,
    bootenv: Bootenv<OwnedFd>,
) -> Result<Firmware, Error> {
    let find = |name| {
        partitions::numbered(class, at, name).ok_or(Error::MissingPartition {
            name,
            disk: None,
            waited_ms: 0,
        })
    };
    let number = |slot: Slot| find(slot.partition()).map(|(_, number, _)| number);
    let slots = [number(Slot::A)?, number(Slot::B)?];
    let (node, _, size) = find(PARTITION)?;
    let record = |source| Error::Record { source };
    let autoboot = Autoboot::new(size, slots).map_err(record)?;
    let path = devices.join(node);
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let file = openat(CWD, &path, flags, Mode::empty()).map_err(Error::file("open", &path))?;
    let (bootenv, found) = bootenv
        .with_autoboot(file, 0, autoboot.clone())
        .map_err(record)?;
    Ok(Firmware {
        bootenv,
        record: found,
        autoboot,
    })
}

impl Firmware {
    /// The slot that was started. A firmware that does not tell the number of its partition has started what its file
    /// says; none: the file is damaged, too, or it started a partition that is no slot.
    pub(super) fn started(&self, said: Bootloader) -> Option<Slot> {
        match (said.partition, self.record) {
            (0, Some(record)) if said.tried => Some(record.default.other()),
            (0, Some(record)) => Some(record.default),
            (0, None) => None,
            (number, _) => self.autoboot.slot(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_board_support::control::Write;
    use kedge_board_support::record::State;
    use kedge_revision::{Floor, ObjectId};
    use std::fs::File;
    use std::path::PathBuf;

    struct Machine {
        folder: tempfile::TempDir,
    }

    impl Machine {
        /// A disk with four partitions, as the kernel lists them, whose contents are files.
        fn new() -> Self {
            let machine = Self {
                folder: tempfile::tempdir().unwrap(),
            };
            let parts = [
                ("boot", 1, 4 << 20),
                ("slot-a", 2, 8 << 20),
                ("slot-b", 3, 8 << 20),
                ("bootenv", 4, 1 << 20),
            ];
            std::fs::create_dir_all(machine.folder.path().join("dev")).unwrap();
            for (name, number, size) in parts {
                let node = format!("mmcblk0p{number}");
                let folder = machine.class().join(&node);
                std::fs::create_dir_all(&folder).unwrap();
                let uevent = format!("DEVNAME={node}\nPARTN={number}\nPARTNAME={name}\n");
                put(&folder.join("uevent"), uevent.as_bytes());
                put(&folder.join("size"), format!("{}\n", size / 512).as_bytes());
                let device = File::create(machine.path(&format!("dev/{node}"))).unwrap();
                device.set_len(size).unwrap();
            }
            let state = State::born(ObjectId::from_digest([7; 32]), Floor::default(), 1);
            Bootenv::create_at(machine.device(4), 0, &Loader::born(), &state).unwrap();
            machine
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn class(&self) -> PathBuf {
            self.path("class")
        }

        fn device(&self, number: u32) -> File {
            let path = self.path(&format!("dev/mmcblk0p{number}"));
            File::options().read(true).write(true).open(path).unwrap()
        }

        fn says(&self, tryboot: &[u8], partition: &[u8]) -> Option<Bootloader> {
            let node = self.path(NODE);
            std::fs::create_dir_all(&node).unwrap();
            put(&node.join("tryboot"), tryboot);
            put(&node.join("partition"), partition);
            said(self.folder.path())
        }

        fn open(&self) -> Firmware {
            let (bootenv, _) = Bootenv::open(OwnedFd::from(self.device(4))).unwrap();
            let at = Path::new("/root/dev/mmcblk0p4");
            open(&self.class(), &self.path("dev"), at, bootenv).unwrap()
        }
    }

    fn put(path: &Path, bytes: &[u8]) {
        std::io::Write::write_all(&mut File::create(path).unwrap(), bytes).unwrap();
    }

    #[test]
    fn the_firmware_says_which_slot_it_has_started() {
        let machine = Machine::new();
        let mut firmware = machine.open();
        // Nothing was written yet.
        assert_eq!(firmware.record, None);
        let tried = machine.says(&[0, 0, 0, 1], &[0, 0, 0, 3]).unwrap();
        assert!(tried.tried);
        assert_eq!(firmware.started(tried), Some(Slot::B));
        let silent = machine.says(&[0; 4], &[0; 4]).unwrap();
        assert_eq!(firmware.started(silent), None);
        let write = Write::Loader(Loader::starts(Slot::B));
        firmware.bootenv.perform(&write).unwrap();
        let firmware = machine.open();
        assert_eq!(firmware.record, Some(Loader::starts(Slot::B)));
        assert_eq!(firmware.started(silent), Some(Slot::B));
        let silent = machine.says(&[0, 0, 0, 1], &[0; 4]).unwrap();
        assert_eq!(firmware.started(silent), Some(Slot::A));
        let elsewhere = machine.says(&[0; 4], &[0, 0, 0, 1]).unwrap();
        assert_eq!(firmware.started(elsewhere), None);
    }

    #[test]
    fn mtools_reads_what_is_written() {
        let machine = Machine::new();
        let mut firmware = machine.open();
        let write = Write::Loader(Loader::starts(Slot::B));
        firmware.bootenv.perform(&write).unwrap();
        let output = std::process::Command::new("mtype")
            .arg("-i")
            .arg(machine.path("dev/mmcblk0p1"))
            .arg("::autoboot.txt")
            .output()
            .expect("mtools are installed");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let expected = "[all]\ntryboot_a_b=1\nboot_partition=3\n[tryboot]\nboot_partition=2\n";
        assert_eq!(text.trim_end(), expected.trim_end());
    }

    #[test]
    fn another_machine_says_nothing() {
        let machine = Machine::new();
        assert_eq!(said(machine.folder.path()), None);
        assert_eq!(machine.says(&[0, 0, 0, 0, 1], &[0; 4]), None);
        assert_eq!(machine.says(&[1], &[0; 4]), None);
    }

    #[test]
    fn a_partition_that_is_missing_is_named() {
        let machine = Machine::new();
        std::fs::remove_dir_all(machine.class().join("mmcblk0p1")).unwrap();
        let (bootenv, _) = Bootenv::open(OwnedFd::from(machine.device(4))).unwrap();
        let at = Path::new("/root/dev/mmcblk0p4");
        let error = open(&machine.class(), &machine.path("dev"), at, bootenv).unwrap_err();
        assert!(
            matches!(error, Error::MissingPartition { name: "boot", .. }),
            "{error}"
        );
    }
}
