//! The command line of QEMU: a pure function of machine and loader, so that a test can read it.

use super::{Clock, Console, DiskCache, Loaded, Stub, VmConfig};
use anyhow::{Context, Result, bail};
use kedge_board_support::boards::{FirmwareOption, Qemu};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the machine begins with.
#[derive(Debug, Clone, Copy)]
pub(super) enum First<'a> {
    /// A kernel that the host has loaded. QEMU ends at a reset, since only a new process takes another slot.
    Kernel(&'a Loaded),
    /// A firmware, which loads by itself, after each reset again.
    Firmware(&'a Path),
    /// The machine's boot ROM, which takes a loader from the card.
    Card,
    /// A loader with a device tree, where a firmware would have put both into memory.
    Loader {
        /// The loader.
        file: &'a Path,
        /// The device tree.
        tree: &'a Path,
    },
    /// The same in flash, beside its variables, which it writes.
    Flash {
        /// The firmware.
        code: &'a Path,
        /// Its variables.
        variables: &'a Path,
        /// Whether it keeps them from the system, for Secure Boot.
        secure: bool,
    },
}

/// Where QEMU calls us back for its monitor.
pub(super) fn monitor_socket(config: &VmConfig) -> PathBuf {
    config.folder.join("monitor")
}

/// A path in an option whose parts are separated by commas: a comma in it is doubled.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// `memory` is the file that the machine's memory is kept in.
pub(super) fn command(config: &VmConfig, first: First<'_>, memory: &Path) -> Result<Command> {
    let qemu = config
        .board
        .qemu
        .as_ref()
        .with_context(|| format!("the board {} has no [qemu] table", config.board.name))?;
    if let (First::Kernel(Loaded { arguments, .. }), Some(most)) = (&first, qemu.arguments_max)
        && arguments.len() > most
    {
        bail!(
            "the kernel's arguments have {} bytes, of which the machine {} hands over {most}: {arguments}",
            arguments.len(),
            qemu.machine
        );
    }
    let control = config.folder.join("control");
    if control.as_os_str().len() > 107 {
        bail!(
            "{} is too long for a socket's path (107 bytes): choose another folder",
            control.display()
        );
    }
    let mut command = Command::new(&qemu.program);
    command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    let size = config.memory.unwrap_or(qemu.memory);
    let guarded = matches!(first, First::Flash { secure: true, .. });
    // Only code in the processor's management mode writes the flash (OVMF's README, "SMM support").
    let guard = if guarded { ",smm=on" } else { "" };
    command.args(["-M", &format!("{},memory-backend=ram{guard}", qemu.machine)]);
    if guarded {
        command.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
    }
    let counter = qemu.counter.map(|rate| format!(",cntfrq={rate}"));
    let cpu = format!("{}{}", qemu.cpu, counter.unwrap_or_default());
    command.args(["-cpu", &cpu, "-m", &size.to_string()]);
    command.args([
        "-object",
        &format!(
            "memory-backend-file,id=ram,size={size}M,share=on,mem-path={}",
            quoted(memory)
        ),
    ]);
    begin(&mut command, qemu, first);
    disk_and_network(&mut command, config, qemu);
    sticks(&mut command, config);
    consoles(&mut command, config, qemu, &control);
    if let Some(provision) = &config.provision {
        // The device reads it where Linux shows it: /sys/firmware/qemu_fw_cfg.
        let option = format!("name=opt/kedge/provision,file={}", quoted(provision));
        command.args(["-fw_cfg", &option]);
    }
    if let Some(watchdog) = &qemu.watchdog {
        command.args(["-device", watchdog, "-action", "watchdog=reset"]);
    }
    // Always emulated: a host's processor is not the board's, and virtualisation within virtualisation may hang.
    command.args(["-accel", "tcg"]);
    match config.clock {
        // The guest sleeps as long as it asks for; only its instructions are counted.
        Clock::Instructions => command.args(["-icount", "shift=0,sleep=on"]),
        Clock::Leaping => command.args(["-icount", "shift=0,sleep=off"]),
        Clock::Wall => &mut command,
    };
    if let Some(date) = &config.date {
        command.args(["-rtc", &format!("base={date}")]);
    }
    Ok(command)
}

/// What the machine begins with.
fn begin(command: &mut Command, qemu: &Qemu, first: First<'_>) {
    match first {
        First::Kernel(loaded) => {
            if let Some(Stub { file, address }) = &loaded.stub {
                let file = quoted(file);
                let option = format!("loader,file={file},addr={address:#x},force-raw=on");
                command.args(["-device", &option]);
            }
            command
                .arg("-kernel")
                .arg(&loaded.kernel)
                .arg("-initrd")
                .arg(&loaded.initramfs)
                .args(["-append", &loaded.arguments, "-no-reboot"])
        }
        First::Firmware(path) => {
            let option = match qemu.firmware_option {
                FirmwareOption::Bios => "-bios",
                FirmwareOption::Kernel => "-kernel",
            };
            command.arg(option).arg(path)
        }
        First::Card => command,
        First::Loader { file, tree } => command.arg("-kernel").arg(file).arg("-dtb").arg(tree),
        First::Flash {
            code, variables, ..
        } => command.args([
            "-drive",
            &format!(
                "if=pflash,unit=0,format=raw,readonly=on,file={}",
                quoted(code)
            ),
            "-drive",
            &format!("if=pflash,unit=1,format=raw,file={}", quoted(variables)),
        ]),
    };
}

fn disk_and_network(command: &mut Command, config: &VmConfig, qemu: &Qemu) {
    for device in &config.devices {
        command.args(["-device", device]);
    }
    let cache = match config.disk_cache {
        DiskCache::WriteBack => "writeback",
        DiskCache::Unsafe => "unsafe",
    };
    if config.ram.is_none() {
        let interface = if qemu.disk.is_some() { "none" } else { "sd" };
        command.args([
            "-drive",
            &format!(
                "if={interface},id=disk,format=raw,cache={cache},file={}",
                quoted(&config.disk)
            ),
        ]);
    }
    if let (Some(disk), None) = (&qemu.disk, &config.ram) {
        command.args(["-device", &format!("{disk},drive=disk")]);
    }

    let forwards: String = config
        .forwards
        .iter()
        .map(|forward| format!(",hostfwd=tcp:127.0.0.1:{}-:{}", forward.host, forward.guest))
        .collect();
    let Some(network) = &qemu.network else {
        command.args(["-nic", &format!("user{forwards}")]);
        return;
    };
    command.args(["-netdev", &format!("user,id=net{forwards}")]);
    // No network boot: its ROM is not in every package of QEMU, and no loader here asks for one.
    command.args(["-device", &format!("{network},netdev=net,romfile=")]);
    for card in 1..=config.more_cards {
        let number = u16::from(card) + 2;
        command.args([
            "-netdev",
            &format!("user,id=net{card},net=10.0.{number}.0/24"),
        ]);
        command.args(["-device", &format!("{network},netdev=net{card},romfile=")]);
    }
}

/// Removable disks. The bus is `sticks`, so that more can be plugged in by the monitor.
fn sticks(command: &mut Command, config: &VmConfig) {
    let Some(sticks) = &config.sticks else {
        return;
    };
    command.args(["-device", "virtio-scsi-pci,id=sticks"]);
    for (number, image) in sticks.iter().enumerate() {
        let image = quoted(image);
        let drive = format!("if=none,id=stick{number},format=raw,read-only=on,file={image}");
        let device =
            format!("scsi-hd,bus=sticks.0,drive=stick{number},id=stick{number}-disk,removable=on");
        command.args(["-drive", &drive, "-device", &device]);
    }
}

/// The serial console, the control port and QEMU's monitor.
fn consoles(command: &mut Command, config: &VmConfig, qemu: &Qemu, control: &Path) {
    if let Some(random) = &qemu.random {
        command.args(["-device", random]);
    }
    if let Some(bus) = &qemu.serial_bus {
        control_port(command, bus, control);
    }
    command.args([
        "-chardev",
        &format!("socket,id=monitor,path={}", quoted(&monitor_socket(config))),
    ]);
    command.args(["-mon", "chardev=monitor,mode=control"]);
    for _ in 0..qemu.console_port {
        command.args(["-serial", "null"]);
    }
    command.args([
        "-serial",
        match config.console {
            Console::Events => "stdio",
            Console::Terminal => "mon:stdio",
        },
    ]);
}

fn control_port(command: &mut Command, bus: &str, control: &Path) {
    command.args(["-device", bus]);
    command.args([
        "-chardev",
        &format!(
            "socket,id=control,server=on,wait=off,path={}",
            quoted(control)
        ),
    ]);
    command.args([
        "-device",
        "virtserialport,chardev=control,name=kedge.control",
    ]);
}
