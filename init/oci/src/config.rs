//! `config.json`: what a bundle asks for, as it was written. Nothing is decided here.
//!
//! Source: Open Container Initiative, runtime specification 1.2, `config.md` and `config-linux.md`. What a document has beyond
//! the specification is ignored, as `config.md`, "Extensibility", demands. A later 1.x adds members and changes none, and engines
//! write the newest version into every document: so what 1.3 adds is known here to be refused by its name, and not the version.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// The longest document, bytes. Those of Kubernetes with a large seccomp profile have some 60 kB.
pub const LONGEST: u64 = 4 << 20;

/// A container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// The version of the specification, as `1.2.0`.
    pub oci_version: String,
    /// Its root file system.
    pub root: Option<Root>,
    /// What is mounted there, in this order.
    pub mounts: Vec<Mount>,
    /// Its process.
    pub process: Option<Process>,
    /// Its host name.
    pub hostname: Option<String>,
    /// Its NIS domain.
    pub domainname: Option<String>,
    /// Programs that are run at its turns.
    pub hooks: Hooks,
    /// Whatever its user wants to remember.
    pub annotations: BTreeMap<String, String>,
    /// What only Linux has.
    pub linux: Linux,
}

/// A root file system.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Root {
    /// Absolute, or from the bundle's folder.
    pub path: PathBuf,
    /// Whether nothing may be written to it.
    pub readonly: bool,
}

/// A mount.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    /// In the container, absolute.
    pub destination: String,
    /// Kind of the file system, or `bind`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// A device, a name, or a path outside.
    pub source: Option<String>,
    /// As `mount(8)` has them.
    pub options: Vec<String>,
    /// Ids of the mount, for an idmapped one.
    pub uid_mappings: Vec<IdMapping>,
    /// Likewise of groups.
    pub gid_mappings: Vec<IdMapping>,
}

/// A process of a container: its first one, or one that is executed in it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// That terminal's size.
    pub console_size: Option<ConsoleSize>,
    /// Who it is.
    pub user: User,
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory, absolute.
    pub cwd: String,
    /// None: the container's for a process that is executed in it, and none for its first one.
    pub capabilities: Option<Capabilities>,
    /// Limits of `setrlimit(2)`.
    pub rlimits: Vec<Rlimit>,
    /// Whether programs with more privilege than their caller lose it.
    pub no_new_privileges: Option<bool>,
    /// Refused where the kernel has no AppArmor.
    pub apparmor_profile: Option<String>,
    /// Refused where the kernel has no SELinux.
    pub selinux_label: Option<String>,
    /// How soon the kernel ends it when memory is out.
    pub oom_score_adj: Option<i32>,
    /// Priority of its input and output.
    pub io_priority: Option<IoPriority>,
    /// Its scheduling.
    pub scheduler: Option<serde_json::Value>,
    /// Refused.
    #[serde(rename = "execCPUAffinity")]
    pub exec_cpu_affinity: Option<IgnoredAny>,
}

/// A terminal's size, in characters.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct ConsoleSize {
    /// Lines.
    pub height: u16,
    /// Columns.
    pub width: u16,
}

/// Ids of a process.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// In the container.
    pub uid: u32,
    /// In the container.
    pub gid: u32,
    /// Permissions that its files do not get.
    pub umask: Option<u32>,
    /// Further groups.
    pub additional_gids: Vec<u32>,
}

/// Names of capabilities, as `CAP_CHOWN`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// What a program can get at most.
    pub bounding: Vec<String>,
    /// What the kernel looks at.
    pub effective: Vec<String>,
    /// What is kept over an exec, with the file's.
    pub inheritable: Vec<String>,
    /// What can be made effective.
    pub permitted: Vec<String>,
    /// What is kept over an exec of whatever program.
    pub ambient: Vec<String>,
}

/// A limit of a process.
#[derive(Debug, Clone, Deserialize)]
pub struct Rlimit {
    /// As `RLIMIT_NOFILE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the process can raise it to.
    pub hard: u64,
    /// What holds.
    pub soft: u64,
}

/// Priority of input and output (`ioprio_set(2)`).
#[derive(Debug, Clone, Deserialize)]
pub struct IoPriority {
    /// As `IOPRIO_CLASS_BE`.
    pub class: String,
    /// 0, the first, to 7.
    #[serde(default)]
    pub priority: u32,
}

/// Programs that are run at a container's turns.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// Before the root changes, outside. Older name of the next.
    pub prestart: Vec<Hook>,
    /// Likewise.
    pub create_runtime: Vec<Hook>,
    /// Before the root changes, in the container's namespaces.
    pub create_container: Vec<Hook>,
    /// Before the process is executed, in the container.
    pub start_container: Vec<Hook>,
    /// After it was started, outside.
    pub poststart: Vec<Hook>,
    /// After it was deleted, outside.
    pub poststop: Vec<Hook>,
}

