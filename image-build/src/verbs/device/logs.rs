//! Logs of a device as a hub was sent them: when each line was said, in which boot, and each once.

use crate::terminal::clean;
use kedge_api::device::LogHead;
use kedge_revision::Timestamp;
use serde_json::{Value, json};
use std::collections::HashSet;

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Logs {
    /// What the lines that are read now came with; none: their device tells it not.
    head: Option<LogHead>,
    /// Numbers of lines of that boot: an agent that was started anew sends them again.
    seen: HashSet<u64>,
    /// The boot of the line that was shown last.
    shown: String,
}

impl Logs {
    /// Takes a line of the hub's; what is to be shown of it, for people and as an object.
    pub(super) fn take(&mut self, mut entry: Value) -> Option<(String, Value)> {
        if entry.get("source").is_none()
            && let Ok(head) = serde_json::from_value::<LogHead>(entry.clone())
        {
            if self.head.as_ref().map(|head| &head.boot_id) != Some(&head.boot_id) {
                self.seen.clear();
            }
            self.head = Some(head);
            return None;
        }
        let since = entry.get("time-ms").and_then(Value::as_u64);
        let since = since.unwrap_or_default();
        let Some(head) = &self.head else {
            return Some((words(&entry, &uptime(since)), entry));
        };
        let seq = entry.get("seq").and_then(Value::as_u64);
        if seq.is_some_and(|seq| !self.seen.insert(seq)) {
            return None;
        }
        let time = head.time.map(|time| {
            let before = head.uptime_ms.saturating_sub(since) / 1000;
            Timestamp::from_unix(time.unix().saturating_sub(before)).to_string()
        });
        let when = time.clone().unwrap_or_else(|| uptime(since));
        let mut text = words(&entry, &when);
        if self.shown != head.boot_id {
            self.shown.clone_from(&head.boot_id);
            text = format!("boot {}:\n{text}", clean(&head.boot_id));
        }
        if let Some(entry) = entry.as_object_mut() {
            entry.insert("boot-id".to_owned(), json!(head.boot_id));
            if let Some(time) = time {
                entry.insert("time".to_owned(), json!(time));
            }
        }
        Some((text, entry))
    }
}

/// Milliseconds since the boot, as seconds.
fn uptime(ms: u64) -> String {
    format!("{:>7}.{:03}", ms / 1000, ms % 1000)
}

fn words(entry: &Value, when: &str) -> String {
    let word = |name: &str| {
        let word = entry.get(name).and_then(Value::as_str);
        clean(word.unwrap_or_default())
    };
    format!("{when} {:<12} {}", word("source"), word("text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: u64, ms: u64, text: &str) -> Value {
        json!({"seq": seq, "time-ms": ms, "source": "web", "text": text})
    }

    #[test]
    fn a_line_has_its_time_and_boot_and_is_shown_once() {
        let mut logs = Logs::default();
        let mut shown = |entry: Value| logs.take(entry);
        // Of a device that does not tell whose they are.
        let (text, _) = shown(line(1, 1_500, "old")).unwrap();
        assert_eq!(text, "      1.500 web          old");
        let head = |boot: &str, time: Option<&str>| {
            let mut head = json!({"boot-id": boot, "uptime-ms": 90_000});
            if let Some(time) = time {
                head["time"] = json!(time);
            }
            head
        };
        assert_eq!(shown(head("one", Some("2026-12-01T10:00:00Z"))), None);
        let (text, entry) = shown(line(1, 30_000, "a")).unwrap();
        assert_eq!(text, "boot one:\n2026-12-01T09:59:00Z web          a");
        assert_eq!(entry["boot-id"], "one");
        assert_eq!(entry["time"], "2026-12-01T09:59:00Z");
        let (text, _) = shown(line(2, 90_000, "b")).unwrap();
        assert_eq!(text, "2026-12-01T10:00:00Z web          b");
        // The agent was started anew.
        assert_eq!(shown(head("one", Some("2026-12-01T10:00:30Z"))), None);
        assert_eq!(shown(line(1, 30_000, "a")), None);
        assert!(shown(line(3, 90_000, "c")).is_some());
        // Another boot, whose clock nobody has set.
        assert_eq!(shown(head("two", None)), None);
        let (text, entry) = shown(line(1, 2_000, "a")).unwrap();
        assert_eq!(text, "boot two:\n      2.000 web          a");
        assert!(entry.get("time").is_none());
    }
}
