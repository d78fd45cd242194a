//! What a peer of the control interface may ask.

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
    /// Everything.
    Operate,
}

impl From<ControlRole> for Role {
    fn from(role: ControlRole) -> Self {
        match role {
            ControlRole::Observe => Self::Observe,
            ControlRole::Lock => Self::Lock,
            ControlRole::Operate => Self::Operate,
        }
    }
}
