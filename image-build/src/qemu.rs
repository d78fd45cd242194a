//! A device in QEMU: QEMU is the machine, and the loader is what the board says.
//!
//! Of a board whose backend is `direct` the host plays the loader: [`Vm::start`] reads the loader record of the disk,
//! takes a try off, takes kernel, initramfs and arguments out of the slot, and starts QEMU with them. When the guest
//! resets, it does so again; when the guest powers off, it ends.
//!
//! Of a board with a firmware the loader runs in the machine: one QEMU stays through all resets, and which slot starts is
//! known only from what the loader's script says on the console. Where that firmware begins in a boot ROM or on the card, the disk
//! is the card, and becomes one that QEMU takes (`card.rs`).
//!
//! Memory outlives a reset, so that a panic's text can be found in it, and no machine.
//!
//! What happens comes as a stream of [`Event`]s, in which console lines, resets and boots keep their order; but a reset
//! within one QEMU is told by its monitor, not by the console, and may stand some lines too early or too late.
//!
//! It judges nothing: expecting lines with deadlines is the test harness's work. It works on the disk image itself;
//! who wants to keep the image gives it a copy. Killing the machine ([`Vm::kill`]) is a power cut as far as QEMU can
//! make one: what it handed to the host survives.

/// The file in a machine's folder that its firmware keeps variables in; made anew where there is none.
pub const VARIABLES: &str = "variables";

mod card;
mod command;
mod loader;
mod memory;
mod qmp;
mod stub;
mod supervisor;

pub use loader::{Loaded, load};
pub use stub::Stub;

use crate::{debian, files, process, tools};
use anyhow::{Context, Result, bail};
use kedge_board_support::boards::{Board, Qemu};
use kedge_board_support::record::Slot;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use supervisor::Shared;

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct VmConfig {
    /// The kind of machine; it must have a `[qemu]` table.
    pub board: Board,
    /// The disk image; it is written. With `ram` there is none.
    pub disk: PathBuf,
    /// A folder with a kernel and an initramfs that need no disk ([`crate::image::ram`]): QEMU loads them, whatever the board's
    /// loader is, and the machine has no disk.
    pub ram: Option<PathBuf>,
    /// A folder for sockets, the kernel's files and a firmware's variables, made if absent. Its path must be short: a
    /// socket's has at most 107 bytes.
    pub folder: PathBuf,
    /// MiB of memory; none: the board's.
    pub memory: Option<u32>,
    /// Ports of the host's loopback that lead into the guest.
    pub forwards: Vec<Forward>,
    /// Where the serial console is.
    pub console: Console,
    /// What QEMU does about the host's page cache.
    pub disk_cache: DiskCache,
    /// How time passes in the guest.
    pub clock: Clock,
    /// What the machine's clock shows at its start, like `1970-01-01T00:00:00` in UTC; none: the host's time.
    pub date: Option<String>,
    /// Network cards beside the first, each in a network of its own: the first of them leases 10.0.3.15, the next 10.0.4.15.
    pub more_cards: u8,
    /// Images of removable disks on a SCSI bus, which are not written; none: the machine has no such bus, and nothing can be
    /// plugged in.
    pub sticks: Option<Vec<PathBuf>>,
    /// Further devices, in QEMU's words (`-device`), before the disk: what a disk or card of another kind hangs on.
    pub devices: Vec<String>,
    /// A certificate in PEM: the firmware begins with it alone, and with Secure Boot on. None: it is off.
    pub secure_boot: Option<PathBuf>,
    /// A provisioning for the device, a file that QEMU reads at each start.
    pub provision: Option<PathBuf>,
    /// Kernel arguments after all others, for tests; only where the host plays the loader.
    pub arguments: String,
}

impl VmConfig {
    /// The board's machine without a disk, with what is in the folder `ram`: console as events, no forwarded port, emulated.
    #[must_use]
    pub fn without_disk(board: Board, ram: &Path, folder: &Path) -> Self {
        Self {
            ram: Some(ram.to_owned()),
            ..Self::new(board, Path::new(""), folder)
        }
    }

    /// The board's machine with this disk: console as events, no forwarded port, emulated.
    #[must_use]
    pub fn new(board: Board, disk: &Path, folder: &Path) -> Self {
        Self {
            board,
            disk: disk.to_owned(),
            ram: None,
            folder: folder.to_owned(),
            memory: None,
            forwards: Vec::new(),
            console: Console::Events,
            disk_cache: DiskCache::WriteBack,
            clock: Clock::Wall,
            date: None,
            more_cards: 0,
            sticks: None,
            devices: Vec::new(),
            secure_boot: None,
            provision: None,
            arguments: String::new(),
        }
    }
}

/// A TCP port of the host's loopback that leads into the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Port on 127.0.0.1.
    pub host: u16,
    /// Port in the guest.
    pub guest: u16,
}

/// Where the serial console is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// Lines come as [`Event::Line`]; [`Vm::type_text`] writes to it.
    Events,
    /// The terminal that we run in, with QEMU's escapes (Ctrl-A x ends it).
    Terminal,
}

/// What QEMU does about the host's page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskCache {
    /// The guest's flushes reach the host's disk.
    WriteBack,
    /// Flushes are ignored: for measuring time, never for power cuts.
    Unsafe,
}

/// How time passes in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// As on the wall.
    Wall,
    /// One instruction is one nanosecond: comparable figures whatever the host does.
    Instructions,
    /// The same, and what the guest sleeps takes no time outside: for what is due after minutes. Whoever talks to it from
    /// outside is late.
    Leaping,
}

