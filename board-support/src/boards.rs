//! Boards: one TOML file for each kind of machine, embedded so that the host command needs no files beside it.
//!
//! [`all`] and [`find`] give the boards that ship; [`parse`] reads one that an integrator wrote. A file is parsed
//! strictly (unknown keys are refused), then checked; an error names file, line and key.
//! No code asks for a board's name: what differs between boards is a value in these files.

mod check;
mod error;
pub mod firmware;

pub use error::Error;
pub use firmware::Firmware;

use kedge_revision::Name;
use serde::Deserialize;

/// The files that ship: name, text.
const SHIPPED: [(&str, &str); 11] = [
    (
        "qemu-x86-64.toml",
        include_str!("../boards/qemu-x86-64.toml"),
    ),
    ("qemu-arm64.toml", include_str!("../boards/qemu-arm64.toml")),
    ("pc-x86-64.toml", include_str!("../boards/pc-x86-64.toml")),
    ("qemu-armv7.toml", include_str!("../boards/qemu-armv7.toml")),
    (
        "qemu-riscv64.toml",
        include_str!("../boards/qemu-riscv64.toml"),
    ),
    (
        "qemu-mipsel.toml",
        include_str!("../boards/qemu-mipsel.toml"),
    ),
    (
        "orange-pi-zero.toml",
        include_str!("../boards/orange-pi-zero.toml"),
    ),
    (
        "orange-pi-pc-plus.toml",
        include_str!("../boards/orange-pi-pc-plus.toml"),
    ),
    (
        "visionfive-2.toml",
        include_str!("../boards/visionfive-2.toml"),
    ),
    (
        "raspberry-pi-3.toml",
        include_str!("../boards/raspberry-pi-3.toml"),
    ),
    (
        "raspberry-pi-4.toml",
        include_str!("../boards/raspberry-pi-4.toml"),
    ),
];

/// Largest board file, bytes.
pub const CAP: usize = 64 * 1024;

/// A kind of machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Board {
    /// Its name, as in a revision's `board`.
    pub name: Name,
    /// The processor's architecture.
    pub architecture: Architecture,
    /// Rust's name of the device binary's target.
    pub rust_target: String,
    /// Where its kernel comes from.
    pub kernel: Kernel,
    /// How it starts.
    pub boot: Boot,
    /// Sizes of the partitions.
    pub partitions: Partitions,
    /// How QEMU emulates it; none for real hardware.
    pub qemu: Option<Qemu>,
    /// What must not be exceeded.
    pub budgets: Budgets,
    /// Its hardware watchdog.
    pub watchdog: Watchdog,
    /// What an image brings along for the processor's first code; none where it is in the machine's flash.
    #[serde(default)]
    pub firmware: Vec<Firmware>,
}

/// A processor's architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    /// AMD64.
    #[serde(rename = "x86-64")]
    X86_64,
    /// ARM, 64 bits.
    Arm64,
    /// ARMv7, hard float.
    Armv7,
    /// RISC-V, 64 bits, with G and C.
    Riscv64,
    /// MIPS32, little-endian.
    Mipsel,
}

impl Architecture {
    /// The name in OCI images (`GOARCH`).
    #[must_use]
    pub const fn oci(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Armv7 => "arm",
            Self::Riscv64 => "riscv64",
            Self::Mipsel => "mipsle",
        }
    }

    /// The name in Debian's archive.
    #[must_use]
    pub const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Armv7 => "armhf",
            Self::Riscv64 => "riscv64",
            Self::Mipsel => "mipsel",
        }
    }
}

/// Where a kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Kernel {
    /// Debian's package of the distribution kernel; none where our own is the only one that serves.
    pub package: Option<String>,
    /// Modules of that kernel which the device loads, in this order; their dependencies need no mention.
    #[serde(default)]
    pub modules: Vec<String>,
    /// The Debian suite of package and source.
    pub suite: String,
    /// Configuration fragments of our own kernel, in order, below `board-support/kernel/`.
    pub fragments: Vec<String>,
}

