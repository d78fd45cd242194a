//! One step of a device, and how a row of writes is performed, cut and acknowledged. What the steps are: [`super::power`]
//! while it starts, [`super::life`] while it runs.
//!
//! The machine and the order of its writes are the real ones. A power cut is tried at every point of every row of writes.

use super::disk::{Disk, Op, Picture, Recorder};
use super::node::{Extra, Kind, Node, Phase, bit, number};
use super::planted::{Place, Planted};
use super::power::End;
use super::rules::{Checked, Invariant, judge, observe, require};
use kedge_board_support::bootenv::{Order, order};
use kedge_board_support::control::{
    Backend, Busy, Cause, Control, Counts, Direct, How, Tryboot, UBoot, Uefi, Write,
};
use kedge_board_support::record::Slot;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Which loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kit {
    Direct,
    UBoot,
    Uefi,
    Tryboot,
}

impl Kit {
    pub(crate) const fn backend(self) -> &'static dyn Backend {
        match self {
            Self::Direct => &Direct,
            Self::UBoot => &UBoot,
            Self::Uefi => &Uefi,
            Self::Tryboot => &Tryboot,
        }
    }

    /// Whether PID 1 counts the tries of another slot.
    pub(crate) fn counts_itself(self) -> bool {
        self.backend().counts() == Counts::Device
    }

    const fn place(self) -> order::Place {
        match self {
            Self::Direct | Self::UBoot | Self::Uefi => order::Place::Bootenv,
            Self::Tryboot => order::Place::Autoboot,
        }
    }
}

/// What is run, and how far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub kit: Kit,
    /// Revisions that are begun, one after the other.
    pub begins: u8,
    pub tries: u8,
    /// The slot that is committed at first.
    pub home: Slot,
    /// One fault beyond cuts and crashes.
    pub extras: bool,
    pub planted: Planted,
    /// Also hold the two invariants that say what a performed write is; without, only what follows from it is held.
    pub contract: bool,
}

