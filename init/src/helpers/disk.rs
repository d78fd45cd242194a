//! The `disk` helper: whatever may block on the data partition, outside PID 1.
//!
//! It appends log batches to segments, keeps the device's history, grows the file system on first boot and syncs. It keeps root, which owns `/data/logs`, without any capability but the one
//! that growing takes (`CAP_SYS_RESOURCE`), and gives that up, too, after growing. It opens no network
//! and executes nothing.
//!
//! A failure is reported and does not end it. It may take long: each sync waits for all that stands in the same transaction of
//! the file system. So it does not make the probes of the store itself ([`probe`]).

mod earlier;
mod events;
mod frames;
mod grow;
pub mod probe;
mod segments;

pub use frames::{Report, Request};
pub use segments::Segments;

use super::{Error, confine, hold};
use crate::boot::files;
use events::Events;
use kedge_revision::enrolment::Provision;
use kedge_revision::parameters::Parameters;
use kedge_sys::privilege::CapabilitySet;
use kedge_sys::rustix::event::{PollFd, PollFlags, poll};
use kedge_sys::{Errno, sock, timer};
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

/// Largest frame from PID 1: a batch of at most 16 KiB, and its kind.
const MAX_REQUEST: usize = 20 * 1024;
/// Most bytes of a provisioning's values that a device keeps: a frame has room for them.
pub(crate) const MOST_KEPT: usize = 16 * 1024;
/// What was appended is on disk after so long at the latest.
const SYNC_AFTER: Duration = Duration::from_secs(5);
/// Where logs are, on the device.
pub const DIRECTORY: &str = "/data/logs";

/// The helper: confines itself and serves until PID 1 closes `socket`. `directory` is made if it is absent; the history
/// is beside it, in `history`.
///
/// # Errors
/// [`Error::Privilege`]; [`Error::Socket`] if PID 1's end breaks.
#[inline(never)]
pub fn run(socket: BorrowedFd<'_>, directory: &Path) -> Result<(), Error> {
    confine(CapabilitySet::SYS_RESOURCE)?;
    Disk::new(socket, directory).serve()
}

/// The helper's state.
#[derive(Debug)]
struct Disk<'a> {
    socket: BorrowedFd<'a>,
    directory: &'a Path,
    segments: Option<Segments>,
    events: Events,
    /// Held open for those who probe ([`probe::open`] says why).
    probed: Option<File>,
    /// When what is appended must be on disk.
    sync_at: Option<Duration>,
    /// The last failure of the logs that was reported: each kind is told once until it is over.
    failing: Option<Errno>,
}

impl<'a> Disk<'a> {
    fn new(socket: BorrowedFd<'a>, directory: &'a Path) -> Self {
        Self {
            socket,
            directory,
            segments: None,
            events: Events::new(directory.with_file_name("history")),
            probed: None,
            sync_at: None,
            failing: None,
        }
    }

    fn serve(&mut self) -> Result<(), Error> {
        let mut buffer = vec![0; MAX_REQUEST];
        loop {
            if !self.wait()? {
                self.sync()?;
                continue;
            }
            match sock::receive(self.socket, &mut buffer) {
                Ok(received) if received.bytes == 0 => break,
                Ok(received) => {
                    let frame = buffer.get(..received.bytes).unwrap_or_default();
                    let request = Request::decode(frame).map_err(Error::Frame)?;
                    self.perform(&request)?;
                }
                Err(error) if matches!(error.errno, Errno::AGAIN | Errno::INTR) => {}
                Err(error) if error.errno == Errno::CONNRESET => break,
                Err(error) => return Err(Error::Socket(error)),
            }
        }
        // PID 1 has closed: what it gave is kept, and there is nobody to report to.
        self.segments.as_mut().map_or(Ok(()), Segments::sync)
    }

