//! The system calls that the agent may make: those that it makes, and no other.
//!
//! What is not named fails with `EPERM`; it does not end the process. The agent is the way by which a device is mended:
//! a call that a library makes once a year, in a path that no test takes, must cost an error with a text, and not the
//! device's last connection. An intruder gains nothing by the difference: the call is not made either way. A number of a
//! foreign ABI (32-bit, x32) does end the process, since the table says nothing about it.
//!
//! No call that makes a process or starts a program, none that maps anything executable, no socket but those of unix,
//! IPv4 and IPv6, no ioctl but the one by which a socket is made not to block.
#![allow(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "const fn has neither get() nor try_from(); the compiler itself evaluates the filter, and all bounds are constants"
)]

use kedge_sys::seccomp::SockFilter;
use linux_raw_sys::general as nr;

#[cfg(target_arch = "x86_64")]
mod architecture {
    use super::nr;

    /// `AUDIT_ARCH_X86_64`.
    pub(super) const ARCHITECTURE: u32 = 0xc000_003e;
    /// From here on are the numbers of x32, which has the same `AUDIT_ARCH`.
    pub(super) const FOREIGN: u32 = 0x4000_0000;
    /// The older calls, which the C library and rustix make where there are such.
    pub(super) const CALLS: &[u32] = &[
        nr::__NR_access,
        nr::__NR_lstat,
        nr::__NR_mkdir,
        nr::__NR_newfstatat,
        nr::__NR_open,
        nr::__NR_poll,
        nr::__NR_rename,
        nr::__NR_renameat,
        nr::__NR_stat,
        nr::__NR_unlink,
    ];
    /// What maps memory.
    pub(super) const MMAP: u32 = nr::__NR_mmap;
}

#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
mod architecture {
    use super::nr;

    /// `AUDIT_ARCH_AARCH64`.
    #[cfg(target_arch = "aarch64")]
    pub(super) const ARCHITECTURE: u32 = 0xc000_00b7;
    /// `AUDIT_ARCH_RISCV64`.
    #[cfg(target_arch = "riscv64")]
    pub(super) const ARCHITECTURE: u32 = 0xc000_00f3;
    /// There is no second ABI behind the same `AUDIT_ARCH`.
    pub(super) const FOREIGN: u32 = u32::MAX;
    #[cfg(target_arch = "aarch64")]
    pub(super) const CALLS: &[u32] = &[nr::__NR_newfstatat, nr::__NR_renameat];
    /// It is younger than `renameat2`, and has no `renameat`.
    #[cfg(target_arch = "riscv64")]
    pub(super) const CALLS: &[u32] = &[nr::__NR_newfstatat];
    /// What maps memory.
    pub(super) const MMAP: u32 = nr::__NR_mmap;
}

/// Source: Linux `arch/arm/tools/syscall.tbl`.
#[cfg(target_arch = "arm")]
mod architecture {
    use super::nr;

    /// `AUDIT_ARCH_ARM`.
    pub(super) const ARCHITECTURE: u32 = 0x4000_0028;
    /// A kernel that takes calls of the old ABI has no filters (Linux `arch/arm/Kconfig`).
    pub(super) const FOREIGN: u32 = u32::MAX;
    /// The older calls, and those with 64 bits of length or time beside the ones that every architecture has.
    pub(super) const CALLS: &[u32] = &[
        nr::__NR_access,
        nr::__NR_lstat64,
        nr::__NR_mkdir,
        nr::__NR_open,
        nr::__NR_poll,
        nr::__NR_rename,
        nr::__NR_renameat,
        nr::__NR_stat64,
        nr::__NR_unlink,
        nr::__NR__llseek,
        nr::__NR_fcntl64,
        nr::__NR_fstat64,
        nr::__NR_fstatat64,
        nr::__NR_ftruncate64,
        nr::__NR_clock_getres_time64,
        nr::__NR_clock_gettime64,
        nr::__NR_clock_nanosleep_time64,
        nr::__NR_futex_time64,
        nr::__NR_ppoll_time64,
        nr::__NR_recv,
        nr::__NR_send,
        nr::__NR_sigreturn,
    ];
    /// What maps memory: it counts in pages of 4 KiB, and its protection is the same argument as of `mmap`.
    pub(super) const MMAP: u32 = nr::__NR_mmap2;
}

