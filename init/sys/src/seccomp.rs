//! Loading a seccomp filter that was compiled before.
//!
//! A filter is classic BPF over `struct seccomp_data` (`seccomp(2)`); compiling and choosing one is
//! done elsewhere.

use crate::syscall::checked;
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
}

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
/// preconditions, `ENOSYS` without seccomp.
pub fn load(filter: &[SockFilter], options: Options) -> Result<()> {
    let invalid = Error::new("seccomp", Errno::INVAL);
    if filter.is_empty() || filter.len() > MAX_INSTRUCTIONS {
        return Err(invalid);
    }
    let program = Program {
        length: u16::try_from(filter.len()).map_err(|_| invalid)?,
        filter: filter.as_ptr(),
    };
    let log: libc::c_uint = if options.log { 2 } else { 0 };
    let speculation: libc::c_uint = if options.allow_speculation { 4 } else { 0 };
    // SAFETY: `program` is a sock_fprog whose pointer and length are those of a live slice of
    // sock_filter; the kernel copies it. A filter can make later system calls fail or end the
    // process, which every caller of one must expect anyway; that it does not fake success is the
    // matter of who compiled it.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            log | speculation,
            &raw const program,
        )
    };
    checked("seccomp", answer).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clone::{Namespaces, spawn};
    use crate::privilege::set_no_new_privs;
    use crate::process::{ExitStatus, wait_pidfd};
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