/// How a board starts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Boot {
    /// What reads the loader record.
    pub backend: Backend,
    /// The console's device, without `/dev/`.
    pub console: String,
    /// Kernel arguments that the loader gives, before the revision's own.
    pub arguments: String,
    /// Device trees that a slot holds, by their paths below `usr/lib/linux-image-VERSION` in the kernel's package. Of one alone
    /// U-Boot's script takes that; of several the one that U-Boot's `fdtfile` names; of none what U-Boot itself uses.
    #[serde(default)]
    pub device_trees: Vec<String>,
    /// Whether the partition `boot` stands in the MBR, too, for a boot ROM that reads no GPT; and both slots behind it, where the
    /// firmware loads from them.
    #[serde(default)]
    pub hybrid_mbr: bool,
    /// Where U-Boot's script loads to, if what U-Boot proposes is too close together for the kernel.
    pub load: Option<Load>,
}

/// Addresses in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Load {
    /// The kernel's: a multiple of 2 MiB, or U-Boot moves it.
    pub kernel: u32,
    /// The device tree's.
    pub device_tree: u32,
    /// The initramfs's, the last: it may have any size.
    pub initramfs: u32,
}

/// What reads the loader record and starts a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// The host plays the loader.
    Direct,
    /// U-Boot, by a script of ours on the partition `boot`.
    UBoot,
    /// UEFI, by a program of ours on the partition `boot` and once more on `boot-copy`.
    Uefi,
    /// A Raspberry Pi's firmware, by `autoboot.txt` on the partition `boot`; it loads from the slot itself.
    Tryboot,
}

/// Sizes of the partitions, MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Partitions {
    /// Where the first begins: what firmware stands before must end there.
    #[serde(default = "default_first")]
    pub first: u32,
    /// The boot record.
    pub bootenv: u32,
    /// What the firmware itself reads: the script or program of a backend that has one; none otherwise.
    pub boot: Option<u32>,
    /// Kernel and initramfs of slot a.
    pub slot_a: u32,
    /// The same of slot b.
    pub slot_b: u32,
    /// The store and the volumes, in the image; the device grows it over the rest of its disk.
    #[serde(default = "default_data")]
    pub data: u32,
}

const fn default_data() -> u32 {
    512
}

const fn default_first() -> u32 {
    1
}

impl Partitions {
    /// Where the first begins, bytes.
    #[must_use]
    pub fn first_bytes(&self) -> u64 {
        u64::from(self.first).saturating_mul(1024 * 1024)
    }
}

/// QEMU's emulation of a board.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Qemu {
    /// The program.
    pub program: String,
    /// Debian's packages of the program and of the firmware.
    pub packages: Vec<String>,
    /// The firmware, a file of one of these packages. None if the host plays the loader.
    pub firmware: Option<String>,
    /// QEMU's option for the firmware.
    #[serde(default)]
    pub firmware_option: FirmwareOption,
    /// Debian's package that the firmware is a file of instead: it is unpacked, not installed.
    pub firmware_package: Option<String>,
    /// What the firmware's variables begin as, a file beside it: both are flash then, whatever the option.
    pub variables: Option<String>,
    /// The same firmware with Secure Boot, which keeps its variables from the system: another file of that package.
    pub secure_firmware: Option<String>,
    /// `-M`.
    pub machine: String,
    /// `-cpu`.
    pub cpu: String,
    /// `-m`, MiB.
    pub memory: u32,
    /// The disk's device.
    pub disk: String,
    /// The network card's device.
    pub network: String,
    /// The bus that the control port is on.
    pub serial_bus: String,
    /// The source of randomness.
    pub random: String,
    /// The watchdog's device; none if the machine has one built in, or none at all.
    pub watchdog: Option<String>,
}

