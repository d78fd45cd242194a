//! System calls that a confined program must not get anywhere with, with arguments that harm nobody where they are let through.
//!
//! Nothing of the product makes them: the program in the tests' containers does.

use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, c_long};
use rustix::process::Pid;

use crate::clone::Namespaces;
use crate::syscall::{IO_URING_SETUP, checked, new_descriptor};
use crate::{Errno, Error, Result};

/// `PTRACE_SEIZE` of `linux/ptrace.h`: the process goes on.
const PTRACE_SEIZE: c_long = 0x4206;
const PTRACE_DETACH: c_long = 17;

/// Takes hold of a process as a debugger does, and lets go of it again (`ptrace(2)`).
///
/// # Errors
/// `ESRCH`: there is none; `EPERM`.
pub fn trace(pid: Pid) -> Result<()> {
    let nothing: c_long = 0;
    let call = |request: c_long| {
        let pid = c_long::from(pid.as_raw_nonzero().get());
        // SAFETY: neither request takes an address: all arguments are numbers.
        let answer = unsafe { libc::syscall(libc::SYS_ptrace, request, pid, nothing, nothing) };
        checked("ptrace", answer).map(drop)
    };
    call(PTRACE_SEIZE)?;
    // It is not stopped, so this may be refused; then it ends with the tracer.
    call(PTRACE_DETACH).ok();
    Ok(())
}

/// Reads a few bytes from a place in another process where there are none (`process_vm_readv(2)`).
///
/// # Errors
/// `ESRCH`: there is no such process; `EPERM`: it is not ours to read; `EFAULT`: it is.
pub fn read_memory(pid: Pid) -> Result<()> {
    let mut buffer = [0_u8; 8];
    let own = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let theirs = libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 8,
    };
    let (one, flags): (c_long, c_long) = (1, 0);
    // SAFETY: both vectors are one long and alive; ours is as long as the buffer, which nobody else uses; theirs is an address
    // of the other process.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_process_vm_readv,
            c_long::from(pid.as_raw_nonzero().get()),
            &raw const own,
            one,
            &raw const theirs,
            one,
            flags,
        )
    };
    checked("process_vm_readv", answer).map(drop)
}

/// `struct file_handle` with room for the handle of an inode.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    inode: [u32; 2],
}

/// Opens an inode of the file system of `mount` by its number, past all folders (`open_by_handle_at(2)`; the exploit
/// "Shocker" of 2014).
///
/// # Errors
/// `EPERM`; `ESTALE` where there is no such inode.
pub fn open_by_handle<Fd: AsFd>(mount: Fd, inode: u32) -> Result<()> {
    let mut handle = Handle {
        bytes: 8,
        // FILEID_INO32_GEN of `linux/exportfs.h`.
        kind: 1,
        inode: [inode, 0],
    };
    let flags = c_long::from(libc::O_RDONLY | libc::O_CLOEXEC);
    // SAFETY: the handle is as long as it says and alive; the descriptor is borrowed for as long.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            c_long::from(mount.as_fd().as_raw_fd()),
            &raw mut handle,
            flags,
        )
    };
    let answer = checked("open_by_handle_at", answer)?;
    // SAFETY: the call has just returned this new descriptor, and nothing else knows it.
    unsafe { new_descriptor("open_by_handle_at", answer) }.map(drop)
}

/// Asks to answer this process's own page faults (`userfaultfd(2)`), which stops the kernel wherever an exploit wants.
///
/// # Errors
/// `EPERM`, `ENOSYS`.
pub fn user_fault() -> Result<()> {
    // SAFETY: the flags are the one argument.
    let answer = unsafe { libc::syscall(libc::SYS_userfaultfd, c_long::from(libc::O_CLOEXEC)) };
    let answer = checked("userfaultfd", answer)?;
    // SAFETY: the call has just returned this new descriptor, and nothing else knows it.
    unsafe { new_descriptor("userfaultfd", answer) }.map(drop)
}

