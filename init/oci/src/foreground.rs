//! Standing in for a process that was started in the foreground: its terminal, signals for it, its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use kedge_sys::Errno;
use kedge_sys::process::{ExitStatus, Signal, send_signal, try_wait_pidfd};
use kedge_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use kedge_sys::rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use kedge_sys::rustix::io::{read, write};
use kedge_sys::signals::{SignalFd, SignalSet, set_blocked};
use kedge_sys::terminal::Raw;

use crate::terminal::copy_size;

/// The most that is held of each direction, bytes: a pipe that is ready takes as much without waiting (`PIPE_BUF`).
const PIECE: usize = 4096;

/// The most that is shown once the process has ended, bytes: more than a terminal holds of what it has written. Whoever else
/// has the terminal open may go on writing without an end.
const LAST: usize = 128 << 10;

/// What is handed on to the process.
const HANDED_ON: [Signal; 7] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
    Signal::CONT,
];

/// Signals as they arrive from now on. Made before the process is, so that none is lost in between.
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Blocks them.
    ///
    /// # Errors
    /// Those of `signalfd(2)`.
    pub(crate) fn catch() -> Result<Self> {
        let mut all = HANDED_ON.to_vec();
        all.extend([Signal::CHILD, Signal::WINCH]);
        let set = SignalSet::of(&all);
        set_blocked(&set).context("block signals")?;
        Ok(Self(SignalFd::new(&set).context("signals")?))
    }
}

/// Serves the process until it ends, and returns its status as a shell would: 128 and the signal's number for one that was
/// killed.
///
/// # Errors
/// Those of the terminal.
pub(crate) fn serve(
    signals: &Signals,
    process: &OwnedFd,
    terminal: Option<&OwnedFd>,
) -> Result<u8> {
    let raw = match terminal {
        Some(master) => {
            copy_size(master);
            Raw::set()?
        }
        None => None,
    };
    let (input, output) = (std::io::stdin(), std::io::stdout());
    let streams = terminal.map(|master| Streams::between(input.as_fd(), output.as_fd(), master));
    let status = streams
        .transpose()
        .and_then(|streams| watch(signals, process, terminal, streams));
    drop(raw);
    Ok(match status? {
        ExitStatus::Exited(code) => u8::try_from(code).unwrap_or(u8::MAX),
        ExitStatus::Signaled { signal, .. } => {
            u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX)
        }
    })
}

/// What may be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Signal,
    End,
    /// The terminal has something to be shown.
    Shown,
    /// The terminal takes what was typed.
    Taken,
    Input,
    Output,
}

/// Nothing is waited for but in one place, so that whatever is full or silent holds up neither the other direction nor signals.
fn watch(
    signals: &Signals,
    process: &OwnedFd,
    terminal: Option<&OwnedFd>,
    mut streams: Option<Streams<'_>>,
) -> Result<ExitStatus> {
    let mut ended = None;
    loop {
        // What the process has written before its end is to be seen.
        if let Some(status) = ended
            && !streams.as_ref().is_some_and(Streams::has_more)
        {
            return Ok(status);
        }
        let mut wanted = vec![(Source::Signal, PollFd::new(&signals.0, PollFlags::IN))];
        if ended.is_none() {
            wanted.push((Source::End, PollFd::new(process, PollFlags::IN)));
        }
        wanted.extend(streams.iter().flat_map(Streams::wanted));
        let ready = wait(wanted)?;
        if let Some(streams) = &mut streams {
            streams.pass(&ready)?;
        }
        if ready.contains(&Source::Signal)
            && hand_on(signals, process.as_fd(), terminal)?
            && let Some(status) = ended
        {
            // It is meant for us: nobody may ever take what is left.
            return Ok(status);
        }
        if ready.contains(&Source::End) {
            ended = try_wait_pidfd(process.as_fd())?;
            if ended.is_some() {
                streams.iter_mut().for_each(Streams::process_ended);
            }
        }
    }
}