/// A step that led to a node: what happened, and for a cut, which picture of the disk it left.
pub(crate) type Label = (&'static str, u16);

/// A node that follows. `forced`: nobody chose it and nothing was gained, so that a circle of such steps is a loop
/// that the device cannot leave.
pub(crate) struct After {
    pub label: Label,
    pub node: Node,
    pub forced: bool,
}

pub(crate) struct Device {
    pub setup: Setup,
    /// Rows of writes that were seen, and their flushes.
    pub places: RefCell<BTreeMap<Place, u8>>,
}

pub(crate) const CRASHES: [(&str, Cause); 3] = [
    ("cut", Cause::Unknown),
    ("panic", Cause::Panic),
    ("watchdog", Cause::Watchdog),
];

impl Device {
    pub(crate) fn after(&self, node: &Node) -> Checked<Vec<After>> {
        let mut out = Vec::new();
        match &node.phase {
            Phase::Off { cause, blame } => {
                self.extras(node, &mut out);
                let (cause, blame) = (*cause, *blame);
                self.power_on(node, End { cause, blame }, &mut out)?;
                if node.ghost.extra == Extra::WordSticks && !node.ghost.word {
                    self.stuck(node, End { cause, blame }, &mut out)?;
                }
            }
            Phase::Up { control } => self.up(node, control, &mut out)?,
        }
        for after in &mut out {
            if after.node.is_off() {
                let fault = after.node.ghost.extra;
                after.node.settle(self.setup.extras && fault == Extra::None);
            }
        }
        Ok(out)
    }

    /// A firmware with which the word sticks may have it at any start, and may lose it at any. Where the slot that it brings dies
    /// before PID 1, nobody is there who could count: that loop is the firmware's.
    fn stuck(&self, node: &Node, end: End, out: &mut Vec<After>) -> Checked<()> {
        let [brought, _] = Tryboot.tried(node.disk.record());
        let kernel = node.disk.image(brought);
        if kernel.is_some_and(|kernel| node.ghost.kind(kernel) == Kind::DiesEarly) {
            return Ok(());
        }
        let mut stuck = node.clone();
        stuck.ghost.word = true;
        self.power_on(&stuck, end, out)
    }

    /// The row of writes, as it reaches the disk.
    pub(crate) fn ops(
        &self,
        event: &'static str,
        disk: &Disk,
        writes: Vec<Write>,
        before: Vec<Op>,
    ) -> Checked<Vec<Op>> {
        self.reach(event, disk, writes, |writes| {
            let mut recorder = Recorder(before);
            let mut order = Order::of(&disk.found()).at(self.setup.kit.place());
            for write in writes {
                let done = order.perform(&mut recorder, write);
                require(done.is_ok(), Invariant::PerformedIsDurable, || {
                    format!("{done:?}")
                })?;
            }
            Ok(recorder.0)
        })
    }

    /// The row of writes as it reaches the disk, performed by `perform`; with the fault that is planted.
    pub(crate) fn reach(
        &self,
        event: &'static str,
        disk: &Disk,
        mut writes: Vec<Write>,
        perform: impl FnOnce(&[Write]) -> Checked<Vec<Op>>,
    ) -> Checked<Vec<Op>> {
        let planted = self.setup.planted;
        let place = Place::of(event, &writes);
        planted.writes(place, disk.newest(), &mut writes);
        let mut ops = perform(&writes)?;
        planted.ops(place, &mut ops);
        self.durable(place, &ops)?;
        let flushes = ops.iter().filter(|op| **op == Op::Flush).count();
        let mut places = self.places.borrow_mut();
        places.insert(place, u8::try_from(flushes).unwrap());
        Ok(ops)
    }

    /// Each copy is flushed before anything else is written.
    fn durable(&self, place: Place, ops: &[Op]) -> Checked<()> {
        let holds = ops
            .chunks(2)
            .all(|pair| matches!(pair, [first, Op::Flush] if *first != Op::Flush));
        require(
            holds || !self.setup.contract,
            Invariant::PerformedIsDurable,
            || format!("{place:?}: {ops:?}"),
        )
    }

    /// Every way in which the power can fail while `ops` are performed.
    pub(crate) fn cuts(
        &self,
        event: &'static str,
        node: &Node,
        ops: &[Op],
        out: &mut Vec<After>,
    ) -> Checked<()> {
        self.left(event, node, node.disk.cuts(ops), out)
    }

    fn left(
        &self,
        event: &'static str,
        node: &Node,
        pictures: Vec<Picture>,
        out: &mut Vec<After>,
    ) -> Checked<()> {
        for (index, picture) in pictures.into_iter().enumerate() {
            let after = self.after_cut(node, picture)?;
            let index = u16::try_from(index).unwrap();
            let mut cut = crashed(event, &after, Cause::Unknown, false);
            cut.label = (event, index + 1);
            cut.forced = false;
            out.push(cut);
        }
        Ok(())
    }

    /// The node with what a cut, or a write that failed, has left.
    pub(crate) fn after_cut(&self, node: &Node, picture: Picture) -> Checked<Node> {
        let Picture { disk, writing } = picture;
        let mut after = node.clone();
        observe(&node.disk, &disk, &mut after.ghost);
        after.disk = disk;
        judge(&node.disk, &after.disk, &after.ghost, writing)?;
        Ok(after)
    }

    /// The cuts, and the node after all of it, which is acknowledged.
    pub(crate) fn perform(
        &self,
        event: &'static str,
        node: &Node,
        control: &Control,
        ops: &[Op],
        out: &mut Vec<After>,
    ) -> Checked<Node> {
        self.cuts(event, node, ops, out)?;
        let mut after = node.clone();
        after.disk = node.disk.after(ops);
        observe(&node.disk, &after.disk, &mut after.ghost);
        acknowledge(&mut after, event);
        judge(&node.disk, &after.disk, &after.ghost, None)?;
        self.late_cuts(event, node, &after, ops, out)?;
        let believed = after.disk.newest() == Some(control.state())
            && after.disk.record() == Some(control.loader());
        let wrong = matches!(self.setup.planted, Planted::Logic(_)) || !self.setup.contract;
        // After a failed write nobody believes it.
        let doubted = control.admits(Slot::A, How::Slot) == Err(Busy::Record);
        let wrong = wrong || doubted || node.ghost.extra == Extra::WriteFails;
        require(believed || wrong, Invariant::BelievedIsOnDisk, || {
            format!("{event}: {control:?}, {:?}", after.disk)
        })?;
        Ok(after)
    }

    /// What no flush has confirmed may be lost after it was acknowledged, too.
    fn late_cuts(
        &self,
        event: &'static str,
        node: &Node,
        after: &Node,
        ops: &[Op],
        out: &mut Vec<After>,
    ) -> Checked<()> {
        let flushed = ops
            .iter()
            .rposition(|op| *op == Op::Flush)
            .map_or(0, |at| at + 1);
        let (durable, pending) = ops.split_at(flushed);
        let mut late = node.clone();
        late.disk = node.disk.after(durable);
        if !pending.is_empty() {
            late.ghost = after.ghost;
            judge(&node.disk, &late.disk, &late.ghost, None)?;
            out.push(crashed(event, &late, Cause::Unknown, false));
            // It is over, and no copy is being written any more.
            let mut pictures = late.disk.cuts(pending);
            pictures
                .iter_mut()
                .for_each(|picture| picture.writing = None);
            self.left(event, &late, pictures, out)?;
        }
        Ok(())
    }
}

/// All of it was performed: the world relies on it.
fn acknowledge(node: &mut Node, event: &str) {
    let ghost = &mut node.ghost;
    let committed = match event {
        "good" => ghost.begins,
        _ => node
            .disk
            .newest()
            .map_or(0, |state| number(&state.committed)),
    };
    if committed > ghost.acked {
        ghost.floor = ghost.floor_with(committed);
        ghost.acked = committed;
    }
    match event {
        "bad" => ghost.dead |= bit(ghost.begins),
        "begin live" | "begin by restart" | "begin in slot" => ghost.promised |= bit(ghost.begins),
        _ => {}
    }
}

pub(crate) fn committed(disk: &Disk) -> Slot {
    disk.newest().map_or(Slot::A, |state| state.committed.slot)
}

pub(crate) fn off(
    label: &'static str,
    mut node: Node,
    cause: Cause,
    blame: bool,
    forced: bool,
) -> After {
    // Without a trace it makes no difference what ran.
    let blame = blame && cause != Cause::Unknown;
    node.phase = Phase::Off { cause, blame };
    After {
        label: (label, 0),
        node,
        forced,
    }
}

pub(crate) fn crashed(label: &'static str, node: &Node, cause: Cause, blame: bool) -> After {
    let mut node = node.clone();
    let watch = &mut node.ghost.trial;
    if watch.revision != 0 {
        watch.crashes = (watch.crashes + 1).min(2);
    }
    off(label, node, cause, blame, true)
}

pub(crate) fn up(label: &'static str, mut node: Node, control: Control, forced: bool) -> After {
    node.phase = Phase::Up {
        control: Box::new(control),
    };
    After {
        label: (label, 0),
        node,
        forced,
    }
}
