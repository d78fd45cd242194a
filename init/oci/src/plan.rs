//! What a configuration means, decided before anything is started: pure, no I/O.
//!
//! A [`Plan`] holds what the kernel takes, so that the start of a container decides nothing. What cannot be done is refused
//! here, by its name in the document; nothing that a document asks for is left out silently.

mod long;
mod mounts;
mod process;
#[cfg(test)]
mod tests;

use std::ffi::CString;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use kedge_oci_seccomp::Compiled;
use kedge_sys::clone::Namespaces;

use crate::config::{Device, Hooks, IdMapping, Linux, Spec};
use crate::resources::{self, Limits};

pub(crate) use mounts::words as mount_words;
pub use mounts::{Change, Ids, MountPlan, Source, Spread, Target};
pub(crate) use process::capability_names;
pub use process::{CapabilitySets, Limit, ProcessPlan};

/// A container, ready to be started.
#[derive(Debug)]
pub struct Plan {
    /// Namespaces that are made.
    pub new: Namespaces,
    /// Namespaces that are joined, in the order in which that works.
    pub joined: Vec<(Namespaces, PathBuf)>,
    /// Text of `uid_map` and of `gid_map` for a new user namespace.
    pub maps: Option<(String, String)>,
    /// The root file system, absolute.
    pub root: PathBuf,
    /// Whether it is made read-only at the end.
    pub read_only_root: bool,
    /// How mounts spread.
    pub propagation: Option<mounts::Spread>,
    /// What is mounted there.
    pub mounts: Vec<MountPlan>,
    /// Device nodes beside the usual ones.
    pub devices: Vec<DevicePlan>,
    /// What is hidden, what is made read-only.
    pub masked: Vec<CString>,
    /// Likewise.
    pub read_only: Vec<CString>,
    /// Names of the machine.
    pub host_name: Option<String>,
    /// Likewise.
    pub domain_name: Option<String>,
    /// Paths below `/proc/sys`, and values.
    pub settings: Vec<(String, String)>,
    /// Which namespaces are changed, and by what of the document: they must not be those of the machine.
    pub changed: Vec<(Namespaces, String)>,
    /// Lines of `timens_offsets`.
    pub time_offsets: Option<String>,
    /// The execution domain.
    pub personality: Option<u32>,
    /// The control group's path below the hierarchy, without a slash in front.
    pub cgroup: PathBuf,
    /// What is written there.
    pub limits: Limits,
    /// The first process.
    pub process: ProcessPlan,
    /// The filter of system calls.
    pub filter: Option<Compiled>,
    /// Programs at its turns.
    pub hooks: Hooks,
    /// What of the document is not kept as it stands there, in words, beside what of its process is not: the specification wants
    /// it told instead of refused.
    pub passed_over: Vec<String>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePlan {
    /// In the container, absolute.
    pub path: CString,
    /// Its kind.
    pub kind: DeviceKind,
    /// Number of the driver, and of the device.
    pub number: (u32, u32),
    /// Permissions.
    pub mode: u32,
    /// Owner and group, in the container.
    pub owner: (u32, u32),
}

/// Kind of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Characters.
    Character,
    /// Blocks.
    Block,
    /// A pipe with a name.
    Pipe,
}

impl Plan {
    /// Decides how the container `id` of a bundle is started.
    ///
    /// # Errors
    /// What the document lacks, what is wrong in it, what is not supported; by name.
    pub fn new(id: &str, spec: &Spec, bundle: &Path) -> Result<Self> {
        let linux = &spec.linux;
        refuse_unsupported(linux)?;
        let root = spec.root.as_ref().context("root is missing")?;
        let process = spec.process.as_ref().context("process is missing")?;
        let (new, joined) = namespaces(linux)?;
        let user = new.contains(Namespaces::USER);
        ensure!(
            user || linux.uid_mappings.is_empty() && linux.gid_mappings.is_empty(),
            "linux.uidMappings need a new user namespace"
        );
        let maps = if user { Some(maps(linux)?) } else { None };
        let names = spec.hostname.is_some() || spec.domainname.is_some();
        ensure!(
            !names || new.contains(Namespaces::UTS) || joins(&joined, Namespaces::UTS),
            "hostname needs a uts namespace, or the machine itself would be renamed"
        );
        ensure!(
            new.contains(Namespaces::MOUNT),
            "linux.namespaces needs a new mount namespace: without one, the machine's own mounts would change"
        );
        let filter = linux.seccomp.as_ref().map(crate::filter::compile);
        let filter = filter.transpose()?;
        Ok(Self {
            new,
            maps,
            root: bundle.join(&root.path),
            read_only_root: root.readonly,
            propagation: linux
                .rootfs_propagation
                .as_deref()
                .map(mounts::Spread::parse)
                .transpose()?
                .flatten(),
            mounts: mounts::all(&spec.mounts, bundle)?,
            devices: linux.devices.iter().map(device).collect::<Result<_>>()?,
            masked: paths("linux.maskedPaths", &linux.masked_paths)?,
            read_only: paths("linux.readonlyPaths", &linux.readonly_paths)?,
            host_name: spec.hostname.clone().filter(|name| !name.is_empty()),
            domain_name: spec.domainname.clone().filter(|name| !name.is_empty()),
            settings: settings(linux, new, &joined)?,
            changed: changed(spec),
            time_offsets: time_offsets(linux, new)?,
            personality: personality(linux)?,
            cgroup: cgroup(id, linux)?,
            limits: resources::limits(linux.resources.as_ref(), &linux.devices)?,
            process: ProcessPlan::new(process)?,
            passed_over: passed_over(linux, filter.as_ref()),
            filter,
            hooks: hooks(&spec.hooks)?,
            joined,
        })
    }
}