/// A program that gets the container's state on its standard input.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Hook {
    /// Absolute.
    pub path: String,
    /// All of them, the program's name first.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Seconds after which it is ended; none: never.
    pub timeout: Option<u64>,
}

/// What only Linux has.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Linux {
    /// Namespaces that are made or joined; those of whoever runs this command else.
    pub namespaces: Vec<Namespace>,
    /// Ids of a new user namespace.
    pub uid_mappings: Vec<IdMapping>,
    /// Likewise of groups.
    pub gid_mappings: Vec<IdMapping>,
    /// Devices in `/dev` beside the six that every container has.
    pub devices: Vec<Device>,
    /// Place in the tree of control groups.
    pub cgroups_path: Option<String>,
    /// Limits.
    pub resources: Option<Resources>,
    /// Settings below `/proc/sys`, with dots.
    pub sysctl: BTreeMap<String, String>,
    /// The filter of system calls.
    pub seccomp: Option<Seccomp>,
    /// How mounts spread from and to the root, as `rslave`.
    pub rootfs_propagation: Option<String>,
    /// What is hidden.
    pub masked_paths: Vec<String>,
    /// What is made read-only.
    pub readonly_paths: Vec<String>,
    /// Refused where the kernel has no SELinux.
    pub mount_label: Option<String>,
    /// The execution domain.
    pub personality: Option<Personality>,
    /// What the clocks of a new time namespace are ahead.
    pub time_offsets: BTreeMap<String, TimeOffset>,
    /// Not supported.
    pub intel_rdt: Option<serde_json::Value>,
    /// Refused: of version 1.3.
    pub net_devices: BTreeMap<String, IgnoredAny>,
    /// Refused: of version 1.3.
    pub memory_policy: Option<IgnoredAny>,
}

/// A filter of system calls.
#[derive(Debug, Clone)]
pub struct Seccomp {
    /// What is judged how.
    pub rules: oci_spec::runtime::LinuxSeccomp,
    /// Whether whoever waits for a listener's answer is woken by fatal signals alone ([`KILLABLE_WAIT`]).
    pub killable_wait: bool,
}

/// The flag of a filter that the types of `rules` have no word for.
pub const KILLABLE_WAIT: &str = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV";

impl<'de> Deserialize<'de> for Seccomp {
    fn deserialize<D: serde::Deserializer<'de>>(document: D) -> Result<Self, D::Error> {
        let mut document = serde_json::Value::deserialize(document)?;
        let mut killable_wait = false;
        let flags = document.get_mut("flags");
        if let Some(flags) = flags.and_then(serde_json::Value::as_array_mut) {
            let all = flags.len();
            flags.retain(|flag| flag != KILLABLE_WAIT);
            killable_wait = flags.len() < all;
        }
        let rules = serde_json::from_value(document).map_err(serde::de::Error::custom)?;
        Ok(Self {
            rules,
            killable_wait,
        })
    }
}

/// A namespace.
#[derive(Debug, Clone, Deserialize)]
pub struct Namespace {
    /// As `network`.
    #[serde(rename = "type")]
    pub kind: String,
    /// That of this file; none: a new one.
    #[serde(default)]
    pub path: Option<PathBuf>,
}

/// A run of ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdMapping {
    /// The first inside.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// The first outside.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// A device node.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// In the container.
    pub path: String,
    /// `c`, `u`, `b` or `p`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its number.
    #[serde(default)]
    pub major: u32,
    /// Its number.
    #[serde(default)]
    pub minor: u32,
    /// Permissions.
    #[serde(default)]
    pub file_mode: Option<u32>,
    /// Owner, in the container.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Group, in the container.
    #[serde(default)]
    pub gid: Option<u32>,
}

/// The execution domain (`personality(2)`).
#[derive(Debug, Clone, Deserialize)]
pub struct Personality {
    /// `LINUX` or `LINUX32`.
    pub domain: String,
    /// The specification knows none yet.
    #[serde(default)]
    pub flags: Vec<String>,
}

/// What a clock is ahead.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct TimeOffset {
    /// Seconds; may be negative.
    pub secs: i64,
    /// Nanoseconds.
    pub nanosecs: u32,
}

/// Limits of a container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// Which devices it may use; the last rule that fits counts.
    pub devices: Vec<DeviceRule>,
    /// Memory.
    pub memory: Memory,
    /// Processors.
    pub cpu: Cpu,
    /// Processes.
    pub pids: Option<Pids>,
    /// Input and output.
    #[serde(rename = "blockIO")]
    pub block_io: BlockIo,
    /// Huge pages.
    pub hugepage_limits: Vec<HugepageLimit>,
    /// Files of the control group and what is written to them.
    pub unified: BTreeMap<String, String>,
    /// Refused.
    pub network: NetworkLimits,
    /// Refused.
    pub rdma: BTreeMap<String, IgnoredAny>,
}

