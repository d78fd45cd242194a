//! What is known of a container between two commands: a folder for each, in memory, which only root can read.
//!
//! | file | what |
//! |---|---|
//! | `state.json` | [`Saved`]; it is there once the container is created |
//! | `config.json` | the document that it was created by: commands and hooks are still run by it when the bundle has changed |
//! | `start` | a socket on which its process waits; it is there until a start has reached it |

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use kedge_sys::process::{Pid, open_pidfd};
use kedge_sys::rustix::fs::{FlockOperation, fcntl_lock};
use serde::{Deserialize, Serialize};

use crate::cgroup::Group;
use crate::config::{self, Spec};

/// The version of the specification whose terms are used.
pub(crate) const VERSION: &str = "1.2.0";

/// Where containers are known if nothing else is said.
pub(crate) const ROOT: &str = "/run/kedge-oci";

/// What is known of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Saved {
    pub(crate) id: String,
    /// Its first process.
    pub(crate) pid: i32,
    /// When that was started, in the kernel's ticks since boot: another process can have the number later.
    pub(crate) started: u64,
    pub(crate) bundle: PathBuf,
    pub(crate) root: PathBuf,
    /// As RFC 3339 has it.
    pub(crate) created: String,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    /// Its control group; none on a machine without version 2.
    #[serde(default)]
    pub(crate) cgroup: Option<PathBuf>,
    /// Whether its processes keep the keyring of whoever starts them.
    #[serde(default)]
    pub(crate) no_new_keyring: bool,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Its process waits.
    Created,
    Running,
    Paused,
    /// Its process has ended.
    Stopped,
}

impl Status {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// The state that hooks and users are told (specification, `runtime.md`, "State").
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Told<'a> {
    pub(crate) oci_version: &'static str,
    pub(crate) id: &'a str,
    pub(crate) status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<i32>,
    pub(crate) bundle: &'a Path,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rootfs: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<&'static str>,
}

/// The folder of a container.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Locked for as long as it is open.
    lock: Option<OwnedFd>,
}

/// The longest id: a name of a file.
const LONGEST_ID: usize = 255;

/// A container's id: letters, digits and `_+-.`, as other runtimes have it.
///
/// # Errors
/// It is none.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    ensure!(!id.is_empty(), "a container's id is missing");
    ensure!(
        id.len() <= LONGEST_ID && id.bytes().all(plain) && id != "." && id != "..",
        "{id:?} is no container's id: letters, digits and _+-. are"
    );
    Ok(())
}

