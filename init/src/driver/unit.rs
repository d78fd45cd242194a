//! What the driver holds of one container: its plan, its process and the descriptors around it.

use crate::boot::{DATA, object_path};
use crate::devices::{Given, nodes};
use crate::driver::bounds::{self, Machine};
use crate::driver::clients::Listener;
use crate::driver::network::{hosts_file, write_hosts};
use crate::driver::notify::NotifySocket;
use crate::driver::poller::Poller;
use crate::driver::until_boot;
use crate::few::Few;
use crate::log::SourceId;
use kedge_container::plan::IDS;
use kedge_container::{Context, Plan, SpawnError, attach_layer, detach_layer};
use kedge_revision::container::{Check, Lifetime, RootWrites};
use kedge_revision::{Container, Content, ControlRole, Name, ObjectId, definition};
use kedge_store::collect::STATE;
use kedge_sys::rustix::fs::{Gid, Uid, chown};
use kedge_sys::rustix::process::{Pid, Signal};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Name servers for containers with the device's network; the net helper keeps it.
pub(crate) const RESOLV_CONF: &str = "/run/kedge/resolv.conf";

/// A process, from its spawn until it is reaped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
}

/// Layers that are mounted: each object once, however many containers use it.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    places: Few<ObjectId, PathBuf>,
    /// Places that held a layer are never used again in this boot.
    made: usize,
}

impl Layers {
    /// Where a layer is mounted; mounts it if it is not yet. Places are short: the kernel takes
    /// overlay options of at most 255 bytes.
    fn attach(&mut self, id: ObjectId) -> Result<PathBuf, SpawnError> {
        if let Some(place) = self.places.get(&id) {
            return Ok(place.clone());
        }
        let place = PathBuf::from(format!("/run/kedge/l/{}", self.made));
        attach_layer(&object_path(id), &place)?;
        self.made = self.made.saturating_add(1);
        self.places.insert(id, place.clone());
        Ok(place)
    }

    /// Takes away the layers that nothing uses any more.
    pub(crate) fn retain(&mut self, used: impl Fn(&ObjectId) -> bool) {
        self.places.retain(|id, place| {
            let used = used(id);
            if !used {
                // One that stays mounted costs its memory and its place until the next boot, and nothing else.
                detach_layer(place).ok();
            }
            used
        });
    }
}

/// A running health check.
#[derive(Debug)]
pub(crate) struct RunningCheck {
    pub(crate) token: u32,
    pub(crate) process: Running,
    /// Why a command could not be executed is told here; probes have none.
    pub(crate) report: Option<OwnedFd>,
}

/// One container.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) name: Name,
    pub(crate) definition: Container,
    pub(crate) source: SourceId,
    /// Made at the first start, kept for all later ones.
    pub(crate) plan: Option<Plan>,
    /// The process, from spawn to reap.
    pub(crate) running: Option<Running>,
    pub(crate) report: Option<OwnedFd>,
    pub(crate) output: Option<OwnedFd>,
    pub(crate) errors: Option<OwnedFd>,
    /// `cgroup.events`, while the machine waits for the cgroup to be empty.
    pub(crate) clearing: Option<OwnedFd>,
    pub(crate) notify: Option<NotifySocket>,
    pub(crate) listener: Option<Listener>,
    pub(crate) check: Option<RunningCheck>,
    /// `oom_kill` of `memory.events` when the process was started.
    pub(crate) oom_kills: u64,
    pub(crate) stop_signal: StopSignal,
    /// Devices that it has, or has from its next start on.
    pub(crate) devices: Vec<Given>,
    /// What was said last of those that it is not given.
    pub(crate) refused_devices: String,
    /// What its plan is worth telling, until it is told.
    pub(crate) notes: Vec<String>,
}

/// What a container is stopped by, and whether it was said that this is not what its definition wants.
#[derive(Debug, Default)]
pub(crate) struct StopSignal {
    said: bool,
}

impl StopSignal {
    /// The signal to send for the number of a revision. A number without a signal on this processor is SIGTERM: unstopped,
    /// the container would be killed at its deadline. True: that is to be said.
    pub(crate) fn of(&mut self, number: u8) -> (Signal, bool) {
        match kedge_sys::signals::of_generic(number) {
            Some(signal) => (signal, false),
            None => (Signal::TERM, !std::mem::replace(&mut self.said, true)),
        }
    }
}

