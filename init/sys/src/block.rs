//! Block devices: size, flushing buffers, telling the kernel about partitions.
//!
//! Reading a partition table is not done here; this only passes on what the caller has read.

use std::os::fd::AsFd;

use libc::{c_int, c_longlong, c_void};
use rustix::ioctl::{Getter, NoArg, Opcode, Setter, ioctl, opcode};

use crate::{During, Errno, Error, Result};

/// The number counts a `size_t` although the kernel writes 64 bits on every architecture.
const BLKGETSIZE64: Opcode = opcode::read::<usize>(0x12, 114);
const BLKRRPART: Opcode = opcode::none(0x12, 95);
const BLKFLSBUF: Opcode = opcode::none(0x12, 97);
/// Older than the scheme of ioctl numbers: the plain number, on every architecture `_IO(0x12, 105)`.
const BLKPG: Opcode = opcode::none(0x12, 105);

/// The size of a block device in bytes.
///
/// # Errors
/// `ENOTTY` where it is no block device.
pub fn size<Fd: AsFd>(device: Fd) -> Result<u64> {
    // SAFETY: the opcode is BLKGETSIZE64, which writes a u64.
    let request = unsafe { Getter::<BLKGETSIZE64, u64>::new() };
    // SAFETY: the kernel fills the u64 when it answers without an error.
    unsafe { ioctl(device.as_fd(), request) }.during("BLKGETSIZE64")
}

/// The smallest number of bytes that the device reads or writes at once.
///
/// # Errors
/// `ENOTTY` where it is no block device.
pub fn sector_size<Fd: AsFd>(device: Fd) -> Result<u32> {
    rustix::fs::ioctl_blksszget(device).during("BLKSSZGET")
}

/// Writes the device's buffers out and forgets what was cached of it.
///
/// # Errors
/// `EACCES` without `CAP_SYS_ADMIN`, `ENOTTY` where it is no block device, `EIO`.
pub fn flush_buffers<Fd: AsFd>(device: Fd) -> Result<()> {
    // SAFETY: the opcode is BLKFLSBUF, which takes no argument.
    let request = unsafe { NoArg::<BLKFLSBUF>::new() };
    // SAFETY: nothing is passed, so nothing is written.
    unsafe { ioctl(device.as_fd(), request) }.during("BLKFLSBUF")
}

/// Lets the kernel read the partition table again.
///
/// # Errors
/// `EBUSY` while a partition of the disk is in use ([`resize_partition`] works then), `EACCES`,
/// `EINVAL` where it is no whole disk.
pub fn reread_partitions<Fd: AsFd>(disk: Fd) -> Result<()> {
    // SAFETY: the opcode is BLKRRPART, which takes no argument.
    let request = unsafe { NoArg::<BLKRRPART>::new() };
    // SAFETY: nothing is passed, so nothing is written.
    unsafe { ioctl(disk.as_fd(), request) }.during("BLKRRPART")
}

/// `struct blkpg_partition`.
#[repr(C)]
struct PartitionArgument {
    start: c_longlong,
    length: c_longlong,
    number: c_int,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct PartitionRequest {
    operation: c_int,
    flags: c_int,
    length: c_int,
    data: *mut c_void,
}

const BLKPG_RESIZE_PARTITION: c_int = 3;

/// Tells the kernel that partition `number` of `disk` now is `length` bytes long. It may be mounted.
/// `start`, in bytes, must be where it already starts.
///
/// # Errors
/// `ENXIO` where there is no such partition, `EBUSY` where it would overlap another, `EINVAL` where
/// `start` is another, `EACCES`.
pub fn resize_partition<Fd: AsFd>(disk: Fd, number: u16, start: u64, length: u64) -> Result<()> {
    let signed =
        |bytes: u64| c_longlong::try_from(bytes).map_err(|_| Error::new("BLKPG", Errno::OVERFLOW));
    let mut partition = PartitionArgument {
        start: signed(start)?,
        length: signed(length)?,
        number: c_int::from(number),
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let request = PartitionRequest {
        operation: BLKPG_RESIZE_PARTITION,
        flags: 0,
        length: c_int::try_from(std::mem::size_of::<PartitionArgument>())
            .map_err(|_| Error::new("BLKPG", Errno::OVERFLOW))?,
        data: (&raw mut partition).cast(),
    };
    // SAFETY: the opcode is BLKPG, whose argument is blkpg_ioctl_arg; its `data` points to a
    // blkpg_partition that lives until the end of this function.
    let request = unsafe { Setter::<BLKPG, PartitionRequest>::new(request) };
    // SAFETY: the kernel reads both structures during the call only.
    unsafe { ioctl(disk.as_fd(), request) }.during("BLKPG")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!(std::mem::size_of::<PartitionArgument>(), 152);
        assert_eq!(std::mem::size_of::<PartitionRequest>(), 24);
    }

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[test]
    fn opcodes_are_those_of_the_header() {
        assert_eq!(BLKGETSIZE64, 0x8008_1272);
        assert_eq!(BLKFLSBUF, 0x1261);
        assert_eq!(BLKPG, 0x1269);
    }

    #[test]
    fn a_plain_file_is_no_block_device() {
        let file = std::fs::File::open("/proc/self/status").expect("/proc");
        assert_eq!(size(&file), Err(Error::new("BLKGETSIZE64", Errno::NOTTY)));
        assert!(resize_partition(&file, 1, 0, 512).is_err());
    }
}
