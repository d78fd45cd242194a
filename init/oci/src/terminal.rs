//! Terminals of containers: the process gets the slave's side, somebody outside the master's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use kedge_sys::mount::{OpenTreeFlags, open_tree};
use kedge_sys::rustix::fs::{CWD, Gid, Uid, fchown};
use kedge_sys::sock::{self, Kind};
use kedge_sys::terminal as sys;

use crate::config::ConsoleSize;
use crate::inside::{self, Want};

/// Both sides of a container's terminal.
#[derive(Debug)]
pub(crate) struct Terminal(sys::Terminal);

impl Terminal {
    /// A new terminal of the file system at `/dev/pts`, with its size and owner.
    ///
    /// # Errors
    /// There is no such file system.
    pub(crate) fn open(size: ConsoleSize, owner: u32) -> Result<Self> {
        let both =
            sys::Terminal::open().context("process.terminal: is a devpts mounted at /dev/pts?")?;
        if size.height > 0 && size.width > 0 {
            sys::set_size(&both.master, size.height, size.width)?;
        }
        let group: Option<Gid> = None;
        match fchown(&both.slave, Some(Uid::from_raw(owner)), group) {
            // A read-only one, or a user that the namespace does not have.
            Ok(()) | Err(kedge_sys::Errno::ROFS | kedge_sys::Errno::INVAL) => {}
            Err(errno) => return Err(errno).context("process.terminal: its owner"),
        }
        Ok(Self(both))
    }

    /// The side of whoever shows it.
    pub(crate) const fn master(&self) -> &OwnedFd {
        &self.0.master
    }

    /// Makes it the container's `/dev/console`.
    ///
    /// # Errors
    /// There is no `/dev`.
    pub(crate) fn be_console(&self) -> Result<()> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = open_tree(&self.0.slave, c"", flags).context("/dev/console")?;
        let root = open_tree(CWD, c"/", OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        let place =
            inside::make(root.as_fd(), c"/dev/console", Want::File).context("/dev/console")?;
        inside::attach(tree.as_fd(), place.as_fd()).context("/dev/console")
    }

    /// Makes the slave's side this process's terminal. It must lead its session.
    ///
    /// # Errors
    /// It leads none.
    pub(crate) fn take(&self) -> Result<()> {
        self.0
            .take()
            .context("process.terminal: to be controlled by it")
    }
}

/// A connection to whoever will have the master's side.
///
/// # Errors
/// Nobody listens there.
pub(crate) fn console_socket(path: &Path) -> Result<OwnedFd> {
    sock::connect(path, Kind::Stream)
        .with_context(|| format!("--console-socket {}", path.display()))
}

/// Gives the master's side away.
///
/// # Errors
/// The other end is closed.
pub(crate) fn give(socket: BorrowedFd<'_>, master: &OwnedFd) -> Result<()> {
    let sent = sock::send(socket, b"/dev/ptmx", &[master.as_fd()]);
    sent.map(drop)
        .context("--console-socket: it takes no terminal")
}

/// Gives a container's terminal the size of ours.
pub(crate) fn copy_size(master: &OwnedFd) {
    if let Some((rows, columns)) = sys::own_size() {
        sys::set_size(master, rows, columns).ok();
    }
}