/// How QEMU takes a firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FirmwareOption {
    /// `-bios`: it is what the processor starts with.
    #[default]
    Bios,
    /// `-kernel`: a firmware that QEMU brings along starts it, such as RISC-V's OpenSBI.
    Kernel,
}

/// Sizes that fail a build when they are exceeded, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Budgets {
    /// `/init`.
    pub device_binary: u64,
    /// The compressed initramfs.
    pub initramfs: u64,
    /// The kernel.
    pub kernel: u64,
    /// The disk image as it occupies the host's disk (holes do not count).
    pub image: u64,
    /// PSS of PID 1 and its helpers while nothing happens, an agent that holds its question open among them. Tests hold
    /// it where QEMU plays the board, which must have one.
    pub idle_memory: Option<u64>,
    /// Tighter ones for our own kernel.
    pub own: Option<OwnBudgets>,
}

/// What is smaller with our own kernel, which has no modules; bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct OwnBudgets {
    /// The compressed initramfs.
    pub initramfs: u64,
    /// The kernel.
    pub kernel: u64,
}

impl Budgets {
    /// What holds for kernel and initramfs with our own kernel, or with another one.
    #[must_use]
    pub fn boot(&self, own_kernel: bool) -> OwnBudgets {
        self.own.filter(|_| own_kernel).unwrap_or(OwnBudgets {
            initramfs: self.initramfs,
            kernel: self.kernel,
        })
    }
}

/// A board's hardware watchdog, and what it cannot do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Watchdog {
    /// The kernel's driver.
    pub driver: String,
    /// Whether a hang before PID 1 opens the watchdog is reset.
    pub covers_early_hang: bool,
    /// The same in words, for people.
    pub note: String,
}

/// Every board that ships.
///
/// # Errors
/// None that a test would not have found: the files are part of the program.
pub fn all() -> Result<Vec<Board>, Error> {
    SHIPPED
        .iter()
        .map(|(file, text)| parse(file, text))
        .collect()
}

/// The board of that name.
///
/// # Errors
/// [`Error::Unknown`], with the names that there are.
pub fn find(name: &str) -> Result<Board, Error> {
    let boards = all()?;
    let known = boards.iter().map(|board| board.name.to_string()).collect();
    boards
        .into_iter()
        .find(|board| board.name.as_str() == name)
        .ok_or_else(|| Error::Unknown {
            name: name.to_owned(),
            known,
        })
}

