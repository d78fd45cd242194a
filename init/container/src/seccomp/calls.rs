//! Which system calls a container may make, by name.

use kedge_revision::container::Capability;
use linux_raw_sys::general as nr;

/// Where an architecture's numbers begin: with that of `syscall`, which calls another by its first argument. The kernel
/// shows a filter the other one (Linux `arch/mips/include/asm/syscall.h`).
#[cfg(target_arch = "mips")]
pub(super) const FIRST: u32 = nr::__NR_Linux;
/// Where an architecture's numbers begin.
#[cfg(not(target_arch = "mips"))]
pub(super) const FIRST: u32 = 0;
/// The newest system call that was judged (`removexattrat`, Linux 6.13); the numbers from 424 above the first on are
/// the same on every architecture here.
pub(super) const LAST: u32 = FIRST + 466;

pub(super) const CLONE: u32 = nr::__NR_clone;
pub(super) const PERSONALITY: u32 = nr::__NR_personality;
pub(super) const SOCKET: u32 = nr::__NR_socket;

#[cfg(target_arch = "x86_64")]
mod architecture {
    use super::nr;

    /// `AUDIT_ARCH_X86_64`.
    pub(in crate::seccomp) const ARCHITECTURE: u32 = 0xc000_003e;
    /// Above are the numbers of x32, which has the same `AUDIT_ARCH`.
    pub(in crate::seccomp) const HIGHEST_NUMBER: Option<u32> = Some(0x3fff_ffff);
    /// Numbers without a call, from the first to the last. Below is `uretprobe`, which the kernel
    /// itself puts into traced programs.
    pub(in crate::seccomp) const GAP: (u32, u32) = (336, 423);
    /// Calls beyond the table that are allowed, from the first to the last of each run.
    pub(in crate::seccomp) const BEYOND: [(u32, u32); 0] = [];
    /// What sets the clock.
    pub(super) const SET_TIME: &[u32] = &[nr::__NR_clock_settime, nr::__NR_settimeofday];
    /// What not every architecture has: port access, segments, and what old kernels had.
    pub(super) const REFUSED: [u32; 7] = [
        nr::__NR_kexec_file_load,
        nr::__NR_iopl,
        nr::__NR_ioperm,
        nr::__NR_modify_ldt,
        nr::__NR_uselib,
        nr::__NR_ustat,
        nr::__NR_sysfs,
    ];
    /// Of what only this architecture has, nothing is said to be absent.
    pub(super) const ABSENT: [u32; 0] = [];
}

#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
mod architecture {
    use super::nr;

    /// `AUDIT_ARCH_AARCH64`.
    #[cfg(target_arch = "aarch64")]
    pub(in crate::seccomp) const ARCHITECTURE: u32 = 0xc000_00b7;
    /// `AUDIT_ARCH_RISCV64`.
    #[cfg(target_arch = "riscv64")]
    pub(in crate::seccomp) const ARCHITECTURE: u32 = 0xc000_00f3;
    /// There is no second ABI behind the same `AUDIT_ARCH`.
    pub(in crate::seccomp) const HIGHEST_NUMBER: Option<u32> = None;
    /// Numbers without a call, from the first to the last.
    pub(in crate::seccomp) const GAP: (u32, u32) = (295, 423);
    /// Calls beyond the table that are allowed.
    pub(in crate::seccomp) const BEYOND: [(u32, u32); 0] = [];
    /// What sets the clock.
    pub(super) const SET_TIME: &[u32] = &[nr::__NR_clock_settime, nr::__NR_settimeofday];
    /// What not every architecture has.
    pub(super) const REFUSED: [u32; 1] = [nr::__NR_kexec_file_load];
    /// Of what only this architecture has, nothing is said to be absent.
    pub(super) const ABSENT: [u32; 0] = [];
}

/// Source: Linux `arch/arm/tools/syscall.tbl`, the calls of `common` and `eabi`; `arch/arm/include/uapi/asm/unistd.h`.
#[cfg(target_arch = "arm")]
mod architecture {
    use super::nr;

