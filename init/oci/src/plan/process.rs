//! A process: the first one of a container, or one that is executed in it.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, bail, ensure};
use kedge_sys::privilege::CapabilitySet;
use kedge_sys::process::{Resource, Rlimit};

use super::text;
use crate::config::{self, ConsoleSize, Process};

/// A process as the kernel takes it.
#[derive(Debug, Clone)]
pub struct ProcessPlan {
    /// Program and arguments; at least the program.
    pub arguments: Vec<CString>,
    /// `NAME=value`.
    pub environment: Vec<CString>,
    /// Where it starts.
    pub directory: CString,
    /// Whether it gets a terminal, and that one's size.
    pub terminal: Option<ConsoleSize>,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
    /// Permissions that its files do not get.
    pub umask: u32,
    /// What it may; nothing, if nothing is said.
    pub capabilities: CapabilitySets,
    /// Limits.
    pub limits: Vec<Limit>,
    /// Whether programs with more privilege lose it.
    pub no_new_privileges: bool,
    /// How soon the kernel ends it when memory is out.
    pub oom_score_adj: Option<i32>,
    /// As `ioprio_set(2)` takes it.
    pub io_priority: Option<u16>,
    /// What of its description is not kept, in words.
    pub passed_over: Vec<String>,
}

/// Capabilities of a process.
#[derive(Debug, Clone, Copy)]
pub struct CapabilitySets {
    /// What a program can get at most.
    pub bounding: CapabilitySet,
    /// What the kernel looks at.
    pub effective: CapabilitySet,
    /// What is kept over an exec, with the file's.
    pub inheritable: CapabilitySet,
    /// What can be made effective.
    pub permitted: CapabilitySet,
    /// What is kept over an exec of whatever program.
    pub ambient: CapabilitySet,
}

impl CapabilitySets {
    fn all(&mut self) -> [&mut CapabilitySet; 5] {
        [
            &mut self.bounding,
            &mut self.effective,
            &mut self.inheritable,
            &mut self.permitted,
            &mut self.ambient,
        ]
    }
}

/// A limit of a process.
#[derive(Debug, Clone)]
pub struct Limit {
    /// As `RLIMIT_NOFILE`.
    pub name: String,
    /// Which one.
    pub resource: Resource,
    /// What holds.
    pub value: Rlimit,
}

/// The most further groups (`NGROUPS_MAX` of `linux/limits.h`).
const MAX_GROUPS: usize = 65_536;

impl ProcessPlan {
    /// Decides how it is started.
    ///
    /// # Errors
    /// What is missing or wrong, by name.
    pub fn new(process: &Process) -> Result<Self> {
        ensure!(
            !process.args.is_empty(),
            "process.args is empty: no program is named"
        );
        refuse_unsupported(process)?;
        ensure!(
            process.cwd.starts_with('/'),
            "process.cwd: {:?} is not absolute",
            process.cwd
        );
        let user = &process.user;
        ensure!(
            user.additional_gids.len() <= MAX_GROUPS,
            "process.user.additionalGids: over {MAX_GROUPS} groups"
        );
        let list = |what: &str, list: &[String]| -> Result<Vec<CString>> {
            list.iter().map(|one| text(what, one)).collect()
        };
        if let Some(score) = process.oom_score_adj {
            ensure!(
                (-1000..=1000).contains(&score),
                "process.oomScoreAdj: {score} is not between -1000 and 1000"
            );
        }
        let (capabilities, passed_over) = match &process.capabilities {
            Some(capabilities) => sets(capabilities),
            None => sets(&config::Capabilities::default()),
        };
        Ok(Self {
            arguments: list("process.args", &process.args)?,
            environment: list("process.env", &process.env)?,
            directory: text("process.cwd", &process.cwd)?,
            terminal: process
                .terminal
                .then(|| process.console_size.unwrap_or_default()),
            uid: user.uid,
            gid: user.gid,
            groups: user.additional_gids.clone(),
            umask: user.umask.unwrap_or(0o022) & 0o777,
            capabilities,
            limits: limits(&process.rlimits)?,
            no_new_privileges: process.no_new_privileges.unwrap_or(false),
            oom_score_adj: process.oom_score_adj,
            io_priority: process.io_priority.as_ref().map(io_priority).transpose()?,
            passed_over,
        })
    }

