//! The bytes of a state record, as the table in [`super`] lays them out. A cursor writes and reads the fields in
//! order, so that no offset is written twice.

use super::{Failure, Hub, Numbered, Reason, SIZE, State, Target, Trial};
use crate::Error;
use crate::record::{COPY, Slot, crc32};
use kedge_revision::container::Goal;
use kedge_revision::{Floor, Name, ObjectId};

const MAGIC: [u8; 8] = *b"KEDGEBR1";
const VERSION: u32 = 1;
/// Where the checksum stands.
const CHECKSUM: core::ops::Range<usize> = 12..16;

struct Writer<'a>(core::slice::IterMut<'a, u8>);

impl Writer<'_> {
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        // The bytes lead: `zip` takes from its left side first, and must not take one place too many.
        for (from, to) in bytes.into_iter().zip(self.0.by_ref()) {
            *to = from;
        }
    }

    fn target(&mut self, target: Option<&Target>) {
        let Some(target) = target else {
            return self.put([0; 48]);
        };
        self.put(*target.revision.digest());
        self.put(target.parameters.to_le_bytes());
        self.put([slot_number(target.slot), 0, 0, 0, 0, 0, 0, 0]);
    }
}

const fn slot_number(slot: Slot) -> u8 {
    match slot {
        Slot::A => 1,
        Slot::B => 2,
    }
}

/// The fields of a reason: number, goal, exit status, name.
fn reason_fields(reason: &Reason) -> (u8, u8, i32, Option<&Name>) {
    match reason {
        Reason::GoalMissed {
            container,
            goal,
            exit,
        } => (1, goal_number(*goal), *exit, Some(container)),
        Reason::CrashLoop { container, exit } => (2, 0, *exit, Some(container)),
        Reason::HubLost => (3, 0, 0, None),
        Reason::Storage => (4, 0, 0, None),
        Reason::Watchdog => (5, 0, 0, None),
        Reason::KernelPanic => (6, 0, 0, None),
        Reason::OutOfMemory { container } => (7, 0, 0, container.as_ref()),
        Reason::PowerCut => (8, 0, 0, None),
        Reason::TriesExhausted => (9, 0, 0, None),
        Reason::NeverBooted => (10, 0, 0, None),
        Reason::Refused => (11, 0, 0, None),
        Reason::Operator => (12, 0, 0, None),
        Reason::NetworkLost => (13, 0, 0, None),
    }
}

const fn goal_number(goal: Goal) -> u8 {
    match goal {
        Goal::Started => 1,
        Goal::Ready => 2,
        Goal::Finished => 3,
    }
}

fn reason_of(number: u8, goal: u8, exit: i32, name: Option<Name>) -> Option<Reason> {
    Some(match (number, name) {
        (1, Some(container)) => {
            let goal = match goal {
                1 => Goal::Started,
                2 => Goal::Ready,
                3 => Goal::Finished,
                _ => return None,
            };
            Reason::GoalMissed {
                container,
                goal,
                exit,
            }
        }
        (2, Some(container)) => Reason::CrashLoop { container, exit },
        (3, None) => Reason::HubLost,
        (4, None) => Reason::Storage,
        (5, None) => Reason::Watchdog,
        (6, None) => Reason::KernelPanic,
        (7, container) => Reason::OutOfMemory { container },
        (8, None) => Reason::PowerCut,
        (9, None) => Reason::TriesExhausted,
        (10, None) => Reason::NeverBooted,
        (11, None) => Reason::Refused,
        (12, None) => Reason::Operator,
        (13, None) => Reason::NetworkLost,
        _ => return None,
    })
}