    /// Waits for a request; false: it is time to sync.
    fn wait(&self) -> Result<bool, Error> {
        let timeout = self
            .sync_at
            .map(|at| timer::timespec(at.saturating_sub(timer::now())));
        let mut waiting = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut waiting, timeout.as_ref()) {
            Ok(ready) => Ok(ready > 0),
            // Then the receive finds nothing, or something.
            Err(Errno::INTR) => Ok(true),
            Err(errno) => Err(Error::Socket(kedge_sys::Error::new("poll", errno))),
        }
    }

    fn perform(&mut self, request: &Request<'_>) -> Result<(), Error> {
        match *request {
            Request::Configure { disk_max, boot_id } => {
                self.events.set_boot(boot_id);
                let opened = Segments::open(self.directory, disk_max, boot_id);
                let outcome = opened.map(|segments| self.segments = Some(segments));
                // Where it cannot be opened each probe says why.
                self.probed = probe::open(self.directory).ok();
                self.logs(outcome)
            }
            Request::Append(batch) => {
                let Some(segments) = &mut self.segments else {
                    return Ok(());
                };
                let outcome = segments.append(batch);
                self.sync_at.get_or_insert(timer::now() + SYNC_AFTER);
                self.logs(outcome)
            }
            Request::Grow { device } => {
                let begins = || self.report(&Report::Growing);
                let report = match grow::grow(self.directory, Path::new(device), begins) {
                    Ok((before, after)) => Report::Grown { before, after },
                    Err(error) => Report::GrowFailed(error.errno()),
                };
                hold(CapabilitySet::empty())?;
                self.report(&report)
            }
            Request::Sync { token } => {
                let outcome = self.segments.as_mut().map_or(Ok(()), Segments::sync);
                self.sync_at = None;
                let failed = outcome.err().map(|error| error.errno());
                self.report(&Report::Synced { token, failed })
            }
            Request::Note(event) => {
                let failed = self.events.append(event).err().map(|error| error.errno());
                self.report(&Report::Noted { failed })
            }
            Request::History { token } => self.tell(token, &self.events.newest()),
            Request::Earlier { token, back, from } => {
                let page = earlier::page(self.directory, back, from);
                // Whoever asked waits for an answer: of what cannot be read there is none.
                let page = page.unwrap_or_else(|error| {
                    complain("logs", &error);
                    Vec::new()
                });
                self.tell(token, &page)
            }
            Request::Provision(document) => {
                // The device goes on with what is given in this boot.
                complain_of_provisioning(self.provision(document));
                Ok(())
            }
            Request::Provisioned => {
                // The next boot tries again.
                complain_of_provisioning(self.provisioned());
                Ok(())
            }
        }
    }

    /// Keeps values, unless they are kept already.
    fn provision(&self, document: &[u8]) -> Result<(), kedge_store::Error> {
        let directory = self.directory.with_file_name("device");
        let path = directory.join("parameters.json");
        if std::fs::read(&path).is_ok_and(|kept| kept == document) {
            return Ok(());
        }
        kedge_store::durable::make_directory(&directory)?;
        kedge_store::durable::write(&path, document)
    }

    /// Removes what was given on the disk. Its values are kept then: that may have failed before, on a disk that was full.
    fn provisioned(&self) -> Result<(), kedge_store::Error> {
        let directory = self.directory.with_file_name("device");
        let path = directory.join(crate::boot::PROVISION_ON_DISK);
        let given = files::read_if_there(&path, Provision::CAP).ok().flatten();
        let given = given.and_then(|bytes| String::from_utf8(bytes).ok());
        if let Some(document) = given.as_deref().and_then(kept_values) {
            self.provision(&document)?;
        }
        kedge_store::durable::remove(&path)
    }

    fn tell(&self, token: u32, lines: &[u8]) -> Result<(), Error> {
        let mut rest = lines;
        loop {
            let (bytes, after) = rest.split_at(rest.len().min(Report::PART));
            let more = !after.is_empty();
            self.report(&Report::History { token, more, bytes })?;
            if !more {
                return Ok(());
            }
            rest = after;
        }
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.sync_at = None;
        let outcome = self.segments.as_mut().map_or(Ok(()), Segments::sync);
        self.logs(outcome)
    }

    /// Reports a failure of the logs once, and its end.
    fn logs(&mut self, outcome: Result<(), Error>) -> Result<(), Error> {
        let failing = outcome.err().map(|error| error.errno());
        if failing == self.failing {
            return Ok(());
        }
        self.failing = failing;
        self.report(&Report::Logs { failed: failing })
    }

    /// Blocks if PID 1 is slow: PID 1 never waits for this helper, so both cannot wait.
    fn report(&self, report: &Report<'_>) -> Result<(), Error> {
        sock::send(self.socket, &report.encode(), &[])
            .map(drop)
            .map_err(Error::Socket)
    }
}

/// The values of a provisioning as a device keeps them: none if there are none, or more than are kept.
pub(crate) fn kept_values(provision: &str) -> Option<Vec<u8>> {
    let values = crate::boot::provisioned_values(provision);
    if values.is_empty() {
        return None;
    }
    let document = Parameters::new(0, values).encode().ok()?;
    (document.len() <= MOST_KEPT).then_some(document)
}

/// On the console: what of a provisioning did not work.
fn complain(of: &str, error: &dyn core::fmt::Display) {
    use std::io::Write;
    writeln!(std::io::stderr(), "kedge: {of}: {error}").ok();
}

