//! Giving privilege up: capabilities, ids, groups, secure bits, `no_new_privs`.
//!
//! Ids are set by the raw system calls, for the calling thread alone. That is the whole process for
//! the single-threaded callers here; a C library would interrupt every thread for it.
//! Nothing here allocates, so that a child may call it between fork and exec.

use rustix::thread::CapabilitySets;
pub use rustix::thread::{CapabilitiesSecureBits, CapabilitySet};
use rustix::thread::{Gid, Uid};

use crate::{During, Errno, Error, Result};

/// The highest number that the kernel's 64-bit capability sets could hold.
const CAPABILITY_NUMBERS: std::ops::Range<u32> = 0..64;

/// Forbids this process and its descendants to gain privilege by an exec, for ever.
///
/// # Errors
/// None that is known; the kernel's answer is passed on.
pub fn set_no_new_privs() -> Result<()> {
    rustix::thread::set_no_new_privs(true).during("PR_SET_NO_NEW_PRIVS")
}

/// Whether [`set_no_new_privs`] is in force.
///
/// # Errors
/// None that is known; the kernel's answer is passed on.
pub fn no_new_privs() -> Result<bool> {
    rustix::thread::no_new_privs().during("PR_GET_NO_NEW_PRIVS")
}

/// Takes all capabilities but `keep` out of the bounding set: no exec can ever give them back.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn bound_capabilities(keep: CapabilitySet) -> Result<()> {
    for number in CAPABILITY_NUMBERS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if keep.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // The kernel knows no capability of this number, nor any higher one.
            Err(Errno::INVAL) => return Ok(()),
            Err(errno) => return Err(errno).during("PR_CAPBSET_DROP"),
        }
    }
    Ok(())
}

/// Sets effective, permitted and inheritable capabilities of this thread (`capset(2)`).
///
/// # Errors
/// `EPERM` for what is not permitted now.
pub fn set_capabilities(
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
) -> Result<()> {
    let sets = CapabilitySets {
        effective,
        permitted,
        inheritable,
    };
    rustix::thread::set_capabilities(None, sets).during("capset")
}

/// Effective, permitted and inheritable capabilities of this thread.
///
/// # Errors
/// None that is known; the kernel's answer is passed on.
pub fn capabilities() -> Result<CapabilitySets> {
    rustix::thread::capabilities(None).during("capget")
}

/// Makes `set` the ambient capabilities: what a program keeps over its exec although its user is not
/// root. Each must be permitted and inheritable.
///
/// # Errors
/// `EPERM` for one that is not.
pub fn set_ambient(set: CapabilitySet) -> Result<()> {
    rustix::thread::clear_ambient_capability_set().during("PR_CAP_AMBIENT_CLEAR_ALL")?;
    for number in CAPABILITY_NUMBERS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if set.contains(one) {
            rustix::thread::configure_capability_in_ambient_set(one, true)
                .during("PR_CAP_AMBIENT_RAISE")?;
        }
    }
    Ok(())
}

/// Keeps the permitted capabilities when the ids change from root to another user, until an exec.
///
/// # Errors
/// `EPERM` where a secure bit forbids it.
pub fn keep_capabilities(keep: bool) -> Result<()> {
    rustix::thread::set_keep_capabilities(keep).during("PR_SET_KEEPCAPS")
}

/// Sets the secure bits (`capabilities(7)`).
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP` or where they are locked.
pub fn set_secure_bits(bits: CapabilitiesSecureBits) -> Result<()> {
    rustix::thread::set_capabilities_secure_bits(bits).during("PR_SET_SECUREBITS")
}

/// Supplementary groups that [`set_groups`] takes; more than any image that is known has.
pub const MAX_GROUPS: usize = 64;

/// Replaces the supplementary groups of this thread.
///
/// # Errors
/// `EINVAL` for more than [`MAX_GROUPS`] or an invalid id, `EPERM` without `CAP_SETGID` or where the
/// user namespace denies it.
pub fn set_groups(groups: &[u32]) -> Result<()> {
    let mut ids = [Gid::ROOT; MAX_GROUPS];
    let ids = ids.get_mut(..groups.len());
    let ids = ids.ok_or(Error::new("setgroups", Errno::INVAL))?;
    for (id, group) in ids.iter_mut().zip(groups) {
        *id = Gid::from_raw(valid("setgroups", *group)?);
    }
    rustix::thread::set_thread_groups(ids).during("setgroups")
}

/// Sets real, effective and saved group id of this thread.
///
/// # Errors
/// `EPERM`; `EINVAL` for an id that is not mapped in the user namespace, and for 2³²−1.
pub fn set_group(group: u32) -> Result<()> {
    let id = Gid::from_raw(valid("setresgid", group)?);
    rustix::thread::set_thread_res_gid(id, id, id).during("setresgid")
}

/// Sets real, effective and saved user id of this thread. Groups must be set before.
///
/// # Errors
/// As [`set_group`]; `EAGAIN` at the user's limit of processes.
pub fn set_user(user: u32) -> Result<()> {
    let id = Uid::from_raw(valid("setresuid", user)?);
    rustix::thread::set_thread_res_uid(id, id, id).during("setresuid")
}

/// 2³²−1 means "leave it as it is" to the kernel: never what a caller here wants.
fn valid(operation: &'static str, id: u32) -> Result<u32> {
    if id == u32::MAX {
        return Err(Error::new(operation, Errno::INVAL));
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clone::{Namespaces, spawn};
    use crate::process::{ExitStatus, wait_pidfd};
    use std::os::fd::AsFd;

    fn in_child(body: fn() -> Result<bool>) -> ExitStatus {
        let child = spawn(Namespaces::NONE, None, || match body() {
            Ok(true) => 0,
            Ok(false) => 1,
            Err(error) => error.errno.raw_os_error(),
        });
        wait_pidfd(child.expect("clone3").pidfd.as_fd()).expect("waitid")
    }

    #[test]
    fn the_id_that_means_nothing_is_refused() {
        assert_eq!(
            set_user(u32::MAX),
            Err(Error::new("setresuid", Errno::INVAL))
        );
        assert_eq!(
            set_group(u32::MAX),
            Err(Error::new("setresgid", Errno::INVAL))
        );
        assert_eq!(
            set_groups(&[u32::MAX]),
            Err(Error::new("setgroups", Errno::INVAL))
        );
        assert_eq!(
            set_groups(&[1; 65]),
            Err(Error::new("setgroups", Errno::INVAL))
        );
    }

    #[test]
    fn no_new_privs_sticks() {
        let status = in_child(|| {
            set_no_new_privs()?;
            no_new_privs()
        });
        assert_eq!(status, ExitStatus::Exited(0));
    }

    #[test]
    fn all_capabilities_can_be_given_up() {
        let status = in_child(|| {
            set_ambient(CapabilitySet::empty())?;
            let none = CapabilitySet::empty();
            set_capabilities(none, none, none)?;
            let now = capabilities()?;
            Ok(now.effective.is_empty() && now.permitted.is_empty())
        });
        assert_eq!(status, ExitStatus::Exited(0));
    }
}
