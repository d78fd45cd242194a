//! PID 1's control interface, as the agent asks it.

use crate::agent::milliseconds;
use crate::decide::{Device, Target, Trial};
use crate::error::{Error, Peer};
use crate::http::{Http, Request};
use kedge_api::device::{self as api, Failed};
use kedge_revision::{ObjectId, json};
use kedge_sys::rustix::event::{PollFd, PollFlags, poll};
use serde::Deserialize;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long PID 1 may take: it answers at once, but sealing a large object takes the kernel a while.
const PATIENCE: Duration = Duration::from_secs(150);
/// Largest status, bytes.
const MAX_STATUS: u64 = 256 * 1024;
/// Largest usage, bytes: of 64 containers it is a third of that.
const MAX_USAGE: u64 = 64 * 1024;
/// Largest answer to an offer, bytes.
const MAX_OFFER: u64 = 64 * 1024;
/// Longest reason that a hub is told, bytes; it cuts there itself.
const MAX_REASON: usize = 1024;
/// Most of a log that is read for its end, bytes.
const MAX_LOG: u64 = 256 * 1024;

/// What of the status counts here; the rest is passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    #[serde(default)]
    revision: Option<Revision>,
    #[serde(default)]
    slot: String,
    #[serde(default)]
    phase: String,
    /// Random for each boot.
    #[serde(default)]
    pub boot_id: String,
    /// Milliseconds since it.
    #[serde(default)]
    pub uptime_ms: u64,
    #[serde(default)]
    trial: Standing,
    #[serde(default)]
    update: Option<Update>,
    #[serde(default)]
    containers: Vec<api::Container>,
}

/// How what runs stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Standing {
    #[default]
    Committed,
    Trying {},
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Revision {
    id: String,
    version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Update {
    committed: Named,
    #[serde(default)]
    trial: Option<Named>,
    #[serde(default)]
    failed: Option<Failed>,
    #[serde(default)]
    floor: String,
    #[serde(default)]
    staging: Option<Staging>,
    #[serde(default)]
    locks: Vec<Lock>,
}

/// A container that holds updates back; which one is nobody's business here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Lock {}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Named {
    revision: ObjectId,
    parameters: u64,
    #[serde(default)]
    slot: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Staging {
    #[serde(default)]
    phase: String,
}

impl Named {
    fn target(&self) -> Target {
        Target {
            revision: self.revision,
            parameters: self.parameters,
        }
    }

    fn told(&self, version: &str) -> api::Target {
        api::Target {
            revision: self.revision,
            version: version.to_owned(),
            parameters: self.parameters,
            slot: self.slot.clone(),
        }
    }
}

impl Status {
    /// What is decided by.
    #[must_use]
    pub fn device(&self) -> Device {
        let update = self.update.as_ref();
        let stands = |trial: &Named| match self.trial {
            Standing::Trying {} => Trial::Runs,
            Standing::Committed => Trial::Waits(trial.target()),
        };
        let staging = update.and_then(|update| update.staging.as_ref());
        Device {
            committed: update.map(|update| update.committed.target()),
            trial: update.and_then(|update| update.trial.as_ref().map(stands)),
            failed: update.and_then(|update| {
                let failed = update.failed.as_ref()?;
                let target = Target {
                    revision: failed.revision,
                    parameters: failed.parameters,
                };
                Some((target, failed.reason.clone()))
            }),
            repair: self.repair(),
            busy: staging.is_some_and(|staging| {
                !staging.phase.is_empty() && !staging.phase.starts_with("receiving")
            }),
            locked: update.is_some_and(|update| !update.locks.is_empty()),
        }
    }

    /// Why nothing of a revision runs: PID 1 writes `repair`, and behind it everything that went wrong.
    fn repair(&self) -> Option<String> {
        let why = self.phase.strip_prefix("repair")?;
        let why = why.trim_start_matches(';').trim();
        let end = why.floor_char_boundary(MAX_REASON);
        why.get(..end).map(str::to_owned)
    }

    /// What a hub is told of it; number, phase and tails are the caller's.
    #[must_use]
    pub fn report(&self) -> api::Report {
        let update = self.update.as_ref();
        let version = |named: &Named| match &self.revision {
            Some(revision) if revision.id == named.revision.to_string() => revision.version.clone(),
            Some(_) | None => String::new(),
        };
        let told = |named: &Named| named.told(&version(named));
        let running = update.and_then(|update| {
            let id = &self.revision.as_ref()?.id;
            let candidates = [Some(&update.committed), update.trial.as_ref()];
            let mut running = candidates
                .into_iter()
                .flatten()
                .filter(|named| named.revision.to_string() == *id)
                .map(told)
                .next_back()?;
            running.slot.clone_from(&self.slot);
            Some(running)
        });
        api::Report {
            seq: 0,
            boot_id: self.boot_id.clone(),
            uptime_ms: self.uptime_ms,
            time: None,
            running,
            committed: update.map(|update| told(&update.committed)),
            floor: update.map_or_else(String::new, |update| update.floor.clone()),
            phase: api::Phase::Idle,
            failed: update.and_then(|update| update.failed.clone()),
            stale: false,
            containers: self.containers.clone(),
            action: 0,
            console: None,
            container_log: None,
        }
    }
}

/// PID 1's answer to an offer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Offer {
    /// The revision.
    pub revision: ObjectId,
    /// What it lacks.
    #[serde(default)]
    pub missing: Vec<Missing>,
    /// Further objects that it lacks, told by the next answer.
    #[serde(default)]
    pub more: u64,
}

