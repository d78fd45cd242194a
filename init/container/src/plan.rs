//! What starting a container means, decided before it starts: pure, no I/O.
//!
//! A [`Plan`] is made from a definition of the verified revision and from what this device adds
//! ([`Context`]): where layers are mounted, which ids the container has, where its volumes are. It
//! holds everything as the kernel takes it, so that a start neither parses nor decides. Its `Display`
//! is a listing in a fixed order, for people and for tests.

mod listing;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt;
use std::path::Path;

use kedge_revision::container::{
    Capability, Check, Container, Lifetime, Network, RootWrites, User,
};
use kedge_revision::{Container as Definition, Name};
use kedge_sys::exec::{ExecImage, candidates};
use kedge_sys::privilege::CapabilitySet;

use crate::handshake::MAX_VOLUMES;
use crate::seccomp::Choice;

/// Ids of each container's user namespace, from its `id_base` on: all that a [`User`] can name.
pub const IDS: u32 = 1 << 16;

/// Bytes of an overlay in memory ([`RootWrites::Boot`]): what a process that only meant to write a
/// file or two needs; whoever needs more says so with a volume.
const BOOT_ROOT_BYTES: u64 = 64 << 20;
/// Bytes of a volume in memory whose definition names no size.
const BOOT_VOLUME_BYTES: u64 = 16 << 20;

/// What the device adds to a definition.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// First of the container's [`IDS`] ids on the device; not below [`IDS`], so that none of the
    /// device's own ids is among them.
    pub id_base: u32,
    /// The container's host name.
    pub host_name: &'a str,
    /// Values of the parameters that are not secret.
    pub parameters: &'a BTreeMap<Name, String>,
    /// Directories where the layers are attached, the lowest first; as many as the definition has.
    /// Short paths: the kernel takes at most 255 bytes.
    pub layers: &'a [&'a Path],
    /// For each volume its directory. It is made if it is not there; for the lifetime `boot` a tmpfs
    /// is mounted on it.
    pub volumes: &'a BTreeMap<Name, &'a Path>,
    /// The directory for the overlay's `upper` and `work`, where the definition asks for one.
    pub overlay: Option<&'a Path>,
    /// A directory with the sockets `control` and `notify` and the folder `secrets`, seen in the container as `/dev/kedge`.
    pub sockets: Option<&'a Path>,
    /// The file that a container with the device's network sees as `/etc/resolv.conf` if its image
    /// has one. It must be rewritten in place: a rename would leave containers with the old one.
    pub resolv_conf: Option<&'a Path>,
}

/// A definition that does not fit the device's context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanError {
    /// The ids do not begin at or above [`IDS`], or do not end below 2³².
    Ids(u32),
    /// As many layers are attached; the definition has another number.
    Layers(usize),
    /// More than [`MAX_VOLUMES`] volumes.
    Volumes(usize),
    /// No directory is known for this volume.
    Volume(Name),
    /// No directory is known for the overlay.
    Overlay,
    /// The variable is filled from a parameter that has no value.
    Parameter {
        /// The environment variable.
        variable: String,
        /// The parameter.
        parameter: Name,
    },
    /// This text has a NUL in it.
    Nul(String),
    /// A host name is at most 64 bytes.
    HostName(String),
    /// More groups than the engine sets.
    Groups(usize),
    /// A command without a program.
    NoProgram,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ids(base) => write!(f, "ids from {base} on are no range of {IDS} above {IDS}"),
            Self::Layers(count) => write!(f, "{count} layers are attached, not those defined"),
            Self::Volumes(count) => write!(f, "{count} volumes, over {MAX_VOLUMES}"),
            Self::Volume(name) => write!(f, "volume {name} has no directory"),
            Self::Overlay => f.write_str("the writable root has no directory"),
            Self::Parameter {
                variable,
                parameter,
            } => write!(f, "variable {variable}: parameter {parameter} has no value"),
            Self::Nul(text) => write!(f, "a NUL in {text:?}"),
            Self::HostName(name) => write!(f, "host name {name} is over 64 bytes"),
            Self::Groups(count) => write!(f, "{count} groups are too many"),
            Self::NoProgram => f.write_str("a command names no program"),
        }
    }
}

impl std::error::Error for PlanError {}

/// A container, ready to be started any number of times.
#[derive(Debug)]
pub struct Plan {
    pub(crate) name: CString,
    pub(crate) id_base: u32,
    /// The line of `uid_map` and `gid_map`.
    pub(crate) id_map: String,
    pub(crate) host_name: String,
    pub(crate) root: Root,
    /// By target, so that what lies in another comes after it.
    pub(crate) volumes: Vec<VolumePlan>,
    pub(crate) sockets: Option<CString>,
    pub(crate) resolv_conf: Option<CString>,
    pub(crate) network: Network,
    pub(crate) limits: Vec<Limit>,
    pub(crate) program: Program,
    pub(crate) user: UserPlan,
    pub(crate) working_directory: CString,
    pub(crate) capabilities: CapabilitySet,
    pub(crate) filter: Choice,
}

