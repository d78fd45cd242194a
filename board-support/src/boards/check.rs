//! What a board file must fulfil beyond its types.

use super::firmware::Place;
use super::{Architecture, Backend, Board, FirmwareOption, Partitions, Qemu, Script, firmware};
use crate::bootenv::EraseBlock;
use crate::led::LedName;
use kedge_revision::FileName;
use kedge_revision::revision::LOADERS_WORDS;
use std::borrow::Cow;

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// The key with its table.
    pub(super) key: &'static str,
    /// The table's number, from 0, where there are several of one name.
    pub(super) nth: usize,
    /// What is wrong with the value.
    pub(super) what: Cow<'static, str>,
}

impl Problem {
    pub(super) fn new(key: &'static str, what: impl Into<Cow<'static, str>>) -> Self {
        Self {
            key,
            nth: 0,
            what: what.into(),
        }
    }

    pub(super) fn of(self, nth: usize) -> Self {
        Self { nth, ..self }
    }
}

pub(super) fn demand(holds: bool, key: &'static str, problem: &'static str) -> Result<(), Problem> {
    if holds {
        Ok(())
    } else {
        Err(Problem::new(key, problem))
    }
}

/// A word that can stand in a command line without being taken for an option or split.
pub(super) fn is_word(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-_.+=".contains(&byte))
}

pub(super) fn check(board: &Board) -> Result<(), Problem> {
    demand(
        is_word(&board.rust_target),
        "rust-target",
        "is no target's name",
    )?;
    demand(
        board.kernel.package.as_deref().is_none_or(is_word),
        "kernel.package",
        "is no package's name",
    )?;
    demand(
        board.kernel.package.is_some() || board.kernel.modules.is_empty(),
        "kernel.modules",
        "has no use: there is no package that they are of, and our own kernel has none",
    )?;
    demand(
        is_word(&board.kernel.suite),
        "kernel.suite",
        "is no suite's name",
    )?;
    demand(
        !board.kernel.fragments.is_empty() || board.kernel.package.is_some(),
        "kernel.fragments",
        "is empty, and there is no package either",
    )?;
    demand(
        board.kernel.fragments.iter().all(|name| is_word(name)),
        "kernel.fragments",
        "has what is no file's name",
    )?;
    demand(
        is_word(&board.boot.console),
        "boot.console",
        "is no device's name",
    )?;
    demand(
        board
            .led
            .as_deref()
            .is_none_or(|name| LedName::parse(name).is_some()),
        "led",
        "is no name of an LED in /sys/class/leds",
    )?;
    arguments(board)?;
    backend(board)?;
    demand(
        !board.boot.hybrid_mbr || board.partitions.boot.is_some(),
        "boot.hybrid-mbr",
        "has no use: there is no partition boot",
    )?;
    partitions(board.partitions)?;
    boot_environment(board)?;
    firmware::check(board)?;
    budgets(board)?;
    demand(
        is_word(&board.watchdog.driver),
        "watchdog.driver",
        "is no driver's name",
    )?;
    board.qemu.as_ref().map_or(Ok(()), qemu)
}

/// What the loader gives the kernel, the LED's name among it.
fn arguments(board: &Board) -> Result<(), Problem> {
    let arguments = &board.arguments();
    let printable =
        arguments.len() <= 512 && arguments.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    demand(
        printable,
        "boot.arguments",
        "is over 512 bytes or not printable ASCII",
    )?;
    demand(
        !board
            .boot
            .arguments
            .split(' ')
            .any(|word| word.starts_with(LOADERS_WORDS)),
        "boot.arguments",
        "has a word that only loaders say",
    )?;
    let mut words = arguments.split(' ');
    let spoken = words.any(|word| {
        let console = word.strip_prefix("console=");
        let device = console.and_then(|console| console.split(',').next());
        device == Some(board.boot.console.as_str())
    });
    demand(
        spoken,
        "boot.console",
        "is no console= of boot.arguments: the kernel would say nothing there",
    )?;
    let reboots = arguments.split(' ').any(|word| {
        word.strip_prefix("panic=")
            .is_some_and(|value| value != "0")
    });
    demand(
        reboots,
        "boot.arguments",
        "lacks panic=: a panic must reboot, or no trial can roll back",
    )
}