/// Source: Linux `arch/mips/kernel/syscalls/syscall_o32.tbl`.
#[cfg(all(target_arch = "mips", target_endian = "little"))]
mod architecture {
    use super::nr;

    /// `AUDIT_ARCH_MIPSEL`.
    pub(super) const ARCHITECTURE: u32 = 0x4000_0008;
    /// The other ABIs of MIPS have an `AUDIT_ARCH` each.
    pub(super) const FOREIGN: u32 = u32::MAX;
    /// As on ARM. Of the call of another call (`syscall`) the kernel shows a filter the other one.
    pub(super) const CALLS: &[u32] = &[
        nr::__NR_access,
        nr::__NR_lstat64,
        nr::__NR_mkdir,
        nr::__NR_open,
        nr::__NR_poll,
        nr::__NR_rename,
        nr::__NR_renameat,
        nr::__NR_stat64,
        nr::__NR_unlink,
        nr::__NR__llseek,
        nr::__NR_fcntl64,
        nr::__NR_fstat64,
        nr::__NR_fstatat64,
        nr::__NR_ftruncate64,
        nr::__NR_clock_getres_time64,
        nr::__NR_clock_gettime64,
        nr::__NR_clock_nanosleep_time64,
        nr::__NR_futex_time64,
        nr::__NR_ppoll_time64,
        nr::__NR_recv,
        nr::__NR_send,
        nr::__NR_sigreturn,
    ];
    /// What maps memory: as on ARM.
    pub(super) const MMAP: u32 = nr::__NR_mmap2;
}

use architecture::{ARCHITECTURE, FOREIGN, MMAP};

/// By which a socket is made not to block.
const FIONBIO: u32 = if cfg!(target_arch = "mips") {
    0x667e
} else {
    0x5421
};

/// Made whatever their arguments are.
const CALLS: &[u32] = &[
    // Files: what the agent keeps, and the names of the network.
    nr::__NR_close,
    nr::__NR_faccessat,
    nr::__NR_fcntl,
    nr::__NR_fdatasync,
    nr::__NR_fstat,
    nr::__NR_fsync,
    nr::__NR_ftruncate,
    nr::__NR_getdents64,
    nr::__NR_lseek,
    nr::__NR_mkdirat,
    nr::__NR_openat,
    nr::__NR_pread64,
    nr::__NR_pwrite64,
    nr::__NR_read,
    nr::__NR_readlinkat,
    nr::__NR_readv,
    nr::__NR_renameat2,
    nr::__NR_statx,
    nr::__NR_unlinkat,
    nr::__NR_write,
    nr::__NR_writev,
    // Sockets, but for their making.
    nr::__NR_bind,
    nr::__NR_connect,
    nr::__NR_getpeername,
    nr::__NR_getsockname,
    nr::__NR_getsockopt,
    nr::__NR_recvfrom,
    nr::__NR_recvmsg,
    nr::__NR_sendmsg,
    nr::__NR_sendto,
    nr::__NR_setsockopt,
    nr::__NR_shutdown,
    nr::__NR_ppoll,
    // Memory.
    nr::__NR_brk,
    nr::__NR_madvise,
    nr::__NR_mremap,
    nr::__NR_munmap,
    // Time, chance, and the end.
    nr::__NR_clock_getres,
    nr::__NR_clock_gettime,
    nr::__NR_clock_nanosleep,
    nr::__NR_gettimeofday,
    nr::__NR_nanosleep,
    nr::__NR_getrandom,
    nr::__NR_exit,
    nr::__NR_exit_group,
    nr::__NR_futex,
    nr::__NR_getpid,
    nr::__NR_gettid,
    nr::__NR_restart_syscall,
    nr::__NR_rt_sigaction,
    nr::__NR_rt_sigprocmask,
    nr::__NR_rt_sigreturn,
    nr::__NR_sched_yield,
    nr::__NR_sigaltstack,
    nr::__NR_tgkill,
    nr::__NR_tkill,
];

/// Made if an argument is right.
const JUDGED: &[(u32, Argument)] = &[
    // AF_UNIX, AF_INET, AF_INET6.
    (nr::__NR_socket, Argument::OneOf(0, &[1, 2, 10])),
    (nr::__NR_ioctl, Argument::OneOf(1, &[FIONBIO])),
    // PROT_EXEC.
    (MMAP, Argument::Without(2, 4)),
    (nr::__NR_mprotect, Argument::Without(2, 4)),
];

