//! A container's control group, of version 2.
//!
//! On a machine with version 1, or with both, there may be a hierarchy of version 2 without controllers: processes are then
//! grouped, frozen and killed by it, and a document that asks for limits is refused by the name of the file that is missing.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kedge_sys::Errno;
use kedge_sys::rustix::fs::{CWD, Mode, OFlags, openat, statfs};
use kedge_sys::rustix::io::write;

use crate::resources::Limits;

/// `CGROUP2_SUPER_MAGIC` of `linux/magic.h`.
const MAGIC: u32 = 0x6367_7270;
/// Where it is, and where it is beside version 1.
const HIERARCHIES: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// How long the kernel may take to let go of a group whose processes have ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// A group that is there.
#[derive(Debug)]
pub(crate) struct Group {
    path: PathBuf,
    directory: OwnedFd,
}

/// Where the hierarchy of version 2 is mounted; none: nowhere.
pub(crate) fn hierarchy() -> Option<&'static Path> {
    HIERARCHIES.into_iter().map(Path::new).find(|path| {
        let magic = statfs(*path)
            .ok()
            .and_then(|found| u32::try_from(found.f_type).ok());
        magic == Some(MAGIC)
    })
}

impl Group {
    /// Makes the group at `path` below the hierarchy, with these limits.
    ///
    /// # Errors
    /// The path; a limit whose controller is missing.
    pub(crate) fn make(hierarchy: &Path, path: &Path, limits: &Limits) -> Result<Self> {
        enable(hierarchy, path, limits)?;
        let path = hierarchy.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("make {}", parent.display()))?;
        }
        let made = match std::fs::create_dir(&path) {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error).with_context(|| format!("make {}", path.display())),
        };
        let group = Self::open(path)?;
        // Whatever is in it would get the limits, and be killed at the end.
        ensure!(
            made || !group.is_populated()?,
            "linux.cgroupsPath: {} has processes of somebody else",
            group.path.display()
        );
        group.fill(limits).inspect_err(|_| {
            if made {
                group.remove().ok();
            }
        })?;
        Ok(group)
    }

    fn fill(&self, limits: &Limits) -> Result<()> {
        self.limit(limits)?;
        let Some(rules) = &limits.devices else {
            return Ok(());
        };
        let program = kedge_sys::bpf::device::program(rules);
        kedge_sys::bpf::attach_device_program(self.directory.as_fd(), &program)
            .context("resources.devices: the kernel takes no program that judges them")
    }

    /// A group that is there.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, &path, flags, Mode::empty());
        let directory = directory.with_context(|| format!("open {}", path.display()))?;
        Ok(Self { path, directory })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Writes limits.
    ///
    /// # Errors
    /// More is used than the limits leave, if that is asked; the file that is missing, or does not take its value.
    pub(crate) fn limit(&self, limits: &Limits) -> Result<()> {
        for (file, most) in &limits.room {
            // Without the controller the limit is what fails.
            let used = std::fs::read_to_string(self.path.join(file));
            let used = used.ok().and_then(|used| used.trim().parse::<u64>().ok());
            let used = used.unwrap_or_default();
            ensure!(
                used <= *most,
                "resources.memory.checkBeforeUpdate: {file} is {used}, over the limit of {most}"
            );
        }
        if let Some(period) = limits.cpu_period {
            self.set_period(period)?;
        }
        for (file, value) in &limits.writes {
            self.set(file, value)?;
        }
        Ok(())
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        match self.put(file, value) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) if is_no_limit(file, value, has_swap) => Ok(()),
            Err(Errno::NOENT) => bail!(
                "{file} = {value}: {} has no such file: the kernel, or the group above, lacks the controller",
                self.path.display()
            ),
            Err(errno) => {
                Err(errno).with_context(|| format!("{file} = {value} in {}", self.path.display()))
            }
        }
    }

    /// Changes the period alone: the file's first word, the quota, stays.
    fn set_period(&self, period: u64) -> Result<()> {
        let file = "cpu.max";
        // Without the controller there is no quota.
        let there = std::fs::read_to_string(self.path.join(file)).unwrap_or_default();
        let quota = there.split_whitespace().next().unwrap_or("max");
        self.set(file, &format!("{quota} {period}"))
    }

    /// Has every group above hand on the controllers that these limits need.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub(crate) fn hand_on(&self, limits: &Limits) -> Result<()> {
        let hierarchy =
            hierarchy().context("control groups of version 2 are not mounted any more")?;
        let path = self.path.strip_prefix(hierarchy)?.to_owned();
        enable(hierarchy, &path, limits)
    }

    fn put(&self, file: &str, value: &str) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(&self.directory, file, flags, Mode::empty())?;
        write(file, value.as_bytes()).map(drop)
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.path.join(file);
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Stops all its processes, or lets them go on; returns when that is so.
    ///
    /// # Errors
    /// The file; it takes longer than [`PATIENCE`].
    pub(crate) fn freeze(&self, frozen: bool) -> Result<()> {
        let value = if frozen { "1" } else { "0" };
        self.put("cgroup.freeze", value)
            .with_context(|| format!("cgroup.freeze in {}", self.path.display()))?;
        let start = Instant::now();
        while self.is_frozen()? != frozen {
            ensure!(
                start.elapsed() < PATIENCE,
                "{} does not freeze",
                self.path.display()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Whether all its processes are stopped.
    ///
    /// # Errors
    /// The file.
    pub(crate) fn is_frozen(&self) -> Result<bool> {
        Ok(self
            .read("cgroup.events")?
            .lines()
            .any(|line| line == "frozen 1"))
    }

    /// Whether it, or a group below, has processes.
    ///
    /// # Errors
    /// The file.
    pub(crate) fn is_populated(&self) -> Result<bool> {
        let events = self.read("cgroup.events")?;
        Ok(events.lines().any(|line| line == "populated 1"))
    }

    /// Ids of its processes, and of those of the groups below.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut all = Vec::new();
        let mut folders = vec![self.path.clone()];
        while let Some(folder) = folders.pop() {
            // A container may have made groups below, of threads too, which have no such list; and removes them as it likes.
            let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            all.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            folders.extend(below(&folder));
        }
        all.sort_unstable();
        all
    }

    /// Kills all its processes.
    ///
    /// # Errors
    /// The file.
    pub(crate) fn kill(&self) -> Result<()> {
        match self.put("cgroup.kill", "1") {
            Ok(()) => Ok(()),
            // Before Linux 5.14: one by one, stopped, so that none is born meanwhile.
            Err(Errno::NOENT) => {
                self.freeze(true).ok();
                for process in self.processes() {
                    if let Some(pid) = kedge_sys::process::Pid::from_raw(process) {
                        kedge_sys::rustix::process::kill_process(
                            pid,
                            kedge_sys::process::Signal::KILL,
                        )
                        .ok();
                    }
                }
                self.freeze(false)
            }
            Err(errno) => {
                Err(errno).with_context(|| format!("cgroup.kill in {}", self.path.display()))
            }
        }
    }

    /// Removes it with its processes: those that outlived the container's first one, in a pid namespace that they share with others.
    ///
    /// # Errors
    /// A process does not end.
    pub(crate) fn clear(&self) -> Result<()> {
        if self.is_populated()? {
            self.kill()?;
        }
        // It waits for their end.
        self.remove()
    }

    /// Removes it, and the groups below. Its processes must be ending.
    ///
    /// # Errors
    /// A process is left after [`PATIENCE`].
    pub(crate) fn remove(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            match remove_all(&self.path) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(error)
                    if error.raw_os_error() == Some(Errno::BUSY.raw_os_error())
                        && start.elapsed() < PATIENCE => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("remove {}", self.path.display()));
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Files that hold a limit, and those of huge pages, with their size in between: a limit of a name that is mistyped is none.
const LIMITS: [&str; 8] = [
    "cpu.max",
    "cpu.uclamp.max",
    "memory.high",
    "memory.max",
    "memory.swap.high",
    "memory.swap.max",
    "memory.zswap.max",
    "pids.max",
];

/// Whether it is kept without the file: without a controller there is no limit, if that is what is asked; without swap there
/// is none to be limited, and a kernel that does not count it knows no other answer to "0" either (so has runc).
fn is_no_limit(file: &str, value: &str, has_swap: impl FnOnce() -> bool) -> bool {
    let huge = file.starts_with("hugetlb.") && file.ends_with(".max");
    let no_limit = value.split_whitespace().next() == Some("max");
    no_limit && (huge || LIMITS.contains(&file))
        || file == "memory.swap.max" && (value == "0" || !has_swap())
}

/// Whether the machine has swap: lines after the first one. A kernel without it has no such file.
fn has_swap() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

/// Folders in a folder.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

fn remove_all(path: &Path) -> std::io::Result<()> {
    for folder in below(path) {
        remove_all(&folder)?;
    }
    std::fs::remove_dir(path)
}

/// Has every group above hand on the controllers that these limits need. What cannot be handed on shows when the file is
/// missing, which is said better then.
fn enable(hierarchy: &Path, path: &Path, limits: &Limits) -> Result<()> {
    let controllers: BTreeSet<_> = limits
        .files()
        .filter_map(|file| file.split('.').next())
        .collect();
    let mut folder = hierarchy.to_owned();
    for part in path.parent().unwrap_or(Path::new("")).components() {
        hand_on(&folder, &controllers);
        folder.push(part);
        match std::fs::create_dir(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("make {}", folder.display())),
        }
    }
    hand_on(&folder, &controllers);
    Ok(())
}

fn hand_on(folder: &Path, controllers: &BTreeSet<&str>) {
    if controllers.is_empty() {
        return;
    }
    let file = folder.join("cgroup.subtree_control");
    let on = std::fs::read_to_string(&file).unwrap_or_default();
    for controller in controllers {
        if !on.split_whitespace().any(|word| word == *controller) {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            if let Ok(file) = openat(CWD, &file, flags, Mode::empty()) {
                write(file, format!("+{controller}").as_bytes()).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_below_what_is_used_is_not_written_if_that_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        for (name, text) in [("memory.current", "4096\n"), ("memory.max", "max\n")] {
            let mut file = std::fs::File::create(file(name)).unwrap();
            std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        }
        let group = Group::open(folder.path().to_owned()).unwrap();
        let limits = |most: u64| Limits {
            writes: vec![("memory.max".to_owned(), most.to_string())],
            room: vec![("memory.current", most), ("memory.swap.current", most)],
            ..Limits::default()
        };
        let error = group.limit(&limits(4095)).unwrap_err().to_string();
        assert!(error.contains("memory.current is 4096"), "{error}");
        let kept = || std::fs::read_to_string(file("memory.max")).unwrap();
        assert_eq!(kept(), "max\n");
        group.limit(&limits(4096)).unwrap();
        assert_eq!(kept(), "4096");
    }

    #[test]
    fn only_a_limit_that_is_none_is_kept_without_its_file() {
        for (file, value, swap, kept) in [
            ("memory.max", "max", true, true),
            ("cpu.max", "max 100000", true, true),
            ("hugetlb.2MB.max", "max", true, true),
            ("memory.max", "4096", true, false),
            ("memory.mux", "max", true, false),
            ("memory.low", "max", true, false),
            ("memory.max", "maximum", true, false),
            ("memory.swap.max", "max", true, true),
            ("memory.swap.max", "0", true, true),
            ("memory.swap.max", "4096", true, false),
            ("memory.swap.max", "4096", false, true),
        ] {
            assert_eq!(is_no_limit(file, value, || swap), kept, "{file} = {value}");
        }
        let folder = tempfile::tempdir().unwrap();
        let group = Group::open(folder.path().to_owned()).unwrap();
        group.set("memory.max", "max").unwrap();
        let error = group.set("memory.mux", "max").unwrap_err().to_string();
        assert!(error.contains("memory.mux"), "{error}");
    }

    #[test]
    fn a_new_period_keeps_the_quota() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cpu.max");
        let group = Group::open(folder.path().to_owned()).unwrap();
        let limits = Limits {
            cpu_period: Some(500_000),
            ..Limits::default()
        };
        // Without the controller there is no quota to have a period.
        group.limit(&limits).unwrap();
        for (before, after) in [
            ("20000 100000", "20000 500000"),
            ("max 100000", "max 500000"),
        ] {
            let mut file = std::fs::File::create(&path).unwrap();
            std::io::Write::write_all(&mut file, before.as_bytes()).unwrap();
            group.limit(&limits).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
        }
    }
}
