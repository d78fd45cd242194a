//! A device as it is known in memory.

use crate::usage::Used;
use kedge_api::device::{Action, Failed, Phase, Report, Target};
use kedge_api::operator::Window;
use kedge_revision::id::hex;
use kedge_revision::{Floor, KeyId, Name, ObjectId, PublicKey, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// What a device should run, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Wanted {
    pub(crate) revision: ObjectId,
    #[serde(default)]
    pub(crate) retry: u32,
    #[serde(default)]
    pub(crate) download_only: bool,
    /// An operator said apply: no lock of a container counts, nor does the window, until something else is desired.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(crate) now: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) window: Option<Window>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<u64>,
}

impl Wanted {
    /// The window that is to be waited for.
    pub(crate) fn awaited(&self) -> Option<Window> {
        self.window.filter(|_| !self.now)
    }
}

/// What of the last report is looked at by others than people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) boot_id: String,
    pub(crate) running: Option<Target>,
    pub(crate) committed: Option<Target>,
    pub(crate) floor: Floor,
    pub(crate) phase: Phase,
    pub(crate) failed: Option<Failed>,
    pub(crate) stale: bool,
}

impl Summary {
    pub(crate) fn of(report: &Report) -> Self {
        Self {
            boot_id: report.boot_id.clone(),
            running: report.running.clone(),
            committed: report.committed.clone(),
            floor: floor(&report.floor),
            phase: report.phase.clone(),
            failed: report.failed.clone(),
            stale: report.stale,
        }
    }
}

/// `root.counter`; what is no floor is the lowest one, as of a device that told none.
fn floor(text: &str) -> Floor {
    let parse = || {
        let (root, counter) = text.split_once('.')?;
        Some(Floor {
            root: root.parse().ok()?,
            counter: counter.parse().ok()?,
        })
    };
    parse().unwrap_or_default()
}

/// A device as the database has it, without what only people look at.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: KeyId,
    pub(crate) key: PublicKey,
    pub(crate) product: Name,
    pub(crate) board: Name,
    pub(crate) enrolled: Timestamp,
    pub(crate) revoked: bool,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) wanted: Option<Wanted>,
    pub(crate) previous: Option<ObjectId>,
    /// The newest last.
    pub(crate) assigned: Vec<ObjectId>,
    /// Counter of its parameters.
    pub(crate) parameters: u64,
    /// Number of its last action.
    pub(crate) action: u64,
    /// Those that it has not done yet.
    pub(crate) actions: Vec<Action>,
    pub(crate) report_seq: u64,
    pub(crate) report: Option<Summary>,
    /// What its containers used when it last told.
    pub(crate) usage: Option<Used>,
}

impl Row {
    /// Revisions that stay among the assigned ones: a device that went back goes on reading what it runs.
    const ASSIGNED: usize = 8;

    /// A device that has just come.
    pub(crate) fn new(key: PublicKey, product: Name, board: Name, enrolled: Timestamp) -> Self {
        Self {
            id: key.id(),
            key,
            product,
            board,
            enrolled,
            revoked: false,
            tags: BTreeMap::new(),
            wanted: None,
            previous: None,
            assigned: Vec::new(),
            parameters: 0,
            action: 0,
            actions: Vec::new(),
            report_seq: 0,
            report: None,
            usage: None,
        }
    }

    /// What people call it.
    pub(crate) fn name(&self) -> String {
        self.tags.get("name").cloned().unwrap_or_else(|| {
            let id = self.id.to_string();
            id.get(..12).unwrap_or_default().to_owned()
        })
    }

    /// Its floor, as it last told it.
    pub(crate) fn floor(&self) -> Floor {
        self.report
            .as_ref()
            .map(|report| report.floor)
            .unwrap_or_default()
    }

    /// Assigns a revision.
    pub(crate) fn assign(&mut self, wanted: Wanted) {
        self.assigned.retain(|id| *id != wanted.revision);
        self.assigned.push(wanted.revision);
        let over = self.assigned.len().saturating_sub(Self::ASSIGNED);
        self.assigned.drain(..over);
        self.wanted = Some(wanted);
    }

    /// What its poll answers depend on, in few bytes: equal for equal answers, over restarts, too.
    fn tag(&self) -> String {
        let mut hasher = Sha256::new();
        // These types cannot fail to be written.
        hasher.update(serde_json::to_vec(&self.wanted).unwrap_or_default());
        hasher.update(serde_json::to_vec(&self.actions).unwrap_or_default());
        hasher.update(self.parameters.to_le_bytes());
        let digest: [u8; 32] = hasher.finalize().into();
        hex(digest.get(..8).unwrap_or_default())
    }
}

/// Whether a device is heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Online,
    Silent,
}

/// A device.
#[derive(Debug)]
pub(crate) struct Device {
    id: KeyId,
    row: RwLock<(Arc<Row>, Arc<str>)>,
    /// Wakes its held polls.
    changed: Notify,
    /// Polls that are held right now.
    held: AtomicU32,
    /// When it was last heard of, seconds since 1970; 0: never.
    seen: AtomicU64,
    presence: Mutex<Option<Presence>>,
    /// Operators who look at its logs as they come.
    watching: AtomicU32,
    /// It was removed: whoever still holds it must not go on with it.
    gone: AtomicBool,
}

/// An operator who looks on; it ends with this value.
#[derive(Debug)]
pub(crate) struct Watching(Arc<Device>);

