//! The parent's half of a container's mounts: made detached, with ids mapped, handed to the child.
//!
//! Only the parent may map a mount's ids or mount an overlay whose writes reach the disk; only the
//! child may put mounts into its own namespace. So the parent makes each as a detached clone, and
//! sends its descriptor. Nothing of it stays in the parent's namespace.
//!
//! An overlay on Linux 6.12 takes lower directories from mounts that are attached in the caller's
//! namespace only. Its clones are attached under `m/` for as long as it is being made; it keeps
//! private clones of its own.

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;

use kedge_sys::Errno;
use kedge_sys::fsids::with_file_ids;
use kedge_sys::mount::{
    Attributes, Depth, FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags,
    Propagation, fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    set_attributes, unmount_detach,
};
use kedge_sys::rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Uid, chmodat, chownat, mkdirat, openat, statat, statvfs,
};
use kedge_sys::rustix::mount::{MountFlags, mount_remount};

use crate::engine::Engine;
use crate::handshake::Mounts;
use crate::places::{self, Place};
use crate::plan::{Medium, Plan, VolumePlan, Writes};
use crate::quota;
use crate::stage::{At, Failure, Stage};

pub(crate) const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;
pub(crate) const NO_SUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
pub(crate) const NO_DEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
pub(crate) const NO_EXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
/// For what holds the kernel's files: none of them is a program or a device.
pub(crate) const KERNEL: MountAttrFlags = NO_SUID.union(NO_DEV).union(NO_EXEC);

/// A new file system of a kind with options, mounted nowhere yet. Allocates nothing.
pub(crate) fn filesystem(
    kind: &CStr,
    options: &[(&CStr, &CStr)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value)?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Puts a detached mount to `target`. Allocates nothing.
pub(crate) fn attach(mount: &OwnedFd, target: &CStr) -> Result<(), Errno> {
    // Links on the way to `target` are followed, also the last: an image may have /var/run -> /run.
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(mount, c"", CWD, target, flags)
}

/// A detached clone of the mount at `path`, from `path` down, without mounts below. It neither sends
/// nor receives mount events.
fn clone(
    path: &CStr,
    attributes: MountAttrFlags,
    map: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, path, flags)?;
    set_up(&tree, attributes, map)?;
    Ok(tree)
}

/// Makes a detached mount what it is to be, and private.
fn set_up(
    tree: &OwnedFd,
    attributes: MountAttrFlags,
    map: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut change = Attributes::new()
        .set(attributes)
        .propagation(Propagation::Private);
    if let Some(namespace) = map {
        change = change.id_map(namespace);
    }
    set_attributes(tree, c"", Depth::One, &change).map_err(|error| error.errno)
}

impl Engine {
    /// All mounts of a container whose user namespace is `ids`.
    pub(crate) fn mounts<'p>(
        &'p self,
        plan: &'p Plan,
        ids: BorrowedFd<'_>,
    ) -> Result<Mounts, Failure<'p>> {
        let shared = READ_ONLY | NO_SUID;
        let bind =
            |path: &'p CString, attributes| clone(path, attributes, None).at(Stage::Bind, path);
        let sysfs = if plan.network.is_own() {
            None
        } else {
            Some(clone(c"/sys", READ_ONLY | KERNEL, None).at(Stage::Sysfs, c"/sys")?)
        };
        // The program finds out whether its image has the file; until then it may be missing here.
        let file = |path: &'p Option<CString>| match path {
            None => Ok(None),
            Some(path) => match clone(path, READ_ONLY | KERNEL, None) {
                Err(Errno::NOENT) => Ok(None),
                other => other.at(Stage::Bind, path).map(Some),
            },
        };
        let resolv_conf = file(&plan.resolv_conf)?;
        let hosts = file(&plan.hosts)?;
        let volumes: Result<_, _> = plan.volumes.iter().map(|v| volume(v, ids)).collect();
        Ok(Mounts {
            root: self.root(plan, ids)?,
            devices: match &plan.devices {
                None => bind(&self.devices, shared | NO_EXEC)?,
                Some(nodes) => {
                    let place = self.place_devices(plan, nodes);
                    let tree = place.and_then(|place| clone(&place, shared | NO_EXEC, None));
                    tree.at(Stage::Devices, &plan.name)?
                }
            },
            sysfs,
            sockets: plan
                .sockets
                .as_ref()
                .map(|path| bind(path, shared | KERNEL))
                .transpose()?,
            resolv_conf,
            hosts,
            volumes: volumes?,
        })
    }

    /// The root: the layer itself where it is the only one, has all places, and nothing may write;
    /// otherwise an overlay.
    fn root<'p>(&'p self, plan: &'p Plan, ids: BorrowedFd<'_>) -> Result<OwnedFd, Failure<'p>> {
        let mut temporaries = Temporaries {
            engine: self,
            paths: Vec::new(),
        };
        let Some(writes) = &plan.root.writes else {
            return read_only_root(plan, ids, &mut temporaries);
        };
        let mut options = Vec::new();
        self.upper(plan, writes, ids, &mut temporaries, &mut options)?;
        attach_layers(plan, ids, &mut temporaries, &mut options)?;
        overlay(plan, &options, NO_DEV)
    }

    /// The overlay's writable directory, made if it is not there, as options.
    fn upper<'p>(
        &'p self,
        plan: &'p Plan,
        writes: &'p Writes,
        ids: BorrowedFd<'_>,
        temporaries: &mut Temporaries<'p>,
        options: &mut Options,
    ) -> Result<(), Failure<'p>> {
        let path = &writes.directory;
        make_source(path, writes.medium, (0, 0)).at(Stage::Overlay, path)?;
        quota::bound(path, writes.medium).at(Stage::Quota, path)?;
        if let Some(top) = plan.root.layers.last() {
            make_upper(path, top).at(Stage::Overlay, path)?;
        }
        let tree = clone(path, NO_DEV, Some(ids)).at(Stage::Overlay, path)?;
        let place = temporaries.attach(&tree)?;
        for (key, name) in [(c"workdir", c"/work"), (c"upperdir", c"/upper")] {
            options.push((key, join(&place, name).at(Stage::Overlay, path)?));
        }
        Ok(())
    }
}