/// What is asked of an argument, by its index.
#[derive(Clone, Copy)]
enum Argument {
    /// It is one of these.
    OneOf(u32, &'static [u32]),
    /// It has none of these bits.
    Without(u32, u32),
}

// Classic BPF (`linux/bpf_common.h`) and seccomp's answers (`linux/seccomp.h`).
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const KILL: u32 = 0x8000_0000;

/// Offset in `struct seccomp_data` of the call's number; of the architecture; of the lower half of an argument.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const fn argument(index: u32) -> u32 {
    16 + 8 * index + if cfg!(target_endian = "big") { 4 } else { 0 }
}

/// Instructions for what is asked of one call: its number, the argument, the tests, the refusal.
const fn length(asked: &Argument) -> usize {
    match asked {
        Argument::OneOf(_, values) => 3 + values.len(),
        Argument::Without(_, _) => 4,
    }
}

const LENGTH: usize = {
    let mut length = 4 + CALLS.len() + architecture::CALLS.len() + 3;
    let mut at = 0;
    while at < JUDGED.len() {
        length += self::length(&JUDGED[at].1);
        at += 1;
    }
    length
};
/// Where the ends are.
const REFUSED: usize = LENGTH - 3;
const ALLOWED: usize = LENGTH - 2;
const KILLED: usize = LENGTH - 1;
/// The next instruction.
const NEXT: usize = 0;

/// The filter.
pub(in crate::helpers) static FILTER: [SockFilter; LENGTH] = build();

/// A filter on its way.
struct Code {
    code: [SockFilter; LENGTH],
    length: usize,
}

impl Code {
    const fn put(&mut self, code: u16, operand: u32) {
        self.code[self.length] = SockFilter::new(code, 0, 0, operand);
        self.length += 1;
    }

    /// A test whose outcomes go to places further on, or to the next instruction.
    const fn jump(&mut self, code: u16, operand: u32, yes: usize, no: usize) {
        let next = self.length + 1;
        let yes = if yes == NEXT { 0 } else { yes - next };
        let no = if no == NEXT { 0 } else { no - next };
        assert!(yes < 256 && no < 256);
        self.code[self.length] = SockFilter::new(code, yes as u8, no as u8, operand);
        self.length += 1;
    }

    const fn calls(&mut self, calls: &[u32]) {
        let mut at = 0;
        while at < calls.len() {
            self.jump(JUMP_EQUAL, calls[at], ALLOWED, NEXT);
            at += 1;
        }
    }

    const fn judged(&mut self, number: u32, asked: &Argument) {
        let after = self.length + length(asked);
        self.jump(JUMP_EQUAL, number, NEXT, after);
        match asked {
            Argument::OneOf(index, values) => {
                self.put(LOAD, argument(*index));
                let mut at = 0;
                while at < values.len() {
                    self.jump(JUMP_EQUAL, values[at], ALLOWED, NEXT);
                    at += 1;
                }
            }
            Argument::Without(index, bits) => {
                self.put(LOAD, argument(*index));
                self.jump(JUMP_ANY_BIT, *bits, NEXT, ALLOWED);
            }
        }
        self.put(RETURN, EPERM);
    }
}

