//! What PID 1, a person or the world may do to a device that runs.

use super::device::{After, CRASHES, Device, crashed, off, up};
use super::disk::{Image, Op};
use super::node::{Kind, Node, bit, floor, id, number, root_version};
use super::planted::Logic;
use super::rules::{Checked, Invariant, judge, require};
use kedge_board_support::control::{Busy, Cause, Control, How, Next, Running, Write};
use kedge_board_support::record::{Hub, Reason, Target};

impl Device {
    pub(crate) fn up(&self, node: &Node, control: &Control, out: &mut Vec<After>) -> Checked<()> {
        let repair = control.running() == Running::Repair;
        // What runs after a commit that was not written is the trial, whatever is believed.
        let on_disk = node.disk.newest().map(|state| state.committed);
        let unsaid = on_disk.is_some_and(|committed| committed != control.state().committed);
        let trial = control.running() == Running::Trial || unsaid;
        for (label, cause) in CRASHES {
            let mut crash = crashed(label, node, cause, trial);
            crash.forced = !repair;
            out.push(crash);
        }
        // With other faults in play, persons stay away: there are enough nodes without them.
        if !self.setup.extras {
            self.orderly(node, control, out)?;
        }
        match control.running() {
            Running::Committed => self.committed(node, control, out),
            Running::Trial => self.trial(node, control, out),
            Running::Repair => {
                let mut next = control.clone();
                let writes = next.repaired();
                let after = self.event("repaired", node, &next, writes, out)?;
                out.push(off("repaired", after, Cause::Unknown, false, false));
                self.mend(node, control, out)
            }
        }
    }

    /// The committed slot is lost and written anew, or cannot be.
    fn mend(&self, node: &Node, control: &Control, out: &mut Vec<After>) -> Checked<()> {
        let mut next = control.clone();
        let Some(writes) = next.mend_slot() else {
            return Ok(());
        };
        let counted = self.event("mend", node, &next, writes, out)?;
        let committed = next.state().committed;
        let image = counted.ghost.kernel(number(&committed));
        let ops = [Op::Slot(committed.slot, image), Op::Flush];
        self.cuts("mend slot", &counted, &ops, out)?;
        let mut after = counted.clone();
        after.disk = counted.disk.after(&ops);
        judge(&counted.disk, &after.disk, &after.ghost, None)?;
        // Nothing is gained before it settles: a slot that is lost again and again must not be a loop.
        out.push(off("mended", after, Cause::Unknown, false, true));
        out.push(up("mend fails", counted, next, true));
        Ok(())
    }

    fn orderly(&self, node: &Node, control: &Control, out: &mut Vec<After>) -> Checked<()> {
        let mut next = control.clone();
        let writes = next.orderly();
        let given = !writes.is_empty();
        let mut after = self.event("orderly", node, &next, writes, out)?;
        if control.running() == Running::Trial && !given {
            // It costs a try, as a cut does.
            after.ghost.trial.crashes = (after.ghost.trial.crashes + 1).min(2);
        }
        out.push(off("orderly", after, Cause::Unknown, false, false));
        Ok(())
    }

    fn event(
        &self,
        event: &'static str,
        node: &Node,
        control: &Control,
        writes: Vec<Write>,
        out: &mut Vec<After>,
    ) -> Checked<Node> {
        let ops = self.ops(event, &node.disk, writes, Vec::new())?;
        self.perform(event, node, control, &ops, out)
    }

    fn committed(&self, node: &Node, control: &Control, out: &mut Vec<After>) -> Checked<()> {
        let mut next = control.clone();
        let writes = next.settled();
        if !writes.is_empty() {
            let after = self.event("settled", node, &next, writes, out)?;
            out.push(up("settled", after, next, false));
        }
        let mut next = control.clone();
        if next.retry_due().is_some() {
            let (writes, _) = next.retry();
            let after = self.event("retry", node, &next, writes, out)?;
            self.restart("retry", &next, after, true, out);
        }
        if control.state().trial.is_some() {
            let mut next = control.clone();
            let (writes, _) = next.bad(Reason::Operator);
            let after = self.event("bad", node, &next, writes, out)?;
            out.push(up("bad", after, next, false));
        }
        self.begins(node, control, out)
    }