impl Unit {
    /// Takes what it listens on out of the poller: its container is gone, or another definition takes its place.
    pub(crate) fn forget(&mut self, poller: &Poller) {
        if let Some(listener) = self.listener.take() {
            listener.forget(poller);
        }
        if let Some(notify) = self.notify.take() {
            poller.forget(&notify);
        }
        let pipes = [
            self.output.take(),
            self.errors.take(),
            self.report.take(),
            self.clearing.take(),
        ];
        for pipe in pipes.into_iter().flatten() {
            poller.forget(&pipe);
        }
        // Its plan's sockets are gone with them.
        self.plan = None;
    }

    pub(crate) fn new(name: &Name, definition: &Container, source: SourceId) -> Self {
        Self {
            name: name.clone(),
            definition: definition.clone(),
            source,
            plan: None,
            running: None,
            report: None,
            output: None,
            errors: None,
            clearing: None,
            notify: None,
            listener: None,
            check: None,
            oom_kills: 0,
            stop_signal: StopSignal::default(),
            devices: Vec::new(),
            refused_devices: String::new(),
            notes: Vec::new(),
        }
    }

    /// The most that this container may ask over its control socket; `None`: it has no socket.
    fn role(&self) -> Option<ControlRole> {
        self.definition.roles.iter().max().copied()
    }

    fn wants_notify(&self) -> bool {
        self.definition
            .health
            .as_ref()
            .is_some_and(|health| health.check == Check::Notify)
    }

    /// Makes the sockets that the container talks over, if it has any, and gives their directory.
    fn sockets(&mut self) -> Result<Option<PathBuf>, String> {
        let role = self.role();
        if role.is_none() && !self.wants_notify() && self.definition.process.secrets.is_empty() {
            return Ok(None);
        }
        let directory = until_boot::sockets(&self.name);
        std::fs::create_dir_all(&directory)
            .map_err(|error| format!("make {}: {error}", directory.display()))?;
        if self.wants_notify() {
            let socket = NotifySocket::bind(&directory.join("notify"));
            self.notify = Some(socket.map_err(|error| error.to_string())?);
        }
        if let Some(role) = role {
            let listener = Listener::bind(&directory.join("control"), role.into(), 0o666);
            self.listener = Some(listener.map_err(|error| error.to_string())?);
        }
        Ok(Some(directory))
    }