impl Drop for Watching {
    fn drop(&mut self) {
        if self.0.watching.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.wake();
        }
    }
}

impl Device {
    pub(crate) fn new(row: Row, seen: u64) -> Self {
        let tag = row.tag().into();
        Self {
            id: row.id,
            row: RwLock::new((Arc::new(row), tag)),
            changed: Notify::new(),
            held: AtomicU32::new(0),
            seen: AtomicU64::new(seen),
            presence: Mutex::new(None),
            watching: AtomicU32::new(0),
            gone: AtomicBool::new(false),
        }
    }

    /// It was removed.
    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(crate) const fn id(&self) -> KeyId {
        self.id
    }

    pub(crate) fn row(&self) -> Arc<Row> {
        let row = self.row.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&row.0)
    }

    /// The row, and the tag of its poll answers.
    pub(crate) fn row_and_tag(&self) -> (Arc<Row>, Arc<str>) {
        self.row
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Its poll is woken only if its answer is another one now: a report wakes nobody.
    pub(super) fn replace(&self, row: Row) {
        let tag: Arc<str> = row.tag().into();
        let revoked = row.revoked;
        let mut current = self.row.write().unwrap_or_else(PoisonError::into_inner);
        let same = current.1 == tag && current.0.revoked == revoked;
        *current = (Arc::new(row), tag);
        drop(current);
        if !same {
            self.wake();
        }
    }

    /// Somebody looks at its logs as they come: its poll tells it to send them.
    pub(crate) fn watch(self: &Arc<Self>) -> Watching {
        if self.watching.fetch_add(1, Ordering::Relaxed) == 0 {
            self.wake();
        }
        Watching(Arc::clone(self))
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.watching.load(Ordering::Relaxed) > 0
    }

    pub(super) fn wake(&self) {
        self.changed.notify_waiters();
    }

    /// Completes at the next change after this call.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// It was heard of.
    pub(crate) fn hear(&self, now: u64) {
        self.seen.store(now, Ordering::Relaxed);
    }

    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    pub(crate) fn is_online(&self) -> bool {
        self.held.load(Ordering::Relaxed) > 0
    }

    /// Looks whether it has come or gone since it was last looked at. The first look of a hub that was started tells
    /// nothing: all would seem to come.
    pub(crate) fn look(&self, now: u64, silent_after: u64) -> Option<Presence> {
        let heard = self.is_online() || now.saturating_sub(self.seen()) < silent_after;
        let presence = if heard {
            Presence::Online
        } else {
            Presence::Silent
        };
        let mut known = self.presence.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.replace(presence);
        before
            .filter(|before| *before != presence)
            .map(|_| presence)
    }

    /// Counts a poll as held for as long as the answer lives.
    pub(crate) fn hold(self: &Arc<Self>) -> Hold {
        self.held.fetch_add(1, Ordering::Relaxed);
        Hold(Arc::clone(self))
    }
}

/// A poll that is held.
#[derive(Debug)]
pub(crate) struct Hold(Arc<Device>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let key = PublicKey::from_bytes([3; 32]);
        let product = "gateway".parse().unwrap();
        Row::new(
            key,
            product,
            "board".parse().unwrap(),
            Timestamp::from_unix(0),
        )
    }

    fn wanted(byte: u8) -> Wanted {
        Wanted {
            revision: ObjectId::from_digest([byte; 32]),
            retry: 0,
            download_only: false,
            now: false,
            window: None,
            rate: None,
        }
    }

    #[test]
    fn floors_are_read_and_nonsense_is_none() {
        assert_eq!(
            floor("2.40"),
            Floor {
                root: 2,
                counter: 40
            }
        );
        for bad in ["", "2", "2.", ".4", "a.b", "-1.2"] {
            assert_eq!(floor(bad), Floor::default(), "{bad}");
        }
    }

    #[test]
    fn a_device_that_falls_silent_is_told_once_and_comes_back_once() {
        let device = Device::new(row(), 1000);
        assert_eq!(device.look(1010, 300), None);
        assert_eq!(device.look(1299, 300), None);
        assert_eq!(device.look(1300, 300), Some(Presence::Silent));
        assert_eq!(device.look(9000, 300), None);
        device.hear(9001);
        assert_eq!(device.look(9002, 300), Some(Presence::Online));
        let held = Arc::new(device);
        let hold = held.hold();
        assert_eq!(held.look(99_000, 300), None);
        drop(hold);
        assert_eq!(held.look(99_000, 300), Some(Presence::Silent));
    }

    #[test]
    fn the_last_revisions_stay_assigned_each_once() {
        let mut row = row();
        for byte in [1, 2, 1, 3, 4, 5, 6, 7, 8, 9] {
            row.assign(wanted(byte));
        }
        let bytes: Vec<u8> = row.assigned.iter().map(|id| id.digest()[0]).collect();
        assert_eq!(bytes, [1, 3, 4, 5, 6, 7, 8, 9][..].to_vec());
    }

    #[test]
    fn a_tag_changes_with_what_is_wanted_and_not_with_a_report() {
        let mut row = row();
        let before = row.tag();
        row.report_seq = 7;
        assert_eq!(row.tag(), before);
        row.assign(wanted(1));
        let assigned = row.tag();
        assert_ne!(assigned, before);
        row.parameters = 1;
        assert_ne!(row.tag(), assigned);
    }
}
