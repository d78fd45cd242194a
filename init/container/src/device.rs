//! Devices that a container asked for: their nodes, and a program of its cgroup's that judges who opens what.
//!
//! A container with rules for devices has a `/dev` of its own: a tmpfs that PID 1 has made, outside of every user namespace
//! but the first, so that nodes in it work (a tmpfs of a container's own refuses them: Linux `fs/namei.c`, `may_open_dev`).
//! The container sees a read-only clone of that mount. What PID 1 makes and removes in it is seen at once, in every mount
//! namespace that has the clone: nobody enters the container for it.
//!
//! A node alone gives nothing away for long: the program of the cgroup (`BPF_CGROUP_DEVICE`) is asked at each `open(2)`, for
//! commands and checks, too, and lets by what every container has and what is given now. So a node that somebody has kept
//! open by its path (`O_PATH`), or has got from elsewhere, opens nothing.
//!
//! Invariant: no process of a container with rules runs without that program; on a kernel without it none is started.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use kedge_sys::Errno;
use kedge_sys::bpf::device::{Access, Kind, Rule, program};
use kedge_sys::bpf::set_device_program;
use kedge_sys::mount::unmount_detach;
use kedge_sys::rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chownat, makedev, mkdirat, mknodat, openat,
    unlinkat,
};
use kedge_sys::rustix::process::umask;

use crate::engine::{Engine, NODES, new_devices};
use crate::mounts::{attach, join};
use crate::plan::Plan;
use crate::stage::{At, Failure, SpawnError, Stage};

/// A device that a container has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Its path below the container's `/dev`: names without `.` and `..`, with `/` between them.
    pub path: CString,
    /// Of which kind it is.
    pub kind: Kind,
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// What may be done with it.
    pub access: Access,
}

impl DeviceNode {
    /// Whether one of these is the same node, whatever may be done with it.
    fn is_among(&self, nodes: &[Self]) -> bool {
        nodes.iter().any(|other| {
            self.path == other.path
                && self.kind == other.kind
                && self.major == other.major
                && self.minor == other.minor
        })
    }
}

/// What of a change of a container's devices was not done.
#[derive(Debug)]
pub enum Unchanged {
    /// The cgroup's program is the former one: the container may open what it has lost, and is to be killed.
    Judge(SpawnError),
    /// The program is the new one; but not all nodes that it lets by are there.
    Nodes(SpawnError),
}

/// Pseudo terminals: their multiplexer, and the majors of those of a container's own (`Documentation/admin-guide/devices.txt`).
const TERMINALS: [(u32, Option<u32>); 2] = [(5, Some(2)), (136, None)];
/// What a program that is missing, or not taken, is told as.
const PROGRAM: &CStr = c"a program that judges devices (CONFIG_CGROUP_BPF)";

