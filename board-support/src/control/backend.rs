//! What differs from loader to loader. All use the loader record, so that little does.
//!
//! What the machine relies on, whatever the loader:
//!
//! - The first whole copy of the record counts; without any, it starts slot a.
//! - It takes a try off, in both copies, before it starts a slot on trial, and begins with the copy that it has *not*
//!   read: if it began with the one that counts, two power cuts could lose both, and a slot a that dies early would
//!   be started for ever.
//! - A slot that does not load gives way to the other one.
//! - It says `kedge.try=` only when it starts a slot as a try. `kedge.record=unwritable` it says whichever slot it starts.

use crate::record::{Loader, Slot};

/// What the loader said on the kernel's command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoaderSays {
    /// `kedge.try=N`: this start is a try, N are left.
    pub tried: Option<u8>,
    /// `kedge.failed=SLOT`: no try was left for the slot.
    pub failed: Option<Slot>,
    /// `kedge.record=unwritable`: a try could not be taken, so that none was made.
    pub unwritable: bool,
    /// `kedge.reset=watchdog`: the hardware says that the watchdog reset it.
    pub watchdog: bool,
}

/// A way to boot.
pub trait Backend {
    /// The slots that it can start, in the order in which it tries them with this record.
    fn slots(&self, record: Option<Loader>) -> [Slot; 2] {
        // Without a record, both begin with slot a.
        let (slot, _) = record.unwrap_or(Loader::born()).boot();
        [slot, slot.other()]
    }

    /// The record that makes it try `slot`, `left` times, before it starts `default` again.
    fn arm(&self, default: Slot, slot: Slot, left: u8) -> Loader {
        Loader::starts(default).tries(slot, left)
    }

    /// The slot that it starts when nothing is tried.
    fn default(&self, record: Option<Loader>) -> Slot {
        record.unwrap_or(Loader::born()).default
    }

    /// The record that makes `slot` its default, with nothing on trial.
    fn commit(&self, slot: Slot) -> Loader {
        Loader::starts(slot)
    }

    /// What it said. The first word counts: the loader's own come before those of the slot.
    fn reason(&self, arguments: &str) -> LoaderSays {
        reason(arguments)
    }

    /// Whether it starts the default when a try cannot be taken from the record. If not, it starts nothing.
    fn starts_unwritable(&self) -> bool;
}

/// The host plays the loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Direct;

/// A boot script of an unmodified U-Boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UBoot;

/// Our own program for UEFI, which decides by [`crate::loading`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uefi;

impl Backend for Direct {
    fn starts_unwritable(&self) -> bool {
        false
    }
}

impl Backend for UBoot {
    fn starts_unwritable(&self) -> bool {
        true
    }
}

impl Backend for Uefi {
    fn starts_unwritable(&self) -> bool {
        true
    }
}

/// The loader's words among the kernel's arguments; what is not understood is not there.
fn reason(arguments: &str) -> LoaderSays {
    let mut says = LoaderSays::default();
    for word in arguments.split_ascii_whitespace() {
        match word.split_once('=') {
            Some(("kedge.try", left)) => says.tried = says.tried.or(left.parse().ok()),
            Some(("kedge.failed", slot)) => says.failed = says.failed.or(Slot::from_letter(slot)),
            Some(("kedge.record", "unwritable")) => says.unwritable = true,
            Some(("kedge.reset", "watchdog")) => says.watchdog = true,
            Some(_) | None => {}
        }
    }
    says
}
