//! What starting a container means, decided before it starts: pure, no I/O.
//!
//! A [`Plan`] is made from a definition of the verified revision and from what this device adds
//! ([`Context`]): where layers are mounted, which ids the container has, where its volumes are. It
//! holds everything as the kernel takes it, so that a start neither parses nor decides. Its `Display`
//! is a listing in a fixed order, for people and for tests.

pub(crate) mod command;
mod listing;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use kedge_revision::configuration::Prefix;
use kedge_revision::container::{
    Capability, Check, Container, Lifetime, Network, RootWrites, User,
};
use kedge_revision::{Container as Definition, Name};
use kedge_sys::exec::ExecImage;
use kedge_sys::privilege::CapabilitySet;

use crate::device::DeviceNode;
use crate::handshake::MAX_VOLUMES;
use crate::seccomp::Choice;

/// Ids of each container's user namespace, from its `id_base` on: all that a [`User`] can name.
pub const IDS: u32 = 1 << 16;

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
    /// The file that a container with the device's network or in a pool sees as `/etc/resolv.conf`, if its image has one or
    /// it is in a pool. It must be rewritten in place: a rename would leave containers with the old one.
    pub resolv_conf: Option<&'a Path>,
    /// The file that a container in a pool sees as `/etc/hosts`; likewise.
    pub hosts: Option<&'a Path>,
    /// Major and minor number of the whole disk that volumes are on, where there is one: limits of what is read and
    /// written are about it.
    pub disk: Option<(u32, u32)>,
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
    /// This is no address of a container in a pool.
    Address(Prefix),
    /// The definition limits what is read from a disk or written to it, and there is none.
    Disk,
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
            Self::Address(address) => write!(f, "{address} is no address of a pool"),
            Self::Disk => f.write_str("limits.io-…: data is on no disk"),
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
    pub(crate) hosts: Option<CString>,
    /// Devices beside the six of every container; `None`: it can have none, and shares its `/dev` with all such.
    pub(crate) devices: Option<Vec<DeviceNode>>,
    pub(crate) network: NetworkPlan,
    pub(crate) limits: Vec<Limit>,
    pub(crate) program: Program,
    pub(crate) user: UserPlan,
    pub(crate) working_directory: CString,
    pub(crate) capabilities: CapabilitySet,
    pub(crate) filter: Choice,
}

/// The network namespace that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NetworkPlan {
    /// Its own, with a loopback interface.
    None,
    /// The device's.
    Host,
    /// Its own, with an interface in a pool beside the loopback.
    Pool(Attachment),
}

/// What an interface in a pool is set up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(crate) address: Ipv4Addr,
    /// Bits of the prefix.
    pub(crate) length: u8,
    /// The prefix's first address.
    pub(crate) gateway: Ipv4Addr,
    /// Its last.
    pub(crate) broadcast: Ipv4Addr,
    pub(crate) six: Option<Attachment6>,
}

/// The same of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attachment6 {
    pub(crate) address: Ipv6Addr,
    pub(crate) length: u8,
    pub(crate) gateway: Ipv6Addr,
}

impl Attachment6 {
    fn new(place: Prefix) -> Result<Self, PlanError> {
        let bad = || PlanError::Address(place);
        let Prefix { address, length } = place;
        let IpAddr::V6(address) = address else {
            return Err(bad());
        };
        let hosts = u128::MAX.checked_shr(length.into()).ok_or_else(bad)?;
        Ok(Self {
            address,
            length,
            gateway: (address.to_bits() & !hosts | 1).into(),
        })
    }
}

impl NetworkPlan {
    fn new(network: &Network) -> Result<Self, PlanError> {
        let place = match network {
            Network::None => return Ok(Self::None),
            Network::Host => return Ok(Self::Host),
            Network::Pool(place) => place,
        };
        let bad = || PlanError::Address(place.address);
        let Prefix { address, length } = place.address;
        let IpAddr::V4(address) = address else {
            return Err(bad());
        };
        let hosts = u32::MAX.checked_shr(length.into()).ok_or_else(bad)?;
        let first = address.to_bits() & !hosts;
        Ok(Self::Pool(Attachment {
            address,
            length,
            gateway: (first | 1).into(),
            broadcast: (first | hosts).into(),
            six: place.address6.map(Attachment6::new).transpose()?,
        }))
    }

    /// Whether it has a namespace of its own.
    pub(crate) fn is_own(self) -> bool {
        self != Self::Host
    }
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
    pub(crate) medium: Medium,
}

/// What data is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Medium {
    /// A tmpfs of so many bytes.
    Memory(u64),
    /// The disk, where it may take so many bytes.
    Disk(Option<u64>),
}

#[derive(Debug)]
pub(crate) struct VolumePlan {
    pub(crate) source: CString,
    pub(crate) target: CString,
    /// User and group of the directory when it is made, as on disk.
    pub(crate) owner: (u16, u16),
    pub(crate) medium: Medium,
}

/// One write into the container's cgroup.
#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) file: Cow<'static, CStr>,
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

