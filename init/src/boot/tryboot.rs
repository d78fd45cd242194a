//! What a Raspberry Pi's firmware says, and where its `autoboot.txt` is.
//!
//! That firmware says nothing on the kernel's command line: `cmdline.txt` of the slot is all of it. It tells the partition
//! that it started, and whether the restart had the word `tryboot`, in the device tree. Which slot that is, the slot's own
//! line says (`kedge.written-to=`): the number may be 0, or that of the partition that was asked for and passed over. A
//! device whose command line has `kedge.slot=` has another loader, whatever firmware started that.

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
    /// The record in it; none if it is lost: it is made anew from the state, if it can be.
    pub(super) record: Option<Loader>,
    /// Why it is lost.
    pub(super) problem: Option<Error>,
    /// Numbers of the partitions of slot a and slot b.
    numbers: [Option<u32>; 2],
}

/// Opens the partition of `autoboot.txt` on the disk that `bootenv` is on. Whatever is wrong with it ends no boot: all that it
/// says follows from the state.
pub(super) fn open(class: &Path, devices: &Path, at: &Path, bootenv: Bootenv<OwnedFd>) -> Firmware {
    let find = |name| {
        partitions::numbered(class, at, name).ok_or(Error::MissingPartition {
            name,
            disk: None,
            waited_ms: 0,
        })
    };
    let number = |slot: Slot| find(slot.partition()).map(|(_, number, _)| number);
    let partition = || -> Result<_, Error> {
        let slots = [number(Slot::A)?, number(Slot::B)?];
        let (node, _, size) = find(PARTITION)?;
        let autoboot = Autoboot::new(size, slots).map_err(|source| Error::Record { source })?;
        let path = devices.join(node);
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let file = openat(CWD, &path, flags, Mode::empty()).map_err(Error::file("open", &path))?;
        Ok((file, 0, autoboot))
    };
    let (partition, missing) = match partition() {
        Ok(partition) => (Some(partition), None),
        Err(error) => (None, Some(error)),
    };
    let (bootenv, found) = bootenv.with_autoboot(partition);
    Firmware {
        bootenv,
        record: found.ok(),
        problem: missing.or_else(|| found.err().map(|source| Error::Record { source })),
        numbers: [Slot::A, Slot::B].map(|slot| number(slot).ok()),
    }
}

impl Firmware {
    /// The slot that was started, and what there is to doubt. What lies in the slot itself says so: `own`. A firmware that goes
    /// on to another partition than the one it was asked for, or tells no number, changes nothing of that. Of a slot that
    /// says nothing the firmware's number counts; none: that is not one of a slot.
    pub(super) fn started(
        &self,
        said: Bootloader,
        own: Option<Slot>,
    ) -> (Option<Slot>, Option<Error>) {
        let told = [Slot::A, Slot::B]
            .into_iter()
            .zip(self.numbers)
            .find_map(|(slot, number)| (number == Some(said.partition)).then_some(slot));
        let silent = own.is_some() && said.partition == 0;
        let doubt = (!silent && (told.is_none() || own.is_some_and(|own| told != Some(own))))
            .then_some(Error::OtherPartition {
                said: said.partition,
                slot: own,
            });
        (own.or(told), doubt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_board_support::bootenv::Layout;
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
            let (device, born) = (machine.device(4), Loader::born());
            Bootenv::create_at(device, 0, Layout::Sectors, &born, &state).unwrap();
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
            let (bootenv, _) =
                Bootenv::open(OwnedFd::from(self.device(4)), Layout::Sectors).unwrap();
            let at = Path::new("/root/dev/mmcblk0p4");
            open(&self.class(), &self.path("dev"), at, bootenv)
        }
    }

    fn put(path: &Path, bytes: &[u8]) {
        std::io::Write::write_all(&mut File::create(path).unwrap(), bytes).unwrap();
    }

    /// A firmware that says so, and a slot that says nothing.
    fn told(firmware: &Firmware, said: Bootloader) -> Option<Slot> {
        firmware.started(said, None).0
    }

