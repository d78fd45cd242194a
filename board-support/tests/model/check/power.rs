//! From no power to PID 1: faults while it is off, the loader, and the boot.

use super::device::{After, CRASHES, Device, Kit, committed, crashed, off, up};
use super::disk::{Disk, Op, index};
use super::node::{Extra, Ghost, Kind, Node, Phase, floor, id, root_version};
use super::planted::Logic;
use super::rules::{Checked, Invariant, Scene, judge, judge_boot, judge_start, observe, require};
use kedge_board_support::bootenv::Side;
use kedge_board_support::control::{
    Backend, Cause, Control, Counts, Decision, Found, LoaderSays, Tryboot, Write,
};
use kedge_board_support::loading::plan::{Plan, Take};
use kedge_board_support::record::{Loader, Slot, State};

const ALL_EXTRAS: [Extra; 9] = [
    Extra::LoaderCopy,
    Extra::LoaderBoth,
    Extra::StateCopy,
    Extra::StateBoth,
    Extra::CommittedSlot,
    Extra::TrialSlot,
    Extra::Unwritable,
    Extra::WordLost,
    Extra::WordSticks,
];

/// What the loader has chosen.
struct Chosen {
    /// The slots, in the order in which they are started, and what each one's kernel is told.
    starts: [(Slot, LoaderSays); 2],
    /// A try that is taken too late: a planted fault.
    late: Option<Vec<Op>>,
}

/// A row of writes, and how it reaches the disk.
#[derive(Clone, Copy)]
struct Row<'a> {
    writes: &'a [Write],
    ops: &'a [Op],
}

/// The last run's end.
#[derive(Clone, Copy)]
pub(crate) struct End {
    pub cause: Cause,
    /// The trial, or its slot's kernel, ran until then.
    pub blame: bool,
}

