//! The thread that starts QEMU again and again, as a loader and a power supply would.
//!
//! `load, start, listen to the monitor until QEMU is gone`, then by the monitor's last words: a reset starts over,
//! anything else ends the machine. `-no-reboot` makes QEMU end at a reset, since only a new process takes another slot.
//! The machine's memory is ours, so that it outlives the process.
//!
//! With a firmware there is nothing to load, and QEMU is started once: it goes on after a reset, of which the monitor
//! tells at once.

use super::card;
use super::command::{First, command, monitor_socket};
use super::loader;
use super::memory::Memory;
use super::{
    Console, Ending, Event, Firmware, Loaded, ResetCause, VARIABLES, VmConfig, load, qmp, stub,
};
use crate::image::boot_script;
use crate::secure_boot::enrolment;
use crate::{cache, files};
use anyhow::{Context, Result, bail};
use kedge_board_support::boards::Backend;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long QEMU may take to call back: it does so before it opens the disk.
const CALL_BACK: Duration = Duration::from_secs(30);
/// Between two looks at a process that is about to end; nothing signals its end together with other things.
const LOOK: Duration = Duration::from_millis(5);

/// What the machine's owner and the thread both touch.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    child: Option<Child>,
    console: Option<ChildStdin>,
    monitor: Option<UnixStream>,
    /// Killed by its owner: it is not started again.
    killed: bool,
    /// The next reset is by our hand, in place of a circuit that QEMU has not.
    pressed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn type_text(&self, text: &[u8]) -> Result<()> {
        let mut inner = self.lock();
        let console = inner
            .console
            .as_mut()
            .context("no machine is running with a console of ours")?;
        console
            .write_all(text)
            .and_then(|()| console.flush())
            .context("cannot type into the console")
    }

    pub(super) fn monitor(&self, command: &str, arguments: Option<&Value>) -> Result<()> {
        let inner = self.lock();
        qmp::send(
            inner.monitor.as_ref().context("no machine is running")?,
            command,
            arguments,
        )
    }

    /// Presses the reset button for a guest that asked to be reset.
    fn press(&self) {
        self.lock().pressed = true;
        // A machine that is gone needs no reset.
        self.monitor("system_reset", None).ok();
    }

    /// Whose reset it was.
    fn asked(&self, cause: ResetCause) -> ResetCause {
        let pressed = std::mem::take(&mut self.lock().pressed);
        match cause {
            ResetCause::Host if pressed => ResetCause::Guest,
            ResetCause::Host | ResetCause::Guest | ResetCause::Watchdog => cause,
        }
    }

    pub(super) fn kill(&self) -> std::io::Result<()> {
        let mut inner = self.lock();
        inner.killed = true;
        inner.child.as_mut().map_or(Ok(()), Child::kill)
    }

    /// Waits for the end of QEMU without keeping [`Shared::kill`] out.
    fn reap(&self) -> std::io::Result<ExitStatus> {
        loop {
            let mut inner = self.lock();
            let Some(child) = inner.child.as_mut() else {
                return Err(std::io::ErrorKind::NotFound.into());
            };
            if let Some(status) = child.try_wait()? {
                *inner = Inner {
                    killed: inner.killed,
                    ..Inner::default()
                };
                return Ok(status);
            }
            drop(inner);
            thread::sleep(LOOK);
        }
    }
}

/// A QEMU that runs.
struct Run {
    monitor: UnixStream,
    lines: Option<JoinHandle<()>>,
    complaints: JoinHandle<String>,
}

pub(super) fn start(config: VmConfig) -> Result<(Arc<Shared>, Receiver<Event>, JoinHandle<()>)> {
    let shared = Arc::new(Shared::default());
    let (sender, receiver) = channel();
    let memory = Memory::new()?;
    let run = boot(&config, &memory, None, &shared, &sender)?;
    let thread = {
        let shared = Arc::clone(&shared);
        thread::Builder::new().name("loader".into()).spawn(move || {
            let ending = supervise(&config, &memory, &shared, &sender, run);
            // Nobody may be listening any more.
            sender.send(Event::Ended(ending)).ok();
        })
    };
    Ok((shared, receiver, thread.context("cannot start a thread")?))
}