    #[test]
    fn the_firmware_says_which_slot_it_has_started() {
        let machine = Machine::new();
        let mut firmware = machine.open();
        // Nothing was written yet.
        assert_eq!(firmware.record, None);
        let damaged = kedge_board_support::Error::AutobootDamaged;
        assert!(matches!(firmware.problem, Some(Error::Record { source }) if source == damaged));
        let tried = machine.says(&[0, 0, 0, 1], &[0, 0, 0, 3]).unwrap();
        assert!(tried.tried);
        assert_eq!(told(&firmware, tried), Some(Slot::B));
        let write = Write::Loader(Loader::starts(Slot::B));
        firmware.bootenv.perform(&write).unwrap();
        let firmware = machine.open();
        assert_eq!(firmware.record, Some(Loader::starts(Slot::B)));
        assert!(firmware.problem.is_none());
        assert_eq!(told(&firmware, tried), Some(Slot::B));
        let elsewhere = machine.says(&[0; 4], &[0, 0, 0, 1]).unwrap();
        assert_eq!(told(&firmware, elsewhere), None);
    }

    #[test]
    fn a_firmware_without_a_number_has_started_the_slot_that_says_so() {
        let machine = Machine::new();
        let mut firmware = machine.open();
        let write = Write::Loader(Loader::starts(Slot::B));
        firmware.bootenv.perform(&write).unwrap();
        let firmware = machine.open();
        // Asked for one, it may have gone on to the other: with the word, and without.
        for tryboot in [[0, 0, 0, 1], [0; 4]] {
            let silent = machine.says(&tryboot, &[0; 4]).unwrap();
            for slot in [Slot::A, Slot::B] {
                let (started, doubt) = firmware.started(silent, Some(slot));
                assert_eq!(started, Some(slot));
                assert!(doubt.is_none());
            }
            // Nobody says it: what was asked for is not believed.
            let (started, doubt) = firmware.started(silent, None);
            assert_eq!(started, None);
            assert!(matches!(
                doubt,
                Some(Error::OtherPartition {
                    said: 0,
                    slot: None
                })
            ));
        }
    }

    #[test]
    fn of_a_number_and_a_slot_that_differ_the_slot_is_believed_and_it_is_said() {
        let machine = Machine::new();
        let firmware = machine.open();
        let said = machine.says(&[0, 0, 0, 1], &[0, 0, 0, 3]).unwrap();
        let (started, doubt) = firmware.started(said, Some(Slot::B));
        assert_eq!(started, Some(Slot::B));
        assert!(doubt.is_none());
        let (started, doubt) = firmware.started(said, Some(Slot::A));
        assert_eq!(started, Some(Slot::A));
        assert_eq!(
            doubt.unwrap().to_string(),
            "the firmware says that it has started partition 3, and what runs was written to slot a"
        );
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
    fn a_partition_that_is_missing_is_named_and_the_slot_is_known_all_the_same() {
        for (lost, number) in [("boot", 1), ("slot-b", 3)] {
            let machine = Machine::new();
            std::fs::remove_dir_all(machine.class().join(format!("mmcblk0p{number}"))).unwrap();
            let mut firmware = machine.open();
            assert!(
                matches!(&firmware.problem, Some(Error::MissingPartition { name, .. }) if *name == lost),
                "{:?}",
                firmware.problem
            );
            assert_eq!(firmware.record, None);
            let said = machine.says(&[0; 4], &[0, 0, 0, 2]).unwrap();
            assert_eq!(told(&firmware, said), Some(Slot::A));
            // The copies in `bootenv` are no record of this firmware's: nothing is written to them.
            let write = Write::Loader(Loader::starts(Slot::B));
            firmware.bootenv.perform(&write).unwrap_err();
            let device = OwnedFd::from(machine.device(4));
            let (_, found) = Bootenv::open(device, Layout::Sectors).unwrap();
            assert_eq!(found.loader(), Some(Loader::born()));
        }
    }

    #[test]
    fn a_partition_that_cannot_be_read_is_damage_and_is_said() {
        let machine = Machine::new();
        // As a disk that gives nothing where the tables are.
        machine.device(1).set_len(1024).unwrap();
        let mut firmware = machine.open();
        assert_eq!(firmware.record, None);
        let problem = firmware.problem.take().unwrap();
        assert!(matches!(problem, Error::Record { .. }), "{problem}");
        // A write mends it.
        machine.device(1).set_len(4 << 20).unwrap();
        let write = Write::Loader(Loader::starts(Slot::A));
        firmware.bootenv.perform(&write).unwrap();
        let firmware = machine.open();
        assert_eq!(firmware.record, Some(Loader::starts(Slot::A)));
        assert!(firmware.problem.is_none());
    }
}
