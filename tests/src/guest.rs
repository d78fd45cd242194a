//! A device in QEMU, watched: its console kept, its control interface asked, every wait with a deadline.

use crate::bridge;
use crate::disk::Disk;
use crate::http::{self, Answer};
use crate::product::BOARD;
use anyhow::{Context, Result, bail, ensure};
use kedge_board_support::boards;
use kedge_board_support::record::Slot;
use kedge_image_build::qemu::{Ending, Event, Forward, ResetCause, Vm, VmConfig};
use serde_json::Value;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// How long a boot may take: about 6 s on an idle machine, three times that when two boot at once on a busy one.
pub const BOOT: Duration = Duration::from_secs(120);
/// Lines of the console that a failure shows.
const TAIL: usize = 60;
/// Between two questions while something is waited for.
const PAUSE: Duration = Duration::from_millis(300);

/// A running device.
#[derive(Debug)]
pub struct Guest {
    vm: Vm,
    console: Vec<String>,
    ended: Option<Ending>,
    /// The slot of each boot, and how much of the console was there.
    boots: Vec<(Slot, usize)>,
    resets: Vec<ResetCause>,
    ports: Vec<Forward>,
    /// How much longer everything takes than where the loader is quick.
    slowness: u32,
}

/// Of a loader that looks for screens, USB and a network before it looks at the card.
const SLOW_LOADER: u32 = 5;

impl Guest {
    /// Starts a device with a disk; `ports` of the guest are led to free ports of the host.
    ///
    /// # Errors
    /// QEMU cannot be started.
    pub fn start(disk: &Disk, ports: &[u16]) -> Result<Self> {
        Self::start_on(BOARD, disk, ports)
    }

    /// [`Guest::start`] on another board.
    ///
    /// # Errors
    /// There is no such board, or QEMU cannot be started.
    pub fn start_on(board: &str, disk: &Disk, ports: &[u16]) -> Result<Self> {
        let board = boards::find(board)?;
        let mut config = VmConfig::new(board, disk.path(), &disk.folder().join("vm"));
        for guest in ports {
            let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            config.forwards.push(Forward {
                host: free,
                guest: *guest,
            });
        }
        if bridge::is_needed(&config.board) {
            let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            config.forwards.push(Forward {
                host: free,
                guest: bridge::PORT,
            });
        }
        Self::with(config)
    }

    /// Starts a device as it is described.
    ///
    /// # Errors
    /// QEMU cannot be started.
    pub fn with(config: VmConfig) -> Result<Self> {
        let ports = config.forwards.clone();
        let qemu = config.board.qemu.as_ref();
        let from_card = qemu.is_some_and(|qemu| qemu.disk.is_none());
        let vm = Vm::start(config)?;
        if let Some(bridge) = ports.iter().find(|port| port.guest == bridge::PORT) {
            bridge::lead(vm.control(), bridge.host)?;
        }
        Ok(Self {
            vm,
            console: Vec::new(),
            ended: None,
            boots: Vec::new(),
            resets: Vec::new(),
            ports,
            slowness: if from_card { SLOW_LOADER } else { 1 },
        })
    }

    /// When patience with this machine ends.
    fn until(&self, patience: Duration) -> Instant {
        Instant::now() + patience.saturating_mul(self.slowness)
    }

    /// Takes what has happened since the last look.
    fn pump(&mut self, until: Instant) {
        while let Some(event) = self.vm.next(until) {
            match event {
                Event::Booted(slot) => {
                    self.boots.push((slot, self.console.len()));
                    let number = self.boots.len();
                    self.console
                        .push(format!("--- boot {number} from slot {slot}"));
                }
                Event::Line(line) => self.console.push(line),
                Event::Reset(cause) => {
                    self.resets.push(cause);
                    self.console.push(format!("--- reset: {cause:?}"));
                }
                Event::Ended(ending) => {
                    self.console.push(format!("--- ended: {ending:?}"));
                    self.ended = Some(ending);
                }
            }
        }
    }