/// The root file system.
#[derive(Debug)]
pub(crate) struct Root {
    /// The lowest first.
    pub(crate) layers: Vec<CString>,
    pub(crate) writes: Option<Writes>,
}

/// Where the root's writes go.
#[derive(Debug)]
pub(crate) struct Writes {
    /// Holds `upper` and `work`.
    pub(crate) directory: CString,
    /// Bytes of a tmpfs on it.
    pub(crate) memory: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct VolumePlan {
    pub(crate) source: CString,
    pub(crate) target: CString,
    /// User and group of the directory when it is made, as on disk.
    pub(crate) owner: (u16, u16),
    /// Bytes of a tmpfs on it.
    pub(crate) memory: Option<u64>,
}

/// One write into the container's cgroup.
#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) file: &'static std::ffi::CStr,
    pub(crate) value: String,
    /// Whether the definition asks for it. A default of ours does without on a kernel that lacks it.
    pub(crate) required: bool,
}

/// What is executed.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) arguments: Vec<CString>,
    pub(crate) environment: Vec<CString>,
}

#[derive(Debug)]
pub(crate) struct UserPlan {
    pub(crate) uid: u16,
    pub(crate) gid: u16,
    pub(crate) groups: Vec<u32>,
}

impl Plan {
    /// Decides how `definition` is started as `name`.
    ///
    /// # Errors
    /// [`PlanError`]: the context lacks something, or does not fit. A definition that its `check`
    /// accepts has no other fault.
    pub fn new(
        name: &Name,
        definition: &Definition,
        context: &Context<'_>,
    ) -> Result<Self, PlanError> {
        let base = context.id_base;
        if base < IDS || base.checked_add(IDS).is_none() {
            return Err(PlanError::Ids(base));
        }
        if context.host_name.len() > 64 {
            return Err(PlanError::HostName(context.host_name.to_owned()));
        }
        let process = &definition.process;
        if process.user.groups.len() > kedge_sys::privilege::MAX_GROUPS {
            return Err(PlanError::Groups(process.user.groups.len()));
        }
        let capabilities = capability_set(&definition.capabilities);
        let host_network = definition.network == Network::Host;
        let resolv_conf = context.resolv_conf.filter(|_| host_network);
        Ok(Self {
            name: text(name.as_str())?,
            id_base: base,
            id_map: format!("0 {base} {IDS}\n"),
            host_name: context.host_name.to_owned(),
            root: root(definition, context)?,
            volumes: volumes(definition, context)?,
            sockets: context.sockets.map(path).transpose()?,
            resolv_conf: resolv_conf.map(path).transpose()?,
            network: definition.network,
            limits: limits(definition),
            program: Program {
                arguments: texts(&process.arguments)?,
                environment: environment(definition, context)?,
            },
            user: UserPlan {
                uid: process.user.uid,
                gid: process.user.gid,
                groups: process.user.groups.iter().copied().map(u32::from).collect(),
            },
            working_directory: text(&process.working_directory)?,
            capabilities,
            filter: Choice::new(capabilities),
        })
    }

    /// The first id on the device that belongs to this container.
    #[must_use]
    pub const fn id_base(&self) -> u32 {
        self.id_base
    }

    /// The container's process as an exec takes it.
    pub(crate) fn image(&self) -> ExecImage {
        self.image_of(self.program.arguments.clone())
    }

    /// Another command with the container's environment.
    ///
    /// # Errors
    /// No program, or a NUL.
    pub(crate) fn command(&self, arguments: &[String]) -> Result<ExecImage, PlanError> {
        let arguments = texts(arguments)?;
        if arguments.is_empty() {
            return Err(PlanError::NoProgram);
        }
        Ok(self.image_of(arguments))
    }

    fn image_of(&self, arguments: Vec<CString>) -> ExecImage {
        let environment = self.program.environment.clone();
        let search = environment
            .iter()
            .find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="))
            .unwrap_or_default();
        let search = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(search);
        let program = arguments.first().map(CString::as_c_str).unwrap_or_default();
        let paths = candidates(program, search);
        ExecImage::with_candidates(paths, arguments, environment)
    }
}

fn text(text: &str) -> Result<CString, PlanError> {
    CString::new(text).map_err(|_| PlanError::Nul(text.to_owned()))
}

fn texts(list: &[String]) -> Result<Vec<CString>, PlanError> {
    list.iter().map(|entry| text(entry)).collect()
}

fn path(path: &Path) -> Result<CString, PlanError> {
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
    CString::new(bytes).map_err(|_| PlanError::Nul(path.display().to_string()))
}

