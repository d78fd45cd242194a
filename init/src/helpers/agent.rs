//! The agent's process: what it may see and do, before it becomes the agent.
//!
//! It sees a directory of its own, and nothing else of the device: PID 1's socket, the names of the network, and the
//! files that it keeps. It has a user of its own and no capability, and makes no system call that it does not need
//! (`filter`). What it brings is verified behind the socket.

mod filter;

pub(super) use filter::FILTER;

use super::net::RESOLV_CONF;
use super::{Error, hold};
use kedge_sys::Errno;
use kedge_sys::clone::Namespaces;
use kedge_sys::ext4;
use kedge_sys::mount::mount_bind;
use kedge_sys::privilege::{
    CapabilitySet, bound_capabilities, set_group, set_groups, set_no_new_privs, set_user,
};
use kedge_sys::process::unshare;
use kedge_sys::rustix::fs::{Gid, Mode, Uid, chmod, chown};
use kedge_sys::rustix::process::{chdir, chroot};
use kedge_sys::seccomp;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// The agent's user and group. No container has it: theirs begin at 1,000,000.
pub const USER: u32 = 64_000;
/// All that the agent sees.
const ROOT: &str = "/run/kedge/agent";
/// What it keeps: key, certificate, reports.
const STATE: &str = "/data/device/agent";

/// The project of those files, and the most that they take on disk: somebody else in the agent's place must not fill the
/// data partition. An honest agent keeps at most 64 reports of 96 KiB, and a few small files.
const PROJECT: u32 = USER;
const MOST_BYTES: u64 = 12 << 20;
const MOST_FILES: u64 = 160;

/// Whether a hub has taken this device in: then there is one to ask, whoever names none. What the file says is the agent's.
#[must_use]
pub fn has_hub() -> bool {
    Path::new(STATE).join("hub").exists()
}

/// Why there is no agent.
#[cfg(feature = "agent")]
#[derive(Debug)]
pub enum Ended {
    /// Its place could not be made.
    Place(Error),
    /// It ended itself.
    Agent(kedge_agent::Error),
}

#[cfg(feature = "agent")]
impl core::fmt::Display for Ended {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Place(error) => error.fmt(f),
            Self::Agent(error) => error.fmt(f),
        }
    }
}

/// Leaves everything but what the agent needs, and becomes the agent.
///
/// # Errors
/// [`Ended`].
#[cfg(feature = "agent")]
pub fn run(socket: std::os::fd::BorrowedFd<'_>) -> Result<(), Ended> {
    let ended = become_agent(socket);
    if let Err(error) = &ended {
        let level = kedge_agent::frames::Level::Error;
        let text = &error.to_string();
        let frame = kedge_agent::frames::Report::Say { level, text }.encode();
        // PID 1 may have gone.
        kedge_sys::sock::send(socket, &frame, &[]).ok();
    }
    ended
}

#[cfg(feature = "agent")]
fn become_agent(socket: std::os::fd::BorrowedFd<'_>) -> Result<(), Ended> {
    if let Err(error) = leave().map_err(Ended::Place)? {
        let level = kedge_agent::frames::Level::Warning;
        let text = &format!("nothing bounds what is kept here: {error}");
        let frame = kedge_agent::frames::Report::Say { level, text }.encode();
        kedge_sys::sock::send(socket, &frame, &[]).ok();
    }
    let paths = kedge_agent::Paths {
        state: "/state".into(),
        control: "/control.sock".into(),
    };
    kedge_agent::run(socket, &paths).map_err(Ended::Agent)
}

/// From root on the whole device to a user without privileges in [`ROOT`]. Within: that what it keeps could not be bounded,
/// without which a device is still better off with an agent than with none.
#[cfg_attr(
    not(feature = "agent"),
    allow(dead_code, reason = "a device without an agent has nobody to confine")
)]
fn leave() -> Result<Result<(), kedge_sys::Error>, Error> {
    let root = Path::new(ROOT);
    let kept = Path::new(STATE);
    make(kept, 0o700)?;
    chown(kept, Some(Uid::from_raw(USER)), Some(Gid::from_raw(USER)))
        .map_err(|errno| file("give away", kept, errno))?;
    let directory = File::open(kept).map_err(|source| Error::File {
        doing: "open",
        path: kept.to_owned(),
        source,
    })?;
    let bounded = ext4::set_project(&directory, PROJECT)
        .and_then(|()| ext4::set_quota(&directory, PROJECT, MOST_BYTES, MOST_FILES));
    drop(directory);
    // The mount is seen by this process alone.
    unshare(Namespaces::MOUNT).map_err(Error::Privilege)?;
    let state = root.join("state");
    make(&state, 0o700)?;
    mount_bind(kept, &state).map_err(|errno| file("mount", &state, errno))?;
    names(root)?;
    chmod(root, Mode::from_raw_mode(0o755)).map_err(|errno| file("open up", root, errno))?;
    chroot(root).map_err(|errno| file("change root to", root, errno))?;
    chdir("/").map_err(|errno| file("enter", root, errno))?;
    // The bounding set while there is still the capability to lower it.
    set_no_new_privs().map_err(Error::Privilege)?;
    bound_capabilities(CapabilitySet::empty()).map_err(Error::Privilege)?;
    set_groups(&[]).map_err(Error::Privilege)?;
    set_group(USER).map_err(Error::Privilege)?;
    set_user(USER).map_err(Error::Privilege)?;
    hold(CapabilitySet::empty())?;
    seccomp::load(&FILTER, seccomp::Options::default()).map_err(Error::Privilege)?;
    Ok(bounded)
}

/// Name servers as the net helper writes them: the same file by another name, since it is written in place.
fn names(root: &Path) -> Result<(), Error> {
    let there = root.join("etc");
    make(&there, 0o755)?;
    let link = there.join("resolv.conf");
    let names = Path::new(RESOLV_CONF);
    // The net helper may not have written it yet.
    let opened = OpenOptions::new().append(true).create(true).open(names);
    opened.map_err(|source| Error::File {
        doing: "open",
        path: names.to_owned(),
        source,
    })?;
    match std::fs::hard_link(names, &link) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(Error::File {
            doing: "link",
            path: link,
            source,
        }),
    }
}

fn make(path: &Path, mode: u32) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|source| Error::File {
        doing: "make directory",
        path: path.to_owned(),
        source,
    })
}

fn file(doing: &'static str, path: &Path, errno: Errno) -> Error {
    Error::File {
        doing,
        path: path.to_owned(),
        source: errno.into(),
    }
}
