//! Ways out of a container that were ways out of some other runtime's, each by its name: what the kernel answers.
//!
//! What is tried is harmless where it is let through.

use crate::facts::{Attempt, plain};
use kedge_sys::attempt;
use kedge_sys::clone::{self, Namespaces};
use kedge_sys::mount::{Attributes, Depth, MountAttrFlags, OpenTreeFlags, UnmountFlags};
use rustix::fs::CWD;
use rustix::process::Pid;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Names of processes that are tried: a device has some hundred.
const PROCESSES: i32 = 1024;

/// Each says `allowed`, or the error's number.
pub(crate) const ESCAPES: [(&str, Attempt); 20] = [
    ("trace-others", || of_others(attempt::trace)),
    ("read-memory-of-others", || of_others(attempt::read_memory)),
    ("root-of-others", root_of_others),
    ("take-descriptor", || {
        let own = rustix::process::pidfd_open(
            rustix::process::getpid(),
            rustix::process::PidfdFlags::empty(),
        )?;
        let flags = rustix::process::PidfdGetfdFlags::empty();
        Ok(rustix::process::pidfd_getfd(own, 0, flags).map(drop)?)
    }),
    // The second inode of ext4 is its root.
    ("open-by-handle", || {
        plain(attempt::open_by_handle(File::open("/")?, 2))
    }),
    ("user-fault", || plain(attempt::user_fault())),
    ("ring", || plain(attempt::ring())),
    ("count-events", || plain(attempt::count_events())),
    ("replace-kernel", || plain(attempt::replace_kernel())),
    ("clone3-user", || {
        plain(clone::spawn(Namespaces::USER, None, || 0).map(drop))
    }),
    ("clone-user", || {
        plain(attempt::clone_into(Namespaces::USER))
    }),
    ("clone-mounts", || {
        plain(attempt::clone_into(Namespaces::MOUNT))
    }),
    ("clone-processes", || {
        plain(attempt::clone_into(Namespaces::PID))
    }),
    ("clone-network", || {
        plain(attempt::clone_into(Namespaces::NETWORK))
    }),
    ("new-file-system", || {
        let flags = kedge_sys::mount::FsOpenFlags::empty();
        Ok(kedge_sys::mount::fsopen(c"tmpfs", flags).map(drop)?)
    }),
    ("copy-mounts", || {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE;
        Ok(kedge_sys::mount::open_tree(CWD, c"/proc/1/root", flags).map(drop)?)
    }),
    ("make-mount-writable", || {
        let change = Attributes::new().clear(MountAttrFlags::MOUNT_ATTR_RDONLY);
        plain(kedge_sys::mount::set_attributes(
            CWD,
            c"/",
            Depth::Tree,
            &change,
        ))
    }),
    ("bind-over-link", || {
        Ok(kedge_sys::mount::mount_bind(c"/proc/self/fd/0", c"/tmp")?)
    }),
    ("uncover-kernel-memory", || {
        Ok(kedge_sys::mount::unmount(
            c"/proc/kcore",
            UnmountFlags::DETACH,
        )?)
    }),
    ("change-root", || Ok(rustix::process::chroot("/tmp")?)),
];

/// What a call says of all processes that are not the container's: the device's first one, other containers', threads of the
/// kernel. That there is none such is what is hoped for.
fn of_others(call: fn(Pid) -> kedge_sys::Result<()>) -> io::Result<()> {
    for number in 1..=PROCESSES {
        let Some(pid) = Pid::from_raw(number) else {
            continue;
        };
        let is_ours = || Path::new(&format!("/proc/{number}")).exists();
        if is_ours() {
            continue;
        }
        match call(pid) {
            Err(error) if error.errno == kedge_sys::Errno::SRCH => {}
            // A command that has begun meanwhile.
            _ if is_ours() => {}
            other => return plain(other),
        }
    }
    Err(rustix::io::Errno::SRCH.into())
}

/// Whether a process in sight has another root than this one, by which one would be there.
fn root_of_others() -> io::Result<()> {
    let own = std::fs::metadata("/")?;
    for number in 1..=PROCESSES {
        let Ok(root) = std::fs::metadata(format!("/proc/{number}/root/")) else {
            continue;
        };
        if (root.dev(), root.ino()) != (own.dev(), own.ino()) {
            return Ok(());
        }
    }
    Err(rustix::io::Errno::NOENT.into())
}
