//! Removable disks: when they are looked at, and what a revision that comes from one must be.
//!
//! The kernel's events tell of a new disk; what is on it is the `stick` helper's to find. It is started when the
//! configuration of what runs accepts sticks and nothing else is under way between revisions, so that a trial is judged
//! before the stick that brought it is looked at again.
//!
//! A stick only ever leads forward: what it brings stands above the committed revision and above the last one that failed.
//! So one that stays in does nothing at the next boot, and two that hold revisions which fail are not tried in turns.

use super::helpers::STICK;
use super::upload::Offered;
use super::{Driver, now_ms};
use crate::boot::{DATA, listen_to_kernel};
use crate::control::{Problem, Role, STICK_SOCKET, Upload};
use crate::driver::clients::{ClientId, Listener};
use crate::driver::poller::Token;
use crate::driver::update::Refused;
use crate::error::Error;
use crate::helpers::stage::envelope_of;
use crate::helpers::stick::{Level, Look, NOT_NEWER, Report, USER};
use crate::log::Stream;
use kedge_board_support::record::state::State;
use kedge_revision::configuration::Sticks as Configured;
use kedge_revision::{ObjectId, Order};
use kedge_store::Store;
use kedge_sys::rustix::fs::{Gid, Uid, chown};
use kedge_sys::rustix::io::Errno;
use kedge_sys::rustix::net::{RecvFlags, recv};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Index of the helper's listener among those of containers, which are below.
pub(super) const LISTENER: u16 = u16::MAX - 1;
/// A disk's partitions come after it: how long after the last event it is looked at, milliseconds.
const CALM_MS: u64 = 1000;
/// When what was in the way is taken to have passed, milliseconds; and how often in a row.
const AGAIN_MS: u64 = 30_000;
const MOST_AGAIN: u8 = 10;
/// Lines that the helper may say each time that it looks: names of files are a stranger's.
const MOST_LINES: u8 = 40;

/// What PID 1 keeps about removable disks.
#[derive(Debug, Default)]
pub(crate) struct Sticks {
    /// The kernel's events; none: disks are not looked at.
    events: Option<OwnedFd>,
    listener: Option<Listener>,
    /// When they are to be looked at.
    look_at: Option<u64>,
    /// How often in a row the helper asked to look again.
    again: u8,
    /// Lines that it may still say.
    lines: u8,
    /// What of it was taken in: only that may be applied.
    offered: Option<ObjectId>,
}

impl Sticks {
    /// Takes the helper when it asks for its socket.
    pub(crate) const fn listener(&self) -> Option<&Listener> {
        self.listener.as_ref()
    }
}

impl Driver {
    /// Begins or ends to look at disks, as what runs says.
    pub(super) fn watch_sticks(&mut self) {
        let configured = self.configuration(|configuration| configuration.sticks);
        let wanted = configured == Configured::Accept && self.boot.mounted;
        if wanted == self.sticks.events.is_some() {
            return;
        }
        let before = std::mem::take(&mut self.sticks);
        if let Some(events) = &before.events {
            self.poller.forget(events);
        }
        if let Some(listener) = &before.listener {
            listener.forget(&self.poller);
        }
        if !wanted {
            return;
        }
        match self.open_sticks() {
            Ok(()) => self.sticks.look_at = Some(now_ms()),
            Err(error) => self.say(Stream::Error, &format!("sticks: {error}")),
        }
    }

