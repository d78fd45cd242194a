//! QEMU's monitor: newline-separated JSON. Source: QEMU `docs/interop/qmp-spec.txt`.
//!
//! QEMU connects to us, so that there is no moment at which it runs and an event of it could be missed.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

/// What the monitor said about the end of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Said {
    /// The reason of the last `SHUTDOWN`: `guest-reset`, `guest-shutdown`, `guest-panic`, `host-signal`, …
    pub(super) shutdown: Option<String>,
    /// Whether the watchdog fired.
    pub(super) watchdog: bool,
}

impl Said {
    /// Takes one message into account; what is no event of interest is passed over.
    pub(super) fn hear(&mut self, line: &str) {
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            return;
        };
        match message.get("event").and_then(Value::as_str) {
            Some("SHUTDOWN") => {
                let reason = message.pointer("/data/reason").and_then(Value::as_str);
                self.shutdown = Some(reason.unwrap_or("unknown").to_owned());
            }
            Some("WATCHDOG") => self.watchdog = true,
            Some(_) | None => {}
        }
    }
}

/// Leaves the negotiation, after which commands are taken.
pub(super) fn greet(stream: &UnixStream) -> Result<()> {
    send(stream, "qmp_capabilities", None)
}

/// Sends a command.
pub(super) fn send(
    mut stream: &UnixStream,
    command: &str,
    arguments: Option<&Value>,
) -> Result<()> {
    let mut message = json!({ "execute": command });
    if let (Some(fields), Some(arguments)) = (message.as_object_mut(), arguments) {
        fields.insert("arguments".to_owned(), arguments.clone());
    }
    stream
        .write_all(format!("{message}\n").as_bytes())
        .context("cannot talk to QEMU's monitor")
}

/// Listens until QEMU closes the monitor, which it does when it ends.
pub(super) fn listen(stream: UnixStream) -> Said {
    let mut said = Said::default();
    for line in BufReader::new(stream).lines() {
        match line {
            Ok(line) => said.hear(&line),
            // A reset connection is an ended one.
            Err(_) => break,
        }
    }
    said
}
