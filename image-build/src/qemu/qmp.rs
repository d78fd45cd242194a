//! QEMU's monitor: newline-separated JSON. Source: QEMU `docs/interop/qmp-spec.txt`.
//!
//! QEMU connects to us, so that there is no moment at which it runs and an event of it could be missed.

use super::ResetCause;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

/// What the monitor said about the end of a run, or of a boot within it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Said {
    /// The reason of the last `SHUTDOWN`: `guest-reset`, `guest-shutdown`, `guest-panic`, `host-signal`, …
    pub(super) shutdown: Option<String>,
    /// Whether the watchdog fired, and no reset was told of since.
    pub(super) watchdog: bool,
}

impl Said {
    /// Takes one message into account; what is no event of interest is passed over. A reset that this QEMU goes on from
    /// is returned.
    pub(super) fn hear(&mut self, line: &str) -> Option<ResetCause> {
        let message = serde_json::from_str::<Value>(line).ok()?;
        let reason = || message.pointer("/data/reason").and_then(Value::as_str);
        match message.get("event").and_then(Value::as_str)? {
            "SHUTDOWN" => self.shutdown = Some(reason().unwrap_or("unknown").to_owned()),
            "WATCHDOG" => self.watchdog = true,
            "RESET" => {
                // The watchdog resets as if the guest had asked; that it did so is said just before.
                let watchdog = std::mem::take(&mut self.watchdog);
                return Some(match reason() {
                    _ if watchdog => ResetCause::Watchdog,
                    Some("host-qmp-system-reset") => ResetCause::Host,
                    Some(_) | None => ResetCause::Guest,
                });
            }
            _ => {}
        }
        None
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

/// Listens until QEMU closes the monitor, which it does when it ends; `reset` is told of resets until then.
pub(super) fn listen(stream: UnixStream, mut reset: impl FnMut(ResetCause)) -> Said {
    let mut said = Said::default();
    for line in BufReader::new(stream).lines() {
        match line {
            Ok(line) => {
                if let Some(cause) = said.hear(&line) {
                    reset(cause);
                }
            }
            // A reset connection is an ended one.
            Err(_) => break,
        }
    }
    said
}