/// Options of an overlay, the lowest layer first.
type Options = Vec<(&'static CStr, CString)>;

/// A root that nothing may write to.
fn read_only_root<'p>(
    plan: &'p Plan,
    ids: BorrowedFd<'_>,
    temporaries: &mut Temporaries<'p>,
) -> Result<OwnedFd, Failure<'p>> {
    let mut options = Vec::new();
    let root = if let [layer] = plan.root.layers.as_slice() {
        clone_layer(layer, ids)?
    } else {
        attach_layers(plan, ids, temporaries, &mut options)?;
        overlay(plan, &options, READ_ONLY | NO_DEV)?
    };
    let missing = places::missing(&root, plan);
    if missing.is_empty() {
        return Ok(root);
    }
    let skeleton = skeleton(plan, &root, &missing, ids).at(Stage::Overlay, &plan.name)?;
    if options.is_empty() {
        options.push((LOWER, temporaries.attach(&root)?));
    }
    // The highest layer: in a lower one a link or a deletion of the image would hide it.
    options.push((LOWER, temporaries.attach(&skeleton)?));
    overlay(plan, &options, READ_ONLY | NO_DEV)
}

/// A layer with the places that `root` lacks, in memory for as long as a root has it.
fn skeleton(
    plan: &Plan,
    root: &OwnedFd,
    missing: &[Place],
    ids: BorrowedFd<'_>,
) -> Result<OwnedFd, Errno> {
    let tree = filesystem(c"tmpfs", &[(c"mode", c"0755")], NO_DEV)?;
    places::make(&tree, root, missing, plan.id_base)?;
    set_up(&tree, READ_ONLY | NO_DEV, Some(ids))?;
    Ok(tree)
}

const LOWER: &CStr = c"lowerdir+";

fn clone_layer<'p>(layer: &'p CStr, ids: BorrowedFd<'_>) -> Result<OwnedFd, Failure<'p>> {
    clone(layer, READ_ONLY | NO_DEV, Some(ids)).at(Stage::Layer, layer)
}

fn attach_layers<'p>(
    plan: &'p Plan,
    ids: BorrowedFd<'_>,
    temporaries: &mut Temporaries<'p>,
    options: &mut Options,
) -> Result<(), Failure<'p>> {
    for layer in &plan.root.layers {
        let tree = clone_layer(layer, ids)?;
        options.push((LOWER, temporaries.attach(&tree)?));
    }
    Ok(())
}

fn overlay<'p>(
    plan: &'p Plan,
    options: &[(&CStr, CString)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Failure<'p>> {
    // The kernel wants the highest first.
    let options = options.iter().rev();
    let options: Vec<_> = options.map(|(key, path)| (*key, path.as_c_str())).collect();
    // An overlay does its own work on the writable directory with the ids of who mounts it. Ours
    // have no place in that mount's map; those of the container's root do.
    let mounted = with_file_ids(plan.id_base, plan.id_base, || {
        filesystem(c"overlay", &options, attributes)
    });
    let mounted = mounted.at(Stage::Overlay, &plan.name)?;
    mounted.at(Stage::Overlay, &plan.name)
}

/// Mounts that are attached for a moment.
struct Temporaries<'e> {
    engine: &'e Engine,
    paths: Vec<CString>,
}

impl<'e> Temporaries<'e> {
    fn attach(&mut self, tree: &OwnedFd) -> Result<CString, Failure<'e>> {
        let path = self.engine.temporary(self.paths.len());
        let path = path.at(Stage::Overlay, &self.engine.temporaries)?;
        attach(tree, &path).at(Stage::Overlay, &self.engine.temporaries)?;
        self.paths.push(path.clone());
        Ok(path)
    }
}

impl Drop for Temporaries<'_> {
    fn drop(&mut self) {
        for path in &self.paths {
            // It fails only if it is gone already.
            unmount_detach(path).ok();
        }
    }
}