fn supervise(
    config: &VmConfig,
    memory: &Memory,
    shared: &Arc<Shared>,
    events: &Sender<Event>,
    mut run: Run,
) -> Ending {
    loop {
        let said = qmp::listen(run.monitor, |cause| {
            events.send(Event::Reset(shared.asked(cause))).ok();
        });
        let status = match shared.reap() {
            Ok(status) => status,
            Err(error) => return Ending::NotStarted(error.into()),
        };
        if let Some(lines) = run.lines {
            // The last lines of this boot come before what happens next.
            lines.join().ok();
        }
        let complaints = run.complaints.join().unwrap_or_default();
        if shared.lock().killed {
            return Ending::Killed;
        }
        let cause = match said.shutdown.as_deref() {
            _ if said.watchdog => ResetCause::Watchdog,
            Some("guest-reset") => ResetCause::Guest,
            Some("host-qmp-system-reset") => shared.asked(ResetCause::Host),
            Some("guest-shutdown") => return Ending::PoweredOff,
            Some("host-signal" | "host-qmp-quit" | "host-ui") => return Ending::Killed,
            // RISC-V's machine of QEMU 7.2 leaves without a word when it is powered off (QEMU `hw/misc/sifive_test.c`).
            None if status.success() && complaints.trim().is_empty() => return Ending::PoweredOff,
            Some(_) | None => return Ending::Failed(status, complaints),
        };
        events.send(Event::Reset(cause)).ok();
        run = match boot(config, memory, Some(cause), shared, events) {
            Ok(run) => run,
            Err(error) => return Ending::NotStarted(error),
        };
    }
}

/// What the host loads, after `reset` if there was one; nothing if a firmware does.
fn loaded(config: &VmConfig, reset: Option<ResetCause>) -> Result<Option<Loaded>> {
    let qemu = config.board.qemu.as_ref();
    if let Some(folder) = &config.ram {
        if qemu.is_some_and(|qemu| qemu.disk.is_none()) {
            bail!(
                "QEMU's machine of the board {} starts from its card alone",
                config.board.name
            );
        }
        let loaded = loader::without_disk(folder)?.after(reset);
        return prepared(config, loaded.with(&config.arguments)).map(Some);
    }
    if config.board.boot.backend != Backend::Direct {
        if !config.arguments.is_empty() {
            bail!(
                "the board {} has a loader of its own, which takes no arguments from here",
                config.board.name
            );
        }
        return Ok(None);
    }
    let loaded = load(&config.board, &config.disk, &config.folder)?;
    prepared(config, loaded.after(reset).with(&config.arguments)).map(Some)
}

/// With what a firmware would have done before.
fn prepared(config: &VmConfig, loaded: Loaded) -> Result<Loaded> {
    let levels = config
        .board
        .qemu
        .as_ref()
        .map(|qemu| &qemu.level_interrupts);
    match levels {
        Some(levels) if !levels.is_empty() => stub::before(&loaded, levels, &config.folder),
        Some(_) | None => Ok(loaded),
    }
}

/// The same command, of a process that ends when the thread that starts it does: whatever kills us, no machine goes on
/// unseen (`PR_SET_PDEATHSIG`, prctl(2)). Starting it is its first thread's work, or that of the one that stays until the
/// end.
fn tied_to_us(command: &Command) -> Command {
    let mut tied = Command::new("setpriv");
    tied.args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    tied
}

/// The firmware's variables, from `fresh` at the first start. Those with one certificate are not those with another.
fn variables(config: &VmConfig, fresh: &Path) -> Result<PathBuf> {
    let name = match &config.secure_boot {
        Some(certificate) => format!("{}-{VARIABLES}", cache::key([files::read(certificate)?])),
        None => VARIABLES.to_owned(),
    };
    let path = config.folder.join(name);
    once(&path, |new| match &config.secure_boot {
        Some(certificate) => enrolment::enrol(fresh, new, certificate),
        None => files::copy(fresh, new),
    })?;
    Ok(path)
}

