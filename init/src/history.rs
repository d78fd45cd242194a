//! The device's history: what happened to it, for as long as a few dozen events are back.
//!
//! PID 1 notes [`Event`]s; the disk helper keeps them ([`crate::helpers::disk`]), numbers them and counts boots. An event
//! is a line of JSON:
//! ```json
//! {"seq":7,"boot":3,"time":1764000000,"uptime-ms":812,"event":"rolled-back","revision":"v1:…","reason":"…"}
//! ```
//! [`History`] holds what the helper has not yet kept, in a bounded queue: events happen before it runs, and while the
//! disk is full. It is pure; the driver sends what it says.

use crate::evidence::{Cause, gist};
use crate::helpers::disk::Request;
use kedge_board_support::record::Slot;
use kedge_board_support::record::state::Target;
use kedge_revision::ObjectId;
use kedge_sys::Errno;
use kedge_sys::rustix::time::{ClockId, clock_gettime};
use kedge_sys::timer;
use serde::{Serialize, Serializer};
use std::collections::VecDeque;

/// Longest text of an event, bytes.
const TEXT: usize = 2048;
/// Longest reason, bytes.
const REASON: usize = 256;
/// Most bytes that wait: as much as one segment on disk has.
const WAITING: usize = 16 * 1024;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// PID 1 began; `cause` tells why the run before ended.
    Booted,
    /// A revision is tried from now on.
    TrialBegun,
    /// The trial's revision was judged good and is what the device returns to.
    Committed,
    /// The trial's revision was judged bad, or a person ended the trial.
    RolledBack,
    /// A revision was offered and not taken.
    Refused,
    /// A trial that ended without any verdict is tried again.
    Retried,
    /// Repair mode began.
    Repair,
    /// The kernel panicked, or PID 1 gave up, in the run before; `text` has what was said last.
    Panic,
    /// Outside trials: the goals were held for the window.
    Settled,
    /// A person ordered a reboot or the power off.
    Ordered,
}

/// An event, with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Event {
    /// What happened.
    #[serde(rename = "event")]
    pub kind: Kind,
    /// To which revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<ObjectId>,
    /// With which parameters: their counter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    /// In which slot.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "letter")]
    pub slot: Option<Slot>,
    /// Why, as the status has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How the revision came, if not by a person: `stick`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'static str>,
    /// Why the run before ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// How long it took, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// What a panicking kernel said; the gist of a long one is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

fn letter<S: Serializer>(slot: &Option<Slot>, serializer: S) -> Result<S::Ok, S::Error> {
    match slot {
        Some(slot) => serializer.collect_str(slot),
        None => serializer.serialize_none(),
    }
}

impl Event {
    /// An event of which nothing else is known.
    #[must_use]
    pub const fn new(kind: Kind) -> Self {
        Self {
            kind,
            revision: None,
            parameters: None,
            slot: None,
            reason: None,
            source: None,
            cause: None,
            took_ms: None,
            text: None,
        }
    }

    /// An event that concerns a target.
    #[must_use]
    pub const fn of(kind: Kind, target: &Target) -> Self {
        let mut event = Self::new(kind);
        event.revision = Some(target.revision);
        event.parameters = Some(target.parameters);
        event.slot = Some(target.slot);
        event
    }
}

/// A line as it is sent: the helper adds number and boot.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Line<'a> {
    time: i64,
    uptime_ms: u64,
    #[serde(flatten)]
    event: &'a Event,
}

/// What the helper has not kept yet, oldest first.
#[derive(Debug, Default)]
pub struct History {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The oldest was sent, and not answered.
    sent: bool,
    /// The last answer was a failure: nothing is sent until something changes.
    blocked: bool,
    failing: Option<Errno>,
    lost: u32,
}

impl History {
    /// Notes an event that happens now.
    pub fn note(&mut self, event: Event) {
        let time = clock_gettime(ClockId::Realtime).tv_sec;
        let uptime = u64::try_from(timer::now().as_millis()).unwrap_or(u64::MAX);
        self.note_at(event, time, uptime);
    }

    fn note_at(&mut self, mut event: Event, time: i64, uptime_ms: u64) {
        if let Some(text) = &mut event.text
            && text.len() > TEXT
        {
            *text = gist(text, TEXT).to_owned();
        }
        if let Some(reason) = &mut event.reason {
            reason.truncate(reason.floor_char_boundary(REASON));
        }
        let line = Line {
            time,
            uptime_ms,
            event: &event,
        };
        let line = kedge_revision::json::bytes(&line);
        self.bytes = self.bytes.saturating_add(line.len());
        self.waiting.push_back(line);
        while self.bytes > WAITING && self.waiting.len() > 1 {
            self.drop_oldest();
        }
        // A full disk may have room by now.
        self.blocked = false;
    }

    fn drop_oldest(&mut self) {
        // What was sent is the helper's: its answer must find it here.
        let index = usize::from(self.sent);
        if let Some(line) = self.waiting.remove(index) {
            self.bytes = self.bytes.saturating_sub(line.len());
            self.lost = self.lost.saturating_add(1);
        }
    }

    /// The next frame for the disk helper, if there is one to send now: one is on its way at a time.
    #[must_use]
    pub fn to_send(&mut self) -> Option<Vec<u8>> {
        if self.sent || self.blocked {
            return None;
        }
        let frame = Request::Note(self.waiting.front()?).encode();
        self.sent = true;
        Some(frame)
    }