/// Marks of packets: of control groups of version 1 alone.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NetworkLimits {
    /// Zero is none.
    #[serde(rename = "classID")]
    pub class_id: Option<u32>,
    /// By interface.
    pub priorities: Vec<IgnoredAny>,
}

/// Whether devices may be used.
#[derive(Debug, Clone, Deserialize)]
pub struct DeviceRule {
    /// Whether they may.
    pub allow: bool,
    /// `a`, `b` or `c`; none: all.
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    /// None or -1: all.
    #[serde(default)]
    pub major: Option<i64>,
    /// None or -1: all.
    #[serde(default)]
    pub minor: Option<i64>,
    /// Of `rwm`; none: all.
    #[serde(default)]
    pub access: Option<String>,
}

/// Memory, bytes; -1 is no limit.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// At most.
    pub limit: Option<i64>,
    /// What is left to it when others want memory.
    pub reservation: Option<i64>,
    /// Memory and swap together, at most.
    pub swap: Option<i64>,
    /// Refused.
    pub swappiness: Option<u64>,
    /// Whether a limit below what is used is refused.
    pub check_before_update: Option<bool>,
    /// Refused if it is so.
    #[serde(rename = "disableOOMKiller")]
    pub disable_oom_killer: Option<bool>,
    /// Refused if it is a limit.
    pub kernel: Option<i64>,
    /// Refused if it is a limit.
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: Option<i64>,
}

/// Processors.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cpu {
    /// Weight, 2 to 262,144; 1,024 is what everyone has.
    pub shares: Option<u64>,
    /// Microseconds in each period; -1: all.
    pub quota: Option<i64>,
    /// Microseconds.
    pub period: Option<u64>,
    /// Microseconds that may be saved up.
    pub burst: Option<u64>,
    /// 1: only what nobody else wants.
    pub idle: Option<i64>,
    /// As `0-3,5`.
    pub cpus: Option<String>,
    /// Nodes of memory, likewise.
    pub mems: Option<String>,
    /// Refused if there is some.
    pub realtime_runtime: Option<i64>,
    /// Refused if there is some.
    pub realtime_period: Option<u64>,
}

/// Processes.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Pids {
    /// At most; 0 or less: no limit.
    pub limit: i64,
}

/// Input and output.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlockIo {
    /// 10 to 1,000.
    pub weight: Option<u64>,
    /// Refused if there is one.
    pub leaf_weight: Option<u64>,
    /// Refused.
    pub weight_device: Vec<IgnoredAny>,
    /// Bytes a second.
    pub throttle_read_bps_device: Vec<Throttle>,
    /// Bytes a second.
    pub throttle_write_bps_device: Vec<Throttle>,
    /// Operations a second.
    #[serde(rename = "throttleReadIOPSDevice")]
    pub throttle_read_iops_device: Vec<Throttle>,
    /// Operations a second.
    #[serde(rename = "throttleWriteIOPSDevice")]
    pub throttle_write_iops_device: Vec<Throttle>,
}

/// A rate of one device.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Throttle {
    /// The device's number.
    pub major: u32,
    /// The device's number.
    pub minor: u32,
    /// A second.
    pub rate: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HugepageLimit {
    /// As `2MB`.
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}

impl Spec {
    /// Reads a document.
    ///
    /// # Errors
    /// It is no JSON of this form, with the place; or of a specification before 1.0 or after 1.x.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let spec: Self = serde_json::from_slice(bytes)?;
        ensure!(
            spec.oci_version.starts_with("1."),
            "ociVersion {:?} is not supported: 1.x is",
            spec.oci_version
        );
        Ok(spec)
    }

    /// Reads the document of a bundle, and returns it with its bytes.
    ///
    /// # Errors
    /// It cannot be read, is over [`LONGEST`], or [`Spec::parse`].
    pub fn load(bundle: &Path) -> Result<(Self, Vec<u8>)> {
        let path = bundle.join("config.json");
        let bytes = read_up_to(&path)?;
        let spec = Self::parse(&bytes).with_context(|| format!("in {}", path.display()))?;
        Ok((spec, bytes))
    }
}

/// A file of at most [`LONGEST`] bytes.
///
/// # Errors
/// It cannot be read, or is longer.
pub fn read_up_to(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("read {}", path.display()))?;
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    ensure!(
        length <= LONGEST,
        "{} is longer than {LONGEST} bytes",
        path.display()
    );
    Ok(bytes)
}
