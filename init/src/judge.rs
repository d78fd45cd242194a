//! The verdict of a trial: good, bad and why, or not yet.
//!
//! Pure: [`Judge::step`] takes the time, what happened and the supervisor, and answers with the verdict. It does no
//! I/O, has no clock and ends nothing: the driver asks the store, commits and rolls back. It does not judge what a
//! boot that never came to PID 1 means; the boot record's machine does that.
//!
//! With a window of W, from the trial's beginning:
//!
//! | when | what | verdict |
//! |---|---|---|
//! | at once | a person or a container asks for a roll back | bad |
//! | at once | a container is down for good and its goal is missed | bad |
//! | at once | a container was restarted three times by itself: its goal was not reached, or lost, each time | bad |
//! | at once | the store refuses a test write, or does not answer within 10 s | bad |
//! | from W on | a goal is missed | bad |
//! | from W on | all goals have held for W/2, and the store took a test write that was asked for after W/2 | good |
//! | at 1.5 W | still neither; an answer of the store that is due is waited for | bad |
//!
//! Where a trial changed the network, good waits until the network stands, until 1.5 W; then the trial is bad. Whether it
//! stands, the driver says, as far as it can be seen from inside: of the ports with a link one has an address.
//!
//! Where a hub had answered before the trial, good waits until one has answered in it, for as long as the revision says from
//! the trial's beginning on, else [`HUB_LIMIT`]; any authenticated answer counts. After that the trial is bad if it changed what could have cut
//! the device off ([`HubRule::Decides`]), and else good: a hub's outage must not revert a healthy fleet.
//!
//! A verdict is final. Whose goal is missed: the first container, by group and name; of one that waits for its turn,
//! the one that it waits for.

use crate::machine::{Ending, GoalMissed, Id, Machine, Missed, WaitsFor};
use kedge_board_support::record::Reason;
use kedge_sys::process::ExitStatus;

/// How long the store may take for a test write, milliseconds. A flush behind a large write takes seconds on a worn
/// card; what takes longer is not usable.
pub const PROBE_LIMIT: u64 = 10_000;
/// How long a trial waits for a hub, milliseconds from its beginning.
pub const HUB_LIMIT: u64 = 15 * 60_000;
/// Automatic restarts of one container in a trial that make it bad.
const CRASHES: u32 = 3;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Time has passed, or the supervisor has moved on.
    Look,
    /// The answer to [`Judged::probe`].
    Probe(Probe),
    /// A container is down for good and asks for a roll back.
    RollBack {
        /// The container.
        id: Id,
        /// What it ended with.
        ending: Ending,
    },
    /// A person asks for a roll back.
    Operator,
    /// A hub gave an authenticated answer.
    Hub,
    /// How the network stands that the trial has changed. Not said: it was not changed.
    Network {
        /// None: it cannot be said, since nothing is plugged in.
        stands: Option<bool>,
    },
}

/// What a hub's silence means for a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubRule {
    /// Nothing: none had answered before, or the revision does not ask for it.
    Free,
    /// It is waited for, and then passed over: what was changed does not reach the network.
    Waits,
    /// The trial is bad.
    Decides,
}

/// What became of a test write to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// It is on disk.
    Passed,
    /// The store did not take it, or could not be asked.
    Failed,
}

/// Where the trial stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Neither yet; to be looked at again at this time (milliseconds since boot), and when the supervisor has moved
    /// on. None: time alone decides nothing.
    Pending(Option<u64>),
    /// The trial is to be committed; outside trials, the revision is settled.
    Good,
    /// The trial is to be rolled back.
    Bad(Reason),
}

/// The answer of [`Judge::step`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// A test write to the store is to be made now, and answered with [`Input::Probe`]. At most one is under way.
    pub probe: bool,
}

/// The judge of one trial, or of one boot outside trials.
#[derive(Debug)]
pub struct Judge {
    /// Milliseconds.
    window: u64,
    /// None: outside a trial.
    trial: Option<Trial>,
    decided: Option<Verdict>,
}

#[derive(Debug)]
struct Trial {
    /// Its beginning, half the window, the window and one and a half of it, milliseconds since boot.
    half: u64,
    end: u64,
    last: u64,
    store: Store,
    /// The network was changed, and does not stand.
    cut_off: bool,
    /// What is still asked of a hub.
    hub: HubRule,
    /// When it is asked no longer.
    hub_until: u64,
    /// Automatic restarts before the trial.
    restarts: Vec<(Id, u32)>,
}

/// What is known of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    /// It was not asked.
    Unknown,
    /// A test write is under way.
    Asked {
        /// Since when.
        at: u64,
    },
    /// It took one in the first half of the window.
    TookFirst,
    /// It took one that was asked for in the second half.
    Took,
}

