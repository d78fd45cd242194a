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
//!
//! [`Tryboot`] alone has no record and counts nothing ([`Counts::Device`]). Of it the machine relies on this:
//!
//! - It starts the default that it knows; with the word of a restart that goes to a try, the other slot, once: whatever
//!   comes next is the default again.
//! - That it was given that word it tells the kernel, whichever slot it starts.
//! - Without a default it starts slot a. A slot that does not load gives way to the other one.

use crate::record::{Loader, Slot};

/// What the loader said on the kernel's command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoaderSays {
    /// `kedge.try=N`: this start is a try, N are left. Of a loader that counts nothing the number means nothing.
    pub tried: Option<u8>,
    /// `kedge.failed=SLOT`: no try was left for the slot.
    pub failed: Option<Slot>,
    /// `kedge.record=unwritable`: a try could not be taken, so that none was made.
    pub unwritable: bool,
    /// `kedge.reset=watchdog`: the hardware says that the watchdog reset it.
    pub watchdog: bool,
}

/// Who counts the tries of another slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Counts {
    /// The loader, in its record, before it starts the slot.
    #[default]
    Loader,
    /// PID 1 of the committed slot, in the state, before it restarts into the other one.
    Device,
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

    /// Who counts the tries of another slot.
    fn counts(&self) -> Counts {
        Counts::Loader
    }
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

/// The firmware of a Raspberry Pi, with `tryboot_a_b=1` in its `autoboot.txt`. Its record is that file
/// ([`crate::autoboot`]): a default, with never anything on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tryboot;

impl Tryboot {
    /// What the firmware says in the device tree: whether the restart had the word `tryboot`.
    #[must_use]
    pub const fn says(tried: bool) -> LoaderSays {
        LoaderSays {
            // How many are left it does not know.
            tried: if tried { Some(0) } else { None },
            failed: None,
            unwritable: false,
            watchdog: false,
        }
    }

    /// The slots that it can start after a restart with that word, in the order in which it tries them.
    #[must_use]
    pub fn tried(&self, record: Option<Loader>) -> [Slot; 2] {
        let [default, other] = self.slots(record);
        // Without its file it knows of no other slot.
        if record.is_some() {
            [other, default]
        } else {
            [default, other]
        }
    }
}

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

impl Backend for Tryboot {
    fn arm(&self, default: Slot, _slot: Slot, _left: u8) -> Loader {
        // A trial is armed by the restart.
        Loader::starts(default)
    }

    fn starts_unwritable(&self) -> bool {
        true
    }

    fn counts(&self) -> Counts {
        Counts::Device
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