    /// Leaves out what nobody can give who has only `own` (specification, "Linux Process": such a capability is told of and
    /// fails nothing).
    pub(crate) fn leave_ungrantable(&mut self, own: CapabilitySet) {
        let mut missing = CapabilitySet::empty();
        for set in self.capabilities.all() {
            missing |= set.difference(own);
            *set &= own;
        }
        let numbered = CAPABILITIES.iter().enumerate();
        let names = numbered.filter(|(number, _)| missing.bits() & 1 << number != 0);
        let passed_over = names.map(|(_, name)| {
            format!("process.capabilities: CAP_{name} is passed over: this command has not got it")
        });
        self.passed_over.extend(passed_over);
    }

    /// Where programs are looked for.
    #[must_use]
    pub fn search_path(&self) -> &OsStr {
        let path = self
            .environment
            .iter()
            .find_map(|variable| variable.to_bytes().strip_prefix(b"PATH="));
        OsStr::from_bytes(path.unwrap_or_default())
    }
}

fn refuse_unsupported(process: &Process) -> Result<()> {
    let named = |name: &Option<String>| name.as_deref().is_some_and(|name| !name.is_empty());
    // What is confined by no profile is what it is anyway.
    let profile = process.apparmor_profile.as_deref();
    ensure!(
        profile == Some("unconfined") || !named(&process.apparmor_profile),
        "process.apparmorProfile: AppArmor is not supported"
    );
    ensure!(
        !named(&process.selinux_label),
        "process.selinuxLabel: SELinux is not supported"
    );
    ensure!(
        process.exec_cpu_affinity.is_none(),
        "process.execCPUAffinity is not supported"
    );
    ensure!(
        process.scheduler.is_none(),
        "process.scheduler is not supported"
    );
    Ok(())
}

/// Names of capabilities; their numbers are their places (`linux/capability.h`).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// All names, for `features`.
pub(crate) fn capability_names() -> impl Iterator<Item = String> {
    CAPABILITIES.iter().map(|name| format!("CAP_{name}"))
}

/// The sets of these names; and of what nobody knows, in words (specification, "Linux Process": it is told of and fails nothing).
fn sets(capabilities: &config::Capabilities) -> (CapabilitySets, Vec<String>) {
    let mut unknown = BTreeSet::new();
    let sets = CapabilitySets {
        bounding: set(&capabilities.bounding, &mut unknown),
        effective: set(&capabilities.effective, &mut unknown),
        inheritable: set(&capabilities.inheritable, &mut unknown),
        permitted: set(&capabilities.permitted, &mut unknown),
        ambient: set(&capabilities.ambient, &mut unknown),
    };
    let unknown = unknown
        .into_iter()
        .map(|name| format!("process.capabilities: {name:?} is no capability: it is passed over"));
    (sets, unknown.collect())
}

/// The set of these names.
fn set(names: &[String], unknown: &mut BTreeSet<String>) -> CapabilitySet {
    let mut bits = 0_u64;
    for name in names {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        match CAPABILITIES.iter().position(|known| *known == short) {
            Some(number) => bits |= 1 << number,
            None => drop(unknown.insert(name.clone())),
        }
    }
    CapabilitySet::from_bits_retain(bits)
}

/// Names of limits (`setrlimit(2)`).
const LIMITS: [(&str, Resource); 16] = [
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_STACK", Resource::Stack),
];

fn limits(all: &[config::Rlimit]) -> Result<Vec<Limit>> {
    let mut limits: Vec<Limit> = Vec::new();
    for one in all {
        let one = limit(one)?;
        ensure!(
            limits.iter().all(|other| other.name != one.name),
            "process.rlimits: {} stands there twice",
            one.name
        );
        limits.push(one);
    }
    Ok(limits)
}

fn limit(limit: &config::Rlimit) -> Result<Limit> {
    let known = LIMITS.iter().find(|(name, _)| *name == limit.kind);
    let (name, resource) =
        known.with_context(|| format!("process.rlimits: {:?} is no limit", limit.kind))?;
    ensure!(
        limit.soft <= limit.hard,
        "process.rlimits: {name}: soft {} is over hard {}",
        limit.soft,
        limit.hard
    );
    let value = |number: u64| (number != u64::MAX).then_some(number);
    Ok(Limit {
        name: (*name).to_owned(),
        resource: *resource,
        value: Rlimit {
            current: value(limit.soft),
            maximum: value(limit.hard),
        },
    })
}

fn io_priority(priority: &config::IoPriority) -> Result<u16> {
    // IOPRIO_CLASS_* and IOPRIO_CLASS_SHIFT of linux/ioprio.h.
    let class: u16 = match priority.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => bail!("process.ioPriority: {other:?} is no class"),
    };
    let level = u16::try_from(priority.priority)
        .ok()
        .filter(|level| *level < 8);
    let level =
        level.with_context(|| format!("process.ioPriority: {} is over 7", priority.priority))?;
    Ok(class << 13 | level)
}
