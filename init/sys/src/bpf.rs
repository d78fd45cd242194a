//! Programs for the kernel's virtual machine that judge which devices a control group may use (`bpf(2)`).

pub mod device;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use libc::c_long;

use crate::syscall::{checked, new_descriptor};
use crate::{Errno, Error, Result};

/// An instruction (`struct bpf_insn`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    code: u8,
    /// Both registers, four bits each: which of them is the lower depends on the byte order.
    registers: u8,
    offset: i16,
    value: i32,
}

impl Instruction {
    /// An instruction with its target and source registers (0 to 10).
    #[must_use]
    pub const fn new(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Self {
        let registers = if cfg!(target_endian = "little") {
            (to & 15) | (from & 15) << 4
        } else {
            (to & 15) << 4 | (from & 15)
        };
        Self {
            code,
            registers,
            offset,
            value,
        }
    }

    /// Code, target, source, offset, value.
    #[must_use]
    pub const fn parts(self) -> (u8, u8, u8, i16, i32) {
        let (low, high) = (self.registers & 15, self.registers >> 4);
        let (to, from) = if cfg!(target_endian = "little") {
            (low, high)
        } else {
            (high, low)
        };
        (self.code, to, from, self.offset, self.value)
    }
}

/// The part of `union bpf_attr` that loads a program, up to `kern_version`.
#[repr(C, align(8))]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    version: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that attaches one.
#[repr(C, align(8))]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// What groups above have been given still holds.
const BPF_F_ALLOW_MULTI: u32 = 2;
/// One program alone, in the place of one that was given in the same way; groups below can have none.
const ALONE: u32 = 0;

/// Has `program` alone judge which devices the processes of a control group (of version 2) may use. Given again it takes the
/// place of the former one at once: every `open(2)` is judged by the one or by the other (Linux `kernel/bpf/cgroup.c`,
/// `update_effective_progs`). Where it fails, the former one goes on.
///
/// # Errors
/// As [`attach_device_program`]; `EPERM`, too, for a group with programs of that kind.
pub fn set_device_program(group: BorrowedFd<'_>, program: &[Instruction]) -> Result<()> {
    give(group, program, ALONE)
}

/// Has `program` judge which devices the processes of a control group (of version 2) may use, with what judges already. The
/// group keeps it.
///
/// # Errors
/// `EINVAL` for a program that the kernel's verifier refuses, or no such group; `EPERM`, `ENOSYS`.
pub fn attach_device_program(group: BorrowedFd<'_>, program: &[Instruction]) -> Result<()> {
    give(group, program, BPF_F_ALLOW_MULTI)
}

fn give(group: BorrowedFd<'_>, program: &[Instruction], flags: u32) -> Result<()> {
    let count = u32::try_from(program.len()).map_err(|_| Error::new("bpf", Errno::TOOBIG))?;
    let license = c"Apache-2.0";
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count,
        instructions: address_of(program.as_ptr()),
        license: address_of(license.as_ptr()),
        log_level: 0,
        log_size: 0,
        log: 0,
        version: 0,
        flags: 0,
    };
    // SAFETY: `load` is the beginning of a bpf_attr of the size that is passed; its pointers are to a live slice of as many
    // instructions as it says and to a text that ends with NUL. The kernel copies both.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const load,
            std::mem::size_of::<Load>(),
        )
    };
    let answer = checked("bpf(BPF_PROG_LOAD)", answer)?;
    // SAFETY: the kernel has just made this descriptor, close-on-exec, for us alone.
    let loaded = unsafe { new_descriptor("bpf", c_long::from(answer)) }?;
    let attach = Attach {
        target: group.as_raw_fd().unsigned_abs(),
        program: loaded.as_fd().as_raw_fd().unsigned_abs(),
        kind: BPF_CGROUP_DEVICE,
        flags,
    };
    // SAFETY: `attach` is the beginning of a bpf_attr of the size that is passed, with the numbers of two open descriptors;
    // the kernel copies it.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            &raw const attach,
            std::mem::size_of::<Attach>(),
        )
    };
    checked("bpf(BPF_PROG_ATTACH)", answer).map(drop)
}

/// An address as the kernel takes it, whatever the width of pointers.
fn address_of<T>(pointer: *const T) -> u64 {
    u64::try_from(pointer.addr()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!(std::mem::size_of::<Instruction>(), 8);
        assert_eq!(std::mem::size_of::<Load>(), 48);
        assert_eq!(std::mem::size_of::<Attach>(), 16);
    }

    #[test]
    fn an_instruction_gives_back_its_parts() {
        let instruction = Instruction::new(0x61, 2, 1, -4, 7);
        assert_eq!(instruction.parts(), (0x61, 2, 1, -4, 7));
    }

    #[test]
    fn what_is_no_group_is_refused() {
        let file = std::fs::File::open("/dev/null").expect("/dev/null");
        let program = [
            Instruction::new(0xb4, 0, 0, 0, 1),
            Instruction::new(0x95, 0, 0, 0, 0),
        ];
        let error = attach_device_program(file.as_fd(), &program);
        let errno = error.expect_err("no group").errno;
        assert!(
            [Errno::BADF, Errno::PERM, Errno::NOSYS].contains(&errno),
            "{errno}"
        );
    }
}