/// What a backend needs, and what would do nothing with another.
fn backend(board: &Board) -> Result<(), Problem> {
    let firmware = board.qemu.as_ref().map(|qemu| qemu.firmware.as_deref());
    let secure = board.qemu.as_ref().map(|qemu| &qemu.secure_firmware);
    demand(
        board.boot.backend == Backend::Uefi || secure.is_none_or(Option::is_none),
        "qemu.secure-firmware",
        "has no use: Secure Boot is part of UEFI",
    )?;
    let from_card = |qemu: &Qemu| qemu.boot_rom.is_some() || qemu.loader.is_some();
    demand(
        board.boot.backend == Backend::UBoot || !board.qemu.as_ref().is_some_and(from_card),
        "qemu.boot-rom",
        "has no use, nor has loader: no U-Boot is to be started from the card",
    )?;
    demand(
        board.boot.backend == Backend::UBoot || board.boot.script == Script::Legacy,
        "boot.script",
        "has no use: it is U-Boot's",
    )?;
    let levels = board.qemu.as_ref().map(|qemu| &qemu.level_interrupts);
    demand(
        levels.is_none_or(Vec::is_empty)
            || (board.boot.backend == Backend::Direct
                && board.architecture == Architecture::Mipsel),
        "qemu.level-interrupts",
        "has no use: only of a MIPS whose loader the host plays",
    )?;
    match board.boot.backend {
        Backend::Direct => {
            demand(
                board.partitions.boot.is_none(),
                "partitions.boot",
                "has no use: the host plays the loader",
            )?;
            demand(
                firmware.flatten().is_none(),
                "qemu.firmware",
                "has no use: the host plays the loader",
            )
        }
        Backend::UBoot => {
            demand(
                board
                    .partitions
                    .boot
                    .is_some_and(|size| (16..=256).contains(&size)),
                "partitions.boot",
                "is not 16 to 256 MiB: the loader's script is there",
            )?;
            // They stand in double quotes in its script, where these characters mean something.
            let quotable = !board
                .boot
                .arguments
                .contains(['"', '\'', '\\', '$', ';', '`']);
            demand(
                quotable,
                "boot.arguments",
                "has a character that U-Boot's shell would take for its own",
            )?;
            board
                .qemu
                .as_ref()
                .map_or(Ok(()), |qemu| u_boot_in_qemu(board, qemu))
        }
        Backend::Uefi => uefi(board),
        Backend::Tryboot => tryboot(board),
    }
}

/// Where the machine's U-Boot comes from: a file of the host's, or the card.
fn u_boot_in_qemu(board: &Board, qemu: &Qemu) -> Result<(), Problem> {
    let on_card = |wanted: &dyn Fn(&Place) -> bool| {
        let mut pieces = board.firmware.iter();
        pieces.any(|piece| wanted(&piece.place))
    };
    let ways = [
        qemu.firmware.is_some(),
        qemu.boot_rom.is_some(),
        qemu.loader.is_some(),
    ];
    demand(
        ways.into_iter().filter(|way| *way).count() == 1
            && qemu.firmware.as_deref().is_none_or(is_file),
        "qemu.firmware",
        "is no absolute path: QEMU has no U-Boot of its own; boot-rom or loader would take it from the card",
    )?;
    demand(
        ways == [true, false, false] || qemu.disk.is_none(),
        "qemu.disk",
        "has no use: the loader is taken from the card in the machine's own slot",
    )?;
    demand(
        qemu.boot_rom.is_none_or(is_before_partitions)
            && (qemu.boot_rom.is_none() || on_card(&|place| matches!(place, Place::Offset(_)))),
        "qemu.boot-rom",
        "is no place of the first code: a multiple of 512 before 1 MiB, and no piece of firmware with an offset is none",
    )?;
    let on_boot = |name: &FileName| on_card(&|place| *place == Place::Boot(name.clone()));
    demand(
        qemu.loader
            .as_ref()
            .is_none_or(|loader| on_boot(&loader.file) && on_boot(&loader.device_tree)),
        "qemu.loader",
        "names what no piece of firmware puts onto the partition boot",
    )
}