pub(super) fn encode(state: &State, sequence: u64) -> [u8; COPY] {
    let mut copy = [0_u8; COPY];
    let mut out = Writer(copy.iter_mut());
    out.put(MAGIC);
    out.put(VERSION.to_le_bytes());
    out.put([0; 4]);
    out.put(sequence.to_le_bytes());
    out.target(Some(&state.committed));
    out.target(state.trial.as_ref().map(|trial| &trial.target));
    out.put(state.trial.map_or([0; 8], |trial| {
        let Trial {
            tries_left,
            armings,
            give_backs,
            exhaustions,
            held,
            hub,
            starts,
            tries,
            ..
        } = trial;
        [
            1,
            tries_left,
            armings,
            give_backs,
            exhaustions,
            u8::from(held) | u8::from(hub == Hub::Answered) << 1,
            starts,
            tries,
        ]
    }));
    out.target(state.failed.as_ref().map(|failed| &failed.target));
    let (number, goal, exit, name) = state
        .failed
        .as_ref()
        .map_or((0, 0, 0, None), |failed| reason_fields(&failed.reason));
    let name = name.map_or("", Name::as_str).as_bytes();
    // A name has at most 32 bytes.
    out.put([
        number,
        goal,
        u8::try_from(name.len()).unwrap_or_default(),
        0,
    ]);
    out.put(exit.to_le_bytes());
    let mut padded = [0_u8; Name::MAX];
    padded
        .iter_mut()
        .zip(name)
        .for_each(|(to, from)| *to = *from);
    out.put(padded);
    out.put(state.floor.root.to_le_bytes());
    out.put(state.root_version.to_le_bytes());
    out.put(state.floor.counter.to_le_bytes());
    out.put(state.unsettled.to_le_bytes());
    out.put(state.watchdog_resets.to_le_bytes());
    let (floor, root_version) = state.trial.map_or((Floor::default(), 0), |trial| {
        (trial.floor, trial.root_version)
    });
    out.put(floor.root.to_le_bytes());
    out.put(root_version.to_le_bytes());
    out.put(floor.counter.to_le_bytes());
    let sum = crc32(copy.get(..SIZE).unwrap_or_default());
    if let Some(place) = copy.get_mut(CHECKSUM) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
    copy
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (now, rest) = self.0.split_first_chunk::<N>().ok_or(Error::Short {
            length: self.0.len(),
        })?;
        self.0 = rest;
        Ok(*now)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.take().map(u64::from_le_bytes)
    }

    /// A target, or nothing if its slot's number is 0; other remains are refused by the comparison at the end.
    fn target(&mut self) -> Result<Option<Target>, Error> {
        let revision = ObjectId::from_digest(self.take()?);
        let parameters = self.u64()?;
        let [slot, ..] = self.take::<8>()?;
        let slot = match slot {
            0 => return Ok(None),
            1 => Slot::A,
            2 => Slot::B,
            _ => return Err(Error::Field { field: "slot" }),
        };
        Ok(Some(Target {
            revision,
            parameters,
            slot,
        }))
    }

    fn trial(&mut self) -> Result<Option<Trial>, Error> {
        let target = self.target()?;
        let [
            present,
            tries_left,
            armings,
            give_backs,
            exhaustions,
            flags,
            starts,
            tries,
        ] = self.take()?;
        match (target, present, flags) {
            (Some(target), 1, 0..=3) => Ok(Some(Trial {
                target,
                tries_left,
                armings,
                give_backs,
                exhaustions,
                held: flags & 1 == 1,
                hub: if flags & 2 == 2 {
                    Hub::Answered
                } else {
                    Hub::Silent
                },
                starts,
                tries,
                floor: Floor::default(),
                root_version: 0,
            })),
            (None, 0, 0) => Ok(None),
            _ => Err(Error::Field { field: "trial" }),
        }
    }

    fn failed(&mut self) -> Result<Option<Failure>, Error> {
        let bad = Error::Field { field: "failed" };
        let target = self.target()?;
        let [number, goal, length, _] = self.take()?;
        let exit = i32::from_le_bytes(self.take()?);
        let name = self.take::<{ Name::MAX }>()?;
        let name = name
            .get(..usize::from(length))
            .and_then(|name| core::str::from_utf8(name).ok())
            .ok_or(bad)?;
        let name = if name.is_empty() {
            None
        } else {
            Some(name.parse().map_err(|_| bad)?)
        };
        match target {
            None if number == 0 => Ok(None),
            Some(target) => {
                let reason = reason_of(number, goal, exit, name).ok_or(bad)?;
                Ok(Some(Failure { target, reason }))
            }
            None => Err(bad),
        }
    }
}

pub(super) fn parse(copy: &[u8]) -> Result<Numbered, Error> {
    let bytes = copy
        .get(..SIZE)
        .ok_or(Error::Short { length: copy.len() })?;
    let mut input = Reader(bytes);
    if input.take()? != MAGIC {
        return Err(Error::Magic);
    }
    let version = input.u32()?;
    let checksum = input.u32()?;
    let mut unsummed = [0_u8; SIZE];
    unsummed.copy_from_slice(bytes);
    if let Some(place) = unsummed.get_mut(CHECKSUM) {
        place.fill(0);
    }
    if crc32(&unsummed) != checksum {
        return Err(Error::Checksum);
    }
    if version != VERSION {
        return Err(Error::Version { version });
    }
    let sequence = input.u64()?;
    let committed = input.target()?.ok_or(Error::Field { field: "committed" })?;
    let trial = input.trial()?;
    let failed = input.failed()?;
    let root = input.u32()?;
    let root_version = input.u32()?;
    let floor = Floor {
        root,
        counter: input.u64()?,
    };
    let mut state = State {
        committed,
        trial,
        failed,
        floor,
        root_version,
        unsettled: input.u32()?,
        watchdog_resets: input.u32()?,
    };
    let root = input.u32()?;
    let root_version = input.u32()?;
    let counter = input.u64()?;
    if let Some(trial) = &mut state.trial {
        trial.floor = Floor { root, counter };
        trial.root_version = root_version;
    }
    if encode(&state, sequence).get(..SIZE) != Some(bytes) {
        return Err(Error::Field { field: "padding" });
    }
    Ok(Numbered { sequence, state })
}
