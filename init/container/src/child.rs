//! Starting a container: the child's side, from clone to exec. Nothing here allocates.
//!
//! Order matters. The file systems whose mounting asks whether the former ones are fully visible
//! (`/proc`, `/sys`) are made before the old root goes. Everything else happens after the pivot,
//! when a path of the image, whatever links are in it, cannot lead anywhere but into the image: nothing
//! of the device's is open any more, either, but for the container's own mounts.

use std::convert::Infallible;
use std::ffi::CStr;
use std::os::fd::OwnedFd;

use kedge_sys::Errno;
use kedge_sys::clone::Namespaces;
use kedge_sys::exec::ExecImage;
use kedge_sys::mount::{
    Attributes, Depth, MoveMountFlags, mount_bind, move_mount, pivot_here, set_attributes,
};
use kedge_sys::netlink::bring_loopback_up;
use kedge_sys::open::open_how;
use kedge_sys::privilege::{set_group, set_groups, set_user};
use kedge_sys::process::{fchdir, set_host_name, unshare};
use kedge_sys::rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, statat};

use crate::become_program::{Who, become_program, let_go};
use crate::engine::Engine;
use crate::handshake::Arrived;
use crate::interface::{self, INTERFACE};
use crate::mounts::{KERNEL, NO_DEV, NO_SUID, READ_ONLY, attach, filesystem};
use crate::places::FILES;
use crate::plan::{NetworkPlan, Plan};
use crate::spawn::Inner;
use crate::stage::{At, Failure, Stage, report};

/// The exit status of a process that could not be executed, as shells have it.
pub(crate) const NOT_EXECUTED: i32 = 127;

/// Masked as by the OCI's default: what tells about the machine or its kernel.
const MASKED_FILES: [&CStr; 6] = [
    c"/proc/kcore",
    c"/proc/keys",
    c"/proc/latency_stats",
    c"/proc/timer_list",
    c"/proc/timer_stats",
    c"/proc/sched_debug",
];
const MASKED_DIRECTORIES: [&CStr; 4] = [
    c"/proc/acpi",
    c"/proc/asound",
    c"/proc/scsi",
    c"/sys/firmware",
];
const READ_ONLY_PATHS: [&CStr; 5] = [
    c"/proc/bus",
    c"/proc/fs",
    c"/proc/irq",
    c"/proc/sys",
    c"/proc/sysrq-trigger",
];

/// The child's whole life until its exec; returns its exit status if it gets that far.
pub(crate) fn run(engine: &Engine, plan: &Plan, image: &ExecImage, inner: &Inner) -> i32 {
    let Err(failure) = enter(engine, plan, image, inner);
    report(&inner.report, &failure);
    NOT_EXECUTED
}

fn enter<'p>(
    engine: &'p Engine,
    plan: &'p Plan,
    image: &ExecImage,
    inner: &Inner,
) -> Result<Infallible, Failure<'p>> {
    // The mounts arrive when nothing else is open.
    let_go(inner, None)?;
    let mut arrived = Arrived::receive(&inner.report).at(Stage::Handshake, &plan.name)?;
    become_root()?;
    if let NetworkPlan::Pool(_) = plan.network {
        // While the device's own /proc is in sight: the container's is read-only there.
        interface::prepare().at(Stage::Interface, interface::LOW_PORTS)?;
    }
    if engine.cgroup.is_some() {
        unshare(Namespaces::CGROUP).at(Stage::Identity, c"cgroup namespace")?;
    }
    mount_all(engine, plan, &mut arrived).map_err(|(stage, errno, path)| Failure {
        stage,
        errno,
        path,
    })?;
    set_host_name(plan.host_name.as_bytes()).at(Stage::HostName, c"/")?;
    if plan.network.is_own() {
        bring_loopback_up().at(Stage::Loopback, c"lo")?;
    }
    if let NetworkPlan::Pool(attachment) = &plan.network {
        interface::set_up(attachment).at(Stage::Interface, INTERFACE)?;
    }
    engine.fence.close(plan.capabilities)?;
    become_program(plan, &Who::of(plan), image, inner)
}