fn is_before_partitions(offset: u64) -> bool {
    offset.is_multiple_of(512) && (1024..1024 * 1024).contains(&offset)
}

fn tryboot(board: &Board) -> Result<(), Problem> {
    demand(
        matches!(
            board.architecture,
            Architecture::Arm64 | Architecture::Armv7
        ),
        "boot.backend",
        "cannot be tryboot: it is the firmware of Raspberry Pis",
    )?;
    // A FAT16 has at least 4,085 clusters.
    let boot = board.partitions.boot;
    demand(
        boot.is_some_and(|size| (4..=64).contains(&size)),
        "partitions.boot",
        "is not 4 to 64 MiB: autoboot.txt is there",
    )?;
    demand(
        board.qemu.is_none(),
        "qemu",
        "has no use: QEMU has no such firmware",
    )
}

fn uefi(board: &Board) -> Result<(), Problem> {
    demand(
        board.architecture == Architecture::X86_64,
        "boot.backend",
        "cannot be uefi: the loader is built for x86-64 alone yet",
    )?;
    // It is a FAT32, which has at least 65,525 clusters.
    let boot = board.partitions.boot;
    demand(
        boot.is_some_and(|size| (36..=256).contains(&size)),
        "partitions.boot",
        "is not 36 to 256 MiB: the loader is there",
    )?;
    let Some(qemu) = &board.qemu else {
        return Ok(());
    };
    demand(
        qemu.firmware.as_deref().is_some_and(is_file),
        "qemu.firmware",
        "is no absolute path: QEMU has no UEFI of its own",
    )?;
    demand(
        qemu.variables.as_deref().is_some_and(is_file),
        "qemu.variables",
        "is no absolute path: UEFI keeps variables",
    )?;
    demand(
        qemu.secure_firmware.as_deref().is_none_or(is_file),
        "qemu.secure-firmware",
        "is no absolute path",
    )
}

/// An absolute path that can stand in QEMU's options.
fn is_file(path: &str) -> bool {
    path.starts_with('/') && path.split('/').skip(1).all(is_word)
}

fn partitions(sizes: Partitions) -> Result<(), Problem> {
    const LIMIT: u32 = 1024 * 1024;
    demand(
        (1..=64).contains(&sizes.first),
        "partitions.first",
        "is not 1 to 64 MiB",
    )?;
    demand(
        (1..=64).contains(&sizes.bootenv),
        "partitions.bootenv",
        "is not 1 to 64 MiB",
    )?;
    // The slots are FAT16, which ends at 2 GiB.
    demand(
        (16..=1024).contains(&sizes.slot_a),
        "partitions.slot-a",
        "is not 16 to 1024 MiB",
    )?;
    demand(
        sizes.slot_b == sizes.slot_a,
        "partitions.slot-b",
        "is not the size of slot-a: either must hold any kernel",
    )?;
    demand(
        (256..=LIMIT).contains(&sizes.data),
        "partitions.data",
        "is not 256 MiB to 1 TiB",
    )
}

fn boot_environment(board: &Board) -> Result<(), Problem> {
    let Some(bytes) = board.bootenv.erase_block else {
        return Ok(());
    };
    demand(
        EraseBlock::new(bytes).is_some(),
        "bootenv.erase-block",
        "is no power of two from 4096 to 1048576",
    )?;
    demand(
        board.boot.backend == Backend::Direct,
        "bootenv.erase-block",
        "has no use: the loader of this backend finds the record on a disk alone",
    )?;
    let size = u64::from(board.partitions.bootenv).saturating_mul(1024 * 1024);
    demand(
        board.bootenv.layout().minimum() <= size,
        "partitions.bootenv",
        "is too small for erase blocks of this size",
    )
}

