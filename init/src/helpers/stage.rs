//! The `stage` helper: takes a revision in, and does to slots and volumes what a trial needs, outside PID 1.
//!
//! ```text
//! configure ─▶ offer ─▶ object … ─▶ write slot ─▶ (snapshot) ─▶ the trial is PID 1's
//!                │ judged: signatures, product, board, floor, parameters, space
//! ```
//! | module | does |
//! |---|---|
//! | [`frames`] | what PID 1 says and is told |
//! | `head`, `offer` | the documents of a bundle, and whether they are acceptable |
//! | `body` | objects as they arrive, by [`kedge_store::Arrival`] |
//! | `keep` | what a collection leaves |
//! | `slot` | kernel, initramfs and arguments into a slot's partition, read back |
//! | `snapshot`, `copy` | volumes as they were before a trial |
//!
//! It decides nothing about trials: which slot, when, and what is committed is PID 1's. What it judged counts for
//! nothing there; PID 1 judges again, from the disk. It opens no network and executes nothing. It is root without
//! capabilities in force, but for those that files of containers' users take, while it works on them.
//!
//! A failure is answered and does not end it.

#[cfg(test)]
mod attacks;
mod body;
mod copy;
#[cfg(test)]
pub(crate) mod fixture;
mod frames;
mod head;
mod keep;
mod offer;
mod refused;
mod rights;
mod slot;
mod snapshot;
#[cfg(test)]
mod tests;
mod trust;

pub use frames::{Body, Ids, MAX_DATA, MAX_FRAME, Report, Request, WINDOW};
pub use head::Head;
pub use snapshot::COMPLETE;
pub use trust::envelope_of;

use super::{Error, confine};
use body::{Incoming, Whole};
use kedge_board_support::record::Slot;
use kedge_board_support::slot::Teller;
use kedge_revision::{Name, ObjectId};
use kedge_store::Store;
use kedge_sys::{Errno, sock};
use keep::Keep;
use offer::Offer;
use refused::Refused;
use serde::Serialize;
use std::os::fd::BorrowedFd;
use std::path::Path;
use trust::Trust;

/// The helper: confines itself and serves until PID 1 closes `socket`. The data partition is mounted at `data`.
///
/// # Errors
/// [`Error::Privilege`]; [`Error::Socket`] if PID 1's end breaks; [`Error::Frame`].
#[inline(never)]
pub fn run(socket: BorrowedFd<'_>, data: &Path) -> Result<(), Error> {
    confine(rights::ALL)?;
    rights::rest().map_err(Error::Privilege)?;
    Stage::new(socket, data).serve()
}

/// The helper's state.
#[derive(Debug)]
struct Stage<'a> {
    socket: BorrowedFd<'a>,
    store: Store,
    trust: Option<Trust>,
    keep: Keep,
    offer: Option<Offer>,
    incoming: Option<Incoming>,
}

/// The answer to the bytes of an object.
#[derive(Serialize)]
struct Done {
    done: u64,
}

/// The answer to a root.
#[derive(Serialize)]
struct Followed {
    root: u32,
}

impl<'a> Stage<'a> {
    fn new(socket: BorrowedFd<'a>, data: &Path) -> Self {
        Self {
            socket,
            store: Store::at(data),
            trust: None,
            keep: Keep::default(),
            offer: None,
            incoming: None,
        }
    }

    fn serve(&mut self) -> Result<(), Error> {
        let mut buffer = vec![0; MAX_FRAME];
        loop {
            match sock::receive(self.socket, &mut buffer) {
                Ok(received) if received.bytes == 0 => return Ok(()),
                Ok(received) => {
                    let frame = buffer.get(..received.bytes).unwrap_or_default();
                    let request = Request::decode(frame).map_err(Error::Frame)?;
                    self.perform(&request)?;
                }
                Err(error) if matches!(error.errno, Errno::AGAIN | Errno::INTR) => {}
                Err(error) if error.errno == Errno::CONNRESET => return Ok(()),
                Err(error) => return Err(Error::Socket(error)),
            }
        }
    }