    fn trial(&self, node: &Node, control: &Control, out: &mut Vec<After>) -> Checked<()> {
        let revision = node.ghost.trial.revision;
        let mut judged = node.clone();
        judged.ghost.good |= bit(revision);
        let mut next = control.clone();
        let writes = next.good(floor(revision), root_version(revision));
        let ops = self.ops("good", &node.disk, writes, Vec::new())?;
        self.good_fails(&judged, &next, &ops, out)?;
        let after = self.perform("good", &judged, &next, &ops, out)?;
        out.push(up("good", after, next, false));

        let mut next = control.clone();
        let (writes, then) = next.bad(Reason::HubLost);
        let after = self.event("bad", node, &next, writes, out)?;
        match then {
            Next::GoOn | Next::RunTrialLive | Next::UndoLive => {
                out.push(up("bad", after, next, false));
            }
            Next::Reboot => self.restart("bad", &next, after, false, out),
        }
        Ok(())
    }

    /// The commit is not written as a whole: the device is on its way to a restart, and may do nothing before. What the disk
    /// has then is what a cut would have left.
    fn good_fails(
        &self,
        judged: &Node,
        control: &Control,
        ops: &[Op],
        out: &mut Vec<After>,
    ) -> Checked<()> {
        let mut next = control.clone();
        if !self.setup.planted.is(Logic::FailedCommitBelieved) {
            next.not_committed();
        }
        for picture in judged.disk.cuts(ops) {
            let mut after = self.after_cut(judged, picture)?;
            // It costs a try, as a cut does.
            let watch = &mut after.ghost.trial;
            watch.crashes = (watch.crashes + u8::from(watch.revision != 0)).min(2);
            out.push(up("good fails", after, next.clone(), false));
        }
        Ok(())
    }

    /// A new revision, in each way and of each kind. From a settled revision, or from one
    /// that is about to end in repair mode: what is between behaves alike.
    fn begins(&self, node: &Node, control: &Control, out: &mut Vec<After>) -> Checked<()> {
        let state = control.state();
        let alike = (1..8).contains(&state.unsettled);
        if node.ghost.begins >= self.setup.begins || state.trial.is_some() || alike {
            return Ok(());
        }
        let ways = [
            (How::Live, Kind::Sound),
            (How::Reboot, Kind::Sound),
            (How::Slot, Kind::Sound),
            (How::Slot, Kind::NeverLoads),
            (How::Slot, Kind::DiesEarly),
        ];
        for (how, kind) in ways {
            self.begin(node, control, how, kind, false, out)?;
        }
        self.begin(node, control, How::Slot, Kind::Sound, true, out)
    }

    fn begin(
        &self,
        node: &Node,
        control: &Control,
        how: How,
        kind: Kind,
        rubbish: bool,
        out: &mut Vec<After>,
    ) -> Checked<()> {
        let mut begun = node.clone();
        let ghost = &mut begun.ghost;
        ghost.begins += 1;
        let revision = ghost.begins;
        let home = control.state().committed.slot;
        let (event, slot) = match how {
            How::Live => ("begin live", home),
            How::Reboot => ("begin by restart", home),
            How::Slot => ("begin in slot", home.other()),
        };
        // Before the slot is written.
        if control.admits(slot, how) == Err(Busy::Record) {
            return Ok(());
        }
        let mut staging = Vec::new();
        ghost.kernels[usize::from(revision)] = ghost.kernels[usize::from(ghost.acked)];
        if how == How::Slot {
            ghost.kernels[usize::from(revision)] = revision;
            ghost.kinds[usize::from(revision)] = kind;
            let image: Image = (!rubbish).then_some(revision);
            let over = self.setup.planted.is(Logic::StagedOverCommitted);
            staging.push(Op::Slot(if over { home } else { slot }, image));
            if !self.setup.planted.is(Logic::NoSlotFlush) {
                staging.push(Op::Flush);
            }
            // Read back: what is not what was written is not armed.
            if rubbish && !self.setup.planted.is(Logic::NoReadBack) {
                self.cuts("stage", &begun, &staging, out)?;
                begun.disk = begun.disk.after(&staging);
                judge(&node.disk, &begun.disk, &begun.ghost, None)?;
                out.push(up("stage", begun, control.clone(), false));
                return Ok(());
            }
        }
        let target = Target {
            revision: id(revision),
            parameters: 0,
            slot,
        };
        let mut next = control.clone();
        let Ok((writes, then)) = next.begin(target, self.setup.tries, how, Hub::Silent) else {
            return require(false, Invariant::TrialNotForgotten, || {
                format!("{control:?}")
            });
        };
        let ops = self.ops(event, &node.disk, writes, staging)?;
        let after = self.perform(event, &begun, &next, &ops, out)?;
        match then {
            Next::Reboot => self.restart(event, &next, after, false, out),
            Next::GoOn | Next::RunTrialLive | Next::UndoLive => {
                out.push(up(event, after, next, false));
            }
        }
        Ok(())
    }
}
