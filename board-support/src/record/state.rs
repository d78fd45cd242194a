//! The state record: what PID 1 must remember across everything, power cuts in the middle of a write included.
//!
//! A copy begins a 4 KiB block and has 512 bytes, the rest of its block is zero and not looked at: one sector, which
//! no disk tears, and if it does, the checksum tells. All numbers are little-endian; what is not named is zero.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | `KEDGEBR1` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | CRC-32 of the 512 bytes with these four zero |
//! | 16 | 8 | sequence: the valid copy with the higher one counts |
//! | 24 | 48 | committed: target |
//! | 72 | 48 | trial: target, all zero when there is none |
//! | 120 | 1 | 1 when there is a trial, else 0 and bytes 72 to 127 and 240 to 255 are zero |
//! | 121 | 1 | tries left |
//! | 122 | 1 | armings, 0 while it waits to be tried again |
//! | 123 | 1 | tries given back |
//! | 124 | 1 | exhaustions: how often its tries ran out without a verdict |
//! | 125 | 1 | bit 0: the verdict is good and the loader's default is being set (`held`); bit 1: a hub had answered before |
//! | 126 | 1 | starts: how often the trial's PID 1 was seen since its tries were last filled |
//! | 127 | 1 | tries that an arming has |
//! | 128 | 48 | failed: target of the last trial that failed, all zero when there is none |
//! | 176 | 1 | reason's number, 0 when there is none |
//! | 177 | 1 | goal: 1 started, 2 ready, 3 finished, else 0 |
//! | 178 | 1 | length of the container's name |
//! | 180 | 4 | exit status as `wait` gives it (i32) |
//! | 184 | 32 | the container's name |
//! | 216 | 4 | floor: root version |
//! | 220 | 4 | newest root version |
//! | 224 | 8 | floor: counter |
//! | 232 | 4 | boots in a row that did not hold their goals (`unsettled`) |
//! | 236 | 4 | watchdog resets in a row |
//! | 240 | 4 | root version of the floor that the commit of a held trial brings |
//! | 244 | 4 | newest root version that it brings |
//! | 248 | 8 | counter of that floor |
//!
//! A target is: revision (32), the parameters' counter (8), slot (1: 1 for a, 2 for b), 7 zero bytes.
//!
//! Parsing is strict: what is read and written again must give the same bytes.

mod layout;

use super::{COPY, Slot};
use crate::Error;
use core::fmt;
use kedge_revision::container::Goal;
use kedge_revision::{Floor, Name, ObjectId};

/// Bytes of a copy that carry the record.
pub const SIZE: usize = 512;

/// What is tried, judged and rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The revision's id.
    pub revision: ObjectId,
    /// The counter of its parameters; 0 when the hub has set none.
    pub parameters: u64,
    /// The slot that holds its kernel and initramfs.
    pub slot: Slot,
}

/// A revision that is being run and has not yet been judged, or is judged good and not yet committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// What is tried.
    pub target: Target,
    /// Boots that it may still take.
    pub tries_left: u8,
    /// How often its tries were filled: in a slot of its own, how often the loader was armed. 0: its tries ran out, and
    /// it waits to be tried again.
    pub armings: u8,
    /// Tries given back for orderly reboots.
    pub give_backs: u8,
    /// How often its tries ran out without a verdict.
    pub exhaustions: u8,
    /// The verdict is good: what is left to do is the loader's default, then the commit.
    pub held: bool,
    /// Whether a hub had answered before.
    pub hub: Hub,
    /// How often the trial's PID 1 was seen since its tries were last filled.
    pub starts: u8,
    /// Tries that an arming has.
    pub tries: u8,
    /// The floor after its commit; nothing while it is not held.
    pub floor: Floor,
    /// The newest root version after its commit; 0 while it is not held.
    pub root_version: u32,
}

/// Whether a hub had answered before a trial: only then must one answer in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Hub {
    /// None had, as on a site without one.
    #[default]
    Silent,
    /// One had.
    Answered,
}

impl Trial {
    /// Whether its tries ran out without a verdict: the committed revision runs until it is tried again.
    #[must_use]
    pub const fn waits(&self) -> bool {
        self.armings == 0
    }
}

/// The last trial that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What was tried.
    pub target: Target,
    /// Why it was given up.
    pub reason: Reason,
}

