//! Logs on their way to the hub: all that there is when it asks once, and what comes while somebody there looks on.

use crate::agent::Agent;
use crate::error::Error;
use crate::frames::Level;
use crate::hub::{Address, Connection, MAX_LOG};
use crate::tls::Stream;
use kedge_api::device::LogHead;
use kedge_revision::Timestamp;
use kedge_sys::timer;
use serde::Deserialize;

/// Between two looks while somebody looks on, milliseconds.
const PAUSE_MS: u64 = 2000;
/// Most parts of [`MAX_LOG`] in which everything is sent: several times what PID 1 keeps in memory.
const PARTS: u32 = 16;
/// Most bytes of lines in a part: the head stands before them.
const MOST: usize = MAX_LOG - 256;
/// Lines of the past for whoever begins to look on.
const PAST: u32 = 200;

/// How far the hub has been told.
#[derive(Default)]
pub(crate) struct Logging {
    /// Kept open while somebody looks on.
    connection: Option<Connection<Stream>>,
    /// The number of the first line that was not sent.
    next: Option<u64>,
    /// When to look again, milliseconds since the start.
    due: u64,
}

impl Agent<'_> {
    /// Sends all that PID 1 has and the hub was not sent.
    pub(crate) fn collect_logs(&mut self, hub: &Address) -> Result<(), Error> {
        for _ in 0..PARTS {
            if !self.send_lines(hub, None)? {
                break;
            }
        }
        if !self.is_watched() {
            self.logging.connection = None;
        }
        Ok(())
    }

    /// Sends what has come, if somebody looks on; when to look again.
    pub(crate) fn stream_logs(&mut self, hub: &Address) -> Result<Option<u64>, Error> {
        if !self.is_watched() {
            self.logging.connection = None;
            return Ok(None);
        }
        let now = self.now_ms();
        if now >= self.logging.due {
            let past = self.logging.next.is_none().then_some(PAST);
            let more = self.send_lines(hub, past)?;
            let pause = if more { 0 } else { PAUSE_MS };
            self.logging.due = now.saturating_add(pause);
        }
        Ok(Some(self.logging.due))
    }

    fn is_watched(&self) -> bool {
        let state = self.asking.state.as_ref();
        state.is_some_and(|state| state.logs)
    }

    /// Sends one part of what was not sent, or of its last lines; whether there may be more.
    fn send_lines(&mut self, hub: &Address, last: Option<u32>) -> Result<bool, Error> {
        let (lines, whole) = self.local.lines(self.logging.next, last, MOST)?;
        let Some(next) = after(&lines) else {
            return Ok(false);
        };
        let usable = self.logging.connection.take().filter(Connection::is_usable);
        let mut connection = match usable {
            Some(connection) => connection,
            None => self.connect(hub)?,
        };
        let head = LogHead {
            boot_id: self.status().boot_id.clone(),
            uptime_ms: u64::try_from(timer::now().as_millis()).unwrap_or(u64::MAX),
            time: self.time().map(Timestamp::from_unix),
        };
        let lines = headed(&head, &lines);
        // Lines that the hub does not take are passed over: a full disk there must cost neither the poll nor updates.
        match connection.logs(&lines) {
            Ok(()) => self.logging.connection = Some(connection),
            Err(error @ Error::Refused { .. }) => self.say(Level::Warning, &error.to_string())?,
            Err(error) => return Err(error),
        }
        self.logging.next = Some(next);
        Ok(!whole)
    }
}

/// What is sent: whose lines they are, and then the lines.
fn headed(head: &LogHead, lines: &[u8]) -> Vec<u8> {
    let mut all = kedge_revision::json::bytes(head);
    all.push(b'\n');
    all.extend_from_slice(lines);
    all
}

/// The number after the last line's.
fn after(lines: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Line {
        seq: u64,
    }
    let mut lines = lines.rsplit(|byte| *byte == b'\n');
    let last = lines.find(|line| !line.is_empty())?;
    let Line { seq } = serde_json::from_slice(last).ok()?;
    seq.checked_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_begin_with_whose_they_are() {
        let head = LogHead {
            boot_id: "b".to_owned(),
            uptime_ms: 7,
            time: None,
        };
        let longest = LogHead {
            boot_id: "b".repeat(36),
            uptime_ms: u64::MAX,
            time: Some(Timestamp::from_unix(u64::MAX)),
        };
        assert!(headed(&longest, &[0; MOST]).len() <= MAX_LOG);
        let sent = headed(&head, b"{\"seq\":3}\n");
        let expected = "{\"boot-id\":\"b\",\"uptime-ms\":7}\n{\"seq\":3}\n";
        assert_eq!(String::from_utf8(sent).unwrap(), expected);
    }

    #[test]
    fn the_next_line_is_after_the_last() {
        let lines = b"{\"seq\":3,\"text\":\"a\"}\n{\"seq\":9,\"text\":\"b\"}\n";
        assert_eq!(after(lines), Some(10));
        assert_eq!(after(b""), None);
        assert_eq!(after(b"{\"seq\":18446744073709551615}\n"), None);
    }
}