    /// Writes the secrets that the process reads, for its user alone: in memory, gone with the boot.
    fn secrets(
        &self,
        directory: &Path,
        id_base: u32,
        values: &BTreeMap<Name, String>,
    ) -> Result<(), String> {
        let process = &self.definition.process;
        let folder = directory.join("secrets");
        // Those of an earlier definition.
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("remove {}: {error}", folder.display()));
            }
            Ok(()) | Err(_) => {}
        }
        if process.secrets.is_empty() {
            return Ok(());
        }
        let user = Uid::from_raw(id_base.saturating_add(process.user.uid.into()));
        let group = Gid::from_raw(id_base.saturating_add(process.user.gid.into()));
        let own = |path: &Path| {
            chown(path, Some(user), Some(group))
                .map_err(|errno| format!("give away {}: {errno}", path.display()))
        };
        let made = DirBuilder::new().mode(0o500).create(&folder);
        made.map_err(|error| format!("make {}: {error}", folder.display()))?;
        for name in &process.secrets {
            let value = values
                .get(name)
                .ok_or_else(|| format!("the secret {name} has no value"))?;
            let path = folder.join(name.as_str());
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o400)
                .open(&path);
            file.and_then(|mut file| file.write_all(value.as_bytes()))
                .map_err(|error| format!("write {}: {error}", path.display()))?;
            own(&path)?;
        }
        own(&folder)
    }

    /// Attaches the layers and decides how the container is started. Once a boot.
    pub(crate) fn prepare(
        &mut self,
        index: u16,
        attached: &mut Layers,
        device: &Device<'_>,
    ) -> Result<(), String> {
        let bad = |layer: &&ObjectId| device.bad_objects.contains(*layer);
        if let Some(layer) = self.definition.layers.iter().find(bad) {
            return Err(format!("layer {layer} is absent or damaged"));
        }
        let mut layers = Vec::with_capacity(self.definition.layers.len());
        for layer in &self.definition.layers {
            let place = attached.attach(*layer);
            layers.push(place.map_err(|error| error.to_string())?);
        }
        let layers: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
        let limits = &self.definition.limits;
        self.notes = Machine::look().judge(limits)?;
        let disk = limits.are_of_disk().then(bounds::disk).flatten();
        let state = self.state()?;
        let volumes: BTreeMap<Name, PathBuf> = self
            .definition
            .volumes
            .iter()
            .map(|(name, volume)| (name.clone(), self.volume_directory(name, volume, &state)))
            .collect();
        let volumes: BTreeMap<Name, &Path> = volumes
            .iter()
            .map(|(name, path)| (name.clone(), path.as_path()))
            .collect();
        self.notes
            .extend(bounds::unbounded(&self.definition, &volumes));
        let overlay = match self.definition.root {
            RootWrites::Refused => None,
            RootWrites::Revision => Some(state.join("root")),
            RootWrites::Boot => Some(until_boot::root(&self.name, &self.digest()?)),
        };
        let sockets = self.sockets()?;
        let id_base = IDS.saturating_mul(u32::from(index).saturating_add(1));
        if let Some(directory) = &sockets {
            self.secrets(directory, id_base, device.parameters)?;
        }
        // It must be there when a container is started: the net helper fills the same file later.
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(RESOLV_CONF)
            .ok();
        let hosts = match (self.definition.network.place(), device.content) {
            (Some(place), Some(content)) => {
                let written = write_hosts(content, &place.name);
                written.map_err(|error| format!("write names of the network: {error}"))?;
                Some(hosts_file(&place.name))
            }
            _ => None,
        };
        let context = Context {
            // Each container of a boot has a range of its own; the first is left to the device.
            id_base,
            host_name: host_name(&self.definition, &self.name, device),
            parameters: device.parameters,
            layers: &layers,
            volumes: &volumes,
            overlay: overlay.as_deref(),
            sockets: sockets.as_deref(),
            resolv_conf: Some(Path::new(RESOLV_CONF)),
            hosts: hosts.as_deref(),
            disk,
        };
        let plan = Plan::new(&self.name, &self.definition, &context);
        let mut plan = plan.map_err(|error| error.to_string())?;
        plan.set_devices(nodes(&self.definition.devices, &self.devices));
        self.plan = Some(plan);
        Ok(())
    }

    /// Where its data of `revision` lifetime is: that of this definition alone.
    fn state(&self) -> Result<PathBuf, String> {
        let revision = |lifetime| lifetime == Lifetime::Revision;
        let mut volumes = self.definition.volumes.values();
        if self.definition.root != RootWrites::Revision
            && !volumes.any(|volume| revision(volume.lifetime))
        {
            return Ok(PathBuf::new());
        }
        Ok(Path::new(DATA)
            .join(STATE)
            .join(self.name.as_str())
            .join(self.digest()?))
    }

    fn digest(&self) -> Result<String, String> {
        definition::digest(&self.definition).map_err(|error| error.to_string())
    }

    /// Where its volumes are.
    pub(crate) fn volume_directories(&self) -> Result<Vec<(&Name, PathBuf)>, String> {
        let state = self.state()?;
        let volumes = self.definition.volumes.iter();
        Ok(volumes
            .map(|(name, volume)| (name, self.volume_directory(name, volume, &state)))
            .collect())
    }

    fn volume_directory(
        &self,
        name: &Name,
        volume: &kedge_revision::container::Volume,
        state: &Path,
    ) -> PathBuf {
        match volume.lifetime {
            Lifetime::Permanent => Path::new(DATA)
                .join("volumes")
                .join(self.name.as_str())
                .join(name.as_str()),
            Lifetime::Revision => state.join("volumes").join(name.as_str()),
            Lifetime::Boot => until_boot::volume(&self.name, name),
        }
    }
}

fn host_name<'a>(definition: &Container, name: &'a Name, device: &Device<'a>) -> &'a str {
    match definition.network {
        kedge_revision::container::Network::Host => device.host_name,
        kedge_revision::container::Network::None | kedge_revision::container::Network::Pool(_) => {
            name.as_str()
        }
    }
}

/// What all containers of a boot share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Device<'a> {
    pub(crate) host_name: &'a str,
    pub(crate) parameters: &'a BTreeMap<Name, String>,
    pub(crate) bad_objects: &'a [ObjectId],
    /// What runs.
    pub(crate) content: Option<&'a Content>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_cannot_be_sent_is_sigterm_and_that_is_said_once() {
        let mut stop = StopSignal::default();
        assert_eq!(stop.of(1), (Signal::HUP, false));
        // Between the named signals and those for real time, on every processor.
        assert_eq!(stop.of(33), (Signal::TERM, true));
        assert_eq!(stop.of(33), (Signal::TERM, false));
        assert_eq!(stop.of(15), (Signal::TERM, false));
    }
}
