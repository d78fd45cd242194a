//! Loop devices: a file as a block device (loop(4); Linux `include/uapi/linux/loop.h`).
//!
//! Which file, and what is on it, is the caller's business.

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd};

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Setter, ioctl};

use crate::{During, Errno, Error, Result};

/// Older than the scheme of ioctl numbers: plain numbers on every architecture.
const LOOP_CONFIGURE: Opcode = 0x4c0a;
const LOOP_CTL_GET_FREE: Opcode = 0x4c82;

/// What is attached is not written (`LO_FLAGS_READ_ONLY`).
pub const READ_ONLY: u32 = 1;
/// It is detached once nobody has it open or mounted (`LO_FLAGS_AUTOCLEAR`).
pub const AUTOCLEAR: u32 = 4;
/// The kernel looks for partitions on it (`LO_FLAGS_PARTSCAN`); they are there when the call returns.
pub const PARTITIONS: u32 = 8;

/// `LOOP_CTL_GET_FREE`: the number is the call's result.
struct GetFree;

// SAFETY: the opcode takes no argument, so nothing is read or written through the pointer.
unsafe impl Ioctl for GetFree {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        result: IoctlOutput,
        _argument: *mut c_void,
    ) -> rustix::io::Result<IoctlOutput> {
        Ok(result)
    }
}

/// The number N of a loop device `/dev/loopN` that nobody uses; it is made if there is none. `control` is
/// `/dev/loop-control`.
///
/// # Errors
/// `ENOTTY` where it is another file, `ENOSPC` where there are no more minors.
pub fn free<Fd: AsFd>(control: Fd) -> Result<u32> {
    // SAFETY: GetFree passes no argument, and the kernel answers by its result alone.
    let number = unsafe { ioctl(control.as_fd(), GetFree) }.during("LOOP_CTL_GET_FREE")?;
    u32::try_from(number).map_err(|_| Error::new("LOOP_CTL_GET_FREE", Errno::RANGE))
}

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    raw_device: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encryption: u32,
    key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` (Linux 5.8).
#[repr(C)]
#[derive(Clone, Copy)]
struct Config {
    file: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// Attaches `file` to the loop device `device`, which nobody uses, in sectors of 512 bytes; it stays attached when both
/// are closed.
///
/// # Errors
/// `EBUSY` where the device is in use, `EBADF` where the file is none that can be mapped, `EINVAL` before Linux 5.8.
pub fn attach<Device: AsFd, File: AsFd>(device: Device, file: File, flags: u32) -> Result<()> {
    let config = Config {
        file: file.as_fd().as_raw_fd().unsigned_abs(),
        // The file system's own.
        block_size: 0,
        info: Info {
            device: 0,
            inode: 0,
            raw_device: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encryption: 0,
            key_size: 0,
            flags,
            file_name: [0; 64],
            crypt_name: [0; 64],
            key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: the opcode is LOOP_CONFIGURE, whose argument is loop_config; the descriptor that it carries is borrowed until
    // the end of this function.
    let request = unsafe { Setter::<LOOP_CONFIGURE, Config>::new(config) };
    // SAFETY: the kernel reads the structure during the call only, and keeps the file by a reference of its own.
    unsafe { ioctl(device.as_fd(), request) }.during("LOOP_CONFIGURE")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!(std::mem::size_of::<Info>(), 232);
        assert_eq!(std::mem::size_of::<Config>(), 304);
    }

    #[test]
    fn what_is_no_loop_device_is_refused() {
        let null = std::fs::File::open("/dev/null").expect("/dev/null");
        assert_eq!(
            free(&null),
            Err(Error::new("LOOP_CTL_GET_FREE", Errno::NOTTY))
        );
        let refused = attach(&null, &null, READ_ONLY);
        assert_eq!(refused, Err(Error::new("LOOP_CONFIGURE", Errno::NOTTY)));
    }
}