fn budgets(board: &Board) -> Result<(), Problem> {
    let budgets = board.budgets;
    let slot = u64::from(board.partitions.slot_a).saturating_mul(1024 * 1024);
    demand(
        budgets.kernel < slot,
        "budgets.kernel",
        "does not fit the slot",
    )?;
    let both = budgets.kernel.saturating_add(budgets.initramfs);
    demand(
        both < slot,
        "budgets.initramfs",
        "does not fit the slot beside the kernel",
    )?;
    demand(
        budgets.device_binary > 0,
        "budgets.device-binary",
        "is zero",
    )?;
    demand(budgets.image > 0, "budgets.image", "is zero")?;
    let idle = budgets.idle_memory;
    let asked = |qemu: &Qemu| qemu.serial_bus.is_some();
    demand(
        idle.is_some() || !board.qemu.as_ref().is_some_and(asked),
        "budgets.idle-memory",
        "is missing: QEMU plays the board with a control port, so that it can be held",
    )?;
    demand(idle != Some(0), "budgets.idle-memory", "is zero")?;
    let both = !board.kernel.fragments.is_empty() && board.kernel.package.is_some();
    demand(
        budgets.own.is_some() || !both,
        "budgets.own",
        "is missing: our own kernel is smaller than the package's, which the others allow for",
    )?;
    let own = budgets.boot(true);
    demand(
        own.kernel <= budgets.kernel && own.kernel > 0,
        "budgets.own.kernel",
        "is zero or over that of any kernel",
    )?;
    demand(
        own.initramfs <= budgets.initramfs && own.initramfs > 0,
        "budgets.own.initramfs",
        "is zero or over that with any kernel",
    )
}

fn qemu(qemu: &Qemu) -> Result<(), Problem> {
    demand(
        is_word(&qemu.program),
        "qemu.program",
        "is no program's name",
    )?;
    demand(
        !qemu.packages.is_empty() && qemu.packages.iter().all(|name| is_word(name)),
        "qemu.packages",
        "is empty, or has what is no package's name",
    )?;
    demand(
        is_word(&qemu.machine),
        "qemu.machine",
        "is no machine's name",
    )?;
    demand(is_word(&qemu.cpu), "qemu.cpu", "is no processor's name")?;
    demand(
        qemu.cpu != "max",
        "qemu.cpu",
        "must not be max: guests die of random double faults",
    )?;
    demand(
        (16..=65536).contains(&qemu.memory),
        "qemu.memory",
        "is not 16 to 65536 MiB",
    )?;
    demand(
        qemu.firmware_package.as_deref().is_none_or(is_word),
        "qemu.firmware-package",
        "is no package's name",
    )?;
    demand(
        qemu.firmware_option == FirmwareOption::Bios
            || (qemu.firmware.is_some() && qemu.variables.is_none()),
        "qemu.firmware-option",
        "has no use: there is no firmware, or it is in flash",
    )?;
    let devices = [
        ("qemu.disk", &qemu.disk),
        ("qemu.network", &qemu.network),
        ("qemu.serial-bus", &qemu.serial_bus),
        ("qemu.random", &qemu.random),
        ("qemu.watchdog", &qemu.watchdog),
    ];
    devices.into_iter().try_for_each(|(key, name)| {
        demand(
            name.as_deref().is_none_or(is_word),
            key,
            "is no device's name",
        )
    })?;
    // A board has as many ports as that, and QEMU's machines have four at most.
    demand(
        qemu.console_port < 4,
        "qemu.console-port",
        "is no serial port: 0 to 3",
    )
}
