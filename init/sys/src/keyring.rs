//! The keyring of a session (`keyctl(2)`), which processes share with their parents until they join another.

use std::ffi::CStr;

use crate::Result;
use crate::syscall::checked;

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;

/// Joins the session keyring of this name, made if the user has none of it.
///
/// # Errors
/// `ENOSYS` from a kernel without keys, `EDQUOT`, `EPERM`.
pub fn join_session(name: &CStr) -> Result<()> {
    // SAFETY: the name is NUL-terminated and alive; the kernel reads it, and keeps a copy.
    let answer =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    checked("keyctl(KEYCTL_JOIN_SESSION_KEYRING)", answer).map(drop)
}
