//! The names of system calls, and their numbers on the architecture that this is compiled for.
//!
//! Every call of Linux 6.17 and before that one of Kedge's architectures has stands in one of the
//! groups below, by the constant of `linux-raw-sys`; a group says which architectures have its calls.
//! The last one has what only other architectures have, so that no profile that lists these is said to be
//! misspelled. The compiler merges the groups: finding names is most of the time that a profile takes.
#![allow(
    clippy::indexing_slicing,
    reason = "const fn has no get(); the compiler itself evaluates what is indexed here"
)]

use linux_raw_sys::general as nr;

/// A name, with the number where this architecture has the call.
type Call = (&'static str, Option<u32>);

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// A call of this architecture.
    Here(u32),
    /// A call of another architecture alone.
    Elsewhere,
    /// No call of any architecture that Linux 6.17 has.
    Nowhere,
}

/// Looks `name` up.
pub(crate) fn find(name: &str) -> Known {
    let start = TABLE.partition_point(|(own, _)| *own < name);
    // Some names are in two groups: ARM's own calls that MIPS has in its table.
    let same = TABLE.iter().skip(start).take_while(|(own, _)| *own == name);
    let mut known = Known::Nowhere;
    for (_, number) in same {
        match number {
            Some(number) => return Known::Here(*number),
            None => known = Known::Elsewhere,
        }
    }
    known
}

/// All calls, in the order of their names' bytes.
pub(crate) static TABLE: [Call; COUNT] = merged();

/// How many calls the groups have together.
const COUNT: usize = {
    let (mut count, mut group) = (0, 0);
    while group < GROUPS.len() {
        count += GROUPS[group].len();
        group += 1;
    }
    count
};

/// The groups, of which each is in order, as one.
const fn merged() -> [Call; COUNT] {
    let mut table = [("", None); COUNT];
    let mut taken = [0; GROUPS.len()];
    let mut at = 0;
    while at < COUNT {
        let mut first = GROUPS.len();
        let mut group = 0;
        while group < GROUPS.len() {
            let left = taken[group] < GROUPS[group].len();
            if left
                && (first == GROUPS.len()
                    || before(GROUPS[group][taken[group]].0, GROUPS[first][taken[first]].0))
            {
                first = group;
            }
            group += 1;
        }
        table[at] = GROUPS[first][taken[first]];
        taken[first] += 1;
        at += 1;
    }
    table
}

/// Whether `one` comes before `other` in the order of their bytes.
const fn before(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() {
        if one[at] != other[at] {
            return one[at] < other[at];
        }
        at += 1;
    }
    one.len() < other.len()
}

