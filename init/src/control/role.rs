//! What a peer of the control interface may ask.

use kedge_revision::Mode;
use kedge_revision::container::ControlRole;

/// See the module. Reading is everybody's but the stick helper's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Nothing else.
    Observe,
    /// To hold updates back, where it is a container that asks.
    Lock,
    /// To bring and try revisions, and to restart the device: the agent, which talks to the network.
    Update,
    /// To bring and try revisions, and nothing else: the helper that reads removable disks.
    Stick,
    /// Everything; commands in containers in development products alone.
    Operate,
    /// Everything.
    Execute,
}

impl Role {
    /// Whether it may run commands in containers of a product in this mode. That reaches every file and secret of every
    /// container, so in production it takes a role that the signed definition names for just this.
    #[must_use]
    pub const fn may_execute(self, mode: Mode) -> bool {
        match self {
            Self::Execute => true,
            Self::Operate => matches!(mode, Mode::Development),
            Self::Observe | Self::Lock | Self::Update | Self::Stick => false,
        }
    }
}

impl From<ControlRole> for Role {
    fn from(role: ControlRole) -> Self {
        match role {
            ControlRole::Observe => Self::Observe,
            ControlRole::Lock => Self::Lock,
            ControlRole::Operate => Self::Operate,
            ControlRole::Exec => Self::Execute,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_production_device_executes_for_those_who_are_named_alone() {
        let all = [
            Role::Observe,
            Role::Lock,
            Role::Update,
            Role::Stick,
            Role::Operate,
            Role::Execute,
        ];
        let may = |mode| all.into_iter().filter(move |role| role.may_execute(mode));
        assert!(may(Mode::Production).eq([Role::Execute]));
        assert!(may(Mode::Development).eq([Role::Operate, Role::Execute]));
    }
}