impl Device {
    fn backend(&self) -> &'static dyn Backend {
        self.setup.kit.backend()
    }

    /// Faults of the disk while the device is off.
    pub(crate) fn extras(&self, node: &Node, out: &mut Vec<After>) {
        if !self.setup.extras || node.ghost.extra != Extra::None {
            return;
        }
        for extra in self.possible() {
            for mut disk in pictures(&node.disk, extra) {
                disk.renumber();
                let mut after = node.clone();
                after.disk = disk;
                after.ghost.extra = extra;
                after.ghost.unwritable = extra == Extra::Unwritable;
                if !is_beyond(&after) {
                    out.push(After {
                        label: ("extra fault", extra as u16),
                        node: after,
                        forced: false,
                    });
                }
            }
        }
    }

    fn possible(&self) -> impl Iterator<Item = Extra> {
        let once = self.setup.kit.counts_itself();
        ALL_EXTRAS.into_iter().filter(move |extra| match extra {
            // There is one copy, and this loader writes nothing.
            Extra::LoaderCopy | Extra::Unwritable => !once,
            Extra::WordLost | Extra::WordSticks => once,
            _ => true,
        })
    }

    /// The loader, up to the kernel that it starts, and what that does.
    pub(crate) fn power_on(&self, node: &Node, end: End, out: &mut Vec<After>) -> Checked<()> {
        let mut now = node.clone();
        // For one start only.
        now.ghost.word = false;
        let Some(chosen) = self.choose(node, &mut now, end, out)? else {
            return Ok(());
        };
        let Chosen { starts, late } = chosen;
        let loads = |(slot, _): &(Slot, LoaderSays)| {
            let kernel = now.disk.image(*slot);
            kernel.is_some_and(|kernel| now.ghost.kind(kernel) != Kind::NeverLoads)
        };
        let Some((slot, says)) = starts.into_iter().find(loads) else {
            return require(false, Invariant::SomethingStarts, || format!("{now:?}"));
        };
        let [(wanted, _), _] = starts;
        if slot != wanted {
            let trial = now.ghost.trial.revision != 0 && wanted != committed(&now.disk);
            now.ghost.trial.unloadable |= trial;
        }
        judge_start(&now.disk, &now.ghost, slot)?;
        let in_trial = slot != committed(&now.disk) && now.ghost.trial.revision != 0;
        let armed = node
            .disk
            .record()
            .is_some_and(|record| record.trial.is_some());
        // Without a record it may have been the trial's slot by chance.
        now.ghost.trial.started |= in_trial && (armed || node.ghost.word);
        let early = now.ghost.kind(now.disk.image(slot).unwrap_or_default()) == Kind::DiesEarly;
        if early || late.is_some() {
            let crash = |(label, cause)| crashed(label, &now, cause, in_trial);
            out.extend(CRASHES.map(crash));
        }
        if early {
            return Ok(());
        }
        if let Some(ops) = late {
            now.disk = now.disk.after(&ops);
            observe(&node.disk, &now.disk, &mut now.ghost);
        }
        self.boot(&now, slot, says, end, out)
    }

    /// What the loader starts first, after it has taken a try.
    fn choose(
        &self,
        node: &Node,
        now: &mut Node,
        end: End,
        out: &mut Vec<After>,
    ) -> Checked<Option<Chosen>> {
        let mut plan = self.plan(node);
        let mut late = None;
        match plan.take {
            None => {}
            Some(_) if node.ghost.unwritable => {
                now.ghost.unwritable = false;
                if !self.backend().starts_unwritable() {
                    out.push(off(
                        "nothing starts",
                        now.clone(),
                        end.cause,
                        end.blame,
                        true,
                    ));
                    return Ok(None);
                }
                plan = plan.unwritable();
            }
            Some(take) => {
                let ops = self.take(node, take)?;
                if self.setup.planted.is(Logic::StartedFirst) {
                    late = Some(ops);
                } else {
                    self.cuts("loader", node, &ops, out)?;
                    now.disk = node.disk.after(&ops);
                    observe(&node.disk, &now.disk, &mut now.ghost);
                    judge(&node.disk, &now.disk, &now.ghost, None)?;
                }
            }
        }
        let mut starts = plan.starts().map(|(slot, word)| {
            // As the kernel's arguments, read as PID 1 reads them.
            let text = word.map(|word| word.to_string()).unwrap_or_default();
            let says = match self.backend().counts() {
                Counts::Loader => self.backend().reason(&text),
                Counts::Device => Tryboot::says(node.ghost.word),
            };
            (slot, says)
        });
        let starts = [starts.next().unwrap(), starts.next().unwrap()];
        Ok(Some(Chosen { starts, late }))
    }

    /// What the loader decides. Of UEFI's it is the code that runs on devices; of the others what their contract says.
    fn plan(&self, node: &Node) -> Plan {
        let disk = &node.disk;
        let mut plan = Plan::of(disk.loader);
        match self.setup.kit {
            Kit::Uefi => {}
            Kit::Tryboot if node.ghost.word => plan.order = Tryboot.tried(disk.record()),
            Kit::Tryboot => plan.order = Tryboot.slots(disk.record()),
            Kit::Direct | Kit::UBoot => plan.order = self.backend().slots(disk.record()),
        }
        plan
    }

    /// How the loader takes a try: like PID 1, it begins with the copy that it has not read.
    fn take(&self, node: &Node, take: Take) -> Checked<Vec<Op>> {
        let Take { record, mut first } = take;
        let writes = vec![Write::Loader(record)];
        if self.setup.kit != Kit::Uefi {
            let ops = self.ops("loader", &node.disk, writes, Vec::new())?;
            return Ok(if self.setup.planted.is(Logic::FirstCopyFirst) {
                both(Side::First, record).to_vec()
            } else {
                ops
            });
        }
        if self.setup.planted.is(Logic::FirstCopyFirst) {
            first = Side::First;
        }
        self.reach("loader", &node.disk, writes, |writes| {
            let written = writes.iter().filter_map(|write| match write {
                Write::Loader(record) => Some(*record),
                Write::State(_) | Write::StateBoth(_) => None,
            });
            Ok(written.flat_map(|record| both(first, record)).collect())
        })
    }

    fn boot(
        &self,
        node: &Node,
        slot: Slot,
        says: LoaderSays,
        end: End,
        out: &mut Vec<After>,
    ) -> Checked<()> {
        let End { cause, blame } = end;
        let mut now = node.clone();
        if now.disk.newest().is_none() {
            self.rebuild(&mut now, slot, out)?;
        }
        let read = now.disk.found();
        let Some(old) = read.state().cloned() else {
            return require(false, Invariant::SomethingStarts, || format!("{now:?}"));
        };
        let found = Found {
            loader: read.loader(),
            mirrored: read.loader_is_mirrored(),
            state: Some(old.clone()),
            slot,
            cause,
            says,
            counts: self.backend().counts(),
        };
        let Ok((control, mut writes, decision)) = Control::boot(found) else {
            return require(false, Invariant::SomethingStarts, || format!("{now:?}"));
        };
        let scene = Scene {
            disk: &now.disk,
            ghost: &now.ghost,
            slot,
            cause,
            blame,
        };
        judge_boot(&scene, &old, control.state(), decision)?;
        let planted = self.setup.planted;
        if planted.is(Logic::NotMirrored) {
            let record = now.disk.record();
            writes.retain(|write| !matches!(write, Write::Loader(same) if Some(*same) == record));
        }
        let same_slot = decision == Decision::Try && slot == committed(&now.disk);
        if planted.is(Logic::MountedFirst) && same_slot {
            out.extend(CRASHES.map(|(label, cause)| crashed(label, &now, cause, true)));
        }
        let event = match decision {
            Decision::Committed => "boot",
            Decision::Try => "boot: try",
            Decision::Repair(_) => "boot: repair",
            Decision::Reboot => "boot: restart",
            Decision::RebootToTry => "boot: try again",
        };
        if planted.is(Logic::StartedFirst) && decision == Decision::RebootToTry {
            self.restart("restart", &control, now.clone(), true, out);
        }
        let ops = self.ops(event, &now.disk, writes.clone(), Vec::new())?;
        let row = Row {
            writes: &writes,
            ops: &ops,
        };
        self.boot_fails(&scene, &old, (&control, decision), row, out)?;
        let after = self.perform(event, &now, &control, &ops, out)?;
        let [first, second] = after.disk.loader;
        require(
            first.is_some() && first == second,
            Invariant::Mirrored,
            || format!("{first:?} {second:?}"),
        )?;
        match decision {
            Decision::Reboot | Decision::RebootToTry => {
                self.restart("restart", &control, after, true, out);
            }
            Decision::Committed | Decision::Try | Decision::Repair(_) => {
                out.push(up("boot", after, control, true));
            }
        }
        Ok(())
    }

    /// The boot's writes fail, where that is the one fault of a run.
    fn boot_fails(
        &self,
        scene: &Scene<'_>,
        old: &State,
        (control, decision): (&Control, Decision),
        row: Row<'_>,
        out: &mut Vec<After>,
    ) -> Checked<()> {
        if !self.setup.extras || scene.ghost.extra != Extra::None || row.writes.is_empty() {
            return Ok(());
        }
        let mut control = control.clone();
        let decision = control.unwritable(decision, row.writes);
        let node = Node {
            disk: scene.disk.clone(),
            ghost: Ghost {
                extra: Extra::WriteFails,
                ..*scene.ghost
            },
            phase: Phase::Off {
                cause: scene.cause,
                blame: scene.blame,
            },
        };
        let scene = Scene {
            ghost: &node.ghost,
            ..*scene
        };
        judge_boot(&scene, old, control.state(), decision)?;
        for picture in node.disk.cuts(row.ops) {
            let after = self.after_cut(&node, picture)?;
            out.push(up("boot fails", after, control.clone(), true));
        }
        Ok(())
    }

    /// A restart, with the word that starts the other slot if it is a try. The word may not arrive; and the committed slot
    /// may be reset on its way there, which is nothing that the trial has done. Of a trial that was seen before, the machine
    /// cannot tell.
    pub(crate) fn restart(
        &self,
        label: &'static str,
        control: &Control,
        mut node: Node,
        forced: bool,
        out: &mut Vec<After>,
    ) {
        let to_try = control.restarts_to_try();
        if to_try && !node.ghost.trial.seen {
            out.extend(CRASHES.map(|(label, cause)| crashed(label, &node, cause, false)));
        }
        let deaf =
            node.ghost.extra == Extra::WordLost || self.setup.planted.is(Logic::WordForgotten);
        node.ghost.word = to_try && !deaf;
        out.push(off(label, node, Cause::Unknown, false, forced));
    }

    /// Both copies of the state are lost: the caller makes it anew from the store, with the newest committed revision, on
    /// the kernel that runs.
    fn rebuild(&self, now: &mut Node, slot: Slot, out: &mut Vec<After>) -> Checked<()> {
        let acked = now.ghost.acked;
        let mut state = State::born(id(acked), floor(acked), root_version(acked));
        state.floor.counter = now.ghost.floor;
        state.committed.slot = slot;
        now.ghost.kernels[usize::from(acked)] = now.disk.image(slot).unwrap_or_default();
        let writes = vec![Write::StateBoth(state)];
        let ops = self.ops("rebuild", &now.disk, writes, Vec::new())?;
        self.cuts("rebuild", now, &ops, out)?;
        now.disk = now.disk.after(&ops);
        Ok(())
    }
}