/// Parses and checks a board file; `file` is its name, for errors.
///
/// # Errors
/// [`Error::TooLarge`], [`Error::Syntax`] with the line, [`Error::Value`] with the key.
pub fn parse(file: &str, text: &str) -> Result<Board, Error> {
    if text.len() > CAP {
        return Err(Error::TooLarge {
            file: file.to_owned(),
            size: text.len(),
        });
    }
    let board: Board = toml::from_str(text).map_err(|source| Error::syntax(file, text, &source))?;
    check::check(&board).map_err(|(key, problem)| Error::value(file, text, key, &problem))?;
    Ok(board)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = SHIPPED[0].1;

    #[test]
    fn every_shipped_board_is_good_and_named_as_its_file() {
        for (board, (file, _)) in all().unwrap().iter().zip(SHIPPED) {
            assert_eq!(format!("{}.toml", board.name), file);
        }
    }

    #[test]
    fn an_unknown_board_names_those_there_are() {
        let error = find("toaster").unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no board toaster; there are: qemu-x86-64, qemu-arm64, pc-x86-64, qemu-armv7, qemu-riscv64, qemu-mipsel, orange-pi-zero, orange-pi-pc-plus, visionfive-2, raspberry-pi-3, raspberry-pi-4"
        );
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let text = GOOD.replace("[partitions]\n", "[partitions]\nswap = 64\n");
        let line = text
            .lines()
            .position(|line| line.starts_with("swap"))
            .unwrap()
            + 1;
        let error = parse("my.toml", &text).unwrap_err().to_string();
        assert!(error.starts_with(&format!("my.toml:{line}: ")), "{error}");
        assert!(error.contains("swap"), "{error}");
    }

    #[test]
    fn values_that_cannot_work_are_refused_with_line_and_key() {
        let cases = [
            ("bootenv = 1", "bootenv = 0", "partitions.bootenv"),
            ("data = 512", "data = 255", "partitions.data"),
            ("slot-b = 64", "slot-b = 32", "partitions.slot-b"),
            ("cpu = \"qemu64\"", "cpu = \"max\"", "qemu.cpu"),
            ("memory = 256", "memory = 8", "qemu.memory"),
            (
                "console = \"ttyS0\"",
                "console = \"tty S0\"",
                "boot.console",
            ),
            ("common.config", "../common.config", "kernel.fragments"),
            (
                "initramfs = 1_600_000",
                "initramfs = 100_000_000",
                "budgets.initramfs",
            ),
            (
                "arguments = \"\"\"\nconsole=ttyS0 panic=1",
                "arguments = \"\"\"\nconsole=ttyS0 panic=0",
                "boot.arguments",
            ),
        ];
        for (from, to, key) in cases {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            let error = parse("my.toml", &text).unwrap_err();
            let key_line = to.lines().next().unwrap();
            let line = text
                .lines()
                .position(|line| line.contains(key_line))
                .unwrap()
                + 1;
            assert!(
                matches!(&error, Error::Value { key: found, line: at, .. } if *found == key && *at == line),
                "{error}"
            );
        }
    }

    #[test]
    fn every_file_of_a_board_is_part_of_the_program() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/boards");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let is_shipped = SHIPPED.iter().any(|(file, _)| *file == name);
            assert!(is_shipped, "add {name} to SHIPPED");
        }
    }

    #[test]
    fn the_guides_board_is_one() {
        let guide = include_str!("../../docs/guides/integrator.md");
        let (_, rest) = guide.split_once("```toml\n").unwrap();
        let (text, _) = rest.split_once("```").unwrap();
        let board = parse("field-gateway.toml", text).unwrap();
        assert_eq!(board.boot.backend, Backend::UBoot);
        assert_eq!(
            (board.name.as_str(), board.partitions.data),
            ("field-gateway", 1024)
        );
    }

    #[test]
    fn arguments_over_several_lines_are_one_line_for_the_kernel() {
        let arguments = find("qemu-x86-64").unwrap().boot.arguments;
        let words: Vec<&str> = arguments.split(' ').collect();
        assert!(words.contains(&"panic=1") && words.contains(&"pstore.compress=none"));
        assert!(!words.contains(&""), "{arguments}");
        // Where a panic's text is and what the kernel must keep its hands off are one place.
        assert!(words.contains(&"memmap=8K$0x90000") && words.contains(&"ramoops.mem_size=0x2000"));
        assert!(words.contains(&"ramoops.mem_address=0x90000"));

        let arguments = find("qemu-arm64").unwrap().boot.arguments;
        let words: Vec<&str> = arguments.split(' ').collect();
        assert!(words.contains(&"panic=1") && words.contains(&"ramoops.record_size=0x2000"));
        assert!(!words.contains(&""), "{arguments}");
        assert!(words.contains(&"reserve_mem=8K:128M:oops"));
        assert!(words.contains(&"ramoops.mem_name=oops"));
    }

    #[test]
    fn a_raspberry_pis_firmware_has_a_small_partition_and_no_emulation() {
        let (_, pi) = SHIPPED[9];
        let board = parse("pi.toml", pi).unwrap();
        assert_eq!(board.boot.backend, Backend::Tryboot);
        let (_, qemu) = SHIPPED[1].1.split_once("\n[qemu]\n").unwrap();
        let (qemu, _) = qemu.split_once("\n#").unwrap();
        let partition = "partition = { name = \"spl\", type = \"2E54B353-1271-4842-806F-E436D6AF6985\", size = 2 }";
        let cases = [
            (pi.replace("boot = 4\n", ""), "partitions.boot"),
            (pi.replace("boot = 4", "boot = 3"), "partitions.boot"),
            (format!("{pi}\n[qemu]\n{qemu}\n"), "qemu"),
            (
                pi.replace("slot = \"config.txt\"", "boot = \"config.txt\""),
                "firmware.boot",
            ),
            (
                pi.replace("slot = \"config.txt\"", partition),
                "firmware.partition",
            ),
            (
                pi.replace("\"arm64\"", "\"riscv64\"")
                    .replace("aarch64-unknown-linux-musl", "riscv64gc-unknown-linux-musl"),
                "boot.backend",
            ),
        ];
        for (text, key) in cases {
            let error = parse("pi.toml", &text).unwrap_err();
            let is_it = matches!(&error, Error::Value { key: found, .. } if *found == key);
            assert!(is_it, "{error} instead of {key}");
        }
    }

    #[test]
    fn what_a_backend_needs_is_demanded_and_what_it_cannot_use_is_refused() {
        let (u_boot, pc) = (SHIPPED[1].1, SHIPPED[2].1);
        let cases = [
            (
                GOOD,
                "bootenv = 1",
                "bootenv = 1\nboot = 16",
                "partitions.boot",
            ),
            (
                GOOD,
                "package = \"linux-image-cloud-amd64\"\n",
                "",
                "kernel.modules",
            ),
            (
                GOOD,
                "cpu = ",
                "firmware = \"/u-boot.bin\"\ncpu = ",
                "qemu.firmware",
            ),
            (u_boot, "boot = 16", "boot = 8", "partitions.boot"),
            (u_boot, "boot = 16\n", "", "partitions.boot"),
            (
                u_boot,
                "firmware = \"/usr",
                "firmware = \"usr",
                "qemu.firmware",
            ),
            (u_boot, "u-boot.bin\"", "u-boot.bin,x\"", "qemu.firmware"),
            (u_boot, "panic=1 oops", "panic=1 ${oops}", "boot.arguments"),
            (u_boot, "panic=1 oops", "panic=1 'oops'", "boot.arguments"),
            (u_boot, "\"u-boot-qemu\"", "\"-u\"", "qemu.packages"),
            (
                GOOD,
                "cpu = ",
                "firmware-option = \"kernel\"\ncpu = ",
                "qemu.firmware-option",
            ),
            (
                pc,
                "cpu = ",
                "firmware-option = \"kernel\"\ncpu = ",
                "qemu.firmware-option",
            ),
            (pc, "boot = 40", "boot = 32", "partitions.boot"),
            (pc, "boot = 40\n", "", "partitions.boot"),
            (pc, "firmware = \"/usr", "firmware = \"usr", "qemu.firmware"),
            (pc, "_VARS_4M.fd\"", "_VARS 4M.fd\"", "qemu.variables"),
            (
                pc,
                "secure-firmware = \"/usr",
                "secure-firmware = \"usr",
                "qemu.secure-firmware",
            ),
            (pc, "\"ovmf\"", "\"-o\"", "qemu.firmware-package"),
            (pc, "\"x86-64\"", "\"arm64\"", "boot.backend"),
        ];
        for (text, from, to, key) in cases {
            assert!(text.contains(from), "{from}");
            let error = parse("my.toml", &text.replace(from, to)).unwrap_err();
            assert!(
                matches!(&error, Error::Value { key: found, .. } if *found == key),
                "{to}: {error}"
            );
        }
    }

    #[test]
    fn a_missing_key_is_named() {
        let error = parse("my.toml", &GOOD.replace("machine = \"q35\"\n", ""))
            .unwrap_err()
            .to_string();
        assert!(error.contains("machine"), "{error}");
    }

    #[test]
    fn a_huge_file_is_not_parsed() {
        let text = "#".repeat(CAP + 1);
        assert!(matches!(
            parse("my.toml", &text),
            Err(Error::TooLarge { .. })
        ));
    }
}
