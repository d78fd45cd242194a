//! What somebody at a terminal has of a device: a terminal there, and logs as they come. Checks on a boot of another test.

use crate::exec::{kedge, run};
use anyhow::{Context, Result, bail, ensure};
use kedge_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use kedge_sys::rustix::io::{read, write};
use kedge_sys::rustix::termios::{LocalModes, tcgetattr};
use kedge_sys::terminal::{Terminal, set_size};
use kedge_tests::guest::Guest;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);

/// What comes at a descriptor until it has said something.
struct Heard(OwnedFd, String);

impl Heard {
    fn until(&mut self, wanted: &str, patience: Duration) -> Result<bool> {
        let begun = Instant::now();
        while !self.1.contains(wanted) {
            let left = patience.saturating_sub(begun.elapsed());
            let mut list = [PollFd::new(&self.0, PollFlags::IN)];
            if poll(&mut list, Some(&Timespec::try_from(left)?))? == 0 {
                return Ok(false);
            }
            let mut buffer = [0; 4096];
            let count = read(&self.0, &mut buffer)?;
            if count == 0 {
                bail!("it ended after {:?}", self.1);
            }
            let more = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default());
            self.1.push_str(&more);
        }
        Ok(true)
    }

    fn expect(&mut self, wanted: &str) -> Result<()> {
        ensure!(self.until(wanted, SOON)?, "no {wanted:?}: {:?}", self.1);
        Ok(())
    }
}

/// Ends with the check, however that ends.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// `ctl exec -it` in a terminal of this machine: its size, its change of size, its keys; the terminal is as before when it ends.
pub(super) fn terminal(guest: &mut Guest) -> Result<()> {
    let Terminal { master, slave } = Terminal::open()?;
    set_size(&master, 31, 97)?;
    let words = ["exec", "-it", "confined", "/probe", "terminal"];
    let side = || slave.try_clone().map(Stdio::from);
    let child = kedge(guest, &words)
        .stdin(side()?)
        .stdout(side()?)
        .stderr(side()?)
        .env("TERM", "vt100")
        .spawn()?;
    let mut client = Client(child);
    let mut heard = Heard(master.try_clone()?, String::new());
    heard.expect("terminal 31 97 /dev/pts/0\r\n")?;
    let is_cooked = || -> Result<bool> {
        let modes = tcgetattr(slave.as_fd())?.local_modes;
        Ok(modes.contains(LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHO))
    };
    ensure!(!is_cooked()?, "keys mean something on this side");
    set_size(&master, 50, 132)?;
    let begun = Instant::now();
    loop {
        // The change takes a moment; a line makes the program look.
        write(&master, b"look\r")?;
        if heard.until("terminal 50 132", Duration::from_secs(1))? {
            break;
        }
        ensure!(begun.elapsed() < SOON, "its size stays: {:?}", heard.1);
    }
    // Control-C, which ends the program there, and not the client here. SIGINT is 2.
    write(&master, &[3])?;
    let begun = Instant::now();
    let ended = loop {
        if let Some(ended) = client.0.try_wait()? {
            break ended;
        }
        ensure!(begun.elapsed() < SOON, "Control-C does not end it");
        std::thread::sleep(Duration::from_millis(50));
    };
    ensure!(ended.code() == Some(130), "{ended:?}: {:?}", heard.1);
    ensure!(is_cooked()?, "the terminal stays raw");
    Ok(())
}

/// After an orderly restart: all that was said before it is on the disk.
pub(super) fn earlier(guest: &mut Guest) -> Result<()> {
    let said = |words: &[&str]| -> Result<String> {
        let output = run(guest, &[&["logs"], words].concat(), b"")?;
        ensure!(output.status.success(), "{words:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let before = said(&["--boot", "-1", "first"])?;
    ensure!(before.contains("said READY=1"), "{before}");
    ensure!(!before.contains("confined"), "lines of others: {before}");
    // The flood of an earlier check makes many pages of it.
    let all = said(&["--boot", "-1"])?;
    let (lines, system) = (all.lines().count(), said(&["--boot", "-1", "kedge"])?);
    ensure!(all.len() > 100_000, "{} bytes in {lines} lines", all.len());
    let last = system.lines().last().unwrap_or_default();
    let end = said(&["--boot", "-1", "-n", "1", "kedge"])?;
    ensure!(end.trim_end() == last, "{end:?} is not {last:?}");
    let none = run(guest, &["logs", "--boot", "-9"], b"")?;
    let why = String::from_utf8_lossy(&none.stderr).into_owned();
    ensure!(
        !none.status.success() && why.contains("no logs of that boot"),
        "{none:?}"
    );
    Ok(())
}

/// `ctl logs -f` has what was said, and then goes on with each line as it comes.
pub(super) fn logs_follow(guest: &mut Guest) -> Result<()> {
    let mut child = kedge(guest, &["logs", "-f", "web"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().context("no output")?;
    let mut client = Client(child);
    let mut heard = Heard(output.into(), String::new());
    heard.expect("listening")?;
    for lines in 1..=3_u32 {
        let last = format!("{:08} xxx", lines.saturating_sub(1));
        let before = heard.1.matches(&last).count();
        let answer = guest.get(8080, &format!("/flood/{lines}"))?;
        ensure!(answer.status == 200, "{answer:?}");
        let begun = Instant::now();
        while heard.1.matches(&last).count() <= before {
            ensure!(begun.elapsed() < SOON, "no {last:?}: {:?}", heard.1);
            let seen = std::mem::take(&mut heard.1);
            heard.until("\n", Duration::from_secs(1))?;
            heard.1.insert_str(0, &seen);
        }
        ensure!(client.0.try_wait()?.is_none(), "it does not go on");
    }
    ensure!(
        !heard.1.contains("confined"),
        "lines of others: {:?}",
        heard.1
    );
    Ok(())
}