    /// Takes the helper's answer, and says what is worth telling: the first of several failures, and their end.
    #[must_use]
    pub fn answered(&mut self, failed: Option<Errno>) -> Option<String> {
        if !std::mem::take(&mut self.sent) {
            return None;
        }
        let before = std::mem::replace(&mut self.failing, failed);
        match failed {
            Some(errno) => {
                self.blocked = true;
                (before != failed).then(|| format!("the history cannot be written: {errno}"))
            }
            None => {
                if let Some(line) = self.waiting.pop_front() {
                    self.bytes = self.bytes.saturating_sub(line.len());
                }
                let lost = std::mem::take(&mut self.lost);
                (before.is_some() || lost > 0)
                    .then(|| format!("the history is written again, {lost} events are lost"))
            }
        }
    }

    /// Whether everything that was noted is kept: then its sources may be forgotten.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The helper was started: what was on its way is sent again.
    pub const fn restarted(&mut self) {
        self.sent = false;
        self.blocked = false;
    }

    /// Frames of all that waits, for the end of the device: nobody waits for answers then. What was sent is on its way.
    #[must_use]
    pub fn rest(&mut self) -> Vec<Vec<u8>> {
        let sent = usize::from(self.sent);
        self.bytes = 0;
        self.waiting
            .drain(..)
            .skip(sent)
            .map(|line| Request::Note(&line).encode())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(frame: &[u8]) -> String {
        let Ok(Request::Note(line)) = Request::decode(frame) else {
            panic!("no note");
        };
        String::from_utf8(line.to_vec()).unwrap()
    }

    fn target() -> Target {
        Target {
            revision: ObjectId::from_digest([7; 32]),
            parameters: 3,
            slot: Slot::B,
        }
    }

    #[test]
    fn an_event_is_a_line() {
        let mut history = History::default();
        let mut event = Event::of(Kind::RolledBack, &target());
        event.reason = Some("goal-missed(web, ready)".to_owned());
        event.cause = Some(Cause::Watchdog);
        event.took_ms = Some(9);
        event.text = Some("a \"b\"\n".to_owned());
        history.note_at(event, 5, 6);
        let revision = target().revision;
        assert_eq!(
            line(&history.to_send().unwrap()),
            format!(
                "{{\"time\":5,\"uptime-ms\":6,\"event\":\"rolled-back\",\"revision\":\"{revision}\",\"parameters\":3,\
                 \"slot\":\"b\",\"reason\":\"goal-missed(web, ready)\",\"cause\":\"watchdog\",\"took-ms\":9,\
                 \"text\":\"a \\\"b\\\"\\n\"}}"
            )
        );
        assert_eq!(history.answered(None), None);
        history.note(Event::new(Kind::TrialBegun));
        let line = line(&history.to_send().unwrap());
        assert!(line.ends_with(",\"event\":\"trial-begun\"}"), "{line}");
    }

    #[test]
    fn one_is_on_its_way_and_none_is_lost_by_a_helper_that_ends() {
        let mut history = History::default();
        assert_eq!(history.to_send(), None);
        history.note_at(Event::new(Kind::Booted), 1, 1);
        history.note_at(Event::new(Kind::Settled), 2, 2);
        let first = history.to_send().unwrap();
        assert_eq!(history.to_send(), None);
        history.restarted();
        assert_eq!(history.to_send(), Some(first));
        assert_eq!(history.answered(None), None);
        assert!(!history.is_kept());
        assert!(line(&history.to_send().unwrap()).contains("settled"));
        assert_eq!(history.answered(None), None);
        assert!(history.is_kept());
        assert_eq!((history.to_send(), history.answered(None)), (None, None));
    }

    #[test]
    fn a_full_disk_is_told_once_and_loses_the_oldest_only() {
        let mut history = History::default();
        let mut told = Vec::new();
        let long = "\"".repeat(3000);
        for time in 0..20 {
            let mut event = Event::new(Kind::Panic);
            event.text = Some(long.clone());
            history.note_at(event, time, 0);
            assert!(history.bytes <= WAITING);
            let frame = history.to_send().unwrap();
            let oldest = format!("{{\"time\":{},", history.lost);
            assert!(line(&frame).starts_with(&oldest));
            told.extend(history.answered(Some(Errno::NOSPC)));
            assert_eq!(history.to_send(), None);
        }
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("cannot be written"));
        assert!(history.lost > 10);
    }

    #[test]
    fn what_waits_longest_gives_way_and_what_is_on_its_way_stays() {
        let mut history = History::default();
        let long = "x".repeat(2000);
        for time in 0..20 {
            let mut event = Event::new(Kind::Panic);
            event.text = Some(long.clone());
            history.note_at(event, time, 0);
            if time == 0 {
                history.to_send().unwrap();
            }
        }
        let lost = history.lost;
        assert!(lost > 10);
        let again = history.answered(None).unwrap();
        assert!(again.contains(&format!("{lost} events")), "{again}");
        let next = line(&history.to_send().unwrap());
        assert!(
            next.starts_with(&format!("{{\"time\":{},", lost + 1)),
            "{next}"
        );
        let rest = history.rest();
        assert!(line(rest.last().unwrap()).starts_with("{\"time\":19,"));
        assert_eq!(u32::try_from(rest.len()), Ok(20 - 1 - lost - 1));
        assert!(history.is_kept() && history.bytes == 0);
    }
}
