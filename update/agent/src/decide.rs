//! What to do next: decided from what the device runs, what the hub wants and what is remembered, and from nothing else.
//!
//! ```text
//!                     ┌────────────────────────────────────────────────────────────────┐
//!  asked ─▶ desired ──┤ runs already ─▶ idle        failed before, refused ─▶ rest     │
//!                     └─▶ confirmed? ─no─▶ Confirm (signed, fresh)                      │
//!                            └─yes─▶ staged? ─no─▶ Fetch ─▶ refused, or staged          │
//!                                      └─yes─▶ window, lock, download only ─▶ waiting   │
//!                                                └─▶ Apply ─▶ trying, judging (Follow)  │
//!                                                              └─▶ Settle: committed ───┤
//!                                                                     or rolled back ───┘
//! ```
//! There is no state beside that: an agent that is killed at any point, or a device whose power is cut, looks again and
//! goes on. What has been tried is kept before PID 1 is asked to try it ([`Memory::trying`]).

use crate::kept::{Failed, Memory};
use kedge_api::device::{Desired, Phase, Wait};
use kedge_revision::ObjectId;

/// Trials that are begun as soon as a hub orders them. Each may restart every container, or write a slot and restart the
/// device: whoever has a hub's key must not keep its fleet from working, nor wear its flash out.
pub const TRIALS: u32 = 6;
/// One of them counts no longer after the agent ran for so long, seconds: further ones are at most four an hour.
pub const TRIAL_S: u64 = 900;
/// How often the time that the agent runs is kept while trials count: less than that is forgotten at its end.
const KEEP_S: u64 = 120;
/// What a hub is told of a trial that has to wait. As a refusal, which hubs of every version can read.
pub const HELD_BACK: &str =
    "hubs ordered too many trials in a short time: it is tried later, without a new order";

/// A revision with the counter of its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The revision.
    pub revision: ObjectId,
    /// The counter; 0: none were given.
    pub parameters: u64,
}

/// How a trial stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// It runs and is judged.
    Runs,
    /// It is about to begin, or waits for its next try, which comes when what is committed has settled; if that
    /// never does, it waits on.
    Waits(Target),
}

impl Target {
    const fn of(desired: &Desired) -> Self {
        Self {
            revision: desired.revision,
            parameters: desired.parameters,
        }
    }
}

/// What PID 1 says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Device {
    /// What the device returns to.
    pub committed: Option<Target>,
    /// The trial that is recorded.
    pub trial: Option<Trial>,
    /// The last trial that failed, and why.
    pub failed: Option<(Target, String)>,
    /// Nothing of a revision runs, and why; empty: that is not told.
    pub repair: Option<String>,
    /// Something else keeps PID 1 busy: an upload or copies.
    pub busy: bool,
    /// A container holds the update lock.
    pub locked: bool,
}

/// All that counts.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// What PID 1 says.
    pub device: &'a Device,
    /// What the hub wants.
    pub desired: Option<&'a Desired>,
    /// What a signed and fresh answer has assigned.
    pub confirmed: Option<Target>,
    /// What PID 1 lacks nothing of.
    pub staged: Option<Target>,
    /// What PID 1 would not take, and why.
    pub refused: Option<(Target, &'a str)>,
    /// What is remembered.
    pub memory: &'a Memory,
    /// When the next of [`Memory::trials`] is forgotten, on the clock of `now`.
    pub trials_until: u64,
    /// When the window opens and closes, on the clock of `now`.
    pub window: (Option<u64>, Option<u64>),
    /// Seconds, of any clock that goes on.
    pub now: u64,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing until something changes, or until this time.
    Rest(Phase, Option<u64>),
    /// Ask the hub for a signed and fresh assignment.
    Confirm,
    /// Bring it to PID 1.
    Fetch(Target),
    /// Keep that it is tried, and let PID 1 try it.
    Apply(Target),
    /// Let PID 1 give up a trial that waits: something else is wanted, and as long as it waits nothing else is taken.
    GiveUp,
    /// What was tried was judged: remember it, and tell.
    Settle(Phase, Option<Failed>),
}