/// Why a verdict is bad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A container did not reach its goal in the window, or left it.
    GoalMissed {
        /// The container.
        container: Name,
        /// The goal that it was to reach.
        goal: Goal,
        /// How its newest run that ended did so, as `wait` gives it; 0 if none has.
        exit: i32,
    },
    /// A container ended again and again.
    CrashLoop {
        /// The container.
        container: Name,
        /// Its last exit status.
        exit: i32,
    },
    /// The hub had answered before the trial, and did not in it.
    HubLost,
    /// The network was changed, and no port with a link has an address.
    NetworkLost,
    /// The store did not take the test write.
    Storage,
    /// The hardware watchdog reset the device.
    Watchdog,
    /// The kernel panicked.
    KernelPanic,
    /// The memory did not suffice.
    OutOfMemory {
        /// The container that was killed for it; none if it was the system itself.
        container: Option<Name>,
    },
    /// Its PID 1 was seen, and every try ended without a trace, as by a power cut.
    PowerCut,
    /// The tries ran out, and nothing says why.
    TriesExhausted,
    /// The loader was armed, and never started the slot.
    NeverBooted,
    /// The trial's own init refused the revision.
    Refused,
    /// A person said so.
    Operator,
}

/// A kind, and what it is about in parentheses: `goal-missed(web, ready, exit 1)`, `crash-loop(web, signal 9)`. How it
/// ended is left out where it has not, or has with status 0.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GoalMissed {
                container,
                goal,
                exit,
            } => {
                let goal = match goal {
                    Goal::Started => "started",
                    Goal::Ready => "ready",
                    Goal::Finished => "finished",
                };
                write!(f, "goal-missed({container}, {goal}{})", Ended(*exit))
            }
            Self::CrashLoop { container, exit } => {
                write!(f, "crash-loop({container}{})", Ended(*exit))
            }
            Self::OutOfMemory {
                container: Some(container),
            } => write!(f, "out-of-memory({container})"),
            Self::OutOfMemory { container: None } => f.write_str("out-of-memory"),
            Self::HubLost => f.write_str("hub-lost"),
            Self::NetworkLost => f.write_str("network-lost"),
            Self::Storage => f.write_str("storage"),
            Self::Watchdog => f.write_str("watchdog"),
            Self::KernelPanic => f.write_str("kernel-panic"),
            Self::PowerCut => f.write_str("power-cut"),
            Self::TriesExhausted => f.write_str("tries-exhausted"),
            Self::NeverBooted => f.write_str("never-booted"),
            Self::Refused => f.write_str("refused"),
            Self::Operator => f.write_str("operator"),
        }
    }
}

/// An exit status as `wait` gives it (wait(2)), in words after a comma.
struct Ended(i32);

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 & 0x7f, self.0 >> 8 & 0xff) {
            (0, 0) => Ok(()),
            (0, code) => write!(f, ", exit {code}"),
            (signal, _) => write!(f, ", signal {signal}"),
        }
    }
}

/// What PID 1 remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// What the device returns to.
    pub committed: Target,
    /// What is being tried.
    pub trial: Option<Trial>,
    /// What failed last.
    pub failed: Option<Failure>,
    /// The lowest place that will ever run again.
    pub floor: Floor,
    /// The newest root that was accepted.
    pub root_version: u32,
    /// Boots in a row, outside trials, that did not hold their goals for the window.
    pub unsettled: u32,
    /// Watchdog resets in a row.
    pub watchdog_resets: u32,
}

/// A state with the number that orders the copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbered {
    /// Grows by one with each write.
    pub sequence: u64,
    /// The state.
    pub state: State,
}

impl State {
    /// The state that an image is born with: the factory revision is committed, in slot a.
    #[must_use]
    pub const fn born(revision: ObjectId, floor: Floor, root_version: u32) -> Self {
        Self {
            committed: Target {
                revision,
                parameters: 0,
                slot: Slot::A,
            },
            trial: None,
            failed: None,
            floor,
            root_version,
            unsettled: 0,
            watchdog_resets: 0,
        }
    }

    /// The bytes of one copy.
    #[must_use]
    pub fn encode(&self, sequence: u64) -> [u8; COPY] {
        layout::encode(self, sequence)
    }
}

impl Numbered {
    /// Reads one copy.
    ///
    /// # Errors
    /// [`Error::Short`], [`Error::Magic`], [`Error::Checksum`], [`Error::Version`], [`Error::Field`].
    pub fn parse(copy: &[u8]) -> Result<Self, Error> {
        layout::parse(copy)
    }
}

/// The copy that counts: the valid one with the higher sequence; the first of two equal ones.
#[must_use]
pub fn choose(first: &[u8], second: &[u8]) -> Option<Numbered> {
    match (Numbered::parse(first).ok(), Numbered::parse(second).ok()) {
        (Some(one), Some(two)) if two.sequence > one.sequence => Some(two),
        (Some(one), _) => Some(one),
        (None, two) => two,
    }
}

#[cfg(test)]
mod tests;
