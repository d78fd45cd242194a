//! The keyring of a session (`keyctl(2)`), which processes share with their parents until they join another, and its keys
//! (`add_key(2)`).

use std::ffi::CStr;

use crate::Result;
use crate::syscall::checked;

/// The type of keys that hold any bytes.
const USER: &CStr = c"user";
/// `KEY_SPEC_SESSION_KEYRING` of `linux/keyctl.h`.
const SESSION: libc::c_int = -3;
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

/// Adds a key of type `user` to the session's keyring, or changes the one that has this description; its number.
///
/// # Errors
/// Those of `add_key(2)`.
pub fn add_user(description: &CStr, payload: &[u8]) -> Result<libc::c_long> {
    // SAFETY: the strings are NUL-terminated, the payload is as long as is said, and all are alive; the kernel copies them.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            USER.as_ptr(),
            description.as_ptr(),
            payload.as_ptr(),
            payload.len(),
            SESSION,
        )
    };
    checked("add_key", answer)
}

/// Looks for a key of type `user` in this process's keyrings; its number.
///
/// # Errors
/// Those of `request_key(2)`.
pub fn request_user(description: &CStr) -> Result<libc::c_long> {
    let nothing: *const libc::c_char = std::ptr::null();
    // SAFETY: the strings are NUL-terminated and alive; by the null pointer nobody is asked for a key that is missing.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_request_key,
            USER.as_ptr(),
            description.as_ptr(),
            nothing,
            SESSION,
        )
    };
    checked("request_key", answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_added_is_found() {
        // In a thread of its own, whose session's keyring goes with it.
        let tried = std::thread::spawn(|| {
            join_session(c"kedge-test")?;
            let added = add_user(c"kedge-test", b"payload")?;
            Ok::<_, crate::Error>((added, request_user(c"kedge-test")?))
        });
        let (added, found) = tried.join().unwrap().unwrap();
        assert_eq!(added, found);
    }
}