impl Plan {
    /// Whether a namespace of this kind is joined.
    pub(crate) fn joins(&self, kind: Namespaces) -> bool {
        joins(&self.joined, kind)
    }

    /// What of the document is not kept as it stands there, in words.
    pub(crate) fn passed_over(&self) -> impl Iterator<Item = &str> {
        let all = self.passed_over.iter().chain(&self.process.passed_over);
        all.map(String::as_str)
    }
}

fn passed_over(linux: &Linux, filter: Option<&Compiled>) -> Vec<String> {
    let unknown = filter.into_iter().flat_map(|filter| &filter.unknown);
    let mut all: Vec<_> = unknown
        .map(|name| {
            format!("linux.seccomp.syscalls: {name:?} is no system call: it is passed over")
        })
        .collect();
    all.extend(filter.and_then(unjudged));
    let flags = linux.personality.iter().flat_map(|one| &one.flags);
    all.extend(
        flags
            .map(|flag| format!("linux.personality.flags: {flag:?} is no flag: it is passed over")),
    );
    all
}

fn refuse_unsupported(linux: &Linux) -> Result<()> {
    for (name, is_asked) in [
        ("intelRdt", linux.intel_rdt.is_some()),
        ("netDevices", !linux.net_devices.is_empty()),
        ("memoryPolicy", linux.memory_policy.is_some()),
    ] {
        ensure!(!is_asked, "linux.{name} is not supported");
    }
    ensure!(
        linux.mount_label.as_deref().unwrap_or_default().is_empty(),
        "linux.mountLabel: SELinux is not supported"
    );
    Ok(())
}

/// Hooks, none of which has no time at all.
fn hooks(hooks: &Hooks) -> Result<Hooks> {
    for (turn, hooks) in [
        ("prestart", &hooks.prestart),
        ("createRuntime", &hooks.create_runtime),
        ("createContainer", &hooks.create_container),
        ("startContainer", &hooks.start_container),
        ("poststart", &hooks.poststart),
        ("poststop", &hooks.poststop),
    ] {
        let none = hooks.iter().find(|hook| hook.timeout == Some(0));
        if let Some(hook) = none {
            bail!("hooks.{turn}: {}: timeout must be over 0", hook.path);
        }
    }
    Ok(hooks.clone())
}

/// Of which listed architectures the filter judges no calls. Engines list all that a processor has.
fn unjudged(filter: &Compiled) -> Option<String> {
    let name = |arch| serde_json::to_value(arch).ok()?.as_str().map(str::to_owned);
    let names: Vec<_> = filter.unjudged.iter().filter_map(name).collect();
    (!names.is_empty()).then(|| {
        format!(
            "linux.seccomp.architectures: calls of {} are not judged but refused, or end their process",
            names.join(", ")
        )
    })
}

fn joins(joined: &[(Namespaces, PathBuf)], kind: Namespaces) -> bool {
    joined.iter().any(|(joined, _)| *joined == kind)
}

/// Words of the specification, in the order in which namespaces are joined: the user's first, since it gives the right to join
/// those that belong to it.
const KINDS: [(&str, Namespaces); 8] = [
    ("user", Namespaces::USER),
    ("network", Namespaces::NETWORK),
    ("ipc", Namespaces::IPC),
    ("uts", Namespaces::UTS),
    ("cgroup", Namespaces::CGROUP),
    ("time", Namespaces::TIME),
    ("pid", Namespaces::PID),
    ("mount", Namespaces::MOUNT),
];

