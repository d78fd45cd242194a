//! What containers are and use, read from the kernel when a client asks and at no other time.

use super::perform::{cgroup_file, cgroups};
use super::unit::Unit;
use super::{Driver, now_ms};
use crate::boot::DATA;
use crate::control::{ContainerStatus, Held, Pressure, Refusal, Role, Usage, UsageOf};
use crate::devices::{Found, Given};
use crate::driver::clients::ClientId;
use crate::driver::status::container;
use kedge_container::quota;
use kedge_revision::container::Lifetime;
use kedge_revision::{Container, Name};
use kedge_store::space::Space;
use kedge_sys::rustix::system::sysinfo;
use serde::Serialize;
use std::path::Path;

/// `GET /v1/containers/NAME`.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Inspected<'a> {
    status: ContainerStatus<'a>,
    /// As it was signed.
    definition: &'a Container,
    /// The first of its user ids on the device.
    first_id: Option<u32>,
    cgroup: String,
    namespaces: Vec<String>,
    usage: UsageOf<'a>,
    /// Devices that its rules have brought it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    devices: Vec<Device<'a>>,
    /// What its volumes on disk take.
    volumes: Vec<VolumeUsage<'a>>,
}

/// A device that a container has.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Device<'a> {
    /// Its node inside.
    node: String,
    /// What the kernel calls it.
    kernel_name: &'a str,
    number: String,
    path: &'a str,
    /// Of the USB or PCI device that it belongs to, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    serial: &'a str,
}

impl<'a> Device<'a> {
    fn of(given: &'a Given) -> Self {
        let Found {
            node,
            number: (major, minor),
            path,
            ids: [vendor, product],
            serial,
            ..
        } = &given.found;
        Self {
            node: format!("/dev/{}", given.name),
            kernel_name: node,
            number: format!("{major}:{minor}"),
            path,
            ids: (!vendor.is_empty()).then(|| format!("{vendor}:{product}")),
            serial,
        }
    }
}

/// What a volume takes on disk.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct VolumeUsage<'a> {
    name: &'a str,
    /// Bytes on disk; absent where they are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// Bytes that it may take at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_max: Option<u64>,
    /// Files and directories.
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<u64>,
}

/// Those of a container that live on disk.
fn volumes_of(unit: &Unit) -> Vec<VolumeUsage<'_>> {
    let volumes = unit.volume_directories().unwrap_or_default().into_iter();
    let on_disk = volumes.filter(|(name, _)| {
        let volume = unit.definition.volumes.get(*name);
        volume.is_some_and(|volume| volume.lifetime != Lifetime::Boot)
    });
    on_disk
        .map(|(name, path)| {
            let taken = quota::taken(&path);
            VolumeUsage {
                name: name.as_str(),
                bytes: taken.map(|taken| taken.bytes),
                bytes_max: taken.and_then(|taken| taken.most),
                files: taken.map(|taken| taken.files),
            }
        })
        .collect()
}

/// Namespaces of a process, as `/proc/PID/ns` names them.
const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"];

impl Driver {
    pub(super) fn tell_usage(&mut self, client: ClientId) {
        let running = self.machine.status().filter(|status| status.pid.is_some());
        let data = self.boot.mounted.then(|| Space::of(Path::new(DATA)).ok());
        let mut usage = Usage {
            uptime_ms: now_ms(),
            data_free: data.flatten().map(|space| space.open),
            containers: running.map(|status| usage_of(status.name)).collect(),
            held: Some(held()),
        };
        if let Some(connection) = self.clients.connection(client) {
            if connection.role() == Role::Update {
                usage = usage.for_a_hub();
            }
            // Plain data in memory: it cannot fail.
            let body = kedge_revision::json::bytes(&usage);
            connection.answer_bytes(200, "application/json", &body);
        }
    }

