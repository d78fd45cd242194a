//! Opening a path with a say in how it is resolved: `openat2(2)`.
//!
//! rustix has it by a number that is none on MIPS, where it answers `ENOSYS` (rustix 1.1, `backend/libc/fs/syscalls.rs`).

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{OFlags, ResolveFlags};

use crate::Result;
use crate::syscall::{OPENAT2, checked, new_descriptor};

/// `struct open_how`, version 0 (Linux 5.6).
#[repr(C)]
struct How {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Opens `path`, seen from `folder`, and resolves it as `resolve` says. Makes no file.
///
/// # Errors
/// Those of `openat2(2)`: `ELOOP` for a link where there may be none, `EXDEV` for a way out of where it must stay, `EAGAIN`
/// where a rename met that.
pub fn open_how<Fd: AsFd>(
    folder: Fd,
    path: &CStr,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd> {
    let how = How {
        flags: u64::from((flags | OFlags::CLOEXEC).bits()),
        mode: 0,
        resolve: resolve.bits(),
    };
    // SAFETY: `path` ends with a zero byte, `how` is a valid open_how of the size that is passed; both live through the call,
    // and the kernel keeps neither.
    let answer = unsafe {
        libc::syscall(
            OPENAT2,
            folder.as_fd().as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            std::mem::size_of::<How>(),
        )
    };
    let answer = checked("openat2", answer)?;
    // SAFETY: openat2 has succeeded, so this is a new descriptor that nothing else knows.
    unsafe { new_descriptor("openat2", answer) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Errno;
    use rustix::fs::CWD;

    #[test]
    fn links_are_followed_as_is_said() {
        let open = |path, resolve| {
            let file = open_how(CWD, path, OFlags::PATH, resolve);
            file.map(drop).map_err(|error| error.errno)
        };
        // A link of the kernel's, an ordinary one, and none.
        for (path, magic, any) in [
            (c"/proc/self/exe", Err(Errno::LOOP), Err(Errno::LOOP)),
            (c"/proc/mounts", Ok(()), Err(Errno::LOOP)),
            (c"/proc/version", Ok(()), Ok(())),
        ] {
            assert_eq!(open(path, ResolveFlags::empty()), Ok(()), "{path:?}");
            assert_eq!(open(path, ResolveFlags::NO_MAGICLINKS), magic, "{path:?}");
            assert_eq!(open(path, ResolveFlags::NO_SYMLINKS), any, "{path:?}");
        }
        let absent = open(c"/nowhere", ResolveFlags::empty());
        assert_eq!(absent, Err(Errno::NOENT));
    }
}