/// Names of the namespaces, for `features`.
pub(crate) fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(name, _)| *name)
}

type Joined = Vec<(Namespaces, PathBuf)>;

fn namespaces(linux: &Linux) -> Result<(Namespaces, Joined)> {
    let mut new = Namespaces::NONE;
    let mut seen = Namespaces::NONE;
    let mut joined = Vec::new();
    for namespace in &linux.namespaces {
        let known = KINDS.iter().find(|(name, _)| *name == namespace.kind);
        let Some((name, kind)) = known else {
            bail!("linux.namespaces: {:?} is no namespace", namespace.kind);
        };
        ensure!(
            !seen.contains(*kind),
            "linux.namespaces: {name} stands there twice"
        );
        seen = seen.union(*kind);
        match namespace
            .path
            .as_deref()
            .filter(|path| !path.as_os_str().is_empty())
        {
            None => new = new.union(*kind),
            Some(path) => {
                ensure!(
                    *kind != Namespaces::USER && *kind != Namespaces::MOUNT,
                    "linux.namespaces: a {name} namespace that is there already ({}) is not supported",
                    path.display()
                );
                ensure!(
                    path.is_absolute(),
                    "linux.namespaces: {} is not absolute",
                    path.display()
                );
                joined.push((*kind, path.to_owned()));
            }
        }
    }
    joined.sort_by_key(|(kind, _)| KINDS.iter().position(|(_, other)| other == kind));
    Ok((new, joined))
}

/// The most lines of a map (`user_namespaces(7)`).
const LONGEST_MAP: usize = 340;

fn maps(linux: &Linux) -> Result<(String, String)> {
    Ok((
        map("linux.uidMappings", &linux.uid_mappings)?,
        map("linux.gidMappings", &linux.gid_mappings)?,
    ))
}

/// A map as the kernel takes it.
///
/// # Errors
/// It is empty, too long, or a run is.
pub(crate) fn map(what: &str, runs: &[IdMapping]) -> Result<String> {
    ensure!(!runs.is_empty(), "{what} is empty");
    ensure!(
        runs.len() <= LONGEST_MAP,
        "{what} has over {LONGEST_MAP} lines"
    );
    let mut text = String::new();
    for run in runs {
        let ends = |first: u32| first.checked_add(run.size);
        ensure!(
            run.size > 0 && ends(run.container_id).is_some() && ends(run.host_id).is_some(),
            "{what}: {} ids from {} and {} on are none",
            run.size,
            run.container_id,
            run.host_id
        );
        text.push_str(&format!(
            "{} {} {}\n",
            run.container_id, run.host_id, run.size
        ));
    }
    Ok(text)
}

fn device(device: &Device) -> Result<DevicePlan> {
    let kind = match device.kind.as_str() {
        "c" | "u" => DeviceKind::Character,
        "b" => DeviceKind::Block,
        "p" => DeviceKind::Pipe,
        other => bail!(
            "linux.devices: {}: {other:?} is no kind of device",
            device.path
        ),
    };
    Ok(DevicePlan {
        path: inside("linux.devices", &device.path)?,
        kind,
        number: (device.major, device.minor),
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        owner: (device.uid.unwrap_or(0), device.gid.unwrap_or(0)),
    })
}

fn paths(what: &str, paths: &[String]) -> Result<Vec<CString>> {
    paths.iter().map(|path| inside(what, path)).collect()
}

/// An absolute path in the container, without `..`, and without what means nothing: `/dev/` is `/dev`.
///
/// # Errors
/// It is none.
pub(crate) fn inside(what: &str, path: &str) -> Result<CString> {
    let plain = Path::new(path);
    ensure!(plain.is_absolute(), "{what}: {path:?} is not absolute");
    let up = plain.components().any(|part| part == Component::ParentDir);
    ensure!(!up, "{what}: {path:?} has .. in it");
    let plain: PathBuf = plain.components().collect();
    text(what, plain.to_str().unwrap_or(path))
}

/// Text for the kernel.
///
/// # Errors
/// It has a NUL in it.
pub(crate) fn text(what: &str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| anyhow::anyhow!("{what}: a NUL in {text:?}"))
}

