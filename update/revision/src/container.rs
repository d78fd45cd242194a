//! A container's definition: layers, process, goal, health, restart, volumes, limits, network, rights.
//!
//! Everything is explicit: the host fills in what an OCI image leaves to its runtime, so that what
//! is signed is what runs. Fields that are absent have the stated default; defaults confine.

mod new;

use crate::error::Error;
use crate::id::{Name, ObjectId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use crate::device::DeviceRule;
pub use crate::limits::Limits;
pub use crate::pool::Network;

/// `true` if a field has its default and is therefore left out of the canonical form.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One entry of `content.containers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Container {
    /// The group it belongs to.
    pub group: Name,
    /// Its layers, the lowest first; 1 to [`Container::MAX_LAYERS`].
    pub layers: Vec<ObjectId>,
    /// What runs.
    pub process: Process,
    /// What it must reach for its revision to hold.
    pub goal: Goal,
    /// How it is found ready, and found ill later. Needed for the goal `ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// What follows its end.
    pub restart: Restart,
    /// Where writes to the root file system go; read-only by default.
    #[serde(default, skip_serializing_if = "is_default")]
    pub root: RootWrites,
    /// Writable data by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<Name, Volume>,
    /// Bounds on what it uses; none by default but for the number of processes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// Which network it sees; none by default.
    #[serde(default, skip_serializing_if = "is_default")]
    pub network: Network,
    /// Devices that appear in its `/dev`, sorted; none but the six of every container by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceRule>,
    /// Capabilities inside its own user namespace, sorted; none by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Capability>,
    /// What it may ask of PID 1 over the control socket, sorted; nothing by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<ControlRole>,
    /// Containers of the same group that must have met their goals before this one starts, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Name>,
}

/// The process, as the OCI image configuration has it (image-spec, `config.md`), with the user resolved to numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Process {
    /// Program and arguments: Entrypoint followed by Cmd. A program without `/` is looked up in PATH of `environment`.
    pub arguments: Vec<String>,
    /// `NAME=value`, in order; PATH is always among them.
    pub environment: Vec<String>,
    /// User, group and further groups, ids inside the container.
    pub user: User,
    /// Absolute path; created neither at build nor at start.
    pub working_directory: String,
    /// Signal number that asks it to end; SIGTERM is 15.
    pub stop_signal: u8,
    /// Milliseconds between the stop signal and the kill of its cgroup.
    pub stop_grace_ms: u32,
    /// Environment variables filled from parameters that are not secret: variable → parameter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, Name>,
    /// Secret parameters that it reads as `/dev/kedge/secrets/<parameter>`, files for its user alone; sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Name>,
}

/// Ids inside the container, 0 to 65535.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct User {
    /// User id.
    pub uid: u16,
    /// Group id.
    pub gid: u16,
    /// Supplementary group ids, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<u16>,
}

/// What a container must reach for its revision to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// Its process was executed.
    Started,
    /// Its health check passed, or it said so.
    Ready,
    /// It ended with exit status 0.
    Finished,
}

/// How a container's health is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Health {
    /// The check.
    pub check: Check,
    /// Milliseconds from the end of one check to the next, once it has passed. While starting, checks come faster.
    pub interval_ms: u32,
    /// Milliseconds after which a check has failed.
    pub timeout_ms: u32,
    /// Failures in a row after which a container that was ready is ill and is restarted.
    pub retries: u32,
    /// Milliseconds after its start in which failures do not count.
    pub start_period_ms: u32,
}

/// A health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// The container sends `READY=1` to `$NOTIFY_SOCKET` (sd_notify(3)); `WATCHDOG=1` keeps it healthy if `interval-ms` is not 0.
    Notify,
    /// A command run inside the container exits with 0.
    Command(Vec<String>),
    /// A GET of `http://127.0.0.1:port path` in the container's network answers 200 to 399.
    Http {
        /// TCP port.
        port: u16,
        /// Path, beginning with `/`.
        path: String,
    },
    /// A TCP connection to `127.0.0.1:port` in the container's network opens.
    Tcp {
        /// TCP port.
        port: u16,
    },
}