    /// The socket of its control port.
    #[must_use]
    pub fn control_socket(&self) -> &std::path::Path {
        self.vm.control()
    }

    /// How often the machine was booted.
    pub fn boots(&mut self) -> u32 {
        self.pump(Instant::now());
        u32::try_from(self.boots.len()).unwrap_or(u32::MAX)
    }

    /// The slot of the last boot.
    pub fn slot(&mut self) -> Option<Slot> {
        self.pump(Instant::now());
        self.boots.last().map(|(slot, _)| *slot)
    }

    /// Why it was reset, each time, in order.
    pub fn resets(&mut self) -> &[ResetCause] {
        self.pump(Instant::now());
        &self.resets
    }

    /// What the console said between the boot before this one and this one; of a loader in the machine, what led to it.
    pub fn before_boot(&mut self, number: u32) -> &[String] {
        self.pump(Instant::now());
        let place = |number: u32| {
            let index = usize::try_from(number).ok()?.checked_sub(1)?;
            self.boots.get(index).map(|(_, place)| *place)
        };
        let begin = place(number.saturating_sub(1)).unwrap_or(0);
        let end = place(number).unwrap_or(self.console.len());
        self.console.get(begin..end).unwrap_or_default()
    }

    /// How many lines of the console hold a text.
    pub fn count(&mut self, text: &str) -> usize {
        self.pump(Instant::now());
        let lines = self.console.iter();
        lines.filter(|line| line.contains(text)).count()
    }

