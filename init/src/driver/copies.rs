//! Copies of volumes: made before a trial touches them, brought back when it ends without a commit, dropped once it is committed.
//!
//! The stage helper copies; here is when, and what follows from its answer.

use super::helpers::STAGE;
use super::update::{Asked, Direction, EXCHANGE_LIMIT, Planned, Step};
use super::{Driver, now_ms};
use crate::boot::{self, DATA};
use crate::helpers::stage::Request;
use crate::log::Stream;
use crate::machine::{Event, Halt};
use kedge_board_support::record::Reason;
use kedge_board_support::record::state::Target;
use kedge_revision::{ObjectId, Verified};
use kedge_store::Store;
use std::path::Path;

impl Driver {
    /// Copies of volumes that must be made or brought back before a container starts. True: that is under way.
    pub(super) fn prepare_volumes(&mut self) -> bool {
        let kept = boot::snapshot_of(Path::new(DATA));
        let Some(target) = self.boot.target() else {
            return false;
        };
        let asked = match kept {
            // Its first try: the volumes are still as the committed revision left them.
            kept if self.on_trial() => {
                if kept == Some(target.revision) {
                    return false;
                }
                match self.volumes_to_copy() {
                    Ok(volumes) => self.send_snapshot(target.revision, &volumes),
                    Err(text) => {
                        self.await_volumes();
                        self.volumes_copied(false, &text);
                        return true;
                    }
                }
            }
            // A trial ended without a commit: what it did to the volumes is undone.
            Some(revision) if revision != target.revision || self.tried_other_values(target) => {
                self.send_restore(revision)
            }
            // Committed, and cut before the copies were dropped.
            Some(_) => {
                self.drop_copies();
                return false;
            }
            None => return false,
        };
        match asked {
            Asked::Nothing => false,
            Asked::Sent => {
                self.await_volumes();
                true
            }
            Asked::Failed => {
                self.await_volumes();
                self.volumes_copied(false, "the stage helper does not run");
                true
            }
        }
    }

    /// Whether the last trial was of this very revision with other values of its parameters.
    fn tried_other_values(&self, target: Target) -> bool {
        let Some(control) = &self.boot.control else {
            return false;
        };
        let state = control.state();
        let waits = state.trial.as_ref().map(|trial| trial.target);
        let failed = state.failed.as_ref().map(|failed| failed.target);
        waits
            .into_iter()
            .chain(failed)
            .any(|tried| tried.revision == target.revision && tried.parameters != target.parameters)
    }

    /// Volumes of the committed revision of which the trial that runs needs copies. It is not judged again: it was when it was
    /// committed, by a root that this PID 1 may not know any more.
    fn volumes_to_copy(&mut self) -> Result<Vec<(String, String)>, String> {
        let committed = self.boot.control.as_ref().map(|c| c.state().committed);
        let Some(committed) = committed.map(|target| target.revision) else {
            return Ok(Vec::new());
        };
        let store = Store::at(Path::new(DATA));
        if let Err(error) = store.revision(committed) {
            // Nothing goes back to it, and the trial is what mends the device.
            let text = format!("volumes: of which a copy is due nobody knows: {error}");
            self.say(Stream::Error, &text);
            return Ok(Vec::new());
        }
        let content = store.content_of(committed);
        let content = content.map_err(|error| error.to_string())?;
        let tried = self.boot.content.as_ref();
        Ok(tried.map_or_else(Vec::new, |tried| boot::snapshot_volumes(&content, tried)))
    }

    pub(super) fn copy_volumes(&mut self, planned: Box<Planned>) {
        let asked = match planned.direction {
            Direction::Forward => self.ask_snapshot(&planned),
            Direction::Back => self.ask_restore(),
        };
        match asked {
            Asked::Nothing => self.exchange(*planned),
            Asked::Sent => self.update.step = Step::Copying(planned),
            Asked::Failed => {
                self.update.step = Step::Copying(planned);
                self.volumes_copied(false, "the stage helper does not run");
            }
        }
    }

