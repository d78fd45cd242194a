//! A state of the whole device: what is on disk, what an outside observer remembers of it, and where in its life it is.

use super::disk::{Disk, Image};
use kedge_board_support::control::{Cause, Control, Run};
use kedge_board_support::record::{Loader, Slot, State, Target, Trial};
use kedge_revision::{Floor, ObjectId};

/// Revisions: the one that the image is born with, and those that are begun later.
pub(crate) const REVISIONS: usize = 3;
/// Counters of the revisions' own floors: the last one names a lower floor than the one before it.
const FLOORS: [u64; REVISIONS] = [10, 12, 11];

/// What an image in a slot does when it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// PID 1 comes up, and lives until something happens.
    Sound,
    /// The loader cannot load it.
    NeverLoads,
    /// It dies before PID 1 has written anything.
    DiesEarly,
}

/// A fault beyond power cuts and crashes. A run has at most one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Extra {
    None,
    LoaderCopy,
    LoaderBoth,
    StateCopy,
    StateBoth,
    CommittedSlot,
    TrialSlot,
    Unwritable,
    /// The kernel or the firmware takes no notice of the word that a restart to a try brings.
    WordLost,
    /// From now on the firmware may say, and do, at any start as if that word had come.
    WordSticks,
    /// A row of writes of a boot fails somewhere: what was written of it may be on the disk, or not, or torn.
    WriteFails,
}

/// What an outside observer knows: what was promised, and what has really happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ghost {
    /// Revisions that were begun so far; they are numbered in that order.
    pub begins: u8,
    /// The kernel that each revision came with.
    pub kernels: [u8; REVISIONS],
    /// What each kernel does.
    pub kinds: [Kind; REVISIONS],
    /// The last revision whose commit was acknowledged.
    pub acked: u8,
    /// The floor that it brought.
    pub floor: u64,
    /// Bits by revision: judged good; its failure is remembered for good; its begin was acknowledged.
    pub good: u8,
    pub dead: u8,
    pub promised: u8,
    pub extra: Extra,
    /// The loader's next write fails.
    pub unwritable: bool,
    /// PID 1 counts the tries of another slot: a matter of the loader, the same in all of a run.
    pub counts_itself: bool,
    /// The last restart brought the word that starts the other slot, once.
    pub word: bool,
    /// Of the trial on disk.
    pub trial: Watch,
}

/// What has happened to the trial that is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Watch {
    /// Its revision; 0: none.
    pub revision: u8,
    /// Its slot was started at least once.
    pub started: bool,
    /// It was ended at least once, or twice or more, by a cut, a crash or a reset.
    pub crashes: u8,
    /// Since its tries were last filled on disk: tries taken, times the loader was armed, PID 1 seen.
    pub taken: u8,
    pub armed: u8,
    pub seen: bool,
    /// Tries given back, in all and since then.
    pub gave: u8,
    pub back: u8,
    /// How often its tries had run out, and it was let wait.
    pub waited: u8,
    /// Its slot did not load at least once.
    pub unloadable: bool,
    /// The loader's default is its slot: from here on it is committed.
    pub point: bool,
}

/// Where the device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Without power, or just before the loader.
    Off {
        cause: Cause,
        /// The trial, or its slot's kernel, ran until now.
        blame: bool,
    },
    /// PID 1 runs.
    Up { control: Box<Control> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub disk: Disk,
    pub ghost: Ghost,
    pub phase: Phase,
}

impl Node {
    pub(crate) fn first(home: Slot, counts_itself: bool) -> Self {
        let mut state = State::born(id(0), floor(0), 1);
        state.committed.slot = home;
        Self {
            disk: Disk::born(&state),
            ghost: Ghost {
                begins: 0,
                kernels: [0; REVISIONS],
                kinds: [Kind::Sound; REVISIONS],
                acked: 0,
                floor: FLOORS[0],
                good: 0,
                dead: 0,
                promised: 0,
                extra: Extra::None,
                unwritable: false,
                counts_itself,
                word: false,
                trial: Watch::default(),
            },
            phase: Phase::Off {
                cause: Cause::Unknown,
                blame: false,
            },
        }
    }

    /// Forgets what makes no difference any more, so that there are fewer nodes.
    ///
    /// - The older copy of the state counts again only if a fault takes the newer one. If none will, it is lost at once: a
    ///   machine that needs it is wrong.
    /// - A good verdict of which nothing is on disk was never given.
    /// - Of the revisions before the last one, only what is committed or lies in a slot can still be seen.
    /// - The counts of unsettled boots between the first and the last behave alike.
    pub(crate) fn settle(&mut self, faults_to_come: bool) {
        let kept = self.disk.state.iter().flatten().any(|copy| {
            let held = copy.state.trial.is_some_and(|trial| trial.held);
            held || number(&copy.state.committed) == self.ghost.trial.revision
        });
        let slot = self.disk.newest().map(|state| state.committed.slot);
        let told = self
            .disk
            .loader
            .iter()
            .flatten()
            .any(|record| Some(record.default) != slot);
        if !kept && !told {
            self.ghost.good &= !bit(self.ghost.trial.revision);
        }
        if !faults_to_come {
            self.disk.state[1] = None;
            self.forget_revisions();
        }
        for copy in self.disk.state.iter_mut().flatten() {
            if (3..7).contains(&copy.state.unsettled) {
                copy.state.unsettled = 7;
            }
        }
    }

