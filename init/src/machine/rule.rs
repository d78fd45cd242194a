//! What a definition means for the machine: numbers and indices, no layers, paths or texts.

use super::event::Id;
use super::health::HealthRule;
use kedge_revision::container::{Goal, Restart};
use kedge_revision::{Container, Content, Name};

/// One container as the machine needs it.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: Name,
    /// Index among the groups.
    pub(super) group: usize,
    pub(super) after: Vec<Id>,
    /// Whether it has rules for devices: it waits until it is known which are there.
    pub(super) devices: bool,
    pub(super) goal: Goal,
    pub(super) health: Option<HealthRule>,
    pub(super) restart: Restart,
    pub(super) stop_signal: u8,
    /// Milliseconds, at least 1.
    pub(super) grace: u64,
}

impl Rule {
    /// `ids` has the id of every container of the content.
    pub(super) fn new(
        content: &Content,
        name: &Name,
        container: &Container,
        ids: &[(&Name, Id)],
    ) -> Self {
        let id = |wanted: &Name| Some(ids.iter().find(|(name, _)| *name == wanted)?.1);
        Self {
            name: name.clone(),
            // The content's check holds that the group exists.
            group: content
                .groups
                .iter()
                .position(|group| group.name == container.group)
                .unwrap_or(0),
            after: container.after.iter().filter_map(id).collect(),
            devices: !container.devices.is_empty(),
            goal: container.goal,
            health: container.health.as_ref().map(HealthRule::new),
            restart: container.restart.clone(),
            stop_signal: container.process.stop_signal,
            grace: u64::from(container.process.stop_grace_ms).max(1),
        }
    }

    /// Milliseconds before the restart of this number, from 1: doubles from `delay-ms` up to
    /// `max-delay-ms`.
    pub(super) fn delay(&self, attempt: u32) -> u64 {
        let first = u64::from(self.restart.delay_ms).max(1);
        let most = u64::from(self.restart.max_delay_ms).max(first);
        // 2^32 ms times the shift's cap of 31 stays in 64 bits.
        let doublings = attempt.saturating_sub(1).min(31);
        (first << doublings).min(most)
    }
}
