//! Processes by `clone3(2)`: a copy of this process in new namespaces and in a cgroup, with a pidfd.
//!
//! [`spawn`] works like `fork`: the child is a copy-on-write copy that runs one closure and leaves
//! by `_exit`. It never returns into the caller's code, not even by a panic.
//!
//! Invariant: the caller is single-threaded when the closure allocates or takes locks. PID 1 and the
//! helpers are. In a process with other threads (a test, say) a lock that another thread holds at
//! the moment of the copy stays locked in the child for ever: a deadlock there, not a memory error;
//! so such a closure must neither allocate nor lock.
//!
//! What is absent: a fallback for kernels without `CLONE_INTO_CGROUP` (5.7) and id maps, which the
//! parent writes; both are the caller's.

use std::ops::BitOr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use libc::c_long;
use rustix::process::Pid;

use crate::syscall::{CLONE3, checked, new_descriptor};
use crate::{Errno, Error, Result};

/// The namespaces that a child gets of its own (`namespaces(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Namespaces(u64);

impl Namespaces {
    /// None: all are shared with the parent.
    pub const NONE: Self = Self(0);
    /// Boot-time and monotonic clocks. Absent on 32-bit ARM and MIPS.
    pub const TIME: Self = Self(0x80);
    /// Mounts.
    pub const MOUNT: Self = Self(0x2_0000);
    /// The view of the cgroup tree.
    pub const CGROUP: Self = Self(0x200_0000);
    /// Host and domain name.
    pub const UTS: Self = Self(0x400_0000);
    /// System V IPC and POSIX message queues.
    pub const IPC: Self = Self(0x800_0000);
    /// User and group ids, capabilities.
    pub const USER: Self = Self(0x1000_0000);
    /// Process ids: the child is process 1 of it.
    pub const PID: Self = Self(0x2000_0000);
    /// Network.
    pub const NETWORK: Self = Self(0x4000_0000);

    /// Whether all of `other` are in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together, for constants.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The `CLONE_NEW*` bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl BitOr for Namespaces {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

/// A process that [`spawn`] made. Dropping it neither kills nor reaps the process.
#[derive(Debug)]
pub struct Child {
    /// Its id in the caller's pid namespace.
    pub pid: Pid,
    /// Becomes readable when the process has ended; close-on-exec.
    pub pidfd: OwnedFd,
}

/// `struct clone_args`, version 2 (Linux 5.7: with `cgroup`); see `clone(2)`.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Runs `child` in a copy of this process and returns at once; the child ends with the code that
/// the closure returns (its low eight bits). `cgroup` is an open cgroup v2 directory.
///
/// # Errors
/// Those of `clone(2)`: among them `EINVAL` or `E2BIG` where the kernel knows no `CLONE_INTO_CGROUP`,
/// `EPERM` without the privilege for a namespace, `ENOSPC` at a limit on namespaces, `EAGAIN`.
pub fn spawn<F>(namespaces: Namespaces, cgroup: Option<BorrowedFd<'_>>, child: F) -> Result<Child>
where
    F: FnOnce() -> i32,
{
    let mut arguments = CloneArguments {
        flags: namespaces.0,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        ..CloneArguments::default()
    };
    if let Some(directory) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(directory.as_raw_fd().unsigned_abs());
    }
    clone(arguments, child)
}

/// As [`spawn`], but the child is one of this process's own parent, which reaps it. This process may end.
///
/// # Errors
/// Those of `clone(2)`; `EINVAL` for the first process of a pid namespace.
pub fn spawn_sibling<F>(child: F) -> Result<Child>
where
    F: FnOnce() -> i32,
{
    // Its end is signalled as ours is: the kernel wants no signal here (clone(2), `CLONE_PARENT`).
    let arguments = CloneArguments {
        flags: CLONE_PARENT,
        ..CloneArguments::default()
    };
    clone(arguments, child)
}

fn clone<F>(mut arguments: CloneArguments, child: F) -> Result<Child>
where
    F: FnOnce() -> i32,
{
    let mut pidfd: libc::c_int = -1;
    arguments.flags |= CLONE_PIDFD;
    arguments.pidfd = address_of(&mut pidfd);
    // SAFETY: without CLONE_VM and with no stack given, this is fork: parent and child each go on
    // with memory of their own. `arguments` is a valid clone_args of the size that is passed, its
    // `pidfd` points to a live c_int, and the kernel keeps neither pointer.
    let answer = unsafe {
        libc::syscall(
            CLONE3,
            &raw mut arguments,
            std::mem::size_of::<CloneArguments>(),
        )
    };
    let pid = checked("clone3", answer)?;
    if pid == 0 {
        run_child(child);
    }
    // SAFETY: clone3 has succeeded with CLONE_PIDFD, so the kernel stored a new descriptor there,
    // and nothing else knows it.
    let pidfd = unsafe { new_descriptor("clone3", c_long::from(pidfd)) }?;
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(Error::new("clone3", Errno::OVERFLOW))?;
    Ok(Child { pid, pidfd })
}

/// The address of `value` as the kernel's 64-bit structures carry it.
fn address_of<T>(value: &mut T) -> u64 {
    // `usize` is at most 64 bits wide on every target that Linux has.
    u64::try_from(std::ptr::from_mut(value).addr()).unwrap_or(u64::MAX)
}

/// What the child does instead of returning.
fn run_child<F: FnOnce() -> i32>(child: F) -> ! {
    /// Ends the child when a panic unwinds (in tests; the device aborts): were it to return into
    /// the caller's code, there would be two of the parent.
    struct LeaveOnUnwind;
    impl Drop for LeaveOnUnwind {
        fn drop(&mut self) {
            exit_now(PANICKED);
        }
    }
    let guard = LeaveOnUnwind;
    let code = child();
    std::mem::forget(guard);
    exit_now(code)
}

/// The exit code of a child whose closure panicked; the one that Rust's runtime uses, too.
pub const PANICKED: i32 = 101;

/// Ends this process at once, without destructors, exit handlers or buffers being flushed.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes any code, and runs nothing of ours.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{ExitStatus, wait_pidfd};
    use std::os::fd::AsFd;