    /// Waits for a line of the console with a text that more than so many lines hold.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn expect_more(&mut self, text: &str, were: usize, patience: Duration) -> Result<()> {
        let deadline = self.until(patience);
        while self.count(text) <= were {
            ensure!(
                Instant::now() < deadline,
                "waited {patience:?} for more than {were} lines with {text:?}"
            );
            self.pump(Instant::now() + PAUSE);
        }
        Ok(())
    }

    /// Presses the machine's reset button.
    ///
    /// # Errors
    /// It does not run.
    pub fn press_reset(&self) -> Result<()> {
        self.vm.monitor("system_reset", None)
    }

    /// Types a system request into the serial console: a break, then the key.
    ///
    /// # Errors
    /// It does not run.
    pub fn press_sysrq(&self, key: char) -> Result<()> {
        let console = serde_json::json!({ "id": "serial0" });
        self.vm.monitor("chardev-send-break", Some(&console))?;
        // The break goes another way than the key, and must be there first.
        std::thread::sleep(PAUSE);
        self.vm.type_text(&key.to_string())
    }

    /// Waits for a line that contains `text`, among those that came already too.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn expect(&mut self, text: &str, patience: Duration) -> Result<String> {
        let deadline = self.until(patience);
        loop {
            self.pump(Instant::now());
            if let Some(line) = self.console.iter().find(|line| line.contains(text)) {
                return Ok(line.clone());
            }
            ensure!(
                self.ended.is_none(),
                "the machine ended before {text:?} came"
            );
            ensure!(
                Instant::now() < deadline,
                "{text:?} did not come on the console in {patience:?}"
            );
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether a line with this text has come.
    pub fn has_said(&mut self, text: &str) -> bool {
        self.pump(Instant::now());
        self.console.iter().any(|line| line.contains(text))
    }

    /// Waits until the console tells that the device is in a state; the words of all that it has told since the last boot.
    ///
    /// # Errors
    /// It does not come to that in time.
    pub fn expect_state(&mut self, word: &str, patience: Duration) -> Result<Vec<String>> {
        let deadline = self.until(patience);
        loop {
            let states = self.states();
            if states.last().is_some_and(|last| last == word) {
                return Ok(states);
            }
            ensure!(
                Instant::now() < deadline,
                "the state is not {word} in {patience:?}: {states:?}"
            );
            self.pump(Instant::now() + PAUSE);
        }
    }

    fn states(&mut self) -> Vec<String> {
        self.pump(Instant::now());
        let from = self.boots.last().map_or(0, |(_, place)| *place);
        let lines = self.console.get(from..).unwrap_or_default().iter();
        let told = lines.filter_map(|line| line.split_once("kedge: state ")?.1.split_once(':'));
        told.map(|(word, _)| word.to_owned()).collect()
    }

    /// The end of the console, for a person.
    pub fn tail(&mut self) -> String {
        self.pump(Instant::now());
        let from = self.console.len().saturating_sub(TAIL);
        let lines = self.console.get(from..).unwrap_or_default();
        format!("the end of the console:\n  {}", lines.join("\n  "))
    }

    /// One exchange over the control port.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn control(&self, method: &str, target: &str) -> Result<Answer> {
        http::control(self.vm.control(), method, target)
    }

    /// A command that must be taken.
    ///
    /// # Errors
    /// It is refused.
    pub fn post(&self, target: &str) -> Result<()> {
        let answer = self.control("POST", target)?;
        ensure!(
            answer.status == 204,
            "POST {target}: {} {}",
            answer.status,
            answer.body
        );
        Ok(())
    }

    /// The device's status.
    ///
    /// # Errors
    /// Nobody answers, or not with a status.
    pub fn status(&self) -> Result<Value> {
        let answer = self.control("GET", "/v1/status")?;
        ensure!(
            answer.status == 200,
            "status: {} {}",
            answer.status,
            answer.body
        );
        serde_json::from_str(&answer.body).context("the status is no JSON")
    }

    /// One container of the status.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn container(&self, name: &str) -> Result<Value> {
        let status = self.status()?;
        let containers = status.get("containers").and_then(Value::as_array);
        let mut containers = containers.into_iter().flatten();
        let found = containers.find(|container| text(container, "name") == name);
        found
            .cloned()
            .with_context(|| format!("the status has no container {name}"))
    }

    /// What a container, `kernel` or `kedge` has said in this boot, a line a record.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn logs(&self, source: &str) -> Result<Vec<LogLine>> {
        let answer = self.control("GET", &format!("/v1/logs?container={source}"))?;
        if answer.status == 404 {
            return Ok(Vec::new());
        }
        ensure!(
            answer.status == 200,
            "logs: {} {}",
            answer.status,
            answer.body
        );
        answer
            .body
            .lines()
            .map(|line| {
                let record: Value =
                    serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
                Ok(LogLine {
                    time_ms: record.get("time-ms").and_then(Value::as_u64).unwrap_or(0),
                    text: text(&record, "text").to_owned(),
                })
            })
            .collect()
    }

    /// Waits until a container has said a line with this text.
    ///
    /// # Errors
    /// It does not in time.
    pub fn wait_for_log(&self, source: &str, wanted: &str, patience: Duration) -> Result<LogLine> {
        self.wait(&format!("{source} says {wanted:?}"), patience, |guest| {
            let mut lines = guest.logs(source)?.into_iter();
            Ok(lines.find(|line| line.text.contains(wanted)))
        })
    }

    /// Waits until a container is in a state.
    ///
    /// # Errors
    /// It is not in time; with what it is.
    pub fn wait_for_state(&self, name: &str, state: &str, patience: Duration) -> Result<Value> {
        self.wait(&format!("{name} is {state}"), patience, |guest| {
            let container = guest.container(name)?;
            Ok((text(&container, "state") == state).then_some(container))
        })
    }

    /// Asks until there is an answer; errors count as none until the deadline.
    ///
    /// # Errors
    /// There is none in time; the last error is its cause.
    pub fn wait<T>(
        &self,
        what: &str,
        patience: Duration,
        mut ask: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = self.until(patience);
        loop {
            let problem = match ask(self) {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => None,
                Err(error) => Some(error),
            };
            if Instant::now() >= deadline {
                let waited = format!("waited {patience:?} for: {what}");
                let now = self
                    .status()
                    .map(|status| status.to_string())
                    .unwrap_or_default();
                return Err(match problem {
                    Some(error) => error.context(waited),
                    None => anyhow::anyhow!("{waited}; status: {now}"),
                });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until the control interface answers.
    ///
    /// # Errors
    /// It does not in time.
    pub fn wait_for_control(&mut self, patience: Duration) -> Result<Value> {
        let deadline = self.until(patience);
        loop {
            self.pump(Instant::now());
            if let Some(ending) = &self.ended {
                bail!("the machine is over: {ending:?}");
            }
            match self.status() {
                Ok(status) => return Ok(status),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error.context("the control interface never answered"));
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// A GET on a port of the guest.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn get(&self, port: u16, path: &str) -> Result<Answer> {
        let forward = self.ports.iter().find(|forward| forward.guest == port);
        let forward = forward.with_context(|| format!("port {port} is not forwarded"))?;
        let stream = TcpStream::connect(("127.0.0.1", forward.host)).context("cannot connect")?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        http::exchange(&stream, "GET", path, None)
    }

    /// Waits until the machine is over, and says how.
    ///
    /// # Errors
    /// It goes on.
    pub fn wait_for_end(&mut self, patience: Duration) -> Result<&Ending> {
        let deadline = self.until(patience);
        while self.ended.is_none() && Instant::now() < deadline {
            self.pump(Instant::now() + PAUSE);
        }
        self.ended.as_ref().context("the machine goes on")
    }

    /// A command of QEMU's monitor: what is done to the machine from outside.
    ///
    /// # Errors
    /// No machine is running.
    pub fn monitor(&self, command: &str, arguments: &Value) -> Result<()> {
        self.vm.monitor(command, Some(arguments))
    }

    /// Waits for the boot of this number to begin.
    ///
    /// # Errors
    /// It does not in time.
    pub fn wait_for_boot(&mut self, number: u32, patience: Duration) -> Result<()> {
        let deadline = self.until(patience);
        while self.boots() < number {
            ensure!(
                Instant::now() < deadline,
                "boot {number} did not come in {patience:?}"
            );
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Cuts the power.
    ///
    /// # Errors
    /// QEMU cannot be killed.
    pub fn cut_power(&mut self) -> Result<()> {
        self.vm.kill()
    }
}

/// A record of the log.
#[derive(Debug, Clone)]
pub struct LogLine {
    /// Milliseconds since the boot.
    pub time_ms: u64,
    /// What was said.
    pub text: String,
}

/// A text field of an object; empty if there is none.
#[must_use]
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or("")
}

/// Named checks over one boot: each is run whatever became of the others, and all failures are told at the end.
#[derive(Debug, Default)]
pub struct Checks {
    failures: Vec<String>,
}

impl Checks {
    /// Runs one check.
    pub fn run(
        &mut self,
        name: &str,
        guest: &mut Guest,
        check: impl FnOnce(&mut Guest) -> Result<()>,
    ) {
        let begun = Instant::now();
        let result = check(guest);
        let took = begun.elapsed().as_secs_f32();
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        kedge_image_build::progress::say(format_args!("    {name}: {word} ({took:.1} s)"));
        if let Err(error) = result {
            // Now: a later check may start another machine.
            self.failures
                .push(format!("{name}: {error:#}\n{}", guest.tail()));
        }
    }

    /// Whether none has failed yet.
    #[must_use]
    pub const fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    /// All passed, or an error with every failure and what was the end of the console then.
    ///
    /// # Errors
    /// A check failed.
    pub fn finish(self) -> Result<()> {
        if self.failures.is_empty() {
            return Ok(());
        }
        bail!(
            "{} checks failed:\n- {}",
            self.failures.len(),
            self.failures.join("\n- ")
        )
    }
}