/// Makes a ring of requests (`io_uring_setup(2)`), whose calls no filter sees.
///
/// # Errors
/// `ENOSYS`, `EPERM`.
pub fn ring() -> Result<()> {
    // `struct io_uring_params`.
    let mut parameters = [0_u64; 15];
    let entries: c_long = 1;
    // SAFETY: the parameters have the size of the structure, and are alive; the kernel writes no more than that.
    let answer = unsafe { libc::syscall(IO_URING_SETUP, entries, parameters.as_mut_ptr()) };
    let answer = checked("io_uring_setup", answer)?;
    // SAFETY: the call has just returned this new descriptor, and nothing else knows it.
    unsafe { new_descriptor("io_uring_setup", answer) }.map(drop)
}

/// Counts this process's own page faults (`perf_event_open(2)`).
///
/// # Errors
/// `EPERM`, `EACCES`, `ENOENT`.
pub fn count_events() -> Result<()> {
    // `struct perf_event_attr`, version 0: type (PERF_TYPE_SOFTWARE) and size, config (PERF_COUNT_SW_PAGE_FAULTS).
    let mut attributes = [0_u32; 16];
    let [kind, size, what, ..] = &mut attributes;
    (*kind, *size, *what) = (1, 64, 2);
    let (own, any, none): (c_long, c_long, c_long) = (0, -1, -1);
    // PERF_FLAG_FD_CLOEXEC.
    let flags: c_long = 8;
    // SAFETY: the attributes are as long as they say and alive; the kernel reads them.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_mut_ptr(),
            own,
            any,
            none,
            flags,
        )
    };
    let answer = checked("perf_event_open", answer)?;
    // SAFETY: the call has just returned this new descriptor, and nothing else knows it.
    unsafe { new_descriptor("perf_event_open", answer) }.map(drop)
}

/// Puts another kernel in this one's place, of no parts: where that is allowed, one that was there is taken away
/// (`kexec_load(2)`).
///
/// # Errors
/// `EPERM`, `ENOSYS`.
pub fn replace_kernel() -> Result<()> {
    let nothing: c_long = 0;
    // SAFETY: no parts are named, so that the null pointer to them is not followed.
    let answer = unsafe { libc::syscall(libc::SYS_kexec_load, nothing, nothing, nothing, nothing) };
    checked("kexec_load", answer).map(drop)
}

/// Starts a process in new namespaces by the older call, whose flags a filter sees (`clone(2)`).
///
/// # Errors
/// `EPERM`.
pub fn clone_into(namespaces: Namespaces) -> Result<()> {
    let flags =
        c_long::try_from(namespaces.bits()).map_err(|_| Error::new("clone", Errno::INVAL))?;
    let flags = flags | c_long::from(libc::SIGCHLD);
    let nothing: c_long = 0;
    // SAFETY: without a stack and without CLONE_VM this is a fork: the child has a copy of everything, and ends at once.
    let answer =
        unsafe { libc::syscall(libc::SYS_clone, flags, nothing, nothing, nothing, nothing) };
    if answer == 0 {
        let well: c_int = 0;
        // SAFETY: ends the child without anything of the parent's being run.
        unsafe { libc::_exit(well) }
    }
    checked("clone", answer).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arguments are right: what refuses them in a container is not that they are wrong.
    #[test]
    fn what_is_let_through_does_nothing() {
        let own = rustix::process::getpid();
        assert_eq!(read_memory(own).unwrap_err().errno, Errno::FAULT);
        let none = Pid::from_raw(i32::MAX).unwrap();
        assert_eq!(read_memory(none).unwrap_err().errno, Errno::SRCH);
        assert_eq!(trace(none).unwrap_err().errno, Errno::SRCH);
        clone_into(Namespaces::NONE).unwrap();
        // Whether this machine lets us is its own matter; that it knows the arguments is ours. Not `replace_kernel`: let
        // through, it takes away what somebody has put there.
        let root = std::fs::File::open("/").unwrap();
        for tried in [
            open_by_handle(&root, 2),
            user_fault(),
            ring(),
            count_events(),
            clone_into(Namespaces::USER),
        ] {
            let errno = tried.err().map(|error| error.errno);
            let wrong = [Errno::INVAL, Errno::FAULT, Errno::BADF, Errno::TOOBIG];
            assert!(
                errno.is_none_or(|errno| !wrong.contains(&errno)),
                "{errno:?}"
            );
        }
    }
}