    fn open_sticks(&mut self) -> Result<(), Error> {
        let path = Path::new(STICK_SOCKET);
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(Error::io("make directory", directory))?;
        }
        let listener = Listener::bind(path, Role::Stick, 0o600)?;
        chown(path, Some(Uid::from_raw(USER)), Some(Gid::from_raw(USER)))
            .map_err(Error::file("give away", path))?;
        listener.watch(&self.poller, LISTENER)?;
        // Before the first look: a disk that comes between the two is not missed.
        let events = listen_to_kernel()?;
        self.poller.watch(&events, Token::Devices)?;
        self.sticks.listener = Some(listener);
        self.sticks.events = Some(events);
        Ok(())
    }

    /// The kernel tells of devices.
    pub(super) fn devices_told(&mut self) {
        let mut buffer = [0_u8; 4096];
        let mut came = false;
        // Bounded: what is left wakes the loop again.
        for _ in 0..64 {
            let Some(events) = &self.sticks.events else {
                return;
            };
            match recv(events, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => came |= adds_disk(buffer.get(..length).unwrap_or_default()),
                // Some were lost.
                Err(Errno::NOBUFS) => came = true,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        if came {
            self.sticks.again = 0;
            self.sticks.look_at = Some(now_ms().saturating_add(CALM_MS));
        }
    }

    /// Whether nothing is in the way of what a disk may bring.
    fn may_look(&self) -> bool {
        self.machine.halting().is_none()
            && self.boot.control.is_some()
            && self.may_upload()
            && !self.update.is_busy()
            && !self.trial_pending()
            && self.update.locks.held().next().is_none()
            && !self.helpers.stick_runs()
    }

    /// When disks are to be looked at; what is in the way ends by an event of its own.
    pub(super) fn stick_deadline(&self) -> Option<u64> {
        self.sticks.look_at.filter(|_| self.may_look())
    }

    /// Each turn: looks, when it is time.
    pub(super) fn stick_turn(&mut self, now: u64) {
        if self.stick_deadline().is_none_or(|at| at > now) {
            return;
        }
        self.sticks.look_at = None;
        self.sticks.offered = None;
        self.sticks.lines = MOST_LINES;
        self.start_helper(STICK);
    }

    /// Tells the helper what to look for.
    pub(super) fn brief_stick(&mut self) {
        let Some(identity) = &self.boot.identity else {
            return;
        };
        let device = self.boot.data_device();
        let system = device.as_deref().and_then(Path::file_name);
        let look = Look {
            product: identity.product.product.as_str(),
            board: identity.product.board.as_str(),
            system: system.and_then(|name| name.to_str()).unwrap_or_default(),
        };
        let frame = look.encode();
        self.send(STICK, frame);
    }

    /// What the helper says.
    pub(super) fn stick_says(&mut self, frame: &[u8]) {
        match Report::decode(frame) {
            Ok(Report::Say { level, text }) => {
                let Some(left) = self.sticks.lines.checked_sub(1) else {
                    return;
                };
                self.sticks.lines = left;
                let stream = match level {
                    Level::Notice => Stream::Notice,
                    Level::Warning => Stream::Warning,
                };
                let text = text.replace(char::is_control, " ");
                self.say(stream, &format!("stick: {text}"));
            }
            Ok(Report::Again) => {
                if self.sticks.again < MOST_AGAIN {
                    self.sticks.again = self.sticks.again.saturating_add(1);
                    self.sticks.look_at = Some(now_ms().saturating_add(AGAIN_MS));
                }
            }
            Err(_) => self.say(Stream::Error, "the stick helper talks nonsense"),
        }
    }

    /// Whether a client is the helper.
    pub(super) fn is_stick(&mut self, client: ClientId) -> bool {
        self.clients.listener(client) == Some(LISTENER)
    }

    /// What is said against an offer that was good as such, where it came from a stick: status and body of the answer.
    pub(super) fn against_stick(
        &mut self,
        client: ClientId,
        what: Upload,
        status: u16,
        body: &[u8],
    ) -> Option<(u16, Vec<u8>)> {
        if what != Upload::Offer || status != 200 || !self.is_stick(client) {
            return None;
        }
        self.sticks.offered = None;
        let offered = kedge_revision::json::read::<Offered>(body);
        let judged = match offered {
            Ok(offered) if offered.parameters.is_some() => {
                Err("values of parameters do not come from sticks".into())
            }
            Ok(offered) => self
                .judge_stick(offered.revision)
                .map(|()| offered.revision),
            Err(_) => Err("the answer to the offer is none".into()),
        };
        match judged {
            Ok(revision) => {
                self.sticks.offered = Some(revision);
                None
            }
            Err(Refused(why)) => {
                let problem = Problem {
                    status: NOT_NEWER,
                    title: "Precondition Failed".into(),
                    detail: why.into(),
                };
                // Plain data in memory: it cannot fail.
                Some((NOT_NEWER, kedge_revision::json::bytes(&problem)))
            }
        }
    }

    /// Whether a revision that was taken in may be tried for a stick.
    fn judge_stick(&self, revision: ObjectId) -> Result<(), Refused> {
        let Some(control) = &self.boot.control else {
            return Err("this device has no boot record".into());
        };
        let store = Store::at(Path::new(DATA));
        let place = |id| Some(envelope_of(&store, id)?.order());
        let Some(order) = place(revision) else {
            return Err("its document cannot be read back".into());
        };
        // In repair mode a stick is what there is.
        let was_left = !self.boot.repair && store.is_committed(revision);
        leads_forward(control.state(), (revision, order), was_left, place)
    }

    /// Applies for a client; what a stick brings under its own rules.
    pub(super) fn apply_for(
        &mut self,
        client: ClientId,
        revision: ObjectId,
        parameters: u64,
    ) -> Result<&'static str, Refused> {
        self.update.source = None;
        if !self.is_stick(client) {
            return self.apply(revision, parameters);
        }
        if self.sticks.offered != Some(revision) {
            return Err("this is not what the stick has offered".into());
        }
        self.judge_stick(revision)?;
        self.update.source = Some("stick");
        // The device goes on with the values that it has.
        self.apply(revision, 0)
    }
}