/// What follows the end of a container's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Restart {
    /// When it is started again.
    pub policy: RestartPolicy,
    /// Milliseconds before the first restart; doubles with each further one.
    pub delay_ms: u32,
    /// The delay does not grow beyond this, milliseconds.
    pub max_delay_ms: u32,
    /// A run of this many milliseconds brings delay and count back to their beginnings.
    pub reset_after_ms: u32,
    /// Restarts in a row before `then`; absent: without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// What happens when retries are used up.
    pub then: Then,
}

/// When a container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    No,
    /// After a non-zero exit or a signal.
    OnFailure,
    /// After any end.
    Always,
}

/// What happens when restarts are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// It stays down; the device goes on.
    Leave,
    /// On trial the verdict is bad; otherwise as `leave`.
    RollBack,
    /// The device reboots, at most three times an hour.
    Reboot,
}

/// Where writes to a container's root file system go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootWrites {
    /// Nowhere: the root is read-only.
    #[default]
    Refused,
    /// To an overlay on disk that is kept until another definition of the container is committed.
    Revision,
    /// To an overlay in memory that is dropped at boot.
    Boot,
}

/// Writable data of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Volume {
    /// Absolute path inside the container.
    pub path: String,
    /// How long the data lives.
    pub lifetime: Lifetime,
    /// Owner of the volume's top directory when it is first made; the process's user by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<User>,
    /// Largest size, bytes; for lifetime `boot` also the tmpfs's size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Whether a copy is kept while a revision is on trial; only for lifetime `permanent`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub snapshot: Snapshot,
    /// Largest copy, bytes; `size` if absent. A trial whose copy would be larger is called off before anything of it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_max: Option<u64>,
}

/// Whether a copy of a volume is kept while a revision is on trial, so that code which is rolled back to
/// finds the data that it left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Snapshot {
    /// No: what the trial wrote stays.
    #[default]
    Never,
    /// A copy is made before the trial, and is brought back if the trial fails; where both revisions say so.
    OnTrial,
}

/// How long a volume's data lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifetime {
    /// As long as the device.
    Permanent,
    /// As long as the container's definition: until another one is committed.
    Revision,
    /// Until the next boot, in memory.
    Boot,
}

/// A capability (capabilities(7)), by the kernel's name without `CAP_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(
    missing_docs,
    reason = "the names are the kernel's; capabilities(7) describes each"
)]
#[repr(u8)]
pub enum Capability {
    Chown = 0,
    DacOverride = 1,
    DacReadSearch = 2,
    Fowner = 3,
    Fsetid = 4,
    Kill = 5,
    Setgid = 6,
    Setuid = 7,
    Setpcap = 8,
    LinuxImmutable = 9,
    NetBindService = 10,
    NetBroadcast = 11,
    NetAdmin = 12,
    NetRaw = 13,
    IpcLock = 14,
    IpcOwner = 15,
    SysModule = 16,
    SysRawio = 17,
    SysChroot = 18,
    SysPtrace = 19,
    SysPacct = 20,
    SysAdmin = 21,
    SysBoot = 22,
    SysNice = 23,
    SysResource = 24,
    SysTime = 25,
    SysTtyConfig = 26,
    Mknod = 27,
    Lease = 28,
    AuditWrite = 29,
    AuditControl = 30,
    Setfcap = 31,
    MacOverride = 32,
    MacAdmin = 33,
    Syslog = 34,
    WakeAlarm = 35,
    BlockSuspend = 36,
    AuditRead = 37,
    Perfmon = 38,
    Bpf = 39,
    CheckpointRestore = 40,
}

/// What a container may ask of PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlRole {
    /// Read status and logs.
    Observe,
    /// Also hold updates back for a while.
    Lock,
    /// Also start, stop and restart containers, reboot and power off.
    Operate,
    /// Also run commands in containers, which reaches their files and secrets. In development products `operate` does, too.
    Exec,
}

