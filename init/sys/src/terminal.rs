//! Terminals: both sides of a new one of `/dev/pts`, and this process's own in raw mode.

use std::io::IsTerminal;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, fstatfs, openat};
use rustix::process::ioctl_tiocsctty;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{
    OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use crate::process::set_standard;
use crate::{During, Errno, Error, Result};

/// `DEVPTS_SUPER_MAGIC` of `linux/magic.h`.
const DEVPTS: u32 = 0x1cd1;

/// Both sides of a terminal.
#[derive(Debug)]
pub struct Terminal {
    /// Whoever shows it has this one.
    pub master: OwnedFd,
    /// The programs in it have this one.
    pub slave: OwnedFd,
}

impl Terminal {
    /// A new terminal of the file system at `/dev/pts` of this mount namespace. Allocates nothing.
    ///
    /// # Errors
    /// Those of opening `/dev/pts/ptmx`; `ENOTTY` where that is no terminal's.
    pub fn open() -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let master =
            openat(CWD, c"/dev/pts/ptmx", flags, Mode::empty()).during("open /dev/pts/ptmx")?;
        let kind = u32::try_from(fstatfs(&master).during("fstatfs")?.f_type);
        if kind != Ok(DEVPTS) {
            return Err(Error::new("devpts", Errno::NOTTY));
        }
        unlockpt(&master).during("TIOCSPTLCK")?;
        // By the master itself, and not by a path, which could be another terminal's.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags).during("TIOCGPTPEER")?;
        Ok(Self { master, slave })
    }

    /// Makes the slave's side this process's terminal and its standard descriptors. It must lead its session.
    ///
    /// # Errors
    /// `EPERM` where it leads none.
    pub fn take(&self) -> Result<()> {
        ioctl_tiocsctty(&self.slave).during("TIOCSCTTY")?;
        (0..3).try_for_each(|number| set_standard(&self.slave, number))
    }
}

/// Sets the size of a terminal by either side; whoever is in front in it is told of a change (SIGWINCH).
///
/// # Errors
/// `ENOTTY`.
pub fn set_size(terminal: &OwnedFd, rows: u16, columns: u16) -> Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).during("TIOCSWINSZ")
}

/// Rows and columns of the terminal that is this process's standard input; `None`: it is none.
#[must_use]
pub fn own_size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdin()).ok()?;
    Some((size.ws_row, size.ws_col))
}

/// This process's own terminal, raw for as long as it stands in for another one.
#[derive(Debug)]
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Sets it; none: standard input is no terminal.
    ///
    /// # Errors
    /// Those of `tcsetattr(3)`.
    pub fn set() -> Result<Option<Self>> {
        let input = std::io::stdin();
        if !input.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&input).during("tcgetattr")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&input, OptionalActions::Now, &raw).during("tcsetattr")?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no mode.
        tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before).ok();
    }
}