impl Judge {
    /// For a trial that begins now, with the window that the tried revision gives. The supervisor has the trial's
    /// containers by now: in a trial without a reboot, this comes after the exchange.
    #[must_use]
    pub fn trial(window_s: u32, now: u64, machine: &Machine, hub: HubRule) -> Self {
        let window = milliseconds(window_s);
        let after = |time: u64| now.saturating_add(time);
        let restarts = machine.status().map(|status| (status.id, status.restarts));
        Self {
            window,
            trial: Some(Trial {
                half: after(window / 2),
                end: after(window),
                last: after(window.saturating_add(window / 2)),
                store: Store::Unknown,
                cut_off: false,
                hub,
                // A window that is longer than that is the hub's, too.
                hub_until: after(HUB_LIMIT.max(window.saturating_add(window / 2))),
                restarts: restarts.collect(),
            }),
            decided: None,
        }
    }

    /// With another time than [`HUB_LIMIT`] for which a hub is waited for, seconds from the beginning; a window that is
    /// longer than that is the hub's, too.
    #[must_use]
    pub fn waiting_for_hub(mut self, wait_s: u32, now: u64) -> Self {
        if let Some(trial) = &mut self.trial {
            trial.hub_until = now.saturating_add(milliseconds(wait_s)).max(trial.last);
        }
        self
    }

    /// For a boot outside trials: good when all goals have held for the window, never bad.
    #[must_use]
    pub fn settling(window_s: u32) -> Self {
        Self {
            window: milliseconds(window_s),
            trial: None,
            decided: None,
        }
    }

    /// What follows at `now` (milliseconds since boot). To be asked first when the trial begins, then after each
    /// step of the supervisor, at the time of [`Verdict::Pending`] and for each input.
    pub fn step(&mut self, now: u64, input: Input, machine: &Machine) -> Judged {
        if let Some(verdict) = &self.decided {
            return Judged {
                verdict: verdict.clone(),
                probe: false,
            };
        }
        let judged = match &mut self.trial {
            Some(trial) => trial.step(self.window, now, input, machine),
            None => Judged {
                verdict: settled(self.window, now, machine),
                probe: false,
            },
        };
        if !matches!(judged.verdict, Verdict::Pending(_)) {
            self.decided = Some(judged.verdict.clone());
        }
        judged
    }
}

fn milliseconds(seconds: u32) -> u64 {
    u64::from(seconds).saturating_mul(1000)
}

fn settled(window: u64, now: u64, machine: &Machine) -> Verdict {
    let due = machine
        .settled_since()
        .map(|since| since.saturating_add(window));
    if due.is_some_and(|at| at <= now) {
        Verdict::Good
    } else {
        Verdict::Pending(due)
    }
}

impl Trial {
    fn step(&mut self, window: u64, now: u64, input: Input, machine: &Machine) -> Judged {
        let bad = self
            .heard(input, machine)
            .or_else(|| self.lost(machine))
            .or_else(|| self.store_fails(now).then_some(Reason::Storage));
        if let Some(reason) = bad {
            return Judged {
                verdict: Verdict::Bad(reason),
                probe: false,
            };
        }
        let probe = match self.store {
            Store::Unknown => true,
            Store::TookFirst => now >= self.half,
            Store::Asked { .. } | Store::Took => false,
        };
        if probe {
            self.store = Store::Asked { at: now };
        }
        let verdict = self.weigh(window, now, machine);
        Judged {
            probe: probe && matches!(verdict, Verdict::Pending(_)),
            verdict,
        }
    }

    /// Takes the input in; what it alone makes bad.
    fn heard(&mut self, input: Input, machine: &Machine) -> Option<Reason> {
        match (input, self.store) {
            (Input::Operator, _) => Some(Reason::Operator),
            (Input::RollBack { id, ending }, _) => blame(machine, id, Some(ending)),
            (Input::Probe(Probe::Failed), Store::Asked { .. }) => Some(Reason::Storage),
            (Input::Probe(Probe::Passed), Store::Asked { at }) => {
                self.store = if at < self.half {
                    Store::TookFirst
                } else {
                    Store::Took
                };
                None
            }
            (Input::Hub, _) => {
                self.hub = HubRule::Free;
                None
            }
            (Input::Network { stands }, _) => {
                self.cut_off = stands == Some(false);
                None
            }
            (Input::Look | Input::Probe(_), _) => None,
        }
    }

    /// A container that is down for good, or that crashes again and again.
    fn lost(&self, machine: &Machine) -> Option<Reason> {
        let down = first(machine, |missed| {
            matches!(missed.reason, Missed::Failed(_) | Missed::Ended)
        });
        if let Some(down) = down {
            return blame(machine, down.id, down.last_exit);
        }
        let crashing = machine.status().find(|status| {
            let before = self.restarts.iter().find(|(id, _)| *id == status.id);
            let before = before.map_or(0, |(_, count)| *count);
            status.restarts.saturating_sub(before) >= CRASHES
        })?;
        let container = crashing.name.clone();
        Some(match crashing.last_exit {
            Some(Ending::OutOfMemory) => Reason::OutOfMemory {
                container: Some(container),
            },
            ending => Reason::CrashLoop {
                container,
                exit: exit(ending),
            },
        })
    }