    /// `AUDIT_ARCH_ARM`.
    pub(in crate::seccomp) const ARCHITECTURE: u32 = 0x4000_0028;
    /// A kernel that takes calls of the old ABI has no filters (Linux `arch/arm/Kconfig`).
    pub(in crate::seccomp) const HIGHEST_NUMBER: Option<u32> = None;
    /// The one number without a call: from 403 to 423 are those with 64-bit time, on 32-bit architectures alone.
    pub(in crate::seccomp) const GAP: (u32, u32) = (402, 402);
    /// ARM's own: `breakpoint` and `cacheflush`, `set_tls` (which each C library makes at a program's start) and
    /// `get_tls`. The filter sees them as any other.
    pub(in crate::seccomp) const BEYOND: [(u32, u32); 2] =
        [(0xf_0001, 0xf_0002), (0xf_0005, 0xf_0006)];
    /// What sets the clock, in either width.
    pub(super) const SET_TIME: &[u32] = &[
        nr::__NR_clock_settime,
        nr::__NR_clock_settime64,
        nr::__NR_settimeofday,
    ];
    /// What not every architecture has: the PCI bus, what old kernels had, and the clock in 64 bits.
    pub(super) const REFUSED: [u32; 8] = [
        nr::__NR_kexec_file_load,
        nr::__NR_clock_settime64,
        nr::__NR_pciconfig_iobase,
        nr::__NR_pciconfig_read,
        nr::__NR_pciconfig_write,
        nr::__NR_uselib,
        nr::__NR_ustat,
        nr::__NR_sysfs,
    ];
    /// Of what only this architecture has, nothing is said to be absent.
    pub(super) const ABSENT: [u32; 0] = [];
}

/// Source: Linux `arch/mips/kernel/syscalls/syscall_o32.tbl`.
#[cfg(all(target_arch = "mips", target_endian = "little"))]
mod architecture {
    use super::nr;

    /// `AUDIT_ARCH_MIPSEL`.
    pub(in crate::seccomp) const ARCHITECTURE: u32 = 0x4000_0008;
    /// The other ABIs of MIPS have an `AUDIT_ARCH` each.
    pub(in crate::seccomp) const HIGHEST_NUMBER: Option<u32> = None;
    /// Numbers without a call, between `io_pgetevents` and `semget`.
    pub(in crate::seccomp) const GAP: (u32, u32) = (4369, 4392);
    /// Calls beyond the table that are allowed.
    pub(in crate::seccomp) const BEYOND: [(u32, u32); 0] = [];
    /// What sets the clock, in either width.
    pub(super) const SET_TIME: &[u32] = &[
        nr::__NR_clock_settime,
        nr::__NR_clock_settime64,
        nr::__NR_settimeofday,
        nr::__NR_stime,
    ];
    /// What not every architecture has: the clock in 64 bits and in seconds, `umount2` without flags, what processors
    /// before MIPS II needed of the kernel, and what old kernels had.
    pub(super) const REFUSED: [u32; 7] = [
        nr::__NR_clock_settime64,
        nr::__NR_stime,
        nr::__NR_umount,
        nr::__NR_sysmips,
        nr::__NR_uselib,
        nr::__NR_ustat,
        nr::__NR_sysfs,
    ];
    /// A call of another call, and one that hides what socket is asked for behind a pointer: every library makes the
    /// other calls directly.
    pub(super) const ABSENT: [u32; 2] = [nr::__NR_syscall, nr::__NR_socketcall];
}

#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "arm",
    all(target_arch = "mips", target_endian = "little"),
    target_arch = "riscv64"
)))]
compile_error!(
    "this architecture has no table of system calls yet: add its numbers, do not run without a filter"
);

pub(super) use architecture::{ARCHITECTURE, BEYOND, GAP, HIGHEST_NUMBER};

/// Refused with `EPERM`: what changes the machine rather than the container, what reaches into the
/// kernel's keyrings (which have no namespace), and what has a history of holes and no need.
pub(super) const REFUSED: &[u32] =
    &concat::<_, _, { COMMON.len() + architecture::REFUSED.len() }>(COMMON, architecture::REFUSED);

