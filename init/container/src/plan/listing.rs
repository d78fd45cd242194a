//! A plan as text: one fact a line, in the order in which a start goes through them.

use std::ffi::CString;
use std::fmt::{self, Display, Formatter};

use super::{Attachment, Attachment6, Medium, NetworkPlan, Plan, Writes};
use crate::seccomp::Choice;

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        line(f, "container", &self.name)?;
        for limit in &self.limits {
            let file = limit.file.to_string_lossy();
            writeln!(f, "cgroup {file} = {}", limit.value)?;
        }
        match self.network {
            NetworkPlan::None => writeln!(f, "network own, loopback only")?,
            NetworkPlan::Host => writeln!(f, "network the device's")?,
            NetworkPlan::Pool(Attachment {
                address,
                length,
                gateway,
                broadcast,
                six,
            }) => {
                writeln!(
                    f,
                    "network own, {address}/{length} by {gateway}, broadcast {broadcast}"
                )?;
                if let Some(Attachment6 {
                    address,
                    length,
                    gateway,
                }) = six
                {
                    writeln!(f, "network own, {address}/{length} by {gateway}")?;
                }
            }
        }
        write!(f, "ids {}", self.id_map)?;
        self.list_mounts(f)?;
        writeln!(f, "host-name {}", self.host_name)?;
        line(f, "directory", &self.working_directory)?;
        let user = &self.user;
        writeln!(f, "user {}:{} {:?}", user.uid, user.gid, user.groups)?;
        writeln!(f, "capabilities {:#x}", self.capabilities.bits())?;
        let filter = match &self.filter {
            Choice::Default => "default",
            Choice::Widened(_) => "widened by capabilities",
        };
        writeln!(f, "filter {filter}")?;
        let lines = |f: &mut Formatter<'_>, word, list: &[CString]| {
            list.iter().try_for_each(|text| line(f, word, text))
        };
        lines(f, "environment", &self.program.environment)?;
        lines(f, "argument", &self.program.arguments)
    }
}

impl Plan {
    fn list_mounts(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for layer in &self.root.layers {
            line(f, "layer", layer)?;
        }
        match &self.root.writes {
            None => writeln!(f, "root read-only")?,
            Some(Writes { directory, medium }) => {
                write!(f, "root writes to {}", directory.to_string_lossy())?;
                on(f, *medium)?;
            }
        }
        for volume in &self.volumes {
            let (source, target) = (&volume.source, &volume.target);
            let (uid, gid) = volume.owner;
            let (source, target) = (source.to_string_lossy(), target.to_string_lossy());
            write!(f, "volume {target} from {source} owner {uid}:{gid}")?;
            on(f, volume.medium)?;
        }
        if let Some(nodes) = &self.devices {
            writeln!(f, "devices in a /dev of its own, judged by its cgroup")?;
            for node in nodes {
                let path = node.path.to_string_lossy();
                writeln!(
                    f,
                    "device {path} {:?} {}:{}",
                    node.kind, node.major, node.minor
                )?;
            }
        }
        if let Some(sockets) = &self.sockets {
            line(f, "sockets", sockets)?;
        }
        if let Some(file) = &self.resolv_conf {
            line(f, "resolv.conf", file)?;
        }
        if let Some(file) = &self.hosts {
            line(f, "hosts", file)?;
        }
        Ok(())
    }
}

fn on(f: &mut Formatter<'_>, medium: Medium) -> fmt::Result {
    match medium {
        Medium::Memory(bytes) => writeln!(f, ", {bytes} bytes in memory"),
        Medium::Disk(Some(bytes)) => writeln!(f, ", {bytes} bytes on disk"),
        Medium::Disk(None) => writeln!(f),
    }
}

fn line(f: &mut Formatter<'_>, word: &str, text: &CString) -> fmt::Result {
    writeln!(f, "{word} {}", text.to_string_lossy())
}