/// An object that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Missing {
    /// Which.
    pub id: ObjectId,
    /// Its size, bytes.
    pub size: u64,
    /// Bytes of it that are there and good.
    pub have: u64,
}

/// The control interface. A connection a question: they are rare, and PID 1 keeps few.
#[derive(Debug)]
pub struct Local {
    path: PathBuf,
}

/// A body that goes to PID 1 in pieces.
#[derive(Debug)]
pub struct Upload<'a> {
    http: Http<UnixStream>,
    request: Request<'a>,
}

impl Upload<'_> {
    /// The next piece. PID 1 takes no more where it has refused; its answer says why, and the rest need not be fetched.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Connection`].
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut answered = [PollFd::new(self.http.stream(), PollFlags::IN)];
        if matches!(poll(&mut answered, Some(&milliseconds(0))), Ok(1..)) {
            self.http.head(&self.request)?;
            return Err(Error::Protocol {
                doing: self.request.doing,
                what: "an answer before its question",
            });
        }
        match self.http.send_body(&self.request, bytes) {
            Ok(()) => Ok(()),
            Err(broken) => match self.http.head(&self.request) {
                Err(refused @ Error::Refused { .. }) => Err(refused),
                Ok(_) | Err(_) => Err(broken),
            },
        }
    }

    /// The answer.
    ///
    /// # Errors
    /// As [`Http::ask`].
    pub fn finish(mut self) -> Result<Vec<u8>, Error> {
        let head = self.http.head(&self.request)?;
        let mut answer = Vec::new();
        self.http
            .body(&self.request, &head, MAX_OFFER, &mut |part| {
                answer.extend_from_slice(part);
                Ok(())
            })?;
        Ok(answer)
    }
}

const fn get<'a>(doing: &'static str, target: &'a str) -> Request<'a> {
    Request {
        doing,
        method: "GET",
        target,
        fields: "",
        length: 0,
    }
}

const fn log_request(target: &str) -> Request<'_> {
    get("ask for the log", target)
}

