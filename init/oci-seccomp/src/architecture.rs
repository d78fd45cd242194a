//! What differs between architectures: what the kernel calls them, how wide an argument is, where its
//! halves lie, and which second ABI hides behind the same name.

use oci_spec::runtime::Arch;

/// The architecture that a filter is compiled for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// What `seccomp_data.arch` says of its calls (`AUDIT_ARCH_*`, Linux `include/uapi/linux/audit.h`).
    pub(crate) audit: u32,
    /// Where its numbers begin.
    pub(crate) first: u32,
    /// Whether numbers from [`X32`] on are those of a second ABI.
    pub(crate) x32: bool,
    /// Whether arguments have 64 bits. Of those with 32, the kernel shows the upper half as zeros.
    pub(crate) wide: bool,
    /// Whether an argument's upper half comes first.
    pub(crate) big_endian: bool,
}

impl Target {
    /// The last number that a call can get: the ABIs of MIPS lie a thousand apart.
    pub(crate) fn last(&self) -> u32 {
        self.first + 999
    }

    /// The highest value of an argument.
    pub(crate) fn width(&self) -> u64 {
        if self.wide {
            u64::MAX
        } else {
            u64::from(u32::MAX)
        }
    }
}

/// The architecture that this is compiled for.
pub(crate) const NATIVE: Target = Target {
    audit: AUDIT,
    first: if cfg!(target_arch = "mips") { 4000 } else { 0 },
    x32: cfg!(target_arch = "x86_64"),
    wide: cfg!(target_pointer_width = "64"),
    big_endian: cfg!(target_endian = "big"),
};

/// Where the numbers of x32 begin (`__X32_SYSCALL_BIT`); they have the `AUDIT_ARCH` of x86_64.
pub(crate) const X32: u32 = 0x4000_0000;

/// `ENOSYS`.
pub(crate) const ENOSYS: u32 = if cfg!(target_arch = "mips") { 89 } else { 38 };

#[cfg(target_arch = "x86_64")]
const AUDIT: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT: u32 = 0xc000_00b7;
#[cfg(target_arch = "riscv64")]
const AUDIT: u32 = 0xc000_00f3;
#[cfg(target_arch = "arm")]
const AUDIT: u32 = 0x4000_0028;
#[cfg(all(target_arch = "mips", target_endian = "little"))]
const AUDIT: u32 = 0x4000_0008;
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "arm",
    all(target_arch = "mips", target_endian = "little"),
    target_arch = "riscv64"
)))]
compile_error!(
    "this architecture has no AUDIT_ARCH and no table of system calls here yet: add both"
);

/// What the kernel says of calls of `arch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// As those of the target itself.
    Native,
    /// As those of the target, with numbers from [`X32`] on.
    X32,
    /// By this `AUDIT_ARCH_*`.
    Foreign(u32),
}

/// How the calls of `arch` are seen by a filter for `target`.
pub(crate) fn seen(arch: Arch, target: &Target) -> Seen {
    let audit = match arch {
        Arch::ScmpArchNative => return Seen::Native,
        // Of no other architecture there is such a kernel, so it stands for calls that never come.
        Arch::ScmpArchX32 => return Seen::X32,
        Arch::ScmpArchX86 => 0x4000_0003,
        Arch::ScmpArchX86_64 => 0xc000_003e,
        Arch::ScmpArchArm => 0x4000_0028,
        Arch::ScmpArchAarch64 => 0xc000_00b7,
        Arch::ScmpArchMips => 0x0000_0008,
        Arch::ScmpArchMips64 => 0x8000_0008,
        Arch::ScmpArchMips64n32 => 0xa000_0008,
        Arch::ScmpArchMipsel => 0x4000_0008,
        Arch::ScmpArchMipsel64 => 0xc000_0008,
        Arch::ScmpArchMipsel64n32 => 0xe000_0008,
        Arch::ScmpArchPpc => 0x0000_0014,
        Arch::ScmpArchPpc64 => 0x8000_0015,
        Arch::ScmpArchPpc64le => 0xc000_0015,
        Arch::ScmpArchS390 => 0x0000_0016,
        Arch::ScmpArchS390x => 0x8000_0016,
        Arch::ScmpArchRiscv64 => 0xc000_00f3,
    };
    if audit == target.audit {
        Seen::Native
    } else {
        Seen::Foreign(audit)
    }
}