/// Root of the user namespace: owner of what is made from here on.
pub(crate) fn become_root() -> Result<(), Failure<'static>> {
    set_groups(&[]).at(Stage::Identity, c"groups")?;
    set_group(0).at(Stage::Identity, c"group")?;
    set_user(0).at(Stage::Identity, c"user")
}

type Placed<'p, T> = Result<T, (Stage, Errno, &'p CStr)>;

fn mount_all<'p>(engine: &'p Engine, plan: &'p Plan, arrived: &mut Arrived) -> Placed<'p, ()> {
    let at = |stage, path| move |errno| (stage, errno, path);
    let handshake = at(Stage::Handshake, c"mounts");
    let root = arrived.take().map_err(handshake)?;
    let devices = arrived.take().map_err(handshake)?;
    let proc = filesystem(c"proc", &[], KERNEL).map_err(at(Stage::Proc, c"/proc"))?;
    let sysfs = match arrived.take_sysfs().map_err(handshake)? {
        Some(mount) => mount,
        None => filesystem(c"sysfs", &[], KERNEL | READ_ONLY).map_err(at(Stage::Sysfs, c"/sys"))?,
    };
    pivot(&root, &engine.root_place).map_err(at(Stage::Root, &engine.root_place))?;
    // An image without these three (`FROM scratch`) gets them, if its root can be written to; a
    // read-only root has them from its skeleton. None may be a link: what is masked below is masked by these paths.
    for (mount, stage, place) in [
        (&proc, Stage::Proc, c"/proc"),
        (&sysfs, Stage::Sysfs, c"/sys"),
        (&devices, Stage::Devices, c"/dev"),
    ] {
        attach_plain(mount, place).map_err(at(stage, place))?;
    }
    mask()?;
    mount_devices()?;
    if engine.cgroup.is_some() {
        let place = c"/sys/fs/cgroup";
        let mount = filesystem(c"cgroup2", &[], KERNEL | READ_ONLY);
        mount
            .and_then(|mount| attach(&mount, place))
            .map_err(at(Stage::Sysfs, place))?;
    }
    if let Some(sockets) = arrived.take_sockets().map_err(handshake)? {
        attach(&sockets, c"/dev/kedge").map_err(at(Stage::Bind, c"/dev/kedge"))?;
    }
    let files = [
        arrived.take_resolv_conf().map_err(handshake)?,
        arrived.take_hosts().map_err(handshake)?,
    ];
    for (file, place) in files.iter().zip(FILES) {
        let Some(file) = file else { continue };
        let placed = match (attach(file, place), plan.network) {
            (Err(Errno::NOENT), NetworkPlan::Pool(_)) => attach_to_file(file, place),
            (other, _) => other,
        };
        match placed {
            // An image that resolves no names, or has a link there that leads nowhere.
            Err(Errno::NOENT) => {}
            other => other.map_err(at(Stage::Bind, place))?,
        }
    }
    for volume in &plan.volumes {
        let mount = arrived.take().map_err(handshake)?;
        let placed = attach_making(&mount, &volume.target);
        placed.map_err(at(Stage::VolumeTarget, &volume.target))?;
    }
    Ok(())
}

/// Makes `root` the root of this mount namespace, with nothing left of the old one.
fn pivot(root: &OwnedFd, place: &CStr) -> Result<(), Errno> {
    attach(root, place)?;
    fchdir(root)?;
    pivot_here().map_err(|error| error.errno)
}