impl Local {
    /// At this socket.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    fn connect(&self, doing: &'static str) -> Result<Http<UnixStream>, Error> {
        let failed = |source| Error::Control { doing, source };
        let stream = UnixStream::connect(&self.path).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(Http::new(Peer::Init, stream, "device".to_owned()))
    }

    fn ask(&self, request: &Request<'_>, most: u64) -> Result<Vec<u8>, Error> {
        let mut http = self.connect(request.doing)?;
        http.ask(request, &[], most).map(|(_, body)| body)
    }

    /// `GET /v1/status`.
    ///
    /// # Errors
    /// [`Error::Control`], [`Error::Refused`], [`Error::Message`].
    pub fn status(&self) -> Result<Status, Error> {
        let request = get("ask for the status", "/v1/status");
        let body = self.ask(&request, MAX_STATUS)?;
        json::read(&body).map_err(|source| Error::Message {
            what: "the status",
            source,
        })
    }

    /// `GET /v1/usage`: an object for a hub, as PID 1 writes it. None if it does not tell: nothing depends on it.
    #[must_use]
    pub fn usage(&self) -> Option<Vec<u8>> {
        let request = get("ask what is used", "/v1/usage");
        let usage = self.ask(&request, MAX_USAGE).ok()?;
        (usage.starts_with(b"{") && usage.ends_with(b"}")).then_some(usage)
    }

    /// `POST`, without a body.
    ///
    /// # Errors
    /// [`Error::Control`], [`Error::Refused`].
    pub fn post(&self, doing: &'static str, target: &str) -> Result<(), Error> {
        let request = Request {
            doing,
            method: "POST",
            target,
            fields: "",
            length: 0,
        };
        self.ask(&request, MAX_OFFER).map(drop)
    }

    /// Begins an upload.
    ///
    /// # Errors
    /// [`Error::Control`], [`Error::Connection`].
    pub fn upload<'a>(&self, request: Request<'a>) -> Result<Upload<'a>, Error> {
        let mut http = self.connect(request.doing)?;
        http.send(&request)?;
        Ok(Upload { http, request })
    }

    /// Hands a root over, in the form of a head.
    ///
    /// # Errors
    /// As [`Upload::finish`].
    pub fn root(&self, head: &[u8]) -> Result<(), Error> {
        let mut upload = self.upload(Request {
            doing: "hand a root to PID 1",
            method: "POST",
            target: "/v1/update/root",
            fields: "",
            length: u64::try_from(head.len()).unwrap_or(0),
        })?;
        upload.send(head)?;
        upload.finish().map(drop)
    }

    /// Offers the head of a bundle.
    ///
    /// # Errors
    /// As [`Upload::finish`]; [`Error::Message`].
    pub fn offer(&self, head: &[u8]) -> Result<Offer, Error> {
        let mut upload = self.upload(Request {
            doing: "offer the revision",
            method: "POST",
            target: "/v1/update/offer",
            fields: "",
            length: u64::try_from(head.len()).unwrap_or(0),
        })?;
        upload.send(head)?;
        json::read(&upload.finish()?).map_err(|source| Error::Message {
            what: "the answer to the offer",
            source,
        })
    }

    /// Lines of the log, JSON each, from a number on, or all: whole ones, at most `most` bytes of them, the oldest first;
    /// only the `last` ones, if that is told. And whether that were all.
    ///
    /// # Errors
    /// As [`Local::status`].
    pub fn lines(
        &self,
        since: Option<u64>,
        last: Option<u32>,
        most: usize,
    ) -> Result<(Vec<u8>, bool), Error> {
        let pairs = [
            since.map(|since| format!("since={since}")),
            last.map(|last| format!("limit={last}")),
        ];
        let pairs: Vec<String> = pairs.into_iter().flatten().collect();
        let target = format!("/v1/logs?{}", pairs.join("&"));
        let request = log_request(&target);
        let mut http = self.connect(request.doing)?;
        http.send(&request)?;
        let head = http.head(&request)?;
        let mut lines = Vec::new();
        let mut full = false;
        let read = http.body(&request, &head, u64::MAX, &mut |part| {
            lines.extend_from_slice(part);
            full = lines.len() > most;
            // The connection ends with this: nothing more of it is read.
            let enough = Error::Protocol {
                doing: request.doing,
                what: "more than is wanted",
            };
            if full { Err(enough) } else { Ok(()) }
        });
        if !full {
            read?;
        }
        let end = lines.len().min(most);
        let whole = lines.get(..end).unwrap_or_default();
        let newline = whole.iter().rposition(|byte| *byte == b'\n');
        lines.truncate(newline.map_or(0, |at| at.saturating_add(1)));
        Ok((lines, !full))
    }

    /// The end of what a source has said, as text of at most [`api::Report::TAIL`] bytes; empty if it has said nothing.
    #[must_use]
    pub fn tail(&self, source: &str) -> String {
        #[derive(Deserialize)]
        struct Line {
            text: String,
        }
        let target = format!("/v1/logs?container={source}&limit=64");
        let Ok(lines) = self.ask(&log_request(&target), MAX_LOG) else {
            return String::new();
        };
        let mut texts = Vec::new();
        let mut left = api::Report::TAIL;
        for line in lines.split(|byte| *byte == b'\n').rev() {
            let Ok(Line { text }) = json::read(line) else {
                continue;
            };
            match left.checked_sub(text.len().saturating_add(1)) {
                Some(rest) => left = rest,
                None => break,
            }
            texts.push(text);
        }
        texts.reverse();
        texts.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_device_is_in_repair_mode_is_read_from_the_phase() {
        let reason = |phase: &str| {
            let phase = phase.to_owned();
            let status = Status {
                phase,
                ..Status::default()
            };
            status.device().repair
        };
        assert_eq!(reason("running"), None);
        assert_eq!(reason("running; clock: no clock"), None);
        assert_eq!(reason("repair"), Some(String::new()));
        let why = "boot-record: the committed slot does not load; trust: no root";
        assert_eq!(reason(&format!("repair; {why}")).as_deref(), Some(why));
        let long = reason(&format!("repair; {}", "ß".repeat(5000))).unwrap();
        assert_eq!(long.len(), MAX_REASON);
    }

    #[test]
    fn a_status_is_read_as_pid_1_writes_it() {
        let one = "11".repeat(32);
        let two = "22".repeat(32);
        let json = format!(
            r#"{{"product":"gateway","board":"b","mode":"development","revision":{{"id":"v1:{two}","version":"1.2"}},
            "slot":"b","phase":"running","boot-id":"x","uptime-ms":5,"trial":{{"trying":{{"tries-left":2}}}},
            "update":{{"committed":{{"revision":"v1:{one}","parameters":3,"slot":"a"}},
            "trial":{{"revision":"v1:{two}","parameters":4,"slot":"b"}},
            "failed":{{"revision":"v1:{one}","parameters":1,"reason":"operator"}},"floor":"1.2","unsettled":0,
            "watchdog-resets":0,"locks":[{{"container":"web","until-ms":9}}]}},"goals-missing":[],
            "containers":[{{"name":"web","group":"app","state":"running","pid":7,"ready":true,"restarts":1,"since-ms":4}}],
            "memory":{{"total":1,"available":1}}}}"#
        );
        let status: Status = serde_json::from_str(&json).unwrap();
        let device = status.device();
        assert_eq!(device.committed.map(|target| target.parameters), Some(3));
        assert!(device.locked);
        assert_eq!(
            (device.trial, device.repair, device.busy),
            (Some(Trial::Runs), None, false)
        );
        assert_eq!(device.failed.unwrap().1, "operator");
        let waits = json.replace(r#"{"trying":{"tries-left":2}}"#, r#""committed""#);
        let waits: Status = serde_json::from_str(&waits).unwrap();
        let waiting = Target {
            revision: ObjectId::from_digest([0x22; 32]),
            parameters: 4,
        };
        assert_eq!(waits.device().trial, Some(Trial::Waits(waiting)));
        let report = status.report();
        let running = report.running.unwrap();
        assert_eq!((running.version.as_str(), running.parameters), ("1.2", 4));
        assert_eq!(running.slot, "b");
        assert_eq!(report.containers[0].pid, Some(7));
    }
}
