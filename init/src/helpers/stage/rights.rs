//! The capabilities that files of containers' users take. They are in force only while such files are worked on.

use kedge_sys::privilege::{self, CapabilitySet};

/// What this helper may ever have: to read and replace what belongs to any user, and to make files that belong to
/// it with every bit of their modes and with file capabilities.
pub(super) const ALL: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETFCAP);

/// Leaves what is permitted out of force.
pub(super) fn rest() -> Result<(), kedge_sys::Error> {
    let permitted = privilege::capabilities()?.permitted;
    let none = CapabilitySet::empty();
    privilege::set_capabilities(none, permitted, none)
}

/// Runs `work` with everything that is permitted in force. Without it the work fails where it needs it, and says
/// so: an error here is none of its own.
pub(super) fn with<T>(work: impl FnOnce() -> T) -> T {
    let before = privilege::capabilities().ok();
    let set = |effective, permitted| {
        privilege::set_capabilities(effective, permitted, CapabilitySet::empty()).ok();
    };
    if let Some(before) = &before {
        set(before.permitted, before.permitted);
    }
    let done = work();
    if let Some(before) = &before {
        set(before.effective, before.permitted);
    }
    done
}