/// What happened in a machine.
#[derive(Debug)]
pub enum Event {
    /// This slot is started: by the host, or, as it said on the console, by the loader in the machine. Such a loader may
    /// say so of another slot right after, when the first one's kernel was none. It cannot be told when the console is
    /// [`Console::Terminal`].
    Booted(Slot),
    /// A line of the console, without its end; what is not UTF-8 is replaced.
    Line(String),
    /// The guest reset and is started again.
    Reset(ResetCause),
    /// No more events: it is over.
    Ended(Ending),
}

/// Why a guest reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetCause {
    /// It asked to: a reboot, or a kernel panic with `panic=`.
    Guest,
    /// The hardware watchdog.
    Watchdog,
    /// The monitor's `system_reset`.
    Host,
}

/// Why a machine is over.
#[derive(Debug)]
pub enum Ending {
    /// The guest powered off.
    PoweredOff,
    /// [`Vm::kill`], or a signal to QEMU.
    Killed,
    /// QEMU ended by itself, with what it said on standard error.
    Failed(ExitStatus, String),
    /// The next boot could not be started.
    NotStarted(anyhow::Error),
}

/// Sees to it that the board's QEMU and its firmware are on this machine.
///
/// # Errors
/// The board has no QEMU, or it cannot be installed.
pub fn require(board: &Board) -> Result<()> {
    let qemu = board
        .qemu
        .as_ref()
        .with_context(|| format!("the board {} has no [qemu] table", board.name))?;
    let installed = qemu.firmware_package.is_none();
    let firmware = qemu.firmware.as_ref().filter(|_| installed);
    // Asking dpkg takes longer than looking.
    if process::find(&qemu.program).is_none()
        || firmware.is_some_and(|path| !Path::new(path).exists())
    {
        let packages: Vec<&str> = qemu.packages.iter().map(String::as_str).collect();
        debian::require(&packages, "boot devices in QEMU")?;
    }
    Firmware::of(qemu, false).map(drop)
}

/// A board's firmware on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Firmware {
    code: PathBuf,
    /// What its variables begin as, where it keeps some.
    variables: Option<PathBuf>,
}

impl Firmware {
    /// Nothing where the host plays the loader.
    fn of(qemu: &Qemu, secure: bool) -> Result<Option<Self>> {
        let code = if secure {
            let code = qemu.secure_firmware.as_ref();
            Some(code.context("the board has no firmware with Secure Boot in QEMU")?)
        } else {
            qemu.firmware.as_ref()
        };
        let Some(code) = code else {
            return Ok(None);
        };
        let root = match &qemu.firmware_package {
            Some(package) => tools::package(package)?,
            None => PathBuf::from("/"),
        };
        let place = |path: &str| {
            let path = root.join(path.trim_start_matches('/'));
            if !path.is_file() {
                bail!("the firmware {} is not there", path.display());
            }
            Ok(path)
        };
        Ok(Some(Self {
            code: place(code)?,
            variables: qemu.variables.as_deref().map(place).transpose()?,
        }))
    }
}

/// A running machine. Dropping it kills it.
#[derive(Debug)]
pub struct Vm {
    shared: Arc<Shared>,
    events: Receiver<Event>,
    control: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Vm {
    /// Starts the machine. Errors of the first boot come at once, those of later ones as [`Ending::NotStarted`].
    ///
    /// # Errors
    /// The board has no QEMU or QEMU cannot be installed or started; or, where the host plays the loader, the disk cannot
    /// be read or has nothing to boot.
    pub fn start(config: VmConfig) -> Result<Self> {
        require(&config.board)?;
        files::make_folder(&config.folder)?;
        let control = config.folder.join("control");
        let (shared, events, thread) = supervisor::start(config)?;
        Ok(Self {
            shared,
            events,
            control,
            thread: Some(thread),
        })
    }

    /// The socket of the port `kedge.control`: the device's control API, in development products. Nobody has made it where the
    /// machine has no such port.
    #[must_use]
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// The next event, or nothing if none came until `deadline`. After [`Event::Ended`] nothing comes any more.
    #[must_use]
    pub fn next(&self, deadline: Instant) -> Option<Event> {
        self.events
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .ok()
    }

    /// The console's lines until the machine is over; other events are passed over.
    pub fn serial_lines(&self) -> impl Iterator<Item = String> {
        self.events.iter().filter_map(|event| match event {
            Event::Line(line) => Some(line),
            Event::Booted(_) | Event::Reset(_) | Event::Ended(_) => None,
        })
    }

    /// Waits until the machine is over or `deadline` is reached; events until then are lost.
    #[must_use]
    pub fn wait(&self, deadline: Option<Instant>) -> Option<Ending> {
        // A day is for ever here, and can be added to a clock.
        let deadline = deadline.unwrap_or_else(|| Instant::now() + Duration::from_hours(24));
        while let Some(event) = self.next(deadline) {
            if let Event::Ended(ending) = event {
                return Some(ending);
            }
        }
        None
    }

    /// Types into the console ([`Console::Events`] only).
    ///
    /// # Errors
    /// No machine is running, or its console is the terminal.
    pub fn type_text(&self, text: &str) -> Result<()> {
        self.shared.type_text(text.as_bytes())
    }

    /// Sends a command of QEMU's monitor protocol (`system_reset`, `system_powerdown`, `stop`, …) without waiting
    /// for its effect.
    ///
    /// # Errors
    /// No machine is running.
    pub fn monitor(&self, command: &str, arguments: Option<&Value>) -> Result<()> {
        self.shared.monitor(command, arguments)
    }

    /// Ends QEMU at once, as a power cut, and waits until it is gone.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.shared.kill().context("cannot kill QEMU")?;
        if let Some(thread) = self.thread.take() {
            // A panic of that thread is a bug of ours and was already printed; the machine is gone either way.
            drop(thread.join());
        }
        Ok(())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Nobody is left to be told.
        self.kill().ok();
    }
}

#[cfg(test)]
mod tests;