    fn perform(&mut self, request: &Request<'_>) -> Result<(), Error> {
        match *request {
            Request::Configure {
                floor,
                committed,
                parameters,
                secure_boot,
                product,
                root,
            } => {
                self.keep.counters(parameters);
                let mut trust =
                    Trust::new(floor, committed, product, root).map_err(Error::Frame)?;
                trust.secure_boot = secure_boot;
                self.trust = Some(trust);
                self.commit(committed, parameters);
                Ok(())
            }
            Request::Begin { body, length } => {
                let begun = Incoming::begin(&self.store, self.offer.as_ref(), body, length);
                match begun {
                    Ok(incoming) => {
                        self.incoming = Some(incoming);
                        self.finish_whole()
                    }
                    Err(refused) => self.refuse(&refused),
                }
            }
            Request::Data(bytes) => self.data(bytes),
            Request::Abort => {
                self.incoming = None;
                Ok(())
            }
            Request::Collect(revisions) => self.collect(revisions),
            Request::WriteSlot {
                slot,
                teller,
                revision,
                device,
            } => {
                let written = self.write_slot(revision, (slot, teller), Path::new(device));
                self.report(&Report::SlotWritten {
                    ok: written.is_ok(),
                    text: written.as_ref().err().map_or("", |refused| &refused.detail),
                })
            }
            Request::Snapshot { revision, volumes } => {
                let kept = self.snapshot(revision, volumes);
                self.report_snapshot(&kept)
            }
            Request::Restore { revision } => {
                let restored = rights::with(|| snapshot::restore(&self.store, revision));
                self.report_snapshot(&restored)
            }
            Request::Discard => {
                let dropped = rights::with(|| snapshot::discard(&self.store));
                self.keep.drop_state(&self.store);
                self.report_snapshot(&dropped.map(|()| ""))
            }
        }
    }

    /// Marks the committed revision, for the day on which the boot record is lost.
    fn commit(&mut self, committed: ObjectId, [parameters, _]: [u64; 2]) {
        self.keep.commit(committed);
        if let Err(error) = self.store.mark_committed(committed, parameters) {
            say(&error);
        }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        // What was still on its way when its body was answered.
        let Some(incoming) = &mut self.incoming else {
            return Ok(());
        };
        match incoming.take(bytes) {
            Ok(()) => {
                let bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                self.report(&Report::Credit { bytes })?;
                self.finish_whole()
            }
            Err(refused) => self.refuse(&refused),
        }
    }

    /// Answers a body that has come whole.
    fn finish_whole(&mut self) -> Result<(), Error> {
        let Some(incoming) = self.incoming.take_if(|incoming| incoming.is_whole()) else {
            return Ok(());
        };
        let answer = incoming.finish().and_then(|whole| match whole {
            Whole::Head(head) => self.judge(&head),
            Whole::Root(head) => self.follow(&head),
            Whole::Part(done) => Ok(json(&Done { done })),
            Whole::Object(id, done) => {
                if let Some(offer) = &mut self.offer {
                    offer.missing.retain(|missing| missing.id != id);
                }
                Ok(json(&Done { done }))
            }
        });
        match answer {
            Ok(body) => self.report(&Report::Answer {
                status: 200,
                body: &body,
            }),
            Err(refused) => self.refuse(&refused),
        }
    }

    fn judge(&mut self, head: &[u8]) -> Result<Vec<u8>, Refused> {
        let trust = self.trust.as_ref().ok_or_else(unconfigured)?;
        // Its directories may be absent, and a cut may have left something.
        let store = Store::open(self.store.data())?;
        let (offer, answer) = offer::take(&store, trust, &self.keep, head)?;
        self.offer = Some(offer);
        Ok(answer)
    }

