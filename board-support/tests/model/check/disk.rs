//! The simulated disk: both records in two copies, both slots, and what a power cut leaves of a row of writes.

use kedge_board_support::Error;
use kedge_board_support::bootenv::{Found, Medium, Side};
use kedge_board_support::record::state::Numbered;
use kedge_board_support::record::{Loader, Slot, State};

/// What a slot holds: the kernel that came with this revision, or nothing that a loader starts.
pub(crate) type Image = Option<u8>;

/// What survives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Copies of the loader record; none: torn or damaged. Where there is one copy, it stands here twice.
    pub loader: [Option<Loader>; 2],
    /// Copies of the state record.
    pub state: [Option<Numbered>; 2],
    /// Slot a, slot b.
    pub slots: [Image; 2],
}

/// One write or flush, as a disk sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// A copy of the loader record.
    Loader(Side, Loader),
    /// A copy of the state.
    State(Side, Numbered),
    /// The loader record in `autoboot.txt`, of which there is one copy.
    Autoboot(Loader),
    /// A whole slot; without an image the disk writes rubbish and says nothing.
    Slot(Slot, Image),
    /// All before it is on disk once it returns.
    Flush,
}

/// What a power cut leaves.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    pub disk: Disk,
    /// The one copy of the loader record was being written at that instant, with this.
    pub writing: Option<Loader>,
}

/// What is left of a write that no flush has confirmed.
#[derive(Clone, Copy)]
enum Left {
    Nothing,
    Torn,
    Whole,
}

pub(crate) const fn index(slot: Slot) -> usize {
    match slot {
        Slot::A => 0,
        Slot::B => 1,
    }
}

const fn side(side: Side) -> usize {
    match side {
        Side::First => 0,
        Side::Second => 1,
    }
}

impl Disk {
    /// As an image is made: one revision; the other slot was never written.
    pub(crate) fn born(state: &State) -> Self {
        let copy = |sequence| {
            Some(Numbered {
                sequence,
                state: state.clone(),
            })
        };
        let home = state.committed.slot;
        Self {
            loader: [Some(Loader::starts(home)); 2],
            state: [copy(1), copy(1)],
            slots: [Slot::A, Slot::B].map(|slot| (slot == home).then_some(0)),
        }
    }

    pub(crate) fn image(&self, slot: Slot) -> Image {
        self.slots[index(slot)]
    }

    /// What the real code makes of the copies.
    pub(crate) fn found(&self) -> Found {
        Found {
            loader: self.loader.map(|copy| copy.ok_or(Error::Checksum)),
            state: self.state.clone().map(|copy| copy.ok_or(Error::Checksum)),
        }
    }

    /// The loader record that counts.
    pub(crate) fn record(&self) -> Option<Loader> {
        self.loader[0].or(self.loader[1])
    }

    /// The state that counts.
    pub(crate) fn newest(&self) -> Option<&State> {
        let newest = match &self.state {
            [Some(one), Some(two)] if two.sequence > one.sequence => two,
            [Some(one), _] => one,
            [None, two] => two.as_ref()?,
        };
        Some(&newest.state)
    }

    fn apply(&mut self, op: &Op, left: Left) {
        match (op, left) {
            (_, Left::Nothing) | (Op::Flush, _) => {}
            (Op::Loader(at, record), Left::Whole) => self.loader[side(*at)] = Some(*record),
            (Op::Loader(at, _), Left::Torn) => self.loader[side(*at)] = None,
            (Op::State(at, state), Left::Whole) => self.state[side(*at)] = Some(state.clone()),
            (Op::State(at, _), Left::Torn) => self.state[side(*at)] = None,
            (Op::Autoboot(record), Left::Whole) => self.loader = [Some(*record); 2],
            // No disk of ours tears a sector. If one does, the record is lost.
            (Op::Autoboot(_), Left::Torn) => self.loader = [None; 2],
            (Op::Slot(slot, image), Left::Whole) => self.slots[index(*slot)] = *image,
            (Op::Slot(slot, _), Left::Torn) => self.slots[index(*slot)] = None,
        }
    }

    /// After all of it.
    pub(crate) fn after(&self, ops: &[Op]) -> Self {
        let mut disk = self.clone();
        ops.iter().for_each(|op| disk.apply(op, Left::Whole));
        disk.renumber();
        disk
    }

    /// What a power cut can leave, at any point of `ops`: of the writes since the last flush any may be missing, whole
    /// or torn. The disk as it was is not among them.
    pub(crate) fn cuts(&self, ops: &[Op]) -> Vec<Picture> {
        let mut all: Vec<Picture> = Vec::new();
        let mut durable = self.clone();
        let mut pending: Vec<&Op> = Vec::new();
        for op in ops {
            if *op == Op::Flush {
                pending
                    .drain(..)
                    .for_each(|op| durable.apply(op, Left::Whole));
                continue;
            }
            // Without the new one, it is what the cut before it left.
            let mut ends = vec![durable.clone()];
            for op in &pending {
                ends = ends
                    .iter()
                    .flat_map(|end| {
                        [Left::Nothing, Left::Torn, Left::Whole].map(|left| with(end, op, left))
                    })
                    .collect();
            }
            pending.push(op);
            let writing = match op {
                Op::Autoboot(record) => Some(*record),
                Op::Loader(..) | Op::State(..) | Op::Slot(..) | Op::Flush => None,
            };
            let disks = ends
                .iter()
                .flat_map(|end| [Left::Torn, Left::Whole].map(|left| with(end, op, left)));
            all.extend(disks.map(|disk| Picture { disk, writing }));
        }
        all.iter_mut().for_each(|picture| picture.disk.renumber());
        all
    }

    /// Of the two states only the order means anything: the one that counts is put first, and numbers are small.
    pub(crate) fn renumber(&mut self) {
        let swap = match &self.state {
            [Some(one), Some(two)] => two.sequence > one.sequence,
            [one, two] => one.is_none() && two.is_some(),
        };
        if swap {
            self.state.swap(0, 1);
        }
        if let [Some(one), Some(two)] = &mut self.state {
            one.sequence = if one.sequence > two.sequence { 2 } else { 1 };
            two.sequence = 1;
        } else if let Some(one) = &mut self.state[0] {
            one.sequence = 1;
        }
    }
}

fn with(disk: &Disk, op: &Op, left: Left) -> Disk {
    let mut disk = disk.clone();
    disk.apply(op, left);
    disk
}

/// A medium that keeps what is done to it.
#[derive(Debug, Default)]
pub(crate) struct Recorder(pub Vec<Op>);

impl Medium for Recorder {
    fn loader(&mut self, side: Side, record: &Loader) -> Result<(), Error> {
        self.0.push(Op::Loader(side, *record));
        Ok(())
    }

    fn state(&mut self, side: Side, sequence: u64, state: &State) -> Result<(), Error> {
        let state = state.clone();
        self.0.push(Op::State(side, Numbered { sequence, state }));
        Ok(())
    }

    fn autoboot(&mut self, record: &Loader) -> Result<(), Error> {
        self.0.push(Op::Autoboot(*record));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.0.push(Op::Flush);
        Ok(())
    }
}
