//! What the loader decides, and the command line; machines themselves run in the `vm` tier.

use super::*;
use crate::image::gpt;
use crate::image::tests::Sample;
use command::First;
use kedge_board_support::bootenv::Bootenv;
use kedge_board_support::record::Loader;
use kedge_board_support::record::loader::Armed;
use std::fs::File;
use std::os::unix::fs::FileExt;

struct Disk {
    sample: Sample,
    path: PathBuf,
}

impl Disk {
    fn new() -> Self {
        Self::of(Sample::new())
    }

    fn of(sample: Sample) -> Self {
        let (path, _) = sample.build("disk").unwrap();
        Self { sample, path }
    }

    fn file(&self) -> (File, Vec<gpt::Partition>) {
        let file = File::options()
            .read(true)
            .write(true)
            .open(&self.path)
            .unwrap();
        let partitions = gpt::read(&file).unwrap();
        (file, partitions)
    }

    fn record(&self) -> Option<Loader> {
        let (file, partitions) = self.file();
        Bootenv::open_at(&file, partitions[0].offset, partitions[0].record)
            .unwrap()
            .1
            .loader()
    }

    fn set_record(&self, record: &Loader) {
        let (file, partitions) = self.file();
        Bootenv::open_at(&file, partitions[0].offset, partitions[0].record)
            .unwrap()
            .0
            .write_loader(record)
            .unwrap();
    }

    /// Copies slot a over slot b.
    fn fill_slot_b(&self) {
        let (file, partitions) = self.file();
        let mut bytes = vec![0; usize::try_from(partitions[1].size).unwrap()];
        file.read_exact_at(&mut bytes, partitions[1].offset)
            .unwrap();
        file.write_all_at(&bytes, partitions[2].offset).unwrap();
    }

    fn load(&self) -> Result<Loaded> {
        load(&self.sample.board, &self.path, self.sample.folder.path())
    }
}

#[test]
fn a_new_image_boots_slot_a() {
    let disk = Disk::new();
    let loaded = disk.load().unwrap();
    assert_eq!(
        loaded.arguments,
        format!("{} kedge.slot=a quiet", disk.sample.board.arguments())
    );
    assert_eq!(files::read(&loaded.kernel).unwrap().len(), 70_000);
    assert_eq!(files::read(&loaded.initramfs).unwrap().len(), 50_000);
    assert_eq!(disk.record(), Some(Loader::born()));
}

#[test]
fn a_trial_takes_a_try_before_it_starts_and_then_the_default_starts() {
    let disk = Disk::new();
    disk.fill_slot_b();
    disk.set_record(&Loader {
        default: Slot::A,
        trial: Some(Armed {
            slot: Slot::B,
            left: 2,
        }),
    });
    for left in [1, 0] {
        let loaded = disk.load().unwrap();
        assert_eq!(loaded.slot, Slot::B);
        assert!(
            loaded
                .arguments
                .contains(&format!("kedge.slot=b kedge.try={left} ")),
            "{}",
            loaded.arguments
        );
        assert_eq!(disk.record().unwrap().trial.unwrap().left, left);
    }
    let loaded = disk.load().unwrap();
    assert_eq!(
        (loaded.slot, loaded.arguments.contains("kedge.failed=b")),
        (Slot::A, true)
    );
}

#[test]
fn on_flash_the_record_has_erase_blocks_and_the_device_is_told() {
    let mut sample = Sample::new();
    sample.board.bootenv.erase_block = Some(65536);
    let disk = Disk::of(sample);
    disk.fill_slot_b();
    disk.set_record(&Loader {
        default: Slot::A,
        trial: Some(Armed {
            slot: Slot::B,
            left: 2,
        }),
    });
    let said = disk.load().unwrap().arguments;
    let wanted = " kedge.slot=b kedge.erase-block=65536 kedge.try=1 quiet";
    assert!(said.ends_with(wanted), "{said}");
    let (file, partitions) = disk.file();
    for (copy, begins) in [(0, true), (1, true), (2, true), (3, true), (4, false)] {
        let mut block = vec![0; 65536];
        let offset = partitions[0].offset + copy * 65536;
        file.read_exact_at(&mut block, offset).unwrap();
        // Behind a copy nothing but erased flash.
        let erased = block.iter().rposition(|byte| *byte != 0xff) < Some(4096);
        assert_eq!(erased, begins, "block {copy}");
    }
}

