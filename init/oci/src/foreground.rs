//! Standing in for a process that was started in the foreground: its terminal, signals for it, its end.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use kedge_sys::process::{ExitStatus, Signal, send_signal, try_wait_pidfd};
use kedge_sys::rustix::event::{PollFd, PollFlags, poll};
use kedge_sys::rustix::io::{read, write};
use kedge_sys::signals::{SignalFd, SignalSet, set_blocked};
use kedge_sys::terminal::Raw;

use crate::terminal::copy_size;

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
    let status = watch(signals, process, terminal);
    drop(raw);
    Ok(match status? {
        ExitStatus::Exited(code) => u8::try_from(code).unwrap_or(u8::MAX),
        ExitStatus::Signaled { signal, .. } => {
            u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX)
        }
    })
}

fn watch(signals: &Signals, process: &OwnedFd, terminal: Option<&OwnedFd>) -> Result<ExitStatus> {
    let input = std::io::stdin();
    let (mut reads, mut shows) = (terminal.is_some(), terminal.is_some());
    loop {
        let mut list = vec![
            PollFd::new(&signals.0, PollFlags::IN),
            PollFd::new(process, PollFlags::IN),
        ];
        // What is not read is not looked at: its end would be news for ever.
        if let Some(master) = terminal.filter(|_| shows) {
            list.push(PollFd::new(master, PollFlags::IN));
        }
        if reads {
            list.push(PollFd::new(&input, PollFlags::IN));
        }
        match poll(&mut list, None) {
            Ok(_) | Err(kedge_sys::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = |at: usize| list.get(at).is_some_and(|one| !one.revents().is_empty());
        let (signal, end, shown) = (ready(0), ready(1), shows && ready(2));
        let typed = reads && ready(if shows { 3 } else { 2 });
        if let Some(master) = terminal {
            if shown {
                shows = show(master)?;
            }
            if typed {
                reads = pass(&input, master)?;
            }
        }
        if signal {
            hand_on(signals, process.as_fd(), terminal)?;
        }
        // The terminal first: what the process has written before its end is to be seen.
        if end
            && !shown
            && let Some(status) = try_wait_pidfd(process.as_fd())?
        {
            return Ok(status);
        }
    }
}

/// From the terminal to our output; whether there may be more.
fn show(master: &OwnedFd) -> Result<bool> {
    let mut buffer = [0; 8192];
    match read(master, &mut buffer) {
        // EIO: nobody has the other side open any more.
        Ok(0) | Err(kedge_sys::Errno::IO) => Ok(false),
        Ok(count) => {
            let mut output = std::io::stdout().lock();
            output.write_all(buffer.get(..count).unwrap_or_default())?;
            output.flush()?;
            Ok(true)
        }
        Err(kedge_sys::Errno::AGAIN | kedge_sys::Errno::INTR) => Ok(true),
        Err(errno) => Err(errno).context("the terminal"),
    }
}

/// From our input to the terminal; whether there may be more.
fn pass(input: &std::io::Stdin, master: &OwnedFd) -> Result<bool> {
    let mut buffer = [0; 4096];
    // Not through the standard library's buffer, which poll does not see.
    let count = read(input, &mut buffer)?;
    if count == 0 {
        // As if it were typed: the end of input, Control-D.
        write(master, &[4]).ok();
        return Ok(false);
    }
    let mut rest = buffer.get(..count).unwrap_or_default();
    while !rest.is_empty() {
        match write(master, rest) {
            Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
            Err(kedge_sys::Errno::INTR) => {}
            Err(_) => return Ok(false),
        }
    }
    Ok(true)
}

fn hand_on(signals: &Signals, process: BorrowedFd<'_>, terminal: Option<&OwnedFd>) -> Result<()> {
    while let Some(info) = signals.0.read()? {
        let Some(signal) = Signal::from_named_raw(info.signal) else {
            continue;
        };
        if signal == Signal::WINCH {
            if let Some(master) = terminal {
                copy_size(master);
            }
        } else if HANDED_ON.contains(&signal) {
            // It fails only for a process that has ended.
            send_signal(process, signal).ok();
        }
    }
    Ok(())
}
