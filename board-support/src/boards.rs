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

use crate::bootenv::{EraseBlock, Layout};
use crate::led;
use kedge_revision::{FileName, Name};
use serde::{Deserialize, Serialize};

// `SHIPPED` and `FRAGMENTS`: what `build.rs` found in the folders `boards` and `kernel`.
include!(concat!(env!("OUT_DIR"), "/lists.rs"));

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
    /// The LED that shows the device's state, by its name in `/sys/class/leds`; none: nothing does.
    pub led: Option<String>,
    /// Where its kernel comes from.
    pub kernel: Kernel,
    /// How it starts.
    pub boot: Boot,
    /// Sizes of the partitions.
    pub partitions: Partitions,
    /// What the partition of the boot record lies on.
    #[serde(default)]
    pub bootenv: BootEnvironment,
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

/// The module of Debian's kernels that lets an LED blink.
const BLINKS: &str = "ledtrig-timer";

impl Board {
    /// Kernel arguments that the loader gives, before the revision's own: those of the file, and what else of it PID 1 is told.
    #[must_use]
    pub fn arguments(&self) -> String {
        // A kernel takes the second copy of a partition table for it, where the power went while the first one was written.
        let mut arguments = format!("{} gpt", self.boot.arguments);
        if let Some(led) = &self.led {
            arguments.push_str(&format!(" {}={led}", led::ARGUMENT));
        }
        arguments
    }

    /// Modules of Debian's kernel that the device loads, in this order: those of the file, and what PID 1 needs for what else
    /// stands there.
    #[must_use]
    pub fn modules(&self) -> Vec<&str> {
        let mut modules: Vec<&str> = self.kernel.modules.iter().map(String::as_str).collect();
        if self.led.is_some() && self.kernel.package.is_some() && !modules.contains(&BLINKS) {
            modules.push(BLINKS);
        }
        modules
    }
}

/// A processor's architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
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

    /// Bytes of the longest command line that a kernel keeps whole, its end among them (Linux 6.12, `COMMAND_LINE_SIZE` in
    /// `arch/*/include`).
    #[must_use]
    pub const fn command_line_size(self) -> usize {
        match self {
            Self::X86_64 | Self::Arm64 => 2048,
            Self::Armv7 | Self::Riscv64 => 1024,
            Self::Mipsel => 4096,
        }
    }
}

/// Where a kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Kernel {
    /// Debian's package of the distribution kernel; none where our own is the only one that serves.
    pub package: Option<String>,
    /// Modules of that kernel which the device loads, in this order; their dependencies need no mention. What is loaded is
    /// [`Board::modules`].
    #[serde(default)]
    pub modules: Vec<String>,
    /// The Debian suite of package and source.
    pub suite: String,
    /// Configuration fragments of our own kernel, in order, below `board-support/kernel/`. None: there is no kernel of our
    /// own that has the board's drivers.
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
    /// Kernel arguments of the board; what the loader gives is [`Board::arguments`].
    pub arguments: String,
    /// Device trees that a slot holds, by their paths below `usr/lib/linux-image-VERSION` in the kernel's package. Of one alone
    /// U-Boot's script takes that; of several the one that U-Boot's `fdtfile` names; of none what U-Boot itself uses.
    #[serde(default)]
    pub device_trees: Vec<String>,
    /// Whether the partition `boot` stands in the MBR, too, for a boot ROM that reads no GPT; and both slots behind it, where the
    /// firmware loads from them.
    #[serde(default)]
    pub hybrid_mbr: bool,
    /// How U-Boot's script is wrapped.
    #[serde(default)]
    pub script: Script,
    /// Where U-Boot's script loads to, if what U-Boot proposes is too close together for the kernel.
    pub load: Option<Load>,
}

/// What U-Boot's `source` takes a script in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Script {
    /// A legacy image: `CONFIG_LEGACY_IMAGE_FORMAT`.
    #[default]
    Legacy,
    /// An image tree: `CONFIG_FIT`.
    Fit,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
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

/// What the partition of the boot record lies on: a disk, unless something here says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BootEnvironment {
    /// Bytes of an erase block, where it is raw flash: each copy of each record then has a block of its own.
    pub erase_block: Option<u32>,
}