    #[test]
    fn namespaces_are_the_kernels_flags() {
        for (ours, theirs) in [
            (Namespaces::MOUNT, libc::CLONE_NEWNS),
            (Namespaces::CGROUP, libc::CLONE_NEWCGROUP),
            (Namespaces::UTS, libc::CLONE_NEWUTS),
            (Namespaces::IPC, libc::CLONE_NEWIPC),
            (Namespaces::USER, libc::CLONE_NEWUSER),
            (Namespaces::PID, libc::CLONE_NEWPID),
            (Namespaces::NETWORK, libc::CLONE_NEWNET),
        ] {
            assert_eq!(ours.bits(), u64::from(theirs.unsigned_abs()));
        }
        let both = Namespaces::MOUNT | Namespaces::PID;
        assert!(both.contains(Namespaces::PID) && !both.contains(Namespaces::UTS));
    }

    #[test]
    fn arguments_have_the_size_of_version_two() {
        assert_eq!(std::mem::size_of::<CloneArguments>(), 88);
    }

    #[test]
    fn a_child_runs_its_closure_in_a_copy() {
        let mut value = 1;
        let child = spawn(Namespaces::NONE, None, || {
            value = 41;
            value + 1
        });
        let child = child.expect("clone3");
        let status = wait_pidfd(child.pidfd.as_fd()).expect("waitid");
        assert_eq!(status, ExitStatus::Exited(42));
        assert_eq!(value, 1);
    }

    #[test]
    fn a_sibling_is_its_parents_child() {
        let (reader, writer) = rustix::pipe::pipe().expect("pipe");
        let middle = spawn(Namespaces::NONE, None, || {
            let Ok(sibling) = spawn_sibling(|| 43) else {
                return 1;
            };
            let number = sibling.pid.as_raw_nonzero().get().to_ne_bytes();
            i32::from(rustix::io::write(&writer, &number) != Ok(4))
        });
        let middle = middle.expect("clone3");
        assert_eq!(wait_pidfd(middle.pidfd.as_fd()), Ok(ExitStatus::Exited(0)));
        let mut number = [0; 4];
        rustix::io::read(&reader, &mut number).expect("a number");
        let pid = Pid::from_raw(i32::from_ne_bytes(number)).expect("a process");
        let pidfd = crate::process::open_pidfd(pid).expect("it is not reaped");
        assert_eq!(wait_pidfd(pidfd.as_fd()), Ok(ExitStatus::Exited(43)));
    }
}