/// Hides and protects parts of `/proc` and `/sys`. Whatever this kernel does not have is skipped.
fn mask() -> Placed<'static, ()> {
    // Nothing is mounted on /dev/shm yet: it is an empty directory of a read-only file system.
    let files = MASKED_FILES.iter().map(|path| (*path, c"/dev/null"));
    let directories = MASKED_DIRECTORIES.iter().map(|path| (*path, c"/dev/shm"));
    for (path, cover) in files.chain(directories) {
        unless_missing(mount_bind(cover, path), path)?;
    }
    let read_only = Attributes::new().set(READ_ONLY);
    for path in READ_ONLY_PATHS {
        let change = || set_attributes(CWD, path, Depth::One, &read_only);
        let changed = mount_bind(path, path).and_then(|()| change().map_err(|error| error.errno));
        unless_missing(changed, path)?;
    }
    Ok(())
}

/// Passes over `path` only if it is what is missing, and not its cover.
fn unless_missing(result: Result<(), Errno>, path: &'static CStr) -> Placed<'static, ()> {
    let is_there = || statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok();
    match result {
        Err(Errno::NOENT) if !is_there() => Ok(()),
        other => other.map_err(|errno| (Stage::Mask, errno, path)),
    }
}

/// What is mounted in `/dev`: terminals, shared memory and message queues of the container's own.
fn mount_devices() -> Placed<'static, ()> {
    // Group 5 is `tty` in nearly every image (OCI runtime specification, "Default Filesystems").
    let terminals = [
        (c"ptmxmode", c"0666"),
        (c"mode", c"0620"),
        (c"gid", c"5"),
        // All containers share what the kernel has, 3072 (`kernel.pty.max` less `kernel.pty.reserve`).
        (c"max", c"256"),
    ];
    // As many files as a volume of that size may have.
    let memory = [
        (c"mode", c"1777"),
        (c"size", c"64m"),
        (c"nr_inodes", c"4096"),
    ];
    let all: [(_, &[(&CStr, &CStr)], _, _); 3] = [
        (c"devpts", &terminals, NO_SUID, c"/dev/pts"),
        (c"tmpfs", &memory, NO_SUID | NO_DEV, c"/dev/shm"),
        (c"mqueue", &[], KERNEL, c"/dev/mqueue"),
    ];
    for (kind, options, attributes, place) in all {
        let mount = filesystem(kind, options, attributes);
        let placed = mount.and_then(|mount| attach(&mount, place));
        placed.map_err(|errno| (Stage::Devices, errno, place))?;
    }
    Ok(())
}

/// Attaches a mount to a directory of the root that is no link, and makes it if the root can be written to.
fn attach_plain(mount: &OwnedFd, target: &CStr) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let find = || {
        let found = open_how(CWD, target, flags, ResolveFlags::NO_SYMLINKS);
        found.map_err(|error| error.errno)
    };
    let place = match find() {
        Err(Errno::NOENT) => {
            make_all(target.to_bytes())?;
            find()?
        }
        other => other?,
    };
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", place, c"", flags)
}

/// Attaches a mount, and makes the directories on the way if the root can be written to.
fn attach_making(mount: &OwnedFd, target: &CStr) -> Result<(), Errno> {
    match attach(mount, target) {
        Err(Errno::NOENT) => {
            make_all(target.to_bytes())?;
            attach(mount, target)
        }
        other => other,
    }
}

/// Makes a file in a root that can be written to, and attaches a mount to it. One that cannot has the file from its skeleton.
fn attach_to_file(mount: &OwnedFd, target: &CStr) -> Result<(), Errno> {
    let path = target.to_bytes();
    let end = path.iter().rposition(|byte| *byte == b'/');
    make_all(end.and_then(|end| path.get(..end)).unwrap_or_default())?;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    match openat(CWD, target, flags, Mode::from_raw_mode(0o644)) {
        Err(Errno::ROFS) => Err(Errno::NOENT),
        other => other.and_then(|_| attach(mount, target)),
    }
}

/// Makes a directory and those above it, without allocating.
fn make_all(path: &[u8]) -> Result<(), Errno> {
    let ends = path.iter().enumerate().skip(1);
    let ends = ends.filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
    for end in ends.chain(std::iter::once(path.len())) {
        let part = path.get(..end).unwrap_or(path);
        match mkdirat(CWD, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