impl Folder {
    /// Makes the folder of a new container.
    ///
    /// # Errors
    /// There is a container of that id.
    pub(crate) fn make(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(root)
            .with_context(|| format!("make {}", root.display()))?;
        let path = root.join(id);
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Self {
                lock: Some(lock(&path)?),
                path,
            }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                bail!("container {id} already exists")
            }
            Err(error) => Err(error).with_context(|| format!("make {}", path.display())),
        }
    }

    /// The folder of a container that is there; locked: nobody else changes it meanwhile.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn open(root: &Path, id: &str, locked: bool) -> Result<Self> {
        check_id(id)?;
        let path = root.join(id);
        // The words that users of other runtimes look for.
        ensure!(path.is_dir(), "container {id} does not exist");
        let lock = if locked { Some(lock(&path)?) } else { None };
        Ok(Self { path, lock })
    }

    /// Whether there is one, be it of a container that was never created to the end.
    ///
    /// # Errors
    /// It is no id; nobody can tell.
    pub(crate) fn is_there(root: &Path, id: &str) -> Result<bool> {
        check_id(id)?;
        let path = root.join(id);
        let there = path.try_exists();
        there.with_context(|| format!("look for {}", path.display()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets others change it again.
    pub(crate) fn unlock(&mut self) {
        self.lock = None;
    }

    /// The socket on which its process waits.
    pub(crate) fn start(&self) -> PathBuf {
        self.path.join("start")
    }

    /// What is known of it.
    ///
    /// # Errors
    /// It was never created to the end.
    pub(crate) fn load(&self) -> Result<Saved> {
        let path = self.path.join("state.json");
        let bytes = config::read_up_to(&path)?;
        serde_json::from_slice(&bytes).with_context(|| format!("in {}", path.display()))
    }

    /// Writes what is known of it, all or nothing.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn save(&self, saved: &Saved) -> Result<()> {
        self.put("state.json", &serde_json::to_vec(saved)?)
    }

    /// Writes a file, all or nothing. It is in memory: nothing of it is to survive the machine.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        put(&self.path.join(name), bytes)
    }

    /// The document that it was created by.
    ///
    /// # Errors
    /// It is missing.
    pub(crate) fn spec(&self) -> Result<Spec> {
        Ok(Spec::load(&self.path)?.0)
    }

    /// Where it is in its life.
    ///
    /// # Errors
    /// Its control group cannot be read.
    pub(crate) fn status(&self, saved: &Saved) -> Result<Status> {
        if !is_alive(saved) {
            return Ok(Status::Stopped);
        }
        if self.start().exists() {
            return Ok(Status::Created);
        }
        let frozen = match saved.group() {
            Some(group) => group?.is_frozen()?,
            None => false,
        };
        Ok(if frozen {
            Status::Paused
        } else {
            Status::Running
        })
    }

    /// Removes it. That it is gone already is no error: somebody else removed it.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn remove(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Writes a file, all or nothing.
///
/// # Errors
/// Those of the file system.
#[allow(
    clippy::disallowed_methods,
    reason = "what is in memory cannot be synced; a reader sees the old file or the new one"
)]
pub(crate) fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let write = || {
        std::fs::File::create(&new)?.write_all(bytes)?;
        std::fs::rename(&new, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// A lock of this process alone: the container's, which is a copy of this one, does not hold it.
fn lock(path: &Path) -> Result<OwnedFd> {
    let path = path.join("lock");
    let mut options = std::fs::OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    fcntl_lock(&file, FlockOperation::LockExclusive)
        .with_context(|| format!("lock {}", path.display()))?;
    Ok(file.into())
}

impl Saved {
    /// Its control group, if it has one.
    pub(crate) fn group(&self) -> Option<Result<Group>> {
        self.cgroup.clone().map(Group::open)
    }

    /// A descriptor of its first process; none: it has ended.
    pub(crate) fn process(&self) -> Option<OwnedFd> {
        let pidfd = open_pidfd(Pid::from_raw(self.pid)?).ok()?;
        // Looked at after it was opened: the number cannot change hands any more.
        is_alive(self).then_some(pidfd)
    }

    /// What users are told.
    pub(crate) fn told(&self, status: Status) -> Told<'_> {
        Told {
            oci_version: VERSION,
            id: &self.id,
            status: status.word(),
            pid: Some(if status == Status::Stopped {
                0
            } else {
                self.pid
            }),
            bundle: &self.bundle,
            annotations: &self.annotations,
            rootfs: Some(&self.root),
            created: Some(&self.created),
            owner: Some(""),
        }
    }
}

/// Whether the first process is there, and not merely waiting for its parent to look at its end.
fn is_alive(saved: &Saved) -> bool {
    matches!(stat(saved.pid), Some((state, started))
        if started == saved.started && state != 'Z' && state != 'X')
}

/// State and start time of a process (`proc_pid_stat(5)`).
pub(crate) fn stat(pid: i32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses, and may have some in it.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// All containers' ids, sorted.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn ids(root: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", root.display())),
    };
    let mut ids: Vec<_> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|id| root.join(id).join("state.json").exists())
        .collect();
    ids.sort();
    Ok(ids)
}

/// A time as RFC 3339 has it, in UTC.
#[must_use]
pub(crate) fn rfc3339(time: std::time::SystemTime) -> String {
    let since = time
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let nanos = since.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Year, month and day of a number of days since 1970.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`: years begin in March.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days.saturating_add(719_468);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn times_are_written_as_rfc_3339_has_them() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_709_251_199, "2024-02-29T23:59:59"),
            (4_102_444_800, "2100-01-01T00:00:00"),
        ] {
            let text = rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(text, format!("{expected}.000000000Z"));
        }
    }

    #[test]
    fn ids_are_names_of_files() {
        for good in ["a", "9f", "Web_1.2+x-y"] {
            check_id(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(256)] {
            check_id(bad).unwrap_err();
        }
    }

    #[test]
    fn a_container_is_made_once_and_read_back() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::make(root.path(), "one").unwrap();
        let again = Folder::make(root.path(), "one").unwrap_err().to_string();
        assert!(again.contains("already exists"), "{again}");
        assert!(ids(root.path()).unwrap().is_empty());
        let own = std::process::id().try_into().unwrap();
        let mut saved = Saved {
            id: "one".to_owned(),
            pid: own,
            started: stat(own).unwrap().1,
            bundle: "/bundle".into(),
            root: "/bundle/rootfs".into(),
            created: rfc3339(UNIX_EPOCH),
            annotations: BTreeMap::new(),
            cgroup: None,
            no_new_keyring: false,
        };
        folder.save(&saved).unwrap();
        assert_eq!(ids(root.path()).unwrap(), ["one"]);
        assert_eq!(
            folder.status(&folder.load().unwrap()).unwrap(),
            Status::Running
        );
        std::fs::File::create(folder.start()).unwrap();
        assert_eq!(folder.status(&saved).unwrap(), Status::Created);
        // Another process that got the number later.
        saved.started += 1;
        assert_eq!(folder.status(&saved).unwrap(), Status::Stopped);
        assert!(saved.process().is_none());
        folder.remove().unwrap();
        folder.remove().unwrap();
        let gone = Folder::open(root.path(), "one", true)
            .unwrap_err()
            .to_string();
        assert!(gone.contains("does not exist"), "{gone}");
    }
}