/// Settings of `/proc/sys` that belong to a namespace, by how they begin (`namespaces(7)`, `proc_sys(5)`).
const SETTINGS: [(&str, Namespaces); 9] = [
    ("net.", Namespaces::NETWORK),
    ("fs.mqueue.", Namespaces::IPC),
    ("kernel.msg", Namespaces::IPC),
    ("kernel.sem", Namespaces::IPC),
    ("kernel.shm", Namespaces::IPC),
    ("kernel.auto_msgmni", Namespaces::IPC),
    ("kernel.hostname", Namespaces::UTS),
    ("kernel.domainname", Namespaces::UTS),
    ("user.", Namespaces::USER),
];

fn kind_of(setting: &str) -> Option<Namespaces> {
    let dotted = setting.replace('/', ".");
    let found = SETTINGS
        .iter()
        .find(|(begins, _)| dotted.starts_with(begins));
    found.map(|(_, kind)| *kind)
}

fn changed(spec: &Spec) -> Vec<(Namespaces, String)> {
    let names = [
        ("hostname", &spec.hostname),
        ("domainname", &spec.domainname),
    ];
    let names = names.into_iter().filter(|(_, name)| {
        let name = name.as_deref();
        name.is_some_and(|name| !name.is_empty())
    });
    let names = names.map(|(what, _)| (Namespaces::UTS, what.to_owned()));
    let settings = spec.linux.sysctl.keys();
    let settings =
        settings.filter_map(|name| Some((kind_of(name)?, format!("linux.sysctl: {name}"))));
    names.chain(settings).collect()
}

/// A setting that belongs to no namespace of the container is one of the machine.
fn settings(linux: &Linux, new: Namespaces, joined: &Joined) -> Result<Vec<(String, String)>> {
    let mut settings = Vec::new();
    for (name, value) in &linux.sysctl {
        let Some(kind) = kind_of(name) else {
            bail!("linux.sysctl: {name} belongs to no namespace: it would change the machine");
        };
        ensure!(
            new.contains(kind) || joins(joined, kind),
            "linux.sysctl: {name} would change the machine: the container has not got a namespace of its own for it"
        );
        let path = if name.contains('/') {
            name.clone()
        } else {
            name.replace('.', "/")
        };
        let parts = Path::new(&path).components();
        let plain = parts
            .into_iter()
            .all(|part| matches!(part, Component::Normal(_)));
        ensure!(plain, "linux.sysctl: {name:?} is no setting");
        settings.push((path, value.clone()));
    }
    Ok(settings)
}

fn time_offsets(linux: &Linux, new: Namespaces) -> Result<Option<String>> {
    if linux.time_offsets.is_empty() {
        return Ok(None);
    }
    ensure!(
        new.contains(Namespaces::TIME),
        "linux.timeOffsets need a new time namespace"
    );
    let mut text = String::new();
    for (clock, offset) in &linux.time_offsets {
        ensure!(
            clock == "monotonic" || clock == "boottime",
            "linux.timeOffsets: {clock:?} is no clock that can be set: monotonic and boottime can"
        );
        text.push_str(&format!("{clock} {} {}\n", offset.secs, offset.nanosecs));
    }
    Ok(Some(text))
}

/// The execution domain of a document, as the kernel takes it.
///
/// # Errors
/// It is none.
pub(crate) fn personality(linux: &Linux) -> Result<Option<u32>> {
    let Some(personality) = &linux.personality else {
        return Ok(None);
    };
    // PER_LINUX and PER_LINUX32 of linux/personality.h.
    Ok(Some(match personality.domain.as_str() {
        "LINUX" => 0,
        "LINUX32" => 8,
        other => bail!("linux.personality: {other:?} is no domain: LINUX and LINUX32 are"),
    }))
}

/// Where the control group is: as the document says, or `kedge-oci/ID`.
fn cgroup(id: &str, linux: &Linux) -> Result<PathBuf> {
    let Some(path) = linux
        .cgroups_path
        .as_deref()
        .filter(|path| !path.is_empty())
    else {
        return Ok(Path::new("kedge-oci").join(id));
    };
    ensure!(
        !path.contains(':'),
        "linux.cgroupsPath {path:?} is one for systemd, which this command does not ask: have your engine manage the groups itself (podman: --cgroup-manager=cgroupfs)"
    );
    let mut plain = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => plain.push(part),
            Component::ParentDir | Component::Prefix(_) => {
                bail!("linux.cgroupsPath: {path:?} has .. in it")
            }
        }
    }
    ensure!(
        !plain.as_os_str().is_empty(),
        "linux.cgroupsPath: {path:?} is the whole machine"
    );
    Ok(plain)
}