const COMMON: [u32; 50] = [
    nr::__NR_acct,
    nr::__NR_add_key,
    nr::__NR_bpf,
    nr::__NR_chroot,
    nr::__NR_clock_settime,
    nr::__NR_delete_module,
    nr::__NR_fanotify_init,
    nr::__NR_finit_module,
    nr::__NR_fsconfig,
    nr::__NR_fsmount,
    nr::__NR_fsopen,
    nr::__NR_fspick,
    nr::__NR_get_mempolicy,
    nr::__NR_init_module,
    nr::__NR_kcmp,
    nr::__NR_kexec_load,
    nr::__NR_keyctl,
    nr::__NR_lookup_dcookie,
    nr::__NR_mbind,
    nr::__NR_migrate_pages,
    nr::__NR_mount,
    nr::__NR_mount_setattr,
    nr::__NR_move_mount,
    nr::__NR_move_pages,
    nr::__NR_nfsservctl,
    nr::__NR_open_by_handle_at,
    nr::__NR_open_tree,
    nr::__NR_perf_event_open,
    nr::__NR_pidfd_getfd,
    nr::__NR_pivot_root,
    nr::__NR_process_madvise,
    nr::__NR_quotactl,
    nr::__NR_quotactl_fd,
    nr::__NR_reboot,
    nr::__NR_request_key,
    nr::__NR_set_mempolicy,
    nr::__NR_set_mempolicy_home_node,
    nr::__NR_setdomainname,
    nr::__NR_sethostname,
    nr::__NR_setns,
    nr::__NR_settimeofday,
    nr::__NR_swapoff,
    nr::__NR_swapon,
    nr::__NR_syslog,
    nr::__NR_umount2,
    nr::__NR_unshare,
    nr::__NR_userfaultfd,
    nr::__NR_vhangup,
    nr::__NR_statmount,
    nr::__NR_listmount,
];

/// Said not to exist, so that programs take their older way: `clone3` hides its flags from a filter
/// behind a pointer; io_uring makes calls that no filter sees.
pub(super) const ABSENT: &[u32] =
    &concat::<_, _, { HIDDEN.len() + architecture::ABSENT.len() }>(HIDDEN, architecture::ABSENT);

const HIDDEN: [u32; 7] = [
    nr::__NR_clone3,
    nr::__NR_io_uring_setup,
    nr::__NR_io_uring_enter,
    nr::__NR_io_uring_register,
    nr::__NR_lsm_get_self_attr,
    nr::__NR_lsm_set_self_attr,
    nr::__NR_lsm_list_modules,
];

/// What a capability adds: calls that do nothing without it.
pub(super) const UNLOCKED: &[(Capability, &[u32])] = &[
    (Capability::DacReadSearch, &[nr::__NR_open_by_handle_at]),
    (Capability::SysChroot, &[nr::__NR_chroot]),
    (
        Capability::SysPtrace,
        &[
            nr::__NR_kcmp,
            nr::__NR_pidfd_getfd,
            nr::__NR_process_madvise,
        ],
    ),
    (Capability::SysPacct, &[nr::__NR_acct]),
    (
        Capability::SysAdmin,
        &[
            nr::__NR_clone,
            nr::__NR_clone3,
            nr::__NR_fanotify_init,
            nr::__NR_fsconfig,
            nr::__NR_fsmount,
            nr::__NR_fsopen,
            nr::__NR_fspick,
            nr::__NR_listmount,
            nr::__NR_mount,
            nr::__NR_mount_setattr,
            nr::__NR_move_mount,
            nr::__NR_open_tree,
            nr::__NR_pivot_root,
            nr::__NR_setdomainname,
            nr::__NR_sethostname,
            nr::__NR_setns,
            nr::__NR_statmount,
            nr::__NR_umount2,
            nr::__NR_unshare,
        ],
    ),
    (Capability::SysBoot, &[nr::__NR_reboot]),
    (
        Capability::SysNice,
        &[
            nr::__NR_get_mempolicy,
            nr::__NR_mbind,
            nr::__NR_set_mempolicy,
            nr::__NR_set_mempolicy_home_node,
        ],
    ),
    (Capability::SysTime, architecture::SET_TIME),
    (Capability::SysTtyConfig, &[nr::__NR_vhangup]),
    (Capability::Syslog, &[nr::__NR_syslog]),
    (Capability::Perfmon, &[nr::__NR_perf_event_open]),
    (Capability::Bpf, &[nr::__NR_bpf]),
];

/// One list after the other; its length is the sum of both.
#[allow(
    clippy::indexing_slicing,
    reason = "const fn; evaluated by the compiler alone"
)]
const fn concat<const A: usize, const B: usize, const BOTH: usize>(
    first: [u32; A],
    second: [u32; B],
) -> [u32; BOTH] {
    assert!(A + B == BOTH);
    let mut all = [0; BOTH];
    let mut at = 0;
    while at < A {
        all[at] = first[at];
        at += 1;
    }
    while at < A + B {
        all[at] = second[at - A];
        at += 1;
    }
    all
}
