//! The containers' cgroups: made with their limits, killed, looked at, removed. cgroup v2 only
//! (Linux `Documentation/admin-guide/cgroup-v2.rst`).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use kedge_sys::Errno;
use kedge_sys::rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, unlinkat};
use kedge_sys::rustix::io::{read, write};

use crate::plan::Limit;
use crate::stage::{At, Failure, Stage};

/// What a container's limits need; given from the root down to the parent of containers.
const CONTROLLERS: [&[u8]; 3] = [b"+cpu", b"+memory", b"+pids"];

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

/// The cgroup below which each container has its own.
#[derive(Debug)]
pub(crate) struct Parent(OwnedFd);

impl Parent {
    /// Opens `path`, making it, and hands the controllers that the kernel has down to its children.
    pub(crate) fn open(path: &CStr) -> Result<Self, Failure<'_>> {
        make_directory(CWD, path).at(Stage::Prepare, path)?;
        let directory = openat(CWD, path, DIRECTORY, Mode::empty()).at(Stage::Prepare, path)?;
        for controller in CONTROLLERS {
            for file in [c"../cgroup.subtree_control", c"cgroup.subtree_control"] {
                // One that the kernel lacks is missed when a definition asks for its limit.
                write_file(&directory, file, controller).ok();
            }
        }
        Ok(Self(directory))
    }

    /// The cgroup of container `name` with these limits, made if it is not there.
    pub(crate) fn make<'p>(
        &self,
        name: &'p CStr,
        limits: &'p [Limit],
    ) -> Result<OwnedFd, Failure<'p>> {
        make_directory(&self.0, name).at(Stage::Cgroup, name)?;
        let cgroup = openat(&self.0, name, DIRECTORY, Mode::empty()).at(Stage::Cgroup, name)?;
        for limit in limits {
            match write_file(&cgroup, &limit.file, limit.value.as_bytes()) {
                Err(Errno::NOENT) if !limit.required => {}
                other => other.at(Stage::Cgroup, &limit.file)?,
            }
        }
        Ok(cgroup)
    }

    /// The cgroup of container `name`, as it is.
    pub(crate) fn of(&self, name: &CStr) -> Result<OwnedFd, Errno> {
        openat(&self.0, name, DIRECTORY, Mode::empty())
    }

    /// Kills every process in the cgroup of `name`; none there is no error.
    pub(crate) fn kill(&self, name: &str) -> Result<(), Errno> {
        match self.of(&path(name)?) {
            Ok(cgroup) => write_file(&cgroup, c"cgroup.kill", b"1"),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Whether a process is left in the cgroup of `name`.
    pub(crate) fn populated(&self, name: &str) -> Result<bool, Errno> {
        let cgroup = match self.of(&path(name)?) {
            Ok(cgroup) => cgroup,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let events = openat(&cgroup, c"cgroup.events", flags, Mode::empty())?;
        let mut buffer = [0_u8; 256];
        let length = read(events, &mut buffer)?;
        let text = buffer.get(..length).unwrap_or_default();
        Ok(text
            .split(|byte| *byte == b'\n')
            .any(|line| line == b"populated 1"))
    }

    /// Removes the cgroup of `name`; none there is no error.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Errno> {
        match unlinkat(&self.0, path(name)?, AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }
}

fn path(name: &str) -> Result<CString, Errno> {
    CString::new(name).map_err(|_| Errno::INVAL)
}

fn make_directory<Fd: AsFd>(below: Fd, name: &CStr) -> Result<(), Errno> {
    match mkdirat(below, name, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// Writes a kernel's file in one go, as it wants it.
pub(crate) fn write_file(directory: &OwnedFd, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty())?;
    let written = write(file, value)?;
    if written == value.len() {
        Ok(())
    } else {
        Err(Errno::IO)
    }
}