/// The call's name in that of its constant, which begins with `__NR_` or `__ARM_NR_`.
const fn bare(constant: &'static str) -> &'static str {
    let prefix = match constant.as_bytes() {
        [b'_', b'_', b'N', ..] => "__NR_",
        _ => "__ARM_NR_",
    };
    constant.split_at(prefix.len()).1
}

/// Groups of calls, each with the condition that its architectures meet.
macro_rules! groups {
    ($($group:ident if $condition:meta { $($call:ident)* })*) => {
        $(
            #[cfg($condition)]
            const $group: &[Call] = &[$((bare(stringify!($call)), Some(nr::$call)),)*];
            #[cfg(not($condition))]
            const $group: &[Call] = &[$((bare(stringify!($call)), None),)*];
        )*
        /// All groups.
        const GROUPS: &[&[Call]] = &[$($group),*];
    };
}

groups! {
    EVERYWHERE if all() {
        __NR_accept __NR_accept4 __NR_acct __NR_add_key __NR_adjtimex __NR_bind __NR_bpf __NR_brk __NR_cachestat
        __NR_capget __NR_capset __NR_chdir __NR_chroot __NR_clock_adjtime __NR_clock_getres __NR_clock_gettime
        __NR_clock_nanosleep __NR_clock_settime __NR_clone __NR_clone3 __NR_close __NR_close_range __NR_connect
        __NR_copy_file_range __NR_delete_module __NR_dup __NR_dup3 __NR_epoll_create1 __NR_epoll_ctl
        __NR_epoll_pwait __NR_epoll_pwait2 __NR_eventfd2 __NR_execve __NR_execveat __NR_exit __NR_exit_group
        __NR_faccessat __NR_faccessat2 __NR_fallocate __NR_fanotify_init __NR_fanotify_mark __NR_fchdir
        __NR_fchmod __NR_fchmodat __NR_fchmodat2 __NR_fchown __NR_fchownat __NR_fcntl __NR_fdatasync
        __NR_fgetxattr __NR_file_getattr __NR_file_setattr __NR_finit_module __NR_flistxattr __NR_flock
        __NR_fremovexattr __NR_fsconfig __NR_fsetxattr __NR_fsmount __NR_fsopen __NR_fspick __NR_fstat
        __NR_fstatfs __NR_fsync __NR_ftruncate __NR_futex __NR_futex_requeue __NR_futex_wait __NR_futex_waitv
        __NR_futex_wake __NR_get_mempolicy __NR_get_robust_list __NR_getcpu __NR_getcwd __NR_getdents64
        __NR_getegid __NR_geteuid __NR_getgid __NR_getgroups __NR_getitimer __NR_getpeername __NR_getpgid
        __NR_getpid __NR_getppid __NR_getpriority __NR_getrandom __NR_getresgid __NR_getresuid __NR_getrusage
        __NR_getsid __NR_getsockname __NR_getsockopt __NR_gettid __NR_gettimeofday __NR_getuid __NR_getxattr
        __NR_getxattrat __NR_init_module __NR_inotify_add_watch __NR_inotify_init1 __NR_inotify_rm_watch
        __NR_io_cancel __NR_io_destroy __NR_io_getevents __NR_io_pgetevents __NR_io_setup __NR_io_submit
        __NR_io_uring_enter __NR_io_uring_register __NR_io_uring_setup __NR_ioctl __NR_ioprio_get
        __NR_ioprio_set __NR_kcmp __NR_kexec_load __NR_keyctl __NR_kill __NR_landlock_add_rule
        __NR_landlock_create_ruleset __NR_landlock_restrict_self __NR_lgetxattr __NR_linkat __NR_listen
        __NR_listmount __NR_listxattr __NR_listxattrat __NR_llistxattr __NR_lookup_dcookie __NR_lremovexattr
        __NR_lseek __NR_lsetxattr __NR_lsm_get_self_attr __NR_lsm_list_modules __NR_lsm_set_self_attr
        __NR_madvise __NR_map_shadow_stack __NR_mbind __NR_membarrier __NR_memfd_create __NR_migrate_pages
        __NR_mincore __NR_mkdirat __NR_mknodat __NR_mlock __NR_mlock2 __NR_mlockall __NR_mount
        __NR_mount_setattr __NR_move_mount __NR_move_pages __NR_mprotect __NR_mq_getsetattr __NR_mq_notify
        __NR_mq_open __NR_mq_timedreceive __NR_mq_timedsend __NR_mq_unlink __NR_mremap __NR_mseal __NR_msgctl
        __NR_msgget __NR_msgrcv __NR_msgsnd __NR_msync __NR_munlock __NR_munlockall __NR_munmap
        __NR_name_to_handle_at __NR_nanosleep __NR_nfsservctl __NR_open_by_handle_at __NR_open_tree
        __NR_open_tree_attr __NR_openat __NR_openat2 __NR_perf_event_open __NR_personality __NR_pidfd_getfd
        __NR_pidfd_open __NR_pidfd_send_signal __NR_pipe2 __NR_pivot_root __NR_pkey_alloc __NR_pkey_free
        __NR_pkey_mprotect __NR_ppoll __NR_prctl __NR_pread64 __NR_preadv __NR_preadv2 __NR_prlimit64
        __NR_process_madvise __NR_process_mrelease __NR_process_vm_readv __NR_process_vm_writev __NR_pselect6
        __NR_ptrace __NR_pwrite64 __NR_pwritev __NR_pwritev2 __NR_quotactl __NR_quotactl_fd __NR_read
        __NR_readahead __NR_readlinkat __NR_readv __NR_reboot __NR_recvfrom __NR_recvmmsg __NR_recvmsg
        __NR_remap_file_pages __NR_removexattr __NR_removexattrat __NR_renameat2 __NR_request_key
        __NR_restart_syscall __NR_rseq __NR_rt_sigaction __NR_rt_sigpending __NR_rt_sigprocmask
        __NR_rt_sigqueueinfo __NR_rt_sigreturn __NR_rt_sigsuspend __NR_rt_sigtimedwait __NR_rt_tgsigqueueinfo
        __NR_sched_get_priority_max __NR_sched_get_priority_min __NR_sched_getaffinity __NR_sched_getattr
        __NR_sched_getparam __NR_sched_getscheduler __NR_sched_rr_get_interval __NR_sched_setaffinity
        __NR_sched_setattr __NR_sched_setparam __NR_sched_setscheduler __NR_sched_yield __NR_seccomp __NR_semctl
        __NR_semget __NR_sendfile __NR_sendmmsg __NR_sendmsg __NR_sendto __NR_set_mempolicy
        __NR_set_mempolicy_home_node __NR_set_robust_list __NR_set_tid_address __NR_setdomainname __NR_setfsgid
        __NR_setfsuid __NR_setgid __NR_setgroups __NR_sethostname __NR_setitimer __NR_setns __NR_setpgid
        __NR_setpriority __NR_setregid __NR_setresgid __NR_setresuid __NR_setreuid __NR_setrlimit __NR_setsid
        __NR_setsockopt __NR_settimeofday __NR_setuid __NR_setxattr __NR_setxattrat __NR_shmat __NR_shmctl
        __NR_shmdt __NR_shmget __NR_shutdown __NR_sigaltstack __NR_signalfd4 __NR_socket __NR_socketpair
        __NR_splice __NR_statfs __NR_statmount __NR_statx __NR_swapoff __NR_swapon __NR_symlinkat __NR_sync
        __NR_syncfs __NR_sysinfo __NR_syslog __NR_tee __NR_tgkill __NR_timer_create __NR_timer_delete
        __NR_timer_getoverrun __NR_timer_gettime __NR_timer_settime __NR_timerfd_create __NR_timerfd_gettime
        __NR_timerfd_settime __NR_times __NR_tkill __NR_truncate __NR_umask __NR_umount2 __NR_uname
        __NR_unlinkat __NR_unshare __NR_userfaultfd __NR_utimensat __NR_vhangup __NR_vmsplice __NR_wait4
        __NR_waitid __NR_write __NR_writev
    }
    X86_ARM64_RISCV_MIPS if any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "mips") {
        __NR_fadvise64 __NR_getrlimit __NR_mmap __NR_sync_file_range
    }
    X86_ARM64_ARM_RISCV if any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm", target_arch = "riscv64") {
        __NR_kexec_file_load __NR_semop __NR_semtimedop
    }
    X86_ARM64_ARM_MIPS if any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm", target_arch = "mips") {
        __NR_renameat
    }
    X86_ARM_MIPS if any(target_arch = "x86_64", target_arch = "arm", target_arch = "mips") {
        __NR__sysctl __NR_access __NR_chmod __NR_chown __NR_creat __NR_dup2 __NR_epoll_create __NR_epoll_wait
        __NR_eventfd __NR_fork __NR_futimesat __NR_getdents __NR_getpgrp __NR_inotify_init __NR_lchown __NR_link
        __NR_lstat __NR_mkdir __NR_mknod __NR_open __NR_pause __NR_pipe __NR_poll __NR_readlink __NR_rename
        __NR_rmdir __NR_signalfd __NR_stat __NR_symlink __NR_sysfs __NR_unlink __NR_uselib __NR_ustat
        __NR_utimes __NR_vserver
    }
    X86_ARM64_RISCV if any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64") {
        __NR_memfd_secret __NR_newfstatat
    }
    ARM_MIPS if any(target_arch = "arm", target_arch = "mips") {
        __NR__llseek __NR__newselect __NR_bdflush __NR_clock_adjtime64 __NR_clock_getres_time64
        __NR_clock_gettime64 __NR_clock_nanosleep_time64 __NR_clock_settime64 __NR_fcntl64 __NR_fstat64
        __NR_fstatat64 __NR_fstatfs64 __NR_ftruncate64 __NR_futex_time64 __NR_io_pgetevents_time64 __NR_lstat64
        __NR_mmap2 __NR_mq_timedreceive_time64 __NR_mq_timedsend_time64 __NR_nice __NR_ppoll_time64
        __NR_pselect6_time64 __NR_recv __NR_recvmmsg_time64 __NR_rt_sigtimedwait_time64
        __NR_sched_rr_get_interval_time64 __NR_semtimedop_time64 __NR_send __NR_sendfile64 __NR_sigaction
        __NR_sigpending __NR_sigprocmask __NR_sigreturn __NR_sigsuspend __NR_stat64 __NR_statfs64
        __NR_timer_gettime64 __NR_timer_settime64 __NR_timerfd_gettime64 __NR_timerfd_settime64 __NR_truncate64
        __NR_utimensat_time64
    }
    X86_MIPS if any(target_arch = "x86_64", target_arch = "mips") {
        __NR_afs_syscall __NR_alarm __NR_create_module __NR_get_kernel_syms __NR_getpmsg __NR_ioperm __NR_iopl
        __NR_modify_ldt __NR_putpmsg __NR_query_module __NR_set_thread_area __NR_time __NR_utime
    }
    X86_ARM if any(target_arch = "x86_64", target_arch = "arm") {
        __NR_vfork
    }
    ARM if any(target_arch = "arm") {
        __NR_arm_fadvise64_64 __NR_arm_sync_file_range __ARM_NR_breakpoint __ARM_NR_cacheflush __NR_chown32
        __NR_fchown32 __ARM_NR_get_tls __NR_getegid32 __NR_geteuid32 __NR_getgid32 __NR_getgroups32
        __NR_getresgid32 __NR_getresuid32 __NR_getuid32 __NR_lchown32 __NR_pciconfig_iobase __NR_pciconfig_read
        __NR_pciconfig_write __ARM_NR_set_tls __NR_setfsgid32 __NR_setfsuid32 __NR_setgid32 __NR_setgroups32
        __NR_setregid32 __NR_setresgid32 __NR_setresuid32 __NR_setreuid32 __NR_setuid32 __NR_sync_file_range2
        __NR_ugetrlimit __ARM_NR_usr26 __ARM_NR_usr32
    }
    MIPS if any(target_arch = "mips") {
        __NR_break __NR_cachectl __NR_cacheflush __NR_ftime __NR_gtty __NR_idle __NR_ipc __NR_lock __NR_mpx
        __NR_prof __NR_profil __NR_readdir __NR_sgetmask __NR_signal __NR_socketcall __NR_ssetmask __NR_stime
        __NR_stty __NR_syscall __NR_sysmips __NR_timerfd __NR_ulimit __NR_umount __NR_vm86 __NR_waitpid
    }
    X86 if any(target_arch = "x86_64") {
        __NR_arch_prctl __NR_epoll_ctl_old __NR_epoll_wait_old __NR_get_thread_area __NR_security __NR_select
        __NR_tuxcall __NR_uretprobe
    }
    RISCV if any(target_arch = "riscv64") {
        __NR_riscv_flush_icache __NR_riscv_hwprobe
    }
    ELSEWHERE if any() {
        __NR_atomic_barrier __NR_atomic_cmpxchg_32 __NR_execv __NR_fadvise64_64 __NR_getdomainname
        __NR_getpagesize __NR_kern_features __NR_llseek __NR_memory_ordering __NR_multiplexer __NR_oldfstat
        __NR_oldlstat __NR_oldolduname __NR_oldstat __NR_olduname __NR_perfctr __NR_rtas
        __NR_s390_guarded_storage __NR_s390_pci_mmio_read __NR_s390_pci_mmio_write __NR_s390_runtime_instr
        __NR_s390_sthyi __NR_sched_get_affinity __NR_sched_set_affinity __NR_spu_create __NR_spu_run
        __NR_subpage_prot __NR_swapcontext __NR_switch_endian __NR_sys_debug_setcontext __NR_utrap_install
        __NR_vm86old
    }
}
