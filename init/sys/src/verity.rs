//! fs-verity: sealing a file and reading its digest.
//!
//! One kind only, the one that names our objects: SHA-256, blocks of 4 KiB, no salt
//! (Linux `Documentation/filesystems/fsverity.rst`). Anything else on a file is [`VerityError::Foreign`].

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};

use crate::{Errno, Error};

/// An fs-verity digest (SHA-256).
pub type Digest = [u8; 32];

/// Why a file could not be sealed or measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerityError {
    /// The file is not sealed.
    NotVerity,
    /// The file system or the kernel has no fs-verity, or it is not enabled (`-O verity`).
    NotSupported,
    /// The file is sealed already.
    AlreadySealed,
    /// Someone has the file open for writing, or is sealing it.
    Busy,
    /// The file is sealed with another algorithm than ours.
    Foreign,
    /// Anything else: the disk is full, an I/O error, no permission.
    Failed(Error),
}

impl fmt::Display for VerityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotVerity => f.write_str("the file is not sealed with fs-verity"),
            Self::NotSupported => f.write_str("the file system does not support fs-verity"),
            Self::AlreadySealed => f.write_str("the file is already sealed with fs-verity"),
            Self::Busy => f.write_str("the file is open for writing and cannot be sealed"),
            Self::Foreign => f.write_str("the file is sealed with another algorithm than SHA-256"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for VerityError {}

/// `FS_VERITY_HASH_ALG_SHA256`.
const SHA256: u16 = 1;
/// Bytes a block; 4096 is what every kernel with 4 KiB pages takes.
const BLOCK_SIZE: u32 = 4096;

/// `struct fsverity_enable_arg`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct EnableArgument {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt_ptr: u64,
    sig_size: u32,
    reserved1: u32,
    sig_ptr: u64,
    reserved2: [u64; 11],
}

/// `struct fsverity_digest` with room for the longest digest that exists (SHA-512).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Measurement {
    algorithm: u16,
    size: u16,
    digest: [u8; 64],
}

/// `struct fsverity_digest` as the ioctl's number counts it: its flexible array is empty.
#[repr(C)]
struct MeasurementHeader {
    algorithm: u16,
    size: u16,
}

const FS_IOC_ENABLE_VERITY: Opcode = opcode::write::<EnableArgument>(b'f', 133);
const FS_IOC_MEASURE_VERITY: Opcode = opcode::read_write::<MeasurementHeader>(b'f', 134);

/// Seals `file`, which must be open for reading only, and by nobody for writing. Reads all of it.
/// Afterwards its content can never change, and every page is checked when it is read.
///
/// # Errors
/// Each as its [`VerityError`]; after one the file is as it was.
pub fn seal<Fd: AsFd>(file: Fd) -> Result<(), VerityError> {
    let argument = EnableArgument {
        version: 1,
        hash_algorithm: u32::from(SHA256),
        block_size: BLOCK_SIZE,
        salt_size: 0,
        salt_ptr: 0,
        sig_size: 0,
        reserved1: 0,
        sig_ptr: 0,
        reserved2: [0; 11],
    };
    // SAFETY: the opcode is FS_IOC_ENABLE_VERITY, and its input is fsverity_enable_arg.
    let request = unsafe { Setter::<FS_IOC_ENABLE_VERITY, EnableArgument>::new(argument) };
    // SAFETY: the kernel reads the argument during the call only; salt and signature are empty, so
    // it follows no pointer.
    let answer = unsafe { ioctl(file.as_fd(), request) };
    answer.map_err(|errno| classify("FS_IOC_ENABLE_VERITY", errno))
}

/// The digest of a sealed file, which is one ioctl and reads none of the data.
///
/// # Errors
/// Each as its [`VerityError`].
pub fn measure<Fd: AsFd>(file: Fd) -> Result<Digest, VerityError> {
    let mut measurement = Measurement {
        algorithm: 0,
        size: 64,
        digest: [0; 64],
    };
    measure_into(file.as_fd(), &mut measurement)
        .map_err(|errno| classify("FS_IOC_MEASURE_VERITY", errno))?;
    if measurement.algorithm != SHA256 {
        return Err(VerityError::Foreign);
    }
    let digest = measurement.digest.first_chunk::<32>();
    match digest {
        Some(digest) if measurement.size == 32 => Ok(*digest),
        Some(_) | None => Err(VerityError::Foreign),
    }
}

fn measure_into(file: BorrowedFd<'_>, measurement: &mut Measurement) -> rustix::io::Result<()> {
    // SAFETY: the opcode is FS_IOC_MEASURE_VERITY; its value is fsverity_digest followed by as many
    // bytes as `size` says, which is what Measurement is.
    let request = unsafe { Updater::<FS_IOC_MEASURE_VERITY, Measurement>::new(measurement) };
    // SAFETY: the kernel writes at most `size` (64) bytes of digest, and the structure has 64.
    unsafe { ioctl(file, request) }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "Errno is a set of numbers; all that have no meaning of their own here are alike"
)]
fn classify(operation: &'static str, errno: Errno) -> VerityError {
    match errno {
        Errno::NODATA => VerityError::NotVerity,
        Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOPKG => VerityError::NotSupported,
        Errno::EXIST => VerityError::AlreadySealed,
        Errno::TXTBSY | Errno::BUSY => VerityError::Busy,
        Errno::OVERFLOW => VerityError::Foreign,
        other => VerityError::Failed(Error::new(operation, other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!(std::mem::size_of::<EnableArgument>(), 128);
        assert_eq!(std::mem::size_of::<MeasurementHeader>(), 4);
        assert_eq!(std::mem::offset_of!(Measurement, digest), 4);
    }

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[test]
    fn opcodes_are_those_of_the_header() {
        assert_eq!(FS_IOC_ENABLE_VERITY, 0x4080_6685);
        assert_eq!(FS_IOC_MEASURE_VERITY, 0xc004_6686);
    }

    #[test]
    fn a_file_system_without_verity_says_so() {
        let null = std::fs::File::open("/proc/self/status").expect("/proc");
        assert_eq!(measure(&null), Err(VerityError::NotSupported));
        assert_eq!(seal(&null), Err(VerityError::NotSupported));
    }
}