    fn forget_revisions(&mut self) {
        let Some(state) = self.disk.newest() else {
            return;
        };
        let ghost = &mut self.ghost;
        let committed = number(&state.committed);
        for revision in (0..ghost.begins).filter(|revision| *revision != committed) {
            ghost.kernels[usize::from(revision)] = 0;
            if !self.disk.slots.contains(&Some(revision)) {
                ghost.kinds[usize::from(revision)] = Kind::Sound;
            }
            ghost.good &= !bit(revision);
            ghost.dead &= !bit(revision);
            ghost.promised &= !bit(revision);
        }
    }

    /// All that can make a difference, as few bytes: two nodes with the same key go on in the same way.
    pub(crate) fn key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(128);
        self.disk
            .loader
            .iter()
            .for_each(|copy| put_loader(&mut key, *copy));
        for copy in &self.disk.state {
            match copy {
                Some(copy) => {
                    key.push(u8::try_from(copy.sequence).unwrap());
                    put_state(&mut key, &copy.state);
                }
                None => key.push(0),
            }
        }
        key.extend(
            self.disk
                .slots
                .map(|image| image.map_or(9, |kernel| kernel)),
        );
        put_ghost(&mut key, &self.ghost);
        match &self.phase {
            Phase::Off { cause, blame } => key.extend([1, *cause as u8, u8::from(*blame)]),
            Phase::Up { control } => {
                key.push(2);
                put_state(&mut key, control.state());
                put_loader(&mut key, Some(control.loader()));
                put_hash(&mut key, control.run());
            }
        }
        key
    }

    pub(crate) fn is_off(&self) -> bool {
        matches!(self.phase, Phase::Off { .. })
    }
}

impl Ghost {
    pub(crate) fn kernel(&self, revision: u8) -> Image {
        Some(self.kernels[usize::from(revision)])
    }

    pub(crate) fn kind(&self, kernel: u8) -> Kind {
        self.kinds[usize::from(kernel)]
    }

    pub(crate) fn floor_with(&self, revision: u8) -> u64 {
        self.floor.max(FLOORS[usize::from(revision)])
    }
}

pub(crate) const fn bit(revision: u8) -> u8 {
    1 << revision
}

pub(crate) fn id(revision: u8) -> ObjectId {
    ObjectId::from_digest([revision; 32])
}

/// The number of a target's revision.
pub(crate) fn number(target: &Target) -> u8 {
    target.revision.digest()[0]
}

pub(crate) fn floor(revision: u8) -> Floor {
    Floor {
        root: 1,
        counter: FLOORS[usize::from(revision)],
    }
}

pub(crate) const fn root_version(revision: u8) -> u32 {
    1 + revision as u32
}

fn put_loader(key: &mut Vec<u8>, record: Option<Loader>) {
    let letter = |slot: Slot| slot as u8;
    match record {
        None => key.push(255),
        Some(record) => {
            key.push(letter(record.default));
            match record.trial {
                None => key.push(255),
                Some(armed) => key.extend([letter(armed.slot), armed.left]),
            }
        }
    }
}

fn put_state(key: &mut Vec<u8>, state: &State) {
    key.extend([number(&state.committed), state.committed.slot as u8]);
    match &state.trial {
        None => key.push(255),
        Some(Trial {
            target,
            tries_left,
            armings,
            give_backs,
            exhaustions,
            held,
            // The judge alone reads it.
            hub: _,
            starts,
            tries,
            floor,
            root_version,
        }) => {
            key.extend([number(target), target.slot as u8, *tries_left, *armings]);
            key.extend([*give_backs, *exhaustions, u8::from(*held), *starts, *tries]);
            key.extend([small(floor.counter), small(*root_version)]);
        }
    }
    match &state.failed {
        None => key.push(255),
        // The reason is judged when it is written, and read by people only.
        Some(failed) => key.push(number(&failed.target)),
    }
    key.extend([small(state.floor.counter), small(state.root_version)]);
    // The watchdog's resets in a row are counted for others: nothing here depends on them.
    key.push(small(state.unsettled));
}

fn put_ghost(key: &mut Vec<u8>, ghost: &Ghost) {
    key.push(ghost.begins);
    key.extend(ghost.kernels);
    key.extend(ghost.kinds.map(|kind| kind as u8));
    key.extend([ghost.acked, small(ghost.floor), ghost.good]);
    key.extend([ghost.dead, ghost.promised, ghost.extra as u8]);
    key.push(u8::from(ghost.unwritable) | u8::from(ghost.word) << 1);
    let Watch {
        revision,
        started,
        crashes,
        taken,
        armed,
        seen,
        gave,
        back,
        waited,
        unloadable,
        point,
    } = ghost.trial;
    key.extend([revision, crashes, taken, armed, gave, back, waited]);
    key.extend([started, seen, unloadable, point].map(u8::from));
}

/// Opaque, but hashable: few values, so that eight bytes tell them apart.
fn put_hash(key: &mut Vec<u8>, run: Run) {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(run);
    key.extend(hash.to_le_bytes());
}

fn small(number: impl TryInto<u8>) -> u8 {
    number.try_into().unwrap_or(u8::MAX)
}
