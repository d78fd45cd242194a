//! The engine: the directories, descriptors and device nodes that all containers share.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kedge_revision::Name;
use kedge_sys::Errno;
use kedge_sys::rustix::fs::{
    CWD, FileType, Mode, OFlags, makedev, mkdirat, mknodat, openat, symlinkat,
};
use kedge_sys::rustix::process::umask;

use crate::cgroup::Parent;
use crate::landlock::Fence;
use crate::mounts::{NO_EXEC, NO_SUID, attach, filesystem, join, make_directories};
use crate::stage::{At, SpawnError, Stage};

/// Where the engine works.
#[derive(Debug, Clone, Copy)]
pub struct Config<'a> {
    /// A directory in memory for mount points, made if it is not there: `/run/kedge`.
    /// Short, as the kernel takes mount options of at most 255 bytes.
    pub run: &'a Path,
    /// The cgroup v2 below which containers get theirs (`/sys/fs/cgroup/containers`), made if it is
    /// not there. Without one, containers have no limits and `kill` is the caller's.
    pub cgroup: Option<&'a Path>,
}

/// Starts containers. It keeps no list of them: who runs is its caller's knowledge.
///
/// Invariant: the process has one thread, all privileges, and a root that is no initramfs.
#[derive(Debug)]
pub struct Engine {
    /// `/proc`.
    pub(crate) proc: OwnedFd,
    /// This process's own pid namespace.
    pub(crate) pid_namespace: OwnedFd,
    pub(crate) cgroup: Option<Parent>,
    pub(crate) fence: Fence,
    /// Where a child attaches its root; in each child's mount namespace another one.
    pub(crate) root_place: CString,
    /// The mount of the device nodes.
    pub(crate) devices: CString,
    /// Below it, by container, that of one with devices of its own.
    pub(crate) own_devices: CString,
    /// Mount points for what is attached for a moment, by number.
    pub(crate) temporaries: CString,
}

impl Engine {
    /// An engine in `config`'s directories; cheap, and may be called again after a crash of its
    /// former self.
    ///
    /// # Errors
    /// Stage `Prepare`, with the path.
    pub fn new(config: &Config<'_>) -> Result<Self, SpawnError> {
        let run = text(config.run)?;
        let below = |name: &CStr| {
            let path = join(&run, name).at(Stage::Prepare, &run)?;
            make_directories(&path).at(Stage::Prepare, &path)?;
            Ok::<_, SpawnError>(path)
        };
        let cgroup = match config.cgroup {
            Some(path) => Some(Parent::open(&text(path)?)?),
            None => None,
        };
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = openat(CWD, c"/proc", directory, Mode::empty());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let pid_namespace = openat(CWD, c"/proc/self/ns/pid", flags, Mode::empty());
        let engine = Self {
            proc: proc.at(Stage::Prepare, c"/proc")?,
            pid_namespace: pid_namespace.at(Stage::Prepare, c"/proc/self/ns/pid")?,
            cgroup,
            fence: Fence::of_kernel(),
            root_place: below(c"/root")?,
            devices: below(c"/dev")?,
            own_devices: below(c"/d")?,
            temporaries: below(c"/m")?,
        };
        engine.make_devices().at(Stage::Prepare, &engine.devices)?;
        Ok(engine)
    }

    /// The device nodes of all containers: one tmpfs, read-only wherever a container sees it, so
    /// that they share it without sharing anything else.
    fn make_devices(&self) -> Result<(), Errno> {
        let null = join(&self.devices, c"/null")?;
        if kedge_sys::rustix::fs::access(&null, kedge_sys::rustix::fs::Access::EXISTS).is_ok() {
            return Ok(());
        }
        attach(&new_devices(|_| Ok(()))?, &self.devices)
    }

    /// The mount point of number `index`, made if it is not there.
    pub(crate) fn temporary(&self, index: usize) -> Result<CString, Errno> {
        let number = CString::new(index.to_string()).map_err(|_| Errno::INVAL)?;
        let path = join(&join(&self.temporaries, c"/")?, &number)?;
        match mkdirat(CWD, &path, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => Ok(path),
            Err(errno) => Err(errno),
        }
    }

    /// Kills all processes of the container's cgroup at once. Nothing happens without cgroups.
    ///
    /// # Errors
    /// Those of writing `cgroup.kill` (Linux 5.14); none for a container that has no cgroup.
    pub fn kill(&self, name: &Name) -> Result<(), Errno> {
        self.cgroup
            .as_ref()
            .map_or(Ok(()), |parent| parent.kill(name.as_str()))
    }

    /// Whether any process of the container is left: commands and probes count.
    ///
    /// # Errors
    /// Those of reading `cgroup.events`.
    pub fn populated(&self, name: &Name) -> Result<bool, Errno> {
        self.cgroup
            .as_ref()
            .map_or(Ok(false), |parent| parent.populated(name.as_str()))
    }

    /// Removes the container's cgroup, and its `/dev` if it had one of its own; it must not be populated. A restart needs no
    /// removal.
    ///
    /// # Errors
    /// `EBUSY` while a process is left; none where there is none.
    pub fn remove(&self, name: &Name) -> Result<(), Errno> {
        if let Ok(name) = CString::new(name.as_str()) {
            self.remove_devices(&name);
        }
        self.cgroup
            .as_ref()
            .map_or(Ok(()), |parent| parent.remove(name.as_str()))
    }
}

/// Device nodes: name, major and minor (Linux `Documentation/admin-guide/devices.txt`).
pub(crate) const NODES: [(&CStr, u32, u32); 6] = [
    (c"null", 1, 3),
    (c"zero", 1, 5),
    (c"full", 1, 7),
    (c"random", 1, 8),
    (c"urandom", 1, 9),
    (c"tty", 5, 0),
];
const LINKS: [(&CStr, &CStr); 5] = [
    (c"fd", c"/proc/self/fd"),
    (c"stdin", c"/proc/self/fd/0"),
    (c"stdout", c"/proc/self/fd/1"),
    (c"stderr", c"/proc/self/fd/2"),
    (c"ptmx", c"pts/ptmx"),
];
/// What further mounts go onto.
const DIRECTORIES: [&CStr; 4] = [c"pts", c"shm", c"mqueue", c"kedge"];

/// A new `/dev`, mounted nowhere yet, with what every container has and what is `added`.
pub(crate) fn new_devices(
    added: impl FnOnce(&OwnedFd) -> Result<(), Errno>,
) -> Result<OwnedFd, Errno> {
    let options = [
        (c"mode", c"0755"),
        (c"size", c"64k"),
        (c"nr_inodes", c"256"),
    ];
    let tree = filesystem(c"tmpfs", &options, NO_SUID | NO_EXEC)?;
    // Modes here are meant as they are.
    let former = umask(Mode::empty());
    let filled = fill_devices(&tree).and_then(|()| added(&tree));
    umask(former);
    filled.map(|()| tree)
}

fn fill_devices(tree: &OwnedFd) -> Result<(), Errno> {
    for (name, major, minor) in NODES {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(
            tree,
            name,
            FileType::CharacterDevice,
            mode,
            makedev(major, minor),
        )?;
    }
    for (name, target) in LINKS {
        symlinkat(target, tree, name)?;
    }
    for name in DIRECTORIES {
        mkdirat(tree, name, Mode::from_raw_mode(0o755))?;
    }
    Ok(())
}

fn text(path: &Path) -> Result<CString, SpawnError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| SpawnError {
        stage: Stage::Prepare,
        errno: Errno::INVAL,
        path: path.display().to_string(),
    })
}
