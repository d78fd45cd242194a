//! Landlock: a process restricts itself to parts of the file tree (`landlock(7)`).
//!
//! The least that is useful: which access is handled, which is allowed below which directories, and which sockets of
//! others are out of reach.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use crate::syscall::{
    LANDLOCK_ADD_RULE, LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF, checked, new_descriptor,
};
use crate::{Errno, Error, Result};

/// Kinds of access to files: `LANDLOCK_ACCESS_FS_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access(u64);

impl Access {
    /// None.
    pub const NONE: Self = Self(0);
    /// Execute a file.
    pub const EXECUTE: Self = Self(1);
    /// Write to a file.
    pub const WRITE_FILE: Self = Self(1 << 1);
    /// Read a file.
    pub const READ_FILE: Self = Self(1 << 2);
    /// List a directory.
    pub const READ_DIR: Self = Self(1 << 3);
    /// Make a node of a block device.
    pub const MAKE_BLOCK_DEVICE: Self = Self(1 << 11);
    /// Link or rename a file into another directory (version 2, Linux 5.19). Any set that handles access to files refuses
    /// this, unless it handles this as well and allows it.
    pub const REFER: Self = Self(1 << 13);
    /// All of the first version (Linux 5.13): the above but `REFER`, and making and removing every kind of entry.
    pub const ALL_V1: Self = Self((1 << 13) - 1);
    /// Reading, listing and executing.
    pub const READ_ONLY: Self = Self(1 | 1 << 2 | 1 << 3);

    /// Both together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What is out of reach when it belongs to nobody inside: `LANDLOCK_SCOPE_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope(u64);

impl Scope {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Abstract unix sockets that were bound outside (version 6, Linux 6.12).
    pub const ABSTRACT_SOCKETS: Self = Self(1);
}

/// `struct landlock_ruleset_attr` of version 6. An older kernel takes it as long as what it does not know is zero.
#[repr(C)]
struct RulesetAttribute {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
const LANDLOCK_RULE_PATH_BENEATH: u32 = 1;

/// The version of Landlock that the kernel has; an error (`ENOSYS`, `EOPNOTSUPP`) where it has none.
///
/// # Errors
/// As said.
pub fn version() -> Result<u32> {
    let flags = LANDLOCK_CREATE_RULESET_VERSION;
    let nothing = ptr::null::<RulesetAttribute>();
    // SAFETY: with this flag the kernel wants a null pointer and size 0, and only answers a number.
    let answer = unsafe { libc::syscall(LANDLOCK_CREATE_RULESET, nothing, 0usize, flags) };
    let version = checked("landlock_create_ruleset", answer)?;
    u32::try_from(version).map_err(|_| Error::new("landlock_create_ruleset", Errno::OVERFLOW))
}

/// A set of rules that is being made.
#[derive(Debug)]
pub struct Ruleset(OwnedFd);

impl Ruleset {
    /// A set that will refuse all of `handled` but what [`Ruleset::allow`] adds, and all that is in `scope`.
    ///
    /// # Errors
    /// `ENOSYS` or `EOPNOTSUPP` without Landlock, `EINVAL` for access and `E2BIG` for a scope that the kernel does not know,
    /// `ENOMSG` for a set of nothing.
    pub fn new(handled: Access, scope: Scope) -> Result<Self> {
        let attribute = RulesetAttribute {
            handled_access_fs: handled.0,
            handled_access_net: 0,
            scoped: scope.0,
        };
        let size = std::mem::size_of::<RulesetAttribute>();
        // SAFETY: `attribute` is a landlock_ruleset_attr of the size that is passed, only read.
        let answer =
            unsafe { libc::syscall(LANDLOCK_CREATE_RULESET, &raw const attribute, size, 0u32) };
        let raw = checked("landlock_create_ruleset", answer)?;
        // SAFETY: the call has just made this descriptor (close-on-exec), for us alone.
        unsafe { new_descriptor("landlock_create_ruleset", raw) }.map(Self)
    }

