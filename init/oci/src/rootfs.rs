//! The root file system, made by the container's process in its own mount namespace.
//!
//! Everything is mounted below the new root while the old one is still there; then the old one goes, and what is left is
//! hidden and protected. Whatever an image has in its folders, a mount lands inside ([`crate::inside`]).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use kedge_sys::Errno;
use kedge_sys::clone::Namespaces;
use kedge_sys::mount::{
    Attributes, Depth, FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags,
    OpenTreeFlags, Propagation, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount,
    fsopen, mount_change, open_tree, pivot_here, set_attributes,
};
use kedge_sys::process::fchdir;
use kedge_sys::rustix::fs::{CWD, FileType};

use crate::inside::{self, Want};
use crate::link::{Link, Word};
use crate::nodes;
use crate::plan::{Change, Ids, MountPlan, Plan, Source, Spread};

/// Makes all of it, up to the moment before the old root goes. Returns the root.
///
/// # Errors
/// The mount, by its destination.
pub(crate) fn build(plan: &Plan, link: &Link) -> Result<OwnedFd> {
    spread_root(plan)?;
    let path = CString::new(std::os::unix::ffi::OsStrExt::as_bytes(
        plan.root.as_os_str(),
    ))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let root = open_tree(CWD, &path, flags)
        .with_context(|| format!("root.path {}", plan.root.display()))?;
    ensure!(
        inside::is_folder(&root)?,
        "root.path {} is no folder",
        plan.root.display()
    );
    let place = open_tree(CWD, &path, OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    inside::attach(root.as_fd(), place.as_fd()).context("root.path")?;
    let mut late = Vec::new();
    for mount in &plan.mounts {
        let mounted = one(plan, mount, root.as_fd(), link);
        let mounted = mounted.with_context(|| format!("mount {}", mount.target.text))?;
        late.extend(mounted);
    }
    // Whoever brings a /dev of his own is left with what is in it.
    let brought = |mount: &MountPlan| {
        mount.target.path.as_c_str() == c"/dev" && matches!(mount.source, Source::Bind { .. })
    };
    if !plan.mounts.iter().any(brought) {
        nodes::make(plan, root.as_fd())?;
    }
    for mount in late {
        let read_only = Attributes::new().set(MountAttrFlags::MOUNT_ATTR_RDONLY);
        set_attributes(&mount, c"", Depth::One, &read_only)
            .context("make a file system in memory read-only")?;
    }
    Ok(root)
}

/// How mounts of the old root spread: nothing that happens here reaches the machine, but for what a document wants.
fn spread_root(plan: &Plan) -> Result<()> {
    let flags = match plan.propagation {
        Some(Spread {
            kind: Propagation::Shared,
            ..
        }) => MountPropagationFlags::SHARED,
        Some(Spread {
            kind: Propagation::Private,
            ..
        }) => MountPropagationFlags::PRIVATE,
        Some(Spread {
            kind: Propagation::Unbindable | Propagation::Slave,
            ..
        })
        | None => MountPropagationFlags::DOWNSTREAM,
    };
    mount_change(c"/", flags | MountPropagationFlags::REC).context("how mounts spread")?;
    if flags == MountPropagationFlags::SHARED {
        // pivot_root(2) wants what the new root is mounted on to be private.
        let mut above = plan.root.clone();
        while mount_change(&above, MountPropagationFlags::PRIVATE).is_err() {
            ensure!(above.pop(), "how mounts spread above root.path");
        }
    }
    Ok(())
}

/// One mount. Returns it if it is to become read-only when all others are there.
fn one(
    plan: &Plan,
    mount: &MountPlan,
    root: BorrowedFd<'_>,
    link: &Link,
) -> Result<Option<OwnedFd>> {
    let target = &mount.target.path;
    if mount.source == Source::Present {
        let place = inside::find(root, target)?;
        change(&place, mount)?;
        return Ok(None);
    }
    let mut late = false;
    let tree = match &mount.source {
        _ if by_parent(plan, mount) => {
            let sent = link.wait_for(Word::Mount)?;
            sent.descriptor.context("the mount did not arrive")?
        }
        Source::Bind { path, recursive } => {
            let tree = clone(path, *recursive)?;
            change(&tree, mount)?;
            tree
        }
        Source::FileSystem {
            kind,
            source,
            options,
        } => {
            let mut own = mount.own;
            late =
                kind.as_c_str() == c"tmpfs" && own.set.contains(MountAttrFlags::MOUNT_ATTR_RDONLY);
            if late {
                own.set -= MountAttrFlags::MOUNT_ATTR_RDONLY;
            }
            let options = with_mode(kind, options, root, target);
            file_system(kind, source.as_deref(), &options, own.set)?
        }
        Source::Cgroup => match cgroup(plan, mount)? {
            Some(tree) => tree,
            None => return Ok(None),
        },
        Source::Present => return Ok(None),
    };
    let want = if inside::is_folder(&tree)? {
        Want::Folder
    } else {
        Want::File
    };
    let kernel = matches!(&mount.source, Source::FileSystem { kind, .. } if kind.as_c_str() == c"proc" || kind.as_c_str() == c"sysfs");
    let mut place = inside::make(root, target, want)?;
    if kernel {
        place = inside::find_plain(root, target).context("a link leads there")?;
    }
    let copied = mount
        .copy_up
        .then(|| inside::find(root, target))
        .transpose()?;
    inside::attach(tree.as_fd(), place.as_fd())?;
    if let Some(spread) = mount.spread {
        let depth = if spread.recursive {
            Depth::Tree
        } else {
            Depth::One
        };
        set_attributes(
            &tree,
            c"",
            depth,
            &Attributes::new().propagation(spread.kind),
        )
        .context("how it spreads")?;
    }
    if let Some(from) = copied {
        crate::copy::folder(from.as_fd(), tree.as_fd()).context("tmpcopyup")?;
    }
    Ok(late.then_some(tree))
}

/// A file system in memory looks as the folder that it covers did, if nothing is said of its mode.
fn with_mode(kind: &CStr, options: &Options, root: BorrowedFd<'_>, target: &CStr) -> Options {
    let mut options = options.clone();
    let said = options.iter().any(|(key, _)| key.as_c_str() == c"mode");
    if kind == c"tmpfs"
        && !said
        && let Ok(found) = inside::find(root, target).and_then(inside::stat)
    {
        let mode = format!("{:o}", found.st_mode & 0o7777);
        if let Ok(mode) = CString::new(mode) {
            options.push((c"mode".to_owned(), Some(mode)));
        }
    }
    options
}

/// Options of a file system; without a value: flags.
type Options = Vec<(CString, Option<CString>)>;

/// Whether only the parent can make it: a process that is root of its user namespace alone may neither map ids nor pass
/// through folders that are closed to the user that it is outside.
pub(crate) fn by_parent(plan: &Plan, mount: &MountPlan) -> bool {
    matches!(mount.source, Source::Bind { .. })
        && (plan.new.contains(Namespaces::USER) || mount.ids.is_some())
}

/// The parent's half of those: a clone with its attributes, ids mapped by `ids`.
///
/// # Errors
/// The source.
pub(crate) fn for_child(mount: &MountPlan, ids: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
    let Source::Bind { path, recursive } = &mount.source else {
        anyhow::bail!("{} is no bind mount", mount.target.text);
    };
    let tree = clone(path, *recursive)?;
    // Out of it nothing spreads to the machine's own. Into it something does where the document wants that; the process may
    // then share it with whom it likes.
    let spread = match mount.spread.map(|spread| spread.kind) {
        Some(Propagation::Slave | Propagation::Shared) => Propagation::Slave,
        Some(Propagation::Private | Propagation::Unbindable) | None => Propagation::Private,
    };
    set_attributes(
        &tree,
        c"",
        Depth::Tree,
        &Attributes::new().propagation(spread),
    )?;
    if let Some(ids) = ids {
        let depth = match &mount.ids {
            Some(
                Ids::Container { recursive: true }
                | Ids::Own {
                    recursive: true, ..
                },
            ) => Depth::Tree,
            _ => Depth::One,
        };
        set_attributes(&tree, c"", depth, &Attributes::new().id_map(ids))
            .context("its file system does not map ids, or its kernel does not")?;
    }
    change(&tree, mount)?;
    Ok(tree)
}

fn clone(path: &CStr, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags).with_context(|| format!("source {}", path.to_string_lossy()))
}