impl Container {
    /// Most layers of a container: overlayfs takes 500 lower directories, images have tens.
    pub const MAX_LAYERS: usize = 64;
    /// Most volumes: their mounts travel to a container's first process in one message.
    pub const MAX_VOLUMES: usize = 27;
    /// Most further groups of its user, as many as the engine sets.
    pub const MAX_GROUPS: usize = 64;
    /// `pids.max` of a container that names none.
    pub const DEFAULT_PIDS_MAX: u32 = 512;
    /// Bytes of a root in memory whose definition names no `root-max`: what a process that only meant to write a file or
    /// two needs.
    pub const DEFAULT_ROOT_BOOT: u64 = 64 << 20;
    /// Longest text (argument, variable, path), bytes.
    pub const MAX_TEXT: usize = 4096;

    /// Checks every bound; `field` is the path of this container for messages.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the path of the field.
    pub fn check(&self, field: &str) -> Result<(), Error> {
        let at = |name: &str| format!("{field}.{name}");
        if self.layers.is_empty() || self.layers.len() > Self::MAX_LAYERS {
            return Err(Error::invalid(at("layers"), "are not 1 to 64"));
        }
        self.process.check(&at("process"))?;
        if self.goal == Goal::Ready && self.health.is_none() {
            return Err(Error::invalid(at("health"), "is needed for the goal ready"));
        }
        if self.goal == Goal::Finished && self.restart.policy == RestartPolicy::Always {
            return Err(Error::invalid(
                at("restart.policy"),
                "always never lets it be finished",
            ));
        }
        if let Some(health) = &self.health {
            health.check(&at("health"))?;
        }
        if self.restart.delay_ms == 0 {
            return Err(Error::invalid(at("restart.delay-ms"), "is 0"));
        }
        if self.restart.max_delay_ms < self.restart.delay_ms {
            return Err(Error::invalid(
                at("restart.max-delay-ms"),
                "is less than the delay that it bounds",
            ));
        }
        if self.volumes.len() > Self::MAX_VOLUMES {
            return Err(Error::invalid(at("volumes"), "are over 27"));
        }
        for (name, volume) in &self.volumes {
            volume.check(&at(&format!("volumes.{name}")))?;
        }
        self.limits.check(&at("limits"))?;
        crate::device::check(&self.devices, &at("devices"))?;
        if self.limits.root_max.is_some() && self.root == RootWrites::Refused {
            return Err(Error::invalid(
                at("limits.root-max"),
                "is for a root that is written to: root is refused",
            ));
        }
        check_sorted(&self.capabilities, &at("capabilities"))?;
        check_sorted(&self.roles, &at("roles"))?;
        check_sorted(&self.after, &at("after"))
    }
}

impl Process {
    fn check(&self, field: &str) -> Result<(), Error> {
        let at = |name: &str| format!("{field}.{name}");
        let text = |text: &String| text.len() <= Container::MAX_TEXT && !text.contains('\0');
        if self.arguments.is_empty() || self.arguments.len() > 256 {
            return Err(Error::invalid(at("arguments"), "are not 1 to 256"));
        }
        if self.arguments.first().is_some_and(String::is_empty) {
            return Err(Error::invalid(at("arguments"), "name no program"));
        }
        if !self.arguments.iter().all(text) {
            return Err(Error::invalid(
                at("arguments"),
                "hold a NUL or one over 4096 bytes",
            ));
        }
        if self.environment.len() > 256 || !self.environment.iter().all(text) {
            return Err(Error::invalid(
                at("environment"),
                "has over 256 entries, a NUL or one over 4096 bytes",
            ));
        }
        let named = |entry: &String| {
            entry
                .split_once('=')
                .is_some_and(|(name, _)| !name.is_empty())
        };
        if let Some(entry) = self.environment.iter().find(|entry| !named(entry)) {
            return Err(Error::invalid_one(
                at("environment"),
                entry,
                "is not NAME=value",
            ));
        }
        if !self
            .environment
            .iter()
            .any(|entry| entry.starts_with("PATH="))
        {
            return Err(Error::invalid(at("environment"), "lacks PATH"));
        }
        let bad = |name: &&String| name.is_empty() || name.contains(['=', '\0']);
        if let Some(name) = self.parameters.keys().find(bad) {
            return Err(Error::invalid_one(
                at("parameters"),
                name,
                "is no name of a variable",
            ));
        }
        if !(1..=64).contains(&self.stop_signal) {
            return Err(Error::invalid(at("stop-signal"), "is not 1 to 64"));
        }
        check_sorted(&self.secrets, &at("secrets"))?;
        check_sorted(&self.user.groups, &at("user.groups"))?;
        if self.user.groups.len() > Container::MAX_GROUPS {
            return Err(Error::invalid(at("user.groups"), "are over 64"));
        }
        check_path(&self.working_directory, &at("working-directory"))
    }
}