    /// Allows `access` to what is below `parent` (a directory opened with `O_PATH`, or a file).
    ///
    /// # Errors
    /// `EINVAL` for access that the set does not handle, or that makes no sense for a file.
    pub fn allow(&self, parent: BorrowedFd<'_>, access: Access) -> Result<()> {
        let rule = PathBeneath {
            allowed_access: access.0,
            parent_fd: parent.as_raw_fd(),
        };
        // SAFETY: `rule` is a landlock_path_beneath_attr, as the rule's kind says, only read.
        let answer = unsafe {
            libc::syscall(
                LANDLOCK_ADD_RULE,
                self.0.as_fd().as_raw_fd(),
                LANDLOCK_RULE_PATH_BENEATH,
                &raw const rule,
                0u32,
            )
        };
        checked("landlock_add_rule", answer).map(drop)
    }

    /// Puts the set over this thread and all that it starts, for ever. Needs `no_new_privs` or
    /// `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// `EPERM` without the preconditions, `E2BIG` for too many layers of sets.
    pub fn restrict_self(&self) -> Result<()> {
        // SAFETY: only a descriptor and no flags are passed.
        let answer =
            unsafe { libc::syscall(LANDLOCK_RESTRICT_SELF, self.0.as_fd().as_raw_fd(), 0u32) };
        checked("landlock_restrict_self", answer).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clone::{Namespaces, spawn};
    use crate::privilege::set_no_new_privs;
    use crate::process::{ExitStatus, wait_pidfd};
    use std::io::ErrorKind;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    #[test]
    fn a_rule_has_twelve_bytes() {
        assert_eq!(std::mem::size_of::<PathBeneath>(), 12);
    }

    #[test]
    fn what_is_not_allowed_is_refused() {
        // A kernel without Landlock is a kernel that we run on, too: there is nothing to test there.
        if version().is_err() {
            return;
        }
        let usr = std::fs::File::open("/usr").expect("/usr");
        let child = spawn(Namespaces::NONE, None, || {
            restricted(usr.as_fd()).unwrap_or(9)
        });
        let status = wait_pidfd(child.expect("clone3").pidfd.as_fd());
        assert_eq!(status, Ok(ExitStatus::Exited(0)));
    }

    #[test]
    fn sockets_of_others_are_out_of_reach() {
        if version().unwrap_or(0) < 6 {
            return;
        }
        let name = format!("kedge-landlock-{}", std::process::id());
        let theirs = SocketAddr::from_abstract_name(&name).expect("a name");
        let _listener = UnixListener::bind_addr(&theirs).expect("bind");
        let own = SocketAddr::from_abstract_name(format!("{name}-own")).expect("a name");
        let child = spawn(Namespaces::NONE, None, || {
            scoped(&theirs, &own).unwrap_or(9)
        });
        let status = wait_pidfd(child.expect("clone3").pidfd.as_fd());
        assert_eq!(status, Ok(ExitStatus::Exited(0)));
    }

    fn scoped(theirs: &SocketAddr, own: &SocketAddr) -> Result<i32> {
        let rules = Ruleset::new(Access::NONE, Scope::ABSTRACT_SOCKETS)?;
        set_no_new_privs()?;
        rules.restrict_self()?;
        let outside = UnixStream::connect_addr(theirs).map_err(|error| error.kind());
        let Ok(_listener) = UnixListener::bind_addr(own) else {
            return Ok(1);
        };
        let inside = UnixStream::connect_addr(own);
        Ok(match (inside, outside) {
            (Ok(_), Err(ErrorKind::PermissionDenied)) => 0,
            (Ok(_), _) => 2,
            (Err(_), _) => 3,
        })
    }

    fn restricted(usr: BorrowedFd<'_>) -> Result<i32> {
        use rustix::fs::{Mode, OFlags, open};
        let rules = Ruleset::new(Access::READ_ONLY, Scope::NONE)?;
        rules.allow(usr, Access::READ_ONLY)?;
        set_no_new_privs()?;
        rules.restrict_self()?;
        let inside = open(c"/usr/bin", OFlags::RDONLY, Mode::empty());
        let outside = open(c"/etc", OFlags::RDONLY, Mode::empty());
        Ok(match (inside, outside) {
            (Ok(_), Err(Errno::ACCESS)) => 0,
            (Ok(_), _) => 1,
            (Err(_), _) => 2,
        })
    }
}
