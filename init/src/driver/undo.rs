//! The way back from a trial that was begun live, without a reboot: from wherever its exchange stands.

use super::Driver;
use super::update::{Direction, Planned, Step};
use crate::machine::{Event, Halt};
use kedge_revision::change::{Change, Running, change};

impl Driver {
    /// Goes back to what ran before a trial that was begun live.
    pub(super) fn undo_live(&mut self) {
        if self.turn_back() {
            return;
        }
        let before = self.update.before.take();
        let before = match before {
            // The trial's containers never came: those that were stopped for it come back.
            Some(before) if self.boot.revision.is_none() => {
                return self.exchange(Planned {
                    side: *before,
                    direction: Direction::Back,
                    stopped: Vec::new(),
                });
            }
            before => before,
        };
        let (Some(before), Some(running), Some(content)) =
            (before, &self.boot.revision, &self.boot.content)
        else {
            // Nothing to go back to is left: a boot finds it.
            self.step(Event::Shutdown(Halt::Reboot));
            return;
        };
        let back = change(
            &Running {
                revision: running.id(),
                boot: &running.envelope().boot,
                content,
                parameters: &self.boot.parameters,
            },
            &before.running(),
        );
        match back {
            Change::Restart(exchange) => self.retire(*before, &exchange, Direction::Back),
            Change::Nothing | Change::Reboot(_) | Change::Slot => {
                self.step(Event::Shutdown(Halt::Reboot));
            }
        }
    }

    /// Given up before its containers came: what was stopped for it comes back once it is down, or once its volumes
    /// are copied. False: the exchange is over.
    fn turn_back(&mut self) -> bool {
        let forward = |planned: &Planned| planned.direction == Direction::Forward;
        let (planned, copying) = match std::mem::take(&mut self.update.step) {
            Step::Retiring(planned) if forward(&planned) => (planned, false),
            Step::Copying(planned) if forward(&planned) => (planned, true),
            step @ (Step::Idle
            | Step::WritingSlot(..)
            | Step::Retiring(_)
            | Step::Copying(_)
            | Step::Preparing) => {
                self.update.step = step;
                return false;
            }
        };
        let Some(side) = self.boot.take_side() else {
            return false;
        };
        let back = Box::new(Planned {
            side,
            direction: Direction::Back,
            stopped: planned.stopped,
        });
        self.update.step = if copying {
            Step::Copying(back)
        } else {
            Step::Retiring(back)
        };
        true
    }
}