/// Both copies of the loader record, each flushed before the next.
fn both(first: Side, record: Loader) -> [Op; 4] {
    let write = |side| Op::Loader(side, record);
    [write(first), Op::Flush, write(first.other()), Op::Flush]
}

/// What a fault can make of the disk.
fn pictures(disk: &Disk, extra: Extra) -> Vec<Disk> {
    let with = |change: &dyn Fn(&mut Disk)| {
        let mut disk = disk.clone();
        change(&mut disk);
        disk
    };
    let home = committed(disk);
    match extra {
        Extra::None
        | Extra::Unwritable
        | Extra::WordLost
        | Extra::WordSticks
        | Extra::WriteFails => vec![disk.clone()],
        Extra::LoaderCopy => [0, 1]
            .map(|copy| with(&|disk| disk.loader[copy] = None))
            .to_vec(),
        Extra::LoaderBoth => vec![with(&|disk| disk.loader = [None; 2])],
        Extra::StateCopy => [0, 1]
            .map(|copy| with(&|disk| disk.state[copy] = None))
            .to_vec(),
        Extra::StateBoth => vec![with(&|disk| disk.state = [None, None])],
        Extra::CommittedSlot => vec![with(&|disk| disk.slots[index(home)] = None)],
        Extra::TrialSlot => vec![with(&|disk| disk.slots[index(home.other())] = None)],
    }
}

/// Whether it is more than one fault, with which nothing can be done: no slot that comes up is left, or the only state
/// was a copy that a cut had left alone; or no loader record is left while slot a, which a loader then starts, does not
/// come up.
fn is_beyond(node: &Node) -> bool {
    let sound = |kernel| node.ghost.kind(kernel) == Kind::Sound;
    let disk = &node.disk;
    let dead = !disk.slots.iter().flatten().any(|kernel| sound(*kernel));
    let blind = disk.record().is_none() && !disk.image(Slot::A).is_none_or(sound);
    let lost = node.ghost.extra != Extra::StateBoth && disk.newest().is_none();
    dead || blind || lost
}