/// See the module.
#[must_use]
pub fn decide(view: &View<'_>) -> Step {
    let device = view.device;
    match device.trial {
        None => {}
        Some(Trial::Runs) => return Step::Rest(Phase::Judging, None),
        Some(Trial::Waits(waiting)) => {
            return match another(view, waiting) {
                None => Step::Rest(Phase::Trying, None),
                Some(target) if view.confirmed == Some(target) => Step::GiveUp,
                Some(_) => Step::Confirm,
            };
        }
    }
    if let Some(tried) = view.memory.trying {
        // A slot is written before its trial is recorded: what is not yet tried is not yet judged.
        if device.busy {
            return Step::Rest(Phase::Trying, None);
        }
        return settle(device, tried);
    }
    let idle = match &device.repair {
        Some(reason) => Phase::Repair {
            reason: Some(reason.clone()).filter(|reason| !reason.is_empty()),
        },
        None => Phase::Idle,
    };
    let Some(desired) = view.desired else {
        return Step::Rest(idle, None);
    };
    let target = Target::of(desired);
    if runs(device, target) {
        return Step::Rest(idle, None);
    }
    if view
        .memory
        .has_failed(target.revision, target.parameters, desired.retry)
    {
        let reason = device
            .failed
            .as_ref()
            .filter(|(failed, _)| is_of(*failed, target));
        let reason = reason.map_or("failed before", |(_, reason)| reason.as_str());
        let reason = reason.to_owned();
        return Step::Rest(Phase::RolledBack { reason }, None);
    }
    if let Some((_, reason)) = view.refused.filter(|(refused, _)| *refused == target) {
        let reason = reason.to_owned();
        return Step::Rest(Phase::Refused { reason }, None);
    }
    if view.confirmed != Some(target) {
        return Step::Confirm;
    }
    if device.busy {
        return Step::Rest(Phase::Checking, None);
    }
    if view.staged != Some(target) {
        return Step::Fetch(target);
    }
    match waits(view, desired) {
        Some((for_what, until)) => Step::Rest(Phase::Waiting { for_what }, until),
        None if view.memory.trials >= TRIALS => {
            let reason = HELD_BACK.to_owned();
            Step::Rest(Phase::Refused { reason }, Some(view.trials_until))
        }
        None => Step::Apply(target),
    }
}

/// Counts the trials that hubs ordered, of which one is forgotten in each [`TRIAL_S`]; true: it must be kept. `ran` is for how
/// long the agent has run in all, seconds, which no hub tells: a wall clock would be the hub's word.
pub fn count_trials(memory: &mut Memory, ran: u64) -> bool {
    let past = ran.saturating_sub(memory.trials_since) / TRIAL_S;
    let left = memory
        .trials
        .saturating_sub(u32::try_from(past).unwrap_or(u32::MAX));
    memory.trials_since = if left == 0 {
        ran
    } else {
        let forgotten = past.saturating_mul(TRIAL_S);
        memory.trials_since.saturating_add(forgotten)
    };
    let is_older = left > 0 && ran.saturating_sub(memory.ran) >= KEEP_S;
    let must_be_kept = left != memory.trials || is_older;
    memory.trials = left;
    if must_be_kept {
        memory.ran = ran;
    }
    must_be_kept
}

/// What the hub wants now instead of the trial that waits. What a person began at the device is left alone while the hub wants no more
/// than what is there.
fn another(view: &View<'_>, waiting: Target) -> Option<Target> {
    let desired = view.desired.filter(|desired| !desired.download_only)?;
    let target = Target::of(desired);
    let is_ours = view.memory.trying.is_some() || !runs(view.device, target);
    let is_another = !view.device.busy && !is_of(waiting, target);
    (is_ours && is_another).then_some(target)
}

/// Whether it is what the device returns to.
fn runs(device: &Device, target: Target) -> bool {
    device
        .committed
        .is_some_and(|committed| is_of(committed, target))
}

/// Whether what PID 1 has is what the hub wants. Without values of the hub's the device goes on with those that it has.
fn is_of(has: Target, wanted: Target) -> bool {
    has.revision == wanted.revision
        && (wanted.parameters == 0 || has.parameters == wanted.parameters)
}

/// What became of what was tried. Neither kept nor failed: it was never begun, as when the power was cut. That the same revision has
/// failed with other values is no word on these.
fn settle(device: &Device, tried: Failed) -> Step {
    let target = Target {
        revision: tried.revision,
        parameters: tried.parameters,
    };
    if runs(device, target) {
        return Step::Settle(Phase::Committed, None);
    }
    match &device.failed {
        Some((failed, reason)) if is_of(*failed, target) => {
            let reason = reason.clone();
            Step::Settle(Phase::RolledBack { reason }, Some(tried))
        }
        Some(_) | None => Step::Settle(Phase::Idle, None),
    }
}

fn waits(view: &View<'_>, desired: &Desired) -> Option<(Wait, Option<u64>)> {
    let (opens, closes) = view.window;
    if desired.download_only {
        Some((Wait::Apply, None))
    } else if opens.is_some_and(|opens| view.now < opens) {
        Some((Wait::Window, opens))
    } else if closes.is_some_and(|closes| view.now >= closes) {
        // The hub tells the next one.
        Some((Wait::Window, None))
    } else if view.device.locked && !desired.now {
        // PID 1 says when that has changed.
        Some((Wait::Lock, closes))
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