/// Makes a file that is not there, under another name first: what was cut off would be taken for a whole one for ever.
fn once(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let new = files::temporary(path);
    let made = make(&new).and_then(|()| files::publish(&new, path));
    if made.is_err() {
        // It may not have come so far as to be there.
        std::fs::remove_file(&new).ok();
    }
    made
}

/// What a machine begins with by itself.
struct Own {
    firmware: Option<Firmware>,
    variables: Option<PathBuf>,
    /// A loader and its device tree.
    from_card: Option<(PathBuf, PathBuf)>,
    has_rom: bool,
    host_resets: bool,
}

impl Own {
    fn of(config: &VmConfig) -> Result<Self> {
        let qemu = config.board.qemu.as_ref();
        let secure = config.secure_boot.is_some();
        let firmware = qemu.map(|qemu| Firmware::of(qemu, secure));
        let firmware = firmware.transpose()?.flatten();
        let kept = firmware.as_ref().and_then(|has| has.variables.as_deref());
        let kept = kept.map(|fresh| variables(config, fresh)).transpose()?;
        let names = qemu.and_then(|qemu| qemu.loader.as_ref());
        let from_card = names.map(|names| card::loader(&config.disk, names, &config.folder));
        Ok(Self {
            firmware,
            variables: kept,
            from_card: from_card.transpose()?,
            has_rom: qemu.is_some_and(|qemu| qemu.boot_rom.is_some()),
            host_resets: qemu.is_some_and(|qemu| qemu.host_resets),
        })
    }

    fn first(&self, config: &VmConfig) -> Result<First<'_>> {
        match (&self.firmware, &self.from_card) {
            (Some(firmware), _) => Ok(match &self.variables {
                Some(variables) => First::Flash {
                    code: &firmware.code,
                    variables,
                    secure: config.secure_boot.is_some(),
                },
                None => First::Firmware(&firmware.code),
            }),
            (None, Some((file, tree))) => Ok(First::Loader { file, tree }),
            (None, None) if self.has_rom => Ok(First::Card),
            (None, None) => bail!("the board {} has no firmware for QEMU", config.board.name),
        }
    }
}

