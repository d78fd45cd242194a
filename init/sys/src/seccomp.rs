//! Loading a seccomp filter that was compiled before.
//!
//! A filter is classic BPF over `struct seccomp_data` (`seccomp(2)`); compiling and choosing one is
//! done elsewhere.

use std::os::fd::OwnedFd;

use crate::syscall::{checked, new_descriptor};
use crate::{Errno, Error, Result};

/// One instruction of a filter: `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SockFilter {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if the test is true.
    pub jt: u8,
    /// Instructions to skip if the test is false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

impl SockFilter {
    /// One instruction.
    #[must_use]
    pub const fn new(code: u16, jt: u8, jf: u8, k: u32) -> Self {
        Self { code, jt, jf, k }
    }
}

/// How a filter is loaded: `SECCOMP_FILTER_FLAG_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Log what the filter refuses, where the system allows it.
    pub log: bool,
    /// Leave speculative store bypass enabled: faster, and weaker.
    pub allow_speculation: bool,
    /// Over all threads of the process instead of this one (`TSYNC`, with `TSYNC_ESRCH`: Linux 5.7).
    pub all_threads: bool,
    /// While the listener of [`load_with_listener`] has received a notification and not answered
    /// it, the calling thread is woken by fatal signals alone (`WAIT_KILLABLE_RECV`: Linux 5.19).
    /// [`load`] makes no listener, and leaves this out.
    pub killable_wait: bool,
}

impl Options {
    /// As the kernel takes them (Linux `include/uapi/linux/seccomp.h`).
    fn flags(self, listener: bool) -> libc::c_uint {
        let flag = |wanted: bool, bits: libc::c_uint| if wanted { bits } else { 0 };
        // With `TSYNC` alone the answer to a thread that cannot follow is its number, which could not
        // be told from a listener's descriptor: the kernel refuses that pair.
        flag(self.log, LOG)
            | flag(self.allow_speculation, SPEC_ALLOW)
            | flag(self.all_threads, TSYNC | TSYNC_ESRCH)
            | flag(listener, NEW_LISTENER)
            | flag(listener && self.killable_wait, WAIT_KILLABLE_RECV)
    }
}

const TSYNC: libc::c_uint = 1;
const LOG: libc::c_uint = 2;
const SPEC_ALLOW: libc::c_uint = 4;
const NEW_LISTENER: libc::c_uint = 8;
const TSYNC_ESRCH: libc::c_uint = 16;
const WAIT_KILLABLE_RECV: libc::c_uint = 32;

/// The most instructions that a filter may have (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    length: u16,
    filter: *const SockFilter,
}

const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;

/// Puts `filter` over this thread and all that it starts, for ever. Needs `no_new_privs` or
/// `CAP_SYS_ADMIN`. Allocates nothing.
///
/// # Errors
/// `EINVAL` for an invalid filter or more than [`MAX_INSTRUCTIONS`], `EACCES` without the
/// preconditions, `ENOSYS` without seccomp, `ESRCH` if one of all threads has a filter of its own.
pub fn load(filter: &[SockFilter], options: Options) -> Result<()> {
    set_filter(filter, options.flags(false)).map(drop)
}

/// As [`load`], and answers the descriptor (closed at exec) at which calls are told that the filter
/// answers with `SECCOMP_RET_USER_NOTIF` (`seccomp_unotify(2)`, Linux 5.0): it polls readable while
/// one waits.
///
/// Whoever holds it must not wait for such a call of its own; the last copy's end answers those that
/// wait with `ENOSYS`.
///
/// # Errors
/// As [`load`], and `EBUSY` if a filter above this one has a listener already.
pub fn load_with_listener(filter: &[SockFilter], options: Options) -> Result<OwnedFd> {
    let answer = set_filter(filter, options.flags(true))?;
    // SAFETY: with NEW_LISTENER the call's success is a descriptor that it has just made; the flag
    // TSYNC_ESRCH keeps it from being a thread's number, and nobody else has seen it.
    unsafe { new_descriptor("seccomp", answer) }
}