impl Engine {
    /// Has the cgroup of a container with rules judge by what it has. To be called before a process is in it.
    pub(crate) fn judge_devices<'p>(
        &self,
        plan: &'p Plan,
        cgroup: Option<&OwnedFd>,
    ) -> Result<(), Failure<'p>> {
        let Some(nodes) = &plan.devices else {
            return Ok(());
        };
        let cgroup = cgroup.ok_or(Errno::NOSYS);
        cgroup
            .and_then(|cgroup| judge(cgroup, nodes))
            .at(Stage::Devices, PROGRAM)
    }

    /// The `/dev` of a container's own, made anew: the path of its mount.
    pub(crate) fn place_devices(
        &self,
        plan: &Plan,
        nodes: &[DeviceNode],
    ) -> Result<CString, Errno> {
        let place = self.place(&plan.name)?;
        match mkdirat(CWD, &place, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        // That of a run before this one, if it is still there.
        unmount_detach(&place).ok();
        let tree = new_devices(|tree| nodes.iter().try_for_each(|node| make(plan, tree, node)))?;
        attach(&tree, &place)?;
        Ok(place)
    }

    /// Gives a container with rules these devices and no others, also while it runs. What it loses is gone from its `/dev`
    /// and can be opened no more; what is open stays open. Where the program cannot be exchanged, the plan is as it was.
    ///
    /// # Errors
    /// Stage `Devices`.
    pub fn change_devices(&self, plan: &mut Plan, nodes: Vec<DeviceNode>) -> Result<(), Unchanged> {
        let Some(before) = plan.devices.as_ref().filter(|before| **before != nodes) else {
            return Ok(());
        };
        let changed = self.exchange_devices(plan, before, &nodes);
        if !matches!(changed, Err(Unchanged::Judge(_))) {
            plan.devices = Some(nodes);
        }
        changed
    }

    fn exchange_devices(
        &self,
        plan: &Plan,
        before: &[DeviceNode],
        nodes: &[DeviceNode],
    ) -> Result<(), Unchanged> {
        let Some(parent) = &self.cgroup else {
            return Ok(());
        };
        let judged = |failure: Failure<'_>| Unchanged::Judge(failure.into());
        let cgroup = match parent.of(&plan.name) {
            // It does not run: its next start sees to all.
            Err(Errno::NOENT) => return Ok(()),
            other => other.at(Stage::Devices, &plan.name).map_err(judged)?,
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let tree = self
            .place(&plan.name)
            .and_then(|place| openat(CWD, place, flags, Mode::empty()));
        // What cannot be opened is not to be seen, and what is seen can be opened: this order, whatever fails in between.
        if let Ok(tree) = &tree {
            let lost = before.iter().filter(|node| !node.is_among(nodes));
            lost.for_each(|node| unmake(tree, node));
        }
        judge(&cgroup, nodes)
            .at(Stage::Devices, PROGRAM)
            .map_err(judged)?;
        let made = match tree {
            // A start that has failed before it was made.
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
            Ok(tree) => {
                let former = umask(Mode::empty());
                let added = nodes.iter().filter(|node| !node.is_among(before));
                let mut made = Ok(());
                for node in added {
                    // One that fails keeps no other from being made.
                    made = made.and(make(plan, &tree, node));
                }
                umask(former);
                made
            }
        };
        made.at(Stage::Devices, &plan.name)
            .map_err(|failure| Unchanged::Nodes(failure.into()))
    }

    /// Takes away the `/dev` of a container's own, if it has one.
    pub(crate) fn remove_devices(&self, name: &CStr) {
        // A mount that stays costs a little memory, and the next start puts another over it.
        if let Ok(place) = self.place(name) {
            unmount_detach(&place).ok();
        }
    }

    fn place(&self, name: &CStr) -> Result<CString, Errno> {
        join(&join(&self.own_devices, c"/")?, name)
    }
}

/// Has a cgroup let by what every container has, and these devices.
fn judge(cgroup: &OwnedFd, nodes: &[DeviceNode]) -> Result<(), Errno> {
    let program = program(&rules(nodes));
    set_device_program(cgroup.as_fd(), &program).map_err(|error| error.errno)
}

/// Nobody in a container makes a node, so that no rule is for that.
fn rules(nodes: &[DeviceNode]) -> Vec<Rule> {
    let rule = |kind, major, minor, access| Rule {
        allow: true,
        kind: Some(kind),
        major: Some(major),
        minor,
        access,
    };
    let all = NODES.iter().map(|(_, major, minor)| (*major, Some(*minor)));
    let all = all.chain(TERMINALS);
    all.map(|(major, minor)| rule(Kind::Character, major, minor, Access::READ_WRITE))
        .chain(
            nodes
                .iter()
                .map(|node| rule(node.kind, node.major, Some(node.minor), node.access)),
        )
        .collect()
}

/// Makes a node for the container's user, and the folders on the way. One that is there already is another's, and stays.
fn make(plan: &Plan, tree: &OwnedFd, node: &DeviceNode) -> Result<(), Errno> {
    for folder in folders(&node.path) {
        match mkdirat(tree, &folder, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    let kind = match node.kind {
        Kind::Block => FileType::BlockDevice,
        Kind::Character => FileType::CharacterDevice,
    };
    let device = makedev(node.major, node.minor);
    // What may be done is judged by the program, which no capability passes by.
    match mknodat(tree, &node.path, kind, Mode::from_raw_mode(0o660), device) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    let id = |id: u16| plan.id_base.saturating_add(id.into());
    let owner = (
        Uid::from_raw(id(plan.user.uid)),
        Gid::from_raw(id(plan.user.gid)),
    );
    chownat(
        tree,
        &node.path,
        Some(owner.0),
        Some(owner.1),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

/// Removes a node, and the folders on the way that are empty then.
fn unmake(tree: &OwnedFd, node: &DeviceNode) {
    // It fails only where it is gone, or where another one is in the folder.
    unlinkat(tree, &node.path, AtFlags::empty()).ok();
    for folder in folders(&node.path).into_iter().rev() {
        unlinkat(tree, &folder, AtFlags::REMOVEDIR).ok();
    }
}

/// The folders above a path, the highest first.
fn folders(path: &CStr) -> Vec<CString> {
    let bytes = path.to_bytes();
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    ends.filter_map(|(end, _)| CString::new(bytes.get(..end)?).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_from_the_highest_on() {
        assert_eq!(
            folders(c"bus/usb/001/002"),
            [
                c"bus".to_owned(),
                c"bus/usb".to_owned(),
                c"bus/usb/001".to_owned()
            ]
        );
        assert!(folders(c"ttyUSB0").is_empty());
    }

    #[test]
    fn what_every_container_has_and_what_it_was_given_is_let_by() {
        let node = DeviceNode {
            path: c"modem".to_owned(),
            kind: Kind::Character,
            major: 188,
            minor: 3,
            access: Access::READ,
        };
        let rules = rules(&[node]);
        assert_eq!(rules.len(), NODES.len() + 3);
        assert!(
            rules
                .iter()
                .all(|rule| rule.allow && rule.kind.is_some() && rule.major.is_some())
        );
        let last = rules.last().unwrap();
        assert_eq!(
            (last.major, last.minor, last.access),
            (Some(188), Some(3), Access::READ)
        );
        // No rule lets a node be made.
        assert!(
            rules
                .iter()
                .all(|rule| rule.access != Access::ALL && rule.access != Access::MAKE)
        );
    }
}