fn boot(
    config: &VmConfig,
    memory: &Memory,
    reset: Option<ResetCause>,
    shared: &Arc<Shared>,
    events: &Sender<Event>,
) -> Result<Run> {
    let loaded = loaded(config, reset)?;
    card::prepare(&config.board, &config.disk)?;
    let own = Own::of(config)?;
    let first = match &loaded {
        Some(loaded) => First::Kernel(loaded),
        None => own.first(config)?,
    };
    let socket = monitor_socket(config);
    std::fs::remove_file(&socket).ok();
    let listener = UnixListener::bind(&socket)
        .with_context(|| format!("cannot make the socket {}", socket.display()))?;
    let mut command = tied_to_us(&command(config, first, &memory.path())?);
    command.stderr(Stdio::piped());
    if config.console == Console::Events {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if let Some(loaded) = &loaded {
        events.send(Event::Booted(loaded.slot)).ok();
    }
    let listener_of = |output| Lines {
        output,
        events: events.clone(),
        says_slots: loaded.is_none(),
        presses: own.host_resets.then(|| Arc::clone(shared)),
    };
    let lines = child.stdout.take().map(listener_of).map(Lines::read);
    let complaints = child.stderr.take();
    let complaints = thread::spawn(move || complaints.map(read_all).unwrap_or_default());
    let monitor = match call_back(&listener, &mut child) {
        Ok(monitor) => monitor,
        Err(error) => {
            // It may be gone already.
            child.kill().ok();
            child.wait().ok();
            let words = complaints.join().unwrap_or_default();
            return Err(error.context(words.trim().to_owned()));
        }
    };
    qmp::greet(&monitor)?;
    let mut inner = shared.lock();
    inner.console = child.stdin.take();
    inner.monitor = Some(monitor.try_clone().context("cannot share the monitor")?);
    if inner.killed {
        // Killed between two boots.
        child.kill().context("cannot kill QEMU")?;
    }
    inner.child = Some(child);
    drop(inner);
    Ok(Run {
        monitor,
        lines,
        complaints,
    })
}

/// Waits until QEMU connects to its monitor's socket, or is gone.
fn call_back(listener: &UnixListener, child: &mut Child) -> Result<UnixStream> {
    listener
        .set_nonblocking(true)
        .context("cannot watch the monitor's socket")?;
    let deadline = Instant::now() + CALL_BACK;
    loop {
        if let Ok((stream, _)) = listener.accept() {
            stream
                .set_nonblocking(false)
                .context("cannot use the monitor's socket")?;
            return Ok(stream);
        }
        if let Some(status) = child.try_wait().context("cannot wait for QEMU")? {
            bail!("QEMU ended with {status} before it ran");
        }
        if Instant::now() > deadline {
            bail!("QEMU did not start within {} s", CALL_BACK.as_secs());
        }
        thread::sleep(LOOK);
    }
}

/// The console, as it is read.
struct Lines {
    output: ChildStdout,
    events: Sender<Event>,
    /// Whether the loader says which slot it starts.
    says_slots: bool,
    /// Where nothing resets the machine: whoever presses its button.
    presses: Option<Arc<Shared>>,
}

impl Lines {
    /// Console lines as events, and what follows from them.
    fn read(self) -> JoinHandle<()> {
        thread::spawn(move || {
            let mut output = BufReader::new(self.output);
            let mut line = Vec::new();
            // A guest that never ends a line must not fill the host's memory.
            while matches!(
                output.by_ref().take(64 * 1024).read_until(b'\n', &mut line),
                Ok(1..)
            ) {
                let text = String::from_utf8_lossy(&line);
                let text = text.trim_end_matches(['\r', '\n']);
                self.events.send(Event::Line(text.to_owned())).ok();
                if self.says_slots
                    && let Some(slot) = boot_script::started(text)
                {
                    self.events.send(Event::Booted(slot)).ok();
                }
                if let (Some(shared), Some(wait)) = (&self.presses, resets_after(text)) {
                    let shared = Arc::clone(shared);
                    thread::spawn(move || {
                        thread::sleep(wait);
                        shared.press();
                    });
                }
                line.clear();
            }
        })
    }
}

/// When a machine would be reset whose software says this: a kernel as its last word, one that panicked a second later, or U-Boot
/// (Linux `kernel/reboot.c` and `kernel/panic.c`; U-Boot `do_reset`).
fn resets_after(line: &str) -> Option<Duration> {
    let seconds = if line.contains("reboot: Restarting system") || line == "resetting ..." {
        0
    } else if line.ends_with("Rebooting in 1 seconds..") {
        2
    } else {
        return None;
    };
    Some(Duration::from_secs(seconds))
}

/// The last 16 KiB of what QEMU says on standard error.
fn read_all(mut output: impl Read) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = output.read(&mut buffer) {
        bytes.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let excess = bytes.len().saturating_sub(16 * 1024);
        bytes.drain(..excess);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_by_our_hand_is_the_guests_once() {
        let shared = Shared::default();
        assert_eq!(shared.asked(ResetCause::Host), ResetCause::Host);
        shared.press();
        assert_eq!(shared.asked(ResetCause::Host), ResetCause::Guest);
        assert_eq!(shared.asked(ResetCause::Host), ResetCause::Host);
        let after = |line| resets_after(line).map(|wait| wait.as_secs());
        assert_eq!(after("[    7.25] reboot: Restarting system"), Some(0));
        assert_eq!(after("resetting ..."), Some(0));
        assert_eq!(after("[    7.25] Rebooting in 1 seconds.."), Some(2));
        assert_eq!(after("[    7.25] reboot: Power down"), None);
    }

    #[test]
    fn what_is_cut_off_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(VARIABLES);
        once(&path, |new| {
            files::write(new, "ha")?;
            bail!("cut off")
        })
        .unwrap_err();
        assert!(files::list(folder.path()).unwrap().is_empty());
        once(&path, |new| files::write(new, "half")).unwrap();
        assert_eq!(files::read_text(&path).unwrap(), "half");
        once(&path, |_| bail!("it is there")).unwrap();
    }
}