    fn store_fails(&self, now: u64) -> bool {
        match self.store {
            // One of the first half that is still due at the end leaves no time for one of the second.
            Store::Asked { at } => {
                now.saturating_sub(at) >= PROBE_LIMIT || at < self.half && now >= self.last
            }
            Store::Unknown | Store::TookFirst | Store::Took => false,
        }
    }

    /// The verdict of a trial that is good but for what is asked of the network and of a hub.
    fn but_for_the_network(&self, now: u64) -> Verdict {
        if self.cut_off {
            return if now < self.last {
                Verdict::Pending(Some(self.last))
            } else {
                Verdict::Bad(Reason::NetworkLost)
            };
        }
        match self.hub {
            HubRule::Free => Verdict::Good,
            HubRule::Waits | HubRule::Decides if now < self.hub_until => {
                Verdict::Pending(Some(self.hub_until))
            }
            HubRule::Waits => Verdict::Good,
            HubRule::Decides => Verdict::Bad(Reason::HubLost),
        }
    }

    /// What the time says, when nothing is bad at once.
    fn weigh(&self, window: u64, now: u64, machine: &Machine) -> Verdict {
        let held_at = machine
            .settled_since()
            .map(|since| since.saturating_add(window / 2));
        if now >= self.end {
            if let Some(reason) =
                first(machine, |_| true).and_then(|missed| culprit(machine, missed))
            {
                return Verdict::Bad(reason);
            }
            let held = held_at.is_some_and(|at| at <= now);
            match self.store {
                Store::Took if held => return self.but_for_the_network(now),
                // All hold now, and did not a moment ago: whoever has moved last.
                Store::Took if now >= self.last => {
                    return unsteady(machine)
                        .map_or_else(|| self.but_for_the_network(now), Verdict::Bad);
                }
                Store::Took | Store::Asked { .. } | Store::Unknown | Store::TookFirst => {}
            }
        }
        let store = match self.store {
            Store::Asked { at } => Some(at.saturating_add(PROBE_LIMIT)),
            Store::TookFirst => Some(self.half),
            Store::Unknown | Store::Took => None,
        };
        let due = [store, held_at, Some(self.end), Some(self.last)];
        Verdict::Pending(due.into_iter().flatten().filter(|at| *at > now).min())
    }
}

/// The first goal that is missed in such a way, by group and name.
fn first(machine: &Machine, such: fn(&GoalMissed) -> bool) -> Option<GoalMissed> {
    machine.missing().filter(such).min_by_key(|missed| {
        let group = machine.status_of(missed.id).and_then(|status| status.group);
        machine.groups().position(|(name, _)| Some(name) == group)
    })
}

/// Who is to blame for a goal that is missed: of one that waits, the one that it waits for.
fn culprit(machine: &Machine, missed: GoalMissed) -> Option<Reason> {
    let mut status = machine.status_of(missed.id)?;
    // Nobody waits for itself in a circle; but a bound costs nothing.
    for _ in machine.status() {
        let Some(WaitsFor::Group { container, .. } | WaitsFor::After { container }) =
            status.waiting_for
        else {
            break;
        };
        status = machine.status_of(machine.find(container.as_str())?)?;
    }
    blame(machine, status.id, status.last_exit)
}

/// The container whose state has changed last.
fn unsteady(machine: &Machine) -> Option<Reason> {
    let status = machine.status().max_by_key(|status| status.since)?;
    blame(machine, status.id, status.last_exit)
}

fn blame(machine: &Machine, id: Id, ending: Option<Ending>) -> Option<Reason> {
    let status = machine.status_of(id)?;
    let container = status.name.clone();
    Some(match ending {
        Some(Ending::OutOfMemory) => Reason::OutOfMemory {
            container: Some(container),
        },
        ending => Reason::GoalMissed {
            container,
            goal: status.goal,
            exit: exit(ending),
        },
    })
}

/// The number that `wait(2)` gives for an ending; 0 for one that the machine asked for, and for none.
fn exit(ending: Option<Ending>) -> i32 {
    match ending {
        Some(Ending::Exit(ExitStatus::Exited(code))) => (code & 0xff) << 8,
        Some(Ending::Exit(ExitStatus::Signaled { signal, core })) => {
            signal & 0x7f | if core { 0x80 } else { 0 }
        }
        // SIGKILL.
        Some(Ending::OutOfMemory) => 9,
        // As shells say it of a program that cannot be run, and as the engine's child does.
        Some(Ending::SpawnFailed { .. } | Ending::ExecFailed { .. }) => 127 << 8,
        Some(Ending::StartTimeout | Ending::NotReady | Ending::Ill | Ending::Stuck) | None => 0,
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
