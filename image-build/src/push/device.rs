//! The device's update interface, a function a request. What newer devices say beside this is passed over.

use crate::http::{self, Request};
use crate::payload::Payload;
use anyhow::{Context, Result, ensure};
use kedge_revision::ObjectId;
use kedge_revision::verity::BLOCK;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// For an answer that PID 1 gives by itself.
    pub answer: Duration,
    /// For an answer that needs the device's disk: writing, sealing, and reading a slot back.
    pub work: Duration,
    /// Between two looks at a trial, and before what was cut is tried again.
    pub pause: Duration,
    /// For a device that says nothing while it is on trial: it boots, or its watchdog makes it boot.
    pub silence: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(10),
            work: Duration::from_secs(180),
            pause: Duration::from_secs(1),
            silence: Duration::from_secs(180),
        }
    }
}

/// A device behind a control socket.
#[derive(Debug, Clone)]
pub struct Device {
    socket: PathBuf,
    waits: Waits,
}

/// What a revision changes on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It runs already.
    Nothing,
    /// Some containers begin anew; the others keep their processes.
    Restart,
    /// The device boots again from the slot that it has.
    Reboot,
    /// The other slot is written, and the device boots from it.
    Slot,
    /// Something that a newer device knows.
    #[serde(other)]
    Other,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing changes",
            Self::Restart => "containers restart, the device does not",
            Self::Reboot => "the device reboots",
            Self::Slot => "the other slot is written, and the device reboots from it",
            Self::Other => "the device does as it must",
        })
    }
}

/// An object that a device lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Missing {
    /// Which.
    pub id: ObjectId,
    /// Its size, bytes.
    pub size: u64,
    /// Bytes of it that are there and good.
    #[serde(default)]
    pub have: u64,
}

/// A device's answer to an offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Offer {
    /// The revision that was offered.
    pub revision: ObjectId,
    /// What the revision changes.
    pub change: Change,
    /// What must be sent.
    #[serde(default)]
    pub missing: Vec<Missing>,
    /// Further objects that must be, told by the next answer to the same offer.
    #[serde(default)]
    pub more: u64,
    /// What it takes on the device's disk, bytes.
    #[serde(default)]
    pub needed_bytes: u64,
    /// Under which counter parameters would be tried, if the device says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
}

impl Offer {
    /// Objects that are still to be sent.
    #[must_use]
    pub fn missing_objects(&self) -> u64 {
        let listed = u64::try_from(self.missing.len()).unwrap_or(u64::MAX);
        listed.saturating_add(self.more)
    }

    /// Bytes of the listed objects that are still to be sent.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        let sizes = self
            .missing
            .iter()
            .map(|object| object.size.saturating_sub(object.have));
        sizes.fold(0, u64::saturating_add)
    }

    /// Whether it is about this payload, and asks for nothing that there is not.
    fn check(&self, payload: &Payload) -> Result<()> {
        ensure!(
            self.revision == payload.id(),
            "the device speaks of revision {}",
            self.revision
        );
        for Missing { id, size, have } in &self.missing {
            let block = u64::try_from(BLOCK).unwrap_or(u64::MAX);
            let aligned = have.is_multiple_of(block) || have == size;
            ensure!(
                payload.size(*id)? == *size && have <= size && aligned,
                "the device asks for object {id} of {size} bytes from byte {have} on"
            );
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Done {
    done: u64,
}

#[derive(Deserialize)]
struct Applied {
    change: Change,
}

impl Device {
    /// The device behind a socket.
    #[must_use]
    pub fn new(socket: &Path, waits: Waits) -> Self {
        Self {
            socket: socket.to_owned(),
            waits,
        }
    }

    /// How long is waited for what.
    #[must_use]
    pub const fn waits(&self) -> &Waits {
        &self.waits
    }

    /// `GET /v1/status`, as much of it as `T` takes.
    ///
    /// # Errors
    /// Nobody answers, or not so.
    pub fn status<T: DeserializeOwned>(&self) -> Result<T> {
        let mut request = Request::new("GET", "/v1/status");
        request.patience = self.waits.answer;
        parse("status", &http::ask(&self.socket, request)?)
    }

    /// `GET /v1/history`: JSON lines.
    ///
    /// # Errors
    /// As [`http::ask`].
    pub fn history(&self) -> Result<Vec<u8>> {
        http::ask(&self.socket, Request::new("GET", "/v1/history"))
    }

    /// `POST /v1/update/offer`.
    ///
    /// # Errors
    /// The device refuses the revision, nobody answers, or not so.
    pub fn offer(&self, payload: &Payload) -> Result<Offer> {
        let head = payload.head().encode();
        let length = u64::try_from(head.len()).context("the head is too large")?;
        let answer = self.send_body("/v1/update/offer", length, &mut head.as_slice())?;
        let offer: Offer = parse("answer to the offer", &answer)?;
        offer.check(payload)?;
        Ok(offer)
    }

    /// `POST /v1/update/objects/…`: the tree, and the bytes that are missing. `progress` is told of the latter.
    ///
    /// # Errors
    /// The object cannot be read, the device refuses a block, or the connection breaks off.
    pub fn send(
        &self,
        payload: &Payload,
        missing: &Missing,
        tree: &[u8],
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let Missing { id, size, have } = missing;
        let bytes = size.saturating_sub(*have);
        let mut body = tree.chain(Counted {
            reader: payload.reader(*id, *have)?.take(bytes),
            progress,
        });
        let length = u64::try_from(tree.len())
            .context("the tree is too large")?
            .saturating_add(bytes);
        let target = format!("/v1/update/objects/{}?offset={have}", id.hex());
        let answer = self.send_body(&target, length, &mut body)?;
        let Done { done } = parse("answer to an object", &answer)?;
        ensure!(
            done == *size,
            "the device kept {done} of {size} bytes of object {id}"
        );
        Ok(())
    }

    /// `POST /v1/update/apply`.
    ///
    /// # Errors
    /// A trial is running, something is missing, nobody answers, or not so.
    pub fn apply(&self, revision: ObjectId, parameters: u64) -> Result<Change> {
        let target = format!(
            "/v1/update/apply?revision={}&parameters={parameters}",
            revision.hex()
        );
        let mut request = Request::new("POST", &target);
        request.patience = self.waits.work;
        let Applied { change } = parse("answer", &http::ask(&self.socket, request)?)?;
        Ok(change)
    }

    fn send_body(&self, target: &str, length: u64, body: &mut dyn Read) -> Result<Vec<u8>> {
        let mut request = Request::new("POST", target);
        request.body = Some((length, body));
        request.patience = self.waits.work;
        http::ask(&self.socket, request)
    }
}

fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).with_context(|| format!("the device's {what} cannot be read"))
}

/// Tells of what is read.
struct Counted<'a, R> {
    reader: R,
    progress: &'a mut dyn FnMut(u64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        (self.progress)(u64::try_from(count).unwrap_or(u64::MAX));
        Ok(count)
    }
}
