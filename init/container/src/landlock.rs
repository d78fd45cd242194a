//! A second fence behind the system call filter: Landlock, where the kernel has it (`landlock(7)`).
//!
//! What it keeps from a container that nothing else does: abstract unix sockets belong to a network namespace, so that one
//! with the device's network would reach those of every other such container, and of whatever else listens there (as in
//! CVE-2020-15257). What it refuses a second time: mounts of every kind, in whichever namespaces a process may have come
//! to, nodes of disks, and the tracing of anything outside.
//!
//! It is around the container's own process and all that this starts. Two processes share such a fence only by descent, and
//! one in a fence of its own can neither look into the container's processes (`/proc/PID/environ`, `strace`) nor reach their
//! abstract sockets. That is what commands are executed for, so an operator's stand outside; a health command, which the
//! image brings, stands outside where the container's network is its own, and in a fence of its own otherwise.

use kedge_sys::landlock::{self, Access, Ruleset, Scope};
use kedge_sys::privilege::CapabilitySet;
use kedge_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use std::os::fd::AsFd;

use crate::stage::{At, Failure, Stage};

/// What this kernel's Landlock can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fence {
    /// Its version; 0 where there is none.
    version: u32,
}

/// Version that lets a set allow files to be moved between directories, which every set of files refuses otherwise.
const REFER: u32 = 2;
/// Version that knows scopes.
const SCOPES: u32 = 6;
/// Who may mount must be able to: it was given that by name.
const MOUNTS: CapabilitySet = CapabilitySet::SYS_ADMIN;
/// A set of files refuses mounts whatever it is of; so it is of what nobody has a use for, and of what keeps files movable.
/// Not of the nodes of characters: everybody may make whiteouts, which are such nodes, and tools that unpack images do.
const FILES: Access = Access::MAKE_BLOCK_DEVICE.union(Access::REFER);

impl Fence {
    /// That of the running kernel.
    pub(crate) fn of_kernel() -> Self {
        Self {
            version: landlock::version().unwrap_or(0),
        }
    }

    /// What is refused to a process that has these capabilities.
    fn rules(self, capabilities: CapabilitySet) -> (Access, Scope) {
        let files = self.version >= REFER && !capabilities.intersects(MOUNTS);
        let scope = self.version >= SCOPES;
        (
            if files { FILES } else { Access::NONE },
            if scope {
                Scope::ABSTRACT_SOCKETS
            } else {
                Scope::NONE
            },
        )
    }

    /// Puts this process behind the fence, for ever. It must be root of its user namespace, in the container's root, and
    /// have mounted what it mounts. Allocates nothing.
    pub(crate) fn close(self, capabilities: CapabilitySet) -> Result<(), Failure<'static>> {
        let (files, scope) = self.rules(capabilities);
        if files == Access::NONE && scope == Scope::NONE {
            return Ok(());
        }
        let rules = Ruleset::new(files, scope).at(Stage::Landlock, c"rules")?;
        if files != Access::NONE {
            let root = openat(
                CWD,
                c"/",
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            );
            let root = root.at(Stage::Landlock, c"/")?;
            let allowed = rules.allow(root.as_fd(), Access::REFER);
            allowed.at(Stage::Landlock, c"/")?;
        }
        rules.restrict_self().at(Stage::Landlock, c"rules")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_asked_for_what_it_knows() {
        let none = CapabilitySet::empty();
        let of = |version| Fence { version }.rules(none);
        assert_eq!(of(0), (Access::NONE, Scope::NONE));
        // Its sets of files would keep every file in its directory.
        assert_eq!(of(1), (Access::NONE, Scope::NONE));
        for version in 2..6 {
            assert_eq!(of(version), (FILES, Scope::NONE));
        }
        assert_eq!(of(6), (FILES, Scope::ABSTRACT_SOCKETS));
        assert_eq!(of(99), of(6));
    }

    #[test]
    fn who_may_mount_can() {
        let rules = |capabilities| Fence { version: 6 }.rules(capabilities);
        assert_eq!(rules(MOUNTS), (Access::NONE, Scope::ABSTRACT_SOCKETS));
        let others = CapabilitySet::all().difference(MOUNTS);
        assert_eq!(rules(others), (FILES, Scope::ABSTRACT_SOCKETS));
    }
}