/// The kernel's set of the named capabilities.
fn capability_set(names: &[Capability]) -> CapabilitySet {
    let bits = names.iter().fold(0, |bits, name| bits | 1 << *name as u8);
    CapabilitySet::from_bits_retain(bits)
}

fn root(definition: &Container, context: &Context<'_>) -> Result<Root, PlanError> {
    if context.layers.len() != definition.layers.len() {
        return Err(PlanError::Layers(context.layers.len()));
    }
    let memory = match definition.root {
        RootWrites::Refused => None,
        RootWrites::Revision => Some(None),
        RootWrites::Boot => Some(Some(BOOT_ROOT_BYTES)),
    };
    let writes = match memory {
        None => None,
        Some(memory) => Some(Writes {
            directory: path(context.overlay.ok_or(PlanError::Overlay)?)?,
            memory,
        }),
    };
    let layers: Result<_, _> = context.layers.iter().copied().map(path).collect();
    Ok(Root {
        layers: layers?,
        writes,
    })
}

fn volumes(definition: &Container, context: &Context<'_>) -> Result<Vec<VolumePlan>, PlanError> {
    if definition.volumes.len() > MAX_VOLUMES {
        return Err(PlanError::Volumes(definition.volumes.len()));
    }
    let mut plans = Vec::with_capacity(definition.volumes.len());
    for (name, volume) in &definition.volumes {
        let source = context.volumes.get(name);
        let source = source.ok_or_else(|| PlanError::Volume(name.clone()))?;
        let User { uid, gid, .. } = volume.owner.as_ref().unwrap_or(&definition.process.user);
        plans.push(VolumePlan {
            source: path(source)?,
            target: text(&volume.path)?,
            owner: (*uid, *gid),
            memory: (volume.lifetime == Lifetime::Boot)
                .then(|| volume.size.unwrap_or(BOOT_VOLUME_BYTES)),
        });
    }
    plans.sort_by(|one, other| one.target.cmp(&other.target));
    Ok(plans)
}

/// The image's variables, those filled from parameters, and those that name our sockets; a later one
/// takes the place of an earlier one with its name.
fn environment(definition: &Container, context: &Context<'_>) -> Result<Vec<CString>, PlanError> {
    let process = &definition.process;
    let mut entries = texts(&process.environment)?;
    for (variable, parameter) in &process.parameters {
        let value = context.parameters.get(parameter);
        let value = value.ok_or_else(|| PlanError::Parameter {
            variable: variable.clone(),
            parameter: parameter.clone(),
        })?;
        set_variable(&mut entries, variable, value)?;
    }
    if context.sockets.is_some() {
        let health = definition.health.as_ref();
        if health.is_some_and(|health| health.check == Check::Notify) {
            set_variable(&mut entries, "NOTIFY_SOCKET", "/dev/kedge/notify")?;
        }
        if !definition.roles.is_empty() {
            set_variable(&mut entries, "KEDGE_CONTROL", "/dev/kedge/control")?;
        }
    }
    Ok(entries)
}

fn set_variable(entries: &mut Vec<CString>, name: &str, value: &str) -> Result<(), PlanError> {
    let entry = text(&[name, "=", value].concat())?;
    let same = |old: &&mut CString| {
        let rest = old.to_bytes().strip_prefix(name.as_bytes());
        rest.is_some_and(|rest| rest.starts_with(b"="))
    };
    match entries.iter_mut().find(same) {
        Some(old) => *old = entry,
        None => entries.push(entry),
    }
    Ok(())
}

/// Microseconds of `cpu.max`'s period, the kernel's default.
const CPU_PERIOD: u64 = 100_000;

fn limits(definition: &Container) -> Vec<Limit> {
    let limits = &definition.limits;
    let mut list = Vec::with_capacity(8);
    let mut put = |file, value: Option<u64>| {
        if let Some(value) = value {
            list.push(Limit {
                file,
                value: value.to_string(),
                required: true,
            });
        }
    };
    put(c"memory.max", limits.memory_max);
    put(c"memory.high", limits.memory_high);
    put(c"memory.min", limits.memory_min);
    put(c"cpu.weight", limits.cpu_weight.map(u64::from));
    put(c"pids.max", limits.pids_max.map(u64::from));
    if let Some(percent) = limits.cpu_max_percent {
        let quota = u64::from(percent).saturating_mul(CPU_PERIOD / 100);
        list.push(Limit {
            file: c"cpu.max",
            value: format!("{quota} {CPU_PERIOD}"),
            required: true,
        });
    }
    if limits.pids_max.is_none() {
        list.push(Limit {
            file: c"pids.max",
            value: Container::DEFAULT_PIDS_MAX.to_string(),
            required: false,
        });
    }
    // A container that loses one process to a lack of memory is not the one that was defined.
    list.push(Limit {
        file: c"memory.oom.group",
        value: "1".to_owned(),
        required: false,
    });
    list
}

#[cfg(test)]
mod tests;
