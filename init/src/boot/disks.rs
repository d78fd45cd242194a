//! Waiting for the device's disk, opening its boot record, and setting the clock.

use crate::boot::partitions::{self, Partitions};
use crate::error::Error;
use kedge_board_support::bootenv::{Bootenv, Found, Layout};
use kedge_board_support::loading::gpt::Guid;
use kedge_revision::Timestamp;
use kedge_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use kedge_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use kedge_sys::rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with,
};
use kedge_sys::rustix::time::{self, ClockId};
use kedge_sys::timer;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the kernel lists block devices, before the change of root, and where their nodes are.
pub(crate) const CLASS: &str = "/root/sys/class/block";
pub(crate) const DEVICES: &str = "/root/dev";
/// How long a disk may take to appear: the slowest known are USB disks, with about 5 s.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// Which disk is the device's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Own {
    /// Whichever has the partitions.
    Any,
    /// The one that the loader came from, as it says.
    Guid(Guid),
    /// The one with this name of the kernel's.
    Named(String),
}

/// What the disk of a partition is called in its table.
pub(crate) fn guid_of(partition: &Path) -> Option<Guid> {
    let class = Path::new(CLASS);
    let disk = partitions::disk_of(class, partition)?;
    partitions::guid(class, Path::new("/dev"), &disk)
}

/// Finds the partitions, waiting for the kernel's events if they are late. Where the loader says which disk it came from,
/// no other one is taken; but a copy of a disk, bit by bit, is called as that one is.
///
/// # Errors
/// [`Error::MissingPartition`] after [`LONGEST_WAIT`].
pub(crate) fn wait_for_partitions(own: &Own) -> Result<Partitions, Error> {
    let class = Path::new(CLASS);
    let is_own = |name: &str| match own {
        Own::Any => true,
        Own::Guid(own) => partitions::guid(class, Path::new(DEVICES), name) == Some(*own),
        Own::Named(own) => own == name,
    };
    if let Ok(found) = partitions::find(class, is_own) {
        return Ok(found);
    }
    // Listen first and look again after, so that a disk between the two looks is not missed.
    let events = listen_to_kernel()?;
    let begun = timer::now();
    loop {
        let missing = match partitions::find(class, is_own) {
            Ok(found) => return Ok(found),
            Err(missing) => missing,
        };
        let waited = timer::now().saturating_sub(begun);
        let left = LONGEST_WAIT.saturating_sub(waited);
        let expired = left.is_zero() || !wait(&events, left);
        if expired {
            return Err(Error::MissingPartition {
                name: missing,
                disk: match own {
                    Own::Guid(guid) => Some(*guid),
                    Own::Any | Own::Named(_) => None,
                },
                waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
            });
        }
        drain(&events);
    }
}

/// A socket of the kernel's device events (kobject_uevent(9), multicast group 1).
pub(crate) fn listen_to_kernel() -> Result<OwnedFd, Error> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        flags,
        Some(netlink::KOBJECT_UEVENT),
    )
    .map_err(|errno| kedge_sys::Error::new("socket", errno))?;
    bind(&socket, &netlink::SocketAddrNetlink::new(0, 1))
        .map_err(|errno| kedge_sys::Error::new("bind", errno))?;
    Ok(socket)
}

/// Takes all events that wait: what they say is looked up in sysfs.
fn drain(events: &OwnedFd) {
    let mut buffer = [0_u8; 4096];
    while recv(events, &mut buffer[..], RecvFlags::DONTWAIT).is_ok() {}
}

/// Whether an event came in time.
fn wait(events: &OwnedFd, left: Duration) -> bool {
    let bound = timer::timespec(left);
    let mut ready = [PollFd::new(events, PollFlags::IN)];
    poll(&mut ready, Some(&bound)).is_ok_and(|count| count > 0)
}

/// The raw partition of the boot record, for whoever opens it.
#[derive(Debug, Clone)]
pub struct RecordPlace {
    /// Its device.
    pub path: PathBuf,
    /// How the record lies in it.
    pub layout: Layout,
}

impl RecordPlace {
    /// Opens it for reading and writing, and reads both records; damaged copies are told by what is found.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Record`]: the disk fails, and what it holds must not be thrown away for that.
    pub fn open(&self) -> Result<(Bootenv<OwnedFd>, Found), Error> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let file = openat(CWD, &self.path, flags, Mode::empty())
            .map_err(Error::file("open", &self.path))?;
        Bootenv::open(file, self.layout).map_err(|source| Error::Record { source })
    }
}

/// Sets the clock to `floor` if it stands before that.
///
/// # Errors
/// [`Error::Sys`].
pub(crate) fn raise_clock(floor: Timestamp) -> Result<(), Error> {
    let now = time::clock_gettime(ClockId::Realtime).tv_sec;
    let floor = i64::try_from(floor.unix()).unwrap_or(0);
    if now >= floor {
        return Ok(());
    }
    set(floor)
}

/// A clock that is wrong by less is left alone, seconds: an answer of the network is about as old.
const CLOCK_SLACK: u64 = 2;

/// Sets the clock to `time`; false: it was right already.
///
/// # Errors
/// [`Error::Sys`].
pub fn set_clock(time: Timestamp) -> Result<bool, Error> {
    let now = time::clock_gettime(ClockId::Realtime).tv_sec;
    let wanted = i64::try_from(time.unix()).unwrap_or(0);
    if now.abs_diff(wanted) <= CLOCK_SLACK {
        return Ok(false);
    }
    set(wanted).map(|()| true)
}

fn set(seconds: i64) -> Result<(), Error> {
    let timespec = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    time::clock_settime(ClockId::Realtime, timespec)
        .map_err(|errno| Error::Sys(kedge_sys::Error::new("clock_settime", errno)))
}