/// `seccomp(SECCOMP_SET_MODE_FILTER)`.
fn set_filter(filter: &[SockFilter], flags: libc::c_uint) -> Result<libc::c_long> {
    let invalid = Error::new("seccomp", Errno::INVAL);
    if filter.is_empty() || filter.len() > MAX_INSTRUCTIONS {
        return Err(invalid);
    }
    let program = Program {
        length: u16::try_from(filter.len()).map_err(|_| invalid)?,
        filter: filter.as_ptr(),
    };
    // SAFETY: `program` is a sock_fprog whose pointer and length are those of a live slice of
    // sock_filter; the kernel copies it. A filter can make later system calls fail or end the
    // process, which every caller of one must expect anyway; that it does not fake success is the
    // matter of who compiled it.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    checked("seccomp", answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clone::{Namespaces, spawn};
    use crate::privilege::set_no_new_privs;
    use crate::process::{ExitStatus, Signal, send_signal, wait_pidfd};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::os::fd::AsFd;

    /// Refuses `number` with EXDEV, allows the rest (the architecture is not looked at: a test).
    fn refuse(number: u32) -> [SockFilter; 4] {
        [
            SockFilter::new(0x20, 0, 0, 0),
            SockFilter::new(0x15, 0, 1, number),
            SockFilter::new(0x06, 0, 0, 0x0005_0000 | libc::EXDEV.unsigned_abs()),
            SockFilter::new(0x06, 0, 0, 0x7fff_0000),
        ]
    }

    #[test]
    fn an_instruction_has_eight_bytes() {
        assert_eq!(std::mem::size_of::<SockFilter>(), 8);
        assert_eq!(
            std::mem::size_of::<Program>(),
            std::mem::size_of::<libc::sock_fprog>()
        );
    }

    #[test]
    fn a_filter_refuses_what_it_names() {
        let filter = refuse(u32::try_from(libc::SYS_getsid).expect("number"));
        let child = spawn(Namespaces::NONE, None, || {
            if set_no_new_privs().is_err() || load(&filter, Options::default()).is_err() {
                return 1;
            }
            match rustix::process::getsid(None) {
                Err(Errno::XDEV) => 0,
                Ok(_) | Err(_) => 2,
            }
        });
        let status = wait_pidfd(child.expect("clone3").pidfd.as_fd());
        assert_eq!(status, Ok(ExitStatus::Exited(0)));
    }

    /// A call that a listener is asked about is told there, and waits.
    #[test]
    fn a_listener_hears_of_a_call() {
        let mut filter = refuse(u32::try_from(libc::SYS_getsid).expect("number"));
        filter[2] = SockFilter::new(0x06, 0, 0, 0x7fc0_0000);
        let options = Options {
            killable_wait: true,
            ..Options::default()
        };
        let child = spawn(Namespaces::NONE, None, || {
            let listening = set_no_new_privs().and_then(|()| load_with_listener(&filter, options));
            let Ok(listener) = listening else { return 1 };
            let Ok(calling) = spawn(Namespaces::NONE, None, || {
                i32::from(rustix::process::getsid(None).is_ok())
            }) else {
                return 2;
            };
            let heard = readable(&listener);
            let ended = send_signal(calling.pidfd.as_fd(), Signal::KILL)
                .and_then(|()| wait_pidfd(calling.pidfd.as_fd()));
            match (heard, ended) {
                (true, Ok(ExitStatus::Signaled { .. })) => 0,
                _ => 3,
            }
        });
        let status = wait_pidfd(child.expect("clone3").pidfd.as_fd());
        assert_eq!(status, Ok(ExitStatus::Exited(0)));
    }

    /// Whether `descriptor` becomes readable within ten seconds.
    fn readable(descriptor: &OwnedFd) -> bool {
        let mut one = [PollFd::new(descriptor, PollFlags::IN)];
        let limit = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        poll(&mut one, Some(&limit)) == Ok(1) && one[0].revents().contains(PollFlags::IN)
    }

    /// In programs of their own: a child that was cloned while another test allocated may wait for ever where it makes a thread.
    #[test]
    fn a_filter_covers_the_other_threads_if_told_so() {
        const ALL: &str = "KEDGE_TEST_ALL_THREADS";
        if let Ok(all) = std::env::var(ALL) {
            return covers_other_threads(all == "true");
        }
        for all in ["true", "false"] {
            let mut program = std::process::Command::new(std::env::current_exe().unwrap());
            let this = "seccomp::tests::a_filter_covers_the_other_threads_if_told_so";
            program.args(["--exact", this]).env(ALL, all);
            let ended = program.output().unwrap();
            let said = String::from_utf8_lossy(&ended.stdout);
            assert!(
                ended.status.success() && said.contains("1 passed"),
                "{said}"
            );
        }
    }

    fn covers_other_threads(all_threads: bool) {
        let filter = refuse(u32::try_from(libc::SYS_getsid).expect("number"));
        let options = Options {
            all_threads,
            ..Options::default()
        };
        // A session that was begun outside of a process namespace has the number 0 in it, which rustix does not expect.
        rustix::process::setsid().unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            wait.recv().ok();
            rustix::process::getsid(None).map(drop)
        });
        set_no_new_privs().unwrap();
        load(&filter, options).unwrap();
        go.send(()).unwrap();
        let expected = if all_threads {
            Err(Errno::XDEV)
        } else {
            Ok(())
        };
        assert_eq!(other.join().unwrap(), expected);
    }

    #[test]
    fn options_are_the_kernels_flags() {
        let all = Options {
            log: true,
            allow_speculation: true,
            all_threads: true,
            killable_wait: true,
        };
        assert_eq!(Options::default().flags(false), 0);
        assert_eq!(Options::default().flags(true), 8);
        assert_eq!(all.flags(false), 1 | 2 | 4 | 16);
        assert_eq!(all.flags(true), 63);
    }

    #[test]
    fn empty_and_oversized_filters_are_refused() {
        let one = SockFilter::new(0x06, 0, 0, 0x7fff_0000);
        let error = Err(Error::new("seccomp", Errno::INVAL));
        assert_eq!(load(&[], Options::default()), error);
        assert_eq!(
            load(&vec![one; MAX_INSTRUCTIONS + 1], Options::default()),
            error
        );
    }
}