    /// Takes the root that follows the newest. PID 1 judges it again, from the disk.
    fn follow(&mut self, head: &[u8]) -> Result<Vec<u8>, Refused> {
        let trust = self.trust.as_mut().ok_or_else(unconfigured)?;
        let head = Head::parse(head).map_err(|why| Refused::new(400, why))?;
        let version = trust.follow(head.revision, head.signatures)?;
        let store = Store::open(self.store.data())?;
        store.put_root(version, head.revision, head.signatures)?;
        Ok(json(&Followed { root: version }))
    }

    /// Ends the body with a problem. What of it is still on its way is dropped.
    fn refuse(&mut self, refused: &Refused) -> Result<(), Error> {
        self.incoming = None;
        self.report(&Report::Answer {
            status: refused.status,
            body: &refused.json(),
        })
    }

    fn write_slot(
        &self,
        revision: ObjectId,
        place: (Slot, Teller),
        device: &Path,
    ) -> Result<(), Refused> {
        let trust = self.trust.as_ref().ok_or_else(unconfigured)?;
        if revision == trust.committed {
            // It comes back as it was: PID 1 has judged it, by a root that may have been followed by another since.
            let lost = || Refused::conflict("the document of the committed revision is lost");
            let envelope = trust.committed(&self.store).ok_or_else(lost)?;
            return slot::write(&self.store, (revision, &envelope), place, device);
        }
        let verified = trust.load(&self.store, revision)?;
        slot::write(&self.store, (revision, verified.envelope()), place, device)
    }

    fn snapshot(&self, revision: ObjectId, volumes: &str) -> Result<&'static str, Refused> {
        let volumes: Vec<(Name, Name)> = kedge_revision::json::read(volumes.as_bytes())
            .map_err(|error| Refused::new(400, format_args!("list of volumes: {error}")))?;
        let trust = self.trust.as_ref().ok_or_else(unconfigured)?;
        // Content that only a newer init knows declares no bounds to this one: then the space is the bound.
        let content = trust.load(&self.store, revision)?.content().ok();
        let bound = |container: &Name, volume: &Name| {
            let container = content.as_ref()?.containers.get(container)?;
            container.volumes.get(volume)?.snapshot_bound()
        };
        rights::with(|| snapshot::take(&self.store, revision, &volumes, bound))?;
        Ok("")
    }

    fn report_snapshot(&self, done: &Result<&'static str, Refused>) -> Result<(), Error> {
        let (ok, text) = match done {
            Ok(text) => (true, *text),
            Err(refused) => (false, refused.detail.as_str()),
        };
        self.report(&Report::Snapshot { ok, text })
    }

    fn collect(&mut self, revisions: Ids<'_>) -> Result<(), Error> {
        self.keep.name(revisions.iter().collect());
        let offered = self.offer.as_ref().map(|offer| offer.revision);
        let collected = self.keep.collect(&self.store, offered, Vec::new());
        let collected = collected.unwrap_or_else(|error| {
            say(&error);
            kedge_store::collect::Collected::default()
        });
        self.report(&Report::Collected {
            objects: u32::try_from(collected.objects).unwrap_or(u32::MAX),
            bytes: collected.bytes,
        })
    }

    /// Blocks if PID 1 is slow: PID 1 never waits for this helper, so both cannot wait.
    fn report(&self, report: &Report<'_>) -> Result<(), Error> {
        sock::send(self.socket, &report.encode(), &[])
            .map(drop)
            .map_err(Error::Socket)
    }
}

fn unconfigured() -> Refused {
    Refused::new(503, "the device is not ready to be updated")
}

/// Not inlined: there are many callers, and each would carry the copy of the path.
#[cold]
#[inline(never)]
fn file_error(doing: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File {
        doing,
        path: path.to_owned(),
        source,
    }
}

/// Structures of ours can always be written.
fn json(value: &impl Serialize) -> Vec<u8> {
    kedge_revision::json::bytes(value)
}

/// Tells on standard error, which is the console, what no frame carries.
fn say(error: impl std::fmt::Display) {
    use std::io::Write;
    writeln!(std::io::stderr(), "kedge: {error}").ok();
}