/// A volume: its directory with ids mapped.
fn volume<'p>(volume: &'p VolumePlan, ids: BorrowedFd<'_>) -> Result<OwnedFd, Failure<'p>> {
    let path = &volume.source;
    make_source(path, volume.medium, volume.owner).at(Stage::Volume, path)?;
    quota::bound(path, volume.medium).at(Stage::Quota, path)?;
    clone(path, NO_SUID | NO_DEV, Some(ids)).at(Stage::Volume, path)
}

/// Mode of a directory that has not got its owner yet. It changes last, and ext4 keeps the order: after a power cut in
/// between the next start goes on where this one was.
const UNFINISHED: u32 = 0o1000;

/// Makes a directory that will be written to, if it is not there: with an owner, and with a tmpfs on
/// it if it is to be in memory. What is there is left as it is.
fn make_source(path: &CStr, medium: Medium, owner: (u16, u16)) -> Result<(), Errno> {
    let mut is_mounted = false;
    match statat(CWD, path, AtFlags::empty()) {
        Ok(found) if found.st_mode & 0o7777 != UNFINISHED => return resize(path, medium),
        // Its container can give it this mode, too: another tmpfs on top at each start would take memory without a bound.
        Ok(found) => {
            let parent = parent(path).ok_or(Errno::INVAL)?;
            is_mounted = statat(CWD, &parent, AtFlags::empty())?.st_dev != found.st_dev;
        }
        Err(_) => {
            if let Some(parent) = parent(path) {
                make_directories(&parent)?;
            }
            mkdirat(CWD, path, Mode::from_raw_mode(UNFINISHED))?;
        }
    }
    if let (Medium::Memory(bytes), false) = (medium, is_mounted) {
        let number = |number: u64| CString::new(number.to_string()).map_err(|_| Errno::INVAL);
        let (size, files) = (number(bytes)?, number(quota::files(bytes))?);
        let options = [
            (c"size", size.as_c_str()),
            (c"nr_inodes", &files),
            (c"mode", c"0755"),
        ];
        let tmpfs = filesystem(c"tmpfs", &options, NO_SUID | NO_DEV);
        if let Err(errno) = tmpfs.and_then(|mount| attach(&mount, path)) {
            // So that the next start does not take the bare directory for the volume.
            kedge_sys::rustix::fs::rmdir(path).ok();
            return Err(errno);
        }
    }
    let (user, group) = owner;
    let (user, group) = (Uid::from_raw(user.into()), Gid::from_raw(group.into()));
    chownat(CWD, path, Some(user), Some(group), AtFlags::empty())?;
    chmodat(CWD, path, Mode::from_raw_mode(0o755), AtFlags::empty())
}

/// Gives a tmpfs that is there the size that its definition has now; one that is smaller than what is in it stays as it is.
fn resize(path: &CStr, medium: Medium) -> Result<(), Errno> {
    let Medium::Memory(bytes) = medium else {
        return Ok(());
    };
    let (now, files) = (statvfs(path)?, quota::files(bytes));
    if now.f_blocks == bytes.div_ceil(now.f_frsize.max(1)) && now.f_files == files {
        return Ok(());
    }
    let options = format!("size={bytes},nr_inodes={files}");
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    match mount_remount(path, MountFlags::NOSUID | MountFlags::NODEV, &options) {
        Err(Errno::INVAL) => Ok(()),
        other => other,
    }
}

/// The directory that holds `path`.
fn parent(path: &CStr) -> Option<CString> {
    let bytes = path.to_bytes();
    let end = bytes.iter().rposition(|byte| *byte == b'/')?;
    CString::new(bytes.get(..end.max(1))?).ok()
}

/// Makes `upper` and `work` if they are not there. The root of the overlay looks as `upper` does, so
/// it gets owner and mode of the top layer's root.
fn make_upper(directory: &CStr, top: &CStr) -> Result<(), Errno> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, directory, flags, Mode::empty())?;
    // `work` is made last: when it is there, `upper` is complete.
    if statat(&directory, c"work", AtFlags::empty()).is_ok() {
        return Ok(());
    }
    let like = statat(CWD, top, AtFlags::empty())?;
    match mkdirat(&directory, c"upper", Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let (user, group) = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
    chownat(
        &directory,
        c"upper",
        Some(user),
        Some(group),
        AtFlags::empty(),
    )?;
    let mode = Mode::from_raw_mode(like.st_mode & 0o7777);
    chmodat(&directory, c"upper", mode, AtFlags::empty())?;
    mkdirat(&directory, c"work", Mode::from_raw_mode(0o700))
}

/// Makes a directory and those above it.
pub(crate) fn make_directories(path: &CStr) -> Result<(), Errno> {
    let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path);
    made.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// One path after the other, as text.
pub(crate) fn join(one: &CStr, other: &CStr) -> Result<CString, Errno> {
    CString::new([one.to_bytes(), other.to_bytes()].concat()).map_err(|_| Errno::INVAL)
}
