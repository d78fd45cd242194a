//! The loader for machines with UEFI: `\EFI\BOOT\BOOTX64.EFI` of the partition `boot`.
//!
//! It reads the loader record, takes a try off before a trial starts, and starts a slot's kernel with its initramfs and
//! arguments. What is decided is decided by `kedge-loading`, which the model check runs, too; here is how it is done.
//!
//! | module | does |
//! |---|---|
//! | [`disk`] | finds the disk that this program came from, its partitions, and reads and writes the record |
//! | [`slot`] | reads a slot's files through the firmware's FAT driver |
//! | [`mapped`] | puts a kernel into memory itself, where the firmware would ask for a signature |
//! | [`start`] | hands a kernel, its initramfs and its arguments to the firmware |
//!
//! It writes the two copies of the loader record and nothing else: no file, no variable of the firmware.

#![no_main]
#![no_std]

extern crate alloc;

mod disk;
mod mapped;
mod slot;
mod start;

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::time::Duration;
use disk::Disk;
use kedge_loading::{Plan, Slot, Word};
use uefi::runtime::{self, ResetType, VariableVendor};
use uefi::{Status, boot, cstr16, entry, println};

/// Longest arguments of the board, bytes.
const ARGUMENTS: usize = 1024;

/// The board's kernel arguments, ended by a zero. They are written here when the image is made, so that a signature of this
/// program is one of them, too.
#[repr(C)]
struct Board {
    arguments: [u8; ARGUMENTS],
}

#[used]
#[unsafe(link_section = ".kedge")]
static BOARD: Board = Board {
    arguments: [0; ARGUMENTS],
};

/// What went wrong, for whoever watches the console.
struct Error(String);

impl Error {
    fn new(what: impl fmt::Display, status: Status) -> Self {
        Self(format!("{what}: {status}"))
    }
}

/// Adds to an error of the firmware what it was about.
trait About<T> {
    fn about(self, what: impl fmt::Display) -> Result<T, Error>;
}

impl<T, D: fmt::Debug> About<T> for uefi::Result<T, D> {
    fn about(self, what: impl fmt::Display) -> Result<T, Error> {
        self.map_err(|error| Error::new(what, error.status()))
    }
}

#[entry]
fn main() -> Status {
    // Of a loader or a driver that hangs: the kernel ends it as it takes over.
    boot::set_watchdog_timer(120, 0x1_0000, None).ok();
    // The firmware's last line may have no end.
    println!();
    if let Err(Error(why)) = run() {
        println!("kedge: {why}");
    }
    again()
}

/// Starts what can be started; comes back only when nothing could.
fn run() -> Result<(), Error> {
    let mut disk = Disk::own()?;
    let plan = plan(&mut disk)?;
    let secure_boot = secure_boot();
    for (slot, word) in plan.starts() {
        let Err(Error(why)) = start(&disk, slot, word, secure_boot);
        println!("kedge: slot {slot} cannot be started: {why}");
    }
    Err(Error("no slot can be started; once more in 5 s".into()))
}

/// Decides, and takes a try off where one is to be made.
fn plan(disk: &mut Disk) -> Result<Plan, Error> {
    let copies = disk.record()?;
    if copies == [None; 2] {
        println!("kedge: both copies of the loader record are damaged");
    }
    let mut plan = Plan::of(copies);
    if let Some(take) = plan.take
        && let Err(Error(why)) = disk.take(take)
    {
        println!("kedge: {why}");
        plan = plan.unwritable();
    }
    let record = plan
        .take
        .map(|take| take.record)
        .or(copies[0])
        .or(copies[1]);
    let [slot, _] = plan.order;
    let word = plan.word.map(|word| format!(" {word}")).unwrap_or_default();
    if let Some(record) = record {
        println!("kedge: {record}; slot {slot}{word}");
    }
    Ok(plan)
}

/// Whether the firmware verifies what it starts. It is on where it cannot be told, and off where there is no such thing.
fn secure_boot() -> bool {
    let mut value = [0];
    let global = VariableVendor::GLOBAL_VARIABLE;
    match runtime::get_variable(cstr16!("SecureBoot"), &global, &mut value) {
        Ok(_) => value != [0],
        Err(error) => error.status() != Status::NOT_FOUND,
    }
}

fn start(
    disk: &Disk,
    slot: Slot,
    word: Option<Word>,
    secure_boot: bool,
) -> Result<core::convert::Infallible, Error> {
    let files = slot::read(disk, slot, secure_boot)?;
    let mut arguments = board_arguments()?;
    arguments.push_str(&format!(" kedge.disk={}", disk.guid()));
    if secure_boot {
        // PID 1 refuses early what would not be started here.
        arguments.push_str(" kedge.secure-boot=1");
    }
    arguments.push_str(&format!(" kedge.slot={slot}"));
    if let Some(word) = word {
        arguments.push_str(&format!(" {word}"));
    }
    if !files.arguments.is_empty() {
        arguments.push(' ');
        arguments.push_str(&files.arguments);
    }
    start::start(slot, &files, &arguments, secure_boot)
}

fn board_arguments() -> Result<String, Error> {
    // SAFETY: it is initialized and aligned; volatile, since what the compiler saw in it is not what is there now.
    let bytes = unsafe { core::ptr::read_volatile(&raw const BOARD.arguments) };
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = core::str::from_utf8(text)
        .map_err(|_| Error("the board's arguments are no text".into()))?;
    Ok(text.into())
}

/// Not back to the firmware's other ways: whatever else it finds to boot is not this system.
fn again() -> ! {
    boot::stall(Duration::from_secs(5));
    runtime::reset(ResetType::COLD, Status::LOAD_ERROR, None)
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("kedge: a mistake in the loader: {info}");
    again()
}