impl Volume {
    /// Most bytes that its copy on trial may take; `None`: no copy is kept.
    #[must_use]
    pub fn snapshot_bound(&self) -> Option<u64> {
        match self.snapshot {
            Snapshot::Never => None,
            Snapshot::OnTrial => self.snapshot_max.or(self.size),
        }
    }

    fn check(&self, field: &str) -> Result<(), Error> {
        let at = |name: &str| format!("{field}.{name}");
        check_path(&self.path, &at("path"))?;
        let on_disk = self.lifetime != Lifetime::Boot;
        if on_disk && self.size.is_some_and(|bytes| bytes < 64 * 1024) {
            return Err(Error::invalid(
                at("size"),
                "is under 64 KiB, in which no folder is made",
            ));
        }
        match self.snapshot {
            Snapshot::Never if self.snapshot_max.is_some() => Err(Error::invalid(
                at("snapshot-max"),
                "is for snapshot on-trial",
            )),
            Snapshot::OnTrial if self.lifetime != Lifetime::Permanent => {
                Err(Error::invalid(at("snapshot"), "is for lifetime permanent"))
            }
            Snapshot::OnTrial if self.snapshot_bound().is_none() => {
                Err(Error::invalid(at("snapshot"), "needs size or snapshot-max"))
            }
            Snapshot::Never | Snapshot::OnTrial => Ok(()),
        }
    }
}

impl Health {
    fn check(&self, field: &str) -> Result<(), Error> {
        if self.timeout_ms == 0 {
            return Err(Error::invalid(format!("{field}.timeout-ms"), "is 0"));
        }
        if self.retries == 0 {
            return Err(Error::invalid(format!("{field}.retries"), "is 0"));
        }
        let at = |name: &str| format!("{field}.check.{name}");
        match &self.check {
            Check::Notify => Ok(()),
            Check::Command(arguments) if arguments.first().is_none_or(String::is_empty) => {
                Err(Error::invalid(at("command"), "names no command"))
            }
            Check::Command(arguments) if arguments.iter().any(|a| a.contains('\0')) => {
                Err(Error::invalid(at("command"), "holds a NUL"))
            }
            Check::Http { path, .. }
                if !path.starts_with('/')
                    || path.contains(|c: char| c.is_ascii_control() || c == ' ') =>
            {
                Err(Error::invalid(
                    at("http.path"),
                    "is no absolute path of a URL",
                ))
            }
            Check::Http { port: 0, .. } => Err(Error::invalid(at("http.port"), "is 0")),
            Check::Tcp { port: 0 } => Err(Error::invalid(at("tcp"), "is 0")),
            Check::Command(_) | Check::Http { .. } | Check::Tcp { .. } => Ok(()),
        }
    }
}

/// An absolute path without `.` and `..`, at most 4096 bytes, no NUL.
fn check_path(path: &str, field: &str) -> Result<(), Error> {
    let plain = path.starts_with('/')
        && path.len() <= Container::MAX_TEXT
        && !path.contains('\0')
        && path.split('/').all(|part| part != "." && part != "..");
    if plain {
        Ok(())
    } else {
        Err(Error::invalid(
            field,
            "is no absolute path without . and ..",
        ))
    }
}

/// Sorted without repetition: one spelling for one meaning.
fn check_sorted<T: PartialOrd>(list: &[T], field: &str) -> Result<(), Error> {
    if list.is_sorted_by(|a, b| a < b) {
        Ok(())
    } else {
        Err(Error::invalid(
            field,
            "is not sorted, or holds something twice",
        ))
    }
}

#[cfg(test)]
mod tests;