fn change(tree: &OwnedFd, mount: &MountPlan) -> Result<()> {
    for (depth, change) in [(Depth::One, mount.own), (Depth::Tree, mount.tree)] {
        if change.is_empty() {
            continue;
        }
        let Change { set, clear } = change;
        set_attributes(tree, c"", depth, &Attributes::new().clear(clear).set(set))
            .context("its attributes")?;
    }
    Ok(())
}

/// A new file system, mounted nowhere yet.
///
/// # Errors
/// The kind, or the option that it does not know.
pub(crate) fn file_system(
    kind: &CStr,
    source: Option<&CStr>,
    options: &[(CString, Option<CString>)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
        .with_context(|| format!("file system {}", kind.to_string_lossy()))?;
    if let Some(source) = source {
        fsconfig_set_string(&context, c"source", source)
            .with_context(|| format!("source {}", source.to_string_lossy()))?;
    }
    for (key, value) in options {
        let set = match value {
            Some(value) => fsconfig_set_string(&context, key.as_c_str(), value.as_c_str()),
            None => fsconfig_set_flag(&context, key.as_c_str()),
        };
        set.with_context(|| format!("option {}", key.to_string_lossy()))?;
    }
    fsconfig_create(&context).with_context(|| format!("file system {}", kind.to_string_lossy()))?;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// The control groups as the container sees them; none: this machine has no version 2.
fn cgroup(plan: &Plan, mount: &MountPlan) -> Result<Option<OwnedFd>> {
    let Some(hierarchy) = crate::cgroup::hierarchy() else {
        return Ok(None);
    };
    let own = plan.new.contains(Namespaces::CGROUP) || plan.joins(Namespaces::CGROUP);
    if own {
        match file_system(c"cgroup2", None, &[], mount.own.set) {
            Ok(tree) => return Ok(Some(tree)),
            // With a user namespace but the machine's network, say: the kernel wants to see one that is mounted already.
            Err(error) if error.downcast_ref::<Errno>() == Some(&Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    let path = hierarchy.join(&plan.cgroup);
    let path = CString::new(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))?;
    let tree = clone(&path, false)?;
    change(&tree, mount)?;
    Ok(Some(tree))
}

/// Makes `root` the root, with nothing left of the old one.
///
/// # Errors
/// Those of `pivot_root(2)`.
pub(crate) fn pivot(root: &OwnedFd) -> Result<()> {
    fchdir(root)?;
    pivot_here().context("change the root")
}

/// What is left to do in the new root: how mounts spread from now on, what is hidden, what is protected.
///
/// # Errors
/// The path.
pub(crate) fn protect(plan: &Plan) -> Result<()> {
    let root = open_tree(CWD, c"/", OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    if let Some(Spread { kind, recursive }) = plan.propagation {
        let depth = if recursive { Depth::Tree } else { Depth::One };
        set_attributes(&root, c"", depth, &Attributes::new().propagation(kind))
            .context("linux.rootfsPropagation")?;
    }
    for path in &plan.read_only {
        read_only(root.as_fd(), path)
            .with_context(|| format!("linux.readonlyPaths: {}", path.to_string_lossy()))?;
    }
    let mut cover = None;
    for path in &plan.masked {
        mask(root.as_fd(), path, &mut cover)
            .with_context(|| format!("linux.maskedPaths: {}", path.to_string_lossy()))?;
    }
    if plan.read_only_root {
        let change = Attributes::new().set(MountAttrFlags::MOUNT_ATTR_RDONLY);
        set_attributes(&root, c"", Depth::One, &change).context("root.readonly")?;
    }
    Ok(())
}

/// A detached clone of what is open.
fn clone_of(place: &OwnedFd, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(place, c"", flags)
}

fn read_only(root: BorrowedFd<'_>, path: &CStr) -> Result<()> {
    let place = match inside::find(root, path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        other => other?,
    };
    let tree = clone_of(&place, true)?;
    let change = Attributes::new().set(MountAttrFlags::MOUNT_ATTR_RDONLY);
    set_attributes(&tree, c"", Depth::Tree, &change)?;
    Ok(inside::attach(tree.as_fd(), place.as_fd())?)
}

/// Hides a path: a folder under an empty one, anything else under the null device.
fn mask(root: BorrowedFd<'_>, path: &CStr, cover: &mut Option<OwnedFd>) -> Result<()> {
    let place = match inside::find(root, path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        other => other?,
    };
    let tree = if inside::is_folder(&place)? {
        match cover {
            // One empty file system is enough for all folders.
            Some(cover) => clone_of(cover, false)?,
            None => {
                let options = [(c"size".to_owned(), Some(c"0".to_owned()))];
                let tree =
                    file_system(c"tmpfs", None, &options, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
                inside::attach(tree.as_fd(), place.as_fd())?;
                *cover = Some(tree);
                return Ok(());
            }
        }
    } else {
        clone_of(&null(root)?, false)?
    };
    Ok(inside::attach(tree.as_fd(), place.as_fd())?)
}

/// The null device of the container: an image that has something else in its place hides nothing with it.
fn null(root: BorrowedFd<'_>) -> Result<OwnedFd> {
    let null = inside::find_plain(root, c"/dev/null").context("/dev/null")?;
    let found = inside::stat(&null)?;
    let is_device = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice;
    ensure!(
        is_device && found.st_rdev == kedge_sys::rustix::fs::makedev(1, 3),
        "/dev/null is not the null device: nothing can be hidden with it"
    );
    Ok(null)
}