/// Whether a revision stands above what the device returns to and what has failed on it, and is none that it had, `was_left`, and
/// has gone back from. `place` tells where a revision
/// stands whose document is there.
fn leads_forward(
    state: &State,
    (revision, order): (ObjectId, Order),
    was_left: bool,
    place: impl Fn(ObjectId) -> Option<Order>,
) -> Result<(), Refused> {
    let committed = state.committed.revision;
    if committed == revision {
        return Err("this is what the device runs".into());
    }
    if was_left {
        return Err("it was committed here before, and somebody went back from it: a hub or a push brings it again".into());
    }
    if let Some(failed) = &state.failed {
        if failed.target.revision == revision {
            let reason = &failed.reason;
            return Err(Refused(format!("it was tried, and failed: {reason}")));
        }
        if let Some(above) = place(failed.target.revision).filter(|above| order <= *above) {
            let text = format!("{order} is not newer than {above}, which was tried and failed");
            return Err(Refused(text));
        }
    }
    match place(committed) {
        Some(above) if order <= above => Err(Refused(format!(
            "{order} is not newer than {above}, which the device returns to"
        ))),
        // Of a committed revision that is lost only the floor is known, by which the offer was judged.
        Some(_) | None => Ok(()),
    }
}

/// Whether an event of the kernel's tells of a new disk or partition: `add@PATH`, then `KEY=value`, each with a NUL.
fn adds_disk(event: &[u8]) -> bool {
    let mut words = event.split(|byte| *byte == 0);
    let adds = words.next().is_some_and(|word| word.starts_with(b"add@"));
    adds && words.any(|word| word == b"SUBSYSTEM=block")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_board_support::record::state::{Failure, Target};
    use kedge_board_support::record::{Reason, Slot};
    use kedge_revision::Floor;

    fn id(byte: u8) -> ObjectId {
        ObjectId::from_digest([byte; 32])
    }

    fn target(byte: u8) -> Target {
        Target {
            revision: id(byte),
            parameters: 0,
            slot: Slot::A,
        }
    }

    /// Revision 1 stands at 1.10, revision 2 at 1.20, and so on; that of 9 is lost.
    fn place(id: ObjectId) -> Option<Order> {
        let counter = u64::from(*id.digest().first()?) * 10;
        (counter != 90).then_some(Order { root: 1, counter })
    }

    fn judge(state: &State, byte: u8, root: u32, counter: u64) -> Result<(), String> {
        let order = Order { root, counter };
        leads_forward(state, (id(byte), order), false, place).map_err(|refused| refused.0)
    }

    #[test]
    fn a_stick_leads_forward_only() {
        let mut state = State::born(id(2), Floor::default(), 1);
        assert_eq!(judge(&state, 3, 1, 21), Ok(()));
        assert_eq!(judge(&state, 3, 2, 1), Ok(()));
        // A hub went back from it: a stick that stays in must not undo that.
        let order = Order {
            root: 1,
            counter: 30,
        };
        let left = leads_forward(&state, (id(3), order), true, place).unwrap_err();
        assert!(left.0.contains("went back from it"), "{}", left.0);
        let runs = leads_forward(&state, (id(2), order), true, place).unwrap_err();
        assert!(runs.0.contains("what the device runs"), "{}", runs.0);
        for older in [1, 19, 20] {
            let refused = judge(&state, 3, 1, older).unwrap_err();
            assert!(refused.contains("not newer than 1.20"), "{refused}");
        }
        let same = judge(&state, 2, 1, 20).unwrap_err();
        assert!(same.contains("what the device runs"), "{same}");

        let failed = |revision| {
            Some(Failure {
                target: target(revision),
                reason: Reason::HubLost,
            })
        };
        state.failed = failed(5);
        let again = judge(&state, 5, 1, 50).unwrap_err();
        assert!(again.contains("failed: hub-lost"), "{again}");
        // Of two that fail the older one is not tried after the newer.
        let between = judge(&state, 4, 1, 40).unwrap_err();
        assert!(between.contains("not newer than 1.50"), "{between}");
        assert_eq!(judge(&state, 6, 1, 60), Ok(()));
        state.failed = failed(9);
        assert_eq!(judge(&state, 4, 1, 40), Ok(()));
        state.committed = target(9);
        assert_eq!(judge(&state, 1, 1, 10), Ok(()));
    }

    #[test]
    fn only_new_disks_are_looked_at() {
        let event = |text: &str| adds_disk(text.replace(' ', "\0").as_bytes());
        assert!(event(
            "add@/devices/x/block/sda ACTION=add SUBSYSTEM=block SEQNUM=1 "
        ));
        assert!(!event(
            "remove@/devices/x/block/sda ACTION=remove SUBSYSTEM=block "
        ));
        assert!(!event(
            "change@/devices/x/block/sda ACTION=change SUBSYSTEM=block "
        ));
        assert!(!event("add@/devices/x/net/eth0 ACTION=add SUBSYSTEM=net "));
        assert!(!event("") && !adds_disk(&[0; 64]) && !adds_disk(b"add@\0SUBSYSTEM=block2"));
    }
}