#[test]
fn a_slot_that_cannot_be_read_gives_way_to_the_other() {
    let disk = Disk::new();
    disk.set_record(&Loader {
        default: Slot::A,
        trial: Some(Armed {
            slot: Slot::B,
            left: 3,
        }),
    });
    let loaded = disk.load().unwrap();
    assert_eq!(
        (loaded.slot, loaded.arguments.contains("kedge.try")),
        (Slot::A, false)
    );
    assert_eq!(disk.record().unwrap().trial.unwrap().left, 2);
}

#[test]
fn a_lost_loader_record_starts_slot_a() {
    let disk = Disk::new();
    let (file, partitions) = disk.file();
    file.write_all_at(&[0; 8192], partitions[0].offset).unwrap();
    assert_eq!(disk.load().unwrap().slot, Slot::A);
    assert_eq!(disk.record(), None);
}

#[test]
fn a_disk_without_kernels_says_so_for_both_slots() {
    let disk = Disk::new();
    let (file, partitions) = disk.file();
    file.write_all_at(&vec![0; 1 << 20], partitions[1].offset)
        .unwrap();
    let error = disk.load().unwrap_err().to_string();
    assert!(
        error.contains("slot a:") && error.contains("slot b:"),
        "{error}"
    );
}

fn config() -> VmConfig {
    let board = kedge_board_support::boards::find("qemu-x86-64").unwrap();
    VmConfig::new(board, Path::new("/tmp/a,b/disk"), Path::new("/tmp/vm"))
}

fn words(config: &VmConfig) -> String {
    let loaded = Loaded {
        slot: Slot::A,
        kernel: "k".into(),
        initramfs: "i".into(),
        arguments: "quiet".into(),
        stub: None,
    };
    let first = First::Kernel(&loaded);
    crate::process::line(&command::command(config, first, Path::new("/m,1")).unwrap())
}