const fn build() -> [SockFilter; LENGTH] {
    let mut filter = Code {
        code: [SockFilter::new(RETURN, 0, 0, KILL); LENGTH],
        length: 0,
    };
    filter.put(LOAD, ARCH);
    filter.jump(JUMP_EQUAL, ARCHITECTURE, NEXT, KILLED);
    filter.put(LOAD, NUMBER);
    filter.jump(JUMP_AT_LEAST, FOREIGN, KILLED, NEXT);
    let mut at = 0;
    while at < JUDGED.len() {
        filter.judged(JUDGED[at].0, &JUDGED[at].1);
        at += 1;
    }
    filter.calls(CALLS);
    filter.calls(architecture::CALLS);
    assert!(filter.length == REFUSED);
    filter.put(RETURN, EPERM);
    filter.put(RETURN, ALLOW);
    filter.put(RETURN, KILL);
    filter.code
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_sys::Errno;
    use kedge_sys::clone::{Namespaces, spawn};
    use kedge_sys::privilege::set_no_new_privs;
    use kedge_sys::process::{ExitStatus, wait_pidfd};
    use kedge_sys::seccomp::{Options, load};
    use std::os::fd::AsFd;

    /// What a kernel makes of the filter.
    fn judge(arch: u32, number: u32, arguments: [u32; 3]) -> u32 {
        let (mut held, mut at) = (0, 0);
        loop {
            let step = &FILTER[at];
            at += 1;
            let test = match step.code {
                LOAD => {
                    held = match step.k {
                        NUMBER => number,
                        ARCH => arch,
                        offset => {
                            let index = (0..3).find(|index| argument(*index) == offset).unwrap();
                            arguments[index as usize]
                        }
                    };
                    continue;
                }
                RETURN => return step.k,
                JUMP_EQUAL => held == step.k,
                JUMP_AT_LEAST => held >= step.k,
                JUMP_ANY_BIT => held & step.k != 0,
                other => panic!("operation {other:#x}"),
            };
            at += usize::from(if test { step.jt } else { step.jf });
        }
    }

    #[test]
    fn each_call_has_the_answer_of_the_table() {
        // Of MIPS' o32 the numbers begin there.
        let first = if cfg!(target_arch = "mips") { 4000 } else { 0 };
        for number in first..first + 600 {
            let plain = CALLS.contains(&number) || architecture::CALLS.contains(&number);
            if JUDGED.iter().any(|(judged, _)| *judged == number) {
                continue;
            }
            let answer = judge(ARCHITECTURE, number, [0; 3]);
            assert_eq!(answer, if plain { ALLOW } else { EPERM }, "call {number}");
            assert_eq!(judge(ARCHITECTURE ^ 1, number, [0; 3]), KILL);
        }
        let own = |number, arguments| judge(ARCHITECTURE, number, arguments);
        for family in 0..50 {
            let right = matches!(family, 1 | 2 | 10);
            let answer = if right { ALLOW } else { EPERM };
            assert_eq!(own(nr::__NR_socket, [family, 1, 0]), answer, "{family}");
        }
        assert_eq!(own(nr::__NR_ioctl, [3, FIONBIO, 0]), ALLOW);
        // TIOCSTI, which types into a terminal.
        assert_eq!(own(nr::__NR_ioctl, [3, 0x5412, 0]), EPERM);
        for call in [MMAP, nr::__NR_mprotect] {
            assert_eq!(own(call, [0, 4096, 3]), ALLOW);
            assert_eq!(own(call, [0, 4096, 5]), EPERM);
        }
        for never in [
            nr::__NR_execve,
            nr::__NR_execveat,
            nr::__NR_clone,
            nr::__NR_clone3,
            nr::__NR_ptrace,
            nr::__NR_mount,
            nr::__NR_bpf,
            nr::__NR_io_uring_setup,
            nr::__NR_kill,
            nr::__NR_keyctl,
        ] {
            assert_eq!(own(never, [0; 3]), EPERM, "call {never}");
        }
        #[cfg(target_arch = "x86_64")]
        assert_eq!(own(FOREIGN | nr::__NR_read, [0; 3]), KILL);
    }

    #[test]
    fn the_kernel_takes_it_and_files_and_sockets_still_work() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kept");
        let child = spawn(Namespaces::NONE, None, || {
            if set_no_new_privs().is_err() || load(&FILTER, Options::default()).is_err() {
                return 1;
            }
            if kedge_store::durable::write(&path, &[7; 5000]).is_err()
                || std::fs::read(&path).map(|bytes| bytes.len()).ok() != Some(5000)
                || std::fs::read_dir(path.parent().unwrap_or(&path)).is_err()
                || kedge_store::durable::remove(&path).is_err()
            {
                return 2;
            }
            let Ok(socket) = std::net::UdpSocket::bind("127.0.0.1:0") else {
                return 3;
            };
            if socket.set_nonblocking(true).is_err() {
                return 4;
            }
            let netlink = kedge_sys::rustix::net::socket(
                kedge_sys::rustix::net::AddressFamily::NETLINK,
                kedge_sys::rustix::net::SocketType::RAW,
                None,
            );
            match (netlink, kedge_sys::rustix::process::getsid(None)) {
                (Err(Errno::PERM), Err(Errno::PERM)) => 0,
                _ => 5,
            }
        });
        let status = wait_pidfd(child.unwrap().pidfd.as_fd());
        assert_eq!(status, Ok(ExitStatus::Exited(0)));
    }
}
