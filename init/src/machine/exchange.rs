//! Some containers for others, while the rest goes on: first those that go are retired, then the set is exchanged.

use super::event::{Action, Id};
use super::rule::Rule;
use super::unit::Unit;
use super::{Context, Machine, SHUTDOWN_LIMIT};
use core::fmt;
use kedge_revision::{Content, Name};

/// What an exchange did to the ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exchanged {
    /// Containers that begin anew, by name. Some have the id of one that was retired.
    pub started: Vec<(Id, Name)>,
    /// Ids that no container has any more.
    pub removed: Vec<Id>,
}

/// Why an exchange cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The device goes down.
    Halting,
    /// A container that was retired is not down yet.
    NotDown {
        /// The first such container.
        container: Name,
    },
    /// A container is not in the new content and was not retired.
    NotRetired {
        /// The first such container.
        container: Name,
    },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Halting => f.write_str("the device goes down"),
            Self::NotDown { container } => write!(f, "{container} is not down yet"),
            Self::NotRetired { container } => write!(f, "{container} was not told to stop"),
        }
    }
}

impl core::error::Error for Refused {}

impl Machine {
    /// Takes containers down to make place for others: in the order of a shutdown, within its bounds of time. They
    /// are never started again, whatever their restart policy or an operator says, and end stopped; their goals are
    /// missed until [`Machine::exchange`]. The others go on. In a shutdown it does nothing.
    pub fn retire(&mut self, now: u64, ids: &[Id], actions: &mut Vec<Action>) {
        if self.halting().is_some() {
            return;
        }
        let mut cx = Context {
            now,
            halting: false,
            actions,
        };
        for unit in self.units.iter_mut().filter(|unit| ids.contains(&unit.id)) {
            unit.retire(&mut cx);
        }
        if !self.retired() {
            let limit = now.saturating_add(SHUTDOWN_LIMIT);
            self.limit.get_or_insert(limit);
        }
        self.proceed(now, actions);
    }

    /// Whether all that were retired are down, their cgroups empty. All are killed [`SHUTDOWN_LIMIT`] after the first was
    /// retired, and who cannot be killed is waited for: a second run of it would be worse. The driver may give up then.
    #[must_use]
    pub fn retired(&self) -> bool {
        !self.units.iter().any(|unit| unit.retiring && unit.live())
    }

    /// Puts the containers of `content` in the place of those that were retired. All others must be in `content`
    /// unchanged: they keep their state, process, restarts and times, and nothing is asked for them. The new ones
    /// wait for their turn as after a boot, in which the goals of those that stay count.
    ///
    /// What the driver owes, between two steps and before it performs `actions`:
    /// - What it holds under an id of [`Exchanged::removed`] goes; the id comes back in a later exchange.
    /// - What it holds under an id of [`Exchanged::started`], if anything, is made anew: definition, plan, sockets,
    ///   watched descriptors. No event of an earlier run may come under that id any more.
    /// - What it holds under any other id stays where it is.
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed then.
    pub fn exchange(
        &mut self,
        now: u64,
        content: &Content,
        actions: &mut Vec<Action>,
    ) -> Result<Exchanged, Refused> {
        if self.halting().is_some() {
            return Err(Refused::Halting);
        }
        for unit in &self.units {
            let container = || unit.rule.name.clone();
            if !unit.retiring && !content.containers.contains_key(&unit.rule.name) {
                return Err(Refused::NotRetired {
                    container: container(),
                });
            }
            if unit.retiring && unit.live() {
                return Err(Refused::NotDown {
                    container: container(),
                });
            }
        }
        let exchanged = self.replace(content);
        self.proceed(now, actions);
        Ok(exchanged)
    }

    /// The containers of `content` instead of those that are retired; groups open from the first again.
    pub(super) fn replace(&mut self, content: &Content) -> Exchanged {
        let mut old = core::mem::take(&mut self.units);
        let stays = |unit: &&Unit| content.containers.contains_key(&unit.rule.name);
        let taken: Vec<Id> = old.iter().filter(stays).map(|unit| unit.id).collect();
        let mut free = (0..u16::MAX).map(Id).filter(|id| !taken.contains(id));
        let ids: Vec<(&Name, Id)> = content
            .containers
            .keys()
            .filter_map(|name| {
                let own = old.iter().find(|unit| unit.rule.name == *name);
                Some((name, own.map(|unit| unit.id).or_else(|| free.next())?))
            })
            .collect();
        self.groups = content.groups.iter().map(|g| g.name.clone()).collect();
        self.open = 0;
        let mut exchanged = Exchanged::default();
        for (name, id) in &ids {
            let Some(container) = content.containers.get(*name) else {
                continue;
            };
            let rule = Rule::new(content, name, container, &ids);
            let kept = old.iter().position(|unit| unit.id == *id && !unit.retiring);
            let unit = if let Some(kept) = kept {
                let mut unit = old.swap_remove(kept);
                // Places of groups and ids of others may be new.
                unit.rule = rule;
                unit
            } else {
                exchanged.started.push((*id, (*name).clone()));
                Unit::new(*id, rule)
            };
            self.units.push(unit);
        }
        let gone = |id: &Id| !ids.iter().any(|(_, other)| other == id);
        exchanged.removed = old.iter().map(|unit| unit.id).filter(gone).collect();
        exchanged
    }
}

#[cfg(test)]
mod tests;