impl BootEnvironment {
    /// Where that puts the parts of the record.
    #[must_use]
    pub fn layout(self) -> Layout {
        let block = self.erase_block.and_then(EraseBlock::new);
        block.map_or(Layout::Sectors, Layout::EraseBlocks)
    }
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
    /// Where on the card the first code is looked for by the boot ROM of QEMU's machine, bytes, where that is another place than the
    /// one that the board's has: a copy of it is put there. The machine needs no other firmware.
    pub boot_rom: Option<u64>,
    /// Where a machine has a firmware that QEMU has not, what that firmware starts: the host does it, from the partition `boot`.
    pub loader: Option<OnBoot>,
    /// What the firmware's variables begin as, a file beside it: both are flash then, whatever the option.
    pub variables: Option<String>,
    /// The same firmware with Secure Boot, which keeps its variables from the system: another file of that package.
    pub secure_firmware: Option<String>,
    /// `-M`.
    pub machine: String,
    /// `-cpu`.
    pub cpu: String,
    /// What the loader says that an ARM processor's counter counts in a second, where QEMU's own rate is another: else the
    /// guest's time goes faster.
    pub counter: Option<u32>,
    /// `-m`, MiB.
    pub memory: u32,
    /// Most bytes of a kernel's arguments that the machine hands over, where it drops the rest without a word.
    pub arguments_max: Option<usize>,
    /// Interrupts of an i8259 that devices share, and that a firmware would make level-triggered where QEMU's stand-in does
    /// not; only for a 32-bit MIPS whose loader the host plays.
    #[serde(default)]
    pub level_interrupts: Vec<u8>,
    /// The disk's device; none: it is the card in the machine's own slot for one.
    pub disk: Option<String>,
    /// The network card's device; none: the machine's own, if it has one.
    pub network: Option<String>,
    /// The bus that the control port is on; none: there is no such port.
    pub serial_bus: Option<String>,
    /// The source of randomness; none: nothing is added to what the machine has.
    pub random: Option<String>,
    /// The watchdog's device; none if the machine has one built in, or none at all.
    pub watchdog: Option<String>,
    /// Which of the machine's serial ports the console is.
    #[serde(default)]
    pub console_port: u8,
    /// Whether nothing in QEMU's model resets the machine when software asks for it: the host presses the button then.
    #[serde(default)]
    pub host_resets: bool,
}

/// Files of the partition `boot`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct OnBoot {
    /// The loader.
    pub file: FileName,
    /// The device tree that it gets.
    pub device_tree: FileName,
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
    /// The disk image as it occupies the host's disk (holes do not count), the containers' layers aside.
    pub image: u64,
    /// PSS of PID 1 and its helpers while nothing happens, an agent that holds its question open among them. Tests hold
    /// it where QEMU plays the board with a control port, which must have one.
    pub idle_memory: Option<u64>,
    /// Tighter ones for our own kernel.
    pub own: Option<OwnBudgets>,
}

/// Modules of Debian's kernels that networks of containers' own need: bridges, pairs of interfaces, the rules between them, and
/// what ends connections that outlive those. Our own kernels have all of it built in.
pub const POOL_MODULES: [&str; 8] = [
    "bridge",
    "veth",
    "nft_ct",
    "nft_connlimit",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nf_conntrack_netlink",
];

/// What those may add to an initramfs whose revision declares such networks, beside its budget; bytes.
pub const POOL_MODULES_MOST: u64 = 600_000;

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

    /// The same for a revision with networks of containers' own, whose modules come along ([`POOL_MODULES`]).
    #[must_use]
    pub fn boot_of(&self, own_kernel: bool, has_pools: bool) -> OwnBudgets {
        let mut boot = self.boot(own_kernel);
        if has_pools && !own_kernel {
            boot.initramfs = boot.initramfs.saturating_add(POOL_MODULES_MOST);
        }
        boot
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

/// The file of a board that ships, with its comments.
#[must_use]
pub fn text(name: &Name) -> Option<&'static str> {
    let file = format!("{name}.toml");
    let (_, text) = SHIPPED.iter().find(|(shipped, _)| **shipped == file)?;
    Some(text)
}

/// What a board that ships is: the first sentence of its file.
#[must_use]
pub fn about(name: &Name) -> Option<String> {
    let comment = text(name)?.lines().map_while(|line| line.strip_prefix('#'));
    let words: Vec<&str> = comment.map(str::trim).collect();
    let words = words.join(" ");
    let (sentence, _) = words.split_once(". ").unwrap_or((words.as_str(), ""));
    let sentence = sentence.trim_end_matches('.');
    (!sentence.is_empty()).then(|| sentence.to_owned())
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
    check::check(&board).map_err(|problem| Error::value(file, text, problem))?;
    Ok(board)
}

#[cfg(test)]
mod tests;