fn complain_of_provisioning(outcome: Result<(), kedge_store::Error>) {
    if let Err(error) = outcome {
        complain("provisioning", &error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::helpers::{Incoming, Link};
    use crate::log::{Journal, Stream};
    use std::os::fd::AsFd;

    /// What the helper answers to these requests.
    fn answers(logs: &Path, requests: &[Request<'_>], count: usize) -> Vec<Vec<u8>> {
        let (own, other) = sock::pair(sock::Kind::Messages).unwrap();
        let link = Link::new(own).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        std::thread::scope(|scope| {
            // Dropped where a test fails, which ends the helper.
            let mut link = link;
            let helper = scope.spawn(|| Disk::new(other.as_fd(), logs).serve());
            for request in requests {
                link.send(request.encode()).unwrap();
                link.flush().unwrap();
            }
            let mut frames = Vec::new();
            let mut buffer = [0; 4096];
            while frames.len() < count {
                assert!(
                    std::time::Instant::now() < deadline,
                    "{} answers",
                    frames.len()
                );
                match link.receive(&mut buffer).unwrap() {
                    Incoming::Frame(frame) => frames.push(frame.to_vec()),
                    Incoming::Nothing => std::thread::sleep(Duration::from_millis(1)),
                    Incoming::Closed => panic!("closed"),
                }
            }
            drop(link);
            helper.join().unwrap().unwrap();
            frames
        })
    }

    #[test]
    fn what_was_given_goes_when_its_values_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let device = directory.path().join("device");
        std::fs::create_dir(&device).unwrap();
        let given = device.join("provision.json");
        let kept = device.join("parameters.json");
        let document = r#"{"spec":"kedge.provision/1","parameters":{"site":"north"}}"#;
        kedge_store::durable::write(&given, document.as_bytes()).unwrap();
        // Nothing can be kept at that place, nor could it when the device started.
        std::fs::create_dir(&kept).unwrap();
        let (own, _other) = sock::pair(sock::Kind::Messages).unwrap();
        let logs = directory.path().join("logs");
        let disk = Disk::new(own.as_fd(), &logs);
        disk.provisioned().unwrap_err();
        assert_eq!(std::fs::read_to_string(&given).unwrap(), document);
        std::fs::remove_dir(&kept).unwrap();
        disk.provisioned().unwrap();
        assert!(!given.exists());
        let values = Parameters::parse(&std::fs::read(&kept).unwrap()).unwrap();
        assert_eq!(values.values.len(), 1);
        // Each boot says it again.
        disk.provisioned().unwrap();
        assert!(kept.exists());
    }

    #[test]
    fn the_history_is_kept_and_told_in_parts() {
        let directory = tempfile::tempdir().unwrap();
        let logs = directory.path().join("logs");
        let configure = Request::Configure {
            disk_max: 65536,
            boot_id: "b1",
        };
        let event = format!("{{\"event\":\"{}\"}}", "x".repeat(2100));
        let note = Request::Note(event.as_bytes());
        let told = Request::History { token: 7 };
        let frames = answers(&logs, &[configure, told, note, note, note, told], 7);
        let reports: Vec<_> = frames
            .iter()
            .map(|frame| Report::decode(frame).unwrap())
            .collect();
        let none = Report::History {
            token: 7,
            more: false,
            bytes: b"",
        };
        assert_eq!(reports[0], none);
        assert_eq!(reports[1..4], [Report::Noted { failed: None }; 3]);
        let mut text = Vec::new();
        for (index, report) in reports[4..].iter().enumerate() {
            let Report::History {
                token: 7,
                more,
                bytes,
            } = report
            else {
                panic!("{report:?}");
            };
            assert!(bytes.len() <= Report::PART && *more == (index < 2));
            text.extend_from_slice(bytes);
        }
        let path = directory.path().join("history/events.jsonl");
        let kept = std::fs::read_to_string(path).unwrap();
        assert_eq!(kept.replace("\"boot-id\":\"b1\",", "").into_bytes(), text);
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 3);
        // What is no event ends nothing.
        let frames = answers(&logs, &[configure, Request::Note(b"x"), told], 4);
        let refused = Report::Noted {
            failed: Some(Errno::INVAL),
        };
        assert_eq!(Report::decode(&frames[0]), Ok(refused));
    }

    #[test]
    fn a_whole_conversation() {
        let directory = tempfile::tempdir().unwrap();
        let logs = directory.path().join("logs");
        let mut journal = Journal::new();
        journal.say(Stream::Notice, format_args!("hello \"disk\""), 5);
        let batch = journal.batch(6).unwrap();
        let requests = [
            Request::Configure {
                disk_max: 65536,
                boot_id: "b1",
            },
            Request::Append(&batch),
            Request::Sync { token: 10 },
        ];
        let frames = answers(&logs, &requests, 1);
        let synced = Report::Synced {
            token: 10,
            failed: None,
        };
        assert_eq!(Report::decode(&frames[0]), Ok(synced));
        assert!(logs.join("probe").exists());
        let text = std::fs::read_to_string(logs.join("0000000001.jsonl")).unwrap();
        assert_eq!(
            text,
            "{\"boot-id\":\"b1\"}\n{\"seq\":1,\"time-ms\":5,\"source\":\"kedge\",\"stream\":\"notice\",\"text\":\"hello \\\"disk\\\"\"}\n"
        );
    }
}