#[test]
fn the_command_line_is_that_of_the_board() {
    let mut config = config();
    config.forwards.push(Forward {
        host: 8080,
        guest: 80,
    });
    config.provision = Some("/p,1.json".into());
    let line = words(&config);
    for part in [
        "-fw_cfg name=opt/kedge/provision,file=/p,,1.json",
        "-M q35,memory-backend=ram -cpu qemu64 -m 256",
        "-object memory-backend-file,id=ram,size=256M,share=on,mem-path=/m,,1",
        "-kernel k -initrd i -append quiet",
        "file=/tmp/a,,b/disk",
        "-no-reboot",
        "hostfwd=tcp:127.0.0.1:8080-:80",
        "chardev=control,name=kedge.control",
        "-device i6300esb -action watchdog=reset",
        "cache=writeback",
        "-serial stdio",
        "-accel tcg",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
}

#[test]
fn without_a_disk_there_is_none() {
    let config = VmConfig {
        ram: Some("/tmp/ram".into()),
        ..config()
    };
    let line = words(&config);
    assert!(
        !line.contains("-drive") && !line.contains("virtio-blk"),
        "{line}"
    );
    let folder = tempfile::tempdir().unwrap();
    let error = loader::without_disk(folder.path()).unwrap_err().to_string();
    assert!(error.starts_with("there is no "), "{error}");
    for name in ["kernel", "initramfs"] {
        crate::files::write(&folder.path().join(name), name).unwrap();
    }
    crate::files::write(&folder.path().join("cmdline.txt"), "quiet\n").unwrap();
    let loaded = loader::without_disk(folder.path()).unwrap();
    assert_eq!(loaded.clone().with("").arguments, "quiet");
    assert_eq!(loaded.with("panic=1").arguments, "quiet panic=1");
}

#[test]
fn a_stub_lies_where_it_belongs() {
    let stub = Stub {
        file: "/tmp/a,b/stub".into(),
        address: 0x1000,
    };
    let loaded = Loaded {
        slot: Slot::A,
        kernel: "k".into(),
        initramfs: "i".into(),
        arguments: String::new(),
        stub: Some(stub),
    };
    let line = command::command(&config(), First::Kernel(&loaded), Path::new("/m"));
    let line = crate::process::line(&line.unwrap());
    let part = "-device loader,file=/tmp/a,,b/stub,addr=0x1000,force-raw=on -kernel k ";
    assert!(line.contains(part), "{line}");
}

#[test]
fn memory_has_the_size_that_was_asked_for() {
    let config = VmConfig {
        memory: Some(48),
        ..config()
    };
    let line = words(&config);
    assert!(
        line.contains("-m 48 ") && line.contains("size=48M,"),
        "{line}"
    );
}

#[test]
fn a_loader_tells_of_the_watchdog_alone_and_first() {
    let after = |reset| {
        let loaded = Loaded {
            slot: Slot::A,
            kernel: "k".into(),
            initramfs: "i".into(),
            arguments: "quiet kedge.reset=none".into(),
            stub: None,
        };
        loaded.after(reset).arguments
    };
    assert_eq!(
        after(Some(ResetCause::Watchdog)),
        "kedge.reset=watchdog quiet kedge.reset=none"
    );
    assert_eq!(after(Some(ResetCause::Guest)), after(None));
    assert_eq!(after(None), "quiet kedge.reset=none");
}

#[test]
fn a_firmware_loads_by_itself_and_again_after_a_reset() {
    let config = VmConfig {
        board: kedge_board_support::boards::find("qemu-arm64").unwrap(),
        ..config()
    };
    let first = First::Firmware(Path::new("/u-boot.bin"));
    let line = crate::process::line(&command::command(&config, first, Path::new("/m")).unwrap());
    assert!(
        line.contains("-M virt,memory-backend=ram -cpu cortex-a53 -m 256 "),
        "{line}"
    );
    assert!(line.contains("mem-path=/m -bios /u-boot.bin "), "{line}");
    for part in ["-kernel", "-append", "-no-reboot"] {
        assert!(!line.contains(part), "{part} is in {line}");
    }
}

#[test]
fn arguments_that_a_machine_would_cut_are_refused() {
    let config = VmConfig {
        board: kedge_board_support::boards::find("qemu-mipsel").unwrap(),
        ..config()
    };
    let most = config.board.qemu.as_ref().unwrap().arguments_max.unwrap();
    let with = |length: usize| {
        let loaded = Loaded {
            slot: Slot::A,
            kernel: "k".into(),
            initramfs: "i".into(),
            arguments: "a".repeat(length),
            stub: None,
        };
        command::command(&config, First::Kernel(&loaded), Path::new("/m"))
    };
    with(most).unwrap();
    let text = with(most + 1).unwrap_err().to_string();
    assert!(
        text.contains("209 bytes") && text.contains("malta hands over 208"),
        "{text}"
    );
}

#[test]
fn a_firmware_that_another_one_starts_is_a_kernel_to_qemu() {
    let config = VmConfig {
        board: kedge_board_support::boards::find("qemu-riscv64").unwrap(),
        ..config()
    };
    let first = First::Firmware(Path::new("/u-boot.bin"));
    let line = crate::process::line(&command::command(&config, first, Path::new("/m")).unwrap());
    assert!(line.contains("mem-path=/m -kernel /u-boot.bin "), "{line}");
    for part in ["-bios", "-append", "-no-reboot"] {
        assert!(!line.contains(part), "{part} is in {line}");
    }
}

#[test]
fn a_machine_with_a_card_and_its_own_peripherals_is_given_no_others() {
    let mut config = VmConfig {
        board: kedge_board_support::boards::find("orange-pi-pc-plus").unwrap(),
        ..config()
    };
    config.forwards.push(Forward {
        host: 8080,
        guest: 80,
    });
    let line = |config: &VmConfig, first| {
        crate::process::line(&command::command(config, first, Path::new("/m")).unwrap())
    };
    let plain = line(&config, First::Card);
    for part in [
        "-cpu cortex-a7,cntfrq=24000000 -m 1024",
        "-drive if=sd,id=disk,format=raw,",
        "-nic user,hostfwd=tcp:127.0.0.1:8080-:80",
        "-serial stdio",
    ] {
        assert!(plain.contains(part), "{part} is not in {plain}");
    }
    for part in [
        "-device",
        "-kernel",
        "-bios",
        "-netdev",
        "kedge.control",
        "null",
    ] {
        assert!(!plain.contains(part), "{part} is in {plain}");
    }
    if let Some(qemu) = &mut config.board.qemu {
        qemu.console_port = 1;
    }
    let first = First::Loader {
        file: Path::new("/u-boot.bin"),
        tree: Path::new("/pi.dtb"),
    };
    let other = line(&config, first);
    for part in [
        "-kernel /u-boot.bin -dtb /pi.dtb ",
        "-serial null -serial stdio",
    ] {
        assert!(other.contains(part), "{part} is not in {other}");
    }
}

#[test]
fn what_has_its_loader_on_a_card_starts_without_a_disk_nowhere() {
    let config = VmConfig {
        board: kedge_board_support::boards::find("orange-pi-pc-plus").unwrap(),
        ram: Some("/tmp/ram".into()),
        ..config()
    };
    let error = supervisor::start(config).unwrap_err().to_string();
    assert!(error.contains("from its card alone"), "{error}");
}

#[test]
fn a_firmware_in_flash_writes_its_variables_alone() {
    let config = VmConfig {
        board: kedge_board_support::boards::find("pc-x86-64").unwrap(),
        ..config()
    };
    let first = First::Flash {
        code: Path::new("/code,1.fd"),
        variables: Path::new("/vars.fd"),
        secure: false,
    };
    let line = crate::process::line(&command::command(&config, first, Path::new("/m")).unwrap());
    assert!(!line.contains("smm") && !line.contains("secure"), "{line}");
    for part in [
        "if=pflash,unit=0,format=raw,readonly=on,file=/code,,1.fd",
        "if=pflash,unit=1,format=raw,file=/vars.fd",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert!(!line.contains("-bios"), "{line}");
    let first = First::Flash {
        code: Path::new("/code.fd"),
        variables: Path::new("/vars.fd"),
        secure: true,
    };
    let line = crate::process::line(&command::command(&config, first, Path::new("/m")).unwrap());
    for part in [
        "-M q35,memory-backend=ram,smm=on ",
        "driver=cfi.pflash01,property=secure,value=on",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
}

#[test]
fn arguments_are_not_dropped_where_nobody_hands_them_on() {
    let config = VmConfig {
        board: kedge_board_support::boards::find("qemu-arm64").unwrap(),
        arguments: "quiet".into(),
        ..config()
    };
    let error = supervisor::start(config).unwrap_err().to_string();
    assert!(error.contains("loader of its own"), "{error}");
}

#[test]
fn instructions_can_be_counted() {
    for (clock, sleep) in [(Clock::Instructions, "on"), (Clock::Leaping, "off")] {
        let config = VmConfig { clock, ..config() };
        let words = words(&config);
        assert!(
            words.contains(&format!("-icount shift=0,sleep={sleep}")),
            "{words}"
        );
    }
}

#[test]
fn a_machine_has_its_own_date_and_as_many_cards_and_sticks_as_wanted() {
    let plain = words(&config());
    assert!(
        !plain.contains("-rtc") && !plain.contains("net1") && !plain.contains("stick"),
        "{plain}"
    );
    let config = VmConfig {
        date: Some("1970-01-01T00:00:00".to_owned()),
        more_cards: 2,
        sticks: Some(vec!["/one,two".into()]),
        ..config()
    };
    let words = words(&config);
    assert!(words.contains("-rtc base=1970-01-01T00:00:00"), "{words}");
    let stick = "if=none,id=stick0,format=raw,read-only=on,file=/one,,two";
    for word in ["user,id=net1,net=10.0.3.0/24", "netdev=net2", stick] {
        assert!(words.contains(word), "{words}");
    }
}

#[test]
fn a_folder_that_no_socket_fits_into_is_refused() {
    let config = VmConfig {
        folder: PathBuf::from("/tmp").join("x".repeat(100)),
        ..config()
    };
    let loaded = Loaded {
        slot: Slot::A,
        kernel: "k".into(),
        initramfs: "i".into(),
        arguments: String::new(),
        stub: None,
    };
    assert!(
        command::command(&config, First::Kernel(&loaded), Path::new("/m"))
            .unwrap_err()
            .to_string()
            .contains("107 bytes")
    );
}

#[test]
fn the_monitors_last_words_tell_a_reset_from_an_end() {
    let mut said = qmp::Said::default();
    assert_eq!(said.hear(r#"{"QMP": {"version": {}}}"#), None);
    assert_eq!(said.hear("no json"), None);
    assert_eq!(said, qmp::Said::default());
    said.hear(r#"{"event": "WATCHDOG", "data": {"action": "reset"}}"#);
    said.hear(r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#);
    assert_eq!(
        said,
        qmp::Said {
            shutdown: Some("guest-reset".into()),
            watchdog: true
        }
    );
}

/// The messages are QEMU's own, of a panic, of a watchdog that nobody fed, and of a pressed reset.
#[test]
fn every_reset_that_qemu_goes_on_from_has_its_cause() {
    let mut said = qmp::Said::default();
    let guest = r#"{"event": "RESET", "data": {"guest": true, "reason": "guest-reset"}}"#;
    let host = r#"{"event": "RESET", "data": {"guest": false, "reason": "host-qmp-system-reset"}}"#;
    assert_eq!(said.hear(guest), Some(ResetCause::Guest));
    said.hear(r#"{"event": "WATCHDOG", "data": {"action": "reset"}}"#);
    assert_eq!(said.hear(guest), Some(ResetCause::Watchdog));
    assert_eq!(said.hear(guest), Some(ResetCause::Guest));
    assert_eq!(said.hear(host), Some(ResetCause::Host));
    assert_eq!(said, qmp::Said::default());
}