    pub(super) fn tell_container(&mut self, client: ClientId, name: &Name) {
        let id = self.machine.find(name.as_str());
        let status = id.and_then(|id| self.machine.status_of(id));
        let unit = id.and_then(|id| self.units.get(id.index()));
        let Some(connection) = self.clients.connection(client) else {
            return;
        };
        let (Some(status), Some(unit)) = (status, unit) else {
            return connection.answer_refused(Refusal::NotFound("there is no such container"));
        };
        let link = |kind: &&str| {
            let path = format!("/proc/{}/ns/{kind}", status.pid?);
            Some(std::fs::read_link(path).ok()?.display().to_string())
        };
        let inspected = Inspected {
            definition: &unit.definition,
            first_id: unit.plan.as_ref().map(kedge_container::Plan::id_base),
            cgroup: cgroup_file(name, "").display().to_string(),
            namespaces: NAMESPACES.iter().filter_map(link).collect(),
            usage: usage_of(name),
            devices: unit.devices.iter().map(Device::of).collect(),
            volumes: volumes_of(unit),
            status: container(status),
        };
        // Plain data in memory: it cannot fail.
        let body = kedge_revision::json::bytes(&inspected);
        connection.answer_bytes(200, "application/json", &body);
    }
}

fn held() -> Held {
    let count = |folder: &Path| std::fs::read_dir(folder).map_or(0, Iterator::count);
    let cgroups = std::fs::read_dir(cgroups()).into_iter().flatten().flatten();
    let mounts = std::fs::read("/proc/self/mounts").unwrap_or_default();
    Held {
        processes: sysinfo().procs,
        // That of the folder itself is closed again.
        descriptors: count(Path::new("/proc/self/fd")).saturating_sub(1),
        mounts: mounts.iter().filter(|byte| **byte == b'\n').count(),
        cgroups: cgroups
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .count(),
        interfaces: count(Path::new("/sys/class/net")),
    }
}

fn usage_of(name: &Name) -> UsageOf<'_> {
    let text = |file| std::fs::read_to_string(cgroup_file(name, file)).unwrap_or_default();
    let number = |file| text(file).trim().parse().ok();
    // Empty as long as nothing was read or written.
    let io = std::fs::read_to_string(cgroup_file(name, "io.stat")).ok();
    let io = |key| io.as_ref().map(|text| sum(text, key));
    let pressure = |file| some_avg10(&text(file));
    let waits = || {
        Some(Pressure {
            cpu: pressure("cpu.pressure")?,
            memory: pressure("memory.pressure")?,
            io: pressure("io.pressure")?,
        })
    };
    UsageOf {
        name: name.as_str().into(),
        cpu_us: field(&text("cpu.stat"), "usage_usec").unwrap_or(0),
        memory: number("memory.current"),
        memory_peak: number("memory.peak"),
        memory_max: number("memory.max"),
        pids: number("pids.current"),
        io_read: io("rbytes="),
        io_written: io("wbytes="),
        pressure: waits(),
    }
}

/// A value of a flat keyed file (Linux `Documentation/admin-guide/cgroup-v2.rst`, "Format").
fn field(text: &str, key: &str) -> Option<u64> {
    let mut values = text.lines().filter_map(|line| line.strip_prefix(key));
    values.next()?.trim().parse().ok()
}

/// The sum of a value over all disks of a nested keyed file.
fn sum(text: &str, key: &str) -> u64 {
    let values = text
        .split_whitespace()
        .filter_map(|word| word.strip_prefix(key));
    let numbers = values.filter_map(|value| value.parse::<u64>().ok());
    numbers.fold(0, u64::saturating_add)
}

/// `some avg10=1.23` in hundredths.
fn some_avg10(text: &str) -> Option<u32> {
    let rest = text.strip_prefix("some avg10=")?;
    let (whole, rest) = rest.split_once('.')?;
    let hundredths = rest.get(..2)?.parse::<u32>().ok()?;
    whole
        .parse::<u32>()
        .ok()?
        .checked_mul(100)?
        .checked_add(hundredths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let stat = "usage_usec 1234\nuser_usec 1000\nsystem_usec 234\n";
        assert_eq!(field(stat, "usage_usec"), Some(1234));
        assert_eq!(field("", "usage_usec"), None);
        let io = "8:0 rbytes=10 wbytes=5 rios=1 wios=1 dbytes=0 dios=0\n7:1 rbytes=4096 wbytes=0 rios=1\n";
        assert_eq!(sum(io, "rbytes="), 4106);
        assert_eq!(sum(io, "wbytes="), 5);
        assert_eq!(sum("", "wbytes="), 0);
        let cpu = "some avg10=12.05 avg60=1.00 avg300=0.00 total=5\nfull avg10=1.00";
        assert_eq!(some_avg10(cpu), Some(1205));
        for bad in [
            "",
            "some",
            "some avg10=x.00",
            "full avg10=1.00",
            "some avg10=1",
        ] {
            assert_eq!(some_avg10(bad), None, "{bad}");
        }
    }
}