/// Waits for any of these, and returns those that are ready.
fn wait(wanted: Vec<(Source, PollFd<'_>)>) -> Result<Vec<Source>> {
    let (sources, mut list): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
    match poll(&mut list, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let ready = sources.into_iter().zip(&list);
    let ready = ready.filter(|(_, one)| !one.revents().is_empty());
    Ok(ready.map(|(source, _)| source).collect())
}

/// What passes between our streams and the terminal.
#[derive(Debug)]
struct Streams<'a> {
    input: BorrowedFd<'a>,
    output: BorrowedFd<'a>,
    master: &'a OwnedFd,
    /// Read from the input, not yet taken by the terminal.
    typed: Vec<u8>,
    /// Read from the terminal, not yet taken by the output.
    shown: Vec<u8>,
    /// Whether there may be more of the input.
    reads: bool,
    /// How much more of the terminal is shown; none: as much as comes.
    left: Option<usize>,
}

impl<'a> Streams<'a> {
    /// Between these, of which only the terminal is ours alone, and is never waited for from now on.
    fn between(input: BorrowedFd<'a>, output: BorrowedFd<'a>, master: &'a OwnedFd) -> Result<Self> {
        let flags = fcntl_getfl(master).context("the terminal")?;
        fcntl_setfl(master, flags | OFlags::NONBLOCK).context("the terminal")?;
        Ok(Self {
            input,
            output,
            master,
            typed: Vec::new(),
            shown: Vec::new(),
            reads: true,
            left: None,
        })
    }

    /// What is waited for. What is not read is not looked at: its end would be news for ever.
    fn wanted(&self) -> Vec<(Source, PollFd<'a>)> {
        let of = |source, fd: BorrowedFd<'a>, flags| (source, PollFd::from_borrowed_fd(fd, flags));
        let mut wanted = Vec::new();
        if !self.shown.is_empty() {
            wanted.push(of(Source::Output, self.output, PollFlags::OUT));
        } else if self.left != Some(0) {
            wanted.push(of(Source::Shown, self.master.as_fd(), PollFlags::IN));
        }
        if !self.typed.is_empty() {
            wanted.push(of(Source::Taken, self.master.as_fd(), PollFlags::OUT));
        } else if self.reads {
            wanted.push(of(Source::Input, self.input, PollFlags::IN));
        }
        wanted
    }

    fn pass(&mut self, ready: &[Source]) -> Result<()> {
        for source in ready {
            match source {
                Source::Shown => self.read_terminal()?,
                Source::Taken => self.write_terminal(),
                Source::Input => self.read_input()?,
                Source::Output => self.write_output()?,
                Source::Signal | Source::End => {}
            }
        }
        Ok(())
    }

    /// Nothing more is typed, and only what is there already is shown.
    fn process_ended(&mut self) {
        self.typed.clear();
        self.reads = false;
        self.left = self.left.or(Some(LAST));
    }

    /// Whether there is anything to be shown.
    fn has_more(&self) -> bool {
        let mut list = [PollFd::new(self.master, PollFlags::IN)];
        !self.shown.is_empty()
            || self.left != Some(0)
                && poll(&mut list, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    fn read_terminal(&mut self) -> Result<()> {
        let mut buffer = [0; PIECE];
        match read(self.master, &mut buffer) {
            // EIO: nobody has the other side open any more.
            Ok(0) | Err(Errno::IO) => self.left = Some(0),
            Ok(count) => {
                self.shown = buffer.get(..count).unwrap_or_default().to_vec();
                self.left = self.left.map(|left| left.saturating_sub(count));
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno).context("the terminal"),
        }
        Ok(())
    }

    fn write_output(&mut self) -> Result<()> {
        match write(self.output, &self.shown) {
            Ok(taken) => drop(self.shown.drain(..taken)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno).context("standard output"),
        }
        Ok(())
    }

    fn read_input(&mut self) -> Result<()> {
        let mut buffer = [0; PIECE];
        // Not through the standard library's buffer, which poll does not see.
        match read(self.input, &mut buffer) {
            Ok(0) => {
                // As if it were typed: the end of input, Control-D.
                self.typed = vec![4];
                self.reads = false;
            }
            Ok(count) => self.typed = buffer.get(..count).unwrap_or_default().to_vec(),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno).context("standard input"),
        }
        Ok(())
    }

    fn write_terminal(&mut self) {
        match write(self.master, &self.typed) {
            Ok(taken) => drop(self.typed.drain(..taken)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Nobody reads it any more.
            Err(_) => {
                self.typed.clear();
                self.reads = false;
            }
        }
    }
}

/// Returns whether there was one for the process.
fn hand_on(signals: &Signals, process: BorrowedFd<'_>, terminal: Option<&OwnedFd>) -> Result<bool> {
    let mut any = false;
    while let Some(info) = signals.0.read()? {
        let Some(signal) = Signal::from_named_raw(info.signal) else {
            continue;
        };
        if signal == Signal::WINCH {
            if let Some(master) = terminal {
                copy_size(master);
            }
        } else if HANDED_ON.contains(&signal) {
            any = true;
            // It fails only for a process that has ended.
            send_signal(process, signal).ok();
        }
    }
    Ok(any)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write, pipe};
    use std::os::unix::net::UnixStream;
    use std::process::{Child, Command, Stdio};
    use std::thread;

    /// Much more than all that lies between.
    const MUCH: usize = 2 << 20;

    fn process(program: &str) -> (Child, OwnedFd) {
        let mut command = Command::new(program);
        let child = command.arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let pid = kedge_sys::process::Pid::from_raw(child.id().try_into().unwrap());
        let pidfd = kedge_sys::process::open_pidfd(pid.unwrap()).unwrap();
        (child, pidfd)
    }

    #[test]
    fn a_program_that_writes_before_it_reads_gets_all_of_its_input() {
        let signals = Signals::catch().unwrap();
        let (child, pidfd) = process("sleep");
        let ((input, mut typing), (mut output, out)) = (pipe().unwrap(), pipe().unwrap());
        let seen = thread::spawn(move || output.read_exact(&mut vec![0; MUCH]).unwrap());
        let (master, mut program) = UnixStream::pair().unwrap();
        let typist = thread::spawn(move || typing.write_all(&vec![b'x'; MUCH]).unwrap());
        let program = thread::spawn(move || {
            program.write_all(&vec![b'y'; MUCH]).unwrap();
            program.read_exact(&mut vec![0; MUCH]).unwrap();
            seen.join().unwrap();
            let pid = kedge_sys::process::Pid::from_child(&child);
            kedge_sys::rustix::process::kill_process(pid, Signal::KILL).unwrap();
            // It is not closed before the end: that of the input, which is written last, is not read.
            program
        });
        let master = OwnedFd::from(master);
        let streams = Streams::between(input.as_fd(), out.as_fd(), &master).unwrap();
        let status = watch(&signals, &pidfd, None, Some(streams)).unwrap();
        assert!(matches!(status, ExitStatus::Signaled { .. }), "{status:?}");
        typist.join().unwrap();
        drop(program.join().unwrap());
    }

    #[test]
    fn whoever_writes_on_after_the_process_holds_nobody_up() {
        let signals = Signals::catch().unwrap();
        let (_child, pidfd) = process("true");
        let ((input, _typing), (mut output, out)) = (pipe().unwrap(), pipe().unwrap());
        let seen = thread::spawn(move || output.read_to_end(&mut Vec::new()).unwrap());
        let (master, mut other) = UnixStream::pair().unwrap();
        let other = thread::spawn(move || while other.write_all(b"on and on\n").is_ok() {});
        let master = OwnedFd::from(master);
        let streams = Streams::between(input.as_fd(), out.as_fd(), &master).unwrap();
        let status = watch(&signals, &pidfd, None, Some(streams)).unwrap();
        assert_eq!(status, ExitStatus::Exited(0));
        drop((out, master));
        other.join().unwrap();
        seen.join().unwrap();
    }
}
