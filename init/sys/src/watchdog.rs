//! The hardware watchdog (Linux `Documentation/watchdog/watchdog-api.rst`).
//!
//! Once open it must be fed, or the machine resets. Dropping a [`Watchdog`] does not disarm it: a
//! reactor that ends by accident is what it is there for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libc::c_int;
use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{Getter, Opcode, Updater, ioctl, opcode};

use crate::{During, Errno, Error, Result};

const WDIOC_GETBOOTSTATUS: Opcode = opcode::read::<c_int>(b'W', 2);
const WDIOC_KEEPALIVE: Opcode = opcode::read::<c_int>(b'W', 5);
const WDIOC_SETTIMEOUT: Opcode = opcode::read_write::<c_int>(b'W', 6);
const WDIOC_GETTIMEOUT: Opcode = opcode::read::<c_int>(b'W', 7);
/// `WDIOF_CARDRESET`: the last reset was the watchdog's.
const CARD_RESET: c_int = 0x20;

/// An armed watchdog.
#[derive(Debug)]
pub struct Watchdog(OwnedFd);

impl AsFd for Watchdog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Watchdog {
    /// Opens `device` (`/dev/watchdog0`), which arms it.
    ///
    /// # Errors
    /// `ENOENT` or `ENODEV` where there is none, `EBUSY` where someone has it.
    pub fn open(device: &Path) -> Result<Self> {
        rustix::fs::open(device, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .during("open watchdog")
            .map(Self)
    }

    /// Asks for `seconds` between two meals at most; returns what the hardware takes instead.
    ///
    /// # Errors
    /// `EINVAL` outside its range, `EOPNOTSUPP` where it is fixed.
    pub fn set_timeout(&self, seconds: u16) -> Result<u32> {
        let mut value = c_int::from(seconds);
        self.update_timeout(&mut value).during("WDIOC_SETTIMEOUT")?;
        Self::as_seconds("WDIOC_SETTIMEOUT", value)
    }

    fn update_timeout(&self, value: &mut c_int) -> rustix::io::Result<()> {
        // SAFETY: the opcode is WDIOC_SETTIMEOUT, whose value is an int that is read and written.
        let request = unsafe { Updater::<WDIOC_SETTIMEOUT, c_int>::new(value) };
        // SAFETY: the kernel uses the int during the call only.
        unsafe { ioctl(&self.0, request) }
    }

    /// The seconds that may pass between two meals.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the hardware does not say.
    pub fn timeout(&self) -> Result<u32> {
        // SAFETY: the opcode is WDIOC_GETTIMEOUT, which writes an int.
        let request = unsafe { Getter::<WDIOC_GETTIMEOUT, c_int>::new() };
        // SAFETY: the kernel fills the int when it answers without an error.
        let seconds = unsafe { ioctl(&self.0, request) }.during("WDIOC_GETTIMEOUT")?;
        Self::as_seconds("WDIOC_GETTIMEOUT", seconds)
    }

    fn as_seconds(operation: &'static str, value: c_int) -> Result<u32> {
        u32::try_from(value).map_err(|_| Error::new(operation, Errno::OVERFLOW))
    }

    /// Feeds it.
    ///
    /// # Errors
    /// `EIO` where the hardware is gone.
    pub fn feed(&self) -> Result<()> {
        // SAFETY: the opcode is WDIOC_KEEPALIVE, whose int the kernel ignores (it never writes it),
        // so that a place for one, which a Setter of an int is, is right.
        let request = unsafe { rustix::ioctl::Setter::<WDIOC_KEEPALIVE, c_int>::new(0) };
        // SAFETY: the int lives through the call.
        unsafe { ioctl(&self.0, request) }.during("WDIOC_KEEPALIVE")
    }

    /// Whether the last reset of the machine was this watchdog's doing, as far as the hardware knows.
    ///
    /// # Errors
    /// `EOPNOTSUPP` or `ENOTTY` where it does not say.
    pub fn caused_last_reset(&self) -> Result<bool> {
        // SAFETY: the opcode is WDIOC_GETBOOTSTATUS, which writes an int.
        let request = unsafe { Getter::<WDIOC_GETBOOTSTATUS, c_int>::new() };
        // SAFETY: the kernel fills the int when it answers without an error.
        let status = unsafe { ioctl(&self.0, request) }.during("WDIOC_GETBOOTSTATUS")?;
        Ok(status & CARD_RESET != 0)
    }

    /// Disarms it and lets it go. Without effect where the kernel or the hardware has "nowayout":
    /// then it bites a timeout later.
    ///
    /// # Errors
    /// Those of `write(2)`; it is closed in any case.
    pub fn disarm(self) -> Result<()> {
        // The letter before the close is what tells an orderly end from a crash.
        rustix::io::write(&self.0, b"V")
            .during("write watchdog")
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[test]
    fn opcodes_are_those_of_the_header() {
        assert_eq!(WDIOC_KEEPALIVE, 0x8004_5705);
        assert_eq!(WDIOC_SETTIMEOUT, 0xc004_5706);
    }

    #[test]
    fn no_watchdog_is_an_error() {
        let error = Watchdog::open(Path::new("/nowhere/watchdog")).expect_err("absent");
        assert_eq!(error.errno, Errno::NOENT);
    }
}
