//! A device that a verb boots and talks to: QEMU, the tail of its console, and `kedge ctl`.
//!
//! It waits by asking: a condition is looked at again after each batch of console lines, and at least five times a
//! second, until it holds, the device is gone or patience ends. The whole console goes to a file beside the machine's sockets.

use crate::kedge::Kedge;
use anyhow::{Context, Result, bail};
use kedge_image_build::qemu::{Ending, Event, Vm, VmConfig};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Lines of the console that a failure shows.
const TAIL: usize = 40;
/// The file with the whole console, beside the machine's sockets.
const LOG: &str = "console.log";
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(200);
/// An emulated device on a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(15);

/// A running device.
#[derive(Debug)]
pub(crate) struct Device {
    kedge: Kedge,
    vm: Vm,
    socket: PathBuf,
    /// All of the console, for whoever looks into a failure.
    log: File,
    boots: u32,
    ended: Option<Ending>,
    echo: bool,
}

impl Device {
    /// Starts it; `echo` shows its console.
    pub(crate) fn start(kedge: &Kedge, config: VmConfig, echo: bool) -> Result<Self> {
        let path = config.folder.join(LOG);
        let vm = Vm::start(config)?;
        let log = File::options().create(true).append(true).open(&path);
        Ok(Self {
            log: log.with_context(|| format!("cannot write {}", path.display()))?,
            kedge: kedge.clone(),
            socket: vm.control().to_owned(),
            vm,
            boots: 0,
            ended: None,
            echo,
        })
    }

    /// How often it was started by its loader.
    pub(crate) const fn boots(&self) -> u32 {
        self.boots
    }

    /// The control socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// `kedge ctl` with these words.
    ///
    /// # Errors
    /// The device does not answer, or refuses.
    pub(crate) fn ctl(&self, words: &[&str]) -> Result<Vec<Value>> {
        let socket = self.socket.to_string_lossy();
        let mut all = vec!["ctl", "--socket", &socket];
        all.extend(words);
        self.kedge.ask_lines(&all)
    }

    /// The device's status.
    ///
    /// # Errors
    /// As [`Device::ctl`].
    pub(crate) fn status(&self) -> Result<Value> {
        self.ctl(&["status"])?
            .pop()
            .context("the device has no status")
    }

    /// The texts that a source has said, oldest first.
    ///
    /// # Errors
    /// As [`Device::ctl`].
    pub(crate) fn texts(&self, source: &str) -> Result<Vec<String>> {
        let lines = self.ctl(&["logs", source])?;
        let text = |line: &Value| line.get("text").and_then(Value::as_str).map(str::to_owned);
        Ok(lines.iter().filter_map(text).collect())
    }

    /// Waits until `check` gives something; what it cannot find out yet, it answers with an error, the last of which
    /// is told when patience ends.
    ///
    /// # Errors
    /// The device ended, or patience did.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        patience: Duration,
        mut check: impl FnMut(&Self) -> Result<T>,
    ) -> Result<T> {
        let end = Instant::now() + patience;
        loop {
            self.listen(LOOK);
            if let Some(ending) = &self.ended {
                bail!("the device was gone before {what}: {ending:?}");
            }
            let error = match check(self) {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            if Instant::now() > end {
                let seconds = patience.as_secs();
                return Err(error.context(format!("{what}: not within {seconds} s")));
            }
        }
    }

    /// Waits until every goal is met, and returns the status.
    ///
    /// # Errors
    /// As [`Device::until`].
    pub(crate) fn until_goals(&mut self, patience: Duration) -> Result<Value> {
        self.until("all goals are met", patience, |device| {
            let status = device.status()?;
            match missing(&status) {
                None => Ok(status),
                Some(why) => bail!("{why}"),
            }
        })
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// It still runs when patience ends.
    pub(crate) fn until_ended(&mut self, patience: Duration) -> Result<Ending> {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            self.listen(LOOK);
            if let Some(ending) = self.ended.take() {
                return Ok(ending);
            }
        }
        bail!("the device still runs after {} s", patience.as_secs())
    }

    /// Whether it is over.
    pub(crate) const fn is_over(&self) -> bool {
        self.ended.is_some()
    }

    /// A power cut.
    ///
    /// # Errors
    /// QEMU cannot be killed.
    pub(crate) fn cut_power(mut self) -> Result<()> {
        self.vm.kill()
    }

    /// Takes events for so long, or until the device is over.
    pub(crate) fn listen(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Some(event) = self.vm.next(end) {
            match event {
                Event::Line(line) => self.keep(&line),
                Event::Booted(_) => self.boots = self.boots.saturating_add(1),
                Event::Reset(cause) => self.keep(&format!("[the device reset: {cause:?}]")),
                Event::Ended(ending) => {
                    self.ended = Some(ending);
                    return;
                }
            }
        }
    }

    fn keep(&mut self, line: &str) {
        if self.echo {
            kedge_image_build::progress::say(line);
        }
        // A full disk must not end a demonstration.
        writeln!(self.log, "{line}").ok();
    }
}

/// The end of the console of the last device whose machine was in this folder; empty if there was none.
pub(crate) fn console_tail(folder: &Path) -> String {
    let text = std::fs::read(folder.join(LOG)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let start = lines.len().saturating_sub(TAIL);
    lines.get(start..).unwrap_or_default().join("\n")
}

/// Why a device is not where its revision wants it; nothing if it is.
pub(crate) fn missing(status: &Value) -> Option<String> {
    let word = |value: &Value, name: &str| {
        value
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let phase = word(status, "phase");
    if !phase.starts_with("running") || status.get("revision").is_none() {
        return Some(format!("phase {phase}"));
    }
    let missing: Vec<String> = list(status, "goals-missing")
        .map(|goal| {
            format!(
                "{} is not {}: {}",
                word(goal, "container"),
                word(goal, "goal"),
                word(goal, "reason")
            )
        })
        .collect();
    (!missing.is_empty()).then(|| missing.join("; "))
}

/// One container of a status.
pub(crate) fn container<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    list(status, "containers").find(|entry| entry.get("name").and_then(Value::as_str) == Some(name))
}

/// The elements of a list; none if it is none.
pub(crate) fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value
        .get(name)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// A port of the loopback that is free now.
///
/// # Errors
/// There is none.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot find a port")?;
    Ok(listener.local_addr().context("cannot find a port")?.port())
}

/// One HTTP exchange with a port of the loopback: status and body.
///
/// # Errors
/// Nobody answers in time, or not HTTP.
pub(crate) fn fetch(port: u16, method: &str, path: &str) -> Result<(u16, String)> {
    let what = || format!("{method} http://127.0.0.1:{port}{path}");
    let exchange = || -> std::io::Result<String> {
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: device\r\nContent-Length: 0\r\n\r\n"
        )?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = exchange().with_context(what)?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .with_context(|| format!("{} has no answer", what()))?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((
        code.with_context(|| format!("{} is answered with {head:?}", what()))?,
        body.to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_missing_is_said_in_words() {
        let mut status = json!({
            "phase": "running", "revision": {"id": "x"}, "goals-missing": [],
            "containers": [{"name": "web", "restarts": 1}],
        });
        assert_eq!(missing(&status), None);
        assert_eq!(container(&status, "web").unwrap()["restarts"], 1);
        status["goals-missing"] =
            json!([{"container": "web", "goal": "ready", "reason": "starting"}]);
        assert_eq!(missing(&status).unwrap(), "web is not ready: starting");
        assert!(missing(&json!({"phase": "repair; trust: x"})).is_some());
    }
}