#[derive(Debug, Clone)]
pub(crate) struct UserPlan {
    pub(crate) uid: u16,
    pub(crate) gid: u16,
    pub(crate) groups: Vec<u32>,
}

impl UserPlan {
    fn new(user: &User) -> Result<Self, PlanError> {
        if user.groups.len() > kedge_sys::privilege::MAX_GROUPS {
            return Err(PlanError::Groups(user.groups.len()));
        }
        Ok(Self {
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.iter().copied().map(u32::from).collect(),
        })
    }
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
        let capabilities = capability_set(&definition.capabilities);
        let network = NetworkPlan::new(&definition.network)?;
        let resolv_conf = context.resolv_conf.filter(|_| network != NetworkPlan::None);
        let hosts = context
            .hosts
            .filter(|_| matches!(network, NetworkPlan::Pool(_)));
        Ok(Self {
            name: text(name.as_str())?,
            id_base: base,
            id_map: format!("0 {base} {IDS}\n"),
            host_name: context.host_name.to_owned(),
            root: root(definition, context)?,
            volumes: volumes(definition, context)?,
            sockets: context.sockets.map(path).transpose()?,
            resolv_conf: resolv_conf.map(path).transpose()?,
            hosts: hosts.map(path).transpose()?,
            devices: (!definition.devices.is_empty()).then(Vec::new),
            network,
            limits: limits(definition, context.disk)?,
            program: Program {
                arguments: texts(&process.arguments)?,
                environment: environment(definition, context)?,
            },
            user: UserPlan::new(&process.user)?,
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

    /// Devices that it has from its next start on; one without rules has none. One that runs: [`crate::Engine::change_devices`].
    pub fn set_devices(&mut self, nodes: Vec<DeviceNode>) {
        if let Some(devices) = &mut self.devices {
            *devices = nodes;
        }
    }

    /// The container's process as an exec takes it.
    pub(crate) fn image(&self) -> ExecImage {
        let Program {
            arguments,
            environment,
        } = &self.program;
        command::image_of(arguments.clone(), environment.clone())
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
    let most = definition.limits.root_max;
    let medium = match definition.root {
        RootWrites::Refused => None,
        RootWrites::Revision => Some(Medium::Disk(most)),
        RootWrites::Boot => Some(Medium::Memory(
            most.unwrap_or(Definition::DEFAULT_ROOT_BOOT),
        )),
    };
    let writes = match medium {
        None => None,
        Some(medium) => Some(Writes {
            directory: path(context.overlay.ok_or(PlanError::Overlay)?)?,
            medium,
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
            medium: match volume.lifetime {
                Lifetime::Boot => Medium::Memory(volume.size.unwrap_or(BOOT_VOLUME_BYTES)),
                Lifetime::Permanent | Lifetime::Revision => Medium::Disk(volume.size),
            },
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

fn limits(definition: &Container, disk: Option<(u32, u32)>) -> Result<Vec<Limit>, PlanError> {
    let limits = &definition.limits;
    let mut list = Vec::with_capacity(8);
    let mut put = |file, value, required| {
        list.push(Limit {
            file: Cow::Borrowed(file),
            value,
            required,
        });
    };
    for (file, value) in [
        (c"memory.max", limits.memory_max),
        (c"memory.high", limits.memory_high),
        (c"memory.min", limits.memory_min),
        (c"memory.swap.max", limits.memory_swap_max),
        (c"cpu.weight", limits.cpu_weight.map(u64::from)),
        (c"pids.max", limits.pids_max.map(u64::from)),
    ] {
        if let Some(value) = value {
            put(file, value.to_string(), true);
        }
    }
    if let Some(percent) = limits.cpu_max_percent {
        let quota = u64::from(percent).saturating_mul(CPU_PERIOD / 100);
        put(c"cpu.max", format!("{quota} {CPU_PERIOD}"), true);
    }
    let rates = [
        ("rbps", limits.io_read_max),
        ("wbps", limits.io_write_max),
        ("riops", limits.io_reads_max.map(u64::from)),
        ("wiops", limits.io_writes_max.map(u64::from)),
    ];
    if rates.iter().any(|(_, rate)| rate.is_some()) {
        let (major, minor) = disk.ok_or(PlanError::Disk)?;
        let mut value = format!("{major}:{minor}");
        for (key, rate) in rates {
            if let Some(rate) = rate {
                value = format!("{value} {key}={rate}");
            }
        }
        put(c"io.max", value, true);
    }
    if limits.pids_max.is_none() {
        let most = Container::DEFAULT_PIDS_MAX;
        put(c"pids.max", most.to_string(), false);
    }
    // A container that loses one process to a lack of memory is not the one that was defined.
    put(c"memory.oom.group", "1".to_owned(), false);
    for (file, value) in &limits.unified {
        list.push(Limit {
            file: Cow::Owned(text(file)?),
            value: value.clone(),
            required: true,
        });
    }
    Ok(list)
}

#[cfg(test)]
mod tests;