    /// Asks for copies of the volumes that both revisions want kept, of the containers that were stopped.
    fn ask_snapshot(&mut self, planned: &Planned) -> Asked {
        let running = self.boot.content.as_ref();
        let volumes = running.map(|running| boot::snapshot_volumes(running, &planned.side.content));
        let mut volumes = volumes.unwrap_or_default();
        volumes.retain(|(name, _)| {
            planned
                .stopped
                .iter()
                .any(|stopped| stopped.as_str() == name)
        });
        self.send_snapshot(planned.side.revision.id(), &volumes)
    }

    pub(super) fn send_snapshot(
        &mut self,
        revision: ObjectId,
        volumes: &[(String, String)],
    ) -> Asked {
        if volumes.is_empty() {
            return Asked::Nothing;
        }
        let Ok(volumes) = String::from_utf8(kedge_revision::json::bytes(volumes)) else {
            return Asked::Failed;
        };
        if !self.stage_runs() {
            return Asked::Failed;
        }
        let request = Request::Snapshot {
            revision,
            volumes: &volumes,
        };
        let frame = request.encode();
        self.send(STAGE, frame);
        Asked::Sent
    }

    /// Asks for the volumes as they were before the trial that runs.
    fn ask_restore(&mut self) -> Asked {
        let tried = self.boot.revision.as_ref().map(Verified::id);
        match boot::snapshot_of(Path::new(DATA)).filter(|kept| Some(*kept) == tried) {
            Some(revision) => self.send_restore(revision),
            None => Asked::Nothing,
        }
    }

    pub(super) fn send_restore(&mut self, revision: ObjectId) -> Asked {
        if !self.stage_runs() {
            return Asked::Failed;
        }
        self.send(STAGE, Request::Restore { revision }.encode());
        Asked::Sent
    }

    /// Volumes were kept or brought back, or it failed.
    pub(super) fn volumes_copied(&mut self, ok: bool, text: &str) {
        if !ok {
            self.say(Stream::Error, &format!("volumes: {text}"));
        }
        match std::mem::take(&mut self.update.step) {
            // Without its copies the trial must not touch the volumes.
            Step::Copying(planned) if !ok && planned.direction == Direction::Forward => {
                self.update.before = self.boot.take_side().map(Box::new);
                self.verdict_bad(Reason::Storage);
            }
            // The next boot brings them back before anything writes.
            Step::Copying(_) if !ok => self.step(Event::Shutdown(Halt::Reboot)),
            Step::Copying(planned) => self.exchange(*planned),
            Step::Preparing if !ok && self.on_trial() => {
                self.update.limit = None;
                self.verdict_bad(Reason::Storage);
            }
            Step::Preparing => {
                self.update.limit = None;
                self.start_containers();
            }
            step @ (Step::Idle | Step::WritingSlot(..) | Step::Retiring(_)) => {
                self.update.step = step;
            }
        }
    }

    /// The copying of volumes goes first: the containers of this boot are started once it is done.
    pub(super) fn await_volumes(&mut self) {
        self.update.step = Step::Preparing;
        self.update.limit = Some(now_ms().saturating_add(EXCHANGE_LIMIT));
    }

    /// Copies of volumes are no longer needed, and the committed revision is marked so in the store.
    pub(super) fn drop_copies(&mut self) {
        if self.stage_runs() {
            // What is committed now is marked so in the store with this.
            self.configure_stage();
            self.discard();
        } else {
            // The next boot would take what was committed back, where it finds copies of it and no word against that.
            self.helpers.drops_wait = true;
        }
    }

    /// The stage helper has ended: copies that it could not be told to drop are dropped by another one.
    pub(super) fn drop_what_waits(&mut self) {
        if core::mem::take(&mut self.helpers.drops_wait) && self.machine.halting().is_none() {
            self.drop_copies();
        }
    }
}
